"""When to stop: rules that see each report and answer yes or no.

Owns Ray Tune's stoppers and the one way in which `RunConfig(stop=...)` becomes one of them.
A stopper never ends anything itself; `__call__` is asked about one trial, `stop_all` about
the experiment. What a stopper has counted goes through `get_state` and `set_state`, as JSON,
into the journal and back.
"""

from __future__ import annotations

import copy
import datetime
import inspect
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

from tune_core.errors import ConfigError, MetricMissing
from tune_core.init_args import RecordsArguments
from tune_core.metrics import comparable, flatten, lookup
from tune_core.validation import Validator, is_name, is_number, ray_origin, shorten, suggestion

_logger = logging.getLogger(__name__)


class Stopper(RecordsArguments):
    """A rule that ends single trials, the whole experiment, or both.

    Override what is needed: by default nothing is stopped.

    Example:
        >>> class StopWhenSolved(Stopper):
        ...     solved = False
        ...     state_names = ("solved",)
        ...
        ...     def __call__(self, trial_id, result):
        ...         self.solved = self.solved or result["score"] >= 200
        ...         return self.solved
        ...
        ...     def stop_all(self):
        ...         return self.solved
        >>> StopWhenSolved()("a1b2c_00000", {"score": 210})
        True

    Source: as Ray Tune 2.60. Differs: both methods have a default, and what a stopper has
        counted can be saved without pickling it.
    """

    #: Attributes that hold what has been counted; `get_state` saves them.
    state_names: ClassVar[tuple[str, ...]] = ()
    #: Whether what has been counted follows from the reports alone. A resume shows every report again, so
    #: the journal need not keep it. A subclass that counts something else does not inherit this.
    counts_only_reports: ClassVar[bool] = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether this trial ends with this report."""
        return False

    def stop_all(self) -> bool:
        """Return whether the experiment ends. Asked after each report, and once a second between reports."""
        return False

    def get_state(self) -> dict[str, Any] | None:
        """Return what has been counted as a JSON object; None if this stopper counts nothing.

        Asked about once a second while trials report: it goes into the journal with their reports, if
        it has changed. Keep it small.
        """
        return {name: copy.deepcopy(getattr(self, name)) for name in self.state_names} or None

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned; reports that came after it are shown again."""
        for name in self.state_names:
            setattr(self, name, copy.deepcopy(state[name]))


class NoopStopper(Stopper):
    """Stops nothing.

    Example:
        >>> NoopStopper()("a1b2c_00000", {"loss": 0.1})
        False
    """


