"""Stopping everything."""

from __future__ import annotations

import pytest

from tests.support.controller_events import (
    CONTINUE,
    CRASHED,
    ONE,
    PAUSE,
    STOP,
    STOPPED,
    TWO,
    controller_after,
    ended,
    reported,
    started,
    stop,
    tid,
)
from tune_core.control.messages import (
    CapacityChanged,
    CompleteTrial,
    EndExperiment,
    SearchEnded,
    SuggestionDeferred,
)
from tune_core.states import Decision, StopCause
from tune_core.trial import Status


@pytest.mark.parametrize("cause", [StopCause.INTERRUPT, StopCause.FAILURE])
def test_trials_can_go_on_after_an_interrupt(cause: StopCause) -> None:
    controller = controller_after([*ONE, reported(1, checkpoint=0), stop(cause)], max_concurrent=1)

    assert controller.handle(ended(STOPPED)) == [EndExperiment(f"stopped by {cause}")]
    trial = controller.trials[tid(0)]
    assert (trial.status, trial.checkpoint and trial.checkpoint.index) == (Status.PAUSED, 0)


@pytest.mark.parametrize("cause", [StopCause.TIME_BUDGET, StopCause.STOPPER, StopCause.FAIL_FAST])
@pytest.mark.parametrize("decision", [CONTINUE, PAUSE, STOP])
def test_trials_are_over_when_their_time_is_up(cause: StopCause, decision: Decision) -> None:
    controller = controller_after([*ONE, reported(1, decision), stop(cause)], max_concurrent=1)

    commands = controller.handle(ended(STOPPED))

    assert commands == [CompleteTrial(tid(0), failed=False), EndExperiment(f"stopped by {cause}")]


def test_first_request_to_stop_rules() -> None:
    controller = controller_after(TWO, max_concurrent=2)
    controller.handle(stop(StopCause.INTERRUPT))
    controller.handle(ended(STOPPED))

    assert controller.handle(stop(StopCause.TIME_BUDGET)) == []
    assert controller.handle(ended(STOPPED, number=1)) == [EndExperiment("stopped by interrupt")]
    assert {trial.status for trial in controller.trials.values()} == {Status.PAUSED}


def test_retry_does_not_happen_while_all_stop() -> None:
    controller = controller_after([*ONE, stop(StopCause.TIME_BUDGET)], max_failures=-1)

    assert controller.handle(ended(CRASHED))[0] == CompleteTrial(tid(0), failed=False)


def test_stop_before_the_first_suggestion_ends_the_experiment() -> None:
    controller = controller_after([started(), stop(StopCause.INTERRUPT)])

    assert controller.handle(SearchEnded(6.0)) == [EndExperiment("stopped by interrupt")]


def test_nothing_happens_after_the_end() -> None:
    controller = controller_after([started(), SearchEnded(1.0)])

    assert controller.has_ended
    late = [
        started(4),
        CapacityChanged(6.0, 9),
        SearchEnded(7.0),
        SuggestionDeferred(7.0),
        *map(stop, StopCause),
    ]
    assert [controller.handle(event) for event in late] == [[]] * len(late)
