"""Asynchronous successive halving: stops those that are not among the best at a rung.

Of each rung, a point in time, it knows how every trial did that came so far. Who comes next goes
on if it is among the best 1/reduction_factor of them. Nobody ever waits for others.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_core.schedulers.comparing import ComparingScheduler
from tune_core.trial import Trial
from tune_core.validation import Validator, is_number

#: More rungs, or brackets, than anybody has a use for.
MAX_RUNGS = 1000


class AsyncHyperBandScheduler(ComparingScheduler):
    """Stops trials early by asynchronous successive halving; `ASHAScheduler` is the same.

    Rungs are at `grace_period`, and at `reduction_factor` times the one before, up to `max_t`. A
    trial that reaches a rung is compared with those that were there before: it is stopped unless
    it is at least as good as the best 1/`reduction_factor` of them begins. Reports without the
    metric or the time are not decided on.

    Args:
        time_attr: The reported number that time is measured by; it grows from report to report.
        metric: What to compare by; give it here or in `TuneConfig`.
        mode: "min" or "max"; goes with `metric`.
        max_t: The time at which every trial is stopped; above 0.
        grace_period: The time before which none is; above 0, at most `max_t`.
        reduction_factor: 1 of so many goes on, about; above 1.
        brackets: How many series of rungs there are; the second begins one rung later, and so
            on. Each trial is put into one at random, mostly the first ones.
        stop_last_trials: Whether trials that reach `max_t` are stopped.
        seed: Beyond Ray Tune: for the choice of brackets; None: another choice each time.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> scheduler = AsyncHyperBandScheduler(metric="loss", mode="min", grace_period=1, max_t=16)
        >>> good, bad = Trial("t0", 0, {}), Trial("t1", 1, {})
        >>> str(scheduler.on_trial_result([], good, {"training_iteration": 1, "loss": 0.1}))
        'CONTINUE'
        >>> str(scheduler.on_trial_result([], bad, {"training_iteration": 1, "loss": 0.9}))
        'STOP'

    Source: as Ray Tune 2.60; the stopping variant of Li et al., "A System for Massively Parallel
        Hyperparameter Tuning", 2020 (https://arxiv.org/abs/1810.05934). Differs: `seed`, nested metrics,
        infinities count as what they are.
    """

    _max_t: float

    def __init__(
        self,
        time_attr: str = "training_iteration",
        metric: str | None = None,
        mode: str | None = None,
        max_t: float = 100,
        grace_period: float = 1,
        reduction_factor: float = 4,
        brackets: int = 1,
        stop_last_trials: bool = True,
        *,
        seed: int | None = None,
    ) -> None:
        validator = Validator(type(self).__name__)
        for name, value in (("max_t", max_t), ("grace_period", grace_period)):
            if not is_number(value) or value <= 0:
                validator.add(name, value, "expected a finite number above 0, in units of time_attr")
        if is_number(max_t) and is_number(grace_period) and grace_period > max_t > 0:
            validator.add(
                "grace_period", grace_period, f"is longer than max_t={max_t}: nobody would be stopped"
            )
        if not is_number(reduction_factor) or reduction_factor <= 1:
            validator.add("reduction_factor", reduction_factor, "expected a finite number above 1")
        validator.check_integer("brackets", brackets, minimum=1, maximum=MAX_RUNGS)
        validator.check_bool("stop_last_trials", stop_last_trials)
        if seed is not None:
            validator.check_integer("seed", seed, minimum=0, also=", or None")
        if not validator.found and (count := _num_rungs(grace_period, max_t, reduction_factor)) > MAX_RUNGS:
            expected = f"makes {count} rungs from grace_period to max_t; expected at most {MAX_RUNGS}: a larger factor"
            validator.add("reduction_factor", reduction_factor, expected)
        super().__init__(validator, time_attr, metric, mode)
        self._max_t, self._stop_last_trials = max_t, stop_last_trials
        self._brackets = [_Bracket(grace_period, max_t, reduction_factor, skip) for skip in range(brackets)]
        self._seed = secrets.randbits(32) if seed is None else seed
        self._random = random.Random(self._seed)
        self._bracket_of: dict[str, _Bracket] = {}
        self._num_stopped = 0

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Put the trial into a bracket: of more rungs, more likely."""
        most = max(len(bracket.rungs) for bracket in self._brackets)
        weights = [math.exp(len(bracket.rungs) - most) for bracket in self._brackets]
        self._bracket_of[trial.trial_id] = self._random.choices(self._brackets, weights)[0]

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return STOP at `max_t`, or at a rung where the trial is not good enough; else CONTINUE."""
        if trial.trial_id not in self._bracket_of:
            self.on_trial_add(trials, trial)
        moment = self._moment(result)
        if moment is None:
            return self.CONTINUE
        if (moment[0] >= self._max_t and self._stop_last_trials) or not self._goes_on(trial, *moment):
            self._num_stopped += 1
            return self.STOP
        return self.CONTINUE

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Let the last report count for those who come after."""
        moment = self._moment(result)
        if moment is not None and trial.trial_id in self._bracket_of:
            self._goes_on(trial, *moment)
        self._bracket_of.pop(trial.trial_id, None)

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Forget the trial's bracket; how it did at the rungs stays."""
        self._bracket_of.pop(trial.trial_id, None)

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Forget the trial's bracket; how it did at the rungs stays."""
        self._bracket_of.pop(trial.trial_id, None)

    def get_state(self) -> dict[str, Any]:
        """Return the seed of the brackets: a resumed experiment chooses the same ones."""
        return {"seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Choose brackets by this seed, from the beginning unless it is in force."""
        if state["seed"] != self._seed:
            self._seed = state["seed"]
            self._random = random.Random(self._seed)

    def debug_string(self) -> str:
        """Return how many were stopped, and what it takes to pass each rung."""
        lines = [f"Using AsyncHyperBand: num_stopped={self._num_stopped}"]
        sign = -1 if self.mode == "min" else 1
        for bracket in self._brackets:
            shown = ((rung.time, rung.cutoff(bracket.factor)) for rung in bracket.rungs)
            rungs = (f"Iter {time:.3f}: {None if cut is None else sign * cut}" for time, cut in shown)
            lines.append("Bracket: " + " | ".join(rungs))
        return "\n".join(lines)

    def _goes_on(self, trial: Trial, time: float, score: float) -> bool:
        bracket = self._bracket_of[trial.trial_id]
        return bracket.goes_on(trial.trial_id, time, score, only_highest=not self._stop_last_trials)


#: Ray Tune's other name for it.
ASHAScheduler = AsyncHyperBandScheduler


@dataclass
class _Rung:
    """A point in time, and the scores that trials had when they came to it."""

    time: float
    scores: dict[str, float] = field(default_factory=dict)

    def cutoff(self, factor: float) -> float | None:
        """Where the best 1/factor of the scores begin, interpolated; None while there are none."""
        known = sorted(score for score in self.scores.values() if not math.isnan(score))
        if not known:
            return None
        position = (1 - 1 / factor) * (len(known) - 1)
        below = math.floor(position)
        above = min(below + 1, len(known) - 1)
        low, high = known[below], known[above]
        if position == below or low == high or math.isinf(high):
            return low if position == below else high
        if math.isinf(low):
            return math.nextafter(low, high)
        part = position - below
        if math.isinf(high - low):
            return low * (1 - part) + high * part
        return low + (high - low) * part


class _Bracket:
    """A series of rungs, the highest first.

    Args:
        first: The time of the lowest rung of the first bracket.
        last: No rung is later.
        factor: Each is later than the one before by this factor.
        skip: How many rungs of the first bracket are left out.
    """

    def __init__(self, first: float, last: float, factor: float, skip: int) -> None:
        self.factor = factor
        steps = reversed(range(skip, _num_rungs(first, last, factor)))
        self.rungs = [_Rung(_rung_time(first, last, factor, step)) for step in steps]

    def goes_on(self, trial_id: str, time: float, score: float, *, only_highest: bool) -> bool:
        """Note the score at the highest rung that the trial has newly reached; return whether it goes on.

        Args:
            trial_id: Whose score it is.
            time: When it had it.
            score: Higher is better.
            only_highest: Leave rungs alone that are below one where its score is noted.
        """
        for rung in self.rungs:
            if time < rung.time:
                continue
            if trial_id not in rung.scores:
                cutoff = rung.cutoff(self.factor)
                rung.scores[trial_id] = score
                return cutoff is None or not score < cutoff
            if only_highest:
                break
        return True


def _num_rungs(first: float, last: float, factor: float) -> int:
    # By logarithms: the quotient may be beyond floats.
    return math.floor((math.log(last) - math.log(first)) / math.log(factor) + 1e-9) + 1


def _rung_time(first: float, last: float, factor: float, step: int) -> float:
    try:
        return first * factor**step
    except OverflowError:  # the last one, at the end of floats
        return last
