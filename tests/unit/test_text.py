"""How values look to a reader."""

from __future__ import annotations

import math

import pytest

from tune_core.text import assignments, duration, first_few, one_line, quantity, short


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (0.0123456, "0.0123 s"),
        (59.94, "59.9 s"),
        (60, "1 min"),
        (3599.7, "1 h"),
        (3661, "1 h 1 min"),
        (3601, "1 h"),
        (200_000, "2 d 7 h"),
        (1_000_000, "11 d 13 h"),
        (None, ""),
        (math.inf, ""),
        (math.nan, ""),
    ],
)
def test_a_duration_is_in_its_two_largest_units(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_short_value_keeps_to_its_width_and_its_line() -> None:
    assert short("x" * 40, width=10) == "x" * 9 + "…"
    assert short(-math.pi * 1e-300, digits=17, width=12) == "-3.14159265…"
    assert short(["a", "b\n c"]) == "['a', 'b\\n c']"


def test_a_text_cannot_control_the_terminal() -> None:
    assert one_line("a\x1b[2J\r\n\u202eb") == "a?[2J ?b"
    assert "\x1b" not in assignments({"name": "\x1b[31m"})


def test_lists_say_that_there_is_more() -> None:
    assert first_few(iter("abc"), 3) == "a, b, c"
    assert first_few({"a": 1, "b": 2}, 1) == "a, …"
    assert quantity(1, "entry", "entries") == "1 entry"
