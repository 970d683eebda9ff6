"""What there is to tell of an experiment: who is best, who learnt how, what it took.

`Overview` is a fold over the events of the journal. The driver feeds it as they happen; everybody
else reads it from the storage. It holds a few numbers per trial, however much the trials report:
curves are thinned as they grow. Statuses and configurations are the controller's: it keeps none.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    SegmentsGivenUp,
    SlotsHeld,
    SpecRecorded,
    StateSaved,
    TrialReported,
    WarmStarted,
)
from tune_core.control.resume import Records, Replay
from tune_core.control.segments import read_journal
from tune_core.logger.failures import Failure, failures_of
from tune_core.objective import Objective
from tune_core.ranking import Standings
from tune_core.reasons import reason_text
from tune_core.states import Outcome
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.trial import Status, Trial
from tune_core.views.series import Series

#: Points that are kept of one trial's learning curve, and of the best value over time: twice as many at times.
CURVE_POINTS: Final = 32
BEST_POINTS: Final = 256
#: The latest attempts of a trial that are kept one by one; the sums count all.
ATTEMPTS: Final = 16
#: Events that may come while no driver is at work: of a new one, some before it says that it goes on.
_TURNS: Final = (
    ExperimentStarted,
    ExperimentResumed,
    SegmentsGivenUp,
    SpecRecorded,
    StateSaved,
    WarmStarted,
    CapacityChanged,
)
#: What is paid for: other resources are not counted.
PAID: Final = ("CPU", "GPU")


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt at a trial that began to run.

    Times are seconds since the experiment began, without those between two drivers.

    Attributes:
        attempt_number: Its number, from 1.
        began: When the trainable began.
        ended: When it was over; None: it runs.
        outcome: How it ended; None: it runs, or its driver died.
        resources: The sum of its bundles.
    """

    attempt_number: int
    began: float
    ended: float | None
    outcome: Outcome | None
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as it stands.

    Attributes:
        trial_id: Its id.
        number: 0 for the first trial.
        name: As the experiment shows it.
        dirname: Its directory, below the experiment's.
        status: Its status.
        config: Its latest configuration.
        experiment_tag: Which parameters it has.
        iterations: `training_iteration` of its latest report.
        attempts: How many were ordered.
        failures: How many of them failed or were lost, since it was last reopened.
        error: Its last failure, as one line.
        score: What it is compared by: see `ExperimentSnapshot.objective`; None: it reported no number, or
            there are several metrics. So for all that follows of the metric.
        scored_in: The iteration of the report that gave the score; of a mean, the latest.
        best: Its best value of the metric in any report; None: it reported none that is finite.
        best_iteration: The iteration that reported it.
        last: The latest value of the metric that is finite.
        checkpoint: Name of the checkpoint that goes with its score, of those that are kept; None: there is none.
        seconds: Time in which attempts ran, of all of them.
        used: Seconds of that times the amounts of `CPU` and `GPU` that were held by it.
        curve: (iteration, value) of the metric, thinned.
        timeline: Its latest attempts, oldest first.
        scores: Its score by each metric, where there are several: of the reports that have a number for each.
        reason: Why it was stopped or paused, in words; "" if nobody has said, or it has come to its own end.
        violated: The constraints that its last report does not keep: for these it is never best.
    """

    trial_id: str
    number: int
    name: str
    dirname: str
    status: Status
    config: Mapping[str, Any]
    experiment_tag: str
    iterations: int
    attempts: int
    failures: int
    error: str | None
    score: float | None
    scored_in: int | None
    best: float | None
    best_iteration: int | None
    last: float | None
    checkpoint: str | None
    seconds: float
    used: Mapping[str, float]
    curve: Sequence[tuple[float, float]]
    timeline: Sequence[AttemptRecord]
    scores: Sequence[float | None] = ()
    reason: str = ""
    violated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExperimentSnapshot:
    """An experiment as it stands; nothing in it changes any more.

    Attributes:
        objective: What trials are compared by.
        trials: All of them, in creation order.
        best_so_far: (seconds since it began, score of the trial that was best then), thinned.
        began_at: When the experiment began, epoch seconds; None: it has not.
        last_at: When the latest event was, epoch seconds.
        seconds: How long drivers were at work on it.
        num_drivers: How many of them.
        held: Seconds times amounts of `CPU` and `GPU` for which placement groups were held; None: not known.
        failures: The failures of the trials whose last attempt failed, in creation order.
        has_ended: Whether it came to an end.
        reason: Why it ended; "" before.
        by_metric: Where trials are compared by several metrics: the same experiment by each alone.
        warm_start: What it took from earlier experiments, as a sentence; "": nothing.
    """

    objective: Objective
    trials: Sequence[TrialRecord]
    best_so_far: Sequence[tuple[float, float]]
    began_at: float | None
    last_at: float
    seconds: float
    num_drivers: int
    held: Mapping[str, float] | None
    failures: Sequence[Failure]
    has_ended: bool
    reason: str
    by_metric: Sequence[ExperimentSnapshot] = ()

    @property
    def parts(self) -> Sequence[ExperimentSnapshot]:
        """The experiment by each metric alone; with one metric, or none, only this."""
        return self.by_metric or (self,)

    warm_start: str = ""

    @property
    def used(self) -> dict[str, float]:
        """Seconds times amounts of `CPU` and `GPU` that attempts had, of all trials."""
        return {name: sum(trial.used.get(name, 0.0) for trial in self.trials) for name in PAID}

    @property
    def idle(self) -> dict[str, float] | None:
        """What of `held` no attempt ran in: processes that start, slots that wait for the next trial."""
        if self.held is None:
            return None
        return {name: max(0.0, self.held.get(name, 0.0) - used) for name, used in self.used.items()}

    @property
    def metric(self) -> str | None:
        """The metric that trials are compared by; None: nothing is compared, or there are several."""
        return self.objective.metric if isinstance(self.objective.metric, str) else None

    @property
    def mode(self) -> str:
        """Which values of it are better: "min" or "max"."""
        return self.objective.mode if isinstance(self.objective.mode, str) else "min"

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials, best first; those without a finite score come last, in creation order.

        By several metrics: by front, in that by the first metric; those on no front come last. Those that do not keep
        the constraints come after all others.
        """
        keys = self.objective.keys(self._compared, self._beyond)
        ranked = sorted(zip(keys, self.trials, strict=True), key=lambda each: (each[0], each[1].number))
        return [trial for _, trial in ranked]

    @property
    def fronts(self) -> dict[str, int]:
        """By trial id: 0 for those that no other dominates, 1 for those that only these dominate, and so on.

        Only where there are several metrics, and of the trials that have a finite score by each and keep the
        constraints.
        """
        if not self.objective.is_several:
            return {}
        fronts = self.objective.fronts(self._compared, self._beyond)
        found = zip(self.trials, fronts, strict=True)
        return {trial.trial_id: front for trial, front in found if front is not None}

    @property
    def front(self) -> list[TrialRecord]:
        """Where there are several metrics: the trials that no other dominates, the best by the first metric first."""
        if not self.objective.is_several:
            return []
        return [self.trials[place] for place in self.objective.front(self._compared, self._beyond)]

    @property
    def _compared(self) -> list[Sequence[float | None]]:
        return [trial.scores if self.objective.is_several else (trial.score,) for trial in self.trials]

    @property
    def _beyond(self) -> list[bool]:
        return [bool(trial.violated) for trial in self.trials]

    @property
    def with_value(self) -> list[tuple[TrialRecord, float]]:
        """The trials with a finite score, each with that, best first."""
        return [
            (trial, trial.score)
            for trial in self.ranked
            if trial.score is not None and math.isfinite(trial.score)
        ]

    @property
    def best_trial(self) -> TrialRecord | None:
        """The best trial; None if none keeps the constraints and has a finite score, or there are several metrics."""
        return self.objective.best_of((trial, trial.score) for trial in self.trials if not trial.violated)


