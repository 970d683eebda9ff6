"""What the tests of files of trials read."""

from __future__ import annotations

import csv
from pathlib import Path

from tune_core.storage.experiment_storage import ExperimentStorage

TRIAL = "train_abcde_00000"


def a_path(storage: ExperimentStorage, name: str) -> Path:
    return Path(storage.path) / TRIAL / name


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
