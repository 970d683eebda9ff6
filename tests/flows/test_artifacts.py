"""What Prefect shows of an experiment: tables, leaderboard, progress, links and logs."""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Completed, Crashed, Failed

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded
from tests.support.artifacts import rows_in
from tests.support.waiting import wait_for
from tune_core.engine.artifacts.artifacts import SHARED_REPORTS, ArtifactWriter
from tune_core.engine.artifacts.tables import TrialRows
from tune_core.engine.server.contact import Contact
from tune_core.engine.task_run_ends import TaskRunEnds
from tune_core.engine.worker.trial_task import trial as trial_task
from tune_core.ranking import Objective, Standings
from tune_core.trial import Status, Trial


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


@pytest.fixture
def silent_writer(monkeypatch: pytest.MonkeyPatch) -> ArtifactWriter:
    """A writer that writes nothing; it is 100 by its clock."""
    monkeypatch.setattr(ArtifactWriter, "_write_all", lambda self: None)
    return ArtifactWriter("long", "a1b2c", uuid4(), [], trial_task, clock=lambda: 100.0)


def add_rows(writer: ArtifactWriter, trial: Trial, first: int, last: int) -> None:
    for iteration in range(first, last + 1):
        writer.add_row(trial, {"training_iteration": iteration, "done": False}, at_once=True)


def iterations(rows: TrialRows) -> list[int]:
    return [row["training_iteration"] for row in rows.rows]


def test_a_full_version_is_due_at_once_and_the_next_one_with_its_rows_of_some_seconds(
    silent_writer: ArtifactWriter,
) -> None:
    trial = Trial("t0", 0, {}, attempt_number=1)
    silent_writer.begin_attempt(trial, uuid4())
    table = silent_writer._tables["t0"]

    add_rows(silent_writer, trial, 1, SHARED_REPORTS + 1)
    full = table.document
    add_rows(silent_writer, trial, SHARED_REPORTS + 2, 1001)
    new = table.document

    assert full is not None
    assert new is not None
    assert new is not full
    assert (full.is_closed, full.due) == (True, 100.0)
    assert (new.is_dirty, new.due) == (True, 105.0)
    silent_writer.add_row(trial, {"training_iteration": 1002, "done": True}, at_once=True)
    assert new.due == 101.0


def test_first_reports_of_all_trials_share_a_table_and_more_of_one_have_their_own(
    silent_writer: ArtifactWriter,
) -> None:
    short, long = Trial("t0", 0, {}, attempt_number=1), Trial("t1", 1, {}, attempt_number=1)
    for trial in (short, long):
        silent_writer.begin_attempt(trial, uuid4())

    add_rows(silent_writer, long, 1, 3)
    add_rows(silent_writer, short, 1, SHARED_REPORTS)
    assert silent_writer._tables["t0"].document is None
    add_rows(silent_writer, long, 4, SHARED_REPORTS + 5)

    shared = silent_writer._shared.rows.rows
    assert [row["training_iteration"] for row in shared if row["trial_id"] == "t0"] == [*range(1, 21)]
    assert [row["training_iteration"] for row in shared if row["trial_id"] == "t1"] == [*range(1, 21)]
    own = silent_writer._tables["t1"]
    assert own.document is not None
    assert own.document.task_run_id == silent_writer._task_runs["t1"]
    assert iterations(own.rows) == [*range(1, 26)]


