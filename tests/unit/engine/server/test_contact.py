"""How long clients wait for a Prefect server that does not answer: a transport stands for the server."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import httpx
import pytest

from tests.support.clocks import Clock
from tune_core.engine.server.contact import SILENCE_S, Contact, ServerSilent

URL = "http://server.example/api"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def contact(clock: Clock) -> Contact:
    return Contact(URL, clock)


def client_of(
    contact: Contact, answer: Callable[[httpx.Request], httpx.Response], tries_for_s: float = math.inf
) -> httpx.Client:
    """A client with the contact's settings, and no retries of its own: a test tries again."""
    options = contact.options(tries_for_s=tries_for_s)
    return httpx.Client(**options, base_url=URL, timeout=60.0, transport=httpx.MockTransport(answer))


def ok(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200)


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def test_server_may_be_silent_for_as_long_as_trials_run(contact: Contact, clock: Clock) -> None:
    with client_of(contact, refuse) as client:
        request = client.build_request("GET", "/")
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                client.send(request)
            clock.now += 3600

    assert contact.left_s == math.inf


def test_server_is_given_up_when_it_has_been_silent_for_long_after_the_last_trial(
    contact: Contact, clock: Clock
) -> None:
    with client_of(contact, refuse) as client:
        with pytest.raises(httpx.ConnectError):
            client.get("/")
        clock.now += 3600
        contact.end()
        assert contact.left_s == SILENCE_S  # what was silent before gets another chance
        with pytest.raises(httpx.ConnectError):
            client.get("/")
        clock.now += SILENCE_S
        assert contact.left_s == 0

        with pytest.raises(ServerSilent, match=URL):
            client.get("/")


def test_server_that_nobody_asks_is_not_silent(contact: Contact, clock: Clock) -> None:
    contact.end()
    clock.now += 3600

    with client_of(contact, ok) as client:
        assert client.get("/").status_code == 200
    clock.now += 3600
    assert contact.left_s == SILENCE_S


def test_request_is_not_tried_again_when_the_next_pause_would_be_too_long(
    contact: Contact, clock: Clock
) -> None:
    contact.end()
    with client_of(contact, refuse) as client:
        request = client.build_request("GET", "/")
        for pause_s in (2, 4, 8):  # as Prefect's client does
            with pytest.raises(httpx.ConnectError):
                client.send(request)
            clock.now += pause_s

        with pytest.raises(ServerSilent):  # 16 s more are not left
            client.send(request)


def test_no_request_waits_longer_than_the_server_may_be_silent(contact: Contact) -> None:
    limits = []

    def look(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"]["read"])
        return httpx.Response(200)

    with client_of(contact, look) as client:
        client.get("/")
        contact.end()
        client.get("/")

    assert limits == [60.0, SILENCE_S]


@pytest.mark.parametrize(
    ("status", "answers"), [(200, True), (404, True), (500, True), (502, False), (503, False)]
)
def test_what_stands_in_front_of_a_server_does_not_answer_for_it(
    contact: Contact, clock: Clock, status: int, answers: bool
) -> None:
    contact.end()
    with client_of(contact, lambda _: httpx.Response(status)) as client:
        client.get("/")
    clock.now += 5

    assert contact.left_s == (SILENCE_S if answers else SILENCE_S - 5)


def test_writer_that_tries_again_itself_is_not_kept_by_its_client(contact: Contact, clock: Clock) -> None:
    with client_of(contact, refuse, tries_for_s=5) as client:
        request = client.build_request("GET", "/")
        for pause_s in (2, 4):
            with pytest.raises(httpx.ConnectError):
                client.send(request)
            clock.now += pause_s
        with pytest.raises(ServerSilent):
            client.send(request)

        with pytest.raises(httpx.ConnectError):
            client.get("/")


def test_each_absence_is_told_once(
    contact: Contact, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)

    for _ in range(2):
        contact.lost(OSError("no route"))
        contact.lost(OSError("no route"))
        contact.answered()

    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 2
    assert f"{URL} does not answer (no route)" in told[0]
