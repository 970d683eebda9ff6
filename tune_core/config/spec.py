"""An experiment's configuration as plain JSON, and back: what a journal begins with.

Owns how samplers, searchers, schedulers, stoppers and the configuration objects are written down.
Never imports or calls anything that is stored: what can be made again is in the tables below, and
everything else (functions, objects and classes of the user) is kept as a text that says what is
missing. Credentials are never written: fields that `repr` hides are left out. Invariant: what was
rebuilt from a description is described the same.
"""

from __future__ import annotations

import base64
import datetime
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from tune_core import schedulers, search
from tune_core import stopper as stoppers
from tune_core.config.failure_config import FailureConfig
from tune_core.config.run_config import CheckpointConfig, RunConfig, SyncConfig, TuneConfig
from tune_core.config.warm_start import WarmStart
from tune_core.encoding import Opaque, as_plain, dumps, holds_opaque
from tune_core.errors import SpecError, SpecIncomplete
from tune_core.init_args import RecordsArguments, arguments_of, make
from tune_core.logger import callbacks as loggers
from tune_core.progress_reporter import reporters as progress_reporter
from tune_core.references import is_reference, stands_for
from tune_core.search import Categorical, Domain, Float, Function, Integer
from tune_core.search.bayesopt import BayesOptSearch
from tune_core.search.bohb.bohb_search import TuneBOHB
from tune_core.search.hyperopt import HyperOptSearch
from tune_core.search.nevergrad import NevergradSearch
from tune_core.search.optuna.optuna_search import OptunaSearch
from tune_core.search.sample import children, grid_values, inner_nodes, with_children
from tune_core.search.space import SAMPLERS as ENTRIES

#: What this version writes, and the only one it reads.
SPEC_FORMAT: Final = 1

#: What is made again from its name and the arguments it was made with. Nothing else ever is.
REBUILDABLE: Final[dict[str, type[RecordsArguments]]] = {
    cls.__name__: cls
    for cls in (
        search.BasicVariantGenerator,
        search.ConcurrencyLimiter,
        search.Repeater,
        OptunaSearch,
        TuneBOHB,
        HyperOptSearch,
        BayesOptSearch,
        NevergradSearch,
        schedulers.FIFOScheduler,
        schedulers.AsyncHyperBandScheduler,
        schedulers.HyperBandForBOHB,
        schedulers.HyperBandScheduler,
        schedulers.MedianStoppingRule,
        schedulers.MultiObjectiveASHAScheduler,
        schedulers.OptunaPruner,
        schedulers.PopulationBasedTraining,
        schedulers.PopulationBasedTrainingReplay,
        schedulers.PB2,
        schedulers.ResourceChangingScheduler,
        schedulers.DistributeResources,
        schedulers.DistributeResourcesToTopJob,
        stoppers.NoopStopper,
        stoppers.DictStopper,
        stoppers.FunctionStopper,
        stoppers.CombinedStopper,
        stoppers.MaximumIterationStopper,
        stoppers.TimeoutStopper,
        stoppers.TrialPlateauStopper,
        stoppers.ExperimentPlateauStopper,
        loggers.LoggerCallback,
        loggers.JsonLoggerCallback,
        loggers.CSVLoggerCallback,
        loggers.ErrorLoggerCallback,
        progress_reporter.CLIReporter,
        progress_reporter.JupyterNotebookReporter,
    )
}
#: The samplers of a search space, and the domains that they make.
SAMPLERS: Final[dict[str, Callable[..., Domain]]] = {
    each.__name__: each for each in ENTRIES if each is not search.grid_search
}
_DOMAINS: Final = (Float, Integer, Categorical, Function)
_PARTS: Final = {
    "failure_config": FailureConfig,
    "checkpoint_config": CheckpointConfig,
    "sync_config": SyncConfig,
}

#: The only key of an object that stands for what JSON lacks; `_ARGUMENTS` may come with it.
_UNDESCRIBED, _SAMPLER, _OBJECT, _TUPLE, _DICT = "$undescribed", "$sampler", "$object", "$tuple", "$dict"
_FLOAT, _BYTES, _SECONDS, _DISTRIBUTION = "$float", "$bytes", "$seconds", "$distribution"
_ARGUMENTS: Final = "arguments"
#: Where the text of an object says where it is in memory, which another process does not repeat.
_ADDRESS: Final = re.compile(rb" at 0x[0-9a-fA-F]+")


