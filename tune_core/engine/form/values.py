"""From what Python says of an experiment to the plain values of a form."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from tune_core.config.run_config import RunConfig, TuneConfig
from tune_core.config.spec import SAMPLERS, describe
from tune_core.engine.form.form import ResourcesForm, RunForm, TuneForm
from tune_core.errors import ConfigError
from tune_core.resources import PlacementGroupFactory
from tune_core.schedulers.by_name import allocation_functions, base_schedulers, schedulers
from tune_core.search.create import searchers
from tune_core.search.sample import GRID_KEY

_FROM_PYTHON = "only Python can say this: leave it out, or call Tuner(...).fit() in a flow of your own"


def form_values(
    param_space: Mapping[str, Any] | list[Any] | None,
    tune_config: TuneConfig | Mapping[str, Any] | None,
    run_config: RunConfig | Mapping[str, Any] | None,
    resources: PlacementGroupFactory | Mapping[str, Any] | list[Any] | None,
) -> dict[str, Any]:
    """Return the values of a form, without the trainable.

    Args:
        param_space: As for `Tuner`; or as a form has it.
        tune_config: As for `Tuner`; or as a form has it.
        run_config: As for `Tuner`; or as a form has it.
        resources: Bundles of each trial; None: what the trainable asks for.

    Raises:
        ConfigError: Something is no plain value; everything of that kind is named.

    Example:
        >>> from tune_core import search
        >>> form_values({"lr": search.loguniform(1e-4, 0.1)}, TuneConfig(num_samples=3), None, None)
        {'param_space': {'lr': {'loguniform': {'lower': 0.0001, 'upper': 0.1}}}, 'tune_config': {'num_samples': 3}}
    """
    described = _described(
        param_space if isinstance(param_space, Mapping) else {},
        tune_config if isinstance(tune_config, TuneConfig) else TuneConfig(),
        run_config if isinstance(run_config, RunConfig) else RunConfig(),
    )
    problems: list[str] = []
    values: dict[str, Any] = {
        "param_space": param_space,
        "tune_config": tune_config,
        "run_config": run_config,
        "resources": resources,
    }
    if isinstance(param_space, Mapping):
        values["param_space"] = {
            key: _parameter(node, f"param_space.{key}", problems)
            for key, node in described["param_space"].items()
        }
    if isinstance(tune_config, TuneConfig):
        values["tune_config"] = dict(_changed(described, "tune_config", TuneForm, problems))
    if isinstance(run_config, RunConfig):
        run = dict(_changed(described, "run_config", RunForm, problems))
        for field in ("name", "storage_path"):  # descriptions leave them out
            if (given := getattr(run_config, field)) != getattr(RunConfig(), field):
                run[field] = given
        values["run_config"] = run
        problems += _hidden(run_config, described["run_config"])
    if isinstance(resources, PlacementGroupFactory):
        values["resources"] = resources.to_dict() | {"strategy": resources.strategy}
        values["resources"] = {name: values["resources"][name] for name in ResourcesForm.model_fields}
    if problems:
        raise ConfigError(problems)
    return {name: value for name, value in values.items() if value is not None}


def _described(
    param_space: Mapping[str, Any], tune_config: TuneConfig, run_config: RunConfig
) -> dict[str, Any]:
    return describe(
        name="",
        experiment_id="",
        trainable_name="",
        param_space=param_space,
        tune_config=tune_config,
        run_config=run_config,
    )


def _hidden(run_config: RunConfig, described: Mapping[str, Any]) -> list[str]:
    """Name what descriptions leave out, since it may hold credentials, and Prefect would show to everybody."""
    default = RunConfig()
    return [
        f"run_config.{each.name}: a form is shown to everybody: use the worker's settings or an ExperimentStore block"
        for each in fields(RunConfig)
        if each.name not in described and not each.repr
        if getattr(run_config, each.name) != getattr(default, each.name)
    ]


def _changed(
    described: Mapping[str, Any], part: str, form: Any, problems: list[str]
) -> Iterator[tuple[str, Any]]:
    """Yield what differs from the defaults."""
    default = _described({}, TuneConfig(), RunConfig())[part]
    kinds: dict[str, Mapping[str, type]] = {"scheduler": schedulers(), "search_alg": searchers()}
    for name, node in described[part].items():
        place = f"{part}.{name}"
        if node == default.get(name):
            continue
        if name not in form.model_fields:
            problems.append(f"{place}: {_FROM_PYTHON}")
        elif name in kinds:
            yield name, _option(node, kinds[name], place, problems)
        elif name.endswith("_config") and isinstance(node, Mapping):
            inner = form.model_fields[name].annotation
            before = default.get(name) or {}
            changed = {key: value for key, value in node.items() if value != before.get(key)}
            unknown = sorted(changed.keys() - inner.model_fields.keys())
            problems += [f"{place}.{key}: {_FROM_PYTHON}" for key in unknown]
            yield name, {key: _plain(value, f"{place}.{key}", problems) for key, value in changed.items()}
        else:
            yield name, _plain(node, place, problems)


def _parameter(node: Any, place: str, problems: list[str]) -> Any:
    match node:
        case {"$sampler": str(name), "arguments": list(arguments)} if name in SAMPLERS:
            given = inspect.signature(SAMPLERS[name]).bind(*arguments).arguments
            return {name: {key: _plain(value, place, problems) for key, value in given.items()}}
        case {"grid_search": list(choices), **rest} if not rest:
            return {GRID_KEY: {"values": _plain(choices, place, problems)}}
        case dict() if not any(str(key).startswith("$") for key in node):
            return {key: _parameter(value, f"{place}.{key}", problems) for key, value in node.items()}
        case _:
            return _plain(node, place, problems)


def _option(node: Any, kinds: Mapping[str, type], place: str, problems: list[str]) -> Any:
    match node:
        case {"$object": str(kind), "arguments": dict(arguments)}:
            names = [name for name, each in kinds.items() if each.__name__ == kind]
            if names:
                inner = {**base_schedulers(), **allocation_functions()}
                return {
                    names[0]: {
                        key: _inside(value, inner, place, problems) for key, value in arguments.items()
                    }
                }
    problems.append(f"{place}: {_FROM_PYTHON}")
    return None


def _inside(node: Any, kinds: Mapping[str, type], place: str, problems: list[str]) -> Any:
    """Return an argument, which may be one of these kinds itself."""
    is_object = isinstance(node, Mapping) and "$object" in node
    return _option(node, kinds, place, problems) if is_object else _plain(node, place, problems)


def _plain(node: Any, place: str, problems: list[str]) -> Any:
    if isinstance(node, Mapping):
        if any(str(key).startswith("$") for key in node):
            problems.append(f"{place}: {_FROM_PYTHON}")
            return None
        return {key: _plain(value, f"{place}.{key}", problems) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(each, place, problems) for each in node]
    return node
