"""Tables as Prefect's UI shows them: JSON without NaN, and the same columns in every row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tune_core.metrics import flatten

#: Columns of a trial's table that come last, in this order.
_AUTO = ("time_this_iter_s", "time_total_s", "checkpoint_dir_name", "done", "lease")
_PLAIN = frozenset({int, str, bool, type(None)})
_SCALARS = frozenset((float, *_PLAIN))
_HIDDEN = frozenset({"time_since_restore", "iterations_since_restore", "should_checkpoint", "timestamp"})


def row_values(row: Mapping[str, Any], lease: int) -> dict[str, Any]:
    """Return what a trial's table shows of a report, as it is now: what a row holds, callbacks may change."""
    values = {
        name: value if type(value) in _SCALARS else cell(value)
        for name, value in flatten(row).items()
        if name not in _HIDDEN
    }
    values["lease"] = lease
    return values


def trial_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a trial's table: its iteration first, what is filled in last."""
    names = dict.fromkeys(name for row in rows for name in row)
    metrics = (name for name in names if name != "training_iteration" and name not in _AUTO)
    columns = ["training_iteration", *metrics, *(name for name in _AUTO if name in names)]
    return [
        {name: value if type(value := row.get(name)) in _PLAIN else cell(value) for name in columns}
        for row in rows
    ]


def uniform(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows that all have the same columns: the UI takes them from the first row alone."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def cell(value: Any) -> Any:
    """Return a value that JSON and the UI's tables can show.

    Example:
        >>> cell(float("nan")), cell(0.5), cell([1, 2])
        ('nan', 0.5, '[1, 2]')
    """
    if value is None or isinstance(value, (str, int)):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def encoded(table: list[dict[str, Any]]) -> str:
    """Return a table as JSON."""
    try:
        return orjson.dumps(table).decode()
    except TypeError:  # integers beyond 64 bits, half a surrogate pair
        return json.dumps(table)
