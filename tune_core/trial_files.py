"""Appends to the files that users find next to each trial, on any storage.

`TrialFiles` owns buffering, staging and uploading; what is in the files is for `loggers` to say.
A line, once written, is never changed or cut. Nothing here decides anything or is needed to
resume: the journal is the state, these files are for people.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import re
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tune_core.errors import StorageError
from tune_core.filesystems import check_name
from tune_core.transfer import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from tune_core.storage import ExperimentStorage

log = logging.getLogger(__name__)

# Bounds on what waits in memory for one file; the rest of the bound is `write_interval_s`.
_MAX_PENDING_BYTES = 64 * 1024
_MAX_PENDING_ROWS = 256
_NEVER = float("-inf")
_TO_QUOTE = re.compile(r'[,"\r\n]')
#: Uploads at once: enough for a thousand short trials, little enough for their sockets.
_UPLOADERS = 4


class _LineFile:
    """Appends whole lines, so that whoever reads meanwhile sees no half of one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: One buffer: what orjson 3.13 returns for a line holds several times its length.
        self._lines = bytearray()
        if _torn_tail(path):
            # A crash left half a line. It is ended, not cut: readers skip what is no JSON.
            _append(self.path, b"\n")

    def add(self, line: bytes) -> None:
        self._lines += line
        self._lines += b"\n"
        if len(self._lines) > _MAX_PENDING_BYTES:
            self.write()

    def write(self) -> None:
        if self._lines:
            _append(self.path, self._lines)
            self._lines = bytearray()


