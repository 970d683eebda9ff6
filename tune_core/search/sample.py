"""What may stand in a search space for a value: domains, which are drawn from, and grids.

Owns drawing one value, the attributes by which searchers translate a domain into their own
words, and where in a space there is something to decide. Never checks what a user wrote: the
samplers in `space` do, and they are the way to make a domain. Invariant: a domain that a
sampler returned is drawable. Random numbers come from a `random.Random` that the caller
brings; numpy is not needed.
"""

from __future__ import annotations

import copy
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral
from typing import Any, Final, TypeAlias

from tune_core.validation import is_number

#: Keys of dicts and indices of lists, from the root of a space.
Path: TypeAlias = tuple[str | int, ...]

GRID_KEY: Final = "grid_search"
SCALARS: Final = frozenset({int, float, str, bool, type(None)})


class Domain(ABC):
    """What may stand in a search space instead of a value; `repr` is the call that makes it."""

    @property
    def call(self) -> tuple[str, tuple[Any, ...]]:
        """The sampler of `tune` that makes it, and its arguments."""
        return type(self).__name__, ()

    @abstractmethod
    def sample(self, rng: random.Random | None = None) -> Any:
        """Draw one value.

        Args:
            rng: Where the randomness comes from; the global `random` module if None.
        """

    @abstractmethod
    def is_valid(self, value: Any) -> bool:
        """Return whether `value` lies within the bounds; quantization is not looked at."""

    def __repr__(self) -> str:
        name, arguments = self.call
        return f"{name}({', '.join(map(repr, arguments))})"


@dataclass(frozen=True, repr=False)
class Float(Domain):
    """Real numbers: uniform or log-uniform between two bounds, or normal.

    Attributes:
        lower: Smallest value; -inf for a normal distribution.
        upper: Largest value; inf for a normal distribution.
        q: Values are multiples of it; None if they are continuous.
        log: Whether it is the logarithm that is uniform.
        mean: Mean of a normal distribution, else None.
        sd: Standard deviation of a normal distribution, else None.

    Source: differs from Ray Tune 2.60 where q is given: `quniform` draws every multiple with the
        same chance (rounding gives the two ends half of it), and 3 * 0.1 is 0.3.
    """

    lower: float
    upper: float
    q: float | None = None
    log: bool = False
    mean: float | None = None
    sd: float | None = None

    def sample(self, rng: random.Random | None = None) -> float:
        """Draw one float; see `Domain.sample`."""
        draw = rng or random
        if self.mean is not None and self.sd is not None:
            value = draw.normalvariate(self.mean, self.sd)
            return float(value) if self.q is None else self.multiple(round(value / self.q))
        if self.q is None:
            return self._between(draw.random())
        first, last = round(self.lower / self.q), round(self.upper / self.q)
        if not self.log:
            return self.multiple(draw.randint(first, last))
        return self.multiple(_clamp(round(self._between(draw.random()) / self.q), first, last))

    def is_valid(self, value: Any) -> bool:
        """Return whether `value` is a number between the bounds, ends included."""
        return is_number(value) and self.lower <= value <= self.upper

    def _between(self, share: float) -> float:
        low, high = (math.log(self.lower), math.log(self.upper)) if self.log else (self.lower, self.upper)
        value = low * (1.0 - share) + high * share  # high - low may overflow
        return float(_clamp(math.exp(value) if self.log else value, self.lower, self.upper))

    def multiple(self, index: int) -> float:
        """Return the multiple of q of this number; where q is given."""
        assert self.q is not None
        # The bounds are multiples of q within a tolerance only: there the user's own number wins.
        for bound in (self.lower, self.upper):
            if math.isfinite(bound) and index == round(bound / self.q):
                return float(bound)
        # In decimal, so that the multiples of 0.1 are the numbers that a user would write.
        return float(Decimal(str(self.q)) * index)

    @property
    def call(self) -> tuple[str, tuple[Any, ...]]:
        """See `Domain.call`."""
        q = [] if self.q is None else [self.q]
        if self.mean is not None:
            return "qrandn" if q else "randn", (self.mean, self.sd, *q)
        return _name(self.q, self.log, "uniform"), (self.lower, self.upper, *q)


