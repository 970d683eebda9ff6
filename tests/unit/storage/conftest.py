"""The storage of these tests, and what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from tests.support.directories import a_directory
from tests.support.stored import FILES
from tune_core.storage.experiment_storage import (
    ExperimentStorage,
)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A filesystem and an empty directory in it."""
    if request.param == "local":
        yield LocalFileSystem(), str(tmp_path / "storage")
        return
    filesystem, path = fsspec.filesystem("memory"), f"/unit-{uuid4().hex}"
    yield filesystem, path
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


@pytest.fixture
def storage(root: tuple[Any, str]) -> ExperimentStorage:
    filesystem, path = root
    return ExperimentStorage.open(path, "experiment", filesystem=filesystem)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return a_directory(tmp_path / "source", FILES)
