"""Prefect shows the trial as the best one that `get_best_result` returns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import pytest

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.artifacts import rows_in


@pytest.mark.parametrize("scope", ["last", pytest.param("all", marks=pytest.mark.slow)])
def test_leaderboard_and_best_checkpoint_are_those_of_the_best_result(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], scope: Any
) -> None:
    """The first trial peaks and falls behind."""

    def learn(config: dict[str, Any]) -> None:
        for accuracy in ((0.5, 0.95, 0.4), (0.5, 0.8, 0.9))[config["curve"]]:
            with tempfile.TemporaryDirectory() as directory:
                tune.report({"accuracy": accuracy}, checkpoint=tune.Checkpoint.from_directory(directory))

    config = run_config()
    results = tune.Tuner(
        learn,
        param_space={"curve": tune.grid_search([0, 1])},
        tune_config=tune.TuneConfig(metric="accuracy", mode="max", best_scope=scope),
        run_config=config,
    ).fit()

    best = results.get_best_result()
    assert best is results[{"last": 1, "all": 0}[scope]]
    name = (best.metrics or {})["trial_id"]
    artifacts = recorded(config.name).artifacts()
    assert rows_in(artifacts["leaderboard"])[0]["trial"] == name
    said = {"last": "accuracy (last report)", "all": "accuracy (best report)"}[scope]
    assert said in str(artifacts["leaderboard"].description)
    link, saved = str(artifacts["best-checkpoint"].data), {"last": "000002", "all": "000001"}[scope]
    assert f"{best.path}/checkpoint_{saved}" in link
    assert f"trial {name}, iteration {int(saved) + 1}" in link
    assert said in link
