"""What stoppers and callbacks have counted, on its way into the journal and back.

A replay shows stoppers every report again, and calls no callback: so what does not follow from reports,
such as time that has passed, is journaled. Owns whose state that is and whether it has changed; when it
is written, the journal says. Never asks a stopper, and calls no hook.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tune_core.callback import CallbackList
from tune_core.control.messages import WatchersSaved
from tune_core.encoding import dumps, holds_opaque, loads
from tune_core.errors import ConfigError
from tune_core.stopper import CombinedStopper, Stopper
from tune_core.validation import shorten

#: States by place and class: `"0 TimeoutStopper"`.
States = Mapping[str, Any]

_logger = logging.getLogger(__name__)


class Watchers:
    """The stoppers and the callbacks of an experiment that is run.

    Args:
        stopper: What ends trials or the experiment; None: nothing does.
        callbacks: The user's.
        beginning: What `counted` returned before the experiment began: a run that is tried again has
            the same objects, which have counted since.
        wall_clock: Seconds since the epoch.

    Raises:
        ConfigError: One of them returns a state that JSON cannot hold.
    """

    def __init__(
        self,
        stopper: Stopper | None,
        callbacks: CallbackList,
        beginning: tuple[States, States] = ({}, {}),
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._stoppers = _by_place(stopper)
        self._callbacks = callbacks
        self._beginning = beginning
        self._wall_clock = wall_clock
        self._of_callbacks: States = beginning[1]
        #: What the journal has, or what is so from the beginning, as JSON.
        self._known = self._states()

    @property
    def have_state(self) -> bool:
        """Whether the journal has to keep something of them."""
        return self._callbacks.keeps_state or any(map(_is_journaled, self._stoppers.values()))

    def rewind(self) -> None:
        """Let all count from the beginning; call it before the journal is replayed."""
        self._give_stoppers(self._beginning[0])

    def replay(self, event: WatchersSaved) -> None:
        """Give stoppers what they had counted here; what callbacks had is given to them once, by `resume`."""
        if event.stoppers is not None:
            self._give_stoppers(event.stoppers)
        if event.callbacks is not None:
            self._of_callbacks = event.callbacks

    def resume(self) -> None:
        """Give callbacks what they had when the journal ended; call it before their `setup`."""
        if self._of_callbacks:
            self._callbacks.set_state(dict(self._of_callbacks))
        self._known = self._states()

    def news(self, *, of_stoppers: bool = True) -> WatchersSaved | None:
        """Return what has changed since it was asked for last; None if nothing has.

        Args:
            of_stoppers: False: of callbacks only. In the middle of a report, stoppers know of it already, and
                would be shown it again.
        """
        states, known = self._states(), self._known
        if not of_stoppers:
            states = (known[0], states[1])
        self._known = states
        changed = [loads(new) if new != before else None for new, before in zip(states, known, strict=True)]
        return None if changed == [None, None] else WatchersSaved(self._wall_clock(), *changed)

    def _states(self) -> tuple[bytes, bytes]:
        of_stoppers = {
            place: state
            for place, stopper in self._stoppers.items()
            if _is_journaled(stopper) and (state := stopper.get_state()) is not None
        }
        of_callbacks = self._callbacks.get_state() if self._callbacks.keeps_state else None
        return _as_json(of_stoppers), _as_json(of_callbacks or {})

    def _give_stoppers(self, states: States) -> None:
        for place, state in states.items():
            if place in self._stoppers:
                self._stoppers[place].set_state(state)
            else:
                _logger.warning("the saved state of stopper %s is not used: it is not there now", place)


def counted(stopper: Stopper | None, callbacks: CallbackList) -> tuple[States, States]:
    """Return what all stoppers and callbacks have counted, also what follows from reports.

    Raises:
        ConfigError: One of them returns a state that JSON cannot hold.
    """
    states = {place: each.get_state() for place, each in _by_place(stopper).items()}
    of_stoppers = _as_json({place: state for place, state in states.items() if state is not None})
    return loads(of_stoppers), loads(_as_json(callbacks.get_state() or {}))


def _by_place(stopper: Stopper | None) -> dict[str, Stopper]:
    """Every stopper of a combination under its place, so that nothing is given to one of another class."""

    def walk(each: Stopper, place: str) -> Iterator[tuple[str, Stopper]]:
        if type(each) is not CombinedStopper:
            yield f"{place} {type(each).__qualname__}", each
            return
        for number, part in enumerate(each.stoppers):
            yield from walk(part, f"{place}.{number}")

    return {} if stopper is None else dict(walk(stopper, "0"))


def _is_journaled(stopper: Stopper) -> bool:
    """Whether it counts something that a replay of reports does not tell it again."""
    has_state = bool(stopper.state_names) or type(stopper).get_state is not Stopper.get_state
    return has_state and not vars(type(stopper)).get("counts_only_reports", False)


def _as_json(states: States) -> bytes:
    """Return states as the journal has them.

    Raises:
        ConfigError: One is no JSON object.
    """
    for place, state in states.items():
        if not isinstance(state, dict) or holds_opaque(loads(dumps(state))):
            raise ConfigError(
                f"{place.partition(' ')[2]}.get_state() returned {shorten(state)}: expected None, or a dict of what "
                "JSON can hold, since it is written to the journal"
            )
    return dumps(states)
