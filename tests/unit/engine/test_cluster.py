"""How a process gets its Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune_core.config.run_config import RunConfig
from tune_core.engine import cluster

ROOT = Path(__file__).resolve().parents[3]


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


def test_a_test_that_starts_ray_joins_none_that_runs_on_the_machine(tmp_path: Path) -> None:
    cluster_file = tmp_path / "ray" / "ray_current_cluster"  # as `ray start` leaves it
    cluster_file.parent.mkdir()
    cluster_file.write_text("10.0.0.1:6379")
    probe = tmp_path / "test_probe.py"
    probe.write_text(
        "from ray._private.services import canonicalize_bootstrap_address\n"
        "def test_it():\n"
        "    assert canonicalize_bootstrap_address(None) is None\n"
    )
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    of_a_developer = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_TMPDIR": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        str(probe),
    ]

    ran = subprocess.run(
        command,
        env={**os.environ, **of_a_developer},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout
