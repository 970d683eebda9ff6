"""What Prefect shows of an experiment: tables, leaderboard, progress, links and logs."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    ArtifactFilter,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import Artifact, ArtifactCollection
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_EVENTS_MAXIMUM_SIZE_BYTES, temporary_settings

import tune_core as tune
from deployments.seaweedfs import S3Server
from flows.artifacts import ArtifactWriter
from flows.server import BULK_ARTIFACTS, COUNT_TASK_RUNS
from flows.trial import trial as trial_task
from tests.flows.conftest import Recorded, logs_of, wait_for
from tests.support.fault_proxy import FaultProxy, Rule
from tune_core.ranking import Objective, Standings
from tune_core.trial import Status, Trial


def rows_in(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of a table as any JSON parser reads them: Python's own lets NaN pass."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    rows: list[dict[str, Any]] = json.loads(str(artifact.data), parse_constant=refuse)
    return rows


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Every write of an artifact: its kind of key, and what was written."""
    writes: list[tuple[str, Any]] = []
    put = ArtifactWriter._put_documents

    def noted(self: ArtifactWriter, client: Any, work: Any) -> list[Any]:
        writes.extend((document.key.removeprefix(f"{self._prefix}-"), data) for document, data in work)
        return put(self, client, work)

    monkeypatch.setattr(ArtifactWriter, "_put_documents", noted)
    return writes


def test_five_thousand_fast_reports_are_all_in_the_versions_of_their_table_with_few_writes(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    written: list[tuple[str, Any]],
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(5000):
            tune.report({"step": step})

    config = run_config()

    (result,) = tune.Tuner(train, run_config=config).fit()

    versions = recorded(config.name).versions(f"trial-{result.metrics['trial_id']}")
    tables = [rows_in(version) for version in versions]
    assert [len(table) for table in tables] == [1000] * 5
    assert [row["step"] for table in tables for row in table] == list(range(5000))
    assert [row["training_iteration"] for table in tables for row in table] == list(range(1, 5001))
    assert len({version.task_run_id for version in versions}) == 1
    # First and last row of each version at once, the others together every few seconds.
    assert len([key for key, _ in written if key.startswith("trial-")]) < 40
    lines = Path(result.path, "result.json").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5000))


def test_a_full_version_is_due_at_once_and_the_next_one_with_its_rows_of_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ArtifactWriter, "_write_all", lambda self: None)
    monkeypatch.setattr("flows.artifacts.GATHER_S", 0.0)
    writer = ArtifactWriter("long", "a1b2c", uuid4(), [], trial_task, clock=lambda: 100.0)
    trial = Trial("t0", 0, {}, lease=1)
    writer.begin_attempt(trial, uuid4())
    table = writer._tables["t0"]

    full = table.document
    for iteration in range(1, 1002):
        writer.add_row(trial, {"training_iteration": iteration, "done": False}, at_once=True)
    new = table.document

    assert full is not None
    assert new is not None
    assert (full.is_closed, full.due) == (True, 100.0)
    assert (new.is_dirty, new.due) == (True, 105.0)
    writer.add_row(trial, {"training_iteration": 1002, "done": True}, at_once=True)
    assert new.due == 101.0


def in_bulk(
    client: SyncPrefectClient, new: Sequence[ArtifactCreate] = (), changed: Mapping[str, Any] | None = None
) -> list[str]:
    """Write artifacts with one request; return ids of the new ones."""
    body = {
        "new": [each.model_dump(mode="json", exclude_unset=True) for each in new],
        "changed": changed or {},
    }
    ids: list[str] = client.request("POST", BULK_ARTIFACTS, json=body).json()  # type: ignore[arg-type]
    return ids


