"""The trial task: one attempt at a trial is one Prefect task run of it.

It has the trainable run, in a process of the slot or, under the stock task runner, here, and ends its task run
in the matching state. Prefect does not retry it: the controller does, since only it sees exceptions and deaths alike.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import SettingsContext, TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Crashed
from ray.exceptions import RayError, RayTaskError

from tune_core.engine.deaths import ProcessDied
from tune_core.engine.forks import end_forks_well
from tune_core.engine.worker.output import TrialLog
from tune_core.engine.worker.process import run_ticket
from tune_core.engine.worker.shared_parameters import SharedParameters
from tune_core.engine.worker.ticket import Ticket
from tune_core.errors import TrialError
from tune_core.states import Outcome, StopCause
from tune_core.training.execution import Ending

#: Stops after which a task run ends as Cancelled.
_CANCELLING = frozenset({StopCause.INTERRUPT, StopCause.FAILURE})


class ApartTrial:
    """A trial whose trainable runs in another process, seen from the recorder of its task run.

    Args:
        process: Handle of a `TrialProcess`.
        host: Handle of the recorder.
        task_run_id: Names the task run to it.
        sent: The settings and the serialized context of the flow run.

    Attributes:
        death: Set if that process died.
        end_state: What the task run is to end in if it dies; None: as Crashed.
    """

    def __init__(
        self, process: Any, host: Any, task_run_id: str, sent: tuple[SettingsContext, dict[str, Any]]
    ) -> None:
        self._process, self._host, self._task_run_id, self._sent = process, host, task_run_id, sent
        self._log: TrialLog | None = None
        self._context: TaskRunContext | None = None
        self.death: ProcessDied | None = None
        self.end_state: State[Any] | None = None

    def run(self, ticket: Ticket, parameters: SharedParameters) -> tuple[Ending, str | None]:
        """Have the trainable run; see `run_ticket`.

        Raises:
            ProcessDied: Its process did.
        """
        self._context, self._log = TaskRunContext.get(), _task_run_log()
        who = (self._host, self._task_run_id)
        try:
            # Not `ray.get`: in any thread of an actor with async methods it warns of what it would block.
            asked = self._process.run.remote(ticket, parameters, *who, is_logged=self._log is not None)
            ended: tuple[Ending, str | None] = asked.future().result()
        except RayTaskError:
            raise  # it lives, and says what is wrong
        except RayError as error:
            self.death = ProcessDied.of(error, is_recorded=True)
            raise self.death from error
        finally:
            for held in (parameters, ticket):
                held.release()  # the other process has its own
        return ended

    def take_log(self, records: list[dict[str, Any]]) -> None:
        """Send records of its process, as `logging.makeLogRecord` makes them again, to the task run's log."""
        if self._log is not None:
            self._log.send_now(logging.makeLogRecord(record) for record in records)

    def sent_context(self) -> tuple[SettingsContext, dict[str, Any]]:
        """Return the settings and the serialized context of the task run."""
        settings, context = self._sent
        run = self._context
        # Its parameters are what that process has.
        task_run = run.model_copy(update={"parameters": {}}).serialize() if run is not None else {}
        return settings, context | {"task_run_context": task_run}


#: The trial that is to run apart from its task run; None: the trainable runs in the same process.
apart: ContextVar[ApartTrial | None] = ContextVar("tune_apart_trial", default=None)


def _trial(run_name: str, ticket: Ticket, parameters: SharedParameters) -> State[Any]:
    elsewhere = apart.get()
    try:
        if elsewhere is not None:
            ending, cause = elsewhere.run(ticket, parameters)
        else:  # the stock task runner
            end_forks_well()
            ending, cause = run_ticket(ticket, parameters, _task_run_log())
    except ProcessDied as death:
        ended_as = elsewhere.end_state if elsewhere is not None else None
        return ended_as or Crashed(message=death.text)
    if ending.outcome in (Outcome.ERROR, Outcome.CORRUPTED):
        raise TrialError(ending.error or "failed", ending.traceback)
    if ending.outcome is Outcome.STOPPED and cause in _CANCELLING:
        return Cancelled(message=f"The experiment was stopped ({cause}).")
    if ending.outcome is Outcome.STOPPED and ending.reason:
        return Completed(message=f"{ending.reason}.")
    return Completed(message=f"The trial {ending.outcome}.")


#: The task. Its function has a name of its own, so that it can be pickled by reference.
trial = task(
    name="trial",
    task_run_name="{run_name}",
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
    log_prints=False,  # see tune_core.engine.worker.output
)(_trial)


def _task_run_log() -> TrialLog | None:
    """Return what sends records to the log of the current task run; None if it is to have none."""
    context = TaskRunContext.get()
    flow_run_id = context.task_run.flow_run_id if context is not None else None
    if context is None or flow_run_id is None or not get_current_settings().logging.to_api.enabled:
        return None
    task_run_id = context.task_run.id
    client, handler = get_client(sync_client=True), APILogHandler()  # that of the task run's context

    def prepare(record: logging.LogRecord) -> dict[str, Any]:
        record.flow_run_id, record.task_run_id = flow_run_id, task_run_id
        log = handler.prepare(record)
        log.pop("__payload_size__", None)
        return log

    return TrialLog(prepare, client.create_logs)
