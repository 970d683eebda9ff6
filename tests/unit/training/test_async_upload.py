"""Checkpoints that are uploaded while the trial goes on: docs/design/007-asynchronous-checkpoints.md."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

import tune_core as tune
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import an_attempt
from tune_core.errors import CheckpointError, StorageError
from tune_core.states import Outcome
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.commit import CheckpointMarker
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.faults import Fault, FaultyFileSystem
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.training import session as session_module
from tune_core.training.attempt_spec import AttemptSpec
from tune_core.training.execution import Ending, run_attempt
from tune_core.training.session import Session, StopTrial

PATIENCE_S = 10.0


class Gated(ExperimentStorage):
    """Commits when the test says so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)
        self.failure: Exception | None = None

    def commit_checkpoint(self, *args: Any, **kwargs: Any) -> CheckpointMarker:
        self.arrived.release()
        assert self.gate.acquire(timeout=PATIENCE_S)
        if self.failure is not None:
            raise self.failure
        return super().commit_checkpoint(*args, **kwargs)

    def wait_until_asked(self) -> None:
        assert self.arrived.acquire(timeout=PATIENCE_S)


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No private copy may be left."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield
    assert list(path.glob("checkpoint_*")) == []


@pytest.fixture
def storage(tmp_path: Path) -> Gated:
    return Gated.open(tmp_path / "storage", "e")  # type: ignore[return-value]


@pytest.fixture
def uplink() -> FakeUplink:
    return FakeUplink()


def an_upload(storage: ExperimentStorage, **changes: Any) -> AttemptSpec:
    """Return an attempt whose checkpoints are uploaded while it goes on."""
    return an_attempt(storage, **{"async_upload": True} | changes)


@pytest.fixture
def session(storage: Gated, uplink: FakeUplink) -> Session:
    return Session(an_upload(storage), uplink)


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Checkpoint]:
    """Writes a checkpoint into one and the same directory, as a training loop does."""

    def write(weights: str) -> Checkpoint:
        (tmp_path / "model" / "empty").mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / "weights.txt").write_text(weights)
        return Checkpoint.from_directory(tmp_path / "model")

    return write


def weights(checkpoint: Checkpoint | None) -> str:
    assert checkpoint is not None
    with checkpoint.as_directory() as path:
        assert Path(path, "empty").is_dir()
        return Path(path, "weights.txt").read_text()


def test_row_and_what_follows_it_are_seen_after_the_commit(
    session: Session, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint]
) -> None:
    session.report({"loss": 3})
    session.report({"loss": 2}, model("second"))
    session.report({"loss": 1})
    storage.wait_until_asked()

    assert uplink.sent == [(1, None)]
    assert session.checkpoint is None
    assert storage.committed("trial_0") == []

    storage.gate.release()
    session.finish_upload()

    assert uplink.sent == [(1, None), (2, 0), (3, None)]
    assert uplink.reports[1].row["checkpoint_dir_name"] == "checkpoint_000000"
    [marker] = storage.committed("trial_0")
    assert (marker.iteration, [row["loss"] for row in marker.rows]) == (2, [3, 2])
    assert weights(session.checkpoint) == "second"


def test_rows_are_sent_at_once_when_nothing_is_under_way(session: Session, uplink: FakeUplink) -> None:
    session.report({"loss": 1})

    assert uplink.sent == [(1, None)]


def test_held_rows_are_sent_without_another_report(
    session: Session, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint]
) -> None:
    session.report({}, model("1"))
    session.report({})

    storage.gate.release()

    uplink.wait_for_reports(2)
    assert uplink.sent == [(1, 0), (2, None)]


def test_directory_may_be_rewritten_and_removed_once_report_has_returned(
    session: Session, storage: Gated, model: Callable[[str], Checkpoint]
) -> None:
    session.report({}, model("of iteration 1"))
    storage.wait_until_asked()

    later = model("of iteration 2")  # into the file that is there
    Path(later.path, "weights.txt").unlink()
    storage.gate.release()
    session.finish_upload()

    assert weights(session.checkpoint) == "of iteration 1"


