"""Directories of one machine: shared by processes, after somebody has filled them, and by no other user.

Owns the file locks for that. The kernel drops them when a process dies, so nothing waits for
the dead; a directory is seen only when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tune_core.errors import CheckpointError, StorageError


def private_directory(path: Path) -> Path:
    """Make a directory that no other user can read or put anything into, or make sure that it is one.

    Names in a directory like `/tmp`, which all users write to, can be taken by anybody first: with a link,
    what is written would go where the link leads.

    Raises:
        StorageError: Something else has the name: a link, a file, or another user's directory.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise StorageError(_not_private(path, error.strerror or str(error))) from error
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.getuid():
            raise StorageError(_not_private(path, f"it belongs to user {found.st_uid}"))
        if found.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return path


def _not_private(path: Path, why: str) -> str:
    return f"{path} is no directory of this user's own ({why}): remove it, or set TMPDIR to a directory of your own"


def fill_once(target: Path, fill: Callable[[], None]) -> None:
    """Fill a directory, or wait for the process that is filling it now.

    When this returns, a call of `fill` has ended well after this call began. If it raises,
    the next one who waits tries for itself.
    """
    asked = time.monotonic_ns()  # the same clock in every process of the machine
    name = hashlib.blake2b(f"{os.getuid()}:{target}".encode(), digest_size=16).hexdigest()
    lock = Path(tempfile.gettempdir()) / f"checkpoint_tmp_{name}.lock"
    while True:
        descriptor = _open(lock)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if int(os.pread(descriptor, 32, 0) or b"-1") >= asked and target.is_dir():
                return
            if _is_current(descriptor, lock):
                try:
                    fill()
                    os.pwrite(descriptor, b"%d" % time.monotonic_ns(), 0)
                    return
                finally:
                    lock.unlink()
        finally:
            _close(descriptor)


@contextmanager
def shared_directory(target: Path, fill: Callable[[Path], None]) -> Iterator[None]:
    """Hold a directory that all who hold it share; the first one fills it, the last one removes it.

    Args:
        target: Path of the directory, with names of its own beside it: `.lock`, `.readers`, `.part`.
        fill: Called with another path that is moved to `target` when it returns.

    Raises:
        CheckpointError: The directory belongs to another user.
    """
    lock, readers = _beside(target, ".lock"), _beside(target, ".readers")
    with _exclusive(lock):
        reader = _open(readers)
        try:
            fcntl.flock(reader, fcntl.LOCK_SH)
            _ensure(target, fill)
        except BaseException:
            _leave(target, reader)
            raise
    try:
        yield
    finally:
        with _exclusive(lock):
            _leave(target, reader)


def _ensure(target: Path, fill: Callable[[Path], None]) -> None:
    if target.exists():
        if target.lstat().st_uid != os.getuid():
            raise CheckpointError(f"{target} belongs to another user: set TMPDIR to a directory of your own")
        return
    partial = _beside(target, ".part")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died
    try:
        partial.mkdir(mode=0o700)
    except FileExistsError as error:
        raise CheckpointError(_not_private(partial, "it could not be emptied")) from error
    fill(partial)
    partial.rename(target)


def _leave(target: Path, reader: int) -> None:
    """Let go of the directory, and remove it if nobody else holds it. The caller has the lock."""
    try:
        fcntl.flock(reader, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # others read it
    else:
        partial = _beside(target, ".part")
        if target.exists():
            target.rename(partial)  # so that nobody takes half of it for the whole
        shutil.rmtree(partial, ignore_errors=True)
        _beside(target, ".readers").unlink()
    finally:
        _close(reader)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever held it before has removed the file: a lock on that one excludes nobody.
            if _is_current(descriptor, path):
                try:
                    yield
                finally:
                    path.unlink()
                return
        finally:
            _close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _close(descriptor: int) -> None:
    # Not by closing alone: a child that was forked meanwhile has a copy and would keep the lock.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)
