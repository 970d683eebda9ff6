"""How values look to a reader: cut, on one line, in few digits, and never able to control a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

#: Seconds of each unit of time, the largest first.
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def cut(text: str, length: int) -> str:
    """Return a text of at most `length` characters; of a longer one, its beginning.

    Example:
        >>> cut("learning_rate", 9)
        'learning…'
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"


def printable(text: str) -> str:
    r"""Return a line of text without what a terminal obeys and files cannot hold; "?" stands for each of that.

    Example:
        >>> printable("a\x1b[31m\ud800ß")
        'a?[31m?ß'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "?" for each in text)


def one_line(value: object) -> str:
    r"""Return the text of a value on one line that a terminal can show.

    Example:
        >>> one_line("a\n  b\a")
        'a b?'
    """
    return printable(" ".join(str(value).split()))


def short(value: object, digits: int = 4, width: int = 30) -> str:
    r"""Return a value as a short text on one line; nothing for None.

    Example:
        >>> short(0.123456), short(1234567.0), short(12), short(None), short("a\nb")
        ('0.1235', '1.235e+06', '12', '', 'a b')
    """
    if value is None:
        return ""
    return cut(f"{value:.{digits}g}" if isinstance(value, float) else one_line(value), width)


def assignments(values: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Return values by name, those of `names` alone if they are given, each of them short.

    Example:
        >>> assignments({"lr": 0.1, "width": 64, "seed": None}, ["lr", "seed", "missing"])
        'lr=0.1 seed=None'
    """
    shown = values if names is None else [name for name in names if name in values]
    return " ".join(f"{name}={short(values[name]) if values[name] is not None else None}" for name in shown)


def first_few(names: Iterable[str], number: int) -> str:
    """Return names separated by commas, at most `number` of them.

    Example:
        >>> first_few(["a", "b", "c"], 2), first_few([], 2)
        ('a, b, …', '')
    """
    shown = list(names)
    return ", ".join([*shown[:number], "…"] if len(shown) > number else shown)


def quantity(number: int, noun: str, plural: str = "") -> str:
    """Return a number of things.

    Example:
        >>> quantity(1, "trial"), quantity(2, "trial"), quantity(0, "entry", "entries")
        ('1 trial', '2 trials', '0 entries')
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units; nothing if it is not known.

    Example:
        >>> duration(0.1234), duration(4.2), duration(125), duration(7200), duration(None)
        ('0.123 s', '4.2 s', '2 min 5 s', '2 h', '')
    """
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole, amounts = round(seconds), []
    for size, unit in _UNITS:
        amount, whole = divmod(whole, size)
        amounts.append(f"{amount} {unit}" if amount else "")
    first = next(place for place, amount in enumerate(amounts) if amount)
    return " ".join(filter(None, amounts[first : first + 2]))
