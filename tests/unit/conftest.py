"""The unit tier talks to nobody and waits for nothing."""

from __future__ import annotations

import socket
import time
from typing import Any, NoReturn

import pytest


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
