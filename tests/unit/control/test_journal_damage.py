"""The end of a journal that is damaged, and given up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.journals import OTHER, OWNER, ADriver, an_event
from tune_core.control.journal import claim
from tune_core.control.messages import (
    SegmentsGivenUp,
)
from tune_core.control.segments import (
    read_journal,
    read_segment,
    segment_before,
)
from tune_core.errors import ExperimentConflict, JournalDamaged
from tune_core.storage.experiment_storage import ExperimentStorage

# Damage that is given up.


def written_then_damaged(local: ExperimentStorage, a_driver: ADriver, *damaged: int) -> None:
    """Four segments with an event in each but the first; then some are as a power cut leaves them."""
    driver = a_driver(local)
    for time in (2.0, 3.0, 4.0):
        driver.journal.append(an_event(time), [])
        driver.journal.flush()
    for number in damaged:
        Path(local.absolute(f"journal/{number:08d}.jsonl")).write_bytes(b"")


@pytest.mark.parametrize(
    ("damaged", "kept"), [((4,), [2.0, 3.0]), ((3, 4), [2.0]), ((3,), [2.0]), ((2, 4), [])], ids=repr
)
def test_damaged_end_is_given_up_only_if_somebody_says_so(
    damaged: tuple[int, ...], kept: list[float], local: ExperimentStorage, a_driver: ADriver
) -> None:
    written_then_damaged(local, a_driver, *damaged)
    with pytest.raises(JournalDamaged, match=f"{damaged[0]}.jsonl is damaged: it is empty"):
        list(read_journal(local, "a1b2c"))
    assert [event.time for event, _ in read_journal(local, "a1b2c", discard_damaged=True)] == kept

    number = claim(local, "a1b2c", OTHER, lambda _: False, discard_damaged=True)
    second = a_driver(local, OTHER, number=number)
    second.journal.append(an_event(9.0), [])
    second.journal.close()

    assert number == 5
    *before, given_up, last = [event for event, _ in read_journal(local)]
    assert [event.time for event in before] == kept
    assert isinstance(given_up, SegmentsGivenUp)
    assert (given_up.first, given_up.segments) == (damaged[0], 5 - damaged[0])
    assert last == an_event(9.0)
    assert [path.stat().st_size for path in sorted(Path(local.absolute("journal")).iterdir())].count(
        0
    ) == len(damaged), "what is given up stays where it is"
    before_it = segment_before(local, 5)
    assert before_it is not None
    assert before_it.number == damaged[0] - 1


def test_what_was_given_up_stays_so_for_later_drivers(local: ExperimentStorage, a_driver: ADriver) -> None:
    written_then_damaged(local, a_driver, 4)
    claim(local, "a1b2c", OTHER, lambda _: False, discard_damaged=True)

    third = a_driver(local, OWNER)
    third.journal.append(an_event(9.0), [])
    third.journal.close()

    assert [event.time for event, _ in read_journal(local)][:2] == [2.0, 3.0]
    assert [event for event, _ in read_journal(local)][-1] == an_event(9.0)
    assert read_segment(local, 7).void == ((4, 4),)


def test_segment_that_was_given_up_does_not_come_back(local: ExperimentStorage, a_driver: ADriver) -> None:
    # It may only have been read wrongly, and be whole at the next look.
    written_then_damaged(local, a_driver)
    segment = Path(local.absolute("journal/00000004.jsonl"))
    data = segment.read_bytes()
    segment.write_bytes(b"")
    claim(local, "a1b2c", OTHER, lambda _: False, discard_damaged=True)

    segment.write_bytes(data)

    assert [event.time for event, _ in read_journal(local)][:-1] == [2.0, 3.0]


def test_nothing_is_given_up_where_nothing_is_damaged(local: ExperimentStorage, a_driver: ADriver) -> None:
    written_then_damaged(local, a_driver)

    assert claim(local, "a1b2c", OTHER, lambda _: False, discard_damaged=True) == 5

    assert [event.time for event, _ in read_journal(local)] == [2.0, 3.0, 4.0]


def test_journal_of_which_nothing_is_left_cannot_be_given_up(
    local: ExperimentStorage, a_driver: ADriver
) -> None:
    written_then_damaged(local, a_driver, 1)

    with pytest.raises(JournalDamaged, match="nothing before it is left"):
        claim(local, "a1b2c", OTHER, lambda _: False, discard_damaged=True)


def test_damaged_journal_of_a_living_driver_is_left_alone(
    local: ExperimentStorage, a_driver: ADriver
) -> None:
    written_then_damaged(local, a_driver, 4)

    with pytest.raises(ExperimentConflict, match="running now"):
        claim(local, "a1b2c", OTHER, lambda owner: owner == OWNER, discard_damaged=True)