@dataclass(slots=True)
class _Side:
    """What is noted of one trial by one metric."""

    curve: Series = field(default_factory=lambda: Series(CURVE_POINTS))
    best: float | None = None
    best_iteration: int | None = None
    #: The loss of `best`.
    least: float = math.inf
    last: float | None = None

    def add(self, objective: Objective, iteration: int, value: float | None) -> None:
        """Take a report by its value of the metric."""
        self.curve.cut(iteration)
        if value is None or not math.isfinite(value):
            return
        self.curve.add(iteration, value)
        self.last, loss = value, objective.loss(value)
        if loss < self.least:
            self.best, self.best_iteration, self.least = value, iteration, loss


@dataclass(slots=True)
class _Facts:
    """What is noted of one trial, beside what the controller knows."""

    dirname: str
    #: By each metric.
    sides: list[_Side]
    seconds: float = 0.0
    used: dict[str, float] = field(default_factory=dict)
    past: deque[AttemptRecord] = field(default_factory=lambda: deque(maxlen=ATTEMPTS))
    running: AttemptRecord | None = None


class Overview:
    """Takes note of an experiment's events; may be looked at from any thread.

    Args:
        controller: Whose events they are: `note` comes after its `handle`.
        objective: What trials are compared by; None: what the journal says first.

    Attributes:
        standings: Who is best, report by report.

    Example:
        >>> from tune_core.control.messages import ExperimentStarted
        >>> controller = Controller(ControllerConfig("a1b2c"))
        >>> overview = Overview(controller, Objective("loss", "min"))
        >>> began = ExperimentStarted(time=1.0, capacity=1)
        >>> _ = controller.handle(began)
        >>> overview.note(began)
        False
        >>> overview.snapshot().num_drivers
        1
    """

    def __init__(self, controller: Controller, objective: Objective | None = None) -> None:
        self._controller = controller
        self._lock = threading.Lock()
        self.standings = Standings(objective or Objective())
        self._is_open = objective is None
        self._facts: dict[str, _Facts] = {}
        self._best_row: Mapping[str, Any] | None = None
        #: By each metric.
        self._best_so_far = [Series(BEST_POINTS) for _ in self.standings.parts]
        self._began_at: float | None = None
        self._last_at = self._worked_until = self._seconds = 0.0
        self._is_at_work = False
        self._num_drivers = 0
        self._warm_start = ""
        #: What drivers before this one held, and this one so far; None: nobody has said.
        self._held_before: dict[str, float] | None = None
        self._held: Mapping[str, float] | None = None

    @classmethod
    def read(
        cls, storage: ExperimentStorage, *, metric: str | None = None, mode: str | None = None
    ) -> Overview:
        """Return the overview of an experiment as its journal tells it.

        Args:
            storage: Where it is.
            metric: What trials are compared by; None: the experiment's own metric and mode.
            mode: "min" or "max".

        Raises:
            StorageError: A segment of the journal is missing or damaged.
        """
        return follow(lambda: read_journal(storage), metric, mode)[1]

    def note(self, event: Event) -> bool:
        """Take note of an event that the controller has handled.

        Returns:
            Whether it is a report after which another trial is the best one, or the best one has become better.
        """
        with self._lock:
            self._tell_time(event)
            if isinstance(event, TrialReported):
                return self._report(event)
            if isinstance(event, AttemptStarted):
                self._begin(event)
            elif isinstance(event, AttemptEnded):
                self._end(event.trial_id, event.attempt_number, event.outcome)
            elif isinstance(event, SlotsHeld):
                self._held = event.seconds
            elif isinstance(event, WarmStarted):
                self._warm_start = event.summary
            elif isinstance(event, ExperimentResumed):
                for trial_id, facts in self._facts.items():
                    if facts.running is not None:
                        self._end(trial_id, facts.running.attempt_number, None)
                for trial_id in event.restarted:
                    self._facts_of(self._controller.trials[trial_id])
            elif isinstance(event, SpecRecorded) and self._is_open:
                self._is_open = False
                self._compare_by(self._controller.rules.objective)
            return False

    def is_best(self, row: Mapping[str, Any]) -> bool:
        """Return whether this very row is the latest that changed which trial is best, or made it better."""
        return self._best_row is row

    def snapshot(self) -> ExperimentSnapshot:
        """Return the experiment as it stands now."""
        with self._lock:
            trials, parts = list(self._controller.trials.values()), self.standings.parts
            by_metric = [[self._record(trial, number) for trial in trials] for number, _ in enumerate(parts)]
            curves = [series.points() for series in self._best_so_far]
            shown = ExperimentSnapshot(
                objective=parts[0].objective,
                trials=by_metric[0],
                best_so_far=curves[0],
                began_at=self._began_at,
                last_at=self._last_at,
                seconds=self._seconds,
                num_drivers=self._num_drivers,
                held=self._all_held(),
                failures=failures_of(list(self._controller.trials.values())),
                has_ended=self._controller.has_ended,
                reason=self._controller.ending().reason if self._controller.has_ended else "",
                warm_start=self._warm_start,
            )
        if len(parts) == 1:
            return shown
        alone = [
            replace(shown, objective=part.objective, trials=records, best_so_far=curve)
            for part, records, curve in zip(parts, by_metric, curves, strict=True)
        ]
        scores = map(self.standings.scores, trials)
        together = [_together(*each) for each in zip(by_metric[0], scores, strict=True)]
        return replace(
            shown, objective=self.standings.objective, trials=together, best_so_far=(), by_metric=alone
        )

    # With the lock held.

    def _compare_by(self, objective: Objective) -> None:
        self.standings = Standings(objective)
        self._best_so_far = [Series(BEST_POINTS) for _ in self.standings.parts]
        for facts in self._facts.values():
            facts.sides = self._new_sides()

    def _new_sides(self) -> list[_Side]:
        return [_Side() for _ in self.standings.parts]

    def _tell_time(self, event: Event) -> None:
        """Count the time in which a driver was at work, and not the time between two of them."""
        self._last_at = event.time
        if not isinstance(event, _TURNS):
            if self._is_at_work:
                self._seconds += max(0.0, event.time - self._worked_until)
                self._worked_until = event.time
        elif isinstance(event, (ExperimentStarted, ExperimentResumed)):
            if self._began_at is None:
                self._began_at = event.time
            self._held_before, self._held = self._all_held(), None
            self._num_drivers += 1
            self._is_at_work, self._worked_until = True, event.time
        elif isinstance(event, CapacityChanged) and not event.capacity:
            self._is_at_work = False  # a new driver takes up what was committed before its time

    def _all_held(self) -> dict[str, float] | None:
        """What all drivers held; None if one of them never said."""
        if self._held is None:
            return None if self._num_drivers else {}
        if self._held_before is None:
            return None
        return {name: self._held_before.get(name, 0.0) + self._held.get(name, 0.0) for name in PAID}

    def _facts_of(self, trial: Trial) -> _Facts:
        facts = self._facts.get(trial.trial_id)
        if facts is None:
            facts = self._facts[trial.trial_id] = _Facts(trial.dirname, self._new_sides())
        elif facts.dirname != trial.dirname:  # it has begun again: its reports no longer count, its costs do
            facts.dirname, facts.sides = trial.dirname, self._new_sides()
            self.standings.forget(trial)
        return facts

    def _begin(self, event: AttemptStarted) -> None:
        trial = self._controller.live_trial(event.trial_id, event.attempt_number)
        if trial is None:
            return
        resources = {name: trial.resources.required_resources.get(name, 0.0) for name in PAID}
        self._facts_of(trial).running = AttemptRecord(
            event.attempt_number, self._seconds, None, None, resources
        )

    def _end(self, trial_id: str, attempt_number: int, outcome: Outcome | None) -> None:
        facts = self._facts.get(trial_id)
        if facts is None or facts.running is None or facts.running.attempt_number != attempt_number:
            return  # it never began
        attempt, facts.running = facts.running, None
        facts.past.append(
            AttemptRecord(attempt_number, attempt.began, self._seconds, outcome, attempt.resources)
        )
        facts.seconds, facts.used = _sums(facts, attempt, self._seconds)

    def _report(self, event: TrialReported) -> bool:
        trial = self._controller.trials.get(event.trial_id)
        if trial is None or trial.last_row is not event.row:
            return False  # it did not count: an older attempt's, or heard before
        facts, parts = self._facts_of(trial), self.standings.parts
        values = [part.objective.value(event.row) for part in parts]
        violated = self.standings.objective.violated(event.row)
        is_news = self.standings.note_values(trial, event.iteration, values, violated)
        if is_news:
            self._best_row = event.row
        for part, value, side, series in zip(parts, values, facts.sides, self._best_so_far, strict=True):
            best = part.best_score
            if best is not None and best != series.last:
                series.add(self._seconds, best)
            side.add(part.objective, event.iteration, value)
        return is_news

    def _record(self, trial: Trial, number: int) -> TrialRecord:
        """Return how a trial stands by the metric of this number."""
        facts, standings = self._facts_of(trial), self.standings.parts[number]
        running, timeline, side = facts.running, list(facts.past), facts.sides[number]
        checkpoint = standings.best_checkpoint(trial)
        seconds, used = facts.seconds, dict(facts.used)
        if running is not None:
            timeline.append(running)
            seconds, used = _sums(facts, running, self._seconds)
        return TrialRecord(
            trial_id=trial.trial_id,
            number=trial.number,
            name=str(trial),
            dirname=trial.dirname,
            status=trial.status,
            config=trial.config,
            experiment_tag=trial.experiment_tag,
            iterations=trial.iteration,
            attempts=trial.attempt_number,
            failures=trial.num_failures + trial.num_losses,
            error=trial.error,
            score=standings.score(trial),
            scored_in=standings.scored_in(trial),
            best=side.best,
            best_iteration=side.best_iteration,
            last=side.last,
            checkpoint=checkpoint.name if checkpoint is not None else None,
            seconds=seconds,
            used=used,
            curve=side.curve.points(),
            timeline=timeline,
            reason=reason_text(trial.reason),
            violated=self.standings.violated(trial),
        )