class DictStopper(Stopper):
    """Ends a trial as soon as one of its metrics has reached its bound.

    The comparison is always "at least", also for metrics that are minimised. A metric that is
    missing, or None, stops nothing; the first time, the log says so.

    Args:
        criteria: Metric to bound; "a/b" is metric "b" below "a".

    Raises:
        ConfigError: A bound is no number, or a name no string.

    Example:
        >>> stopper = DictStopper({"training_iteration": 20, "eval/accuracy": 0.99})
        >>> stopper("a1b2c_00000", {"training_iteration": 4, "eval": {"accuracy": 0.992}})
        True

    Source: as `RunConfig(stop={...})` of Ray Tune 2.60, where it has no name.
    """

    def __init__(self, criteria: Mapping[str, float]) -> None:
        validator = Validator("RunConfig")
        for name, bound in criteria.items():
            if not is_name(name):
                validator.add("stop", {name: bound}, "expected the name of a metric as key")
            elif isinstance(bound, Mapping):
                paths = {f"{name}/{inner}": value for inner, value in bound.items()}
                validator.add("stop", {name: bound}, f"write nested metrics as one name: {shorten(paths)}")
            elif not is_number(bound) and not isinstance(bound, bool):
                validator.add("stop", {name: bound}, "expected a finite number as bound")
        validator.raise_any()
        self._criteria = dict(criteria)
        self._warned: set[str] = set()

    @property
    def criteria(self) -> dict[str, float]:
        """The bounds, as a copy: a trial's own process can check them too."""
        return dict(self._criteria)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether a metric of this report is at or above its bound."""
        if not self._criteria:  # at every report of most experiments
            return False
        return any(self._is_reached(name, bound, trial_id, result) for name, bound in self._criteria.items())

    def reached(self, result: dict[str, Any]) -> str | None:
        """Return the first bound that a report has reached, in words; None: none.

        Example:
            >>> DictStopper({"training_iteration": 20}).reached({"training_iteration": 21})
            'training_iteration >= 20'
        """
        for name, bound in self._criteria.items():
            value = comparable(lookup(result, name))
            if value is not None and value >= bound:
                return f"{name} >= {bound:g}"
        return None

    def _is_reached(self, name: str, bound: float, trial_id: str, result: dict[str, Any]) -> bool:
        value = lookup(result, name)
        if value is None:
            self._warn(name, result)
            return False
        try:
            return bool(value >= bound)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"stop={{{name!r}: {bound!r}}}: trial {trial_id} reported {shorten(value)}, which cannot be "
                "compared with a number; report a number under this name, or stop by another one"
            ) from error

    def _warn(self, name: str, result: dict[str, Any]) -> None:
        if name in self._warned:
            return
        self._warned.add(name)
        names = sorted(flatten(result))
        _logger.warning(
            "stop={%r: %r} stops nothing until this metric is reported; the report has %s%s",
            name,
            self._criteria[name],
            ", ".join(names),
            suggestion(name, names),
        )

    def __repr__(self) -> str:
        return f"DictStopper({self._criteria!r})"


class FunctionStopper(Stopper):
    """Ends a trial when a function of the user's says so.

    Args:
        function: Called as `function(trial_id, result)`; true ends the trial.

    Example:
        >>> stopper = FunctionStopper(lambda trial_id, result: result["loss"] < 0.1)
        >>> stopper("a1b2c_00000", {"loss": 0.05})
        True

    Source: as Ray Tune 2.60.
    """

    def __init__(self, function: Callable[[str, dict[str, Any]], bool]) -> None:
        if not self.is_valid_function(function):
            call = "function(trial_id, result)"
            raise ConfigError(f"FunctionStopper(function={shorten(function)}): it cannot be called as {call}")
        self._function = function

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return the function's answer."""
        return bool(self._function(trial_id, result))

    @classmethod
    def is_valid_function(cls, fn: object) -> bool:
        """Return whether this is a function of a trial's id and a report, and no stopper.

        Raises:
            ConfigError: It has a `stop_all` that would never be called: derive it from Stopper.
        """
        if not callable(fn) or isinstance(fn, (Stopper, type)):
            return False
        if hasattr(fn, "stop_all"):
            raise ConfigError(f"{shorten(fn)}: its stop_all() counts only if it is derived from Stopper")
        try:
            inspect.signature(fn).bind("trial_id", {})
        except TypeError:
            return False
        except ValueError:
            return True  # a builtin without a signature: calling it will tell
        return True


class CombinedStopper(Stopper):
    """Stops what any of several stoppers would stop.

    Args:
        *stoppers: Every one of them sees every report, so that their counts stay right.

    Example:
        >>> stopper = CombinedStopper(MaximumIterationStopper(10), TimeoutStopper(3600))
        >>> stopper("a1b2c_00000", {"loss": 0.1}), stopper.stop_all()
        (False, False)

    Source: as Ray Tune 2.60. Differs: there, those after the first that says yes see nothing.
    """

    def __init__(self, *stoppers: Stopper) -> None:
        validator = Validator("CombinedStopper")
        for number, stopper in enumerate(stoppers):
            validator.check_instance(f"stoppers[{number}]", stopper, Stopper)
        validator.raise_any()
        self._stoppers = stoppers

    @property
    def stoppers(self) -> tuple[Stopper, ...]:
        """Those that were given, in their order."""
        return self._stoppers

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether one of them ends this trial."""
        answers = [stopper(trial_id, result) for stopper in self._stoppers]
        return any(answers)

    def stop_all(self) -> bool:
        """Return whether one of them ends the experiment."""
        answers = [stopper.stop_all() for stopper in self._stoppers]
        return any(answers)

    def get_state(self) -> dict[str, Any] | None:
        """Return the states of all of them, in order."""
        states = [stopper.get_state() for stopper in self._stoppers]
        return None if all(state is None for state in states) else {"stoppers": states}

    def set_state(self, state: dict[str, Any]) -> None:
        """Give each its state back.

        Raises:
            ConfigError: The state is of another number of stoppers.
        """
        states = state["stoppers"]
        if len(states) != len(self._stoppers):
            raise ConfigError(
                f"the saved state is of {len(states)} stoppers, this experiment has {len(self._stoppers)}: "
                "restore it with the stoppers that it was started with"
            )
        for stopper, part in zip(self._stoppers, states, strict=True):
            if part is not None:
                stopper.set_state(part)


class MaximumIterationStopper(Stopper):
    """Ends a trial with its n-th report.

    Args:
        max_iter: How many reports a trial makes; at least 1. Reports that a retry makes again
            count again: `stop={"training_iteration": n}` counts iterations.

    Example:
        >>> stopper = MaximumIterationStopper(2)
        >>> [stopper("a1b2c_00000", {}) for _ in range(2)]
        [False, True]

    Source: as Ray Tune 2.60.
    """

    state_names = ("counts",)
    counts_only_reports = True

    def __init__(self, max_iter: int) -> None:
        validator = Validator("MaximumIterationStopper")
        validator.check_integer("max_iter", max_iter, minimum=1)
        validator.raise_any()
        self._max_iter = max_iter
        self.counts: dict[str, int] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Count the report; return whether it was the last one."""
        self.counts[trial_id] = self.counts.get(trial_id, 0) + 1
        return self.counts[trial_id] >= self._max_iter


