"""Where a driver stages trial files that it uploads, in the machine's temporary directory.

A driver holds a lock on its directory. So `systemd-tmpfiles` leaves the directory alone, and so the next driver can
tell it from one whose driver has been killed: those are removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "prefect-tune-staging-"
#: While it has no lock yet.
_NEW_PREFIX = ".new-"
#: In a directory whose files could not be uploaded: the user has been told to copy them.
_KEPT = "kept"

logger = logging.getLogger("prefect.tune")


@contextmanager
def staging_directory() -> Iterator[Path]:
    """Make a directory of this driver's own, and remove those of drivers that are dead.

    It goes when the context is left, unless `keep` has been called for it.
    """
    temporary = Path(tempfile.gettempdir())
    _sweep(temporary)
    made = Path(tempfile.mkdtemp(prefix=_NEW_PREFIX + _PREFIX, dir=temporary))
    lock = _locked(made)
    try:
        directory = made.rename(made.with_name(made.name.removeprefix(_NEW_PREFIX)))
        try:
            yield directory
        finally:
            if not (directory / _KEPT).exists():
                shutil.rmtree(directory, ignore_errors=True)  # somebody may have removed it before
    finally:
        os.close(lock)


def keep(directory: Path) -> None:
    """Leave a directory to its user, who has been told to copy what is in it."""
    with suppress(FileNotFoundError):  # nothing was staged that could be copied
        (directory / _KEPT).touch()


def _locked(directory: Path) -> int:
    """Lock a directory; return what holds the lock.

    Raises:
        BlockingIOError: Somebody else holds it.
        OSError: It is no directory, or not there.
    """
    found = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(found)
        raise
    return found


def _sweep(temporary: Path) -> None:
    """Remove this user's directories whose drivers have died."""
    for each in temporary.glob(f"{_PREFIX}*"):
        try:
            found = each.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or (each / _KEPT).exists():
                continue
            lock = _locked(each)
        except OSError:  # its driver is alive, or it is gone
            continue
        try:
            shutil.rmtree(each)
        except OSError as error:
            logger.warning("cannot remove %s, which a dead process has left: %s", each, error)
        finally:
            os.close(lock)
