"""The resident actor of a slot. Importing this module imports no Prefect: the actor does, in its own time."""

from __future__ import annotations

import gc
import importlib
import os
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import ray

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State
    from prefect.context import SettingsContext
    from prefect.tasks import Task

#: How long a finished task run waits until the server has been told of its states.
EVENTS_TIMEOUT_S = 10.0


class TaskActor:
    """Runs task runs one after the other, in the context of the flow run that they belong to."""

    def __init__(self) -> None:
        # Two seconds of imports make millions of objects that stay: collecting among them costs a fifth more.
        gc.disable()
        importlib.import_module("flows.trial")
        gc.freeze()
        gc.enable()
        self._context = ExitStack()
        self._flow_run: str | None = None
        self._delivery: threading.Thread | None = None

    def ready(self) -> dict[str, Any]:
        """Return where this process is; resolves when it can run tasks."""
        return {
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "node_ip": ray.util.get_node_ip_address(),
        }

    def run(
        self,
        task: Task[Any, Any],
        task_run_id: UUID,
        parameters: dict[str, Any],
        flow_run: str,
        context: list[Any],
    ) -> State[Any]:
        """Run one task run to its end; return its final state.

        Args:
            task: The task, synchronous.
            task_run_id: Id of its task run.
            parameters: Its arguments.
            flow_run: Changes when the context does.
            context: The settings and the serialized context of the flow run, as one object reference.
        """
        if flow_run != self._flow_run:
            self._enter(flow_run, *ray.get(context[0]))
        from prefect.task_engine import run_task_sync

        state = run_task_sync(task=task, task_run_id=task_run_id, parameters=parameters, return_type="state")
        self._deliver_events()
        return cast("State[Any]", state)

    def clean_up(self) -> None:
        """End what was kept of the last trial for the next: there is none."""
        from flows.trial import keeper

        keeper.clean_up()

    def flush(self) -> None:
        """Send what was logged; Prefect does so every two seconds, and this process may not live as long."""
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=3)

    def _deliver_events(self) -> None:
        """Wait until the task run's states have left this process: it may be killed as soon as it is idle."""
        from prefect.events.worker import EventsWorker

        if self._delivery is None or not self._delivery.is_alive():
            worker = EventsWorker.instance()
            self._delivery = threading.Thread(target=worker.wait_until_empty, name="tune-events", daemon=True)
            self._delivery.start()
            self._delivery.join(EVENTS_TIMEOUT_S)

    def _enter(self, flow_run: str, settings: SettingsContext, context: dict[str, Any]) -> None:
        from prefect.client.orchestration import get_client
        from prefect.context import SyncClientContext, hydrated_context

        from flows.server import client_options

        self._context.close()
        self._context = ExitStack()
        self._context.enter_context(settings)
        # One for everything here, made inside the settings, so that it goes to the flow run's server.
        client = get_client(sync_client=True, httpx_settings=client_options(settings.settings.api.url))
        self._context.enter_context(SyncClientContext.model_construct(client=client))
        self._context.enter_context(hydrated_context(context, client=client))
        self._flow_run = flow_run
