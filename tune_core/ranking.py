"""Which trial is best: the one order of trials, for everything that ranks them.

Owns how the reports of a trial become one score (`Tally`), and who leads (`Standings`), by one metric or by
several. Never raises for what a trial has reported: what is no number counts for nothing.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from operator import le
from typing import Any, TypeAlias

from tune_core.objective import MODES, SCOPES, Losses, Objective, whole
from tune_core.pareto import non_dominated_ranks
from tune_core.trial import CheckpointRecord, Trial

__all__ = ["MODES", "SCOPES", "Objective", "Standings", "Tally"]

#: What trials are sorted by: their front or their loss, a second loss, and their number.
Key: TypeAlias = tuple[float, float, int]


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


class _Front:
    """Which trials no other dominates, report by report, of those that have a finite score by each metric."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._losses: dict[str, tuple[Trial, Losses]] = {}
        #: Trials that do not keep the constraints: they are on no front.
        self._beyond: set[str] = set()
        self._members: dict[str, Losses] = {}
        #: The members that somebody was told of, as they were then.
        self._told: dict[str, Losses] = {}
        self._version = 0
        self._keys: tuple[int, dict[str, Key]] = (0, {})

    @property
    def trials(self) -> list[Trial]:
        """Its members, the best by the first metric first."""
        members = [(losses[0], self._losses[trial_id][0]) for trial_id, losses in [*self._members.items()]]
        return [trial for _, trial in sorted(members, key=lambda each: (each[0], each[1].number))]

    @property
    def num_lacking(self) -> int:
        """How many trials are on no front since they have no finite score by a metric."""
        return sum(math.inf in losses for _, losses in self._losses.values())

    @property
    def num_beyond(self) -> int:
        """How many of the others are on no front since they do not keep the constraints."""
        return sum(math.inf not in self._losses[trial_id][1] for trial_id in [*self._beyond])

    def keys(self) -> dict[str, Key]:
        """What each trial is sorted by, as it stands now."""
        version = self._version
        if self._keys[0] != version:
            entries = [*self._losses.values()]
            known = [(trial, losses) for trial, losses in entries if self._counts(trial.trial_id, losses)]
            ranks = non_dominated_ranks([[-loss for loss in losses] for _, losses in known])
            found = zip(known, ranks, strict=True)
            keys = {trial.trial_id: (float(rank), losses[0], trial.number) for (trial, losses), rank in found}
            for trial, _ in entries:
                if trial.trial_id in self._beyond:
                    keys[trial.trial_id] = math.inf, math.inf, trial.number
            self._keys = version, keys
            return keys
        return self._keys[1]

    def note(self, trial: Trial, losses: Losses, *, is_beyond: bool = False) -> bool:
        """Take a trial's losses; return whether a member is new, or better than somebody was told."""
        known, was_beyond = self._losses.get(trial.trial_id), trial.trial_id in self._beyond
        if known is None or known[1] != losses or was_beyond is not is_beyond:
            self._losses[trial.trial_id] = trial, losses
            (self._beyond.add if is_beyond else self._beyond.discard)(trial.trial_id)
            self._version += 1
            own = self._members.get(trial.trial_id)
            is_worse = own is not None and any(new > old for new, old in zip(losses, own, strict=True))
            if own is not None and (is_worse or is_beyond):
                self._start_over()
            else:
                self._place(trial.trial_id, losses)
        return self._is_news()

    def forget(self, trial: Trial) -> None:
        """Let a trial count no more."""
        self._losses.pop(trial.trial_id, None)
        self._beyond.discard(trial.trial_id)
        self._version += 1
        if trial.trial_id in self._members:
            self._start_over()

    def _counts(self, trial_id: str, losses: Losses) -> bool:
        return math.inf not in losses and trial_id not in self._beyond

    def _start_over(self) -> None:
        members: dict[str, Losses] = {}
        known = [
            (losses, trial_id)
            for trial_id, (_, losses) in self._losses.items()
            if self._counts(trial_id, losses)
        ]
        for losses, trial_id in sorted(known):  # so that none dominates one before it
            if not any(_dominates(each, losses) for each in members.values()):
                members[trial_id] = losses
        self._members = members

    def _place(self, trial_id: str, losses: Losses) -> None:
        """Add a trial unless a member dominates it; remove those that it dominates."""
        is_beaten = any(_dominates(each, losses) for each in self._members.values())
        if is_beaten or not self._counts(trial_id, losses):
            return
        members = {name: each for name, each in self._members.items() if not _dominates(losses, each)}
        self._members = {**members, trial_id: losses}

    def _is_news(self) -> bool:
        told = self._told
        if all(name in told and _covers(told[name], losses) for name, losses in self._members.items()):
            return False
        self._told = dict(self._members)
        return True


def _covers(one: Losses, other: Losses) -> bool:
    return all(map(le, one, other))


def _dominates(one: Losses, other: Losses) -> bool:
    return one != other and _covers(one, other)