class TimeoutStopper(Stopper):
    """Ends the experiment when its time is used up.

    The time runs from the first `stop_all()` on, and only while an experiment runs: a resumed one
    goes on with what was left, and what passes between two runs is not counted.

    Args:
        timeout: Seconds, or a timedelta; 0 stops at once.
        clock: Tells the time in seconds; it must never go back.

    Attributes:
        used_s: Seconds that were used up at the last question.

    Example:
        >>> ticks = iter([0.0, 30.0, 60.0])
        >>> stopper = TimeoutStopper(60, clock=lambda: next(ticks))
        >>> [stopper.stop_all() for _ in range(3)]
        [False, False, True]

    Source: as Ray Tune 2.60.
    """

    state_names = ("used_s",)

    def __init__(
        self, timeout: float | datetime.timedelta, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        seconds = timeout.total_seconds() if isinstance(timeout, datetime.timedelta) else timeout
        validator = Validator("TimeoutStopper")
        validator.check_number("timeout", seconds, also=", in seconds, or a timedelta")
        validator.raise_any()
        self._timeout_s = float(seconds)
        self.used_s = 0.0
        self._clock = clock
        self._last_check: float | None = None

    @property
    def remaining_s(self) -> float:
        """Seconds that were left at the last question."""
        return self._timeout_s - self.used_s

    def stop_all(self) -> bool:
        """Return whether the time is used up."""
        now = self._clock()
        if self._last_check is not None:
            self.used_s += now - self._last_check
        self._last_check = now
        return self.remaining_s <= 0

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with the seconds that were used up: of another timeout, what is left is another."""
        super().set_state(state)
        self._last_check = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_check": None}


class TrialPlateauStopper(Stopper):
    """Ends a trial whose metric has stopped changing.

    Args:
        metric: Which metric; "a/b" is "b" below "a". Where it is missing or NaN, nothing stops.
        std: The trial ends when the standard deviation of its latest values is below this.
        num_results: How many of the latest values; at least 1.
        grace_period: The trial ends with this report at the earliest, counted from 1.
        metric_threshold: Ends only trials that are at least this good; needs `mode`.
        mode: "min" or "max": which side of the threshold is good.

    Example:
        >>> stopper = TrialPlateauStopper("loss", num_results=2, grace_period=2)
        >>> [stopper("a1b2c_00000", {"loss": loss}) for loss in (0.9, 0.5, 0.5)]
        [False, False, True]

    Source: as Ray Tune 2.60. Differs: a threshold of 0 needs a mode too.
    """

    state_names = ("counts", "latest")
    counts_only_reports = True

    def __init__(
        self,
        metric: str,
        std: float = 0.01,
        num_results: int = 4,
        grace_period: int = 4,
        metric_threshold: float | None = None,
        mode: str | None = None,
    ) -> None:
        validator = Validator("TrialPlateauStopper")
        validator.check_name("metric", metric)
        validator.check_number("std", std)
        validator.check_integer("num_results", num_results, minimum=1)
        validator.check_integer("grace_period", grace_period, minimum=0)
        if metric_threshold is not None:
            validator.check_number("metric_threshold", metric_threshold, minimum=-math.inf, also=" or None")
            validator.check_choice("mode", mode, ("min", "max"), also=" with metric_threshold")
        elif mode is not None:
            validator.check_choice("mode", mode, ("min", "max"), also=" or None")
        validator.raise_any()
        self._metric, self._mode, self._threshold = metric, mode, metric_threshold
        self._std, self._num_results, self._grace_period = std, num_results, grace_period
        self.counts: dict[str, int] = {}
        self.latest: dict[str, list[float]] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Note the value; return whether the latest ones lie close together."""
        found = _value_of(self._metric, trial_id, result)
        value = math.nan if found is None else found
        latest = self.latest[trial_id] = [*self.latest.get(trial_id, ()), value][-self._num_results :]
        count = self.counts[trial_id] = self.counts.get(trial_id, 0) + 1
        if count < self._grace_period or len(latest) < self._num_results:
            return False
        if self._threshold is not None:
            is_good = value <= self._threshold if self._mode == "min" else value >= self._threshold
            if not is_good:
                return False
        return _deviation(latest) < self._std


class ExperimentPlateauStopper(Stopper):
    """Ends the experiment when its best values have stopped changing.

    Every report of every trial counts; one without the metric raises `MetricMissing`. NaN is
    left out.

    Args:
        metric: Which metric; "a/b" is "b" below "a".
        std: The best values lie close together when their standard deviation is at most this.
        top: How many of the best values; at least 2.
        mode: "min" or "max": which values are best.
        patience: Stops with this report in a row that finds them close together; 0 and 1 are
            the first.

    Example:
        >>> stopper = ExperimentPlateauStopper("loss", top=2)
        >>> [stopper("a1b2c_00000", {"loss": loss}) for loss in (0.9, 0.5, 0.5)]
        [False, False, True]

    Source: as Ray Tune 2.60. Differs: there, one NaN among the best prevents every later stop.
    """

    state_names = ("best", "iterations")
    counts_only_reports = True

    def __init__(
        self, metric: str, std: float = 0.001, top: int = 10, mode: str = "min", patience: int = 0
    ) -> None:
        validator = Validator("ExperimentPlateauStopper")
        validator.check_name("metric", metric)
        if not is_number(std) or std <= 0:
            validator.add("std", std, "expected a finite number above 0")
        validator.check_integer("top", top, minimum=2)
        validator.check_choice("mode", mode, ("min", "max"))
        validator.check_integer("patience", patience, minimum=0)
        validator.raise_any()
        self._metric, self._std, self._top, self._mode = metric, std, top, mode
        self._patience = patience
        self.iterations = 0
        self.best: list[float] = []

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Note the value; return whether the experiment ends, and this trial with it.

        Raises:
            MetricMissing: The report does not have the metric.
        """
        value = _value_of(self._metric, trial_id, result)
        if value is None:
            names = sorted(flatten(result))
            raise MetricMissing(
                f"metric {self._metric!r} is missing from a report of trial {trial_id}; reported: "
                f"{', '.join(names)}. ExperimentPlateauStopper needs it: report it, or change metric="
                f"{suggestion(self._metric, names)}"
            )
        # NaN has no place in an order: kept among the best, it would stop all comparing.
        # Guarded by test_nan_does_not_keep_an_experiment_from_its_plateau.
        if not math.isnan(value):
            self.best = sorted([*self.best, value], reverse=self._mode == "max")[: self._top]
            self.iterations = self.iterations + 1 if self.has_plateaued() else 0
        return self.stop_all()

    def has_plateaued(self) -> bool:
        """Return whether the best values lie close together."""
        return len(self.best) == self._top and _deviation(self.best) <= self._std

    def stop_all(self) -> bool:
        """Return whether they have done so for long enough."""
        return self.has_plateaued() and self.iterations >= self._patience


def resolve_stop(stop: object) -> Stopper | None:
    """Return the one stopper that `RunConfig(stop=...)` means; None if it stops nothing.

    Args:
        stop: None, a dict of metric to bound, a Stopper, a function of trial id and report, or
            a list of Stoppers.

    Raises:
        ConfigError: It is none of these; every fault of a dict or list is named.

    Example:
        >>> resolve_stop({"training_iteration": 20})
        DictStopper({'training_iteration': 20})

    Source: as Ray Tune 2.60.
    """
    if isinstance(stop, Stopper):
        return stop
    if stop is None or stop in ({}, [], ()):
        return None
    if isinstance(stop, Mapping):
        return DictStopper(stop)
    validator = Validator("RunConfig")
    parts = stop if isinstance(stop, (list, tuple)) else None
    if parts is not None:
        for number, part in enumerate(parts):
            validator.check_instance(f"stop[{number}]", part, Stopper)
    elif ray_origin(stop) is not None or isinstance(stop, type):
        validator.check_instance("stop", stop, Stopper)
    elif not FunctionStopper.is_valid_function(stop):
        expected = "a dict such as {'training_iteration': 20}, a Stopper, a list of Stoppers"
        validator.add("stop", stop, f"expected {expected}, or a function of (trial_id, result)")
    validator.raise_any()
    return FunctionStopper(cast("Any", stop)) if parts is None else CombinedStopper(*parts)


def _value_of(metric: str, trial_id: str, result: dict[str, Any]) -> float | None:
    value = lookup(result, metric)
    number = comparable(value)
    if value is not None and number is None:
        raise ConfigError(
            f"metric {metric!r}: trial {trial_id} reported {shorten(value)}, which is no number; a plateau "
            "stopper needs one under this name"
        )
    return number


def _deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of the values themselves (no sample); NaN if one is not finite."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) * (value - mean) for value in values) / len(values))
