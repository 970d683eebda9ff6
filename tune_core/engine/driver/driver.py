"""The backend of an experiment's loop on Prefect and Ray.

What follows from what happens is decided by `tune_core.control.loop` and `tune_core.control.attempts`. Here it is
carried out by slots, task runs and the channel, and shown by artifacts and files. Everything that is slow, such as
artifacts, the journal and deletions, happens in other threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import zmq
from prefect.states import Cancelled
from ray.exceptions import RayActorError, RayError, RayTaskError

from tune_core.control.attempts import Attempts
from tune_core.control.barrier import Barrier
from tune_core.control.endings import UNHEARD, Ended, RunningAttempt
from tune_core.control.loop import Backend, Loop
from tune_core.control.messages import (
    CapacityChanged,
    Command,
    EndExperiment,
    Event,
    SlotsHeld,
    SpecRecorded,
    StartAttempt,
    StopRequested,
    TrialSuggested,
)
from tune_core.control.resume import Replay, start_or_resume
from tune_core.engine.cluster import usable_resources
from tune_core.engine.deaths import ProcessDied
from tune_core.engine.driver.history import OwnState, take_in_history
from tune_core.engine.driver.inbox_watcher import Requested
from tune_core.engine.driver.placement import Placement
from tune_core.engine.driver.policy_files import PolicyFiles
from tune_core.engine.driver.reports import Reports
from tune_core.engine.driver.requests import Requests
from tune_core.engine.driver.services import DriverFailed, Journaled, Services
from tune_core.engine.driver.task_runs import TaskEnded, start_attempt, state_of_death
from tune_core.engine.earlier_runs import locate_runs
from tune_core.engine.ownership import OWNS_FILES_S
from tune_core.engine.slots.pool import Slot, SlotAnswered
from tune_core.errors import ExperimentConflict
from tune_core.states import Decision, Outcome, StopCause
from tune_core.training.trainable_cache import Leftover
from tune_core.training.uplink import Message
from tune_core.trial import Trial

#: How long the loop sleeps at most, so that timers are looked at.
TURN_S = 0.25
#: How often it looks at them while there is much to do.
TIMERS_S = 0.02
#: How often it looks at who waits, and at slots that nobody uses.
UPKEEP_S = 1.0
#: How often the journal is told what the slots have held: so much of it a death of the driver may take.
NOTE_HELD_EVERY_S = 60.0


class Driver(Backend):
    """Runs one experiment to its end.

    Args:
        services: Everything that it works with.
    """

    def __init__(self, services: Services) -> None:
        self._services, self._experiment, self._controller = (
            services,
            services.experiment,
            services.controller,
        )
        self._replay = Replay(
            services.controller, services.policy, services.experiment.loaded_config, services.watchers
        )
        self._trials = self._replay.trials
        self.loop = Loop(
            self._replay.state,
            services.policy,
            services.journal,
            self,
            watchers=services.watchers,
            callbacks=services.user_callbacks,
            wall_clock=services.wall_clock,
        )
        barrier = Barrier(services.user_callbacks, (zmq.ZMQError, RayError))
        self.attempts = Attempts(self.loop, self, services.experiment.run_config, barrier)
        self._placement = Placement(services, self._begin_attempt, self.attempts.ended)
        self._total: dict[str, float] = {}
        self._reports = Reports(services, self.loop)
        self._requests = Requests(services, self._replay, self.loop.apply)
        self._own_state = OwnState(services.policy)
        self._policy_files = PolicyFiles(
            services.files, self._controller.trials, is_wanted=services.policy.scheduler.log_config
        )
        self._timers_due = self._upkeep_due = self._owns_files_until = -math.inf
        self._held_due = services.clock() + NOTE_HELD_EVERY_S
        self._num_finished, self._has_news = 0, False
        self.loop.takers |= {
            Journaled: self._take_journaled,
            SlotAnswered: self._placement.answered,
            TaskEnded: self._take_task_ended,
            Requested: self._take_request,
            DriverFailed: lambda item: self.loop.fail(item.error),
        }

    def run(self) -> EndExperiment:
        """Run until the controller ends the experiment; return how it ended.

        Raises:
            ExperimentConflict: Another driver took over.
            StorageError: The journal cannot be written.
        """
        services = self._services
        services.pool.attach(services.channel.post)
        self._begin()
        end = self.loop.run()
        self._reports.link_best_checkpoint()
        services.pages.changed()
        services.pages.finish()
        return end

    def _begin(self) -> None:
        """Begin the experiment, or go on where its journal ends."""
        services, continuation = self._services, self._experiment.continuation
        tune = self._experiment.tune_config
        services.policy.reallocation.shortfall = self._placement.why_never
        self._total = usable_resources()
        take_in_history(services, self._replay, self._policy_files)
        self._num_finished = sum(trial.is_finished() for trial in self._trials)
        if continuation is not None and continuation.is_retry and self._replay.is_over:
            self.loop.end = replace(self._controller.ending(), reason="it had ended before this run")
            return
        if tune.time_budget_seconds is not None:
            left_s = tune.time_budget_seconds - self._replay.budget_used_s
            self.loop.limit_time(f"time_budget_s={tune.time_budget_s}", left_s)
        self.loop.limit_cost(f"max_cost={tune.max_cost}", tune.cost_limits)
        unsettled = self._replay.unsettled
        start_or_resume(
            self._experiment,
            self._replay,
            self.loop.apply,
            recover=self._recover_committed,
            clock=services.wall_clock,
            capacity=services.capacity,
            total=self._total,
            locate_runs=locate_runs,
        )
        self._requests.remind()
        for trial in unsettled:  # not before: they may have committed what the journal did not know
            services.deletions.sweep(trial, services.journal)
        self.loop.look_at_stop_all()

    def _recover_committed(self, trial: Trial) -> None:
        """Take up what a trial has committed on storage and nobody has heard of."""
        self.loop.recover(trial, self._experiment.storage.committed(trial.dirname, skip_damaged=True))

    def request_stop(self, cause: StopCause, reason: str, *, patience_s: float | None = None) -> None:
        """Ask the loop, from any thread or signal handler, to stop the experiment cleanly.

        Args:
            cause: Decides what becomes of unfinished trials.
            reason: Is shown.
            patience_s: How long trials may take to stop, at most, in seconds; None: `stop_timeout_s`.
        """
        if patience_s is not None:
            self.attempts.stop_timeout_s = min(self.attempts.stop_timeout_s, patience_s)
            self._services.pool.cleanup_timeout_s = self.attempts.stop_timeout_s
        self._services.channel.post(StopRequested(self._services.wall_clock(), cause, reason))

    def abandon(self, error: Exception | None = None) -> None:
        """Kill every attempt that still runs: nothing that was started here goes on.

        Args:
            error: Why, if the experiment cannot go on.
        """
        if isinstance(error, ExperimentConflict):
            self._services.files.discard()  # they are another driver's now
        self.attempts.abandon()

    # What the loop orders.

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._services.clock()

    @property
    def is_busy(self) -> bool:
        """Whether an attempt that has said its last word still has to end its task run."""
        return bool(self.attempts.running)

    def receive(self, until: float) -> Iterable[Any]:
        """Wait for what arrives on the channel, and for what other threads post there."""
        return self._services.channel.receive(min(TURN_S, max(0.0, until - self.now())))

    def start(self, trial: Trial, order: StartAttempt) -> None:
        """Find a slot for an attempt."""
        self._placement.order(order)

    def stop(self, trial: Trial, attempt_number: int) -> None:
        """Stop an attempt, or withdraw it."""
        self.attempts.stop(trial, attempt_number)

    def answer(self, trial: Trial, decision: Decision) -> None:
        """Tell an attempt what was decided on its report."""
        self.attempts.answer(trial, decision)

    def delete_checkpoint(self, trial: Trial, index: int) -> None:
        """Remove a checkpoint once the journal has what released it."""
        self._services.deletions.delete(trial.dirname, index, self._services.journal)

    # What the rules of attempts order.

    def send(self, trial_id: str, attempt_number: int, *content: Any) -> bool:
        """Send a message to an attempt."""
        return self._services.channel.send(trial_id, attempt_number, *content)

    def drain(self) -> Iterable[Message]:
        """Return what lies in the channel now."""
        return self._services.channel.drain()

    def cancel(self, trial_id: str, attempt_number: int) -> bool:
        """Withdraw an order; return False if it has got its slot."""
        return self._placement.cancel(trial_id, attempt_number)

    def forget(self, trial_id: str) -> None:
        """Drop an order: its attempt is over."""
        self._placement.forget(trial_id)

    def order_again(self, order: StartAttempt) -> None:
        """Find another slot for an attempt that never began."""
        self._placement.order(order)

    def kill(self, attempt: RunningAttempt) -> None:
        """Give up a slot, and whatever runs in it."""
        self._services.pool.discard(attempt.process.slot)

    def will_end(self, attempt: RunningAttempt, outcome: Outcome, text: str) -> None:
        """Tell the recorder of a task run how it ends, once its process is dead."""
        attempt.process.tell_recorder(state_of_death(attempt, outcome, text), is_over=attempt.is_over)

    def fill(self) -> None:
        """Begin what has got its slot since."""
        self._placement.grant()

    def free(self, attempt: RunningAttempt) -> None:
        """Give a slot back; its process is renewed if it is worn."""
        slot = attempt.process.slot
        if attempt.leaves == Leftover.EXHAUSTED or self._services.pool.needs_fresh_process(slot):
            self._services.pool.renew(slot)
        else:
            self._services.pool.release(slot, keeps_object=attempt.leaves == Leftover.OBJECT)

    def ending(self, attempt: RunningAttempt) -> None:
        """Let the pool know that a slot will be given back in a moment."""
        slot, reuses = attempt.process.slot, self._experiment.tune_config.reuse_actors
        slot.is_ending = True
        slot.is_returning = reuses and attempt.leaves != Leftover.EXHAUSTED

    def end_task_run(self, attempt: RunningAttempt, outcome: Outcome, text: str) -> None:
        """End a task run whose process cannot say so: it would be RUNNING for ever."""
        state = state_of_death(attempt, outcome, text)
        attempt.process.end(state, self._services.artifacts, is_over=attempt.is_over)

    def cancel_task_run(self, attempt: RunningAttempt, message: str) -> None:
        """End a task run whose process is about to be killed."""
        attempt.process.end(Cancelled(message=message), self._services.artifacts, is_over=attempt.is_over)

    def recover(self, ended: Ended, dirname: str) -> None:
        """Find out in another thread what an attempt has committed."""
        self._services.recovery.begin(ended, dirname)

    def _begin_attempt(self, trial: Trial, order: StartAttempt, slot: Slot, *, fresh_process: bool) -> None:
        services = self._services
        attempt = start_attempt(
            self._experiment,
            services.policy,
            trial,
            order,
            slot,
            services.channel,
            services.parameters,
            fresh_process=fresh_process,
            now=services.clock(),
        )
        self.attempts.add(attempt)
        services.artifacts.begin_attempt(trial, attempt.process.task_run_id)

    # What arrives.

    def _take_request(self, item: Requested) -> None:
        if isinstance(self._requests.take(item), SpecRecorded):
            self.attempts.send_rules()

    def _take_journaled(self, item: Journaled) -> None:
        self._owns_files_until = item.time + OWNS_FILES_S
        self.attempts.journaled(item.iterations)

    def _take_task_ended(self, item: TaskEnded) -> None:
        attempt = self.attempts.running.get((item.trial_id, item.attempt_number))
        if attempt is None:
            return
        task_run = attempt.process
        if item.state is not None:
            self._services.artifacts.expect_state(task_run.name, task_run.task_run_id, item.state)
        if item.error is None:
            message = (item.state.message if item.state else None) or ""
            has_completed = item.state is not None and item.state.is_completed()
            self.attempts.task_over(attempt, message, has_completed=has_completed)
            return
        death = ProcessDied.of(item.error)
        task_run.is_recorded = death.is_recorded
        if task_run.slot.process is not None and isinstance(item.error, RayActorError):
            # Not the trial's own: that death would have come as the recorder's word.
            self.attempts.died(
                attempt, Outcome.LOST, f"the process of its task run is gone: {death.text}", has_begun=True
            )
            return
        lives = isinstance(item.error, RayTaskError) and not isinstance(item.error, ProcessDied)
        self.attempts.died(attempt, death.outcome, death.text, has_begun=not lives)

    # What happens by itself.

    def look(self, now: float) -> None:
        """Do what is due by itself."""
        services = self._services
        services.progress.update(self._trials, self._placement.waiting, now)
        if now < self._timers_due:
            return
        self._timers_due = now + TIMERS_S
        if self._has_news:
            self._has_news = False
            services.pages.changed()
        if now < self._owns_files_until:
            services.files.flush_due(now)
        self.attempts.look(now)
        if now >= self._held_due:
            self._note_held(now)
        if now >= self._upkeep_due:
            self._upkeep_due = now + UPKEEP_S
            if state := self._own_state.news(now):
                self.loop.apply(state)
            self._look_at_cluster()
            self._placement.look()
            self.attempts.leave(self._placement.leaving)
            self.loop.look_at_stop_all()

    def _look_at_cluster(self) -> None:
        """Have the scheduler know of nodes that came or went, if it wants to."""
        if self._services.policy.sees_cluster and (total := usable_resources()) != self._total:
            self._total = total
            self.loop.apply(CapacityChanged(self._services.wall_clock(), self._services.capacity, total))

    def _note_held(self, now: float) -> None:
        """Have the journal say what has been held of the cluster: attempts may have used less."""
        self._held_due = now + NOTE_HELD_EVERY_S
        self.loop.apply(SlotsHeld(self._services.wall_clock(), self._services.pool.held()))

    # What is shown.

    def noted(self, event: Event, commands: Sequence[Command]) -> None:
        """Show a new trial, and announce what an event gives reason to."""
        services = self._services
        if isinstance(event, TrialSuggested):
            services.artifacts.show_trial(self._trials[-1])
        self._policy_files.noted(event)
        services.events.note(event, commands, services.journal, is_best=services.overview.note(event))
        self._has_news = True

    def decided(
        self,
        trial: Trial,
        row: dict[str, Any],
        result: dict[str, Any],
        decision: Decision,
        checkpoint: int | None,
    ) -> tuple[dict[str, Any], int | None]:
        """Show a result to the user's callbacks, which may add to it."""
        return self._reports.show_callbacks(trial, row, result), checkpoint

    def show_report(
        self, trial: Trial, checkpoint: int | None, row: dict[str, Any], result: dict[str, Any]
    ) -> None:
        """Show a report to files, artifacts and the terminal."""
        self._reports.show(trial, checkpoint, row, result)

    def show_checkpoint(self, trial: Trial, index: int) -> None:
        """Show a checkpoint that was committed after its report."""
        self._reports.show_checkpoint(trial, index)

    def begun(self, trial: Trial) -> None:
        """Show that a trial runs."""
        for callbacks in (self._services.user_callbacks, self._services.loggers):
            callbacks.on_trial_start(self.loop.turn, self._trials, trial)
            if trial.start_point is not None:
                callbacks.on_trial_restore(self.loop.turn, self._trials, trial)
        self._services.artifacts.show_trial(trial)

    def over(self, trial: Trial, ended: Ended, *, goes_on_after_failure: bool) -> None:
        """Show that an attempt is over, and remove what it has left behind."""
        if ended.outcome in UNHEARD:
            self._services.deletions.sweep(trial, self._services.journal)
        if goes_on_after_failure:
            for callbacks in (self._services.user_callbacks, self._services.loggers):
                callbacks.on_trial_recover(self.loop.turn, self._trials, trial)
        self._services.artifacts.show_trial(trial)

    def completed(self, trial: Trial, *, failed: bool) -> None:
        """Show that a trial is over."""
        services = self._services
        for callbacks in (services.user_callbacks, services.loggers):
            tell = callbacks.on_trial_error if failed else callbacks.on_trial_complete
            tell(self.loop.turn, self._trials, trial)
        services.artifacts.show_trial(trial)
        services.artifacts.close_table(trial)
        self._num_finished += 1
        total = services.policy.total_trials or len(self._trials)
        services.artifacts.set_progress(100.0 * self._num_finished / max(total, 1))

    def ended(self) -> None:
        """Journal what was held until now."""
        self._note_held(self._services.clock())
