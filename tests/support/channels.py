"""Both ends of a report channel in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tune_core as tune
from tune_core.engine.channel.channel import Channel
from tune_core.training.uplink import Message, Report


def received(channel: Channel, count: int, timeout_s: float = 20.0) -> list[Message]:
    """What has arrived once there are `count` messages, or when the time is over."""
    items: list[Message] = []
    deadline = time.monotonic() + timeout_s
    while len(items) < count and time.monotonic() < deadline:
        items.extend(channel.receive(0.1))
    return items


def row(iteration: int, **metrics: Any) -> Report:
    return Report(iteration, {"training_iteration": iteration, "done": False, **metrics})


class Callback(tune.Callback):
    """Calls a function at the first report."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function
        self._is_called = False

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        if not self._is_called:
            self._is_called = True
            self._function(trial)
