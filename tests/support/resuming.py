"""Experiments of the local runtime that end early, to be resumed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import tune_core as tune
from tune_core.control.messages import (
    Event,
)
from tune_core.control.segments import read_journal
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime

STEPS = 6


def count(config: dict[str, Any]) -> None:
    """Count to six, saving each second step; what is reported follows from the configuration alone."""
    start = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            start = int(Path(directory, "step").read_text())
    for step in range(start + 1, config.get("steps", STEPS) + 1):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "step").write_text(str(step))
            saved = tune.Checkpoint.from_directory(directory) if step % 2 == 0 else None
            tune.report({"score": config["x"] * step}, checkpoint=saved)


def fit(tuner: tune.Tuner) -> tune.ResultGrid:
    return LocalRuntime().run(tuner.experiment())


def begin(path: Path, space: dict[str, Any] | None = None, **run: Any) -> tune.ResultGrid:
    space = {"x": tune.grid_search([1, 2])} if space is None else space
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent), **run)
    return fit(tune.Tuner(count, param_space=space, run_config=run_config))


def rows_of(results: tune.ResultGrid) -> list[list[tuple[int, float]]]:
    return [[(row["training_iteration"], row["score"]) for row in result.rows] for result in results]


def undisturbed(*xs: int, steps: int = STEPS) -> list[list[tuple[int, float]]]:
    return [[(step, x * step) for step in range(1, steps + 1)] for x in xs]


def storage_of(path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(path.parent, path.name)


def events(path: Path, kind: type[Event]) -> list[Any]:
    return [event for event, _ in read_journal(storage_of(path)) if isinstance(event, kind)]


def cut(path: Path, kind: type[Event]) -> Path:
    """Return a copy whose journal ends with the first event of that kind; its checkpoints are of later."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    segments = sorted((copy / "journal").iterdir())
    name = kind.__name__.encode()
    first = next(number for number, segment in enumerate(segments, 1) if name in segment.read_bytes())
    for segment in segments[first:]:
        segment.unlink()
    return copy


class Activation:
    """An object that JSON cannot hold."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"
