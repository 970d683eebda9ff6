"""Appending to trials' files on local storage, and staging and uploading on any other."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.trial_files import TRIAL, a_path, read_csv
from tune_core.errors import StorageError
from tune_core.logger import trial_files as trial_files_module
from tune_core.logger.trial_files import TrialFiles
from tune_core.storage.experiment_storage import ExperimentStorage

# Lines.


def test_lines_go_to_the_trials_directory_on_local_storage(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path / "staging")

    files.append_line(TRIAL, "result.json", b"one")
    files.append_line(TRIAL, "result.json", b"two")
    files.flush(TRIAL)

    assert a_path(local, "result.json").read_bytes() == b"one\ntwo\n"
    assert not (tmp_path / "staging").exists()


def test_lines_wait_in_memory_until_the_interval_is_over(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path, write_interval_s=1)
    files.flush_due(100)
    files.append_line(TRIAL, "result.json", b"one")

    files.flush_due(100.5)
    early = a_path(local, "result.json").exists()
    files.flush_due(101)

    assert not early
    assert a_path(local, "result.json").read_bytes() == b"one\n"


def test_memory_is_bounded_without_any_flush(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)

    for _ in range(3):
        files.append_line(TRIAL, "result.json", b"x" * 30_000)

    assert a_path(local, "result.json").read_bytes() == (b"x" * 30_000 + b"\n") * 3


def test_a_new_process_goes_on_below_earlier_lines(local: ExperimentStorage, tmp_path: Path) -> None:
    for line in (b"one", b"two"):
        files = TrialFiles(local, tmp_path)
        files.append_line(TRIAL, "result.json", line)
        files.close()

    assert a_path(local, "result.json").read_bytes() == b"one\ntwo\n"


def test_half_a_line_of_a_crash_stays_a_line_of_its_own(local: ExperimentStorage, tmp_path: Path) -> None:
    path = a_path(local, "result.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"loss": 1}\n{"lo')
    files = TrialFiles(local, tmp_path)

    files.append_line(TRIAL, "result.json", b'{"loss": 3}')
    files.close()

    assert path.read_bytes() == b'{"loss": 1}\n{"lo\n{"loss": 3}\n'


def test_a_file_is_replaced_as_a_whole(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)

    files.replace(TRIAL, "params.json", b"a longer text")
    files.replace(TRIAL, "params.json", b"short")

    assert a_path(local, "params.json").read_bytes() == b"short"
    assert [path.name for path in a_path(local, "").iterdir()] == ["params.json"]


def test_a_line_that_cannot_be_written_is_an_error_that_names_the_file(
    local: ExperimentStorage, tmp_path: Path
) -> None:
    files = TrialFiles(local, tmp_path)
    files.append_line(TRIAL, "result.json", b"one")
    a_path(local, "result.json").mkdir()

    with pytest.raises(StorageError, match=r"result\.json is in the way of .*is a directory.*move it away"):
        files.flush(TRIAL)


def test_file_in_the_place_of_a_trials_directory_is_named(local: ExperimentStorage, tmp_path: Path) -> None:
    a_path(local, "").parent.mkdir(parents=True)
    Path(local.path, TRIAL).write_bytes(b"")

    with pytest.raises(StorageError, match=rf"{TRIAL} is in the way of files .*move it away"):
        TrialFiles(local, tmp_path).open(TRIAL)


@pytest.mark.parametrize("name", ["result.json", "progress.csv", "params.json"])
def test_fifo_in_the_place_of_a_file_does_not_hang(
    name: str, local: ExperimentStorage, tmp_path: Path
) -> None:
    a_path(local, "").mkdir(parents=True)
    os.mkfifo(a_path(local, name))
    files = TrialFiles(local, tmp_path)

    with pytest.raises(StorageError, match=rf"{name} is in the way of .*is a fifo"):  # noqa: PT012 - either does
        if name == "params.json":
            files.replace(TRIAL, name, b"{}")
        elif name == "result.json":
            files.append_line(TRIAL, name, b"{}")
        else:
            files.append_row(TRIAL, name, {"loss": 1})
        files.flush(TRIAL)


# A disk that refuses for a while.


class Disk:
    """Lets `write` and `mkdir` fail while it refuses, after some bytes; on a clock that only sleeping moves."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.takes = 0
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= 8:
            self.error = None

    def open(self, path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = io.open(path, mode, *args, **kwargs)  # noqa: SIM115, UP020 - handed on
        if self.error is None or not {"a", "w"} & set(mode):
            return file
        if not self.takes:
            file.close()
            raise self.error
        return _Refusing(file, self)


class _Refusing(io.RawIOBase):
    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def tell(self) -> int:
        return int(self._file.tell())

    def write(self, data: Any) -> int:
        assert self._disk.error is not None
        if not self._disk.takes:
            raise self._disk.error
        taken = int(self._file.write(bytes(data[: self._disk.takes])))
        self._disk.takes = 0
        return taken

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(Path, "open", lambda path, *args, **kwargs: disk.open(path, *args, **kwargs))
    monkeypatch.setattr(trial_files_module, "time", disk)
    return disk


REFUSALS = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EROFS, "Read-only file system")]


