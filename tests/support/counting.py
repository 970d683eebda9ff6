"""Experiments whose rows follow from their configurations, to be broken off and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tune_core as tune
from tune_core.control.segments import read_journal
from tune_core.storage.experiment_storage import ExperimentStorage


def count(config: dict[str, Any]) -> None:
    """Count to six, saving each second step; what is reported follows from the configuration alone."""
    import tempfile
    import time
    from pathlib import Path

    import tune_core as tune

    start = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            start = int((Path(directory) / "step").read_text())
    for step in range(start + 1, config.get("steps", 6) + 1):
        time.sleep(config.get("pause_s", 0))
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "step").write_text(str(step))
            saved = tune.Checkpoint.from_directory(directory) if step % 2 == 0 else None
            tune.report({"score": config["x"] * step}, checkpoint=saved)


def rows_of(results: tune.ResultGrid) -> list[list[tuple[int, float]]]:
    """Iteration and score of every row of every trial, in creation order of the trials."""
    return [[(row["training_iteration"], row["score"]) for row in result.rows] for result in results]


def undisturbed(xs: list[int], steps: int = 6) -> list[list[tuple[int, float]]]:
    return [[(step, x * step) for step in range(1, steps + 1)] for x in xs]


def events(directory: Path | str) -> list[Any]:
    parent, _, name = str(directory).rpartition("/")
    return [event for event, _ in read_journal(ExperimentStorage.open(parent, name))]


class FailAt(tune.Callback):
    """Raises in the driver at the report of that number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Count down."""
        self._left -= 1
        if self._left == 0:
            raise RuntimeError("the driver broke")
