"""The storage that these tests write to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_core.storage.experiment_storage import ExperimentStorage


@pytest.fixture
def local(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path, "experiment")
