"""What Prefect is spared in a process that runs many task runs: the outcome is the same."""

from __future__ import annotations

import io
import logging

import pytest
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_LOGGING_MARKUP, temporary_settings
from prefect.settings.legacy import Setting

from tune_core.engine.prefect_context import write_plain_lines


def lines_of(handler: logging.Handler) -> str:
    handler.setFormatter(logging.Formatter("%(levelname)-7s | %(message)s"))
    for message in (
        "Finished in state Completed()",
        "a [bold]line[/bold] of " + 200 * "letters ",
        "two\nlines",
    ):
        handler.emit(logging.LogRecord("prefect.task_runs", logging.INFO, "", 0, message, None, None))
    assert isinstance(handler, logging.StreamHandler)
    assert isinstance(handler.stream, io.StringIO)
    return handler.stream.getvalue()


@pytest.mark.parametrize("is_marked_up", [False, True])
def test_plain_lines_are_those_that_rich_writes_where_there_is_no_terminal(*, is_marked_up: bool) -> None:
    logger = logging.getLogger("prefect.test_context")
    of_prefect = PrefectConsoleHandler(io.StringIO())
    of_prefect.setLevel(logging.INFO)
    of_prefect.addFilter(lambda record: "unwanted" not in record.getMessage())
    before = {name: logging.getLogger(name).handlers[:] for name in ("", "prefect")}
    logger.addHandler(of_prefect)
    try:
        with temporary_settings({PREFECT_LOGGING_MARKUP: is_marked_up}):
            of_rich = lines_of(PrefectConsoleHandler(io.StringIO()))

            write_plain_lines()

        (handler,) = logger.handlers
        assert (handler is of_prefect) is is_marked_up
        if not is_marked_up:
            assert lines_of(handler) == of_rich
            assert handler.level == logging.INFO
            unwanted = logging.LogRecord("prefect", logging.INFO, "", 0, "unwanted", None, None)
            assert not handler.filter(unwanted)
    finally:
        logger.handlers.clear()
        for name, handlers in before.items():
            logging.getLogger(name).handlers[:] = handlers


def test_no_part_of_prefect_is_another_one_after_it() -> None:
    before = PrefectConsoleHandler.emit, Setting.value_from

    write_plain_lines()

    assert (PrefectConsoleHandler.emit, Setting.value_from) == before
