"""The state machine of an experiment: `handle(event)` returns the commands that follow.

It owns every trial's status and is the only one to change it. It never does IO, reads no
clock and draws no random number, so the journal of its events is the experiment's state.
Invariants: a trial has at most one live attempt; a finished trial stays finished and is
completed (told to the searcher) exactly once; events of an older attempt change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    Answer,
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    CheckpointSaved,
    ChoosePaused,
    Command,
    CompleteTrial,
    EndExperiment,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    PausedChosen,
    RelocationRequested,
    SearchEnded,
    SearchRetried,
    SegmentsGivenUp,
    SlotsHeld,
    SpecRecorded,
    StartAttempt,
    StateSaved,
    Steered,
    StopAttempt,
    StopRequested,
    Suggest,
    SuggestionDeferred,
    TrialReported,
    TrialSuggested,
    WarmStarted,
    WatchersSaved,
)
from tune_core.control.questions import Questions
from tune_core.control.retention import Retention
from tune_core.errors import IllegalTransition
from tune_core.resources import ONE_CPU, PlacementGroupFactory
from tune_core.states import Decision, Outcome, Steer, StopCause
from tune_core.trial import Attempt, AttemptPhase, CheckpointRecord, Status, Storage, Trial

#: Causes after which an unfinished trial is left able to go on.
_RESUMABLE = frozenset({StopCause.INTERRUPT, StopCause.FAILURE})


class Controller:
    """Decides what happens next in one experiment.

    Args:
        rules: The user's configuration.
        storage: Is handed on to the trials, for those that they are shown to.

    Example:
        >>> controller = Controller(ControllerConfig("a1b2c"))
        >>> controller.handle(ExperimentStarted(time=0.0, capacity=1))
        [Suggest(trial_id='a1b2c_00000')]
    """

    def __init__(self, rules: ControllerConfig, storage: Storage | None = None) -> None:
        self.rules, self._storage = rules, storage
        self.trials: dict[str, Trial] = {}
        self.stop_request: StopRequested | None = None
        self.has_ended = self.is_paused = False  #: Whether it is over; whether somebody has paused all of it.
        self._capacity = 0
        self._ask = Questions()
        #: Paused trials that ended since nobody chose them; trials that have failed for good.
        self._given_up = self._num_failed = 0
        #: Trials whose status is not final, by id: keeps every step independent of the past.
        self._unfinished: dict[str, Trial] = {}
        self._retention = Retention(rules, self.trials, self._unfinished)
        self._first_failure: Trial | None = None
        #: The bundles of the latest trial: most have those of the one before, and to make them takes long.
        self._latest_bundles = ONE_CPU
        self._num_orders = self._attempt_floor = 0  # attempts ordered so far; what numbers to come are above
        self._handlers: dict[type[Event], Callable[[Any], list[Command]]] = {
            SpecRecorded: self._on_spec,
            **dict.fromkeys((ExperimentStarted, CapacityChanged), self._on_capacity),
            ExperimentResumed: self._on_resumed,
            **dict.fromkeys((StateSaved, WarmStarted, WatchersSaved, SlotsHeld), lambda _: []),
            SegmentsGivenUp: self._on_given_up,
            TrialSuggested: self._on_suggested,
            **dict.fromkeys((SuggestionDeferred, SearchEnded), self._on_no_suggestion),
            SearchRetried: self._on_search_retried,
            AttemptStarted: self._on_attempt_started,
            TrialReported: self._on_reported,
            CheckpointSaved: self._on_checkpoint_saved,
            AttemptEnded: self._on_attempt_ended,
            RelocationRequested: self._on_move_requested,
            PausedChosen: self._on_paused_chosen,
            StopRequested: self._on_stop_requested,
            Steered: self._on_steered,
        }

    def handle(self, event: Event) -> list[Command]:
        """Apply one event; return what has to be done now, in this order.

        Raises:
            IllegalTransition: The event cannot happen in this state: a defect of prefect-tune.
        """
        return self._handlers[type(event)](event)

    def live_trial(self, trial_id: str, attempt_number: int) -> Trial | None:
        """Return the trial if this is its live attempt, else None: the sender is out of date."""
        trial = self._unfinished.get(trial_id)
        attempt = trial.attempt if trial is not None and trial.attempt_number == attempt_number else None
        return trial if attempt is not None and attempt.phase is not AttemptPhase.NONE else None

    def rank_checkpoint(self, record: CheckpointRecord) -> tuple[int, float, int]:
        """Return what checkpoints are ranked by: worse sorts first."""
        return self._retention.rank(record)

    @property
    def is_interrupted(self) -> bool:
        """Whether it was told to stop in a way that leaves unfinished trials able to go on."""
        return self.stop_request is not None and self.stop_request.cause in _RESUMABLE

    @property
    def waits_for_search(self) -> bool:
        """Whether nothing can happen until the searcher, which had nothing to suggest, is asked again."""
        if (
            self._ask.search != "deferred"
            or self.has_ended
            or self.stop_request is not None
            or self.is_paused
        ):
            return False
        return not self._live()

    @property
    def unfinished(self) -> list[Trial]:
        """Trials whose status is not final, in creation order."""
        return list(self._unfinished.values())

    def _bundles(self, resources: dict[str, Any]) -> PlacementGroupFactory:
        if resources != self._latest_bundles.to_dict():
            self._latest_bundles = PlacementGroupFactory.from_dict(resources)
        return self._latest_bundles

    # Events.

    def _on_capacity(self, event: ExperimentStarted | CapacityChanged) -> list[Command]:
        self._capacity = event.capacity
        return self._next_steps()

    def _on_spec(self, event: SpecRecorded) -> list[Command]:
        self.rules = self._retention.rules = ControllerConfig(**event.rules)
        if not event.request_id:
            return []  # it begins, or is about to be resumed
        if self._ask.search == "ended":
            self._ask.search = "idle"
        return self._next_steps()

    def _on_given_up(self, event: SegmentsGivenUp) -> list[Command]:
        highest = max((trial.attempt_number for trial in self.trials.values()), default=0)
        self._attempt_floor = max(self._attempt_floor, highest) + event.most_attempts
        return []

    def _on_resumed(self, event: ExperimentResumed) -> list[Command]:
        self._capacity = event.capacity
        if self.has_ended and not self.is_interrupted:
            self.is_paused = False
        if self.has_ended or self.is_interrupted:
            self.stop_request = self._first_failure = None  # else what had begun to end still ends
        self.has_ended, self._ask = False, Questions()
        for trial_id, resources in event.resources.items():
            self.trials[trial_id].give(self._bundles(resources))
        commands: list[Command] = []
        ready: list[Trial] = []
        for trial in sorted(self.unfinished, key=lambda trial: trial.turn):
            if trial.trial_id in event.skipped:
                trial.end_attempt()
                commands += self._finish(trial, Status.TERMINATED, event)
            elif trial.trial_id not in event.restarted:
                commands += self._end_with_driver(trial, event)
                ready += [trial] if trial.status is Status.PENDING else []
        for trial_id in (*event.reopened, *event.restarted):
            trial = self.trials[trial_id]
            if trial_id in event.restarted or trial.is_finished():
                self._num_failed -= trial.status is Status.ERROR
                trial.reopen(event.restarted.get(trial_id))
                ready.append(trial)
        self._unfinished.clear()  # it keeps creation order
        self._unfinished.update(
            (name, trial) for name, trial in self.trials.items() if not trial.is_finished()
        )
        for trial in ready:
            if self._hold(trial, event):
                continue
            if self.rules.max_concurrent is None or len(self._live()) < self.rules.max_concurrent:
                commands += self._start_again(trial)
        return [*commands, *self._next_steps()]

    def _end_with_driver(self, trial: Trial, event: ExperimentResumed) -> list[Command]:
        """Make an unfinished trial ready to go on; an attempt that was live has ended with its driver."""
        if trial.end_attempt() and (trial.decision is Decision.STOP or self.stop_request is not None):
            return self._finish(trial, Status.TERMINATED, event)
        if trial.decision is Decision.PAUSE and not (trial.should_relocate or trial.is_set_aside):
            trial.move_to(Status.PAUSED, because=event)
            return []
        commands = self._retention.take_over([(trial, trial.exploit)] if trial.exploit is not None else [])
        trial.move_to(Status.PENDING, because=event)
        return commands

    def _start_again(self, trial: Trial) -> list[Command]:
        """Start an attempt of a trial that a resume has made ready."""
        waits_to_pause = trial.wants_pause  # the scheduler does not say it again
        commands = self._start_attempt(trial)
        trial.live.wants_pause = waits_to_pause
        return commands

    def _on_suggested(self, event: TrialSuggested) -> list[Command]:
        if event.trial_id in self.trials or (self._ask.search != "asked" and not event.request_id):
            raise IllegalTransition(f"{event!r}: nobody asked for this suggestion")
        if not event.request_id:
            self._ask.search = "idle"
        trial = Trial(
            trial_id=event.trial_id,
            number=len(self.trials),
            config=event.config,
            trainable_name=event.trainable_name,
            name=event.trial_name,
            experiment_tag=event.experiment_tag,
            dirname=event.dirname,
            resources=self._bundles(event.resources),
            storage=self._storage,
        )
        self.trials[trial.trial_id] = self._unfinished[trial.trial_id] = trial
        self._ask.again()
        if self.stop_request is not None:  # it came while the question was under way
            return [*self._stopped(trial, event), *self._next_steps()]
        if event.request_id:  # whether there is room, nobody has looked
            self._hold(trial, event)
            return self._next_steps()
        return [*self._go_on(trial, event), *self._next_steps()]

    def _on_search_retried(self, _: SearchRetried) -> list[Command]:
        if self.waits_for_search:
            self._ask.again()
        return self._next_steps()

    def _on_no_suggestion(self, event: SuggestionDeferred | SearchEnded) -> list[Command]:
        self._ask.nothing_new(self.rules, is_over=isinstance(event, SearchEnded))
        return self._next_steps()

    def _on_attempt_started(self, event: AttemptStarted) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.attempt_number)
        if trial is None:
            return []
        trial.begin({"pid": event.pid, "hostname": event.hostname, "node_ip": event.node_ip}, event)
        return self._next_steps()

    def _on_reported(self, event: TrialReported) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.attempt_number)
        if trial is None or event.iteration <= (attempt := trial.live).iteration:
            return []  # an older attempt's, or one that came by the commit marker before
        trial.take_report(attempt, event.iteration, event.row)
        if event.reason:
            trial.reason = event.reason
        released = None
        if event.checkpoint is not None:
            released = trial.add_checkpoint(event.checkpoint, event.iteration)
        promised = self._retention.find(attempt.exploit) if attempt.exploit is not None else None
        is_told = self._decide(trial, attempt, event)  # before anything is deleted: it may need a checkpoint
        commands: list[Command] = []
        if event.checkpoint is not None:
            commands += self._retention.forget(trial)
            commands += self._retention.release(released)
        if promised is not None and attempt.exploit is None:  # a STOP has taken its place
            commands += self._retention.release(promised)
        if is_told:
            commands.append(Answer(trial.trial_id, trial.attempt_number, attempt.decision))
        if self._ask.choice == "declined":
            self._ask.again()
            commands += self._next_steps()
        return commands

    def _on_checkpoint_saved(self, event: CheckpointSaved) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.attempt_number)
        if trial is None or event.index <= trial.last_checkpoint_index:
            return []  # an older attempt's, or one that is known
        released = trial.add_checkpoint(event.index, event.iteration)
        return [*self._retention.forget(trial), *self._retention.release(released)]

    def _decide(self, trial: Trial, attempt: Attempt, event: TrialReported) -> bool:
        """Take a decision over; return whether the attempt has to be told to stop."""
        decision = event.decision
        if event.resources is not None:
            trial.move_to_resources(self._bundles(event.resources), event.iteration)
        is_plain = decision is attempt.decision is Decision.CONTINUE and event.checkpoint is None
        if is_plain and not (attempt.should_relocate or self._is_paused_by_user(trial)):
            return False  # as nearly always
        if decision is Decision.CONTINUE and attempt.wants_pause and event.checkpoint is not None:
            decision = Decision.PAUSE
        if attempt.decision is Decision.CONTINUE and decision is not Decision.CONTINUE:
            attempt.should_relocate = False  # it leaves anyway, and not to go on at once
        is_to_leave = decision is attempt.decision is Decision.CONTINUE and (
            attempt.should_relocate or self._is_paused_by_user(trial)
        )
        if is_to_leave and (self.rules.saves_on_request or event.checkpoint is not None):
            decision = Decision.PAUSE
            attempt.should_relocate = True
        if decision is Decision.PAUSE and not self._can_pause(trial, event):
            attempt.wants_pause, decision = True, Decision.CONTINUE
        if decision is Decision.STOP or attempt.decision is Decision.CONTINUE:  # else the earlier one stands
            attempt.decision = decision
            attempt.exploit = event.exploit if decision is Decision.EXPLOIT else None
            if decision is Decision.EXPLOIT:
                self._retention.find(attempt.exploit)
        if attempt.decision is Decision.CONTINUE:
            return False
        attempt.phase = AttemptPhase.STOPPING
        trial.num_fruitless += attempt.decision is not Decision.STOP
        return True

    def _can_pause(self, trial: Trial, event: TrialReported) -> bool:
        """A function saves only with a report: unless it never does, work would be lost before that."""
        return self.rules.saves_on_request or event.checkpoint is not None or trial.start_point is None

    def _on_attempt_ended(self, event: AttemptEnded) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.attempt_number)
        if trial is None:
            return []
        was_stopping = trial.phase is AttemptPhase.STOPPING
        trial.end_attempt()
        self._ask.again()
        if event.outcome is Outcome.COMPLETED:
            trial.reason = {} if trial.decision is Decision.CONTINUE else trial.reason  # the end is its own
            trial.live.has_returned = not was_stopping
            commands = self._finish(trial, Status.TERMINATED, event)
        elif was_stopping or event.outcome is Outcome.STOPPED:
            # A process that dies, or raises in a `finally` block, after it was told to stop has stopped.
            commands = self._stopped(trial, event)
        else:
            commands = self._failed(trial, event)
        return [*commands, *self._next_steps()]

    def _on_move_requested(self, event: RelocationRequested) -> list[Command]:
        trial = self.live_trial(event.trial_id, event.attempt_number)
        if trial is not None and trial.phase is not AttemptPhase.STOPPING:
            trial.live.should_relocate = True
        return []

    def _on_paused_chosen(self, event: PausedChosen) -> list[Command]:
        if self._ask.choice != "asked":
            raise IllegalTransition(f"{event!r}: nobody asked for this choice")
        self._ask.choice = "idle"
        if self.stop_request is not None:  # it came while the question was under way
            return self._next_steps()
        exploits = [(self.trials[trial_id], choice) for trial_id, choice in event.exploits.items()]
        commands = self._retention.take_over(exploits)
        for trial_id, reason in event.reason.items():
            self.trials[trial_id].reason = reason
        for trial_id in event.stopped:
            commands += self._finish(self.trials[trial_id], Status.TERMINATED, event)
        if event.trial_id is None and not (event.stopped or event.exploits):
            self._ask.choice = "declined"
        if event.stopped and self._ask.search == "deferred":
            self._ask.search = "idle"
        if event.trial_id is not None:
            trial = self.trials[event.trial_id]
            if trial.status is not Status.PAUSED:
                raise IllegalTransition(f"{event!r}: trial {trial.trial_id} is {trial.status}")
            trial.move_to(Status.PENDING, because=event)
            trial.reason = {}
            commands += self._go_on(trial, event)
        return [*commands, *self._next_steps()]

    def _on_stop_requested(self, event: StopRequested) -> list[Command]:
        # The first request rules: Ctrl-C leaves trials able to go on, even if the time runs out meanwhile.
        if self.stop_request is None:
            self.stop_request = event
        return [*self._stop_all(self.stop_request), *self._next_steps()]

    def _on_steered(self, event: Steered) -> list[Command]:
        if self.has_ended or self.stop_request is not None:
            return []
        if event.action is Steer.STOP and not event.trial_id:
            return self._on_stop_requested(StopRequested(event.time, StopCause.REQUEST, event.reason))
        trial = self._unfinished.get(event.trial_id)
        if trial is None and event.trial_id:
            return []  # it has ended
        if event.action is Steer.STOP and trial is not None:
            return [*self._stop_trial(trial, event), *self._next_steps()]
        if trial is not None:
            trial.is_paused_by_user = event.action is Steer.PAUSE
        else:
            self.is_paused = event.action is Steer.PAUSE
        commands: list[Command] = []
        for each in self.unfinished if trial is None else [trial]:
            if event.action is Steer.PAUSE:
                commands += self._pause(each, event)
            else:
                self._wake(each, event)
        self._ask.again()
        return [*commands, *self._next_steps()]

    # Steps.

    def _is_paused_by_user(self, trial: Trial) -> bool:
        """Whether somebody has paused this trial, or all."""
        return self.is_paused or trial.is_paused_by_user

    def _hold(self, trial: Trial, because: object) -> bool:
        """Leave a trial that could go on paused, if it is held; return whether it is."""
        if not self._is_paused_by_user(trial):
            return False
        trial.move_to(Status.PAUSED, because=because)
        trial.is_set_aside = True
        return True

    def _go_on(self, trial: Trial, because: object) -> list[Command]:
        """Start the next attempt, unless somebody has paused the trial."""
        return [] if self._hold(trial, because) else self._start_attempt(trial)

    def _pause(self, trial: Trial, because: object) -> list[Command]:
        """Pause what does not run yet; what runs pauses when it has saved."""
        if trial.phase is AttemptPhase.NONE and trial.status is Status.PENDING:
            self._hold(trial, because)
        elif trial.phase is AttemptPhase.STARTING:
            attempt = trial.live
            attempt.decision, attempt.should_relocate = Decision.PAUSE, True
            attempt.phase = AttemptPhase.STOPPING
            return [StopAttempt(trial.trial_id, trial.attempt_number)]
        return []

    def _wake(self, trial: Trial, because: object) -> None:
        """Let a trial go on that nobody holds any more; one that the scheduler has paused waits for that."""
        if trial.status is Status.PAUSED and trial.is_set_aside and not self._is_paused_by_user(trial):
            trial.move_to(Status.PENDING, because=because)

    def _stop_trial(self, trial: Trial, because: object) -> list[Command]:
        trial.reason = {"decision": str(Decision.STOP), "rule": "somebody asked for it"}
        if trial.phase is AttemptPhase.NONE:
            self._ask.again()
            return self._finish(trial, Status.TERMINATED, because)
        promised = self._retention.find(trial.exploit) if trial.exploit is not None else None
        is_told, attempt = trial.phase is AttemptPhase.STOPPING, trial.live
        attempt.decision, attempt.exploit, attempt.phase = Decision.STOP, None, AttemptPhase.STOPPING
        commands = self._retention.release(promised)
        return commands if is_told else [*commands, StopAttempt(trial.trial_id, trial.attempt_number)]

    def _start_attempt(self, trial: Trial) -> list[Command]:
        self._num_orders += 1
        trial.start_attempt(max(trial.attempt_number, self._attempt_floor) + 1, self._num_orders)
        start = trial.start_point
        index = start.record.index if start else None
        source = start.trial_id if start and start.trial_id != trial.trial_id else ""
        highest = trial.last_checkpoint_index
        return [StartAttempt(trial.trial_id, trial.attempt_number, index, trial.iteration, highest, source)]

    def _stopped(self, trial: Trial, event: Event) -> list[Command]:
        if self.stop_request is None:
            can_go_on = trial.decision in (Decision.PAUSE, Decision.EXPLOIT)
        else:
            can_go_on = self.is_interrupted and trial.decision is not Decision.STOP
        if not can_go_on:
            return self._finish(trial, Status.TERMINATED, event)
        if trial.num_fruitless > self.rules.max_fruitless and self.stop_request is None:
            trial.error, trial.traceback = trial.why_stuck, ""
            return self._fail_for_good(trial, event)
        commands = self._retention.take_over([(trial, trial.exploit)] if trial.exploit is not None else [])
        goes_on = trial.decision is Decision.EXPLOIT or trial.should_relocate
        if goes_on and self.stop_request is None:
            trial.move_to(Status.PENDING, because=event)
            return [*commands, *self._go_on(trial, event)]
        trial.move_to(Status.PAUSED, because=event)
        return commands

    def _fall_back(self, trial: Trial, event: AttemptEnded) -> list[Command] | None:
        """Start from the checkpoint before the damaged one; None if there is none."""
        borrowed = trial.borrowed
        if not self.rules.falls_back or self.stop_request is not None or not self._retention.step_back(trial):
            return None
        trial.error, trial.traceback = event.error, event.traceback
        trial.move_to(Status.PENDING, because=event)
        return [*self._retention.release(borrowed), *self._go_on(trial, event)]

    def _failed(self, trial: Trial, event: AttemptEnded) -> list[Command]:
        if event.outcome is Outcome.CORRUPTED:
            commands = self._fall_back(trial, event)
            if commands is not None:
                return commands
        trial.error, trial.traceback = event.error or str(event.outcome), event.traceback
        if event.resources is not None:
            trial.live.next_resources = self._bundles(event.resources)
        is_lost, rules = event.outcome is Outcome.LOST, self.rules
        limit = rules.max_infrastructure_failures if is_lost else rules.max_failures
        count = trial.count_failure(is_lost=is_lost)
        may_retry = limit < 0 or count <= limit
        if event.retryable and may_retry and self.stop_request is None:
            trial.move_to(Status.PENDING, because=event)
            return self._go_on(trial, event)
        if is_lost and not may_retry:
            trial.error += f" (loss {count} in a row, max_infrastructure_failures={limit})"
        return self._fail_for_good(trial, event)

    def _fail_for_good(self, trial: Trial, event: Event) -> list[Command]:
        trial.reason = {}
        commands = self._finish(trial, Status.ERROR, event)
        if (stop := self.rules.stop_after_failure(trial, self._num_failed)) and self.stop_request is None:
            self._first_failure, self.stop_request = trial, StopRequested(event.time, *stop)
            commands += self._stop_all(self.stop_request)
        return commands

    def _finish(self, trial: Trial, status: Status, because: object) -> list[Command]:
        trial.move_to(status, because=because)
        self._num_failed += status is Status.ERROR
        if status is Status.TERMINATED:
            trial.error, trial.traceback = None, ""
        del self._unfinished[trial.trial_id]
        released = self._retention.needed_by(trial)
        trial.need_no_others()
        self._retention.shorten(trial)
        commands = [command for point in released for command in self._retention.release(point)]
        return [CompleteTrial(trial.trial_id, failed=status is Status.ERROR), *commands]

    def _stop_all(self, event: StopRequested) -> list[Command]:
        commands: list[Command] = []
        for trial in self.unfinished:
            if trial.phase is not AttemptPhase.STOPPING and event.cause not in _RESUMABLE:
                trial.reason = {"decision": str(Decision.STOP), "rule": event.reason}
            if trial.phase in (AttemptPhase.STARTING, AttemptPhase.RUNNING):
                trial.live.phase = AttemptPhase.STOPPING
                commands.append(StopAttempt(trial.trial_id, trial.attempt_number))
            elif trial.phase is AttemptPhase.NONE and event.cause not in _RESUMABLE:
                commands += self._finish(trial, Status.TERMINATED, event)
            elif trial.phase is AttemptPhase.NONE:
                trial.move_to(Status.PAUSED, because=event)
        return commands

    def _next_steps(self) -> list[Command]:
        """Ask for one more trial, or for a paused one to wake, or end: whatever there is room for."""
        if self.has_ended or self._ask.are_open or self._waits_for_capacity():
            return []
        if self.is_paused and self.stop_request is None and (self._unfinished or self._ask.search != "ended"):
            return []
        if self.stop_request is None and self._has_room():
            for trial in self._unfinished.values():
                if trial.status is Status.PENDING and trial.phase is AttemptPhase.NONE:
                    return [*self._start_again(trial), *self._next_steps()]
            asked = self._ask.next(self._unfinished.values(), self.rules)
            if asked == "search":
                return [Suggest(f"{self.rules.experiment_id}_{len(self.trials):05d}")]
            if asked == "choice":
                return [ChoosePaused()]
        if any(trial.phase is not AttemptPhase.NONE for trial in self._unfinished.values()):
            return []
        if self.stop_request is None and self._unfinished:
            is_waiting = any(trial.is_paused_by_user for trial in self._unfinished.values())
            return [] if is_waiting else self._give_up_paused()
        if self.waits_for_search:
            return []
        self.has_ended = True
        return [self.ending()]

    def _give_up_paused(self) -> list[Command]:
        """End the paused trials: nothing runs, so nothing would make the scheduler choose one of them."""
        self._given_up += len(self._unfinished)
        commands: list[Command] = []
        for trial in self.unfinished:
            commands += self._finish(trial, Status.TERMINATED, "the scheduler chose none of the paused")
        self._ask.again()
        return [*commands, *self._next_steps()]

    def _waits_for_capacity(self) -> bool:
        is_wanted = self._ask.search == "idle" or bool(self._unfinished)
        return self._capacity == 0 and self.stop_request is None and is_wanted

    def _live(self) -> list[Trial]:
        return [trial for trial in self._unfinished.values() if trial.phase is not AttemptPhase.NONE]

    def _has_room(self) -> bool:
        live = self._live()
        if self.rules.max_concurrent is not None and len(live) >= self.rules.max_concurrent:
            return False
        pending = sum(1 for trial in live if trial.status is Status.PENDING)
        return pending < max(1, self._capacity - (len(live) - pending))

    def ending(self) -> EndExperiment:
        """Return how the experiment has ended, or would end now."""
        if self._first_failure is not None and self.rules.fail_fast == "raise":
            return EndExperiment(f"trial {self._first_failure.trial_id} failed", self._first_failure.error)
        if self.stop_request is not None:
            return EndExperiment(self.stop_request.reason)
        reason = "every trial is finished"
        if self._given_up:
            reason += f"; {self._given_up} of them were paused, and the scheduler chose none to go on"
        return EndExperiment(reason)
