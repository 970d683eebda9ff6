from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest

from tune_core.callback import HOOKS, Callback, CallbackList
from tune_core.errors import ConfigError


class Recorder(Callback):
    """Overrides every hook; notes its name and arguments."""

    def __init__(self, log: list[Any], name: str = "a") -> None:
        self.log, self.name = log, name


def _record(hook: str) -> Any:
    def method(self: Recorder, **arguments: Any) -> None:
        self.log.append((self.name, hook, arguments))

    return method


for _hook in HOOKS:
    setattr(Recorder, _hook, _record(_hook))


class Counter(Callback):
    rows = 0

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.rows += 1

    def get_state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def set_state(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


STEP = {"iteration": 1, "trials": []}
OF_TRIAL = {**STEP, "trial": None}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "setup": {"stop": None, "num_samples": 2, "total_num_samples": 4},
    "on_step_begin": STEP,
    "on_step_end": STEP,
    "on_trial_start": OF_TRIAL,
    "on_trial_restore": OF_TRIAL,
    "on_trial_save": OF_TRIAL,
    "on_trial_result": {**OF_TRIAL, "result": {"loss": 1.0}},
    "on_trial_complete": OF_TRIAL,
    "on_trial_recover": OF_TRIAL,
    "on_trial_error": OF_TRIAL,
    "on_checkpoint": {**OF_TRIAL, "checkpoint": None},
    "on_experiment_end": {"trials": []},
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_called_on_all_in_order_with_arguments_by_name(hook: str) -> None:
    log: list[Any] = []
    callbacks = CallbackList([Recorder(log, "a"), Callback(), Recorder(log, "b")])

    getattr(callbacks, hook)(**ARGUMENTS[hook], later="more")

    expected = {**ARGUMENTS[hook], "later": "more"}
    assert log == [("a", hook, expected), ("b", hook, expected)]


@pytest.mark.parametrize("hook", HOOKS)
def test_callback_that_overrides_nothing_does_nothing(hook: str) -> None:
    assert getattr(Callback(), hook)(**ARGUMENTS[hook], later="more") is None
    assert not CallbackList([Callback()]).listens(hook)


def test_there_is_one_arguments_row_for_each_hook_and_no_other_hook() -> None:
    public = {
        name for name, _ in inspect.getmembers(Callback, inspect.isfunction) if not name.startswith("_")
    }

    assert set(HOOKS) == set(ARGUMENTS) == public - {"get_state", "set_state"}


def test_list_has_the_signatures_of_the_callback() -> None:
    for hook in HOOKS:
        assert inspect.signature(getattr(CallbackList, hook)) == inspect.signature(getattr(Callback, hook))


def test_result_that_a_callback_changes_is_seen_by_the_next() -> None:
    class Add(Callback):
        def on_trial_result(self, result: dict[str, Any], **info: Any) -> None:  # type: ignore[override]
            result["added"] = result.get("added", 0) + 1

    result = {"loss": 1.0}

    CallbackList([Add(), Add()]).on_trial_result(1, [], None, result)  # type: ignore[arg-type]

    assert result == {"loss": 1.0, "added": 2}


def test_hook_set_on_the_object_is_called() -> None:
    callback = Callback()
    seen: list[int] = []
    callback.on_step_begin = lambda iteration, **info: seen.append(iteration)  # type: ignore[method-assign]

    CallbackList([callback]).on_step_begin(7, [])

    assert seen == [7]


def test_inherited_hook_is_called() -> None:
    class Derived(Counter):
        pass

    callback = Derived()

    CallbackList([callback]).on_trial_result(1, [], None, {})  # type: ignore[arg-type]

    assert callback.rows == 1


def test_exception_comes_out_with_the_name_of_its_callback_and_ends_the_calls() -> None:
    class Broken(Callback):
        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            raise KeyError("mine")

    log: list[Any] = []
    callbacks = CallbackList([Broken(), Recorder(log)])

    with pytest.raises(KeyError, match="mine") as caught:
        callbacks.on_step_end(1, [])

    assert "Broken in its on_step_end()" in caught.value.__notes__[0]
    assert log == []


def test_what_is_no_callback_is_refused_with_its_place() -> None:
    callbacks: Any = [Callback(), print, Counter]

    with pytest.raises(ConfigError) as caught:
        CallbackList(callbacks)

    assert "callbacks[1]" in caught.value.faults[0]
    assert "write Counter(...)" in caught.value.faults[1]


def test_state_goes_back_to_its_callback() -> None:
    counter, restored = Counter(), Counter()
    counter.rows = 3

    state = CallbackList([Callback(), counter]).get_state()
    assert state is not None
    CallbackList([Callback(), restored]).set_state(state)

    assert restored.rows == 3


def test_without_any_state_there_is_none() -> None:
    assert CallbackList([Callback()]).get_state() is None


def test_state_is_not_given_to_another_callback(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter()
    counter.rows = 3
    state = CallbackList([counter]).get_state()
    assert state is not None

    class Other(Counter):
        pass

    other = Other()
    with caplog.at_level(logging.WARNING):
        CallbackList([other]).set_state(state)

    assert other.rows == 0
    assert "state of callback 0 Counter is not used" in caplog.text
