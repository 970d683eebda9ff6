"""The Prefect server that a run uses: the configured one, its parent's, or one started for it.

Ray workers must never start servers of their own (each would write to another database), so
`prefect_server` always ends in a URL that flow and workers share. A server that is started
here listens on loopback, tells its UI pages where it is, and ends with this process, however
that ends: it watches a pipe that only this process holds open.
"""

from __future__ import annotations

import atexit
import gc
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from tune_core.errors import TuneError

if TYPE_CHECKING:
    from sqlalchemy import Result
    from sqlalchemy.orm import ORMExecuteState

#: How long a new server may take; a fresh database on a busy machine has been seen to need a minute.
START_TIMEOUT_S = 180.0
#: How long the state of a task run may wait in a server that is started here for others to be written with, in seconds.
RECORD_EVERY_S = 0.2
#: Where a server that is started here creates many artifacts with one request: see `flows.bulk_artifacts`.
BULK_ARTIFACTS = "/prefect-tune/artifacts"
#: How often the server looks for garbage: a request makes thousands of objects, and hardly any cycle.
_GC_THRESHOLDS = (20_000, 20, 50)


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
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        return PrefectServer(settings.api.url, settings.ui_url, is_ours=False)
    if FlowRunContext.get() or TaskRunContext.get():
        # The parent run lives in the temporary server of this process: its subflow has to as well.
        from prefect.server.api.server import SubprocessASGIServer

        parent = SubprocessASGIServer()
        if parent.running:
            return PrefectServer(parent.api_url, None, is_ours=False)
    return start_own_server()


def client_options(api_url: str | None, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return `httpx_settings` for a client of this API.

    One that speaks plain HTTP is spared the certificates of the world: to load them takes longer than a short trial.
    """
    options: dict[str, Any] = {"headers": dict(headers or {})}
    if api_url is not None and api_url.startswith("http://"):
        options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return options


_own: tuple[PrefectServer, subprocess.Popen[bytes], IO[bytes]] | None = None
_own_lock = threading.Lock()


def start_own_server() -> PrefectServer:
    """Start a server for this process, or return the one that was started before."""
    global _own  # noqa: PLW0603 - one server a process
    with _own_lock:
        if _own is not None and _own[1].poll() is None:
            return _own[0]
        port = _free_port()
        output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal must not end it before the flow has
            env={
                # Prefect's own default writes each state of a task run by itself.
                # Together they cost a third of that; those that come alone wait for `RECORD_EVERY_S`.
                "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "30",
                # Nobody waits for the feed of events; by default it is written every five seconds, or 20 events.
                "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *_python_path()]),
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
        _own = (server, process, output)
        return server


def is_own_server(api_url: str | None) -> bool:
    """Whether this is the API of a server that this process has started."""
    with _own_lock:
        return _own is not None and _own[0].api_url == api_url


def stop_own_server() -> None:
    """End the server that this process started, if it did; returns when it is gone."""
    global _own  # noqa: PLW0603
    with _own_lock:
        if _own is None:
            return
        _, process, output = _own
        _own = None
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


def _serve(port: int) -> None:
    """Run the server in this process until the pipe on standard input is closed."""
    import uvicorn
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    from flows.bulk_artifacts import create_app_with_bulk

    _record_soon()
    event.listen(Session, "do_orm_execute", _insert_rows_apart)
    gc.freeze()  # what is imported stays: nothing need look for garbage in it
    gc.set_threshold(*_GC_THRESHOLDS)
    config = uvicorn.Config(
        create_app_with_bulk,
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        lifespan="on",
        ws_per_message_deflate=False,
    )
    server = uvicorn.Server(config)

    def watch() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        # A page that is still open, or a request that hangs, must not keep the server.
        threading.Timer(8.0, os._exit, (1,)).start()

    threading.Thread(target=watch, daemon=True).start()
    with _spared_services():
        server.run()
    os._exit(0)


def _spared_services() -> AbstractContextManager[Any]:
    """Run no service that has nothing to do, unless the environment says so.

    To hold every event against no automation takes a fifth of what a short trial costs a server.
    """
    from prefect.settings import PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED, temporary_settings

    if PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED.name in os.environ or _may_have_automations():
        return nullcontext()
    return temporary_settings({PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED: False})


def _may_have_automations() -> bool:
    """Whether there is an automation in this server's database; True if that cannot be told."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
    from sqlalchemy.engine import make_url

    url = make_url(PREFECT_API_DATABASE_CONNECTION_URL.value())
    if url.get_backend_name() != "sqlite" or not url.database:
        return True
    if not Path(url.database).exists():
        return False  # it is about to be made
    try:
        with closing(sqlite3.connect(f"file:{quote(url.database)}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT name FROM sqlite_master WHERE name = 'automation'").fetchone()
            return found is not None and database.execute("SELECT 1 FROM automation").fetchone() is not None
    except sqlite3.Error:
        return True


def _record_soon() -> None:
    """Write states of task runs that come alone after `RECORD_EVERY_S`: Prefect cuts its setting to whole seconds."""
    from prefect.server.services import task_run_recorder

    stock = task_run_recorder.consumer

    def consumer(**options: Any) -> AbstractAsyncContextManager[Any]:
        return stock(**options | {"flush_every": RECORD_EVERY_S})

    task_run_recorder.consumer = consumer  # type: ignore[assignment] # it is called with keywords alone


def _insert_rows_apart(state: ORMExecuteState) -> Result[Any] | None:
    """Have many rows inserted by a statement of one row that is executed for each of them.

    Prefect writes `INSERT … VALUES (…), (…), …`, which SQLAlchemy compiles anew for each number of rows. That, and
    to look up each of their columns in the ORM, takes as long as all else about an insertion.
    """
    statement: Any = state.statement
    if not state.is_insert or not statement._multi_values or statement._returning:
        return None
    one = statement._clone()
    one._multi_values = ()
    rows = [
        {column.key: value for column, value in row.items()}
        for rows in statement._multi_values
        for row in rows
    ]
    return state.session.execute(one, rows, execution_options={"dml_strategy": "raw"})


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
