"""The loop of one experiment: it turns what happens into events, and commands into actions.

It holds no trial status of its own: the controller does. What it holds is what commands need:
which attempt has which slot, and until when something may take. Everything that is slow, such
as artifacts, the journal and deletions, happens in other threads.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from prefect.states import Cancelled

from flows.attempts import Attempt, TaskEnded, start_attempt
from flows.barrier import ended_after, fault_of, what_of
from flows.channel import Message
from flows.deaths import UNHEARD, WHAT_HAPPENED, Ended, Recovered
from flows.history import OwnState, take_in_history
from flows.inbox import Requested
from flows.ownership import OWNS_FILES_S
from flows.parts import Journaled, Parts, ShellFailed
from flows.placement import Placement
from flows.reports import Reports
from flows.requests import Requests
from flows.slots import Slot, SlotAnswered
from tune_core.errors import ExperimentConflict
from tune_core.messages import (
    Answer,
    ChoosePaused,
    Command,
    CompleteTrial,
    Decision,
    DeleteCheckpoint,
    EndExperiment,
    Event,
    LeaseEnded,
    LeaseStarted,
    MoveRequested,
    Outcome,
    SearchRetried,
    SlotsHeld,
    SpecRecorded,
    StartLease,
    StopCause,
    StopLease,
    StopRequested,
    Suggest,
    TrialSuggested,
)
from tune_core.resume import Replay, take_up
from tune_core.reuse import Leftover
from tune_core.session import WINDOW
from tune_core.steering import SearchPauses
from tune_core.trial import LeasePhase, Trial

#: How long the loop sleeps at most, so that timers are looked at.
TURN_S = 0.25
#: How often it looks at them while there is much to do.
TIMERS_S = 0.02
#: How often it looks at who waits, and at slots that nobody uses.
UPKEEP_S = 1.0
#: How often the journal is told what the slots have held: so much of it a death of the driver may take.
NOTE_HELD_EVERY_S = 60.0
#: How long a task run may take to end after its trial has said its last word.
TASK_END_TIMEOUT_S = 120.0
#: How long the last words of a task that has ended may be on their way.
LAST_WORDS_TIMEOUT_S = 10.0

_CONTINUE = str(Decision.CONTINUE)

logger = logging.getLogger("prefect.tune")


class Driver:
    """Runs one experiment to its end.

    Args:
        parts: Everything that it works with.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._experiment, self._controller = parts, parts.experiment, parts.controller
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._commands: deque[Command] = deque()
        self._end: EndExperiment | None = None
        self._failure: Exception | None = None
        self._deadline: float | None = None
        #: What was before, and all trials in creation order; handed out for reading.
        resolve = parts.experiment.loaded_config
        self._replay = Replay(parts.controller, parts.steering, resolve, parts.watchers)
        self._trials: list[Trial] = self._replay.trials
        self._placement = Placement(parts, self._begin_attempt, self._lease_ended)
        self._timers_due = self._upkeep_due = self._owns_files_until = -math.inf
        self._held_due = parts.clock() + NOTE_HELD_EVERY_S
        self._own_state, self._search_pauses = OwnState(parts.steering), SearchPauses()
        self._num_finished, self._has_news = 0, False
        self._reports = Reports(parts, self._trials, self.apply, self.request_stop)
        self._requests = Requests(parts, self._replay, self.apply)
        self._stop_timeout_s = parts.experiment.run_config.stop_timeout_s
        self._actions: dict[type[Command], Callable[[Any], None]] = {
            Suggest: self._suggest,
            ChoosePaused: self._choose_paused,
            StartLease: self._placement.order,
            Answer: self._answer,
            StopLease: self._stop_lease,
            DeleteCheckpoint: self._delete_checkpoint,
            CompleteTrial: self._complete_trial,
            EndExperiment: self._end_experiment,
        }

    def run(self) -> EndExperiment:
        """Run until the controller ends the experiment; return how it ended.

        Raises:
            ExperimentConflict: Another driver took over.
            StorageError: The journal cannot be written.
        """
        parts = self._parts
        parts.pool.attach(parts.channel.post)
        self._begin()
        # An attempt that has said its last word still has to end its task run.
        while self._end is None or self._attempts:
            self._take_step()
        if self._failure is not None:
            raise self._failure
        self._reports.link_best_checkpoint()
        parts.pages.changed()
        parts.pages.finish()
        return self._end

    def _take_step(self) -> None:
        parts, trials = self._parts, self._trials
        parts.user_callbacks.on_step_begin(self._reports.turn, trials)
        for item in parts.channel.receive(TURN_S):
            self._take(item)
        self._look_at_timers()
        parts.progress.update(trials, self._placement.waiting, parts.clock())
        parts.user_callbacks.on_step_end(self._reports.turn, trials)
        parts.journal.seal(parts.watchers.news)

    def _begin(self) -> None:
        """Begin the experiment, or go on where its journal ends."""
        parts, continuation = self._parts, self._experiment.continuation
        budget_s = self._experiment.tune_config.time_budget_seconds
        take_in_history(parts, self._replay)
        self._num_finished = sum(trial.is_finished() for trial in self._trials)
        if continuation is not None and continuation.is_retry and self._replay.is_over:
            self._end = replace(self._controller.ending(), reason="it had ended before this run")
            return
        if budget_s is not None:
            self._deadline = parts.clock() + max(0.0, budget_s - self._replay.budget_used_s)
        unsettled = self._replay.unsettled
        take_up(
            self._experiment,
            self._replay,
            self.apply,
            recover=self._reports.recover_committed,
            clock=parts.wall_clock,
            capacity=parts.capacity,
        )
        self._requests.remind()
        for trial in unsettled:  # not before: they may have committed what the journal did not know
            parts.deletions.sweep(trial, parts.journal)
        self._reports.look_at_stop_all()

    def request_stop(self, cause: StopCause, reason: str, *, patience_s: float | None = None) -> None:
        """Ask the loop, from any thread or signal handler, to stop the experiment in order.

        Args:
            cause: Decides what becomes of unfinished trials.
            reason: Is shown.
            patience_s: How long trials may take to stop, at most, in seconds; None: `stop_timeout_s`.
        """
        if patience_s is not None:
            self._stop_timeout_s = min(self._stop_timeout_s, patience_s)
            self._parts.pool.cleanup_timeout_s = self._stop_timeout_s
        self._parts.channel.post(StopRequested(self._parts.wall_clock(), cause, reason))

    def abandon(self) -> None:
        """Kill every attempt that still runs: nothing that was started here goes on."""
        for attempt in list(self._attempts.values()):
            self._parts.pool.discard(attempt.slot)
            message = "The experiment was abandoned."
            self._parts.artifacts.force_state(
                attempt.run_name, attempt.task_run_id, Cancelled(message=message)
            )
        self._attempts.clear()

    def apply(self, event: Event) -> None:
        """Let the controller handle an event, journal it, and do what follows from it."""
        commands = self._controller.handle(event)
        parts = self._parts
        parts.journal.append(event, commands, urgent=event.is_urgent)
        if isinstance(event, TrialSuggested):
            trial = self._controller.trials[event.trial_id]
            self._trials.append(trial)
            parts.steering.add(self._trials, trial)
            parts.artifacts.show_trial(trial)
        parts.events.note(event, commands, parts.journal, is_best=parts.overview.note(event))
        self._has_news = True
        is_acting = bool(self._commands)  # an action's own events wait until it is done
        self._commands.extend(commands)
        while self._commands and not is_acting:
            self._actions[type(self._commands[0])](self._commands[0])
            self._commands.popleft()

    # What arrives.

    def _take(self, item: Any) -> None:
        if isinstance(item, Message):
            self._take_message(item)
        elif isinstance(item, Journaled):
            self._pass_on_journaled(item)
        elif isinstance(item, SlotAnswered):
            self._placement.answered(item)
        elif isinstance(item, Recovered):
            self._take_recovered(item)
        elif isinstance(item, TaskEnded):
            self._take_task_ended(item)
        elif isinstance(item, StopRequested):
            self.apply(item)
        elif isinstance(item, Requested):
            self._take_request(item)
        elif isinstance(item, ShellFailed):
            self._fail(item.error)

    def _take_request(self, item: Requested) -> None:
        if isinstance(self._requests.take(item), SpecRecorded):
            for key, attempt in self._attempts.items():
                self._send_rules(key, attempt)

    def _send_rules(self, key: tuple[str, int], attempt: Attempt) -> None:
        """Tell an attempt of stop rules that have changed since it began."""
        rules = self._parts.steering.local_stop
        if attempt.rules != rules and attempt.is_connected:
            self._parts.channel.send(*key, "rules", rules)

    def _take_message(self, message: Message) -> None:
        key = (message.trial_id, message.lease)
        attempt = self._attempts.get(key)
        if attempt is None or message.kind == "end":
            self._handle(message)
            return
        if attempt.fault is None:
            try:
                self._handle(message)
                return
            except Exception as error:
                attempt.fault = fault_of(error, what_of(message), self._parts.user_callbacks)
                if attempt.fault is None or self._commands:  # what follows from a row is the experiment's
                    raise
            logger.error("trial %s: %s\n%s", message.trial_id, *attempt.fault)
            attempt.deadline = self._parts.clock() + self._stop_timeout_s
        # What it has said since does not count.
        self._parts.channel.send(*key, "fail", *attempt.fault)

    def _handle(self, message: Message) -> None:
        if message.kind == "row":
            self._take_row(message)
        elif message.kind == "checkpoint":
            self._reports.add_checkpoint(message.trial_id, message.lease, *message.content)
        elif message.kind == "hello":
            self._take_hello(message)
        elif message.kind == "end":
            self._take_end(message)
        elif message.kind == "unreadable" and (message.trial_id, message.lease) in self._attempts:
            raise message.content[0]

    def _take_end(self, message: Message) -> None:
        outcome, error, traceback, retryable, leaves, last_iteration, last_index = message.content
        trial = self._controller.live_trial(message.trial_id, message.lease)
        attempt = self._attempts.get((message.trial_id, message.lease))
        if (
            (attempt is None or attempt.fault is None)
            and trial is not None
            and (last_iteration > trial.iteration or last_index > trial.last_checkpoint_index)
        ):
            return  # what was said before was lost with a connection: it comes again, and this after it
        self._parts.channel.send(message.trial_id, message.lease, "released")
        if attempt is None and Outcome(outcome) in UNHEARD:
            return  # its process is known to be gone, with its node maybe, and raised this as it went
        if attempt is not None:
            attempt.deadline = self._parts.clock() + TASK_END_TIMEOUT_S
            attempt.take_last_word(Outcome(outcome), leaves, reuses=self._experiment.tune_config.reuse_actors)
        nodes = attempt.slot.nodes if attempt is not None else frozenset()
        how = (Outcome(outcome), error, traceback, retryable)
        self._lease_ended(Ended(message.trial_id, message.lease, *how, nodes=nodes))

    def _take_hello(self, message: Message) -> None:
        attempt = self._attempts.get((message.trial_id, message.lease))
        if attempt is None:
            self._parts.channel.send(message.trial_id, message.lease, "stop", "stale")
            return
        if attempt.stop_cause is not None:
            self._parts.channel.send(message.trial_id, message.lease, "stop", attempt.stop_cause)
        is_reconnected, attempt.is_connected = attempt.is_connected, True
        self._send_rules((message.trial_id, message.lease), attempt)
        if is_reconnected:
            return
        pid, hostname, node_ip = message.content
        now = self._parts.wall_clock()
        self.apply(LeaseStarted(now, message.trial_id, message.lease, pid, hostname, node_ip))
        trial = self._controller.trials[message.trial_id]
        for callbacks in (self._parts.user_callbacks, self._parts.loggers):
            callbacks.on_trial_start(self._reports.turn, self._trials, trial)
            if trial.start_point is not None:
                callbacks.on_trial_restore(self._reports.turn, self._trials, trial)
        self._parts.artifacts.show_trial(trial)

    def _take_row(self, message: Message) -> None:
        iteration, checkpoint, wants_decision, row = message.content
        trial = self._controller.live_trial(message.trial_id, message.lease)
        if trial is None:
            self._parts.channel.send(message.trial_id, message.lease, "stop", "stale")
            return
        if iteration == trial.iteration + 1:
            if attempt := self._attempts.get((trial.trial_id, trial.lease)):
                attempt.heard = self._parts.clock()
            taken = self._reports.take(trial, iteration, checkpoint, row)
            if wants_decision and trial.decision is Decision.CONTINUE:  # else the controller has answered
                answer = (iteration, _CONTINUE, trial.wants_save)
                self._parts.channel.send(message.trial_id, message.lease, "decision", *answer)
            self._reports.show(trial, checkpoint, *taken)  # while the trial goes on
        elif iteration <= trial.iteration and (attempt := self._attempts.get((trial.trial_id, trial.lease))):
            attempt.answer_again(trial, iteration, self._parts.channel)
        # Else rows before it were lost with a connection: they come again, and this one after them.

    def _take_task_ended(self, item: TaskEnded) -> None:
        key = (item.trial_id, item.lease)
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        attempt.is_over = True
        if item.state is not None:
            self._parts.artifacts.expect_state(attempt.run_name, attempt.task_run_id, item.state)
        for message in self._parts.channel.drain() if item.error is not None else ():
            self._take_message(message)
        if item.error is not None:
            self._died(key, attempt, *attempt.end_by(item.error))
        elif attempt.has_ended:
            self._forget(key, attempt)
        else:
            # Its last words are still on their way, unless it never got to say any.
            attempt.deadline = self._parts.clock() + LAST_WORDS_TIMEOUT_S
            attempt.final_state = item.state

    def _died(self, key: tuple[str, int], attempt: Attempt, outcome: Outcome, text: str) -> None:
        """The process of an attempt is gone, or is to go: it is made sure of."""
        self._attempts.pop(key, None)
        self._parts.pool.discard(attempt.slot)
        # The process of an idle slot may have died unnoticed, or its first words with it: its checkpoints tell.
        may_be_unused = attempt.slot.uses > 0 and not (attempt.is_connected or attempt.stop_cause)
        if not may_be_unused or attempt.has_ended:
            self._force_state(attempt, outcome, text)
        if not attempt.has_ended:
            unused = attempt if may_be_unused else None
            error = f"{WHAT_HAPPENED[outcome]}: {text}"
            self._lease_ended(Ended(*key, outcome, error, nodes=attempt.slot.nodes, unused=unused))
        self._placement.grant()

    def _force_state(self, attempt: Attempt, outcome: Outcome, text: str) -> None:
        """End a task run whose process cannot say so: it would be RUNNING for ever."""
        state, artifacts = attempt.state_of_death(outcome, text), self._parts.artifacts
        end = artifacts.expect_state if attempt.is_recorded else artifacts.force_state
        end(attempt.run_name, attempt.task_run_id, state)

    def _forget(self, key: tuple[str, int], attempt: Attempt) -> None:
        """An attempt is over and so is its task run: its slot is free."""
        del self._attempts[key]
        if attempt.leaves == Leftover.WORN or self._parts.pool.needs_fresh_process(attempt.slot):
            self._parts.pool.renew(attempt.slot)
        else:
            self._parts.pool.release(attempt.slot, keeps_object=attempt.leaves == Leftover.OBJECT)
        self._placement.grant()

    def _lease_ended(self, ended: Ended) -> None:
        """An attempt is over; if it ended badly, the controller hears of it once all that it committed is known."""
        attempt = self._attempts.get((ended.trial_id, ended.lease))
        if attempt is not None:
            attempt.has_ended = True
        trial = self._controller.live_trial(ended.trial_id, ended.lease)
        if trial is None:
            return
        self._placement.forget(ended.trial_id)
        if ended.outcome in UNHEARD:
            self._parts.recovery.begin(ended, trial.dirname)
        else:
            self._end_lease(trial, ended)

    def _take_recovered(self, item: Recovered) -> None:
        """Take up checkpoints that were committed but whose reports never arrived; then the attempt is over."""
        ended = item.ended
        trial = self._controller.live_trial(ended.trial_id, ended.lease)
        if trial is None:
            return
        if ended.unused is not None:
            has_begun = item.rows or any(marker.lease == trial.lease for marker in item.markers)
            if not has_begun and trial.phase is not LeasePhase.STOPPING:
                self._placement.order(ended.unused.order)  # it never began, so it costs nothing
                return
            self._force_state(ended.unused, ended.outcome, ended.error or "")
        recover = partial(self._reports.recover, trial, item.markers, item.rows)
        ended = ended_after(ended, recover, self._parts.user_callbacks)
        self._end_lease(trial, ended)

    def _end_lease(self, trial: Trial, ended: Ended) -> None:
        failed_before, before = trial.num_failures + trial.num_losses, trial.start_point
        how = (ended.outcome, ended.error, ended.traceback, ended.retryable)
        self.apply(LeaseEnded(self._parts.wall_clock(), ended.trial_id, ended.lease, *how))
        if ended.outcome in UNHEARD:
            self._parts.deletions.sweep(trial, self._parts.journal)
        start = trial.start_point
        if ended.outcome is Outcome.CORRUPTED and start is not None and start != before:
            logger.warning("trial %s falls back to %s: %s", trial.trial_id, start.record.name, ended.error)
        if trial.num_failures + trial.num_losses > failed_before and not trial.is_finished():
            for callbacks in (self._parts.user_callbacks, self._parts.loggers):
                callbacks.on_trial_recover(self._reports.turn, self._trials, trial)
        self._parts.artifacts.show_trial(trial)

    def _pass_on_journaled(self, item: Journaled) -> None:
        self._owns_files_until = item.time + OWNS_FILES_S
        for (trial_id, lease), iteration in item.iterations.items():
            attempt = self._attempts.get((trial_id, lease))
            if attempt is None:
                continue
            attempt.journaled = iteration
            if attempt.is_connected and not attempt.has_ended:
                self._parts.channel.send(trial_id, lease, "journaled", iteration)

    # What the controller orders.

    def _suggest(self, command: Suggest) -> None:
        self.apply(self._parts.steering.suggest(command.trial_id, len(self._trials)))

    def _choose_paused(self, _: ChoosePaused) -> None:
        self.apply(self._parts.steering.choose(self._trials))

    def _begin_attempt(self, trial: Trial, order: StartLease, slot: Slot, *, fresh_process: bool) -> None:
        parts = self._parts
        attempt = start_attempt(
            self._experiment,
            parts.steering,
            trial,
            order,
            slot,
            parts.channel,
            parts.parameters,
            fresh_process=fresh_process,
            now=parts.clock(),
        )
        self._attempts[trial.trial_id, order.lease] = attempt
        parts.artifacts.begin_attempt(trial, attempt.task_run_id)

    def _answer(self, command: Answer) -> None:
        attempt = self._attempts.get((command.trial_id, command.lease))
        if attempt is None:
            return  # the row was recovered from the marker of a process that is gone
        attempt.stop_cause = str(command.decision)
        attempt.deadline = self._parts.clock() + self._stop_timeout_s
        trial = self._controller.trials[command.trial_id]
        if command.decision is Decision.PAUSE and not self._parts.steering.waits_for_decisions:
            # It is to move, and does not listen for decisions.
            self._parts.channel.send(command.trial_id, command.lease, "stop", str(command.decision))
            return
        answer = (trial.iteration, str(command.decision), trial.wants_save)
        self._parts.channel.send(command.trial_id, command.lease, "decision", *answer)

    def _stop_lease(self, command: StopLease) -> None:
        key = (command.trial_id, command.lease)
        if self._placement.cancel(*key):
            self._lease_ended(Ended(*key, Outcome.STOPPED))
            return
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        request, trial = self._controller.stop_request, self._controller.trials[command.trial_id]
        attempt.stop_cause = str(request.cause) if request else str(trial.decision)
        attempt.deadline = self._parts.clock() + self._stop_timeout_s
        if attempt.is_connected:
            self._parts.channel.send(*key, "stop", attempt.stop_cause)

    def _delete_checkpoint(self, command: DeleteCheckpoint) -> None:
        dirname = self._controller.trials[command.trial_id].dirname
        self._parts.deletions.delete(dirname, command.index, self._parts.journal)

    def _complete_trial(self, command: CompleteTrial) -> None:
        parts = self._parts
        trial = self._controller.trials[command.trial_id]
        parts.steering.complete(self._trials, trial)
        for callbacks in (parts.user_callbacks, parts.loggers):
            if command.failed:
                callbacks.on_trial_error(self._reports.turn, self._trials, trial)
            else:
                callbacks.on_trial_complete(self._reports.turn, self._trials, trial)
        parts.artifacts.show_trial(trial)
        parts.artifacts.close_table(trial)
        self._num_finished += 1
        total = parts.steering.total_trials or len(self._trials)
        parts.artifacts.set_progress(100.0 * self._num_finished / max(total, 1))

    def _end_experiment(self, command: EndExperiment) -> None:
        self._end = command
        self._note_held(self._parts.clock())

    # What happens by itself.

    def _look_at_timers(self) -> None:
        parts, now = self._parts, self._parts.clock()
        self._reports.turn += 1
        if now < self._timers_due:
            return
        self._timers_due = now + TIMERS_S
        if self._has_news:
            self._has_news = False
            parts.pages.changed()
        if now < self._owns_files_until:
            parts.files.flush_due(now)
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            budget = self._experiment.tune_config.time_budget_s
            self.request_stop(StopCause.TIME_BUDGET, f"time_budget_s={budget} is used up")
        for key, attempt in list(self._attempts.items()):
            if attempt.deadline is not None and now >= attempt.deadline:
                self._out_of_patience(key, attempt)
            elif attempt.overrun(now, self._experiment.run_config):
                self._overrun(key, attempt)
        if self._search_pauses.is_over(self._controller.waits_for_search, now):
            self.apply(SearchRetried(parts.wall_clock()))
        if now >= self._held_due:
            self._note_held(now)
        if now >= self._upkeep_due:
            self._upkeep_due = now + UPKEEP_S
            if state := self._own_state.news(now):
                self.apply(state)
            self._placement.look()
            self._leave_nodes()
            self._reports.look_at_stop_all()

    def _note_held(self, now: float) -> None:
        """Have the journal say what has been held of the cluster: attempts may have used less."""
        self._held_due = now + NOTE_HELD_EVERY_S
        self.apply(SlotsHeld(self._parts.wall_clock(), self._parts.pool.held()))

    def _out_of_patience(self, key: tuple[str, int], attempt: Attempt) -> None:
        if attempt.is_over and not attempt.has_ended:
            outcome, message = attempt.end_without_last_word()
            logger.warning("trial %s: %s; its process is replaced", key[0], message)
            del self._attempts[key]
            # What kept it from its last word may keep the next one from it; it may be the task run's own process.
            self._parts.pool.discard(attempt.slot)
            self._placement.grant()
            self._lease_ended(Ended(*key, outcome, message, nodes=attempt.slot.nodes))
            return
        if attempt.stop_cause is not None and not attempt.has_ended:
            logger.warning(
                "trial %s did not stop within %.0f s (RunConfig.stop_timeout_s): its process is killed",
                key[0],
                self._stop_timeout_s,
            )
        killed = "it did not stop in time, so it was killed"
        self._died(
            key, attempt, Outcome.CRASHED, f"{attempt.fault.error}; {killed}" if attempt.fault else killed
        )

    def _overrun(self, key: tuple[str, int], attempt: Attempt) -> None:
        """Kill an attempt that is over a time limit, unless what it said lies unheard: the loop may have been slow."""
        for message in self._parts.channel.drain():
            self._take_message(message)
        trial = self._controller.live_trial(*key)
        now = self._parts.clock()
        if trial is not None and trial.iteration - attempt.journaled >= WINDOW:
            attempt.heard = now  # it is the journal that holds it up
        limit = attempt.overrun(now, self._experiment.run_config)
        if limit is not None:
            logger.warning("trial %s: %s: its process is killed", key[0], limit)
            self._died(key, attempt, Outcome.TIMED_OUT, limit)

    def _leave_nodes(self) -> None:
        """Have trials on nodes that are about to go save, and go on elsewhere."""
        for (trial_id, lease), attempt in list(self._attempts.items()):
            gone = attempt.slot.nodes & self._placement.leaving
            if gone and not (attempt.is_leaving or attempt.has_ended or attempt.stop_cause):
                attempt.is_leaving = True
                reason = f"node {', '.join(sorted(gone))} is about to go"
                self.apply(MoveRequested(self._parts.wall_clock(), trial_id, lease, reason))

    def _fail(self, error: Exception) -> None:
        """Give up in order: without its journal or its storage the experiment cannot go on."""
        if self._failure is None:
            self._failure = error
            if isinstance(error, ExperimentConflict):
                self._parts.files.discard()  # they are another driver's now
            self.abandon()
            self._end = EndExperiment(str(error))
