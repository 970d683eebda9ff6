"""Files that two checkpoints have in common: copied by the storage, sent only if that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from tests.support.directories import a_directory
from tune_core.errors import CheckpointError, StorageError
from tune_core.storage import checkpoint_files, transfer
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import CheckpointMarker, ExperimentStorage
from tune_core.testing.faults import Fault, FaultyFileSystem

FILES = {"model.pt": b"weights" * 100, "optimizer/state.bin": b"\0\1\2" * 50}


@pytest.fixture(autouse=True)
def _small_files_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "COPIED_FILE", 100)
    monkeypatch.setattr(checkpoint_files, "COPIED_FILE", 100)


@pytest.fixture(params=["in one request", "in parts"])
def _size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in parts":
        monkeypatch.setattr(transfer, "SMALL_FILE", 10)
        monkeypatch.setattr(checkpoint_files, "SMALL_FILE", 10)


@pytest.fixture
def counted() -> FaultyFileSystem:
    """A filesystem that notes what is written; what it holds lasts as long as the process."""
    return FaultyFileSystem(fsspec.filesystem("memory"))


def storage_on(filesystem: Any, root: str | None = None) -> ExperimentStorage:
    return ExperimentStorage.open(root or f"/copies-{uuid4().hex}", "e", filesystem=filesystem)


def commit(
    storage: ExperimentStorage, source: Any, index: int, previous: Checkpoint | None = None
) -> CheckpointMarker:
    return storage.commit_checkpoint(
        "trial", source, index=index, attempt_number=1, iteration=1, rows=[], metrics={}, previous=previous
    )


def content(checkpoint: Checkpoint) -> dict[str, bytes]:
    with checkpoint.as_directory() as path:
        root = Path(path)
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def written(filesystem: FaultyFileSystem) -> dict[str, str]:
    """How each file of the second checkpoint got there."""
    return {
        path.rpartition("checkpoint_000001/")[2]: operation
        for operation, path in filesystem.writes
        if "checkpoint_000001/" in path and not path.endswith(("COMMIT.json", ".writer.json"))
    }


@pytest.mark.usefixtures("_size")
def test_unchanged_files_are_copied_and_others_sent(counted: FaultyFileSystem, tmp_path: Path) -> None:
    storage = storage_on(counted)
    commit(storage, a_directory(tmp_path / "a", {**FILES, "log.txt": b"x" * 200, "tiny": b"1"}), 0)
    source = a_directory(tmp_path / "b", {**FILES, "log.txt": b"y" * 200, "tiny": b"1"})

    commit(storage, source, 1, storage.checkpoint("trial", 0))

    by_size = written(counted)
    assert (by_size["model.pt"], by_size["optimizer/state.bin"]) == ("cp_file", "cp_file")
    assert "cp_file" not in (by_size["log.txt"], by_size["tiny"])


def test_renamed_file_is_copied(counted: FaultyFileSystem, tmp_path: Path) -> None:
    storage = storage_on(counted)
    commit(storage, a_directory(tmp_path / "a", {"epoch-1.pt": b"w" * 300}), 0)

    commit(
        storage, a_directory(tmp_path / "b", {"epoch-2.pt": b"w" * 300}), 1, storage.checkpoint("trial", 0)
    )

    assert written(counted) == {"epoch-2.pt": "cp_file"}
    assert content(storage.checkpoint("trial", 1)) == {"epoch-2.pt": b"w" * 300}


def test_each_checkpoint_has_all_of_its_files(counted: FaultyFileSystem, tmp_path: Path) -> None:
    storage = storage_on(counted)
    source = a_directory(tmp_path / "a", FILES)
    commit(storage, source, 0)
    commit(storage, source, 1, storage.checkpoint("trial", 0))
    commit(storage, source, 2, storage.checkpoint("trial", 1))

    storage.delete_checkpoint("trial", 1)
    storage.delete_checkpoint("trial", 0)

    assert content(storage.checkpoint("trial", 2)) == FILES


def test_after_a_copy_that_fails_everything_is_sent(tmp_path: Path) -> None:
    class Refusing(FaultyFileSystem):
        def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
            super().cp_file(path1, path2, **kwargs)
            raise PermissionError("no copies here")

    refusing = Refusing(fsspec.filesystem("memory"))
    storage = storage_on(refusing)
    source = a_directory(tmp_path / "a", {f"{n}.bin": bytes([n]) * 300 for n in range(40)})
    commit(storage, source, 0)

    commit(storage, source, 1, storage.checkpoint("trial", 0))

    # Those that were under way at the same time failed too.
    copies = [path for operation, path in refusing.writes if operation == "cp_file"]
    assert 1 <= len(copies) <= transfer.MAX_PARALLEL
    assert set(written(refusing).values()) == {"pipe_file"}
    assert content(storage.checkpoint("trial", 1)) == content(storage.checkpoint("trial", 0))


@pytest.mark.parametrize("what", ["gone", "damaged marker", "cut file"])
def test_damaged_original_is_not_copied(counted: FaultyFileSystem, tmp_path: Path, what: str) -> None:
    storage = storage_on(counted)
    source = a_directory(tmp_path / "a", FILES)
    commit(storage, source, 0)
    if what == "gone":
        storage.delete_checkpoint("trial", 0)
    elif what == "damaged marker":
        storage.write("trial/checkpoint_000000/COMMIT.json", b"{}")
    else:
        storage.write("trial/checkpoint_000000/model.pt", b"cut")

    commit(storage, source, 1, storage.checkpoint("trial", 0))

    assert written(counted)["model.pt"] == "pipe_file"
    assert content(storage.checkpoint("trial", 1)) == FILES


def test_local_disk_shares_nothing_between_checkpoints(tmp_path: Path) -> None:
    storage = storage_on(LocalFileSystem(), str(tmp_path / "storage"))
    source = a_directory(tmp_path / "a", FILES)
    commit(storage, source, 0)
    commit(storage, source, 1, storage.checkpoint("trial", 0))

    # A user who writes into a checkpoint in place damages that one alone.
    with Path(storage.checkpoint("trial", 0).path, "model.pt").open("r+b") as file:
        file.write(b"overwritten")

    copied = Path(storage.checkpoint("trial", 1).to_directory(tmp_path / "out"))
    assert {name: (copied / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("is_fatal", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
def test_crash_at_any_write_leaves_the_old_checkpoint_or_both(
    tmp_path: Path, fault: Fault, is_fatal: bool
) -> None:
    source = a_directory(tmp_path / "a", FILES)
    for number in range(1, 100):
        root = f"/crash-{uuid4().hex}"
        reader = storage_on(fsspec.filesystem("memory"), root)
        commit(reader, source, 0)
        faulty = FaultyFileSystem(fsspec.filesystem("memory"), fail_at=number, fault=fault, is_fatal=is_fatal)

        error: Exception | None = None
        try:
            commit(storage_on(faulty, root), source, 1, reader.checkpoint("trial", 0))
        except (StorageError, CheckpointError) as caught:
            error = caught

        markers = reader.committed("trial")
        assert error is not None or len(markers) == 2
        for marker in markers:
            assert content(reader.checkpoint("trial", marker.index)) == FILES
        if len(faulty.writes) < number:
            assert any(operation == "cp_file" for operation, _ in faulty.writes)
            return
    pytest.fail("the writer never ran out of writes")
