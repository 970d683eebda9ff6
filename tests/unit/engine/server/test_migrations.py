"""Of servers that start at once, one brings the database up to date."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import prefect
import pytest

from tune_core.engine.server.migrations import migrations_apart

PATIENCE_S = 20.0


class Starts:
    """Servers that start, each in a thread, until they are told to be healthy."""

    def __init__(self, home: Path, database: str) -> None:
        self.begun: SimpleQueue[threading.Event] = SimpleQueue()
        self._home, self._database = home, database
        self._threads: list[threading.Thread] = []
        self._healthy: list[threading.Event] = []

    def start(self) -> None:
        healthy = threading.Event()
        self._healthy.append(healthy)
        self._threads.append(threading.Thread(target=self._run, args=(healthy,), daemon=True))
        self._threads[-1].start()

    def _run(self, healthy: threading.Event) -> None:
        with migrations_apart(self._home, self._database):
            self.begun.put(healthy)
            healthy.wait(PATIENCE_S)

    def none_begins(self) -> bool:
        try:
            self.begun.get(timeout=0.2)
        except Empty:
            return True
        return False

    def end(self) -> None:
        for healthy in self._healthy:
            healthy.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/prefect.db"


@pytest.fixture
def starts(tmp_path: Path, database: str) -> Iterator[Starts]:
    starts = Starts(tmp_path / "home", database)
    yield starts
    starts.end()


def test_servers_wait_for_the_first_on_a_fresh_home_and_then_start_together(
    tmp_path: Path, starts: Starts
) -> None:
    for _ in range(4):
        starts.start()
    first = starts.begun.get(timeout=PATIENCE_S)
    assert starts.none_begins()

    (tmp_path / "prefect.db").touch()
    first.set()

    for _ in range(3):
        starts.begun.get(timeout=PATIENCE_S)


def test_server_on_a_database_that_is_up_to_date_waits_for_nobody(tmp_path: Path, starts: Starts) -> None:
    starts.start()
    starts.begun.get(timeout=PATIENCE_S)
    (tmp_path / "prefect.db").touch()
    starts.end()

    for _ in range(2):
        starts.start()

    for _ in range(2):
        starts.begun.get(timeout=PATIENCE_S)


@pytest.mark.parametrize("change", ["another version", "another database", "no database", "the first died"])
def test_server_that_may_migrate_is_alone(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    (tmp_path / "prefect.db").touch()
    if change == "the first died":
        with pytest.raises(RuntimeError), migrations_apart(tmp_path / "home", database):
            raise RuntimeError("it died")
    else:
        with migrations_apart(tmp_path / "home", database):
            pass
    if change == "another version":
        monkeypatch.setattr(prefect, "__version__", "99.0")
    elif change == "another database":
        database += "-other"
        (tmp_path / "prefect.db-other").touch()
    elif change == "no database":
        (tmp_path / "prefect.db").unlink()
    starts = Starts(tmp_path / "home", database)

    for _ in range(2):
        starts.start()

    starts.begun.get(timeout=PATIENCE_S)
    assert starts.none_begins()
    starts.end()
