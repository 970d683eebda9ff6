"""ASHA that pauses and promotes, in whole experiments: who runs when, and what is left in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import tune_core as tune
from tune_core.control.messages import PausedChosen, TrialReported
from tune_core.errors import ConfigError
from tune_core.reasons import reason_text
from tune_core.schedulers import ASHAScheduler
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter
from tune_core.states import Decision
from tune_core.testing.simulator import SimulatedRun, simulate
from tune_core.trial import Status

#: Losses of nine configurations: of them 1, 6 and 8 are the best ones, and 8 is the best of these.
LOSSES = {1: 0.3, 2: 0.9, 3: 0.8, 4: 0.7, 5: 0.75, 6: 0.2, 7: 0.6, 8: 0.1, 9: 0.5}


def promoted(
    losses: Sequence[float] = tuple(LOSSES.values()), *, slots: int = 1, **options: Any
) -> SimulatedRun:
    """Run a trial for each loss; rungs are at 1, 3 and 9."""
    scheduler = ASHAScheduler(max_t=9, grace_period=1, reduction_factor=3, type="promotion")
    given: dict[str, Any] = {"max_concurrent_trials": slots, **options.pop("tune_config", {})}
    return simulate(
        lambda config, iteration: ({"loss": config["loss"]}, 1.0),
        param_space={"loss": tune.grid_search(list(losses))},
        tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler, **given),
        slots=slots,
        iterations=20,
        **options,
    )


def jobs(run: SimulatedRun) -> list[tuple[int, int]]:
    """The configuration, from 1, and the last iteration, of each stretch without a pause, in order."""
    numbers = {trial.trial_id: trial.number + 1 for trial in run.trials}
    return [
        (numbers[event.trial_id], event.iteration)
        for event, _ in run.records
        if isinstance(event, TrialReported) and event.decision is not Decision.CONTINUE
    ]


def test_one_worker_does_the_jobs_of_the_papers_example() -> None:
    """Algorithm 2 by hand, with the bracket of the paper's figure 1: nine configurations, eta 3, r 1, R 9.

    Of the first three configurations one is promotable: 1. Of six, two: 6 is the best and not promoted yet. Of nine,
    three: 8. It is the third at the rung at 3, where one is promotable then: 8 again. It trains to the end.
    """
    run = promoted()

    assert jobs(run) == [
        *((1, 1), (2, 1), (3, 1), (1, 3)),
        *((4, 1), (5, 1), (6, 1), (6, 3)),
        *((7, 1), (8, 1), (8, 3), (8, 9), (9, 1)),
    ]
    assert {trial.status for trial in run.trials} == {Status.TERMINATED}


def test_who_comes_late_and_is_the_best_of_all_goes_to_the_end_too() -> None:
    """By hand: 7 is the best of three at the rung at 3; 8 is the third of eight; 9 is the best of nine, and of four."""
    losses = {**LOSSES, 7: 0.15, 8: 0.25, 9: 0.1}

    assert jobs(promoted(list(losses.values())))[8:] == [
        *((7, 1), (7, 3), (7, 9), (8, 1)),
        *((9, 1), (9, 3), (9, 9)),
    ]


def test_what_is_left_at_a_rung_ends_with_its_last_place_and_what_it_would_have_taken() -> None:
    run = promoted()

    said = {trial.number + 1: reason_text(trial.reason) for trial in run.trials}

    assert said[8] == "Stopped: training_iteration >= 9"
    assert said[2] == "Stopped early: rung 1, rank 9 of 9, needed loss <= 0.3, had 0.9"
    assert said[6] == "Stopped early: rung 3, rank 2 of 3, needed loss <= 0.1, had 0.2"
    assert run.reason == (
        "every trial is finished; 8 of them were paused, and the scheduler chose none to go on"
    )


def test_promotions_go_before_new_trials_and_go_on_when_there_are_no_more() -> None:
    run = promoted([0.9, 0.8, 0.1, 0.7, 0.6, 0.5], slots=2)

    first_end = next(
        place for place, (number, iteration) in enumerate(jobs(run)) if (number, iteration) == (3, 3)
    )
    assert first_end < jobs(run).index((6, 1)), "trial 3 is promoted before trial 6 begins"
    chosen = [
        event.trial_id for event, _ in run.records if isinstance(event, PausedChosen) and event.trial_id
    ]
    assert len(chosen) == len(set(chosen)) == 2, (
        "two of six are promoted from the first rung, one after the other"
    )


def test_paused_trials_keep_the_checkpoint_that_they_go_on_from() -> None:
    keep = tune.RunConfig(checkpoint_config=tune.CheckpointConfig(1, "loss", "min"))

    run = promoted(run_config=keep)

    rows = [row["training_iteration"] for row in run.rows if row["trial_id"].endswith("_00007")]
    assert rows == list(range(1, 10)), "trial 8 was paused twice and did nothing twice"


def test_metrics_may_be_nested_and_no_number() -> None:
    scheduler = ASHAScheduler("epoch/now", "eval/loss", "max", max_t=3, reduction_factor=2, type="promotion")
    values = [0.5, None, float("nan"), 0.9, 0.7]

    run = simulate(
        lambda config, iteration: (
            {"eval": {"loss": values[config["which"]]}, "epoch": {"now": iteration}},
            1.0,
        ),
        param_space={"which": tune.grid_search(list(range(5)))},
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=1),
        iterations=3,
        slots=1,
    )

    # None is not decided on. NaN is the worst, and counts as one of those that came.
    assert [trial.iteration for trial in run.trials] == [2, 3, 1, 3, 2]
    assert {trial.status for trial in run.trials} == {Status.TERMINATED}


def test_trials_reach_the_end_on_their_own_if_they_are_not_stopped_there() -> None:
    scheduler = ASHAScheduler(max_t=4, reduction_factor=2, stop_last_trials=False, type="promotion")

    run = simulate(
        lambda config, iteration: ({"loss": config["x"]}, 1.0),
        param_space={"x": tune.grid_search([1, 2, 3, 4])},
        tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler, max_concurrent_trials=1),
        iterations=6,
        slots=1,
    )

    assert [trial.iteration for trial in run.trials] == [6, 2, 1, 1]
    assert run.trials[0].reason == {}, "it came to its own end"


@pytest.mark.parametrize("batch", [False, True])
def test_a_searcher_that_waits_for_paused_trials_is_refused(batch: bool) -> None:
    searcher = ConcurrencyLimiter(BasicVariantGenerator(), 2, batch=batch)
    scheduler = ASHAScheduler(type="promotion")

    with pytest.raises(ConfigError, match=r"ConcurrencyLimiter.*TuneConfig\(max_concurrent_trials="):
        tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler, search_alg=searcher)
    tune.TuneConfig(metric="loss", mode="min", scheduler=ASHAScheduler(), search_alg=searcher)


def test_a_type_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"type='promote'.*'stopping' or 'promotion'; did you mean"):
        ASHAScheduler(type="promote")  # type: ignore[arg-type]