@pytest.mark.parametrize("takes", [0, 5])
@pytest.mark.parametrize("error", REFUSALS, ids=["full", "read-only"])
def test_disk_that_refuses_for_seconds_costs_nothing(
    error: OSError, takes: int, local: ExperimentStorage, tmp_path: Path, disk: Disk, caplog: Any
) -> None:
    files = TrialFiles(local, tmp_path)

    def report(number: int) -> None:
        files.append_line(TRIAL, "result.json", b'{"n": %d}' % number)
        files.append_row(TRIAL, "progress.csv", {"n": number, "m": -number})
        files.flush_due(number)

    files.replace(TRIAL, "params.json", b"{}")
    report(1)
    disk.error, disk.takes = error, takes
    files.replace(TRIAL, "params.json", b"[]")
    for number in range(2, 6):
        disk.now += 1
        report(number)
    files.finish(TRIAL)
    assert a_path(local, "progress.csv").read_bytes() == b"n,m\n1,-1\n"
    files.close()

    assert a_path(local, "params.json").read_bytes() == b"[]"
    assert a_path(local, "result.json").read_bytes() == b"".join(b'{"n": %d}\n' % n for n in range(1, 6))
    assert a_path(local, "progress.csv").read_bytes() == b"n,m\n" + b"".join(
        b"%d,-%d\n" % (n, n) for n in range(1, 6)
    )
    assert caplog.text.count("is tried again for 300 s") == 1
    assert not files.lost


def test_disk_that_refuses_for_too_long_is_an_error_that_names_the_file(
    local: ExperimentStorage, tmp_path: Path, disk: Disk
) -> None:
    files = TrialFiles(local, tmp_path)
    disk.error = OSError(errno.ENOSPC, "No space left on device", "result.json")
    files.append_line(TRIAL, "result.json", b"one")
    for now in range(0, 301, 10):
        disk.now = now
        files.flush_due(now)

    disk.now = 302
    with pytest.raises(
        StorageError, match=r"result\.json could not be written for 300 s: No space .*make room"
    ):
        files.flush_due(302)


# Files that somebody removes or cuts.


@pytest.mark.parametrize("when", ["between", "after"])
@pytest.mark.parametrize("how", ["removed", "cut"])
@pytest.mark.parametrize("name", ["result.json", "progress.csv"])
def test_file_that_was_removed_or_cut_is_known_and_goes_on_readable(
    name: str, how: str, when: str, local: ExperimentStorage, tmp_path: Path
) -> None:
    files = TrialFiles(local, tmp_path)

    def report(number: int) -> None:
        files.append_line(TRIAL, "result.json", b'{"n": %d}' % number)
        files.append_row(TRIAL, "progress.csv", {"n": number, "m": -number})
        files.flush(TRIAL)

    def lose() -> None:
        path = a_path(local, name)
        if how == "removed":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:5])

    report(1)
    if when == "between":
        lose()
    report(2)
    report(3)
    files.finish(TRIAL)
    if when == "after":
        lose()
    files.close()

    assert files.lost == {TRIAL}
    if when == "between" and name == "progress.csv":
        assert [row["n"] for row in read_csv(a_path(local, name))][-2:] == ["2", "3"]


def test_nothing_is_lost_where_nobody_touches_the_files(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)
    for number in range(3):
        files.append_line(TRIAL, "result.json", b"{}")
        files.append_row(TRIAL, "progress.csv", {str(number): number})
        files.finish(TRIAL)
    files.close()

    assert files.lost == frozenset()


def test_many_trials_leave_nothing_behind(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)

    for number in range(200):
        files.append_line(f"trial_{number}", "result.json", b"one")
        files.finish(f"trial_{number}")

    assert files.num_open == 0
    assert len(list(Path(local.path).iterdir())) == 200
