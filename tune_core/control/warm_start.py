"""What a new experiment takes from earlier ones: which trials, and why others are left out.

Reads journals, once, when the experiment begins; what was taken becomes an event, so that nothing depends on the
earlier experiments afterwards. Executes nothing that is stored.
"""

from __future__ import annotations

import fnmatch
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_core.config.run_config import RunConfig, TuneConfig
from tune_core.config.spec import resolve_objects
from tune_core.config.warm_start import DEPLOYMENT, WarmStart
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import WarmStarted
from tune_core.control.namesakes import experiment_at
from tune_core.control.policy import Policy
from tune_core.control.segments import last_segment, read_journal, segment_numbers
from tune_core.control.state import ExperimentState
from tune_core.encoding import dumps, holds_opaque
from tune_core.errors import ConfigError
from tune_core.logger.rows import user_metrics
from tune_core.metrics import comparable, flatten, lookup
from tune_core.search.sample import (
    Categorical,
    Domain,
    Function,
    Path,
    children,
    could_be,
    grid_values,
    is_unresolved,
    path_text,
)
from tune_core.storage.experiment_storage import ExperimentStorage, split_number, split_path
from tune_core.storage.filesystems import resolve
from tune_core.trial import Status, Trial
from tune_core.validation import is_number, shorten, suggestion

_logger = logging.getLogger("prefect.tune")

#: What a source is that does not mean a name below the experiment's own storage path.
_WHOLE = re.compile(r"(/|~|\./|\.\./|\.$|\.\.$|[A-Za-z][\w+.-]*://)")
_GLOB = re.compile(r"[*?\[]")
#: At most so many names, or reasons, in a message.
_SHOWN = 6
_MISSING = object()
#: Returns the paths of a deployment's latest experiments: see `tune_core.engine.earlier_runs`.
LocateRuns = Callable[[str, int], Sequence[ExperimentStorage]]


@dataclass
class _Earlier:
    """A trial of an earlier experiment that may be taken."""

    name: str
    config: dict[str, Any]
    values: list[float]


@dataclass
class _Taking:
    """What was found, and what of it is left out, by reason."""

    found: list[_Earlier] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    constants: dict[str, None] = field(default_factory=dict)


def take_warm_start(
    policy: Policy,
    run_config: RunConfig,
    own: ExperimentStorage | None,
    *,
    now: float,
    locate_runs: LocateRuns | None = None,
) -> WarmStarted | None:
    """Read the earlier experiments of `TuneConfig.warm_start`, and tell the searcher of them.

    Args:
        policy: Whose searcher it is, and whose search space.
        run_config: Has the storage that names are looked for in, and its credentials.
        own: Where the new experiment is: it is none of the earlier ones.
        now: Seconds since the epoch.
        locate_runs: Finds the experiments of a deployment; None: nobody can here.

    Returns:
        The event to journal before the first suggestion; None if there is nothing to take.

    Raises:
        ConfigError: A source is none, runs still, or has another objective; or nothing of any can be used.
        StorageError: A journal cannot be read.
    """
    tune = policy.tune_config
    warm: Any = tune.warm_start
    if not isinstance(warm, WarmStart):
        return None
    storages = [
        each for source in warm.sources for each in _storages(source, warm, run_config, own, locate_runs)
    ]
    metrics, modes = _objective(policy, tune)
    there = metrics if warm.metric is None else [warm.metric]
    if warm.metric is not None and len(metrics) > 1:
        raise ConfigError(
            f"WarmStart(metric={warm.metric!r}): the experiment has several metrics: leave it out"
        )
    taking = _Taking()
    for storage in storages:
        _read(storage, warm, policy, there, modes, taking)
    if not taking.found:
        _refuse_nothing(taking, storages)
    learned = taking.found
    if policy.searcher.learns_from_earlier:
        learned = _learnt(policy, taking)
        if not learned:
            _refuse_nothing(taking, storages)
    first = _best_points(learned, policy, warm.max_points, modes)
    learns = policy.searcher.learns_from_earlier
    summary = _summary(len(storages), taking, len(learned), len(first), learns=learns)
    points = tuple(
        {"config": each.config, "values": each.values, "trial": each.name} for each in learned if learns
    )
    event = WarmStarted(now, points, tuple(first), summary)
    policy.try_first(event.first)
    _logger.info("%s", summary)
    return event


