"""One Prefect server, one Ray and one S3 server for the whole tier: starting them takes half a minute."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTaskRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.client.schemas.sorting import LogSort
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from ray.util import placement_group_table

import tune_core as tune
from examples.seaweedfs import S3Server, start_seaweedfs
from tests.flows.journals import replayed_journals
from tests.support.waiting import wait_for
from tune_core.engine.artifacts.artifacts import ArtifactWriter
from tune_core.engine.channel.channel import Channel
from tune_core.engine.server import server as prefect_servers

CPUS, GPUS = 8, 5


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Prefect server with a database of its own."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        server = prefect_servers.start_own_server()
        environment.setenv("PREFECT_API_URL", server.api_url)
        # To stop a flow run's heart takes Prefect up to a second; what runs in processes of its own has one.
        with temporary_settings({PREFECT_API_URL: server.api_url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield server.api_url
            APILogWorker.drain_all(timeout=10)  # at exit it would try for a minute to reach this server
    prefect_servers.stop_own_server()


@pytest.fixture(scope="session")
def cluster(api: str) -> Iterator[None]:
    """A local Ray with logical GPUs."""
    ray.init(
        num_cpus=CPUS,
        num_gpus=GPUS,
        resources={"special": 2},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        namespace="prefect",
        object_store_memory=300_000_000,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with a bucket."""
    server = start_seaweedfs(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def nothing_left_behind(cluster: None) -> Iterator[None]:
    """After each test no group lives, and so no actor that takes anything."""
    yield
    deadline = time.monotonic() + 20
    while (left := _left_behind()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


@pytest.fixture(autouse=True)
def journals_replay_to_the_same_commands(tmp_path: Path) -> Iterator[None]:
    """Every journal that a test writes is replayed through `handle`, and gives the same commands."""
    with replayed_journals(tmp_path):
        yield


def _left_behind() -> list[str]:
    groups = placement_group_table()
    return [f"{key} {group['state']}" for key, group in groups.items() if group["state"] != "REMOVED"]


@pytest.fixture
def client(api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as prefect_client:
        yield prefect_client


@pytest.fixture
def run_config(tmp_path: Path) -> Callable[..., tune.RunConfig]:
    """Makes a quiet RunConfig with a fresh name, on local storage unless told otherwise."""

    def make(**changes: Any) -> tune.RunConfig:
        values = {"name": f"test-{uuid.uuid4().hex[:8]}", "storage_path": str(tmp_path), "verbose": 0}
        return tune.RunConfig(**{**values, **changes})

    return make


def logs_of(client: SyncPrefectClient, run: TaskRun) -> list[str]:
    """The lines of a task run's log, oldest first."""
    only = LogFilter(task_run_id=LogFilterTaskRunId(any_=[run.id]))
    return [log.message for log in client.read_logs(log_filter=only, sort=LogSort.TIMESTAMP_ASC, limit=200)]


class Recorded:
    """What the server has of one experiment's flow run."""

    def __init__(self, client: SyncPrefectClient, name: str) -> None:
        self._client = client
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"any_": [name]}))
        assert len(found) == 1, f"{len(found)} flow runs are named {name}"
        self.flow_run: FlowRun = found[0]

    def task_runs(self, count: int, state: str | None = None) -> list[TaskRun]:
        """The task runs by name, once there are `count`, all final (or in `state`)."""

        def complete() -> list[TaskRun]:
            runs = self._client.read_task_runs(flow_run_filter=self._this())
            ready = [
                run
                for run in runs
                if run.state and (run.state.is_final() if state is None else run.state.name == state)
            ]
            return sorted(ready, key=lambda run: run.name) if len(ready) >= count else []

        def there_are() -> str:
            found = self._client.read_task_runs(flow_run_filter=self._this())
            return f"found {[(run.name, run.state_name) for run in found]}"

        return wait_for(complete, f"{count} task runs of {self.flow_run.name}", explain=there_are)

    def artifacts(self) -> dict[str, Artifact]:
        """The newest artifact of each name: see `_name_of`."""
        return {self._name_of(artifact): artifact for artifact in self._all_artifacts()}

    def versions(self, name: str) -> list[Artifact]:
        """Every artifact of a name, oldest first."""
        wanted = name.replace("_", "-")
        return [artifact for artifact in self._all_artifacts() if self._name_of(artifact) == wanted]

    def reports(self, trial_id: str | None = None) -> list[dict[str, Any]]:
        """The rows of a trial, or of all, in the table of all trials."""
        rows = [row for each in self.versions("reports") for row in json.loads(str(each.data))]
        return [row for row in rows if trial_id in (None, row["trial_id"])]

    def _all_artifacts(self) -> list[Artifact]:
        found = self._client.read_artifacts(flow_run_filter=self._this())
        ours = [
            artifact for artifact in found if artifact.description
        ]  # Prefect's own, of results, have none
        return sorted(ours, key=lambda artifact: artifact.created or 0)

    def _name_of(self, artifact: Artifact) -> str:
        """Its key without the experiment's name; of one without a key what its description says that it is."""
        if artifact.key is not None:
            return artifact.key.removeprefix(f"{self.flow_run.name}-")
        description = str(artifact.description)
        of_trial = re.match(r"(Reports|Learning curve) of \S*?([0-9a-f]+_\d{5})\b", description)
        if of_trial is not None:
            chart = "" if of_trial[1] == "Reports" else "-chart"
            return f"trial-{of_trial[2]}{chart}".replace("_", "-")
        names = {"Reports of all": "reports", "Finished": "progress", "Charts": "charts"}
        (name,) = [name for start, name in names.items() if description.startswith(start)]
        return name

    def logs(self) -> str:
        """What the flow run and its task runs have logged so far, a line each."""
        mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.flow_run.id]))
        return "\n".join(log.message for log in self._client.read_logs(log_filter=mine, limit=200))

    def _this(self) -> FlowRunFilter:
        return FlowRunFilter(id={"any_": [self.flow_run.id]})


@pytest.fixture
def recorded(client: SyncPrefectClient) -> Callable[[str], Recorded]:
    return lambda name: Recorded(client, name)


@pytest.fixture
def channel() -> Iterator[Channel]:
    opened = Channel()
    yield opened
    opened.close()


@pytest.fixture
def experiments_channel(monkeypatch: pytest.MonkeyPatch) -> list[Channel]:
    """The channels that experiments open, in order."""
    opened: list[Channel] = []

    class Seen(Channel):
        def __init__(self, host: str = "127.0.0.1") -> None:
            super().__init__(host)
            opened.append(self)

    monkeypatch.setattr("tune_core.engine.composition.Channel", Seen)
    return opened


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Every write of an artifact: its name, and what was written."""
    writes: list[tuple[str, Any]] = []
    put = ArtifactWriter._put_documents

    def noted(self: ArtifactWriter, client: Any, work: Any) -> list[Any]:
        writes.extend((document.name, data) for document, data in work)
        return put(self, client, work)

    monkeypatch.setattr(ArtifactWriter, "_put_documents", noted)
    return writes
