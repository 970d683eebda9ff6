"""The comparison of the two APIs in Ray Tune's documentation: one model as a function and as a class.

Each line of that table is a row of `CONCEPTS`; what is asked there has to be the same for both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.testing.local_runtime import LocalRuntime

STEPS = 6


class Model:
    """Learns by counting, and can be told to fail once at a step."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.x = config, 0

    def train(self) -> dict[str, Any]:
        self.x += 1
        marker = Path(self.config["marker"])
        if self.x == self.config["fails_at"] and not marker.exists():
            marker.touch()
            raise RuntimeError("out of luck")
        return {"score": self.config["a"] * self.x, "model": {"x": self.x}}

    def write(self, directory: str) -> None:
        Path(directory, "model.json").write_text(json.dumps(self.x))

    def read(self, directory: str) -> None:
        self.x = json.loads(Path(directory, "model.json").read_text())


def as_function(config: dict[str, Any]) -> None:
    model = Model(config)
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            model.read(directory)
    while model.x < STEPS:
        metrics = model.train()
        if model.x % 2 and model.x < STEPS:
            tune.report(metrics)
            continue
        saved = Path(f"model-{model.x}")
        saved.mkdir()
        model.write(str(saved))
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(saved))


class AsClass(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.model = Model(config)

    def step(self) -> dict[str, Any]:
        return self.model.train() | ({"done": True} if self.model.x >= STEPS else {})

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.model.write(checkpoint_dir)

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        self.model.read(checkpoint_dir)


def run(trainable: Any, place: Path, fails_at: int) -> tune.Result:
    is_class = isinstance(trainable, type)
    checkpoints = tune.CheckpointConfig(checkpoint_frequency=2 if is_class else 0)
    experiment = tune.Tuner(
        trainable,
        param_space={"a": 3, "fails_at": fails_at, "marker": str(place / "failed")},
        run_config=tune.RunConfig(
            name="one",
            storage_path=str(place / "storage"),
            checkpoint_config=checkpoints,
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    ).experiment()
    return LocalRuntime().run(experiment)[0]


def rows(result: tune.Result, *names: str) -> list[tuple[Any, ...]]:
    return list(result.metrics_dataframe[list(names)].itertuples(index=False, name=None))


def all_rows(result: tune.Result, *names: str) -> list[tuple[Any, ...]]:
    lines = map(json.loads, Path(result.path, "result.json").read_text().splitlines())
    return [tuple(line[name] for name in names) for line in lines]


def kept_models(result: tune.Result) -> dict[str, int]:
    models = {}
    for checkpoint, _ in result.best_checkpoints:
        with checkpoint.as_directory() as directory:
            models[Path(checkpoint.path).name] = json.loads(Path(directory, "model.json").read_text())
    return models


#: Concept, what it is seen by, and what both have to show when the model fails at step 4.
CONCEPTS: dict[str, tuple[Callable[[tune.Result], Any], Any]] = {
    "training iteration": (
        lambda result: rows(result, "training_iteration"),
        [(number,) for number in range(1, STEPS + 1)],
    ),
    "reported metrics": (
        lambda result: rows(result, "score", "model/x"),
        [(3 * number, number) for number in range(1, STEPS + 1)],
    ),
    "saved checkpoints": (
        kept_models,
        {"checkpoint_000000": 2, "checkpoint_000001": 4, "checkpoint_000002": 6},
    ),
    "loaded checkpoint": (
        lambda result: all_rows(result, "attempt_number", "training_iteration"),
        [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4), (2, 5), (2, 6)],
    ),
    "counters since the restore": (
        lambda result: all_rows(result, "attempt_number", "iterations_since_restore"),
        [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (2, 4)],
    ),
    "config": (
        lambda result: {key: result.config[key] for key in ("a", "fails_at")},
        {"a": 3, "fails_at": 4},
    ),
    "the end": (lambda result: (result.error, result.metrics["done"]), (None, True)),
}


@pytest.fixture(scope="module", params=[as_function, AsClass], ids=["function", "class"])
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tune.Result:
    return run(request.param, tmp_path_factory.mktemp("both"), fails_at=4)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_both_apis_agree_on(concept: str, result: tune.Result) -> None:
    look, expected = CONCEPTS[concept]

    assert look(result) == expected


def test_rows_of_both_apis_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "c").mkdir()
    function, klass = run(as_function, tmp_path / "f", 0), run(AsClass, tmp_path / "c", 0)

    assert set(function.metrics_dataframe.columns) == set(klass.metrics_dataframe.columns)
    assert set(function.metrics) == set(klass.metrics)
