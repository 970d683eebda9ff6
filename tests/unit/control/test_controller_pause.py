"""PAUSE, and which paused trials go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.controller_events import (
    ALONE,
    COMPLETED,
    CONTINUE,
    CRASHED,
    ERROR,
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
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    Answer,
    CapacityChanged,
    ChoosePaused,
    Command,
    CompleteTrial,
    EndExperiment,
    Event,
    PausedChosen,
    SearchEnded,
    Suggest,
    SuggestionDeferred,
)
from tune_core.errors import IllegalTransition
from tune_core.states import StopCause
from tune_core.trial import Status


def test_paused_trial_resumes_from_its_last_committed_checkpoint() -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0), reported(2, PAUSE, checkpoint=1)])

    assert controller.handle(ended(STOPPED)) == [ChoosePaused()]
    assert controller.handle(chosen()) == [start_attempt(2, checkpoint=1, iteration=2, highest=1)]
    assert controller.trials[tid(0)].status is Status.PENDING


def test_paused_trial_without_a_checkpoint_starts_again_from_scratch() -> None:
    assert after_last([*ALONE, reported(1, PAUSE), ended(STOPPED), chosen()]) == [start_attempt(2)]


def test_function_that_has_saved_before_pauses_at_its_next_checkpoint() -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0)])

    assert controller.handle(reported(2, PAUSE)) == []
    assert controller.trials[tid(0)].wants_pause
    assert controller.trials[tid(0)].decision is CONTINUE
    assert controller.handle(reported(3)) == []
    assert controller.handle(reported(4, checkpoint=1)) == [Answer(tid(0), 1, PAUSE)]


def test_trainable_that_saves_on_request_pauses_at_once() -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0)], saves_on_request=True)

    assert controller.handle(reported(2, PAUSE)) == [Answer(tid(0), 1, PAUSE)]


@pytest.mark.parametrize(
    ("event", "commands"),
    [
        (ended(COMPLETED), [CompleteTrial(tid(0), failed=False), EndExperiment("every trial is finished")]),
        (ended(CRASHED), [start_attempt(2, checkpoint=0, iteration=1, highest=0)]),
        (reported(3, STOP), [Answer(tid(0), 1, STOP)]),
    ],
)
def test_trial_that_waits_for_a_checkpoint_to_pause_may_end_first(
    event: Event, commands: list[Command]
) -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0), reported(2, PAUSE)], max_failures=1)

    assert controller.handle(event) == commands


def test_pause_that_a_failure_forestalled_is_not_made_up_for() -> None:
    events = [*ALONE, reported(1, checkpoint=0), reported(2, PAUSE), ended(ERROR), running(attempt_number=2)]
    controller = controller_after(events, max_failures=1)

    assert controller.handle(reported(2, attempt_number=2, checkpoint=1)) == []


def test_pause_of_an_earlier_attempt_does_not_count_for_a_later_one() -> None:
    events = [*ALONE, reported(1, PAUSE), ended(STOPPED), chosen(), running(attempt_number=2)]

    commands = after_last([*events, ended(STOPPED, attempt_number=2)])

    assert commands[0] == CompleteTrial(tid(0), failed=False)


def test_new_configurations_go_before_paused_trials() -> None:
    controller = controller_after([*ONE, reported(1, PAUSE)], max_concurrent=1)

    assert controller.handle(ended(STOPPED)) == [Suggest(tid(1))]
    assert controller.handle(SearchEnded(6.0)) == [ChoosePaused()]


def two_paused() -> Controller:
    """Trials 0 and 1 are paused, trial 2 is about to be; two may run at once."""
    events = [started(3), *map(suggested, range(3)), SearchEnded(1.0), *map(running, range(3))]
    controller = controller_after(events)
    controller.rules = ControllerConfig("a1b2c", max_concurrent=2)
    for number in range(3):
        controller.handle(reported(1, PAUSE, number=number))
    for number in range(2):
        assert controller.handle(ended(STOPPED, number=number)) == ([] if number == 0 else [ChoosePaused()])
    return controller


def test_chosen_paused_trials_wake_as_far_as_there_is_room() -> None:
    controller = two_paused()

    assert controller.handle(chosen(1)) == [start_attempt(2, number=1)]
    assert controller.handle(ended(STOPPED, number=2)) == [ChoosePaused()]
    assert controller.handle(chosen(2)) == [start_attempt(2, number=2)]
    assert [trial.status for trial in controller.unfinished] == [
        Status.PAUSED,
        Status.PENDING,
        Status.PENDING,
    ]


def test_scheduler_that_chose_nobody_is_asked_again_when_it_has_learnt_more() -> None:
    controller = two_paused()

    assert controller.handle(chosen(None)) == []
    assert controller.handle(CapacityChanged(5.0, 3)) == []
    assert controller.handle(reported(2, number=2)) == [Answer(tid(2), 1, PAUSE), ChoosePaused()]
    assert controller.handle(chosen(None)) == []
    assert controller.handle(ended(STOPPED, number=2)) == [ChoosePaused()]


def test_paused_trials_that_the_scheduler_gives_up_are_over() -> None:
    controller = two_paused()

    commands = controller.handle(chosen(None, 0, 1))

    assert commands == [CompleteTrial(tid(0), failed=False), CompleteTrial(tid(1), failed=False)]
    assert [trial.status for trial in controller.trials.values()] == ["TERMINATED", "TERMINATED", "RUNNING"]


def test_experiment_ends_when_nothing_runs_and_the_scheduler_chooses_nobody() -> None:
    controller = controller_after([*ALONE, reported(1, PAUSE), ended(STOPPED)])

    commands = controller.handle(chosen(None))

    reason = "every trial is finished; 1 of them were paused, and the scheduler chose none to go on"
    assert commands == [CompleteTrial(tid(0), failed=False), EndExperiment(reason)]
    assert controller.trials[tid(0)].status is Status.TERMINATED


def test_searcher_that_waits_is_asked_again_when_paused_trials_are_given_up() -> None:
    controller = controller_after([*ONE, SuggestionDeferred(2.5), reported(1, PAUSE)], max_concurrent=1)
    controller.handle(ended(STOPPED))
    assert controller.handle(SuggestionDeferred(5.0)) == [ChoosePaused()]

    commands = controller.handle(chosen(None))

    assert commands == [CompleteTrial(tid(0), failed=False), Suggest(tid(1))]


@pytest.mark.parametrize("cause", StopCause)
def test_choice_on_its_way_when_all_stops_is_not_obeyed(cause: StopCause) -> None:
    controller = controller_after([*ALONE, reported(1, PAUSE), ended(STOPPED)])
    completed = [] if cause in ("interrupt", "failure") else [CompleteTrial(tid(0), failed=False)]

    assert controller.handle(stop(cause)) == completed
    assert controller.handle(chosen(0)) == [EndExperiment(f"stopped by {cause}")]


@pytest.mark.parametrize(
    "events",
    [
        [*ALONE, chosen(None)],
        [*ALONE, reported(1, PAUSE), ended(STOPPED), chosen(0), chosen(0)],
    ],
)
def test_choice_that_nobody_asked_for_is_a_defect(events: list[Event]) -> None:
    with pytest.raises(IllegalTransition, match="nobody asked for this choice"):
        controller_after(events)


def test_choice_of_a_trial_that_is_not_paused_is_a_defect() -> None:
    controller = two_paused()

    with pytest.raises(IllegalTransition, match="trial a1b2c_00002 is RUNNING"):
        controller.handle(chosen(2))


def test_scheduler_that_gave_a_paused_trial_up_is_asked_for_the_others() -> None:
    assert two_paused().handle(chosen(None, 0)) == [CompleteTrial(tid(0), failed=False), ChoosePaused()]


WHY = {"decision": "PAUSE", "rung": 1, "rank": 2, "of": 2}


def told_why(event: Event, **reason: Any) -> Event:
    return replace(event, reason={**WHY, **reason})  # type: ignore[call-arg]


def test_reason_of_a_pause_stays_until_the_trial_goes_on() -> None:
    controller = controller_after([*ALONE, told_why(reported(1, PAUSE)), ended(STOPPED)])
    assert controller.trials[tid(0)].reason == WHY

    controller.handle(chosen())

    assert controller.trials[tid(0)].reason == {}


def test_paused_trials_that_nobody_chooses_end_with_the_reason_that_was_given_last() -> None:
    controller = controller_after([*ALONE, told_why(reported(1, PAUSE)), ended(STOPPED)])
    last = {"decision": "STOP", "rung": 1, "rank": 9, "of": 9}

    controller.handle(PausedChosen(5.0, None, reason={tid(0): last}))

    trial = controller.trials[tid(0)]
    assert (trial.status, trial.reason) == (Status.TERMINATED, last)


def test_a_trial_that_comes_to_its_own_end_or_fails_has_no_reason() -> None:
    for end, status in ((COMPLETED, Status.TERMINATED), (ERROR, Status.ERROR)):
        waiting = [*ALONE, reported(1, checkpoint=0), told_why(reported(2, PAUSE))]
        controller = controller_after([*waiting, ended(end)])

        trial = controller.trials[tid(0)]
        assert (trial.status, trial.reason) == (status, {})


def test_a_stopped_experiment_is_the_reason_of_the_trials_that_it_stops() -> None:
    controller = controller_after([*ALONE, stop(StopCause.TIME_BUDGET), ended(STOPPED)])

    assert controller.trials[tid(0)].reason == {
        "decision": "STOP",
        "rule": "stopped by time_budget",
    }


def test_paused_trials_go_before_new_configurations_if_the_rules_say_so() -> None:
    controller = controller_after([*ONE, reported(1, PAUSE)], max_concurrent=1, resumes_first=True)

    assert controller.handle(ended(STOPPED)) == [ChoosePaused()]
    assert controller.handle(chosen(None)) == [Suggest(tid(1))]
    assert controller.handle(SearchEnded(6.0)) == [ChoosePaused()], "it may choose since nothing new comes"
    assert controller.handle(chosen(None))[0] == CompleteTrial(tid(0), failed=False)


def test_a_new_configuration_has_the_scheduler_asked_again_before_the_next_one() -> None:
    events = [started(2), suggested(), SuggestionDeferred(1.0), running(), reported(1, PAUSE)]
    controller = controller_after(events, resumes_first=True)
    assert controller.handle(ended(STOPPED)) == [ChoosePaused()]
    assert controller.handle(chosen(None)) == [Suggest(tid(1))]

    assert controller.handle(suggested(1)) == [start_attempt(1, number=1), ChoosePaused()]
