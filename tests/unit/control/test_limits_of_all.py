"""Too many failed trials, and too many resource hours, end an experiment cleanly."""

from __future__ import annotations

import pytest

import tune_core as tune
from tests.support.controller_events import (
    COMPLETED,
    ERROR,
    STOPPED,
    controller_after,
    ended,
    running,
    started,
    suggested,
    tid,
)
from tests.support.fake_backend import ABackend
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.experiment import rules_of
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    CompleteTrial,
    EndExperiment,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    SearchEnded,
    StopAttempt,
    StopRequested,
    TrialSuggested,
)
from tune_core.control.state import ExperimentState
from tune_core.control.usage import Usage
from tune_core.errors import ConfigError
from tune_core.ranking import Objective
from tune_core.states import Outcome, StopCause
from tune_core.trial import Status

# Failed trials.

#: Trials 0 to 2 run, and there may be a fourth one.
THREE = [started(3), *map(suggested, range(3)), SearchEnded(1.0), *map(running, range(3))]


def test_one_failed_trial_more_than_may_be_ends_the_experiment() -> None:
    controller = controller_after([*THREE, ended(ERROR)], max_failed_trials=1, max_concurrent=3)
    assert controller.stop_request is None

    commands = controller.handle(ended(ERROR, number=1))

    assert commands == [CompleteTrial(tid(1), failed=True), StopAttempt(tid(2), 1)]
    assert controller.stop_request is not None
    assert controller.stop_request.cause is StopCause.FAILED_TRIALS
    assert controller.stop_request.reason == (
        "2 trials have failed (max_failed_trials=1), the last one, a1b2c_00001, with ValueError: attempt 1"
    )
    end = controller.handle(ended(STOPPED, number=2))[-1]
    assert end == EndExperiment(controller.stop_request.reason)
    assert [trial.status for trial in controller.trials.values()] == [
        Status.ERROR,
        Status.ERROR,
        Status.TERMINATED,
    ]


def test_zero_is_none() -> None:
    controller = controller_after([*THREE, ended(ERROR)], max_failed_trials=0)

    assert controller.stop_request is not None


def test_failures_that_are_tried_again_are_not_counted() -> None:
    controller = controller_after([*THREE, ended(ERROR)], max_failed_trials=0, max_failures=1)

    assert controller.stop_request is None


@pytest.mark.parametrize(
    ("share", "total", "allowed"), [(0.5, 3, 1), (0.1, 30, 3), (0.3, 10, 3), (0.2, 4, 0)]
)
def test_share_is_one_of_all_trials_rounded_down(share: float, total: int, allowed: int) -> None:
    rules = ControllerConfig("a1b2c", max_failed_trials=share, total_trials=total)

    assert rules.failed_trials_allowed == allowed


def test_share_says_of_how_many() -> None:
    controller = controller_after([*THREE, ended(ERROR)], max_failed_trials=0.3, total_trials=3)

    assert controller.stop_request is not None
    assert controller.stop_request.reason.startswith("1 of 3 trials have failed (max_failed_trials=0.3)")


def test_failures_of_drivers_before_count_and_those_of_reopened_trials_do_not() -> None:
    events = [*THREE, ended(ERROR), ended(ERROR, number=1), CapacityChanged(6.0, 0)]
    for reopened, expected in (((), True), ((tid(0), tid(1)), False), ((tid(0),), False)):
        controller = controller_after(events, max_failed_trials=2, max_concurrent=3)
        controller.handle(ExperimentResumed(9.0, 3, reopened=reopened))
        controller.handle(ended(ERROR, number=2, attempt_number=2))

        assert (controller.stop_request is not None) is expected


def test_experiment_that_has_ended_so_ends_again_with_the_next_failure_after_a_resume() -> None:
    events = [
        started(),
        suggested(),
        SearchEnded(1.0),
        running(),
        ended(ERROR),
        ExperimentResumed(9.0, 1),
        suggested(1),
        running(1),
    ]
    controller = controller_after(events, max_failed_trials=0)
    assert not controller.has_ended

    controller.handle(ended(ERROR, number=1))

    assert controller.stop_request is not None


