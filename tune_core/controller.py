"""The state machine of an experiment: `handle(event)` returns the commands that follow.

It owns every trial's status and is the only one to change it. It never does IO, reads no
clock and draws no random number, so the journal of its events is the experiment's state.
Invariants: a trial has at most one live lease; a finished trial stays finished and is
completed (told to the searcher) exactly once; events of an older lease change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tune_core.errors import IllegalTransition
from tune_core.messages import (
    Answer,
    CapacityChanged,
    CheckpointSaved,
    Command,
    CompleteTrial,
    Decision,
    DeleteCheckpoint,
    EndExperiment,
    Event,
    ExperimentStarted,
    LeaseEnded,
    LeaseStarted,
    Outcome,
    SearchEnded,
    StartLease,
    StopCause,
    StopLease,
    StopRequested,
    Suggest,
    SuggestionDeferred,
    TrialReported,
    TrialSuggested,
)
from tune_core.metrics import lookup
from tune_core.resources import PlacementGroupFactory
from tune_core.trial import CheckpointRecord, LeasePhase, Status, Trial

#: Causes after which an unfinished trial is left able to go on.
_RESUMABLE = frozenset({StopCause.INTERRUPT, StopCause.FAILURE})


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user configured and the controller has to obey.

    Attributes:
        experiment_id: Five hex digits in front of every trial id.
        max_failures: Failed attempts that each trial may have and go on; -1: any number.
        fail_fast: Stop everything at the first trial that is out of retries.
        max_concurrent: Trials that may be pending or running at once; None: as many as fit.
        num_to_keep: Checkpoints to keep per trial; None: all. The latest is kept besides.
        score_attribute: Metric that ranks checkpoints, nested with "/"; None: the time.
        score_order: Whether more or less of it is better.
    """

    experiment_id: str
    max_failures: int = 0
    fail_fast: Literal["no", "yes", "raise"] = "no"
    max_concurrent: int | None = None
    num_to_keep: int | None = None
    score_attribute: str | None = None
    score_order: Literal["max", "min"] = "max"


