"""Files of this machine that only grow: lines, and tables of CSV.

Owns how a line gets to the disk as a whole, how a table gets new columns, and what a cell looks like.
Nothing here knows of trials or storages. A line, once written, is never changed; what a failed write
has left of one is cut off before it is written again.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import orjson

from tune_core.errors import StorageError
from tune_core.storage.transfer import TEMPORARY_PREFIX, refuse_special

#: How much of a file waits in memory; the rest of the bound is how often its owner writes.
MAX_PENDING_BYTES = 64 * 1024
MAX_PENDING_ROWS = 256
_TO_QUOTE = re.compile(r'[,"\r\n]')
#: Text that begins so is a formula to spreadsheets, which run it as the file is opened.
_FORMULA = ("=", "+", "-", "@", "\t")


class _AppendedFile(ABC):
    """A file that this process, and those before it, append to.

    Args:
        path: Where it is.
        size: Its size when this process wrote to it last; None if it did not.

    Attributes:
        size: The same, as of now.
        is_cut: Whether somebody has removed it, or cut it, since this process wrote to it last.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path, self.size = path, size
        self.is_cut = False
        self._is_known = False  # how it ends: not before the first write, nor after one that failed
        #: How long the file was before a write that failed.
        self._whole: int | None = None

    @property
    @abstractmethod
    def is_waiting(self) -> bool:
        """Whether something is yet to be written."""

    @abstractmethod
    def write(self) -> None:
        """Append what waits.

        Raises:
            OSError: It cannot be written now; what waits is kept, so that this can be called again.
            StorageError: Something is in its place that cannot be gone on with.
        """

    @abstractmethod
    def _mend(self) -> None:
        """Make the file, which exists, end so that it can be appended to."""

    def _look(self) -> None:
        """Find out what is there before something is appended."""
        try:
            refuse_special(self.path)
            size = self.path.stat().st_size
        except FileNotFoundError:
            size = 0
        if self.size is not None and size < self.size:
            self.is_cut = True
        elif self._whole is not None and size > self._whole:
            os.truncate(self.path, self._whole)  # what is left of it is written again
            size = self._whole
        self._whole = None
        if not self._is_known or size != self.size:
            self._mend()
            self._is_known = True

    def _append(self, data: bytes | bytearray) -> None:
        with self.path.open("ab", buffering=0) as file:
            self._whole, self._is_known = file.tell(), False
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            self.size, self._is_known, self._whole = file.tell(), True, None


