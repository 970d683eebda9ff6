"""Whether the worker process that an actor got has run tasks before: Ray keeps idle workers for whatever comes next."""

from __future__ import annotations

import re

import ray
from ray._private import worker

#: The releases of Ray in which a worker is known to keep what it has run where `has_run_tasks` looks.
_KNOWN_RELEASES = ((2, 50), (2, 60))


def can_tell() -> bool:
    """Whether `has_run_tasks` can tell under this release of Ray."""
    release = tuple(int(number) for number in re.findall(r"\d+", ray.__version__)[:2])
    first, last = _KNOWN_RELEASES
    return first <= release <= last and hasattr(worker.global_worker, "function_actor_manager")


def has_run_tasks() -> bool:
    """Whether functions have been loaded in this process to run as tasks; False if nobody can tell."""
    if not can_tell():
        return False
    return bool(worker.global_worker.function_actor_manager._function_execution_info)
