"""Where the output of a trial goes: its task run's log, and files if the user wants them.

`print` and `logging` are forwarded from every thread of the trial's process: Prefect's own
`log_prints` sees only the task's thread. When `forwarded_output` is left, all of it was sent,
unless nobody takes it: the process may be killed as soon as it is idle.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

#: How long lines wait for others, and at the end of a trial to be sent, in seconds.
SEND_INTERVAL_S, SEND_TIMEOUT_S = 0.5, 5.0
#: Lines that are sent at once.
_BATCH = 500
#: Loggers whose records are not forwarded: sending a record logs again, and storage is not the user's.
_NOT_FORWARDED = frozenset(
    {"prefect", "httpx", "httpcore", "websockets", "asyncio", "urllib3", "ray", "botocore", "aiobotocore"}
)

logger = logging.getLogger("prefect.tune.output")


@contextmanager
def forwarded_output(
    log: TrialLog | None, files: tuple[Path, Path] | None, *, prints: bool = True
) -> Iterator[None]:
    """Send what this process prints and logs to a task run's log, and to files for stdout and stderr.

    Without `prints`, what is printed goes nowhere else: Ray shows a process's own output on the terminal.

    Args:
        log: The task run's; it has sent everything when this is left. None: there is none.
        files: Where stdout and stderr are appended to.
        prints: Whether the process's own stdout gets what is printed, too.
    """
    with ExitStack() as stack:
        copies: list[TextIO | None] = [None, None]
        if files is not None:
            copies = [stack.enter_context(path.open("a", encoding="utf-8", buffering=1)) for path in files]
        printed = logging.getLogger("print")
        printed.setLevel(logging.INFO)
        printed.propagate = False
        root = logging.getLogger()
        if log is not None:
            stack.callback(log.finish)
            for forwarded in (root, printed):
                forwarded.addHandler(log)
                stack.callback(forwarded.removeHandler, log)
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


class TrialLog(logging.Handler):
    """Sends records to the log of a task run, in batches, from a thread of its own.

    Prefect's own worker waits for two seconds, in which a process may die, and can be hurried only
    by ending it.

    Args:
        prepare: Returns what is sent of a record.
        send: Sends some; what it raises costs them, and a warning.
    """

    def __init__(
        self, prepare: Callable[[logging.LogRecord], Any], send: Callable[[list[Any]], None]
    ) -> None:
        super().__init__()
        self._prepare, self._send = prepare, send
        self._waiting: list[Any] = []
        self._sender: threading.Thread | None = None
        self._is_finishing = threading.Event()
        self.addFilter(lambda record: record.name.partition(".")[0] not in _NOT_FORWARDED)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record sent soon."""
        try:
            self._waiting.append(self._prepare(record))
        except Exception:  # noqa: BLE001 - logging never fails its caller
            self.handleError(record)
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_until_finished, name="tune-log", daemon=True)
            self._sender.start()

    def finish(self) -> None:
        """Send what waits; give up after `SEND_TIMEOUT_S`."""
        self._is_finishing.set()
        if self._sender is not None:
            self._sender.join(SEND_TIMEOUT_S)

    def send_now(self, records: Iterable[logging.LogRecord]) -> None:
        """Send records at once; whatever sending them raises is raised here."""
        self._send([self._prepare(record) for record in records])

    def _send_until_finished(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_finishing.wait(SEND_INTERVAL_S)
            self.acquire()  # `emit` runs under it
            waiting, self._waiting = self._waiting, []
            self.release()
            for start in range(0, len(waiting), _BATCH):
                some = waiting[start : start + _BATCH]
                try:
                    self._send(some)
                except Exception as error:  # noqa: BLE001 - a trial does not fail for its log
                    logger.warning("%d lines did not get into the task run's log: %s", len(some), error)


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