class _TableFile:
    """Appends rows of a CSV file; a new column rewrites the file once, with the union of columns.

    One record is one line: line breaks inside of values become spaces. That makes a torn record
    recognisable, and widening the file a matter of appending commas.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []
        if path.exists():
            if torn := _torn_tail(path):
                os.truncate(path, path.stat().st_size - torn)  # half a number would read as another one
            with path.open(encoding="utf-8", newline="") as file:
                self._columns = next(csv.reader(file), [])

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _MAX_PENDING_ROWS:
            self.write()

    def write(self) -> None:
        if not self._rows:
            return
        columns, seen = self._columns, None
        for row in self._rows:
            if row.keys() != seen:
                known, seen = set(columns), row.keys()
                columns = [*columns, *(name for name in row if name not in known)]
        if columns != self._columns:
            self._widen(columns)
        _append(self.path, _csv_lines([_cells(row, columns) for row in self._rows]))
        self._rows = []

    def _widen(self, columns: list[str]) -> None:
        padding = b"," * (len(columns) - len(self._columns)) + b"\n"
        wider = self.path.with_name(TEMPORARY_PREFIX + self.path.name)
        with wider.open("wb") as target:
            target.write(_csv_lines([columns]))
            if self._columns:
                with self.path.open("rb") as source:
                    next(source)
                    target.writelines(line[:-1] + padding for line in source)
        wider.replace(self.path)
        self._columns = columns


@dataclass(slots=True)
class _OpenTrial:
    """What `TrialFiles` knows about a trial that is being written."""

    directory: Path
    is_new: bool = False
    lines: dict[str, _LineFile] = field(default_factory=dict)
    tables: dict[str, _TableFile] = field(default_factory=dict)
    #: Names of files whose staged copy is newer than the uploaded one.
    changed: set[str] = field(default_factory=set)
    upload: Future[None] | None = None
    uploading: set[str] = field(default_factory=set)
    uploaded_at: float = _NEVER
    #: Why the last upload failed; None if it did not.
    fault: BaseException | None = None
    is_final: bool = False

    def write(self) -> None:
        for lines in self.lines.values():
            lines.write()
        for table in self.tables.values():
            table.write()


class TrialFiles:
    r"""Appends to the files of many trials, at a bounded cost in memory, handles and requests.

    On local storage, files grow in `<experiment>/<trial>/` themselves. On any other storage they
    are staged in a directory of this process and uploaded whole, by a few threads: nothing here
    waits for the network, except `close` and the first write after a retry or a resume, which
    fetches what earlier attempts wrote. No file stays open between writes.

    Lines wait in memory until `flush`, `flush_due`, or 64 KiB; the owner calls `flush_due` often
    (it returns at once while nothing is due) and `close` at the end. Not thread-safe: one
    thread owns it.

    Args:
        storage: Where the experiment is.
        staging_dir: Where copies for other than local storage are made, in a fresh subdirectory.
        upload_interval_s: Least number of seconds between two uploads for one running trial.
        write_interval_s: Number of seconds after which `flush_due` writes what is in memory.

    Example:
        >>> import tempfile
        >>> from tune_core.storage import ExperimentStorage
        >>> storage = ExperimentStorage.open(tempfile.mkdtemp(), "experiment")
        >>> files = TrialFiles(storage, tempfile.gettempdir())
        >>> files.append_line("trial_1", "result.json", b'{"loss": 1.0}')
        >>> files.close()
        >>> (Path(storage.path) / "trial_1" / "result.json").read_text()
        '{"loss": 1.0}\n'
    """

    def __init__(
        self,
        storage: ExperimentStorage,
        staging_dir: str | Path,
        *,
        upload_interval_s: float = 10.0,
        write_interval_s: float = 1.0,
    ) -> None:
        self._storage = storage
        self._staging_dir = Path(staging_dir)
        self._upload_interval_s = upload_interval_s
        self._write_interval_s = write_interval_s
        self._root = Path(storage.path) if storage.is_local else None
        self._trials: dict[str, _OpenTrial] = {}
        self._now = _NEVER
        self._uploaders: ThreadPoolExecutor | None = None

    @property
    def root(self) -> Path:
        """The local directory that the trials' directories are written in."""
        if self._root is None:
            self._staging_dir.mkdir(parents=True, exist_ok=True)
            # Fresh: what a dead process left behind is older or newer than the storage, nobody knows.
            self._root = Path(tempfile.mkdtemp(prefix="trial-files-", dir=self._staging_dir))
        return self._root

    @property
    def num_open(self) -> int:
        """Number of trials that something is remembered for."""
        return len(self._trials)

    def open(self, trial_dirname: str, *, is_new: bool = False) -> None:
        """Expect writes for a trial.

        Args:
            trial_dirname: The trial's directory below the experiment's.
            is_new: Whether no attempt has written before, so that nothing need be looked for.

        Raises:
            StorageError: The name leaves the experiment's directory.
        """
        trial = self._trials.get(trial_dirname)
        if trial is None:
            directory = self.root / check_name(trial_dirname, "trial", nested=False)
            directory.mkdir(parents=True, exist_ok=True)
            self._trials[trial_dirname] = _OpenTrial(directory, is_new=is_new)
        else:
            trial.is_final = False

    def append_line(self, trial_dirname: str, name: str, line: bytes) -> None:
        """Append one line to a file of a trial.

        Args:
            trial_dirname: The trial's directory below the experiment's.
            name: The file's name.
            line: Its bytes, without the newline.
        """
        trial = self._opened(trial_dirname)
        file = trial.lines.get(name)
        if file is None:
            file = trial.lines[name] = _LineFile(self._fetched(trial, name))
        trial.changed.add(name)
        file.add(line)

    def append_row(self, trial_dirname: str, name: str, row: dict[str, Any]) -> None:
        """Append one record to a CSV file of a trial; its new keys become new columns.

        Args:
            trial_dirname: The trial's directory below the experiment's.
            name: The file's name.
            row: Column to value; kept until it is written, so not to be changed by the caller.
        """
        trial = self._opened(trial_dirname)
        file = trial.tables.get(name)
        if file is None:
            file = trial.tables[name] = _TableFile(self._fetched(trial, name))
        trial.changed.add(name)
        file.add(row)

    def replace(self, trial_dirname: str, name: str, data: bytes) -> None:
        """Write a whole file of a trial; readers see the old or the new one, nothing between."""
        trial = self._opened(trial_dirname)
        path = trial.directory / name
        if path.exists() and path.read_bytes() == data:
            return
        partial = path.with_name(TEMPORARY_PREFIX + name)
        partial.write_bytes(data)
        partial.replace(path)
        trial.changed.add(name)

    def flush(self, trial_dirname: str) -> None:
        """Write what waits in memory for a trial; the next `flush_due` uploads it."""
        trial = self._trials.get(trial_dirname)
        if trial is not None:
            trial.write()

    def finish(self, trial_dirname: str) -> None:
        """Write what waits in memory for a trial, and expect nothing more.

        The next `flush_due` uploads it, interval or not, and once that has succeeded the trial is
        forgotten. A later write opens it again.
        """
        trial = self._trials.get(trial_dirname)
        if trial is None:
            return
        trial.write()
        trial.is_final = True
        if self._storage.is_local:
            self._advance(trial_dirname, trial)

    def flush_due(self, now: float) -> None:
        """Write and upload what is due; returns at once while nothing is.

        An upload that fails is logged and made again after the interval.

        Args:
            now: Seconds, on any clock that does not go back, the same one each time.
        """
        if now - self._now < self._write_interval_s:
            return
        self._now = now
        for trial_dirname, trial in list(self._trials.items()):
            trial.write()
            self._advance(trial_dirname, trial)

    def discard(self) -> None:
        """Forget what waits: the files are somebody else's now. What is under way may still arrive."""
        self._settle_all()
        self._trials.clear()

    def close(self) -> None:
        """Write and upload everything; when this returns, storage holds every line.

        Raises:
            StorageError: Some files could not be uploaded; the message says where they are.
        """
        for trial in self._trials.values():
            trial.write()
        for _ in range(2):  # after what is under way: what changed meanwhile; then, what failed
            self._settle_all()
            for trial in self._trials.values():
                self._upload(trial)
        self._settle_all()
        faults = {name: trial.fault for name, trial in self._trials.items() if trial.fault is not None}
        if self._uploaders is not None:
            self._uploaders.shutdown()
            self._uploaders = None
        self._trials.clear()
        if faults:
            name, fault = next(iter(faults.items()))
            raise StorageError(
                f"files of {len(faults)} trials could not be uploaded to {self._storage.url} "
                f"(trial {name}: {fault!r}); their copies are kept in {self.root}: "
                "copy them there when the storage answers again"
            ) from fault
        if not self._storage.is_local and self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def _opened(self, trial_dirname: str) -> _OpenTrial:
        if trial_dirname not in self._trials:
            self.open(trial_dirname)
        trial = self._trials[trial_dirname]
        trial.is_final = False
        return trial

    def _fetched(self, trial: _OpenTrial, name: str) -> Path:
        """The local path of a file, with what earlier attempts, maybe of a dead driver, wrote."""
        path = trial.directory / name
        if not (self._storage.is_local or trial.is_new or path.exists()):
            with contextlib.suppress(FileNotFoundError):
                path.write_bytes(self._storage.read(f"{trial.directory.name}/{name}"))
        return path

    def _advance(self, trial_dirname: str, trial: _OpenTrial) -> None:
        """Take the next step of a trial whose lines are all written: upload, or forget it."""
        if trial.upload is not None and not trial.upload.done():
            return
        _settle(trial_dirname, trial)
        is_urgent = trial.is_final and trial.fault is None
        if is_urgent or self._now - trial.uploaded_at >= self._upload_interval_s:
            self._upload(trial)
        if trial.is_final and trial.upload is None and not trial.changed:
            del self._trials[trial_dirname]
            if not self._storage.is_local:
                shutil.rmtree(trial.directory, ignore_errors=True)

    def _settle_all(self) -> None:
        for trial_dirname, trial in self._trials.items():
            _settle(trial_dirname, trial)

    def _upload(self, trial: _OpenTrial) -> None:
        names, trial.changed = trial.changed, set()
        if self._storage.is_local or not names:
            return
        if self._uploaders is None:
            self._uploaders = ThreadPoolExecutor(_UPLOADERS, thread_name_prefix="trial-files")
        trial.uploaded_at, trial.uploading = self._now, names
        trial.upload = self._uploaders.submit(_upload_files, self._storage, trial.directory, sorted(names))


