"""What can be tuned: functions of the config, and the class API without a Tuner."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tune_core as tune
from tune_core.errors import CheckpointNotFound, TrainableError
from tune_core.resources import PlacementGroupFactory
from tune_core.storage.checkpoint import Checkpoint
from tune_core.training import trainable as trainable_module
from tune_core.training.trainable import (
    DICT_CHECKPOINT,
    Trainable,
    TrainingResult,
    TrialPlace,
    can_save,
    check_class,
    check_signature,
    clean_up,
    is_trainable_class,
    is_written,
    trainable_name,
)

PLACE = TrialPlace("a1b2c_00000", "Model_a1b2c_00000", PlacementGroupFactory([{"CPU": 2}]), "/work/trial_0")

# Which functions can be run.


class Callables:
    def __call__(self, config: dict[str, Any]) -> None: ...

    def train(self, config: dict[str, Any]) -> None: ...

    def fit(self) -> None: ...


class WithoutSignature:
    __signature__ = "nonsense"

    def __call__(self, *args: Any) -> None: ...


def two_arguments(config: dict[str, Any], data: Any) -> None: ...


def keyword_needed(config: dict[str, Any], *, data: Any) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        lambda config: None,
        lambda anything: None,
        lambda config, data=None: None,
        lambda config, *, data=None: None,
        lambda *args: None,
        lambda config, *args, **kwargs: None,
        functools.partial(two_arguments, data=1),
        functools.partial(keyword_needed, data=1),
        Callables(),
        Callables().train,
        WithoutSignature(),
        print,
    ],
)
def test_function_of_the_config_is_accepted(function: Callable[..., Any]) -> None:
    check_signature(function)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda: None, "too many positional arguments"),
        (two_arguments, "missing a required argument: 'data'"),
        (keyword_needed, "missing a required .*argument: 'data'"),
        (functools.partial(two_arguments), "missing a required argument: 'data'"),
        (functools.partial(two_arguments, 1, 2), "too many positional arguments"),
        (lambda **kwargs: None, "too many positional arguments"),
        (Callables().fit, "too many positional arguments"),
    ],
)
def test_other_functions_are_refused_with_the_reason(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(
        TrainableError, match=rf"calls its trainable with one argument, the config \({reason}\)\. Write `def "
    ):
        check_signature(function)


def named(name: str) -> Callable[..., Any]:
    def function(config: dict[str, Any]) -> None: ...

    function.__name__ = name
    return function


class Named(Callables):
    _name = "mine"


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (two_arguments, "two_arguments"),
        (lambda config: None, "lambda"),
        (named("<genexpr>"), "DEFAULT"),
        (functools.partial(two_arguments, data=1), "two_arguments"),
        (functools.partial(functools.partial(lambda config: None)), "lambda"),
        (functools.partial(Callables()), "Callables"),
        (Callables(), "Callables"),
        (Callables().train, "train"),
        (Callables, "Callables"),
        (Named(), "mine"),
        (7, "DEFAULT"),
    ],
)
def test_trials_are_named_after_the_trainable(trainable: Any, expected: str) -> None:
    assert trainable_name(trainable) == expected


# Classes.


class Model(tune.Trainable):
    """Counts its steps, and notes what is called."""

    def setup(self, config: dict[str, Any]) -> None:
        self.calls = ["setup"]
        self.given = config
        self.steps = 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        return {"steps": self.steps, **self.config.get("metrics", {})}

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        self.calls.append("save")
        kind = self.config.get("saves", "dict")
        if kind == "dict":
            return {"steps": self.steps}
        Path(checkpoint_dir, "steps").write_text(str(self.steps))
        return {"None": None, "directory": checkpoint_dir, "Path": Path(checkpoint_dir)}.get(kind, kind)

    def load_checkpoint(self, checkpoint: Any) -> None:
        if isinstance(checkpoint, dict):
            self.steps = checkpoint["steps"]
        else:
            self.steps = int(Path(checkpoint, "steps").read_text())
        self.loaded = checkpoint

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        assert self.config is new_config
        self.calls.append("reset")
        return bool(new_config.get("can", True))

    def cleanup(self) -> None:
        self.calls.append("cleanup")


class Bare(tune.Trainable):
    """Has nothing but what it must have."""

    def step(self) -> dict[str, Any]:
        return {}


def test_class_and_function_are_told_apart() -> None:
    assert is_trainable_class(Model)
    assert not any(map(is_trainable_class, (Model(), Callables, print, "Model")))
    assert (can_save(Model), can_save(Bare), can_save(print)) == (True, False, False)
    assert (is_written(Model, "cleanup"), is_written(Bare, "cleanup")) == (True, False)


def test_setup_gets_a_copy_of_the_config() -> None:
    config = {"layers": [1, 2]}

    model = Model(config)
    model.given["layers"].append(3)

    assert model.config is config
    assert model.get_config() == {"layers": [1, 2]}
    assert Model().config == {}


def test_setup_that_raises_is_followed_by_cleanup(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    class Broken(Bare):
        def setup(self, config: dict[str, Any]) -> None:
            raise ValueError("no data")

        def cleanup(self) -> None:
            calls.append("cleanup")
            raise OSError("nothing to close")

    with pytest.raises(ValueError, match="no data"):
        Broken()

    assert calls == ["cleanup"]
    assert "cleanup() of Broken raised" in caplog.text


def test_slow_setup_gets_a_hint(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable_module, "SETUP_HINT_S", -1.0)
    caplog.set_level(logging.INFO)

    Bare()

    assert "reuse_actors=True" in caplog.text


def test_train_fills_in_what_ray_tune_does() -> None:
    model = Model({"a": 1})

    first, second = model.train(), model.train()

    assert set(first) == {
        *("steps", "training_iteration", "done", "time_this_iter_s", "time_total_s", "time_since_restore"),
        *(
            "iterations_since_restore",
            "timestamp",
            "date",
            "pid",
            "trial_id",
            "hostname",
            "node_ip",
            "config",
        ),
    }
    assert [first["training_iteration"], second["training_iteration"]] == [1, 2]
    assert second["time_total_s"] == first["time_this_iter_s"] + second["time_this_iter_s"]
    assert (first["done"], first["pid"], first["trial_id"]) == (False, os.getpid(), "default")
    assert first["config"] == {"a": 1}
    assert (model.iteration, model.training_iteration) == (2, 2)
    assert model.get_current_ip_pid() == (first["node_ip"], first["pid"])


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        # The user wins.
        ({"training_iteration": 70}, {"training_iteration": 70}),
        ({"done": True}, {"done": True}),
        ({"time_this_iter_s": 5}, {"time_this_iter_s": 5, "time_total_s": 5.0, "time_since_restore": 5.0}),
        (
            {"timesteps_total": 7, "timesteps_this_iter": 3},
            {"timesteps_total": 7, "timesteps_since_restore": 3},
        ),
        ({"episodes_total": 7, "episodes_this_iter": 3}, {"episodes_total": 7}),
        ({"timestamp": 5}, {"timestamp": 5}),
        # The object wins.
        ({"time_total_s": -1.0, "time_this_iter_s": 2.0}, {"time_total_s": 2.0}),
        ({"iterations_since_restore": 9}, {"iterations_since_restore": 1}),
        ({"pid": -1, "trial_id": "mine"}, {"pid": os.getpid(), "trial_id": "default"}),
        ({"timesteps_this_iter": 3, "timesteps_since_restore": 9}, {"timesteps_since_restore": 3}),
        # Both.
        ({"timesteps_this_iter": np.int64(3)}, {"timesteps_total": 3, "timesteps_since_restore": 3}),
        ({"episodes_this_iter": 3}, {"episodes_total": 3}),
    ],
)
def test_who_wins(metrics: dict[str, Any], expected: dict[str, Any]) -> None:
    result = Model({"metrics": metrics}).train()

    assert {name: result[name] for name in expected} == expected


@pytest.mark.parametrize("timestamp", ["now", None, float("nan"), -1, 0, 10**18])
def test_timestamp_that_is_no_date_is_not_taken(timestamp: Any) -> None:
    result = Model({"metrics": {"timestamp": timestamp}}).train()

    assert 1_600_000_000 < result["timestamp"] < 10**11


@pytest.mark.parametrize("value", [None, 7, [("loss", 1)], "loss"])
def test_step_that_returns_no_dict_is_an_error(value: Any) -> None:
    class Wrong(tune.Trainable):
        def step(self) -> Any:
            return value

    wrong = Wrong()

    with pytest.raises(TrainableError, match=r"Wrong\.step\(\) returned .* needs to return a dict"):
        wrong.train()
    assert wrong.iteration == 0


def test_result_is_logged_with_what_was_filled_in_and_what_is_added_is_kept() -> None:
    class Logging(Bare):
        def log_result(self, result: dict[str, Any]) -> None:
            result["seen"] = result["training_iteration"]

    assert Logging().train()["seen"] == 1


@pytest.mark.parametrize(
    ("metrics", "time_s", "length", "expected"),
    [
        ({}, 60.0, 3, 3),
        ({}, 0.0, 3, 1),
        ({}, 60.0, 0, 1),
        ({"done": True}, 60.0, 3, 1),
        ({"should_checkpoint": True}, 60.0, 3, 1),
    ],
)
def test_buffered_training_ends_with_whatever_comes_first(
    metrics: dict[str, Any], time_s: float, length: int, expected: int
) -> None:
    model = Model({"metrics": metrics})

    results = model.train_buffered(time_s, length)

    assert [result["training_iteration"] for result in results] == list(range(1, expected + 1))


# Saving and restoring.


@pytest.mark.parametrize("saves", ["dict", "None", "directory", "Path"])
def test_every_legal_way_to_save_can_be_restored(saves: str, tmp_path: Path) -> None:
    model = Model({"saves": saves, "metrics": {"timesteps_this_iter": 10}})
    for _ in range(3):
        model.train()

    saved = model.save(tmp_path / "saved")
    other = Model()
    other.restore(saved)

    assert other.steps == 3
    assert Path(tmp_path, "saved", DICT_CHECKPOINT).exists() == (saves == "dict")
    assert saved.metrics["steps"] == 3
    assert other.iteration == 3
    assert other.get_state() == model.get_state()
    result = other.train()
    assert (result["training_iteration"], result["iterations_since_restore"]) == (4, 1)
    assert result["time_total_s"] > saved.metrics["time_total_s"]
    assert result["time_since_restore"] == result["time_this_iter_s"]
    assert result["timesteps_total"] == 30


def test_directory_is_made_where_none_is_given() -> None:
    model = Model()

    first, second = model.save(), model.save()

    assert first.checkpoint.path != second.checkpoint.path
    assert os.listdir(first.checkpoint.path) == [DICT_CHECKPOINT]  # noqa: PTH208


@pytest.mark.parametrize("kind", [str, Path, Checkpoint.from_directory])
def test_counters_are_not_in_the_directory(kind: Callable[[str], Any]) -> None:
    model = Model()
    model.train()
    saved = model.save()

    model.restore(kind(saved.checkpoint.path))

    assert (model.steps, model.iteration) == (1, 0)


@pytest.mark.parametrize("returned", ["elsewhere", 7, b"bytes", Checkpoint("/")])
def test_saving_to_another_path_is_refused(returned: Any, tmp_path: Path) -> None:
    model = Model({"saves": returned})

    with pytest.raises(
        TrainableError, match=r"Model\.save_checkpoint\(.*\) returned .*: expected a dict, None, or"
    ):
        model.save(tmp_path)


@pytest.mark.parametrize("kind", [str, Checkpoint, lambda path: TrainingResult(Checkpoint(path))])
def test_restoring_from_what_does_not_exist_changes_nothing(
    kind: Callable[[str], Any], tmp_path: Path
) -> None:
    model = Model()
    model.train()

    with pytest.raises(CheckpointNotFound, match="gone does not exist"):
        model.restore(kind(str(tmp_path / "gone")))

    assert issubclass(CheckpointNotFound, ValueError), "as Ray Tune raises"
    assert (model.steps, model.iteration) == (1, 1)


def test_restoring_from_what_is_no_place_is_refused() -> None:
    with pytest.raises(TrainableError, match=r"restore\(7\): expected what save\(\) returned"):
        Model().restore(7)  # type: ignore[arg-type]


def test_failed_load_leaves_the_counters(tmp_path: Path) -> None:
    (tmp_path / "steps").write_text("many")
    model = Model()
    model.train()

    with pytest.raises(ValueError, match="many"):
        model.restore(tmp_path)

    assert model.iteration == 1


@pytest.mark.parametrize(
    ("call", "method"),
    [
        (lambda bare: bare.save(), "save_checkpoint"),
        (lambda bare: bare.restore(Path.cwd()), "load_checkpoint"),
        (lambda bare: tune.Trainable().train(), "step"),
    ],
)
def test_what_is_not_written_is_named(call: Callable[[Any], Any], method: str) -> None:
    with pytest.raises(TrainableError, match=rf"(Bare|Trainable) has no {method}\(\): a class derived from"):
        call(Bare())


# Another configuration.


def test_reset_starts_the_counters_again_without_another_setup() -> None:
    model = Model()
    model.train()

    assert model.reset({"x": 2})

    assert model.config == {"x": 2}
    assert (model.iteration, model.get_state()["last_result"]) == (0, {})
    assert model.train()["training_iteration"] == 1
    assert model.calls == ["setup", "reset"]


def test_reset_that_is_refused_leaves_the_counters() -> None:
    model = Model()
    model.train()

    assert not model.reset({"can": False})

    assert model.iteration == 1
    assert not Bare().reset({}), "without reset_config an object serves one configuration"


def test_object_knows_the_trial_that_it_serves(tmp_path: Path) -> None:
    model = Model({}, PLACE)
    assert (model.trial_id, model.trial_name, model.logdir) == (
        "a1b2c_00000",
        "Model_a1b2c_00000",
        PLACE.logdir,
    )
    assert model.trial_resources == PLACE.resources
    assert model.train()["trial_id"] == "a1b2c_00000"

    model.reset({}, TrialPlace("a1b2c_00001", "other", PLACE.resources, str(tmp_path)))

    assert (model.trial_id, model.trial_name, model.logdir) == ("a1b2c_00001", "other", str(tmp_path))


def test_object_without_a_trial_has_defaults() -> None:
    model = Model()

    assert (model.trial_id, model.trial_name, model.trial_resources) == ("default", "default", None)
    assert Path(model.logdir).is_dir()
    assert model.logdir == model.logdir
    assert not model.is_actor()


# The end.


def test_cleanup_is_called_once() -> None:
    model = Model()

    model.stop()
    model.stop()
    clean_up(model)

    assert model.calls == ["setup", "cleanup"]


@pytest.mark.parametrize("error", [OSError("busy"), SystemExit(1)])
def test_cleanup_that_raises_is_logged(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Bare):
        def cleanup(self) -> None:
            raise error

    clean_up(Broken())

    assert "cleanup() of Broken raised" in caplog.text
    with pytest.raises(type(error)):
        Broken().stop()


# The rest.


def test_model_is_exported_to_the_trials_directory() -> None:
    class Exporting(Bare):
        def _export_model(self, export_formats: list[str], export_dir: str) -> dict[str, str]:
            return {name: f"{export_dir}/{name}" for name in export_formats}

    assert Exporting({}, PLACE).export_model("onnx") == {"onnx": "/work/trial_0/onnx"}
    assert Exporting().export_model(["a", "b"], "/there") == {"a": "/there/a", "b": "/there/b"}
    assert Bare().export_model(["onnx"]) == {}


def test_debug_metrics_say_where_and_when() -> None:
    filled = Bare({}, PLACE).get_auto_filled_metrics(datetime(2026, 1, 2, 3, 4, 5), debug_metrics_only=True)

    assert sorted(filled) == ["config", "date", "hostname", "node_ip", "pid", "timestamp", "trial_id"]
    assert filled["date"] == "2026-01-02_03-04-05"


def test_defaults_ask_for_nothing_special() -> None:
    assert Bare.default_resource_request({}) is None
    assert Bare.resource_help({}) == ""


@pytest.mark.parametrize("actor", ["an id", None])
def test_ray_is_asked_where_it_is_connected(actor: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        util=SimpleNamespace(get_node_ip_address=lambda: "10.0.0.7"),
        get_runtime_context=lambda: SimpleNamespace(get_actor_id=lambda: actor),
    )
    monkeypatch.setitem(trainable_module.sys.modules, "ray", ray)

    bare = Bare()

    assert bare.is_actor() == (actor is not None)
    assert bare.train()["node_ip"] == "10.0.0.7"


def test_class_that_can_be_tuned_is_accepted() -> None:
    class Passing(Bare):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    for kind in (Model, Bare, Passing, tune.with_resources(Model, {"cpu": 2})):
        check_class(kind)


class NoArguments(Bare):
    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Trainable, r"Trainable has no step\(\)"),
        (type("Empty", (Trainable,), {}), r"Empty has no step\(\).* writes one, to train for one iteration"),
        (NoArguments, r"NoArguments.__init__\(.*\).*: it is called with config and storage \(too many"),
    ],
)
def test_class_that_cannot_be_tuned_is_refused(kind: type, text: str) -> None:
    with pytest.raises(TrainableError, match=text):
        check_class(kind)
