"""Attempts: one lease of a trial, submitted as one Prefect task run into one slot."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import UUID

from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed
from prefect_ray.context import remote_options
from prefect_ray.task_runners import PrefectRayFuture
from ray.exceptions import RayTaskError

from flows.barrier import Fault
from flows.channel import Channel
from flows.deaths import ProcessDied
from flows.parameters import SharedParameters
from flows.slots import Slot
from flows.task_runner import use_actor
from flows.ticket import Ticket
from flows.trial import trial as trial_task
from tune_core.config import RunConfig
from tune_core.messages import Outcome, StartLease
from tune_core.reuse import Leftover
from tune_core.runtime import Experiment
from tune_core.steering import Steering
from tune_core.trial import Trial


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """Ray says that the task of an attempt is over: with a state, or with the death of its process."""

    trial_id: str
    lease: int
    state: State[Any] | None
    error: BaseException | None


@dataclass(slots=True)
class Attempt:
    """What the shell knows of one lease.

    Attributes:
        order: The command that it carries out.
        slot: The slot that it runs in.
        task_run_id: Its Prefect task run.
        run_name: That task run's name.
        stop_cause: Set once it was told, or is to be told, to stop.
        is_connected: Whether its process has said hello.
        journaled: The highest iteration whose row is known to be in the journal.
        has_ended: Whether `LeaseEnded` was handled.
        is_over: Whether Ray says that its task is over.
        is_recorded: Whether its task run has ended as Crashed by itself, though its process died.
        final_state: How the task run ended, if it did without the attempt's last word.
        fault: Why the driver has failed it; None: it has not.
        is_leaving: Whether its node is about to go, and the controller knows.
        rules: The stop rules that its process knows.
        leaves: What it left in its process, a `Leftover`.
        deadline: When patience ends, in monotonic seconds; None: no limit.
        started: When it was submitted, in monotonic seconds.
        heard: When it last reported, or was submitted.
    """

    order: StartLease
    slot: Slot
    task_run_id: UUID
    run_name: str
    stop_cause: str | None = None
    is_connected: bool = False
    journaled: int = 0
    has_ended: bool = False
    is_over: bool = False
    is_recorded: bool = False
    final_state: State[Any] | None = None
    fault: Fault | None = None
    is_leaving: bool = False
    rules: dict[str, float] = field(default_factory=dict)
    leaves: str = Leftover.NOTHING
    deadline: float | None = None
    started: float = 0.0
    heard: float = 0.0

    def overrun(self, now: float, run: RunConfig) -> str | None:
        """Say which time limit it has passed; None: none, or it is ending anyway.

        Args:
            now: Monotonic seconds.
            run: Says what the limits are.
        """
        if self.deadline is not None or self.has_ended:
            return None
        for name, since, what in (
            ("trial_timeout_s", self.started, "it ran"),
            ("report_timeout_s", self.heard, "it did not report"),
        ):
            limit: float | None = getattr(run, name)
            if limit is not None and now - since > limit:
                return f"{what} for {now - since:.1f} s (RunConfig.{name}={limit:g})"
        return None

    def take_last_word(self, outcome: Outcome, leaves: str, *, reuses: bool) -> None:
        """Take in how the attempt ended: its slot will be given back in a moment.

        Args:
            outcome: How.
            leaves: What its process says that it left there.
            reuses: Whether the next trial is to reuse what it keeps.
        """
        # What made it fail may make the next one fail: leaked descriptors, closed sockets, a broken CUDA context.
        has_failed = outcome in (Outcome.ERROR, Outcome.CORRUPTED)
        self.leaves = Leftover.WORN if has_failed else leaves
        self.slot.is_ending = True
        self.slot.is_returning = reuses and self.leaves != Leftover.WORN

    def end_without_last_word(self) -> tuple[Outcome, str]:
        """Return how it ended, and what is said of that, if its task run is over and nobody has heard more of it."""
        message = (self.final_state.message if self.final_state else None) or "no message"
        if self.is_connected:
            return Outcome.CRASHED, f"the task run ended without a last word of the trial: {message}"
        if self.final_state is not None and self.final_state.is_completed():
            return Outcome.CRASHED, f"nothing was heard of the trial, though its task run ended: {message}"
        return Outcome.LOST, f"the task run ended before the trial began: {message}"

    def end_by(self, error: BaseException) -> tuple[Outcome, str]:
        """Return how it ended, and what is said of that, if Ray raised this instead of its task run's state."""
        death = ProcessDied.of(error)
        self.is_recorded = death.is_recorded
        if isinstance(error, RayTaskError) and not isinstance(error, ProcessDied) and not self.is_connected:
            return Outcome.LOST, f"it could not begin: {death.text}"  # its process lives
        return death.outcome, death.text

    def answer_again(self, trial: Trial, iteration: int, channel: Channel) -> None:
        """A row that has been heard came again over a new connection: what was answered may be lost."""
        if self.journaled >= iteration:
            channel.send(trial.trial_id, trial.lease, "journaled", self.journaled)
        if iteration == trial.iteration:
            answer = (iteration, str(trial.decision), trial.wants_save)
            channel.send(trial.trial_id, trial.lease, "decision", *answer)

    def state_of_death(self, outcome: Outcome, text: str) -> State[Any]:
        """Return the state that its task run ends in if its process is gone."""
        if self.stop_cause:
            return Cancelled(message=f"Stopped ({self.stop_cause}).")
        if outcome is Outcome.TIMED_OUT:  # as Prefect calls it when its own `timeout_seconds` are over
            return State(type=StateType.FAILED, name="TimedOut", message=text)
        return Crashed(message=text)


def start_attempt(
    experiment: Experiment,
    steering: Steering,
    trial: Trial,
    order: StartLease,
    slot: Slot,
    channel: Channel,
    parameters: SharedParameters,
    *,
    fresh_process: bool,
    now: float,
) -> Attempt:
    """Submit the task run of a lease; `TaskEnded` is posted to the channel when it is over.

    Args:
        experiment: What is tuned, and how.
        steering: Says which answers a report may get.
        trial: Whose attempt it is.
        order: The lease.
        slot: Where it runs.
        channel: Where it reports.
        parameters: Where the values of `with_parameters` are.
        fresh_process: Without an actor, whose process the pool renews: run in a process of its own.
        now: Monotonic seconds.
    """
    run_name = f"trial-{trial.trial_id}" + (f"-attempt-{order.lease}" if order.lease > 1 else "")
    lease = experiment.lease(steering, trial, order)
    if slot.actor is None:
        lease = replace(lease, reuse=None)  # nobody could ask Ray's own workers to clean up
    ticket = Ticket(channel.address, lease, experiment.pickled)
    if slot.actor is not None:
        with use_actor(slot.actor, slot.process):
            submitted = trial_task.submit(run_name, ticket, parameters)
    else:
        options: dict[str, Any] = slot.remote_options() | {"max_retries": 0, "max_calls": int(fresh_process)}
        if experiment.run_config.runtime_env:
            options["runtime_env"] = experiment.run_config.runtime_env
        with remote_options(**options):
            submitted = trial_task.submit(run_name, ticket, parameters)
    future = cast(PrefectRayFuture[Any], submitted)

    def over(done: Any) -> None:
        error = done.exception()
        channel.post(TaskEnded(order.trial_id, order.lease, None if error else done.result(), error))

    future.wrapped_future.future().add_done_callback(over)
    return Attempt(
        order,
        slot,
        future.task_run_id,
        run_name,
        journaled=order.iteration,
        rules=lease.stop,
        started=now,
        heard=now,
    )
