"""What is used of Prefect though it is private: each use has no public counterpart, and something is right without it.

Used under `KNOWN_RELEASES` of Prefect only. Under any other one nothing private is touched, and the public way is
taken that each function names. No part of Prefect is replaced.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import prefect
from prefect._internal.concurrency import services
from prefect.context import SyncClientContext

#: The first and the last minor release in which these parts are known to be as they are used here.
KNOWN_RELEASES = ((3, 8), (3, 9))
#: Prefect's loggers of what keeps its connections: a name that is gone has no records.
CONNECTIONS = "prefect._internal.concurrency"
INTERNAL = "prefect._internal"
#: The loggers of the services that send what is logged and emitted.
SERVICES = ("APILogWorker", "EventsWorker")


def is_known() -> bool:
    """Whether this release of Prefect is one of `KNOWN_RELEASES`."""
    return KNOWN_RELEASES[0] <= _release() <= KNOWN_RELEASES[1]


def share_client(context: SyncClientContext) -> None:
    """Give code that asks for a client without settings that of a context that was made with some.

    Without it they get one of their own, which loads certificates and does not give up as ours do.
    """
    if is_known() and hasattr(context, "_httpx_settings"):
        context._httpx_settings = None


def resets_services_in_forks() -> bool:
    """Whether Prefect resets its services in a forked child, whose end then fails; see `tune_core.engine.forks`.

    Prefect 3.8 does; with 3.9 such children end well.
    """
    base = getattr(services, "_QueueServiceBase", None)
    return _release() == (3, 8) and hasattr(base, "reset_for_fork") and hasattr(services, "_active_services")


def end_services_in_fork() -> None:
    """Note in a forked child that the services that were reset have ended: their threads are not there.

    Without it the child's exit code is 1, though nothing is wrong with it.
    """
    live: Any = services._active_services
    for service in list(live):
        if service._stopped and service._done_event is None:
            service._done_event = asyncio.Event()
            service._done_event.set()


def _release() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", prefect.__version__)[:2])
