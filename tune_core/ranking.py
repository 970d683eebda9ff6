"""Which trial is best: the one order of trials, for everything that ranks them.

Owns what a trial is compared by (`Objective`), how its reports become one score (`Tally`), and who leads
(`Standings`). Never raises for what a trial has reported: what is no number counts for nothing.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tune_core.constraints import Constraint
from tune_core.metrics import comparable, lookup
from tune_core.trial import CheckpointRecord, Trial

#: What of a trial's reports counts, by Ray Tune's names, in words.
SCOPES: Final = {
    "last": "last report",
    "all": "best report",
    "avg": "mean of all reports",
    "last-5-avg": "mean of the last 5 reports",
    "last-10-avg": "mean of the last 10 reports",
}
MODES: Final = ("min", "max")

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Objective:
    """What trials are compared by.

    Attributes:
        metric: A reported metric, nested with "/"; None: nothing is compared.
        mode: "min" or "max": which values are better; None only without a metric.
        scope: What of a trial's reports counts: one of `SCOPES`.
        constraints: What a trial has to keep in its last report: who does not is never best, and comes after those
            that do.

    Example:
        >>> accuracy = Objective("accuracy", "max")
        >>> accuracy.best_of({"a": 0.5, "b": 0.9, "c": None, "d": float("nan")}.items())
        'b'
        >>> accuracy.label
        'accuracy (last report)'
    """

    metric: str | None = None
    mode: str | None = None
    scope: str = "last"
    constraints: tuple[Constraint, ...] = ()

    @property
    def said(self) -> str:
        """The scope in words: `last report`."""
        return SCOPES[self.scope]

    @property
    def label(self) -> str:
        """The metric and what of it counts, for a reader: `accuracy (last report)`."""
        return f"{self.metric} ({self.said})" if self.metric is not None else ""

    @property
    def column(self) -> str | None:
        """What a column of scores is called: the metric, and what of it counts unless that is the last report."""
        return self.metric if self.scope == "last" or self.metric is None else self.label

    def value(self, row: Mapping[str, Any]) -> float | None:
        """Return what a report says of the metric; None if that is no number."""
        return None if self.metric is None else comparable(lookup(row, self.metric))

    def violated(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the constraints that a report does not keep: `latency_ms <= 20`; also those it says nothing of."""
        return tuple(str(each) for each in self.constraints if not each.is_kept(row))

    def loss(self, score: float | None, *, finite: bool = True) -> float:
        """Return a score so that less is better; infinite if it is missing or NaN.

        Args:
            score: What a trial is compared by.
            finite: Whether infinite scores count as missing, too.
        """
        if score is None or math.isnan(score) or (finite and math.isinf(score)):
            return math.inf
        return -score if self.mode == "max" else score

    def best_of(self, scores: Iterable[tuple[Item, float | None]]) -> Item | None:
        """Return what comes with the best finite score, of equal ones the first; None if none is finite."""
        best, least = None, math.inf
        for item, score in scores:
            loss = self.loss(score)
            if loss < least:
                best, least = item, loss
        return best


class Tally:
    """Turns the reports of one trial into its score.

    An attempt that goes on from an earlier checkpoint reports iterations again: the newest report of
    each counts, as in `Result.rows`.

    Args:
        objective: Says what counts.

    Attributes:
        score: What the trial is compared by; None: it has reported no number.
        iteration: The iteration of the report that gave the score, of a mean the latest one.

    Example:
        >>> tally = Tally(Objective("loss", "min", "all"))
        >>> for iteration, loss in enumerate((0.5, 0.25, 0.75), 1):
        ...     tally.add(iteration, loss)
        >>> tally.score, tally.iteration
        (0.25, 2)
    """

    __slots__ = ("_is_mean", "_mode", "_newest", "_steps", "_sum", "_values", "iteration", "score")

    def __init__(self, objective: Objective) -> None:
        scope = objective.scope
        self._mode = objective.mode
        self._is_mean = scope.endswith("avg")
        #: How many of the newest values a mean is of; None: of all.
        self._newest = int(scope.split("-")[1]) if scope.startswith("last-") else None
        keeps = scope != "last"
        #: Iterations in ascending order, and their values: only where more than the last one counts.
        self._steps: array[int] | None = array("q") if keeps else None
        self._values = array("d")
        self._sum = 0.0
        self.score: float | None = None
        self.iteration: int | None = None

    def add(self, iteration: int, number: float | None) -> None:
        """Take a report.

        Args:
            iteration: Which one.
            number: Its value of the metric; None: it has none.
        """
        steps = self._steps
        if steps is None:
            if number is not None:
                self.score, self.iteration = number, iteration
            return
        removed = self._remove(steps, iteration) if steps and iteration <= steps[-1] else None
        if number is not None:
            place = bisect_left(steps, iteration)
            steps.insert(place, iteration)
            self._values.insert(place, number)
            self._sum += number
        if self._is_mean:
            self._take_mean(steps)
        elif removed is not None and removed == self.score:
            self._take_best(steps)
        elif number is not None and self._is_better(number):
            self.score, self.iteration = number, iteration

    def _remove(self, steps: array[int], iteration: int) -> float | None:
        """Forget what an earlier attempt reported in this iteration; return it."""
        place = bisect_left(steps, iteration)
        if steps[place] != iteration:
            return None
        del steps[place]
        removed = self._values.pop(place)
        self._sum -= removed
        return removed

    def _is_better(self, number: float) -> bool:
        if math.isnan(number):
            return self.score is None
        if self.score is None or math.isnan(self.score):
            return True
        return number > self.score if self._mode == "max" else number < self.score

    def _take_best(self, steps: array[int]) -> None:
        self.score = self.iteration = None
        for iteration, number in zip(steps, self._values, strict=True):
            if self._is_better(number):
                self.score, self.iteration = number, iteration

    def _take_mean(self, steps: array[int]) -> None:
        values = self._values if self._newest is None else self._values[-self._newest :]
        if not values:
            self.score = self.iteration = None
            return
        if self._newest is not None:
            total = sum(values)
        else:
            if not math.isfinite(self._sum):  # what made it so may be gone
                self._sum = sum(values)
            total = self._sum
        self.score, self.iteration = total / len(values), steps[-1]


