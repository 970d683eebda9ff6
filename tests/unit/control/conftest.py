"""Where the experiments of these tests are, and how often their journal is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.journals import Driver
from tune_core.errors import ExperimentConflict, StorageError
from tune_core.storage.experiment_storage import ExperimentStorage


@pytest.fixture
def every_event_is_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a journal can be cut after any event."""
    monkeypatch.setattr("tune_core.control.journal.FLUSH_EVENTS", 1)
    monkeypatch.setattr("tune_core.control.journal.FLUSH_INTERVAL_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experiment"


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ExperimentStorage:
    root = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    return ExperimentStorage.open(root, "experiment")


@pytest.fixture
def local(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path, "experiment")


@pytest.fixture
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are written because a test says so, not because a second has gone by."""
    monkeypatch.setattr("tune_core.control.journal.FLUSH_INTERVAL_S", 3600.0)


@pytest.fixture
def drivers(no_time_passes: None) -> Iterator[list[Driver]]:
    """Drivers that are closed after the test, however it ends."""
    made: list[Driver] = []
    yield made
    for driver in made:
        try:
            driver.journal.close()
        except (StorageError, ExperimentConflict, ArithmeticError):
            assert driver.failures


@pytest.fixture
def a_driver(drivers: list[Driver]) -> Callable[..., Driver]:
    def make(*args: Any, **kwargs: Any) -> Driver:
        drivers.append(Driver(*args, **kwargs))
        return drivers[-1]

    return make
