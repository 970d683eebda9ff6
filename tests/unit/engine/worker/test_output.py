"""Where the output of a trial goes: its task run's log, files, and what Ray shows of the process's own output."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tune_core.engine.server.server import unlogged_requests
from tune_core.engine.worker.output import TrialLog, forwarded_output

URL = "http://127.0.0.1:4200/api"


@contextmanager
def console() -> Iterator[io.StringIO]:
    """What the process shows: stdout, and a handler at the root as Prefect's or `basicConfig`'s."""
    shown = io.StringIO()
    root, handler = logging.getLogger(), logging.StreamHandler(shown)
    level, before = root.level, root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    try:
        with redirect_stdout(shown):
            yield shown
    finally:
        root.handlers[:] = before
        root.setLevel(level)


@pytest.fixture
def sent() -> list[str]:
    return []


@pytest.fixture
def log(sent: list[str]) -> TrialLog:
    return TrialLog(lambda record: record.getMessage(), sent.extend)


def test_printed_lines_are_shown_with_their_trial_and_logged_and_kept_without(
    log: TrialLog, sent: list[str], tmp_path: Path
) -> None:
    files = (tmp_path / "stdout", tmp_path / "stderr")

    with console() as shown, forwarded_output(log, files, name="a1b2c_00001"):
        print("one\ntwo")
        print("half", end="")
        print(" a line")
        print("no end", end="")

    assert shown.getvalue() == (
        "a1b2c_00001: one\na1b2c_00001: two\na1b2c_00001: half a line\na1b2c_00001: no end"
    )
    assert sent == ["one", "two", "half a line", "no end"]
    assert files[0].read_text() == "one\ntwo\nhalf a line\nno end"


def test_silent_trial_shows_neither_what_it_prints_nor_why_it_failed(log: TrialLog, sent: list[str]) -> None:
    with console() as shown, forwarded_output(log, None, prints=False, name="a1b2c_00001"):
        print("printed")
        logging.getLogger("trial").error("failed")

    assert shown.getvalue() == ""
    assert sorted(sent) == ["failed", "printed"]
    assert logging.getLogger("trial").propagate


def test_log_has_more_than_is_shown(log: TrialLog, sent: list[str]) -> None:
    chatty = logging.getLogger("chatty")
    chatty.setLevel(logging.INFO)
    try:
        with console() as shown:
            with forwarded_output(log, None):
                logging.getLogger("mine").info("info")
                logging.getLogger("mine").warning("warning")
                logging.getLogger("trial").error("failed")
                logging.getLogger("chatty.part").info("asked for")
                logging.getLogger("httpx").info("HTTP Request: POST %s", f"{URL}/logs/")
            logging.getLogger("mine").info("after")
    finally:
        chatty.setLevel(logging.NOTSET)

    assert shown.getvalue().splitlines() == ["warning", "failed", "asked for"]
    assert sent == ["info", "warning", "failed", "asked for"]


def test_requests_to_the_server_are_not_logged_and_others_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    httpx = logging.getLogger("httpx")

    def ask(url: str, level: int = logging.INFO) -> None:
        arguments: tuple[Any, ...] = ("POST", url, 200)
        httpx.log(level, "HTTP Request: %s %s %d", *arguments)

    with unlogged_requests(URL):
        ask(f"{URL}/logs/")
        ask("http://elsewhere/api/logs/")
        ask(f"{URL}/logs/", logging.WARNING)
        httpx.info("no arguments")
    ask(f"{URL}/after/")

    assert [record.getMessage() for record in caplog.records] == [
        "HTTP Request: POST http://elsewhere/api/logs/ 200",
        f"HTTP Request: POST {URL}/logs/ 200",
        "no arguments",
        f"HTTP Request: POST {URL}/after/ 200",
    ]


# Streams, put back whatever a trial did to them.


class WithoutFlush:
    def write(self, text: str) -> int:
        return len(text)


class Broken(WithoutFlush):
    def flush(self) -> None:
        raise RuntimeError("broken")

    def __repr__(self) -> str:
        raise RuntimeError("broken as well")


def closed() -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (WithoutFlush(), "AttributeError: 'WithoutFlush' object has no attribute 'flush'"),
        (Broken(), "<Broken, whose repr() raised RuntimeError>, could not be flushed"),
        (closed(), "ValueError: I/O operation on closed file"),
        (None, ""),
    ],
)
def test_stream_that_a_trial_leaves_broken_is_put_back(
    stream: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = sys.stdout

    with caplog.at_level(logging.WARNING), forwarded_output(None, None):
        sys.stdout = stream

    assert sys.stdout is before
    assert said in caplog.text


def test_trial_ends_with_its_own_error_though_its_stream_is_broken() -> None:
    def train() -> None:
        with forwarded_output(None, None):
            sys.stdout = WithoutFlush()  # type: ignore[assignment]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
