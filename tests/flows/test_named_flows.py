"""Flows of a user's own, made with `tune.experiment_flow`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.flow_engine import run_flow
from prefect.flows import load_flow_from_entrypoint

import tune_core as tune

_FLOW_FILE = """
import tune_core as tune

def train(config):
    for step in range(2):
        tune.report({"score": config["x"] * (step + 1)})

doubling = tune.experiment_flow(
    "tune-doubling",
    train,
    param_space={"x": tune.grid_search([1, 2, 3])},
    tune_config=tune.TuneConfig(metric="score", mode="max"),
    run_config=tune.RunConfig(verbose=0),
)
"""


def double(config: dict[str, Any]) -> dict[str, Any]:
    return {"score": 2 * config["x"]}


def test_a_named_flow_is_called_like_a_function_and_found_by_its_name(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    flow = tune.experiment_flow(
        "tune-named",
        double,
        param_space={"x": tune.grid_search([1, 2])},
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )

    results = flow()
    more = flow(param_space={"x": tune.grid_search([5])})

    assert [result.metrics["score"] for result in results] == [2, 4]
    assert [result.metrics["score"] for result in more] == [10]
    runs = {run.name: run for run in client.read_flow_runs()}
    run = runs[Path(results.experiment_path).name]
    assert client.read_flow(run.flow_id).name == "tune-named"
    assert run.state_name == "Completed"


def test_a_named_flow_is_deployed_by_its_file_with_its_defaults_in_the_form(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    file = tmp_path / "my_flows.py"
    file.write_text(_FLOW_FILE)
    flow = load_flow_from_entrypoint(f"{file}:doubling")
    deployment = flow.to_deployment("nightly").apply()

    place = {"storage_path": str(tmp_path / "results"), "verbose": 0}
    run = client.create_flow_run_from_deployment(deployment, parameters={"run_config": place})
    run_flow(flow, flow_run=client.read_flow_run(run.id), return_type="state")

    run = client.read_flow_run(run.id)
    assert run.state_name == "Completed", run.state
    grid = tune.ExperimentAnalysis(str(tmp_path / "results" / run.name))
    assert grid.get_best_config(metric="score", mode="max") == {"x": 3}
    described = client.read_deployment(deployment).parameter_openapi_schema
    assert set(described["properties"]) == {"param_space", "tune_config", "run_config", "resources"}
    assert described["properties"]["tune_config"]["default"]["metric"] == "score"


def test_a_named_flow_refuses_what_it_does_not_take() -> None:
    flow = tune.experiment_flow("tune-refusing", double)

    with pytest.raises(TypeError, match="it takes param_space, tune_config, run_config, resources"):
        flow(num_samples=3)
    with pytest.raises(tune.TuneError, match="callbacks"):
        tune.experiment_flow("tune-python", double, run_config=tune.RunConfig(callbacks=[tune.Callback()]))
