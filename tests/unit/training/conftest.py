"""What sessions are tested with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fake_uplink import FakeUplink
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage


@pytest.fixture
def uplink() -> FakeUplink:
    return FakeUplink()


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ExperimentStorage:
    root = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    return ExperimentStorage.open(root, "experiment")


@pytest.fixture
def local(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path, "experiment")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    directory = tmp_path / "to-report"
    directory.mkdir()
    (directory / "weights.txt").write_text("0.5")
    return Checkpoint.from_directory(directory)
