"""Successive halving by several metrics: who goes on, and where the metrics come from."""

from __future__ import annotations

import math
from typing import Any

import pytest

import tune_core as tune
from tune_core.control.policy import Policy
from tune_core.errors import ConfigError
from tune_core.schedulers import MultiObjectiveASHAScheduler, create_scheduler
from tune_core.trial import Status, Trial

BOTH: dict[str, Any] = {"metrics": ["error", "latency"], "modes": "min"}


def answers(
    points: list[tuple[Any, Any]], *, time: int = 1, **options: Any
) -> tuple[list[str], MultiObjectiveASHAScheduler, list[Trial]]:
    """What trials are told that come to a rung one after the other."""
    scheduler = MultiObjectiveASHAScheduler(**{**BOTH, **options})
    trials = [Trial(f"t{number}", number, {}) for number in range(len(points))]
    told = [
        scheduler.on_trial_result([], trial, {"training_iteration": time, "error": error, "latency": latency})
        for trial, (error, latency) in zip(trials, points, strict=True)
    ]
    return [str(each) for each in told], scheduler, trials


def test_who_is_dominated_is_stopped_and_a_front_is_thinned_evenly() -> None:
    """By hand, of each two that came one goes on, rounded up.

    (1, 9) is alone. (2, 8) is in the same front, and second by the first metric. (9, 1) is farthest from (1, 9).
    (3, 9) is dominated. (5, 5) is the third of the front (1, 9), (2, 8), (9, 1), (5, 5) of five: three go on.
    """
    told, scheduler, trials = answers([(1, 9), (2, 8), (9, 1), (3, 9), (5, 5)], reduction_factor=2)

    assert told == ["CONTINUE", "STOP", "CONTINUE", "STOP", "CONTINUE"]
    assert scheduler.decision_reason(trials[0]) == {
        "rung": 1,
        "value": [1.0, 9.0],
        "rank": 1,
        "front": 1,
        "of": 5,
    }


def test_modes_may_differ_and_metrics_may_be_nested() -> None:
    scheduler = MultiObjectiveASHAScheduler(
        metrics=["eval/accuracy", "latency"], modes=["max", "min"], reduction_factor=2
    )
    rows: list[dict[str, Any]] = [
        {"eval": {"accuracy": 0.9}, "latency": 5},
        {"eval": {"accuracy": 0.8}, "latency": 6},
    ]

    told = [
        scheduler.on_trial_result([], Trial(f"t{number}", number, {}), {"training_iteration": 1, **row})
        for number, row in enumerate(rows)
    ]

    assert told == ["CONTINUE", "STOP"]


@pytest.mark.parametrize(
    "row", [{"error": 1.0}, {"error": 1.0, "latency": "fast"}, {"latency": None, "error": 2}]
)
def test_reports_without_one_of_the_metrics_are_not_decided_on(row: dict[str, Any]) -> None:
    scheduler = MultiObjectiveASHAScheduler(**BOTH)
    trial = Trial("t0", 0, {})

    assert scheduler.on_trial_result([], trial, {"training_iteration": 100, **row}) == "CONTINUE"
    assert scheduler.decision_reason(trial) == {}


def test_nan_is_the_worst_and_is_never_promoted() -> None:
    told, scheduler, trials = answers([(math.nan, 1.0), (1.0, 2.0)], type="promotion", reduction_factor=2)
    for trial in trials:
        trial.status = Status.PAUSED

    assert told == ["PAUSE", "PAUSE"]
    assert scheduler.choose_trial_to_run(trials) is trials[1]


def test_the_front_is_promoted_before_others_and_only_its_share() -> None:
    points = [(1, 9), (9, 9), (9, 1), (8, 8), (5, 5), (9, 8)]
    _, scheduler, trials = answers(points, type="promotion", reduction_factor=2, max_t=8)
    for trial in trials:
        trial.status = Status.PAUSED

    chosen = []
    while (trial := scheduler.choose_trial_to_run(trials)) is not None:
        trial.status = Status.RUNNING
        chosen.append(trial.number)

    assert chosen == [0, 2, 4]
    assert scheduler.decision_reason(trials[1]) == {
        "rung": 1,
        "value": [9.0, 9.0],
        "rank": 6,
        "front": 4,
        "of": 6,
    }


def test_metrics_may_come_from_either_side() -> None:
    own = MultiObjectiveASHAScheduler(**BOTH)
    given = MultiObjectiveASHAScheduler()

    Policy(tune.TuneConfig(scheduler=own), None, {}, len, "train")

    assert (own.metric, own.mode) == (["error", "latency"], ["min", "min"])
    assert given.set_search_properties(["error", "latency"], ["min", "max"])
    assert (given.metric, given.mode) == (["error", "latency"], ["min", "max"])
    assert not given.set_search_properties(["error", "latency"], "min")
    assert given.set_search_properties(None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "error", "modes": "min"}, "metrics='error'.*expected a list of the names"),
        (
            {"metrics": ["error"], "modes": "min"},
            "at least two different metrics; ASHAScheduler compares by one",
        ),
        ({"metrics": ["error", "error"], "modes": "min"}, "at least two different metrics"),
        ({"metrics": ["error", ""], "modes": "min"}, "expected a list of the names"),
        ({"metrics": ["error", "latency"]}, "modes=None.*expected 'min' or 'max'"),
        ({"metrics": ["error", "latency"], "modes": ["min"]}, "expected 2 modes"),
        ({"metrics": ["error", "latency"], "modes": ["min", "least"]}, "expected 'min' or 'max'"),
        ({"modes": "min"}, "metrics=None"),
        ({**BOTH, "max_t": 0}, "max_t=0"),
        ({**BOTH, "type": "both"}, "'stopping' or 'promotion'"),
        ({**BOTH, "time_attr": ""}, "time_attr=''"),
    ],
)
def test_objectives_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiObjectiveASHAScheduler(**options)


def test_one_metric_of_the_experiment_or_none_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TuneConfig\(metric='error'\): expected a list"):
        MultiObjectiveASHAScheduler().set_search_properties("error", "min")
    with pytest.raises(ConfigError, match="MultiObjectiveASHAScheduler compares trials by a metric"):
        tune.TuneConfig(scheduler=MultiObjectiveASHAScheduler())


def test_it_is_made_by_its_name() -> None:
    scheduler = create_scheduler("mo_asha", metrics=["a", "b"], modes=["min", "max"], type="promotion")

    assert isinstance(scheduler, MultiObjectiveASHAScheduler)
    assert scheduler.resumes_before_new_trials
    assert scheduler.debug_string().startswith(
        "Using MultiObjectiveASHA: num_stopped=0, num_promoted=0\nBracket: "
    )


@pytest.mark.parametrize("kind", ["stopping", "promotion"])
def test_only_who_has_come_to_max_t_has_had_the_full_budget(kind: Any) -> None:
    _, scheduler, trials = answers([(1, 1)], type=kind, max_t=9)

    told = [scheduler.is_full_budget(trials[0], {"training_iteration": time}) for time in (1, 8, 9)]

    assert told == [False, False, True]
