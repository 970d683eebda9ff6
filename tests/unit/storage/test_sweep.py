"""Sweeping beside uploads that nobody knows to be alive: what is visible is whole, what is kept stays."""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.directories import a_directory
from tune_core.errors import CheckpointError, CheckpointNotFound, StorageError
from tune_core.storage import experiment_storage as storage_module
from tune_core.storage.commit import COMMIT, SWEPT, WRITER
from tune_core.storage.experiment_storage import CheckpointMarker, ExperimentStorage
from tune_core.testing.faults import Fault, FaultyFileSystem

FILES = {"model.pt": b"weights" * 100, "optimizer/state.bin": b"\0\1\2"}
PATIENCE_S = 10.0


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    if request.param == "local":
        yield LocalFileSystem(), str(tmp_path / "storage")
        return
    filesystem, path = fsspec.filesystem("memory"), f"/sweep-{uuid4().hex}"
    yield filesystem, path
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


@pytest.fixture
def storage(root: tuple[Any, str]) -> ExperimentStorage:
    return ExperimentStorage.open(root[1], "e", filesystem=root[0])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return a_directory(tmp_path / "source", FILES)


def commit(storage: ExperimentStorage, source: Path, index: int, attempt_number: int = 1) -> CheckpointMarker:
    return storage.commit_checkpoint(
        "t", source, index=index, attempt_number=attempt_number, iteration=1, rows=[], metrics={}
    )


def directories(storage: ExperimentStorage) -> list[int]:
    """Those with anything in them: whoever dies last may leave an empty one on a local disk."""
    root = f"{storage.absolute('t')}/checkpoint_"
    files = [path.removeprefix(root) for path in storage.fs.find(storage.absolute("t"))]
    return sorted({int(path.partition("/")[0]) for path in files})


def assert_all_whole(storage: ExperimentStorage) -> list[int]:
    """Every checkpoint that a reader can see is whole."""
    markers = storage.committed("t")
    for marker in markers:
        storage.checkpoint("t", marker.index).check()
        path = storage.absolute(f"t/checkpoint_{marker.index:06d}")
        assert {name: storage.fs.cat_file(f"{path}/{name}") for name in FILES} == FILES
    return [marker.index for marker in markers]


class Paused(FaultyFileSystem):
    """Calls back just before one of its writes, once."""

    def __init__(self, target: Any, before: int, call: Callable[[], None]) -> None:
        super().__init__(target)
        self._before, self._call = before, call
        self._is_due = True
        self._turn = threading.Lock()

    def _write(self, *args: Any) -> Any:
        with self._turn:
            is_due = self._is_due and len(self.writes) + 1 >= self._before
            self._is_due = self._is_due and not is_due
        if is_due:
            self._call()
        return super()._write(*args)


# Whose directories are swept.


def test_attempts_that_may_still_commit_and_what_is_kept_are_not_touched(
    storage: ExperimentStorage, source: Path
) -> None:
    for index, attempt_number in enumerate([1, 1, 2, 3]):
        commit(storage, source, index, attempt_number)
    for index in (1, 3):
        storage.delete(f"t/checkpoint_{index:06d}/{COMMIT}")

    assert storage.sweep("t", keep=[0], attempt_number=2) == [1]
    assert storage.sweep("t", keep=[0], attempt_number=3) == [2]

    assert assert_all_whole(storage) == [0]
    assert storage.read(f"t/checkpoint_000001/{COMMIT}").startswith(SWEPT)
    assert storage.exists("t/checkpoint_000003/model.pt")


def test_committed_checkpoint_that_nobody_keeps_goes_as_a_whole(
    storage: ExperimentStorage, source: Path
) -> None:
    commit(storage, source, 0)
    commit(storage, source, 1)
    storage.write(f"t/checkpoint_000001/{COMMIT}", b"damaged")

    assert storage.sweep("t", keep=[], attempt_number=2) == [0, 1]

    assert directories(storage) == []


def test_nothing_else_is_touched(storage: ExperimentStorage) -> None:
    names = [
        "t/result.json",
        "t/checkpoint_best/a",
        "t/checkpoint_000000/of another library",
        f"t/checkpoint_000001/{WRITER}",
        "u/checkpoint_000000/a",
    ]
    for name in names:
        storage.write(name, b"")

    assert storage.sweep("t", keep=[], attempt_number=9) == []

    assert all(storage.exists(name) for name in names)


