"""The attempts that run in processes of their own: what they say, how long they may take, and how they end.

A process may be late, silent, deaf or dead, and its messages may be lost, or come twice or out of date. The rules
for that are here, so that each trial ends once, with what it has committed, and its process is used again only if
nothing of the trial is left in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from tune_core.config.run_config import RunConfig
from tune_core.control.barrier import Barrier, what_of
from tune_core.control.endings import UNHEARD, WHAT_HAPPENED, Ended, Recovered, RunningAttempt
from tune_core.control.loop import Loop
from tune_core.control.messages import AttemptStarted, RelocationRequested, StartAttempt
from tune_core.reasons import reason_text
from tune_core.states import Decision, Outcome
from tune_core.training.session import WINDOW
from tune_core.training.trainable_cache import Leftover
from tune_core.training.uplink import Message
from tune_core.trial import AttemptPhase, Trial

#: How long a task run may take to end after its trial has said its last word, in seconds.
TASK_END_TIMEOUT_S = 120.0
#: How long the last words of a task that has ended may be on their way, in seconds.
LAST_WORDS_TIMEOUT_S = 10.0

_CONTINUE = str(Decision.CONTINUE)

logger = logging.getLogger("prefect.tune")


class Processes(Protocol):
    """What runs attempts in processes, as far as their rules need it."""

    def send(self, trial_id: str, attempt_number: int, *content: Any) -> object:
        """Send a message to the process of an attempt; one that is not connected does not get it."""

    def drain(self) -> Iterable[Message]:
        """Return what lies unheard in the channel now."""

    def cancel(self, trial_id: str, attempt_number: int) -> bool:
        """Withdraw an order; return False if it has begun."""

    def forget(self, trial_id: str) -> None:
        """Take note that a trial no longer waits for a place."""

    def order_again(self, order: StartAttempt) -> None:
        """Find another place for an attempt that never began."""

    def kill(self, attempt: RunningAttempt) -> None:
        """End the process of an attempt, if it lives, and never use it again."""

    def will_end(self, attempt: RunningAttempt, outcome: Outcome, text: str) -> None:
        """Take note of how the task run of a process ends that is about to be killed."""

    def fill(self) -> None:
        """Begin what there is room for, since a process was killed or given back."""

    def free(self, attempt: RunningAttempt) -> None:
        """Give back the process of an attempt that has ended; `attempt.leaves` says what is left there."""

    def ending(self, attempt: RunningAttempt) -> None:
        """Take note that the process of an attempt will be given back in a moment."""

    def end_task_run(self, attempt: RunningAttempt, outcome: Outcome, text: str) -> None:
        """End the task run of a process that cannot do so itself: it would be RUNNING for ever."""

    def cancel_task_run(self, attempt: RunningAttempt, message: str) -> None:
        """End the task run of a process that is about to be killed, as cancelled."""

    def recover(self, ended: Ended, dirname: str) -> None:
        """Find out what an attempt has committed, and have the loop take a `Recovered`."""

    def begun(self, trial: Trial) -> None:
        """Show that a trial runs."""

    def over(self, trial: Trial, ended: Ended, *, goes_on_after_failure: bool) -> None:
        """Show that an attempt at a trial is over."""


class Attempts:
    """Keeps the attempts of one experiment that have a process.

    Args:
        loop: The experiment's.
        processes: What they run in.
        run_config: Says what the time limits are.
        barrier: Tells what a trial has to answer for.

    Attributes:
        running: Attempts by trial id and attempt, until their task run is over too.
        stop_timeout_s: How long one may take to stop.
    """

    def __init__(self, loop: Loop, processes: Processes, run_config: RunConfig, barrier: Barrier) -> None:
        self.running: dict[tuple[str, int], RunningAttempt] = {}
        self.stop_timeout_s = run_config.stop_timeout_s
        self._loop, self._controller, self._policy = loop, loop.controller, loop.policy
        self._processes, self._run_config, self._barrier = processes, run_config, barrier
        self._now: Callable[[], float] = loop.backend.now
        self._handlers = {
            "row": self._take_row,
            "checkpoint": self._take_checkpoint,
            "hello": self._take_hello,
            "end": self._take_end,
            "unreadable": self._take_unreadable,
        }
        loop.takers[Message] = self.take
        loop.takers[Recovered] = self.recovered

    def add(self, attempt: RunningAttempt) -> None:
        """Keep an attempt that was submitted."""
        self.running[attempt.order.trial_id, attempt.order.attempt_number] = attempt

    # What trials say.

    def take(self, message: Message) -> None:
        """Take a message of a trial; if it cannot be handled, that is the end of its trial and of no other."""
        attempt = self.running.get((message.trial_id, message.attempt_number))
        handle = self._handlers.get(message.kind, self._take_unknown)
        if attempt is None or message.kind == "end":
            handle(message, attempt)
            return
        if attempt.fault is None:
            try:
                handle(message, attempt)
                return
            except Exception as error:
                attempt.fault = self._barrier.fault_of(error, what_of(message))
                if (
                    attempt.fault is None or self._loop.is_acting
                ):  # what follows from a row is the experiment's
                    raise
            logger.error("trial %s: %s\n%s", message.trial_id, *attempt.fault)
            attempt.deadline = self._now() + self.stop_timeout_s
        # What it has said since does not count.
        self._processes.send(message.trial_id, message.attempt_number, "fail", *attempt.fault)

    def _take_unreadable(self, message: Message, attempt: RunningAttempt | None) -> None:
        if attempt is not None:
            raise message.content[0]

    def _take_unknown(self, message: Message, attempt: RunningAttempt | None) -> None:
        if attempt is not None:
            raise ValueError(f"expected one of {', '.join(self._handlers)}, got {message.kind!r}")

    def _take_checkpoint(self, message: Message, _: RunningAttempt | None) -> None:
        self._loop.add_checkpoint(message.trial_id, message.attempt_number, *message.content)

    def _take_end(self, message: Message, attempt: RunningAttempt | None) -> None:
        outcome, error, traceback, retryable, leaves, last_iteration, last_index = message.content
        trial = self._controller.live_trial(message.trial_id, message.attempt_number)
        has_fault = attempt is not None and attempt.fault is not None
        if (
            not has_fault
            and trial is not None
            and (last_iteration > trial.iteration or last_index > trial.last_checkpoint_index)
        ):
            return  # what was said before was lost with a connection: it comes again, and this after it
        self._processes.send(message.trial_id, message.attempt_number, "released")
        if attempt is None and Outcome(outcome) in UNHEARD:
            return  # its process is known to be gone, with its node maybe, and raised this as it went
        if attempt is not None:
            attempt.deadline = self._now() + TASK_END_TIMEOUT_S
            # What made it fail may make the next one fail: leaked descriptors, closed sockets, a broken CUDA context.
            has_failed = outcome in (Outcome.ERROR, Outcome.CORRUPTED)
            attempt.leaves = Leftover.EXHAUSTED if has_failed else leaves
            self._processes.ending(attempt)
        nodes = attempt.process.nodes if attempt is not None else frozenset()
        how = (Outcome(outcome), error, traceback, retryable)
        self.ended(Ended(message.trial_id, message.attempt_number, *how, nodes=nodes))

    def _take_hello(self, message: Message, attempt: RunningAttempt | None) -> None:
        key = (message.trial_id, message.attempt_number)
        if attempt is None:
            self._processes.send(*key, "stop", "stale")
            return
        if attempt.stop_cause is not None:
            self._processes.send(*key, "stop", attempt.stop_cause)
        is_reconnected, attempt.is_connected = attempt.is_connected, True
        self._send_rules(key, attempt)
        if is_reconnected:
            return
        pid, hostname, node_ip = message.content
        self._loop.apply(AttemptStarted(self._loop.wall_clock(), *key, pid, hostname, node_ip))
        self._processes.begun(self._controller.trials[message.trial_id])

    def _take_row(self, message: Message, attempt: RunningAttempt | None) -> None:
        iteration, checkpoint, wants_decision, row = message.content
        trial = self._controller.live_trial(message.trial_id, message.attempt_number)
        if trial is None:
            self._processes.send(message.trial_id, message.attempt_number, "stop", "stale")
        elif iteration == trial.iteration + 1:
            if attempt is not None:
                attempt.heard = self._now()
            answer = partial(self._let_go_on, trial) if wants_decision else None
            self._loop.report(trial, iteration, checkpoint, row, answer)
        elif iteration <= trial.iteration and attempt is not None:
            self._answer_again(attempt, trial, iteration)
        # Else rows before it were lost with a connection: they come again, and this one after them.

    def _let_go_on(self, trial: Trial) -> None:
        if trial.decision is Decision.CONTINUE:  # else the controller has answered
            answer = (trial.iteration, _CONTINUE, trial.wants_save)
            self._processes.send(trial.trial_id, trial.attempt_number, "decision", *answer)

    def _answer_again(self, attempt: RunningAttempt, trial: Trial, iteration: int) -> None:
        """A row that has been heard came again over a new connection: what was answered may be lost."""
        key = (trial.trial_id, trial.attempt_number)
        if attempt.journaled >= iteration:
            self._processes.send(*key, "journaled", attempt.journaled)
        if iteration == trial.iteration:
            if trial.decision is not Decision.CONTINUE:
                self._say_why(trial)
            self._processes.send(*key, "decision", iteration, str(trial.decision), trial.wants_save)

    # What trials are told.

    def answer(self, trial: Trial, decision: Decision) -> None:
        """Answer the latest report of a trial, whose attempt is to end."""
        key = (trial.trial_id, trial.attempt_number)
        attempt = self.running.get(key)
        if attempt is None:
            return  # the row was recovered from the marker of a process that is gone
        attempt.stop_cause = str(decision)
        attempt.deadline = self._now() + self.stop_timeout_s
        if decision is Decision.PAUSE and not self._policy.waits_for_decisions:
            # It is to move, and does not listen for decisions.
            self._processes.send(*key, "stop", str(decision))
            return
        self._say_why(trial)
        self._processes.send(*key, "decision", trial.iteration, str(decision), trial.wants_save)

    def _say_why(self, trial: Trial) -> None:
        """Tell an attempt that is to end why, for the state of its task run; before the decision, which ends it."""
        why = reason_text(trial.reason)
        if why:
            self._processes.send(trial.trial_id, trial.attempt_number, "reason", why)

    def stop(self, trial: Trial, attempt_number: int) -> None:
        """Stop an attempt: withdraw it, or tell it so as soon as it listens."""
        key = (trial.trial_id, attempt_number)
        if self._processes.cancel(*key):
            self.ended(Ended(*key, Outcome.STOPPED))
            return
        attempt = self.running.get(key)
        if attempt is None:
            return
        request = self._controller.stop_request
        attempt.stop_cause = str(request.cause) if request else str(trial.decision)
        attempt.deadline = self._now() + self.stop_timeout_s
        if attempt.is_connected:
            self._say_why(trial)
            self._processes.send(*key, "stop", attempt.stop_cause)

    def journaled(self, iterations: Mapping[tuple[str, int], int]) -> None:
        """Tell attempts that their rows up to these iterations are in the journal."""
        for key, iteration in iterations.items():
            attempt = self.running.get(key)
            if attempt is None:
                continue
            attempt.journaled = iteration
            if attempt.is_connected and not attempt.has_ended:
                self._processes.send(*key, "journaled", iteration)

    def send_rules(self) -> None:
        """Tell attempts of stop rules that have changed since they began."""
        for key, attempt in self.running.items():
            self._send_rules(key, attempt)

    def _send_rules(self, key: tuple[str, int], attempt: RunningAttempt) -> None:
        rules = self._policy.local_stop
        if attempt.rules != rules and attempt.is_connected:
            self._processes.send(*key, "rules", rules)

    def leave(self, nodes: frozenset[str]) -> None:
        """Have trials on nodes that are about to leave save, and go on elsewhere."""
        for key, attempt in list(self.running.items()):
            gone = attempt.process.nodes & nodes
            if gone and not (attempt.is_leaving or attempt.has_ended or attempt.stop_cause):
                attempt.is_leaving = True
                reason = f"node {', '.join(sorted(gone))} is about to go"
                self._loop.apply(RelocationRequested(self._loop.wall_clock(), *key, reason))

    # How they end.

    def task_over(self, attempt: RunningAttempt, message: str, *, has_completed: bool) -> None:
        """Take note that the task of an attempt is over, and its process lives."""
        attempt.is_over = True
        if attempt.has_ended:
            self._forget(attempt)
            return
        # Its last words are still on their way, unless it never got to say any.
        attempt.deadline = self._now() + LAST_WORDS_TIMEOUT_S
        attempt.task_message, attempt.has_completed = message, has_completed

    def died(self, attempt: RunningAttempt, outcome: Outcome, text: str, *, has_begun: bool = True) -> None:
        """Take note that the process of an attempt is gone; what it said before is heard first.

        Args:
            attempt: Whose it is.
            outcome: What it is known to have died of.
            text: The same, for people.
            has_begun: False: the process lives, and could not begin the attempt, unless that has been heard.
        """
        attempt.is_over = True
        for message in self._processes.drain():
            self.take(message)
        if not has_begun and not attempt.is_connected:
            outcome, text = Outcome.LOST, f"it could not begin: {text}"
        self._end_process(attempt, outcome, text)

    def ended(self, ended: Ended) -> None:
        """An attempt is over; if it ended badly, the controller hears of it once all that it committed is known."""
        attempt = self.running.get((ended.trial_id, ended.attempt_number))
        if attempt is not None:
            attempt.has_ended = True
        trial = self._controller.live_trial(ended.trial_id, ended.attempt_number)
        if trial is None:
            return
        self._processes.forget(ended.trial_id)
        if ended.outcome in UNHEARD:
            self._processes.recover(ended, trial.dirname)
        else:
            self._end_attempt(trial, ended)

    def recovered(self, item: Recovered) -> None:
        """Take up checkpoints that were committed but whose reports never arrived; then the attempt is over."""
        ended, unused = item.ended, item.ended.unused
        trial = self._controller.live_trial(ended.trial_id, ended.attempt_number)
        if trial is None:
            return
        if unused is not None:
            has_begun = item.rows or any(
                marker.attempt_number == trial.attempt_number for marker in item.markers
            )
            if not has_begun and trial.phase is not AttemptPhase.STOPPING:
                self._processes.order_again(unused.order)  # it never began, so it costs nothing
                return
            self._processes.end_task_run(unused, ended.outcome, ended.error or "")
        recover = partial(self._loop.recover, trial, item.markers, item.rows)
        self._end_attempt(trial, self._barrier.ended_after(ended, recover))

    def look(self, now: float) -> None:
        """Kill what is over a time limit, and what has used up all patience."""
        for attempt in list(self.running.values()):
            if attempt.deadline is not None and now >= attempt.deadline:
                self._out_of_patience(attempt)
            elif attempt.overrun(now, self._run_config):
                self._overrun(attempt)

    def abandon(self) -> None:
        """Kill every attempt that still runs: nothing that was started here goes on."""
        for attempt in self.running.values():
            self._processes.cancel_task_run(attempt, "The experiment was abandoned.")
            self._processes.kill(attempt)
        self.running.clear()

    def _forget(self, attempt: RunningAttempt) -> None:
        """An attempt is over and so is its task run: its process is free."""
        del self.running[attempt.key]
        self._processes.free(attempt)
        self._processes.fill()

    def _end_process(self, attempt: RunningAttempt, outcome: Outcome, text: str) -> None:
        """The process of an attempt is gone, or is to go: it is made sure of."""
        self.running.pop(attempt.key, None)
        self._processes.will_end(attempt, outcome, text)
        self._processes.kill(attempt)
        # The process of an idle slot may have died unnoticed, or its first words with it: its checkpoints tell.
        may_be_unused = attempt.process.is_used and not (attempt.is_connected or attempt.stop_cause)
        if not may_be_unused or attempt.has_ended:
            self._processes.end_task_run(attempt, outcome, text)
        if not attempt.has_ended:
            unused = attempt if may_be_unused else None
            error = f"{WHAT_HAPPENED[outcome]}: {text}"
            self.ended(Ended(*attempt.key, outcome, error, nodes=attempt.process.nodes, unused=unused))
        self._processes.fill()

    def _end_attempt(self, trial: Trial, ended: Ended) -> None:
        failed_before, before = trial.num_failures + trial.num_losses, trial.start_point
        how = (ended.outcome, ended.error, ended.traceback, ended.retryable)
        self._loop.end_attempt(ended.trial_id, ended.attempt_number, *how)
        start = trial.start_point
        if ended.outcome is Outcome.CORRUPTED and start is not None and start != before:
            logger.warning("trial %s falls back to %s: %s", trial.trial_id, start.record.name, ended.error)
        has_failed = trial.num_failures + trial.num_losses > failed_before
        self._processes.over(trial, ended, goes_on_after_failure=has_failed and not trial.is_finished())

    def _out_of_patience(self, attempt: RunningAttempt) -> None:
        if attempt.is_over and not attempt.has_ended:
            outcome, message = attempt.end_without_last_word()
            logger.warning("trial %s: %s; its process is replaced", attempt.order.trial_id, message)
            del self.running[attempt.key]
            # What kept it from its last word may keep the next one from it; it may be the task run's own process.
            self._processes.kill(attempt)
            self._processes.fill()
            self.ended(Ended(*attempt.key, outcome, message, nodes=attempt.process.nodes))
            return
        if attempt.stop_cause is not None and not attempt.has_ended:
            logger.warning(
                "trial %s did not stop within %.0f s (RunConfig.stop_timeout_s): its process is killed",
                attempt.order.trial_id,
                self.stop_timeout_s,
            )
        killed = "it did not stop in time, so it was killed"
        text = f"{attempt.fault.error}; {killed}" if attempt.fault else killed
        self._end_process(attempt, Outcome.CRASHED, text)

    def _overrun(self, attempt: RunningAttempt) -> None:
        """Kill an attempt that is over a time limit, unless what it said lies unheard: the loop may have been slow."""
        for message in self._processes.drain():
            self.take(message)
        trial, now = self._controller.live_trial(*attempt.key), self._now()
        if trial is not None and trial.iteration - attempt.journaled >= WINDOW:
            attempt.heard = now  # it is the journal that holds it up
        limit = attempt.overrun(now, self._run_config)
        if limit is not None:
            logger.warning("trial %s: %s: its process is killed", attempt.order.trial_id, limit)
            self._end_process(attempt, Outcome.TIMED_OUT, limit)