class LineFile(_AppendedFile):
    """Appends whole lines, so that a reader never sees half of one; arguments as `_AppendedFile`."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        super().__init__(path, size)
        #: One buffer: what orjson 3.13 returns for a line holds several times its length.
        self._lines = bytearray()

    def add(self, line: bytes) -> bool:
        """Keep a line to be written; return whether so much waits that it is time to."""
        self._lines += line
        self._lines += b"\n"
        return len(self._lines) > MAX_PENDING_BYTES

    @property
    def is_waiting(self) -> bool:
        """Whether something is yet to be written."""
        return bool(self._lines)

    def write(self) -> None:
        """Append what waits; errors as of the base class."""
        if self._lines:
            self._look()
            self._append(self._lines)
            self._lines = bytearray()

    def _mend(self) -> None:
        if _torn_tail(self.path):
            # A crash left half a line. It is ended, not cut: readers skip what is no JSON.
            self._append(b"\n")


class TableFile(_AppendedFile):
    """Appends rows of a CSV file; a new column rewrites the file once, with the union of columns.

    One record is one line: line breaks inside of values become spaces. That makes a torn record
    recognisable, and widening the file a matter of appending commas. Arguments as `_AppendedFile`.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        super().__init__(path, size)
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []

    def add(self, row: dict[str, Any]) -> bool:
        """Keep a row to be written; return whether so many wait that it is time to."""
        self._rows.append(row)
        return len(self._rows) >= MAX_PENDING_ROWS

    @property
    def is_waiting(self) -> bool:
        """Whether something is yet to be written."""
        return bool(self._rows)

    def write(self) -> None:
        """Append what waits; errors as of the base class."""
        if not self._rows:
            return
        self._look()
        columns, seen = self._columns, None
        for row in self._rows:
            if row.keys() != seen:
                known, seen = set(columns), row.keys()
                columns = [*columns, *(name for name in row if name not in known)]
        if columns != self._columns:
            self._widen(columns)
        self._append(csv_lines([_cells(row, columns) for row in self._rows]))
        self._rows = []

    def _mend(self) -> None:
        self._columns = []
        if not self.path.exists():
            return
        if torn := _torn_tail(self.path):
            os.truncate(self.path, self.path.stat().st_size - torn)  # half a number would read as another one
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                header = next(csv.reader(file), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise StorageError(
                f"{self.path} cannot be gone on with, since its first line is no CSV in UTF-8 ({error}): move it "
                "away, and the next resume writes it again from the journal"
            ) from error
        self._columns = [
            name[1:] if name.startswith("'") and name[1:2] in _FORMULA else name for name in header
        ]

    def _widen(self, columns: list[str]) -> None:
        padding = b"," * (len(columns) - len(self._columns)) + b"\n"
        wider = self.path.with_name(TEMPORARY_PREFIX + self.path.name)
        with wider.open("wb") as target:
            target.write(csv_lines([columns]))
            if self._columns:
                with self.path.open("rb") as source:
                    next(source)
                    target.writelines(line[:-1] + padding for line in source)
        self.size = wider.stat().st_size
        wider.replace(self.path)
        self._columns = columns


def without_formula(text: str) -> str:
    """Return text as a cell that spreadsheets show and do not run: one that begins like a formula gets a `'`.

    Example:
        >>> [without_formula(text) for text in ("=1+1", "@SUM(A1)", "-0.5", "a=b")]
        ["'=1+1", "'@SUM(A1)", '-0.5', 'a=b']
    """
    if not text.startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _torn_tail(path: Path) -> int:
    """Number of bytes after the last newline of a file; 0 if there is no file."""
    if not path.exists():
        return 0
    torn = 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - MAX_PENDING_BYTES)
            file.seek(start)
            newline = (chunk := file.read(end - start)).rfind(b"\n")
            torn += len(chunk) - newline - 1
            if newline >= 0:
                break
            end = start
    return torn


def _cells(row: dict[str, Any], columns: list[str]) -> list[Any]:
    return list(row.values()) if list(row) == columns else [row.get(name) for name in columns]


def csv_lines(records: list[list[Any]]) -> bytes:
    """Return records of one length as CSV, each on one line."""
    columns = [_unquoted(values) for values in zip(*records, strict=True)]
    if len(columns) < 2 or None in columns:  # an only cell is quoted if it is empty
        return _quoted_lines(records)
    lines = map(",".join, zip(*columns, strict=True))
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _unquoted(values: tuple[Any, ...]) -> list[str] | None:
    """Return the cells of a column as text; None if one of them has to be quoted.

    Numbers are written by orjson, by columns: `csv.writer` takes a sixth of the driver's time for the digits.
    """
    kinds = set(map(type, values))
    if kinds in ({float}, {int}):
        with contextlib.suppress(TypeError):  # integers beyond 64 bits
            digits = orjson.dumps(values)
            if b"null" not in digits:  # which stands for NaN and infinities
                return digits[1:-1].decode().split(",")
    cells = ["" if value is None else without_formula(str(value)) for value in values]
    return None if _TO_QUOTE.search("".join({*cells})) else cells


def _quoted_lines(records: list[list[Any]]) -> bytes:
    cells = [["" if value is None else without_formula(str(value)) for value in record] for record in records]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(cells)
    text = buffer.getvalue()
    if text.count("\n") != len(records) or "\r" in text:
        buffer = io.StringIO(newline="")
        one_line = [[" ".join(cell.splitlines()) for cell in record] for record in cells]
        csv.writer(buffer, lineterminator="\n").writerows(one_line)
        text = buffer.getvalue()
    return text.encode("utf-8", "backslashreplace")