def test_full_table_of_all_trials_goes_on_in_another_version(
    silent_writer: ArtifactWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_core.engine.artifacts.tables.ROWS_PER_VERSION", 50)
    for number in range(4):
        trial = Trial(f"t{number}", number, {}, attempt_number=1)
        silent_writer.begin_attempt(trial, uuid4())
        add_rows(silent_writer, trial, 1, SHARED_REPORTS)

    versions = [each for each in silent_writer._documents if each.name == "reports"]
    assert [len(version.data()) for version in versions] == [50, 30]
    assert [version.is_closed for version in versions] == [True, False]


@pytest.mark.parametrize("known", [SHARED_REPORTS - 1, SHARED_REPORTS, 1500])
def test_reports_of_a_driver_before_this_one_are_shown_with_those_of_the_next_attempt(
    silent_writer: ArtifactWriter, known: int
) -> None:
    trial = Trial("t0", 0, {}, attempt_number=1)
    add_rows(silent_writer, trial, 1, known)
    assert not [
        each for each in silent_writer._documents if each.kind == "table" and each.name != "leaderboard"
    ]

    silent_writer.begin_attempt(trial, uuid4())
    add_rows(silent_writer, trial, known + 1, known + 1)

    table = silent_writer._tables["t0"]
    if known < SHARED_REPORTS:
        assert table.document is None
        assert iterations(silent_writer._shared.rows) == [*range(1, known + 2)]
    else:
        assert table.document is not None
        assert iterations(table.rows) == [*range(1 if known < 1000 else 1001, known + 2)]


def test_only_what_is_looked_up_by_its_name_has_a_key(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], client: SyncPrefectClient
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(SHARED_REPORTS + 1):
            with tempfile.TemporaryDirectory() as directory:
                tune.report({"step": step}, checkpoint=tune.Checkpoint.from_directory(directory))

    config = run_config()

    tune.Tuner(train, tune_config=tune.TuneConfig(metric="step", mode="max"), run_config=config).fit()

    seen = recorded(config.name)
    artifacts = seen.artifacts()
    with_key = {name for name, artifact in artifacts.items() if artifact.key is not None}
    assert with_key == {"leaderboard", "best-checkpoint", "summary"}
    assert {"reports", "progress", "charts"} <= {*artifacts}
    assert len([name for name in artifacts if name.startswith("trial-")]) == 2  # its table and its curve
    assert len(seen.reports()) == SHARED_REPORTS


@pytest.mark.parametrize(
    ("state", "was_silent", "is_forced", "settles"),
    [
        (Completed(), False, False, False),
        (Failed(), False, False, False),
        (Crashed(), False, False, True),
        (Completed(), True, False, True),
        (Completed(), False, True, True),
    ],
)
def test_end_waits_for_recorded_states_only_if_some_may_be_lost(
    api: str,
    monkeypatch: pytest.MonkeyPatch,
    state: State[Any],
    *,
    was_silent: bool,
    is_forced: bool,
    settles: bool,
) -> None:
    waited_for: list[list[UUID]] = []
    before_the_end: list[Callable[[], None]] = []
    monkeypatch.setattr(TaskRunEnds, "settle", lambda self, client, expected: waited_for.append([*expected]))
    monkeypatch.setattr(TaskRunEnds, "force", lambda self, client, item: None)
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.before_own_server_stops", before_the_end.append)
    contact, ended = Contact(api), uuid4()
    writer = ArtifactWriter("ends", "a1b2c", uuid4(), [], trial_task, contact=contact)

    writer.expect_state("trial-1", ended, state)
    if was_silent:
        contact.lost(ConnectionError("made up"))
        contact.answered()
    if is_forced:
        writer.force_state("trial-2", uuid4(), Crashed())
    writer.close()

    assert waited_for == ([[ended]] if settles else [])
    (wait_until_recorded,) = before_the_end
    wait_until_recorded()
    assert waited_for[-1] == [ended]


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
    return [[row["step"] for row in data] for name, data in written if name == "reports"]


def test_rows_between_the_first_and_the_last_wait_for_their_interval(
    run_config: Callable[..., tune.RunConfig],
    written: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.INTERVAL_S", 3600)
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
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.INTERVAL_S", 3600)
    config = run_config(every_report=True)
    tuner = tune.Tuner(three_reports, param_space={"go": str(tmp_path)}, run_config=config)

    with in_background(tuner.fit):
        wait_for(lambda: [1] in steps_written(written), what="the first row")
        seen = recorded(config.name)

        def shown() -> list[int]:
            return [row["step"] for row in seen.reports()]  # `written` notes what is about to be written

        for step in (2, 3):
            Path(tmp_path, str(step)).touch()
            wait_for(lambda steps=step: len(shown()) == steps, what=f"row {step} in the API")

    assert steps_written(written) == [[1], [1, 2], [1, 2, 3]]


def test_leaderboard_of_many_trials_has_those_that_have_not_ended_and_the_best_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ArtifactWriter, "_write_all", lambda self: None)
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.LEADERBOARD_ROWS", 4)
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
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.INTERVAL_S", 0.1)
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

    rows = rows_in(recorded(config.name).artifacts()["reports"])
    assert [row["loss"] for row in rows] == ["nan", "inf", "-inf", 1.5]
    kept = list(results[0].metrics_dataframe["loss"])
    assert math.isnan(kept[0])
    assert kept[1:] == values[1:]
