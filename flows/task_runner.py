"""A `RayTaskRunner` that sends task runs to resident actors without rebuilding Prefect's context.

Submitting a task through the stock runner costs about 115 ms, nearly all of it for validating
the settings tree and making a client in the worker. Here a task that is submitted under
`use_actor` runs in that actor, which enters the flow run's context once and keeps it.
Without `use_actor` it is the stock runner.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, cast
from uuid import UUID, uuid4

import ray
from prefect.client.schemas.objects import State
from prefect.context import EngineContext, SyncClientContext, hydrated_context, serialize_context
from prefect.events.worker import EventsWorker
from prefect.futures import PrefectFuture
from prefect.logging.handlers import APILogWorker
from prefect.task_engine import run_task_sync
from prefect.tasks import Task
from prefect_ray.task_runners import PrefectRayFuture, RayTaskRunner

#: How long a finished task run waits until the server has been told of its states.
EVENTS_TIMEOUT_S = 10.0

_actor: ContextVar[Any] = ContextVar("tune_slot_actor", default=None)


class TaskActor:
    """Runs task runs one after the other, in the context of the flow run that they belong to."""

    def __init__(self) -> None:
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
            context: The serialized context of the flow run, as one object reference.
        """
        if flow_run != self._flow_run:
            self._enter(flow_run, ray.get(context[0]))
        state = run_task_sync(task=task, task_run_id=task_run_id, parameters=parameters, return_type="state")
        self._deliver_events()
        return cast(State[Any], state)

    def flush(self) -> None:
        """Send what was logged; Prefect does so every two seconds, and this process may not live as long."""
        APILogWorker.drain_all(timeout=3)

    def _deliver_events(self) -> None:
        """Wait until the task run's states have left this process: it may be killed as soon as it is idle."""
        if self._delivery is None or not self._delivery.is_alive():
            worker = EventsWorker.instance()
            self._delivery = threading.Thread(target=worker.wait_until_empty, name="tune-events", daemon=True)
            self._delivery.start()
            self._delivery.join(EVENTS_TIMEOUT_S)

    def _enter(self, flow_run: str, context: dict[str, Any]) -> None:
        self._context.close()
        self._context = ExitStack()
        self._context.enter_context(hydrated_context(context))
        # Made inside the context, so that it goes to the flow run's server.
        self._context.enter_context(SyncClientContext(httpx_settings=None))
        self._flow_run = flow_run


@contextmanager
def use_actor(actor: Any) -> Iterator[None]:
    """Send the task runs that are submitted in this context to `actor`, a handle of a `TaskActor`."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


class TuneTaskRunner(RayTaskRunner):
    """prefect-ray's runner, with resident actors as one more place to run tasks.

    Args:
        address: As for `RayTaskRunner`.
        init_kwargs: As for `RayTaskRunner`.
    """

    def __init__(self, address: str | None = None, init_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(address, init_kwargs)
        self._contexts: dict[str, Any] = {}

    def submit(
        self,
        task: Task[Any, Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> PrefectRayFuture[Any]:
        """Submit a task run, to the actor of `use_actor` if there is one.

        Args:
            task: The task.
            parameters: Its arguments; for an actor plain values, no futures.
            wait_for: Futures to wait for; only without an actor.
            dependencies: As for `RayTaskRunner`.

        Raises:
            ValueError: `wait_for` under `use_actor`: the actor would hold its bundles while it waits.
        """
        actor = _actor.get()
        if actor is None:
            future: PrefectRayFuture[Any] = super().submit(task, parameters, wait_for, dependencies)
            return future
        if wait_for:
            raise ValueError("wait_for= with use_actor: wait in the flow, since an actor holds its bundles")
        task_run_id = uuid4()
        flow_run, context = self._flow_run_context()
        reference = actor.run.options(name=task.name).remote(
            task, task_run_id, parameters, flow_run, [context]
        )
        return PrefectRayFuture[Any](task_run_id=task_run_id, wrapped_future=reference)

    def _flow_run_context(self) -> tuple[str, Any]:
        run = EngineContext.get()
        if run is None or run.flow_run is None:
            raise RuntimeError("a task runner submits tasks of a flow run: call this inside a flow")
        key = f"{run.flow_run.id}/{run.flow_run.run_count}"
        if key not in self._contexts:
            self._contexts[key] = ray.put(serialize_context())
        return key, self._contexts[key]
