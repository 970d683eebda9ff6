"""The values that controller and shell exchange: events are facts, commands are orders.

Every event that changes an experiment is one line of its journal, so the classes here are
also the journal's format: `event_to_dict` and `event_from_dict` are its only spelling. A class
derived from `Event` is known to both by that alone; its fields' types say how they are read.
Times are seconds since the epoch (UTC); they are read by the shell, never by the core.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar

from tune_core.states import Decision, ExploitChoice, Outcome, Steer, StopCause


@dataclass(frozen=True, slots=True)
class Event:
    """A fact; `time` is when the shell learnt it.

    Attributes:
        is_urgent: Whether the journal writes it at once: beginnings and ends, and trials, whose checkpoints count
            once they are known.
    """

    is_urgent: ClassVar[bool] = False
    #: Every kind of event, by name.
    kinds: ClassVar[dict[str, type[Event]]] = {}

    time: float

    def __init_subclass__(cls) -> None:
        Event.kinds[cls.__name__] = cls


@dataclass(frozen=True, slots=True)
class SpecRecorded(Event):
    """What the experiment is: its journal begins with it, and each extension adds another.

    Attributes:
        revision: 1 for the first, one more for each change.
        spec: The description that `tune_core.config.spec` makes.
        rules: The fields of the controller's `ControllerConfig`, which hold from here on.
        request_id: The request that changed it while it ran; "" if none did.
    """

    is_urgent: ClassVar[bool] = True

    revision: int
    spec: dict[str, Any]
    rules: dict[str, Any]
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ExperimentStarted(Event):
    """A driver began the experiment.

    Attributes:
        capacity: So many trials of the usual size fit the cluster at once.
        total: What the cluster has of each resource; {}: that is not known.
    """

    is_urgent: ClassVar[bool] = True

    capacity: int
    total: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExperimentResumed(Event):
    """A driver took the experiment up again: no attempt from before goes on.

    Attributes:
        capacity: So many trials of the usual size fit the cluster at once.
        skipped: Unfinished trials that are ended as they are.
        reopened: Trials that go on from their last checkpoint, finished ones too.
        restarted: Trials that start over, each with the directory that it gets.
        resources: Trials whose next attempts get other bundles than those before, each with these.
        total: What the cluster has of each resource; {}: that is not known.
    """

    is_urgent: ClassVar[bool] = True

    capacity: int
    skipped: tuple[str, ...] = ()
    reopened: tuple[str, ...] = ()
    restarted: dict[str, str] = field(default_factory=dict)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    total: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SegmentsGivenUp(Event):
    """Segments of the journal were damaged, and its reader chose to go on without them.

    What they said is not known: attempts may have begun whose numbers must not be used again.

    Attributes:
        first: The number of the first one.
        segments: How many they are.
    """

    first: int
    segments: int

    @property
    def most_attempts(self) -> int:
        """More attempts than a trial can have begun in the second that a segment holds."""
        return 100 * self.segments


@dataclass(frozen=True, slots=True)
class StateSaved(Event):
    """What a searcher and a scheduler of the user's own return as their state; a replay gives it back.

    Attributes:
        searcher: The `kind` of it, and the `state` that its `get_state` returned; None: it has none.
        scheduler: The same of the scheduler.
    """

    searcher: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WatchersSaved(Event):
    """What stoppers and callbacks have counted, all events before this one included; a replay gives it back.

    Attributes:
        stoppers: What their `get_state` returned, by place and class; None: nothing has changed.
        callbacks: The same of callbacks.
    """

    stoppers: dict[str, Any] | None = None
    callbacks: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WarmStarted(Event):
    """What was taken from earlier experiments before the first suggestion: a replay tells the searcher again.

    Attributes:
        points: What the searcher learnt: `config`, the last `values` of its metrics, and the `trial` it is from.
        first: Configurations that are suggested first, the best one first.
        summary: What was taken and what left out, for people.
    """

    is_urgent: ClassVar[bool] = True

    points: tuple[dict[str, Any], ...]
    first: tuple[dict[str, Any], ...]
    summary: str


@dataclass(frozen=True, slots=True)
class CapacityChanged(Event):
    """The cluster grew or shrank.

    Attributes:
        capacity: So many trials of the usual size fit it at once now.
        total: What it has of each resource now; {}: nothing new is known.
    """

    capacity: int
    total: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrialSuggested(Event):
    """The searcher, or with a `request_id` somebody else, chose a configuration: replay applies it and never asks."""

    is_urgent: ClassVar[bool] = True

    trial_id: str
    config: dict[str, Any]
    experiment_tag: str
    dirname: str
    trainable_name: str
    resources: dict[str, Any]
    trial_name: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class SuggestionDeferred(Event):
    """The searcher has nothing now, but may have later."""


@dataclass(frozen=True, slots=True)
class SearchRetried(Event):
    """Nothing runs that the searcher could wait for: it is asked again after a while."""


@dataclass(frozen=True, slots=True)
class SearchEnded(Event):
    """The searcher has no more configurations."""


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """The trainable runs, in this process."""

    trial_id: str
    attempt_number: int
    pid: int
    hostname: str
    node_ip: str


@dataclass(frozen=True, slots=True)
class TrialReported(Event):
    """A report arrived, and was decided on.

    Attributes:
        row: User metrics and auto-filled keys, without what `AttemptStarted` and the config say already.
        checkpoint: Index of the checkpoint that was committed with it, if any.
        decision: What the scheduler and the stoppers answered.
        exploit: With EXPLOIT, what was chosen.
        reason: What the decision was based on, see `tune_core.reasons`; {}: nobody has said, or it is CONTINUE.
        resources: The bundles that the next attempt gets, for which this one is to make room once it has saved;
            None: they stay.
    """

    trial_id: str
    attempt_number: int
    iteration: int
    row: dict[str, Any]
    checkpoint: int | None = None
    decision: Decision = Decision.CONTINUE
    exploit: ExploitChoice | None = None
    reason: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Event):
    """A checkpoint was committed after the report that it belongs to, the trial's latest, had been sent."""

    trial_id: str
    attempt_number: int
    iteration: int
    index: int


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """An attempt is over; its process runs no more code of it.

    Attributes:
        error: `ExceptionType: text`, for a failure.
        retryable: False if another attempt would fail in the same way.
        resources: The bundles that the next attempt gets, if there is one, since this one failed as it did;
            None: they stay.
    """

    is_urgent: ClassVar[bool] = True

    trial_id: str
    attempt_number: int
    outcome: Outcome
    error: str | None = None
    traceback: str = ""
    retryable: bool = True
    resources: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RelocationRequested(Event):
    """A node that holds bundles of this attempt is about to leave: the trial is to save, and to go on elsewhere."""

    trial_id: str
    attempt_number: int
    reason: str