def _objective(policy: Policy, tune: TuneConfig) -> tuple[list[str], list[str]]:
    metric, mode = policy.searcher.metric, policy.searcher.mode
    if metric is None or mode is None:
        metric, mode = tune.objective.plain_metric, tune.objective.plain_mode
    if metric is None or mode is None:
        raise ConfigError(
            "warm_start: there is no metric to learn from: give TuneConfig(metric=…, mode=…), or those of the searcher"
        )
    metrics = metric if isinstance(metric, list) else [metric]
    return metrics, mode if isinstance(mode, list) else [mode] * len(metrics)


# Where they are.


def _storages(
    source: str,
    warm: WarmStart,
    run_config: RunConfig,
    own: ExperimentStorage | None,
    locate_runs: LocateRuns | None,
) -> list[ExperimentStorage]:
    if source.startswith(DEPLOYMENT):
        if locate_runs is None:
            raise ConfigError(
                f"warm_start: {source}: nobody here knows the runs of a deployment: give the paths of experiments"
            )
        return list(locate_runs(source.removeprefix(DEPLOYMENT), warm.last_runs))
    path, options, filesystem = source, run_config.storage_options, run_config.storage_filesystem
    base = os.fspath(run_config.storage_path).rstrip("/")
    if not _WHOLE.match(source):
        path = f"{base}/{source}"
    elif filesystem is None and options and _scheme(source) != _scheme(base):
        options = None
    whole, number = split_number(path)
    parent, name = split_path(whole)
    if not _GLOB.search(name):
        if _GLOB.search(parent):
            raise ConfigError(f"warm_start: {source}: only the last part of a path may have * in it")
        storage = experiment_at(path, filesystem=filesystem, storage_options=options)
        if not segment_numbers(storage):
            _refuse_none(storage, source, _names(parent, filesystem, options))
        return [storage]
    if number is not None:
        raise ConfigError(
            f"warm_start: {source}: a pattern means the latest experiment of each name: no @{number}"
        )
    return _matching(source, parent, name, filesystem, options, own)


def _scheme(path: str) -> str:
    scheme, separator, _ = path.partition("://")
    return scheme.lower() if separator else "file"


def _matching(
    source: str, parent: str, pattern: str, filesystem: Any, options: Any, own: ExperimentStorage | None
) -> list[ExperimentStorage]:
    names = _names(parent, filesystem, options)
    found = []
    for name in fnmatch.filter(names, pattern):
        storage = ExperimentStorage.open(parent, name, filesystem=filesystem, storage_options=options)
        is_own = own is not None and storage.url == own.url
        if not is_own and segment_numbers(storage):
            found.append(storage)
    if not found:
        there = f"there are {', '.join(names[:_SHOWN])}" if names else "there is nothing"
        raise ConfigError(f"warm_start: {source}: no experiment matches; in {parent}, {there}")
    return found


def _names(parent: str, filesystem: Any, options: Any) -> list[str]:
    return ExperimentStorage(*resolve(parent, filesystem, options), "").list()


def _refuse_none(storage: ExperimentStorage, source: str, beside: list[str]) -> None:
    raise ConfigError(
        f"warm_start: {source}: {storage.url} holds no experiment{suggestion(storage.name, beside)}: expected "
        "<storage_path>/<name> of one, or a name below the storage_path of the new one"
    )


# What is in them.


