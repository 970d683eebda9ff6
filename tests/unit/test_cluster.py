"""How a process gets its Ray."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from flows import cluster
from tune_core.config import RunConfig


class FakeRay:
    """A Ray that takes until several threads have asked for it to start, and refuses to start twice."""

    def __init__(self) -> None:
        self.util = SimpleNamespace(client=SimpleNamespace(ray=SimpleNamespace(is_connected=lambda: False)))
        self.started = 0
        self._is_started = False
        self._second = threading.Event()

    def is_initialized(self) -> bool:
        """Whether it has started."""
        return self._is_started

    def init(self, **_: Any) -> None:
        """Start, unless another thread comes meanwhile."""
        self.started += 1
        if self.started > 1:
            self._second.set()
            raise RuntimeError("Perhaps you called ray.init twice by accident?")
        self._second.wait(timeout=0.2)  # a second thread would come in this time
        self._is_started = True


def test_threads_that_need_ray_at_once_start_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    monkeypatch.setattr(cluster, "ray", fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    with ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(cluster.connect, RunConfig()) for _ in range(5)]
        for call in calls:
            call.result()

    assert fake.started == 1
