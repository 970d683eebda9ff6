"""The life of one trial, how many there are at once, and what is asked of the searcher."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.controller_events import (
    COMPLETED,
    ONE,
    PAUSE,
    STOP,
    STOPPED,
    after_last,
    chosen,
    controller_after,
    ended,
    reported,
    running,
    start_attempt,
    started,
    stop,
    suggested,
    tid,
)
from tune_core.control.messages import (
    Answer,
    CapacityChanged,
    ChoosePaused,
    CompleteTrial,
    EndExperiment,
    Event,
    SearchEnded,
    SearchRetried,
    StartAttempt,
    StopRequested,
    Suggest,
    SuggestionDeferred,
)
from tune_core.errors import IllegalTransition
from tune_core.states import StopCause
from tune_core.trial import AttemptPhase

# The life of one trial.


def test_new_experiment_asks_for_its_first_trial() -> None:
    assert after_last([started()]) == [Suggest(tid(0))]


def test_suggestion_becomes_a_trial_that_starts_from_scratch() -> None:
    controller = controller_after([started()])

    commands = controller.handle(suggested())

    trial = controller.trials[tid(0)]
    assert commands == [
        StartAttempt(tid(0), attempt_number=1, checkpoint=None, iteration=0, highest_index=-1)
    ]
    assert (trial.number, trial.config, trial.experiment_tag, trial.dirname) == (0, {"n": 0}, "0", "t0")
    assert trial.resources.required_resources == {"CPU": 1.0}
    assert controller.live_trial(tid(0), 1) is trial
    assert controller.live_trial(tid(0), 2) is None


@pytest.mark.parametrize(
    "events",
    [[suggested()], [started(), suggested(), suggested()], [started(), SearchEnded(1.0), suggested()]],
)
def test_suggestion_that_nobody_asked_for_is_a_defect(events: list[Event]) -> None:
    with pytest.raises(IllegalTransition, match="nobody asked for this suggestion"):
        after_last(events, max_concurrent=1)


def test_running_trial_knows_its_process() -> None:
    controller = controller_after(ONE)

    worker = {"pid": 4711, "hostname": "host", "node_ip": "127.0.0.1"}
    assert controller.trials[tid(0)].worker == worker


def test_report_is_kept_with_its_iteration() -> None:
    controller = controller_after([*ONE, reported(1, loss=0.5), reported(2, loss=0.25)])

    trial = controller.trials[tid(0)]
    assert (trial.iteration, trial.last_row) == (2, {"loss": 0.25})


def test_report_that_came_before_is_not_counted_twice() -> None:
    events = [*ONE, reported(1, checkpoint=0), reported(2, checkpoint=1), reported(2, checkpoint=1, loss=7)]
    controller = controller_after(events)

    trial = controller.trials[tid(0)]
    assert [record.index for record in trial.checkpoints] == [0, 1]
    assert trial.last_row == {}


def test_what_a_stopping_trial_still_reports_is_kept() -> None:
    controller = controller_after([*ONE, reported(1), stop(StopCause.INTERRUPT), reported(2, checkpoint=0)])

    trial = controller.trials[tid(0)]
    assert (trial.iteration, trial.checkpoint.index if trial.checkpoint else None) == (2, 0)


def test_later_pause_does_not_take_back_a_stop() -> None:
    controller = controller_after([*ONE, reported(1, STOP)])

    assert controller.handle(reported(2, PAUSE)) == [Answer(tid(0), 1, STOP)]
    assert CompleteTrial(tid(0), failed=False) in controller.handle(ended(STOPPED))


# How many trials there are at once.


def num_started(capacity: int, *, run: int, **rules: Any) -> int:
    """How many attempts are started while the first `run` of them begin to run."""
    controller = controller_after(**rules)
    pending, number = controller.handle(started(capacity)), 0
    count = 0
    while pending:
        command = pending.pop(0)
        if isinstance(command, Suggest):
            pending += controller.handle(suggested(number))
            number += 1
        elif isinstance(command, StartAttempt):
            count += 1
            if count <= run:
                pending += controller.handle(running(count - 1))
    return count


@pytest.mark.parametrize(
    ("capacity", "run", "rules", "expected"),
    [
        (1, 0, {}, 1),
        (4, 0, {}, 4),
        (4, 2, {}, 4),
        (4, 4, {}, 5),  # one more waits, so that the next starts at once
        (4, 9, {}, 10),
        (4, 0, {"max_concurrent": 2}, 2),
        (4, 2, {"max_concurrent": 2}, 2),
        (1, 0, {"max_concurrent": 3}, 1),
        (1, 3, {"max_concurrent": 3}, 3),
    ],
)
def test_as_many_trials_are_started_as_fit(
    capacity: int, run: int, rules: dict[str, Any], expected: int
) -> None:
    assert num_started(capacity, run=run, **rules) == expected


def test_more_capacity_starts_more_trials() -> None:
    controller = controller_after([started(1), suggested()])

    assert controller.handle(CapacityChanged(2.0, 2)) == [Suggest(tid(1))]


def test_less_capacity_starts_none_and_stops_none() -> None:
    controller = controller_after([started(2), suggested(0), suggested(1), running(0)])

    assert controller.handle(CapacityChanged(2.0, 1)) == []
    assert controller.trials[tid(1)].phase is AttemptPhase.STARTING


def test_experiment_waits_while_the_cluster_is_empty() -> None:
    controller = controller_after([started(0)])

    assert controller.handle(CapacityChanged(1.0, 1)) == [Suggest(tid(0))]


def test_experiment_without_capacity_wakes_nobody_and_does_not_end() -> None:
    controller = controller_after([*ONE, reported(1, PAUSE), CapacityChanged(3.0, 0)], max_concurrent=1)

    assert controller.handle(ended(STOPPED)) == []
    assert controller.handle(CapacityChanged(6.0, 1)) == [Suggest(tid(1))]


def test_experiment_whose_trials_are_finished_ends_without_capacity() -> None:
    events = [started(2), suggested(), SearchEnded(1.0), running(), CapacityChanged(3.0, 0)]

    assert after_last([*events, ended(COMPLETED)])[-1] == EndExperiment("every trial is finished")


def test_stopped_experiment_ends_without_capacity() -> None:
    controller = controller_after([started(0)])

    assert controller.handle(stop(StopCause.INTERRUPT)) == [EndExperiment("stopped by interrupt")]


# The searcher's answers, and the end.


def test_experiment_ends_when_the_search_has_and_every_trial_is_finished() -> None:
    controller = controller_after([started(2), suggested(), SearchEnded(1.0), running()])

    assert controller.handle(ended(COMPLETED)) == [
        CompleteTrial(tid(0), failed=False),
        EndExperiment("every trial is finished"),
    ]
    assert controller.has_ended
    assert controller.unfinished == []


def test_experiment_without_a_configuration_ends_at_once() -> None:
    assert after_last([started(), SearchEnded(1.0)]) == [EndExperiment("every trial is finished")]


def test_searcher_that_waits_is_asked_again_when_a_trial_has_ended() -> None:
    controller = controller_after([started(2), suggested()])

    assert controller.handle(SuggestionDeferred(1.0)) == []
    assert controller.handle(running()) == []
    assert controller.handle(ended(COMPLETED)) == [CompleteTrial(tid(0), failed=False), Suggest(tid(1))]


def test_paused_trial_wakes_while_the_searcher_waits() -> None:
    controller = controller_after([*ONE, reported(1, PAUSE), ended(STOPPED)], max_concurrent=1)

    assert controller.handle(SuggestionDeferred(5.0)) == [ChoosePaused()]
    assert controller.handle(chosen()) == [start_attempt(2)]


def test_searcher_that_waits_for_nothing_is_asked_again() -> None:
    controller = controller_after([started(), SuggestionDeferred(1.0)])
    assert controller.waits_for_search

    assert controller.handle(SearchRetried(2.0)) == [Suggest(tid(0))]
    assert controller.handle(SearchRetried(2.5)) == []
    assert controller.handle(SearchEnded(3.0)) == [EndExperiment("every trial is finished")]
    assert not controller.waits_for_search


def test_searcher_that_waits_is_not_asked_while_a_trial_runs_or_all_is_to_end() -> None:
    controller = controller_after([started(2), suggested(), SuggestionDeferred(1.0), running()])
    assert not controller.waits_for_search
    assert controller.handle(SearchRetried(2.0)) == []

    waiting = controller_after([started(), SuggestionDeferred(1.0)])
    request = StopRequested(2.0, StopCause.REQUEST, "enough")
    assert waiting.handle(request) == [EndExperiment("enough")]


def test_only_one_question_is_open_at_a_time() -> None:
    controller = controller_after([started(4)])

    assert controller.handle(CapacityChanged(1.0, 9)) == []
    assert controller.handle(suggested()) == [StartAttempt(tid(0), 1, None, 0, -1), Suggest(tid(1))]


def test_trials_are_numbered_in_the_order_of_their_suggestions() -> None:
    controller = controller_after([started(3), *map(suggested, range(3))])

    assert [trial.number for trial in controller.trials.values()] == [0, 1, 2]
    assert [trial.trial_id for trial in controller.unfinished] == [tid(0), tid(1), tid(2)]
