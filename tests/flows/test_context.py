"""What Prefect is spared in a process that runs many task runs: the outcome is the same."""

from __future__ import annotations

import io
import logging
from unittest.mock import Mock

import pytest
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import (
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_LOGGING_MARKUP,
    temporary_settings,
)
from prefect.settings.legacy import Setting

from flows.context import remember_settings, write_plain_lines


def test_a_setting_is_looked_up_once_in_settings_and_anew_in_others(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = Mock(side_effect=Setting.value_from)
    monkeypatch.setattr(Setting, "value_from", lambda setting, settings: look_up(setting, settings))
    remember_settings()

    with temporary_settings({PREFECT_API_URL: "http://one/api", PREFECT_API_KEY: "secret"}):
        seen = [PREFECT_API_URL.value(), PREFECT_API_URL.value(), PREFECT_API_KEY.value()]
        asked = look_up.call_count
        with temporary_settings({PREFECT_API_URL: "http://two/api"}):
            seen.append(PREFECT_API_URL.value())
        seen.append(PREFECT_API_URL.value())

    assert seen == ["http://one/api", "http://one/api", "secret", "http://two/api", "http://one/api"]
    assert asked == 2


def lines_of(handler: PrefectConsoleHandler) -> str:
    handler.setFormatter(logging.Formatter("%(levelname)-7s | %(message)s"))
    for message in (
        "Finished in state Completed()",
        "a [bold]line[/bold] of " + 200 * "letters ",
        "two\nlines",
    ):
        handler.emit(logging.LogRecord("prefect.task_runs", logging.INFO, "", 0, message, None, None))
    assert isinstance(handler.stream, io.StringIO)
    return handler.stream.getvalue()


@pytest.mark.parametrize("is_marked_up", [False, True])
def test_plain_lines_are_those_that_rich_writes_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, *, is_marked_up: bool
) -> None:
    monkeypatch.setattr(PrefectConsoleHandler, "emit", stock := PrefectConsoleHandler.emit)
    with temporary_settings({PREFECT_LOGGING_MARKUP: is_marked_up}):
        of_rich = lines_of(PrefectConsoleHandler(io.StringIO()))

        write_plain_lines()

        assert lines_of(PrefectConsoleHandler(io.StringIO())) == of_rich
        assert (PrefectConsoleHandler.emit is stock) is is_marked_up
