"""A `RayTaskRunner` that sends task runs to resident actors without rebuilding Prefect's context.

Submitting a task through the stock runner costs about 115 ms, nearly all of it for validating
the settings tree and making a client in the worker. Here a task that is submitted under
`use_actor` runs in that actor, which enters the flow run's context once and keeps it.
Without `use_actor` it is the stock runner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self
from uuid import uuid4

import ray
from prefect.context import (
    EngineContext,
    SettingsContext,
    get_settings_context,
    serialize_context,
)
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect.tasks import Task
from prefect_ray.task_runners import PrefectRayFuture, RayTaskRunner

_actors: ContextVar[tuple[Any, Any]] = ContextVar("tune_slot_actors", default=(None, None))


@contextmanager
def use_actor(actor: Any, process: Any = None) -> Iterator[None]:
    """Send the task runs that are submitted in this context to `actor`.

    Args:
        actor: Handle of a `TaskActor`.
        process: Handle of a `TrialProcess`, if the trainable is to run in that.
    """
    token = _actors.set((actor, process))
    try:
        yield
    finally:
        _actors.reset(token)


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
        actor, process = _actors.get()
        if actor is None:
            future: PrefectRayFuture[Any] = super().submit(task, parameters, wait_for, dependencies)
            return future
        if wait_for:
            raise ValueError("wait_for= with use_actor: wait in the flow, since an actor holds its bundles")
        task_run_id = uuid4()
        flow_run, context = self._flow_run_context()
        reference = actor.run.options(name=task.name).remote(
            task, task_run_id, parameters, flow_run, [context], process
        )
        return PrefectRayFuture[Any](task_run_id=task_run_id, wrapped_future=reference)

    def _flow_run_context(self) -> tuple[str, Any]:
        run = EngineContext.get()
        if run is None or run.flow_run is None:
            raise RuntimeError("a task runner submits tasks of a flow run: call this inside a flow")
        key = f"{run.flow_run.id}/{run.flow_run.run_count}"
        if key not in self._contexts:
            settings = get_settings_context()
            with _SettingsApart.model_construct(profile=settings.profile, settings=settings.settings):
                context = serialize_context()
            self._contexts[key] = ray.put((_for_workers(settings), context))
        return key, self._contexts[key]


class _SettingsApart(SettingsContext):
    """Settings that travel beside the context as they are: as plain values they take 100 ms, there and here."""

    def serialize(self, include_secrets: bool = True) -> dict[str, Any]:
        return {}


def _for_workers(context: SettingsContext) -> SettingsContext:
    """Return the settings without a question that the flow run has asked its server: which version it is."""
    settings = context.settings
    client = settings.client.model_copy(update={"server_version_check_enabled": False})
    return context.model_copy(update={"settings": settings.model_copy(update={"client": client})})


class ExperimentTaskRunner(TuneTaskRunner):
    """The experiment flow's, which leaves Ray to the flow: first the parameters have to be found right."""

    def __enter__(self) -> Self:
        """Take up work without starting Ray."""
        TaskRunner.__enter__(self)
        return self
