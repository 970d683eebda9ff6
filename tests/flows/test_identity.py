"""Which experiment a call of `fit` is: that of the flow, task or trial that calls it, and of no other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import ray
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.deployments import run_deployment
from prefect.deployments.runner import EntrypointType
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run, task_run
from ray.util import placement_group_table

import tune_core as tune
from tests.support.counting import FailAt, count, events, rows_of, undisturbed
from tests.support.scripts import start_script
from tests.support.waiting import wait_for
from tune_core.control.messages import ExperimentResumed
from tune_core.errors import ExperimentConflict

ROOT = Path(__file__).resolve().parents[2]


def train(config: dict[str, Any]) -> dict[str, Any]:
    return {"score": config["x"]}


def fit(x: int, path: str, **options: Any) -> list[int]:
    """Tune in an experiment without a name; return what its trials reported."""
    config = tune.RunConfig(storage_path=path, verbose=0, **options)
    return [row.metrics["score"] for row in tune.Tuner(train, param_space={"x": x}, run_config=config).fit()]


@task
def fit_in_task(x: int, path: str) -> list[int]:
    """Tune; in a process that may know nothing of this one."""
    return fit(x, path)


@flow
def fit_in_flow(x: int, path: str) -> None:
    """Tune; what a deployment runs."""
    assert fit(x, path) == [x]


@pytest.fixture
def ray_for_children(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes that a test starts join the tier's Ray."""
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


IN_TASKS = """
from prefect import flow
from prefect.task_runners import ProcessPoolTaskRunner
from prefect_ray.task_runners import RayTaskRunner
from tests.flows.test_identity import fit_in_task


@flow(task_runner={runner})
def nightly():
    return [future.result() for future in [fit_in_task.submit(x, {path!r}) for x in (1, 2)]]


if __name__ == "__main__":
    print("found:", nightly())
"""


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["ProcessPoolTaskRunner(max_workers=2)", "RayTaskRunner()"])
def test_tasks_in_processes_of_their_own_have_experiments_of_their_own(
    ray_for_children: None, api: str, tmp_path: Path, runner: str
) -> None:
    script = tmp_path / "nightly.py"
    script.write_text(IN_TASKS.format(runner=runner, path=str(tmp_path / "results")))
    process = start_script(script, api)
    printed, _ = process.communicate(timeout=180)

    assert "found: [[1], [2]]" in printed, printed
    assert len(list((tmp_path / "results").iterdir())) == 2


