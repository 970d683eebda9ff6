"""Applies a journal to a fresh controller, to see that the same events still mean the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import Event, describe


def replay(records: Iterable[tuple[Event, Sequence[str]]], rules: ControllerConfig) -> Controller:
    """Replay what `tune_core.control.segments.read_journal` yields; return the controller in its last state.

    Args:
        records: Events, each with the texts of the commands that followed when it was new.
        rules: What the experiment's controller obeyed before its journal says so: `Experiment.rules`.

    Raises:
        AssertionError: An event leads to other commands now; the message shows it with both.

    Example:
        >>> from tune_core.control.messages import ExperimentStarted
        >>> replay([(ExperimentStarted(0.0, capacity=1), ("Suggest a1b2c_00000",))], ControllerConfig("a1b2c")).trials
        {}
    """
    controller = Controller(rules)
    for number, (event, before) in enumerate(records):
        now = [describe(command) for command in controller.handle(event)]
        if now != list(before):
            raise AssertionError(f"event {number} ({event!r}) led to {list(before)}, but now leads to {now}")
    return controller
