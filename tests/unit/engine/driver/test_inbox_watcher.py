"""The thread of a driver that looks for requests and writes the answers; it needs neither Prefect nor Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.support.waiting import wait_for
from tune_core.control.journal import claim
from tune_core.encoding import loads
from tune_core.engine.driver.inbox_watcher import InboxWatch, Requested
from tune_core.errors import StorageError
from tune_core.steering import inbox
from tune_core.steering.inbox import PauseExperiment, Reply, StopTrial, post, reply_to
from tune_core.storage.experiment_storage import ExperimentStorage


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "POLL_LOCAL_S", 0.005)


@pytest.fixture
def storage(tmp_path: Path) -> ExperimentStorage:
    made = ExperimentStorage.open(tmp_path, "exp")
    claim(made, "a1b2c", {"host": "here"}, lambda _: False)
    return made


Posted = SimpleQueue[Requested]


@pytest.fixture
def posted() -> Posted:
    return SimpleQueue()


@pytest.fixture
def watch(storage: ExperimentStorage, posted: Posted) -> InboxWatch:
    return InboxWatch(storage, "a1b2c", posted.put)


def test_requests_are_posted_once_in_their_order_and_answered(
    storage: ExperimentStorage, posted: Posted, watch: InboxWatch
) -> None:
    first, second = post(storage, StopTrial("1")), post(storage, PauseExperiment())

    assert posted.get(timeout=10) == Requested(first, StopTrial("1"))
    assert posted.get(timeout=10) == Requested(second, PauseExperiment())
    watch.answer(second, Reply(True, "done"), {"num_samples": 7})
    watch.close()

    assert posted.empty()
    assert reply_to(storage, first) is None
    assert reply_to(storage, second) == Reply(True, "done")
    assert loads(storage.read("experiment.json")) == {"num_samples": 7}


def test_what_comes_too_late_or_reached_nobody_is_refused_at_the_end(
    storage: ExperimentStorage, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "POLL_LOCAL_S", 600.0)  # it looks at its start, and when it is closed
    taken = post(storage, StopTrial("1"))
    watch = InboxWatch(storage, "a1b2c", posted.put)
    assert posted.get(timeout=10).request_id == taken
    late = post(storage, StopTrial("2"))

    watch.refusal = "the experiment has ended: enough"
    watch.close()

    assert posted.empty()
    assert reply_to(storage, late) == Reply(False, "the experiment has ended: enough")
    assert reply_to(storage, taken) == Reply(False, "the experiment has ended: enough")


def test_what_an_interrupted_driver_did_not_take_is_left_for_the_next_one(
    storage: ExperimentStorage, posted: Posted, watch: InboxWatch
) -> None:
    watch.close()
    request_id = post(storage, StopTrial("2"))

    again = InboxWatch(storage, "a1b2c", posted.put)

    assert posted.get(timeout=10) == Requested(request_id, StopTrial("2"))
    again.close()


def failing(times: int, call: Callable[..., object]) -> Callable[..., object]:
    left = iter(range(times))

    def fail(*args: object) -> object:
        if next(left, None) is not None:
            raise StorageError("the storage is away")
        return call(*args)

    return fail


def test_storage_that_is_away_is_asked_again(
    storage: ExperimentStorage, posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = post(storage, StopTrial("2"))
    monkeypatch.setattr(storage, "list", failing(3, storage.list))

    watch = InboxWatch(storage, "a1b2c", posted.put)

    assert posted.get(timeout=10).request_id == request_id
    watch.close()


def test_answer_that_the_storage_refuses_is_written_later(
    storage: ExperimentStorage, watch: InboxWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "create", failing(3, storage.create))
    ids = [f"0000000000000000000{number}-0123456789ab" for number in (1, 2)]

    for number, request_id in enumerate(ids):
        watch.answer(request_id, Reply(True, "done"), {"num_samples": number})
    last = wait_for(lambda: reply_to(storage, ids[-1]), "the last answer", 10, interval_s=0.005)
    watch.close()

    assert last == reply_to(storage, ids[0]) == Reply(True, "done")
    assert loads(storage.read("experiment.json")) == {"num_samples": 1}


def test_accepted_request_is_not_refused_at_the_end_when_its_answer_could_not_be_written(
    storage: ExperimentStorage,
    posted: Posted,
    watch: InboxWatch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request_id = post(storage, StopTrial("3"))
    assert posted.get(timeout=10).request_id == request_id

    create = storage.create

    def refuses_one(name: str, data: bytes) -> None:
        if b"trial 3 ends" in data:
            raise StorageError("the storage is away")
        create(name, data)

    monkeypatch.setattr(storage, "create", refuses_one)
    watch.answer(request_id, Reply(True, "trial 3 ends"))
    watch.refusal = "the experiment has ended: enough"
    watch.close()

    assert reply_to(storage, request_id) is None
    assert "was handled (trial 3 ends), but not answered" in caplog.text
