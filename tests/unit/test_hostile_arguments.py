"""Numbers that no argument can mean are refused when an object is made: none hangs, none fails later."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.schedulers import (
    PB2,
    AsyncHyperBandScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter, Repeater, Searcher
from tune_core.search.bohb import TuneBOHB
from tune_core.search.optuna import OptunaSearch
from tune_core.stopper import (
    ExperimentPlateauStopper,
    MaximumIterationStopper,
    Stopper,
    TimeoutStopper,
    TrialPlateauStopper,
)
from tune_core.testing.simulator import simulate

HOSTILE = (
    0,
    -1,
    1,
    2,
    2**63,
    10**400,
    -(10**400),
    math.nan,
    math.inf,
    -math.inf,
    1.7e308,
    5e-324,
    1 + 1e-12,
    True,
    "1",
)
TIMED: dict[str, Any] = {
    "time_attr": "training_iteration",
    "perturbation_interval": 1,
    "quantile_fraction": 0.5,
}
POPULATION: dict[str, Any] = {
    **TIMED,
    "hyperparam_mutations": {"x": tune.uniform(0, 1)},
    "require_attrs": False,
}
MADE: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "ASHA": (AsyncHyperBandScheduler, (), {}),
    "HyperBand": (HyperBandScheduler, (), {}),
    "HyperBand for BOHB": (HyperBandForBOHB, (), {}),
    "promoting ASHA": (AsyncHyperBandScheduler, (), {"type": "promotion"}),
    "median rule": (MedianStoppingRule, (), {"time_attr": "training_iteration"}),
    "PBT": (PopulationBasedTraining, (), POPULATION),
    "PBT, together": (PopulationBasedTraining, (), {**POPULATION, "synch": True}),
    "PB2": (PB2, (), {**TIMED, "hyperparam_bounds": {"x": [0, 1]}}),
    "basic": (BasicVariantGenerator, (), {}),
    "limiter": (
        lambda **options: ConcurrencyLimiter(BasicVariantGenerator(), **options),
        (),
        {"max_concurrent": 2},
    ),
    "repeater": (lambda **options: Repeater(OptunaSearch(seed=1), **options), (), {}),
    "Optuna": (OptunaSearch, (), {}),
    "BOHB": (TuneBOHB, (), {}),
    "iterations": (MaximumIterationStopper, (), {"max_iter": 2}),
    "timeout": (TimeoutStopper, (), {"timeout": 60}),
    "trial plateau": (TrialPlateauStopper, ("loss",), {"mode": "min", "metric_threshold": 1}),
    "experiment plateau": (ExperimentPlateauStopper, ("loss",), {}),
}
NUMBERS = {
    "ASHA": ("max_t", "grace_period", "reduction_factor", "brackets", "seed"),
    "HyperBand": ("max_t", "reduction_factor"),
    "HyperBand for BOHB": ("max_t", "reduction_factor"),
    "promoting ASHA": ("max_t", "grace_period", "reduction_factor", "brackets", "seed"),
    "median rule": ("grace_period", "min_samples_required", "min_time_slice"),
    "PBT": ("perturbation_interval", "burn_in_period", "quantile_fraction", "resample_probability", "seed"),
    "PBT, together": (
        "perturbation_interval",
        "burn_in_period",
        "quantile_fraction",
        "resample_probability",
        "seed",
    ),
    "PB2": ("perturbation_interval", "quantile_fraction", "seed"),
    "basic": ("max_concurrent", "random_state"),
    "limiter": ("max_concurrent",),
    "repeater": ("repeat",),
    "Optuna": ("seed",),
    "BOHB": ("seed", "max_concurrent"),
    "iterations": ("max_iter",),
    "timeout": ("timeout",),
    "trial plateau": ("std", "num_results", "grace_period", "metric_threshold"),
    "experiment plateau": ("std", "top", "patience"),
}
CASES = [(name, argument) for name, arguments in NUMBERS.items() for argument in arguments]


@pytest.mark.parametrize(("name", "argument"), CASES, ids=[".".join(case) for case in CASES])
def test_number_is_refused_at_once_or_the_experiment_ends(name: str, argument: str) -> None:
    make, given, options = MADE[name]
    for value in HOSTILE:
        try:
            part = make(*given, **{**options, argument: value})
        except ConfigError as error:
            assert argument in str(error)  # noqa: PT017 - which values are refused is each argument's own affair
            continue
        ended = simulate(
            lambda config, iteration: ({"loss": config["x"] / iteration}, 1.0),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                num_samples=2,
                search_alg=part if isinstance(part, Searcher) else BasicVariantGenerator(random_state=1),
                scheduler=part if isinstance(part, TrialScheduler) else None,
            ),
            run_config=tune.RunConfig(stop=part if isinstance(part, Stopper) else None),
            slots=1,
            iterations=3,
        )
        assert all(trial.is_finished() for trial in ended.trials), value


def test_every_argument_that_may_be_a_number_is_tried() -> None:
    kinds = {
        "ASHA": AsyncHyperBandScheduler,
        "HyperBand": HyperBandScheduler,
        "HyperBand for BOHB": HyperBandForBOHB,
        "promoting ASHA": AsyncHyperBandScheduler,
        "median rule": MedianStoppingRule,
        "PBT": PopulationBasedTraining,
        "PBT, together": PopulationBasedTraining,
        "PB2": PB2,
        "basic": BasicVariantGenerator,
        "limiter": ConcurrencyLimiter,
        "repeater": Repeater,
        "Optuna": OptunaSearch,
        "BOHB": TuneBOHB,
        "iterations": MaximumIterationStopper,
        "timeout": TimeoutStopper,
        "trial plateau": TrialPlateauStopper,
        "experiment plateau": ExperimentPlateauStopper,
    }
    for name, kind in kinds.items():
        numbers = {
            argument
            for argument, each in inspect.signature(kind).parameters.items()
            if "int" in str(each.annotation).split(" | ") or "float" in str(each.annotation).split(" | ")
        }
        assert numbers == set(NUMBERS[name]), name


@pytest.mark.parametrize(
    "options",
    [{"brackets": 2**63}, {"reduction_factor": 1 + 1e-12}, {"max_t": 1.7e308, "reduction_factor": 1.001}],
)
def test_more_rungs_or_brackets_than_anybody_needs_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="1000"):
        AsyncHyperBandScheduler(**options)


def test_rungs_reach_from_the_smallest_float_to_the_largest() -> None:
    scheduler = AsyncHyperBandScheduler(grace_period=5e-324, max_t=1.7e308, reduction_factor=10)

    assert all(0 < rung.time <= 1.7e308 for rung in scheduler._brackets[0].rungs)
