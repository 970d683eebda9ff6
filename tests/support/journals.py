"""A journal with what it has told its driver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tune_core.control.journal import Journal, claim
from tune_core.control.messages import (
    Event,
    ExperimentStarted,
)
from tune_core.control.segments import (
    Segment,
    read_segment,
    segment_numbers,
)
from tune_core.storage.experiment_storage import ExperimentStorage

OWNER = {"host": "here", "pid": 1}
OTHER = {"host": "there", "pid": 2}
PATIENCE_S = 10.0


class Driver:
    """A journal, and what it has told its driver."""

    def __init__(self, storage: ExperimentStorage, owner: dict[str, Any] = OWNER, **changes: Any) -> None:
        self.flushed: list[dict[tuple[str, int], int]] = []
        self.failures: list[Exception] = []
        self.has_flushed, self.has_failed = threading.Event(), threading.Event()
        number = changes.pop("number", None) or claim(storage, "a1b2c", owner, lambda _: False)
        self.journal = Journal(
            storage,
            changes.pop("experiment_id", "a1b2c"),
            owner,
            number,
            on_flushed=changes.pop("on_flushed", self.on_flushed),
            on_failure=self.on_failure,
        )

    def on_flushed(self, iterations: dict[tuple[str, int], int]) -> None:
        self.flushed.append(iterations)
        self.has_flushed.set()

    def on_failure(self, error: Exception) -> None:
        self.failures.append(error)
        self.has_failed.set()


ADriver = Callable[..., Driver]


def an_event(time: float = 0.0) -> Event:
    return ExperimentStarted(time, capacity=1)


def segments(storage: ExperimentStorage) -> list[Segment]:
    return [read_segment(storage, number) for number in segment_numbers(storage)]
