"""Scripts that start at once, each with a Prefect server of its own, on a home that has no database yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "from tune_core.engine.server.server import start_own_server; print(start_own_server().api_url)"


def test_servers_that_start_at_once_on_a_fresh_home_all_live(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "home")}
    environment.pop("PREFECT_API_URL", None)

    scripts = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    printed = [script.communicate(timeout=400)[0] for script in scripts]

    assert [script.returncode for script in scripts] == [0] * 4
    assert len({*printed}) == 4
    assert all(url.startswith("http://127.0.0.1:") for url in printed)
