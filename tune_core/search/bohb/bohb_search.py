"""BOHB's searcher: it learns from what trials report after equally many iterations.

Owns observations and the choice of the next configuration; densities are in `density`. Invariant: the n-th
suggestion follows from the seed, from n, and from what was suggested and told before; so a searcher to which
a journal is replayed goes on as the one that wrote it.
"""

from __future__ import annotations

import logging
import math
import random
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from tune_core.errors import ConfigError
from tune_core.metrics import comparable, lookup
from tune_core.search.basic_variant import global_seed
from tune_core.search.bohb.coordinates import Parameter, parameters_of, read
from tune_core.search.bohb.density import Density
from tune_core.search.sample import unresolved_paths
from tune_core.search.searcher import Searcher, Suggestion
from tune_core.search.space import validate_space
from tune_core.search.variants import read_point, walk_sample
from tune_core.validation import Validator, is_number, shorten, suggestion

_logger = logging.getLogger(__name__)

#: Options of the model, and what they are by default.
_OPTIONS: dict[str, Any] = {
    "min_points_in_model": None,
    "top_n_percent": 15,
    "num_samples": 64,
    "random_fraction": 1 / 3,
    "bandwidth_factor": 3.0,
    "min_bandwidth": 1e-3,
}


class TuneBOHB(Searcher):
    """Chooses configurations by BOHB: kernel densities of good and of other configurations.

    What trials report is kept by `training_iteration`, as observations of that budget. The model is of the largest
    budget that enough trials have come to: as many as the search space has parameters, and three more. Of its
    observations, the best `top_n_percent` make up one density, the others another; of `num_samples` draws from the
    first one, that is suggested where the first is largest in proportion to the second. Until there are enough
    observations, and in a `random_fraction` of all cases after that, configurations are drawn at random.

    It is made for `HyperBandForBOHB`, and learns under any scheduler. Every sampler of `tune` but grids is
    understood; `sample_from` functions, and samplers within a choice, are drawn once the rest is decided.

    Args:
        space: None: the Tuner's `param_space`; or a dict with samplers.
        bohb_config: Options of the model: `min_points_in_model` (observations in each density at least; None: one
            more than parameters), `top_n_percent` (above 0, below 100; 15), `num_samples` (at least 1; 64),
            `random_fraction` (from 0 to 1; a third), `bandwidth_factor` (of the draws, at least 1; 3),
            `min_bandwidth` (above 0; 0.001, where a parameter's range is 1).
        metric: The metric to optimise; None: the experiment's.
        mode: "min" or "max"; None: the experiment's.
        points_to_evaluate: Configurations, or parts of them, to try first.
        seed: What is drawn follows from it; None: from Python's (or numpy's) global random state.
        max_concurrent: How many of its trials may run at once; 0 for no limit.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
        ImportError: numpy is not installed; the message says how to.

    Example:
        >>> from tune_core.search import uniform
        >>> searcher = TuneBOHB(metric="loss", mode="min", seed=1, bohb_config={"random_fraction": 0})
        >>> searcher.set_search_properties(None, None, {"x": uniform(0, 1)}, num_samples=40)
        True
        >>> for number in range(40):
        ...     x = searcher.suggest(f"t{number}").config["x"]
        ...     searcher.on_trial_complete(f"t{number}", {"loss": (x - 0.3) ** 2, "training_iteration": 1})
        >>> abs(x - 0.3) < 0.1
        True

    Source: names as Ray Tune 2.60; Falkner et al., "BOHB: Robust and Efficient Hyperparameter Optimization at
        Scale", algorithm 2 (https://arxiv.org/abs/1807.01774). Differs: the model is our own, since HpBandSter and
        ConfigSpace are no longer maintained; budgets are all iterations that trials report at; quantised samplers,
        normal distributions and constants work; a resume goes on as if nothing had been.
    """

    def __init__(
        self,
        space: Mapping[str, Any] | None = None,
        bohb_config: Mapping[str, Any] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: list[dict[str, Any]] | None = None,
        seed: int | None = None,
        max_concurrent: int = 0,
    ) -> None:
        _require_numpy()
        super().__init__(metric, mode)
        validator = Validator(type(self).__name__)
        _check_options(validator, bohb_config)
        points: Any = [] if points_to_evaluate is None else points_to_evaluate
        if not isinstance(points, list | tuple) or not all(isinstance(point, Mapping) for point in points):
            validator.add("points_to_evaluate", points, "expected a list of dicts")
        if seed is not None:
            validator.check_integer("seed", seed, minimum=0, also=", or None")
        validator.check_integer("max_concurrent", max_concurrent, minimum=0)
        objective: Any = (metric, mode)
        if any(isinstance(each, list) for each in objective):
            validator.note("several metrics: it optimises one")
        self._has_own_space = space is not None
        self._space: dict[str, Any] = {}
        self._parameters: list[Parameter] = []
        if space is not None:
            self._read_space(space, validator)
        validator.raise_any()
        self._options = {**_OPTIONS, **(bohb_config or {})}
        self._points = [dict(point) for point in points]
        self._seed = str(seed) if seed is not None else global_seed()
        #: The experiment keeps this limit, and 0 is none.
        self.max_concurrent = max_concurrent
        self._forget()

    def _forget(self) -> None:
        self._num_asked = self._num_added = 0
        #: Coordinates of each trial; of one that is not of the space there are none.
        self._coordinates: dict[str, list[float]] = {}
        #: Of each trial, by iteration from 1: less is better, NaN stands for no observation.
        self._losses: dict[str, array[float]] = {}

    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Take the objective and, without a space of its own, the search space.

        Raises:
            ConfigError: Metric or mode are missing, or there is a grid in the space, or nothing to choose.
        """
        self.check_search_properties(metric, mode, config)
        super().set_search_properties(metric, mode, config, **spec)
        if self._metric is None:
            self._metric = "_metric"  # what a trainable that returns a number reports
        if not self._has_own_space:
            self._space, self._parameters = config, parameters_of(config, "param_space")
        self._forget()
        return not self._has_own_space

    def check_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, config: dict[str, Any]
    ) -> None:
        """Refuse grids, points that are none of the space, several metrics, and no metric."""
        if isinstance(metric, list) or isinstance(mode, list):
            raise ConfigError("TuneBOHB optimises one metric: name one, or use another searcher")
        if (self._mode or mode) is None:
            raise ConfigError("TuneBOHB: no metric, no mode: give them to it or to TuneConfig")
        space: Mapping[str, Any] = config
        if self._has_own_space:
            space = self._space
            if left := unresolved_paths(config):
                raise ConfigError(
                    f"TuneBOHB(space=…) does not draw from param_space, which has samplers: {', '.join(left)}. "
                    "Give them in one place"
                )
        else:
            validate_space(config)
            parameters_of(config, "param_space")
        if not unresolved_paths(space):
            raise ConfigError("TuneBOHB: param_space has no sampler, so there is nothing to choose: add one")
        for number, point in enumerate(self._points):
            read_point(space, point, f"points_to_evaluate[{number}]")

    def suggest(self, trial_id: str) -> Suggestion | dict[str, Any]:
        """Return the next configuration: first the points that were given, then what the model says.

        Raises:
            ConfigError: No search space is set; or a `sample_from` function failed.
        """
        if not self._space:
            raise ConfigError("TuneBOHB: no search space yet: set_search_properties gives it one")
        number, rng = self._num_asked - self._num_added, random.Random(f"{self._seed}/{self._num_asked}")
        self._num_asked += 1
        if number < len(self._points):
            given = read_point(self._space, self._points[number])
        else:
            given = self._choose(rng)
        variant = next(walk_sample(self._space, rng, given))
        self._take(trial_id, variant.config)
        # Of a space of its own, the experiment adds what is fixed in param_space.
        return variant.config if self._has_own_space else Suggestion(variant.config, variant.varied)

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        """Take note of a suggestion of an earlier session."""
        self._num_asked += 1
        missing = self._take(trial_id, config)
        if missing:
            _logger.warning(
                "trial %s: %s of its configuration is not in the search space any more: TuneBOHB does not learn from "
                "it",
                trial_id,
                ", ".join(map(repr, missing)),
            )

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        """Learn from it; return True.

        Raises:
            ConfigError: It lacks a parameter of the space, or has a value that is not of it.
        """
        missing = self._take(trial_id, config)
        if missing:
            raise ConfigError(f"config: expected a value of the search space for {', '.join(missing)}")
        self._num_asked += 1
        self._num_added += 1
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the metric as an observation of this iteration; NaN is the worst there is."""
        step = result.get("training_iteration")
        value = comparable(lookup(result, str(self._metric or "")))
        if trial_id not in self._coordinates or not isinstance(step, int) or step < 1 or value is None:
            return
        losses = self._losses.setdefault(trial_id, array("d"))
        losses.extend([math.nan] * (step - len(losses)))
        loss = -value if self._mode == "max" else value
        losses[step - 1] = math.inf if math.isnan(loss) else loss

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Keep the last observation; a trial that has failed teaches what it had reported before."""
        if result is not None:
            self.on_trial_result(trial_id, result)

    def get_state(self) -> dict[str, Any]:
        """Return the seed; suggestions and results are replayed."""
        return {"seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with that seed."""
        self._seed = state["seed"]

    # The model.

    def _choose(self, rng: random.Random) -> dict[Any, Any]:
        """Return values by path, of which the rest follows; {}: everything is drawn at random."""
        if rng.random() < self._options["random_fraction"] or not self._parameters:
            return {}
        least = self._options["min_points_in_model"]
        least = len(self._parameters) + 1 if least is None else least
        observed = self._observations(least + 2)
        if not observed:
            return {}
        num_good = max(least, int(len(observed) * self._options["top_n_percent"] / 100))
        num_bad = max(least, len(observed) - num_good)
        kinds = [parameter.num_categories for parameter in self._parameters]
        width = self._options["min_bandwidth"]
        good = Density(observed[:num_good], kinds, width)
        bad = Density(observed[-num_bad:], kinds, width)
        factor, count = self._options["bandwidth_factor"], self._options["num_samples"]
        drawn = [good.draw(rng, factor) for _ in range(count)]
        best = drawn[int((good.logarithms(drawn) - bad.logarithms(drawn)).argmax())]
        return {each.path: each.value(at) for each, at in zip(self._parameters, best, strict=True)}

    def _observations(self, least: int) -> list[list[float]]:
        """Return the coordinates of all trials at the largest budget that so many have come to, the best first."""
        reach = sorted((len(losses) for losses in self._losses.values()), reverse=True)
        largest = reach[least - 1] if len(reach) >= least else 0
        for budget in range(largest, 0, -1):
            found = list(self._observed_at(budget))
            if len(found) >= least:
                found.sort(key=lambda each: each[0])
                return [self._coordinates[trial_id] for _, trial_id in found]
        return []

    def _observed_at(self, budget: int) -> Iterator[tuple[float, str]]:
        for trial_id, losses in self._losses.items():
            if len(losses) >= budget and not math.isnan(losses[budget - 1]):
                yield losses[budget - 1], trial_id

    # The search space.

    def _take(self, trial_id: str, config: Mapping[str, Any]) -> list[str]:
        """Note where a trial's configuration is; return what of it is not of the space."""
        found = {each.name: read(each, config) for each in self._parameters}
        coordinates = [at for at in found.values() if at is not None]
        if len(coordinates) == len(found):
            self._coordinates[trial_id] = coordinates
        return [name for name, at in found.items() if at is None]

    def _read_space(self, space: Any, validator: Validator) -> None:
        if not isinstance(space, Mapping) or not unresolved_paths(space):
            validator.add("space", space, "expected a dict of samplers")
            return
        try:
            validate_space(dict(space))
            self._space, self._parameters = dict(space), parameters_of(space, "space")
        except ConfigError as error:
            validator.extend(error.faults)


