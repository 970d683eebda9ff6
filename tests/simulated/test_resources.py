"""Trials that get other resources on the way, and budgets, in whole experiments on a virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.control.controller import Controller
from tune_core.control.messages import AttemptEnded, AttemptStarted, TrialReported
from tune_core.control.state import ExperimentState
from tune_core.schedulers import (
    ASHAScheduler,
    DistributeResources,
    DistributeResourcesToTopJob,
    ResourceChangingScheduler,
    TrialScheduler,
)
from tune_core.steering.inbox import RaiseNumSamples
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.replay import replay
from tune_core.testing.simulator import SimulatedRun, simulate
from tune_core.trial import Status


def drive(
    scheduler: TrialScheduler | None = None,
    num_samples: int = 4,
    journal: Sequence[Any] = (),
    tuning: dict[str, Any] | None = None,
    **options: Any,
) -> SimulatedRun:
    """Run trials that take 1 to 2 seconds a step; each ends after 4 to 13 steps."""

    def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
        steps = 4 + int(9 * config["x"])
        return {"loss": config["x"] + 1 / iteration, "done": iteration >= steps}, 1.0 + config["x"]

    return simulate(
        curve,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            "min", "loss", scheduler=scheduler, num_samples=num_samples, **(tuning or {})
        ),
        journal=journal,
        **{"slots": 4, "cluster": {"CPU": 4.0}, "seed": 3, **options},
    )


def cpus_over_time(run: SimulatedRun) -> dict[str, list[float]]:
    """The CPUs of each trial's attempts, one after the other."""
    controller, found = Controller(run.rules), dict[str, list[float]]()
    for event, _ in run.records:
        controller.handle(event)
        if isinstance(event, AttemptStarted):
            trial = controller.trials[event.trial_id]
            found.setdefault(trial.trial_id, []).append(trial.resources.head_cpus)
    return found


def most_at_once(run: SimulatedRun) -> float:
    """The most CPUs that attempts had at the same time."""
    controller, held, most = Controller(run.rules), dict[str, float](), 0.0
    for event, _ in run.records:
        controller.handle(event)
        if isinstance(event, AttemptStarted):
            held[event.trial_id] = controller.trials[event.trial_id].resources.head_cpus
        if isinstance(event, AttemptEnded):
            held.pop(event.trial_id, None)
        most = max(most, sum(held.values()))
    return most


def test_trials_get_the_cpus_of_those_that_have_ended() -> None:
    run = drive(ResourceChangingScheduler())

    cpus = cpus_over_time(run)
    assert all(each[0] == 1 for each in cpus.values())
    assert max(each[-1] for each in cpus.values()) == 4, "the last one has not got all"
    assert most_at_once(run) <= 4
    assert {trial.status for trial in run.trials} == {Status.TERMINATED}
    assert all(trial.num_failures == 0 for trial in run.trials)


def test_while_others_wait_nobody_gets_more() -> None:
    run = drive(ResourceChangingScheduler(), num_samples=12)

    last_new = max(n for n, (event, _) in enumerate(run.records) if type(event).__name__ == "TrialSuggested")
    early = [
        event for event, _ in run.records[:last_new] if isinstance(event, TrialReported) and event.resources
    ]
    assert early == []


def test_trials_that_grew_make_room_for_new_ones() -> None:
    """Trials that ASHA ends leave room for new ones, and trials that have grown give it back."""
    scheduler = ResourceChangingScheduler(ASHAScheduler(max_t=20, grace_period=1, reduction_factor=2, seed=1))
    run = drive(scheduler, num_samples=12, slots=2, tuning={"max_concurrent_trials": 2})

    counts = Counter(len(each) for each in cpus_over_time(run).values())
    assert sum(count for attempts, count in counts.items() if attempts > 1) > 1
    assert most_at_once(run) <= 4


def test_each_move_is_progress() -> None:
    for function in (DistributeResources(), DistributeResourcesToTopJob()):
        for every in (1, 3):
            run = drive(ResourceChangingScheduler(None, function), num_samples=8, checkpoint_every=every)
            reached: dict[str, int] = {}
            for event, _ in run.records:
                if isinstance(event, TrialReported) and event.resources:
                    assert event.iteration > reached.get(event.trial_id, 0)
                    reached[event.trial_id] = event.iteration
            assert reached


def test_top_job_is_the_one_that_grows() -> None:
    run = drive(ResourceChangingScheduler(None, DistributeResourcesToTopJob()), num_samples=2)

    cpus = cpus_over_time(run)
    best = run.best("loss", "min")["trial_id"]
    assert max(cpus[best]) >= 3


def test_old_journals_say_nothing_of_the_cluster_and_nobody_moves() -> None:
    run = drive(ResourceChangingScheduler(), cluster=None)

    assert [each for each in cpus_over_time(run).values() if len(each) > 1] == []


