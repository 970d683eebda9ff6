"""Scheduled tuning from nothing, as README and docs/deployments.md have it, on servers and an S3 of its own."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from examples.seaweedfs import S3Server, start_seaweedfs
from tests.support.prefect_server import BIN, ROOT, end, environment_of, free_port, is_healthy
from tests.support.processes import command_of, descendants
from tests.support.waiting import wait_for
from tune_core.cli.automations import install_crash_detection
from tune_core.control.messages import ExperimentResumed, TrialReported
from tune_core.control.segments import read_journal
from tune_core.engine.store import ExperimentStore
from tune_core.storage.experiment_storage import ExperimentStorage

STORE = "tuning"
TERMINAL = (sys.executable, "-m", "tests.support.terminal")

pytestmark = pytest.mark.timeout(600)  # server, worker, storage and Ray start one after the other


class Machine:
    """One machine on which deployments/scheduled.sh runs, and what can be seen of it from outside."""

    def __init__(self, home: Path, s3: S3Server) -> None:
        self.home, self.s3 = home, s3
        self.port = free_port()
        self.api_url = f"http://127.0.0.1:{self.port}/api"
        self.environment = environment_of(
            home,
            PORT=str(self.port),
            PREFECT_INTEGRATIONS_TUNE_STORE=STORE,
            # Half a minute and more by default: a test has no such time.
            PREFECT_WORKER_QUERY_SECONDS="1",
            PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS="2",
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",
        )
        self._logs = 0
        self._workers: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str | Path, **more: str) -> subprocess.Popen[bytes]:
        """Start something in a session of its own."""
        self._logs += 1
        with (self.home / f"out-{self._logs}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.environment, **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ensure_worker(self) -> None:
        """Start a worker if there is none: the script's one may have been killed by an earlier test."""
        if not worker_and_runs():
            command = (BIN / "prefect", "worker", "start", "--pool", "tune")
            self._workers.append(self.start(*command, PREFECT_API_URL=self.api_url))

    def end_workers(self) -> None:
        """End the workers that are not the script's."""
        while self._workers:
            end(self._workers.pop())

    def printed(self) -> str:
        """The end of what everything has printed."""
        logs = sorted(self.home.glob("out-*.log"))
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = 120.0) -> Any:
        """Return the condition's first truthy value."""
        return wait_for(condition, what, timeout_s, explain=self.printed)

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Prefect's command line."""
        return subprocess.run(
            [BIN / "prefect", *arguments],
            cwd=ROOT,
            env={**self.environment, "PREFECT_API_URL": self.api_url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def storage(self, experiment: str) -> ExperimentStorage:
        """Return the experiment's directory."""
        url = f"s3://{self.s3.bucket}/deployed"
        return ExperimentStorage.open(url, experiment, storage_options=self.s3.storage_options)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = start_seaweedfs(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


def deployments_for_a_test(path: Path) -> Path:
    """Write prefect.yaml with little to do, and a schedule of seconds in place of nights."""
    text = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=20)
    for deployment in text["deployments"]:
        if "parameters" not in deployment:
            continue
        parameters = deployment["parameters"]
        parameters["param_space"] = with_constants(parameters["param_space"], epochs=3)
        parameters["tune_config"] |= {"num_samples": 2, "max_concurrent_trials": 2}
        deployment["schedules"] = []
        if deployment["name"] == "digits-nightly":
            # The second run is due while the first is at work.
            deployment["schedules"] = [{"interval": 10, "anchor_date": soon.isoformat()}]
    path.write_text(yaml.safe_dump(text))
    return path


def with_constants(space: list[dict[str, Any]], **constants: Any) -> list[dict[str, Any]]:
    """Return a search space with other constants in it."""
    others = [each for each in space if each["name"] not in constants]
    return others + [
        {"name": name, "sampler": {"constant": {"value": value}}} for name, value in constants.items()
    ]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Machine]:
    """The script at work in a terminal: server, pool, worker, deployments. Only the block with the credentials is ours.

    Nobody has used Prefect on this machine before: its command line would ask which server to use.
    """
    machine = Machine(tmp_path_factory.mktemp("machine"), s3)
    file = deployments_for_a_test(machine.home / "deployments.yaml")
    script = machine.start(
        *TERMINAL, ROOT / "deployments" / "scheduled.sh", "--all", "--prefect-file", str(file)
    )
    try:
        machine.wait_for(lambda: is_healthy(machine.api_url) or script.poll() is not None, "the server", 180)
        with temporary_settings({PREFECT_API_URL: machine.api_url}):
            ExperimentStore(url=f"s3://{s3.bucket}/deployed", storage_options=s3.storage_options).save(STORE)
            wrong = {**s3.storage_options, "secret": "wrong"}
            ExperimentStore(url=f"s3://{s3.bucket}/deployed", storage_options=wrong).save("wrong")
            machine.wait_for(
                lambda: "Runs that are due are run" in machine.printed(), "the deployments", timeout_s=240.0
            )
            yield machine
    finally:
        machine.end_workers()
        end(script, patience_s=3)  # a worker waits for a run that is at work


@pytest.fixture
def client(machine: Machine) -> Iterator[SyncPrefectClient]:
    machine.ensure_worker()
    with get_client(sync_client=True) as client:
        yield client


def runs_of(client: SyncPrefectClient, deployment: str) -> list[FlowRun]:
    """The runs of a deployment, first due first."""
    found = client.read_deployment_by_name(f"experiment/{deployment}")
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id={"any_": [found.id]}))
    return sorted(runs, key=lambda run: run.expected_start_time or run.created)


