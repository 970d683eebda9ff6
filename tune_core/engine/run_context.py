"""What is around a flow run that `fit()` starts: Prefect's settings, its client, its console and its log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.context import SettingsContext, SyncClientContext, get_settings_context
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_CSRF_PROTECTION_ENABLED,
    Settings,
    get_current_settings,
)

from tune_core.engine.prefect_private import share_client
from tune_core.engine.server.contact import Contact
from tune_core.engine.server.server import PrefectServer
from tune_core.engine.worker.output import SEND_TIMEOUT_S, RunLog

#: The latest settings that were changed for a server: those before, what was changed, what came of it.
_changed_settings: tuple[Settings, dict[Any, Any], Settings] | None = None

#: What a flow run logs as it fails is raised out of `fit()` as well, and that the server does not answer is said once.
_SAID_OTHERWISE = ("prefect.flow_runs", "prefect.task_runs", "prefect.events.clients")


def settings_for(server: PrefectServer) -> AbstractContextManager[Any]:
    """Make Prefect talk to this server; where it does so or did so before, nothing is built: that takes 100 ms.

    A server that is started here ends with this process: nobody could hear that its heart has stopped. To
    stop the heart takes up to a second at the end of each run, so there is none. Nor has a client to ask it
    whether it wants a token with each request: it has the settings of this process.
    """
    global _changed_settings  # noqa: PLW0603 - a second caller builds the same
    if PREFECT_API_URL.value() == server.api_url:
        return nullcontext()
    changes: dict[Any, Any] = {PREFECT_API_URL: server.api_url}
    if server.is_ours:
        changes[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
        changes[PREFECT_CLIENT_CSRF_SUPPORT_ENABLED] = PREFECT_SERVER_CSRF_PROTECTION_ENABLED.value()
    before, made = get_settings_context(), _changed_settings
    if made is None or made[0] is not before.settings or made[1] != changes:
        made = (before.settings, changes, before.settings.copy_with_update(updates=changes))
        _changed_settings = made
    return SettingsContext(profile=before.profile, settings=made[2])


def client_for(contact: Contact) -> AbstractContextManager[Any]:
    """Give Prefect's engine a client that loads no certificates it does not need, and gives up as `contact` does."""
    context = SyncClientContext(contact.options())
    share_client(context)
    return context


@contextmanager
def quiet_console(verbose: int) -> Iterator[None]:
    """Keep Prefect's own lines off the terminal, where the progress view is; the UI gets them all."""
    level = logging.CRITICAL + 1 if verbose == 0 else logging.WARNING

    def is_shown(record: logging.LogRecord) -> bool:
        return record.levelno >= level and not record.name.startswith(_SAID_OTHERWISE)

    consoles = _handlers(PrefectConsoleHandler)
    for handler in consoles:
        handler.addFilter(is_shown)
    try:
        yield
    finally:
        for handler in consoles:
            handler.removeFilter(is_shown)


@contextmanager
def own_flow_log(contact: Contact, flow_run_id: Callable[[], UUID | None]) -> Iterator[None]:
    """Send what is logged of a flow run from a thread of ours, which gives up as `contact` does.

    What Prefect's own thread has not sent keeps the process from ending for as long as it takes, which is minutes for
    a server that does not answer.

    Args:
        contact: Of the flow run's server.
        flow_run_id: Returns the flow run, once it is known; what is logged of other runs is Prefect's business.
    """
    if not get_current_settings().logging.to_api.enabled:
        yield
        return

    def send(records: list[dict[str, Any]]) -> None:
        try:
            client.create_logs(records)
        except Exception as error:
            if not isinstance(error, httpx.TransportError) and contact.left_s > 0:
                raise
            contact.lost(error)

    def prepare(record: logging.LogRecord) -> dict[str, Any]:
        log = stock.prepare(record)
        log.pop("__payload_size__", None)
        return log

    def is_for_prefect(record: logging.LogRecord) -> bool:
        mine = flow_run_id()
        if mine is None or getattr(record, "flow_run_id", None) != str(mine):
            return True
        if getattr(record, "send_to_api", True) and getattr(record, "task_run_id", None) is None:
            log.handle(record)
            return False
        return True

    stock, log = APILogHandler(), RunLog(prepare, send)
    handlers = _handlers(APILogHandler)
    with get_client(sync_client=True, httpx_settings=contact.options()) as client:
        for handler in handlers:
            handler.addFilter(is_for_prefect)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(is_for_prefect)
            log.finish(min(SEND_TIMEOUT_S, contact.left_s))


def _handlers(kind: type[logging.Handler]) -> set[logging.Handler]:
    """Return the handlers of a kind at Prefect's loggers and the root."""
    names = [name for name in list(logging.Logger.manager.loggerDict) if name.startswith("prefect")]
    loggers = [logging.getLogger(), *map(logging.getLogger, names)]
    return {handler for each in loggers for handler in each.handlers if isinstance(handler, kind)}
