"""What is used of Ray though it is private: each use has no public counterpart, and something is right without it.

Used under `KNOWN_RELEASES` of Ray only. Under any other one, as where a release has changed a part, nothing private is
touched, and the public way is taken that each function names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

#: The first and the last minor release in which these parts are known to be as they are used here.
KNOWN_RELEASES = ((2, 50), (2, 60))


def is_known() -> bool:
    """Whether this release of Ray is one of `KNOWN_RELEASES`."""
    release = tuple(int(number) for number in re.findall(r"\d+", ray.__version__)[:2])
    return KNOWN_RELEASES[0] <= release <= KNOWN_RELEASES[1]


def skip_output(pattern: str) -> None:
    """Keep lines that match off the terminal, of what Ray shows of its processes, unless it skips some already.

    Without it they are shown, unless `RAY_DEDUP_LOGS_SKIP_REGEX`, which Ray reads as it is imported, says otherwise.
    """
    if not is_known():
        return
    from ray._private import ray_logging

    deduplicator = getattr(ray_logging, "stdout_deduplicator", None)
    if deduplicator is not None and getattr(deduplicator, "skip_re", ...) is None:
        deduplicator.skip_re = re.compile(pattern)


def draining_nodes() -> frozenset[str]:
    """Return the ids of nodes that Ray is about to take away, as Ray Serve and Ray Train ask for them.

    Without it there are none: attempts on such a node end when it goes, and are tried again elsewhere.
    """
    if not is_known():
        return frozenset()
    from ray._private.state import state

    ask = getattr(state, "get_draining_nodes", None)
    return frozenset(ask()) if ask is not None else frozenset()


def knows_loaded_functions() -> bool:
    """Whether `has_loaded_functions` can tell; without it each experiment's processes carry a mark of their own."""
    from ray._private import worker

    return is_known() and hasattr(worker.global_worker, "function_actor_manager")


def has_loaded_functions() -> bool:
    """Whether this worker has loaded functions to run as tasks, before an actor was made of it; False if unknown."""
    from ray._private import worker

    if not knows_loaded_functions():
        return False
    return bool(worker.global_worker.function_actor_manager._function_execution_info)


def has_launch_hooks() -> bool:
    """Whether Ray calls a function before it launches a task or an actor; see `launches_checked_by`."""
    return is_known() and all(hasattr(module, name) for module, name in _launch_hooks())


@contextmanager
def launches_checked_by(check: Any) -> Iterator[None]:
    """Have Ray call a function before it launches a task or an actor in this process, and fail if that raises.

    Without it nothing is called: what fits into no bundle waits.

    Args:
        check: Called with the function, its resources, and its scheduling strategy.
    """
    hooks = _launch_hooks() if has_launch_hooks() else ()
    before = [getattr(module, name) for module, name in hooks]
    for module, name in hooks:
        setattr(module, name, check)
    try:
        yield
    finally:
        for (module, name), previous in zip(hooks, before, strict=True):
            setattr(module, name, previous)


def _launch_hooks() -> tuple[tuple[Any, str], ...]:
    from ray import actor, remote_function

    return (remote_function, "_task_launch_hook"), (actor, "_actor_launch_hook")
