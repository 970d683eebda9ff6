"""The unit tier talks to nobody and waits for nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

import tune_core as tune
from tests.support.fake_backend import ABackend, FakeBackend
from tune_core.testing.schedulers import AnsweringScheduler


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(name: str) -> Any:
        connect = getattr(socket.socket, name)

        def refuse(self: socket.socket, address: Any) -> Any:
            # Unix sockets stay: event loops wake themselves through a pair of them.
            if self.family != socket.AF_UNIX:
                raise AssertionError(f"a unit test connected to {address!r}: move it to the flows tier")
            return connect(self, address)

        return refuse

    monkeypatch.setattr(socket.socket, "connect", guarded("connect"))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded("connect_ex"))


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seconds: float) -> NoReturn:
        raise AssertionError(f"a unit test slept for {seconds} s: wait on an event, or pass in a clock")

    monkeypatch.setattr(time, "sleep", refuse)


@pytest.fixture
def a_backend() -> Iterator[ABackend]:
    """Make experiments that run on a fake backend; at the end each journal is replayed."""
    made: list[FakeBackend] = []

    def make(scheduler: Any = None, num_samples: int = 1, **options: Any) -> FakeBackend:
        config = tune.TuneConfig(scheduler=scheduler or AnsweringScheduler(), num_samples=num_samples)
        made.append(FakeBackend(config, **options).begin())
        return made[-1]

    yield make
    for backend in made:
        backend.check_replay()