class Controller:
    """Decides what happens next in one experiment.

    Args:
        rules: The user's configuration.

    Example:
        >>> controller = Controller(Rules("a1b2c"))
        >>> controller.handle(ExperimentStarted(time=0.0, capacity=1))
        [Suggest(trial_id='a1b2c_00000')]
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.trials: dict[str, Trial] = {}
        self.stop_request: StopRequested | None = None
        self.has_ended = False
        self._capacity = 0
        self._search: Literal["idle", "asked", "deferred", "ended"] = "idle"
        #: Trials whose status is not final, by id: keeps every step independent of the past.
        self._unfinished: dict[str, Trial] = {}
        self._first_failure: Trial | None = None
        self._handlers: dict[type[Event], Callable[[Any], list[Command]]] = {
            ExperimentStarted: self._on_capacity,
            CapacityChanged: self._on_capacity,
            TrialSuggested: self._on_suggested,
            SuggestionDeferred: self._on_deferred,
            SearchEnded: self._on_search_ended,
            LeaseStarted: self._on_lease_started,
            TrialReported: self._on_reported,
            CheckpointSaved: self._on_checkpoint_saved,
            LeaseEnded: self._on_lease_ended,
            StopRequested: self._on_stop_requested,
        }

    def handle(self, event: Event) -> list[Command]:
        """Apply one event; return what has to be done now, in this order.

        Raises:
            IllegalTransition: The event cannot happen in this state: a defect of prefect-tune.
        """
        return self._handlers[type(event)](event)

    def live_trial(self, trial_id: str, lease: int) -> Trial | None:
        """Return the trial if this is its live lease, else None: the sender is out of date."""
        trial = self._unfinished.get(trial_id)
        if trial is None or trial.lease != lease or trial.phase is LeasePhase.NONE:
            return None
        return trial

    @property
    def unfinished(self) -> list[Trial]:
        """Trials whose status is not final, in creation order."""
        return list(self._unfinished.values())

    # Events.

    def _on_capacity(self, event: ExperimentStarted | CapacityChanged) -> list[Command]:
        self._capacity = event.capacity
        return self._next_steps()

    def _on_suggested(self, event: TrialSuggested) -> list[Command]:
        if self._search != "asked" or event.trial_id in self.trials:
            raise IllegalTransition(f"{event!r}: nobody asked for this suggestion")
        self._search = "idle"
        trial = Trial(
            trial_id=event.trial_id,
            number=len(self.trials),
            config=event.config,
            trainable_name=event.trainable_name,
            name=event.trial_name,
            experiment_tag=event.experiment_tag,
            dirname=event.dirname,
            resources=PlacementGroupFactory.from_dict(event.resources),
        )
        self.trials[trial.trial_id] = self._unfinished[trial.trial_id] = trial
        if self.stop_request is not None:  # it came while the question was under way
            return [*self._stopped(trial, event), *self._next_steps()]
        return [*self._start_lease(trial), *self._next_steps()]

    def _on_deferred(self, _: SuggestionDeferred) -> list[Command]:
        self._search = "deferred"
        return self._next_steps()

    def _on_search_ended(self, _: SearchEnded) -> list[Command]:
        self._search = "ended"
        return self._next_steps()

    def _on_lease_started(self, event: LeaseStarted) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.lease)
        if trial is None:
            return []
        trial.move_to(Status.RUNNING, because=event)
        trial.worker = {"pid": event.pid, "hostname": event.hostname, "node_ip": event.node_ip}
        if trial.phase is LeasePhase.STARTING:
            trial.phase = LeasePhase.RUNNING
        return self._next_steps()

    def _on_reported(self, event: TrialReported) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.lease)
        if trial is None or event.iteration <= trial.iteration:
            return []  # an older lease's, or one that came by the commit marker before
        trial.iteration = event.iteration
        trial.last_row = event.row
        commands: list[Command] = []
        if event.checkpoint is not None:
            commands += self._take_checkpoint(trial, event.checkpoint, event.iteration)
        if event.decision is not Decision.CONTINUE:
            trial.phase = LeasePhase.STOPPING
            if trial.decision is not Decision.STOP:  # which no later row takes back
                trial.decision = event.decision
            commands.append(Answer(trial.trial_id, trial.lease, trial.decision))
        return commands

    def _on_checkpoint_saved(self, event: CheckpointSaved) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.lease)
        if trial is None or event.index <= trial.last_checkpoint_index:
            return []  # an older lease's, or one that is known
        return self._take_checkpoint(trial, event.index, event.iteration)

    def _on_lease_ended(self, event: LeaseEnded) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.lease)
        if trial is None:
            return []
        was_stopping = trial.phase is LeasePhase.STOPPING
        trial.phase = LeasePhase.NONE
        if self._search == "deferred":
            self._search = "idle"
        if event.outcome is Outcome.COMPLETED:
            commands = self._finish(trial, Status.TERMINATED, event)
        elif was_stopping or event.outcome is Outcome.STOPPED:
            # A process that dies, or raises in a `finally` block, after it was told to stop has stopped.
            commands = self._stopped(trial, event)
        else:
            commands = self._failed(trial, event)
        return [*commands, *self._next_steps()]

    def _on_stop_requested(self, event: StopRequested) -> list[Command]:
        # The first request rules: Ctrl-C leaves trials able to go on, even if the time runs out meanwhile.
        if self.stop_request is None:
            self.stop_request = event
        return [*self._stop_all(self.stop_request), *self._next_steps()]

    # Steps.

    def _start_lease(self, trial: Trial) -> list[Command]:
        trial.lease += 1
        trial.phase = LeasePhase.STARTING
        trial.decision = Decision.CONTINUE
        start = trial.checkpoint
        trial.iteration = start.iteration if start else 0
        index = start.index if start else None
        return [StartLease(trial.trial_id, trial.lease, index, trial.iteration, trial.last_checkpoint_index)]

    def _stopped(self, trial: Trial, event: Event) -> list[Command]:
        if self.stop_request is None:
            can_go_on = trial.decision is Decision.PAUSE
        else:
            can_go_on = self.stop_request.cause in _RESUMABLE and trial.decision is not Decision.STOP
        if not can_go_on:
            return self._finish(trial, Status.TERMINATED, event)
        trial.move_to(Status.PAUSED, because=event)
        return []

    def _failed(self, trial: Trial, event: LeaseEnded) -> list[Command]:
        trial.num_failures += 1
        trial.error, trial.traceback = event.error or str(event.outcome), event.traceback
        may_retry = self.rules.max_failures < 0 or trial.num_failures <= self.rules.max_failures
        if event.retryable and may_retry and self.stop_request is None:
            trial.move_to(Status.PENDING, because=event)
            return self._start_lease(trial)
        commands = self._finish(trial, Status.ERROR, event)
        if self.rules.fail_fast != "no" and self.stop_request is None:
            self._first_failure = trial
            reason = f"fail_fast: trial {trial.trial_id} failed with {trial.error}"
            self.stop_request = StopRequested(event.time, StopCause.FAIL_FAST, reason)
            commands += self._stop_all(self.stop_request)
        return commands

    def _finish(self, trial: Trial, status: Status, event: Event) -> list[Command]:
        trial.move_to(status, because=event)
        if status is Status.TERMINATED:
            trial.error, trial.traceback = None, ""
        del self._unfinished[trial.trial_id]
        return [CompleteTrial(trial.trial_id, failed=status is Status.ERROR)]

    def _stop_all(self, event: StopRequested) -> list[Command]:
        commands: list[Command] = []
        for trial in self.unfinished:
            if trial.phase in (LeasePhase.STARTING, LeasePhase.RUNNING):
                trial.phase = LeasePhase.STOPPING
                commands.append(StopLease(trial.trial_id, trial.lease))
            elif trial.phase is LeasePhase.NONE and event.cause not in _RESUMABLE:
                commands += self._finish(trial, Status.TERMINATED, event)
        return commands

    def _take_checkpoint(self, trial: Trial, index: int, iteration: int) -> list[Command]:
        """Note a committed checkpoint of the latest report; what it displaces is deleted."""
        trial.last_checkpoint_index = index
        trial.checkpoints.append(CheckpointRecord(index, iteration, trial.last_row))
        return self._forget_checkpoints(trial)

    def _forget_checkpoints(self, trial: Trial) -> list[Command]:
        keep = self.rules.num_to_keep
        if keep is None or len(trial.checkpoints) <= keep:
            return []
        ranked = sorted(trial.checkpoints, key=self.rank_checkpoint)
        kept = {record.index for record in ranked[-keep:]} | {trial.checkpoints[-1].index}
        gone = [record.index for record in trial.checkpoints if record.index not in kept]
        trial.checkpoints = [record for record in trial.checkpoints if record.index in kept]
        return [DeleteCheckpoint(trial.trial_id, index) for index in gone]

    def rank_checkpoint(self, record: CheckpointRecord) -> tuple[int, float, int]:
        """Worse sorts first: a missing or NaN score is worse than -inf; equal scores go by time."""
        if self.rules.score_attribute is None:
            return 0, 0.0, record.index
        value = lookup(record.metrics, self.rules.score_attribute)
        if not isinstance(value, (int, float)) or (isinstance(value, float) and math.isnan(value)):
            return 0, 0.0, record.index
        return 1, value if self.rules.score_order == "max" else -value, record.index

    def _next_steps(self) -> list[Command]:
        """Ask for one more trial, wake a paused one, or end: whatever there is room for."""
        if self.has_ended or self._search == "asked" or self._waits_for_capacity():
            return []
        if self.stop_request is None and self._has_room():
            if self._search == "idle":
                self._search = "asked"
                return [Suggest(f"{self.rules.experiment_id}_{len(self.trials):05d}")]
            paused = next((t for t in self._unfinished.values() if t.status is Status.PAUSED), None)
            if paused is not None:
                paused.move_to(Status.PENDING, because="room for a paused trial")
                return [*self._start_lease(paused), *self._next_steps()]
        if any(trial.phase is not LeasePhase.NONE for trial in self._unfinished.values()):
            return []
        self.has_ended = True
        return [self._end()]

    def _waits_for_capacity(self) -> bool:
        is_wanted = self._search == "idle" or bool(self._unfinished)
        return self._capacity == 0 and self.stop_request is None and is_wanted

    def _has_room(self) -> bool:
        live = [t for t in self._unfinished.values() if t.phase is not LeasePhase.NONE]
        if self.rules.max_concurrent is not None and len(live) >= self.rules.max_concurrent:
            return False
        pending = sum(1 for trial in live if trial.status is Status.PENDING)
        return pending < max(1, self._capacity - (len(live) - pending))

    def _end(self) -> EndExperiment:
        if self._first_failure is not None and self.rules.fail_fast == "raise":
            return EndExperiment(f"trial {self._first_failure.trial_id} failed", self._first_failure.error)
        if self.stop_request is not None:
            return EndExperiment(self.stop_request.reason)
        if self._search == "deferred":
            return EndExperiment("the searcher waits, but no trial runs that it could wait for")
        return EndExperiment("every trial is finished")
