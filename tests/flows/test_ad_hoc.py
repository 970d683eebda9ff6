"""Where `fit()` may be called: scripts, threads, running loops, flows, tasks; and what it finds or starts there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow, flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings

import tune_core as tune
from tests.flows.conftest import Recorded
from tune_core.engine.experiment import experiment

ROOT = Path(__file__).resolve().parents[2]


def train(config: dict[str, Any]) -> dict[str, Any]:
    return {"double": 2 * config["x"]}


def fit(config: tune.RunConfig) -> list[int]:
    tuner = tune.Tuner(train, param_space={"x": tune.grid_search([1, 2])}, run_config=config)
    return [result.metrics["double"] for result in tuner.fit()]


def test_fit_inside_a_flow_is_a_subflow_run(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], client: SyncPrefectClient
) -> None:
    config = run_config()

    @flow
    def nightly() -> tuple[list[int], str]:
        from prefect.runtime import flow_run

        return fit(config), str(flow_run.id)

    doubled, parent_id = nightly()

    assert doubled == [2, 4]
    child = recorded(config.name).flow_run
    assert child.parent_task_run_id is not None
    assert str(client.read_task_run(child.parent_task_run_id).flow_run_id) == parent_id


@pytest.mark.filterwarnings(
    # Prefect's client of an async flow run is closed after `asyncio.run` has closed its loop.
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
def test_fit_works_in_an_async_flow_a_running_loop_a_task_and_a_thread(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    configs = [run_config() for _ in range(4)]

    @flow
    async def asynchronous() -> list[int]:
        return fit(configs[0])

    async def notebook() -> list[int]:
        return fit(configs[1])

    @task
    def in_task() -> list[int]:
        return fit(configs[2])

    @flow
    def with_task() -> list[int]:
        return in_task()

    results: list[list[int]] = []
    thread = threading.Thread(target=lambda: results.append(fit(configs[3])))
    thread.start()
    thread.join()
    results += [asyncio.run(asynchronous()), asyncio.run(notebook()), with_task()]

    assert results == [[2, 4]] * 4


def test_each_experiment_has_processes_of_its_own_whichever_server_records_it(
    api: str, run_config: Callable[..., tune.RunConfig]
) -> None:
    train = tune.with_resources(lambda config: {"pid": os.getpid()}, {"cpu": 8})
    tuners = [tune.Tuner(train, run_config=run_config()) for _ in range(3)]

    first, again = (tuner.fit()[0].metrics["pid"] for tuner in tuners[:2])
    # The same server by another name: what Prefect has begun elsewhere goes on sending there.
    with temporary_settings({PREFECT_API_URL: api.replace("127.0.0.1", "localhost")}):
        elsewhere = tuners[2].fit()[0].metrics["pid"]

    assert len({first, again, elsewhere}) == 3


def test_the_flow_can_be_called_like_a_tuner_and_by_import_string(
    run_config: Callable[..., tune.RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine_by_name.py").write_text("def train(config):\n    return {'double': 2 * config['x']}\n")
    monkeypatch.syspath_prepend(tmp_path)

    direct = experiment(train, param_space={"x": 3}, run_config=run_config())
    by_name = experiment("mine_by_name:train", param_space={"x": 4}, run_config=run_config())

    assert [direct[0].metrics["double"], by_name[0].metrics["double"]] == [6, 8]


def test_a_trainable_of_a_module_that_workers_cannot_import_reaches_them(
    run_config: Callable[..., tune.RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "only_here"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text("def double(x):\n    return 2 * x\n")
    (package / "training.py").write_text(
        "from only_here.model import double\n\ndef train(config):\n    return {'double': double(config['x'])}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from only_here.training import train as theirs  # type: ignore[import-not-found]

    results = tune.Tuner(theirs, param_space={"x": 5}, run_config=run_config()).fit()

    assert results[0].error is None
    assert results[0].metrics["double"] == 10


def test_parameters_of_the_flow_run_hold_no_credentials(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config(storage_options={"auto_mkdir": True, "token": "c0nfidential"})

    fit(config)

    seen = recorded(config.name)
    assert seen.flow_run.parameters["run_config"]["name"] == config.name
    assert "c0nfidential" not in str(seen.flow_run.model_dump())
    files = [path for path in Path(str(config.storage_path)).rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"c0nfidential" in path.read_bytes()]


SCRIPT = """
import json, os, sys
import tune_core as tune

def train(config):
    from prefect.settings import PREFECT_API_URL
    print("from the trial")
    if config["x"] == 3:
        os._exit(1)
    return {{"api": PREFECT_API_URL.value(), "x": config["x"]}}

def is_server(pid):
    try:
        command, environment = (open(f"/proc/{{pid}}/{{name}}", "rb").read() for name in ("cmdline", "environ"))
    except OSError:
        return False
    is_server = b"engine.server.server_process" in command or b"create_app" in command
    return is_server and {home!r}.encode() in environment

def fit_twice():
    tuner = tune.Tuner(train, param_space={{"x": tune.grid_search([1, 2, 3])}},
                       run_config=tune.RunConfig(storage_path={storage!r}, verbose=0))
    results = [result for _ in range(2) for result in tuner.fit()]
    assert [result.error is None for result in results] == [True, True, False] * 2
    return {{result.metrics["api"] for result in results if result.error is None}}

if __name__ == "__main__":
    if {in_flow}:
        from prefect import flow
        fit_twice = flow(fit_twice)
    apis = fit_twice()
    servers = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_server(pid)]
    print(json.dumps({{"apis": sorted(apis), "servers": servers}}))
"""


@pytest.mark.parametrize(
    "in_flow", [pytest.param(False, id="script"), pytest.param(True, id="flow", marks=pytest.mark.slow)]
)
def test_without_an_api_one_server_is_started_for_all_ends_with_the_script_and_verbose_0_prints_nothing(
    tmp_path: Path, in_flow: bool
) -> None:
    home = str(tmp_path / "prefect-home")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(storage=str(tmp_path / "results"), home=home, in_flow=in_flow))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": home,
        "PYTHONPATH": str(ROOT),
        # For the temporary server that Prefect itself starts for the flow.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }

    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert len(printed["apis"]) == 1
    assert printed["apis"][0].startswith("http://127.0.0.1:")
    assert len(printed["servers"]) == 1
    assert not Path(f"/proc/{printed['servers'][0]}").exists()
    if not in_flow:  # the flow of the script's own says what it does
        assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_a_repeated_flow_run_whose_process_is_gone_is_refused(client: SyncPrefectClient) -> None:
    state = Flow.__call__(
        experiment,
        trainable="train",
        run_config={"name": "gone", "storage_path": "memory://bucket"},
        return_state=True,
    )

    assert state.is_failed()
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    )
    assert "Tuner.restore" in str(found[0].state.message if found[0].state else "")
