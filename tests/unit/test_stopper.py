from __future__ import annotations

import datetime
import json
import logging
import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.clocks import Clock
from tune_core.errors import ConfigError, MetricMissing
from tune_core.stopper import (
    CombinedStopper,
    DictStopper,
    ExperimentPlateauStopper,
    FunctionStopper,
    MaximumIterationStopper,
    NoopStopper,
    Stopper,
    TimeoutStopper,
    TrialPlateauStopper,
    resolve_stop,
)

TRIAL = "a1b2c_00000"


class StopAll(Stopper):
    def stop_all(self) -> bool:
        return True


def answers(stopper: Stopper, values: Sequence[Any], trial_id: str = TRIAL) -> list[bool]:
    return [stopper(trial_id, {"loss": value}) for value in values]


def through_json(stopper: Stopper) -> Any:
    return json.loads(json.dumps(stopper.get_state()))


# The base class.


@pytest.mark.parametrize("stopper", [Stopper(), NoopStopper()])
def test_stopper_that_overrides_nothing_stops_nothing(stopper: Stopper) -> None:
    assert not stopper(TRIAL, {"loss": 0.0})
    assert not stopper.stop_all()
    assert stopper.get_state() is None


def test_users_stopper_saves_what_it_names() -> None:
    class Once(Stopper):
        state_names = ("seen",)

        def __init__(self) -> None:
            self.seen: list[str] = []

    stopper, restored = Once(), Once()
    stopper.seen.append(TRIAL)

    state = stopper.get_state()
    stopper.seen.append("later")
    assert state is not None
    restored.set_state(state)

    assert restored.seen == [TRIAL]


# Bounds.


def test_trial_ends_when_any_metric_has_reached_its_bound() -> None:
    stopper = DictStopper({"training_iteration": 3, "accuracy": 0.9})

    assert not stopper(TRIAL, {"training_iteration": 2, "accuracy": 0.89})
    assert stopper(TRIAL, {"training_iteration": 3, "accuracy": 0.0})
    assert stopper(TRIAL, {"training_iteration": 1, "accuracy": 0.9})


def test_bound_is_a_lower_one_for_metrics_to_minimise_too() -> None:
    assert DictStopper({"loss": 0.1})(TRIAL, {"loss": 5.0})


@pytest.mark.parametrize("result", [{"eval": {"loss": 2}}, {"eval/loss": 2}])
def test_nested_metric_is_found_by_its_path(result: dict[str, Any]) -> None:
    assert DictStopper({"eval/loss": 2})(TRIAL, result)


def test_nan_is_not_at_its_bound() -> None:
    assert not DictStopper({"loss": 0.1})(TRIAL, {"loss": math.nan})


def test_flag_can_be_a_bound() -> None:
    stopper = DictStopper({"converged": True})

    assert not stopper(TRIAL, {"converged": False})
    assert stopper(TRIAL, {"converged": True})


def test_missing_metric_is_named_once_with_the_nearest_reported(caplog: pytest.LogCaptureFixture) -> None:
    stopper = DictStopper({"eval/los": 1, "accuracy": 1})

    with caplog.at_level(logging.WARNING):
        stops = [stopper(TRIAL, {"eval": {"loss": 2}, "accuracy": 0}) for _ in range(3)]

    assert stops == [False] * 3
    assert len(caplog.records) == 1
    assert "'eval/los': 1} stops nothing" in caplog.text
    assert "the report has accuracy, eval/loss; did you mean 'eval/loss'?" in caplog.text


def test_metric_that_is_none_stops_nothing() -> None:
    assert not DictStopper({"accuracy": 0})(TRIAL, {"accuracy": None})


def test_metric_that_cannot_be_compared_is_named() -> None:
    with pytest.raises(ConfigError, match="trial a1b2c_00000 reported 'warmup', which cannot be compared"):
        DictStopper({"phase": 3})(TRIAL, {"phase": "warmup"})


def test_repr_shows_the_bounds() -> None:
    assert repr(DictStopper({"loss": 1})) == "DictStopper({'loss': 1})"


def test_criteria_are_read_as_a_copy() -> None:
    stopper = DictStopper({"training_iteration": 3})

    stopper.criteria.clear()

    assert stopper.criteria == {"training_iteration": 3}


