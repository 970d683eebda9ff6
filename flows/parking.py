"""Keeps the slots of an experiment that has ended warm for the next one of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from flows.slots import Slot, SlotPool

#: How long idle slots outlive an experiment, in seconds.
SLOT_IDLE_S = 60.0


class _Parking:
    """Keeps the slots of an experiment that has ended warm for the next one of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parked: tuple[str, SlotPool] | None = None
        self._timer: threading.Timer | None = None

    def take(self, session: str) -> SlotPool | None:
        """Return the parked slots if they are of this session; whoever takes them owns them."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            parked, self._parked = self._parked, None
        if parked is None or parked[0] == session:
            return parked[1] if parked else None
        if parked[0].partition(" ")[0] == session.partition(" ")[0]:
            parked[1].clear()  # same Ray, other options: what they hold would be missing
        return None

    def park(self, session: str, pool: SlotPool) -> None:
        """Keep idle slots for `SLOT_IDLE_S`; whatever still waits or starts is given up."""
        pool.settle()
        with self._lock:
            superseded, self._parked = self._parked, (session, pool)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(SLOT_IDLE_S, self._expire, (pool,))
            self._timer.daemon = True
            self._timer.start()
        if superseded is not None and superseded[0] == session:
            superseded[1].clear()

    def slots(self) -> list[Slot]:
        """Return the slots that are parked."""
        with self._lock:
            return self._parked[1].idle() if self._parked is not None else []

    def _expire(self, pool: SlotPool) -> None:
        with self._lock:
            if self._parked is None or self._parked[1] is not pool:
                return
            self._parked = None
        if ray.is_initialized():
            pool.clear()


_parking = _Parking()


@contextmanager
def borrowed_pool(*, with_actors: bool, runtime_env: Mapping[str, Any] | None) -> Iterator[SlotPool]:
    """Lend the slots that an earlier experiment of this process left warm, or none; park them at the end."""
    session = f"{ray.get_runtime_context().get_job_id()} {with_actors} {runtime_env}"
    pool = _parking.take(session) or SlotPool(with_actors=with_actors, runtime_env=runtime_env)
    try:
        yield pool
    finally:
        _parking.park(session, pool)


def parked_slots() -> list[Slot]:
    """Return the slots that are kept warm for the next experiment of this process."""
    return _parking.slots()
