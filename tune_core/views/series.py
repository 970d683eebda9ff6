"""The points of a curve in little room, however many there are."""

from __future__ import annotations

from array import array


class Series:
    """The points of a curve, evenly thinned once there are too many; the newest is always among them.

    Args:
        limit: Half of the points that it holds at most.

    Example:
        >>> series = Series(2)
        >>> for step in range(1, 11):
        ...     series.add(step, step / 10)
        >>> series.points()
        [(1.0, 0.1), (5.0, 0.5), (9.0, 0.9), (10.0, 1.0)]
    """

    __slots__ = ("_count", "_last", "_limit", "_stride", "_xs", "_ys")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._xs, self._ys = array("d"), array("d")
        self._stride, self._count = 1, 0
        self._last: tuple[float, float] | None = None

    def add(self, x: float, y: float) -> None:
        """Append a point."""
        if self._count % self._stride == 0:
            if len(self._xs) == 2 * self._limit:
                self._xs, self._ys = self._xs[::2], self._ys[::2]
                self._stride *= 2
            if self._count % self._stride == 0:
                self._xs.append(x)
                self._ys.append(y)
        self._count += 1
        self._last = (float(x), float(y))

    def cut(self, x: float) -> None:
        """Forget the points from `x` on: an attempt makes them again."""
        if self._last is None or self._last[0] < x:
            return
        while self._xs and self._xs[-1] >= x:
            self._xs.pop()
            self._ys.pop()
        self._count = len(self._xs) * self._stride
        self._last = (self._xs[-1], self._ys[-1]) if self._xs else None

    @property
    def last(self) -> float | None:
        """The value of the newest point; None: there is none."""
        return self._last[1] if self._last is not None else None

    def points(self) -> list[tuple[float, float]]:
        """Return what is kept, oldest first."""
        kept = list(zip(self._xs, self._ys, strict=True))
        if self._last is not None and (not kept or kept[-1] != self._last):
            kept.append(self._last)
        return kept
