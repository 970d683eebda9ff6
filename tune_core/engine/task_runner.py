"""A `RayTaskRunner` that sends task runs to recorders without rebuilding Prefect's context.

Submitting a task through the stock runner costs about 115 ms, nearly all of it for validating
the settings tree and making a client in the worker. Here a task that is submitted under
`use_recorder` runs in that actor, which enters the flow run's context once and keeps it.
Without `use_recorder` it is the stock runner.
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

_used: ContextVar[tuple[Any, Any]] = ContextVar("tune_recorder", default=(None, None))


@contextmanager
def use_recorder(recorder: Any, process: Any = None) -> Iterator[None]:
    """Send the task runs that are submitted in this context to `recorder`.

    Args:
        recorder: Handle of a `Recorder`.
        process: Handle of the `TrialProcess` that the trainable is to run in; None: the task is no trial.
    """
    token = _used.set((recorder, process))
    try:
        yield
    finally:
        _used.reset(token)


class TuneTaskRunner(RayTaskRunner):
    """prefect-ray's runner, with recorders as one more place to run tasks.

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
        """Submit a task run, to the recorder of `use_recorder` if there is one.

        Args:
            task: The task.
            parameters: Its arguments; for a recorder plain values, no futures.
            wait_for: Futures to wait for; only without a recorder.
            dependencies: As for `RayTaskRunner`.

        Raises:
            ValueError: `wait_for` under `use_recorder`: the slot would be held while the task run waits.
        """
        recorder, process = _used.get()
        if recorder is None:
            future: PrefectRayFuture[Any] = super().submit(task, parameters, wait_for, dependencies)
            return future
        if wait_for:
            raise ValueError(
                "wait_for= with use_recorder: wait in the flow, since the slot is held meanwhile"
            )
        task_run_id = uuid4()
        flow_run, context = self._flow_run_context()
        reference = recorder.run.options(name=task.name).remote(
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
