"""How values look in a terminal: short, one line each, and never able to control it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune_core.metrics import flatten
from tune_core.text import assignments, cut, printable, short

if TYPE_CHECKING:
    from rich.table import Table


def parameters(config: Mapping[str, Any], names: Iterable[str] | None = None, width: int = 200) -> str:
    """Return `lr=0.1 width=64`.

    Args:
        config: A configuration, nested as it may be.
        names: Only these; None: all.
        width: Characters at most.
    """
    return cut(assignments(flatten(config), names), width)


def varied(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the parameters that are not the same in all configurations; of a single one, all.

    Example:
        >>> varied([{"lr": 1, "net": {"width": 2}}, {"lr": 1, "net": {"width": 3}}])
        ['net/width']
    """
    flat = [flatten(config) for config in configs]
    names = list(dict.fromkeys(name for config in flat for name in config))
    if len(flat) < 2:
        return names
    missing = object()
    return [
        name for name in names if len({short(config.get(name, missing), 17, 1000) for config in flat}) > 1
    ]


def table(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table without a frame.

    Args:
        columns: Titles, each with how it is set: "left" and "right" never get narrower, "fold" does and
            takes more lines, "cut" does and loses its end.
        rows: A text for each column.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title, kind in columns.items():
        drawn.add_column(
            printable(title),
            justify="right" if kind == "right" else "left",
            no_wrap=kind != "fold",
            overflow="fold" if kind == "fold" else "ellipsis",
            min_width=8 if kind in ("fold", "cut") else None,
        )
    for row in rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return drawn


def fields(pairs: Mapping[str, str]) -> str:
    """Return names and values below each other, without those that are empty.

    Lines may be longer than the terminal is wide, so that paths in them can be copied.

    Example:
        >>> print(fields({"status": "ended", "error": "", "best": "loss=0.5"}))
        status  ended
        best    loss=0.5
    """
    shown = {name: value for name, value in pairs.items() if value}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())
