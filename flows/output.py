"""Where the output of a trial goes: its task run's log, and files if the user wants them.

`print` and `logging` are forwarded from every thread of the trial's process: Prefect's own
`log_prints` sees only the task's thread.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO
from uuid import UUID

from prefect.logging.handlers import APILogHandler

#: Loggers whose records must not go to the API handler: sending a record logs again.
_NOT_FORWARDED = frozenset({"prefect", "httpx", "httpcore", "websockets", "asyncio", "urllib3", "ray"})


@contextmanager
def forwarded_output(
    flow_run_id: UUID | None, task_run_id: UUID | None, files: tuple[Path, Path] | None
) -> Iterator[None]:
    """Send what this process prints and logs to a task run's log, and to files for stdout and stderr."""
    with ExitStack() as stack:
        copies: list[TextIO | None] = [None, None]
        if files is not None:
            copies = [stack.enter_context(path.open("a", encoding="utf-8", buffering=1)) for path in files]
        printed = logging.getLogger("print")
        printed.setLevel(logging.INFO)
        printed.propagate = False
        root = logging.getLogger()
        if flow_run_id is not None and task_run_id is not None:
            handler = _task_run_handler(flow_run_id, task_run_id)
            for logger in (root, printed):
                logger.addHandler(handler)
                stack.callback(logger.removeHandler, handler)
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout = _Lines(stdout, printed, copies[0])
        stack.callback(_put_back, "stdout", stdout)
        if copies[1] is not None:
            sys.stderr = _Lines(stderr, None, copies[1])
            stack.callback(_put_back, "stderr", stderr)
        yield


def _put_back(name: str, stream: TextIO) -> None:
    getattr(sys, name).flush()
    setattr(sys, name, stream)


def _task_run_handler(flow_run_id: UUID, task_run_id: UUID) -> logging.Handler:
    handler = APILogHandler()

    def tag(record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] in _NOT_FORWARDED:
            return False
        record.flow_run_id, record.task_run_id = flow_run_id, task_run_id
        return True

    handler.addFilter(tag)
    return handler


class _Lines(io.TextIOBase):
    """A stream that passes everything on, and hands whole lines to a logger and a file."""

    def __init__(self, stream: TextIO, logger: logging.Logger | None, copy: TextIO | None) -> None:
        self._stream, self._logger, self._copy = stream, logger, copy
        self._rest = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
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
