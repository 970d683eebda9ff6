"""What searchers around a library have in common that is asked, told, and knows numbers and categories only.

Owns the way from a search space to numbers between bounds and back, the points that are run first, and what a
trial has come to. Never optimises. Invariant: the library is asked and told in the order of the journal, with the
seed of the state; so one to which a journal is replayed goes on as the one before.
"""

from __future__ import annotations

import logging
import math
import random
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tune_core.encoding import dumps
from tune_core.errors import ConfigError
from tune_core.metrics import comparable, flatten, lookup
from tune_core.search.basic_variant import global_seed
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
    is_unresolved,
    path_text,
    unresolved_paths,
)
from tune_core.search.searcher import Searcher, Suggestion
from tune_core.search.space import validate_space
from tune_core.search.variants import read_point, walk_sample
from tune_core.validation import Validator, shorten

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Axis:
    """One place of a search space, as a number between two bounds, or as one of so many categories.

    Attributes:
        path: Where it is.
        low: The smallest number.
        high: The largest number.
        decode: Returns the value of the configuration for a number, or for the index of a category.
        encode: Returns the number or index for a value of a configuration.
        size: How many categories there are; 0 for a number.
    """

    path: Path
    low: float
    high: float
    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any]
    size: int = 0

    @property
    def name(self) -> str:
        """Its path as text."""
        return path_text(self.path)

    def draw(self, draws: random.Random) -> Any:
        """Draw a number or an index."""
        return draws.randrange(self.size) if self.size else draws.uniform(self.low, self.high)