def _together(record: TrialRecord, scores: Sequence[float | None]) -> TrialRecord:
    """Return a trial that is compared by several metrics, from how it stands by one of them."""
    nothing: dict[str, Any] = dict.fromkeys(("score", "scored_in", "best", "best_iteration", "last"))
    return replace(record, **nothing, curve=(), scores=scores)


class Following:
    """A journal's replay and the overview of it, record by record.

    Args:
        objective: What trials are compared by; None: what the journal says first.
    """

    def __init__(self, objective: Objective | None = None) -> None:
        self.replay = Replay(Controller(ControllerConfig("")))
        self.overview = Overview(self.replay.controller, objective)

    def take(self, records: Records) -> None:
        """Take the next records."""
        for event, _ in records:
            self.replay.apply(event)
            self.overview.note(event)

    def other_objective(self, metric: str | None, mode: str | None) -> Objective | None:
        """Return what trials have to be compared by if it is something else than they were: then begin again.

        What was changed on the way holds for all reports.

        Args:
            metric: What the caller wants; None: the experiment's own metric and mode.
            mode: "min" or "max".
        """
        wanted = self.replay.controller.rules.objective
        if metric is not None:
            wanted = replace(wanted, metric=metric, mode=mode)
        return None if self.overview.standings.objective == wanted else wanted


def follow(
    records: Callable[[], Records], metric: str | None = None, mode: str | None = None
) -> tuple[Replay, Overview]:
    """Replay a journal, and return that with its overview.

    Args:
        records: Yields the journal's records from the first on; called again if what trials are
            compared by was changed on the way.
        metric: What trials are compared by; None: the experiment's own metric and mode.
        mode: "min" or "max".
    """
    objective = Objective(metric, mode) if metric is not None else None
    while True:
        following = Following(objective)
        following.take(records())
        objective = following.other_objective(metric, mode)
        if objective is None:
            return following.replay, following.overview


def _sums(facts: _Facts, attempt: AttemptRecord, until: float) -> tuple[float, dict[str, float]]:
    """What all attempts of a trial took, with this one up to now."""
    took = until - attempt.began
    used = {name: facts.used.get(name, 0.0) + took * attempt.resources.get(name, 0.0) for name in PAID}
    return facts.seconds + took, used
