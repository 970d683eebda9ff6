"""A commit or a deletion that breaks off anywhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import time_machine

from tests.support.directories import a_directory
from tests.support.stored import FILES, commit, content, indices
from tune_core.errors import (
    CheckpointError,
    StorageError,
)
from tune_core.storage.commit import COMMIT, WRITER
from tune_core.storage.experiment_storage import (
    SETTLED_S,
    ExperimentStorage,
)
from tune_core.testing.faults import Fault, FaultyFileSystem, InjectedFault


def faults() -> list[Any]:
    return [
        pytest.param(fault, is_fatal, id=f"{fault}-{'fatal' if is_fatal else 'once'}")
        for fault in Fault
        for is_fatal in (False, True)
    ]


@pytest.mark.parametrize(("fault", "is_fatal"), faults())
class TestCrashPoints:
    """Write number k fails, for every k."""

    def test_commit_shows_the_old_state_or_the_whole_new_checkpoint(
        self, root: tuple[Any, str], source: Path, tmp_path: Path, fault: Fault, is_fatal: bool
    ) -> None:
        filesystem, path = root
        for number in range(1, 100):
            reader = ExperimentStorage.open(path, f"run-{number}", filesystem=filesystem)
            commit(reader, a_directory(tmp_path / "old", {"old.pt": b"old"}), index=0)
            faulty = FaultyFileSystem(filesystem, fail_at=number, fault=fault, is_fatal=is_fatal)
            writer = ExperimentStorage.open(path, f"run-{number}", filesystem=faulty)

            error: Exception | None = None
            try:
                commit(writer, source, index=1)
            except (StorageError, CheckpointError) as caught:
                error = caught

            found = indices(reader)
            assert found in ([0], [0, 1], [0, 2])
            assert error is None or found == [0] or fault is Fault.LOST_REPLY
            assert error is not None or len(found) == 2, "an acknowledged checkpoint is missing"
            assert content(reader.checkpoint("trial_1", 0), tmp_path / f"{number}-0") == {"old.pt": b"old"}
            for index in found[1:]:
                assert content(reader.checkpoint("trial_1", index), tmp_path / f"{number}-1") == FILES
            self.recover(reader, source, found)
            if len(faulty.writes) < number:
                break
        else:
            pytest.fail("the writer never ran out of writes")

    def recover(self, reader: ExperimentStorage, source: Path, found: list[int]) -> None:
        after = commit(reader, source, index=found[-1] + 1, attempt_number=2).index
        reader.sweep("trial_1", keep=[*found, after], attempt_number=2)
        with time_machine.travel(time.time() + 2 * SETTLED_S, tick=False):
            reader.sweep("trial_1", keep=[*found, after], attempt_number=2)

        assert indices(reader) == [*found, after]
        assert reader.list("trial_1") == [f"checkpoint_{index:06d}" for index in (*found, after)]

    def test_delete_shows_the_whole_checkpoint_or_none(
        self, root: tuple[Any, str], source: Path, tmp_path: Path, fault: Fault, is_fatal: bool
    ) -> None:
        filesystem, path = root
        for number in range(1, 100):
            reader = ExperimentStorage.open(path, f"run-{number}", filesystem=filesystem)
            commit(reader, source, index=0)
            faulty = FaultyFileSystem(filesystem, fail_at=number, fault=fault, is_fatal=is_fatal)
            try:
                ExperimentStorage.open(path, f"run-{number}", filesystem=faulty).delete_checkpoint(
                    "trial_1", 0
                )
            except StorageError as error:
                assert isinstance(error.__cause__, InjectedFault)  # noqa: PT017 - it need not be raised

            for _ in indices(reader):
                assert content(reader.checkpoint("trial_1", 0), tmp_path / f"out-{number}") == FILES
            reader.delete_checkpoint("trial_1", 0)
            assert indices(reader) == []
            assert reader.list("trial_1") == []
            if len(faulty.writes) < number:
                break
        else:
            pytest.fail("the deletion never ran out of writes")


def test_deletion_removes_the_marker_first_and_the_reservation_last(
    root: tuple[Any, str], source: Path
) -> None:
    filesystem, path = root
    (source / "A").write_bytes(b"would be listed before the marker")
    faulty = FaultyFileSystem(filesystem)
    storage = ExperimentStorage.open(path, "e", filesystem=faulty)
    commit(storage, source)
    faulty.writes.clear()

    storage.delete_checkpoint("trial_1", 0)

    removed = [path.rpartition("/")[2] for operation, path in faulty.writes if operation == "rm_file"]
    assert (removed[0], removed[-1]) == (COMMIT, WRITER)
    assert {"A", "model.pt"} < set(removed)
