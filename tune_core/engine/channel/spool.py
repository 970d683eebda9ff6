"""Rows on the disk of a trial's node, until they are journaled: the death of its process does not take them.

What is written to a file belongs to the kernel, as what is queued in a process does not; it is written
by way of memory, since a system call for each row takes as long as all the rest of a report. The driver
reads what an attempt has left behind once its process is dead. The names have a part that only
driver and trial know, since other users of the machine write to the same directory.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_core.encoding import loads

#: The size of a file, unless a row needs more.
_PART_BYTES = 128 * 1024

logger = logging.getLogger("prefect.tune.process")


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """Where the trials of an experiment keep rows, each on its own node.

    Attributes:
        directory: A directory for temporary files; on a node that lacks it, that node's own is used.
        key: The experiment's part of the names, which nobody can guess.
    """

    directory: str
    key: str

    @classmethod
    def fresh(cls) -> SpoolPlace:
        """Return a place that no other experiment has."""
        return cls(tempfile.gettempdir(), os.urandom(8).hex())

    def path(self, trial_id: str, attempt_number: int, number: int) -> Path:
        """Return one of the files of an attempt, by its number from 0."""
        return self._root / f"{self._prefix}{trial_id}-{attempt_number}.{number}"

    def remove(self) -> None:
        """Remove what is left of the experiment on this node."""
        for path in self._root.glob(f"{self._prefix}*"):
            path.unlink(missing_ok=True)

    @property
    def _root(self) -> Path:
        return Path(self.directory if Path(self.directory).is_dir() else tempfile.gettempdir())

    @property
    def _prefix(self) -> str:
        return f"prefect-tune-rows-{self.key}-"


class _Part:
    """A file of rows, one a line, with zeros after them; all of it is allocated, so that no write can fail."""

    __slots__ = ("_bytes", "_end", "_size", "until")

    def __init__(self, path: Path, size: int) -> None:
        # The name cannot be guessed and is used once: a file or link that lies there is not ours.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
            self._bytes = mmap.mmap(file, size)
        finally:
            os.close(file)
        self._end, self._size = 0, size
        #: The iteration of the latest row.
        self.until = 0

    def has_room(self, length: int) -> bool:
        return self._end + length <= self._size

    def add(self, line: bytes) -> None:
        end = self._end + len(line)
        self._bytes[self._end : end] = line
        self._end = end

    def clear(self) -> None:
        self._bytes[:] = bytes(self._size)
        self._end = 0

    def close(self) -> None:
        self._bytes.close()


class Spool:
    """The rows of one attempt that the journal need not have, in files that the process maps into its memory.

    A part whose rows are journaled is used again; there are as many as the rows on their way need.

    Args:
        path: Returns the path of a part, by its number.

    Attributes:
        until: The iteration of the latest row.
    """

    def __init__(self, path: Callable[[int], Path]) -> None:
        self._path = path
        #: The one that is written to is the last.
        self._parts: deque[_Part] = deque()
        self._is_off = False
        self.until = 0

    def add(self, iteration: int, row: bytes, journaled: int) -> None:
        """Write a row, unless that one is written; after that the death of the process does not take it.

        A disk that is full does not fail the trial: its rows are still sent, and it says what is at risk.

        Args:
            iteration: Its iteration, higher than those before.
            row: The report as it is sent, without a line break.
            journaled: The highest iteration that is known to be journaled.
        """
        if iteration <= self.until:
            return
        if not self._is_off:
            line = row + b"\n"
            try:
                part = self._part_with_room(len(line), journaled)
            except OSError as error:
                self._is_off = True
                logger.warning(
                    "rows cannot be kept in %s: %s. They are sent all the same; should this process be killed, "
                    "the rows of its last milliseconds may be lost",
                    self._path(0).parent,
                    error,
                )
            else:
                part.add(line)
                part.until = iteration
        self.until = iteration

    def remove(self) -> None:
        """Remove the files: the driver has heard everything, or is gone."""
        self._is_off = True
        while self._parts:
            self._path(len(self._parts) - 1).unlink(missing_ok=True)
            self._parts.pop().close()

    def _part_with_room(self, length: int, journaled: int) -> _Part:
        if self._parts and self._parts[-1].has_room(length):
            return self._parts[-1]
        if len(self._parts) > 1 and self._parts[0].until <= journaled:
            self._parts[0].clear()
            self._parts.rotate(-1)
        if not self._parts or not self._parts[-1].has_room(length):
            path = self._path(len(self._parts))
            path.unlink(missing_ok=True)  # this process was interrupted when it had just been made
            self._parts.append(_Part(path, max(length, _PART_BYTES)))
        return self._parts[-1]


def left_behind(place: SpoolPlace, trial_id: str, attempt_number: int) -> list[bytes]:
    """Return what the files of an attempt hold whose process is dead, and remove them; run it on its node."""
    found: list[bytes] = []
    for number in itertools.count():
        path = place.path(trial_id, attempt_number, number)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            break
        with os.fdopen(file, "rb") as opened:
            status = os.fstat(file)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid():
                found.append(opened.read())
        path.unlink(missing_ok=True)
    return found


def rows_of(parts: Iterable[bytes]) -> dict[int, dict[str, Any]]:
    """Return the rows of what was left behind, by iteration; a line that the death has cut is none.

    Their checkpoints are left out: whether those were committed is for the commit markers to say.
    """
    rows: dict[int, dict[str, Any]] = {}
    for part in parts:
        for line in part.split(b"\n")[:-1]:
            if b"\0" in line:
                continue  # the rest of a part that was being cleared
            iteration, _, _, row = loads(line)
            row.pop("should_checkpoint", None)
            rows[iteration] = {**row, "checkpoint_dir_name": None}
    return rows
