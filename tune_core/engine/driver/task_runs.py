"""Attempts: one attempt of a trial, submitted as one Prefect task run into one slot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID

import ray
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed
from prefect_ray.context import remote_options
from prefect_ray.task_runners import PrefectRayFuture

from tune_core.control.endings import RunningAttempt
from tune_core.control.experiment import Experiment
from tune_core.control.messages import StartAttempt
from tune_core.control.policy import Policy
from tune_core.engine.artifacts.artifacts import ArtifactWriter
from tune_core.engine.channel.channel import Channel
from tune_core.engine.slots.pool import Slot
from tune_core.engine.task_runner import use_recorder
from tune_core.engine.worker.shared_parameters import SharedParameters
from tune_core.engine.worker.ticket import Ticket
from tune_core.engine.worker.trial_task import trial as trial_task
from tune_core.states import Outcome
from tune_core.trial import Trial

#: How long the recorder of a task run may take to hear how that is to end, in seconds.
END_AS_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """Ray says that the task of an attempt is over: with a state, or with the death of its process."""

    trial_id: str
    attempt_number: int
    state: State[Any] | None
    error: BaseException | None


@dataclass(slots=True)
class TaskRun:
    """What an attempt runs in: a Prefect task run, in a slot.

    Attributes:
        slot: Where it runs.
        task_run_id: Its Prefect task run.
        name: That task run's name.
        is_recorded: Whether its recorder ends its task run, though its process died.
    """

    slot: Slot
    task_run_id: UUID
    name: str
    is_recorded: bool = False

    @property
    def nodes(self) -> frozenset[str]:
        """Ray's ids of the nodes that its bundles are on."""
        return self.slot.nodes

    @property
    def is_used(self) -> bool:
        """Whether other attempts have ended in the slot."""
        return self.slot.uses > 0

    def end(self, state: State[Any], artifacts: ArtifactWriter, *, is_over: bool) -> None:
        """See to it that it ends in this state: its process is gone, or is about to be killed."""
        self.tell_recorder(state, is_over=is_over)
        end = artifacts.expect_state if self.is_recorded else artifacts.force_state
        end(self.name, self.task_run_id, state)

    def tell_recorder(self, state: State[Any], *, is_over: bool) -> None:
        """Have its recorder end it in this state once its process is dead; heard at most once."""
        if self.slot.recorder is None or is_over or self.is_recorded:
            return
        asked = self.slot.recorder.end_as.remote(str(self.task_run_id), state)
        ready, _ = ray.wait([asked], timeout=END_AS_TIMEOUT_S)
        self.is_recorded = bool(ready)


def state_of_death(attempt: RunningAttempt, outcome: Outcome, text: str) -> State[Any]:
    """Return the state that the task run of an attempt ends in if its process is gone."""
    if attempt.stop_cause:
        return Cancelled(message=f"Stopped ({attempt.stop_cause}).")
    if outcome is Outcome.TIMED_OUT:  # as Prefect calls it when its own `timeout_seconds` are over
        return State(type=StateType.FAILED, name="TimedOut", message=text)
    return Crashed(message=text)


def start_attempt(
    experiment: Experiment,
    policy: Policy,
    trial: Trial,
    order: StartAttempt,
    slot: Slot,
    channel: Channel,
    parameters: SharedParameters,
    *,
    fresh_process: bool,
    now: float,
) -> RunningAttempt:
    """Submit the task run of an attempt; `TaskEnded` is posted to the channel when it is over.

    Args:
        experiment: What is tuned, and how.
        policy: Says which answers a report may get.
        trial: Whose attempt it is.
        order: The attempt.
        slot: Where it runs.
        channel: Where it reports.
        parameters: Where the values of `with_parameters` are.
        fresh_process: Under the stock task runner, where the pool renews no process: run in one of its own.
        now: Monotonic seconds.
    """
    run_name = f"trial-{trial.trial_id}" + (
        f"-attempt-{order.attempt_number}" if order.attempt_number > 1 else ""
    )
    spec = experiment.attempt_spec(policy, trial, order)
    if slot.process is None:
        spec = replace(spec, reuse=None)  # nobody could ask Ray's own workers to clean up
    ticket = Ticket(channel.address, spec, experiment.pickled)
    if slot.process is not None:
        with use_recorder(slot.recorder, slot.process):
            submitted = trial_task.submit(run_name, ticket, parameters)
    else:
        options: dict[str, Any] = slot.remote_options() | {"max_retries": 0, "max_calls": int(fresh_process)}
        with remote_options(**options):
            submitted = trial_task.submit(run_name, ticket, parameters)
    future = cast(PrefectRayFuture[Any], submitted)

    def over(done: Any) -> None:
        error = done.exception()
        channel.post(TaskEnded(order.trial_id, order.attempt_number, None if error else done.result(), error))

    future.wrapped_future.future().add_done_callback(over)
    return RunningAttempt(
        order,
        TaskRun(slot, future.task_run_id, run_name),
        journaled=order.iteration,
        rules=spec.stop,
        started=now,
        heard=now,
    )
