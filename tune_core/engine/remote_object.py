"""Objects in Ray processes of their own, for what is not a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray


class _Host:
    """The process's side: an actor that holds the object."""

    def __init__(self, kind: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._object = kind(*args)

    def call(self, method: str, args: tuple[Any, ...]) -> Any:
        return getattr(self._object, method)(*args)


class HostedObject:
    """An object in a process of its own; see `tune_core.runtime.RemoteObject`.

    Args:
        actor: Handle of the actor that holds it.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of it; what it raises is raised here, as Ray hands it over."""
        return ray.get(self._actor.call.remote(method, args))


@contextmanager
def hosted(kind: Callable[..., Any], *args: Any, num_gpus: float = 0) -> Iterator[HostedObject]:
    """Make `kind(*args)` in a process of its own, which ends with the context.

    Args:
        kind: Something that workers can import.
        *args: Its arguments; they are pickled.
        num_gpus: GPUs of the process.
    """
    actor: Any = ray.remote(num_gpus=num_gpus, max_restarts=0)(_Host).remote(kind, args)
    try:
        yield HostedObject(actor)
    finally:
        ray.kill(actor)
