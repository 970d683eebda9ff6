"""Announcements as Prefect events, which automations act on: see docs/events.md.

An event is sent once what it says is in the journal, and never by a replay: a driver that goes on
with an experiment repeats none. What is lost with a driver between the two is not sent at all.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any
from uuid import uuid4

from prefect.client.orchestration import get_client
from prefect.events import Event as PrefectEvent
from prefect.events import RelatedResource
from prefect.events.clients import EventsClient, get_events_client
from prefect.events.related import related_resources_from_run_context
from prefect.settings import PREFECT_API_URL, get_current_settings

from tune_core.control.journal import Journal
from tune_core.control.messages import Command, Event
from tune_core.engine.server.contact import Contact
from tune_core.engine.server.server import client_options
from tune_core.views.notifications import Notification, Notifier

#: In front of the kind of every event, and of the ids of what they are about.
PREFIX = "prefect-tune"
#: How long the beginning of an attempt waits for its end, which makes it old news, in seconds: of short trials,
#: events are a good part of what they cost the server.
HOLD_BEGINNINGS_S = 1.0
#: How long `close` waits until the last ones are on their way, in seconds.
CLOSE_TIMEOUT_S = 10.0
#: How long until an event that could not be sent is sent again, and how long nobody is told, in seconds.
RETRY_S, WARN_AFTER_S = 1.0, 30.0

logger = logging.getLogger("prefect.tune.events")


class Events:
    """Sends an experiment's announcements, from a thread of its own.

    It has a connection of its own, too: what waits in the one that Prefect has for a process keeps that process from
    ending for minutes, while the server does not answer.

    Args:
        notifier: Finds out what to announce.
        experiment_id: Goes into the ids of the resources.
        name: The experiment's name.
        contact: What is known of the server.
    """

    def __init__(self, notifier: Notifier, experiment_id: str, name: str, contact: Contact) -> None:
        self._notifier, self._experiment_id, self._name = notifier, experiment_id, name
        self._contact = contact
        self._queue: asyncio.Queue[Notification | None] = asyncio.Queue()
        self._connection: tuple[EventsClient, list[RelatedResource]] | None = None
        self._has_warned = self._is_given_up = False
        self._loop = asyncio.new_event_loop()
        # In the run's context, which says where the server is, and what an event is related to.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="tune-events", daemon=True
        )
        self._thread.start()

    def replayed(self, event: Event, commands: Sequence[Command], *, is_best: bool) -> None:
        """Take note of an event of a driver before this one, which has announced it."""
        self._notifier.note(event, commands, is_best=is_best)

    def note(self, event: Event, commands: Sequence[Command], journal: Journal, *, is_best: bool) -> None:
        """Announce what an event gives reason to, as soon as the journal has it."""
        found = self._notifier.note(event, commands, is_best=is_best)
        if found:
            journal.when_written(lambda: self._put(found))

    def close(self) -> None:
        """Send what waits; give up after `CLOSE_TIMEOUT_S`, or with the server."""
        self._post(None)
        self._thread.join(min(CLOSE_TIMEOUT_S, self._contact.left_s))
        self._is_given_up = True

    def resource(self, trial_id: str | None = None) -> dict[str, str]:
        """Return the experiment, or a trial of it, as Prefect names what an event is about."""
        if trial_id is None:
            return {
                "prefect.resource.id": f"{PREFIX}.experiment.{self._experiment_id}",
                "prefect.resource.name": self._name,
                "prefect-tune.experiment": self._name,
            }
        return {
            "prefect.resource.id": f"{PREFIX}.trial.{self._experiment_id}.{trial_id}",
            "prefect.resource.name": trial_id,
            "prefect-tune.experiment": self._name,
        }

    def _put(self, found: Sequence[Notification]) -> None:
        for announcement in found:
            self._post(announcement)

    def _post(self, item: Notification | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: the thread has ended, and has said why
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    # In the thread.

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._send_all())
        except Exception as error:  # noqa: BLE001 - as it ends: the connection may be broken
            logger.log(logging.DEBUG if self._contact.is_lost else logging.WARNING, "events: %s", error)

    async def _send_all(self) -> None:
        #: Attempts that have just begun, and until when that waits.
        begun: deque[tuple[float, Notification]] = deque()
        async with AsyncExitStack() as stack:
            while True:
                wait_s = max(0.0, begun[0][0] - time.monotonic()) if begun else None
                try:
                    announcement = await asyncio.wait_for(self._queue.get(), wait_s)
                except TimeoutError:
                    await self._send(begun.popleft()[1], stack)
                    continue
                if announcement is None:
                    break
                if announcement.kind == "trial.started":
                    begun.append((time.monotonic() + HOLD_BEGINNINGS_S, announcement))
                else:
                    begun = deque(each for each in begun if not _is_end_of(announcement, each[1]))
                    await self._send(announcement, stack)
            for _, late in begun:
                await self._send(late, stack)

    async def _send(self, announcement: Notification, stack: AsyncExitStack) -> None:
        try:
            event = self._event(announcement)
        except Exception as error:  # noqa: BLE001 - an event must never fail an experiment
            logger.warning("cannot send the event %s: %s", announcement.kind, error)
            return
        began = time.monotonic()
        while not self._is_given_up:
            try:
                if self._connection is None:
                    self._connection = await _connect(stack)
                client, run = self._connection
                most = get_current_settings().server.events.maximum_related_resources
                await client.emit(event.model_copy(update={"related": [*event.related, *run][:most]}))
            except Exception as error:  # noqa: BLE001 - as above; the server keeps only one event of an id
                if (
                    not (self._has_warned or self._contact.is_lost)
                    and time.monotonic() > began + WARN_AFTER_S
                ):
                    self._has_warned = True
                    logger.warning("events cannot be sent, training goes on: %s", error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _event(self, announcement: Notification) -> PrefectEvent:
        related = []
        if announcement.trial_id is not None:
            related.append({**self.resource(), "prefect.resource.role": "experiment"})
        payload: dict[str, Any] = dict(announcement.payload)
        resource = self.resource(announcement.trial_id)
        if "outcome" in payload:  # automations choose by labels, not by what is in the payload
            resource[f"{PREFIX}.outcome"] = payload["outcome"]
        event = PrefectEvent.model_validate(
            {
                "event": f"{PREFIX}.{announcement.kind}",
                "resource": resource,
                "occurred": datetime.datetime.fromtimestamp(announcement.time, datetime.UTC),
                "related": related,
                "payload": payload,
                "id": uuid4(),
            }
        )
        most = get_current_settings().server.events.maximum_size_bytes
        if event.size_bytes > most:
            raise ValueError(f"it has {event.size_bytes} bytes, and Prefect takes {most}")
        return event


async def _connect(stack: AsyncExitStack) -> tuple[EventsClient, list[RelatedResource]]:
    """Return a connection, which the stack closes, and what the events of the flow run are related to."""
    async with get_client(httpx_settings=client_options(PREFECT_API_URL.value())) as client:
        related = await related_resources_from_run_context(client)
    return await stack.enter_async_context(get_events_client(reconnection_attempts=1)), related


def _is_end_of(announcement: Notification, begun: Notification) -> bool:
    """Whether this is the end of the attempt whose beginning that is."""
    return (
        announcement.kind == "trial.ended"
        and announcement.trial_id == begun.trial_id
        and announcement.payload["attempt"] == begun.payload["attempt"]
    )
