"""Checkpoints on real servers: uploaded while the trial goes on, and damaged after their commit."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded
from tune_core.training.session_binding import current_session

pytestmark = pytest.mark.slow


def step_of(checkpoint: tune.Checkpoint | None) -> int:
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as directory:
        return int(Path(directory, "step").read_text())


def attempt_number() -> int:
    session = current_session()
    assert session is not None
    return session.spec.attempt_number


def test_process_that_dies_during_an_upload_costs_no_row_that_was_acknowledged(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], s3: S3Server
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(step_of(tune.get_checkpoint()) + 1, 9):
            with tempfile.TemporaryDirectory() as directory:
                Path(directory, "step").write_text(str(step))
                Path(directory, "weights").write_bytes(b"w" * 20_000_000)
                tune.report({"step": step}, checkpoint=tune.Checkpoint.from_directory(directory))
            if step == 4 and attempt_number() == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    config = run_config(
        storage_path=f"s3://{s3.bucket}/async",
        storage_options=s3.storage_options,
        failure_config=tune.FailureConfig(max_failures=1),
        checkpoint_config=tune.CheckpointConfig(async_upload=True, num_to_keep=2),
    )

    [result] = tune.Tuner(train, run_config=config).fit()

    assert result.error is None
    assert [(row["training_iteration"], row["step"]) for row in result.rows] == [(n, n) for n in range(1, 9)]
    assert step_of(result.checkpoint) == 8
    # What was being uploaded was not seen, or else was whole.
    first_of_second = min(row["step"] for row in result.rows if row["attempt_number"] == 2)
    assert first_of_second in (4, 5)
    assert [run.state_name for run in recorded(config.name).task_runs(2)] == ["Crashed", "Completed"]


def test_trial_goes_on_from_the_checkpoint_before_a_damaged_one(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(step_of(tune.get_checkpoint()) + 1, 5):
            if step == 4 and attempt_number() == 1:
                latest = tune.get_checkpoint()
                assert latest is not None
                Path(latest.path, "step").write_text("4")  # of the same size
                raise OSError("the disk is not what it was")
            with tempfile.TemporaryDirectory() as directory:
                Path(directory, "step").write_text(str(step))
                tune.report({"step": step}, checkpoint=tune.Checkpoint.from_directory(directory))

    allowed = tune.FailureConfig(max_failures=1, on_corrupted_checkpoint="previous")
    config = run_config(failure_config=allowed)

    [result] = tune.Tuner(train, run_config=config).fit()

    assert result.error is None
    assert [(row["step"], row["attempt_number"]) for row in result.rows] == [(1, 1), (2, 1), (3, 3), (4, 3)]
    states = {run.name.partition("-attempt-")[2]: run.state for run in recorded(config.name).task_runs(3)}
    assert {attempt: state.name for attempt, state in states.items() if state} == {
        "": "Failed",
        "2": "Failed",
        "3": "Completed",
    }
    damaged = states["2"]
    assert damaged is not None
    assert "checkpoint_000002/step: expected 1 bytes with digest" in str(damaged.message)
