"""What the demo tunes, without what tunes it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tune_core as tune

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIG = {
    "learning_rate": 0.3,
    "hidden_width": 64,
    "alpha": 1e-4,
    "batch_size": 32,
    "epochs": 4,
    "seed": 3,
}


class Trial:
    """Stands in for the session: keeps what was reported, offers a checkpoint to start from."""

    def __init__(self, directory: Path, start_from: Path | None = None) -> None:
        self.directory = directory
        self.start_from = start_from
        self.reports: list[dict[str, float]] = []

    def report(self, metrics: dict[str, float], *, checkpoint: tune.Checkpoint) -> None:
        with checkpoint.as_directory() as saved:
            shutil.copytree(saved, self.checkpoint(len(self.reports)))
        self.reports.append(metrics)

    def get_checkpoint(self) -> tune.Checkpoint | None:
        return tune.Checkpoint.from_directory(str(self.start_from)) if self.start_from else None

    def checkpoint(self, number: int) -> Path:
        return self.directory / f"checkpoint_{number:06d}"

    def weights(self, number: int) -> dict[str, np.ndarray]:
        with np.load(self.checkpoint(number) / "weights.npz", allow_pickle=False) as saved:
            return dict(saved)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "digits", raising=False)
    import digits

    return digits


@pytest.fixture
def train(digits: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def run(name: str, start_from: Path | None = None, **config: Any) -> Trial:
        trial = Trial(tmp_path / name, start_from)
        monkeypatch.setattr(tune, "report", trial.report)
        monkeypatch.setattr(tune, "get_checkpoint", trial.get_checkpoint)
        digits.train_digits({**CONFIG, **config})
        return trial

    return run


def test_every_epoch_is_reported_and_the_network_learns(train: Any) -> None:
    trial = train("whole")

    assert [set(report) for report in trial.reports] == [{"accuracy", "loss"}] * 4
    assert trial.reports[-1]["accuracy"] > 0.85
    assert trial.reports[-1]["loss"] < trial.reports[0]["loss"]


def test_a_resumed_trial_ends_with_the_weights_of_one_that_was_never_stopped(train: Any) -> None:
    whole = train("whole")
    stopped = train("stopped", epochs=2)

    resumed = train("resumed", start_from=stopped.checkpoint(1))

    assert resumed.reports == whole.reports[2:]
    for name, expected in whole.weights(3).items():
        np.testing.assert_array_equal(resumed.weights(1)[name], expected)


def test_a_checkpoint_loads_into_a_network_of_the_same_configuration(train: Any, digits: ModuleType) -> None:
    trial = train("whole")
    training, validation, held_out = digits.load_images()
    network = digits.new_network(CONFIG, *training)

    epoch = digits.load_weights(network, trial.checkpoint(3))

    assert epoch == 3
    assert network.score(*validation) == trial.reports[-1]["accuracy"]
    assert network.score(*held_out) > 0.85


def test_the_three_sets_of_images_are_disjoint_and_complete(digits: ModuleType) -> None:
    sizes = [len(labels) for _, labels in digits.load_images()]

    assert sizes == [1078, 359, 360]
    assert sum(sizes) == 1797
