"""What Optuna's model sees while trials are stopped early: all of them at one step."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import tune_core as tune
from tune_core.schedulers import AsyncHyperBandScheduler
from tune_core.search.optuna import OptunaSearch
from tune_core.search.optuna.conversion import parameters_of
from tune_core.search.optuna.rungs import RungModel
from tune_core.testing.simulator import simulate

PARAMETERS = parameters_of({"x": tune.uniform(0, 99)}, "param_space")


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def model_of(lengths: list[int], *, running: int = 0) -> RungModel:
    """Trials that reported `x + step` up to these steps; the last ones still run, the longest is complete."""
    model = RungModel(PARAMETERS, "minimize")
    for number, length in enumerate(lengths):
        name = f"t{number}"
        model.note(name, {"x": float(number)})
        for step in range(1, length + 1):
            model.report(name, step, number + step, {})
        if number < len(lengths) - running:
            model.end(name, "complete" if length == max(lengths) else "early", number + length, {})
    return model


def seen(model: RungModel) -> list[tuple[TrialState, float | None]]:
    study: Any = model._study
    return [(trial.state, trial.value) for trial in study.trials]


def ask(model: RungModel, name: str = "new") -> dict[str, Any]:
    return model.ask(name, optuna.samplers.RandomSampler(seed=1), {})


def test_trials_are_compared_at_the_highest_step_that_enough_have_reached() -> None:
    model = model_of([9, 1, 3, 3, 3, 3, 3, 3, 3, 1])

    ask(model)

    assert seen(model) == [
        (TrialState.COMPLETE, 3),  # it has come to 9, where nobody else is
        (TrialState.PRUNED, 2),
        *((TrialState.COMPLETE, number + 3) for number in range(2, 9)),
        (TrialState.PRUNED, 10),
        (TrialState.RUNNING, None),
    ]


def test_trial_that_runs_counts_as_soon_as_it_reaches_that_step() -> None:
    model = model_of([1] * 9)
    model.note("late", {"x": 50.0})
    ask(model)
    assert [state for state, _ in seen(model)].count(TrialState.RUNNING) == 2

    model.report("late", 1, 4.0, {})

    assert (TrialState.COMPLETE, 4.0) in seen(model)


def test_all_are_seen_as_they_ended_until_enough_have_reported() -> None:
    model = model_of([4, 1, 2])

    ask(model)

    assert seen(model)[:3] == [(TrialState.COMPLETE, 4), (TrialState.PRUNED, 2), (TrialState.PRUNED, 4)]


def test_trial_that_failed_is_not_learnt_from() -> None:
    model = model_of([3, 1])
    model.note("bad", {"x": 1.0})
    model.report("bad", 1, 0.0, {})
    model.end("bad", "failed", None, {})

    ask(model)

    assert len(seen(model)) == 3  # two and the new one


def test_constraints_go_along() -> None:
    model = model_of([2] * 8 + [1])
    model.note("beyond", {"x": 1.0})
    model.report("beyond", 2, 0.0, {"latency_ms": 5.0})
    model.end("beyond", "complete", 0.0, {"latency_ms": 5.0})

    ask(model)

    study: Any = model._study
    assert study.trials[9].constraints == {"latency_ms": 5.0}


def test_search_with_a_scheduler_learns_where_the_values_are_low() -> None:
    search = OptunaSearch(seed=1)
    simulate(
        lambda config, step: ({"loss": (config["x"] - 30) ** 2 + 100 / step}, 1.0),
        param_space={"x": tune.uniform(0, 100)},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=60,
            search_alg=search,
            scheduler=AsyncHyperBandScheduler(max_t=9, reduction_factor=3),
        ),
        slots=4,
        iterations=9,
    )

    last = [trial.params["x"] for trial in search.study.trials[-20:]]
    assert sum(abs(x - 30) < 10 for x in last) > 10  # at random it would be 4
