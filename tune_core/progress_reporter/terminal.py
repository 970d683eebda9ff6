"""Where progress is shown: a terminal, a notebook, or lines in a pipe or a file.

Knows texts only, nothing of trials. Whatever a view changes (cursor, standard streams,
log handlers) is as it was once the view is closed. rich is imported when something is printed.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

#: Columns of a pipe or a file, unless the environment variable COLUMNS says otherwise.
_PIPE_WIDTH = 120
#: Lines around the table of the live view.
_FRAME_LINES = 9
#: Two live views would draw over each other: the first one of the process has the terminal.
_terminal = threading.Lock()


@dataclass(frozen=True, slots=True)
class Row:
    """One trial as a table shows it, in short texts."""

    trial_id: str
    status: str
    iteration: str
    seconds: str
    scores: tuple[str, ...]
    params: str
    error: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is shown of all trials at one moment: made in the experiment's loop, drawn anywhere.

    Attributes:
        summary: One line: how many trials are where.
        rows: Trials, in the order to show them.
        omitted: Number of trials without a row.
        best: One line about the best trial, or the best by each metric; empty if there is none.
        waiting: Lines about trials that cannot start yet.
    """

    summary: str
    rows: tuple[Row, ...] = ()
    omitted: int = 0
    best: str = ""
    waiting: tuple[str, ...] = ()


class View(Protocol):
    """A place that shows snapshots until it is closed."""

    #: Least number of seconds between two snapshots.
    interval_s: float
    #: Whether the first one is shown at once.
    is_eager: bool

    def show(self, snapshot: Snapshot) -> None:
        """Show a snapshot, instead of the one before where the place can do that."""

    def close(self) -> None:
        """Leave the place as it was found."""


