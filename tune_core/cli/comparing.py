"""`compare`: experiments side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune_core.cli.answer import Answer, Output
from tune_core.cli.cells import parameters, table
from tune_core.cli.experiment import read_experiment
from tune_core.cli.opening import Access, open_experiment
from tune_core.errors import ConfigError
from tune_core.objective import SCOPES
from tune_core.storage.transfer import in_parallel
from tune_core.text import duration, short

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Of an experiment's description, what it is called and where it is: never the same.
_IDENTITY = frozenset({"format", "name", "experiment_id", "storage"})
_WIDTH = 60


def compare(*paths: str, access: Access | None = None, output: Output | None = None) -> Answer:
    """Show experiments side by side: what they found, what it cost, and which settings differ.

    Args:
        paths: Two or more experiments: each STORAGE_PATH/NAME, a path or a URL.
        access: How to get to the storage.
        output: How to answer.
    """
    if len(paths) < 2:
        raise ConfigError(f"compare needs two experiments or more, got {len(paths)}: compare PATH PATH")
    storages = [open_experiment(path, access)[0] for path in paths]
    readings = in_parallel(read_experiment, storages)
    settings = [_settings(reading.spec) for reading in readings]
    names = dict.fromkeys(name for each in settings for name in each)
    differences = {
        name: [each.get(name) for each in settings]
        for name in names
        if any(each.get(name) != settings[0].get(name) for each in settings)
    }
    document = {"experiments": [each.summary() for each in readings], "differences": differences}
    return Answer(document, _view)


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a description by name, `tune_config/num_samples`; samplers as calls."""
    found: dict[str, Any] = {}

    def walk(node: Any, place: str) -> None:
        if isinstance(node, Mapping) and node and not any(key.startswith("$") for key in node):
            for key, child in node.items():
                walk(child, f"{place}/{key}" if place else key)
        elif node not in (None, {}, []):
            found[place] = _as_call(node)

    walk({key: value for key, value in spec.items() if key not in _IDENTITY}, "")
    return found


def _as_call(node: Any) -> Any:
    """Return a description's sampler or object as the call that makes it: `uniform(0, 1)`."""
    if isinstance(node, list):
        return [_as_call(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    name, arguments = node.get("$sampler") or node.get("$object"), node.get("arguments")
    if isinstance(name, str) and isinstance(arguments, list):
        return f"{name}({', '.join(str(_as_call(each)) for each in arguments)})"
    if isinstance(name, str) and isinstance(arguments, Mapping):
        return f"{name}({', '.join(f'{key}={_as_call(each)}' for key, each in arguments.items())})"
    return {key: _as_call(each) for key, each in node.items()}


def _metrics(summary: Mapping[str, Any]) -> str:
    metric, mode = summary["metric"], summary["mode"]
    if isinstance(metric, list):
        return ", ".join(f"{name} {each}" for name, each in zip(metric, mode, strict=True))
    return f"{metric or ''} {mode or ''}"


def _best_by_metric(found: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return a row for each metric of those experiments that have several: the best value, and whose it is."""
    bests = [each["best_by_metric"] or {} for each in found]
    names = dict.fromkeys(name for each in bests for name in each)
    return {
        f"best {name}": [
            f"{short(best['value'], 6)} ({best['trial_id']})" if (best := each.get(name)) else ""
            for each in bests
        ]
        for name in names
    }


def _view(document: dict[str, Any]) -> Iterator[RenderableType]:
    found = document["experiments"]
    columns = {"": "fold"} | {f"{number}: {each['name']}": "fold" for number, each in enumerate(found, 1)}
    rows = {
        "status": [each["status"] for each in found],
        "trials": [str(each["num_trials"]) for each in found],
        "failed": [str(each["trials_by_status"].get("ERROR", 0)) for each in found],
        "metric": [_metrics(each) for each in found],
        "compared by": [SCOPES[each["best_scope"]] if each["metric"] else "" for each in found],
        "best": [short(each["best"]["value"], 6) if each["best"] else "" for each in found],
        "Pareto front": [
            "" if each["pareto_front"] is None else f"{len(each['pareto_front'])} trials" for each in found
        ],
        **_best_by_metric(found),
        "best trial": [each["best"]["trial_id"] if each["best"] else "" for each in found],
        "best config": [parameters(each["best"]["config"]) if each["best"] else "" for each in found],
        "time at work": [duration(each["seconds"]) for each in found],
        "CPU time": [duration(each["cpu_seconds"]) for each in found],
        "GPU time": [duration(each["gpu_seconds"]) if each["gpu_seconds"] else "" for each in found],
    }
    yield table(columns, [[name, *cells] for name, cells in rows.items() if any(map(str.strip, cells))])
    differences = document["differences"]
    yield ""
    if not differences:
        yield "all settings are the same"
        return
    yield table(
        {"SETTING THAT DIFFERS": "fold"} | {str(number): "fold" for number in range(1, len(found) + 1)},
        [[name, *(short(value, width=_WIDTH) for value in values)] for name, values in differences.items()],
    )