@dataclass(frozen=True, slots=True)
class PausedChosen(Event):
    """The scheduler chose which paused trial goes on (None: none now), or what becomes of several.

    Attributes:
        trial_id: Goes on; None: nobody does now.
        stopped: Never go on.
        reason: By the ids of trials that are paused, why they do not go on, see `tune_core.reasons`.
        exploits: Stay paused, and go on later from what was chosen for each.
    """

    trial_id: str | None
    stopped: tuple[str, ...] = ()
    reason: dict[str, dict[str, Any]] = field(default_factory=dict)
    exploits: dict[str, ExploitChoice] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StopRequested(Event):
    """Somebody wants the whole experiment to stop."""

    is_urgent: ClassVar[bool] = True

    cause: StopCause
    reason: str


@dataclass(frozen=True, slots=True)
class SlotsHeld(Event):
    """How much of the cluster this driver has held since it began, whether or not attempts ran in it.

    Attributes:
        seconds: Of each resource, the amount times the seconds for which placement groups held it.
    """

    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Steered(Event):
    """A request of `tune_core.steering.inbox` was accepted: something is to pause, to go on, or to end.

    Attributes:
        request_id: The request.
        action: What is wanted.
        trial_id: Of this trial; "": of the experiment.
        reason: Why, for the STOP of an experiment.
    """

    is_urgent: ClassVar[bool] = True

    request_id: str
    action: Steer
    trial_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """An order from the controller to the shell."""


@dataclass(frozen=True, slots=True)
class Suggest(Command):
    """Ask the searcher for the configuration of a new trial; answer with an event."""

    trial_id: str


@dataclass(frozen=True, slots=True)
class StartAttempt(Command):
    """Start attempt `attempt_number` of a trial, from the checkpoint `checkpoint` (None: from scratch).

    `highest_index` is the newest committed checkpoint of the trial that the journal knows: a
    marker above it, written by an older attempt, is an orphan. `source` is the trial that
    the checkpoint belongs to, "" for the trial itself.
    """

    trial_id: str
    attempt_number: int
    checkpoint: int | None
    iteration: int
    highest_index: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Answer(Command):
    """Tell a running attempt the decision on its report (anything but CONTINUE)."""

    trial_id: str
    attempt_number: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class StopAttempt(Command):
    """Tell an attempt, whatever it is doing, to stop at its next report."""

    trial_id: str
    attempt_number: int


