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

from tune_core.training.execution import describe_error
from tune_core.validation import shorten

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
    log: TrialLog | None, files: tuple[Path, Path] | None, *, prints: bool = True, name: str = ""
) -> Iterator[None]:
    """Send what this process prints and logs to a task run's log, and to files for stdout and stderr.

    Args:
        log: The task run's; it has sent everything when this is left. None: there is none.
        files: Where stdout and stderr are appended to.
        prints: Whether the process's own stdout gets what is printed, too, which Ray shows on the terminal.
        name: Stands in front of each line there.
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
            stack.enter_context(_lowered(root))
            loggers = [root, printed]
            if not prints:  # else the terminal shows why a trial failed
                failures = logging.getLogger("trial")
                stack.callback(setattr, failures, "propagate", failures.propagate)
                failures.propagate = False
                loggers.append(failures)
            for forwarded in loggers:
                forwarded.addHandler(log)
                stack.callback(forwarded.removeHandler, log)
        out = _Lines(sys.stdout, printed, copies[0], passes_on=prints, prefix=f"{name}: " if name else "")
        stack.enter_context(_replaced("stdout", out))
        if copies[1] is not None:
            stack.enter_context(_replaced("stderr", _Lines(sys.stderr, None, copies[1])))
        yield


@contextmanager
def _lowered(root: logging.Logger) -> Iterator[None]:
    """Log from INFO on, as for a task run's log, while whatever showed less goes on to show less."""
    before = root.level
    if before <= logging.INFO:
        yield
        return

    def was_shown(record: logging.LogRecord) -> bool:
        return record.levelno >= before or _has_own_level(logging.getLogger(record.name))

    handlers = root.handlers[:]
    for handler in handlers:
        handler.addFilter(was_shown)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            handler.removeFilter(was_shown)


def _has_own_level(logger: logging.Logger) -> bool:
    """Whether somebody has said what this logger logs, other than for all."""
    while logger.parent is not None:
        if logger.level != logging.NOTSET:
            return True
        logger = logger.parent
    return False


@contextmanager
def _replaced(name: str, lines: _Lines) -> Iterator[None]:
    """Use a stream; at the end flush it, and whatever a trainable has put in its place."""
    before = getattr(sys, name)
    setattr(sys, name, lines)
    try:
        yield
    finally:
        left = getattr(sys, name)
        setattr(sys, name, before)
        for stream in dict.fromkeys((left, lines)):
            try:
                if stream is not None:
                    stream.flush()
            except Exception as error:  # noqa: BLE001 - of any kind, and no reason for its trial to end otherwise
                logger.warning(
                    "sys.%s of the trial, %s, could not be flushed, so the end of what it printed may be missing: %s",
                    name,
                    shorten(stream),
                    describe_error(error),
                )


class RunLog(logging.Handler):
    """Sends records to the log of a run, in batches, from a thread of its own.

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

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record sent soon."""
        try:
            self._waiting.append(self._prepare(record))
        except Exception:  # noqa: BLE001 - logging never fails its caller
            self.handleError(record)
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_until_finished, name="tune-log", daemon=True)
            self._sender.start()

    def finish(self, timeout_s: float = SEND_TIMEOUT_S) -> None:
        """Send what waits; give up after a while."""
        self._is_finishing.set()
        if self._sender is not None:
            self._sender.join(timeout_s)

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
                    # The driver says when the server does not answer, once for all trials.
                    is_outage = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
                    level = logging.DEBUG if is_outage else logging.WARNING
                    logger.log(level, "%d lines did not get into the run's log: %s", len(some), error)


class TrialLog(RunLog):
    """The log of a trial's task run: without what sending a record logs again, and what is not the user's."""

    def __init__(
        self, prepare: Callable[[logging.LogRecord], Any], send: Callable[[list[Any]], None]
    ) -> None:
        super().__init__(prepare, send)
        self.addFilter(lambda record: record.name.partition(".")[0] not in _NOT_FORWARDED)


class _Lines(io.TextIOBase):
    """A stream that passes everything on, and hands whole lines to a logger and a file."""

    def __init__(
        self,
        stream: TextIO,
        logger: logging.Logger | None,
        copy: TextIO | None,
        *,
        passes_on: bool = True,
        prefix: str = "",
    ) -> None:
        self._stream, self._logger, self._copy, self._passes_on = stream, logger, copy, passes_on
        self._prefix, self._is_at_start = prefix, True
        self._rest = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        if self._passes_on and text:
            with self._lock:
                first = self._prefix if self._is_at_start else ""
                self._is_at_start = text.endswith("\n")
                self._stream.write(first + text[:-1].replace("\n", f"\n{self._prefix}") + text[-1])
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