def _read(
    storage: ExperimentStorage,
    warm: WarmStart,
    policy: Policy,
    metrics: Sequence[str],
    modes: Sequence[str],
    taking: _Taking,
) -> None:
    """Take the trials of one experiment that fit, and count the others."""
    state = ExperimentState(Controller(ControllerConfig("")))
    newest = last_segment(storage)
    for event, _ in read_journal(storage):
        state.apply(event)
    place = storage.url
    if state.spec is None:
        raise ConfigError(f"warm_start: {place}: the experiment died before it had begun: leave it out")
    is_open = newest is None or not newest.is_last or newest.experiment_id != state.spec.spec["experiment_id"]
    if is_open and not state.controller.has_ended and not warm.allow_running:
        raise ConfigError(
            f"warm_start: {place}: the experiment runs, or its driver has died: wait for it, or resume it; or take "
            "what has ended so far with WarmStart(allow_running=True)"
        )
    _refuse_other_mode(place, state, metrics, modes)
    space = policy.param_space
    # Of a space of its own, only the searcher knows.
    outside = _drawn_elsewhere(state.spec.spec["param_space"], space) if policy.draws_from_space else []
    finished = [trial for trial in state.trials if trial.status is Status.TERMINATED and trial.last_row]
    taking.left_out["failed, or reported nothing"] += sum(
        trial.is_finished() and trial not in finished for trial in state.trials
    )
    for trial in finished:
        values = _values(trial, metrics)
        if values is None:
            taking.left_out[_lacks_metric(trial, metrics)] += 1
            continue
        config = resolve_objects(trial.config, dict(space))[0]
        reason = unfit(space, config, taking.constants) or next(
            (f"{name} is not in the space" for name in outside if _has(config, name)), None
        )
        if reason is not None:
            taking.left_out[reason] += 1
        else:
            taking.found.append(_Earlier(f"{storage.label} {trial.trial_id}", trial.config, values))


def _refuse_other_mode(
    place: str, state: ExperimentState, metrics: Sequence[str], modes: Sequence[str]
) -> None:
    objective = state.controller.rules.objective
    wanted = dict(zip(metrics, modes, strict=True))
    if objective.metric in wanted and objective.mode not in (None, wanted[objective.metric]):
        raise ConfigError(
            f"warm_start: {place}: it has mode={objective.mode!r} for {objective.metric!r}, the new experiment "
            f"{wanted[objective.metric]!r}: what was good there is bad here"
        )


def _values(trial: Trial, metrics: Sequence[str]) -> list[float] | None:
    values = [comparable(lookup(trial.last_row, name)) for name in metrics]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return known if len(known) == len(metrics) else None


def _lacks_metric(trial: Trial, metrics: Sequence[str]) -> str:
    reported = flatten(user_metrics(trial.last_row))
    names = [name for name, value in reported.items() if is_number(value)]
    return f"no finite {' and '.join(metrics)} (but {shorten(', '.join(names[:_SHOWN]) or 'nothing')})"


def _drawn_elsewhere(described: Any, space: Any, place: str = "") -> list[str]:
    """Return parameters that the earlier experiment drew and the new space does not know at all."""
    if isinstance(described, Mapping) and any(
        key in described for key in ("$sampler", "$distribution", "grid_search")
    ):
        return [place] if space is _MISSING else []
    if not isinstance(described, Mapping) or any(key.startswith("$") for key in described):
        return []
    if space is not _MISSING and (not isinstance(space, Mapping) or is_unresolved(space)):
        return []
    inner = space if isinstance(space, Mapping) else {}
    return [
        name
        for key, child in described.items()
        for name in _drawn_elsewhere(child, inner.get(key, _MISSING), f"{place}/{key}".lstrip("/"))
    ]


def _has(config: Any, name: str) -> bool:
    for key in name.split("/"):
        if not isinstance(config, Mapping) or key not in config:
            return False
        config = config[key]
    return True


def unfit(space: Any, config: Any, constants: dict[str, None] | None = None) -> str | None:
    """Return why a configuration is none of a search space; None if it may be.

    Args:
        space: The search space.
        config: The configuration, with its objects.
        constants: Is told of values that are fixed in the space, and others in the configuration: `epochs=5, here 20`.

    Example:
        >>> from tune_core.search import choice, uniform
        >>> space = {"lr": uniform(0, 1), "net": {"act": choice(["relu", "tanh"])}, "epochs": 20}
        >>> [unfit(space, config) for config in ({"lr": 2, "net": {"act": "relu"}}, {"net": {"act": "relu"}})]
        ['lr outside the space', 'lr is missing']
        >>> unfit(space, {"lr": 0.5, "net": {"act": "tanh"}, "epochs": 5})
    """
    for path, node, value in _places(space, config, ()):
        name = path_text(path)
        if value is _MISSING:
            if is_unresolved(node) and not isinstance(node, Function):
                return f"{name} is missing"
        elif is_unresolved(node):
            if not _is_inside(node, value):
                return f"{name} outside the space"
        elif constants is not None and dumps(node) != dumps(value):
            constants[f"{name}={shorten(value, 30)}, here {shorten(node, 30)}"] = None
    return None


