"""What finished trials reported is on the storage, not in the driver's memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.testing.local_runtime import LocalRuntime

ROOT = Path(__file__).resolve().parents[2]
#: 20 MB for 1,900 trials.
MOST_PER_TRIAL = 20e6 / 1900


def held(place: Path, num_trials: int, rows: int, checkpoint_every: int) -> tuple[int, list[tune.Result]]:
    """Bytes that are held by an experiment that has ended, and by its results; and these."""

    def train(config: dict[str, Any]) -> None:
        for step in range(1, rows + 1):
            metrics = {f"metric_{number:02d}": config["x"] * step / (number + 7) for number in range(40)}
            checkpoint = None
            if checkpoint_every and step % checkpoint_every == 0:
                Path("saved").mkdir(exist_ok=True)
                Path("saved", "step").write_text(str(step))
                checkpoint = tune.Checkpoint.from_directory("saved")
            tune.report(metrics, checkpoint=checkpoint)

    experiment = tune.Tuner(
        train,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig("min", "metric_01", num_samples=num_trials),
        run_config=tune.RunConfig(
            name=f"{num_trials}-{rows}-{checkpoint_every}", storage_path=str(place), verbose=0
        ),
    ).experiment()
    gc.collect()
    tracemalloc.start()
    try:
        runtime = LocalRuntime()
        results = list(runtime.run(experiment))
        gc.collect()
        return tracemalloc.get_traced_memory()[0], results
    finally:
        tracemalloc.stop()


def test_finished_trial_leaves_little_behind(tmp_path: Path) -> None:
    held(tmp_path, 1, 1, 0)  # what is imported, and cached, on the way

    few, _ = held(tmp_path, 10, 20, 0)
    many, results = held(tmp_path, 90, 20, 0)

    assert len(results[-1].rows) == 20
    assert (many - few) / 80 < MOST_PER_TRIAL


def test_number_of_reports_does_not_matter(tmp_path: Path) -> None:
    held(tmp_path, 1, 1, 0)

    few, _ = held(tmp_path, 20, 3, 0)
    many, _ = held(tmp_path, 20, 60, 0)

    assert (many - few) / (20 * 57) < 10  # bytes for a row of 1 kB


def test_reports_of_checkpoints_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    held(tmp_path, 1, 1, 1)

    few, _ = held(tmp_path, 10, 2, 2)
    many, results = held(tmp_path, 10, 20, 2)

    assert (many - few) / (10 * 9) < 1000  # a record of a few numbers; the report alone takes 4 kB
    best = results[3].best_checkpoints
    assert best is not None
    steps = [metrics["training_iteration"] for _, metrics in best]
    assert steps == list(range(2, 21, 2))
    assert all(f"metric_{number:02d}" in metrics for _, metrics in best for number in range(40))
    assert {metrics["trial_id"] for _, metrics in best} == {results[3].metrics["trial_id"]}  # type: ignore[index]


@pytest.mark.slow
def test_driver_of_two_thousand_trials_is_as_small_as_that_of_a_hundred() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "memory.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