def _upload_files(storage: ExperimentStorage, directory: Path, names: list[str]) -> None:
    for name in names:
        storage.upload(directory / name, f"{directory.name}/{name}")


def _settle(trial_dirname: str, trial: _OpenTrial) -> None:
    """Wait for the upload under way, if there is one, and take note of its end."""
    if trial.upload is None:
        return
    trial.fault = trial.upload.exception()
    trial.upload = None
    if trial.fault is not None:
        trial.changed |= trial.uploading
        names = ", ".join(sorted(trial.uploading))
        log.warning("trial %s: %s could not be uploaded yet: %r", trial_dirname, names, trial.fault)


def _torn_tail(path: Path) -> int:
    """Number of bytes after the last newline of a file; 0 if there is no file."""
    if not path.exists():
        return 0
    torn = 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _MAX_PENDING_BYTES)
            file.seek(start)
            newline = (chunk := file.read(end - start)).rfind(b"\n")
            torn += len(chunk) - newline - 1
            if newline >= 0:
                break
            end = start
    return torn


def _append(path: Path, data: bytes | bytearray) -> None:
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        message = f"cannot append to {str(path)!r}: {error}; make room for it, then resume the experiment"
        raise StorageError(message) from error


def _cells(row: dict[str, Any], columns: list[str]) -> list[Any]:
    return list(row.values()) if list(row) == columns else [row.get(name) for name in columns]


def _csv_lines(records: list[list[Any]]) -> bytes:
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
    cells = ["" if value is None else str(value) for value in values]
    return None if _TO_QUOTE.search("".join({*cells})) else cells


def _quoted_lines(records: list[list[Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(records)
    text = buffer.getvalue()
    if text.count("\n") != len(records) or "\r" in text:
        return _quoted_lines([[_one_line(value) for value in record] for record in records])
    return text.encode("utf-8", "backslashreplace")


def _one_line(value: Any) -> Any:
    return value if value is None else " ".join(str(value).splitlines())