def _places(node: Any, value: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    if is_unresolved(node) or not isinstance(node, (dict, list, tuple)):
        yield path, node, value
        return
    inner = dict(children(value)) if isinstance(value, (dict, list, tuple)) else {}
    for key, child in children(node):
        yield from _places(child, inner.get(key, _MISSING), (*path, key))


def _is_inside(node: Any, value: Any) -> bool:
    options = node.categories if isinstance(node, Categorical) else grid_values(node)
    if options is not None:
        return any(could_be(value, option) for option in options)
    if holds_opaque(value):
        return False
    return isinstance(node, Domain) and node.is_valid(value)


# What of them is taken.


def _learnt(policy: Policy, taking: _Taking) -> list[_Earlier]:
    learned = []
    for each in taking.found:
        fault = policy.tell_earlier(each.config, each.values)
        if fault is None:
            learned.append(each)
        else:
            taking.left_out[fault] += 1
    return learned


def _best_points(
    found: Sequence[_Earlier], policy: Policy, count: int, modes: Sequence[str]
) -> list[dict[str, Any]]:
    if not count:
        return []
    if len(modes) > 1:
        raise ConfigError(
            "WarmStart(max_points=…): of several metrics nobody knows which points are best: give 0"
        )
    ranked = sorted(found, key=lambda each: -each.values[0] if modes[0] == "max" else each.values[0])
    points: dict[bytes, dict[str, Any]] = {}
    for each in ranked:
        space, config = policy.param_space, each.config
        own = {key: value for key, value in config.items() if key not in space}
        point = _chosen(space, config) if policy.draws_from_space else own
        points.setdefault(dumps(point), point)
    return list(points.values())[:count]


def _chosen(space: Any, config: Any) -> dict[str, Any]:
    """Return what of a configuration the space leaves open."""
    point: dict[str, Any] = {}
    for key, node in space.items():
        if key not in config or isinstance(node, Function):
            continue
        if isinstance(node, dict) and not is_unresolved(node):
            inner = _chosen(node, config[key]) if isinstance(config[key], Mapping) else {}
            point |= {key: inner} if inner else {}
        elif is_unresolved(node) or (isinstance(node, list | tuple) and _is_open(node)):
            point[key] = config[key]
    return point


def _is_open(node: Any) -> bool:
    return is_unresolved(node) or any(_is_open(child) for _, child in children(node))


def _refuse_nothing(taking: _Taking, storages: Sequence[ExperimentStorage]) -> None:
    places = ", ".join(storage.url for storage in storages[:_SHOWN])
    why = _reasons(taking) or "they have no trial that ended"
    raise ConfigError(
        f"warm_start: nothing of {places} can be used: {why}. Give experiments with the same parameters and metric, or "
        "leave warm_start out"
    )


def _reasons(taking: _Taking) -> str:
    reasons = [(reason, count) for reason, count in taking.left_out.most_common() if count]
    if len(reasons) == 1:
        return reasons[0][0]
    shown = [f"{reason} ({count})" for reason, count in reasons[:_SHOWN]]
    return ", ".join(shown) + (", …" if len(reasons) > _SHOWN else "")


def _summary(num_sources: int, taking: _Taking, taken: int, num_first: int, *, learns: bool) -> str:
    text = f"warm start from {num_sources} experiment{'s' if num_sources != 1 else ''}: {taken} trials"
    text += " to learn from" if learns else " to choose from"
    if num_first:
        text += f", the best {num_first} are run first"
    left = taking.left_out.total()
    if left:
        text += f", {left} left out: {_reasons(taking)}"
    if taking.constants:
        text += f"; fixed values differ: {'; '.join([*taking.constants][:_SHOWN])}"
    return text