def test_resume_chooses_the_resources_that_it_would_have_chosen() -> None:
    """With one trial at a time nothing depends on how long a start takes: then all is as it would have been."""
    scheduler = lambda: ResourceChangingScheduler(None, DistributeResources(increase_by={"CPU": 1}))  # noqa: E731
    options: dict[str, Any] = {"slots": 1, "num_samples": 3, "cluster": {"CPU": 3.0}}
    options["tuning"] = {"max_concurrent_trials": 1}
    whole = drive(scheduler(), **options)

    def moves(run: SimulatedRun) -> set[tuple[str, int, str]]:
        return {
            (event.trial_id, event.iteration, str(event.resources))
            for event, _ in run.records
            if isinstance(event, TrialReported) and event.resources
        }

    assert len(moves(whole)) == 3
    for place in range(1, len(whole.records)):
        assert moves(drive(scheduler(), journal=whole.records[:place], **options)) == moves(whole), place


def hours(run: SimulatedRun) -> float:
    state = ExperimentState(Controller(run.rules))
    for event, _ in run.records:
        state.apply(event)
    return state.usage.at(state.last_time)["CPU"] / 3600


def test_cost_ends_the_experiment_when_it_is_used_up_wherever_its_driver_died() -> None:
    tuning = {"max_cost": {"CPU": 20 / 3600}}
    whole = drive(num_samples=20, tuning=tuning, slots=2)
    assert whole.reason == "max_cost is used up: 0.005556 CPU hours"
    assert whole.duration < 13
    stopped = next(n for n, (event, _) in enumerate(whole.records) if type(event).__name__ == "StopRequested")

    for place in range(stopped):
        run = drive(num_samples=20, tuning=tuning, slots=2, journal=whole.records[:place])

        assert run.reason.startswith("max_cost is used up")
        assert 20 / 3600 <= hours(run) + 1e-9 < 25 / 3600
        assert replay(run.records, run.rules).has_ended


def test_experiment_whose_cost_is_used_up_ends_again_at_once_and_goes_on_with_more() -> None:
    whole = drive(num_samples=5, tuning={"max_cost": 10 / 3600}, slots=2)

    again = drive(num_samples=5, tuning={"max_cost": 10 / 3600}, slots=2, journal=whole.records)
    more = drive(num_samples=5, tuning={"max_cost": 1.0}, slots=2, journal=whole.records)

    assert (again.reason[:20], again.duration) == ("max_cost is used up:", whole.duration)
    assert more.reason == "every trial is finished"


@pytest.mark.parametrize("allowed", [0, 1, 2, 0.25])
def test_failed_trials_end_the_experiment_and_what_ran_is_kept(allowed: float) -> None:
    failures = tune.FailureConfig(max_failed_trials=allowed)

    def crashes(number: int, attempt_number: int, iteration: int) -> bool:
        return number % 2 == 1 and iteration == 2

    run = drive(num_samples=8, slots=2, crashes=crashes, run_config=tune.RunConfig(failure_config=failures))

    expected = 2 if allowed == 0.25 else int(allowed)
    assert [trial.status for trial in run.trials].count(Status.ERROR) == expected + 1
    assert f"max_failed_trials={allowed}" in run.reason
    assert all(trial.is_finished() for trial in run.trials)


def test_more_samples_let_more_trials_fail_where_that_is_a_share() -> None:
    def crashes(number: int, attempt_number: int, iteration: int) -> bool:
        return iteration == 3

    failures = tune.FailureConfig(max_failed_trials=0.25)
    run = drive(
        num_samples=4,
        slots=1,
        crashes=crashes,
        run_config=tune.RunConfig(failure_config=failures),
        requests={(0, 1): [RaiseNumSamples(12)]},
    )

    assert run.reason.startswith("4 of 12 trials have failed (max_failed_trials=0.25)")


def test_death_gives_more_until_the_cluster_has_no_more(caplog: pytest.LogCaptureFixture) -> None:
    rules = {"crashed": {"CPU": 2.0}}
    failures = tune.FailureConfig(max_failures=4, resources_after=rules)

    def crashes(number: int, attempt_number: int, iteration: int) -> bool:
        return attempt_number <= 4

    run = drive(num_samples=1, crashes=crashes, run_config=tune.RunConfig(failure_config=failures))

    assert list(cpus_over_time(run).values()) == [[1, 2, 4, 4, 4]]
    assert (
        "resources_after asks for more than there is: CPU: 8 needed in all, the cluster has 4" in caplog.text
    )


class Steps(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.steps = 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        assert self.trial_resources is not None
        return {"cpus": self.trial_resources.head_cpus, "steps": self.steps, "done": self.steps == 3}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "steps").write_text(str(self.steps))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.steps = int(Path(checkpoint, "steps").read_text())


def test_class_is_saved_and_goes_on_with_what_it_was_given() -> None:
    tuner = tune.Tuner(
        Steps,
        tune_config=tune.TuneConfig(scheduler=ResourceChangingScheduler()),
        run_config=tune.RunConfig(storage_path="memory://resources", verbose=0),
    )
    result = LocalRuntime(threads=2).run(tuner.experiment())[0]

    frame = result.metrics_dataframe
    assert frame is not None
    assert list(frame["cpus"]) == [1, 2, 2]
    assert list(frame["steps"]) == [1, 2, 3]