def test_every_fault_of_a_dict_is_named() -> None:
    criteria: Any = {"a": {"b": 1}, "": 1, 3: 1, "c": "0.5", "d": math.nan}

    with pytest.raises(ConfigError) as caught:
        DictStopper(criteria)

    assert len(caught.value.faults) == 5
    assert "write nested metrics as one name: {'a/b': 1}" in caught.value.faults[0]


# Functions.


def test_functions_answer_is_taken_as_a_bool() -> None:
    stopper = FunctionStopper(lambda trial_id, result: result["hits"])

    assert stopper(TRIAL, {"hits": 2}) is True
    assert stopper(TRIAL, {"hits": 0}) is False
    assert not stopper.stop_all()


@pytest.mark.parametrize("function", [None, 3, lambda result: True, NoopStopper(), NoopStopper])
def test_function_of_other_arguments_is_refused(function: Any) -> None:
    with pytest.raises(ConfigError, match=r"cannot be called as function\(trial_id, result\)"):
        FunctionStopper(function)


def test_callable_without_a_signature_is_taken_on_trust() -> None:
    assert FunctionStopper.is_valid_function(max)


def test_function_with_a_stop_all_must_be_a_stopper() -> None:
    class Lookalike:
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return False

    with pytest.raises(ConfigError, match="counts only if it is derived from Stopper"):
        FunctionStopper(Lookalike())


# Several.


def test_one_of_several_is_enough() -> None:
    combined = CombinedStopper(NoopStopper(), DictStopper({"loss": 1}), StopAll())

    assert answers(combined, [0, 1]) == [False, True]
    assert combined.stop_all()
    assert not CombinedStopper(NoopStopper()).stop_all()


def test_every_stopper_sees_every_report() -> None:
    counter = MaximumIterationStopper(3)
    combined = CombinedStopper(FunctionStopper(lambda trial_id, result: True), counter)

    answers(combined, [0, 0])

    assert counter.counts == {TRIAL: 2}


def test_states_of_several_go_back_in_order() -> None:
    combined = CombinedStopper(NoopStopper(), MaximumIterationStopper(3))
    answers(combined, [0, 0])

    restored = CombinedStopper(NoopStopper(), MaximumIterationStopper(3))
    restored.set_state(through_json(combined))

    assert answers(restored, [0]) == [True]


def test_state_of_other_stoppers_is_refused() -> None:
    state = through_json(CombinedStopper(MaximumIterationStopper(3)))

    with pytest.raises(ConfigError, match="of 1 stoppers, this experiment has 2"):
        CombinedStopper(NoopStopper(), MaximumIterationStopper(3)).set_state(state)


def test_without_counts_several_have_no_state() -> None:
    assert CombinedStopper(NoopStopper()).get_state() is None


def test_only_stoppers_can_be_combined() -> None:
    stopper: Any = print

    with pytest.raises(ConfigError, match=r"CombinedStopper\(stoppers\[1\]=.*expected a Stopper"):
        CombinedStopper(NoopStopper(), stopper)


# Counting.


def test_trial_ends_with_its_nth_report_whatever_others_report() -> None:
    stopper = MaximumIterationStopper(2)

    assert answers(stopper, [0], "a") == [False]
    assert answers(stopper, [0, 0], "b") == [False, True]
    assert answers(stopper, [0], "a") == [True]


@pytest.mark.parametrize("max_iter", [0, -1, 1.5, "3", True, None])
def test_number_of_reports_is_a_positive_integer(max_iter: Any) -> None:
    with pytest.raises(ConfigError, match=r"MaximumIterationStopper\(max_iter=.*at least 1"):
        MaximumIterationStopper(max_iter)


# Time.


def test_time_runs_from_the_first_question_on() -> None:
    clock = Clock(0.0)
    stopper = TimeoutStopper(datetime.timedelta(seconds=10), clock=clock)

    clock.now = 1000.0
    first = stopper.stop_all()
    clock.now = 1009.9
    second = stopper.stop_all()
    clock.now = 1010.0
    third = stopper.stop_all()

    assert (first, second, third) == (False, False, True)
    assert not stopper(TRIAL, {"loss": 0.0})


def test_clock_that_starts_at_zero_counts() -> None:
    clock = Clock(0.0)
    stopper = TimeoutStopper(10, clock=clock)

    stopper.stop_all()
    clock.now = 4.0
    stopper.stop_all()

    assert stopper.remaining_s == 6.0


