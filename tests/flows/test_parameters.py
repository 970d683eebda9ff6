"""`with_parameters` on Ray: one copy of a value per node and experiment, and nothing of it in a ticket."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from prefect_ray.task_runners import RayTaskRunner
from ray._private.internal_api import get_memory_info_reply
from ray._private.state import state as ray_state

import tune_core as tune
from tests.support.waiting import wait_for
from tune_core.engine.driver import task_runs as attempts
from tune_core.engine.experiment import experiment
from tune_core.engine.worker.ticket import Ticket
from tune_core.errors import TrainableError

MB = 1_000_000


def store() -> Any:
    """What the object store of this node holds: `object_store_bytes_used`, `spilled_bytes_total` …"""
    return get_memory_info_reply(ray_state).store_stats


def nothing_is_shared() -> bool:
    return bool(store().object_store_bytes_used < 10 * MB)


class Watch(tune.Callback):
    """Notes how full the object store is whenever a trial reports."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def on_trial_result(self, iteration: Any, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.used.append(store().object_store_bytes_used)


@pytest.fixture(autouse=True)
def nothing_shared_before(cluster: None) -> None:
    """What the test before shared is freed in its own time; its reference may be in a cycle of that test's objects."""
    gc.collect()
    wait_for(nothing_is_shared, what="what an earlier test shared to be freed")


@pytest.fixture
def tickets(monkeypatch: pytest.MonkeyPatch) -> list[Ticket]:
    """Every ticket that a trial was sent."""
    sent: list[Ticket] = []

    def noting(*args: Any) -> Ticket:
        sent.append(Ticket(*args))
        return sent[-1]

    monkeypatch.setattr(attempts, "Ticket", noting)
    return sent


def sum_up(config: dict[str, Any], data: Any, label: str = "") -> dict[str, Any]:
    return {
        "sum": float(data[:: 1000 * 1000].sum()),
        "is_view": not data.flags.owndata and not data.flags.writeable,
        "label": label,
    }


@pytest.mark.slow
def test_200_mb_array_and_20_trials_are_one_copy_in_the_object_store(
    run_config: Callable[..., tune.RunConfig], tickets: list[Ticket]
) -> None:
    data = np.ones(25 * MB)  # 200 MB: a second copy does not fit into the store of 300 MB
    watch = Watch()
    spilled_before = store().spilled_bytes_total

    results = tune.Tuner(
        tune.with_parameters(sum_up, data=data, label="shared"),
        param_space={"x": tune.grid_search(list(range(20)))},
        run_config=run_config(callbacks=[watch]),
    ).fit()

    assert [result.metrics["sum"] for result in results] == [25.0] * 20
    assert {(result.metrics["is_view"], result.metrics["label"]) for result in results} == {(True, "shared")}
    assert len(watch.used) == 20
    assert 200 * MB <= min(watch.used) <= max(watch.used) < 230 * MB
    assert store().spilled_bytes_total == spilled_before
    assert len(tickets) == 20
    assert max(ticket.size for ticket in tickets) < 20_000
    wait_for(nothing_is_shared, what="the array to be freed")


@pytest.mark.slow
def test_stock_task_runner_shares_values_too(run_config: Callable[..., tune.RunConfig]) -> None:
    flow = experiment.with_options(task_runner=RayTaskRunner())
    watch = Watch()

    results = flow(
        tune.with_parameters(sum_up, data=np.ones(5 * MB)),
        param_space={"x": tune.grid_search([1, 2, 3])},
        run_config=run_config(callbacks=[watch]),
    )

    assert [result.metrics["sum"] for result in results] == [5.0] * 3
    assert 40 * MB <= min(watch.used) <= max(watch.used) < 60 * MB
    wait_for(nothing_is_shared, what="the array to be freed")


@pytest.mark.parametrize(
    ("resources", "reuse_actors"),
    [
        (None, False),
        pytest.param(None, True, marks=pytest.mark.slow),
        pytest.param({"cpu": 2}, False, marks=pytest.mark.slow),
        ({"cpu": 2}, True),
    ],
)
def test_class_gets_the_values_in_setup(
    run_config: Callable[..., tune.RunConfig], tickets: list[Ticket], resources: Any, reuse_actors: bool
) -> None:
    class Summing(tune.Trainable):
        def setup(self, config: dict[str, Any], data: Any = None, label: str = "") -> None:
            self.data, self.label = data, label

        def step(self) -> dict[str, Any]:
            is_view = not self.data.flags.owndata and not self.data.flags.writeable
            return {"sum": float(self.data.sum()), "is_view": is_view, "label": self.label, "done": True}

        def save_checkpoint(self, directory: str) -> dict[str, Any]:
            return {}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True  # the object goes on with its data

    watch = Watch()
    trainable = tune.with_parameters(Summing, data=np.ones(5 * MB), label="a")

    results = tune.Tuner(
        trainable if resources is None else tune.with_resources(trainable, resources),
        param_space={"x": tune.grid_search([1, 2, 3, 4, 5, 6])},
        tune_config=tune.TuneConfig(reuse_actors=reuse_actors),
        run_config=run_config(callbacks=[watch]),
    ).fit()

    assert [result.metrics["sum"] for result in results] == [5.0 * MB] * 6
    assert {(result.metrics["is_view"], result.metrics["label"]) for result in results} == {(True, "a")}
    assert 40 * MB <= min(watch.used) <= max(watch.used) < 60 * MB
    assert max(ticket.size for ticket in tickets) < 20_000
    wait_for(nothing_is_shared, what="the array to be freed")


def test_object_reference_stands_for_its_value_and_outlives_the_experiment(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    reference = ray.put(np.full(2 * MB, 3.0))

    results = tune.Tuner(tune.with_parameters(sum_up, data=reference), run_config=run_config()).fit()

    assert results[0].metrics["sum"] == 6.0
    assert ray.get(reference)[0] == 3.0


def test_retry_gets_the_values_again(run_config: Callable[..., tune.RunConfig]) -> None:
    def fails_once(config: dict[str, Any], data: list[int]) -> None:
        tune.report({"sum": sum(data), "first": tune.get_checkpoint() is None})
        if not (marker := config["marker"]).exists():
            marker.touch()
            raise RuntimeError("once")

    run = run_config(failure_config=tune.FailureConfig(max_failures=1))
    trainable = tune.with_resources(tune.with_parameters(fails_once, data=[1, 2, 3]), {"cpu": 2})

    marker = Path(run.storage_path) / "marker"
    results = tune.Tuner(trainable, param_space={"marker": marker}, run_config=run).fit()

    assert results.num_errors == 0
    assert [row["sum"] for row in results[0].rows] == [6]
    assert results[0].rows[0]["attempt_number"] == 2


def test_two_experiments_of_one_trainable_have_values_of_their_own(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def label(config: dict[str, Any], label: str) -> dict[str, str]:
        return {"label": label}

    tuners = [
        tune.Tuner(tune.with_parameters(label, label=name), run_config=run_config()) for name in ("a", "b")
    ]

    assert [tuner.fit()[0].metrics["label"] for tuner in tuners] == ["a", "b"]


def test_value_that_cannot_be_shared_ends_fit_before_the_first_trial(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def train(config: dict[str, Any], lock: Any) -> None: ...

    run = run_config()
    with pytest.raises(TrainableError, match=r"with_parameters\(lock=…\): a lock cannot be put into Ray's"):
        tune.Tuner(tune.with_parameters(train, lock=threading.Lock()), run_config=run).fit()
