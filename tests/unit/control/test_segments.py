"""Reading a journal: which segments count, and what is no segment."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import OTHER, OWNER, PATIENCE_S, ADriver, Driver, an_event, segments
from tune_core.control import segments as segments_module
from tune_core.control.journal import claim
from tune_core.control.messages import (
    ExperimentStarted,
    Suggest,
    TrialSuggested,
    event_to_dict,
)
from tune_core.control.segments import (
    read_journal,
    read_segment,
    segment_numbers,
)
from tune_core.encoding import dumps, loads
from tune_core.errors import JournalDamaged, StorageError
from tune_core.storage.experiment_storage import ExperimentStorage

# Reading.


def test_there_is_nothing_in_a_storage_without_a_journal(storage: ExperimentStorage) -> None:
    assert segment_numbers(storage) == []
    assert list(read_journal(storage)) == []


def test_journal_is_read_in_order_over_all_segments(storage: ExperimentStorage, a_driver: ADriver) -> None:
    journal = a_driver(storage).journal
    for number in range(3):
        journal.append(an_event(number), [Suggest(f"t{number}")])
        journal.flush()

    assert list(read_journal(storage)) == [(an_event(number), (f"Suggest t{number}",)) for number in range(3)]


def test_resumed_experiment_is_read_with_its_earlier_driver(
    local: ExperimentStorage, a_driver: ADriver
) -> None:
    first = a_driver(local)
    first.journal.append(an_event(1.0), [])
    first.journal.flush()
    second = a_driver(local, OTHER)
    second.journal.append(an_event(2.0), [])
    second.journal.close()

    assert [event for event, _ in read_journal(local)] == [an_event(1.0), an_event(2.0)]
    assert [segment.owner for segment in segments(local)] == [OWNER, OWNER, OTHER, OTHER]


def test_only_the_newest_experiment_of_a_name_is_read(local: ExperimentStorage, a_driver: ADriver) -> None:
    first = a_driver(local)
    first.journal.append(an_event(1.0), [])
    first.journal.close()
    number = claim(local, "ddddd", OTHER, lambda _: True)
    second = a_driver(local, OTHER, experiment_id="ddddd", number=number)
    second.journal.append(an_event(2.0), [])
    second.journal.flush()

    assert [event for event, _ in read_journal(local)] == [an_event(2.0)]


def test_other_files_beside_the_segments_are_passed_over(local: ExperimentStorage) -> None:
    claim(local, "a1b2c", OWNER, lambda _: False)
    for name in ("00000002.jsonl.tmp", "2.jsonl", "notes.txt", "000000002.jsonl"):
        local.write(f"journal/{name}", b"x")

    assert segment_numbers(local) == [1]


def test_gap_in_the_journal_is_an_error(local: ExperimentStorage, a_driver: ADriver) -> None:
    journal = a_driver(local).journal
    for number in range(3):
        journal.append(an_event(number), [])
        journal.flush()
    local.delete("journal/00000002.jsonl")

    with pytest.raises(JournalDamaged, match=r"2.jsonl is damaged: .* gaps, its segments are \[1, 3, 4\]"):
        list(read_journal(local))


def a_header(**changes: Any) -> dict[str, Any]:
    header = {"format": 1, "experiment_id": "a1b2c", "owner": OWNER, "is_last": False}
    return {name: value for name, value in (header | changes).items() if value is not None}


def sealed(header: dict[str, Any], lines: bytes = b"") -> bytes:
    return segments_module._sealed(dumps(header), lines)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"7\n",
        b"[]\n",
        sealed(a_header(format=None)),
        sealed(a_header(owner=None)),
        sealed(a_header(experiment_id=None)),
        sealed(a_header(is_last=None)),
        sealed(a_header(format="new")),
        sealed(a_header(), b'{"event": "SearchEn'),
        sealed(a_header(), b"7"),
        sealed(a_header(), b"[]"),
        sealed(a_header(), b'{"event": "Unheard"}'),
        sealed(a_header(), b'{"event": "SearchEnded", "unheard": 1}'),
        sealed(a_header(), b'{"event": "AttemptEnded", "outcome": "unheard"}'),
        dumps(a_header()),
        sealed(a_header())[:-1],
        sealed(a_header()) + b"\n",
        sealed(a_header()).replace(b"here", b"her3"),
        sealed(a_header(), b'{"event": "SearchEnded", "time": 1.0}').replace(b"1.0", b"2.0"),
        sealed(a_header(void=[7])),
        b"[" * 100_000,
        sealed(a_header(), b"[" * 100_000 + b"]" * 100_000),
    ],
    ids=range(24),
)
def test_damaged_segment_is_named(data: bytes, local: ExperimentStorage) -> None:
    local.write("journal/00000001.jsonl", data)

    with pytest.raises(
        JournalDamaged, match=r"experiment/journal/00000001.jsonl is damaged: .*discard_damaged"
    ):
        read_segment(local, 1)


@pytest.mark.parametrize("dirname", ["../other", "/etc", "..", "a/b", "", "nul\0", None])
def test_forged_directory_of_a_trial_is_refused(dirname: str | None, local: ExperimentStorage) -> None:
    suggested = TrialSuggested(0.0, "t0", {}, "0", "t0", "train", {"bundles": [{"CPU": 1}]})
    header = {"format": 1, "experiment_id": "a1b2c", "owner": OWNER, "is_last": False}
    forged = {**event_to_dict(suggested), "dirname": dirname}
    local.create("journal/00000001.jsonl", sealed(header, dumps(forged) + b"\n"))

    with pytest.raises(StorageError, match="trial name"):
        read_segment(local, 1)


def test_segment_of_a_newer_version_asks_for_it(local: ExperimentStorage) -> None:
    local.write("journal/00000001.jsonl", dumps(a_header(format=2)))

    with pytest.raises(StorageError, match=r"has format 2, this version reads 1: use a newer prefect-tune"):
        read_segment(local, 1)


def test_segment_that_does_not_exist_is_named(storage: ExperimentStorage) -> None:
    with pytest.raises(StorageError, match=r"journal/00000007.jsonl does not exist"):
        read_segment(storage, 7)


def test_segment_is_lines_of_json(local: ExperimentStorage, a_driver: ADriver) -> None:
    journal = a_driver(local).journal
    journal.append(an_event(1.0), [Suggest("t0")])
    journal.flush()

    header, record = map(loads, local.read("journal/00000002.jsonl").splitlines())

    assert {name: header[name] for name in a_header()} == a_header()
    assert record == {"event": "ExperimentStarted", "time": 1.0, "capacity": 1, "commands": ["Suggest t0"]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no fifos here")
def test_fifo_that_is_named_like_a_segment_does_not_hang(local: ExperimentStorage) -> None:
    claim(local, "a1b2c", OWNER, lambda _: False)
    os.mkfifo(local.absolute("journal/00000002.jsonl"))

    with pytest.raises(StorageError, match=r"00000002.jsonl.*is a fifo"):
        list(read_journal(local))


def test_directory_that_is_named_like_a_segment_is_named(local: ExperimentStorage) -> None:
    Path(local.absolute("journal/00000001.jsonl")).mkdir(parents=True)

    with pytest.raises(StorageError, match=r"00000001.jsonl"):
        read_segment(local, 1)


def test_segments_are_read_several_at_once_and_in_their_order(
    local: ExperimentStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [ExperimentStarted(float(number), number) for number in range(1, 41)]
    for event in events:
        driver = Driver(local)
        driver.journal.append(event, [])
        driver.journal.close()
    two_at_once, read = threading.Barrier(2), local.read

    newest = [f"journal/{segment_numbers(local)[-1]:08d}.jsonl"]  # says which of the others are void

    def together(name: str) -> bytes:
        if name in newest:
            newest.remove(name)
        else:
            two_at_once.wait(PATIENCE_S)
        return read(name)

    monkeypatch.setattr(local, "read", together)

    assert [event for event, _ in read_journal(local, "a1b2c")] == events
