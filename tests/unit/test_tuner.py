"""Everything that can be wrong with a tuner is said when it is made, before anything starts."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core import tuner as tuner_module
from tune_core.control.experiment import Experiment
from tune_core.errors import ConfigError, StorageError, TrainableError, TuneError
from tune_core.results.result_grid import ResultGrid
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter, Repeater
from tune_core.search.optuna import OptunaSearch
from tune_core.stopper import MaximumIterationStopper


def train(config: dict[str, Any]) -> None: ...


def two_arguments(config: dict[str, Any], data: Any) -> None: ...


def by_mistake(name: str) -> Any:
    """An object of a class that could be Ray Tune's of that name."""
    return type(name, (), {"__module__": "ray.tune.impl.config", "__repr__": lambda self: f"{name}()"})()


class FakeRuntime:
    """Takes experiments and returns what it was given."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.experiments: list[Experiment] = []

    def identity(self, name: str | None) -> None:
        return

    def run(self, experiment: Experiment) -> ResultGrid:
        self.experiments.append(experiment)
        if isinstance(self.result, Exception):
            raise self.result
        return ResultGrid([], experiment.storage.path)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setattr(tuner_module, "load_runtime", lambda: fake)
    return fake


# The trainable.


@pytest.mark.parametrize("missing", [(), (None,)])
def test_tuner_needs_a_trainable(missing: tuple[Any, ...]) -> None:
    with pytest.raises(TuneError, match="a Tuner needs a trainable"):
        tune.Tuner(*missing)


@pytest.mark.parametrize("trainable", [7, {"x": 1}, [train]], ids=lambda given: type(given).__name__)
def test_what_cannot_be_called_is_no_trainable(trainable: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"trainable=.*: expected a function of the config, `def train\(config\):`"
    ):
        tune.Tuner(trainable)


@pytest.mark.parametrize(
    ("trainable", "reason"),
    [
        (lambda: None, "too many positional arguments"),
        (two_arguments, "missing a required argument: 'data'"),
        (functools.partial(two_arguments), "missing a required argument: 'data'"),
    ],
)
def test_trainable_with_other_arguments_is_refused(trainable: Callable[..., Any], reason: str) -> None:
    with pytest.raises(TrainableError, match=reason):
        tune.Tuner(trainable)


def test_trainable_that_cannot_be_pickled_is_refused_with_the_variable() -> None:
    connection = threading.Lock()

    with pytest.raises(TrainableError, match=r"because of closure variable 'connection' \(lock\)"):
        tune.Tuner(lambda config: connection)


# Classes.


class Bare(tune.Trainable):
    def step(self) -> dict[str, Any]:
        return {}


class Saving(Bare):
    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}


class NotDerived:
    def step(self) -> dict[str, Any]:
        return {}


def checkpoints(**options: Any) -> tune.RunConfig:
    return tune.RunConfig(checkpoint_config=tune.CheckpointConfig(**options))


@pytest.mark.parametrize(
    ("trainable", "hint"),
    [
        (NotDerived, "or a class derived from tune_core.Trainable$"),
        (
            type("Foreign", (), {"__module__": "ray.tune.trainable"}),
            "derived from ray.*: use tune.Trainable of",
        ),
        (Saving(), "give the class, not an object of it"),
        (functools.partial(Saving), r"tune\.with_parameters, not by functools\.partial"),
        ([train, Saving], "a Tuner tunes one trainable"),
        ({"function": train, "class": Saving}, "a Tuner tunes one trainable"),
    ],
)
def test_what_is_neither_function_nor_trainable_class_is_refused(trainable: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        tune.Tuner(trainable)


def test_class_without_a_step_is_refused() -> None:
    with pytest.raises(
        TrainableError, match=r"Empty has no step\(\): a class derived from Trainable writes one"
    ):
        tune.Tuner(type("Empty", (tune.Trainable,), {}))


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"checkpoint_frequency": 3}, ["checkpoint_frequency=3: Bare has no save_checkpoint"]),
        ({"checkpoint_at_end": True}, ["checkpoint_at_end=True: Bare has no save_checkpoint"]),
        (
            {"checkpoint_at_end": True, "checkpoint_frequency": 1},
            ["checkpoint_frequency=1: Bare", "checkpoint_at_end=True: Bare"],
        ),
    ],
)
def test_checkpoints_that_a_class_cannot_make_are_refused(options: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        tune.Tuner(Bare, run_config=checkpoints(**options))

    assert len(raised.value.faults) == len(faults)
    assert all(fault.startswith(start) for fault, start in zip(raised.value.faults, faults, strict=True))


def test_class_that_cannot_save_is_warned_of_unless_that_is_meant() -> None:
    with pytest.warns(
        UserWarning, match=r"Bare has no save_checkpoint\(\), so .*checkpoint_at_end=False"
    ) as seen:
        tune.Tuner(Bare)
    assert seen[0].filename == __file__

    tune.Tuner(Bare, run_config=checkpoints(checkpoint_at_end=False))


@pytest.mark.parametrize("options", [{}, {"checkpoint_at_end": True}, {"checkpoint_frequency": 2}])
def test_class_that_can_save_is_fine(options: dict[str, Any]) -> None:
    tune.Tuner(Saving, run_config=checkpoints(**options))


def test_class_that_cannot_be_pickled_is_refused_with_the_variable() -> None:
    connection = threading.Lock()

    class Locked(Saving):
        lock = connection

        def step(self) -> dict[str, Any]:
            return {"locked": connection.locked()}

    with pytest.raises(TrainableError) as raised:
        tune.Tuner(Locked)

    assert "attribute 'lock' (lock), closure variable 'connection' (lock): " in str(raised.value)


# The search space.


@pytest.mark.parametrize("space", [[], [("lr", 1)], "lr", 7, {"lr"}], ids=repr)
def test_search_space_is_a_dict(space: Any) -> None:
    with pytest.raises(ConfigError, match="param_space"):
        tune.Tuner(train, param_space=space)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tune.uniform(1, 0),
        lambda: tune.loguniform(0, 1),
        lambda: tune.choice([]),
        lambda: tune.grid_search(7),  # type: ignore[arg-type]
        lambda: tune.randint("a", "b"),  # type: ignore[arg-type]
        lambda: tune.quniform(0, 1, 0),
    ],
)
def test_arguments_of_samplers_are_checked_at_once(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError):
        tune.Tuner(train, param_space={"lr": make()})


def test_search_space_itself_is_checked() -> None:
    with pytest.raises(ConfigError, match="grid_search"):
        tune.Tuner(train, param_space={"lr": {"grid_search": 7}})


# The configurations.


@pytest.mark.parametrize(
    ("kind", "arguments", "text"),
    [
        (tune.TuneConfig, {"metric": "loss"}, r"metric='loss'\): mode is missing: add mode='min'"),
        (tune.TuneConfig, {"mode": "min"}, "metric is missing: add metric=..."),
        (tune.TuneConfig, {"metric": "loss", "mode": "lowest"}, "mode='lowest'"),
        (tune.TuneConfig, {"num_samples": 0}, "num_samples=0"),
        (tune.TuneConfig, {"search_alg": by_mistake("BasicVariantGenerator")}, "search_alg="),
        (tune.TuneConfig, {"scheduler": by_mistake("ASHAScheduler")}, "scheduler="),
        (tune.RunConfig, {"stop": by_mistake("MaximumIterationStopper")}, "stop="),
        (tune.RunConfig, {"checkpoint_config": by_mistake("CheckpointConfig")}, "checkpoint_config="),
        (tune.RunConfig, {"failure_config": by_mistake("FailureConfig")}, "failure_config="),
        (tune.RunConfig, {"callbacks": [by_mistake("Callback")]}, r"callbacks\[0\]="),
    ],
)
def test_configuration_is_checked_when_it_is_made(kind: Any, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        kind(**arguments)


@pytest.mark.parametrize("name", ["TuneConfig", "RunConfig"])
def test_ray_tunes_own_configuration_by_mistake_is_told_from_ours(name: str) -> None:
    argument = {"TuneConfig": "tune_config", "RunConfig": "run_config"}[name]

    with pytest.raises(
        ConfigError,
        match=rf"{argument}={name}\(\) is a ray\.tune\.impl\.config\.{name}: expected a tune_core\.{name}; "
        rf"use tune\.{name} of `import tune_core as tune`",
    ):
        tune.Tuner(train, **{argument: by_mistake(name)})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"tune_config": {"num_samples": 3}},
            r"tune_config=\{'num_samples': 3\} is a builtins.dict: expected a",
        ),
        (
            {"run_config": tune.TuneConfig()},
            r"is a tune_core.config.run_config.TuneConfig: expected a tune_core.RunConfig$",
        ),
    ],
)
def test_other_objects_are_no_configuration(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        tune.Tuner(train, **arguments)


@pytest.mark.parametrize(
    ("config", "faults"),
    [
        ({"checkpoint_frequency": 3}, ["checkpoint_frequency=3: a training function saves by itself"]),
        ({"checkpoint_at_end": True}, ["checkpoint_at_end=True: a training function saves by itself"]),
        (
            {"checkpoint_frequency": 1, "checkpoint_at_end": True},
            ["checkpoint_frequency=1: a training function", "checkpoint_at_end=True: a training function"],
        ),
    ],
)
def test_options_of_classes_are_refused_for_functions(config: dict[str, Any], faults: list[str]) -> None:
    run_config = tune.RunConfig(checkpoint_config=tune.CheckpointConfig(**config))

    with pytest.raises(ConfigError, match=r"tune\.report\(…, checkpoint=…\)") as raised:
        tune.Tuner(train, run_config=run_config)

    assert all(fault.startswith(text) for fault, text in zip(raised.value.faults, faults, strict=True))


@pytest.mark.parametrize("at_end", [None, False])
def test_function_without_options_of_classes_is_fine(at_end: bool | None) -> None:
    config = tune.CheckpointConfig(checkpoint_at_end=at_end)

    tune.Tuner(train, run_config=tune.RunConfig(checkpoint_config=config))


# What becomes of it.


def test_experiment_is_what_the_user_said(tmp_path: Path) -> None:
    tune_config = tune.TuneConfig(num_samples=3, search_alg=BasicVariantGenerator())
    run_config = tune.RunConfig(name="mine", storage_path=tmp_path, stop=MaximumIterationStopper(3))
    space = {"lr": tune.uniform(0, 1)}
    tuner = tune.Tuner(train, param_space=space, tune_config=tune_config, run_config=run_config)

    experiment = tuner.experiment()

    assert (experiment.name, experiment.trainable_name, experiment.trainable) == ("mine", "train", train)
    assert experiment.storage.path == str(tmp_path / "mine")
    assert (experiment.param_space, experiment.tune_config, experiment.run_config) == (
        space,
        tune_config,
        run_config,
    )
    assert experiment.pickled.load() is train
    assert len(experiment.experiment_id) == 5
    assert int(experiment.experiment_id, 16) >= 0


def test_making_a_tuner_and_its_experiment_writes_nothing(tmp_path: Path) -> None:
    tune.Tuner(train, run_config=tune.RunConfig(storage_path=tmp_path)).experiment()

    assert list(tmp_path.iterdir()) == []


def test_experiment_without_a_name_gets_a_new_one_each_time(tmp_path: Path) -> None:
    tuner = tune.Tuner(lambda config: None, run_config=tune.RunConfig(storage_path=tmp_path))

    first, second = tuner.experiment(), tuner.experiment()

    assert first.name != second.name
    assert first.experiment_id != second.experiment_id
    for experiment in (first, second):
        kind, day, clock, digits = experiment.name.split("_")
        assert (kind, len(day), len(clock), len(digits)) == ("lambda", 10, 8, 8)
        assert digits.startswith(experiment.experiment_id)


def test_date_can_be_left_out_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_DISABLE_DATED_SUBDIR", "1")

    assert tune.Tuner(train, run_config=tune.RunConfig(storage_path=tmp_path)).experiment().name == "train"


def test_fit_runs_the_experiment_and_keeps_its_results(tmp_path: Path, runtime: FakeRuntime) -> None:
    tuner = tune.Tuner(train, run_config=tune.RunConfig(name="mine", storage_path=tmp_path))

    results = tuner.fit()

    assert [experiment.name for experiment in runtime.experiments] == ["mine"]
    assert tuner.get_results() is results


def test_there_are_no_results_before_fit() -> None:
    with pytest.raises(TuneError, match=r"there are no results yet: call fit\(\) first"):
        tune.Tuner(train).get_results()


def test_fit_that_fails_leaves_no_results(tmp_path: Path, runtime: FakeRuntime) -> None:
    tuner = tune.Tuner(train, run_config=tune.RunConfig(storage_path=tmp_path))
    runtime.result = StorageError("the bucket does not exist")

    with pytest.raises(StorageError, match="the bucket does not exist"):
        tuner.fit()
    with pytest.raises(TuneError, match="no results yet"):
        tuner.get_results()


def test_tuner_shows_what_it_tunes() -> None:
    assert repr(tune.Tuner(train, param_space={"lr": 1})) == "Tuner(train, param_space={'lr': 1})"


GRID, UNIFORM = tune.grid_search([1, 2]), tune.uniform(0, 1)


@pytest.mark.parametrize(
    ("search_alg", "space", "objective", "match"),
    [
        (lambda: OptunaSearch(), {"x": GRID}, {"metric": "loss", "mode": "min"}, "does not walk grids"),
        (
            lambda: OptunaSearch(),
            {"x": tune.randn()},
            {"metric": "loss", "mode": "min"},
            "no such distribution",
        ),
        (lambda: OptunaSearch(), {"x": 1}, {"metric": "loss", "mode": "min"}, "param_space has no sampler"),
        (lambda: OptunaSearch(), {"x": UNIFORM}, {}, "OptunaSearch: no metric, no mode"),
        (
            lambda: OptunaSearch({"y": UNIFORM}),
            {"x": GRID},
            {"metric": "loss", "mode": "min"},
            "does not draw from param_space",
        ),
        (
            lambda: OptunaSearch(points_to_evaluate=[{"y": 1}]),
            {"x": UNIFORM},
            {"metric": "loss", "mode": "min"},
            "the search space has no 'y'",
        ),
        (
            lambda: ConcurrencyLimiter(OptunaSearch(), 2),
            {"x": GRID},
            {"metric": "loss", "mode": "min"},
            "grids",
        ),
        (lambda: Repeater(OptunaSearch(), 2), {"x": GRID}, {"metric": "loss", "mode": "min"}, "grids"),
        (
            lambda: Repeater(OptunaSearch(metric=["a", "b"], mode=["min", "max"]), 2),
            {"x": UNIFORM},
            {},
            "expected one",
        ),
        (lambda: BasicVariantGenerator(points_to_evaluate=[{"y": 1}]), {"x": UNIFORM}, {}, "'y'"),
    ],
)
def test_searcher_that_cannot_search_the_space_is_refused_when_the_tuner_is_made(
    search_alg: Any, space: dict[str, Any], objective: dict[str, Any], match: str
) -> None:
    tune_config = tune.TuneConfig(search_alg=search_alg(), **objective)

    with pytest.raises(ConfigError, match=match):
        tune.Tuner(lambda config: None, param_space=space, tune_config=tune_config)


def test_check_of_a_searcher_changes_nothing() -> None:
    searcher = OptunaSearch(seed=1)
    tune_config = tune.TuneConfig(metric="loss", mode="min", search_alg=searcher)

    tune.Tuner(lambda config: None, param_space={"x": UNIFORM}, tune_config=tune_config)

    assert (searcher.metric, searcher.mode) == (None, None)
    with pytest.raises(ConfigError, match="no metric"):
        _ = searcher.study
