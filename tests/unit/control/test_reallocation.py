"""Trials that get other bundles: when they move, what is refused, and what a death changes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import tune_core as tune
from tests.support.controller_events import (
    COMPLETED,
    CRASHED,
    ERROR,
    EXPLOIT,
    LOST,
    ONE,
    PAUSE,
    STOP,
    STOPPED,
    TIMED_OUT,
    controller_after,
    ended,
    reported,
    running,
    saved,
    start_attempt,
    stop,
    tid,
)
from tests.support.fake_backend import ABackend
from tune_core.control.controller import Controller
from tune_core.control.messages import (
    Answer,
    AttemptEnded,
    CapacityChanged,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    TrialReported,
    event_from_dict,
    event_to_dict,
)
from tune_core.control.resources_after import cause_of_death, enlarged, factors_after
from tune_core.errors import ConfigError
from tune_core.resources import ONE_CPU, PlacementGroupFactory
from tune_core.schedulers import Reallocate, TrialScheduler
from tune_core.states import Outcome, StopCause
from tune_core.trial import Status, Trial

WIDE = PlacementGroupFactory([{"CPU": 3}])


def widened(iteration: int, *, checkpoint: int | None = None, attempt_number: int = 1) -> Event:
    resources = WIDE.to_dict()
    return TrialReported(3.0, tid(0), attempt_number, iteration, {}, checkpoint, resources=resources)


def the_trial(controller: Controller) -> Trial:
    return controller.trials[tid(0)]


# Who moves when.


def test_function_gets_its_new_bundles_once_it_has_saved_and_that_is_no_failure() -> None:
    rules = {"max_failures": 0, "max_infrastructure_failures": 0, "max_concurrent": 1}
    controller = controller_after([*ONE, reported(1, checkpoint=0)], **rules)

    assert controller.handle(widened(2)) == []
    assert (the_trial(controller).resources, the_trial(controller).next_resources) == (ONE_CPU, WIDE)
    assert controller.handle(reported(3, checkpoint=1)) == [Answer(tid(0), 1, PAUSE)]
    assert controller.handle(ended(STOPPED)) == [start_attempt(2, checkpoint=1, iteration=3, highest=1)]
    trial = the_trial(controller)
    assert (trial.resources, trial.next_resources, trial.base_resources) == (WIDE, None, ONE_CPU)
    assert trial.num_failures == 0
    controller.handle(running(attempt_number=2))
    assert controller.handle(reported(4, attempt_number=2, checkpoint=2)) == []


def test_report_with_a_checkpoint_is_where_a_function_moves_at_once() -> None:
    controller = controller_after(ONE, max_concurrent=1)

    assert controller.handle(widened(1, checkpoint=0)) == [Answer(tid(0), 1, PAUSE)]


def test_class_moves_at_once_since_it_saves_when_it_is_told_to() -> None:
    controller = controller_after(ONE, saves_on_request=True, max_concurrent=1)

    assert controller.handle(widened(1)) == [Answer(tid(0), 1, PAUSE)]
    controller.handle(saved(1, 0))
    assert controller.handle(ended(STOPPED)) == [start_attempt(2, checkpoint=0, iteration=1, highest=0)]
    assert the_trial(controller).resources == WIDE


@pytest.mark.parametrize("outcome", [CRASHED, ERROR, LOST, TIMED_OUT])
def test_attempt_that_dies_before_it_has_saved_is_followed_by_one_with_the_new_bundles(
    outcome: Outcome,
) -> None:
    controller = controller_after(
        [*ONE, reported(1, checkpoint=0), widened(2)], max_failures=1, max_concurrent=1
    )

    assert controller.handle(ended(outcome)) == [start_attempt(2, checkpoint=0, iteration=1, highest=0)]
    assert the_trial(controller).resources == WIDE


@pytest.mark.parametrize(
    ("event", "status"),
    [(reported(3, PAUSE), Status.PAUSED), (reported(3, STOP), Status.TERMINATED)],
)
def test_trial_that_was_to_move_obeys_the_scheduler_first(event: Event, status: Status) -> None:
    controller = controller_after([*ONE, widened(2), event, ended(STOPPED)], saves_on_request=False)

    assert the_trial(controller).status is status


def test_trial_that_ends_by_itself_does_not_move() -> None:
    controller = controller_after([*ONE, reported(1, checkpoint=0), widened(2), ended(COMPLETED)])

    assert (the_trial(controller).status, the_trial(controller).resources) == (Status.TERMINATED, ONE_CPU)


def test_interrupted_trial_goes_on_with_the_new_bundles() -> None:
    events = [*ONE, widened(1, checkpoint=0), stop(StopCause.INTERRUPT), ended(STOPPED)]
    controller = controller_after([*events, ExperimentResumed(9.0, 1)], max_concurrent=1)

    assert (the_trial(controller).status, the_trial(controller).resources) == (Status.PENDING, WIDE)


def test_resume_with_a_driver_that_died_before_the_trial_moved() -> None:
    events = [*ONE, reported(1, checkpoint=0), widened(2), CapacityChanged(5.0, 0)]
    controller = controller_after(events, max_concurrent=1)

    commands = controller.handle(ExperimentResumed(9.0, 1))

    assert commands == [start_attempt(2, checkpoint=0, iteration=1, highest=0)]
    assert the_trial(controller).resources == WIDE


def test_trainable_that_asks_for_something_else_after_a_resume_gets_it() -> None:
    other = PlacementGroupFactory([{"CPU": 2}])
    events = [*ONE, widened(1, checkpoint=0), CapacityChanged(5.0, 0)]
    resumed = ExperimentResumed(9.0, 1, resources={tid(0): other.to_dict()})
    trial = the_trial(controller_after([*events, resumed], max_concurrent=1))

    assert (trial.resources, trial.base_resources) == (other, other)


def test_trial_that_begins_anew_has_the_bundles_that_its_trainable_asks_for() -> None:
    events = [*ONE, widened(1, checkpoint=0), ended(STOPPED), CapacityChanged(5.0, 0)]
    resumed = ExperimentResumed(9.0, 1, restarted={tid(0): "anew"})
    trial = the_trial(controller_after([*events, resumed], max_concurrent=1))

    assert (trial.resources, trial.reallocated_at) == (ONE_CPU, 0)


# What is granted.


class Widening(TrialScheduler):
    """Wants the same for every trial, after each report."""

    def __init__(self, resources: Any) -> None:
        self.resources = resources
        self.totals: list[Any] = []

    def on_cluster_changed(self, total: Any) -> None:
        self.totals.append(total)

    def on_trial_result(self, trials: Any, trial: Trial, result: Any) -> Any:
        return Reallocate(self.resources)


def moves(backend: Any) -> list[tuple[int, Any]]:
    return [
        (event.iteration, event.resources["bundles"])
        for event in backend.events(TrialReported)
        if event.resources
    ]


def test_answer_is_in_the_event_of_the_report(a_backend: ABackend) -> None:
    backend = a_backend(Widening({"cpu": 3}))
    backend.hello()
    backend.row(1, checkpoint=0)

    assert moves(backend) == [(1, [{"CPU": 3.0}])]
    assert backend.told("decision") == [(0, 1, 1, "PAUSE", False)]


def test_bundles_that_a_trial_has_are_no_news(a_backend: ABackend) -> None:
    backend = a_backend(Widening(ONE_CPU))
    backend.hello()
    backend.row(1, checkpoint=0)

    assert moves(backend) == []
    assert backend.told("decision") == [(0, 1, 1, "CONTINUE", False)]


def test_trial_moves_again_only_past_where_it_was_moved_last(a_backend: ABackend) -> None:
    scheduler = Widening({"cpu": 3})
    backend = a_backend(scheduler)
    backend.hello()
    backend.row(1, checkpoint=0)
    backend.row(2)  # it was on its way
    backend.last_word(Outcome.STOPPED, iteration=2, index=0)
    scheduler.resources = {"cpu": 2}
    backend.hello()
    for iteration in (2, 3):
        backend.row(iteration, checkpoint=iteration - 1)

    assert moves(backend) == [(1, [{"CPU": 3.0}]), (2, [{"CPU": 2.0}])]


def test_who_comes_again_to_where_it_was_moved_is_not_moved_there(a_backend: ABackend) -> None:
    scheduler = Widening(ONE_CPU)
    backend = a_backend(scheduler, failure_config=tune.FailureConfig(max_failures=1))
    backend.hello()
    backend.row(1, checkpoint=0)
    scheduler.resources = {"cpu": 3}
    backend.row(2)
    backend.last_word(Outcome.ERROR, "ValueError", iteration=2, index=0)
    backend.found()
    scheduler.resources = {"cpu": 2}
    backend.hello()
    backend.row(2, checkpoint=1)
    backend.row(3, checkpoint=2)

    assert moves(backend) == [(2, [{"CPU": 3.0}]), (3, [{"CPU": 2.0}])]


def test_function_that_has_never_saved_keeps_its_bundles_and_the_log_says_so_once(
    a_backend: ABackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = a_backend(Widening({"cpu": 3}))
    backend.hello()
    backend.row(1)
    backend.row(2)

    assert moves(backend) == []
    assert caplog.text.count("it has never saved a checkpoint, so it would start over") == 1


def test_bundles_that_the_cluster_can_never_give_are_refused_and_the_log_says_so_once(
    a_backend: ABackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = a_backend(Widening({"cpu": 3}))
    backend.loop.apply(CapacityChanged(0.0, 2, {"CPU": 2.0}))
    backend.hello()
    for iteration in (1, 2):
        backend.row(iteration, checkpoint=iteration - 1)

    assert moves(backend) == []
    assert caplog.text.count("CPU: 3 needed in all, the cluster has 2") == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert backend.trial().status is Status.RUNNING


def test_scheduler_is_told_of_the_cluster_where_that_is_known(a_backend: ABackend) -> None:
    scheduler = Widening(ONE_CPU)
    backend = a_backend(scheduler)
    backend.loop.apply(CapacityChanged(0.0, 2, {"CPU": 2.0}))
    backend.loop.apply(CapacityChanged(0.0, 2))

    assert scheduler.totals == [{"CPU": 2.0}]
    assert backend.policy.sees_cluster
    assert not a_backend().policy.sees_cluster


def test_what_are_no_bundles_fails_the_trial(a_backend: ABackend) -> None:
    backend = a_backend(Widening(3))
    backend.hello()

    with pytest.raises(ConfigError, match=r"Widening: Reallocate\(resources=…\): 3: expected a dict"):
        backend.loop.report(backend.trial(), 1, 0, {"done": False, "training_iteration": 1, "timestamp": 0})


def test_old_journals_say_nothing_of_resources_and_are_read() -> None:
    for event in (
        ExperimentStarted(0.0, 2),
        CapacityChanged(1.0, 2),
        ended(CRASHED),
        reported(1),
    ):
        record = event_to_dict(event)
        assert not record.keys() & {"total", "resources"}
        assert event_from_dict(record) == event
    for event in (ExperimentStarted(0.0, 2, {"CPU": 4.0}), widened(1)):
        assert event_from_dict(event_to_dict(event)) == event


# After a death.


@pytest.mark.parametrize(
    ("outcome", "error", "cause"),
    [
        (ERROR, "MemoryError", "oom"),
        (ERROR, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "oom"),
        (ERROR, "numpy._core._exceptions._ArrayMemoryError: Unable to allocate", "oom"),
        (ERROR, "RuntimeError: CUDA out of memory", "oom"),
        (ERROR, "ValueError: MemoryError: no", "error"),
        (ERROR, None, "error"),
        (LOST, "the trial's process was lost with what it ran on: out of memory: ActorDiedError: x", "oom"),
        (LOST, "its node has died", "lost"),
        (CRASHED, "the trial's process died: out of memory: says it", "crashed"),
        (TIMED_OUT, "too long", "timed_out"),
        (COMPLETED, None, None),
        (STOPPED, None, None),
        (Outcome.UNPLACED, "no", None),
        (Outcome.CORRUPTED, "no", None),
    ],
)
def test_causes_of_death(outcome: Outcome, error: str | None, cause: str | None) -> None:
    assert cause_of_death(outcome, error) == cause


def test_death_for_lack_of_memory_is_one_of_its_kind_where_it_has_no_factors_of_its_own() -> None:
    both = {"oom": {"memory": 2.0}, "error": {"CPU": 2.0}}

    assert factors_after(both, ERROR, "MemoryError") == {"memory": 2.0}
    assert factors_after({"error": {"CPU": 2.0}}, ERROR, "MemoryError") == {"CPU": 2.0}
    assert factors_after(both, LOST, "its node has died") is None
    assert factors_after(both, COMPLETED, None) is None


def test_gpus_stay_whole_above_one_and_other_bundles_as_they_are() -> None:
    before = PlacementGroupFactory([{"CPU": 1, "GPU": 1}, {"GPU": 1}], "SPREAD")

    assert enlarged(before, {"GPU": 1.5, "CPU": 0.5}) == PlacementGroupFactory(
        [{"CPU": 0.5, "GPU": 2}, {"GPU": 1}], "SPREAD"
    )
    assert enlarged(PlacementGroupFactory([{"GPU": 0.25}]), {"GPU": 2}).bundles == [{"GPU": 0.5}]


def test_trial_is_tried_again_with_more_each_time_and_the_event_says_with_what(a_backend: ABackend) -> None:
    failures = tune.FailureConfig(max_failures=2, resources_after={"oom": {"CPU": 2.0}})
    backend = a_backend(failure_config=failures)
    for _ in range(2):
        backend.hello()
        backend.last_word(Outcome.ERROR, "MemoryError: more")
        backend.found()

    assert [event.resources["bundles"] for event in backend.events(AttemptEnded)] == [
        [{"CPU": 2.0}],
        [{"CPU": 4.0}],
    ]
    assert (backend.trial().resources.bundles, backend.trial().base_resources) == ([{"CPU": 4.0}], ONE_CPU)


@pytest.mark.parametrize(
    ("factors", "reason"), [({"CPU": 9.0}, "the cluster has 4"), ({"memory": 2.0}, "has none")]
)
def test_trial_is_tried_again_with_what_it_had_where_there_is_no_more(
    factors: dict[str, float], reason: str, a_backend: ABackend, caplog: pytest.LogCaptureFixture
) -> None:
    failures = tune.FailureConfig(max_failures=1, resources_after={"error": factors})
    backend = a_backend(failure_config=failures)
    backend.loop.apply(CapacityChanged(0.0, 2, {"CPU": 4.0}))
    backend.hello()
    backend.last_word(Outcome.ERROR, "ValueError: no")
    backend.found()

    assert [event.resources for event in backend.events(AttemptEnded)] == [None]
    assert (backend.trial().attempt_number, backend.trial().resources) == (2, ONE_CPU)
    assert reason in caplog.text


def test_exploiting_trial_that_was_to_move_takes_its_bundles_along() -> None:
    from tests.support.controller_events import from_donor

    exploit = reported(3, EXPLOIT, exploit=from_donor(0, n=5))
    controller = controller_after(
        [*ONE, reported(1, checkpoint=0), widened(2), exploit, ended(STOPPED)], max_concurrent=1
    )

    assert (the_trial(controller).config, the_trial(controller).resources) == ({"n": 5}, WIDE)


def test_process_that_dies_when_it_was_told_to_stop_has_stopped(a_backend: ABackend) -> None:
    failures = tune.FailureConfig(max_failures=1, resources_after={"error": {"CPU": 2.0}})
    backend = a_backend(Widening({"cpu": 3}), failure_config=failures)
    backend.hello()
    backend.row(1, checkpoint=0)
    backend.last_word(Outcome.ERROR, "ValueError: no", iteration=1, index=0)
    backend.found()

    assert [event.resources for event in backend.events(AttemptEnded)] == [None]
    assert backend.trial().resources.bundles == [{"CPU": 3.0}]
