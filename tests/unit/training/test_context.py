"""The public functions and the context, inside and outside of a trial."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tune_core as tune
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import a_session
from tune_core.resources import PlacementGroupFactory
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training import context as context_module
from tune_core.training.session import Session
from tune_core.training.session_binding import bind, current_session


@pytest.fixture
def bound(local: ExperimentStorage, uplink: FakeUplink) -> Iterator[Session]:
    session = a_session(local, uplink)
    session.trial_dir = "/trial/dir"
    with bind(session):
        yield session


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "_warned", set())
    assert current_session() is None


def test_report_of_the_module_is_that_of_the_session(bound: Session, uplink: FakeUplink) -> None:
    tune.report({"loss": 1})

    assert uplink.rows[0]["loss"] == 1


def test_checkpoint_is_passed_by_keyword_only(bound: Session) -> None:
    with pytest.raises(TypeError, match="positional"):
        tune.report({"loss": 1}, None)  # type: ignore[misc]


def test_context_tells_about_the_trial(bound: Session) -> None:
    context = tune.get_context()

    assert context.get_experiment_name() == "experiment"
    assert context.get_trial_id() == "a1b2c_00000"
    assert context.get_trial_name() == "train_a1b2c_00000"
    assert context.get_trial_resources() == PlacementGroupFactory([{"CPU": 2}])
    assert context.get_trial_dir() == "/trial/dir"
    assert context.get_storage() is bound.spec.storage


#: Method, and what it returns outside of a trial.
RANKS = {
    "get_world_size": 1,
    "get_local_world_size": 1,
    "get_world_rank": 0,
    "get_local_rank": 0,
    "get_node_rank": 0,
}
GETTERS = {
    "get_experiment_name": None,
    "get_trial_name": None,
    "get_trial_id": None,
    "get_trial_resources": None,
    "get_trial_dir": None,
    "get_storage": None,
    **RANKS,
}


@pytest.mark.parametrize("name", RANKS)
def test_ranks_are_none_inside_a_trial(name: str, bound: Session) -> None:
    assert getattr(tune.get_context(), name)() is None


@pytest.mark.parametrize(("name", "default"), GETTERS.items())
def test_context_outside_of_a_trial_warns_once_and_returns_the_default(
    name: str, default: Any, outside: None
) -> None:
    get = getattr(tune.get_context(), name)

    with pytest.warns(UserWarning, match=f"`{name}` is meant to be .* Returning `{default}`") as caught:
        value = get()

    assert value == default
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get() == default


def test_every_method_of_the_context_is_tried_here() -> None:
    methods = {name for name in vars(tune.TuneContext) if name.startswith("get_")}

    assert methods == {*GETTERS, "get_metadata"}


def test_metadata_is_refused_everywhere(outside: None) -> None:
    with pytest.raises(DeprecationWarning, match="put the values into param_space"):
        tune.get_context().get_metadata()


def test_context_is_one_object_for_the_whole_process(bound: Session) -> None:
    assert tune.get_context() is tune.get_context()
    assert isinstance(tune.get_context(), tune.TuneContext)


@pytest.mark.parametrize(
    ("name", "call"), [("report", lambda: tune.report({"loss": 1})), ("get_checkpoint", tune.get_checkpoint)]
)
def test_functions_outside_of_a_trial_warn_once_and_do_nothing(
    name: str, call: Callable[[], Any], outside: None
) -> None:
    with pytest.warns(UserWarning, match=f"`{name}` is meant to be called inside a function") as caught:
        value = call()

    assert value is None
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call() is None
