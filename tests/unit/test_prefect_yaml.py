"""prefect.yaml describes experiments that can run, and repeats nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron

from tune_core.engine.form.form import ExperimentForm
from tune_core.resources import PlacementGroupFactory

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
*DEPLOYMENTS, NAMED, STEER = yaml.safe_load(TEXT)["deployments"]  # as Prefect reads it


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: str(deployment["name"]))
def test_each_deployment_is_an_experiment_with_a_limit_and_schedules_of_a_time_zone(
    deployment: dict[str, Any],
) -> None:
    form = ExperimentForm.read(deployment["parameters"])
    jsonschema.validate(deployment["parameters"], ExperimentForm.model_json_schema())  # as the server does

    assert form.tune_config.metric == "accuracy"
    assert set(form.space()) >= {"learning_rate", "hidden_width", "epochs"}
    assert deployment["entrypoint"] == "flows/experiment.py:experiment"
    assert deployment["concurrency_limit"]["limit"] == 1
    for schedule in deployment.get("schedules", []):
        Cron(schedule["cron"], timezone=ZoneInfo(schedule["timezone"]).key)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: str(deployment["name"]))
def test_spaces_and_bounds_are_lists_which_prefects_form_draws_as_fields(deployment: dict[str, Any]) -> None:
    given = deployment["parameters"]

    assert {type(given["param_space"]), type(given["run_config"].get("stop", []))} == {list}


def test_the_example_of_the_documentation_is_a_deployment_that_a_server_takes() -> None:
    page = (ROOT / "docs" / "deployments.md").read_text(encoding="utf-8")
    (described,) = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])["deployments"]
    given = described["parameters"]

    jsonschema.validate(given, ExperimentForm.model_json_schema())
    form = ExperimentForm.read(given)

    assert set(form.space()) == {"lr", "layers", "optimizer", "epochs"}
    assert form.run_config.make().stop == {"training_iteration": 100}
    assert form.resources.make() == PlacementGroupFactory([{"CPU": 2, "GPU": 1}])
    assert (type(given["param_space"]), type(given["run_config"]["stop"])) == (list, list)


def test_one_is_for_the_night_one_larger_for_the_week_and_one_for_when_somebody_asks() -> None:
    by_name = {deployment["name"]: deployment for deployment in DEPLOYMENTS}
    samples = {name: each["parameters"]["tune_config"]["num_samples"] for name, each in by_name.items()}

    assert set(by_name) == {"digits", "digits-nightly", "digits-weekly"}
    assert "schedules" not in by_name["digits"]
    assert samples["digits-weekly"] > samples["digits-nightly"] > samples["digits"]


def test_what_runs_can_be_steered_while_no_other_experiment_may_run() -> None:
    assert (STEER["name"], STEER["entrypoint"]) == ("steer", "flows/steer.py:steer")
    assert "concurrency_limit" not in STEER
    pools = [
        (each["work_pool"]["name"], each["work_pool"]["work_queue_name"]) for each in (STEER, DEPLOYMENTS[0])
    ]
    assert pools == [("tune", "steering"), ("tune", "experiments")]


def test_the_named_flow_is_deployed_by_its_file_and_has_the_same_space() -> None:
    assert NAMED["entrypoint"] == "flows/digits.py:digits"
    assert "parameters" not in NAMED
    file, _, name = NAMED["entrypoint"].partition(":")
    flow = load_flow_from_entrypoint(f"{ROOT / file}:{name}")
    properties = flow.parameters.model_dump()["properties"]

    assert flow.name == "tune-digits"
    assert properties["param_space"]["default"] == DEPLOYMENTS[0]["parameters"]["param_space"]
    assert properties["tune_config"]["default"]["num_samples"] == 8


def test_what_deployments_share_is_written_once() -> None:
    for once in (
        "flows/experiment.py:experiment",
        "lower: 0.003",
        "collision_strategy:",
    ):
        assert TEXT.count(once) == 1, once


def test_no_place_and_no_credentials_are_in_it() -> None:
    run_configs = [deployment["parameters"]["run_config"] for deployment in DEPLOYMENTS]

    assert not [each for each in run_configs if {"storage_path", "storage_options", "store"} & set(each)]
