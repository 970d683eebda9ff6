"""The example whose trials train on several workers: in their bundles, and on after one dies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.test_examples import run


def train(home: Path, *arguments: str) -> str:
    """Run the example; return its last lines, which depend on nothing but what was learnt."""
    storage = home / "storage"
    printed = run(
        ["examples/distributed_trial.py", "--epochs", "4", "--storage", str(storage), *arguments],
        home / "prefect",
    )
    assert "2 trials: 2 terminated" in printed
    return printed[printed.index("Best learning rate") :]


@pytest.mark.slow
def test_trial_on_three_workers_learns_the_same_whether_or_not_one_of_them_dies(tmp_path: Path) -> None:
    undisturbed = train(tmp_path / "undisturbed")
    resumed = train(tmp_path / "resumed", "--crash-at", "2")

    assert resumed == undisturbed
    assert "Placement groups    1 for the trial and its 3 workers" in resumed
    right = re.search(r"Loaded weights +([\d.]+)% of 600", resumed)
    assert right is not None
    assert float(right.group(1)) > 80
    errors = list((tmp_path / "resumed").rglob("error.txt"))
    assert len(errors) == 2
    assert all("ActorDiedError" in error.read_text() for error in errors)
    assert not list((tmp_path / "undisturbed").rglob("error.txt"))
