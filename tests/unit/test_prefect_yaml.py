"""prefect.yaml describes experiments that can run, and repeats nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.schedules import Cron

from flows.form import ExperimentForm

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
ALL: list[dict[str, Any]] = yaml.safe_load(TEXT)["deployments"]  # as Prefect reads it
DEPLOYMENTS = [deployment for deployment in ALL if deployment["name"] != "steer"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: str(deployment["name"]))
def test_each_deployment_is_an_experiment_with_a_limit_and_schedules_of_a_time_zone(
    deployment: dict[str, Any],
) -> None:
    form = ExperimentForm.read(deployment["parameters"])

    assert form.tune_config.metric == "accuracy"
    assert set(form.space()) >= {"learning_rate", "hidden_width", "epochs"}
    assert deployment["entrypoint"] == "flows.experiment.experiment"
    assert deployment["concurrency_limit"]["limit"] == 1
    for schedule in deployment.get("schedules", []):
        Cron(schedule["cron"], timezone=ZoneInfo(schedule["timezone"]).key)


def test_one_is_for_the_night_one_larger_for_the_week_and_one_for_when_somebody_asks() -> None:
    by_name = {deployment["name"]: deployment for deployment in DEPLOYMENTS}
    samples = {name: each["parameters"]["tune_config"]["num_samples"] for name, each in by_name.items()}

    assert set(by_name) == {"digits", "digits-nightly", "digits-weekly"}
    assert "schedules" not in by_name["digits"]
    assert samples["digits-weekly"] > samples["digits-nightly"] > samples["digits"]


def test_steering_is_not_held_up_by_what_holds_experiments_apart() -> None:
    (steering,) = [deployment for deployment in ALL if deployment not in DEPLOYMENTS]

    assert steering["entrypoint"] == "flows.steer.steer"
    assert steering["work_pool"] == {"name": DEPLOYMENTS[0]["work_pool"]["name"]}
    assert "concurrency_limit" not in steering


def test_what_deployments_share_is_written_once() -> None:
    for once in (
        "flows.experiment.experiment",
        "loguniform, lower: 0.003",
        "work_queue_name:",
        "collision_strategy:",
    ):
        assert TEXT.count(once) == 1, once


def test_no_place_and_no_credentials_are_in_it() -> None:
    run_configs = [deployment["parameters"]["run_config"] for deployment in DEPLOYMENTS]

    assert not [each for each in run_configs if {"storage_path", "storage_options", "store"} & set(each)]