def describe(
    *,
    name: str,
    experiment_id: str,
    trainable_name: str,
    param_space: Mapping[str, Any],
    tune_config: TuneConfig,
    run_config: RunConfig,
    storage_url: str | None = None,
    resources: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what an experiment is made of as plain JSON: dicts, lists, strings and finite numbers.

    Args:
        name: The experiment's.
        experiment_id: Five hex digits in front of its trial ids.
        trainable_name: What trials are called after; the trainable itself is not described.
        param_space: The search space.
        tune_config: How to search. Our own searchers and schedulers are described by the arguments
            they were made with.
        run_config: How to run. Name, storage and everything that may hold credentials are left out.
        storage_url: Where the experiment is kept, without credentials.
        resources: What each trial gets, as `PlacementGroupFactory.to_dict`; None: it depends on the
            configuration.

    Example:
        >>> data = describe(
        ...     name="digits",
        ...     experiment_id="a1b2c",
        ...     trainable_name="train",
        ...     param_space={"lr": search.uniform(0, 1), "act": search.sample_from(lambda: "relu")},
        ...     tune_config=TuneConfig(num_samples=3),
        ...     run_config=RunConfig(storage_options={"secret": "x"}),
        ... )
        >>> data["param_space"]["lr"]
        {'$sampler': 'uniform', 'arguments': [0, 1]}
        >>> missing(data)
        ['param_space.act: function tune_core.config.spec.<lambda>']
        >>> rebuild_tune_config(data).num_samples
        3
    """
    run = _fields(run_config)
    for field in ("name", "storage_path"):  # `name` and `storage_url` say what became of them
        del run[field]
    if run_config.tags is not None:  # may be a set
        run["tags"] = sorted(run_config.tags)
    if run_config.runtime_env is not None:
        run["runtime_env"] = {_UNDESCRIBED: "runtime_env, which may hold secrets"}
    return {
        "format": SPEC_FORMAT,
        "name": name,
        "experiment_id": experiment_id,
        "trainable": trainable_name,
        "storage": storage_url,
        "resources": None if resources is None else _described(resources),
        "param_space": _described(dict(param_space)),
        "tune_config": _fields(tune_config),
        "run_config": run,
    }


def missing(data: Mapping[str, Any]) -> list[str]:
    """Return what of a description cannot be made again: `param_space.act: function train.<lambda>`.

    Raises:
        SpecError: It is of a format that this version does not know.
    """
    _check(data)
    return [
        text
        for part in ("param_space", "tune_config", "run_config")
        for text in _missing_below(data[part], part)
    ]


def makeable(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description without what cannot be made again, which is enough for reading results.

    Raises:
        SpecError: It is of a format that this version does not know.
    """
    _check(data)
    whole = {
        part: {name: node for name, node in data[part].items() if not any(_missing_below(node, part))}
        for part in ("param_space", "tune_config", "run_config")
    }
    return {**data, **whole}


def rebuild_param_space(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the search space of a description.

    Raises:
        SpecIncomplete: Something in it cannot be made again: pass `param_space` to `Tuner.restore`. Or
            the description is damaged, or of a format that this version does not know.
    """
    _check(data)
    space = _rebuilt_part(data, "param_space", data["param_space"])
    if not isinstance(space, dict):
        raise _damaged(f"param_space is a {type(space).__name__}")
    return space


def rebuild_tune_config(data: Mapping[str, Any], **changes: Any) -> TuneConfig:
    """Return the TuneConfig of a description, new searchers and schedulers in it.

    Args:
        data: What `describe` returned.
        **changes: Fields that take the place of those described, which need not be complete then.

    Raises:
        SpecError: Something cannot be made again: pass `tune_config` to `Tuner.restore`. Or as
            `rebuild_param_space`.
        ConfigError: The changes do not go with the rest.
    """
    _check(data)
    return TuneConfig(**_rebuilt_fields(data, "tune_config", TuneConfig, changes))


def rebuild_run_config(data: Mapping[str, Any], **changes: Any) -> RunConfig:
    """Return the RunConfig of a description.

    Args:
        data: What `describe` returned.
        **changes: Fields that take the place of those described; above all those that never are:
            `name`, `storage_path`, `storage_filesystem`, `storage_options`, `runtime_env`.

    Raises:
        SpecError: Something cannot be made again: pass `run_config` to `Tuner.restore`. Or as
            `rebuild_param_space`.
        ConfigError: The changes do not go with the rest.
    """
    _check(data)
    values = _rebuilt_fields(data, "run_config", RunConfig, changes)
    for name, cls in _PARTS.items():
        if isinstance(values.get(name), dict):
            _refuse_unknown(values[name], cls, f"run_config.{name}")
            values[name] = cls(**values[name])
    return RunConfig(**values)


def describe_value(value: Any) -> Any:
    """Return a value as `describe` writes it; a search space, for example."""
    return _described(value)


def rebuild_value(described: Any, place: str) -> Any:
    """Return what a part of a description is of.

    Args:
        described: The part.
        place: What errors call it.

    Raises:
        SpecError: It cannot be made again.
    """
    lacking = list(_missing_below(described, place))
    if lacking:
        raise SpecIncomplete(f"cannot be made again: {'; '.join(lacking)}")
    return _rebuilt(described, place)


def is_kind_of(described: Any, value: object) -> bool:
    """Return whether this part of a description may be of an object of the same class.

    Example:
        >>> is_kind_of({"$object": "Repeater", "arguments": {}}, search.BasicVariantGenerator())
        False
    """
    own = _described(value)
    if not isinstance(described, Mapping) or not isinstance(own, Mapping):
        return False
    return any(key in described and described[key] == own.get(key) for key in (_OBJECT, _UNDESCRIBED))


# Writing.


def _fields(config: Any) -> dict[str, Any]:
    """Describe a configuration object, without what its `repr` hides: credentials, and what is gone."""
    return {each.name: _described(getattr(config, each.name)) for each in fields(config) if each.repr}


def _described(value: Any) -> Any:
    plain = _described_scalar(value)
    if plain is not _NOTHING:
        return plain
    kind = type(value)
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: _described(item) for key, item in value.items()}
        return {_DICT: [[_described(key), _described(item)] for key, item in value.items()]}
    if kind is list:
        return [_described(item) for item in value]
    if kind is tuple:
        return {_TUPLE: [_described(item) for item in value]}
    if kind in _DOMAINS:
        name, arguments = value.call
        return {_SAMPLER: name, _ARGUMENTS: [_described(argument) for argument in arguments]}
    if REBUILDABLE.get(kind.__name__) is kind:
        given = arguments_of(value)
        return {_OBJECT: kind.__name__, _ARGUMENTS: {name: _described(given[name]) for name in given}}
    if kind is WarmStart:
        return {_OBJECT: kind.__name__, _ARGUMENTS: value.to_dict()}
    if kind in _PARTS.values():
        return _fields(value)
    return _described_foreign(value)


def _described_scalar(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (str, bool, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if kind is bytes:
        return {_BYTES: base64.b64encode(value).decode()}
    if kind is datetime.timedelta:
        return {_SECONDS: value.total_seconds()}
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray":
        is_scalar = getattr(getattr(value, "dtype", None), "kind", "O") in "biufSU"
        return _described_scalar(as_plain(value)) if is_scalar else _NOTHING
    return _NOTHING


def _described_foreign(value: Any) -> dict[str, Any]:
    """Describe what is not ours by what it is, never by its `repr`, which may show a secret."""
    kind = type(value)
    if kind.__module__ == "optuna.distributions":
        from optuna.distributions import distribution_to_json

        return {_DISTRIBUTION: distribution_to_json(value)}
    if isinstance(value, type):
        text = f"class {value.__module__}.{value.__qualname__}"
    elif inspect.isroutine(value):
        module = getattr(value, "__module__", None) or "builtins"
        text = f"function {module}.{getattr(value, '__qualname__', type(value).__name__)}"
    else:
        text = f"an object of {kind.__module__}.{kind.__qualname__}"
    return {_UNDESCRIBED: text}


# Reading.


def _check(data: Mapping[str, Any]) -> None:
    found = data.get("format")
    if found != SPEC_FORMAT or isinstance(found, bool):
        raise SpecError(
            f"the experiment is described in format {found!r}, this version of prefect-tune reads format "
            f"{SPEC_FORMAT}: restore it with the version that wrote it, or a newer one"
        )
    for part in ("param_space", "tune_config", "run_config"):
        if not isinstance(data.get(part), Mapping):
            raise _damaged(f"{part} is not there")


def _missing_below(node: Any, place: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        if _UNDESCRIBED in node:
            yield f"{place}: {node[_UNDESCRIBED]}"
            return
        pairs = node.get(_DICT)
        if isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            for key, child in pairs:
                yield from _missing_below(child, f"{place}.{key}")
            return
        # Tags would say nothing to a user: `search_alg.sampler` is what was passed.
        is_tagged = any(key.startswith("$") for key in node)
        for key, child in node.items():
            is_list = _SAMPLER in node and isinstance(child, list)
            for each in child if is_list else [child]:
                yield from _missing_below(each, place if is_tagged else f"{place}.{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _missing_below(child, f"{place}[{index}]")


def _rebuilt_fields(
    data: Mapping[str, Any], part: str, cls: type[TuneConfig | RunConfig], changes: Mapping[str, Any]
) -> dict[str, Any]:
    kept = {name: node for name, node in data[part].items() if name not in changes}
    _refuse_unknown(kept, cls, part)
    return {**_rebuilt_part(data, part, kept), **changes}


def _refuse_unknown(values: Mapping[str, Any], cls: type, place: str) -> None:
    unknown = values.keys() - {each.name for each in fields(cls)}
    if unknown:
        raise _damaged(f"{place} has {', '.join(sorted(unknown))}, which a {cls.__name__} has not")


def _rebuilt_part(data: Mapping[str, Any], part: str, node: Any) -> Any:
    lacking = list(_missing_below(node, part))
    if lacking:
        raise SpecIncomplete(
            f"experiment {data.get('name')!r} cannot be made again from what is stored, which lacks "
            f"{'; '.join(lacking)}: pass {part}=… to Tuner.restore, as it was when the experiment began"
        )
    return _rebuilt(node, part)


def _rebuilt(node: Any, place: str) -> Any:
    if isinstance(node, list):
        return [_rebuilt(item, f"{place}[{index}]") for index, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    tag = next((key for key in node if key.startswith("$")), None)
    if tag is None:
        return {key: _rebuilt(item, f"{place}.{key}") for key, item in node.items()}
    rebuild = _REBUILD.get(tag)
    if rebuild is None or node.keys() - {tag, _ARGUMENTS}:
        raise _damaged(f"{place} is {tag}, which this version does not know")
    try:
        return rebuild(node[tag], _rebuilt(node.get(_ARGUMENTS, []), place), place)
    except SpecError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise _damaged(f"{place} cannot be made again: {error}") from error


def _rebuilt_object(name: str, arguments: dict[str, Any], place: str) -> Any:
    if name == WarmStart.__name__:
        return WarmStart(**arguments)
    if name not in REBUILDABLE:
        raise _damaged(f"{place} is a {name}, which this version does not know")
    return make(REBUILDABLE[name], arguments)


def _rebuilt_sampler(name: str, arguments: list[Any], place: str) -> Domain:
    if name not in SAMPLERS:
        raise _damaged(f"{place} is {name}(…), which this version does not know")
    return SAMPLERS[name](*arguments)


def _rebuilt_distribution(text: str, _: Any, place: str) -> Any:
    try:
        from optuna.distributions import json_to_distribution
    except ImportError as error:
        raise SpecError(
            f"{place} is of Optuna, which is not installed: run pip install 'prefect-tune[optuna]'"
        ) from error
    return json_to_distribution(text)


def _damaged(fault: str) -> SpecError:
    return SpecError(
        f"the description of the experiment is damaged, or of another version of prefect-tune: {fault}"
    )


_REBUILD: Final[dict[str, Callable[[Any, Any, str], Any]]] = {
    _OBJECT: _rebuilt_object,
    _SAMPLER: _rebuilt_sampler,
    _DISTRIBUTION: _rebuilt_distribution,
    _TUPLE: lambda items, _, place: tuple(_rebuilt(items, place)),
    _DICT: lambda items, _, place: {_rebuilt(key, place): _rebuilt(item, place) for key, item in items},
    _FLOAT: lambda text, *_: float(text),
    _BYTES: lambda text, *_: base64.b64decode(text, validate=True),
    _SECONDS: lambda seconds, *_: datetime.timedelta(seconds=seconds),
}


# Objects in configurations.

_NOTHING: Final = object()


def resolve_objects(
    config: Mapping[str, Any], param_space: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return a configuration of the journal with the objects of the search space in it.

    JSON has no objects, arrays or enums: the journal keeps a class as an `Opaque` text, an array as a
    list. What stands at the same place of the space, and would be written to the journal in the same
    words, is what it was.

    Args:
        config: As the journal has it.
        param_space: The search space, given again or rebuilt.

    Returns:
        The configuration in containers of its own, and the paths (`net/activation`) of the objects
        that were not found, or of which there are several in the same words; there it is `Opaque`.

    Example:
        >>> resolve_objects({"act": Opaque("<class 'int'>"), "x": 1}, {"act": search.choice([int, str])})
        ({'act': <class 'int'>, 'x': 1}, [])
    """
    unresolved: list[str] = []
    resolved = _resolved(config, dict(param_space), "", unresolved)
    return resolved, unresolved


def _resolved(value: Any, node: Any, path: str, unresolved: list[str]) -> Any:
    """Resolve as far as the space goes; a configuration may have more and less than it."""
    found = _found(value, node)
    if found is not _NOTHING:
        return found
    is_container = isinstance(value, (dict, list, tuple))
    if not is_container and isinstance(value, Opaque):
        unresolved.append(path)
    if not is_container:
        return value
    inner = dict(children(node)) if grid_values(node) is None else {}
    pairs = [
        _resolved(child, inner.get(key, _NOTHING), f"{path}/{key}".lstrip("/"), unresolved)
        for key, child in children(value)
    ]
    return with_children(value, pairs)


def _found(value: Any, node: Any) -> Any:
    """Return what of the space a value is; `_NOTHING` if it is none of it, or one of several."""
    options = node.categories if isinstance(node, Categorical) else grid_values(node)
    if options is not None:
        return _found_among(value, options)
    if node is _NOTHING:
        return _NOTHING
    if isinstance(node, Domain):
        return _NOTHING if holds_opaque(value) else value
    if isinstance(node, (dict, list, tuple)):
        return _found_container(value, node)
    return node if value is node or _is_written_for(value, node) else _NOTHING


def _found_among(value: Any, options: Sequence[Any]) -> Any:
    if type(value) in (str, int, float, bool, type(None)) and not inner_nodes(options):
        return value  # a grid may have millions of values
    found = [each for each in (_found(value, option) for option in options) if each is not _NOTHING]
    exact = [each for each in found if type(each) is type(value)]
    first = next(iter(exact or found), _NOTHING)
    is_clear = not holds_opaque(value) or all(each is first for each in found)
    return first if is_clear else _NOTHING


def _found_container(value: Any, node: Any) -> Any:
    if isinstance(node, dict) != isinstance(value, dict) or not isinstance(value, (dict, list, tuple)):
        return _NOTHING
    inner, outer = dict(children(node)), dict(children(value))
    if inner.keys() != outer.keys():
        return _NOTHING
    found = [_found(outer[key], child) for key, child in inner.items()]
    return _NOTHING if any(each is _NOTHING for each in found) else with_children(node, found)


def _is_written_for(value: Any, node: Any) -> bool:
    if is_reference(node):
        return isinstance(value, Opaque) and stands_for(value.text, node)
    return _words(value) == _words(node)


def _words(value: Any) -> bytes:
    return _ADDRESS.sub(b"", dumps(value))
