"""The values of `with_parameters` in Ray's object store: one copy of each per node and experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from tune_core.errors import TrainableError


class SharedParameters:
    """Names and object references; the values live as long as it, or a copy that Ray passed on, is held.

    Of no type that Prefect looks into: it, and prefect-ray, call `ray.get` on every reference that they
    find in a task's parameters. Ray itself does see the references, so that it knows who uses them.

    Args:
        values: Each is put into the object store now; an object reference stays what it is.

    Raises:
        TrainableError: A value cannot be pickled.
    """

    __slots__ = ("_references",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._references = {name: _put(name, value) for name, value in values.items()}

    def fetch(self, names: Sequence[str]) -> dict[str, Any]:
        """Return values by name; arrays are views into the object store, and read-only."""
        fetched = ray.get([self._references[name] for name in names])
        return dict(zip(names, fetched, strict=True))

    def release(self) -> None:
        """Let go of the values: Ray frees those that nobody else refers to."""
        self._references.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._references,)


def _restore(references: dict[str, Any]) -> SharedParameters:
    parameters = SharedParameters({})
    parameters._references = references
    return parameters


def _put(name: str, value: Any) -> Any:
    if isinstance(value, ray.ObjectRef):
        return value
    try:
        return ray.put(value)
    except Exception as error:  # whatever a user's object does when it is pickled
        raise TrainableError(
            f"with_parameters({name}=…): a {type(value).__name__} cannot be put into Ray's object store: {error}. "
            "Pass what it is made from, and make it in the trainable"
        ) from error
