"""Lets one of several servers that start at once bring a database up to date.

Prefect's migrations are not made for company: of five servers that start on a fresh home three have been seen to die.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import prefect
from sqlalchemy.engine import make_url

#: In Prefect's home: is locked, and says which database has been brought up to date, by which version.
_FILE = "prefect-tune-migrations"

logger = logging.getLogger("prefect.tune")


@contextmanager
def migrations_apart(home: Path, database_url: str) -> Iterator[None]:
    """Until the server that is started here is healthy, let nobody else migrate its database.

    Servers that find the database up to date start side by side.

    Args:
        home: Prefect's, where all servers that may share the database have theirs.
        database_url: The database.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / _FILE).open("a+", encoding="utf-8") as file:
        wanted = f"{prefect.__version__} {hashlib.sha256(database_url.encode()).hexdigest()}"
        is_first = not _is_up_to_date(file, wanted, database_url) and _lock(file)
        if is_first and _is_up_to_date(file, wanted, database_url):  # somebody was faster
            fcntl.flock(file, fcntl.LOCK_UN)
            is_first = False
        yield
        if is_first:
            file.truncate(0)
            file.write(wanted)
            file.flush()


def _is_up_to_date(file: TextIO, wanted: str, database_url: str) -> bool:
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).exists()):
        return False  # it is in memory, or has been removed
    file.seek(0)
    return file.read() == wanted


def _lock(file: TextIO) -> bool:
    """Lock it; wait while somebody else has it locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        logger.warning(
            "cannot lock %s, so servers that start at once may harm each other: %s", file.name, error
        )
        return False
    return True