class _Entry:
    """A trial in the standings; `key` is its loss and, of equal ones, the earlier trial leads."""

    __slots__ = ("key", "tally", "trial", "violated")

    def __init__(self, trial: Trial, objective: Objective) -> None:
        self.trial, self.tally, self.key = trial, Tally(objective), (math.inf, trial.number)
        self.violated: tuple[str, ...] = ()

    @property
    def loss(self) -> float:
        return self.key[0]


class Standings:
    """The scores of an experiment's trials, report by report, and which trial is best.

    One thread notes reports; others may read scores meanwhile.

    Args:
        objective: What trials are compared by.

    Example:
        >>> standings = Standings(Objective("loss", "min"))
        >>> first, second = Trial("a", 0, {}), Trial("b", 1, {})
        >>> standings.note(first, 1, {"loss": 0.1}), standings.note(second, 1, {"loss": 0.2})
        (True, False)
        >>> standings.note(first, 2, {"loss": 0.3}), str(standings.best)
        (True, 'trainable_b')
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._entries: dict[str, _Entry] = {}
        self._leader: _Entry | None = None
        self._told: tuple[_Entry, float] | None = None

    @property
    def best(self) -> Trial | None:
        """The best trial; None: none has a finite score."""
        return self._leader.trial if self._leader is not None else None

    @property
    def best_score(self) -> float | None:
        """What the best trial is compared by; None: none has a finite score."""
        return self._leader.tally.score if self._leader is not None else None

    def score(self, trial: Trial) -> float | None:
        """Return what a trial is compared by; None: it has reported no number."""
        entry = self._entries.get(trial.trial_id)
        return entry.tally.score if entry is not None else None

    def violated(self, trial: Trial) -> tuple[str, ...]:
        """Return the constraints that a trial's last report does not keep, for which it is never best."""
        entry = self._entries.get(trial.trial_id)
        return entry.violated if entry is not None else ()

    def scored_in(self, trial: Trial) -> int | None:
        """Return the iteration of the report that gave a trial its score; of a mean, the latest."""
        entry = self._entries.get(trial.trial_id)
        return entry.tally.iteration if entry is not None else None

    def key(self, trial: Trial) -> tuple[float, int]:
        """Return what trials are sorted by, the best first; those without a score come last, as created."""
        entry = self._entries.get(trial.trial_id)
        return entry.key if entry is not None else (math.inf, trial.number)

    def note(self, trial: Trial, iteration: int, row: Mapping[str, Any]) -> bool:
        """Take a report; return whether another trial is the best one now, or the best one has become better."""
        return self.note_value(trial, iteration, self.objective.value(row), self.objective.violated(row))

    def note_value(
        self, trial: Trial, iteration: int, value: float | None, violated: tuple[str, ...] = ()
    ) -> bool:
        """Take a report by its value of the metric, None: it has none, and what it violates. Otherwise as `note`."""
        entry = self._entries.get(trial.trial_id)
        if entry is None:
            entry = self._entries[trial.trial_id] = _Entry(trial, self.objective)
        before = entry.key
        entry.tally.add(iteration, value)
        entry.violated = violated
        loss = math.inf if violated else self.objective.loss(entry.tally.score)
        if loss != before[0]:
            entry.key = loss, trial.number
            self._take_leader(entry, before)
        return self._is_news()

    def forget(self, trial: Trial) -> None:
        """Let the reports of a trial count no more: it begins from the start."""
        entry = self._entries.pop(trial.trial_id, None)
        if entry is not None and entry is self._leader:
            self._leader = self._first()

    def best_checkpoint(self, trial: Trial) -> CheckpointRecord | None:
        """Return the checkpoint that goes with a trial's score, of those that are kept.

        That is the latest one, as in the `Result` that `get_best_result` returns; only if the best of
        all reports counts, the one that came with the best value.
        """
        usable = trial.usable_checkpoints
        if self.objective.scope == "all":
            scores = [(record, self.objective.value(record.metrics)) for record in usable]
            return self.objective.best_of(scores) or trial.checkpoint
        return trial.checkpoint

    def _take_leader(self, entry: _Entry, before: tuple[float, int]) -> None:
        leader = self._leader
        if entry is leader:
            if entry.key > before:
                self._leader = self._first()
        elif entry.loss < math.inf and (leader is None or entry.key < leader.key):
            self._leader = entry

    def _first(self) -> _Entry | None:
        ranked = [entry for entry in self._entries.values() if entry.loss < math.inf]
        return min(ranked, key=lambda entry: entry.key, default=None)

    def _is_news(self) -> bool:
        leader, told = self._leader, self._told
        if leader is None or (told is not None and told[0] is leader and told[1] <= leader.loss):
            return False
        self._told = leader, leader.loss
        return True
