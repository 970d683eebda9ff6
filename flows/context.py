"""Prefect's context of a flow run, entered in a process that is not the flow's."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import SettingsContext, SyncClientContext, hydrated_context
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_LOGGING_MARKUP, Settings
from prefect.settings.legacy import Setting

from flows.server import client_options, unlogged_requests


def remember_settings() -> None:
    """Have a setting looked up once in a `Settings` object: for each task run Prefect does so eighty times.

    For a process of ours alone, or one that runs many task runs: what somebody changes within such an object is not
    seen. Prefect has a new object for each change.
    """
    stock = Setting.value_from

    def value_from(self: Setting, settings: Settings) -> Any:
        known: tuple[Settings, Any] | None = self.__dict__.get("_tune_known")
        if known is None or known[0] is not settings:
            known = self.__dict__["_tune_known"] = (settings, stock(self, settings))
        return known[1]

    Setting.value_from = value_from  # type: ignore[method-assign]


def write_plain_lines() -> None:
    """Have Prefect's console handlers write their lines as they are: Rich takes a millisecond to find no terminal."""
    if not (sys.stderr.isatty() or PREFECT_LOGGING_MARKUP.value()):
        PrefectConsoleHandler.emit = logging.StreamHandler.emit  # type: ignore[method-assign]


def show_news_only() -> None:
    """Keep off this process's own output what is said elsewhere.

    What Prefect's engine says of a task run is in its log: of a trial that has failed, the traceback twice more, with
    the frames of Prefect around it. That the server does not answer is said by the driver.
    """

    def is_news(record: logging.LogRecord) -> bool:
        if record.name == "prefect.events.clients" or record.name.startswith("prefect._internal.concurrency"):
            return False
        return not (record.name == "prefect.task_runs" and record.module == "task_engine")

    for logger in (logging.getLogger(), logging.getLogger("prefect._internal")):
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
