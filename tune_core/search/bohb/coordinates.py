"""From values of a search space to coordinates from 0 to 1, or numbers of categories, and back.

Owns the translation of each sampler. Never models anything. Invariant: where a sampler draws uniformly, the
coordinate is uniform; and `value(coordinate(v))` is `v` for discrete samplers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from tune_core.errors import ConfigError
from tune_core.search.sample import (
    Categorical,
    Domain,
    Float,
    Function,
    Integer,
    Path,
    children,
    could_be,
    grid_values,
    path_text,
)
from tune_core.validation import is_number, shorten

_STANDARD = NormalDist()
#: Coordinates of normal distributions keep so far away from 0 and 1, where there is no value.
_MARGIN = 1e-12


@dataclass(frozen=True)
class Parameter:
    """One place of a search space that is modelled.

    Attributes:
        path: Where it is.
        domain: What may stand there.
    """

    path: Path
    domain: Domain

    @property
    def name(self) -> str:
        """Its path as text: `net/width`."""
        return path_text(self.path)

    @property
    def num_categories(self) -> int:
        """How many categories it has, of which none is next to another; 0 for a number."""
        return len(self.domain.categories) if isinstance(self.domain, Categorical) else 0

    def coordinate(self, value: Any) -> float:
        """Return where a value is: from 0 to 1 for numbers, else the number of its category.

        Raises:
            ValueError: The sampler would never draw it.
        """
        domain = self.domain
        if isinstance(domain, Categorical):
            for index, category in enumerate(domain.categories):
                if could_be(value, category):
                    return float(index)
            raise ValueError(f"{shorten(value)} is none of {shorten(list(domain.categories))}")
        if not domain.is_valid(value):
            raise ValueError(f"{shorten(value)} is no value of {domain!r}")
        if isinstance(domain, Integer):
            return _of_integer(domain, int(value))
        assert isinstance(domain, Float)
        return _of_float(domain, float(value))

    def value(self, coordinate: float) -> Any:
        """Return the value at a coordinate."""
        domain = self.domain
        if isinstance(domain, Categorical):
            return domain.categories[int(coordinate)]
        if isinstance(domain, Integer):
            return _to_integer(domain, coordinate)
        assert isinstance(domain, Float)
        return _to_float(domain, coordinate)


def parameters_of(space: Mapping[str, Any], name: str) -> list[Parameter]:
    """Return what of a search space can be modelled, in order of definition.

    Left out are places with one value only, `sample_from` functions, and samplers within a choice: they are drawn
    once everything else is decided.

    Args:
        space: The search space.
        name: What errors call it.

    Raises:
        ConfigError: There is a grid in it; all of them are named.

    Example:
        >>> from tune_core.search import choice, uniform
        >>> [each.name for each in parameters_of({"lr": uniform(0, 1), "net": {"act": choice(["a", "b"])}}, "space")]
        ['lr', 'net/act']
    """
    found: list[Parameter] = []
    faults: list[str] = []

    def walk(node: Any, path: Path) -> None:
        if grid_values(node) is not None:
            faults.append(
                f"{name}[{path_text(path)!r}]: TuneBOHB does not walk grids: write choice([…]), or use another searcher"
            )
        elif isinstance(node, Domain):
            if not isinstance(node, Function) and not _is_constant(node):
                found.append(Parameter(path, node))
        else:
            for key, child in children(node):
                walk(child, (*path, key))

    walk(space, ())
    if faults:
        raise ConfigError(faults)
    return found


def _is_constant(domain: Domain) -> bool:
    if isinstance(domain, Categorical):
        return len(domain.categories) == 1
    if isinstance(domain, Integer):
        return domain.first == domain.last
    return isinstance(domain, Float) and domain.lower == domain.upper


def _of_integer(domain: Integer, value: int) -> float:
    step = domain.q or 1
    index, first, last = value // step, domain.first // step, domain.last // step
    if domain.log:
        low, high = math.log(first), math.log(last + 1)
        return (math.log(index + 0.5) - low) / (high - low)
    return (index - first + 0.5) / (last - first + 1)


def _to_integer(domain: Integer, coordinate: float) -> int:
    step = domain.q or 1
    first, last = domain.first // step, domain.last // step
    if domain.log:
        low, high = math.log(first), math.log(last + 1)
        index = math.floor(math.exp(low + (high - low) * coordinate))
    else:
        index = first + math.floor(coordinate * (last - first + 1))
    return min(max(index, first), last) * step


def _of_float(domain: Float, value: float) -> float:
    if domain.mean is not None and domain.sd is not None:
        return min(max(_STANDARD.cdf((value - domain.mean) / domain.sd), _MARGIN), 1 - _MARGIN)
    if domain.log:
        low, high, at = math.log(domain.lower), math.log(domain.upper), math.log(value)
    elif domain.q is not None:
        first, last = round(domain.lower / domain.q), round(domain.upper / domain.q)
        return (min(max(round(value / domain.q), first), last) - first + 0.5) / (last - first + 1)
    else:  # halves: the difference of the bounds may be beyond floats
        low, high, at = domain.lower / 2, domain.upper / 2, value / 2
    return (at - low) / (high - low)


def _to_float(domain: Float, coordinate: float) -> float:
    if domain.mean is not None and domain.sd is not None:
        within = min(max(coordinate, _MARGIN), 1 - _MARGIN)
        value = domain.mean + domain.sd * _STANDARD.inv_cdf(within)
        return value if domain.q is None else domain.multiple(round(value / domain.q))
    if domain.q is not None:
        first, last = round(domain.lower / domain.q), round(domain.upper / domain.q)
        if domain.log:
            index = round(_between(domain, coordinate) / domain.q)
        else:
            index = first + math.floor(coordinate * (last - first + 1))
        return domain.multiple(min(max(index, first), last))
    return _between(domain, coordinate)


def _between(domain: Float, coordinate: float) -> float:
    low, high = domain.lower, domain.upper
    if domain.log:
        low, high = math.log(low), math.log(high)
    value = low * (1.0 - coordinate) + high * coordinate
    return float(min(max(math.exp(value) if domain.log else value, domain.lower), domain.upper))


def read(parameter: Parameter, config: Any) -> float | None:
    """Return the coordinate of what a configuration has there; None if it has nothing, or what is not of the space."""
    try:
        for key in parameter.path:
            config = config[key]
        if not parameter.num_categories and not is_number(config):
            return None
        return parameter.coordinate(config)
    except (LookupError, TypeError, ValueError):
        return None
