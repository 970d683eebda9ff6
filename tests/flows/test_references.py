"""Ray's references in a search space and in a trainable: Ray's guides use them, and datasets hold some."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.data
from prefect_ray.task_runners import RayTaskRunner

import tune_core as tune
from tune_core.engine.experiment import experiment

MB = 1_000_000


@ray.remote(num_cpus=0)
class Counter:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls


def blocks(*values: int) -> Any:
    """Return an object that holds references, as a dataset does."""
    return SimpleNamespace(references=[ray.put({"item": value}) for value in values])


def dataset(*values: int) -> Any:
    with warnings.catch_warnings(action="ignore"):  # Ray's, of itself
        return ray.data.from_items([*values]).materialize()


def space_and_trainable(
    make_rows: Callable[..., Any],
) -> tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]]]:
    captured = ray.put(b"c" * MB)

    def train(config: dict[str, Any]) -> dict[str, Any]:
        (nested,) = ray.get(config["nested"]["references"])
        rows = config["rows"]
        if isinstance(rows, SimpleNamespace):
            items = [row["item"] for row in ray.get(rows.references)]
        else:
            items = [row["item"] for row in rows.iter_rows()] if rows else []
        return {
            "sizes": [len(ray.get(config["data"])), len(nested), len(ray.get(captured))],
            "calls": ray.get(config["counter"].count.remote()),
            "rows": sum(items),
        }

    space = {
        "data": tune.grid_search([ray.put(b"d" * MB), ray.put(b"d" * 2 * MB)]),
        "nested": {"references": [ray.put(b"n" * 3 * MB)]},
        "counter": Counter.remote(),  # type: ignore[attr-defined] # which `remote` adds
        "rows": tune.grid_search([None, make_rows(1, 2, 3)]),
    }
    return space, train


def check(results: tune.ResultGrid) -> None:
    assert [result.error for result in results] == [None] * 4
    found = [(result.metrics["sizes"], result.metrics["rows"]) for result in results]
    assert sorted(found) == [
        ([MB, 3 * MB, MB], 0),
        ([MB, 3 * MB, MB], 6),
        ([2 * MB, 3 * MB, MB], 0),
        ([2 * MB, 3 * MB, MB], 6),
    ]
    assert sorted(result.metrics["calls"] for result in results) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fresh_process", "make_rows"), [(False, blocks), pytest.param(True, dataset, marks=pytest.mark.slow)]
)
def test_references_reach_the_trials(
    run_config: Callable[..., tune.RunConfig], make_rows: Callable[..., Any], *, fresh_process: bool
) -> None:
    space, train = space_and_trainable(make_rows)

    results = tune.Tuner(
        train,
        param_space=space,
        tune_config=tune.TuneConfig(fresh_process=fresh_process),
        run_config=run_config(
            trial_timeout_s=60
        ),  # a reference that nobody answers for is waited for without end
    ).fit()

    check(results)


@pytest.mark.slow
def test_stock_task_runner_passes_references_on_too(run_config: Callable[..., tune.RunConfig]) -> None:
    space, train = space_and_trainable(blocks)
    flow = experiment.with_options(task_runner=RayTaskRunner())

    check(flow(train, param_space=space, run_config=run_config(trial_timeout_s=60)))
