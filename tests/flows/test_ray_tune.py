"""Code in a trial that still imports Ray Tune: what it says reaches the trial that runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.trials import rows_of


@pytest.mark.parametrize("fresh_process", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rays_own_report_checkpoint_and_context_are_the_trials(
    run_config: Callable[..., tune.RunConfig], *, fresh_process: bool
) -> None:
    def train(config: dict[str, Any]) -> None:
        from ray.tune import Checkpoint, get_checkpoint, get_context, report  # noqa: TID251 - the subject

        assert get_checkpoint() is None
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "model").write_text("saved")
            report({"loss": 2, "trial": get_context().get_trial_id()}, checkpoint=Checkpoint(directory))
        with get_checkpoint().as_directory() as directory:
            report({"loss": 1, "saved": Path(directory, "model").read_text()})
        from ray.train import report as report_of_train

        report_of_train({"loss": 0})

    (result,) = tune.Tuner(
        train, tune_config=tune.TuneConfig(fresh_process=fresh_process), run_config=run_config()
    ).fit()

    rows = rows_of(result)
    assert [row["loss"] for row in rows] == [2, 1]
    assert (rows[0]["trial"], rows[1]["saved"]) == (result.metrics["trial_id"], "saved")
    assert result.checkpoint is not None
    assert "ray.train.report" in str(result.error)
    assert "`import tune_core as tune`" in str(result.error)