def _check_options(validator: Validator, options: Any) -> None:
    if options is None:
        return
    if not isinstance(options, Mapping):
        validator.add("bohb_config", options, "expected a dict of options")
        return
    limits: dict[str, tuple[float, float, bool]] = {  # lowest, highest, whether the ends are left out
        "top_n_percent": (0, 100, True),
        "random_fraction": (0, 1, False),
        "bandwidth_factor": (1, 1e6, False),
        "min_bandwidth": (0, 1, True),
    }
    for name, value in options.items():
        place = f"bohb_config[{name!r}]"
        if name in ("min_points_in_model", "num_samples"):
            if value is not None or name == "num_samples":
                validator.check_integer(place, value, minimum=1, maximum=1_000_000)
        elif name in limits:
            low, high, is_open = limits[name]
            if not is_number(value) or not low <= value <= high or (is_open and value in (low, high)):
                words = f"above {low:g} and below {high:g}" if is_open else f"from {low:g} to {high:g}"
                validator.add(place, value, f"expected a number {words}")
        else:
            validator.note(
                f"bohb_config has no option {shorten(name)}: it has {', '.join(_OPTIONS)}{suggestion(name, _OPTIONS)}"
            )


def _require_numpy() -> None:
    try:
        import numpy  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ImportError("TuneBOHB needs numpy: run pip install 'prefect-tune[bohb]'") from error
