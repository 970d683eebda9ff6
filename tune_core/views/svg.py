"""Small charts as SVG text: axes, lines, dots and bars, in a few kilobytes and milliseconds.

Written by hand so that charts need no extra and can be drawn while an experiment runs: a plotting
library takes seconds to import and ten times the bytes. Text stays text. Colours are of middle
brightness on no background, so that a chart can be read in dark and in light pages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from tune_core.text import cut, printable, short

#: One per line of a chart: Okabe and Ito's, which most people can tell apart, a little evened out.
COLOURS: Final = ("#2f8fd0", "#e08a1e", "#2aa876", "#c9609f", "#8f7be0", "#b8a012", "#d95f4a", "#5fb3c8")
GREY, FAINT, BAD = "#868e99", "#868e9944", "#d2493f"
_STEPS = (1.0, 2.0, 5.0, 10.0)
#: Numbers beyond this, which no sum of two may overflow, are left out.
_HUGE: Final = 1e300

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values; what lies outside is drawn at its edge.

    Attributes:
        low: Its lower end.
        high: Its upper end, above `low`.
        is_log: Whether equal ratios take equal room; both ends are positive then.
        label: What it shows, with the unit.
    """

    low: float
    high: float
    is_log: bool = False
    label: str = ""

    @classmethod
    def over(
        cls, values: Iterable[float], label: str = "", *, may_be_log: bool = False, zero: bool = False
    ) -> Axis:
        """Return an axis that shows all of these values.

        Args:
            values: What is to be shown.
            label: What they are.
            may_be_log: Whether it is logarithmic if they are positive and a thousandfold apart.
            zero: Whether it begins at 0.
        """
        shown = [value for value in values if abs(value) < _HUGE] or [0.0]
        low, high = min(shown), max(shown)
        if may_be_log and low > 0 and high / low >= 1000:
            return cls(low, high, True, label)
        if zero:
            low = min(low, 0.0)
        if high - low <= 1e-9 * max(abs(low), abs(high), 1 / _HUGE):
            room = abs(low) / 10 or 1.0
            low, high = (low if zero else low - room), high + room
        room = (high - low) * 0.04  # so that nothing lies on the frame
        return cls(low if zero else low - room, high + room, False, label)

    @classmethod
    def unit(cls) -> Axis:
        """Return an axis from 0 to 1."""
        return cls(0.0, 1.0)

    def part(self, value: float) -> float:
        """Return where a value is: 0 at the lower end, 1 at the upper."""
        if self.is_log:
            value = max(value, self.low)
            low = math.log(self.low)
            where = (math.log(value) - low) / (math.log(self.high) - low)
        else:
            where = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, where))

    def ticks(self, count: int = 5) -> list[float]:
        """Return about so many round values on the axis.

        Example:
            >>> Axis(0.0, 9.3).ticks()
            [0.0, 2.0, 4.0, 6.0, 8.0]
            >>> Axis(1e-5, 0.5, is_log=True).ticks()
            [1e-05, 0.0001, 0.001, 0.01, 0.1]
        """
        if self.is_log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first + 1) / count))
            return [float(f"1e{power}") for power in range(first, last + 1, every)]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = min((power * factor for factor in _STEPS), key=lambda size: abs(size - rough))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


