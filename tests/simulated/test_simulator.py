"""Whole experiments on a virtual clock: what schedulers gain, and that nothing ever hangs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tune_core as tune
from tune_core.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler
from tune_core.search import Searcher
from tune_core.states import Outcome
from tune_core.stopper import MaximumIterationStopper
from tune_core.testing.replay import replay
from tune_core.testing.schedulers import ExploitingScheduler, PausingScheduler, RandomScheduler
from tune_core.testing.simulator import RandomCrashes, SimulatedRun, simulate
from tune_core.trial import Status


def curve(config: dict[str, Any], iteration: int) -> tuple[Mapping[str, Any], float]:
    """Ten seconds an iteration; losses fall from 2 towards x, none faster than another."""
    return {"loss": config["x"] + (2 - config["x"]) * math.exp(-iteration / 10)}, 10.0


def search(scheduler: TrialScheduler | None, **options: Any) -> SimulatedRun:
    config = tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler, num_samples=60)
    options = {"slots": 4, "iterations": 81, "seed": 11, **options}
    return simulate(curve, param_space={"x": tune.uniform(0, 1)}, tune_config=config, **options)


# What schedulers gain.


def test_first_in_first_out_takes_as_long_as_all_trials_do() -> None:
    run = search(None)

    assert run.duration == 60 / 4 * 81 * 10
    assert len(run.rows) == 60 * 81
    assert run.reason == "every trial is finished"


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_asha_finds_the_same_best_in_a_fraction_of_the_time(factor: int) -> None:
    everything = search(None)

    run = search(ASHAScheduler(max_t=81, reduction_factor=factor))

    best, same = everything.best("loss", "min"), run.best("loss", "min")
    assert (same["trial_id"], same["loss"], same["training_iteration"]) == (
        best["trial_id"],
        best["loss"],
        81,
    )
    assert run.duration < everything.duration / 2
    assert {trial.status for trial in run.trials} == {Status.TERMINATED}


def test_median_rule_stops_bad_trials_and_lets_good_ones_end() -> None:
    run = search(MedianStoppingRule(grace_period=100, min_samples_required=3, min_time_slice=1e9))

    by_quality = sorted(run.trials, key=lambda trial: trial.config["x"])
    assert by_quality[0].iteration == 81
    assert all(trial.iteration < 81 for trial in by_quality[-15:])
    assert all(trial.iteration >= 10 for trial in run.trials)
    assert run.duration < search(None).duration * 0.75


def test_trials_that_take_turns_come_equally_far() -> None:
    run = search(PausingScheduler(27), checkpoint_every=9)

    assert [trial.attempt_number for trial in run.trials] == [4] * 60
    assert run.duration == 60 / 4 * 81 * 10  # nothing was trained twice
    paused_at = [row["time"] for row in run.rows if row["training_iteration"] == 54]
    begun_at = [row["time"] for row in run.rows if row["training_iteration"] == 1]
    assert min(paused_at) > max(begun_at)


def test_exploiting_trials_end_nearer_to_the_best() -> None:
    alone = search(None)

    run = search(ExploitingScheduler(every=9), slots=60)

    assert run.best("loss", "min")["loss"] < alone.best("loss", "min")["loss"]
    borrowers = [trial for trial in run.trials if "@perturbed[x=" in trial.experiment_tag]
    assert len(borrowers) > 5
    assert all(trial.num_failures == 0 for trial in run.trials)


# The simulator itself.


def test_same_seed_is_the_same_experiment() -> None:
    crashes = RandomCrashes(0.02, seed=1)
    config = tune.RunConfig(failure_config=tune.FailureConfig(max_failures=-1))

    runs = [search(ASHAScheduler(brackets=2, seed=1), crashes=crashes, run_config=config) for _ in range(2)]

    assert runs[0].rows == runs[1].rows
    assert runs[0].records == runs[1].records
    assert search(None, seed=12).rows != search(None).rows


def test_slots_starts_and_iterations_take_their_time() -> None:
    run = simulate(curve, param_space={"x": tune.grid_search([0, 1, 2])}, slots=2, iterations=3, start_s=5.0)

    assert run.duration == 2 * (5 + 3 * 10)
    first = [(row["time"], row["time_total_s"]) for row in run.rows if row["trial_id"] == "00000_00000"]
    assert first == [(15.0, 10.0), (25.0, 20.0), (35.0, 30.0)]


def test_crashed_trial_goes_on_from_its_last_checkpoint() -> None:
    run = simulate(
        curve,
        param_space={"x": 0.0},
        run_config=tune.RunConfig(failure_config=tune.FailureConfig(max_failures=1)),
        iterations=6,
        checkpoint_every=3,
        crashes=lambda number, attempt_number, iteration: (attempt_number, iteration) == (1, 6),
    )

    rows = [(row["attempt_number"], row["training_iteration"], row["time_total_s"]) for row in run.rows]
    assert rows == [
        *((1, step, 10.0 * step) for step in (1, 2, 3, 4, 5)),
        *((2, step, 10.0 * step) for step in (4, 5, 6)),
    ]
    assert run.duration == 90.0


@pytest.mark.parametrize(
    ("run", "tune_config", "rows", "reason"),
    [
        ({"stop": {"training_iteration": 2}}, {}, 4, "every trial is finished"),
        ({"stop": MaximumIterationStopper(3)}, {}, 6, "every trial is finished"),
        ({}, {"time_budget_s": 45}, 4, "time_budget_s is used up"),
        ({}, {"max_concurrent_trials": 1}, 20, "every trial is finished"),
    ],
)
def test_rules_of_the_experiment_are_kept(
    run: dict[str, Any], tune_config: dict[str, Any], rows: int, reason: str
) -> None:
    played = simulate(
        curve,
        param_space={"x": tune.grid_search([0, 1])},
        tune_config=tune.TuneConfig(**tune_config),
        run_config=tune.RunConfig(**run),
        slots=1,
        iterations=10,
    )

    assert (len(played.rows), played.reason) == (rows, reason)


# Nothing ever hangs.


class Hesitating(Searcher):
    """Lets every second question wait, while it can."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left, self.asked = number, 0

    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        super().set_search_properties(*args, **spec)
        return True

    def suggest(self, trial_id: str) -> Any:
        self.asked += 1
        if self.left == 0:
            return self.FINISHED
        if self.asked % 2 == 0:
            return None
        self.left -= 1
        return {"x": self.left / 10}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    slots=st.integers(1, 5),
    checkpoint_every=st.integers(0, 4),
    saves_on_request=st.booleans(),
    num_to_keep=st.sampled_from([None, 1, 2]),
    max_failures=st.sampled_from([0, 2, -1]),
    probability=st.sampled_from([0.0, 0.05, 0.2]),
    hesitates=st.booleans(),
    score=st.sampled_from([None, "loss"]),
)
def test_pauses_and_exploits_among_crashes_always_come_to_an_end(
    seed: int,
    slots: int,
    checkpoint_every: int,
    saves_on_request: bool,
    num_to_keep: int | None,
    max_failures: int,
    probability: float,
    hesitates: bool,
    score: str | None,
) -> None:
    kept = tune.CheckpointConfig(
        num_to_keep=num_to_keep, checkpoint_score_attribute=score, checkpoint_score_order="min"
    )
    run = simulate(
        curve,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            scheduler=RandomScheduler(seed),
            search_alg=Hesitating(8) if hesitates else None,
            num_samples=8,
        ),
        run_config=tune.RunConfig(
            checkpoint_config=kept, failure_config=tune.FailureConfig(max_failures=max_failures)
        ),
        slots=slots,
        iterations=12,
        checkpoint_every=checkpoint_every,
        saves_on_request=saves_on_request,
        crashes=RandomCrashes(probability, seed),
        seed=seed,
    )

    assert all(trial.is_finished() for trial in run.trials)
    again = replay(run.records, run.rules)
    assert [(t.status, t.attempt_number, t.config) for t in again.trials.values()] == [
        (t.status, t.attempt_number, t.config) for t in run.trials
    ]
    for trial in run.trials:
        assert num_to_keep is None or len(trial.checkpoints) <= num_to_keep + 1


def test_every_way_to_end_an_attempt_occurs_in_these_runs() -> None:
    """Or the test above would show less than it says."""
    seen: set[str] = set()
    for seed in range(30):
        run = search(RandomScheduler(seed), seed=seed, crashes=RandomCrashes(0.02, seed), iterations=10)
        for event, commands in run.records:
            seen.update(text.split()[0] for text in commands)
            seen.update(text.split()[-1] for text in commands if text.startswith("Answer"))
            seen.add(str(getattr(event, "outcome", "")))
            seen.add("stopped by the scheduler" if getattr(event, "stopped", ()) else "")

    assert {"STOP", "PAUSE", "EXPLOIT", "ChoosePaused", "StartAttempt", "stopped by the scheduler"} < seen
    assert {Outcome.COMPLETED, Outcome.STOPPED, Outcome.CRASHED} < seen
