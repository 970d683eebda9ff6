"""Checkpoints that tests commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import (
    CheckpointMarker,
    ExperimentStorage,
)

FILES = {"model.pt": b"weights" * 100, "optimizer/state 1.bin": b"\0\1\2", "empty.txt": b""}


def commit(
    storage: ExperimentStorage, source: Any, index: int = 0, attempt_number: int = 1, **kwargs: Any
) -> CheckpointMarker:
    arguments: dict[str, Any] = {"iteration": index + 1, "rows": [], "metrics": {}} | kwargs
    return storage.commit_checkpoint(
        "trial_1", source, index=index, attempt_number=attempt_number, **arguments
    )


def indices(storage: ExperimentStorage) -> list[int]:
    return [marker.index for marker in storage.committed("trial_1")]


def content(checkpoint: Checkpoint, target: Path) -> dict[str, bytes]:
    directory = Path(checkpoint.to_directory(target))
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
