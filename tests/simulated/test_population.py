"""Populations of real trainables in this process: what is inherited, and what comes of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from benchmarks import population as benchmark
from tests.flows.test_population import SPACE, expected, score, together
from tune_core.schedulers import PopulationBasedTraining, TrialScheduler
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.trial import Trial


def run(trainable: Any, space: dict[str, Any], scheduler: Any, threads: int = 1) -> tune.ResultGrid:
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(
            name=f"population-{id(scheduler)}", storage_path="memory://population", verbose=0
        ),
    )
    return LocalRuntime(threads=threads).run(tuner.experiment())


def train(config: dict[str, Any]) -> None:
    used: list[float] = []
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            used = json.loads(Path(directory, "used").read_text())
    for step in range(len(used) + 1, 10):
        used.append(config["lr"])
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "used").write_text(json.dumps(used))
            saved = tune.Checkpoint.from_directory(directory)
            tune.report({"score": score(config, step), "used": json.dumps(used)}, checkpoint=saved)


@pytest.mark.parametrize("threads", [1, 3])
def test_population_comes_to_what_the_simulator_says(threads: int) -> None:
    results = run(train, SPACE, together(), threads)

    assert [result.config for result in results] == [trial.config for trial in expected()]
    for result in results:
        used = json.loads(result.metrics["used"])
        assert len(used) == 9
        assert used[-1] == result.config["lr"]
        assert len(set(used)) > 1


class Counter(tune.Trainable):
    """Counts, by a step that may change; saves only when it is told to."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin at 0."""
        self.total = 0.0

    def step(self) -> dict[str, Any]:
        """Add the step."""
        self.total += self.config["by"]
        return {"total": self.total, "done": self.iteration >= 11}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save the count."""
        Path(checkpoint_dir, "total").write_text(str(self.total))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from a count."""
        self.total = float(Path(checkpoint, "total").read_text())


class AsksOnce(TrialScheduler):
    """Has a trial save with its fourth report."""

    latest = 0

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        self.latest = result["training_iteration"]
        return self.CONTINUE

    def wants_checkpoint(self, trial: Trial) -> bool:
        return self.latest == 4


def test_trial_of_a_class_saves_when_a_scheduler_wants_it_to() -> None:
    runtime = LocalRuntime()
    tuner = tune.Tuner(
        Counter,
        param_space={"by": 1},
        tune_config=tune.TuneConfig(scheduler=AsksOnce()),
        run_config=tune.RunConfig(
            name="asks-once",
            storage_path="memory://population",
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )

    runtime.run(tuner.experiment())

    (trial,) = runtime.controller.trials.values()
    assert [record.iteration for record in trial.checkpoints] == [4]
    assert trial.iteration == 12


def test_trials_of_a_class_save_so_that_others_can_go_on_from_them() -> None:
    scheduler = PopulationBasedTraining(
        "training_iteration",
        "total",
        "max",
        3,
        hyperparam_mutations={"by": [1, 8]},
        resample_probability=0.0,
        quantile_fraction=0.5,
        synch=True,
        seed=1,
    )

    results = run(Counter, {"by": tune.grid_search([1, 8])}, scheduler, threads=2)

    assert results.num_errors == 0
    assert " 0 perturbs" not in scheduler.debug_string()
    assert min(result.metrics["total"] for result in results) > 12, "nobody went on from the better one"


def test_two_workers_that_see_half_of_it_each_come_further_as_a_population() -> None:
    """The toy of the paper: neither of the two fixed workers can come above 0.39."""
    fixed, perturbed = benchmark.toy(0)

    assert fixed < 0.4
    assert perturbed > 0.9
