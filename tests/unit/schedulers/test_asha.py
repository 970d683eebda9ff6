"""Asynchronous successive halving: who is stopped at which rung."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tune_core.errors import ConfigError
from tune_core.schedulers import ASHAScheduler, AsyncHyperBandScheduler
from tune_core.states import Decision
from tune_core.trial import Trial


def trials(number: int) -> list[Trial]:
    return [Trial(f"t{each}", each, {}) for each in range(number)]


def report(scheduler: ASHAScheduler, trial: Trial, time: Any, score: Any) -> str:
    return scheduler.on_trial_result([], trial, {"training_iteration": time, "score": score})


def an_asha(mode: str = "max", **options: Any) -> ASHAScheduler:
    return ASHAScheduler(metric="score", mode=mode, **options)


def stopped(scheduler: ASHAScheduler, scores: list[Any], time: int = 1) -> list[int]:
    """Who is stopped, as trials come to a rung with these scores, one after the other."""
    answers = [
        report(scheduler, trial, time, score) for trial, score in zip(trials(99), scores, strict=False)
    ]
    return [number for number, answer in enumerate(answers) if answer == Decision.STOP]


@pytest.mark.parametrize(
    ("mode", "factor", "scores", "expected"),
    [
        ("max", 4, [1], []),
        ("max", 4, [1, 2, 3, 4], []),
        ("max", 4, [4, 3, 2, 1], [1, 2, 3]),
        ("min", 4, [4, 3, 2, 1], []),
        ("min", 4, [1, 2, 3, 4], [1, 2, 3]),
        ("max", 4, [0, 100, 74, 86, 90], [2, 3]),  # of 0 and 100, the best quarter begins at 75
        ("max", 2, [0, 100, 49, 51], [2]),  # of 0 and 100, the better half begins at 50; of 0, 49, 100 at 49
        ("max", 4, [5, 5, 5], []),
        ("max", 4, [math.nan, 1, 0], [2]),
        ("max", 4, [1, math.nan], []),
        ("min", 4, [math.inf, 1, math.inf, math.inf, 5], [2, 3]),
        ("max", 4, [math.inf, math.inf, 1], [2]),
    ],
)
def test_trial_goes_on_if_it_is_among_the_best(
    mode: str, factor: float, scores: list[Any], expected: list[int]
) -> None:
    assert stopped(an_asha(mode, reduction_factor=factor), scores) == expected


def test_rungs_are_multiples_of_the_grace_period() -> None:
    scheduler = an_asha(grace_period=2, reduction_factor=3, max_t=100)
    good, bad = trials(2)
    for time in range(1, 100):
        report(scheduler, good, time, 1.0)

    answers = [
        time for time in range(1, 60) if report(scheduler, bad, time, 1.0 if time < 15 else 0.0) == "STOP"
    ]

    assert answers == [18, 54]  # 2, 6, 18, 54; each once


@pytest.mark.parametrize(("max_t", "factor", "rungs"), [(1000, 10, 4), (81, 3, 5), (80, 3, 4), (1, 2, 1)])
def test_last_rung_is_at_most_at_the_end(max_t: int, factor: int, rungs: int) -> None:
    scheduler = an_asha(max_t=max_t, reduction_factor=factor)

    assert scheduler.debug_string().count("Iter") == rungs


@pytest.mark.parametrize(("stops", "expected"), [(True, "STOP"), (False, "CONTINUE")])
def test_trial_at_the_end_is_stopped_unless_told_otherwise(stops: bool, expected: str) -> None:
    scheduler = an_asha(max_t=16, stop_last_trials=stops)

    assert report(scheduler, trials(1)[0], 16, 1.0) == expected


def test_trials_that_go_on_after_the_end_are_not_compared_at_lower_rungs() -> None:
    scheduler = an_asha(max_t=4, stop_last_trials=False)
    good, late = trials(2)
    for time in (1, 4):
        report(scheduler, good, time, 1.0)
    assert report(scheduler, late, 4, 2.0) == "CONTINUE"  # has skipped the rung at 1

    assert report(scheduler, late, 5, 0.0) == "CONTINUE"


def test_later_reports_of_a_trial_are_not_compared_with_its_own() -> None:
    scheduler = an_asha()
    trial = trials(1)[0]
    report(scheduler, trial, 1, 9.0)

    assert report(scheduler, trial, 2, 1.0) == report(scheduler, trial, 4, 0.0) == "CONTINUE"


def test_last_report_of_a_trial_counts_for_others() -> None:
    scheduler = an_asha()
    first, second = trials(2)
    scheduler.on_trial_add([], first)
    scheduler.on_trial_complete([], first, {"training_iteration": 1, "score": 5.0})

    assert report(scheduler, second, 1, 4.0) == "STOP"


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"score": 1},
        {"training_iteration": 1},
        {"training_iteration": 100, "score": "bad"},
        {"score": None},
    ],
)
def test_report_without_metric_or_time_is_not_decided_on(result: dict[str, Any]) -> None:
    scheduler = an_asha()
    trial = trials(1)[0]

    assert scheduler.on_trial_result([], trial, result) == "CONTINUE"
    scheduler.on_trial_complete([], trial, result)


def test_nested_metric_is_found() -> None:
    scheduler = ASHAScheduler("steps/done", "eval/loss", "min")
    good, bad = trials(2)

    answers = [
        scheduler.on_trial_result([], trial, {"steps": {"done": 1}, "eval": {"loss": loss}})
        for trial, loss in ((good, 1), (bad, 2))
    ]

    assert answers == ["CONTINUE", "STOP"]


def test_brackets_are_chosen_by_seed_and_leave_the_global_generator_alone() -> None:
    def choices(seed: int) -> list[Any]:
        scheduler = an_asha(brackets=3, max_t=81, reduction_factor=3, seed=seed)
        for trial in trials(300):
            scheduler.on_trial_add([], trial)
        return [len(scheduler._bracket_of[f"t{number}"].rungs) for number in range(300)]

    random.seed(7)
    before = random.getstate()
    first = choices(1)

    assert random.getstate() == before
    assert first == choices(1) != choices(2)
    counts = [first.count(rungs) for rungs in (5, 4, 3)]
    assert counts == sorted(counts, reverse=True)  # by e, e^0, e^-1 …
    assert 160 < counts[0] < 240


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        ASHAScheduler("", "loss", "mn", 0, -1, 1, 0, "yes", seed=-1)  # type: ignore[arg-type]

    shown = "\n".join(raised.value.faults)
    for name in (
        "time_attr",
        "mode",
        "max_t",
        "grace_period",
        "reduction_factor",
        "brackets",
        "stop_last_trials",
    ):
        assert f"AsyncHyperBandScheduler({name}=" in shown
    assert "AsyncHyperBandScheduler(seed=-1): expected an integer of at least 0, or None" in shown
    assert "did you mean 'min'?" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grace_period": 11, "max_t": 10}, "grace_period=11.: is longer than max_t=10"),
        ({"metric": "loss"}, "metric='loss'.: mode is missing"),
        ({"max_t": math.inf}, "max_t=inf.: expected a finite number above 0"),
    ],
)
def test_faults_say_what_to_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ASHAScheduler(**options)


def test_both_names_mean_the_same() -> None:
    assert ASHAScheduler is AsyncHyperBandScheduler


def test_seed_that_is_in_force_does_not_start_over() -> None:
    def brackets(state_after: int | None) -> list[int]:
        scheduler = AsyncHyperBandScheduler("training_iteration", "loss", "min", brackets=3, seed=5)
        for number in range(8):
            if number == state_after:
                scheduler.set_state(scheduler.get_state())
            scheduler.on_trial_add([], Trial(f"t{number}", number, {}))
        return [scheduler._brackets.index(bracket) for bracket in scheduler._bracket_of.values()]

    assert brackets(4) == brackets(None)
