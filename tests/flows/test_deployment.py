"""Runs of a deployment of the experiment flow: refused, run, killed and tried again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import EntrypointType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.states import Crashed

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded
from tests.support.counting import count, rows_of, undisturbed
from tests.support.processes import descendants
from tests.support.scripts import wait_until_gone
from tests.support.waiting import wait_for
from tune_core.control.messages import ExperimentResumed, TrialReported, TrialSuggested, WarmStarted
from tune_core.control.segments import read_journal
from tune_core.engine.experiment import experiment
from tune_core.storage.experiment_storage import ExperimentStorage

ROOT = Path(__file__).resolve().parents[2]
COUNT = "tests.support.counting:count"


@pytest.fixture(scope="module")
def deployment(api: str) -> UUID:
    made = experiment.to_deployment("by-form", entrypoint_type=EntrypointType.MODULE_PATH)
    assert made.entrypoint == "tune_core.engine.experiment.experiment"
    return made.apply()


def parameters(path: object, **changes: Any) -> dict[str, Any]:
    given = {
        "trainable": COUNT,
        "param_space": [{"name": "x", "sampler": {"grid_search": {"values": "1, 2"}}}],
        "run_config": {"storage_path": str(path), "tags": ["by-form"], "verbose": 0},
    }
    return {**given, **changes}


def with_sampler(kind: str, **options: Any) -> dict[str, Any]:
    return {"param_space": [{"name": "x", "sampler": {kind: options}}]}


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        (
            {"tune_config": {"num_samples": 0}},
            409,
            "'tune_config.num_samples'. Failure reason: 0 is less than the",
        ),
        ({"trainable": "train"}, 409, "'trainable'"),
        (with_sampler("loguniform", lower=0, upper=1), 409, "'param_space[0].sampler.loguniform.lower'"),
        ({"run_config": {"storage_path": "s3://key:secret@bucket"}}, 409, "'run_config.storage_path'"),
        (
            with_sampler("choice", categories=list(range(100_000))),
            422,
            "must be less than 524,288 bytes",
        ),
    ],
)
def test_a_wrong_value_is_refused_at_creation_with_the_name_of_its_field(
    deployment: UUID, client: SyncPrefectClient, changes: dict[str, Any], status: int, expected: str
) -> None:
    with pytest.raises(PrefectHTTPStatusError) as caught:
        client.create_flow_run_from_deployment(deployment, parameters=parameters("unused", **changes))

    assert caught.value.response.status_code == status
    assert expected in caught.value.response.text


def run_here(client: SyncPrefectClient, deployment: UUID, given: dict[str, Any]) -> FlowRun:
    """Run a deployment in this process, as a worker's process would."""
    run = client.create_flow_run_from_deployment(deployment, parameters=given)
    run_flow(experiment, flow_run=client.read_flow_run(run.id), return_type="state")
    return client.read_flow_run(run.id)


def test_each_run_of_a_deployment_is_an_experiment_of_its_own(
    deployment: UUID, client: SyncPrefectClient, tmp_path: Path
) -> None:
    named = parameters(
        tmp_path, run_config={"storage_path": str(tmp_path), "name": "nightly", "tags": ["by-form"]}
    )

    runs = [run_here(client, deployment, given) for given in (named, named)]

    assert [run.state_name for run in runs] == ["Completed"] * 2
    assert {run.name for run in runs} == {path.name for path in tmp_path.iterdir()}
    assert [run.name.partition("_")[0] for run in runs] == ["nightly", "nightly"]
    assert all("by-form" in run.tags for run in runs)
    for run in runs:
        assert rows_of(tune.Tuner.restore(tmp_path / run.name, count).get_results()) == undisturbed([1, 2])


