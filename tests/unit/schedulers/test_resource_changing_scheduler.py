"""Who gets what is free, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tune_core.control.messages import TrialReported
from tune_core.errors import ConfigError
from tune_core.resources import PlacementGroupFactory
from tune_core.schedulers import (
    ASHAScheduler,
    ClusterView,
    DistributeResources,
    DistributeResourcesToTopJob,
    Exploit,
    FIFOScheduler,
    MedianStoppingRule,
    Reallocate,
    ResourceChangingScheduler,
    TrialScheduler,
    create_scheduler,
)
from tune_core.testing.scheduler_contract import MakeScheduler, SchedulerContract
from tune_core.testing.schedulers import ExploitingScheduler, PausingScheduler
from tune_core.testing.simulator import SimulatedRun
from tune_core.trial import Attempt, Status, Trial

Bundles = PlacementGroupFactory


def a_trial(number: int = 0, *bundles: dict[str, float], base: Any = None, loss: Any = None) -> Trial:
    trial = Trial(f"t{number}", number, {}, resources=Bundles([*bundles] or [{"CPU": 1}]))
    trial.base_resources = Bundles(base or [{"CPU": 1}])
    if loss is not None:
        trial.last_row = {"loss": loss, "timestamp": 0}
    return trial


def asked(
    allocate: Any, trial: Trial, *others: Trial, iteration: int = 1, **total: float
) -> list[dict[str, float]] | None:
    """The bundles that a trial gets when it reports; None: those that it has."""
    scheduler = ResourceChangingScheduler(None, allocate)
    scheduler.set_search_properties("loss", "min")
    scheduler.on_cluster_changed(total)
    row = {"training_iteration": iteration, "loss": 0.5}
    answer = scheduler.on_trial_result([trial, *others], trial, row)
    if isinstance(answer, Reallocate):
        return answer.resources.to_dict()["bundles"]  # type: ignore[no-any-return]
    assert answer == "CONTINUE"
    return None


def test_who_is_alone_gets_everything() -> None:
    assert asked(DistributeResources(), a_trial(), CPU=4) == [{"CPU": 4}]


def test_what_is_free_is_cut_into_equal_parts() -> None:
    first, second = a_trial(0), a_trial(1)

    assert asked(DistributeResources(), first, second, CPU=6) == [{"CPU": 3}]


def test_nobody_gets_more_than_is_free() -> None:
    assert asked(DistributeResources(), a_trial(0), a_trial(1, {"CPU": 3}), CPU=5) == [{"CPU": 2}]


def test_who_has_more_than_a_part_gets_none_of_what_is_free() -> None:
    greedy, other = a_trial(0, {"CPU": 5}), a_trial(1)

    assert asked(DistributeResources(), greedy, other, CPU=8) == [{"CPU": 4}]


def test_trials_that_wait_get_back_what_they_need_but_never_what_a_trial_asks_for_itself() -> None:
    greedy, other, waiting = a_trial(0, {"CPU": 3}), a_trial(1), a_trial(2)

    assert asked(DistributeResources(), greedy, other, waiting, CPU=4) == [{"CPU": 2}]
    assert asked(DistributeResources(), other, greedy, waiting, CPU=4) is None
    assert asked(DistributeResources(), greedy, *map(a_trial, range(1, 9)), CPU=4) == [{"CPU": 1}]


def test_trials_that_have_ended_take_nothing() -> None:
    over = a_trial(1)
    over.move_to(Status.TERMINATED, because="test")

    assert asked(DistributeResources(), a_trial(), over, CPU=4) == [{"CPU": 4}]


def test_what_a_trial_is_about_to_get_is_taken_and_what_it_is_about_to_give_up_is_not_free_yet() -> None:
    grows, shrinks = a_trial(1), a_trial(2, {"CPU": 3})
    for trial, cpus in ((grows, 3), (shrinks, 1)):
        trial.attempt = Attempt(next_resources=Bundles([{"CPU": cpus}]))

    assert asked(DistributeResources(), a_trial(), grows, shrinks, CPU=7) is None
    assert ClusterView([grows, shrinks], {}).used_resources() == {"CPU": 6.0}


@pytest.mark.parametrize(
    ("options", "base", "total", "expected"),
    [
        ({"reserve_resources": {"CPU": 2}}, [{"CPU": 1}], {"CPU": 8}, [{"CPU": 6}]),
        ({"increase_by": {"CPU": 3}}, [{"CPU": 1}], {"CPU": 8}, [{"CPU": 7}]),
        ({"increase_by": {"CPU": 1}, "increase_by_times": 2}, [{"CPU": 1}], {"CPU": 8}, [{"CPU": 3}]),
        ({"increase_by_times": 2}, [{"CPU": 1}], {"CPU": 4}, [{"CPU": 4}]),
        ({}, [{"GPU": 1, "CPU": 1}], {"CPU": 8, "GPU": 2}, [{"GPU": 2, "CPU": 1}]),
        ({"increase_by": {"CPU": 2, "GPU": 1}}, [{"CPU": 1}], {"CPU": 8, "GPU": 2}, [{"GPU": 2, "CPU": 5}]),
        ({"increase_by": {"licence": 1}}, [{"CPU": 1}], {"CPU": 8, "licence": 2}, [{"CPU": 1, "licence": 2}]),
        ({"add_bundles": True}, [{"CPU": 1}, {"CPU": 2}], {"CPU": 8}, [{"CPU": 1}] + 3 * [{"CPU": 2}]),
        ({"add_bundles": True}, [{}, {"CPU": 2}], {"CPU": 8}, [{}] + 4 * [{"CPU": 2}]),
    ],
)
def test_units(options: Any, base: Any, total: Any, expected: Any) -> None:
    assert asked(DistributeResources(**options), a_trial(0, *base, base=base), **total) == expected


def test_bundles_that_were_added_are_given_back() -> None:
    wide = a_trial(0, {"CPU": 1}, {"CPU": 1}, {"CPU": 1})

    assert asked(DistributeResources(add_bundles=True), wide, a_trial(1), CPU=3) == [{"CPU": 1}, {"CPU": 1}]


def test_other_amounts_that_a_trial_was_given_since_stay() -> None:
    enlarged = a_trial(0, {"CPU": 1, "memory": 2**31}, base=[{"CPU": 1, "memory": 2**30}])

    assert asked(DistributeResources(), enlarged, CPU=2) == [{"CPU": 2, "memory": 2**31}]


def test_without_knowing_the_cluster_nobody_gets_others() -> None:
    assert asked(DistributeResources(), a_trial()) is None


def test_nobody_is_moved_again_before_having_come_further() -> None:
    trial = a_trial()
    trial.reallocated_at = 5

    assert [asked(DistributeResources(), trial, iteration=each, CPU=2) for each in (4, 5, 6)] == [
        None,
        None,
        [{"CPU": 2}],
    ]


def test_several_bundles_need_bundles_as_units() -> None:
    trial = a_trial(0, base=[{"CPU": 1}, {"CPU": 1}])

    with pytest.raises(ConfigError, match=r"use add_bundles=True"):
        ResourceChangingScheduler().on_trial_add([trial], trial)
    ResourceChangingScheduler(None, DistributeResources(add_bundles=True)).on_trial_add([trial], trial)


def test_the_best_gets_everything_and_who_was_best_keeps_it() -> None:
    best, worse = a_trial(0, loss=9.0), a_trial(1, {"CPU": 2}, loss=0.7)

    # The report says 0.5, which is better than what the other one has.
    assert asked(DistributeResourcesToTopJob(), best, worse, CPU=6) == [{"CPU": 4}]
    assert asked(DistributeResourcesToTopJob(mode="max", metric="loss"), best, worse, CPU=6) is None
    assert asked(DistributeResourcesToTopJob(), best, a_trial(1), a_trial(2, loss=float("nan")), CPU=6) == [
        {"CPU": 4}
    ]


def test_the_best_of_those_that_may_have_more_gets_it() -> None:
    second, best = a_trial(0), a_trial(1, {"CPU": 3}, loss=0.1)
    limited = DistributeResourcesToTopJob(increase_by={"CPU": 1}, increase_by_times=2)

    assert asked(limited, second, best, CPU=9) == [{"CPU": 3}]
    assert asked(DistributeResourcesToTopJob(), second, best, CPU=9) is None


def test_top_job_gives_back_what_trials_that_wait_need() -> None:
    assert asked(DistributeResourcesToTopJob(), a_trial(0, {"CPU": 3}), a_trial(1), CPU=3) == [{"CPU": 2}]


def test_top_job_needs_a_metric() -> None:
    scheduler = ResourceChangingScheduler(None, DistributeResourcesToTopJob())
    scheduler.on_cluster_changed({"CPU": 4})

    with pytest.raises(ConfigError, match="metric and mode are missing"):
        scheduler.on_trial_result([], a_trial(), {"training_iteration": 1})


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: DistributeResources(add_bundles=1), r"add_bundles=1.*True or False"),  # type: ignore[arg-type]
        (lambda: DistributeResources(increase_by={"CPU": -1}), r"increase_by=.*at least 0"),
        (lambda: DistributeResources(increase_by={"CPU": 0}), r"increase_by=.*above 0"),
        (lambda: DistributeResources(reserve_resources=3), r"reserve_resources=3"),  # type: ignore[arg-type]
        (lambda: DistributeResources(increase_by_times=-2), r"increase_by_times=-2"),
        (lambda: DistributeResourcesToTopJob(mode="best"), r"mode='best'"),
        (lambda: ResourceChangingScheduler("asha"), r"base_scheduler='asha'"),  # type: ignore[arg-type]
        (lambda: ResourceChangingScheduler(ResourceChangingScheduler()), "give that inside it"),
        (lambda: ResourceChangingScheduler(None, 3), r"resources_allocation_function=3"),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_cannot_work_are_refused(make: Callable[[], Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        make()


# What is passed on.


class Noting(TrialScheduler):
    """Notes what it is told and asked."""

    needs_checkpoints = needs_metric = True

    def __init__(self, answer: Any = TrialScheduler.CONTINUE) -> None:
        self.answer = answer
        self.told: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("on_", "choose", "trials_to", "check", "decision", "get_state", "set_state")):
            self.told.append(name)
        return super().__getattribute__(name)

    def on_trial_result(self, trials: Any, trial: Any, result: Any) -> Any:
        return self.answer

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        return {"rung": 1}

    def get_state(self) -> dict[str, Any]:
        return {"seed": 3}


def test_everything_else_is_for_the_scheduler_inside() -> None:
    inside, trial = Noting(), a_trial()
    scheduler = ResourceChangingScheduler(inside, lambda *_: None)

    scheduler.check_searcher(None)
    scheduler.on_cluster_changed({"CPU": 1})
    scheduler.on_trial_add([trial], trial)
    scheduler.on_trial_result([trial], trial, {"training_iteration": 1})
    assert scheduler.decision_reason(trial) == {"rung": 1}
    scheduler.choose_trial_to_run([trial])
    scheduler.trials_to_stop([trial])
    scheduler.on_trial_complete([trial], trial, {})
    scheduler.on_trial_error([trial], trial)
    scheduler.on_trial_remove([trial], trial)
    scheduler.set_state(scheduler.get_state())

    assert inside.told == [
        "check_searcher",
        "on_cluster_changed",
        "on_trial_add",
        "on_trial_result",
        "decision_reason",
        "choose_trial_to_run",
        "trials_to_stop",
        "on_trial_complete",
        "on_trial_error",
        "on_trial_remove",
        "get_state",
        "set_state",
    ]
    assert (scheduler.needs_metric, scheduler.needs_checkpoints) == (True, True)


def test_every_hook_of_schedulers_is_passed_on() -> None:
    own = {name for name, value in vars(TrialScheduler).items() if callable(value) and name[0] != "_"}

    assert own <= vars(ResourceChangingScheduler).keys()


@pytest.mark.parametrize("answer", ["STOP", "PAUSE", Exploit("t0")])
def test_only_who_goes_on_gets_others(answer: Any) -> None:
    scheduler = ResourceChangingScheduler(Noting(answer))
    scheduler.on_cluster_changed({"CPU": 4})

    assert scheduler.on_trial_result([], a_trial(), {"training_iteration": 1}) == answer


def test_without_a_function_it_is_the_scheduler_inside() -> None:
    assert ResourceChangingScheduler(None, None).always_continues
    assert not ResourceChangingScheduler().always_continues
    assert not ResourceChangingScheduler(Noting(), None).always_continues


def test_metric_and_mode_are_those_of_the_scheduler_inside() -> None:
    scheduler = ResourceChangingScheduler(ASHAScheduler(metric="loss", mode="min"))

    assert (scheduler.metric, scheduler.mode, scheduler.has_own_objective) == ("loss", "min", True)
    assert not scheduler.set_search_properties("accuracy", "max")


def test_there_is_one_by_name() -> None:
    scheduler = create_scheduler("resource_changing", base_scheduler=ASHAScheduler())

    assert isinstance(scheduler, ResourceChangingScheduler)
    assert isinstance(scheduler.base_scheduler, ASHAScheduler)


# What every scheduler has to keep to.


INSIDE: dict[str, Callable[[], TrialScheduler]] = {
    "FIFO": FIFOScheduler,
    "ASHA": lambda: ASHAScheduler(max_t=20, grace_period=2, reduction_factor=2, seed=1),
    "median": lambda: MedianStoppingRule("training_iteration", grace_period=3),
    "pauses": lambda: PausingScheduler(4),
    "exploits": lambda: ExploitingScheduler(every=4),
}


@pytest.mark.parametrize("inside", INSIDE)
class TestContract(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self, inside: str) -> MakeScheduler:
        return lambda: ResourceChangingScheduler(INSIDE[inside](), DistributeResources())

    def simulate(self, scheduler: TrialScheduler, **options: Any) -> SimulatedRun:
        return super().simulate(scheduler, **{"cluster": {"CPU": 6.0}, **options})


class TestTopJob(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self) -> MakeScheduler:
        return lambda: ResourceChangingScheduler(
            INSIDE["ASHA"](), DistributeResourcesToTopJob(increase_by={"CPU": 1}, increase_by_times=2)
        )

    def simulate(self, scheduler: TrialScheduler, **options: Any) -> SimulatedRun:
        return super().simulate(scheduler, **{"cluster": {"CPU": 6.0}, **options})

    def test_trials_are_moved_in_these_tests(self, make_scheduler: MakeScheduler) -> None:
        run = self.simulate(make_scheduler())

        moves = [event for event, _ in run.records if isinstance(event, TrialReported) and event.resources]
        assert len(moves) > 3
        assert {move.resources["bundles"][0]["CPU"] for move in moves if move.resources} <= {1, 2, 3}