def test_artifacts_that_are_created_together_are_as_prefect_creates_each_of_them(
    client: SyncPrefectClient,
) -> None:
    def wanted(prefix: str) -> list[ArtifactCreate]:
        return [
            ArtifactCreate(key=f"{prefix}-first", type="table", description="rows", data='[{"x": 1}]'),
            ArtifactCreate(key=f"{prefix}-other", type="progress", data=12.5, task_run_id=uuid4()),
            ArtifactCreate(key=f"{prefix}-first", type="table", description="more", data='[{"x": 2}]'),
        ]

    def versions(prefix: str) -> list[dict[str, Any]]:
        mine = ArtifactFilter(key=ArtifactFilterKey(like_=f"{prefix}-%"))
        found = sorted(client.read_artifacts(artifact_filter=mine), key=lambda each: each.created or 0)
        assert all(each.created == each.updated for each in found)
        return [plain(each) for each in found]

    def latest(prefix: str) -> list[ArtifactCollection]:
        mine = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(like_=f"{prefix}-%"))
        return sorted(client.read_latest_artifacts(artifact_filter=mine), key=lambda each: each.key)

    def plain(artifact: Artifact | ArtifactCollection) -> dict[str, Any]:
        given = artifact.model_dump(exclude={"id", "latest_id", "created", "updated", "task_run_id"})
        return {
            **given,
            "key": str(artifact.key).partition("-")[2],
            "has_run": artifact.task_run_id is not None,
        }

    alone, together = uuid4().hex, uuid4().hex
    for each in wanted(alone):
        client.create_artifact(each)

    in_bulk(client, wanted(together))
    ids = in_bulk(client, wanted(together))

    assert versions(together) == 2 * versions(alone)
    assert [plain(each) for each in latest(together)] == [plain(each) for each in latest(alone)]
    assert [str(each.latest_id) for each in latest(together)] == [ids[2], ids[1]]


def test_artifacts_that_are_changed_together_are_as_prefect_changes_each_of_them(
    client: SyncPrefectClient,
) -> None:
    prefix = uuid4().hex
    names = ("table", "alone", "progress", "percent")
    ids = {
        name: client.create_artifact(ArtifactCreate(key=f"{prefix}-{name}", type=kind, data=data)).id
        for name, kind, data in zip(
            names, ("table", "table", "progress", "progress"), ('[{"x": 1}]', '[{"x": 1}]', 1, 1), strict=True
        )
    }
    client.update_artifact(ids["alone"], ArtifactUpdate(data='[{"x": 2}]'))
    client.update_artifact(ids["percent"], ArtifactUpdate(data=12.5))

    in_bulk(client, changed={str(ids["table"]): '[{"x": 2}]', str(ids["progress"]): 12.5})

    mine = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(like_=f"{prefix}-%"))
    latest = {each.latest_id: each.data for each in client.read_latest_artifacts(artifact_filter=mine)}
    everything = ArtifactFilter(key=ArtifactFilterKey(like_=f"{prefix}-%"))
    versions = {each.id: each.data for each in client.read_artifacts(artifact_filter=everything)}
    assert versions == latest
    assert [versions[ids[name]] for name in names] == ['[{"x": 2}]', '[{"x": 2}]', 12.5, 12.5]


def test_artifacts_are_written_together_or_not_at_all(client: SyncPrefectClient) -> None:
    key = uuid4().hex
    there = client.create_artifact(ArtifactCreate(key=f"{key}-there", type="progress", data=1)).id

    with pytest.raises(PrefectHTTPStatusError, match="404"):
        in_bulk(
            client,
            [ArtifactCreate(key=f"{key}-new", type="progress", data=1)],
            {str(there): 2, str(uuid4()): 3},
        )

    mine = ArtifactFilter(key=ArtifactFilterKey(like_=f"{key}-%"))
    assert [(each.id, each.data) for each in client.read_artifacts(artifact_filter=mine)] == [(there, 1)]


