"""Retries of trials that fail, and what a failure means to the others."""

from __future__ import annotations

import pytest

from tests.support.controller_events import (
    COMPLETED,
    CRASHED,
    ERROR,
    LOST,
    ONE,
    PAUSE,
    STOP,
    STOPPED,
    TIMED_OUT,
    TWO,
    UNPLACED,
    after_last,
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
    AttemptEnded,
    CapacityChanged,
    CompleteTrial,
    EndExperiment,
    StopAttempt,
    Suggest,
)
from tune_core.states import Outcome, StopCause
from tune_core.trial import Status

# Failures.


@pytest.mark.parametrize("outcome", [ERROR, CRASHED, TIMED_OUT])
def test_failed_trial_is_tried_again_as_often_as_allowed(outcome: Outcome) -> None:
    controller = controller_after(ONE, max_failures=2, max_concurrent=1)
    trial = controller.trials[tid(0)]

    assert controller.handle(ended(outcome)) == [start_attempt(2)]
    assert (trial.status, trial.error) == (Status.PENDING, "ValueError: attempt 1")
    assert controller.handle(ended(outcome, attempt_number=2)) == [start_attempt(3)]
    assert controller.handle(ended(outcome, attempt_number=3)) == [
        CompleteTrial(tid(0), failed=True),
        Suggest(tid(1)),
    ]
    assert (trial.status, trial.num_failures) == (Status.ERROR, 3)
    assert (trial.error, trial.traceback) == ("ValueError: attempt 3", "Traceback")


def test_trial_without_a_limit_is_tried_again_for_ever() -> None:
    controller = controller_after(ONE, max_failures=-1, max_concurrent=1)

    for attempt_number in range(1, 50):
        assert controller.handle(ended(ERROR, attempt_number=attempt_number)) == [
            start_attempt(attempt_number + 1)
        ]


def test_lost_attempt_is_tried_again_without_using_up_the_retries_for_failures() -> None:
    controller = controller_after(ONE, max_failures=0, fail_fast="yes", max_concurrent=1)
    trial = controller.trials[tid(0)]

    for attempt_number in range(1, 17):
        assert controller.handle(ended(LOST, attempt_number=attempt_number)) == [
            start_attempt(attempt_number + 1)
        ]
    assert (trial.num_failures, trial.num_losses) == (0, 16)
    assert CompleteTrial(tid(0), failed=True) in controller.handle(ended(LOST, attempt_number=17))
    assert trial.error == "ValueError: attempt 17 (loss 17 in a row, max_infrastructure_failures=16)"


def test_losses_are_counted_anew_after_a_checkpoint() -> None:
    rules = {"max_infrastructure_failures": 1, "max_concurrent": 1}
    events = [*ONE, ended(LOST), running(attempt_number=2), reported(1, attempt_number=2, checkpoint=0)]
    controller = controller_after(events, **rules)

    assert controller.handle(ended(LOST, attempt_number=2)) == [
        start_attempt(3, checkpoint=0, iteration=1, highest=0)
    ]
    assert CompleteTrial(tid(0), failed=True) in controller.handle(ended(LOST, attempt_number=3))
    assert controller.trials[tid(0)].num_losses == 3


@pytest.mark.parametrize("outcome", [ERROR, CRASHED, UNPLACED])
def test_failure_that_would_happen_again_is_not_tried_again(outcome: Outcome) -> None:
    commands = after_last([*ONE, ended(outcome, retryable=False)], max_failures=-1, max_concurrent=1)

    assert commands == [CompleteTrial(tid(0), failed=True), Suggest(tid(1))]


def test_retry_starts_from_the_latest_checkpoint_and_counts_on_from_there() -> None:
    events = [*ONE, reported(1), reported(2, checkpoint=0), reported(3)]
    controller = controller_after(events, max_failures=1, max_concurrent=1)

    assert controller.handle(ended(CRASHED)) == [start_attempt(2, checkpoint=0, iteration=2, highest=0)]
    controller.handle(running(attempt_number=2))
    controller.handle(reported(3, attempt_number=2, loss=7))
    assert controller.trials[tid(0)].last_row == {"loss": 7}


def test_retry_without_a_checkpoint_counts_from_the_beginning() -> None:
    controller = controller_after([*ONE, reported(1), ended(ERROR)], max_failures=1, max_concurrent=1)

    controller.handle(running(attempt_number=2))
    controller.handle(reported(1, attempt_number=2, loss=7))

    assert controller.trials[tid(0)].last_row == {"loss": 7}


