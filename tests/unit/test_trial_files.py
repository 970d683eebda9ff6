"""Appending to trials' files on local storage, and staging and uploading on any other."""

from __future__ import annotations

import csv
import io
import tempfile
import threading
import time
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

from tune_core.errors import StorageError
from tune_core.storage import ExperimentStorage
from tune_core.trial_files import TrialFiles

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


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "this never became true"
        threading.Event().wait(0.001)


def flushing(files: TrialFiles, clock: Iterator[int], until: Callable[[], bool]) -> None:
    """Call `flush_due`, a second later each time, until something has happened."""

    def is_so() -> bool:
        files.flush_due(next(clock))
        return until()

    eventually(is_so)


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

    with pytest.raises(StorageError, match=r"cannot append to .*result\.json.*make room"):
        files.flush(TRIAL)


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
    eventually(lambda: len(remote.uploads) == 1)

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
    eventually(lambda: len(remote.uploads) == 1)

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
    eventually(lambda: len(remote.uploads) == 1)
    files.append_line(TRIAL, "result.json", b"two")

    files.finish(TRIAL)
    files.flush_due(1)
    eventually(lambda: len(remote.uploads) == 2)
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