def test_a_run_begins_with_the_best_of_the_deployments_latest_runs(
    deployment: UUID, client: SyncPrefectClient, tmp_path: Path
) -> None:
    space = with_sampler("uniform", lower=0, upper=100)
    tuned = {"metric": "score", "mode": "max", "num_samples": 2}
    first = run_here(client, deployment, parameters(tmp_path, **space, tune_config=tuned))
    best = tune.Tuner.restore(tmp_path / first.name, count).get_results().get_best_result().config

    warm = {"sources": ["deployment:experiment/by-form"], "last_runs": 1, "max_points": 1}
    again = run_here(
        client, deployment, parameters(tmp_path, **space, tune_config={**tuned, "warm_start": warm})
    )

    assert again.state_name == "Completed"
    events = [event for event, _ in read_journal(ExperimentStorage.open(str(tmp_path), again.name))]
    (began,) = [event for event in events if isinstance(event, WarmStarted)]
    assert "2 trials" in began.summary
    configs = [event.config for event in events if isinstance(event, TrialSuggested)]
    assert configs[0] == best != configs[1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trainable": "no_such_package:train"}, ["there is no module 'no_such_package'"]),
        (
            with_sampler("uniform", lower=2, upper=1) | {"tune_config": {"metric": "score"}},
            [
                "param_space.0.sampler.uniform",
                "lower=2.0 is above upper=1.0",
                "tune_config",
                "mode is missing",
            ],
        ),
    ],
)
def test_faults_that_only_the_run_finds_fail_it_before_anything_is_started(
    deployment: UUID, client: SyncPrefectClient, tmp_path: Path, changes: dict[str, Any], expected: list[str]
) -> None:
    run = run_here(client, deployment, parameters(tmp_path, **changes))

    assert run.state_name == "Failed"
    message = str(run.state.message if run.state else "")
    assert [text for text in expected if text not in message] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_deployed_run_that_is_killed_and_tried_again_goes_on_from_s3(
    deployment: UUID,
    client: SyncPrefectClient,
    s3: S3Server,
    api: str,
    tmp_path: Path,
    recorded: Callable[[str], Recorded],
) -> None:
    name = f"killed-{uuid4().hex[:6]}"
    given = parameters(
        "below",  # the place of the settings
        param_space={"x": {"grid_search": [1, 2, 3]}, "pause_s": 0.3},
        run_config={"name": name, "storage_path": "below"},
    )
    run = client.create_flow_run_from_deployment(deployment, parameters=given)
    place = f"s3://{s3.bucket}/deployed"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": api,
        "RAY_ADDRESS": "local",
        "PREFECT_INTEGRATIONS_TUNE_STORAGE_PATH": place,
        "PREFECT_INTEGRATIONS_TUNE_STORAGE_OPTIONS": json.dumps(s3.storage_options),
    }

    def execute() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", "flow-run", "execute", str(run.id)]
        with (tmp_path / "output").open("ab") as output:
            return subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def events() -> list[Any]:
        found = client.read_flow_run(run.id).name
        if not found.startswith(name):
            return []
        storage = ExperimentStorage.open(f"{place}/below", found, storage_options=s3.storage_options)
        return [event for event, _ in read_journal(storage)]

    first = execute()
    wait_for(
        lambda: sum(isinstance(event, TrialReported) for event in events()) >= 4,
        what="rows in the journal",
        timeout_s=120,
    )
    family = [first.pid, *descendants(first.pid)]
    for pid in reversed(family):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    client.set_flow_run_state(run.id, Crashed(message="its heartbeat is gone"), force=True)
    before = client.read_flow_run(run.id).name

    retry = [sys.executable, "-m", "prefect", "flow-run", "retry", str(run.id)]
    subprocess.run(retry, env=environment, capture_output=True, check=True, timeout=60)
    again = execute()
    again.wait(timeout=180)

    after = client.read_flow_run(run.id)
    assert (after.state_name, after.name) == ("Completed", before), (tmp_path / "output").read_text()[-3000:]
    assert sum(isinstance(event, ExperimentResumed) for event in events()) == 1
    restored = tune.Tuner.restore(f"{place}/below/{before}", count, storage_options=s3.storage_options)
    assert rows_of(restored.get_results()) == undisturbed([1, 2, 3])
    wait_until_gone(family, timeout_s=120)
