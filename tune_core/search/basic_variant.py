"""The searcher that is used if none is given: grids and random draws, in a fixed order.

Owns the sequence of samples: the points that were given, then draws. Never looks at results.
Invariant: with a seed, the n-th suggestion depends on the space and the seed alone; so a resumed
experiment walks past the suggestions of its journal and goes on with the next one.
"""

from __future__ import annotations

import importlib
import logging
import random
import sys
from collections.abc import Iterator
from numbers import Integral
from typing import Any, Literal, Protocol

from tune_core.encoding import dumps
from tune_core.errors import ConfigError
from tune_core.init_args import note_arguments
from tune_core.search.sample import path_text
from tune_core.search.searcher import Searcher, Suggestion
from tune_core.search.space import validate_space
from tune_core.search.variants import (
    Values,
    Variant,
    grid_size,
    outside_values,
    read_point,
    walk_sample,
)
from tune_core.validation import Validator

logger = logging.getLogger(__name__)


#: After how many draws in a row that have been suggested before a search without repeats ends.
_MOST_REPEATS = 1000


class _NumpyRandom(Protocol):
    """What numpy's RandomState and Generator have in common."""

    def bytes(self, length: int) -> bytes: ...


class BasicVariantGenerator(Searcher):
    """Walks the grids of a space, and draws the rest at random.

    One sample is one walk over the whole grid (one trial, if the space has none), with random
    values drawn again for each of its points; `num_samples` is how often that is done. What is
    suggested does not depend on results, on trial ids, or on how many trials run at once.

    Args:
        points_to_evaluate: Configurations, or parts of them, to try first. Each takes the place
            of one sample: what it leaves out is drawn, and a grid that it leaves out is walked.
        max_concurrent: How many trials the experiment may run at once; 0 for no limit.
        constant_grid_search: Draw random values once per sample, not once per point of the grid.
        random_state: A seed, or a numpy RandomState or Generator, or a `random.Random`, from
            which one is taken now. None: from numpy's global state if numpy is loaded, else from
            `random`; so `numpy.random.seed()` or `random.seed()` still make a run repeatable.
        dedupe: Beyond Ray Tune: whether a configuration is suggested only once, unless it is one of
            `points_to_evaluate`. A draw that has been suggested is drawn again; once 1000 in a row have been, the
            search ends. False: repeats are what `num_samples` of a grid is for.

    Raises:
        ConfigError: An argument is of the wrong type or below its range.

    Example:
        >>> from tune_core.search import grid_search, randint
        >>> searcher = BasicVariantGenerator(points_to_evaluate=[{"b": 2}], random_state=1)
        >>> space = {"a": grid_search([1, 2]), "b": randint(0, 3)}
        >>> searcher.set_search_properties(None, None, space, num_samples=2)
        True
        >>> searcher.total_trials
        4
        >>> searcher.suggest("t0").config
        {'a': 1, 'b': 2}

    Source: as Ray Tune 2.60, whose numbers for a seed are others; differs: a grid of any size is
        lazy and can be resumed.
    """

    counts_samples = True
    supports_several_objectives = True

    def __init__(
        self,
        points_to_evaluate: list[dict[str, Any]] | None = None,
        max_concurrent: int = 0,
        constant_grid_search: bool = False,
        random_state: int | random.Random | _NumpyRandom | None = None,
        *,
        dedupe: bool = False,
    ) -> None:
        super().__init__()
        validator = Validator(type(self).__name__)
        points: Any = [] if points_to_evaluate is None else points_to_evaluate
        if not isinstance(points, list | tuple) or not all(isinstance(point, dict) for point in points):
            validator.add("points_to_evaluate", points, "expected a list of dicts")
        validator.check_integer("max_concurrent", max_concurrent, minimum=0)
        validator.check_bool("constant_grid_search", constant_grid_search)
        validator.check_bool("dedupe", dedupe)
        self._given_seed = _seed_of(random_state, validator)
        validator.raise_any()
        if self._given_seed is not None:  # a generator has been drawn from, and would give another one
            note_arguments(self, random_state=int(self._given_seed))
        #: The experiment keeps this limit, and 0 is none.
        self.max_concurrent = max_concurrent
        self._given_points = self._points = list(points)
        self._constant, self._dedupe = constant_grid_search, dedupe
        self._space: dict[str, Any] | None = None
        #: Suggestions that each point makes, and each sample after them.
        self._sizes: tuple[list[int], int] = ([], 0)
        self._num_samples = 1
        self._restart(self._given_seed or "", 0)

    @property
    def total_trials(self) -> int | None:
        """How many suggestions there are in all; None if endless, or if no space is set yet.

        A grid inside of a `choice`, or made by a `sample_from` function, counts as one.
        """
        if self._space is None or self._num_samples < 0:
            return None
        given, drawn = self._sizes
        return sum(given) + max(self._num_samples - len(given), 0) * drawn

    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Take the space, and start over; see `Searcher.set_search_properties`.

        Raises:
            ConfigError: Everything that is wrong with the space, or with the points in it.
        """
        super().set_search_properties(metric, mode, config, **spec)
        validate_space(config)
        validator = Validator(type(self).__name__)
        num_samples = spec.get("num_samples", 1)
        if num_samples != -1:
            validator.check_integer("num_samples", num_samples, minimum=1, also=", or -1 for no end")
        self._points = self._given_points  # without those of an experiment before
        self._check_points(config, validator)
        validator.raise_any()
        self._space, self._num_samples = config, num_samples
        self._measure(config)
        self._restart(self._given_seed or global_seed(), 0)
        return True

    def check_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, config: dict[str, Any]
    ) -> None:
        """Refuse points that are none of the space."""
        validator = Validator(type(self).__name__)
        self._check_points(config, validator, warns=False)
        validator.raise_any()

    def _check_points(self, config: dict[str, Any], validator: Validator, *, warns: bool = True) -> None:
        for number, point in enumerate(self._points):
            name = f"points_to_evaluate[{number}]"
            try:
                values = read_point(config, point, name)
            except ConfigError as error:
                validator.extend(error.faults)
                continue
            if warns:
                _warn_of_outsiders(config, values, name)

    def add_samples(self, count: int) -> None:
        """Add `count` samples, at least 1, to an experiment under way; nothing if it is endless.

        Raises:
            ConfigError: The count is not an integer of at least 1.
        """
        validator = Validator("add_samples")
        validator.check_integer("count", count, minimum=1)
        validator.raise_any()
        if self._num_samples >= 0:
            self._num_samples = max(self._num_samples, len(self._points)) + count

    def on_num_samples_raised(self, num_samples: int) -> None:
        """Walk on, as if so many samples had been asked for at once."""
        self._num_samples = num_samples

    def suggest(self, trial_id: str) -> Suggestion | Literal["FINISHED"]:
        """Return the next configuration, whatever the trial; see `Searcher.suggest`.

        Raises:
            ConfigError: No space is set; or a `sample_from` function failed.
        """
        while True:
            is_new = self._num_walked >= self._num_suggested
            variant = self._walk()
            if variant is None:
                return Searcher.FINISHED
            if is_new:
                self._note_suggested(variant.config)
                return Suggestion(variant.config, variant.varied)

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        """Walk past one suggestion."""
        self._note_suggested(config)

    def _note_suggested(self, config: dict[str, Any]) -> None:
        self._num_suggested += 1
        if self._dedupe:
            self._suggested.add(dumps(config))

    def get_state(self) -> dict[str, Any]:
        """Return the seed and the number of suggestions."""
        return {"seed": self._seed, "num_suggested": self._num_suggested}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on after that many suggestions of that seed; to be called after `set_search_properties`."""
        self._restart(state["seed"], state["num_suggested"])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the iterator out: a copy starts from the beginning."""
        return {name: value for name, value in vars(self).items() if name not in ("_rng", "_variants")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._restart(self._seed, self._num_suggested)

    def _restart(self, seed: str, num_suggested: int) -> None:
        self._seed = seed
        self._rng = random.Random(seed)
        self._num_suggested = num_suggested
        self._num_walked = 0
        self._num_opened = 0
        if not num_suggested:  # else it goes on
            #: With `dedupe`: what has been suggested, whatever the search space was.
            self._suggested: set[bytes] = set()
        #: With `dedupe`: what has been made, and how many samples have made nothing new.
        self._made: set[bytes] = set()
        self._num_void = 0
        self._variants: Iterator[Variant] = iter(())

    def _measure(self, space: dict[str, Any]) -> None:
        given = [grid_size(space, read_point(space, point)) for point in self._points]
        self._sizes = given, grid_size(space)

    def on_space_changed(self, config: dict[str, Any]) -> bool:
        """Draw the samples that are left from this space; they follow from the seed and from how many there were."""
        validate_space(config)
        self._measure(config)
        self._space = config
        self._rng = random.Random(f"{self._seed}/{self._num_suggested}")
        self._num_opened = self._num_walked = self._num_suggested
        self._made, self._num_void = set(self._suggested), 0
        self._variants = iter(())
        return True

    def on_points_to_try(self, points: list[dict[str, Any]]) -> bool:
        """Let each take the place of a sample, before the points that were given; not half way."""
        if self._space is None or self._num_suggested:
            return False
        self._points = [*points, *self._given_points]
        self._measure(self._space)
        return True

    def _walk(self) -> Variant | None:
        """Make the next configuration; None at the end, which `add_samples` may move."""
        num_repeats = 0
        while True:
            while (variant := next(self._variants, None)) is None:
                if not self._open_sample():
                    return None
            if not self._dedupe or self._is_new(variant):
                self._num_walked += 1
                return variant
            num_repeats += 1
            self._num_void += (
                self._sizes[1] == 1
            )  # the sample was this draw alone: another one takes its place
            if num_repeats == _MOST_REPEATS:
                logger.info(
                    "BasicVariantGenerator(dedupe=True): the last %d draws have all been suggested before: the search "
                    "ends after %d configurations",
                    num_repeats,
                    len(self._made),
                )
                self._variants, self._num_opened = iter(()), sys.maxsize
                return None

    def _is_new(self, variant: Variant) -> bool:
        """Note a configuration; return whether it is to be suggested: points always are."""
        key, count = dumps(variant.config), len(self._made)
        self._made.add(key)
        return len(self._made) > count or self._num_opened <= len(self._points)

    def _open_sample(self) -> bool:
        if self._space is None:
            raise ConfigError(
                f"{type(self).__name__}: no search space yet: set_search_properties gives it one"
            )
        number, points = self._num_opened, self._points
        if number >= len(points) and 0 <= self._num_samples <= number - self._num_void:
            return False
        if number == sys.maxsize:  # all has been suggested
            return False
        self._num_opened += 1
        given = read_point(self._space, points[number]) if number < len(points) else {}
        self._variants = walk_sample(self._space, self._rng, given, constant_grid_search=self._constant)
        return True


def _seed_of(random_state: Any, validator: Validator) -> str | None:
    """Return a seed as text, for which 1 and -1 differ; None if none was given."""
    if random_state is None:
        return None
    if not isinstance(random_state, bool) and isinstance(random_state, Integral):
        return str(int(random_state))
    if isinstance(random_state, random.Random):
        return str(random_state.getrandbits(64))
    # Recognised by its module, as numpy must not be imported for this.
    if type(random_state).__module__.partition(".")[0] == "numpy" and hasattr(random_state, "bytes"):
        return str(int.from_bytes(random_state.bytes(8)))
    validator.add(
        "random_state", random_state, "expected an integer, a numpy RandomState or Generator, or None"
    )
    return None


def global_seed() -> str:
    """Return a seed as text, drawn from numpy's global state if numpy is loaded, else from `random`'s."""
    if "numpy" not in sys.modules:
        return random.randbytes(8).hex()
    numpy: Any = importlib.import_module("numpy")  # waits for another thread that is importing it just now
    return bytes(numpy.random.bytes(8)).hex()


def _warn_of_outsiders(space: dict[str, Any], values: Values, name: str) -> None:
    for path, value, node in outside_values(space, values):
        logger.warning(
            "%s: %r=%r is not a value of %r; it is run all the same", name, path_text(path), value, node
        )
