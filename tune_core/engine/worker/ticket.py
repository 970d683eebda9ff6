"""What an attempt needs, on its way to the process that runs it."""

from __future__ import annotations

from typing import Any

from tune_core.engine.channel.wire import ChannelAddress
from tune_core.training.attempt_spec import AttemptSpec
from tune_core.training.serialization import PickledTrainable, dumps_apart, loads_apart


class Ticket:
    """An attempt's spec, its trainable and the way to the flow: bytes, and the references of Ray in them.

    Of no type that Prefect looks into: it, and prefect-ray, call `ray.get` on every reference that they find in
    a task's parameters. Ray itself does see the references, so that it knows who uses them; what the user's
    objects do when they are unpickled, it does not, since that is to be an error of their trial.

    Args:
        address: Where the attempt reports.
        spec: What it is.
        trainable: What it runs.
    """

    __slots__ = ("_data", "_references")

    def __init__(self, address: ChannelAddress, spec: AttemptSpec, trainable: PickledTrainable) -> None:
        self._references: list[Any] = []
        body = dumps_apart(spec, self._references)
        self._data = dumps_apart(
            (address, spec.trial_id, spec.attempt_number, body, trainable), self._references
        )

    @property
    def size(self) -> int:
        """How many bytes travel, without what Ray sends of the references."""
        return len(self._data)

    def open(self) -> tuple[ChannelAddress, str, int, bytes, PickledTrainable]:
        """Return the address, the trial's id, the attempt's number, its attempt for `load_spec`, and the trainable."""
        opened: tuple[ChannelAddress, str, int, bytes, PickledTrainable] = loads_apart(
            self._data, self._references
        )
        return opened

    def load_spec(self, body: bytes) -> AttemptSpec:
        """Return the attempt; whatever the user's objects in its configuration raise is raised here."""
        spec: AttemptSpec = loads_apart(body, self._references)
        return spec

    def release(self) -> None:
        """Let go of the references: the process lives on, and something may hold this object."""
        self._references.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._data, self._references)


def _restore(data: bytes, references: list[Any]) -> Ticket:
    ticket = object.__new__(Ticket)
    ticket._data, ticket._references = data, references
    return ticket
