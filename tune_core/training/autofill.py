"""The counters behind the metrics that Ray Tune adds to every report, and who wins over whom.

A session has one for a training function, each trainable object one of its own. The counters
advance only when a report is filled in; `snapshot` and `put_back` undo one that was never sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

#: The last second of the year 9999: what is larger is no date.
_LAST_TIMESTAMP = 253_402_300_799
#: What is counted if it is reported: its name, its part in a report, its sum.
_COUNTED = (
    ("timesteps", "timesteps_this_iter", "timesteps_total"),
    ("episodes", "episodes_this_iter", "episodes_total"),
)


class Snapshot(NamedTuple):
    """The state of counters at one moment."""

    iteration: int
    last_time: float
    totals: dict[str, Any]
    since_restore: dict[str, Any]


class Counters:
    """Counts iterations, time, timesteps and episodes of a trial.

    Args:
        iteration: Reports before this attempt.
        totals: `time_total_s`, `timesteps_total` and `episodes_total` before this attempt.
        wall_clock: Seconds since the epoch.
        clock: Monotonic seconds.

    Attributes:
        iteration: Reports so far, those before a restore included.
        totals: Sums so far; those of timesteps and episodes only if they were ever given.
        since_restore: The same since the attempt began: `iterations`, `time`, `timesteps`.

    Example:
        >>> counters = Counters(4, {"time_total_s": 20.0}, clock=iter([0.0, 1.5]).__next__)
        >>> row = counters.fill({"loss": 0.1})
        >>> row["training_iteration"], row["time_total_s"], row["iterations_since_restore"]
        (5, 21.5, 1)
    """

    def __init__(
        self,
        iteration: int = 0,
        totals: Mapping[str, float] | None = None,
        *,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall_clock, self._clock = wall_clock, clock
        self.start_from(iteration, totals or {})

    def start_from(self, iteration: int, totals: Mapping[str, float]) -> None:
        """Count on from what a checkpoint says; whatever counts since then is zero."""
        self.iteration = iteration
        self.totals: dict[str, Any] = {"time_total_s": 0.0, **totals}
        self.since_restore: dict[str, Any] = {"iterations": 0, "time": 0.0, "timesteps": 0}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Start measuring an iteration now."""
        self._last_time = self._clock()

    def timestamp(self, given: object = None) -> Any:
        """Return the time that was given, if it is a date in seconds since the epoch, else that of now."""
        date: Any = given  # it may be an integer beyond floats
        is_date = given is not None and isinstance(given, Real) and 0 < date <= _LAST_TIMESTAMP
        return given if is_date else int(self._wall_clock())

    def snapshot(self) -> Snapshot:
        """Return the state, for `put_back`."""
        return Snapshot(self.iteration, self._last_time, self.totals, self.since_restore)

    def put_back(self, snapshot: Snapshot) -> None:
        """Forget what was counted since a snapshot was taken; it can be put back again."""
        self.iteration, self._last_time, self.totals, self.since_restore = snapshot

    def fill(self, metrics: Mapping[str, Any], *, keeps_timestamp: bool = False) -> dict[str, Any]:
        """Count one more iteration; return its metrics with what Ray Tune fills in.

        Args:
            metrics: What the user reported.
            keeps_timestamp: Whether a `timestamp` of the user's wins, as in Ray Tune's class API alone.
        """
        now, taken = self._clock(), metrics.get("time_this_iter_s")
        # To ask an abstract class about None takes longer than to look for it.
        spent: Any = taken if taken is not None and isinstance(taken, Real) else now - self._last_time
        self._last_time = now
        self.iteration += 1
        # Copies: a snapshot keeps what was.
        self.totals, self.since_restore = totals, here = {**self.totals}, {**self.since_restore}
        here["iterations"] += 1
        here["time"] += spent
        totals["time_total_s"] += spent
        row = {
            **metrics,
            "time_this_iter_s": spent,
            "time_total_s": totals["time_total_s"],
            "time_since_restore": here["time"],
            "iterations_since_restore": here["iterations"],
            "timestamp": self.timestamp(metrics.get("timestamp") if keeps_timestamp else None),
        }
        row.setdefault("training_iteration", self.iteration)
        row.setdefault("done", False)
        for name, this_iter, total in _COUNTED:
            added: Any = metrics.get(this_iter)
            if added is not None and isinstance(added, Real):
                totals[total] = totals.get(total, 0) + added
                here[name] = here.get(name, 0) + added
            if total in totals:
                row.setdefault(total, totals[total])
        if here["timesteps"]:
            row["timesteps_since_restore"] = here["timesteps"]
        return row
