"""An experiment that goes on after its driver has died or was interrupted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.controller_events import (
    COMPLETED,
    EXPLOIT,
    ONE,
    PAUSE,
    STOP,
    STOPPED,
    chosen,
    controller_after,
    ended,
    from_donor,
    reported,
    running,
    start_attempt,
    started,
    stop,
    suggested,
    tid,
)
from tune_core.control.messages import (
    CompleteTrial,
    EndExperiment,
    Event,
    ExperimentResumed,
    RelocationRequested,
    SearchEnded,
    SpecRecorded,
    StartAttempt,
    Suggest,
)
from tune_core.states import Outcome, StopCause
from tune_core.trial import AttemptPhase, Status


def resumed(**details: Any) -> ExperimentResumed:
    return ExperimentResumed(9.0, 1, **details)


@pytest.mark.parametrize(
    ("told", "status", "attempts"),
    [
        ([*ONE, reported(1, checkpoint=0)], Status.PENDING, [(2, 0, 1)]),
        ([*ONE, reported(1, checkpoint=0), reported(2)], Status.PENDING, [(2, 0, 1)]),
        ([*ONE, reported(1)], Status.PENDING, [(2, None, 0)]),
        ([*ONE, reported(1, STOP)], Status.TERMINATED, []),
        ([*ONE, reported(1, PAUSE, checkpoint=0)], Status.PAUSED, []),
        ([*ONE, reported(1, EXPLOIT, checkpoint=0, exploit=from_donor(0, n=5))], Status.PENDING, [(2, 0, 1)]),
        ([*ONE, stop(StopCause.INTERRUPT)], Status.PENDING, [(2, None, 0)]),
        ([*ONE, stop(StopCause.INTERRUPT), ended(Outcome.STOPPED)], Status.PENDING, [(2, None, 0)]),
        ([*ONE, stop(StopCause.TIME_BUDGET)], Status.TERMINATED, []),
        ([*ONE, ended(Outcome.ERROR)], Status.ERROR, []),
    ],
)
def test_what_becomes_of_a_trial_when_its_driver_has_died(
    told: list[Event], status: Status, attempts: list[tuple[int, int | None, int]]
) -> None:
    controller = controller_after(told)

    commands = controller.handle(resumed())

    trial = controller.trials[tid(0)]
    started_attempts = [
        (command.attempt_number, command.checkpoint, command.iteration)
        for command in commands
        if isinstance(command, StartAttempt)
    ]
    assert (trial.status, started_attempts) == (status, attempts)
    assert trial.num_failures == (1 if status is Status.ERROR else 0)
    assert controller.live_trial(tid(0), 1) is None


def test_interrupted_experiment_asks_for_more_and_one_whose_time_was_up_does_not() -> None:
    interrupted = controller_after([*ONE, stop(StopCause.INTERRUPT), ended(Outcome.STOPPED)])
    interrupted.handle(ExperimentResumed(9.0, 4))
    assert interrupted.stop_request is None

    stopping = controller_after([*ONE, stop(StopCause.TIME_BUDGET)])
    commands = stopping.handle(ExperimentResumed(9.0, 4))
    assert isinstance(commands[-1], EndExperiment)


def test_restored_experiment_that_its_budget_had_ended_asks_for_more() -> None:
    told = [*ONE, SearchEnded(2.0), stop(StopCause.TIME_BUDGET), ended(Outcome.STOPPED)]
    controller = controller_after(told)
    assert controller.has_ended

    assert controller.handle(resumed()) == [Suggest(tid(1))]


def test_skipped_reopened_and_restarted_trials() -> None:
    failed = [*ONE, reported(1, checkpoint=0), ended(Outcome.ERROR)]

    skipped = controller_after(ONE)
    assert skipped.handle(resumed(skipped=(tid(0),)))[0] == CompleteTrial(tid(0), failed=False)
    reopened = controller_after(failed)
    assert reopened.handle(resumed(reopened=(tid(0),)))[0] == StartAttempt(tid(0), 2, 0, 1, 0)
    assert reopened.trials[tid(0)].error is None
    restarted = controller_after(failed)
    assert restarted.handle(resumed(restarted={tid(0): "again"}))[0] == StartAttempt(tid(0), 2, None, 0, -1)
    assert (restarted.trials[tid(0)].dirname, restarted.trials[tid(0)].last_row) == ("again", {})


def test_those_that_had_begun_go_first_and_those_that_waited_keep_their_order() -> None:
    told = [started(3), suggested(0), suggested(1), suggested(2), running(2), running(0)]
    controller = controller_after(told)

    commands = controller.handle(ExperimentResumed(9.0, 3))

    assert [c.trial_id for c in commands if isinstance(c, StartAttempt)] == [tid(0), tid(2), tid(1)]


def test_rules_are_those_of_the_newest_spec() -> None:
    controller = controller_after([*ONE, reported(1, checkpoint=0)])

    controller.handle(SpecRecorded(5.0, 2, {}, {"experiment_id": "a1b2c", "max_failures": 1}))

    assert controller.handle(ended(Outcome.ERROR))[0] == start_attempt(2, 0, 1, 0)


def test_trial_that_was_told_to_move_goes_on_though_its_driver_has_died() -> None:
    told = [*ONE, RelocationRequested(2.0, tid(0), 1, "its node goes"), reported(1, checkpoint=0)]
    controller = controller_after(told)
    assert controller.trials[tid(0)].decision is PAUSE

    assert start_attempt(2, 0, 1, 0) in controller.handle(resumed())


def test_reopened_trials_keep_to_the_number_that_may_run_at_once() -> None:
    told: list[Event] = [started(4)]
    for number in range(3):
        told += [suggested(number), running(number), ended(Outcome.ERROR, number=number)]
    controller = controller_after([*told, SearchEnded(3.0)], max_concurrent=1)

    commands = controller.handle(ExperimentResumed(9.0, 4, reopened=(tid(0), tid(1), tid(2))))
    assert [c.trial_id for c in commands if isinstance(c, StartAttempt)] == [tid(0)]
    controller.handle(running(0, attempt_number=2))
    commands = controller.handle(ended(Outcome.COMPLETED, attempt_number=2))
    assert [c.trial_id for c in commands if isinstance(c, StartAttempt)] == [tid(1)]
    assert controller.trials[tid(2)].status is Status.PENDING
    controller.handle(stop(StopCause.INTERRUPT))
    assert controller.trials[tid(2)].status is Status.PAUSED


def test_reopened_trial_that_waited_for_room_waits_on_after_the_next_resume() -> None:
    given_up = [
        *ONE,
        reported(1, PAUSE, checkpoint=0),
        ended(STOPPED),
        suggested(1),
        running(1),
        ended(COMPLETED, number=1),
        SearchEnded(5.0),
        chosen(None),
    ]
    controller = controller_after(given_up, max_concurrent=1)
    assert controller.has_ended

    controller.handle(resumed(reopened=(tid(1), tid(0))))
    assert controller.trials[tid(0)].phase is AttemptPhase.NONE
    controller.handle(resumed())

    assert [controller.trials[tid(number)].status for number in (0, 1)] == [Status.PENDING, Status.PENDING]
