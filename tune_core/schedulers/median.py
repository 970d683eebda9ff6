"""The median stopping rule: stops those that are worse than the others were, on average, so far."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import median
from typing import Any

from tune_core.schedulers.comparing import ComparingScheduler
from tune_core.trial import Status, Trial
from tune_core.validation import Validator


class MedianStoppingRule(ComparingScheduler):
    """Stops a trial whose best value is worse than the median of the others' running averages.

    Compared is with those that have come at least as far, by their average from `grace_period`
    up to the time of the report. While they are too few, trials take turns: who has run for
    `min_time_slice` since its last pause is paused if others wait. Reports without the metric, or
    without a finite time, are not decided on.

    Args:
        time_attr: The reported number that time is measured by; it grows from report to report.
        metric: What to compare by; give it here or in `TuneConfig`.
        mode: "min" or "max"; goes with `metric`.
        grace_period: The time before which no trial is stopped, and from which averages count.
        min_samples_required: With how many others a trial is compared at least.
        min_time_slice: How long a trial runs before it may be paused for others.
        hard_stop: False: pause once where it would stop, and let such trials go on later.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> rule = MedianStoppingRule(
        ...     "training_iteration", "loss", "min", grace_period=1, min_samples_required=1
        ... )
        >>> good, bad = Trial("t0", 0, {}), Trial("t1", 1, {})
        >>> str(rule.on_trial_result([], good, {"training_iteration": 1, "loss": 0.1}))
        'CONTINUE'
        >>> str(rule.on_trial_result([], bad, {"training_iteration": 1, "loss": 0.9}))
        'STOP'

    Source: as Ray Tune 2.60; the rule of Golovin et al., "Google Vizier: A Service for Black-Box
        Optimization", 2017. Differs: a trial's last report counts once, and what an attempt
        reported after the checkpoint that the next one started from does not count; nested metrics;
        NaN is never the best value.
    """

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        grace_period: float = 60.0,
        min_samples_required: int = 3,
        min_time_slice: float = 0,
        hard_stop: bool = True,
    ) -> None:
        validator = Validator(type(self).__name__)
        validator.check_number("grace_period", grace_period, also=", in units of time_attr")
        validator.check_integer("min_samples_required", min_samples_required, minimum=1)
        validator.check_number("min_time_slice", min_time_slice, also=", in units of time_attr")
        validator.check_bool("hard_stop", hard_stop)
        super().__init__(validator, time_attr, metric, mode)
        self._grace_period, self._min_samples_required = grace_period, min_samples_required
        self._min_time_slice, self._hard_stop = min_time_slice, hard_stop
        self._history: dict[str, _History] = {}
        self._last_pause: dict[str, float] = {}
        self._stopped: set[str] = set()
        self._reasons: dict[str, dict[str, Any]] = {}

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return STOP (or PAUSE) for a trial below the median, PAUSE to give others a turn, else CONTINUE."""
        moment = self._moment(result)
        if moment is None or math.isinf(moment[0]) or trial.trial_id in self._stopped:
            return self.CONTINUE
        time, score = moment
        mine = self._history.setdefault(trial.trial_id, _History(self._grace_period))
        mine.add(time, score)
        if time < self._grace_period:
            return self.CONTINUE
        others = [
            mean
            for trial_id, history in self._history.items()
            if trial_id != trial.trial_id
            and history.times[-1] >= time
            and math.isfinite(mean := history.mean_until(time))
        ]
        if len(others) < self._min_samples_required:
            return self._take_turns(trials, trial, time)
        cutoff = median(others)
        if cutoff <= mine.best:
            return self.CONTINUE
        self._stopped.add(trial.trial_id)
        sign = -1 if self.mode == "min" else 1
        better = sum(1 for mean in others if mean > mine.best)
        self._reasons[trial.trial_id] = {
            "time": time,
            "rank": better + 1,
            "of": len(others) + 1,
            "cutoff": sign * cutoff,
            "value": sign * mine.best,
        }
        return self.STOP if self._hard_stop else self.PAUSE

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Take in the last report, if it was not decided on."""
        moment = self._moment(result)
        if moment is None or math.isinf(moment[0]):
            return
        history = self._history.setdefault(trial.trial_id, _History(self._grace_period))
        if not history.times or moment[0] > history.times[-1]:
            history.add(*moment)

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        """Return the median that the trial's best value was worse than; {} if it only gives others a turn."""
        return self._reasons.get(trial.trial_id, {})

    def debug_string(self) -> str:
        """Return how many trials were found to be below the median."""
        return f"Using MedianStoppingRule: num_stopped={len(self._stopped)}."

    def _take_turns(self, trials: Sequence[Trial], trial: Trial, time: float) -> str:
        last = self._last_pause.get(trial.trial_id, -math.inf)
        if time - last <= self._min_time_slice:
            return self.CONTINUE
        if not any(other.status in (Status.PENDING, Status.PAUSED) for other in trials):
            return self.CONTINUE
        self._last_pause[trial.trial_id] = time
        return self.PAUSE


class _History:
    """What a trial has reported, by time, summed up so that averages cost no walk over it."""

    def __init__(self, grace_period: float) -> None:
        self._grace_period = grace_period
        self.times: list[float] = []
        #: Up to each time: the sum and the number of the scores since the grace period, and the best of all.
        self._sums: list[tuple[float, int]] = []
        self._bests: list[float] = []

    @property
    def best(self) -> float:
        """The best score; -inf if none is a number."""
        return self._bests[-1] if self._bests else -math.inf

    def add(self, time: float, score: float) -> None:
        """Take in a report; if it is of a time that has been before, what came from then on is forgotten."""
        if self.times and time <= self.times[-1]:
            keep = bisect_left(self.times, time)
            del self.times[keep:], self._sums[keep:], self._bests[keep:]
        total, count = self._sums[-1] if self._sums else (0.0, 0)
        best = self.best if math.isnan(score) else max(self.best, score)
        self.times.append(time)
        self._sums.append((total + score, count + 1) if time >= self._grace_period else (total, count))
        self._bests.append(best)

    def mean_until(self, time: float) -> float:
        """Return the average from the grace period up to a time; NaN if nothing was reported in it."""
        index = bisect_right(self.times, time) - 1
        total, count = self._sums[index] if index >= 0 else (0.0, 0)
        return total / count if count else math.nan
