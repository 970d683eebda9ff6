"""A filesystem on which one chosen write goes wrong, to test what a crash leaves behind.

Owns the count of writes and the three ways to fail. Reads always work and are not counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem


class Fault(StrEnum):
    """How a write goes wrong."""

    #: Nothing is written.
    BEFORE = "before"
    #: The first half of the bytes is written, where a filesystem can do that; else nothing.
    PARTIAL = "partial"
    #: All is written, but the writer is told that it failed.
    LOST_REPLY = "lost_reply"


class InjectedFault(OSError):
    """The write that was chosen to fail, or one after the writer's death."""


class FaultyFileSystem(AbstractFileSystem):  # type: ignore[misc] # fsspec ships no types
    """Passes everything on to another filesystem, and makes write number `fail_at` fail.

    Counted as one write each: `pipe_file`, `put_file`, `cp_file`, `link`, `mv`, `rm_file`, `rm`, and
    `open` for writing. Making and removing directories is not counted, since object stores have none.

    Args:
        target: A local or memory filesystem.
        fail_at: Which write fails, from 1; None: none.
        fault: How.
        is_fatal: Whether all later writes fail too, as if the writer had died.

    Attributes:
        writes: What was written so far, as `(operation, path)`, the failed write included.

    Example:
        >>> import fsspec
        >>> faulty = FaultyFileSystem(fsspec.filesystem("memory"), fail_at=2)
        >>> faulty.pipe_file("/faulty/a", b"1")
        >>> faulty.pipe_file("/faulty/b", b"2")
        Traceback (most recent call last):
            ...
        tune_core.testing.faults.InjectedFault: write 2 (pipe_file /faulty/b) fails: before
        >>> faulty.exists("/faulty/a"), faulty.exists("/faulty/b")
        (True, False)
    """

    cachable = False

    def __init__(
        self,
        target: AbstractFileSystem,
        *,
        fail_at: int | None = None,
        fault: Fault = Fault.BEFORE,
        is_fatal: bool = False,
    ) -> None:
        super().__init__()
        self.target, self.fail_at, self.fault, self.is_fatal = target, fail_at, Fault(fault), is_fatal
        self.writes: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    @property
    def protocol(self) -> str | tuple[str, ...]:
        """The schemes of the target: who treats local paths differently still does."""
        names: str | tuple[str, ...] = self.target.protocol
        return names

    def _write(
        self, operation: str, path: str, write: Callable[[], Any], half: Callable[[], Any] | None
    ) -> Any:
        with self._lock:
            self.writes.append((operation, path))
            number = len(self.writes)
        if self.fail_at is None or number < self.fail_at or (number > self.fail_at and not self.is_fatal):
            return write()
        if number == self.fail_at:
            if self.fault is Fault.LOST_REPLY:
                write()
            elif self.fault is Fault.PARTIAL and half is not None:
                half()
        raise InjectedFault(f"write {number} ({operation} {path}) fails: {self.fault}")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a file; a create-only write has no half, since it shows whole or not at all."""

        def half() -> None:
            self.target.pipe_file(path, value[: len(value) // 2])

        self._write(
            "pipe_file",
            path,
            lambda: self.target.pipe_file(path, value, mode=mode, **kwargs),
            half if mode == "overwrite" else None,
        )

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        """Upload a file."""

        def half() -> None:
            data = Path(lpath).read_bytes()
            self.target.pipe_file(rpath, data[: len(data) // 2])

        self._write("put_file", rpath, lambda: self.target.put_file(lpath, rpath, **kwargs), half)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file."""
        self._write("cp_file", path2, lambda: self.target.cp_file(path1, path2, **kwargs), None)

    def link(self, src: str, dst: str, **kwargs: Any) -> None:
        """Make a hard link."""
        self._write("link", dst, lambda: self.target.link(src, dst, **kwargs), None)

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Move a file."""
        self._write("mv", path2, lambda: self.target.mv(path1, path2, **kwargs), None)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        self._write("rm_file", path, lambda: self.target.rm_file(path), None)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files."""
        self._write("rm", path, lambda: self.target.rm(path, recursive=recursive, maxdepth=maxdepth), None)

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open a file; one that is opened for writing counts now, and fails now or not at all."""
        if not set(mode) & set("wax+"):
            return self.target.open(path, mode, **kwargs)
        return self._write("open", path, lambda: self.target.open(path, mode, **kwargs), None)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make directories."""
        self._refuse_the_dead("makedirs", path)
        self.target.makedirs(path, exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        self._refuse_the_dead("rmdir", path)
        self.target.rmdir(path)

    def _refuse_the_dead(self, operation: str, path: str) -> None:
        if self.is_fatal and self.fail_at is not None and len(self.writes) >= self.fail_at:
            raise InjectedFault(f"{operation} {path} fails: the writer is dead")

    def _strip_protocol(self, path: Any) -> Any:
        return self.target._strip_protocol(path)

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        return str(self.target.unstrip_protocol(name))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        """List a directory."""
        return self.target.ls(path, detail=detail, **kwargs)

    def find(self, path: str, **kwargs: Any) -> Any:
        """List all files below a directory."""
        return self.target.find(path, **kwargs)

    def info(self, path: str, **kwargs: Any) -> Any:
        """Describe a file."""
        return self.target.info(path, **kwargs)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return whether there is such a file or directory."""
        return bool(self.target.exists(path, **kwargs))

    def isdir(self, path: str) -> bool:
        """Return whether it is a directory."""
        return bool(self.target.isdir(path))

    def isfile(self, path: str) -> bool:
        """Return whether it is a file."""
        return bool(self.target.isfile(path))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Read a file."""
        return bytes(self.target.cat_file(path, start=start, end=end, **kwargs))

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        """Download a file."""
        self.target.get_file(rpath, lpath, **kwargs)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget cached listings."""
        self.target.invalidate_cache(path)
