"""A virtual clock with workers, for the schedulers and searchers of others: asked and told as their own drivers do.

Ours run on the virtual clock of `tune_core.testing.simulator`, which is the loop that real experiments have.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from benchmarks.search.tables import Table

Decision = Literal["continue", "stop", "pause"]


class Row(NamedTuple):
    """A report: when it came, of which configuration, and in which epoch of it."""

    time: float
    config: dict[str, Any]
    epoch: int


@dataclass
class Job:
    """What a worker does next: train this trial from this epoch on."""

    key: Any
    config: dict[str, Any]
    done: int = 0


class Contender(ABC):
    """Something that chooses configurations and decides on reports, of which less is better."""

    @abstractmethod
    def next(self) -> Job | None:
        """Return what a free worker does; None: nothing until another report."""

    @abstractmethod
    def report(self, job: Job, epoch: int, values: dict[str, float]) -> Decision:
        """Decide on a report that is not a trial's last."""

    @abstractmethod
    def complete(self, job: Job, epoch: int, values: dict[str, float]) -> None:
        """Learn of the last report of a trial that has trained to its end."""


def run(
    contender: Contender, table: Table, *, workers: int, seed: int, is_over: Callable[[int, float], bool]
) -> list[Row]:
    """Let workers train until `is_over(epochs so far, time)`; return every report, in order."""
    rows: list[Row] = []
    due: list[tuple[float, int, Job]] = []
    free, count, time = workers, 0, 0.0
    while True:
        while free and (job := contender.next()) is not None:
            free, count = free - 1, count + 1
            heapq.heappush(due, (time + table.seconds(job.config), count, job))
        if not due:
            return rows  # it has nothing to do any more
        time, _, job = heapq.heappop(due)
        job.done += 1
        rows.append(Row(time, job.config, job.done))
        if is_over(len(rows), time):
            return rows
        values = table.reported(job.config, job.done, seed)
        if job.done >= table.epochs:
            contender.complete(job, job.done, values)
            free += 1
        elif contender.report(job, job.done, values) == "continue":
            count += 1
            heapq.heappush(due, (time + table.seconds(job.config), count, job))
        else:
            free += 1
