"""Appending to trials' files on local storage, and staging and uploading on any other."""

from __future__ import annotations

import csv
import errno
import io
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support.waiting import wait_for
from tune_core.errors import StorageError
from tune_core.logger import trial_files as trial_files_module
from tune_core.logger.trial_files import TrialFiles
from tune_core.storage.experiment_storage import ExperimentStorage

TRIAL = "train_abcde_00000"


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
def local(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path, "experiment")


@pytest.fixture
def remote() -> WatchedStorage:
    return WatchedStorage(remote_storage())


def a_path(storage: ExperimentStorage, name: str) -> Path:
    return Path(storage.path) / TRIAL / name


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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


@pytest.mark.parametrize("head", [b"lo\xff\xfess,b\n1,2\n", b"a" * 200_000 + b",b\n"])
def test_table_with_another_content_is_named(head: bytes, local: ExperimentStorage, tmp_path: Path) -> None:
    a_path(local, "").mkdir(parents=True)
    a_path(local, "progress.csv").write_bytes(head)
    files = TrialFiles(local, tmp_path)
    files.append_row(TRIAL, "progress.csv", {"loss": 1})

    with pytest.raises(StorageError, match=r"progress\.csv cannot be gone on with.*move it away"):
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


# Records of CSV files.


def test_records_become_a_csv_file(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)

    files.append_row(TRIAL, "progress.csv", {"loss": 0.5, "note": None, "ok": True})
    files.append_row(TRIAL, "progress.csv", {"loss": float("nan"), "note": 'a "b", c', "ok": False})
    files.close()

    assert a_path(local, "progress.csv").read_text() == ('loss,note,ok\n0.5,,True\nnan,"a ""b"", c",False\n')


FLOATS = st.floats() | st.sampled_from([float("nan"), float("inf"), 1e-5, 1e22, -0.0])
INTEGERS = st.integers() | st.sampled_from([2**63, 2**64, -(2**64)])
WORDS = st.sampled_from(["ab", " a", "", None, "\ud800", '"a'])
ANYTHING = (
    FLOATS | INTEGERS | st.booleans() | st.text(st.sampled_from('a,"\r\n'), max_size=3) | st.just([1, 2])
)


def columns_of(num_rows: int) -> SearchStrategy[list[list[Any]]]:
    kinds = [st.lists(kind, min_size=num_rows, max_size=num_rows) for kind in (FLOATS, INTEGERS, WORDS)]
    mixed = st.lists(ANYTHING, min_size=num_rows, max_size=num_rows)
    plain = st.lists(st.one_of(kinds), min_size=1, max_size=3)
    return plain | st.builds(lambda columns, last: [*columns, last], plain, mixed)


@settings(max_examples=200)
@given(columns=st.integers(1, 4).flatmap(columns_of))
def test_a_csv_reader_finds_in_records_what_pythons_own_writer_would_have_written(
    columns: list[list[Any]],
) -> None:
    records = [dict(zip("abcd", record, strict=False)) for record in zip(*columns, strict=True)]
    own = io.StringIO(newline="")
    csv.writer(own).writerows([list(record.values()) for record in records])
    own.seek(0)
    expected = [
        [cell.encode("utf-8", "backslashreplace").decode() for cell in record] for record in csv.reader(own)
    ]

    with tempfile.TemporaryDirectory() as directory:
        storage = ExperimentStorage.open(directory, "experiment")
        files = TrialFiles(storage, Path(directory))
        for record in records:
            files.append_row(TRIAL, "progress.csv", record)
        files.close()
        text = a_path(storage, "progress.csv").read_bytes().decode()

    assert (text.count("\n"), text.count("\r")) == (len(records) + 1, 0)
    found = list(csv.reader(io.StringIO(text, newline="")))[1:]
    assert [[*map(comparable, record)] for record in found] == [
        [*map(comparable, record)] for record in expected
    ]


def comparable(cell: str) -> str:
    """Numbers as Python writes them: 1e-05 may be 1e-5 in a file. Line breaks are spaces there."""
    with suppress(ValueError):
        if set(cell) & set(".en"):
            return repr(float(cell))
    return " ".join(cell.splitlines())


def test_a_new_column_widens_earlier_records(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)

    files.append_row(TRIAL, "progress.csv", {"loss": 1})
    files.flush(TRIAL)
    files.append_row(TRIAL, "progress.csv", {"acc": 2, "loss": 3})
    files.flush(TRIAL)
    files.append_row(TRIAL, "progress.csv", {"loss": 4})
    files.close()

    assert a_path(local, "progress.csv").read_text() == "loss,acc\n1,\n3,2\n4,\n"
    assert [path.name for path in a_path(local, "").iterdir()] == ["progress.csv"]


def test_a_new_column_in_a_new_process_widens_earlier_records(
    local: ExperimentStorage, tmp_path: Path
) -> None:
    for row in ({"loss": 1}, {"loss": 2, "acc": 3}):
        files = TrialFiles(local, tmp_path)
        files.append_row(TRIAL, "progress.csv", row)
        files.close()

    assert read_csv(a_path(local, "progress.csv")) == [{"loss": "1", "acc": ""}, {"loss": "2", "acc": "3"}]


def test_line_breaks_inside_values_do_not_break_records(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)

    files.append_row(TRIAL, "progress.csv", {"note": "two\nlines", "loss": 1})
    files.flush(TRIAL)
    files.append_row(TRIAL, "progress.csv", {"note": "x", "loss": 2, "acc": 3})
    files.close()

    assert read_csv(a_path(local, "progress.csv")) == [
        {"note": "two lines", "loss": "1", "acc": ""},
        {"note": "x", "loss": "2", "acc": "3"},
    ]


def test_half_a_record_of_a_crash_is_removed(local: ExperimentStorage, tmp_path: Path) -> None:
    path = a_path(local, "progress.csv")
    path.parent.mkdir(parents=True)
    path.write_text("loss,acc\n1,2\n3.14,0.9")
    files = TrialFiles(local, tmp_path)

    files.append_row(TRIAL, "progress.csv", {"loss": 3.14159, "acc": 0.95})
    files.close()

    assert path.read_text() == "loss,acc\n1,2\n3.14159,0.95\n"


@pytest.mark.parametrize("head", ["", "los"])
def test_a_csv_file_without_a_whole_header_begins_again(
    local: ExperimentStorage, tmp_path: Path, head: str
) -> None:
    path = a_path(local, "progress.csv")
    path.parent.mkdir(parents=True)
    path.write_text(head)
    files = TrialFiles(local, tmp_path)

    files.append_row(TRIAL, "progress.csv", {"loss": 1})
    files.close()

    assert path.read_text() == "loss\n1\n"


def test_records_waiting_in_memory_are_bounded(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)

    for number in range(256):
        files.append_row(TRIAL, "progress.csv", {"loss": number})

    assert len(read_csv(a_path(local, "progress.csv"))) == 256


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


def test_many_trials_leave_nothing_behind(local: ExperimentStorage, tmp_path: Path) -> None:
    files = TrialFiles(local, tmp_path)

    for number in range(200):
        files.append_line(f"trial_{number}", "result.json", b"one")
        files.finish(f"trial_{number}")

    assert files.num_open == 0
    assert len(list(Path(local.path).iterdir())) == 200
