"""The journal: groups, the fence between drivers, damage, and storage that refuses for a while."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from tune_core.control import journal as journal_module
from tune_core.control import segments as segments_module
from tune_core.control.journal import Journal, claim
from tune_core.control.messages import (
    AttemptEnded,
    CompleteTrial,
    Event,
    ExperimentStarted,
    SearchEnded,
    SegmentsGivenUp,
    Suggest,
    TrialReported,
    TrialSuggested,
    event_to_dict,
)
from tune_core.control.segments import (
    Segment,
    encode_segment,
    read_journal,
    read_segment,
    segment_before,
    segment_numbers,
)
from tune_core.encoding import dumps, loads
from tune_core.errors import ExperimentConflict, JournalDamaged, StorageError
from tune_core.states import Outcome
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.faults import Fault, FaultyFileSystem

OWNER = {"host": "here", "pid": 1}
OTHER = {"host": "there", "pid": 2}
PATIENCE_S = 10.0


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ExperimentStorage:
    root = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    return ExperimentStorage.open(root, "experiment")


@pytest.fixture
def local(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path, "experiment")


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are written because a test says so, not because a second has gone by."""
    monkeypatch.setattr(journal_module, "FLUSH_INTERVAL_S", 3600.0)


class Driver:
    """A journal, and what it has told its driver."""

    def __init__(self, storage: ExperimentStorage, owner: dict[str, Any] = OWNER, **changes: Any) -> None:
        self.flushed: list[dict[tuple[str, int], int]] = []
        self.failures: list[Exception] = []
        self.has_flushed, self.has_failed = threading.Event(), threading.Event()
        number = changes.pop("number", None) or claim(storage, "a1b2c", owner, lambda _: False)
        self.journal = Journal(
            storage,
            changes.pop("experiment_id", "a1b2c"),
            owner,
            number,
            on_flushed=changes.pop("on_flushed", self.on_flushed),
            on_failure=self.on_failure,
        )

    def on_flushed(self, iterations: dict[tuple[str, int], int]) -> None:
        self.flushed.append(iterations)
        self.has_flushed.set()

    def on_failure(self, error: Exception) -> None:
        self.failures.append(error)
        self.has_failed.set()


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    """Drivers that are closed after the test, however it ends."""
    made: list[Driver] = []
    yield made
    for driver in made:
        try:
            driver.journal.close()
        except (StorageError, ExperimentConflict, ArithmeticError):
            assert driver.failures


@pytest.fixture
def a_driver(drivers: list[Driver]) -> Callable[..., Driver]:
    def make(*args: Any, **kwargs: Any) -> Driver:
        drivers.append(Driver(*args, **kwargs))
        return drivers[-1]

    return make


ADriver = Callable[..., Driver]


def an_event(time: float = 0.0) -> Event:
    return ExperimentStarted(time, capacity=1)


def a_report(iteration: int, trial_id: str = "t0", attempt_number: int = 1) -> Event:
    return TrialReported(0.0, trial_id, attempt_number, iteration, {"loss": 0.5})


def segments(storage: ExperimentStorage) -> list[Segment]:
    return [read_segment(storage, number) for number in segment_numbers(storage)]


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
