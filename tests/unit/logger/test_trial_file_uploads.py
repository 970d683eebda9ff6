"""Files of trials on other than local storage."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.trial_files import TRIAL
from tests.support.waiting import wait_for
from tune_core.errors import StorageError
from tune_core.logger.trial_files import TrialFiles
from tune_core.storage.experiment_storage import ExperimentStorage


def remote_storage() -> ExperimentStorage:
    return ExperimentStorage.open(f"memory://{uuid.uuid4().hex}", "experiment")


class WatchedStorage:
    """Counts uploads and reads of a storage, holds them up, and makes them fail on demand."""

    def __init__(self, inner: ExperimentStorage) -> None:
        self._inner = inner
        self.uploads: list[str] = []
        self.num_reads = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, name: str) -> bytes:
        self.num_reads += 1
        return self._inner.read(name)

    def upload(self, local_path: Path, name: str) -> None:
        assert self.gate.wait(10)
        if self.fails:
            raise StorageError("the storage is away")
        self._inner.upload(local_path, name)
        self.uploads.append(name)


def flushing(files: TrialFiles, clock: Iterator[int], until: Callable[[], bool]) -> None:
    """Call `flush_due`, a second later each time, until something has happened."""

    def is_so() -> bool:
        files.flush_due(next(clock))
        return until()

    wait_for(is_so, "what is flushed", 10, interval_s=0.001)


@pytest.fixture
def remote() -> WatchedStorage:
    return WatchedStorage(remote_storage())


# Other than local storage.


def test_files_are_uploaded_when_they_are_closed(remote: WatchedStorage, tmp_path: Path) -> None:
    files = TrialFiles(remote, tmp_path)  # type: ignore[arg-type]

    files.append_line(TRIAL, "result.json", b"one")
    files.append_row(TRIAL, "progress.csv", {"loss": 1})
    files.replace(TRIAL, "params.json", b"{}")
    files.close()

    assert remote.read(f"{TRIAL}/result.json") == b"one\n"
    assert remote.read(f"{TRIAL}/progress.csv") == b"loss\n1\n"
    assert remote.read(f"{TRIAL}/params.json") == b"{}"
    assert list(tmp_path.iterdir()) == []


def test_uploads_of_a_running_trial_keep_their_distance(remote: WatchedStorage, tmp_path: Path) -> None:
    files = TrialFiles(remote, tmp_path, upload_interval_s=10)  # type: ignore[arg-type]
    files.append_line(TRIAL, "result.json", b"one")
    files.flush_due(0)
    wait_for(lambda: len(remote.uploads) == 1, "an upload", 10, interval_s=0.001)

    files.append_line(TRIAL, "result.json", b"two")
    for now in range(1, 10):
        files.flush_due(now)
    early = remote.read(f"{TRIAL}/result.json")
    flushing(files, count(10), until=lambda: len(remote.uploads) == 2)

    assert early == b"one\n"
    assert remote.read(f"{TRIAL}/result.json") == b"one\ntwo\n"
    files.close()


def test_what_did_not_change_is_not_uploaded_again(remote: WatchedStorage, tmp_path: Path) -> None:
    files = TrialFiles(remote, tmp_path)  # type: ignore[arg-type]
    files.replace(TRIAL, "params.json", b"{}")
    files.flush_due(0)
    wait_for(lambda: len(remote.uploads) == 1, "an upload", 10, interval_s=0.001)

    files.replace(TRIAL, "params.json", b"{}")
    files.append_line(TRIAL, "result.json", b"one")
    files.flush_due(100)
    files.close()

    assert remote.uploads == [f"{TRIAL}/params.json", f"{TRIAL}/result.json"]


def test_a_final_flush_uploads_without_waiting_and_forgets_the_trial(
    remote: WatchedStorage, tmp_path: Path
) -> None:
    files = TrialFiles(remote, tmp_path)  # type: ignore[arg-type]
    files.append_line(TRIAL, "result.json", b"one")
    files.flush_due(0)
    wait_for(lambda: len(remote.uploads) == 1, "an upload", 10, interval_s=0.001)
    files.append_line(TRIAL, "result.json", b"two")

    files.finish(TRIAL)
    files.flush_due(1)
    wait_for(lambda: len(remote.uploads) == 2, "both uploads", 10, interval_s=0.001)
    flushing(files, count(2), until=lambda: not (files.root / TRIAL).exists())

    assert remote.read(f"{TRIAL}/result.json") == b"one\ntwo\n"


def test_nothing_waits_for_a_slow_storage_until_the_end(remote: WatchedStorage, tmp_path: Path) -> None:
    remote.gate.clear()
    files = TrialFiles(remote, tmp_path)  # type: ignore[arg-type]

    for now in range(100):
        files.append_line(TRIAL, "result.json", b"%d" % now)
        files.flush_due(now)
    files.finish(TRIAL)
    before = list(remote.uploads)
    remote.gate.set()
    files.close()

    assert before == []
    assert len(remote.uploads) == 2
    assert len(remote.read(f"{TRIAL}/result.json").split()) == 100


def test_a_new_process_goes_on_below_uploaded_lines(remote: WatchedStorage, tmp_path: Path) -> None:
    for line, loss in ((b"one", 1), (b"two", 2)):
        files = TrialFiles(remote, tmp_path)  # type: ignore[arg-type]
        files.append_line(TRIAL, "result.json", line)
        files.append_row(TRIAL, "progress.csv", {"loss": loss})
        files.close()

    assert remote.read(f"{TRIAL}/result.json") == b"one\ntwo\n"
    assert remote.read(f"{TRIAL}/progress.csv") == b"loss\n1\n2\n"


def test_a_retried_trial_goes_on_while_its_upload_is_under_way(
    remote: WatchedStorage, tmp_path: Path
) -> None:
    remote.gate.clear()
    files = TrialFiles(remote, tmp_path)  # type: ignore[arg-type]
    files.append_line(TRIAL, "result.json", b"one")
    files.finish(TRIAL)

    files.open(TRIAL)
    files.append_line(TRIAL, "result.json", b"two")
    remote.gate.set()
    files.close()

    assert remote.read(f"{TRIAL}/result.json") == b"one\ntwo\n"


def test_a_new_trial_asks_the_storage_for_nothing(remote: WatchedStorage, tmp_path: Path) -> None:
    files = TrialFiles(remote, tmp_path)  # type: ignore[arg-type]

    files.open(TRIAL, is_new=True)
    files.append_line(TRIAL, "result.json", b"one")
    for_a_new_one = remote.num_reads
    files.append_line("earlier", "result.json", b"one")
    files.close()

    assert for_a_new_one == 0
    assert remote.num_reads == 1


def test_a_failed_upload_is_logged_and_made_again(
    remote: WatchedStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = TrialFiles(remote, tmp_path, upload_interval_s=10)  # type: ignore[arg-type]
    remote.fails = True
    files.append_line(TRIAL, "result.json", b"one")
    files.flush_due(0)

    clock = count(1)
    flushing(files, clock, until=lambda: "the storage is away" in caplog.text)
    remote.fails = False
    flushing(files, clock, until=lambda: remote.uploads == [f"{TRIAL}/result.json"])
    files.close()

    assert remote.read(f"{TRIAL}/result.json") == b"one\n"


def test_copies_are_kept_if_the_storage_stays_away(remote: WatchedStorage, tmp_path: Path) -> None:
    remote.fails = True
    files = TrialFiles(remote, tmp_path)  # type: ignore[arg-type]
    files.append_line(TRIAL, "result.json", b"one")

    with pytest.raises(StorageError, match=f"1 trials could not be uploaded to memory://.*{TRIAL}.*kept in"):
        files.close()

    assert next(tmp_path.rglob("result.json")).read_bytes() == b"one\n"
