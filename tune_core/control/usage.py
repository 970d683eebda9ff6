"""What attempts have taken of the cluster: amounts times seconds, as a fold over their beginnings and ends."""

from __future__ import annotations

from collections.abc import Mapping

#: The resources that `TuneConfig.max_cost` can limit.
COSTING = ("CPU", "GPU")


class Usage:
    """Sums up what attempts take while they run.

    Example:
        >>> usage = Usage()
        >>> usage.begin("t0", 1, {"CPU": 2.0}, time=0.0)
        >>> usage.begin("t1", 1, {"CPU": 1.0, "GPU": 1.0}, time=10.0)
        >>> usage.end("t0", 1, time=20.0)
        >>> usage.at(30.0)
        {'CPU': 60.0, 'GPU': 20.0}
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], Mapping[str, float]] = {}
        self._spent = dict.fromkeys(COSTING, 0.0)
        #: What runs now takes in each second, and until when it is in `_spent`.
        self.rate = dict.fromkeys(COSTING, 0.0)
        self._until = 0.0

    def begin(self, trial_id: str, attempt_number: int, amounts: Mapping[str, float], time: float) -> None:
        """Take note that an attempt begins, with all of its bundles."""
        self._move(time)
        self._running[trial_id, attempt_number] = amounts
        self._weigh()

    def end(self, trial_id: str, attempt_number: int, time: float) -> None:
        """Take note that an attempt is over; one that never began took nothing."""
        if (trial_id, attempt_number) in self._running:
            self._move(time)
            del self._running[trial_id, attempt_number]
            self._weigh()

    def end_all(self, time: float) -> None:
        """Take note that nothing runs any more."""
        self._move(time)
        self._running.clear()
        self._weigh()

    def at(self, time: float) -> dict[str, float]:
        """Return the amounts times seconds until then, of each resource in `COSTING`."""
        since = max(0.0, time - self._until)
        return {name: spent + self.rate[name] * since for name, spent in self._spent.items()}

    def _move(self, time: float) -> None:
        self._spent, self._until = self.at(time), max(time, self._until)

    def _weigh(self) -> None:
        # Summed again: what is added and taken away would leave a rest.
        held = self._running.values()
        self.rate = {name: sum(amounts.get(name, 0.0) for amounts in held) for name in COSTING}
