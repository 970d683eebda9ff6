"""Keeps the slots of an experiment that has ended warm for the next one of this process.

A trial, or any other process that Ray has started, keeps none: it has what it asked for, and what its
own experiments held is what other trials may be waiting for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from prefect.settings import PREFECT_API_URL

from flows.slots import Slot, SlotPool

#: How long idle slots are kept, within an experiment and after it, in seconds.
SLOT_IDLE_S = 60.0


class _Session(NamedTuple):
    """What slots belong to: a connection to a cluster, and what their processes were started with."""

    connection: str
    options: str


def _connection() -> str:
    # Job ids alone start anew with each cluster.
    context = ray.get_runtime_context()
    return f"{context.get_node_id()} {context.get_job_id()}"


class _Parking:
    """Keeps the slots of an experiment that has ended warm for the next one of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parked: tuple[_Session, SlotPool] | None = None
        self._timer: threading.Timer | None = None

    def take(self, session: _Session) -> SlotPool | None:
        """Return the parked slots if they are of this session; whoever takes them owns them."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            parked, self._parked = self._parked, None
        if parked is not None and parked[0] == session:
            return parked[1]
        _give_up(parked)  # other options: what they hold would be missing
        return None

    def park(self, session: _Session, pool: SlotPool) -> None:
        """Keep idle slots for `SLOT_IDLE_S`; whatever still waits or starts is given up."""
        pool.settle()
        with self._lock:
            superseded, self._parked = self._parked, (session, pool)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(SLOT_IDLE_S, self._expire, (session, pool))
            self._timer.daemon = True
            self._timer.start()
        _give_up(superseded)

    def slots(self) -> list[Slot]:
        """Return the slots that are parked."""
        with self._lock:
            return self._parked[1].idle() if self._parked is not None else []

    def _expire(self, session: _Session, pool: SlotPool) -> None:
        with self._lock:
            if self._parked is None or self._parked[1] is not pool:
                return
            self._parked = None
        _give_up((session, pool))


def _give_up(parked: tuple[_Session, SlotPool] | None) -> None:
    # Slots of a cluster that this process has left are gone already.
    if parked is not None and ray.is_initialized() and parked[0].connection == _connection():
        parked[1].clear()


_parking = _Parking()


@contextmanager
def borrowed_pool(
    *, with_actors: bool, fresh_process: bool | None, runtime_env: Mapping[str, Any] | None
) -> Iterator[SlotPool]:
    """Lend the slots that an earlier experiment of this process left warm, or none; at the end, see above.

    Args:
        with_actors: As for `SlotPool`.
        fresh_process: As for `SlotPool`.
        runtime_env: As for `SlotPool`.
    """
    options: dict[str, Any] = {
        "with_actors": with_actors,
        "fresh_process": fresh_process,
        "runtime_env": runtime_env,
    }
    # Prefect's workers in a slot's process keep sending to the server that they began with.
    session = _Session(_connection(), f"{options} {PREFECT_API_URL.value()}")
    pool = _parking.take(session) or SlotPool(**options)
    try:
        yield pool
    finally:
        if ray.get_runtime_context().worker.mode == ray.SCRIPT_MODE:
            _parking.park(session, pool)
        else:
            pool.settle()
            pool.clear()


def parked_slots() -> list[Slot]:
    """Return the slots that are kept warm for the next experiment of this process."""
    return _parking.slots()
