"""The overview of whole experiments says what their rows and trials say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import tune_core as tune
from tune_core.control.controller import Controller
from tune_core.control.messages import AttemptEnded, AttemptStarted
from tune_core.control.resume import Replay
from tune_core.ranking import Objective
from tune_core.schedulers import ASHAScheduler, TrialScheduler
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.schedulers import ExploitingScheduler, PausingScheduler, RandomScheduler
from tune_core.testing.simulator import RandomCrashes, SimulatedRun, simulate
from tune_core.views.overview import ExperimentSnapshot, Overview


def curve(config: dict[str, Any], iteration: int) -> tuple[Mapping[str, Any], float]:
    return {"loss": config["x"] + (2 - config["x"]) * math.exp(-iteration / 10)}, 10.0


def run_with(scheduler: TrialScheduler | None, seed: int = 3, **options: Any) -> SimulatedRun:
    return simulate(
        curve,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler, num_samples=12),
        run_config=tune.RunConfig(failure_config=tune.FailureConfig(max_failures=-1)),
        iterations=30,
        seed=seed,
        **options,
    )


def snapshot_of(run: SimulatedRun, scope: str = "last") -> ExperimentSnapshot:
    replay = Replay(Controller(run.rules))
    overview = Overview(replay.controller, Objective("loss", "min", scope))
    for event, _ in run.records:
        replay.apply(event)
        overview.note(event)
    return overview.snapshot()


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: None,
        lambda: ASHAScheduler(max_t=30),
        lambda: PausingScheduler(7),
        lambda: ExploitingScheduler(every=5),
        lambda: RandomScheduler(1),
    ],
    ids=["fifo", "asha", "pausing", "exploiting", "random"],
)
@pytest.mark.parametrize("crashes", [None, RandomCrashes(0.03, 5)], ids=["no crashes", "crashes"])
def test_best_values_and_costs_are_those_of_all_rows_and_attempts(
    scheduler: Callable[[], TrialScheduler | None], crashes: RandomCrashes | None
) -> None:
    run = run_with(scheduler(), crashes=crashes)

    shown = snapshot_of(run, "all")

    best = run.best("loss", "min")
    assert shown.best_trial is not None
    assert (shown.best_trial.trial_id, shown.best_trial.best) == (best["trial_id"], best["loss"])
    assert shown.best_so_far[-1] == (best["time"], best["loss"])
    assert [value for _, value in shown.best_so_far] == sorted(
        (v for _, v in shown.best_so_far), reverse=True
    )
    assert shown.seconds == run.duration
    begun = {(e.trial_id, e.attempt_number): e.time for e, _ in run.records if isinstance(e, AttemptStarted)}
    ended = {(e.trial_id, e.attempt_number): e.time for e, _ in run.records if isinstance(e, AttemptEnded)}
    assert shown.used["CPU"] == pytest.approx(sum(ended[key] - begun[key] for key in begun))
    for record, trial in zip(shown.trials, run.trials, strict=True):
        assert (record.status, record.attempts, record.iterations) == (
            trial.status,
            trial.attempt_number,
            trial.iteration,
        )
        rows = {(r["training_iteration"], r["loss"]) for r in run.rows if r["trial_id"] == trial.trial_id}
        assert set(record.curve) <= rows


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_experiment_that_was_cut_short_and_went_on_counts_both_parts(cut: float) -> None:
    whole = run_with(None)
    first = whole.records[: int(len(whole.records) * cut)]

    run = run_with(None, journal=first)

    shown = snapshot_of(run)
    assert shown.num_drivers == 2
    assert shown.seconds == run.duration
    assert {attempt.outcome for trial in shown.trials for attempt in trial.timeline} == {"completed", None}
    assert all(attempt.ended is not None for trial in shown.trials for attempt in trial.timeline)


def test_overview_is_read_from_the_storage_of_an_experiment(tmp_path: Any) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(1, 4):
            tune.report({"score": config["x"] * step})

    experiment = tune.Tuner(
        train,
        param_space={"x": tune.grid_search([1, 3, 2])},
        tune_config=tune.TuneConfig(metric="score", mode="max"),
        run_config=tune.RunConfig(name="read", storage_path=str(tmp_path), verbose=0),
    ).experiment()
    LocalRuntime().run(experiment)

    shown = Overview.read(experiment.storage).snapshot()

    assert (shown.metric, shown.mode, shown.has_ended) == ("score", "max", True)
    assert [trial.config["x"] for trial in shown.ranked] == [3, 2, 1]
    assert shown.best_trial is not None
    assert list(shown.best_trial.curve) == [(1, 3.0), (2, 6.0), (3, 9.0)]
    assert Overview.read(experiment.storage, metric="score", mode="min").snapshot().ranked[0].config == {
        "x": 1
    }