def test_swept_directory_is_no_checkpoint_and_its_index_stays_taken(
    storage: ExperimentStorage, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(storage, source, 0)
    storage.delete(f"t/checkpoint_000000/{COMMIT}")
    assert storage.sweep("t", keep=[], attempt_number=2) == [0]

    with pytest.raises(CheckpointNotFound, match="was never committed"):
        storage.checkpoint("t", 0).to_directory(tmp_path / "out")
    assert storage.committed("t") == []
    assert commit(storage, source, 0, attempt_number=2).index == 1
    assert storage.sweep("t", keep=[1], attempt_number=2) == []
    monkeypatch.setattr(storage_module, "SETTLED_S", -1.0)
    assert storage.sweep("t", keep=[1], attempt_number=2) == [0]
    assert directories(storage) == [1]


# Beside an upload.


def test_sweep_before_any_write_of_an_upload_lets_one_of_them_win(source: Path, tmp_path: Path) -> None:
    filesystem, path = LocalFileSystem(), str(tmp_path / "storage")
    for number in range(1, 100):
        sweeper = ExperimentStorage.open(path, f"run-{number}", filesystem=filesystem)
        commit(sweeper, source, 0)
        paused = Paused(filesystem, number, lambda: sweeper.sweep("t", keep=[0], attempt_number=2))  # noqa: B023
        uploader = ExperimentStorage.open(path, f"run-{number}", filesystem=paused)

        error: Exception | None = None
        try:
            commit(uploader, source, 1)
        except (StorageError, CheckpointError) as caught:
            error = caught

        found = assert_all_whole(sweeper)
        assert found == ([0, 1] if error is None else [0])
        if len(paused.writes) < number:
            assert error is None
            break
        assert error is None or "swept as abandoned" in str(error) or "no such file" in str(error)
    else:
        pytest.fail("the upload never ran out of writes")


def test_upload_that_goes_on_at_any_write_of_a_sweep_is_visible_whole_or_not_at_all(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stop at each of their writes: the upload first, which goes on in the middle of the sweep."""
    filesystem, path = LocalFileSystem(), str(tmp_path / "storage")
    runs = won = 0
    for number in range(1, 100):
        is_beyond = False
        for place in range(1, 100):
            name, runs = f"run-{number}-{place}", runs + 1
            sweeper_is_there, uploader_may_go_on = threading.Event(), threading.Event()

            def pause(there: Any = sweeper_is_there, go_on: Any = uploader_may_go_on) -> None:
                there.set()
                assert go_on.wait(PATIENCE_S)

            paused = Paused(filesystem, number, pause)
            uploader = ExperimentStorage.open(path, name, filesystem=paused)
            errors: list[Exception] = []

            def upload(storage: Any = uploader, errors: Any = errors, there: Any = sweeper_is_there) -> None:
                try:
                    commit(storage, source, 0)
                except (StorageError, CheckpointError) as error:
                    errors.append(error)
                finally:
                    there.set()

            thread = threading.Thread(target=upload)

            def finish(thread: Any = thread, go_on: Any = uploader_may_go_on) -> None:
                go_on.set()
                thread.join(PATIENCE_S)
                assert not thread.is_alive()

            sweeping = Paused(filesystem, place, finish)
            sweeper = ExperimentStorage.open(path, name, filesystem=sweeping)
            thread.start()
            assert sweeper_is_there.wait(PATIENCE_S)
            sweeper.sweep("t", keep=[], attempt_number=2)
            finish()

            found = assert_all_whole(sweeper)
            assert found == [] or not errors
            won += len(found)
            with monkeypatch.context() as settled:
                settled.setattr(storage_module, "SETTLED_S", -math.inf)
                sweeper.sweep("t", keep=[], attempt_number=2)
                sweeper.sweep("t", keep=[], attempt_number=2)
            assert directories(sweeper) == []
            if len(sweeping.writes) < place:
                is_beyond = len(paused.writes) < number
                break
        if is_beyond:
            break
    else:
        pytest.fail("the upload never ran out of writes")
    assert 0 < won < runs


@pytest.mark.parametrize("is_fatal", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
def test_sweep_that_breaks_off_anywhere_is_completed_by_the_next(
    root: tuple[Any, str], source: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, is_fatal: bool
) -> None:
    filesystem, path = root
    for number in range(1, 100):
        storage = ExperimentStorage.open(path, f"run-{number}", filesystem=filesystem)
        for index in range(3):
            commit(storage, source, index)
        storage.delete(f"t/checkpoint_000001/{COMMIT}")
        faulty = FaultyFileSystem(filesystem, fail_at=number, fault=fault, is_fatal=is_fatal)
        with contextlib.suppress(StorageError):
            ExperimentStorage.open(path, f"run-{number}", filesystem=faulty).sweep(
                "t", keep=[0], attempt_number=2
            )

        assert 0 in assert_all_whole(storage)
        with monkeypatch.context() as settled:
            settled.setattr(storage_module, "SETTLED_S", -math.inf)
            storage.sweep("t", keep=[0], attempt_number=2)
            storage.sweep("t", keep=[0], attempt_number=2)
        assert directories(storage) == [0]
        if len(faulty.writes) < number:
            break
    else:
        pytest.fail("the sweep never ran out of writes")


# Anything, in any order.


class StorageMachine(RuleBasedStateMachine):
    """Attempts that commit, die in the middle and are swept; a driver that keeps some of what it knows."""

    @initialize()
    def start(self) -> None:
        self.filesystem = fsspec.filesystem("memory")
        self.root = f"/machine-{uuid4().hex}"
        self.storage = ExperimentStorage.open(self.root, "e", filesystem=self.filesystem)
        self.directory = tempfile.TemporaryDirectory()
        self.source = a_directory(Path(self.directory.name), FILES)
        self.attempt_number = 1
        #: What the journal keeps.
        self.kept: set[int] = set()
        self.last = -1

    @rule(is_heard=st.booleans(), is_late=st.booleans())
    def commit(self, is_heard: bool, is_late: bool) -> None:
        """An attempt commits: the live one, or one that is thought dead."""
        attempt_number = (
            self.attempt_number - 1 if is_late and self.attempt_number > 1 else self.attempt_number
        )
        previous = self.storage.checkpoint("t", max(self.kept)) if self.kept else None
        marker = self.storage.commit_checkpoint(
            "t",
            self.source,
            index=self.last + 1,
            attempt_number=attempt_number,
            iteration=1,
            rows=[],
            metrics={},
            previous=previous,
        )
        if is_heard and attempt_number == self.attempt_number:
            self.kept.add(marker.index)
            self.last = marker.index

    @rule(at=st.integers(1, 8), fault=st.sampled_from(Fault))
    def die_in_the_middle(self, at: int, fault: Fault) -> None:
        faulty = FaultyFileSystem(self.filesystem, fail_at=at, fault=fault, is_fatal=True)
        dying = ExperimentStorage.open(self.root, "e", filesystem=faulty)
        with contextlib.suppress(StorageError, CheckpointError):
            commit(dying, self.source, self.last + 1, self.attempt_number)
        self.next_attempt()

    @rule()
    def next_attempt(self) -> None:
        """The driver takes up what the attempt before has committed, and orders another one."""
        for marker in self.storage.committed("t"):
            if marker.attempt_number == self.attempt_number and marker.index > self.last:
                self.kept.add(marker.index)
                self.last = marker.index
        self.attempt_number += 1

    @precondition(lambda self: len(self.kept) > 1)
    @rule(data=st.data(), is_carried_out=st.booleans())
    def forget(self, data: st.DataObject, is_carried_out: bool) -> None:
        index = data.draw(st.sampled_from(sorted(self.kept)))
        self.kept.discard(index)
        if is_carried_out:
            self.storage.delete_checkpoint("t", index)

    @rule(at=st.none() | st.integers(1, 6), fault=st.sampled_from(Fault))
    def sweep(self, at: int | None, fault: Fault) -> None:
        faulty = FaultyFileSystem(self.filesystem, fail_at=at, fault=fault, is_fatal=True)
        try:
            ExperimentStorage.open(self.root, "e", filesystem=faulty).sweep(
                "t", keep=set(self.kept), attempt_number=self.attempt_number
            )
        except StorageError:
            return
        for marker in self.storage.committed("t"):
            assert marker.index in self.kept or marker.attempt_number >= self.attempt_number

    @invariant()
    def what_is_visible_is_whole_and_what_is_kept_is_visible(self) -> None:
        if hasattr(self, "storage"):
            assert self.kept <= set(assert_all_whole(self.storage))

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            before, storage_module.SETTLED_S = storage_module.SETTLED_S, -math.inf
            try:
                for _ in range(2):
                    self.storage.sweep("t", keep=self.kept, attempt_number=self.attempt_number + 1)
            finally:
                storage_module.SETTLED_S = before
            assert set(directories(self.storage)) == self.kept
            self.directory.cleanup()
            if self.filesystem.exists(self.root):
                self.filesystem.rm(self.root, recursive=True)


StorageMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStorage = StorageMachine.TestCase
