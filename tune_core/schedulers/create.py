"""Schedulers by name, as Ray Tune names them."""

from __future__ import annotations

from typing import Any

from tune_core.errors import ConfigError
from tune_core.faults import shorten
from tune_core.schedulers.scheduler import FIFOScheduler, TrialScheduler


def create_scheduler(scheduler: str, **kwargs: Any) -> TrialScheduler:
    """Return a new scheduler of this name: "fifo".

    Raises:
        ConfigError: There is no scheduler of this name.
    """
    if str(scheduler).lower() != "fifo":
        raise ConfigError(f"create_scheduler({shorten(scheduler)}): expected 'fifo'")
    return FIFOScheduler(**kwargs)
