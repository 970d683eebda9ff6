"""The resident actor of a slot. Importing this module imports no Prefect: the actor does, in its own time."""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.exceptions import RayError

from flows.process import keeper, this_worker

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State
    from prefect.context import SettingsContext
    from prefect.tasks import Task

    from flows.trial import ApartTrial

#: How long a finished task run waits until the server has been told of its states.
EVENTS_TIMEOUT_S = 10.0


class TaskActor:
    """Runs task runs one after the other, in the context of the flow run that they belong to."""

    def __init__(self) -> None:
        # Two seconds of imports make millions of objects that stay: collecting among them costs a fifth more.
        gc.disable()
        importlib.import_module("flows.trial")
        context = importlib.import_module("flows.context")
        context.write_plain_lines()
        context.show_news_only()
        gc.freeze()
        gc.enable()
        self._context = ExitStack()
        self._flow_run: str | None = None
        self._sent_context: list[Any] = []
        self._trial: ApartTrial | None = None
        self._delivery: threading.Thread | None = None

    def __repr__(self) -> str:
        """Return what Ray puts in front of what is printed here."""
        return "trial"

    def ready(self) -> dict[str, Any]:
        """Return where this process is; resolves when it can run tasks."""
        return this_worker()

    def run(
        self,
        task: Task[Any, Any],
        task_run_id: UUID,
        parameters: dict[str, Any],
        flow_run: str,
        context: list[Any],
        process: Any = None,
    ) -> State[Any]:
        """Run one task run to its end; return its final state.

        Args:
            task: The task, synchronous.
            task_run_id: Id of its task run.
            parameters: Its arguments.
            flow_run: Changes when the context does.
            context: The settings and the serialized context of the flow run, as one object reference.
            process: Handle of the `TrialProcess` that the trainable is to run in; None: it runs here.

        Raises:
            ProcessDied: That process did.
        """
        if flow_run != self._flow_run:
            self._enter(flow_run, context)
        from prefect.task_engine import run_task_sync

        with self._apart(process) as trial:
            state = run_task_sync(
                task=task, task_run_id=task_run_id, parameters=parameters, return_type="state"
            )
        self._deliver_events()
        if trial is not None and trial.death is not None:
            raise trial.death
        return cast("State[Any]", state)

    def take_log(self, records: list[dict[str, Any]]) -> None:
        """See `ApartTrial`: its process calls this while `run` is under way, in another thread."""
        if self._trial is not None:
            self._trial.take_log(records)

    def task_run_context(self) -> tuple[SettingsContext, dict[str, Any]]:
        """Return the settings and the serialized context of the task run that is under way, for its trial's process."""
        settings, context = ray.get(self._sent_context[0])  # not what was entered, which cannot be sent
        run = self._trial.context if self._trial is not None else None
        # Its parameters are what that process has.
        task_run = run.model_copy(update={"parameters": {}}).serialize() if run is not None else {}
        return settings, context | {"task_run_context": task_run}

    def clean_up(self) -> None:
        """End what was kept of the last trial for the next: there is none."""
        keeper.clean_up()

    def flush(self) -> None:
        """Send what was logged; Prefect does so every two seconds, and this process may not live as long."""
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=3)

    @contextmanager
    def _apart(self, process: Any) -> Iterator[ApartTrial | None]:
        """Have the trial that runs meanwhile run in this process, if it is one.

        Raises:
            ProcessDied: It is dead already; there is no task run of it then.
        """
        from flows.deaths import ProcessDied
        from flows.trial import ApartTrial, apart

        if process is None:
            yield None
            return
        try:
            ray.get(process.ready.remote())
        except RayError as error:
            raise ProcessDied.of(error) from error
        self._trial = ApartTrial(process)
        token = apart.set(self._trial)
        try:
            yield self._trial
        finally:
            apart.reset(token)
            self._trial = None

    def _deliver_events(self) -> None:
        """Wait until the task run's states have left this process: it may be killed as soon as it is idle."""
        from prefect.events.worker import EventsWorker

        if self._delivery is None or not self._delivery.is_alive():
            worker = EventsWorker.instance()
            self._delivery = threading.Thread(target=worker.wait_until_empty, name="tune-events", daemon=True)
            self._delivery.start()
            self._delivery.join(EVENTS_TIMEOUT_S)

    def _enter(self, flow_run: str, context: list[Any]) -> None:
        from flows.context import enter_context

        self._context.close()
        self._context = ExitStack()
        enter_context(self._context, *ray.get(context[0]))
        self._flow_run, self._sent_context = flow_run, context
