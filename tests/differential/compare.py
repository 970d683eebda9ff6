"""The one comparer: where do two outcomes differ, and which of that was declared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.differential.case import RAISED, Difference

#: Stands for what one of the sides does not have.
MISSING = "<missing>"


class Found(NamedTuple):
    """One place where the outcomes differ.

    Attributes:
        path: Where, with dots: `results.0.rows.2.loss`.
        peer: What Ray Tune has there.
        ours: What this library has there.
    """

    path: str
    peer: Any
    ours: Any


def differences(peer: Any, ours: Any, path: str = "") -> Iterator[Found]:
    """Yield where two outcomes differ, as deep down as possible.

    Of an error it is enough that whatever catches the peer's catches ours as well.
    """
    if isinstance(peer, dict) and isinstance(ours, dict):
        for name in [*peer, *(name for name in ours if name not in peer)]:
            deeper = f"{path}.{name}" if path else str(name)
            yield from differences(peer.get(name, MISSING), ours.get(name, MISSING), deeper)
    elif path.endswith(RAISED) and isinstance(peer, list) and isinstance(ours, list):
        if not set(peer) <= set(ours):
            yield Found(path, peer, ours)
    elif isinstance(peer, list) and isinstance(ours, list) and len(peer) == len(ours):
        for index, (first, second) in enumerate(zip(peer, ours, strict=True)):
            yield from differences(first, second, f"{path}.{index}" if path else str(index))
    elif peer != ours or isinstance(peer, bool) != isinstance(ours, bool):
        yield Found(path, peer, ours)


class Verdict(NamedTuple):
    """What is left of the differences once those that were declared are taken out.

    Attributes:
        undeclared: Differences that nobody declared.
        shown: The declared ones that did show.
    """

    undeclared: list[Found]
    shown: set[Difference]


def judge(peer: Any, ours: Any, declared: Mapping[str, Difference]) -> Verdict:
    """Compare two outcomes against what was declared.

    Args:
        peer: Ray Tune's outcome.
        ours: This library's.
        declared: Patterns of paths: `*` stands for one step, `**` for any number of them.
    """
    patterns = [(_compiled(pattern), difference) for pattern, difference in declared.items()]
    undeclared, shown = [], set()
    for found in differences(peer, ours):
        matching = {difference for pattern, difference in patterns if pattern.fullmatch(found.path)}
        shown |= matching
        if not matching:
            undeclared.append(found)
    return Verdict(undeclared, shown)


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join({"**": ".*", "*": r"[^.]*"}.get(part, re.escape(part)) for part in parts))