class LibrarySearch(Searcher):
    """A searcher around a library; subclass it and write `_begin`, `_propose`, `_given` and `_learn`.

    Args:
        space: A search space of its own; None: the Tuner's `param_space`.
        metric: The metric to optimise; None: the experiment's.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, to try first.
        seed: None: from Python's (or numpy's) global random state.
        validator: What the subclass has found wrong with its own arguments.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
    """

    #: Whether it takes no choices.
    only_numbers: ClassVar[bool] = False

    def __init__(
        self,
        space: Mapping[str, Any] | None,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None,
        seed: int | None,
        validator: Validator,
    ) -> None:
        super().__init__(metric, mode)
        points: Any = points_to_evaluate
        given: Any = space
        if points is not None and not (
            isinstance(points, list | tuple) and all(isinstance(point, Mapping) for point in points)
        ):
            validator.add("points_to_evaluate", points, "expected a list of dicts")
        if given is not None and not (isinstance(given, Mapping) and unresolved_paths(given)):
            validator.add("space", given, "expected a dict with samplers of tune, such as uniform(0, 1)")
        validator.raise_any()
        self._own_space = None if space is None else dict(space)
        self._points = list(points or ())
        self._seed = str(seed) if seed is not None else global_seed()
        self._space: dict[str, Any] = {}
        self._axes: list[Axis] = []
        self._is_open = self._has_ended = False
        self._restart()
        if self._own_space is not None:
            self._axes = self._axes_of(self._own_space)

    # What a subclass writes.

    @abstractmethod
    def _begin(self, seed: int) -> None:
        """Make the library's optimiser for `self._axes`."""

    @abstractmethod
    def _propose(self, draws: random.Random) -> tuple[Any, dict[str, Any]] | None:
        """Return what the library proposes by name, with what it calls the proposal; None: it has no more."""

    @abstractmethod
    def _given(self, params: dict[str, Any]) -> Any:
        """Return what the library calls a configuration that it has not proposed."""

    @abstractmethod
    def _learn(self, token: Any, params: dict[str, Any], result: dict[str, Any], loss: float | None) -> None:
        """Tell the library of a result; the loss is less for what is better, None for a failure."""

    # The searcher.

    def check_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, config: dict[str, Any]
    ) -> None:
        """Refuse what the library cannot decide, points that are none of the space, and no metric."""
        name = type(self).__name__
        if not (self._mode or mode):
            raise ConfigError(f"{name}: no mode: give metric and mode to it or to TuneConfig")
        if self._own_space is not None and (left := unresolved_paths(config)):
            raise ConfigError(
                f"{name}(space=…) does not draw from param_space, which has samplers: {', '.join(left)}"
            )
        space = config if self._own_space is None else self._own_space
        axes = self._axes_of(space)
        for number, point in enumerate(self._points):
            self._encoded_point(axes, space, point, f"points_to_evaluate[{number}]")

    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Take the objective and, without a space of its own, the search space; start over.

        Raises:
            ConfigError: As `check_search_properties`.
        """
        self.check_search_properties(metric, mode, config)
        super().set_search_properties(metric, mode, config, **spec)
        if self._metric is None:
            self._metric = "_metric"  # what a trainable that returns a number reports
        self._space = config if self._own_space is None else self._own_space
        self._axes = self._axes_of(self._space)
        self._restart()
        return self._own_space is None

    def suggest(self, trial_id: str) -> Suggestion | dict[str, Any] | str:
        """Return the points that were given, then what the library proposes."""
        if self._has_ended:
            return self.FINISHED
        self._open()
        draws = random.Random(f"{self._seed}/{self._num_asked}")
        if self._num_asked < len(self._points):
            where = f"points_to_evaluate[{self._num_asked}]"
            known = self._encoded_point(self._axes, self._space, self._points[self._num_asked], where)
            params = {axis.name: known.get(axis.name, axis.draw(draws)) for axis in self._axes}
            token = self._given(params)
        else:
            proposed = self._propose(draws)
            if proposed is None:
                self._has_ended = True
                return self.FINISHED
            token, params = proposed
        self._num_asked += 1
        self._trials[trial_id] = (token, params)
        values = {axis.path: axis.decode(params[axis.name]) for axis in self._axes}
        variant = next(walk_sample(self._space, draws, values))
        return variant.config if self._own_space is not None else Suggestion(variant.config, variant.varied)

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        """Ask the library again, so that it goes on as it would have; what the trial ran is what it is told of."""
        if trial_id in self._trials:
            return
        answer = self.suggest(trial_id)
        made = answer.config if isinstance(answer, Suggestion) else answer
        if isinstance(made, Mapping) and all(
            dumps(_at(made, axis.path)) == dumps(_at(config, axis.path)) for axis in self._axes
        ):
            return
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s, asked again for trial %s after a resume, suggests otherwise than it did: it has another seed or "
                "another version of its library, or the search space is another. It goes on from what was found, with "
                "other draws (said once)",
                type(self).__name__,
                trial_id,
            )
        self._trials.pop(trial_id, None)
        self._take(trial_id, config)

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        """Learn from it as from others, if it is one of the space."""
        self._open()
        return self._take(trial_id, config)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the library of the last value."""
        token, params = self._trials.pop(trial_id, (None, None))
        if params is None:
            return
        name, mode = self._metric, self._mode
        value = comparable(lookup(result or {}, name if isinstance(name, str) else (name or [""])[0]))
        is_usable = not error and value is not None and math.isfinite(value)
        sign = -1.0 if (mode if isinstance(mode, str) else (mode or ["min"])[0]) == "max" else 1.0
        self._learn(
            token, params, dict(result or {}), sign * value if is_usable and value is not None else None
        )

    def get_state(self) -> dict[str, Any]:
        """Return the seed; suggestions and results are replayed."""
        return {"seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Start over with that seed, unless it is in force."""
        if state["seed"] != self._seed:
            self._seed = state["seed"]
            self._restart()

    def _restart(self) -> None:
        self._num_asked = 0
        self._is_open = self._has_ended = False
        self._trials: dict[str, tuple[Any, dict[str, Any]]] = {}

    def _open(self) -> None:
        if not self._is_open:
            self._begin(random.Random(self._seed).getrandbits(31))
            self._is_open = True

    def _take(self, trial_id: str, config: Mapping[str, Any]) -> bool:
        try:
            params = {axis.name: axis.encode(_at(config, axis.path)) for axis in self._axes}
        except (TypeError, ValueError) as error:
            logger.warning(
                "%s does not learn from trial %s, which is none of the search space: %s",
                type(self).__name__,
                trial_id,
                error,
            )
            return False
        self._trials[trial_id] = (self._given(params), params)
        return True

    def _axes_of(self, space: Mapping[str, Any]) -> list[Axis]:
        validate_space(dict(space))
        found: list[Axis] = []
        faults: list[str] = []

        def walk(node: Any, path: Path) -> None:
            place = f"{type(self).__name__}: {path_text(path)!r}"
            if grid_values(node) is not None:
                faults.append(f"{place} is a grid: write choice([…]), or leave search_alg out")
            elif isinstance(node, Categorical) and any(_holds_samplers(each) for each in node.categories):
                faults.append(f"{place} is a choice with samplers in it: OptunaSearch knows such conditions")
            elif isinstance(node, Categorical) and self.only_numbers:
                faults.append(f"{place} is a choice, and only numbers are known here: use OptunaSearch")
            elif isinstance(node, Domain) and not isinstance(node, Function):
                axis = _axis(node, path)
                if axis is None:
                    faults.append(f"{place} is {node!r}, which has no bounds: use uniform or loguniform")
                else:
                    found.append(axis)
            elif not isinstance(node, Function):
                for key, child in children(node):
                    walk(child, (*path, key))

        walk(space, ())
        if faults:
            raise ConfigError(faults)
        if not found:
            raise ConfigError(
                f"{type(self).__name__}: the search space has no sampler: add one to param_space"
            )
        return found

    def _encoded_point(
        self, axes: Sequence[Axis], space: Mapping[str, Any], point: Mapping[str, Any], where: str
    ) -> dict[str, Any]:
        read_point(space, point, where)
        found = {}
        for axis in axes:
            value = _at(point, axis.path)
            if value is None and axis.name not in flatten(point):
                continue
            try:
                found[axis.name] = axis.encode(value)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{type(self).__name__}: {where}: {axis.name}: {error}") from error
        return found


def _axis(domain: Domain, path: Path) -> Axis | None:
    if isinstance(domain, Categorical):
        return _category_axis(domain, path)
    if isinstance(domain, Float) and domain.q is None and domain.mean is None:
        if domain.log:
            low, high = math.log(domain.lower), math.log(domain.upper)
            return Axis(
                path,
                low,
                high,
                lambda number: min(max(math.exp(number), domain.lower), domain.upper),
                lambda value: math.log(_inside(value, domain)),
            )
        decode = lambda number: min(max(float(number), domain.lower), domain.upper)  # noqa: E731
        return Axis(
            path, float(domain.lower), float(domain.upper), decode, lambda value: _inside(value, domain)
        )
    if isinstance(domain, Float) and domain.mean is None:
        step = float(domain.q or 1)
        first, last = round(domain.lower / step), round(domain.upper / step)
        return _steps(path, domain, max(first, 1) if domain.log else first, last, step, domain.multiple)
    if isinstance(domain, Integer):
        whole = domain.q or 1
        bounds = domain.first // whole, domain.last // whole
        return _steps(path, domain, *bounds, whole, lambda index: index * whole)
    return None


def _steps(
    path: Path, domain: Float | Integer, first: int, last: int, step: float, made: Callable[[int], Any]
) -> Axis:
    """Multiples of a step: each has a range of numbers of equal width."""
    low, high = first - 0.5, last + 0.5
    log = domain.log

    def decode(number: float) -> Any:
        index = math.exp(number) if log else number
        return made(min(max(math.floor(index + 0.5), first), last))

    def encode(value: Any) -> float:
        index = round(_inside(value, domain) / step)
        return math.log(index) if log else float(index)

    return Axis(path, math.log(low) if log else low, math.log(high) if log else high, decode, encode)


def _category_axis(domain: Categorical, path: Path) -> Axis:
    def encode(value: Any) -> int:
        for index, category in enumerate(domain.categories):
            if could_be(value, category):
                return index
        raise ValueError(f"{shorten(value)} is none of {shorten(list(domain.categories))}")

    size = len(domain.categories)
    return Axis(path, 0, size - 1, lambda index: domain.categories[int(index)], encode, size)


def _inside(value: Any, domain: Float | Integer) -> float:
    if not domain.is_valid(value):
        raise ValueError(f"{shorten(value)} is none of {domain!r}")
    return float(value)


def _at(config: Any, path: Path) -> Any:
    """What a configuration has at a path; None if nothing."""
    try:
        for key in path:
            config = config[key]
    except (LookupError, TypeError):
        return None
    return config


def _holds_samplers(node: Any) -> bool:
    return is_unresolved(node) or any(_holds_samplers(child) for _, child in children(node))