def test_task_runs_are_counted_as_prefect_counts_them(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], client: SyncPrefectClient
) -> None:
    config = run_config()
    tuner = tune.Tuner(
        lambda config: {"x": config["x"]}, param_space={"x": tune.grid_search([1, 2, 3])}, run_config=config
    )

    tuner.fit()

    of_this_run = {"flow_run_id": {"any_": [str(recorded(config.name).flow_run.id)]}}
    for state, number in (("COMPLETED", 3), ("FAILED", 0)):
        body = {"task_runs": {**of_this_run, "state": {"type": {"any_": [state]}}}}
        counts = [
            client.request("POST", path, json=body).json() for path in ("/task_runs/count", COUNT_TASK_RUNS)
        ]  # type: ignore[arg-type]
        assert counts == [number, number]


@pytest.mark.parametrize(("takes_many", "sizes"), [(True, [2, 1, 1, 100, 5]), (False, [1] * 109)])
def test_artifacts_go_together_by_the_hundred_and_while_they_are_short(
    monkeypatch: pytest.MonkeyPatch, takes_many: bool, sizes: list[int]
) -> None:
    monkeypatch.setattr(ArtifactWriter, "_write_all", lambda self: None)
    writer = ArtifactWriter("many", "a1b2c", uuid4(), [], trial_task)
    writer._takes_many = takes_many
    lengths = [249_999, 250_000, 250_001, 600_000, *[1] * 105]
    work = [
        (writer._document(str(number), "table", "", list), length * "x")
        for number, length in enumerate(lengths)
    ]

    groups = writer._groups(work)

    assert [len(group) for group in groups] == sizes
    assert [item for group in groups for item in group] == work


@pytest.mark.parametrize("refused", [False, True])
def test_tables_of_short_trials_are_created_together_or_if_that_fails_one_by_one(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    api: str,
    monkeypatch: pytest.MonkeyPatch,
    refused: bool,
) -> None:
    monkeypatch.setattr("flows.artifacts.GATHER_S", 3600)
    monkeypatch.setattr("flows.artifacts.INTERVAL_S", 0.1)
    config = run_config()
    tuner = tune.Tuner(
        lambda config: {"x": config["x"]},
        param_space={"x": tune.grid_search([*range(8)])},
        run_config=config,
    )
    with FaultProxy(api.removesuffix("/api")) as proxy, api_behind(proxy, monkeypatch):
        if refused:
            proxy.add(Rule("status", path=BULK_ARTIFACTS, status=500))
        results = tuner.fit()

    seen = recorded(config.name).artifacts()
    tables = [seen[f"trial-{each.metrics['trial_id']}".replace("_", "-")] for each in results]
    assert sorted(rows_in(table)[0]["x"] for table in tables) == [*range(8)]
    creations = [path for method, path, _ in proxy.requests if method == "POST" and "artifacts" in path]
    together = [path for path in creations if BULK_ARTIFACTS in path]
    assert len(together) == 1
    assert len(creations) > 8 if refused else len(creations) == 1


def three_reports(config: dict[str, Any]) -> None:
    """Report thrice; wait for a file before each but the first."""
    tune.report({"step": 1})
    for step in (2, 3):
        wait_for(Path(config["go"], str(step)).exists, what="the test")
        tune.report({"step": step})


@contextmanager
def in_background(fit: Callable[[], tune.ResultGrid]) -> Iterator[list[tune.ResultGrid]]:
    """Run an experiment in a thread; it has ended when the context is left."""
    outcome: list[tune.ResultGrid] = []
    thread = threading.Thread(target=lambda: outcome.append(fit()))
    thread.start()
    try:
        yield outcome
    finally:
        thread.join(60)
        assert not thread.is_alive()


def steps_written(written: list[tuple[str, Any]]) -> list[list[int]]:
    return [[row["step"] for row in data] for key, data in written if key.startswith("trial-")]


