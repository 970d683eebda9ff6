"""A virtual clock for the loop: a heap of what happens when, and a journal in memory.

Owns time alone. What happens at which time, a backend that is derived from `VirtualBackend` says.
"""

from __future__ import annotations

import heapq
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tune_core.control import messages
from tune_core.control.loop import Backend, Loop
from tune_core.control.messages import Command, Event
from tune_core.control.state import ExperimentState


class Due(NamedTuple):
    """What happens at a time; of several, in the order of their ranks, and then of their numbers."""

    time: float
    rank: int
    number: int
    action: Callable[[], None]


class MemoryJournal:
    """A journal in memory.

    Args:
        state: What the events come to.
        most: When an experiment that comes to no end is given up, in events.
    """

    def __init__(self, state: ExperimentState, most: int) -> None:
        self.records: list[tuple[Event, tuple[str, ...]]] = []
        self._state, self._most = state, most

    def append(self, event: Event, commands: Sequence[Command], *, urgent: bool = False) -> None:
        """Take an event, and the commands that followed.

        Raises:
            AssertionError: There are too many.
        """
        self.records.append((event, tuple(map(messages.describe, commands))))
        assert len(self.records) < self._most, f"no end after {self._most} events"

    def seal(self, last: Callable[[], Event | None]) -> None:
        """Take the event that `last` returns, unless the experiment has ended."""
        event = None if self._state.controller.has_ended else last()
        if event is not None:
            self.append(event, self._state.apply(event))


class VirtualBackend(Backend):
    """Runs nothing: time passes from one action to the next.

    Attributes:
        time: What the clock shows, in seconds.
    """

    time = 0.0

    def __init__(self) -> None:
        self._due: list[Due] = []
        self._number = 0

    def take_from(self, loop: Loop) -> None:
        """Have the loop carry out what is due."""
        loop.takers[Due] = lambda due: due.action()

    def now(self) -> float:
        """Return what the clock shows."""
        return self.time

    def later(self, delay_s: float, action: Callable[[], None], rank: int = 0) -> None:
        """Have something happen.

        Args:
            delay_s: In so many seconds.
            action: What it is.
            rank: Of what happens at one time, the least comes first; of equal ones, what was said first.
        """
        self._number += 1
        heapq.heappush(self._due, Due(self.time + delay_s, rank, self._number, action))

    def receive(self, until: float) -> Iterable[Due]:
        """Let time pass until the next action, or until this time; return the action."""
        if self._due and self._due[0].time <= until:
            due = heapq.heappop(self._due)
            self.time = due.time
            return (due,)
        if until < math.inf:
            self.time = until
        else:
            self.idle()
        return ()

    @abstractmethod
    def idle(self) -> None:
        """Have something happen: nothing is due any more, and the experiment has not ended."""
