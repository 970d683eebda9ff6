"""Tells a fault of one trial from one of the whole experiment, while a message of the trial is handled.

One trial's row must not end the others: what a logger, the scheduler or this package makes of it and
raises fails its trial. What would hit every trial alike stays the experiment's: its storage and journal, another
driver in its place, a configuration that contradicts itself, and a callback of the user's, as in Ray Tune.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace

from tune_core.callback import CallbackList
from tune_core.control.endings import Ended, Fault
from tune_core.errors import ConfigError, ExperimentConflict, IllegalTransition, SpecError, StorageError
from tune_core.states import Outcome
from tune_core.training.execution import describe_error
from tune_core.training.uplink import Message

#: Errors that are the experiment's. An `OSError` is about its storage, or about this process.
_EXPERIMENTS = (
    StorageError,
    ExperimentConflict,
    ConfigError,
    SpecError,
    IllegalTransition,
    OSError,
    MemoryError,
)


class Barrier:
    """Tells a trial's faults from the experiment's.

    Args:
        callbacks: The user's.
        engine_errors: What the backend raises if it is broken itself.
    """

    def __init__(self, callbacks: CallbackList, engine_errors: tuple[type[Exception], ...] = ()) -> None:
        self._callbacks = callbacks
        self._experiments = (*_EXPERIMENTS, *engine_errors)

    def fault_of(self, error: Exception, what: str) -> Fault | None:
        """Return the fault of the trial that an exception amounts to; None: it is the experiment's.

        Args:
            error: What was raised while a trial's message was handled.
            what: What was handled.
        """
        if isinstance(error, self._experiments) or error is self._callbacks.raised:
            return None
        text = f"the driver could not handle {what} of this trial: {describe_error(error)}"
        return Fault(text, "".join(traceback.format_exception(error)))

    def ended_after(self, ended: Ended, recover: Callable[[], None]) -> Ended:
        """Take up what an attempt has left; return how it ended: badly in any case, if that cannot be handled."""
        try:
            recover()
        except Exception as error:
            fault = self.fault_of(error, "what is left")
            if fault is None:
                raise
            return replace(
                ended, outcome=Outcome.ERROR, error=fault.error, traceback=fault.traceback, retryable=False
            )
        return ended


def what_of(message: Message) -> str:
    """Return what a message is about, for people."""
    number = message.content[0] if message.kind in ("row", "checkpoint") else None
    return f"the {message.kind}" if number is None else f"the {message.kind} of iteration {number}"
