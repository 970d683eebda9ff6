"""No value that a trial reports ends the experiment, or keeps it from ending."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import tune_core as tune
from tune_core.metrics import comparable
from tune_core.schedulers import (
    PB2,
    AsyncHyperBandScheduler,
    Exploit,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    OptunaPruner,
    PopulationBasedTraining,
    TrialScheduler,
)
from tune_core.search import BasicVariantGenerator, Repeater, Searcher
from tune_core.search.bohb import TuneBOHB
from tune_core.search.optuna import OptunaSearch
from tune_core.stopper import (
    DictStopper,
    ExperimentPlateauStopper,
    Stopper,
    TrialPlateauStopper,
)
from tune_core.testing.simulator import SimulatedRun, simulate
from tune_core.trial import Status

EXTREMES: dict[str, Any] = {
    "beyond floats": 10**400,
    "below floats": -(10**400),
    "largest": 1.7e308,
    "smallest": -1.7e308,
    "infinite": math.inf,
    "minus infinite": -math.inf,
    "NaN": math.nan,
    "true": True,
    "missing": None,
}
MIXED = [*EXTREMES.values(), 0.5, 0.25, 1, 0]


def a_population(kind: type[PopulationBasedTraining], **options: Any) -> PopulationBasedTraining:
    return kind(
        "training_iteration",
        perturbation_interval=1,
        quantile_fraction=0.5,
        require_attrs=False,
        seed=1,
        **options,
    )


PARTS: dict[str, Callable[[], TrialScheduler | Searcher | Stopper]] = {
    "ASHA": lambda: AsyncHyperBandScheduler(max_t=6, reduction_factor=2, seed=1),
    "HyperBand": lambda: HyperBandScheduler(max_t=4, reduction_factor=2),
    "HyperBand for BOHB": lambda: HyperBandForBOHB(max_t=4, reduction_factor=2),
    "promoting ASHA": lambda: AsyncHyperBandScheduler(max_t=6, reduction_factor=2, seed=1, type="promotion"),
    "Optuna's median pruner": lambda: OptunaPruner("median", {"n_startup_trials": 1}),
    "Optuna's Wilcoxon pruner": lambda: OptunaPruner("wilcoxon", {"p_threshold": 0.5}),
    "Optuna's Hyperband pruner": lambda: OptunaPruner("hyperband", {"max_resource": 5}),
    "median rule": lambda: MedianStoppingRule("training_iteration", grace_period=1, min_samples_required=1),
    "median rule by turns": lambda: MedianStoppingRule(
        "training_iteration", grace_period=1, min_samples_required=9, min_time_slice=1, hard_stop=False
    ),
    "BOHB": lambda: TuneBOHB(seed=1, bohb_config={"random_fraction": 0}),
    "PBT": lambda: a_population(PopulationBasedTraining, hyperparam_mutations={"x": tune.uniform(0, 1)}),
    "PBT, together": lambda: a_population(
        PopulationBasedTraining, hyperparam_mutations={"x": tune.uniform(0, 1)}, synch=True
    ),
    "PB2": lambda: a_population(PB2, hyperparam_bounds={"x": [0, 1]}),
    "Optuna": lambda: OptunaSearch(seed=1),
    "repeater": lambda: Repeater(OptunaSearch(seed=1), 2),
    "trial plateau": lambda: TrialPlateauStopper("loss", grace_period=1, metric_threshold=1, mode="min"),
    "bound": lambda: DictStopper({"loss": 0.4}),
}


def run(part: Any, curve: Callable[[dict[str, Any], int], dict[str, Any]], **options: Any) -> SimulatedRun:
    searcher = part if isinstance(part, Searcher) else BasicVariantGenerator(random_state=1)
    scheduler = part if isinstance(part, TrialScheduler) else None
    return simulate(
        lambda config, iteration: (curve(config, iteration), 1.0),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", search_alg=searcher, scheduler=scheduler, num_samples=6
        ),
        run_config=tune.RunConfig(stop=part if isinstance(part, Stopper) else None),
        slots=2,
        iterations=5,
        **options,
    )


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("value", [*EXTREMES, "mixed"])
def test_experiment_ends_whatever_is_reported(name: str, value: str) -> None:
    def curve(config: dict[str, Any], iteration: int) -> dict[str, Any]:
        number = MIXED[(iteration * 7 + int(config["x"] * 1000)) % len(MIXED)]
        return {"loss": number if value == "mixed" else EXTREMES[value]}

    ended = run(PARTS[name](), curve)

    assert ended.reason.startswith("every trial is finished")
    assert all(trial.is_finished() for trial in ended.trials)


@pytest.mark.parametrize("value", [*EXTREMES, "mixed"])
def test_plateau_of_the_experiment_copes_with_what_is_reported(value: str) -> None:
    """It needs the metric: without it is an error of its own."""
    values = [number for number in MIXED if number is not None]
    stopper = ExperimentPlateauStopper("loss", top=3)

    for step in range(40):
        number = values[step % len(values)] if value == "mixed" else EXTREMES[value] or 0
        stopper("t0", {"loss": number})

    assert stopper.iterations >= 0


@pytest.mark.parametrize("value", EXTREMES)
@pytest.mark.parametrize("hard_stop", [True, False])
@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_median_rule_comes_to_an_end_whatever_the_time_is(
    value: str, hard_stop: bool, checkpoint_every: int
) -> None:
    rule = MedianStoppingRule(
        "t", grace_period=0, min_samples_required=9, min_time_slice=0, hard_stop=hard_stop
    )

    ended = run(
        rule, lambda config, iteration: {"loss": 1.0, "t": EXTREMES[value]}, checkpoint_every=checkpoint_every
    )

    assert {trial.status for trial in ended.trials} == {Status.TERMINATED}
    assert max(trial.attempt_number for trial in ended.trials) < 10


@pytest.mark.parametrize("value", EXTREMES)
@pytest.mark.parametrize("kind", [HyperBandForBOHB, HyperBandScheduler])
@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_hyperband_comes_to_an_end_whatever_the_time_is(
    value: str, kind: type[HyperBandScheduler], checkpoint_every: int
) -> None:
    ended = run(
        kind("t", max_t=4, reduction_factor=2),
        lambda config, iteration: {"loss": config["x"], "t": EXTREMES[value]},
        checkpoint_every=checkpoint_every,
    )

    assert ended.reason == "every trial is finished"
    assert {trial.status for trial in ended.trials} == {Status.TERMINATED}


class Unfair(TrialScheduler):
    """Pauses each trial that reports: one that saves nothing starts over each time."""

    def on_trial_result(self, trials: Any, trial: Any, result: dict[str, Any]) -> Any:
        return self.PAUSE


class Copying(TrialScheduler):
    """Stops the first trial, and lets every other one go on from there, for ever."""

    def on_trial_result(self, trials: Any, trial: Any, result: dict[str, Any]) -> Any:
        return self.STOP if trial.number == 0 else Exploit(trials[0], trial.config)


@pytest.mark.parametrize(
    ("scheduler", "word", "checkpoint_every"), [(Unfair, "PAUSE", 0), (Copying, "EXPLOIT", 1)]
)
def test_trial_that_is_never_let_to_progress_ends_with_an_error(
    scheduler: type[TrialScheduler], word: str, checkpoint_every: int
) -> None:
    ended = run(scheduler(), lambda config, iteration: {"loss": 1.0}, checkpoint_every=checkpoint_every)

    failed = [trial for trial in ended.trials if trial.status is Status.ERROR]
    assert len(failed) >= 5
    assert f"it makes no progress: 101 attempts in a row ended with {word}" in str(failed[0].error)
    assert "past iteration" in str(failed[0].error)
    assert failed[0].attempt_number <= 110


def test_trial_that_progresses_a_step_at_a_time_may_be_paused_for_ever() -> None:
    ended = simulate(
        lambda config, iteration: ({"loss": 1.0}, 1.0),
        tune_config=tune.TuneConfig(num_samples=2, scheduler=Unfair()),
        slots=1,
        iterations=300,
    )

    assert {(trial.status, trial.iteration) for trial in ended.trials} == {(Status.TERMINATED, 300)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5),
        (3, 3.0),
        (False, 0.0),
        (10**400, math.inf),
        (-(10**400), -math.inf),
        ("1", None),
        (None, None),
        ([], None),
        (1j, None),
    ],
)
def test_comparable(value: Any, expected: float | None) -> None:
    assert comparable(value) == expected
