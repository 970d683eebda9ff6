"""The main job on real servers: trials on Ray, task runs and artifacts in Prefect, checkpoints on S3."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded


def count_up(config: dict[str, Any]) -> None:
    """Report and save 1, 2, 3 …; die as the config says, in the first attempt only."""
    first = 1
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            first = int(Path(directory, "step").read_text()) + 1
    for step in range(first, 6):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "step").write_text(str(step))
            tune.report({"step": step}, checkpoint=tune.Checkpoint.from_directory(directory))
        if step == 3 and first == 1:
            end_of_first_attempt(config.get("death"))


def end_of_first_attempt(death: str | None) -> None:
    if death == "exception":
        raise ValueError("made up")
    if death == "exit":
        os._exit(1)
    if death == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def test_every_kind_of_death_is_retried_from_the_last_checkpoint_on_s3(
    s3: S3Server, run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config(
        storage_path=f"s3://{s3.bucket}/main",
        storage_options=s3.storage_options,
        failure_config=tune.FailureConfig(max_failures=1),
    )
    deaths = ["none", "exception", "exit", "kill"]

    results = tune.Tuner(count_up, param_space={"death": tune.grid_search(deaths)}, run_config=config).fit()

    assert results.num_errors == 0
    for result in results:
        assert result.metrics["training_iteration"] == 5
        rows = result.metrics_dataframe
        assert list(rows["training_iteration"]) == [1, 2, 3, 4, 5]
        assert list(rows["step"]) == [1, 2, 3, 4, 5]
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as directory:
            assert Path(directory, "step").read_text() == "5"
    runs = recorded(config.name).task_runs(7)
    states = {(run.name.count("attempt"), run.state_name) for run in runs}
    assert states == {(0, "Completed"), (0, "Failed"), (0, "Crashed"), (1, "Completed")}


def test_each_trial_has_a_task_run_and_a_table_with_a_row_per_report(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config(tags=["nightly"])

    results = tune.Tuner(
        count_up,
        param_space={"x": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(metric="step", mode="max"),
        run_config=config,
    ).fit()

    assert len(results) == 2
    seen = recorded(config.name)
    assert seen.flow_run.state_name == "Completed"
    runs = seen.task_runs(2)
    artifacts = seen.artifacts()
    for run in runs:
        assert run.flow_run_id == seen.flow_run.id
        assert "nightly" in run.tags
        assert [row["step"] for row in seen.reports(run.name.removeprefix("trial-"))] == [1, 2, 3, 4, 5]
    assert {row["status"] for row in json.loads(str(artifacts["leaderboard"].data))} == {"TERMINATED"}
    assert artifacts["progress"].data == 100
    assert "best-checkpoint" in artifacts
