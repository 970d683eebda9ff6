"""Heartbeats of a flow run that `fit()` starts.

Prefect's engine waits up to a second for the end of its own heartbeats, and what is left of them may keep a process
while the server does not answer. So the engine sends none, and a thread does whose end nobody waits for.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext, SettingsContext, get_settings_context
from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.settings import Settings

#: What Prefect calls them.
EVENT = "prefect.flow-run.heartbeat"

logger = logging.getLogger("prefect.tune")


@contextmanager
def without_heartbeats() -> Iterator[Settings]:
    """Have Prefect's engine send no heartbeats of a flow that is called meanwhile; give the settings as they were."""
    before = get_settings_context()
    flows = before.settings.flows.model_copy(update={"heartbeat_frequency": None})
    changed = before.settings.model_copy(update={"flows": flows})
    with SettingsContext(profile=before.profile, settings=changed):
        yield before.settings


@contextmanager
def heartbeats(settings: Settings | None, context: FlowRunContext) -> Iterator[None]:
    """Send heartbeats of a flow run whose engine sends none; what runs meanwhile sees the settings as they were.

    Args:
        settings: What `without_heartbeats` gave, and how often they are sent; None: the engine sends them.
        context: Of the flow run.
    """
    flow_run = context.flow_run
    if settings is None or flow_run is None:
        yield
        return
    with SettingsContext(profile=get_settings_context().profile, settings=settings):
        every_s, is_over = settings.flows.heartbeat_frequency, threading.Event()
        if every_s is not None:
            event = (
                f"prefect.flow-run.{flow_run.id}",
                _related(flow_run, context.flow.name if context.flow else ""),
            )
            beating = contextvars.copy_context()  # it says where the server is
            threading.Thread(
                target=beating.run,
                args=(_beat, *event, every_s, is_over),
                name="tune-heartbeat",
                daemon=True,
            ).start()
        try:
            yield
        finally:
            is_over.set()


def _beat(resource: str, related: list[dict[str, str]], every_s: float, is_over: threading.Event) -> None:
    while not is_over.is_set():
        try:
            asyncio.run(_send(resource, related))
        except Exception as error:  # noqa: BLE001 - as Prefect's: others say that the server is away
            logger.debug("cannot send a heartbeat: %s", error)
        is_over.wait(every_s)


async def _send(resource: str, related: list[dict[str, str]]) -> None:
    values = {"event": EVENT, "resource": {"prefect.resource.id": resource}, "related": related}
    async with get_events_client(reconnection_attempts=0) as events:
        await events.emit(Event.model_validate(values))


def _related(flow_run: FlowRun, flow: str) -> list[dict[str, str]]:
    """Return what Prefect's own are related to, by which automations choose."""
    found = [("flow", str(flow_run.flow_id), {"prefect.resource.name": flow})]
    if flow_run.deployment_id is not None:
        found.append(("deployment", str(flow_run.deployment_id), {}))
    found += [("tag", tag, {}) for tag in sorted(flow_run.tags)]
    return [
        {"prefect.resource.id": f"prefect.{role}.{name}", "prefect.resource.role": role, **more}
        for role, name, more in found
    ]
