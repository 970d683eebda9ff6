"""Trials that have other resources from attempt to attempt, and budgets that end an experiment."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.flows.conftest import CPUS, Recorded
from tests.flows.journals import replay_storage
from tune_core.control.messages import AttemptEnded, TrialReported
from tune_core.control.segments import read_journal
from tune_core.errors import PlacementError
from tune_core.schedulers import (
    ASHAScheduler,
    DistributeResources,
    Reallocate,
    ResourceChangingScheduler,
    TrialScheduler,
)
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.trial import Trial

MakeRunConfig = Callable[..., tune.RunConfig]
MIB = 2**20
#: The cluster as if it had 4 CPUs.
FOUR_CPUS = DistributeResources(reserve_resources={"CPU": CPUS - 4})


def cpus() -> float:
    resources = tune.get_context().get_trial_resources()
    assert resources is not None
    return resources.head_cpus


def report(steps: int, **metrics: float) -> None:
    """Report with a checkpoint that holds a number."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "steps").write_text(str(steps))
        tune.report(metrics, checkpoint=tune.Checkpoint(directory))


def train(config: dict[str, Any]) -> None:
    """Report at each step how many CPUs there are; the long one goes on until it has all."""
    start, deadline = 0, time.monotonic() + 60
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            start = int(Path(directory, "steps").read_text())
    for step in range(start, 100_000):
        report(step + 1, step=step, cpus=cpus(), started_at=start, loss=1.0)
        if config["is_short"] and step >= 3:
            return
        if cpus() == 4 and step > start:
            return
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


class Steps(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.steps = self.restored = 0
        self.is_short = config["is_short"]

    def step(self) -> dict[str, Any]:
        threading.Event().wait(0.02)
        self.steps += 1
        assert self.trial_resources is not None
        cpus = self.trial_resources.head_cpus
        done = self.steps >= 4 if self.is_short else cpus == 4
        return {"step": self.steps - 1, "cpus": cpus, "started_at": self.restored, "done": done, "loss": 1.0}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "steps").write_text(str(self.steps))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.steps = self.restored = int(Path(checkpoint, "steps").read_text())


@pytest.mark.parametrize("trainable", [train, Steps], ids=["function", "class"])
@pytest.mark.parametrize(
    "inside", [None, ASHAScheduler(max_t=10**6, grace_period=10**5)], ids=["FIFO", "ASHA, reusing"]
)
def test_trials_get_the_cpus_of_those_that_have_ended(
    trainable: Any, inside: TrialScheduler | None, run_config: MakeRunConfig
) -> None:
    config = run_config()
    scheduler = ResourceChangingScheduler(inside, FOUR_CPUS)
    results = tune.Tuner(
        trainable,
        param_space={"is_short": tune.grid_search([False, True])},
        tune_config=tune.TuneConfig("min", "loss", scheduler=scheduler, reuse_actors=inside is not None),
        run_config=config,
    ).fit()

    assert not results.errors
    long = next(result for result in results if not result.config["is_short"])
    frame = long.metrics_dataframe
    assert frame is not None
    assert list(frame["training_iteration"]) == list(range(1, len(frame) + 1))
    assert list(frame["step"]) == list(range(len(frame))), "it has not gone on from its checkpoint"
    assert list(dict.fromkeys(frame["cpus"])) in ([1, 2, 4], [1, 4], [1, 3, 4], [2, 4])
    assert frame["started_at"].iloc[-1] > 0
    moves = [event for event in events_of(config, TrialReported) if event.resources]
    assert {move.resources["bundles"][0]["CPU"] for move in moves} >= {4}
    assert all(trial.num_failures == trial.num_losses == 0 for trial in replayed_trials(config))


class AsksForTooMuch(TrialScheduler):
    """Wants more than the cluster can ever give."""

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> Any:
        return Reallocate({"cpu": 1000})


def report_twice(config: dict[str, Any]) -> None:
    for step in (1, 2):
        report(step, cpus=cpus())


