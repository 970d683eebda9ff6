"""How hyperparameters change from one part of a training to the next: `hyperparam_mutations`, read and applied.

Owns what may be written there, how a value is drawn again or perturbed, and how a configuration gets values that
the search space leaves out. Never decides who changes. Randomness comes from a generator that the caller brings.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from tune_core import search
from tune_core.errors import ConfigError
from tune_core.metrics import flatten
from tune_core.registry import find_trainable
from tune_core.search.sample import (
    Categorical,
    Domain,
    Function,
    could_be,
    fill_in,
    grid_values,
    is_unresolved,
)
from tune_core.search.space import SAMPLERS
from tune_core.validation import Validator, is_number, shorten, suggestion

#: What a mutation is once it has been read: values in order, a domain, a function, or mutations below it.
Mutation: TypeAlias = list[Any] | Domain | Callable[[], Any] | dict[str, Any]

#: The samplers that can be written as data.
_SAMPLERS: dict[str, Callable[..., Domain]] = {
    each.__name__: each for each in SAMPLERS if each not in (search.grid_search, search.sample_from)
}
_EXPECTED = (
    "expected a list, a sampler such as tune.uniform(0, 1), a function of nothing, the import string of one "
    "(package.module:name), or a dict of these"
)


def read_mutations(validator: Validator, name: str, given: Any) -> dict[str, Any]:
    """Return mutations as they are applied; faults go to the validator.

    Args:
        validator: Collects what is wrong.
        name: The argument's name.
        given: What the user gave; a sampler may be data, as in a file: `{"type": "uniform", "lower": 0, "upper": 1}`
            or `{"uniform": {"lower": 0, "upper": 1}}`.
    """
    if not isinstance(given, Mapping):
        validator.add(name, given, "expected a dict of parameter names to mutations")
        return {}
    return _read_below(validator, name, given)


def _read_below(validator: Validator, name: str, given: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        place = f"{name}[{key!r}]"
        if not isinstance(key, str):
            validator.add(place, value, "expected parameter names that are strings")
            continue
        try:
            found[key] = _read(validator, place, value)
        except ConfigError as error:
            validator.note(f"{place}: {error}")
    return found


def _read(validator: Validator, place: str, value: Any) -> Any:
    if isinstance(value, Function):
        validator.add(
            place, value, "sample_from is not supported here: give a function of nothing, or a sampler"
        )
    elif isinstance(value, Domain):
        return value
    elif isinstance(value, str):
        return find_trainable(value)
    elif isinstance(value, Mapping):
        kind, options = _as_sampler(value)
        if kind is None:
            if not value:
                validator.add(place, value, "expected at least one mutation in it")
            return _read_below(validator, place, value)
        return _make_sampler(kind, options)
    elif isinstance(value, (list, tuple)):
        if not value:
            validator.add(place, value, "expected at least one value")
        return list(value)
    elif callable(value):
        if value in _SAMPLERS.values():
            validator.add(place, value, f"the sampler was not called: write {value.__name__}(...)")
        return value
    else:
        validator.add(place, value, _EXPECTED)
    return None


def _as_sampler(value: Mapping[Any, Any]) -> tuple[str | None, Any]:
    """Return the name of the sampler that data stands for, and its arguments; None: these are mutations."""
    kind = value.get("type")
    if isinstance(kind, str) and ":" not in kind:
        return kind, {name: option for name, option in value.items() if name != "type"}
    if len(value) == 1:
        kind, options = next(iter(value.items()))
        is_data = not any(isinstance(each, (Domain, Mapping)) or callable(each) for each in _values(options))
        if kind in _SAMPLERS and is_data:
            return kind, options
    return None, None


def _values(options: Any) -> Iterator[Any]:
    if isinstance(options, Mapping):
        yield from options.values()
    else:
        yield options


def _make_sampler(kind: str, options: Any) -> Domain:
    if kind not in _SAMPLERS:
        raise ConfigError(
            f"{kind!r} is no sampler{suggestion(kind, _SAMPLERS)}; expected one of {', '.join(_SAMPLERS)}"
        )
    sampler = _SAMPLERS[kind]
    if not isinstance(options, Mapping):  # as one writes {"choice": [1, 2]}
        return sampler(options)
    given = dict(options)
    if given.get("q") is None:
        given.pop("q", None)
    elif f"q{kind}" in _SAMPLERS:
        sampler = _SAMPLERS[f"q{kind}"]
    try:
        inspect.signature(sampler).bind(**given)
    except TypeError as error:
        raise ConfigError(f"{kind}: {error}; it takes {inspect.signature(sampler)}") from None
    return sampler(**given)


def explore(
    config: Mapping[str, Any],
    mutations: Mapping[str, Any],
    rng: random.Random,
    *,
    resample_probability: float,
    factors: Sequence[float],
) -> dict[str, Any]:
    """Return a configuration in which each mutated parameter was drawn again, or moved a little.

    A value of a list moves to a neighbour; a number of a sampler or a function is multiplied by one of
    the factors. Integers stay integers, booleans booleans. What is not in its list, or is no number, is drawn again.

    Args:
        config: Where it starts from; it is left alone.
        mutations: As `read_mutations` returns them.
        rng: Where the randomness comes from.
        resample_probability: How likely each parameter is drawn again.
        factors: What numbers are multiplied by.

    Example:
        >>> explore(
        ...     {"lr": 0.5, "width": 16, "act": "relu"},
        ...     {"lr": search.uniform(0, 1), "width": [8, 16]},
        ...     random.Random(3),
        ...     resample_probability=0.0,
        ...     factors=[2.0],
        ... )
        {'lr': 1.0, 'width': 16, 'act': 'relu'}
    """
    changed: dict[str, Any] = fill_in({}, config)
    for key, mutation in mutations.items():
        if isinstance(mutation, dict):
            below = changed.get(key)
            changed[key] = explore(
                below if isinstance(below, Mapping) else {},
                mutation,
                rng,
                resample_probability=resample_probability,
                factors=factors,
            )
        elif rng.random() < resample_probability or key not in changed:
            changed[key] = _kept(changed.get(key), draw(mutation, rng))
        elif isinstance(mutation, list):
            changed[key] = _shifted(changed[key], mutation, rng)
        elif is_number(changed[key]) or isinstance(changed[key], bool):
            changed[key] = _kept(changed[key], changed[key] * rng.choice(factors))
        else:
            changed[key] = draw(mutation, rng)
    return changed


def _shifted(value: Any, values: list[Any], rng: random.Random) -> Any:
    place = next((place for place, each in enumerate(values) if could_be(value, each)), None)
    if place is None:
        return rng.choice(values)
    return values[min(max(place + rng.choice((-1, 1)), 0), len(values) - 1)]


def _kept(before: Any, value: Any) -> Any:
    """Return the value as what it was before: a boolean, or an integer."""
    if isinstance(before, bool) and (is_number(value) or isinstance(value, bool)):
        return bool(value)
    if isinstance(before, int) and is_number(value):
        return round(value)
    return value


def draw(mutation: Mutation, rng: random.Random) -> Any:
    """Return a value, drawn again; a function brings its own randomness."""
    if isinstance(mutation, dict):
        return {key: draw(below, rng) for key, below in mutation.items()}
    if isinstance(mutation, list):
        return rng.choice(mutation)
    return mutation.sample(rng) if isinstance(mutation, Domain) else mutation()


def filled_in(config: dict[str, Any], mutations: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return a configuration with what it lacks drawn from the mutations; the same one if it lacks nothing.

    Example:
        >>> filled_in({"lr": 0.5}, {"lr": [1], "net": {"width": [8]}}, random.Random(0))
        {'lr': 0.5, 'net': {'width': 8}}
    """
    changed = dict(config)
    for key, mutation in mutations.items():
        if key not in config:
            changed[key] = draw(mutation, rng)
        elif isinstance(mutation, dict) and isinstance(config[key], Mapping):
            changed[key] = filled_in(config[key], mutation, rng)
    return config if all(changed[key] is config.get(key) for key in changed) else changed


