"""What somebody asks of the running experiment, carried out between two events of the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from tune_core.control.messages import Event, SpecRecorded
from tune_core.control.resume import Replay
from tune_core.engine.driver.inbox_watcher import Requested
from tune_core.engine.driver.services import Parts
from tune_core.steering.request_handler import Helm

logger = logging.getLogger("prefect.tune")


class Requests:
    """Carries requests out, each once: the journal has them before they are answered.

    Args:
        parts: What the driver works with.
        replay: The experiment as it stands.
        apply: Lets the controller handle an event.
    """

    def __init__(self, parts: Parts, replay: Replay, apply: Callable[[Event], None]) -> None:
        self._parts, self._apply = parts, apply
        self._helm = Helm(replay, parts.wall_clock)

    def remind(self) -> None:
        """Say what waits for somebody: who goes on with an experiment may not know that it was paused."""
        if waits := self._helm.waits:
            logger.warning("%s", waits)

    def take(self, item: Requested) -> Event | None:
        """Carry a request out, or refuse it; return the event that it came to, if any."""
        parts = self._parts
        event, reply = self._helm.consider(item.request_id, item.request)
        verdict = "accepted" if reply.accepted else "refused"
        logger.info("request %s is %s: %s", item.request, verdict, reply.message)
        if event is not None:
            self._apply(event)
            parts.progress.expect(parts.steering.total_trials)
            for trial in parts.controller.unfinished:
                parts.artifacts.show_trial(trial)
        spec = event.spec if isinstance(event, SpecRecorded) else None
        parts.journal.when_written(partial(parts.inbox.answer, item.request_id, reply, spec))
        return event