def test_bundles_that_the_cluster_cannot_give_are_refused_and_the_trial_goes_on(
    run_config: MakeRunConfig, recorded: Callable[[str], Recorded], caplog: pytest.LogCaptureFixture
) -> None:
    config = run_config()
    tuning = tune.TuneConfig(scheduler=AsksForTooMuch())
    result = tune.Tuner(report_twice, tune_config=tuning, run_config=config).fit()[0]

    assert (result.error, result.metrics["cpus"], result.metrics["iterations_since_restore"]) == (None, 1, 2)
    assert caplog.text.count("CPU: 1000 needed in one bundle, the largest node has") == 1


def needs_memory(config: dict[str, Any]) -> dict[str, Any]:
    resources = tune.get_context().get_trial_resources()
    assert resources is not None
    memory = resources.head_bundle["memory"] / MIB
    if memory < 200:
        raise MemoryError(f"{memory} MiB are too few")
    return {"memory": memory}


def test_trial_that_has_run_out_of_memory_is_tried_again_with_more(run_config: MakeRunConfig) -> None:
    failures = tune.FailureConfig(max_failures=2, resources_after={"oom": {"memory": 2.0}})
    config = run_config(failure_config=failures)
    trainable = tune.with_resources(needs_memory, {"cpu": 1, "memory": 64 * MIB})
    result = tune.Tuner(trainable, run_config=config).fit()[0]

    assert (result.error, result.metrics["memory"]) == (None, 256)
    given = [
        each.resources["bundles"][0]["memory"] / MIB
        for each in events_of(config, AttemptEnded)
        if each.resources
    ]
    assert given == [128, 256]


@pytest.mark.parametrize(
    ("resources", "factors", "fault"),
    [
        ({"cpu": 1}, {"memory": 2.0}, "the first bundle of .* has none"),
        ({"cpu": CPUS}, {"CPU": 2.0}, "the cluster can never give a trial that after the first death: CPU"),
    ],
)
def test_more_than_there_can_be_after_a_death_is_refused_at_the_start(
    resources: dict[str, float], factors: dict[str, float], fault: str, run_config: MakeRunConfig
) -> None:
    config = run_config(failure_config=tune.FailureConfig(resources_after={"oom": factors}))

    with pytest.raises(PlacementError, match=fault):
        tune.Tuner(tune.with_resources(needs_memory, resources), run_config=config).fit()


def fails(config: dict[str, Any]) -> None:
    raise ValueError(f"no {config['x']}")


def test_too_many_failed_trials_end_the_experiment(
    run_config: MakeRunConfig, recorded: Callable[[str], Recorded]
) -> None:
    config = run_config(failure_config=tune.FailureConfig(max_failed_trials=0.2))
    results = tune.Tuner(
        fails,
        param_space={"x": tune.grid_search(list(range(10)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=config,
    ).fit()

    assert len(results.errors) == 3
    assert len(results) == 3
    run = recorded(str(config.name)).flow_run
    assert run.state is not None
    assert "3 of 10 trials have failed (max_failed_trials=0.2)" in str(run.state.message)


def goes_on(config: dict[str, Any]) -> None:
    for step in range(10_000):
        tune.report({"step": step})
        threading.Event().wait(0.05)


def test_a_cost_that_is_used_up_ends_the_experiment(
    run_config: MakeRunConfig, recorded: Callable[[str], Recorded]
) -> None:
    config = run_config()
    began = time.monotonic()
    results = tune.Tuner(
        tune.with_resources(goes_on, {"cpu": 2}),
        param_space={"x": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(max_cost={"CPU": 8 / 3600}),
        run_config=config,
    ).fit()

    assert not results.errors
    assert 2 < time.monotonic() - began < 60
    run = recorded(str(config.name)).flow_run
    assert run.state is not None
    assert "is used up: 0.0022" in str(run.state.message)


def events_of(config: tune.RunConfig, kind: type[Any]) -> list[Any]:
    storage = ExperimentStorage.open(config.storage_path, str(config.name))
    return [event for event, _ in read_journal(storage) if isinstance(event, kind)]


def replayed_trials(config: tune.RunConfig) -> list[Trial]:
    (controller,) = replay_storage(ExperimentStorage.open(config.storage_path, str(config.name))).values()
    return list(controller.trials.values())
