"""When checkpoints may be removed, and which."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest

from tune_core.engine.driver.deletions import Deletions
from tune_core.trial import Attempt, AttemptPhase, CheckpointRecord, Trial


class Storage:
    """Notes what it is told to remove."""

    def __init__(self) -> None:
        self.removed: list[tuple[Any, ...]] = []

    def delete_checkpoint(self, trial: str, index: int) -> None:
        if index == 13:
            raise OSError("refused")
        self.removed.append((trial, index))

    def sweep(self, trial: str, *, keep: Collection[int], attempt_number: int) -> None:
        self.removed.append((trial, sorted(keep), attempt_number))


class Journal:
    """Is written when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []

    def when_written(self, call: Callable[[], Any]) -> None:
        self.waiting.append(call)

    def write(self) -> None:
        for call in self.waiting:
            call()
        self.waiting.clear()


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def deletions(storage: Storage) -> Iterator[Any]:
    made: Any = Deletions(storage)  # type: ignore[arg-type]
    yield made
    made.close()


def a_trial(phase: AttemptPhase) -> Trial:
    records = [CheckpointRecord(3, 4), CheckpointRecord(7, 8, is_damaged=True)]
    return Trial(
        "t0", 0, {}, dirname="t", attempt_number=2, attempt=Attempt(phase=phase), checkpoints=records
    )


def test_nothing_is_removed_before_the_journal_says_so(deletions: Any, storage: Storage) -> None:
    journal = Journal()
    deletions.delete("t", 1, journal)
    deletions.sweep(a_trial(AttemptPhase.NONE), journal)
    deletions._thread.submit(lambda: None).result(10)
    assert storage.removed == []

    journal.write()
    deletions.close()

    assert storage.removed == [("t", 1), ("t", [3, 7], 3)]


@pytest.mark.parametrize("phase", [AttemptPhase.STARTING, AttemptPhase.RUNNING, AttemptPhase.STOPPING])
def test_what_a_live_attempt_uploads_is_not_swept(
    deletions: Any, storage: Storage, phase: AttemptPhase
) -> None:
    journal = Journal()
    deletions.sweep(a_trial(phase), journal)

    journal.write()
    deletions.close()

    assert storage.removed == [("t", [3, 7], 2)]


def test_sweep_keeps_what_it_was_ordered_with_and_spares_what_begins_later(
    deletions: Any, storage: Storage
) -> None:
    trial, journal = a_trial(AttemptPhase.NONE), Journal()
    deletions.sweep(trial, journal)
    trial.attempt_number, trial.attempt, trial.checkpoints = 3, Attempt(phase=AttemptPhase.RUNNING), []

    journal.write()
    deletions.close()

    assert storage.removed == [("t", [3, 7], 3)]  # attempt 3, which began since, is not before 3


def test_removal_that_fails_is_logged_and_costs_nothing_else(
    deletions: Any, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal()
    deletions.delete("t", 13, journal)
    deletions.delete("t", 14, journal)

    journal.write()
    deletions.close()

    assert storage.removed == [("t", 14)]
    assert "cannot remove checkpoints of t: refused" in caplog.text