@dataclass(frozen=True, slots=True)
class ChoosePaused(Command):
    """Ask the scheduler which paused trial goes on, and which never will; answer with an event."""


@dataclass(frozen=True, slots=True)
class DeleteCheckpoint(Command):
    """Remove a checkpoint that nothing needs any more."""

    trial_id: str
    index: int


@dataclass(frozen=True, slots=True)
class CompleteTrial(Command):
    """A trial is over: tell searcher, scheduler, callbacks; close its files."""

    trial_id: str
    failed: bool


@dataclass(frozen=True, slots=True)
class EndExperiment(Command):
    """Nothing is left to do. `error` is raised out of `fit()` (`fail_fast="raise"`)."""

    reason: str
    error: str | None = None


#: Values that say nothing: records without them are shorter, and as older versions wrote them.
_NOT_WRITTEN: dict[str, Any] = {
    "request_id": "",
    "total": {},
    "resources": None,
    "reason": {},
    "exploits": {},
}
_EXPLOIT_FIELDS = tuple(each.name for each in fields(ExploitChoice))


@cache
def _fields(kind: str) -> tuple[str, ...]:
    return tuple(each.name for each in fields(Event.kinds[kind]))


@cache
def _readers(kind: str) -> dict[str, Callable[[Any], Any]]:
    """What makes values of JSON those of the fields: of enums, tuples, and of what was chosen."""
    hints = typing.get_type_hints(Event.kinds[kind])
    readers = {name: _reader(hints[name]) for name in _fields(kind)}
    return {name: reader for name, reader in readers.items() if reader is not None}


def _reader(hint: Any) -> Callable[[Any], Any] | None:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint
    if typing.get_origin(hint) is tuple:
        return tuple
    if isinstance(hint, types.UnionType) and ExploitChoice in typing.get_args(hint):
        return lambda value: None if value is None else ExploitChoice(**value)
    if typing.get_origin(hint) is dict and ExploitChoice in typing.get_args(hint):
        return lambda values: {name: ExploitChoice(**value) for name, value in values.items()}
    return None


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return the event as the JSON object that the journal holds."""
    if isinstance(event, TrialReported):
        return _report_to_dict(event)
    kind = type(event).__name__
    record: dict[str, Any] = {"event": kind}
    for name in _fields(kind):
        value = getattr(event, name)
        record[name] = value.value if isinstance(value, StrEnum) else value
    if isinstance(event, PausedChosen):
        record["exploits"] = {name: _exploit_to_dict(choice) for name, choice in event.exploits.items()}
    for name, nothing in _NOT_WRITTEN.items():
        if record.get(name, ...) == nothing:
            del record[name]
    return record


def _exploit_to_dict(choice: ExploitChoice) -> dict[str, Any]:
    return {name: getattr(choice, name) for name in _EXPLOIT_FIELDS}


def _report_to_dict(event: TrialReported) -> dict[str, Any]:
    """The same of a report, of which there are a thousand times as many: written out, it takes a third of the time."""
    record = {
        "event": "TrialReported",
        "time": event.time,
        "trial_id": event.trial_id,
        "attempt_number": event.attempt_number,
        "iteration": event.iteration,
        "row": event.row,
        "checkpoint": event.checkpoint,
        "decision": event.decision.value,
    }
    if event.exploit is not None:
        record["exploit"] = _exploit_to_dict(event.exploit)
    if event.reason:
        record["reason"] = event.reason
    if event.resources is not None:
        record["resources"] = event.resources
    return record


def event_from_dict(data: dict[str, Any]) -> Event:
    """Rebuild an event from its journal object.

    Raises:
        ValueError: The journal was written by a newer prefect-tune that knows more events.
    """
    values = dict(data)
    name = values.pop("event", None)
    if name not in Event.kinds:
        known = ", ".join(Event.kinds)
        raise ValueError(
            f"unknown journal event {name!r}; this version knows {known}: use a newer prefect-tune"
        )
    for key, read in _readers(name).items():
        if key in values:
            values[key] = read(values[key])
    return Event.kinds[name](**values)


def describe(command: Command) -> str:
    """Return a command as the short text that the journal keeps beside its event.

    Example:
        >>> describe(StopAttempt("a1b2c_00000", 2))
        'StopAttempt a1b2c_00000 2'
    """
    values = " ".join(str(getattr(command, f.name)) for f in fields(command))
    return f"{type(command).__name__} {values}".strip()