def test_rows_between_the_first_and_the_last_wait_for_their_interval(
    run_config: Callable[..., tune.RunConfig],
    written: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("flows.artifacts.INTERVAL_S", 3600)
    tuner = tune.Tuner(three_reports, param_space={"go": str(tmp_path)}, run_config=run_config())

    with in_background(tuner.fit):
        wait_for(lambda: steps_written(written), what="the first row")
        for step in (2, 3):
            Path(tmp_path, str(step)).touch()

    assert steps_written(written) == [[1], [1, 2, 3]]


def test_with_every_report_each_row_is_in_the_table_before_the_next_comes(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    written: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("flows.artifacts.INTERVAL_S", 3600)
    config = run_config(every_report=True)
    tuner = tune.Tuner(three_reports, param_space={"go": str(tmp_path)}, run_config=config)

    with in_background(tuner.fit):
        wait_for(lambda: [1] in steps_written(written), what="the first row")
        seen = recorded(config.name)
        (key,) = {key for key, _ in written if key.startswith("trial-")}

        def shown() -> list[int]:
            table = seen.artifacts().get(key)  # `written` notes what is about to be written
            return [row["step"] for row in rows_in(table)] if table else []

        for step in (2, 3):
            Path(tmp_path, str(step)).touch()
            wait_for(lambda steps=step: len(shown()) == steps, what=f"row {step} in the API")

    assert steps_written(written) == [[1], [1, 2], [1, 2, 3]]


def test_leaderboard_of_many_trials_has_those_that_have_not_ended_and_the_best_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ArtifactWriter, "_write_all", lambda self: None)
    monkeypatch.setattr("flows.artifacts.LEADERBOARD_ROWS", 4)
    standings = Standings(Objective("loss", "min"))
    writer = ArtifactWriter("many", "a1b2c", uuid4(), [], trial_task, standings=standings)
    losses = {"t0": 5.0, "t1": 1.0, "t2": 4.0, "t3": 2.0, "t4": 3.0, "t5": None, "t6": 6.0}
    running = {"t5", "t6"}

    for number, (trial_id, loss) in enumerate(losses.items()):
        status = Status.RUNNING if trial_id in running else Status.TERMINATED
        row = {} if loss is None else {"loss": loss}
        trial = Trial(trial_id, number, {}, status=status, last_row=row)
        standings.note(trial, 1, row)
        writer.show_trial(trial)
    shown = [row["trial"] for row in writer._leaderboard_data()]

    assert shown == ["t1", "t3", "t6", "t5"]


def test_leaderboard_has_the_same_columns_in_each_row_and_the_best_trial_first(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    def train(config: dict[str, Any]) -> None:
        if config["x"] == 3:
            raise ValueError("made up")
        tune.report({"quality": {"score": float("nan") if config["x"] == 4 else config["x"]}})

    config = run_config()
    space = {
        "x": tune.grid_search([1, 3, 4, 2]),
        # Only some configurations have it.
        "extra": tune.sample_from(lambda config: {"depth": 5} if config["x"] == 2 else None),
    }

    tune.Tuner(
        train,
        param_space=space,
        tune_config=tune.TuneConfig(metric="quality/score", mode="max"),
        run_config=config,
    ).fit()

    seen = recorded(config.name)
    artifact = seen.artifacts()["leaderboard"]
    rows = rows_in(artifact)
    assert len({tuple(row) for row in rows}) == 1
    assert [row["config/x"] for row in rows][:2] == [2, 1]
    assert {row["config/x"]: row["status"] for row in rows}[3] == "ERROR"
    assert {row["config/x"]: row["error"] for row in rows}[3] == "ValueError: made up"
    assert {row["config/x"]: row["quality/score"] for row in rows} == {2: 2, 1: 1, 4: "nan", 3: None}
    assert {row["config/x"]: row["config/extra/depth"] for row in rows} == {2: 5, 1: None, 4: None, 3: None}
    assert artifact.flow_run_id == seen.flow_run.id
    assert artifact.task_run_id is None


def test_progress_counts_finished_trials_up_to_a_hundred_percent(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    written: list[tuple[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.artifacts.INTERVAL_S", 0.1)
    go = tmp_path / "go"

    def train(config: dict[str, Any]) -> dict[str, Any]:
        if config["waits"]:
            wait_for(go.exists, what="the test")
        return {"x": 1}

    config = run_config()
    tuner = tune.Tuner(train, param_space={"waits": tune.grid_search([0, 0, 0, 1])}, run_config=config)

    def progress() -> list[float]:
        return [data for key, data in written if key == "progress"]

    with in_background(tuner.fit):
        wait_for(lambda: 75 in progress(), what="three of four trials")
        go.touch()

    seen = recorded(config.name)
    bar = seen.artifacts()["progress"]
    assert progress() == sorted(progress())
    assert bar.data == 100
    assert (bar.type, bar.flow_run_id, bar.task_run_id) == ("progress", seen.flow_run.id, None)


def test_best_checkpoint_on_s3_is_linked_by_its_url(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], s3: S3Server
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in (1, 2, 3):
            with tempfile.TemporaryDirectory() as directory:
                # The best is neither the first nor the last of its trial.
                loss = abs(step - 2) + config["x"]
                tune.report({"loss": loss}, checkpoint=tune.Checkpoint.from_directory(directory))

    config = run_config(storage_path=f"s3://{s3.bucket}/linked", storage_options=s3.storage_options)

    results = tune.Tuner(
        train,
        param_space={"x": tune.grid_search([5, 1, 3])},
        tune_config=tune.TuneConfig(metric="loss", mode="min", best_scope="all"),
        run_config=config,
    ).fit()

    best = results[1]
    seen = recorded(config.name)
    link = seen.artifacts()["best-checkpoint"]
    url = f"s3://{s3.bucket}/linked/{config.name}/{Path(best.path).name}/checkpoint_000001"
    assert url in str(link.data)
    assert f"trial {best.metrics['trial_id']}, iteration 2, loss 1" in str(link.data)
    assert s3.secret not in str(link.data)
    assert (link.flow_run_id, link.task_run_id) == (seen.flow_run.id, None)


def test_not_a_number_and_infinities_are_shown_as_text_and_kept_as_numbers(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    values = [float("nan"), float("inf"), float("-inf"), 1.5]

    def train(config: dict[str, Any]) -> None:
        for value in values:
            tune.report({"loss": value, "deep": {"list": [value]}})

    config = run_config()

    results = tune.Tuner(
        train, tune_config=tune.TuneConfig(metric="loss", mode="min"), run_config=config
    ).fit()

    rows = rows_in(
        recorded(config.name).artifacts()[f"trial-{results[0].metrics['trial_id']}".replace("_", "-")]
    )
    assert [row["loss"] for row in rows] == ["nan", "inf", "-inf", 1.5]
    kept = list(results[0].metrics_dataframe["loss"])
    assert math.isnan(kept[0])
    assert kept[1:] == values[1:]


def test_what_a_trial_prints_and_logs_in_any_thread_is_in_its_task_runs_log(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        def speak(who: str) -> None:
            print(f"{who} {config['x']} prints")
            logging.getLogger("my.library").info("%s %s logs", who, config["x"])
            logging.getLogger("my.library").warning("%s %s warns", who, config["x"])

        speak("main")
        thread = threading.Thread(target=speak, args=("thread",))
        thread.start()
        thread.join()
        print("no line end", end="")
        if config["x"] == 2:
            raise ValueError("made up")
        return {"x": config["x"]}

    config = run_config()

    tune.Tuner(train, param_space={"x": tune.grid_search([1, 2])}, run_config=config).fit()

    for number, run in enumerate(recorded(config.name).task_runs(2), 1):
        spoken = [
            f"{who} {number} {does}" for who in ("main", "thread") for does in ("prints", "logs", "warns")
        ]
        lines = wait_for(
            lambda run=run: (
                [line for line in logs_of(client, run) if "no line end" in line] and logs_of(client, run)
            ),
            what="the log",
        )
        assert [line for line in lines if line in spoken] == spoken
        assert any("in train" in line and "ValueError: made up" in line for line in lines) == (number == 2)


def test_log_of_a_finished_trial_survives_that_the_next_one_kills_their_process(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        import os

        if config["dies"]:
            os._exit(1)
        print("last words")
        return {"pid": os.getpid()}

    config = run_config()

    results = tune.Tuner(
        train,
        param_space={"dies": tune.grid_search([False, True])},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=config,
    ).fit()

    assert [result.error is None for result in results] == [True, False]
    first, second = recorded(config.name).task_runs(2)
    assert (first.state_name, second.state_name) == ("Completed", "Crashed")
    wait_for(lambda: "last words" in logs_of(client, first), what="the log", timeout_s=10)


@contextmanager
def api_behind(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the artifacts of an experiment, and nothing else, go through a proxy."""

    def through_proxy(**_: Any) -> SyncPrefectClient:
        return SyncPrefectClient(f"{proxy.url}/api")

    with monkeypatch.context() as patches:
        patches.setattr("flows.artifacts.get_client", through_proxy)
        yield


def test_artifact_that_is_larger_than_an_event_may_be_is_written_once(
    api: str, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.artifacts.INTERVAL_S", 0.1)
    name, shown = f"large-{uuid4().hex[:8]}", ["a" * 5000]
    with (
        FaultProxy(api.removesuffix("/api")) as proxy,
        api_behind(proxy, monkeypatch),
        temporary_settings({PREFECT_EVENTS_MAXIMUM_SIZE_BYTES: 1000}),
    ):
        writer = ArtifactWriter(name, "a1b2c", uuid4(), [], trial_task)
        writer._takes_many = False

        def written() -> list[str]:
            found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
            return [str(each.data) for each in found]

        key = f"{name}-page"
        writer.show_page("page", "A page", lambda: shown[0])
        wait_for(written, what="the page")
        shown[0] = "b" * 5000
        writer.show_page("page", "A page", lambda: shown[0])
        writer.close()

    assert written() == ["b" * 5000]
    methods = [method for method, path, _ in proxy.requests if "artifacts" in path]
    assert sorted(methods) == ["PATCH", "POST"]


@pytest.mark.parametrize("fault", ["status", "reset", "hang"])
def test_training_goes_on_without_the_artifact_service_and_one_warning_says_so(
    run_config: Callable[..., tune.RunConfig],
    api: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Any,
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(20):
            tune.report({"step": step})

    monkeypatch.setattr("flows.artifacts.CLOSE_TIMEOUT_S", 2.0)
    monkeypatch.setattr("flows.artifacts.INTERVAL_S", 0.1)
    # Prefect's loggers do not propagate, and caplog listens at the root.
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    space = {"x": tune.grid_search([1, 2])}
    with FaultProxy(api.removesuffix("/api")) as proxy, api_behind(proxy, monkeypatch):
        broken = proxy.add(Rule(fault, path="/artifacts", status=500))
        began = time.monotonic()

        results = tune.Tuner(train, param_space=space, run_config=run_config()).fit()

        took_s = time.monotonic() - began

    assert broken.fired > 0
    assert results.num_errors == 0
    assert [result.metrics["training_iteration"] for result in results] == [20, 20]
    for result in results:
        assert len(Path(result.path, "result.json").read_text().splitlines()) == 20
    warnings = [record for record in caplog.records if record.name.startswith("prefect.tune")]
    assert [record.levelname for record in warnings if record.levelno >= logging.WARNING] == ["WARNING"]
    assert took_s < 30


def test_artifacts_that_could_not_be_written_are_written_when_the_service_is_back(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    api: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.artifacts.INTERVAL_S", 0.1)
    config = run_config()
    with FaultProxy(api.removesuffix("/api")) as proxy, api_behind(proxy, monkeypatch):
        proxy.add(Rule("status", path="/artifacts", status=500, times=6))

        (result,) = tune.Tuner(lambda config: {"x": 1}, run_config=config).fit()

    seen = recorded(config.name).artifacts()
    assert rows_in(seen[f"trial-{result.metrics['trial_id']}".replace("_", "-")])[0]["x"] == 1
    assert [row["status"] for row in rows_in(seen["leaderboard"])] == ["TERMINATED"]
    assert seen["progress"].data == 100
