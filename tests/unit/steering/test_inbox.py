"""Requests on their way to a running experiment, and the answers on their way back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.control.journal import Journal, claim
from tune_core.encoding import dumps, loads
from tune_core.errors import ConfigError, NotSteered, StorageError
from tune_core.steering.inbox import (
    DIRECTORY,
    REQUESTS,
    AddConfiguration,
    ChangeSpace,
    Inbox,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Reply,
    Request,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
    post,
    reply_to,
    request_from_dict,
    request_to_dict,
    send,
)
from tune_core.storage.experiment_storage import ExperimentStorage

EACH: list[Request] = [
    PauseTrial("a1b2c_00001"),
    ResumeTrial("a1b2c_00001"),
    StopTrial("1"),
    PauseExperiment(),
    ResumeExperiment(),
    StopExperiment("enough"),
    AddConfiguration({"lr": float("inf"), "net": {"sizes": (1, 2)}}),
    RaiseNumSamples(7),
    LoosenStop({"training_iteration": 9}),
    ChangeSpace({"lr": {"choice": [1, 2]}}),
]


@pytest.fixture
def storage(tmp_path: Path) -> ExperimentStorage:
    """An experiment that somebody drives."""
    made = ExperimentStorage.open(tmp_path, "exp")
    claim(made, "a1b2c", {"host": "here", "pid": 4711}, lambda _: False)
    return made


def driven(inbox: Inbox, answer: Callable[[Request], Reply]) -> Callable[[float], None]:
    """Return a `sleep` in which a driver answers what has come."""

    def turn(_: float) -> None:
        for request_id, request in inbox.poll():
            inbox.answer(request_id, answer(request))

    return turn


def end(storage: ExperimentStorage, number: int = 1) -> None:
    """Close the journal, as a driver does at the end."""
    journal = Journal(
        storage, "a1b2c", {"host": "here"}, number, on_flushed=lambda _: None, on_failure=lambda _: None
    )
    journal.close()


def test_every_request_is_tried_here() -> None:
    assert {type(each) for each in EACH} == set(REQUESTS.values())


@pytest.mark.parametrize("request_", EACH, ids=lambda each: type(each).__name__)
def test_request_arrives_as_it_was_sent(storage: ExperimentStorage, request_: Request) -> None:
    assert request_from_dict(loads(dumps(request_to_dict(request_)))) == request_

    request_id = post(storage, request_)

    assert [*Inbox(storage, "a1b2c").poll()] == [(request_id, request_)]


def test_requests_arrive_once_and_in_their_order(storage: ExperimentStorage) -> None:
    inbox = Inbox(storage, "a1b2c")
    ids = [post(storage, RaiseNumSamples(count)) for count in range(1, 9)]

    assert [*inbox.poll()] == [(each, RaiseNumSamples(count)) for count, each in enumerate(ids, 1)]
    assert [*inbox.poll()] == []
    later = post(storage, PauseExperiment())
    assert [*inbox.poll()] == [(later, PauseExperiment())]


def test_requests_before_one_that_the_storage_withholds_are_not_lost(
    storage: ExperimentStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(storage, "a1b2c")
    first, second = post(storage, StopTrial("1")), post(storage, StopTrial("2"))
    read = storage.read

    def reads_the_first(name: str) -> bytes:
        if second in name:
            raise StorageError("the storage is away")
        return read(name)

    found: list[tuple[str, Request]] = []
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read", reads_the_first)
        with pytest.raises(StorageError):
            found.extend(inbox.poll())

    assert found == [(first, StopTrial("1"))]
    assert [*inbox.poll()] == [(second, StopTrial("2"))]


def test_answer_comes_back(storage: ExperimentStorage) -> None:
    sleep = driven(Inbox(storage, "a1b2c"), lambda request: Reply(False, f"{request} is too late"))

    assert send(storage, StopTrial("3"), sleep=sleep) == Reply(False, "StopTrial(trial_id='3') is too late")


def test_storage_that_is_away_for_a_while_does_not_end_the_waiting(
    storage: ExperimentStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, answers = storage.read, driven(Inbox(storage, "a1b2c"), lambda _: Reply(True, "done"))
    times = iter(range(3))

    def comes_back(name: str) -> bytes:
        if name.endswith(".reply.json") and next(times, None) is not None:
            raise StorageError("the storage is away")
        return read(name)

    monkeypatch.setattr(storage, "read", comes_back)

    assert send(storage, StopTrial("3"), sleep=answers) == Reply(True, "done")
    times = iter(range(9))
    with pytest.raises(StorageError, match="is away"):
        send(storage, StopTrial("4"), 0.0)


def test_steer_finds_the_experiment_by_its_path(storage: ExperimentStorage, tmp_path: Path) -> None:
    with pytest.raises(NotSteered, match=r"exp .*pid 4711.* has not answered within 0 s.*The request stays"):
        tune.steer(tmp_path / "exp", PauseExperiment(), timeout_s=0)


def test_first_answer_stands(storage: ExperimentStorage) -> None:
    request_id = post(storage, PauseExperiment())
    for message in ("first", "second"):
        Inbox(storage, "a1b2c").answer(request_id, Reply(True, message))

    assert reply_to(storage, request_id) == Reply(True, "first")


def test_next_driver_takes_what_the_one_before_left_unanswered(storage: ExperimentStorage) -> None:
    before = Inbox(storage, "a1b2c")
    answered, unanswered = post(storage, StopTrial("1")), post(storage, StopTrial("2"))
    assert len([*before.poll()]) == 2
    before.answer(answered, Reply(True, "done"))

    assert [*Inbox(storage, "a1b2c").poll()] == [(unanswered, StopTrial("2"))]


def test_request_without_an_answer_stays_and_says_where(storage: ExperimentStorage) -> None:
    clock = itertools.count(step=10.0)

    with pytest.raises(NotSteered, match=r"delete .*/inbox/\d{20}-\w{12}\.json to withdraw it"):
        send(storage, StopTrial("2"), 25.0, clock=lambda: next(clock), sleep=lambda _: None)

    assert [request for _, request in Inbox(storage, "a1b2c").poll()] == [StopTrial("2")]


def test_withdrawn_request_is_not_carried_out(storage: ExperimentStorage) -> None:
    request_id = post(storage, StopTrial("2"))
    storage.delete(f"{DIRECTORY}/{request_id}.json")

    assert [*Inbox(storage, "a1b2c").poll()] == []


def test_experiment_that_is_not_there_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(NotSteered, match="holds no experiment"):
        tune.steer(tmp_path / "none", PauseExperiment())

    assert not (tmp_path / "none").exists()


def test_experiment_that_has_ended_is_not_asked(storage: ExperimentStorage, tmp_path: Path) -> None:
    end(storage)

    with pytest.raises(NotSteered, match="has ended, or was interrupted"):
        tune.steer(tmp_path / "exp", PauseExperiment())

    assert storage.list(DIRECTORY) == []


def test_experiment_that_ends_meanwhile_is_named_as_such(storage: ExperimentStorage) -> None:
    times = iter([0.0, 0.0, 99.0])

    with pytest.raises(NotSteered, match="has closed its journal meanwhile"):
        send(storage, PauseExperiment(), clock=lambda: next(times), sleep=lambda _: end(storage))


def test_request_to_an_earlier_experiment_of_the_name_is_refused(storage: ExperimentStorage) -> None:
    request_id = post(storage, StopTrial("2"))

    assert [*Inbox(storage, "fffff").poll()] == []

    reply = reply_to(storage, request_id)
    assert reply is not None
    assert not reply.accepted
    assert "meant for experiment a1b2c" in reply.message


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"half a li", "cannot be read"),
        (b'{"format": 2}', "format=2: this version of prefect-tune reads 1"),
        (b'{"format": 1, "experiment_id": "a1b2c", "request": "Explode"}', "request='Explode': expected one"),
        (b'{"format": 1, "experiment_id": "a1b2c", "request": "StopTrial"}', "trial_id"),
        (b'{"format": 1, "experiment_id": "a1b2c", "request": "StopTrial", "trial_id": 3}', "trial_id=3"),
        (b"[]", "cannot be read"),
        (b'{"format": 1, "x": ' + 9999 * b"[" + 9999 * b"]" + b"}", "cannot be read"),
    ],
)
def test_file_that_is_no_request_is_refused_and_harms_nobody(
    storage: ExperimentStorage, data: bytes, fault: str
) -> None:
    request_id = "00000000000000000001-0123456789ab"
    storage.create(f"{DIRECTORY}/{request_id}.json", data)
    storage.create(f"{DIRECTORY}/notes.txt", b"mine")
    good = post(storage, PauseExperiment())

    assert [*Inbox(storage, "a1b2c").poll()] == [(good, PauseExperiment())]

    reply = reply_to(storage, request_id)
    assert reply is not None
    assert not reply.accepted
    assert fault in reply.message


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: PauseTrial(""), "trial_id=''"),
        (lambda: StopTrial(3), "trial_id=3"),
        (lambda: StopExperiment(None), "reason=None"),
        (lambda: AddConfiguration([1]), "expected a dict"),
        (lambda: AddConfiguration({"act": object}), "what JSON can hold"),
        (lambda: RaiseNumSamples(0), "num_samples=0"),
        (lambda: RaiseNumSamples(True), "num_samples=True"),
        (lambda: LoosenStop(20), "expected a dict of metric and bound"),
        (lambda: ChangeSpace({}), "expected a dict of a parameter's name"),
        (lambda: ChangeSpace({"lr": 0.1}), "expected a sampler"),
        (lambda: ChangeSpace({"act": {"choice": [print, len]}}), "values that JSON can hold"),
        (lambda: LoosenStop({"loss": "low"}), "expected a finite number"),
    ],
)
def test_wrong_value_is_refused_before_anything_is_sent(make: Callable[[], Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        make()


def test_steer_refuses_what_is_no_request(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="request='stop': expected one of PauseTrial"):
        tune.steer(tmp_path, "stop")  # type: ignore[arg-type]


def test_inbox_looks_less_often_on_a_remote_storage(storage: ExperimentStorage) -> None:
    remote = ExperimentStorage.open("memory://runs", "exp")

    assert Inbox(storage, "a1b2c").poll_s < Inbox(remote, "a1b2c").poll_s