def test_share_of_an_unknown_number_is_refused() -> None:
    run = tune.RunConfig(failure_config=tune.FailureConfig(max_failed_trials=0.5))

    with pytest.raises(
        ConfigError, match=r"max_failed_trials=0.5\) is a share of the trials, and nobody knows"
    ):
        rules_of("a1b2c", run, None, Objective())
    assert rules_of("a1b2c", run, None, Objective(), total_trials=8).failed_trials_allowed == 4


# Cost.


def an_attempt(number: int, time: float, **amounts: float) -> list[Event]:
    resources = {"bundles": [amounts or {"CPU": 1.0}]}
    return [
        TrialSuggested(time, tid(number), {}, "", f"t{number}", "train", resources),
        AttemptStarted(time, tid(number), 1, 1, "host", "ip"),
    ]


def an_end(number: int, time: float, outcome: Outcome = COMPLETED) -> Event:
    return AttemptEnded(time, tid(number), 1, outcome)


def used(events: list[Event], time: float) -> dict[str, float]:
    state = ExperimentState(Controller(ControllerConfig("a1b2c", max_failures=9)))
    for event in events:
        state.apply(event)
    return state.usage.at(time)


def test_attempts_cost_all_of_their_bundles_from_begin_to_end() -> None:
    events = [
        ExperimentStarted(0.0, 9),
        *an_attempt(0, 10.0, CPU=2.0),
        *an_attempt(1, 20.0, GPU=1.0, CPU=1.0),
    ]

    assert used(events, 30.0) == {"CPU": 50.0, "GPU": 10.0}
    assert used([*events, an_end(0, 25.0)], 30.0) == {"CPU": 40.0, "GPU": 10.0}
    assert used([*events, an_end(0, 25.0), an_end(0, 28.0)], 30.0) == {"CPU": 40.0, "GPU": 10.0}
    assert used([*events, an_end(1, 25.0, ERROR), an_end(0, 25.0)], 99.0) == {"CPU": 35.0, "GPU": 5.0}


def test_time_between_two_drivers_costs_nothing_and_that_before_counts() -> None:
    events = [ExperimentStarted(0.0, 9), *an_attempt(0, 10.0, CPU=2.0), *an_attempt(1, 20.0)]
    resumed = [*events, CapacityChanged(1000.0, 0), ExperimentResumed(1001.0, 9)]

    assert used(resumed, 1010.0) == {"CPU": 20.0, "GPU": 0.0}
    again = AttemptStarted(1005.0, tid(0), 2, 1, "host", "ip")
    assert used([*resumed, again], 1010.0) == {"CPU": 30.0, "GPU": 0.0}


def test_clock_that_goes_back_costs_nothing() -> None:
    usage = Usage()
    usage.begin("t0", 1, {"CPU": 1.0}, 10.0)
    usage.end("t0", 1, 5.0)

    assert usage.at(0.0) == usage.at(10.0) == {"CPU": 0.0, "GPU": 0.0}


def test_cost_that_is_used_up_ends_trials_as_they_are(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=2)
    backend.loop.limit_cost("max_cost=1", {"CPU": 60.0})
    backend.hello()
    backend.hello(1)

    backend.wait(29.0)
    assert backend.events(StopRequested) == []
    backend.wait(1.0)
    backend.wait(1.0)
    for trial in (0, 1):
        backend.last_word(Outcome.STOPPED, trial=trial)

    (request,) = backend.events(StopRequested)
    assert (request.cause, request.reason) == (StopCause.COST, "max_cost=1 is used up: 0.01667 CPU hours")
    assert [trial.status for trial in backend.loop.trials] == [Status.TERMINATED] * 2
    assert backend.loop.end == EndExperiment("max_cost=1 is used up: 0.01667 CPU hours")


def test_loop_wakes_up_when_the_cost_is_used_up(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.loop.limit_cost("max_cost=1", {"CPU": 60.0, "GPU": 5.0})
    backend.hello()

    backend.items.clear()
    backend.loop.look(backend.now())
    for _ in backend.loop.backend.receive(backend.loop._cost_due()):
        pass

    assert backend.time == 60.0


def test_other_resource_may_be_the_one_that_is_used_up(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.loop.limit_cost("max_cost", {"CPU": 1e9, "GPU": 10.0})
    backend.loop.state.usage.begin("other", 1, {"GPU": 2.0}, 0.0)

    backend.wait(5.0)

    assert [event.reason for event in backend.events(StopRequested)] == [
        "max_cost is used up: 0.002778 GPU hours"
    ]
