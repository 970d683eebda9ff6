"""A Prefect server as a user starts it, with a home and a port of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.processes import descendants
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment_of(home: Path, api_url: str | None = None, **more: str) -> dict[str, str]:
    """Return the environment of a shell in which nothing of Prefect is set but what is given."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **bare,
        "PATH": f"{BIN}{os.pathsep}{bare.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), bare.get("PYTHONPATH")))),
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        **({"PREFECT_API_URL": api_url} if api_url else {}),
        **more,
    }


def is_healthy(api_url: str) -> bool:
    """Whether the server answers."""
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def running_server(home: Path, **more: str) -> Iterator[str]:
    """Run `prefect server start`; give the URL of its API.

    Args:
        home: Of Prefect: database and log are in it.
        **more: Environment of the server.
    """
    port = free_port()
    api_url = f"http://127.0.0.1:{port}/api"
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment_of(home, PREFECT_SERVER_UI_API_URL=api_url, **more),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(
            lambda: is_healthy(api_url) or process.poll() is not None,
            "the server",
            180,
            explain=lambda: log.read_text(errors="replace")[-2000:],
        )
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        yield api_url
    finally:
        end(process)


def end(process: subprocess.Popen[Any], patience_s: float = 15.0) -> None:
    """End a process that leads a session and whatever it has started: workers put runs into sessions of their own."""
    family = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    family += [child for pid in family for child in descendants(pid)]
    for pid in (process.pid, *family):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