def mutated_values(config: Mapping[str, Any], mutations: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of mutated parameters, by path.

    Example:
        >>> mutated_values({"net": {"width": 8, "act": "relu"}, "lr": 1}, {"net": {"width": [8, 16]}})
        {'net/width': 8}
    """
    names, values = flatten(dict(mutations)), flatten(dict(config))
    return {path: values[path] for path in names if path in values}


def space_faults(space: Mapping[str, Any], mutations: Mapping[str, Any], name: str) -> list[str]:
    """Return what mutations and a search space say of each other that cannot be meant.

    A parameter that only the mutations have is fine: they draw its first value.

    Example:
        >>> space_faults({"learning_rate": 0.1}, {"learning_rte": [1]}, "mutations")
        ["mutations['learning_rte'] is not in param_space; did you mean 'learning_rate'?"]
    """
    faults: list[str] = []
    for key, mutation in mutations.items():
        place = f"{name}[{key!r}]"
        if key not in space:
            near = next((other for other in space if other not in mutations and _is_slip(key, other)), None)
            faults += [f"{place} is not in param_space; did you mean {near!r}?"] if near is not None else []
            continue
        node = space[key]
        is_parent = isinstance(node, Mapping) and not is_unresolved(node)
        if isinstance(mutation, dict) and is_parent:
            faults += space_faults(node, mutation, place)
        elif isinstance(mutation, dict):
            faults.append(
                f"{place} is a dict of mutations, and param_space has {shorten(node)} there: one value"
            )
        elif is_parent:
            faults.append(
                f"{place} is one mutation, and param_space has parameters below {key!r}: give a dict"
            )
        elif not isinstance(mutation, (list, Categorical)) and (odd := _no_numbers(node)):
            faults.append(
                f"{place} multiplies numbers, and param_space has {shorten(odd[0])} there: give a list of values"
            )
    return faults


def _is_slip(name: str, other: str) -> bool:
    """Whether two names differ by a letter too few, or by case or separators: hardly ever both are meant."""
    short, long = sorted((name.lower().replace("-", "_"), other.lower().replace("-", "_")), key=len)
    if short.replace("_", "") == long.replace("_", ""):
        return True
    places = range(len(long))
    lacks = next((long[place] for place in places if long[:place] + long[place + 1 :] == short), "")
    return len(short) > 4 and lacks.isalpha() and not (lacks == "s" and long.endswith("s"))


def _no_numbers(node: Any) -> list[Any]:
    """Return the values of a node of the search space that are certainly no numbers."""
    grid = grid_values(node)
    values = grid if grid is not None else node.categories if isinstance(node, Categorical) else [node]
    return [each for each in values if each is None or isinstance(each, str)]
