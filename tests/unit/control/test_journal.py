"""The journal: groups, the fence between drivers, damage, and storage that refuses for a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from tests.support.journals import OTHER, OWNER, PATIENCE_S, ADriver, an_event, segments
from tune_core.control import journal as journal_module
from tune_core.control import segments as segments_module
from tune_core.control.journal import claim
from tune_core.control.messages import (
    AttemptEnded,
    CompleteTrial,
    Event,
    SearchEnded,
    Suggest,
    TrialReported,
)
from tune_core.control.segments import (
    Segment,
    encode_segment,
    read_journal,
    read_segment,
    segment_numbers,
)
from tune_core.errors import ExperimentConflict, StorageError
from tune_core.states import Outcome
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.faults import Fault, FaultyFileSystem


def a_report(iteration: int, trial_id: str = "t0", attempt_number: int = 1) -> Event:
    return TrialReported(0.0, trial_id, attempt_number, iteration, {"loss": 0.5})


def events_of(storage: ExperimentStorage) -> list[list[Event]]:
    return [[event for event, _ in segment.records] for segment in segments(storage)]


# Groups.


def test_claim_takes_the_first_segment_of_an_empty_storage(storage: ExperimentStorage) -> None:
    assert claim(storage, "a1b2c", OWNER, lambda _: True) == 1

    assert segments(storage) == [Segment(1, "a1b2c", OWNER, (), is_last=False)]


def test_what_waits_is_written_together(storage: ExperimentStorage, a_driver: ADriver) -> None:
    journal = a_driver(storage).journal

    journal.append(an_event(1.0), [Suggest("t0")])
    journal.append(SearchEnded(2.0), [])
    journal.append(
        AttemptEnded(3.0, "t0", 1, Outcome.COMPLETED), [CompleteTrial("t0", failed=False), Suggest("t1")]
    )
    assert segment_numbers(storage) == [1]
    journal.flush()

    assert segments(storage)[1].records == (
        (an_event(1.0), ("Suggest t0",)),
        (SearchEnded(2.0), ()),
        (AttemptEnded(3.0, "t0", 1, Outcome.COMPLETED), ("CompleteTrial t0 False", "Suggest t1")),
    )
    assert not segments(storage)[1].is_last


def test_flush_without_anything_to_write_returns_at_once(local: ExperimentStorage, a_driver: ADriver) -> None:
    journal = a_driver(local).journal

    journal.flush()
    journal.flush()

    assert segment_numbers(local) == [1]


def test_flush_covers_everything_appended_before_it(local: ExperimentStorage, a_driver: ADriver) -> None:
    journal = a_driver(local).journal

    for number in range(5):
        journal.append(an_event(number), [])
        journal.flush()

    assert events_of(local) == [[], *([an_event(number)] for number in range(5))]


def test_urgent_event_takes_those_before_it_along(local: ExperimentStorage, a_driver: ADriver) -> None:
    driver = a_driver(local)

    driver.journal.append(a_report(1), [])
    driver.journal.append(an_event(), [], urgent=True)

    assert driver.has_flushed.wait(PATIENCE_S)
    assert events_of(local)[1:] == [[a_report(1), an_event()]]


def test_event_after_a_flush_is_not_urgent(local: ExperimentStorage, a_driver: ADriver) -> None:
    journal = a_driver(local).journal
    journal.append(an_event(1.0), [])
    journal.flush()

    journal.append(an_event(2.0), [])
    journal.append(an_event(3.0), [])
    journal.close()

    assert events_of(local)[1:] == [[an_event(1.0)], [an_event(2.0), an_event(3.0)]]


def test_full_group_is_written(
    local: ExperimentStorage, a_driver: ADriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FLUSH_EVENTS", 3)
    driver = a_driver(local)

    for iteration in (1, 2, 3):
        driver.journal.append(a_report(iteration), [])

    assert driver.has_flushed.wait(PATIENCE_S)
    assert driver.flushed == [{("t0", 1): 3}]


def test_events_wait_no_longer_than_the_interval(
    local: ExperimentStorage, a_driver: ADriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FLUSH_INTERVAL_S", 0.01)
    driver = a_driver(local)

    driver.journal.append(a_report(1), [])

    assert driver.has_flushed.wait(PATIENCE_S)


def test_what_cannot_be_undone_waits_for_the_events_before_it(
    local: ExperimentStorage, a_driver: ADriver
) -> None:
    journal, seen = a_driver(local).journal, []

    journal.append(an_event(1.0), [])
    journal.when_written(lambda: seen.append(segment_numbers(local)))
    journal.append(an_event(2.0), [])
    journal.when_written(lambda: seen.append(segment_numbers(local)))
    assert seen == []
    journal.close()
    journal.when_written(lambda: seen.append("at once"))

    assert seen == [[1, 2], [1, 2], "at once"]


def test_what_waits_for_the_journal_never_happens_if_another_driver_took_over(
    local: ExperimentStorage, a_driver: ADriver
) -> None:
    driver, deleted = a_driver(local), []
    claim(local, "a1b2c", OTHER, lambda _: False)

    driver.journal.append(an_event(), [])
    driver.journal.when_written(lambda: deleted.append("what the other driver needs"))
    with pytest.raises(ExperimentConflict, match="taken over by another driver"):
        driver.journal.close()

    assert deleted == []


def test_driver_is_told_the_highest_iteration_of_each_attempt(
    local: ExperimentStorage, a_driver: ADriver
) -> None:
    driver = a_driver(local)

    for event in (
        a_report(1),
        a_report(2),
        a_report(7, "t1"),
        a_report(1, "t1", attempt_number=2),
        an_event(),
    ):
        driver.journal.append(event, [])
    driver.journal.close()

    assert driver.flushed == [{("t0", 1): 2, ("t1", 1): 7, ("t1", 2): 1}]


def test_driver_is_told_of_groups_without_reports_too(local: ExperimentStorage, a_driver: ADriver) -> None:
    driver = a_driver(local)

    driver.journal.append(an_event(), [])
    driver.journal.close()

    assert driver.flushed == [{}]


def test_events_of_several_threads_are_all_written_in_the_order_of_each(
    local: ExperimentStorage, a_driver: ADriver
) -> None:
    journal = a_driver(local).journal

    def append(trial_id: str) -> None:
        for iteration in range(1, 101):
            journal.append(a_report(iteration, trial_id), [], urgent=iteration % 30 == 0)

    threads = [threading.Thread(target=append, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()

    written = [event for event, _ in read_journal(local)]
    for number in range(4):
        mine = [
            event for event in written if isinstance(event, TrialReported) and event.trial_id == f"t{number}"
        ]
        assert mine == [a_report(iteration, f"t{number}") for iteration in range(1, 101)]


def test_closed_journal_says_so_in_its_last_segment(storage: ExperimentStorage, a_driver: ADriver) -> None:
    journal = a_driver(storage).journal
    journal.append(an_event(), [])

    journal.close()
    journal.close()

    assert [segment.is_last for segment in segments(storage)] == [False, True]
    assert events_of(storage) == [[], [an_event()]]


# One driver at a time.


def test_second_driver_of_a_live_experiment_is_refused(storage: ExperimentStorage, a_driver: ADriver) -> None:
    a_driver(storage)
    asked = []

    with pytest.raises(
        ExperimentConflict,
        match=r"experiment that is running now \(host here, pid 1\): give RunConfig another name=",
    ):
        claim(storage, "ddddd", OTHER, lambda owner: asked.append(owner) is None)

    assert asked == [OWNER]
    assert segment_numbers(storage) == [1]


def test_journal_of_a_dead_driver_is_taken_over(storage: ExperimentStorage, a_driver: ADriver) -> None:
    first = a_driver(storage)
    first.journal.append(an_event(), [])
    first.journal.flush()

    assert claim(storage, "a1b2c", OTHER, lambda _: False) == 3


def test_closed_journal_belongs_to_nobody(storage: ExperimentStorage, a_driver: ADriver) -> None:
    a_driver(storage).journal.close()

    assert claim(storage, "ddddd", OTHER, lambda _: True) == 3


def test_driver_that_was_taken_over_writes_nothing_more(
    storage: ExperimentStorage, a_driver: ADriver
) -> None:
    zombie = a_driver(storage)
    second = a_driver(storage, OTHER)

    zombie.journal.append(an_event(1.0), [])
    with pytest.raises(
        ExperimentConflict, match=r"was taken over by another driver \(host there, pid 2\): this one"
    ):
        zombie.journal.flush()
    second.journal.append(an_event(2.0), [])
    second.journal.flush()

    assert [event for event, _ in read_journal(storage)] == [an_event(2.0)]
    assert len(zombie.failures) == 1
    with pytest.raises(ExperimentConflict):
        zombie.journal.flush()
    with pytest.raises(ExperimentConflict):
        zombie.journal.close()


def test_of_two_drivers_that_claim_at_once_one_wins(
    storage: ExperimentStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(storage, "a1b2c", OWNER, lambda _: False)
    monkeypatch.setattr(segments_module, "segment_numbers", lambda _: [])

    with pytest.raises(ExperimentConflict, match=r"was taken over by another driver \(host here, pid 1\)"):
        claim(storage, "a1b2c", OTHER, lambda _: False)


def test_claim_is_tried_again_while_the_driver_that_it_fences_off_writes_on(
    storage: ExperimentStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(storage, "a1b2c", OWNER, lambda _: False)
    create, written = storage.create, []

    def create_late(name: str, data: bytes) -> None:
        if len(written) < 3:  # the zombie is faster each time
            written.append(name)
            create(name, encode_segment("a1b2c", OWNER, b"", is_last=False))
        create(name, data)

    monkeypatch.setattr(storage, "create", create_late)

    assert claim(storage, "a1b2c", OTHER, lambda _: False) == 5
    assert read_segment(storage, 5).owner == OTHER


# Storage that refuses.


class Refusing:
    """Makes `create` of a storage fail so many times, on a clock that only sleeping moves."""

    def __init__(self, storage: ExperimentStorage, times: int, error: Exception) -> None:
        self.left, self.error, self.create = times, error, storage.create
        self.tries: list[tuple[str, bytes]] = []
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self, name: str, data: bytes) -> None:
        self.tries.append((name, data))
        if self.left > 0:
            self.left -= 1
            raise self.error
        self.create(name, data)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def refuse(local: ExperimentStorage, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], Refusing]:
    def install(times: int, error: Exception) -> Refusing:
        refusing = Refusing(local, times, error)
        monkeypatch.setattr(local, "create", refusing)
        monkeypatch.setattr(journal_module, "time", refusing)
        return refusing

    return install


@pytest.mark.parametrize("error", [StorageError("503 slow down"), OSError("connection reset")], ids=repr)
def test_segment_is_tried_again_with_growing_pauses(
    error: Exception, local: ExperimentStorage, a_driver: ADriver, refuse: Callable[..., Refusing]
) -> None:
    driver = a_driver(local)
    refusing = refuse(7, error)

    driver.journal.append(an_event(), [])
    driver.journal.flush()

    assert refusing.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert len(set(refusing.tries)) == 1, "what is tried again is the same object, with the same write id"
    assert [event for event, _ in read_journal(local)] == [an_event()]
    assert driver.failures == []


def test_driver_is_told_when_the_storage_refuses_for_too_long(
    local: ExperimentStorage, a_driver: ADriver, refuse: Callable[..., Refusing]
) -> None:
    driver = a_driver(local)
    refusing = refuse(10_000, StorageError("403 denied"))

    driver.journal.append(an_event(), [], urgent=True)

    assert driver.has_failed.wait(PATIENCE_S)
    (failure,) = driver.failures
    assert isinstance(failure, StorageError)
    assert str(failure).endswith("the journal could not be written for 300 s: 403 denied")
    assert 280 < refusing.now <= 300
    with pytest.raises(StorageError, match="403 denied"):
        driver.journal.flush()
    with pytest.raises(StorageError, match="403 denied"):
        driver.journal.close()


def test_other_errors_are_not_tried_again(
    local: ExperimentStorage, a_driver: ADriver, refuse: Callable[..., Refusing]
) -> None:
    driver = a_driver(local)
    refusing = refuse(1, ZeroDivisionError("a defect"))

    driver.journal.append(an_event(), [])
    with pytest.raises(ZeroDivisionError):
        driver.journal.flush()

    assert refusing.slept == []
    assert driver.failures == [refusing.error]


def test_driver_that_fails_to_take_note_is_told_so(local: ExperimentStorage, a_driver: ADriver) -> None:
    def fail(_: Any) -> None:
        raise ZeroDivisionError("a defect")

    driver = a_driver(local, on_flushed=fail)

    driver.journal.append(a_report(1), [], urgent=True)

    assert driver.has_failed.wait(PATIENCE_S)
    assert isinstance(driver.failures[0], ZeroDivisionError)


@pytest.mark.parametrize("number", range(1, 5))
def test_lost_reply_is_no_conflict(
    number: int, tmp_path: Path, a_driver: ADriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem = FaultyFileSystem(LocalFileSystem(), fail_at=None, fault=Fault.LOST_REPLY)
    storage = ExperimentStorage.open(tmp_path, "experiment", filesystem=filesystem)
    driver = a_driver(storage)
    monkeypatch.setattr(journal_module, "time", Refusing(storage, 0, OSError()))
    filesystem.fail_at = len(filesystem.writes) + number

    driver.journal.append(an_event(1.0), [])
    driver.journal.flush()
    driver.journal.append(an_event(2.0), [])
    driver.journal.close()

    assert [event for event, _ in read_journal(storage)] == [an_event(1.0), an_event(2.0)]