class Standings:
    """The scores of an experiment's trials, report by report, and which trial is best.

    One thread notes reports; others may read scores meanwhile. By several metrics no trial is the best:
    there is a front, and a best one by each metric.

    Args:
        objective: What trials are compared by.

    Attributes:
        objective: As given.
        parts: The standings by each metric alone; with one metric, or none, only these.

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
        self._front = _Front(objective) if objective.is_several else None
        self.parts: tuple[Standings, ...] = (self,)
        #: The same, of the reports that have a number for each metric: what the front is made of was once so together.
        self._whole: tuple[Standings, ...] = self.parts
        if self._front is not None:
            self.parts = tuple(Standings(part) for part in objective.parts)
            self._whole = tuple(Standings(part) for part in objective.parts)

    @property
    def front(self) -> list[Trial]:
        """With several metrics: the trials that no other dominates, the best by the first metric first."""
        return self._front.trials if self._front is not None else []

    @property
    def num_trials(self) -> int:
        """How many trials have reported."""
        return len(self.parts[0]._entries)

    @property
    def num_lacking(self) -> int:
        """With several metrics: how many of them have no finite number for each, so that they are on no front."""
        return self._front.num_lacking if self._front is not None else 0

    @property
    def num_beyond(self) -> int:
        """With several metrics: how many others do not keep the constraints, so that they are on no front."""
        return self._front.num_beyond if self._front is not None else 0

    @property
    def leaders(self) -> list[Trial]:
        """The best trial by each metric, where there is one."""
        return [part.best for part in self.parts if part.best is not None]

    @property
    def best(self) -> Trial | None:
        """The best trial; None: none has a finite score, or there are several metrics."""
        return self._leader.trial if self._leader is not None else None

    @property
    def best_score(self) -> float | None:
        """What the best trial is compared by; None: none has a finite score."""
        return self._leader.tally.score if self._leader is not None else None

    def scores(self, trial: Trial) -> tuple[float | None, ...]:
        """Return what a trial is compared by, by each metric: of the reports that have a number for each."""
        return tuple(part.score(trial) for part in self._whole)

    def score(self, trial: Trial) -> float | None:
        """Return what a trial is compared by; None: it has reported no number, or there are several metrics."""
        entry = self._entries.get(trial.trial_id)
        return entry.tally.score if entry is not None else None

    def violated(self, trial: Trial) -> tuple[str, ...]:
        """Return the constraints that a trial's last report does not keep, for which it is never best."""
        entry = self.parts[0]._entries.get(trial.trial_id)
        return entry.violated if entry is not None else ()

    def scored_in(self, trial: Trial) -> int | None:
        """Return the iteration of the report that gave a trial its score; of a mean, the latest."""
        entry = self._entries.get(trial.trial_id)
        return entry.tally.iteration if entry is not None else None

    def key(self, trial: Trial) -> Key:
        """Return what trials are sorted by, the best first.

        With several metrics that is the front, in that the loss by the first metric. Those without a score come
        after all others, as created, and last those that do not keep the constraints.
        """
        return self.keys()(trial)

    def keys(self) -> Callable[[Trial], Key]:
        """Return what `key` returns now, for many trials."""
        if self._front is not None:
            found = self._front.keys()
            return lambda trial: found.get(trial.trial_id, (math.inf, 0.0, trial.number))
        return self._key

    def _key(self, trial: Trial) -> Key:
        entry = self._entries.get(trial.trial_id)
        if entry is None:
            return math.inf, 0.0, trial.number
        return entry.loss, math.inf if entry.violated else 0.0, trial.number

    def note(self, trial: Trial, iteration: int, row: Mapping[str, Any]) -> bool:
        """Take a report; return whether another trial is the best one now, or the best one has become better.

        With several metrics: by one of them, or a trial is new on the front, or better than it was there.
        """
        values = [part.objective.value(row) for part in self.parts]
        return self.note_values(trial, iteration, values, self.objective.violated(row))

    def note_values(
        self, trial: Trial, iteration: int, values: Sequence[float | None], violated: tuple[str, ...] = ()
    ) -> bool:
        """Take a report by its value of each metric, None: it has none, and what it violates. Otherwise as `note`."""
        if self._front is None:
            return self._note(trial, iteration, values[0], violated)
        news = [
            part._note(trial, iteration, value, violated)
            for part, value in zip(self.parts, values, strict=True)
        ]
        for part, value in zip(self._whole, whole(values), strict=True):
            part._note(trial, iteration, value, violated)
        losses = self.objective.losses(self.scores(trial))
        return self._front.note(trial, losses, is_beyond=bool(violated)) or any(news)

    def _note(self, trial: Trial, iteration: int, value: float | None, violated: tuple[str, ...]) -> bool:
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
        if self._front is not None:
            self._front.forget(trial)
            for part in (*self.parts, *self._whole):
                part.forget(trial)
        entry = self._entries.pop(trial.trial_id, None)
        if entry is not None and entry is self._leader:
            self._leader = self._first()

    def best_checkpoint(self, trial: Trial) -> CheckpointRecord | None:
        """Return the checkpoint that goes with a trial's score, of those that are kept.

        That is the latest one, as in the `Result` that `get_best_result` returns; only if the best of
        all reports counts, the one that came with the best value. With several metrics it is the latest one.
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
