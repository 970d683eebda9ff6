"""Small finished experiments, and `prefect-tune` called in the process of the test."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.cli import main
from tune_core.search import BasicVariantGenerator
from tune_core.testing.local_runtime import LocalRuntime

#: Two attempts fail in each experiment of `tuned`: those with this width.
BROKEN_WIDTH = 64


def train(config: dict[str, Any]) -> None:
    """Report five times, with a checkpoint each; loss is best for the narrowest."""
    checkpoint = tune.get_checkpoint()
    first = 0
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            first = int(Path(directory, "state").read_text()) + 1
    for step in range(first, config.get("steps", 5)):
        width = config["net"]["width"]
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state").write_text(str(step))
            loss = width / (step + 1)
            report = {"loss": loss, "eval": {"accuracy": 1 / (1 + loss)}}
            tune.report(report, checkpoint=tune.Checkpoint.from_directory(directory))
        if width == BROKEN_WIDTH and step == 1:
            raise ValueError("too wide: 64 units")


def tuned(storage_path: str | Path, name: str, **changes: Any) -> tune.ResultGrid:
    """Run an experiment of three trials, the last of which fails; return its results."""
    values: dict[str, Any] = {"metric": "loss", "mode": "min", **changes.pop("tune_config", {})}
    tuner = tune.Tuner(
        changes.pop("trainable", train),
        param_space={
            "net": {"width": tune.grid_search([16, 32, BROKEN_WIDTH])},
            "lr": tune.loguniform(1e-3, 0.1),
            "steps": 5,
            **changes.pop("param_space", {}),
        },
        tune_config=tune.TuneConfig(search_alg=BasicVariantGenerator(random_state=1), **values),
        run_config=tune.RunConfig(name=name, storage_path=str(storage_path), **changes),
    )
    return LocalRuntime().run(tuner.experiment())


@dataclass(frozen=True)
class Called:
    """What a call of `prefect-tune` came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class CommandLine:
    """Calls `prefect-tune` and takes what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Called:
        self._capsys.readouterr()
        code = main([str(each) for each in arguments])
        printed = self._capsys.readouterr()
        return Called(int(code), printed.out, printed.err)
