"""Announcements as Prefect events, which automations act on: see docs/events.md.

An event is sent once what it says is in the journal, and never by a replay: a driver that goes on
with an experiment repeats none. What is lost with a driver between the two is not sent at all.
"""

from __future__ import annotations

import contextvars
import datetime
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from prefect.events import emit_event

from tune_core.announcements import Announcement, Announcer
from tune_core.journal import Journal
from tune_core.messages import Command, Event

#: In front of the kind of every event, and of the ids of what they are about.
PREFIX = "prefect-tune"
#: How long the beginning of an attempt waits for its end, which makes it old news, in seconds: of short trials,
#: events are a good part of what they cost the server.
HOLD_BEGINNINGS_S = 1.0
#: How long `close` waits until the last ones are on their way, in seconds.
CLOSE_TIMEOUT_S = 10.0

logger = logging.getLogger("prefect.tune.events")


class Events:
    """Sends an experiment's announcements, from a thread of its own.

    Prefect adds the flow run and its tags, as they are in the context that this is made in.

    Args:
        announcer: Finds out what to announce.
        experiment_id: Goes into the ids of the resources.
        name: The experiment's name.
    """

    def __init__(self, announcer: Announcer, experiment_id: str, name: str) -> None:
        self._announcer, self._experiment_id, self._name = announcer, experiment_id, name
        self._queue: queue.SimpleQueue[Announcement | None] = queue.SimpleQueue()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._send_all,), name="tune-events", daemon=True
        )
        self._thread.start()

    def replayed(self, event: Event, commands: Sequence[Command], *, is_best: bool) -> None:
        """Take note of an event of a driver before this one, which has announced it."""
        self._announcer.note(event, commands, is_best=is_best)

    def note(self, event: Event, commands: Sequence[Command], journal: Journal, *, is_best: bool) -> None:
        """Announce what an event gives reason to, as soon as the journal has it."""
        found = self._announcer.note(event, commands, is_best=is_best)
        if found:
            journal.when_written(lambda: self._put(found))

    def close(self) -> None:
        """Send what waits; give up after `CLOSE_TIMEOUT_S`."""
        self._queue.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

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

    def _put(self, found: Sequence[Announcement]) -> None:
        for announcement in found:
            self._queue.put(announcement)

    def _send_all(self) -> None:
        #: Attempts that have just begun, and until when that waits.
        begun: deque[tuple[float, Announcement]] = deque()
        while True:
            wait_s = max(0.0, begun[0][0] - time.monotonic()) if begun else None
            try:
                announcement = self._queue.get(timeout=wait_s)
            except queue.Empty:
                self._try_to_send(begun.popleft()[1])
                continue
            if announcement is None:
                break
            if announcement.kind == "trial.started":
                begun.append((time.monotonic() + HOLD_BEGINNINGS_S, announcement))
            else:
                begun = deque(each for each in begun if not _is_end_of(announcement, each[1]))
                self._try_to_send(announcement)
        for _, late in begun:
            self._try_to_send(late)

    def _try_to_send(self, announcement: Announcement) -> None:
        try:
            self._send(announcement)
        except Exception as error:  # noqa: BLE001 - an event must never fail an experiment
            logger.warning("cannot send the event %s: %s", announcement.kind, error)

    def _send(self, announcement: Announcement) -> None:
        related: list[dict[str, str]] = []
        if announcement.trial_id is not None:
            related.append({**self.resource(), "prefect.resource.role": "experiment"})
        payload: dict[str, Any] = dict(announcement.payload)
        resource = self.resource(announcement.trial_id)
        if "outcome" in payload:  # automations choose by labels, not by what is in the payload
            resource[f"{PREFIX}.outcome"] = payload["outcome"]
        emit_event(
            f"{PREFIX}.{announcement.kind}",
            resource=resource,
            occurred=datetime.datetime.fromtimestamp(announcement.time, datetime.UTC),
            related=related,
            payload=payload,
        )


def _is_end_of(announcement: Announcement, begun: Announcement) -> bool:
    """Whether this is the end of the attempt whose beginning that is."""
    return (
        announcement.kind == "trial.ended"
        and announcement.trial_id == begun.trial_id
        and announcement.payload["attempt"] == begun.payload["attempt"]
    )