@pytest.mark.parametrize("way", ["state", "pickle"])
def test_time_between_two_runs_is_not_counted(way: str) -> None:
    clock = Clock(0.0)
    stopper = TimeoutStopper(10, clock=clock)
    stopper.stop_all()
    clock.now = 4.0
    stopper.stop_all()

    if way == "state":
        restored = TimeoutStopper(10, clock=clock)
        restored.set_state(through_json(stopper))
    else:
        restored = pickle.loads(pickle.dumps(stopper))
        clock = restored._clock
    clock.now = 1e6
    at_start = restored.stop_all()
    clock.now += 6.0

    assert not at_start
    assert restored.stop_all()


def test_no_time_at_all_stops_at_once() -> None:
    assert TimeoutStopper(0, clock=Clock(0.0)).stop_all()


@pytest.mark.parametrize("timeout", [-1, math.nan, "60", None, True, datetime.timedelta(seconds=-1)])
def test_timeout_is_no_negative_number(timeout: Any) -> None:
    with pytest.raises(ConfigError, match=r"TimeoutStopper\(timeout=.*in seconds, or a timedelta"):
        TimeoutStopper(timeout)


# A trial's plateau.


def test_trial_ends_when_its_latest_values_lie_close_together() -> None:
    stopper = TrialPlateauStopper("loss", std=0.1, num_results=3, grace_period=3)

    assert answers(stopper, [1.0, 0.5, 0.4, 0.4, 0.41]) == [False, False, False, True, True]


def test_deviation_equal_to_the_limit_is_not_below_it() -> None:
    stopper = TrialPlateauStopper("loss", std=0.5, num_results=2, grace_period=0)

    assert answers(stopper, [0.0, 1.0]) == [False, False]


def test_grace_period_counts_reports_of_each_trial() -> None:
    stopper = TrialPlateauStopper("loss", num_results=1, grace_period=3)

    assert answers(stopper, [1, 1], "a") == [False, False]
    assert answers(stopper, [1, 1, 1], "b") == [False, False, True]
    assert answers(stopper, [1], "a") == [True]


@pytest.mark.parametrize(("mode", "stops"), [("min", [False, True, True]), ("max", [True, True, False])])
def test_only_trials_on_the_good_side_of_the_threshold_end(mode: str, stops: list[bool]) -> None:
    def a_stopper() -> TrialPlateauStopper:
        return TrialPlateauStopper("loss", num_results=1, grace_period=0, metric_threshold=0, mode=mode)

    assert [answers(a_stopper(), [value])[0] for value in (1.0, 0.0, -1.0)] == stops


def test_missing_and_nan_values_stop_no_trial_while_they_are_among_the_latest() -> None:
    stopper = TrialPlateauStopper("loss", num_results=2, grace_period=0, metric_threshold=1, mode="min")

    assert answers(stopper, [0.5, None, 0.5, 0.5, math.nan, math.inf, math.inf]) == [
        *[False, False, False, True],
        *[False, False, False],
    ]


def test_state_of_a_trials_plateau_survives_json() -> None:
    stopper = TrialPlateauStopper("loss", num_results=3, grace_period=3)
    answers(stopper, [9.0, 0.5, 0.5])

    restored = TrialPlateauStopper("loss", num_results=3, grace_period=3)
    restored.set_state(through_json(stopper))

    assert answers(restored, [0.5]) == [True]
    assert restored.latest == {TRIAL: [0.5] * 3}


def test_every_fault_of_a_trial_plateau_is_named() -> None:
    arguments: Any = {"metric": "", "std": -1, "num_results": 0, "grace_period": -1, "metric_threshold": 0}

    with pytest.raises(ConfigError) as caught:
        TrialPlateauStopper(**arguments)

    assert len(caught.value.faults) == 5
    assert "expected 'min' or 'max' with metric_threshold" in caught.value.faults[-1]


def test_mode_is_checked_without_a_threshold_too() -> None:
    with pytest.raises(ConfigError, match="expected 'min' or 'max' or None"):
        TrialPlateauStopper("loss", mode="low")


# The experiment's plateau.


@pytest.mark.parametrize(("mode", "best"), [("min", [0.1, 0.2]), ("max", [5.0, 0.9])])
def test_best_values_of_all_trials_count(mode: str, best: list[float]) -> None:
    stopper = ExperimentPlateauStopper("loss", top=2, mode=mode)

    answers(stopper, [0.9, 0.2], "a")
    answers(stopper, [5.0, 0.1], "b")

    assert stopper.best == best


