"""Has children that are forked off a process with Prefect end well.

The failure, with Prefect 3.8: (1) something is logged or emitted, so one of Prefect's services starts, and registers
its end with `threading`; (2) a child is forked, by `multiprocessing` or a data loader; Prefect resets it in the child,
since its thread is not there; (3) the child ends, `threading` calls the service's end, which finds that it was reset
and raises an AssertionError; (4) the child's exit code is 1, and nothing is printed.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import prefect
from prefect._internal.concurrency import services

#: The releases of Prefect in which services are known to be reset like this.
_KNOWN_RELEASES = ((3, 8), (3, 9))

_is_registered = False


def end_forks_well() -> None:
    """Have forked children of this process skip the end of Prefect's services, which have no thread in them.

    Does nothing under a release of Prefect that resets its services otherwise: there children end as Prefect has it.
    """
    global _is_registered  # noqa: PLW0603 - a hook stays for as long as the process
    if _is_registered or not resets_services():
        return
    _is_registered = True
    os.register_at_fork(after_in_child=_mark_as_ended)  # after Prefect's own hook, which was registered first


def resets_services() -> bool:
    """Whether this release of Prefect resets its services after a fork as it did when this was written."""
    release = tuple(int(number) for number in re.findall(r"\d+", prefect.__version__)[:2])
    first, last = _KNOWN_RELEASES
    base = getattr(services, "_QueueServiceBase", None)
    return (
        first <= release <= last and hasattr(base, "reset_for_fork") and hasattr(services, "_active_services")
    )


def _mark_as_ended() -> None:
    live: Any = services._active_services
    for service in list(live):
        if service._stopped and service._done_event is None:
            service._done_event = asyncio.Event()
            service._done_event.set()