class Drawing:
    """An SVG image that elements are added to.

    Args:
        width: In pixels.
        height: In pixels.
        title: What screen readers say of it.

    Example:
        >>> drawing = Drawing(100, 50, "an example")
        >>> drawing.text(10, 20, "1 < 2")
        >>> "1 &lt; 2" in drawing.svg()
        True
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height = width, height
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif" font-size="11" fill="{GREY}">'
            f"<title>{escape(printable(title))}</title>"
        ]

    def svg(self) -> str:
        """Return the image."""
        return "".join((*self._parts, "</svg>"))

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", colour: str = "", extra: str = ""
    ) -> None:
        """Write a line of text; `anchor` is "start", "middle" or "end"."""
        colour = f' fill="{colour}"' if colour else ""
        anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
        self._parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}"{anchor}{colour}{extra}>{escape(printable(text))}</text>'
        )

    def line(self, points: Sequence[Point], colour: str, width: float = 1.5) -> None:
        """Draw a line through points, in pixels."""
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Draw a filled rectangle, in pixels."""
        size = f'width="{_n(max(width, 0.5))}" height="{_n(height)}"'
        self._parts.append(f'<rect x="{_n(x)}" y="{_n(y)}" {size} fill="{colour}"/>')

    def dots(self, points: Iterable[Point], colour: str, size: float = 5) -> None:
        """Draw dots, in pixels: lines of no length with round ends, the shortest way to write them."""
        path = "".join(f"M{_n(x)},{_n(y)}h0" for x, y in points)
        look = f'stroke="{colour}" stroke-opacity=".75" stroke-width="{size:g}" stroke-linecap="round"'
        self._parts.append(f'<path d="{path}" {look}/>')


class Panel:
    """A pair of axes on a drawing.

    Args:
        drawing: What it is on.
        left: Where its plane begins, in pixels; labels of ticks are left of it.
        top: Likewise.
        width: Of the plane, in pixels.
        height: Of the plane, in pixels.
        x: From left to right.
        y: From the bottom up.
        names: What stands along `x`, evenly spread, if these are no numbers: `x` goes from 0 to 1 then.
        y_ticks: Whether the values of `y` are written.
        rows: Whether `y` only counts rows: nothing is written or drawn along it.
    """

    def __init__(
        self,
        drawing: Drawing,
        left: float,
        top: float,
        width: float,
        height: float,
        x: Axis,
        y: Axis,
        *,
        names: Sequence[str] = (),
        y_ticks: bool = True,
        rows: bool = False,
    ) -> None:
        self._drawing = drawing
        self._left, self._top, self._width, self._height = left, top, width, height
        self._x, self._y = x, y
        bottom = top + height
        for place, text in _marks(x, names, max(2, int(width / 90))):
            where = left + width * place
            drawing.line([(where, top), (where, bottom)], FAINT, 1)
            drawing.text(where, bottom + 13, text, "middle")
        for tick in y.ticks(max(2, int(height / 40))) if not rows else ():
            where = bottom - height * y.part(tick)
            drawing.line([(left, where), (left + width, where)], FAINT, 1)
            if y_ticks:
                drawing.text(left - 5, where + 4, short(tick), "end")
        drawing.line([(left, top), (left, bottom), (left + width, bottom)], GREY, 1)
        if x.label:
            drawing.text(left + width / 2, bottom + 28, x.label, "middle")
        if y.label:
            drawing.text(left - 5, top - 7, y.label)

    def place(self, x: float, y: float) -> Point:
        """Return where values are on the drawing, in pixels."""
        down = self._height * (1.0 - self._y.part(y))
        return self._left + self._width * self._x.part(x), self._top + down

    def curve(self, points: Sequence[Point], colour: str, width: float = 1.5) -> None:
        """Draw values as a line; a single one as a dot."""
        if len(points) == 1:
            self._drawing.dots([self.place(*points[0])], colour)
        else:
            self._drawing.line([self.place(*point) for point in points], colour, width)

    def steps(self, points: Sequence[Point], colour: str, until: float) -> None:
        """Draw values that hold until the next one, the last one until `until`."""
        corners: list[Point] = []
        for x, y in points:
            if corners:
                corners.append((x, corners[-1][1]))
            corners.append((x, y))
        self.curve([*corners, (until, corners[-1][1])], colour, 2)


def _marks(axis: Axis, names: Sequence[str], count: int) -> list[tuple[float, str]]:
    if not names:
        return [(axis.part(tick), short(tick)) for tick in axis.ticks(count)]
    letters = max(3, 15 * count // len(names))
    return [((number + 0.5) / len(names), cut(name, letters)) for number, name in enumerate(names)]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
