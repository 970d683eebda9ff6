"""Asynchronous successive halving: lets those go on that are among the best at a rung.

Of each rung, a point in time, it knows how every trial did that came so far. Of these, the best 1/reduction_factor
go on: who comes is stopped unless it is one of them, or is paused until it is. Nobody ever waits for others.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from tune_core.schedulers.comparing import ComparingScheduler
from tune_core.schedulers.rungs import Rung, RungScheduler
from tune_core.validation import Validator


class AsyncHyperBandScheduler(ComparingScheduler, RungScheduler[float]):
    """Stops or pauses trials early by asynchronous successive halving; `ASHAScheduler` is the same.

    Rungs are at `grace_period`, and at `reduction_factor` times the one before, up to `max_t`.

    With `type="stopping"`, a trial that reaches a rung is compared with those that were there before: it is
    stopped unless it is at least as good as the best 1/`reduction_factor` of them begins.

    With `type="promotion"`, every trial pauses at its rung. When there is room, the best trial goes on that is
    among the best 1/`reduction_factor` of its rung, of the highest rung that has one; only if no rung has one, a new
    trial starts. Once the search has ended and nobody is left to promote, those that are paused end as they are.
    Trials should report with checkpoints, at rungs at least; those of paused trials are kept. A searcher hears of
    the end of a trial that is left at a rung only when the search has ended: one that learns from ended trials learns
    from few.

    Reports without the metric or the time are not decided on.

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
        type: Beyond Ray Tune: "stopping" or "promotion".

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> from tune_core.trial import Trial
        >>> scheduler = AsyncHyperBandScheduler(metric="loss", mode="min", grace_period=1, max_t=16)
        >>> good, bad = Trial("t0", 0, {}), Trial("t1", 1, {})
        >>> str(scheduler.on_trial_result([], good, {"training_iteration": 1, "loss": 0.1}))
        'CONTINUE'
        >>> str(scheduler.on_trial_result([], bad, {"training_iteration": 1, "loss": 0.9}))
        'STOP'
        >>> scheduler.decision_reason(bad)
        {'rung': 1, 'value': 0.9, 'rank': 2, 'of': 2, 'cutoff': 0.1}
        >>> promoting = AsyncHyperBandScheduler(metric="loss", mode="min", type="promotion")
        >>> str(promoting.on_trial_result([], good, {"training_iteration": 1, "loss": 0.1}))
        'PAUSE'

    Source: as Ray Tune 2.60; the stopping variant of Li et al., "A System for Massively Parallel
        Hyperparameter Tuning", 2020 (https://arxiv.org/abs/1810.05934), and with type="promotion" its algorithm 2.
        Differs: `seed`, `type`, nested metrics, infinities count as what they are.
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
        type: Literal["stopping", "promotion"] = "stopping",  # noqa: A002 - what it is called elsewhere, too
    ) -> None:
        validator = Validator(self.__class__.__name__)
        self._check_rungs(validator, max_t, grace_period, reduction_factor, brackets)
        self._check_rest(validator, type, stop_last_trials, seed)
        super().__init__(validator, time_attr, metric, mode)
        self._build(type, max_t, grace_period, reduction_factor, brackets, stop_last_trials, seed)

    def debug_string(self) -> str:
        """Return how many were stopped or promoted, and what it takes to pass each rung."""
        counts = f"num_stopped={self._num_stopped}"
        if self._pauses:
            counts += f", num_promoted={self._num_promoted}"
        lines = [f"Using AsyncHyperBand: {counts}"]
        for bracket in self._brackets:
            shown = ((rung.time, self._needed(rung).get("cutoff")) for rung in bracket.rungs)
            rungs = (f"Iter {time:.3f}: {cut}" for time, cut in shown)
            lines.append("Bracket: " + " | ".join(rungs))
        return "\n".join(lines)

    def _passes(self, rung: Rung[float], entry: float) -> bool:
        cutoff = _cutoff(rung.entries, self._factor)
        return cutoff is None or not entry < cutoff

    def _ordered(self, rung: Rung[float]) -> list[str]:
        known = [trial_id for trial_id, score in rung.entries.items() if not math.isnan(score)]
        return sorted(known, key=lambda trial_id: -rung.entries[trial_id])

    def _position(self, rung: Rung[float], trial_id: str) -> dict[str, Any]:
        score = rung.entries[trial_id]
        known = [other for other in rung.entries.values() if not math.isnan(other)]
        better = len(known) if math.isnan(score) else sum(1 for other in known if other > score)
        position = {"value": self._reported(score), "rank": better + 1}
        return {**position, **self._needed(rung)} if self._pauses else position

    def _needed(self, rung: Rung[float]) -> dict[str, Any]:
        if self._pauses:
            best = self._best(rung)
            return {"cutoff": self._reported(rung.entries[best[-1]])} if best else {}
        cutoff = _cutoff(rung.entries, self._factor)
        return {} if cutoff is None else {"cutoff": self._reported(cutoff)}

    def _reported(self, score: float) -> float:
        """A score as the metric has it."""
        return -score if self.mode == "min" else score


#: Ray Tune's other name for it.
ASHAScheduler = AsyncHyperBandScheduler


def _cutoff(scores: dict[str, float], factor: float) -> float | None:
    """Where the best 1/factor of the scores begin, interpolated; None while there are none."""
    known = sorted(score for score in scores.values() if not math.isnan(score))
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
