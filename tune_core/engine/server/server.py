"""The Prefect server that a run uses: the configured one, its parent's, or one started for it.

Ray workers must never start servers of their own (each would write to another database), so
`prefect_server` always ends in a URL that flow and workers share. A server that is started
here listens on loopback, tells its UI pages where it is, and ends with this process, however
that ends: it watches a pipe that only this process holds open.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tune_core.errors import TuneError

#: How long a new server may take; a fresh database on a busy machine has been seen to need a minute.
START_TIMEOUT_S = 180.0
#: Settings of a server that is started here, unless the environment has them.
SERVER_SETTINGS = {
    # Prefect's own default writes each state of a task run by itself: together they cost a third of that. Those that
    # come alone wait for this many seconds, of which Prefect takes whole ones only.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "30",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # Nobody waits for the feed of events; by default it is written every five seconds, or 20 events.
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
}

logger = logging.getLogger("prefect.tune")


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A Prefect API that flow and workers can reach.

    Attributes:
        api_url: Ends in `/api`.
        ui_url: Where its pages are; None if this server has no UI.
        is_ours: Whether this process started it, and will end it.
    """

    api_url: str
    ui_url: str | None
    is_ours: bool

    def flow_run_url(self, flow_run_id: object) -> str | None:
        """Return the page of a flow run."""
        return f"{self.ui_url}/runs/flow-run/{flow_run_id}" if self.ui_url else None


def prefect_server() -> PrefectServer:
    """Return the server to use here; start one if none is configured.

    Raises:
        TuneError: The server that was started does not answer; the message holds its output.
    """
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        return PrefectServer(settings.api.url, settings.ui_url, is_ours=False)
    if FlowRunContext.get() or TaskRunContext.get():
        # The parent run lives in the temporary server of this process, which Prefect gives every client without a
        # URL: its subflow has to live there as well.
        with get_client(sync_client=True) as client:
            return PrefectServer(str(client.api_url).rstrip("/"), None, is_ours=False)
    return start_own_server()


def client_options(api_url: str | None, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return `httpx_settings` for a client of this API.

    One that speaks plain HTTP is spared the certificates of the world: to load them takes longer than a short trial.
    """
    options: dict[str, Any] = {"headers": dict(headers or {})}
    if api_url is not None and api_url.startswith("http://"):
        options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return options


@contextmanager
def unlogged_requests(api_url: str | None) -> Iterator[None]:
    """Keep requests to a server out of logs of level INFO: there are some each second."""

    def is_other(record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        return record.levelno > logging.INFO or not any(
            str(each).startswith(f"{api_url}/") for each in arguments
        )

    httpx = logging.getLogger("httpx")
    httpx.addFilter(is_other)
    try:
        yield
    finally:
        httpx.removeFilter(is_other)


_own: tuple[PrefectServer, subprocess.Popen[bytes], IO[bytes]] | None = None
_own_lock = threading.Lock()
#: Waits until that server has recorded what the latest experiment told it.
_wait_until_recorded: Callable[[], None] | None = None


def start_own_server() -> PrefectServer:
    """Start a server for this process, or return the one that was started before."""
    global _own  # noqa: PLW0603 - one server a process
    with _own_lock:
        if _own is not None and _own[1].poll() is None:
            return _own[0]
        server, process, output = _started()
        _own = (server, process, output)
        return server


def _started() -> tuple[PrefectServer, subprocess.Popen[bytes], IO[bytes]]:
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_HOME

    from tune_core.engine.server.migrations import migrations_apart

    with migrations_apart(PREFECT_HOME.value(), PREFECT_API_DATABASE_CONNECTION_URL.value()):
        port = _free_port()
        output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        process = subprocess.Popen(
            [sys.executable, "-m", "tune_core.engine.server.server_process", str(port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal must not end it before the flow has
            env={
                **SERVER_SETTINGS,
                # Prefect's own default lets the pages of any site read and change everything here.
                "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *_python_path()]),
                "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            },
        )
        atexit.register(stop_own_server)
        try:
            _wait_until_healthy(port, process)
        except BaseException as error:
            process.kill()
            process.wait()
            output.seek(0)
            text = output.read().decode(errors="replace")[-2000:]
            output.close()
            if isinstance(error, TuneError):
                raise TuneError(f"{error}; its output ends in: {text}") from None
            raise
        server = PrefectServer(f"http://127.0.0.1:{port}/api", f"http://127.0.0.1:{port}", is_ours=True)
        return server, process, output


def is_own_server(api_url: str | None) -> bool:
    """Whether this is the API of a server that this process has started."""
    with _own_lock:
        return _own is not None and _own[0].api_url == api_url


def before_own_server_stops(wait_until_recorded: Callable[[], None]) -> None:
    """Have the server that this process started record what it was told before it ends.

    Args:
        wait_until_recorded: Returns when it has, or after some seconds. Only the latest is called: a server records in
            the order in which it was told.
    """
    global _wait_until_recorded  # noqa: PLW0603
    _wait_until_recorded = wait_until_recorded


def stop_own_server() -> None:
    """End the server that this process started, if it did; returns when it is gone."""
    global _own, _wait_until_recorded  # noqa: PLW0603
    with _own_lock:
        if _own is None:
            return
        _, process, output = _own
        _own = None
    wait_until_recorded, _wait_until_recorded = _wait_until_recorded, None
    if wait_until_recorded is not None and process.poll() is None:
        try:
            wait_until_recorded()
        except Exception as error:  # noqa: BLE001 - the server ends all the same
            logger.warning("the Prefect server may end without the last states of task runs: %s", error)
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    output.close()


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TuneError(f"the Prefect server ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TuneError(f"the Prefect server did not answer on port {port} within {START_TIMEOUT_S:.0f} s")
