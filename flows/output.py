"""Where the output of a trial goes: its task run's log, and files if the user wants them.

`print` and `logging` are forwarded from every thread of the trial's process: Prefect's own
`log_prints` sees only the task's thread. When `forwarded_output` is left, the server has all of it,
unless it does not answer: the process may be killed as soon as it is idle.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.logging.handlers import APILogHandler
from prefect.settings import get_current_settings

#: How long lines wait for others, and at the end of a trial for the server, in seconds.
SEND_INTERVAL_S, SEND_TIMEOUT_S = 0.5, 5.0
#: Lines of one request.
_BATCH = 500
#: Loggers whose records are not forwarded: sending a record logs again, and storage is not the user's.
_NOT_FORWARDED = frozenset(
    {"prefect", "httpx", "httpcore", "websockets", "asyncio", "urllib3", "ray", "botocore", "aiobotocore"}
)

logger = logging.getLogger("prefect.tune.output")


@contextmanager
def forwarded_output(
    flow_run_id: UUID | None,
    task_run_id: UUID | None,
    files: tuple[Path, Path] | None,
    *,
    prints: bool = True,
) -> Iterator[None]:
    """Send what this process prints and logs to a task run's log, and to files for stdout and stderr.

    Without `prints`, what is printed goes nowhere else: Ray shows a process's own output on the terminal.
    """
    with ExitStack() as stack:
        copies: list[TextIO | None] = [None, None]
        if files is not None:
            copies = [stack.enter_context(path.open("a", encoding="utf-8", buffering=1)) for path in files]
        printed = logging.getLogger("print")
        printed.setLevel(logging.INFO)
        printed.propagate = False
        root = logging.getLogger()
        is_wanted = get_current_settings().logging.to_api.enabled
        if flow_run_id is not None and task_run_id is not None and is_wanted:
            handler = _TaskRunLog(flow_run_id, task_run_id)
            stack.callback(handler.close)
            for forwarded in (root, printed):
                forwarded.addHandler(handler)
                stack.callback(forwarded.removeHandler, handler)
            # As a script's `logging.basicConfig(level="INFO")` would, which does nothing where there are handlers.
            stack.callback(root.setLevel, root.level)
            root.setLevel(min(root.level, logging.INFO))
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout = _Lines(stdout, printed, copies[0], passes_on=prints)
        stack.callback(_put_back, "stdout", stdout)
        if copies[1] is not None:
            sys.stderr = _Lines(stderr, None, copies[1])
            stack.callback(_put_back, "stderr", stderr)
        yield


def _put_back(name: str, stream: TextIO) -> None:
    getattr(sys, name).flush()
    setattr(sys, name, stream)


class _TaskRunLog(APILogHandler):
    """Sends records to the log of a task run, in batches, from a thread of its own.

    Prefect's own worker waits for two seconds, in which a process may die, and can be hurried only
    by ending it.
    """

    def __init__(self, flow_run_id: UUID, task_run_id: UUID) -> None:
        super().__init__()
        self._client = get_client(sync_client=True)  # that of the task run's context
        self._waiting: list[dict[str, Any]] = []
        self._sender: threading.Thread | None = None
        self._is_closing = threading.Event()

        def tag(record: logging.LogRecord) -> bool:
            if record.name.partition(".")[0] in _NOT_FORWARDED:
                return False
            record.flow_run_id, record.task_run_id = flow_run_id, task_run_id
            return True

        self.addFilter(tag)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.append(self.prepare(record))
        except Exception:  # noqa: BLE001 - logging never fails its caller
            self.handleError(record)
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_until_closed, name="tune-log", daemon=True)
            self._sender.start()

    def flush(self) -> None:
        """Return at once: `close` is what sends the rest."""

    def close(self) -> None:
        """Send what waits; give up after `SEND_TIMEOUT_S`."""
        self._is_closing.set()
        if self._sender is not None:
            self._sender.join(SEND_TIMEOUT_S)
        super().close()

    def _send_until_closed(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_closing.wait(SEND_INTERVAL_S)
            self.acquire()  # `emit` runs under it
            logs, self._waiting = self._waiting, []
            self.release()
            for start in range(0, len(logs), _BATCH):
                self._send(logs[start : start + _BATCH])

    def _send(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            log.pop("__payload_size__", None)
        try:
            self._client.create_logs(logs)
        except Exception as error:  # noqa: BLE001 - a trial does not fail for its log
            logger.warning("%d lines did not get into the task run's log: %s", len(logs), error)


class _Lines(io.TextIOBase):
    """A stream that passes everything on, and hands whole lines to a logger and a file."""

    def __init__(
        self, stream: TextIO, logger: logging.Logger | None, copy: TextIO | None, *, passes_on: bool = True
    ) -> None:
        self._stream, self._logger, self._copy, self._passes_on = stream, logger, copy, passes_on
        self._rest = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        if self._passes_on:
            self._stream.write(text)
        if self._copy is not None:
            self._copy.write(text)
        if self._logger is not None:
            with self._lock:
                *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                if line.strip():
                    self._logger.info(line)
        return len(text)

    def flush(self) -> None:
        with self._lock:
            rest, self._rest = self._rest, ""
        if rest.strip() and self._logger is not None:
            self._logger.info(rest)
        for stream in (self._stream, self._copy):
            if stream is not None:
                stream.flush()

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def fileno(self) -> int:
        return self._stream.fileno()
