"""The recorder: an actor that runs task runs while their trials run in other processes.

It has Prefect, takes nothing of the cluster, and serves several slots at once. No code of a user's runs in it, so it
may be kept from one experiment to the next. Importing this module imports no Prefect: the actor does, in its own time.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import ray
from ray.exceptions import RayError

from tune_core.engine.worker.process import this_worker

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State
    from prefect.context import SettingsContext
    from prefect.tasks import Task

    from tune_core.engine.worker.trial_task import ApartTrial

#: How long `flush` waits at most until the server has been told of everything, in seconds.
FLUSH_TIMEOUT_S = 5.0
#: How many task runs, and how many calls of their trials' processes, may be under way at once.
_MAX_THREADS = 512

T = TypeVar("T")


class Recorder:
    """Runs task runs, several at once, each in the context of the flow run that it belongs to."""

    def __init__(self) -> None:
        # Two seconds of imports make millions of objects that stay: collecting among them costs a fifth more.
        gc.disable()
        importlib.import_module("tune_core.engine.worker.trial_task")
        context = importlib.import_module("tune_core.engine.prefect_context")
        context.write_plain_lines()
        context.show_news_only()
        gc.freeze()
        gc.enable()
        # Two pools: task runs wait for trials, which wait for calls.
        self._runs = ThreadPoolExecutor(_MAX_THREADS, "tune-task-run")
        self._calls = ThreadPoolExecutor(_MAX_THREADS, "tune-call")
        self._lock = threading.Lock()
        self._flow_runs: dict[str, _FlowRun] = {}
        self._trials: dict[str, ApartTrial] = {}

    def __repr__(self) -> str:
        """Return what Ray puts in front of what is printed here."""
        return "recorder"

    async def ready(self) -> dict[str, Any]:
        """Return where this process is; resolves when it can run tasks."""
        return this_worker()

    async def live(self) -> None:
        """Never return: the call fails when this process dies."""
        await asyncio.Event().wait()

    async def run(
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
            flow_run: Names the flow run; another one means another context.
            context: The settings and the serialized context of the flow run, as one object reference.
            process: Handle of the `TrialProcess` that the trainable runs in; None: the task is no trial.

        Raises:
            ProcessDied: That process did.
        """
        me = ray.get_runtime_context().current_actor
        work = partial(self._run, task, task_run_id, parameters, flow_run, context, process, me)
        return await self._in_thread(self._runs, work)

    async def take_log(self, task_run_id: str, records: list[dict[str, Any]]) -> None:
        """See `ApartTrial`: its process calls this while `run` is under way."""
        if (trial := self._trials.get(task_run_id)) is not None:
            await self._in_thread(self._calls, partial(trial.take_log, records))

    async def task_run_context(self, task_run_id: str) -> tuple[SettingsContext, dict[str, Any]]:
        """Return the settings and the serialized context of a task run that is under way, for its trial's process."""
        return await self._in_thread(self._calls, self._trials[task_run_id].sent_context)

    async def end_as(self, task_run_id: str, state: State[Any]) -> None:
        """Have a task run end in this state when its trial's process dies, which is about to be killed."""
        if (trial := self._trials.get(task_run_id)) is not None:
            trial.end_state = state

    async def flush(self) -> None:
        """Wait until what was logged and the states of task runs have left this process."""
        from tune_core.engine.prefect_context import send_what_waits

        await self._in_thread(self._calls, partial(send_what_waits, FLUSH_TIMEOUT_S))

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def _run(
        self,
        task: Task[Any, Any],
        task_run_id: UUID,
        parameters: dict[str, Any],
        flow_run: str,
        context: list[Any],
        process: Any,
        me: Any,
    ) -> State[Any]:
        from prefect.task_engine import run_task_sync

        work = partial(
            run_task_sync,
            task=task,
            task_run_id=task_run_id,
            parameters=parameters,
            return_type="state",
        )
        with self._entered(flow_run, context[0]) as entered:
            if process is None:
                return cast("State[Any]", entered.run(work))
            return self._run_trial(str(task_run_id), work, entered, process, me)

    def _run_trial(
        self, task_run_id: str, work: Callable[[], Any], entered: _Entered, process: Any, me: Any
    ) -> State[Any]:
        from tune_core.engine.deaths import ProcessDied
        from tune_core.engine.worker.trial_task import ApartTrial, apart

        try:
            process.ready.remote().future().result()
        except RayError as error:  # there is no task run yet
            raise ProcessDied.of(error) from error
        trial = self._trials[task_run_id] = ApartTrial(process, me, task_run_id, entered.sent)

        def run_apart() -> State[Any]:
            token = apart.set(trial)
            try:
                return cast("State[Any]", work())
            finally:
                apart.reset(token)

        try:
            state = entered.run(run_apart)
        finally:
            del self._trials[task_run_id]
        if trial.death is not None:
            raise trial.death
        return state

    @contextmanager
    def _entered(self, flow_run: str, sent: Any) -> Iterator[_Entered]:
        """Lend a context that the flow run's has been entered in, to one task run at a time."""
        with self._lock:
            for key in [
                key for key, other in self._flow_runs.items() if key != flow_run and not other.at_work
            ]:
                self._flow_runs.pop(key).close()
            current = self._flow_runs.setdefault(flow_run, _FlowRun(sent))
            current.at_work += 1
        try:
            entered = current.take()
            yield entered
            current.idle.append(entered)
        finally:
            with self._lock:
                current.at_work -= 1


class _FlowRun:
    """What came of one flow run's context, and contexts of ours that it has been entered in.

    Attributes:
        at_work: How many task runs of it are under way.
        idle: Contexts that none of them uses.
    """

    def __init__(self, sent: Any) -> None:
        self._reference, self._lock = sent, threading.Lock()
        self._sent: tuple[SettingsContext, dict[str, Any]] | None = None
        self.at_work = 0
        self.idle: list[_Entered] = []

    def take(self) -> _Entered:
        with self._lock:
            if self.idle:
                return self.idle.pop()
            if self._sent is None:
                # Not `ray.get`: in any thread of an actor with async methods it warns of what it would block.
                self._sent = self._reference.future().result()
            return _Entered(self._sent)

    def close(self) -> None:
        for entered in self.idle:
            entered.close()


class _Entered:
    """A `contextvars.Context` in which the context of a flow run has been entered once; for one thread at a time."""

    def __init__(self, sent: tuple[SettingsContext, dict[str, Any]]) -> None:
        from tune_core.engine.prefect_context import enter_context

        self.sent = sent
        self._variables, self._stack = contextvars.Context(), ExitStack()
        settings, context = sent
        # What was entered can be neither sent nor entered again.
        self._variables.run(enter_context, self._stack, settings.model_copy(), context)

    def run(self, work: Callable[[], T]) -> T:
        return self._variables.run(work)

    def close(self) -> None:
        self._variables.run(self._stack.close)
