"""Tables as Prefect's UI shows them: JSON without NaN, the same columns in every row, and of a bounded size.

What a table has no room for is said in it. `result.json` has each row whole.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from tune_core.metrics import SINCE_RESTORE, flatten

#: The column that says whose report it is, in the table of all trials: no metric of a user's has this name.
TRIAL = "trial_id"
#: Columns of a table of reports that come last, in this order.
_AUTO = ("time_this_iter_s", "time_total_s", "checkpoint_dir_name", "done", "attempt_number")
_WORD_JOINER = "\u2060"
#: The first halves of `[text](href)`, `[text][name]`, `[name]: href`, `<href>` and `<tag>`.
_LINK_OR_TAG = re.compile(r"\](?=[(\[:])|<(?=[A-Za-z/!?])")
#: Most letters of a cell, most columns of a table, and most rows and bytes of one version of a table of reports.
CELL_LETTERS, COLUMNS = 500, 200
ROWS_PER_VERSION, BYTES_PER_VERSION = 1000, 1_000_000
#: Most bytes of any other table.
BYTES_PER_TABLE = 1_000_000
#: The column that says how many a row has had no room for.
MORE = "more columns"
#: What JSON has around a cell, in bytes, about.
_AROUND = 8
_PLAIN = frozenset({int, str, bool, type(None)})
_NUMBERS = frozenset({int, float, bool, type(None)})
_SCALARS = frozenset((float, *_PLAIN))
_HIDDEN = frozenset((*SINCE_RESTORE, "should_checkpoint", "timestamp"))


@dataclass(slots=True)
class TrialRows:
    """The rows of one version of a table of reports, none of them longer than a table may be wide."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    _columns: set[str] = field(default_factory=set)
    _row_bytes: int = 0
    _cell_bytes: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the next row belongs into another version."""
        # A row has every column, if it has no value for it.
        size = len(self.rows) * self._row_bytes + self._cell_bytes
        return bool(self.rows) and (len(self.rows) >= ROWS_PER_VERSION or size >= BYTES_PER_VERSION)

    def add(self, row: dict[str, Any]) -> None:
        """Add what `row_values` returned."""
        if not self._columns.issuperset(row):
            new = [name for name in row if name not in self._columns]
            self._columns.update(new)
            self._row_bytes += sum(len(name) + _AROUND for name in new)
        texts = [value for value in row.values() if type(value) is str]
        self._cell_bytes += _AROUND * (len(row) - len(texts)) + sum(map(len, texts))
        self.rows.append(row)

    def copy(self) -> TrialRows:
        """Return rows to add to without changing these."""
        return TrialRows([*self.rows], {*self._columns}, self._row_bytes, self._cell_bytes)


def row_values(row: Mapping[str, Any], attempt_number: int) -> dict[str, Any]:
    """Return what a trial's table shows of a report, as it is now: what a row holds, callbacks may change."""
    flat = flatten(row)
    if len(flat) > COLUMNS:
        flat = _bounded({name: value for name, value in flat.items() if name not in _HIDDEN})
    values = {
        name: value if type(value) in _NUMBERS else cell(value)
        for name, value in flat.items()
        if name not in _HIDDEN
    }
    values["attempt_number"] = attempt_number
    return values


def _bounded(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a row that fits into a table: what is filled in, and the first of the rest."""
    if len(flat) <= COLUMNS:
        return flat
    always = {name: flat[name] for name in ("training_iteration", *_AUTO) if name in flat}
    rest = [name for name in flat if name not in always]
    shown = rest[: COLUMNS - len(always)]
    return {**{name: flat[name] for name in shown}, **always, MORE: len(rest) - len(shown)}


def reports_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a table of reports: trial and iteration first, what is filled in last."""
    names = dict.fromkeys(name for row in rows for name in row)
    last = (MORE, *_AUTO)
    first = (TRIAL, "training_iteration") if TRIAL in names else ("training_iteration",)
    metrics = [name for name in names if name not in first and name not in last]
    columns = [*first, *metrics[:COLUMNS], *(name for name in last if name in names)]
    return [
        {name: value if type(value := row.get(name)) in _PLAIN else cell(value) for name in columns}
        for row in rows
    ]


def uniform(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows that all have the same columns, since the UI takes them from the first row alone.

    Those at the end for which a table has no room are left out.
    """
    columns = list(islice(dict.fromkeys(name for row in rows for name in row), COLUMNS))
    table: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        same = {name: row.get(name) for name in columns}
        size += sum(
            len(name) + _AROUND + (len(value) if isinstance(value, str) else 0)
            for name, value in same.items()
        )
        if table and size > BYTES_PER_TABLE:
            break
        table.append(same)
    return table


def cell(value: Any) -> Any:
    """Return a value that JSON and the UI's tables can show; of one that is long, how long it is.

    Example:
        >>> cell(float("nan")), cell(0.5), cell([1, 2])
        ('nan', 0.5, '[1, 2]')
        >>> cell([0.0] * 5000)
        '[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ...] (5,000 values)'
    """
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if (
        isinstance(value, _CONTAINERS) and (number := _leaves(value)) > CELL_LETTERS // 2
    ):  # 250 digits and commas
        size = f" ({number:,} values)" if number < _MOST_LEAVES else f" (over {_MOST_LEAVES:,} values)"
        return _SHORT.repr(value)[: CELL_LETTERS - len(size)] + size
    return shortened(value if isinstance(value, str) else _text(value))


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - of a user's class, whose fault costs its value and not the table
        return f"<{type(value).__name__}>"


def shortened(text: str) -> str:
    """Return a text that is no longer than a cell may be; of a longer one its beginning, and how long it is.

    Example:
        >>> shortened("a" * 2000).endswith("aaa… (2,000 letters)")
        True
    """
    if len(text) <= CELL_LETTERS:
        return text
    size = f"… ({len(text):,} letters)"
    return text[: CELL_LETTERS - len(size)] + size


def _leaves(value: Any) -> int:
    """Return how many values there are in nested containers, `_MOST_LEAVES` at most."""
    number, waiting = 0, [iter((value,))]
    while waiting and number < _MOST_LEAVES:
        for each in waiting.pop():
            if isinstance(each, _CONTAINERS):
                inner: Iterable[Any] = each.values() if isinstance(each, dict) else each
                if all(type(item) in _SCALARS for item in inner):
                    number += len(each)
                else:
                    waiting.append(iter(inner))
            else:
                number += 1
    return min(number, _MOST_LEAVES)


_CONTAINERS = (list, tuple, set, frozenset, dict)
#: As far as `_leaves` counts.
_MOST_LEAVES = 1_000_000
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxfrozenset = _SHORT.maxdict = 8
_SHORT.maxlevel = 4


def encoded(table: list[dict[str, Any]]) -> str:
    """Return a table as JSON, without what V1 would make links or HTML of.

    V1 draws texts in cells as Markdown, V2 draws them as they are: a backslash would be seen there. So a word joiner,
    which neither shows, parts what makes a link or a tag. Outside of texts JSON has none of these pairs.
    """
    try:
        made = orjson.dumps(table).decode()
    except TypeError:  # integers beyond 64 bits, half a surrogate pair
        made = json.dumps(table)
    return _LINK_OR_TAG.sub(rf"\g<0>{_WORD_JOINER}", made)