def new_console() -> Console:
    """Return a console on the standard output that survives the end of its reader."""
    from rich.console import Console

    class LastingConsole(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True  # rich would end the process, and with it the experiment

    console = LastingConsole(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def open_view(console: Console, metrics: Sequence[str]) -> View:
    """Return the best view that the console's output allows.

    Args:
        console: Where to show.
        metrics: Names of the columns of what trials are compared by.
    """
    if console.is_jupyter:
        return NotebookView(metrics)
    can_redraw = console.is_terminal and console.is_interactive and not console.is_dumb_terminal
    if can_redraw and _terminal.acquire(blocking=False):
        try:
            return TerminalView(console, metrics)
        except BaseException:
            _terminal.release()
            raise
    return LineView(console)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print texts as they are, wrapped by the terminal only, so that URLs stay whole."""
    for line in lines:
        console.print(_text(line, console.encoding), soft_wrap=True)


def print_table(console: Console, snapshot: Snapshot, metrics: Sequence[str]) -> None:
    """Print the rows of a snapshot as a table that fits the width."""
    console.print(_table(snapshot.rows, metrics, console.encoding))


class LineView:
    """Prints the summary as a line, rarely: for pipes, files and logs."""

    interval_s = 30.0
    is_eager = False

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, snapshot: Snapshot) -> None:
        """Print a line with the time."""
        parts = (snapshot.summary, snapshot.best, *snapshot.waiting)
        line = f"{time.strftime('%H:%M:%S')} {'; '.join(filter(None, parts))}"
        print_lines(self._console, [line])

    def close(self) -> None:
        """Do nothing: lines stay."""


class NotebookView:
    """Redraws one output of a notebook's cell."""

    interval_s = 1.0
    is_eager = True

    def __init__(self, metrics: Sequence[str]) -> None:
        self._metrics = metrics
        self._handle: Any = None

    def show(self, snapshot: Snapshot) -> None:
        """Draw a snapshot in place of the one before."""
        from rich.panel import Panel

        self._draw(Panel(_group(snapshot, self._metrics, "utf-8"), expand=False))

    def close(self) -> None:
        """Empty the output: the final table follows it."""
        if self._handle is not None:
            self._draw(_text("", "utf-8"))

    def _draw(self, renderable: Any) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(renderable, display_id=True)
        else:
            self._handle.update(renderable)


class TerminalView:
    """A live table at the end of the terminal; whatever else is printed scrolls by above it.

    It is drawn in a thread of its own. Until it is closed, at the interpreter's exit if need be,
    the standard streams and the log handlers that write to them go through the console.
    """

    interval_s = 0.25
    is_eager = True

    def __init__(self, console: Console, metrics: Sequence[str]) -> None:
        from rich.live import Live

        self._console = console
        self._metrics = metrics
        self._snapshot = Snapshot("")
        streams = (sys.stdout, sys.stderr)
        self._live = Live(
            console=console,
            get_renderable=self._renderable,
            refresh_per_second=1 / self.interval_s,
            transient=True,
            vertical_overflow="crop",
        )
        self._live.start()
        self._handlers = list(_redirect_handlers(streams, _AboveTheView(console)))
        atexit.register(self.close)

    def show(self, snapshot: Snapshot) -> None:
        """Have a snapshot drawn at the next refresh."""
        self._snapshot = snapshot

    def close(self) -> None:
        """Wipe the table, show the cursor, give streams and log handlers back."""
        if not self._live.is_started:
            return
        atexit.unregister(self.close)
        try:
            for handler, stream in self._handlers:
                _point(handler, stream)
            self._live.stop()
        finally:
            _terminal.release()

    def _renderable(self) -> Group:
        room = max(3, self._console.height - _FRAME_LINES)
        return _group(self._snapshot, self._metrics, self._console.encoding, room)


class _AboveTheView(io.TextIOBase):
    """A text stream for log handlers: its lines are printed above the live view."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ""

    def write(self, text: str) -> int:
        from rich.text import Text

        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)

    def isatty(self) -> bool:
        return True  # so that handlers keep their colours


def _redirect_handlers(
    streams: tuple[TextIO, TextIO], target: io.TextIOBase
) -> Iterator[tuple[logging.StreamHandler[Any], Any]]:
    """Point every log handler that writes to one of the streams at the target; yields what to undo."""
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    loggers = [logger for logger in known if isinstance(logger, logging.Logger)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if isinstance(handler, logging.StreamHandler) and any(handler.stream is stream for stream in streams):
            yield handler, handler.stream
            _point(handler, target)


def _point(handler: logging.StreamHandler[Any], stream: Any) -> None:
    handler.setStream(stream)
    console = getattr(handler, "console", None)
    if console is not None:  # rich handlers, Prefect's among them, print through a console of their own
        console.file = stream


def _group(snapshot: Snapshot, metrics: Sequence[str], encoding: str, room: int | None = None) -> Group:
    from rich.console import Group

    rows = snapshot.rows[:room]
    omitted = snapshot.omitted + len(snapshot.rows) - len(rows)
    lines = [f"… and {omitted} more trials"] if omitted and rows else []
    lines += [line for line in (snapshot.summary, snapshot.best, *snapshot.waiting) if line]
    texts = [_cell(line, encoding) for line in lines]
    return Group(_table(rows, metrics, encoding), *texts) if rows else Group(*texts)


def _table(rows: Iterable[Row], metrics: Sequence[str], encoding: str) -> Table:
    """A table that a narrow terminal cuts at parameters and errors first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = list(rows)
    columns = [("trial", "trial_id"), ("status", "status"), ("iter", "iteration"), ("time (s)", "seconds")]
    # rich narrows columns that may wrap before others; their cells are cut all the same.
    cut_first = [(name, name) for name in ("params", "error") if any(getattr(row, name) for row in rows)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    titles = [*((title, name in _NUMBERS, True) for title, name in columns)]
    titles += [(metric, True, True) for metric in metrics]
    titles += [(title, False, False) for title, _ in cut_first]
    for title, is_number, is_whole in titles:
        table.add_column(_cell(title, encoding), justify="right" if is_number else "left", no_wrap=is_whole)
    for row in rows:
        shown = [getattr(row, name) for _, name in columns]
        shown += [*row.scores[: len(metrics)], *(getattr(row, name) for _, name in cut_first)]
        table.add_row(*(_cell(text, encoding) for text in shown), style=_STYLES.get(row.status))
    return table


_NUMBERS = frozenset(("iteration", "seconds"))
_STYLES = {"RUNNING": "bold", "ERROR": "red", "PENDING": "dim", "PAUSED": "dim"}


def _cell(content: str, encoding: str) -> Text:
    """A text that is cut where it does not fit."""
    cell = _text(content, encoding)
    has_ellipsis = encoding.lower().startswith("utf")
    cell.no_wrap, cell.overflow = True, "ellipsis" if has_ellipsis else "crop"
    return cell


def _text(content: str, encoding: str) -> Text:
    """A text that is shown as it is: no markup, no control characters, nothing the output cannot encode."""
    from rich.text import Text

    shown = "".join(char if char.isprintable() else " " for char in content)
    return Text(shown.encode(encoding, "replace").decode(encoding))
