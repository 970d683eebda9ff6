"""Ray Tune's own functions in the process of a trial, on modules that look like Ray's."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

import tune_core as tune
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import a_session
from tune_core.engine.worker.ray_tune import bridge
from tune_core.errors import TrainableError
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session_binding import bind


def of_ray(module: str, name: str, returns: Any = "Ray's") -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return returns

    function.__module__, function.__qualname__ = module, name
    return function


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """`ray.tune` and its like as they are after their import, with version 1 of Ray Train."""
    found = {}
    for name in ("ray.tune", "ray.train", "ray.air.session"):
        found[name] = ModuleType(name)
        for function in ("report", "get_checkpoint", "get_context"):
            setattr(found[name], function, of_ray(name, function))
        monkeypatch.setitem(sys.modules, name, found[name])
    air = found["ray.air.session"]
    for attribute in (name for name in dir(tune.TuneContext) if name.startswith("get_")):
        setattr(air, attribute, of_ray("ray.air.session", attribute))
    before = sys.meta_path[:]
    yield found
    sys.meta_path[:] = before


@pytest.fixture
def uplink() -> FakeUplink:
    return FakeUplink()


@pytest.mark.parametrize("name", ["ray.tune", "ray.train", "ray.air.session"])
def test_what_rays_functions_are_told_in_a_trial_reaches_its_session(
    modules: dict[str, ModuleType], uplink: FakeUplink, tmp_path: Path, name: str
) -> None:
    bridge.__wrapped__()
    theirs: Any = modules[name]
    checkpoint = type("Checkpoint", (), {"__module__": "ray.train._checkpoint"})()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("0.5")
    checkpoint.path, checkpoint.filesystem = (
        str(tmp_path / "model"),
        tune.Checkpoint.from_directory("/").filesystem,
    )

    with bind(a_session(ExperimentStorage.open(tmp_path, "experiment"), uplink)):
        theirs.report({"loss": 2})
        theirs.report({"loss": 1}, checkpoint=checkpoint)
        saved = theirs.get_checkpoint()

    assert [(row["loss"], row["training_iteration"]) for row in uplink.rows] == [(2, 1), (1, 2)]
    with saved.as_directory() as directory:
        assert Path(directory, "weights").read_text() == "0.5"


def test_rays_context_in_a_trial_is_that_of_the_trial(
    modules: dict[str, ModuleType], uplink: FakeUplink, tmp_path: Path
) -> None:
    bridge.__wrapped__()
    train, ray_tune, air = (modules[name].__dict__ for name in ("ray.train", "ray.tune", "ray.air.session"))

    with bind(a_session(ExperimentStorage.open(tmp_path, "experiment"), uplink)):
        ids = [
            train["get_context"]().get_trial_id(),
            ray_tune["get_context"]().get_trial_id(),
            air["get_trial_id"](),
        ]
        assert air["get_world_size"]() is None

    assert ids == ["a1b2c_00000"] * 3


def test_where_no_trial_runs_rays_functions_are_rays_and_are_pickled_by_their_names(
    modules: dict[str, ModuleType],
) -> None:
    bridge.__wrapped__()

    for module in modules.values():
        report = module.__dict__["report"]
        assert report({"loss": 1}) == "Ray's"
        assert pickle.loads(pickle.dumps(report)) is report


def test_version_2_of_ray_train_fails_in_a_trial_and_says_what_to_import(
    modules: dict[str, ModuleType], uplink: FakeUplink, tmp_path: Path
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("outside of a training function")

    train: Any = modules["ray.train"]
    train.get_all_reported_checkpoints = train.report = refuse
    bridge.__wrapped__()

    with pytest.raises(RuntimeError, match=r"^outside of a training function$"):
        train.report({"loss": 1})
    with bind(a_session(ExperimentStorage.open(tmp_path, "experiment"), uplink)):
        with pytest.raises(TrainableError, match=r"ray\.train\.report: outside.*import tune_core as tune"):
            train.report({"loss": 1})
        assert train.get_context() == "Ray's", "a Trainer may run its one worker in the trial's process"
    assert uplink.rows == []


def test_ray_tune_without_its_dependencies_says_what_to_import(
    monkeypatch: pytest.MonkeyPatch, modules: dict[str, ModuleType]
) -> None:
    monkeypatch.delitem(sys.modules, "ray.tune")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    bridge.__wrapped__()

    with pytest.raises(ImportError, match=r"dependencies are missing.*import tune_core as tune"):
        __import__("ray.tune")
