"""What is told of an experiment: from lists of events."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.timed_events import RULES, began, over, runs, suggested, tid, told
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    CapacityChanged,
    Event,
    ExperimentResumed,
    SearchEnded,
    SegmentsGivenUp,
    SlotsHeld,
    SpecRecorded,
    StateSaved,
    StopRequested,
)
from tune_core.ranking import Objective
from tune_core.states import Outcome, StopCause
from tune_core.trial import Status
from tune_core.views.overview import ATTEMPTS, CURVE_POINTS, ExperimentSnapshot, Overview, Series

LOSS = Objective("loss", "min")


def overview_of(events: Iterable[Event], objective: Objective | None = LOSS) -> Overview:
    controller = Controller(ControllerConfig(**RULES, metric="loss"))
    overview = Overview(controller, objective)
    for event in events:
        controller.handle(event)
        overview.note(event)
    return overview


def snapshot(events: Iterable[Event], objective: Objective | None = LOSS) -> ExperimentSnapshot:
    return overview_of(events, objective).snapshot()


ONE = [began(), suggested(), runs(102.0)]


def test_trial_is_shown_with_its_best_and_its_last_value() -> None:
    shown = snapshot(
        [
            *ONE,
            told(103, 1, 0.5),
            told(104, 2, 0.25, checkpoint=0),
            told(105, 3, 0.75, checkpoint=1),
            over(106),
        ]
    )

    (trial,) = shown.trials
    assert (trial.trial_id, trial.name, trial.dirname) == (tid(0), f"f_{tid(0)}", "t0")
    assert (trial.status, trial.iterations, trial.config) == (Status.TERMINATED, 3, {"x": 0})
    assert (trial.best, trial.best_iteration, trial.last) == (0.25, 2, 0.75)
    assert (trial.score, trial.scored_in) == (0.75, 3)
    assert trial.checkpoint == "checkpoint_000001"  # of the report that counts
    assert list(trial.curve) == [(1, 0.5), (2, 0.25), (3, 0.75)]
    assert list(shown.best_so_far) == [(3.0, 0.5), (4.0, 0.25), (5.0, 0.75)]
    assert shown.best_trial == trial


def test_best_first_and_trials_without_a_value_last() -> None:
    events = [
        began(capacity=9),
        *(event for number in range(4) for event in (suggested(number), runs(101, number))),
        told(102, 1, 0.3, 0),
        told(103, 1, 0.1, 2),
        told(104, 1, 0.2, 3),
    ]

    assert [trial.number for trial in snapshot(events).ranked] == [2, 3, 0, 1]
    assert [trial.number for trial in snapshot(events, Objective("loss", "max")).ranked] == [0, 3, 2, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.1", None, [0.1], 10**400])
def test_what_is_no_number_is_neither_best_nor_in_a_curve(value: Any) -> None:
    shown = snapshot([*ONE, told(103, 1, 0.5), told(104, 2, value)])

    assert (shown.trials[0].best, shown.trials[0].last) == (0.5, 0.5)
    assert list(shown.trials[0].curve) == [(1, 0.5)]
    assert shown.trials[0].iterations == 2


def test_without_a_metric_costs_are_known_and_nothing_is_best() -> None:
    shown = snapshot([*ONE, told(103, 1, 0.5), over(110)], Objective())

    assert shown.best_trial is None
    assert shown.trials[0].curve == []
    assert shown.used == {"CPU": 8.0, "GPU": 0.0}


def test_metric_and_mode_are_those_of_the_journal_unless_they_are_given() -> None:
    spec = SpecRecorded(99.0, 1, {}, {**RULES, "metric": "loss", "mode": "max", "best_scope": "all"})
    events = [spec, *ONE, told(103, 1, 0.5), told(104, 2, 0.75)]

    by_journal, by_hand = snapshot(events, None), snapshot(events)

    assert (by_journal.objective, by_journal.trials[0].score) == (Objective("loss", "max", "all"), 0.75)
    assert (by_hand.objective, by_hand.trials[0].best) == (LOSS, 0.5)


def test_attempts_cost_their_time_by_all_their_bundles() -> None:
    events = [
        began(),
        suggested(cpus=2, gpus=1),
        runs(110),
        over(114, Outcome.ERROR),
        runs(120, attempt_number=2),
        over(121, attempt_number=2),
    ]

    shown = snapshot(events)

    (trial,) = shown.trials
    assert (trial.attempts, trial.failures, trial.seconds) == (2, 1, 5.0)
    assert trial.used == shown.used == {"CPU": 10.0, "GPU": 5.0}
    spans = [(each.attempt_number, each.began, each.ended, each.outcome) for each in trial.timeline]
    assert spans == [(1, 10.0, 14.0, Outcome.ERROR), (2, 20.0, 21.0, Outcome.COMPLETED)]


def test_attempt_that_runs_counts_up_to_the_latest_event() -> None:
    shown = snapshot([*ONE, told(105, 1, 0.5)])

    assert shown.trials[0].timeline[0].ended is None
    assert shown.trials[0].seconds == 3.0


def test_attempt_that_never_began_costs_nothing() -> None:
    shown = snapshot([began(), suggested(), over(105, Outcome.UNPLACED)])

    assert (shown.trials[0].attempts, shown.trials[0].seconds, shown.trials[0].timeline) == (2, 0.0, [])


@pytest.mark.parametrize(("given_up", "attempt_number"), [((), 2), ((SegmentsGivenUp(5000.0, 7, 2),), 202)])
def test_time_between_two_drivers_does_not_count(
    given_up: tuple[SegmentsGivenUp, ...], attempt_number: int
) -> None:
    """Its attempts ended with it, when it was last heard of; what they had committed is taken up."""
    events = [
        *ONE,
        told(104, 1, 0.5),
        *given_up,
        CapacityChanged(5000.0, 0),
        told(5000.0, 2, 0.25, checkpoint=0),
        SpecRecorded(5001.0, 2, {}, RULES),
        StateSaved(5001.5),
        ExperimentResumed(5002.0, 1),
        runs(5004.0, attempt_number=attempt_number),
        told(5006.0, 3, 0.75, attempt_number=attempt_number),
        over(5007.0, attempt_number=attempt_number),
    ]

    shown = snapshot(events)

    assert (shown.seconds, shown.num_drivers, shown.began_at, shown.last_at) == (9.0, 2, 100.0, 5007.0)
    assert [(each.began, each.ended) for each in shown.trials[0].timeline] == [(2.0, 4.0), (6.0, 9.0)]
    assert list(shown.best_so_far) == [(4.0, 0.5), (4.0, 0.25), (8.0, 0.75)]
    assert shown.used["CPU"] == 5.0


def test_spec_that_changes_while_a_driver_is_at_work_costs_no_time() -> None:
    shown = snapshot([*ONE, SpecRecorded(110.0, 2, {}, RULES), over(112)])

    assert (shown.seconds, shown.trials[0].seconds) == (12.0, 10.0)


def test_rows_that_are_made_again_replace_those_before() -> None:
    events = [
        *ONE,
        told(103, 1, 0.9, checkpoint=0),
        told(104, 2, 0.8),
        told(105, 3, 0.1),
        over(106, Outcome.CRASHED),
    ]

    again = snapshot([*events, runs(107, attempt_number=2), told(108, 2, 0.7, attempt_number=2)])

    assert list(again.trials[0].curve) == [(1, 0.9), (2, 0.7)]
    assert again.trials[0].best == 0.1  # it was reported


def test_report_of_an_older_attempt_does_not_count() -> None:
    events = [
        *ONE,
        over(103, Outcome.CRASHED),
        runs(104, attempt_number=2),
        told(105, 1, 0.5, attempt_number=2),
    ]

    shown = snapshot([*events, told(106, 2, 0.1, attempt_number=1)])

    assert (shown.trials[0].best, shown.trials[0].iterations) == (0.5, 1)


def test_trial_that_begins_anew_has_a_new_curve_and_its_old_costs() -> None:
    events = [*ONE, told(103, 1, 0.1), told(104, 2, 0.1), over(104, Outcome.STOPPED), SearchEnded(104)]
    resumed = ExperimentResumed(200.0, 1, restarted={tid(0): "t0_attempt_2"})

    shown = snapshot([*events, resumed, runs(201, attempt_number=2), told(203, 1, 0.5, attempt_number=2)])

    (trial,) = shown.trials
    assert (trial.dirname, trial.best, list(trial.curve)) == ("t0_attempt_2", 0.5, [(1, 0.5)])
    assert trial.seconds == 2.0 + 2.0


def test_what_groups_held_and_no_attempt_used_was_idle() -> None:
    shown = snapshot(
        [*ONE, over(110), SlotsHeld(111, {"CPU": 4.0}), SlotsHeld(112, {"CPU": 20.0, "GPU": 3.0})]
    )

    assert shown.held == {"CPU": 20.0, "GPU": 3.0}
    assert shown.idle == {"CPU": 12.0, "GPU": 3.0}


def test_what_all_drivers_held_is_added_up_and_unknown_if_one_never_said() -> None:
    first, second = [began(100), SlotsHeld(110, {"CPU": 1.0})], [ExperimentResumed(200, 1)]

    assert snapshot([*first, *second, SlotsHeld(210, {"CPU": 2.0})]).held == {"CPU": 3.0, "GPU": 0.0}
    assert snapshot([*first, *second]).held is None
    assert snapshot([began(100), *second, SlotsHeld(210, {"CPU": 2.0})]).held is None
    assert snapshot([]).idle == {"CPU": 0.0, "GPU": 0.0}


def test_end_of_an_experiment_and_its_reason_are_told() -> None:
    events = [*ONE, SearchEnded(102), StopRequested(103, StopCause.INTERRUPT, "Ctrl-C")]

    assert (snapshot(events).has_ended, snapshot(events).reason) == (False, "")
    ended = snapshot([*events, over(104, Outcome.STOPPED)])
    assert (ended.has_ended, ended.reason, ended.trials[0].status) == (True, "Ctrl-C", Status.PAUSED)


def test_note_says_whether_a_report_is_the_best_so_far() -> None:
    controller = Controller(ControllerConfig(**RULES, metric="loss"))
    overview = Overview(controller, LOSS)
    found = []
    for event in [*ONE, told(103, 1, 0.5), told(104, 2, 0.5), told(105, 3, 0.4), told(106, 4, math.nan)]:
        controller.handle(event)
        found.append(overview.note(event))

    assert found == [False, False, False, True, False, True, False]


def test_many_reports_and_attempts_take_no_more_room_than_some() -> None:
    events: list[Event] = [began(), suggested()]
    for attempt_number in range(1, 101):
        events.append(runs(100.0 + attempt_number, attempt_number=attempt_number))
        first = (attempt_number - 1) * 100 + 1
        events += [
            told(100.0 + attempt_number, step, 1 / step, attempt_number=attempt_number, checkpoint=step)
            for step in range(first, first + 100)
        ]
        events.append(over(101.0 + attempt_number, Outcome.CRASHED, attempt_number=attempt_number))

    (trial,) = snapshot(events).trials

    assert CURVE_POINTS < len(trial.curve) <= 2 * CURVE_POINTS + 1
    assert (trial.curve[0], trial.curve[-1]) == ((1, 1.0), (10_000, 1e-4))
    assert [each.attempt_number for each in trial.timeline] == list(range(101 - ATTEMPTS, 101))
    assert trial.seconds == 100.0


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=150))
def test_thinned_curve_is_a_part_of_the_whole_in_order_with_its_newest_point(
    limit: int, steps: list[tuple[int, bool]]
) -> None:
    series, whole = Series(limit), list[tuple[float, float]]()
    for number, (step, goes_back) in enumerate(steps):
        x = step if goes_back or not whole else whole[-1][0] + step
        series.cut(x)
        whole = [point for point in whole if point[0] < x]
        series.add(x, number)
        whole.append((x, number))

        points = series.points()
        assert points == sorted(points)
        assert set(points) <= set(whole)
        assert points[-1] == whole[-1]
        assert points[0] == whole[0]
        assert len(points) <= 2 * limit + 1