def states_of(client: SyncPrefectClient, run: FlowRun | UUID) -> list[Any]:
    run_id = run if isinstance(run, UUID) else run.id
    return sorted(client.read_flow_run_states(run_id), key=lambda state: state.timestamp)


def has_run(client: SyncPrefectClient, run: FlowRun) -> bool:
    return any(state.is_running() for state in states_of(client, run))


def ran_at(client: SyncPrefectClient, run: FlowRun) -> tuple[Any, Any]:
    """When the run became Running, and when it ended."""
    states = states_of(client, run)
    began = next(state.timestamp for state in states if state.is_running())
    return began, states[-1].timestamp


def test_a_run_is_fired_by_its_schedule_and_the_next_one_waits_for_it(
    machine: Machine, client: SyncPrefectClient
) -> None:
    client.resume_deployment(client.read_deployment_by_name("experiment/digits-nightly").id)

    def at_work_and_waiting() -> tuple[FlowRun, FlowRun] | None:
        # Of two runs that are due when the worker looks, the later one may well be the one that is run first.
        runs = {run.state_name: run for run in runs_of(client, "digits-nightly")}
        if {"Running", "AwaitingConcurrencySlot"} <= set(runs):
            return runs["Running"], runs["AwaitingConcurrencySlot"]
        return None

    first, second = machine.wait_for(at_work_and_waiting, "a scheduled run that waits for another")
    client.pause_deployment(client.read_deployment_by_name("experiment/digits-nightly").id)
    ended = machine.wait_for(lambda: ended_run(client, first.id), "the end of the first run")

    assert (ended.state_name, ended.auto_scheduled) == ("Completed", True)
    assert ended.name.startswith("train_digits_")
    assert ended.state.message.startswith("2 trials, 0 failed")
    assert ended.run_count == 1
    # What it left: artifacts in the API, results and checkpoints where the block says.
    mine = FlowRunFilter(id={"any_": [first.id]})
    artifacts = {
        str(artifact.key).removeprefix(ended.name.lower().replace("_", "-")): artifact
        for artifact in client.read_artifacts(flow_run_filter=mine)
    }
    assert {"-leaderboard", "-summary", "-best-checkpoint"} <= set(artifacts), sorted(artifacts)
    storage = machine.storage(ended.name)
    reports = [event for event, _ in read_journal(storage) if isinstance(event, TrialReported)]
    assert len(reports) == 6
    rows = json.loads(artifacts["-leaderboard"].data)
    assert len(rows) == 2
    latest = {event.trial_id: event.row["accuracy"] for event in reports}
    assert {row["trial"]: row["accuracy"] for row in rows} == pytest.approx(latest)

    machine.wait_for(lambda: has_run(client, second), "the run that waited")
    assert ran_at(client, second)[0] >= ran_at(client, ended)[1]


def ended_run(client: SyncPrefectClient, run_id: UUID) -> FlowRun | None:
    run = client.read_flow_run(run_id)
    return run if run.state is not None and run.state.is_final() else None


def start_run(client: SyncPrefectClient, *, store: str = STORE, **space: Any) -> FlowRun:
    """Ask for a run of the deployment without a schedule, with other constants in its search space."""
    # Runs that are due every few seconds, and have to wait, would keep SQLite busy with nothing else.
    client.pause_deployment(client.read_deployment_by_name("experiment/digits-nightly").id)
    deployment = client.read_deployment_by_name("experiment/digits")
    given = deployment.parameters
    return client.create_flow_run_from_deployment(
        deployment.id,
        parameters={
            "param_space": with_constants(given["param_space"], **space),
            "run_config": {**given["run_config"], "store": store},
        },
    )


