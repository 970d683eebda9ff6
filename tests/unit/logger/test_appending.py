"""Records of CSV files."""

from __future__ import annotations

import csv
import io
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support.trial_files import TRIAL, a_path, read_csv
from tune_core.errors import StorageError
from tune_core.logger.trial_files import TrialFiles
from tune_core.storage.experiment_storage import ExperimentStorage


@pytest.mark.parametrize("head", [b"lo\xff\xfess,b\n1,2\n", b"a" * 200_000 + b",b\n"])
def test_table_with_another_content_is_named(head: bytes, local: ExperimentStorage, tmp_path: Path) -> None:
    a_path(local, "").mkdir(parents=True)
    a_path(local, "progress.csv").write_bytes(head)
    files = TrialFiles(local, tmp_path)
    files.append_row(TRIAL, "progress.csv", {"loss": 1})

    with pytest.raises(StorageError, match=r"progress\.csv cannot be gone on with.*move it away"):
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