def test_next_checkpoint_waits_for_the_one_before(
    session: Session, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint]
) -> None:
    session.report({}, model("1"))
    storage.wait_until_asked()
    returned = threading.Event()

    def report_next() -> None:
        session.report({}, model("2"))
        returned.set()

    thread = threading.Thread(target=report_next)
    thread.start()

    assert not storage.arrived.acquire(timeout=0.05)
    assert not returned.is_set()
    storage.gate.release()
    thread.join(PATIENCE_S)
    assert returned.is_set()
    assert uplink.sent == [(1, 0)]
    storage.gate.release()
    session.finish_upload()
    assert uplink.sent == [(1, 0), (2, 1)]
    assert weights(storage.checkpoint("trial_0", 0)) == "1"
    assert weights(storage.checkpoint("trial_0", 1)) == "2"


def test_failed_upload_is_raised_by_the_next_report_and_its_rows_are_kept(
    session: Session, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint]
) -> None:
    session.report({"loss": 2}, model("1"))
    session.report({"loss": 1})
    storage.failure = StorageError("no room")
    storage.gate.release()
    uplink.wait_for_reports(2)

    with pytest.raises(
        CheckpointError, match=r"the checkpoint of iteration 1 was not stored: StorageError: no room"
    ):
        session.report({"loss": 0})

    assert uplink.sent == [(1, None), (2, None)]
    row = uplink.reports[0].row
    assert (row["checkpoint_dir_name"], "should_checkpoint" in row) == (None, False)
    # It is said once, and the number of the report that said it is free.
    storage.failure = None
    storage.gate.release()
    session.report({"loss": 0}, model("3"))
    session.finish_upload()
    assert uplink.sent[2:] == [(3, 0)]
    assert [row["loss"] for row in storage.committed("trial_0")[0].rows] == [2, 1, 0]


def test_report_that_waited_for_an_upload_that_fails_raises_too(
    session: Session, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint]
) -> None:
    session.report({}, model("1"))
    storage.failure = OSError("reset")
    storage.gate.release()

    with pytest.raises(CheckpointError, match="iteration 1 was not stored: OSError: reset"):
        session.report({}, model("2"))

    assert uplink.sent == [(1, None)]
    assert session.iteration == 1


@pytest.mark.parametrize("reason", ["a decision is waited for", "the last row", "remote"])
def test_report_waits_for_the_commit_where_more_depends_on_it(
    reason: str, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint]
) -> None:
    changes: dict[str, Any] = {"stop": {"training_iteration": 1}} if reason == "the last row" else {}
    session = Session(
        an_upload(storage, waits_for_decisions=reason == "a decision is waited for", **changes), uplink
    )
    checkpoint = model("1")
    if reason == "remote":
        other = ExperimentStorage.open(f"memory://{uuid4().hex}", "other")
        other.commit_checkpoint(
            "trial_0", checkpoint, index=0, attempt_number=1, iteration=1, rows=[], metrics={}
        )
        checkpoint = other.checkpoint("trial_0", 0)
    storage.gate.release()

    if reason == "the last row":
        with pytest.raises(StopTrial):
            session.report({}, checkpoint)
    else:
        session.report({}, checkpoint)

    assert uplink.sent == [(1, 0)]
    assert weights(session.checkpoint) == "1"


