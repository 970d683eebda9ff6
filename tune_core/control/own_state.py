"""What searchers and schedulers save of themselves, in the journal, and are given back after a resume."""

from __future__ import annotations

from typing import Any

from tune_core.control.messages import StateSaved
from tune_core.encoding import dumps, holds_opaque, loads
from tune_core.errors import ConfigError
from tune_core.schedulers import TrialScheduler
from tune_core.search import Searcher
from tune_core.validation import shorten


def saved_state(searcher: Searcher, scheduler: TrialScheduler, now: float) -> StateSaved | None:
    """Return what they save of themselves; None if they save nothing.

    Raises:
        ConfigError: The state has what JSON cannot hold.
    """
    saved = [_state_of(each) for each in (searcher, scheduler)]
    return StateSaved(now, *saved) if any(saved) else None


def restore_state(searcher: Searcher, scheduler: TrialScheduler, saved: StateSaved) -> bool:
    """Give them back what they saved; return whether it was theirs.

    What another kind of searcher or scheduler saved, before it was exchanged, is left alone.
    """
    is_theirs = True
    owners: tuple[Searcher | TrialScheduler, ...] = (searcher, scheduler)
    for owner, state in zip(owners, (saved.searcher, saved.scheduler), strict=True):
        if state is not None and state["kind"] == type(owner).__name__:
            owner.set_state(state["state"])
        elif state is not None or owner.get_state():
            is_theirs = False
    return is_theirs


def has_foreign_state(searcher: Searcher, scheduler: TrialScheduler) -> bool:
    """Return whether one of them is a user's and saves state: unlike the seeds of ours, it may change."""
    owners: list[Any] = [scheduler, searcher]
    for each in owners:  # which grows by what is inside: a limiter's or a repeater's, or another scheduler
        owners += [getattr(each, name) for name in ("searcher", "base_scheduler") if hasattr(each, name)]
    return any(not type(each).get_state.__module__.startswith("tune_core.") for each in owners)


def _state_of(owner: Searcher | TrialScheduler) -> dict[str, Any] | None:
    state = owner.get_state()
    if not state:
        return None
    if holds_opaque(loads(dumps(state))):
        raise ConfigError(
            f"{type(owner).__name__}.get_state() returned {shorten(state)}: expected a dict of what JSON can hold, "
            "since it is written to the journal"
        )
    return {"kind": type(owner).__name__, "state": state}
