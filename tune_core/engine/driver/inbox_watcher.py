"""Looks for requests on an experiment's storage, and writes the answers there, in a thread of its own."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from tune_core.control.experiment import SPEC_FILE
from tune_core.encoding import dumps
from tune_core.errors import TuneError
from tune_core.steering.inbox import Inbox, Reply, Request
from tune_core.storage.experiment_storage import ExperimentStorage

logger = logging.getLogger("prefect.tune")


@dataclass(frozen=True, slots=True)
class Requested:
    """Somebody asks for something; see `tune_core.steering.inbox`."""

    request_id: str
    request: Request


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is to be written: the reply and, if it has changed, the experiment's description."""

    request_id: str
    reply: Reply
    spec: dict[str, Any] | None


class InboxWatch:
    """Posts each new request once. What the storage refuses is tried again, without holding up anything.

    Answers are written in their order, so that the newest description of the experiment stays.

    Args:
        storage: The experiment's storage.
        experiment_id: The experiment.
        post: Takes each `Requested`, from a thread.

    Attributes:
        refusal: What is answered, when it is closed, to requests that were not taken; None: they are left
            for the driver that goes on with the experiment.
    """

    def __init__(
        self, storage: ExperimentStorage, experiment_id: str, post: Callable[[Requested], None]
    ) -> None:
        self.refusal: str | None = None
        self._storage, self._experiment_id, self._post = storage, experiment_id, post
        self._inbox = Inbox(storage, experiment_id)
        self._answers: SimpleQueue[_Answer | None] = SimpleQueue()
        self._unwritten: deque[_Answer] = deque()
        self._thread = Thread(target=self._watch, name="tune-inbox", daemon=True)
        self._thread.start()

    def answer(self, request_id: str, reply: Reply, spec: dict[str, Any] | None = None) -> None:
        """Write a reply, and the experiment's description if the request has changed it; returns at once."""
        self._answers.put(_Answer(request_id, reply, spec))

    def close(self) -> None:
        """Write what was answered, refuse what was not, and stop looking."""
        self._answers.put(None)
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self._look(self._inbox, lambda request_id, request: self._post(Requested(request_id, request)))
            due = time.monotonic() + self._inbox.poll_s
            self._write_answers()  # what was refused before
            while (rest_s := due - time.monotonic()) > 0:
                try:
                    answer = self._answers.get(timeout=rest_s)
                except Empty:
                    break
                if answer is None:
                    self._end()
                    return
                self._unwritten.append(answer)
                self._write_answers()

    def _look(self, inbox: Inbox, take: Callable[[str, Request], object]) -> None:
        try:
            for found in inbox.poll():
                take(*found)
        except TuneError as error:
            logger.debug("cannot look for requests: %s", error)

    def _end(self) -> None:
        """Refuse what was not answered, also what was posted and reached nobody."""
        self._write_answers()
        refusal, handled = self.refusal, {answer.request_id for answer in self._unwritten}
        if refusal is not None:

            def refuse(request_id: str, _: Request) -> None:
                if request_id not in handled:
                    self._inbox.answer(request_id, Reply(False, refusal))

            self._look(Inbox(self._storage, self._experiment_id), refuse)
        for answer in self._unwritten:
            logger.warning(
                "request %s was handled (%s), but not answered", answer.request_id, answer.reply.message
            )

    def _write_answers(self) -> None:
        while self._unwritten:
            answer = self._unwritten[0]
            try:
                if answer.spec is not None:
                    self._storage.write(SPEC_FILE, dumps(answer.spec))
                self._inbox.answer(answer.request_id, answer.reply)
            except TuneError as error:
                logger.debug("cannot answer request %s yet: %s", answer.request_id, error)
                return
            self._unwritten.popleft()
