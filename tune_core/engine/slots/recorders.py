"""The recorders of this process: which there are, which slot has which, and how long they are kept.

They take nothing of the cluster and run nothing of a user's, so they stay for the next experiment of this process.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from prefect.settings import PREFECT_API_URL
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_core.engine.cluster import has_other_hosts
from tune_core.engine.slots.pool import SlotPool
from tune_core.engine.worker.recorder import FLUSH_TIMEOUT_S, Recorder

#: How many slots share a recorder before another one is started: a task run costs one some milliseconds.
SLOTS_PER_RECORDER = 16


@dataclass(eq=False, slots=True)
class _Serving:
    """A recorder, how many slots it has, and whether it is known to be dead."""

    actor: Any
    slots: int = 0
    is_dead: bool = False


class Recorders:
    """The recorders of one Ray session.

    Args:
        runtime_env: Ray's runtime environment for them.
    """

    def __init__(self, runtime_env: Mapping[str, Any] | None = None) -> None:
        self._runtime_env = dict(runtime_env) if runtime_env else None
        self._lock = threading.Lock()
        self._serving: list[_Serving] = []

    def take(self) -> Any:
        """Return the handle of the recorder for one more slot."""
        with self._lock:
            self._serving = [each for each in self._serving if not each.is_dead]
            least = min(self._serving, key=lambda each: each.slots, default=None)
            if least is None or least.slots >= SLOTS_PER_RECORDER:
                least = self._start()
                self._serving.append(least)
            least.slots += 1
            return least.actor

    def give_back(self, actor: Any) -> None:
        """A slot no longer needs its recorder."""
        with self._lock:
            for each in self._serving:
                if each.actor is actor:
                    each.slots -= 1

    def flush(self) -> None:
        """Wait a while until what they have logged, and the states of task runs, are on their way to the server."""
        with self._lock:
            references = [each.actor.flush.remote() for each in self._serving if not each.is_dead]
        if references:
            ray.wait(references, num_returns=len(references), timeout=FLUSH_TIMEOUT_S)

    def close(self) -> None:
        """End them."""
        with self._lock:
            serving, self._serving = self._serving, []
        for each in serving:
            ray.kill(each.actor)

    def _start(self) -> _Serving:
        # Where the driver is, which reaches the Prefect server; in no placement group, if this is a trial.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
        if self._runtime_env:
            options["runtime_env"] = self._runtime_env
        serving = _Serving(_recorder_class().options(**options, scheduling_strategy=here).remote())

        def died(_: Any) -> None:
            serving.is_dead = True

        serving.actor.live.remote().future().add_done_callback(died)
        return serving


@functools.cache
def _recorder_class() -> Any:
    """Return what makes them; once, since Ray sends each that is made to the cluster."""
    return ray.remote(Recorder)


class _Session(NamedTuple):
    """What recorders belong to: a connection to a cluster, and what they were started with."""

    connection: str
    options: str


class _Kept:
    """The recorders of the latest session, and of those that experiments still use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[_Session, Recorders] = {}
        self._users: dict[_Session, int] = {}

    @contextmanager
    def used(self, session: _Session, runtime_env: Mapping[str, Any] | None) -> Iterator[Recorders]:
        with self._lock:
            for other in [each for each in self._sessions if each != session and not self._users[each]]:
                unused = self._sessions.pop(other)
                if other.connection == session.connection:  # else they are gone with their cluster
                    unused.close()
            recorders = self._sessions.setdefault(session, Recorders(runtime_env))
            self._users[session] = self._users.get(session, 0) + 1
        try:
            yield recorders
        finally:
            with self._lock:
                self._users[session] -= 1


_kept = _Kept()


@contextmanager
def opened_pool(
    *,
    with_processes: bool,
    fresh_process: bool | None,
    runtime_env: Mapping[str, Any] | None,
    max_slots: int | None = None,
) -> Iterator[SlotPool]:
    """Make the slots of one experiment, with the recorders of this process; at the end no slot is left.

    On a single machine no more of them start at once than it has processors: the start of a process keeps one busy, so
    the first trials begin sooner, and trials that are short are over before the others have started.

    Args:
        with_processes: As for `SlotPool`.
        fresh_process: As for `SlotPool`.
        runtime_env: As for `SlotPool`.
        max_slots: As for `SlotPool`.
    """
    # Job ids alone start again with each cluster; Prefect's workers keep sending to the server that they began with.
    context = ray.get_runtime_context()
    connection = f"{context.get_node_id()} {context.get_job_id()}"
    session = _Session(connection, f"{runtime_env} {PREFECT_API_URL.value()}")
    with _kept.used(session, runtime_env) as recorders:
        pool = SlotPool(
            recorders if with_processes else None,
            fresh_process=fresh_process,
            runtime_env=runtime_env,
            max_slots=max_slots,
            max_starting=None if has_other_hosts() else max(2, len(os.sched_getaffinity(0))),
        )
        try:
            yield pool
        finally:
            pool.clear()
            recorders.flush()
