"""Clocks that show what a test says."""

from __future__ import annotations


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Ticks:
    """A clock that advances by one second each time it is asked."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 1.0
        return self.now
