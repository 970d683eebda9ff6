"""Waiting for what another thread, process or server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def wait_for(
    condition: Callable[[], Any],
    what: str,
    timeout_s: float = 120.0,
    *,
    interval_s: float = 0.1,
    explain: Callable[[], str] | None = None,
) -> Any:
    """Return the condition's first truthy value.

    Args:
        condition: What is looked at.
        what: What is waited for, to be read in the error.
        timeout_s: Seconds after which it is too late.
        interval_s: Seconds from one look to the next.
        explain: Says more in the error: what a process has printed, for example.

    Raises:
        TimeoutError: The condition was not true in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            more = f"; {explain()}" if explain else ""
            raise TimeoutError(f"waited {timeout_s:g} s for {what}{more}")
        threading.Event().wait(interval_s)  # the unit tier refuses time.sleep
    return value
