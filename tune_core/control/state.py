"""An experiment's state, as a fold over its events: the same code applies those of a journal and those that are new.

Owns what follows from events alone. Nothing writes to it from outside, asks a searcher or reads a clock.
"""

from __future__ import annotations

from tune_core.control.controller import Controller
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    Command,
    CompleteTrial,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    SegmentsGivenUp,
    SpecRecorded,
    Steered,
    TrialReported,
    TrialSuggested,
    WarmStarted,
)
from tune_core.control.usage import Usage
from tune_core.states import StopCause
from tune_core.trial import AttemptPhase, Trial

#: A trial's files are uploaded well within this time, in seconds: older ends need not be looked after.
SETTLED_S = 600.0


class ExperimentState:
    """What the events of one experiment have come to.

    Args:
        controller: Decides what follows from each event.

    Attributes:
        controller: The same; it handles events only by `apply`.
        trials: All trials in creation order; handed out for reading.
        spec: What `SpecRecorded` said last; None before that.
        handled: Requests that were accepted.
        warm_start: What was taken from earlier experiments; None: nothing.
        ended_at: When each finished trial ended, epoch seconds.
        last_time: When the last event was, epoch seconds.
        usage: What attempts have taken of the cluster.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.trials: list[Trial] = []
        self.spec: SpecRecorded | None = None
        self.handled: set[str] = set()
        self.warm_start: WarmStarted | None = None
        self.ended_at: dict[str, float] = {}
        self.last_time = 0.0
        self.usage = Usage()
        self._worked_s = 0.0
        self._is_at_work = False

    def apply(self, event: Event) -> list[Command]:
        """Apply one event; return what has to be done now, in this order.

        Raises:
            IllegalTransition: The event cannot happen in this state: a defect of prefect-tune.
        """
        if isinstance(event, TrialReported):  # of which there are a thousand times as many
            self._count_time(event.time)
            return self.controller.handle(event)
        self._spend(event)
        if isinstance(event, SpecRecorded):
            self.spec = event
        elif isinstance(event, WarmStarted):
            self.warm_start = event
        if isinstance(event, (SpecRecorded, TrialSuggested, Steered)) and event.request_id:
            self.handled.add(event.request_id)
        if isinstance(event, AttemptEnded):
            self.usage.end(event.trial_id, event.attempt_number, event.time)
        commands = self.controller.handle(event)
        if isinstance(event, AttemptStarted):
            self._note_begin(event)
        if isinstance(event, TrialSuggested):
            self.trials.append(self.controller.trials[event.trial_id])
        for command in commands:
            if isinstance(command, CompleteTrial):
                self.ended_at[command.trial_id] = event.time
        return commands

    @property
    def live(self) -> list[Trial]:
        """Trials that have a live attempt."""
        return [trial for trial in self.trials if trial.phase is not AttemptPhase.NONE]

    @property
    def is_over(self) -> bool:
        """Whether the experiment has come to its own end: nothing has interrupted it."""
        return self.controller.has_ended and not self.controller.is_interrupted

    @property
    def budget_used_s(self) -> float:
        """Seconds of `time_budget_s` that drivers have used up; one that had ended the experiment starts over."""
        request = self.controller.stop_request
        is_used_up = request is not None and request.cause is StopCause.TIME_BUDGET
        return 0.0 if self.controller.has_ended and is_used_up else self._worked_s

    @property
    def unsettled(self) -> list[Trial]:
        """Trials whose files may lack what the journal holds: those that had not ended long before its last event."""
        limit = self.last_time - SETTLED_S
        return [
            trial for trial in self.trials if not trial.is_finished() or self.ended_at[trial.trial_id] > limit
        ]

    def _note_begin(self, event: AttemptStarted) -> None:
        trial = self.controller.live_trial(event.trial_id, event.attempt_number)
        if trial is not None:
            amounts = trial.resources.required_resources
            self.usage.begin(event.trial_id, event.attempt_number, amounts, event.time)

    def _spend(self, event: Event) -> None:
        """Count the time in which a driver was at work, and not the time between two of them."""
        begins = isinstance(event, (ExperimentStarted, ExperimentResumed))
        if begins:
            self._worked_s = self.budget_used_s
        is_at_start = isinstance(event, SegmentsGivenUp) or (
            isinstance(event, SpecRecorded) and not event.request_id
        )
        if begins or is_at_start or (isinstance(event, CapacityChanged) and not event.capacity):
            self.usage.end_all(self.last_time)  # with the driver before
            self._is_at_work = begins
            self.last_time = event.time
        else:
            self._count_time(event.time)

    def _count_time(self, time: float) -> None:
        if self._is_at_work and time > self.last_time:
            self._worked_s += time - self.last_time
        self.last_time = time
