"""Run every contender on every table with every seed, in parallel, and keep what came of it in a file.

A run is one line of JSON: regret (or what is missing of the hypervolume, as a share) at ten budgets, by epochs and by
virtual wall-clock. What the file has already is not run again.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.search.clock import Row
from benchmarks.search.tables import Table, hypervolume

#: Budgets at which regret is measured, as shares of the whole budget.
SHARES = tuple(round(0.05 * 20 ** (step / 9), 4) for step in range(10))
#: The whole budget: full trainings with several epochs, and with one.
TRAININGS, TRAININGS_OF_ONE = 20, 60
#: What random search gets of it.
RANDOM_TIMES = 2


class Task(NamedTuple):
    """One run."""

    group: str
    table: str
    contender: str
    workers: int
    seed: int


def run_all(tasks: Sequence[Task], kept: Path, processes: int) -> list[dict[str, Any]]:
    """Return the results of all tasks; those that `kept` has already are read from it.

    Args:
        tasks: What is to be run.
        kept: Where results are.
        processes: How many runs at a time; 0: none, only what is kept is returned.
    """
    results = {tuple(line["task"]): line for line in _read(kept)}
    if not processes:
        return [results[tuple(task)] for task in tasks if tuple(task) in results]
    missing = [task for task in tasks if tuple(task) not in results]
    print(f"{len(tasks)} runs, {len(missing)} of them now", flush=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with kept.open("a") as file, multiprocessing.get_context("spawn").Pool(processes) as pool:
        for count, line in enumerate(pool.imap_unordered(run_one, missing), 1):
            results[tuple(line["task"])] = line
            file.write(json.dumps(line) + "\n")
            file.flush()
            if count % 100 == 0:
                print(f"{count} of {len(missing)} after {time.monotonic() - began:.0f} s", flush=True)
    return [results[tuple(task)] for task in tasks]


def _read(kept: Path) -> Iterator[dict[str, Any]]:
    if kept.exists():
        yield from map(json.loads, kept.read_text().splitlines())


def run_one(task: Task) -> dict[str, Any]:
    """Run one contender; return the task, its regrets, and how many seconds it took."""
    from benchmarks.search import contenders, peers, tables

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # of peers, about how they are called
    table = tables.TABLES[task.table]()
    runs = contenders.GROUPS[task.group][task.contender]
    times = RANDOM_TIMES if task.contender.startswith("random") else 1
    epochs, seconds = budget(table, task.workers)
    began = time.perf_counter()
    rows = runs(
        table,
        peers.first_points(table, task.seed),
        workers=task.workers,
        seed=task.seed,
        is_over=lambda count, now: count >= times * epochs and now >= times * seconds,
    )
    spent = time.perf_counter() - began
    return {
        "task": list(task),
        "seconds": round(spent, 2),
        **regrets(table, rows, epochs * times, seconds * times),
    }


def budget(table: Table, workers: int) -> tuple[int, float]:
    """Return the whole budget in epochs, and in virtual seconds of so many workers."""
    epochs = TRAININGS * table.epochs if table.epochs > 1 else TRAININGS_OF_ONE
    return epochs, 60.0 * epochs / workers


def regrets(table: Table, rows: Sequence[Row], epochs: int, seconds: float) -> dict[str, list[float]]:
    """Return what was missing to the optimum at each share of the budget, by epochs and by wall-clock."""
    by_epochs = _progress(table, rows, [share * epochs for share in SHARES], range(1, len(rows) + 1))
    by_clock = _progress(table, rows, [share * seconds for share in SHARES], [row.time for row in rows])
    return {"epochs": by_epochs, "clock": by_clock}


def _progress(
    table: Table, rows: Sequence[Row], limits: Sequence[float], spent: Iterable[float]
) -> list[float]:
    found: list[float] = []
    points: list[tuple[float, ...]] = []
    left = list(limits)
    for row, cost in zip(rows, spent, strict=True):
        while left and cost > left[0]:
            left.pop(0)
            found.append(_missing(table, points))
        if not left:
            return found
        values = table.curve(row.config, row.epoch)
        points = _kept(points, tuple(values[name] for name in table.metrics))
    return found + [_missing(table, points)] * len(left)


def _kept(points: list[tuple[float, ...]], new: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Return the points that no other dominates."""
    if any(all(a <= b for a, b in zip(point, new, strict=True)) for point in points):
        return points
    return [point for point in points if not all(a <= b for a, b in zip(new, point, strict=True))] + [new]


def _missing(table: Table, points: list[tuple[float, ...]]) -> float:
    if len(table.metrics) == 1:
        return table.regret(points[0][0]) if points else math.inf
    corner = (table.reference[0], table.reference[1])
    return 1.0 - hypervolume([(a, b) for a, b in points], corner) / table.best
