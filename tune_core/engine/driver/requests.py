"""What somebody asks of the running experiment, carried out between two events of the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from tune_core.control.messages import Event, SpecRecorded
from tune_core.control.resume import Replay
from tune_core.engine.driver.inbox_watcher import Requested
from tune_core.engine.driver.services import Services
from tune_core.steering.request_handler import RequestHandler

logger = logging.getLogger("prefect.tune")


class Requests:
    """Carries requests out, each once: the journal has them before they are answered.

    Args:
        services: What the driver works with.
        replay: The experiment as it stands.
        apply: Lets the controller handle an event.
    """

    def __init__(self, services: Services, replay: Replay, apply: Callable[[Event], None]) -> None:
        self._services, self._apply = services, apply
        self._handler = RequestHandler(replay, services.wall_clock)

    def remind(self) -> None:
        """Say what waits for somebody, who may not know that the experiment was paused."""
        if waits := self._handler.waits:
            logger.warning("%s", waits)

    def take(self, item: Requested) -> Event | None:
        """Carry a request out, or refuse it; return the event that it came to, if any."""
        services = self._services
        event, reply = self._handler.consider(item.request_id, item.request)
        verdict = "accepted" if reply.accepted else "refused"
        logger.info("request %s is %s: %s", item.request, verdict, reply.message)
        if event is not None:
            self._apply(event)
            services.progress.expect(services.policy.total_trials)
            for trial in services.controller.unfinished:
                services.artifacts.show_trial(trial)
        spec = event.spec if isinstance(event, SpecRecorded) else None
        services.journal.when_written(partial(services.inbox.answer, item.request_id, reply, spec))
        return event
