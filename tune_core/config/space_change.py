"""How a search space may change while an experiment is under way: what is new, what is wider, and what cannot be.

Compares descriptions, as `tune_core.config.spec` writes them, so that it works without what they describe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tune_core.config.spec import SAMPLERS, rebuild_value
from tune_core.encoding import dumps
from tune_core.errors import ConfigError
from tune_core.search.sample import GRID_KEY, Domain, is_unresolved
from tune_core.validation import shorten, suggestion

_ABSENT: Final = object()
_SAMPLER: Final = "$sampler"
#: What a parameter is, by the name of its sampler.
_KINDS: Final = {
    **dict.fromkeys(("uniform", "quniform", "loguniform", "qloguniform", "randn", "qrandn"), "a number"),
    **dict.fromkeys(("randint", "qrandint", "lograndint", "qlograndint"), "a whole number"),
    "choice": "a choice",
    "sample_from": "a function",
}


@dataclass(frozen=True)
class SpaceChange:
    """One parameter that is another now.

    Attributes:
        name: Where it is: `net/width`.
        before: Its description; None: it is new.
        after: Its description now; None: it is gone.
    """

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.name} is new: {_shown(self.after)}"
        if self.after is None:
            return f"{self.name} is gone"
        return f"{self.name}: {_shown(self.after)} instead of {_shown(self.before)}"


def space_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[SpaceChange]:
    """Return which parameters of two described spaces differ.

    Example:
        >>> from tune_core.config.spec import describe_value
        >>> from tune_core.search import uniform
        >>> spaces = [describe_value({"lr": uniform(0, top), "epochs": 3}) for top in (1, 2)]
        >>> [str(each) for each in space_changes(*spaces)]
        ['lr: uniform(0, 2) instead of uniform(0, 1)']
    """
    return list(_changes(before, after, ""))


def has_other_space(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether the search space is another in two descriptions of an experiment."""
    return dumps(before.get("param_space")) != dumps(after.get("param_space"))


def check_space_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[SpaceChange]:
    """Return what differs between two described spaces.

    Raises:
        ConfigError: An experiment cannot go on with that: it would walk a grid that is not the one that it has begun,
            or a parameter is of another kind.
    """
    changes = space_changes(before, after)
    faults = [fault for change in changes if (fault := _fault(change))]
    drawn = any(
        _kind(node) not in (None, "a fixed value") for each in changes for node in (each.before, each.after)
    )
    if drawn and not faults and _has_grid(after):
        faults.append(
            f"param_space: {changes[0]}: a grid is walked in its order, half way through there is no other: begin a "
            "new experiment, with warm_start for what this one has found"
        )
    if faults:
        raise ConfigError(faults)
    return changes


def with_samplers(space: Mapping[str, Any], samplers: Mapping[str, Domain]) -> dict[str, Any]:
    """Return a space with these samplers in it, by name.

    Raises:
        ConfigError: Below a name there is something else already.
    """
    changed = dict(space)
    for name, sampler in samplers.items():
        *parents, key = name.split("/")
        holder = changed
        for parent in parents:
            inner = holder.get(parent, {})
            if not isinstance(inner, dict) or is_unresolved(inner):
                raise ConfigError(f"{name}: {parent!r} of the search space is {shorten(inner)}, not a dict")
            holder[parent] = holder = dict(inner)
        holder[key] = sampler
    return changed


def changed_samplers(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Domain]:
    """Return the samplers of a described space that are new in it, or others than before, by name."""
    return {
        each.name: rebuild_value(each.after, each.name)
        for each in space_changes(before, after)
        if isinstance(each.after, Mapping) and _SAMPLER in each.after
    }


def sampler_of(name: str, given: Any) -> Domain:
    """Return a sampler from however JSON may have it.

    Args:
        name: The parameter's.
        given: `{"uniform": {"lower": 0, "upper": 1}}`, `{"uniform": [0, 1]}`, `{"type": "uniform", "lower": …}`, or as
            a description has it.

    Raises:
        ConfigError: It is none.

    Example:
        >>> sampler_of("lr", {"loguniform": [1e-4, 0.1]})
        loguniform(0.0001, 0.1)
    """
    expected = "expected a sampler, such as {'uniform': {'lower': 0, 'upper': 1}} or {'choice': [16, 32]}"
    if isinstance(given, Domain):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name}={shorten(given)}: {expected}")
    if _SAMPLER in given:
        kind, options = given[_SAMPLER], given.get("arguments", [])
    elif isinstance(given.get("type"), str):
        kind, options = given["type"], {key: value for key, value in given.items() if key != "type"}
    elif len(given) == 1:
        ((kind, options),) = given.items()
    else:
        raise ConfigError(f"{name}={shorten(dict(given))}: {expected}")
    if kind == GRID_KEY:
        raise ConfigError(f"{name}: a grid cannot come into an experiment that is under way: write choice")
    if kind not in SAMPLERS or kind == "sample_from":
        known = [each for each in SAMPLERS if each != "sample_from"]
        raise ConfigError(f"{name}: {kind!r} is no sampler{suggestion(kind, known)}; {expected}")
    make = SAMPLERS[kind]
    is_values = kind == "choice" and isinstance(options, list) and _SAMPLER not in given
    try:
        if isinstance(options, Mapping):
            return make(**options)
        return make(options) if is_values else make(*options)
    except TypeError as error:
        raise ConfigError(f"{name}={shorten(dict(given))}: {error}") from None


def _changes(before: Any, after: Any, place: str) -> Iterator[SpaceChange]:
    if before == after:
        return
    if _is_plain(before) and _is_plain(after):
        for key in dict.fromkeys([*before, *after]):
            below = f"{place}/{key}".lstrip("/")
            yield from _changes(before.get(key, _ABSENT), after.get(key, _ABSENT), below)
    elif before is _ABSENT and _is_plain(after):
        for key, child in after.items():
            yield from _changes(_ABSENT, child, f"{place}/{key}".lstrip("/"))
    else:
        yield SpaceChange(place, *(None if node is _ABSENT else node for node in (before, after)))


def _is_plain(node: Any) -> bool:
    is_dict = isinstance(node, Mapping) and GRID_KEY not in node
    return is_dict and not any(key.startswith("$") for key in node)


def _kind(node: Any) -> str | None:
    if node is None:
        return None
    if isinstance(node, Mapping) and GRID_KEY in node:
        return "a grid"
    if isinstance(node, Mapping) and _SAMPLER in node:
        return _KINDS.get(str(node[_SAMPLER]), "a sampler")
    return "a fixed value"


def _fault(change: SpaceChange) -> str | None:
    kinds = _kind(change.before), _kind(change.after)
    if None in kinds or kinds[0] == kinds[1] or "a grid" in kinds:
        return None
    return (
        f"param_space: {change}: it was {kinds[0]}, and cannot become {kinds[1]} half way: begin a new experiment, or "
        "give it another name"
    )


def _has_grid(node: Any) -> bool:
    if isinstance(node, Mapping):
        return GRID_KEY in node or any(map(_has_grid, node.values()))
    return isinstance(node, list) and any(map(_has_grid, node))


def _shown(node: Any) -> str:
    try:
        return shorten(rebuild_value(node, ""), 60)
    except Exception:  # noqa: BLE001 - it cannot be made again: then its description has to do
        return shorten(node, 60)
