"""Prefect's context of a flow run, entered in a process that is not the flow's."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import SettingsContext, SyncClientContext, hydrated_context
from prefect.logging.handlers import APILogWorker, PrefectConsoleHandler
from prefect.settings import PREFECT_LOGGING_MARKUP

from tune_core.engine.prefect_private import CONNECTIONS, INTERNAL, SERVICES
from tune_core.engine.server.server import client_options, unlogged_requests


def write_plain_lines() -> None:
    """Put plain handlers in the place of Prefect's for the console: Rich takes a millisecond to find no terminal."""
    if sys.stderr.isatty() or PREFECT_LOGGING_MARKUP.value():
        return
    names = [name for name in list(logging.Logger.manager.loggerDict) if name.startswith("prefect")]
    for logger in (logging.getLogger(), *map(logging.getLogger, names)):
        for handler in [each for each in logger.handlers if isinstance(each, PrefectConsoleHandler)]:
            logger.removeHandler(handler)
            logger.addHandler(_plain(handler))


def _plain(handler: PrefectConsoleHandler) -> logging.Handler:
    """Return a handler that writes the lines of Prefect's as they are."""
    plain = logging.StreamHandler(handler.stream)
    plain.setLevel(handler.level)
    plain.setFormatter(handler.formatter)
    for each in handler.filters:
        plain.addFilter(each)
    return plain


def show_news_only() -> None:
    """Keep what is said elsewhere off this process's own output.

    What Prefect's engine says of a task run is in its log: of a trial that has failed, the traceback twice more, with
    the frames of Prefect around it. That the server does not answer is said by the driver.
    """

    def is_news(record: logging.LogRecord) -> bool:
        if record.name == "prefect.events.clients" or record.name.startswith(CONNECTIONS):
            return False
        return not (record.name == "prefect.task_runs" and record.module == "task_engine")

    for logger in (logging.getLogger(), logging.getLogger(INTERNAL)):
        for handler in logger.handlers:
            handler.addFilter(is_news)


def enter_context(stack: ExitStack, settings: SettingsContext, context: dict[str, Any]) -> None:
    """Enter a context that another process has serialized; the stack leaves it.

    Args:
        stack: Of the thread that the context is for.
        settings: The settings, which travel beside it.
        context: What Prefect's `serialize_context` returned.
    """
    stack.enter_context(settings)
    stack.enter_context(unlogged_requests(settings.settings.api.url))
    # One for everything here, made inside the settings, so that it goes to the flow run's server.
    client = get_client(sync_client=True, httpx_settings=client_options(settings.settings.api.url))
    stack.enter_context(SyncClientContext.model_construct(client=client))
    stack.enter_context(hydrated_context(context, client=client))


def send_what_waits(timeout_s: float) -> None:
    """Send what was logged and emitted here; Prefect does so every two seconds, and may have less time than that.

    Args:
        timeout_s: How long to wait at most.
    """
    workers = [logging.getLogger(name) for name in SERVICES]
    levels = [each.level for each in workers]
    for each in workers:
        each.setLevel(logging.ERROR)  # they warn of each item that is still there as they are told to end
    try:
        # It ends all of Prefect's workers: the next use starts one again.
        APILogWorker.drain_all(timeout=timeout_s)
    finally:
        for each, level in zip(workers, levels, strict=True):
            each.setLevel(level)