@pytest.mark.slow
def test_wrong_credentials_end_a_run_before_its_first_trial_with_a_reason_and_no_secret(
    machine: Machine, client: SyncPrefectClient
) -> None:
    run = start_run(client, store="wrong")

    ended = machine.wait_for(lambda: ended_run(client, run.id), "the end of the run")

    assert ended.state_name == "Failed"
    assert "the storage refuses: check the credentials" in ended.state.message
    assert f"s3://{machine.s3.bucket}/deployed" in ended.state.message
    assert not client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run.id]}))
    assert machine.s3.secret not in machine.printed()
    assert machine.s3.secret not in json.dumps(ended.parameters)


@pytest.mark.slow
def test_a_work_pool_that_is_missing_is_named(machine: Machine, tmp_path: Path) -> None:
    text = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    text["deployments"][0]["work_pool"]["name"] = "nowhere"
    file = tmp_path / "deployments.yaml"
    file.write_text(yaml.safe_dump(text))

    ran = machine.prefect("--no-prompt", "deploy", "-n", "digits", "--prefect-file", str(file))

    assert ran.returncode != 0
    assert "work pool 'nowhere' which does not exist" in " ".join((ran.stdout + ran.stderr).split())


@pytest.mark.slow
def test_two_runs_that_are_asked_for_at_once_are_held_apart_by_the_concurrency_limit(
    machine: Machine, client: SyncPrefectClient
) -> None:
    runs = [start_run(client) for _ in range(2)]

    ended = [machine.wait_for(lambda run=run: ended_run(client, run.id), "both runs", 200) for run in runs]

    assert [run.state_name for run in ended] == ["Completed"] * 2, [run.state for run in ended]
    first, second = sorted(ran_at(client, run) for run in ended)
    assert second[0] >= first[1]
    names = {state.name for run in ended for state in states_of(client, run)}
    assert "AwaitingConcurrencySlot" in names


@pytest.mark.slow
def test_worker_and_run_that_are_killed_are_found_and_the_run_goes_on_from_its_checkpoints(
    machine: Machine, client: SyncPrefectClient
) -> None:
    install_crash_detection(silent_for_s=40)
    run = start_run(client, epochs=150)

    def has_checkpoints() -> bool:
        name = client.read_flow_run(run.id).name
        storage = machine.storage(name)
        if not storage.exists("experiment.json"):
            return False
        return len([event for event, _ in read_journal(storage) if isinstance(event, TrialReported)]) >= 10

    machine.wait_for(has_checkpoints, "checkpoints")
    for pid in worker_and_runs():
        os.kill(pid, signal.SIGKILL)
    storage = machine.storage(client.read_flow_run(run.id).name)
    before = [event for event, _ in read_journal(storage) if isinstance(event, TrialReported)]
    assert client.read_flow_run(run.id).state_name == "Running"

    crashed = machine.wait_for(lambda: ended_run(client, run.id), "the server to find that it is dead", 200)
    assert crashed.state_name == "Crashed"
    assert "its process has died" in crashed.state.message
    machine.ensure_worker()
    retried = machine.prefect("flow-run", "retry", str(run.id))
    assert retried.returncode == 0, retried.stdout + retried.stderr
    machine.wait_for(
        lambda: (state := client.read_flow_run(run.id).state) and not state.is_final(), "the retry"
    )
    ended = machine.wait_for(lambda: ended_run(client, run.id), "the run", 240)

    assert ended.state_name == "Completed", ended.state
    events = [event for event, _ in read_journal(storage)]
    assert len([event for event in events if isinstance(event, ExperimentResumed)]) == 1
    reports = [event for event in events if isinstance(event, TrialReported)]
    assert reports[: len(before)] == before
    iterations = {(event.trial_id, event.iteration) for event in reports}
    assert len(iterations) == 2 * 150
    again = [
        event
        for event in reports[len(before) :]
        if (event.trial_id, event.iteration) in {(old.trial_id, old.iteration) for old in before}
    ]
    assert not again, "rows that were safe were made again"


def worker_and_runs() -> list[int]:
    """Processes of the worker and of what it runs, but for Ray's, which end with their driver."""
    mine = [pid for pid in descendants(os.getpid()) if "worker start --pool tune" in command_of(pid)]
    found = [*mine, *(child for pid in mine for child in descendants(pid))]
    return [pid for pid in found if "ray" not in command_of(pid).partition(" ")[0]]
