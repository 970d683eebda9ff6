"""Threads, and several trials in one process."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import tune_core as tune
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import a_session
from tune_core.errors import NotInTrial
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session_binding import bind, current_session
from tune_core.training.uplink import Report


def test_reports_of_several_threads_are_numbered_one_by_one(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink)

    with bind(session), ThreadPoolExecutor(8) as pool:
        for _ in range(200):
            pool.submit(tune.report, {"loss": 1})

    assert [report.iteration for report in uplink.reports] == list(range(1, 201))


def test_thread_that_a_trainable_starts_reports_to_its_trial(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    with bind(a_session(local, uplink)):
        thread = threading.Thread(target=tune.report, args=({"loss": 1},))
        thread.start()
        thread.join()

    assert len(uplink.rows) == 1


def in_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_thread_that_was_left_behind_reports_to_no_later_trial(local: ExperimentStorage) -> None:
    uplinks = FakeUplink(), FakeUplink()
    with ThreadPoolExecutor(1) as left_behind, ThreadPoolExecutor(1) as unused:
        with bind(a_session(local, uplinks[0])):
            left_behind.submit(tune.report, {"loss": 1}).result()
            unused.submit(int).result()  # it lives, and has not asked for its session
        with bind(a_session(local, uplinks[1], trial_id="next")):
            with pytest.raises(
                NotInTrial, match="trial a1b2c_00000 has ended, and this thread still reports"
            ):
                left_behind.submit(tune.report, {"loss": 2}).result()
            with pytest.raises(NotInTrial, match="was started before trial next began"):
                unused.submit(tune.report, {"loss": 2}).result()
            assert left_behind.submit(lambda: tune.get_context().get_trial_id()).result() == "a1b2c_00000"
            tune.report({"loss": 3})
        with pytest.raises(NotInTrial, match="has ended"):
            left_behind.submit(tune.report, {"loss": 4}).result()

    assert [[row["loss"] for row in uplink.rows] for uplink in uplinks] == [[1], [3]]


def test_end_waits_for_a_report_that_is_under_way(local: ExperimentStorage, uplink: FakeUplink) -> None:
    is_sending, may_send = threading.Event(), threading.Event()

    def send_slowly(_: Report) -> None:
        is_sending.set()
        assert may_send.wait(10)

    uplink.on_send = send_slowly
    session = a_session(local, uplink)
    reporting = threading.Thread(target=session.report, args=({"loss": 1},))
    reporting.start()
    assert is_sending.wait(10)
    ending = threading.Thread(target=session.end)
    ending.start()
    may_send.set()
    ending.join(10)
    reporting.join(10)

    assert len(uplink.rows) == 1
    with pytest.raises(NotInTrial):
        session.report({"loss": 2})


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_process_is_told_that_it_cannot_report(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink)
    read, write = os.pipe()
    with ThreadPoolExecutor(1) as other:
        other.submit(session._lock.acquire).result()
        child = os.fork()
        if child == 0:
            try:
                session.report({"loss": 1})
            except NotInTrial as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        other.submit(session._lock.release).result()
    os.close(write)
    said = b"".join(iter(lambda: os.read(read, 4096), b"")).decode()
    os.close(read)
    os.waitpid(child, 0)

    assert f"in process {child}, which was forked from that of trial a1b2c_00000, {os.getpid()}" in said
    assert "Queue" in said
    assert uplink.rows == []


def test_thread_without_context_belongs_to_no_trial_where_there_are_several(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    first, second = a_session(local, uplink), a_session(local, uplink)

    with bind(first), bind(second):
        context = contextvars.copy_context()
        assert in_thread(current_session) is None
        assert in_thread(lambda: context.run(current_session)) is second
        assert current_session() is second


def test_sessions_may_end_in_any_order(local: ExperimentStorage, uplink: FakeUplink) -> None:
    first, second = a_session(local, uplink), a_session(local, uplink)
    is_bound, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with bind(first):
            is_bound.set()
            may_end.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    is_bound.wait(10)
    with bind(second):
        may_end.set()
        thread.join()
        assert in_thread(current_session) is second

    assert current_session() is None
    assert in_thread(current_session) is None