@pytest.mark.slow
def test_each_run_that_a_flow_starts_of_a_deployment_has_its_own_experiment(
    ray_for_children: None, api: str, client: SyncPrefectClient, tmp_path: Path
) -> None:
    fit_in_flow.to_deployment("nested", entrypoint_type=EntrypointType.MODULE_PATH).apply()

    @flow
    def parent() -> list[str]:
        started = [
            run_deployment("fit-in-flow/nested", parameters={"x": x, "path": str(tmp_path)}, timeout=0)
            for x in (1, 2)
        ]
        return [str(run.id) for run in started]

    run_ids = parent()
    environment = {**os.environ, "PREFECT_API_URL": api}
    command = [sys.executable, "-m", "tests.flows.test_identity"]
    processes = [subprocess.Popen([*command, each], env=environment) for each in run_ids]
    for process in processes:
        process.wait(timeout=180)

    assert [client.read_flow_run(each).state_name for each in run_ids] == ["Completed"] * 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_tuner_in_each_of_two_trials_has_its_own_experiment(
    cluster: None, run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    inner = str(tmp_path / "inner")

    def outer(config: dict[str, Any]) -> dict[str, Any]:
        return {"score": fit(3 * config["factor"] ** 2, inner)[0]}

    results = tune.Tuner(
        outer, param_space={"factor": tune.grid_search([1, 3])}, run_config=run_config()
    ).fit()

    assert [result.metrics["score"] for result in results] == [3, 27]
    assert len(list(Path(inner).iterdir())) == 2


@pytest.mark.slow
def test_a_trial_that_dies_while_it_tunes_leaves_no_slots_of_its_own(
    cluster: None, run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    def inner(config: dict[str, Any]) -> dict[str, Any]:
        if config["dies"]:
            os.kill(config["tuner"], signal.SIGKILL)
        return {"score": config["x"]}

    def outer(config: dict[str, Any]) -> dict[str, Any]:
        dies = not (tmp_path / "died").exists()
        (tmp_path / "died").touch()
        space = {"x": 7, "dies": dies, "tuner": os.getpid()}
        run = tune.RunConfig(storage_path=str(tmp_path / "inner"), verbose=0)
        return {"score": tune.Tuner(inner, param_space=space, run_config=run).fit()[0].metrics["score"]}

    run = run_config(failure_config=tune.FailureConfig(max_failures=1, max_infrastructure_failures=1))
    tuner = tune.Tuner(outer, tune_config=tune.TuneConfig(fresh_process=True), run_config=run)
    result = tuner.fit()[0]

    assert result.metrics["score"] == 7
    wait_for(
        lambda: all(group["state"] == "REMOVED" for group in placement_group_table().values()),
        what="all groups to be removed",
    )


@pytest.mark.slow
def test_a_tuner_that_the_trials_around_it_leave_no_room_is_refused(
    cluster: None, run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    def outer(config: dict[str, Any]) -> dict[str, Any]:
        return {"score": fit(1, str(tmp_path / "inner"))[0]}

    result = tune.Tuner(tune.with_resources(outer, {"cpu": 8}), run_config=run_config()).fit()[0]

    assert "the trials that this Tuner runs in hold 8" in str(result.error)


@pytest.mark.filterwarnings(
    # Prefect's client of an async flow run is closed after `asyncio.run` has closed its loop.
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
def test_calls_in_threads_of_one_flow_have_experiments_of_their_own(cluster: None, tmp_path: Path) -> None:
    @flow
    async def nightly() -> list[list[int]]:
        calls = [asyncio.to_thread(fit, x, str(tmp_path)) for x in (1, 2)]
        return list(await asyncio.gather(*calls))

    assert asyncio.run(nightly()) == [[1], [2]]


def test_a_task_that_is_tried_again_goes_on_with_its_experiments(cluster: None, tmp_path: Path) -> None:
    @task(retries=1)
    def tuned(xs: list[int], fails_at: int) -> tune.ResultGrid:
        callbacks = [FailAt(fails_at)] if task_run.run_count == 1 else []
        run_config = tune.RunConfig(storage_path=str(tmp_path), verbose=0, callbacks=callbacks)
        return tune.Tuner(count, param_space={"x": tune.grid_search(xs)}, run_config=run_config).fit()

    @flow
    def nightly() -> list[tune.ResultGrid]:
        futures = [tuned.submit([1, 2], 1000), tuned.submit([3, 4], 7)]
        return [future.result() for future in futures]

    first, second = nightly()

    assert rows_of(first) == undisturbed([1, 2])
    assert rows_of(second) == undisturbed([3, 4])
    assert any(isinstance(event, ExperimentResumed) for event in events(second.experiment_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_retry_whose_search_space_differs_is_refused(cluster: None, tmp_path: Path) -> None:
    @flow(retries=1)
    def nightly() -> list[int]:
        found = fit(flow_run.run_count, str(tmp_path))
        if flow_run.run_count == 1:
            raise RuntimeError("after the first fit")
        return found

    with pytest.raises(ExperimentConflict, match=r"param_space.*\{'x': 1\}.*\{'x': 2\}"):
        nightly()


if __name__ == "__main__":  # as a worker's process runs a flow run that a deployment has
    with get_client(sync_client=True) as server:
        run_flow(fit_in_flow, flow_run=server.read_flow_run(UUID(sys.argv[1])))