def test_directory_that_cannot_be_copied_is_uploaded_before_report_returns(
    session: Session,
    storage: Gated,
    uplink: FakeUplink,
    model: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    storage.gate.release()

    session.report({}, model("1"))

    assert uplink.sent == [(1, 0)]
    assert "uploaded before report returns" in caplog.text
    assert "No space left on device" in caplog.text


def test_what_no_checkpoint_can_hold_is_refused_at_once(
    session: Session, uplink: FakeUplink, model: Callable[[str], Checkpoint]
) -> None:
    checkpoint = model("1")
    Path(checkpoint.path, "dangling").symlink_to("/no/such")

    with pytest.raises(CheckpointError, match="a dangling symbolic link"):
        session.report({}, checkpoint)
    with pytest.raises(CheckpointError, match="does not exist"):
        session.report({}, Checkpoint.from_directory("/no/such"))

    session.report({})
    assert uplink.sent == [(1, None)]


def test_full_window_waits_for_the_upload_before_the_journal(
    session: Session,
    storage: Gated,
    uplink: FakeUplink,
    model: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "WINDOW", 4)
    session.report({}, model("1"))
    session.report({})
    session.report({})
    thread = threading.Thread(target=session.report, args=({},))
    thread.start()

    storage.wait_until_asked()
    assert uplink.waits == []  # what it would wait for was not sent
    storage.gate.release()
    thread.join(PATIENCE_S)

    assert not thread.is_alive()
    assert uplink.waits == [("journal", 3)]
    assert uplink.sent == [(1, 0), (2, None), (3, None), (4, None)]


class TestEnds:
    """An attempt ends after its upload."""

    def run(
        self, trainable: Any, storage: Gated, uplink: FakeUplink, tmp_path: Path, **changes: Any
    ) -> Ending:
        return run_attempt(an_upload(storage, **changes), trainable, uplink, tmp_path / "work")

    def test_return_waits(
        self, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint], tmp_path: Path
    ) -> None:
        def train(config: dict[str, Any]) -> None:
            tune.report({}, checkpoint=model("1"))
            threading.Timer(0.05, storage.gate.release).start()

        ending = self.run(train, storage, uplink, tmp_path)

        assert ending.outcome is Outcome.COMPLETED
        assert uplink.sent == [(1, 0)]

    def test_stop_waits(
        self, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint], tmp_path: Path
    ) -> None:
        def train(config: dict[str, Any]) -> None:
            tune.report({}, checkpoint=model("1"))
            uplink.stop_cause = "interrupt"
            threading.Timer(0.05, storage.gate.release).start()
            tune.report({})

        ending = self.run(train, storage, uplink, tmp_path)

        assert ending.outcome is Outcome.STOPPED
        assert uplink.sent == [(1, 0)]

    @pytest.mark.parametrize("way", ["return", "stop"])
    def test_failed_upload_fails_the_attempt(
        self, way: str, storage: Gated, uplink: FakeUplink, model: Callable[[str], Checkpoint], tmp_path: Path
    ) -> None:
        def train(config: dict[str, Any]) -> None:
            tune.report({}, checkpoint=model("1"))
            storage.failure = StorageError("no room")
            uplink.stop_cause = "interrupt" if way == "stop" else None
            storage.gate.release()
            if way == "stop":
                tune.report({})

        ending = self.run(train, storage, uplink, tmp_path)

        assert (ending.outcome, ending.retryable) == (Outcome.ERROR, True)
        assert ending.error == (
            "CheckpointError: the checkpoint of iteration 1 was not stored: StorageError: no room"
        )
        assert uplink.sent == [(1, None)]

    def test_error_of_the_trainable_comes_before_that_of_its_upload(
        self,
        storage: Gated,
        uplink: FakeUplink,
        model: Callable[[str], Checkpoint],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def train(config: dict[str, Any]) -> None:
            tune.report({}, checkpoint=model("1"))
            storage.failure = StorageError("no room")
            storage.gate.release()
            raise ArithmeticError("diverged")

        ending = self.run(train, storage, uplink, tmp_path)

        assert ending.error == "ArithmeticError: diverged"
        assert "the checkpoint of iteration 1 was not stored: StorageError: no room" in caplog.text

    def test_class_that_is_stopped_saves_only_what_no_upload_has(
        self, storage: Gated, uplink: FakeUplink, tmp_path: Path
    ) -> None:
        class Steps(tune.Trainable):
            def step(self) -> dict[str, Any]:
                if self.iteration == 2:  # while the second one is uploaded
                    uplink.stop_cause = "interrupt"
                return {}

            def save_checkpoint(self, checkpoint_dir: str) -> None:
                Path(checkpoint_dir, "state").write_text(str(self.iteration))

        for _ in range(4):
            storage.gate.release()

        ending = self.run(Steps, storage, uplink, tmp_path, checkpoint_frequency=2)

        assert ending.outcome is Outcome.STOPPED
        assert uplink.sent == [(1, None), (2, 0), (3, None)]
        assert uplink.checkpoints == [(3, 1)]
        assert [(marker.index, marker.iteration) for marker in storage.committed("trial_0")] == [
            (0, 2),
            (1, 3),
        ]


@pytest.mark.parametrize("is_fatal", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
def test_whatever_write_fails_every_row_is_sent_once_and_in_order(
    fault: Fault, is_fatal: bool, model: Callable[[str], Checkpoint]
) -> None:
    for number in range(1, 100):
        root = f"/async-{uuid4().hex}"
        faulty = FaultyFileSystem(fsspec.filesystem("memory"), fail_at=number, fault=fault, is_fatal=is_fatal)
        uplink = FakeUplink()
        session = Session(an_upload(ExperimentStorage.open(root, "e", filesystem=faulty)), uplink)
        raised = 0
        for iteration in range(1, 4):
            try:
                session.report({"step": iteration}, model(str(iteration)))
            except CheckpointError:
                raised += 1
        try:
            session.finish_upload()
        except CheckpointError:
            raised += 1

        reader = ExperimentStorage.open(root, "e", filesystem=fsspec.filesystem("memory"))
        committed = {marker.index: marker for marker in reader.committed("trial_0")}
        assert [iteration for iteration, _ in uplink.sent] == list(range(1, len(uplink.reports) + 1))
        for report in uplink.reports:
            if report.checkpoint is not None:
                marker = committed[report.checkpoint]
                assert marker.iteration == report.iteration
                assert weights(reader.checkpoint("trial_0", report.checkpoint)) == str(report.row["step"])
        is_stored = all(report.checkpoint is not None for report in uplink.reports)
        assert is_stored == (raised == 0)
        if len(faulty.writes) < number:
            assert raised == 0
            return
    pytest.fail("the session never ran out of writes")


class Counting(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.total = 0

    def step(self) -> dict[str, Any]:
        self.total += self.config["x"]
        return {"total": self.total}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "total").write_text(str(self.total))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.total = int(Path(checkpoint, "total").read_text())


def count(config: dict[str, Any]) -> None:
    total, start = 0, tune.get_checkpoint()
    if start is not None:
        with start.as_directory() as path:
            total = int(Path(path, "total").read_text())
    while True:
        total += config["x"]
        with tempfile.TemporaryDirectory(prefix="mine_") as directory:
            Path(directory, "total").write_text(str(total))
            tune.report({"total": total}, checkpoint=Checkpoint.from_directory(directory))


@pytest.mark.parametrize("trainable", [count, Counting])
@pytest.mark.parametrize("threads", [1, 3])
def test_experiment_has_the_same_results_either_way(trainable: Any, threads: int, tmp_path: Path) -> None:
    def run(name: str, *, async_upload: bool) -> list[tuple[Any, ...]]:
        tuner = tune.Tuner(
            trainable,
            param_space={"x": tune.grid_search([1, 2, 3])},
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(tmp_path / "results"),
                stop={"training_iteration": 7},
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(
                    async_upload=async_upload,
                    num_to_keep=2,
                    checkpoint_frequency=2 if trainable is Counting else 0,
                ),
            ),
        )
        results = LocalRuntime(threads=threads).run(tuner.experiment())
        columns = ["training_iteration", "total", "checkpoint_dir_name"]
        return [
            (
                [[row[name] for name in columns] for row in result.metrics_dataframe.to_dict("records")],
                [Path(checkpoint.path).name for checkpoint, _ in result.best_checkpoints],
                result.error,
            )
            for result in results
        ]

    assert repr(run("later", async_upload=True)) == repr(run("at-once", async_upload=False))
