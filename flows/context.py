"""Prefect's context of a flow run, entered in a process that is not the flow's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import SettingsContext, SyncClientContext, hydrated_context

from flows.server import client_options


def enter_context(stack: ExitStack, settings: SettingsContext, context: dict[str, Any]) -> None:
    """Enter a context that another process has serialized; the stack leaves it.

    Args:
        stack: Of the thread that the context is for.
        settings: The settings, which travel beside it.
        context: What Prefect's `serialize_context` returned.
    """
    stack.enter_context(settings)
    # One for everything here, made inside the settings, so that it goes to the flow run's server.
    client = get_client(sync_client=True, httpx_settings=client_options(settings.settings.api.url))
    stack.enter_context(SyncClientContext.model_construct(client=client))
    stack.enter_context(hydrated_context(context, client=client))