@dataclass(frozen=True, repr=False)
class Integer(Domain):
    """Whole numbers, uniform or log-uniform between two bounds.

    Attributes:
        lower: The lower bound as given.
        upper: The upper bound as given: excluded if q is None or 1, else included.
        q: Values are multiples of it; None if none was asked for.
        log: Whether it is the logarithm that is uniform.

    Example:
        >>> domain = Integer(1, 10, q=4)
        >>> domain.first, domain.last
        (4, 8)
    """

    lower: int
    upper: int
    q: int | None = None
    log: bool = False

    @property
    def first(self) -> int:
        """The smallest value that can be drawn."""
        return self._indices[0] * (self.q or 1)

    @property
    def last(self) -> int:
        """The largest value that can be drawn."""
        return self._indices[1] * (self.q or 1)

    def sample(self, rng: random.Random | None = None) -> int:
        """Draw one integer; see `Domain.sample`. With q, it is the index of the multiple that is drawn."""
        draw = rng or random
        first, last = self._indices
        if not self.log:
            return draw.randint(first, last) * (self.q or 1)
        low, high = math.log(first), math.log(last + 1)
        index = math.floor(math.exp(low + (high - low) * draw.random()))
        return int(_clamp(index, first, last)) * (self.q or 1)

    def is_valid(self, value: Any) -> bool:
        """Return whether `value` is a whole number from `first` to `last`."""
        return isinstance(value, Integral) and is_number(value) and self.first <= value <= self.last

    @property
    def _indices(self) -> tuple[int, int]:
        step = self.q or 1
        return -(-self.lower // step), self.upper // step - (1 if step == 1 else 0)

    @property
    def call(self) -> tuple[str, tuple[Any, ...]]:
        """See `Domain.call`."""
        q = [] if self.q is None else [self.q]
        return _name(self.q, self.log, "randint"), (self.lower, self.upper, *q)


@dataclass(frozen=True, repr=False)
class Categorical(Domain):
    """Values of which each has the same chance; `categories` holds them in the order given."""

    categories: tuple[Any, ...]

    def sample(self, rng: random.Random | None = None) -> Any:
        """Draw one of the categories: the very object, not a copy."""
        return self.categories[(rng or random).randrange(len(self.categories))]

    def is_valid(self, value: Any) -> bool:
        """Return whether `value` is one of the categories."""
        return is_among(value, self.categories)

    @property
    def call(self) -> tuple[str, tuple[Any, ...]]:
        """See `Domain.call`."""
        return "choice", (list(self.categories),)


@dataclass(frozen=True, repr=False)
class Function(Domain):
    """A value that a function of the user makes.

    Attributes:
        func: The function.
        takes_config: Whether it is called with the configuration, or with nothing.
    """

    func: Callable[..., Any]
    takes_config: bool

    def sample(self, rng: random.Random | None = None, config: Mapping[str, Any] | None = None) -> Any:
        """Call the function. It brings its own randomness: `rng` is not used.

        Args:
            rng: Not used.
            config: What a function that takes the configuration is called with; {} if None.
        """
        if self.takes_config:
            return self.func({} if config is None else config)
        return self.func()

    def is_valid(self, value: Any) -> bool:
        """Return True: only the user knows what the function may return."""
        return True

    @property
    def call(self) -> tuple[str, tuple[Any, ...]]:
        """See `Domain.call`."""
        return "sample_from", (self.func,)

    def __repr__(self) -> str:
        return f"sample_from({getattr(self.func, '__qualname__', type(self.func).__name__)})"


def grid_values(node: Any) -> Any:
    """Return the values of a `{"grid_search": [...]}`; None if `node` is no grid."""
    return node[GRID_KEY] if isinstance(node, dict) and len(node) == 1 and GRID_KEY in node else None


def is_among(value: Any, values: Iterable[Any]) -> bool:
    """Return whether `value` is one of `values`; True if they cannot be compared, as arrays cannot."""
    try:
        return any(value is other or bool(value == other) for other in values)
    except ValueError:
        return True


def could_be(value: Any, category: Any) -> bool:
    """Return whether a value of a configuration can have been made from this category of a choice."""
    if is_unresolved(category):
        return True
    if isinstance(category, dict):
        return (
            isinstance(value, Mapping)
            and value.keys() == category.keys()
            and all(could_be(value[key], child) for key, child in category.items())
        )
    if isinstance(category, list | tuple):  # JSON knows no tuples
        return (
            isinstance(value, list | tuple)
            and len(value) == len(category)
            and all(map(could_be, value, category))
        )
    return value is category or (type(value) is type(category) and bool(value == category))


def fits(value: Any, node: Any) -> bool:
    """Return whether a value of a configuration can have been made from this part of a space.

    Unlike `could_be` it looks at the bounds of samplers. What a `sample_from` function makes, nobody knows.

    Example:
        >>> fits({"kind": "sgd", "momentum": 0.9}, {"kind": "sgd", "momentum": Float(0, 1)})
        True
        >>> fits({"kind": "sgd", "momentum": 1.9}, {"kind": "sgd", "momentum": Float(0, 1)})
        False
    """
    grid = grid_values(node)
    if grid is not None or isinstance(node, Categorical):
        return any(fits(value, each) for each in (node.categories if grid is None else grid))
    if isinstance(node, Domain):
        return node.is_valid(value)
    if isinstance(node, dict):
        is_same = isinstance(value, Mapping) and value.keys() == node.keys()
        return is_same and all(fits(value[key], child) for key, child in node.items())
    if isinstance(node, list | tuple):
        is_list = isinstance(value, list | tuple) and len(value) == len(node)
        return is_list and all(map(fits, value, node))
    return could_be(value, node)


def is_unresolved(node: Any) -> bool:
    """Return whether `node` itself is a sampler or a grid."""
    return isinstance(node, Domain) or grid_values(node) is not None


def children(node: Any) -> Iterator[tuple[str | int, Any]]:
    """Yield (key, child) of a dict, (index, child) of a list or tuple, and nothing of a leaf."""
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def inner_children(node: Any) -> Iterator[tuple[str | int, Any]]:
    """Yield what `children` does but for plain scalars, of which data in a space may have millions."""
    return ((key, child) for key, child in children(node) if type(child) not in SCALARS)


def inner_nodes(values: Sequence[Any]) -> list[tuple[int, Any]]:
    """Return (index, value) for what is no plain scalar; fast where millions of values are scalars."""
    if set(map(type, values)) <= SCALARS:
        return []
    return [(index, value) for index, value in enumerate(values) if type(value) not in SCALARS]


def with_children(node: Any, new: Sequence[Any]) -> Any:
    """Return a container like `node` that holds `new` in the place of its children, or a leaf as it is."""
    if isinstance(node, dict):
        if type(node) is dict:
            return dict(zip(node, new, strict=True))
        changed = copy.copy(node)  # keeps what a subclass knows besides, such as a default factory
        changed.update(zip(node, new, strict=True))
        return changed
    if isinstance(node, tuple):
        return node._make(new) if hasattr(node, "_make") else type(node)(new)
    if isinstance(node, list):
        items = copy.copy(node)
        items[:] = new
        return items
    return node


def fill_in(space: Any, chosen: Any) -> Any:
    """Return a space with what was chosen in it put in, in containers of its own.

    Example:
        >>> fill_in({"net": {"width": Float(0, 1), "depth": 3}}, {"net": {"width": 0.5}, "lr": 0.1})
        {'net': {'width': 0.5, 'depth': 3}, 'lr': 0.1}
    """
    if not isinstance(chosen, Mapping) or not isinstance(space, dict) or is_unresolved(space):
        return _copied(chosen)
    keys = [*space, *(key for key in chosen if key not in space)]
    return {
        key: _copied(space[key])
        if key not in chosen
        else _copied(chosen[key])
        if key not in space
        else fill_in(space[key], chosen[key])
        for key in keys
    }


def _copied(node: Any) -> Any:
    return with_children(node, [_copied(child) for _, child in children(node)])


def path_text(path: Path) -> str:
    """Return `("net", "layers", 0)` as `net/layers/0`."""
    return "/".join(map(str, path))


def unresolved_paths(space: Mapping[str, Any]) -> list[str]:
    """Return where a space holds samplers and grids, in order of definition; [] if it is fixed.

    Example:
        >>> unresolved_paths({"lr": Float(0, 1), "net": {"width": {"grid_search": [1, 2]}, "depth": 3}})
        ['lr', 'net/width']
    """

    def walk(node: Any, path: Path) -> Iterator[str]:
        if is_unresolved(node):
            yield path_text(path)
        else:
            for key, child in children(node):
                yield from walk(child, (*path, key))

    return list(walk(space, ()))


def _clamp(value: Any, lower: Any, upper: Any) -> Any:
    return min(max(value, lower), upper)


def _name(q: float | None, log: bool, base: str) -> str:
    return ("" if q is None else "q") + ("log" if log else "") + base
