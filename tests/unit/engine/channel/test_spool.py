"""Rows that are kept on the disk of a trial's node until they are journaled."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest

from tune_core.encoding import dumps
from tune_core.engine.channel import spool as spool_module
from tune_core.engine.channel.spool import Spool, SpoolPlace, left_behind, rows_of


@pytest.fixture
def place(tmp_path: Path) -> SpoolPlace:
    return SpoolPlace(str(tmp_path), "key")


def a_spool(place: SpoolPlace, trial_id: str = "trial") -> Spool:
    return Spool(partial(place.path, trial_id, 1))


def a_row(iteration: int, **metrics: object) -> bytes:
    return dumps([iteration, None, False, {"step": iteration, **metrics}])


def steps(place: SpoolPlace) -> list[int]:
    rows = rows_of(left_behind(place, "trial", 1))
    assert [row["step"] for row in rows.values()] == list(rows)
    return sorted(rows)


def test_what_was_written_is_left_behind_once(place: SpoolPlace) -> None:
    spool = a_spool(place)

    for iteration in (1, 2, 3):
        spool.add(iteration, a_row(iteration), journaled=0)
    spool.add(3, a_row(4), journaled=0)  # said again

    assert rows_of(left_behind(place, "trial", 2)) == {}
    assert steps(place) == [1, 2, 3]
    assert steps(place) == []


def test_rows_that_are_journaled_make_room_and_others_stay(
    place: SpoolPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "_PART_BYTES", 1000)
    spool = a_spool(place)

    for iteration in range(1, 5001):
        spool.add(iteration, a_row(iteration), journaled=iteration - 10)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())

    assert size <= 3000
    assert {*range(4991, 5001)} <= {*steps(place)}


def test_nothing_makes_room_while_the_journal_does_not_answer(
    place: SpoolPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "_PART_BYTES", 1000)
    spool = a_spool(place)

    for iteration in range(1, 501):
        spool.add(iteration, a_row(iteration), journaled=0)

    assert steps(place) == [*range(1, 501)]


def test_line_that_the_death_has_cut_is_no_row(place: SpoolPlace) -> None:
    a_spool(place).add(1, a_row(1), journaled=0)
    path, cut = place.path("trial", 1, 0), a_row(2)[:-5]
    rows = path.read_bytes().rstrip(b"\0")
    path.write_bytes(rows + cut + bytes(100))

    assert steps(place) == [1]


def test_part_that_was_being_cleared_holds_no_wrong_row(place: SpoolPlace) -> None:
    spool = a_spool(place)
    for iteration in (1, 2, 3):
        spool.add(iteration, a_row(iteration), journaled=0)
    path = place.path("trial", 1, 0)
    path.write_bytes(bytes(30) + path.read_bytes()[30:])

    assert steps(place) == [3]


def test_checkpoint_of_a_row_is_for_its_commit_marker_to_say(place: SpoolPlace) -> None:
    spool = a_spool(place)
    row = {"should_checkpoint": True, "checkpoint_dir_name": "checkpoint_000003", "loss": 1}
    spool.add(1, dumps([1, 3, False, row]), journaled=0)

    assert rows_of(left_behind(place, "trial", 1)) == {1: {"checkpoint_dir_name": None, "loss": 1}}


def test_end_leaves_nothing(place: SpoolPlace, tmp_path: Path) -> None:
    spool, other = a_spool(place), a_spool(place, "other")
    spool.add(1, a_row(1), journaled=0)
    other.add(1, a_row(1), journaled=0)

    spool.remove()
    spool.add(2, a_row(2), journaled=0)
    assert {path.name.split("-")[-2] for path in tmp_path.iterdir()} == {"other"}
    place.remove()

    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_full_is_said_once_and_fails_nothing(
    place: SpoolPlace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    spool = a_spool(place)

    with caplog.at_level(logging.WARNING):
        spool.add(1, a_row(1), journaled=0)
        spool.add(2, a_row(2), journaled=0)

    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert spool.until == 2
    assert steps(place) == []


def test_row_larger_than_a_part_has_one_of_its_size(
    place: SpoolPlace, caplog: pytest.LogCaptureFixture
) -> None:
    spool = a_spool(place)
    spool.add(1, a_row(1), journaled=0)

    with caplog.at_level(logging.WARNING):
        spool.add(2, a_row(2, text="x" * 2**20), journaled=0)

    assert steps(place) == [1, 2]
    assert caplog.records == []


def test_file_is_readable_for_its_user_alone(place: SpoolPlace) -> None:
    a_spool(place).add(1, a_row(1), journaled=0)

    assert place.path("trial", 1, 0).stat().st_mode & 0o777 == 0o600


def test_link_where_a_file_is_expected_is_not_followed(place: SpoolPlace, tmp_path: Path) -> None:
    target = tmp_path / "of-somebody"
    target.write_bytes(a_row(9) + b"\n")
    place.path("trial", 1, 0).symlink_to(target)

    with pytest.raises(OSError, match="symbolic link"):
        left_behind(place, "trial", 1)
    a_spool(place).add(1, a_row(1), journaled=0)

    assert target.read_bytes() == a_row(9) + b"\n"
