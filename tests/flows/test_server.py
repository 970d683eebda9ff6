"""What a server that is started for a run, and its clients, do otherwise than Prefect's default."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.context import SyncClientContext
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_CSRF_PROTECTION_ENABLED,
    Settings,
    get_current_settings,
    temporary_settings,
)

from tune_core.engine.run_context import client_for, settings_for
from tune_core.engine.server import server as servers
from tune_core.engine.server.contact import Contact
from tune_core.engine.server.server import (
    SERVER_SETTINGS,
    PrefectServer,
    before_own_server_stops,
    client_options,
    stop_own_server,
)

ROOT = Path(__file__).resolve().parents[2]


def test_prefect_reads_the_settings_of_the_started_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVER_SETTINGS.items():
        monkeypatch.setenv(name, value)

    services = Settings().server.services

    recorder, persister = services.task_run_recorder, services.event_persister
    assert (recorder.batch_size, recorder.flush_interval, persister.batch_size) == (30, 1, 200)


SCRIPT = """
import sys
import tune_core as tune

tune.Tuner(
    lambda config: {"x": config["x"]},
    param_space={"x": tune.grid_search([*range(12)])},
    run_config=tune.RunConfig(name="brief", storage_path=sys.argv[1], verbose=0),
).fit()
"""


@pytest.mark.slow
def test_server_of_a_script_that_ends_at_once_has_recorded_how_all_trials_ended(tmp_path: Path) -> None:
    script, home = tmp_path / "script.py", tmp_path / "prefect"
    script.write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}

    subprocess.run(
        [sys.executable, script, tmp_path / "results"],
        env={**environment, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home)},
        check=True,
        timeout=200,
    )

    with closing(sqlite3.connect(home / "prefect.db")) as database:
        states = database.execute("SELECT state_name FROM task_run").fetchall()
        (flow_state,) = database.execute("SELECT state_name FROM flow_run WHERE name = 'brief'").fetchone()
    assert states == [("Completed",)] * 12
    assert flow_state == "Completed"


IN_A_FLOW = """
import httpx
from prefect import flow
from tune_core.engine.server.server import prefect_server

@flow
def outer():
    server = prefect_server()
    httpx.get(f"{server.api_url}/health").raise_for_status()
    runs = httpx.post(f"{server.api_url}/flow_runs/filter", json={}).raise_for_status().json()
    print("found", server.is_ours, [run["state_name"] for run in runs])

outer()
"""


@pytest.mark.slow
def test_flow_that_has_a_temporary_server_of_prefects_shares_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(IN_A_FLOW)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}

    ran = subprocess.run(
        [sys.executable, script],
        env={**environment, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )

    assert "found False ['Running']" in ran.stdout


class Process:
    """A server process that runs until its input is closed."""

    def __init__(self) -> None:
        self.stdin = self
        self.steps: list[str] = []

    def poll(self) -> None:
        return None

    def close(self) -> None:
        self.steps.append("told to end")

    def wait(self, timeout: float | None = None) -> int:
        self.steps.append("ended")
        return 0


@pytest.mark.parametrize("fails", [False, True])
def test_server_is_told_to_end_when_the_latest_experiment_is_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, fails: bool
) -> None:
    process = Process()
    server = PrefectServer("http://127.0.0.1:1/api", None, is_ours=True)
    monkeypatch.setattr(servers, "_own", (server, process, process))

    def wait(name: str) -> Callable[[], None]:
        def wait_until_recorded() -> None:
            process.steps.append(f"recorded {name}")
            if fails:
                raise httpx.ConnectError("made up")

        return wait_until_recorded

    before_own_server_stops(wait("first"))
    before_own_server_stops(wait("second"))
    stop_own_server()

    assert process.steps == ["recorded second", "told to end", "ended", "told to end"]
    assert ("made up" in caplog.text) is fails


def test_only_runs_whose_server_outlives_them_send_heartbeats() -> None:
    url = "http://127.0.0.1:1/api"

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 45}):
        with settings_for(PrefectServer(url, None, is_ours=True)):
            ours = get_current_settings()
        with settings_for(PrefectServer(url, None, is_ours=False)):
            others = get_current_settings()

    assert (ours.api.url, ours.flows.heartbeat_frequency) == (url, None)
    assert (others.api.url, others.flows.heartbeat_frequency) == (url, 45)


@pytest.mark.parametrize("is_protected", [False, True])
def test_clients_of_the_started_server_know_whether_it_wants_tokens(*, is_protected: bool) -> None:
    url = "http://127.0.0.1:1/api"

    with temporary_settings({PREFECT_SERVER_CSRF_PROTECTION_ENABLED: is_protected}):
        with settings_for(PrefectServer(url, None, is_ours=True)):
            ours = get_current_settings()
        with settings_for(PrefectServer(url, None, is_ours=False)):
            others = get_current_settings()

    assert ours.client.csrf_support_enabled is is_protected
    assert others.client.csrf_support_enabled


def test_settings_for_a_server_are_made_once() -> None:
    server = PrefectServer("http://127.0.0.1:1/api", None, is_ours=True)

    with settings_for(server):
        first = get_current_settings()
    with settings_for(server):
        second = get_current_settings()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 45}), settings_for(server):
        of_others = get_current_settings()

    assert second is first
    assert of_others is not first


def test_engine_and_whoever_asks_for_a_client_share_one_that_loads_no_certificates(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_certificates(**_: Any) -> None:
        raise AssertionError("certificates are loaded")

    monkeypatch.setattr("ssl.create_default_context", load_certificates)
    contact = Contact(api)

    with client_for(contact), SyncClientContext.get_or_create() as of_engine:
        client = get_client(sync_client=True)
        assert client is of_engine.client
        assert client.api_healthcheck() is None

    assert SyncClientContext.get() is None


def test_certificates_are_loaded_for_what_needs_them() -> None:
    assert "verify" not in client_options("https://prefect.example/api")
    assert client_options("http://127.0.0.1:4200/api", {"A": "b"})["headers"] == {"A": "b"}
    assert not client_options("http://127.0.0.1:4200/api")["verify"].get_ca_certs()


def test_pages_of_other_sites_may_not_read_what_the_started_server_has(api: str) -> None:
    def allowed(origin: str) -> str | None:
        answer = httpx.get(f"{api}/health", headers={"Origin": origin})
        assert answer.status_code == 200
        return answer.headers.get("access-control-allow-origin")

    own = api.removesuffix("/api")

    assert allowed("https://example.com") is None
    assert allowed("http://127.0.0.1:1") is None
    assert allowed(own) == own
    assert allowed(own.replace("127.0.0.1", "localhost")) == own.replace("127.0.0.1", "localhost")
