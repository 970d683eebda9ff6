"""Asynchronous successive halving for several metrics: the best at a rung are those that no other beats everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from tune_core.errors import ConfigError
from tune_core.metrics import comparable, lookup
from tune_core.pareto import non_dominated_ranks, pareto_order, spread_order
from tune_core.schedulers.rungs import Rung, RungScheduler
from tune_core.validation import Validator

_MODES = ("min", "max")
#: One score for each metric; more is better.
_Point = tuple[float, ...]


class MultiObjectiveASHAScheduler(RungScheduler[_Point]):
    """Stops or pauses trials early, as `ASHAScheduler`, by several metrics at once.

    Trials at a rung are ranked by fronts: first those that no other is at least as good as in every metric and
    better in one, then those that only these are, and so on. Within a front, first comes the best by the first metric,
    then always the one that is farthest from those before it: so a few trials stand for all of a front.

    With `type="stopping"`, a trial that reaches a rung goes on if it is among the best 1/`reduction_factor` of those
    that came so far, rounded up. With `type="promotion"`, it pauses until it is among them, rounded down; see
    `ASHAScheduler`. Reports without one of the metrics, or the time, are not decided on. NaN is the worst value.

    Args:
        time_attr: The reported number that time is measured by; it grows from report to report.
        metrics: At least two metrics to compare by; give them here or in `TuneConfig`.
        modes: "min" or "max" for all of them, or a list with one for each.
        max_t: The time at which every trial is stopped; above 0.
        grace_period: The time before which none is; above 0, at most `max_t`.
        reduction_factor: 1 of so many goes on, about; above 1.
        brackets: How many series of rungs there are; the second begins one rung later, and so
            on. Each trial is put into one at random, mostly the first ones.
        stop_last_trials: Whether trials that reach `max_t` are stopped.
        seed: For the choice of brackets; None: another choice each time.
        type: "stopping" or "promotion".

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> from tune_core.trial import Trial
        >>> scheduler = MultiObjectiveASHAScheduler(metrics=["error", "latency"], modes="min", reduction_factor=2)
        >>> trials = [Trial(f"t{number}", number, {}) for number in range(4)]
        >>> points = [(0.3, 10.0), (0.1, 30.0), (0.2, 20.0), (0.4, 40.0)]
        >>> for trial, (error, latency) in zip(trials, points):
        ...     row = {"training_iteration": 1, "error": error, "latency": latency}
        ...     print(trial.trial_id, scheduler.on_trial_result([], trial, row))
        t0 CONTINUE
        t1 CONTINUE
        t2 STOP
        t3 STOP
        >>> scheduler.decision_reason(trials[3])
        {'rung': 1, 'value': [0.4, 40.0], 'rank': 4, 'front': 2, 'of': 4}

    Source: beyond Ray Tune 2.60; Schmucker et al., "Multi-objective Asynchronous Successive Halving", 2021
        (https://arxiv.org/abs/2106.12639), with non-dominated sorting and the epsilon-net. Differs: distances are
        scaled by the range of each metric within the front.
    """

    supports_several_objectives = True
    # Lists, unlike those of schedulers for one metric.
    metric: Any = None
    mode: Any = None

    def __init__(
        self,
        time_attr: str = "training_iteration",
        metrics: list[str] | None = None,
        modes: str | list[str] | None = None,
        max_t: float = 100,
        grace_period: float = 1,
        reduction_factor: float = 4,
        brackets: int = 1,
        stop_last_trials: bool = True,
        *,
        seed: int | None = None,
        type: Literal["stopping", "promotion"] = "stopping",  # noqa: A002 - as of `ASHAScheduler`
    ) -> None:
        validator = Validator(self.__class__.__name__)
        self._check_rungs(validator, max_t, grace_period, reduction_factor, brackets)
        self._check_rest(validator, type, stop_last_trials, seed)
        validator.check_name("time_attr", time_attr, ": the name of a reported number")
        objective = _objective(validator, metrics, modes, ("metrics", "modes"))
        validator.raise_any()
        self._time_attr = time_attr
        if objective is not None:
            self.metric, self.mode = objective
        self.has_own_objective = objective is not None
        self._build(type, max_t, grace_period, reduction_factor, brackets, stop_last_trials, seed)

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        """Take over the metrics and modes of `TuneConfig`.

        Args:
            metric: A list of names; None if `TuneConfig` does not say.
            mode: A list, or one mode for all.
            **spec: What later versions tell in addition.

        Returns:
            False if the scheduler was given others already: nothing is taken over.

        Raises:
            ConfigError: They are no objective of several metrics.
        """
        validator = Validator(f"{self.__class__.__name__}: TuneConfig")
        objective = _objective(validator, metric, mode, ("metric", "mode"))
        validator.raise_any()
        if objective is None:
            if self.metric is None:
                raise ConfigError(
                    f"{self.__class__.__name__} compares trials by several metrics: add metrics=[...] and modes=[...]"
                )
            return True
        if self.metric is not None and (self.metric, self.mode) != objective:
            return False
        self.metric, self.mode = objective
        return True

    def debug_string(self) -> str:
        """Return how many were stopped or promoted, and how many came to each rung."""
        counts = f"num_stopped={self._num_stopped}"
        if self._pauses:
            counts += f", num_promoted={self._num_promoted}"
        lines = [f"Using MultiObjectiveASHA: {counts}"]
        for bracket in self._brackets:
            rungs = (f"Iter {rung.time:.3f}: {len(rung.entries)} trials" for rung in bracket.rungs)
            lines.append("Bracket: " + " | ".join(rungs))
        return "\n".join(lines)

    def _moment(self, result: dict[str, Any]) -> tuple[float, _Point] | None:
        time = comparable(lookup(result, self._time_attr))
        if time is None or math.isnan(time):
            return None
        point = []
        for metric, mode in zip(self.metric or (), self.mode or (), strict=True):
            value = comparable(lookup(result, metric))
            if value is None:
                return None
            point.append(-value if mode == "min" else value)
        return time, tuple(point)

    def _passes(self, rung: Rung[_Point], entry: _Point) -> bool:
        points = [*rung.entries.values(), entry]
        allowed = max(1, math.ceil(len(points) / self._factor - 1e-9))
        return len(points) - 1 in pareto_order(points, allowed)

    def _ordered(self, rung: Rung[_Point]) -> list[str]:
        known = [
            (name, point, rank)
            for (name, point), rank in zip(rung.entries.items(), self._fronts(rung), strict=True)
            if not any(map(math.isnan, point))
        ]
        ranks = [rank for _, _, rank in known]
        order = pareto_order([point for _, point, _ in known], self._quota(rung), ranks=ranks)
        return [known[index][0] for index in order]

    def _fronts(self, rung: Rung[_Point]) -> list[int]:
        if rung.fronts is None:
            rung.fronts = non_dominated_ranks(list(rung.entries.values()))
        return rung.fronts

    def _position(self, rung: Rung[_Point], trial_id: str) -> dict[str, Any]:
        names, points = list(rung.entries), list(rung.entries.values())
        ranks = self._fronts(rung)
        own = ranks[names.index(trial_id)]
        front = [index for index, rank in enumerate(ranks) if rank == own]
        order = [names[front[index]] for index in spread_order([points[index] for index in front])]
        better = sum(1 for rank in ranks if rank < own)
        value = [
            -score if mode == "min" else score
            for score, mode in zip(rung.entries[trial_id], self.mode, strict=True)
        ]
        return {"value": value, "rank": better + order.index(trial_id) + 1, "front": own + 1}


def _objective(
    validator: Validator, metrics: Any, modes: Any, names: tuple[str, str]
) -> tuple[list[str], list[str]] | None:
    """Return metrics and modes, as many of each; None if none are given, or what is wrong was found."""
    of_metrics, of_modes = names
    if metrics is None and modes is None:
        return None
    if not isinstance(metrics, (list, tuple)) or not all(isinstance(each, str) and each for each in metrics):
        validator.add(of_metrics, metrics, "expected a list of the names of reported metrics, at least two")
        return None
    if len(metrics) < 2 or len(set(metrics)) < len(metrics):
        one = "expected at least two different metrics; ASHAScheduler compares by one"
        validator.add(of_metrics, metrics, one)
        return None
    several = [modes] * len(metrics) if isinstance(modes, str) else modes
    if not isinstance(several, Sequence) or any(mode not in _MODES for mode in several):
        validator.add(of_modes, modes, "expected 'min' or 'max', or a list with one of them for each metric")
        return None
    if len(several) != len(metrics):
        validator.add(of_modes, modes, f"expected {len(metrics)} modes, one for each metric")
        return None
    return list(metrics), list(several)
