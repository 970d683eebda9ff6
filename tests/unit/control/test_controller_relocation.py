"""Trials on a node that is about to go."""

from __future__ import annotations

import pytest

from tests.support.controller_events import (
    ONE,
    PAUSE,
    STOP,
    STOPPED,
    controller_after,
    ended,
    reported,
    running,
    saved,
    start_attempt,
    started,
    stop,
    suggested,
    tid,
)
from tune_core.control.messages import Answer, Event, RelocationRequested, SearchEnded
from tune_core.states import StopCause
from tune_core.trial import Status

MOVE = RelocationRequested(3.7, tid(0), 1, "node ab is about to go")


def test_function_on_a_node_that_goes_moves_once_it_has_saved_and_that_is_no_failure() -> None:
    rules = {"max_failures": 0, "max_infrastructure_failures": 0, "max_concurrent": 1}
    controller = controller_after([*ONE, reported(1, checkpoint=0)], **rules)

    assert controller.handle(MOVE) == []
    assert controller.handle(reported(2)) == []
    assert controller.handle(reported(3, checkpoint=1)) == [Answer(tid(0), 1, PAUSE)]
    assert controller.handle(reported(4)) == [Answer(tid(0), 1, PAUSE)]  # it was on its way
    assert controller.handle(ended(STOPPED)) == [start_attempt(2, checkpoint=1, iteration=3, highest=1)]
    controller.handle(running(attempt_number=2))
    assert controller.handle(reported(4, attempt_number=2, checkpoint=2)) == []
    assert controller.trials[tid(0)].status is Status.RUNNING


def test_class_on_a_node_that_goes_moves_at_its_next_report() -> None:
    controller = controller_after([*ONE, MOVE], saves_on_request=True, max_concurrent=1)

    assert controller.handle(reported(1)) == [Answer(tid(0), 1, PAUSE)]
    controller.handle(saved(1, 0))
    assert controller.handle(ended(STOPPED)) == [start_attempt(2, checkpoint=0, iteration=1, highest=0)]


@pytest.mark.parametrize(
    ("event", "status"),
    [(reported(1, PAUSE), Status.PAUSED), (reported(1, STOP), Status.TERMINATED)],
)
def test_trial_that_was_to_move_obeys_the_scheduler_first(event: Event, status: Status) -> None:
    controller = controller_after([started(2), suggested(), SearchEnded(1.0), running(), MOVE])

    controller.handle(event)
    controller.handle(ended(STOPPED))

    assert controller.trials[tid(0)].status is status


def test_trial_that_was_to_move_stays_paused_after_an_interrupt() -> None:
    events = [*ONE, MOVE, reported(1, checkpoint=0), stop(StopCause.INTERRUPT), ended(STOPPED)]

    assert controller_after(events).trials[tid(0)].status is Status.PAUSED


@pytest.mark.parametrize(
    "event", [RelocationRequested(3.7, tid(0), 7, "stale"), RelocationRequested(3.7, "x", 1, "?")]
)
def test_move_of_another_attempt_changes_nothing(event: Event) -> None:
    controller = controller_after([*ONE, event])

    assert controller.handle(reported(1, checkpoint=0)) == []
