"""Views: what they draw, and that they leave their place as they found it."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.logging import RichHandler

from tune_core.progress_reporter.terminal import (
    LineView,
    NotebookView,
    Row,
    Snapshot,
    TerminalView,
    new_console,
    open_view,
    print_lines,
    print_table,
)

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


def a_row(**values: Any) -> Row:
    known: dict[str, Any] = {
        "trial_id": "abcde_00000",
        "status": "RUNNING",
        "iteration": "3",
        "seconds": "12.3",
        "scores": ("0.5",),
        "params": "lr=0.1",
        "error": "",
    }
    return Row(**known | values)


def a_snapshot(*rows: Row) -> Snapshot:
    return Snapshot("2 trials: 1 running", rows or (a_row(),), 0, "best: abcde_00000", ("waiting: no GPU",))


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("TERM", "xterm")
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=100, height=40)


@pytest.fixture
def pipe() -> Console:
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def view(console: Console) -> Iterator[TerminalView]:
    view = open_view(console, ["loss"])
    assert isinstance(view, TerminalView)
    yield view
    view.close()


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


# Lines and tables.


def test_a_line_is_printed_as_it_is(pipe: Console) -> None:
    url = f"http://127.0.0.1:4200/{'x' * 200}"

    print_lines(pipe, [f"see {url}", "[bold]no markup[/bold] :smile:", "a\x1b[31mb\tc\x07"])

    assert written(pipe) == f"see {url}\n[bold]no markup[/bold] :smile:\na [31mb c \n"


def test_a_table_has_only_the_columns_that_it_needs(pipe: Console) -> None:
    print_table(pipe, Snapshot("", (a_row(scores=(), params=""),)), ())
    short = written(pipe).split()
    print_table(pipe, Snapshot("", (a_row(error="boom"),)), ["loss"])

    assert short[:6] == ["trial", "status", "iter", "time", "(s)", short[5]]
    assert short[6:] == ["abcde_00000", "RUNNING", "3", "12.3"]
    assert written(pipe).split()[-4:] == ["12.3", "0.5", "lr=0.1", "boom"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_a_table_never_is_wider_than_its_place(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    row = a_row(params="lr=0.1 " * 40, error="ValueError: " + "x" * 300)

    print_table(console, Snapshot("", (row, a_row())), ["validation/loss"])

    lines = written(console).splitlines()
    assert all(len(line) <= width for line in lines)
    assert len(lines) == 4  # titles, a rule, and two trials


def test_a_narrow_table_cuts_parameters_and_errors_first() -> None:
    console = Console(file=io.StringIO(), width=80)
    row = a_row(params="lr=0.1 " * 40, error="ValueError: " + "x" * 300)

    print_table(console, Snapshot("", (row,)), ["loss"])

    assert re.search(r"abcde_00000 +RUNNING +3 +12.3 +0.5 +lr=0.1.*… +ValueError: x+…", written(console))


def test_an_output_that_knows_ascii_only_is_given_ascii() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=60)

    print_lines(console, ["größer …"])
    print_table(console, Snapshot("", (a_row(params="größe=1 " * 20),)), ["loss"])
    console.file.flush()

    assert raw.getvalue().startswith(b"gr??er ?\n")
    assert b"gr??e=1" in raw.getvalue()


# Pipes and files.


def test_a_pipe_gets_lines(pipe: Console) -> None:
    view = open_view(pipe, ["loss"])

    view.show(a_snapshot())
    view.close()

    assert isinstance(view, LineView)
    assert view.interval_s == 30
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d 2 trials: 1 running; best: abcde_00000; waiting: no GPU\n", written(pipe)
    )


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), force_terminal=True)

    assert isinstance(open_view(console, ()), LineView)


def test_a_pipe_whose_reader_has_gone_ends_the_output_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    console = new_console()

    print_lines(console, ["one"])
    print_lines(console, ["two"])

    assert console.quiet


def test_a_pipe_is_wide_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = new_console().width
    monkeypatch.setenv("COLUMNS", "50")

    assert wide == 120
    assert new_console().width == 50


# Terminals.


def test_a_terminal_shows_the_latest_snapshot_and_then_wipes_it(console: Console, view: TerminalView) -> None:
    view.show(a_snapshot(a_row(trial_id="first")))
    view.show(a_snapshot(a_row(trial_id="second")))
    view.close()

    assert "second" in written(console)
    assert "waiting: no GPU" in written(console)
    assert written(console).rstrip().endswith("\x1b[2K")


def test_the_cursor_is_hidden_while_the_view_is_open_only(console: Console, view: TerminalView) -> None:
    assert written(console).count(HIDE) == 1
    assert SHOW not in written(console)

    view.close()

    assert written(console).count(SHOW) == 1


def test_closing_twice_is_closing_once(console: Console, view: TerminalView) -> None:
    view.close()
    before = written(console)
    view.close()

    assert written(console) == before


def test_standard_streams_are_given_back(console: Console) -> None:
    before = sys.stdout, sys.stderr
    view = open_view(console, ())
    print("from a trial")
    print("a complaint", file=sys.stderr)
    view.close()

    assert (sys.stdout, sys.stderr) == before
    assert "from a trial\na complaint\n" in plain(written(console))


def test_a_small_terminal_shows_fewer_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=100, height=14)
    view = open_view(console, ())

    view.show(a_snapshot(*(a_row(trial_id=f"trial_{n}") for n in range(20))))
    view.close()

    shown = plain(written(console))
    assert "trial_4" in shown
    assert "trial_5" not in shown
    assert "… and 15 more trials" in shown


def test_a_second_view_of_the_process_gets_lines(view: TerminalView, console: Console) -> None:
    while_open = open_view(console, ())
    view.close()
    afterwards = open_view(console, ())
    afterwards.close()

    assert isinstance(while_open, LineView)
    assert isinstance(afterwards, TerminalView)


@pytest.mark.parametrize("kind", [logging.StreamHandler, RichHandler])
def test_log_handlers_print_above_the_view_and_are_given_back(
    console: Console, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler(terminal)
    if kind is RichHandler:
        handler.console = Console(file=terminal)  # type: ignore[attr-defined]  # as Prefect's handler has one
    logger = logging.getLogger("tests.terminal")
    logger.addHandler(handler)
    try:
        view = open_view(console, ())
        logger.warning("while it is open")
        inside = terminal.getvalue()
        view.close()
        logger.warning("afterwards")
    finally:
        logger.removeHandler(handler)

    assert inside == ""
    assert "while it is open\n" in plain(written(console))
    assert terminal.getvalue() == "afterwards\n"
    if kind is RichHandler:
        assert handler.console.file is terminal  # type: ignore[attr-defined]


def test_a_view_works_in_a_thread(console: Console) -> None:
    def run() -> None:
        view = open_view(console, ())
        view.show(a_snapshot())
        view.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)

    assert "abcde_00000" in written(console)
    assert written(console).count(SHOW) == 1


# Notebooks.


class FakeHandle:
    def __init__(self) -> None:
        self.shown: list[Any] = []

    def update(self, renderable: Any) -> None:
        self.shown.append(renderable)


def test_a_notebook_redraws_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle()

    def display(renderable: Any, *, display_id: bool) -> FakeHandle:
        assert display_id
        handle.update(renderable)
        return handle

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    view = open_view(Console(force_jupyter=True), ["loss"])

    view.show(a_snapshot())
    view.show(a_snapshot(a_row(trial_id="second")))
    view.close()

    assert isinstance(view, NotebookView)
    drawn = [shown._repr_mimebundle_([], [])["text/plain"] for shown in handle.shown]
    assert ["abcde_00000" in drawn[0], "second" in drawn[1], drawn[2].strip()] == [True, True, ""]


def test_a_notebook_view_that_showed_nothing_closes_quietly() -> None:
    NotebookView(()).close()
