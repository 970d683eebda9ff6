"""The median stopping rule: who is compared with whom, and what follows."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tune_core.errors import ConfigError
from tune_core.schedulers import MedianStoppingRule
from tune_core.trial import Status, Trial

TRIALS = [Trial(f"t{number}", number, {}, status=Status.RUNNING) for number in range(6)]


def a_rule(mode: str = "max", **options: Any) -> MedianStoppingRule:
    options = {"grace_period": 1, "min_samples_required": 1, **options}
    return MedianStoppingRule("time", "score", mode, **options)


def report(rule: MedianStoppingRule, number: int, time: float, score: Any, others: str = "") -> str:
    """Report of a trial, while others are paused or pending as the letters say."""
    words = {"P": Status.PAUSED, "W": Status.PENDING, "T": Status.TERMINATED}
    waiting = [Trial(f"w{index}", 9, {}, status=words[each]) for index, each in enumerate(others)]
    return rule.on_trial_result([*TRIALS, *waiting], TRIALS[number], {"time": time, "score": score})


@pytest.mark.parametrize(
    ("mode", "score", "expected"),
    [("max", 1.9, "STOP"), ("max", 2.0, "CONTINUE"), ("min", 2.1, "STOP"), ("min", 2.0, "CONTINUE")],
)
def test_trial_is_compared_with_the_median_of_the_running_averages(
    mode: str, score: float, expected: str
) -> None:
    rule = a_rule(mode, min_samples_required=3)
    for number, scores in enumerate([(1, 1), (0, 4), (9, 9)]):  # averages 1, 2, 9
        for time, each in enumerate(scores, 1):
            report(rule, number, time, each)

    assert report(rule, 3, 2, score) == expected


def test_best_value_of_the_trial_counts_even_if_it_has_got_worse() -> None:
    rule = a_rule()
    report(rule, 0, 1, 5), report(rule, 0, 2, 5)

    assert [report(rule, 1, time, score) for time, score in ((1, 5), (2, 0))] == ["CONTINUE", "CONTINUE"]


def test_averages_begin_after_the_grace_period_and_end_now() -> None:
    rule = a_rule(grace_period=2)
    for time, score in ((1, 100), (2, 1), (3, 3), (4, 100)):
        report(rule, 0, time, score)

    assert report(rule, 1, 1, 0) == "CONTINUE"
    assert report(rule, 1, 3, 2) == "CONTINUE"  # the average of 1 and 3
    assert report(rule, 2, 3, 1.9) == "STOP"


def test_trials_that_have_not_come_as_far_are_not_compared_with() -> None:
    rule = a_rule(min_samples_required=2)
    report(rule, 0, 4, 9)
    report(rule, 0, 5, 9)
    report(rule, 1, 4, 9)

    assert report(rule, 2, 5, 0) == "CONTINUE"
    assert report(rule, 2, 4.5, 0) == "CONTINUE"
    assert report(rule, 3, 4, 0) == "STOP"


def test_stopped_and_failed_trials_are_still_compared_with() -> None:
    rule = a_rule()
    report(rule, 0, 1, 9)
    rule.on_trial_error(TRIALS, TRIALS[0])

    assert [report(rule, number, 1, 1) for number in (1, 2)] == ["STOP", "STOP"]


def test_where_stops_are_soft_a_trial_is_paused_once() -> None:
    rule = a_rule(hard_stop=False)
    report(rule, 0, 1, 9)

    assert [report(rule, 1, time, 0) for time in (1, 2, 3)] == ["PAUSE", "CONTINUE", "CONTINUE"]


@pytest.mark.parametrize(
    ("others", "expected"), [("", "CONTINUE"), ("T", "CONTINUE"), ("P", "PAUSE"), ("W", "PAUSE")]
)
def test_trials_take_turns_while_there_is_too_little_to_compare_with(others: str, expected: str) -> None:
    assert report(a_rule(min_samples_required=3), 0, 1, 1, others) == expected


def test_trial_runs_for_its_time_slice_before_it_gives_way() -> None:
    rule = a_rule(min_samples_required=3, min_time_slice=2)

    answers = [report(rule, 0, time, 1, "P") for time in range(1, 8)]

    assert answers == ["PAUSE", "CONTINUE", "CONTINUE", "PAUSE", "CONTINUE", "CONTINUE", "PAUSE"]


def test_what_a_failed_attempt_reported_after_its_checkpoint_is_forgotten() -> None:
    rule = a_rule()
    for time, score in ((1, 1), (2, 100), (3, 100), (2, 1), (3, 1)):
        report(rule, 0, time, score)

    assert report(rule, 1, 3, 1) == "CONTINUE"


def test_last_report_counts_once() -> None:
    rule = a_rule()
    for time, score in ((1, 1), (2, 4)):
        report(rule, 0, time, score)
    for time in (2, 3):
        rule.on_trial_complete(TRIALS, TRIALS[0], {"time": time, "score": 4})

    assert report(rule, 1, 3, 3) == "CONTINUE"  # the average of 1, 4 and 4
    assert report(rule, 2, 3, 2.9) == "STOP"


@pytest.mark.parametrize(
    ("score", "expected"), [(math.nan, "STOP"), (-math.inf, "STOP"), (math.inf, "CONTINUE")]
)
def test_scores_that_are_no_numbers_are_worst(score: float, expected: str) -> None:
    rule = a_rule()
    report(rule, 0, 1, math.nan)
    report(rule, 1, 1, 5)

    assert report(rule, 2, 1, score) == expected
    assert report(rule, 3, 1, 5) == "CONTINUE"


@pytest.mark.parametrize("result", [{}, {"score": 1}, {"time": 1}, {"time": 1, "score": None}])
def test_report_without_metric_or_time_is_not_decided_on(result: dict[str, Any]) -> None:
    rule = a_rule()
    report(rule, 0, 1, 5)

    assert rule.on_trial_result(TRIALS, TRIALS[1], result) == "CONTINUE"
    rule.on_trial_complete(TRIALS, TRIALS[1], result)


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        MedianStoppingRule("", None, "up", -1, 0, math.nan, 1)  # type: ignore[arg-type]

    shown = "\n".join(raised.value.faults)
    for name in ("time_attr", "mode", "grace_period", "min_samples_required", "min_time_slice", "hard_stop"):
        assert f"MedianStoppingRule({name}=" in shown