def test_late_words_of_a_failed_attempt_do_not_reach_its_retry() -> None:
    controller = controller_after(
        [*ONE, ended(CRASHED), running(attempt_number=2)], max_failures=1, max_concurrent=1
    )

    assert controller.handle(reported(1, STOP, checkpoint=0)) == []
    assert controller.handle(ended(COMPLETED)) == []
    assert controller.trials[tid(0)].status is Status.RUNNING
    assert controller.trials[tid(0)].checkpoints == []


def test_trial_that_recovers_has_no_error() -> None:
    controller = controller_after(
        [*ONE, ended(ERROR), running(attempt_number=2)], max_failures=1, max_concurrent=1
    )

    controller.handle(ended(COMPLETED, attempt_number=2))

    trial = controller.trials[tid(0)]
    assert (trial.status, trial.error, trial.traceback) == (Status.TERMINATED, None, "")
    assert trial.num_failures == 1


def test_failure_without_a_text_is_named_by_its_outcome() -> None:
    controller = controller_after(ONE)

    controller.handle(AttemptEnded(4.0, tid(0), 1, CRASHED))

    assert controller.trials[tid(0)].error == "crashed"


# fail_fast.


def test_failed_trial_leaves_the_others_alone() -> None:
    commands = after_last([*TWO, ended(ERROR)], max_concurrent=2)

    assert commands == [CompleteTrial(tid(0), failed=True), Suggest(tid(2))]


def test_fail_fast_stops_everything_with_the_first_failed_trial() -> None:
    controller = controller_after(TWO, fail_fast="yes", max_concurrent=2)

    first = controller.handle(ended(ERROR))
    second = controller.handle(ended(STOPPED, number=1))

    assert first == [CompleteTrial(tid(0), failed=True), StopAttempt(tid(1), 1)]
    reason = f"fail_fast: trial {tid(0)} failed with ValueError: attempt 1"
    assert second == [CompleteTrial(tid(1), failed=False), EndExperiment(reason)]
    assert controller.trials[tid(1)].status is Status.TERMINATED


def test_fail_fast_raise_ends_with_the_error_of_the_first_failed_trial() -> None:
    controller = controller_after(TWO, fail_fast="raise", max_concurrent=2)

    controller.handle(ended(ERROR))
    commands = controller.handle(ended(ERROR, number=1))

    assert commands[-1] == EndExperiment(f"trial {tid(0)} failed", "ValueError: attempt 1")


def test_fail_fast_waits_until_a_trial_is_out_of_retries() -> None:
    controller = controller_after(ONE, fail_fast="yes", max_failures=1, max_concurrent=1)

    assert controller.handle(ended(ERROR)) == [start_attempt(2)]
    assert controller.stop_request is None
    assert isinstance(controller.handle(ended(ERROR, attempt_number=2))[-1], EndExperiment)


def test_fail_fast_ends_trials_that_are_paused() -> None:
    events = [*TWO, CapacityChanged(2.0, 0), reported(1, PAUSE), ended(STOPPED)]

    commands = after_last([*events, ended(ERROR, number=1)], fail_fast="yes", max_concurrent=2)

    assert commands[:2] == [CompleteTrial(tid(1), failed=True), CompleteTrial(tid(0), failed=False)]


def test_trial_that_fails_while_all_stop_is_no_first_failure() -> None:
    events = [*ONE, stop(StopCause.STOPPER), ended(ERROR)]

    commands = after_last(events, fail_fast="raise", max_concurrent=1)

    assert commands == [CompleteTrial(tid(0), failed=False), EndExperiment("stopped by stopper")]


def test_suggestion_on_its_way_when_all_stops_is_not_started() -> None:
    controller = controller_after([started(2), suggested()], fail_fast="yes")

    controller.handle(ended(UNPLACED, retryable=False))
    commands = controller.handle(suggested(1))

    assert commands[0] == CompleteTrial(tid(1), failed=False)
    assert isinstance(commands[1], EndExperiment)


def test_suggestion_on_its_way_at_an_interrupt_can_go_on_later() -> None:
    controller = controller_after([started(), stop(StopCause.INTERRUPT)])

    commands = controller.handle(suggested())

    assert commands == [EndExperiment("stopped by interrupt")]
    assert controller.trials[tid(0)].status is Status.PAUSED
    assert controller.unfinished == [controller.trials[tid(0)]]
