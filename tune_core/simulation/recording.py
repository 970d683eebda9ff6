"""The curves of an experiment, read from its journal: what each trial reported, when, and how far that is known.

Owns what is known of a trial beyond the experiment that ran it. Decides nothing. Invariant: a curve ends where the
journal does, or where another configuration took over; nothing is continued.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    CheckpointSaved,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    PausedChosen,
    SearchEnded,
    SegmentsGivenUp,
    SpecRecorded,
    StartAttempt,
    StateSaved,
    Steered,
    SuggestionDeferred,
    TrialReported,
    TrialSuggested,
    WatchersSaved,
)
from tune_core.control.resume import Replay
from tune_core.ranking import Standings
from tune_core.states import Decision, ExploitChoice, Outcome
from tune_core.trial import Status, Trial

#: Answers to questions, which follow another event at once.
_ANSWERS = (TrialSuggested, SuggestionDeferred, SearchEnded, PausedChosen, StateSaved, WatchersSaved)
_FAILURES = frozenset(Outcome) - {Outcome.COMPLETED, Outcome.STOPPED}
#: Ticks of the clock in a second. Sums of whole ticks are exact, so that what came first still does.
_TICKS = 2.0**20


@dataclass(slots=True)
class Step:
    """One report of a curve.

    Attributes:
        row: What was reported.
        checkpoint: Index of its checkpoint; None: it had none.
        spent_s: Seconds since the report before, or since the attempt began.
        rank: Its place in the journal.
        decision: What was decided then.
        exploit: With EXPLOIT, what was chosen.
        left: If its attempt ended after it: in how many seconds, and the place of that in the journal.
    """

    row: dict[str, Any]
    checkpoint: int | None
    spent_s: float
    rank: int
    decision: Decision
    exploit: ExploitChoice | None = None
    left: tuple[float, int] | None = None


@dataclass(slots=True)
class Stretch:
    """What is known of a trial between two failures, or two configurations.

    Attributes:
        generation: How often the trial had taken over another one's checkpoint.
        steps: Its reports by iteration; of two of the same iteration, the later.
        failure: How it failed, after which iteration; None: it did not.
        is_whole: Whether the trial ended of itself after the last step: nothing follows.
    """

    generation: int
    steps: dict[int, Step] = field(default_factory=dict)
    failure: AttemptEnded | None = None
    failed_after: int = 0
    is_whole: bool = False
    #: From the last report to the end, and the place of that in the journal.
    end: tuple[float, int] = (0.0, 0)


@dataclass(slots=True)
class Curve:
    """What the journal knows of one trial.

    Attributes:
        suggested: Its configuration, as it was suggested.
        stretches: What it reported, in order.
        starts: Of each attempt, from the moment when it had a slot to its beginning: seconds, and the place of
            that in the journal.
        fate: How it ended: see `tune_core.simulation.whatif.TrialOutcome`.
        iterations: How many it came to.
        score: What it is compared by.
    """

    suggested: TrialSuggested
    stretches: list[Stretch] = field(default_factory=lambda: [Stretch(0)])
    starts: list[tuple[float, int]] = field(default_factory=list)
    fate: str = "unfinished"
    iterations: int = 0
    score: float | None = None

    def step(self, life: int, iteration: int) -> Step | None:
        """Return a report; None if the journal does not know it.

        Args:
            life: The stretch; those before it count too, back to the last configuration.
            iteration: Which report.
        """
        generation = self.stretches[life].generation
        for stretch in reversed(self.stretches[: life + 1]):
            if stretch.generation != generation:
                return None
            if iteration in stretch.steps:
                return stretch.steps[iteration]
        return None


@dataclass
class Recording:
    """An experiment as its journal tells it.

    Attributes:
        curves: Of all trials, in creation order.
        replay: Where the experiment stands.
        spec: What it is.
        scheduler_state: What its scheduler saved first; None: nothing.
        capacity: How many trials it took to fit the cluster at once.
        total: What the cluster had of each resource; {}: that is not known.
        slots: How many ran at once, at most.
        began: When it began, on the clock of the recording.
        decisions: (trial id, iteration, decision, donor) of all that were not CONTINUE.
        reports: How many reports counted.
        trial_s: Seconds in which attempts ran.
        wall_s: Seconds in which a driver was at work.
        standings: Who was best.
        notes: What a reader has to know, as sentences.
    """

    replay: Replay
    spec: SpecRecorded
    standings: Standings
    curves: dict[str, Curve] = field(default_factory=dict)
    scheduler_state: dict[str, Any] | None = None
    capacity: int = 1
    total: dict[str, float] = field(default_factory=dict)
    slots: int = 1
    began: float = 0.0
    decisions: list[tuple[str, int, str, str]] = field(default_factory=list)
    reports: int = 0
    trial_s: float = 0.0
    wall_s: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def leaves_s(self) -> float:
        """The middle one of the times that attempts took to end after they were told to."""
        return _middle(
            [
                step.left[0]
                for curve in self.curves.values()
                for stretch in curve.stretches
                for step in stretch.steps.values()
                if step.left is not None
            ]
        )

    @property
    def starts_s(self) -> float:
        """The middle one of the times that attempts took to begin."""
        return _middle([seconds for curve in self.curves.values() for seconds, _ in curve.starts])


def read_recording(
    records: Sequence[tuple[Event, Sequence[str]]], standings: Standings, spec: SpecRecorded
) -> Recording:
    """Return what a journal knows.

    Args:
        records: Of one experiment.
        standings: Is told every report.
        spec: What the journal says last of what the experiment is.
    """
    reader = _Reader(records, standings, spec)
    for place, (event, _) in enumerate(records):
        reader.take(place, event)
    return reader.finished()


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _tick(time: float) -> float:
    return round(time * _TICKS) / _TICKS


def _most_at_once(records: Sequence[tuple[Event, Sequence[str]]]) -> int:
    running: set[tuple[str, int]] = set()
    most = 1
    for event, _ in records:
        if isinstance(event, AttemptStarted):
            running.add((event.trial_id, event.attempt_number))
            most = max(most, len(running))
        elif isinstance(event, AttemptEnded):
            running.discard((event.trial_id, event.attempt_number))
        elif isinstance(event, ExperimentResumed):
            running.clear()
    return most


class _Reader:
    """Follows a journal event by event."""

    def __init__(
        self, records: Sequence[tuple[Event, Sequence[str]]], standings: Standings, spec: SpecRecorded
    ) -> None:
        self.recording = Recording(Replay(Controller(ControllerConfig(""))), spec, standings)
        self.recording.slots = _most_at_once(records)
        self._waiting: deque[tuple[str, int]] = deque()
        self._slots: dict[tuple[str, int], float] = {}
        #: When an attempt began, and when it was last heard of.
        self._began: dict[tuple[str, int], float] = {}
        self._heard: dict[tuple[str, int], float] = {}
        #: The iteration that an attempt has come to.
        self._at: dict[tuple[str, int], int] = {}
        self._root = self._last = 0.0
        self._is_at_work = False
        self._num_resumes = self._num_requests = 0

    def take(self, place: int, event: Event) -> None:
        time = _tick(event.time)
        self._count_time(event, time)
        if not isinstance(event, _ANSWERS):
            self._root = time
        replay = self.recording.replay
        is_live = isinstance(event, (AttemptStarted, AttemptEnded)) and (
            replay.controller.live_trial(event.trial_id, event.attempt_number) is not None
        )
        commands = replay.apply(event, lambda trial, report: self._report(place, time, trial, report))
        match event:
            case TrialSuggested():
                self.recording.curves[event.trial_id] = Curve(event)
                self._num_requests += bool(event.request_id)
            case AttemptStarted() if is_live:
                self._begin(place, time, event)
            case CheckpointSaved():
                self._save(event)
            case AttemptEnded() if is_live:
                self._end(place, time, event)
            case ExperimentStarted() | ExperimentResumed() | CapacityChanged():
                self._take_capacity(event)
            case StateSaved() if self.recording.scheduler_state is None:
                self.recording.scheduler_state = event.scheduler
            case SegmentsGivenUp():
                self.recording.notes.append(
                    "segments of the journal were given up: what they held is not known"
                )
            case Steered():
                self._num_requests += 1
        for command in commands:
            if isinstance(command, StartAttempt):
                key = command.trial_id, command.attempt_number
                self._waiting.append(key)
                self._at[key] = command.iteration
        self._fill()

    def finished(self) -> Recording:
        """Return what there is, once all events were taken."""
        recording, controller = self.recording, self.recording.replay.controller
        for trial in recording.replay.trials:
            curve = recording.curves[trial.trial_id]
            curve.iterations, curve.score = trial.iteration, recording.standings.score(trial)
            if trial.status is Status.ERROR:
                curve.fate = "failed"
            elif trial.is_finished():
                curve.fate = "completed" if curve.stretches[-1].is_whole else "stopped"
        notes = recording.notes
        if not controller.has_ended:
            notes.append("the experiment has not ended: these are its curves so far")
        elif controller.stop_request is not None:
            notes.append(f"the experiment was ended early: {controller.stop_request.reason}")
        if self._num_resumes:
            notes.append(
                f"drivers that went on with it: {self._num_resumes}; its order and times are not quite as they were"
            )
        has_failed = any(
            stretch.failure for curve in recording.curves.values() for stretch in curve.stretches
        )
        if has_failed and any(decision == str(Decision.PAUSE) for _, _, decision, _ in recording.decisions):
            notes.append("attempts failed while others were paused: who goes first may differ")
        if self._num_requests:
            notes.append(f"requests that steered it: {self._num_requests}; they are not repeated")
        return recording

    def _count_time(self, event: Event, time: float) -> None:
        begins = isinstance(event, (ExperimentStarted, ExperimentResumed))
        if begins and not self.recording.began:
            self.recording.began = time
        is_at_start = isinstance(event, SegmentsGivenUp) or (
            isinstance(event, SpecRecorded) and not event.request_id
        )
        if begins or is_at_start or (isinstance(event, CapacityChanged) and not event.capacity):
            self._is_at_work = begins
        elif self._is_at_work:
            self.recording.wall_s += max(0.0, time - self._last)
        self._last = time

    def _take_capacity(self, event: ExperimentStarted | ExperimentResumed | CapacityChanged) -> None:
        self.recording.capacity = max(self.recording.capacity, event.capacity)
        self.recording.total = dict(event.total) or self.recording.total
        if isinstance(event, ExperimentResumed):
            self._num_resumes += 1
            self._waiting.clear()
            self._slots.clear()
            self._reopen(event)

    def _reopen(self, event: ExperimentResumed) -> None:
        """Let trials that had ended go on, or start over."""
        curves, trials = self.recording.curves, self.recording.replay.controller.trials
        for trial_id in event.reopened:
            stretch = curves[trial_id].stretches[-1]
            stretch.is_whole = False
            for step in stretch.steps.values():  # the rule that ended it was loosened
                step.row["done"] = False
        for trial_id in event.restarted:
            curves[trial_id] = Curve(curves[trial_id].suggested)
            self.recording.standings.forget(trials[trial_id])

    def _fill(self) -> None:
        while self._waiting and len(self._slots) < self.recording.slots:
            self._slots[self._waiting.popleft()] = self._root

    def _begin(self, place: int, time: float, event: AttemptStarted) -> None:
        key = event.trial_id, event.attempt_number
        if key in self._waiting:  # slots are not given in the order of the orders, then
            self._waiting.remove(key)
            self._slots[key] = time
        starts = self.recording.curves[event.trial_id].starts
        starts.append((max(0.0, time - self._slots.get(key, time)), place))
        self._began[key] = self._heard[key] = time

    def _report(self, place: int, time: float, trial: Trial, report: TrialReported) -> None:
        key = trial.trial_id, report.attempt_number
        spent = time - self._heard[key] if key in self._heard else report.row.get("time_this_iter_s", 0.0)
        self._heard[key], self._at[key] = time, report.iteration
        self._stretch(trial.trial_id).steps[report.iteration] = Step(
            dict(report.row), report.checkpoint, max(0.0, spent), place, report.decision, report.exploit
        )
        self.recording.reports += 1
        self.recording.standings.note(trial, report.iteration, report.row)
        if report.decision is not Decision.CONTINUE:
            donor = report.exploit.donor if report.exploit is not None else ""
            self.recording.decisions.append((trial.trial_id, report.iteration, str(report.decision), donor))

    def _save(self, event: CheckpointSaved) -> None:
        step = self._stretch(event.trial_id).steps.get(event.iteration)
        if step is not None and step.checkpoint is None:
            step.checkpoint = event.index

    def _end(self, place: int, time: float, event: AttemptEnded) -> None:
        key = event.trial_id, event.attempt_number
        self._slots.pop(key, None)
        if key in self._waiting:
            self._waiting.remove(key)
        curve = self.recording.curves[event.trial_id]
        is_over = self.recording.replay.controller.trials[event.trial_id].is_finished()
        if key not in self._began:
            curve.starts.append((0.0, place))
            self._began[key] = self._heard[key] = time
        self.recording.trial_s += time - self._began[key]
        since, stretch = time - self._heard[key], curve.stretches[-1]
        last = stretch.steps.get(self._at[key])
        if is_over and (event.outcome is Outcome.COMPLETED or (last is not None and last.row["done"])):
            stretch.is_whole, stretch.end = True, (since, place)
        if last is not None and last.decision is not Decision.CONTINUE:
            last.left = since, place
            if last.decision is Decision.EXPLOIT and not is_over:
                curve.stretches.append(Stretch(stretch.generation + 1))
        elif event.outcome in _FAILURES:
            stretch.failure, stretch.failed_after, stretch.end = event, self._at[key], (since, place)
            if not is_over:
                curve.stretches.append(Stretch(stretch.generation))

    def _stretch(self, trial_id: str) -> Stretch:
        return self.recording.curves[trial_id].stretches[-1]
