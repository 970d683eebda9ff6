"""The format of the files next to a trial, for those who write and read them.

Owns their names, and how rows and failures are found in them. A row names the attempt (`attempt_number`)
that reported it; of each iteration, the rows of the newest attempt count. The configuration is in an
attempt's first row, since it may be large and does not change until the next one.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tune_core.errors import StorageError, TrialError
from tune_core.metrics import AUTO_FILLED
from tune_core.text import first_few

#: Names of a trial's files, as Ray Tune spells them.
RESULT_FILE, PROGRESS_FILE, PARAMS_FILE, ERROR_FILE = (
    "result.json",
    "progress.csv",
    "params.json",
    "error.txt",
)
#: Start of a line of `error.txt`: each failure has one, and a trial that ended well after failures.
FAILED, RECOVERED = "Failure # ", "Ended without error"


def user_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user's own code has reported, nested as it was.

    Example:
        >>> user_metrics({"loss": 0.5, "pid": 7, "config": {"lr": 0.1}})
        {'loss': 0.5}
    """
    return {name: value for name, value in row.items() if name not in AUTO_FILLED}


def newest_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that count: of each iteration, those that its newest attempt reported.

    Their order stays, and so do rows without an iteration. An attempt that goes on from iteration 5
    makes rows 6, 7, … of the attempt before obsolete as it reports them itself.

    Example:
        >>> first = {"training_iteration": 1, "attempt_number": 1}
        >>> second = {"training_iteration": 1, "attempt_number": 2}
        >>> newest_rows([first, second])
        [{'training_iteration': 1, 'attempt_number': 2}]
    """
    newest: dict[Any, int] = {}
    for row in rows:
        iteration, attempt_number = _iteration(row), row.get("attempt_number", 0)
        newest[iteration] = max(attempt_number, newest.get(iteration, attempt_number))
    found: dict[Any, dict[str, Any]] = {}
    for place, row in enumerate(rows):
        iteration, attempt_number = _iteration(row), row.get("attempt_number", 0)
        if iteration is None or attempt_number >= newest[iteration]:
            # Which report of its attempt it is: a driver whose place was taken may have written it as well.
            report = row.get("iterations_since_restore")
            found.setdefault((attempt_number, report) if isinstance(report, int) else place, row)
    return list(found.values())


def _iteration(row: dict[str, Any]) -> float | None:
    """The row's iteration; None if the user's own value of that name is no number."""
    iteration = row.get("training_iteration")
    # An integer may be beyond what `isnan` takes.
    is_number = isinstance(iteration, int) or (isinstance(iteration, float) and not math.isnan(iteration))
    return iteration if is_number else None


def parse_rows(data: bytes, source: str) -> list[dict[str, Any]]:
    """Return the rows of a `result.json`, of every attempt, in the order they were reported.

    A line that is no JSON object, such as the half line that a crash leaves, is skipped with a warning.

    Args:
        data: The file's bytes.
        source: The file's name, for the warning.
    """
    rows, faults = [], []
    texts: dict[str, str] = {}
    for number, line in enumerate(io.BytesIO(data), 1):  # line by line: a long file has many
        if not line.strip():
            continue
        row = parse_line(line)
        if isinstance(row, dict):
            for name, value in row.items():
                if (
                    type(value) is str
                ):  # host, date and the like are the same in many rows: one object for all
                    if texts.get(name) != value:
                        texts[name] = value
                    row[name] = texts[name]
            rows.append(row)
        else:
            faults.append(number)
    if faults:
        text = f"{source}: skipped {len(faults)} of {len(rows) + len(faults)} rows that are no JSON objects"
        warnings.warn(f"{text}: line {first_few(map(str, faults), 5)} (a crash may cut a line)", stacklevel=2)
    return rows


def with_configs(rows: Sequence[dict[str, Any]], params: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the rows of a `result.json` with the configuration in each.

    Rows of one attempt share the object. It is that of the attempt's first row; if that is not there, `params`.

    Args:
        rows: In the order of the file, before any is left out.
        params: What `params.json` holds; None: there is none, and such rows stay without.

    Example:
        >>> first = {"attempt_number": 1, "config": {"x": 1}}
        >>> rows = with_configs([first, {"attempt_number": 1}, {"attempt_number": 2}], {"x": 2})
        >>> [row["config"] for row in rows]
        [{'x': 1}, {'x': 1}, {'x': 2}]
    """
    known: dict[Any, Any] = {}
    found = []
    for row in rows:
        attempt_number = row.get("attempt_number")
        config = known[attempt_number] = row.get("config", known.get(attempt_number, params))
        found.append(row if config is None else {**row, "config": config})
    return found


def parse_params(data: bytes, source: str) -> dict[str, Any]:
    """Return the configuration that a `params.json` holds.

    Raises:
        StorageError: It is damaged; the text names `source`.
    """
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        config = error
    if not isinstance(config, dict):
        why = (
            f"{type(config).__name__}: {config}" if isinstance(config, Exception) else "it is no JSON object"
        )
        raise StorageError(f"{source} is damaged ({why}): move it away, and the next resume writes it again")
    return config


def parse_line(line: bytes) -> Any:
    """Return what a line of `result.json` holds; None if it is no JSON."""
    try:
        return orjson.loads(line)
    except ValueError:
        pass  # NaN and Infinity are literals that only the slower parser knows
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def last_failure(text: str) -> TrialError | None:
    """The last failure in an `error.txt`; None if the trial recovered from it."""
    _, found, block = f"\n{text}".rpartition(f"\n{FAILED}")
    if not found:
        return None
    _, message, *trace = [*block.splitlines(), ""]
    if any(line.startswith(RECOVERED) for line in trace):
        return None
    return TrialError(message, "\n".join(trace).strip("\n"))