def test_experiment_ends_when_its_best_values_lie_close_together() -> None:
    stopper = ExperimentPlateauStopper("loss", std=0.01, top=2)

    before = (answers(stopper, [0.9, 0.5]), stopper.stop_all())
    after = (answers(stopper, [0.505]), stopper.stop_all())

    assert before == ([False, False], False)
    assert after == ([True], True)


def test_patience_counts_reports_in_a_row() -> None:
    stopper = ExperimentPlateauStopper("loss", std=0.01, top=2, patience=3)

    stops = answers(stopper, [0.5, 0.5, 0.6, 0.1, 0.1, 0.7, 0.7])

    assert stops == [False, False, False, False, False, False, True]


def test_nan_does_not_keep_an_experiment_from_its_plateau() -> None:
    stopper = ExperimentPlateauStopper("loss", top=2)

    assert answers(stopper, [math.nan, 0.5, math.nan, 0.5]) == [False, False, False, True]


def test_infinite_values_are_no_plateau() -> None:
    assert answers(ExperimentPlateauStopper("loss", top=2, mode="max"), [math.inf, math.inf]) == [
        False,
        False,
    ]


def test_report_without_the_metric_is_refused_with_the_nearest_name() -> None:
    stopper = ExperimentPlateauStopper("eval/loss")

    with pytest.raises(MetricMissing, match=r"'eval/loss' is missing .*did you mean 'eval_loss'"):
        stopper(TRIAL, {"eval_loss": 1})


@pytest.mark.parametrize("cls", [ExperimentPlateauStopper, TrialPlateauStopper])
def test_metric_that_is_no_number_is_refused(cls: Any) -> None:
    with pytest.raises(ConfigError, match="reported 'low', which is no number"):
        cls("loss")(TRIAL, {"loss": "low"})


def test_state_of_an_experiments_plateau_survives_json() -> None:
    stopper = ExperimentPlateauStopper("loss", top=2, patience=2)
    answers(stopper, [0.5, 0.5])

    restored = ExperimentPlateauStopper("loss", top=2, patience=2)
    restored.set_state(through_json(stopper))

    assert answers(restored, [0.9]) == [True]


def test_every_fault_of_an_experiment_plateau_is_named() -> None:
    arguments: Any = {"metric": None, "std": 0, "top": 1, "mode": "low", "patience": -1}

    with pytest.raises(ConfigError) as caught:
        ExperimentPlateauStopper(**arguments)

    assert len(caught.value.faults) == 5


# RunConfig(stop=...).


@pytest.mark.parametrize("stop", [None, {}, [], ()])
def test_nothing_to_stop_is_no_stopper(stop: Any) -> None:
    assert resolve_stop(stop) is None


def test_stopper_is_taken_as_it_is() -> None:
    stopper = NoopStopper()

    assert resolve_stop(stopper) is stopper


@pytest.mark.parametrize(
    "stop",
    [
        {"loss": 1},
        lambda trial_id, result: result["loss"] >= 1,
        [NoopStopper(), DictStopper({"loss": 1})],
        (DictStopper({"loss": 1}),),
    ],
)
def test_every_form_of_stop_becomes_a_stopper(stop: Any) -> None:
    stopper = resolve_stop(stop)

    assert stopper is not None
    assert answers(stopper, [0, 1]) == [False, True]


@pytest.mark.parametrize("stop", [3, "training_iteration", lambda result: True])
def test_stop_of_another_kind_is_refused(stop: Any) -> None:
    with pytest.raises(ConfigError, match=r"RunConfig\(stop=.*expected a dict such as"):
        resolve_stop(stop)


def test_list_may_hold_only_stoppers() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_stop([{"loss": 1}, NoopStopper(), NoopStopper])

    assert "stop[0]" in caught.value.faults[0]
    assert "write NoopStopper(...)" in caught.value.faults[1]


def test_class_of_stoppers_is_told_to_be_called() -> None:
    with pytest.raises(ConfigError, match=r"write NoopStopper\(...\)"):
        resolve_stop(NoopStopper)


def test_stopper_of_ray_is_refused_by_name() -> None:
    class TheirStopper:
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return True

    TheirStopper.__module__, TheirStopper.__qualname__ = "ray.tune.stopper.stopper", "Stopper"

    with pytest.raises(ConfigError, match=r"given ray.tune.Stopper; use tune_core.Stopper"):
        resolve_stop(TheirStopper())
