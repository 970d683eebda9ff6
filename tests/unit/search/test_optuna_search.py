"""Optuna behind ask and tell: what it is asked, what it is told, and that a resume changes nothing."""

from __future__ import annotations

import json
import logging
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.results.analysis import ExperimentAnalysis
from tune_core.results.result_grid import Result, ResultGrid
from tune_core.schedulers import AsyncHyperBandScheduler
from tune_core.search import ConcurrencyLimiter, Suggestion, create_searcher
from tune_core.search.optuna import OptunaSearch
from tune_core.search.optuna.conversion import parameters_of
from tune_core.search.sample import Domain
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.simulator import simulate
from tune_core.trial import Status

SPACE = {"x": tune.uniform(-10, 10), "net": {"width": tune.randint(1, 100)}, "epochs": 3}


def a_search(param_space: dict[str, Any] | None = None, /, **options: Any) -> OptunaSearch:
    search = OptunaSearch(**{"metric": "loss", "mode": "min", "seed": 1, **options})
    search.set_search_properties(None, None, SPACE if param_space is None else param_space, num_samples=10)
    return search


def config_of(answer: Any) -> dict[str, Any]:
    return answer.config if isinstance(answer, Suggestion) else answer


def step(search: OptunaSearch, number: int) -> dict[str, Any]:
    """Run one trial whose loss follows from its configuration."""
    config = config_of(search.suggest(f"t{number}"))
    search.on_trial_result(f"t{number}", {"loss": 100.0, "training_iteration": 1})
    search.on_trial_complete(f"t{number}", {"loss": config["x"] ** 2, "training_iteration": 2})
    return config


# What Optuna is asked.


@pytest.mark.parametrize(
    ("domain", "distribution"),
    [
        (tune.uniform(0, 2), FloatDistribution(0, 2)),
        (tune.quniform(0, 2, 0.5), FloatDistribution(0, 2, step=0.5)),
        (tune.loguniform(1e-3, 1), FloatDistribution(1e-3, 1, log=True)),
        (tune.randint(0, 10), IntDistribution(0, 9)),
        (tune.qrandint(1, 12, 4), IntDistribution(4, 12, step=4)),
        (tune.qrandint(1, 12, 1), IntDistribution(1, 11)),
        (tune.lograndint(1, 100), IntDistribution(1, 99, log=True)),
        (tune.choice(["a", 2, None, 0.5, True]), CategoricalDistribution(("a", 2, None, 0.5, True))),
        # What Optuna has no words for goes by an index.
        (tune.qloguniform(0.5, 8, 0.5), IntDistribution(1, 16, log=True)),
        (tune.qlograndint(2, 64, 2), IntDistribution(1, 32, log=True)),
        (tune.choice([[1, 2], [3]]), CategoricalDistribution((0, 1))),
        (tune.choice([1, True]), CategoricalDistribution((0, 1))),
    ],
    ids=repr,
)
def test_every_sampler_has_a_distribution(domain: Domain, distribution: Any) -> None:
    (parameter,) = parameters_of({"a": {"b": domain}}, "param_space")

    assert (parameter.name, parameter.distribution) == ("a/b", distribution)
    for seed in range(20):
        value = domain.sample(random.Random(seed))
        assert distribution._contains(distribution.to_internal_repr(parameter.encode(value)))
        assert parameter.decode(parameter.encode(value)) == value


def test_what_optuna_cannot_decide_is_named_together() -> None:
    space = {"a": tune.grid_search([1, 2]), "b": {"c": tune.randn()}, "d": tune.uniform(0, 1)}

    with pytest.raises(
        ConfigError, match=r"2 faults: .*param_space\['a'\]: .*does not walk grids.*\['b/c'\]: randn\(0"
    ):
        a_search(space)


def test_space_without_a_sampler_is_refused() -> None:
    with pytest.raises(ConfigError, match="param_space has no sampler"):
        a_search({"x": 1})


def test_suggestion_has_constants_and_functions_of_the_space() -> None:
    space = {"x": tune.uniform(0, 1), "twice": tune.sample_from(lambda config: 2 * config["x"]), "n": [1, 2]}

    answer = a_search(space).suggest("t0")

    assert isinstance(answer, Suggestion)
    assert answer.config["twice"] == 2 * answer.config["x"]
    assert answer.config["n"] == [1, 2]
    assert set(answer.varied) == {"x", "twice"}


def test_distributions_may_be_nested_or_named_by_their_path() -> None:
    space = {
        "lr": FloatDistribution(0, 1),
        "net": {"width": IntDistribution(1, 9)},
        "a/b": IntDistribution(1, 9),
    }

    config = config_of(a_search({"epochs": 3}, space=space).suggest("t0"))

    assert set(config) == {"lr", "net", "a"}
    assert 1 <= config["net"]["width"] <= 9
    assert 1 <= config["a"]["b"] <= 9


def test_space_of_its_own_may_hold_samplers() -> None:
    search = a_search({"epochs": 3}, space={"x": tune.uniform(5, 6), "fixed": 1})

    config = search.suggest("t0")

    assert isinstance(config, dict)  # to which the experiment adds what param_space has
    assert 5 <= config["x"] <= 6
    assert config["fixed"] == 1


def test_function_of_a_trial_defines_the_space_as_it_runs() -> None:
    def define(trial: Any) -> dict[str, Any]:
        kind = trial.suggest_categorical(name="kind", choices=["sgd", "adam"])
        if kind == "sgd":
            trial.suggest_float("net/momentum", 0, 1)
        return {"number": trial.number}

    search = a_search({}, space=define, dedupe=False)
    configs = [config_of(search.suggest(f"t{number}")) for number in range(8)]

    assert {config["kind"] for config in configs} == {"sgd", "adam"}
    assert all(("net" in config) == (config["kind"] == "sgd") for config in configs)
    assert [config["number"] for config in configs] == list(range(8))


@pytest.mark.parametrize("returned", [3, ["a"], {1: 2}])
def test_function_that_returns_no_constants_is_refused(returned: Any) -> None:
    with pytest.raises(ConfigError, match=r"function of the space returned .*: expected None, or a dict"):
        a_search({}, space=lambda trial: returned).suggest("t0")


def test_search_learns() -> None:
    search = a_search({"x": tune.uniform(-10, 10)})

    losses = [step(search, number)["x"] ** 2 for number in range(40)]

    assert sum(losses[20:]) / 20 < sum(losses[:10]) / 10 / 3


# What it is told.


def test_results_become_values_and_intermediate_values() -> None:
    search = a_search()
    search.suggest("t0")

    for iteration, loss in [(1, 3.0), (2, 2.0), (2, 7.0), (3, math.nan)]:
        search.on_trial_result("t0", {"loss": loss, "training_iteration": iteration})
    search.on_trial_complete("t0", {"loss": 1.5})

    (trial,) = search.study.trials
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 1.5)
    assert trial.intermediate_values == {1: 3.0, 2: 2.0}
    assert trial.user_attrs == {"trial_id": "t0"}


def test_trial_that_was_stopped_early_is_pruned_at_its_last_step() -> None:
    search = a_search()
    search.suggest("t0")
    search.on_trial_result("t0", {"loss": 3.0, "training_iteration": 1})

    search.on_trial_stopped_early("t0", {"loss": 2.0, "training_iteration": 2})

    (trial,) = search.study.trials
    assert (trial.state, trial.value, trial.last_step) == (TrialState.PRUNED, 2.0, 2)
    assert trial.intermediate_values == {1: 3.0, 2: 2.0}


def test_trial_of_several_metrics_that_was_stopped_early_keeps_its_values() -> None:
    search = a_search(metric=["loss", "size"], mode=["min", "min"])
    search.suggest("t0")

    search.on_trial_stopped_early("t0", {"loss": 2.0, "size": 5, "training_iteration": 2})

    (trial,) = search.study.trials
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [2.0, 5.0])


@pytest.mark.parametrize("limit", [0, 1])
def test_study_knows_which_trials_a_scheduler_has_stopped_below_its_full_budget(limit: int) -> None:
    search = OptunaSearch(seed=1)
    run = simulate(
        lambda config, step: ({"loss": config["x"] / step}, 1.0),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=12,
            search_alg=ConcurrencyLimiter(search, limit) if limit else search,
            scheduler=AsyncHyperBandScheduler(max_t=4, reduction_factor=2, seed=1),
        ),
        slots=1,
        iterations=9,
    )

    told = [(trial.state, trial.last_step) for trial in search.study.trials]
    wanted = [
        (TrialState.COMPLETE, 3) if trial.iteration == 4 else (TrialState.PRUNED, trial.iteration)
        for trial in run.trials
    ]
    assert told == wanted
    assert {state for state, _ in told} == {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.parametrize(
    ("stop", "iterations", "state"),
    [({"training_iteration": 3}, 9, TrialState.COMPLETE), (None, 3, TrialState.COMPLETE)],
)
def test_trial_that_comes_to_its_own_end_or_a_stop_rule_is_complete(
    stop: Any, iterations: int, state: TrialState
) -> None:
    search = OptunaSearch(seed=1)
    simulate(
        lambda config, step: ({"loss": config["x"] / step}, 1.0),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=3, search_alg=search),
        run_config=tune.RunConfig(stop=stop),
        iterations=iterations,
    )

    assert [trial.state for trial in search.study.trials] == [state] * 3


@pytest.mark.parametrize(
    ("result", "error", "state"),
    [
        (None, True, TrialState.FAIL),
        (None, False, TrialState.PRUNED),
        ({"loss": math.nan}, False, TrialState.PRUNED),
        ({"other": 1}, True, TrialState.FAIL),
        ({"loss": "low"}, False, TrialState.PRUNED),
        ({"loss": math.inf}, False, TrialState.COMPLETE),
        ({"loss": 1}, True, TrialState.FAIL),
    ],
)
def test_trial_without_a_value_was_pruned_or_has_failed(result: Any, error: bool, state: TrialState) -> None:
    search = a_search()
    search.suggest("t0")

    search.on_trial_complete("t0", result, error=error)

    assert search.study.trials[0].state == state


def test_nested_metric_is_found() -> None:
    search = a_search(metric="eval/loss")
    search.suggest("t0")

    search.on_trial_complete("t0", {"eval": {"loss": 0.5}})

    assert search.study.best_value == 0.5


def test_mode_alone_means_the_number_that_a_trainable_returns() -> None:
    search = a_search(metric=None, mode="max")
    search.suggest("t0")

    search.on_trial_complete("t0", {"_metric": 0.5})

    assert (search.metric, search.study.best_value) == ("_metric", 0.5)
    assert search.study.direction == optuna.study.StudyDirection.MAXIMIZE


def test_several_metrics_are_optimised_together() -> None:
    search = a_search(metric=["loss", "speed"], mode=["min", "max"])
    for name, result in [("a", {"loss": 1.0, "speed": 5.0}), ("b", {"loss": 1.0}), ("c", None)]:
        search.suggest(name)
        search.on_trial_result(name, {"loss": 9.0, "speed": 9.0, "training_iteration": 1})
        search.on_trial_complete(name, result)

    states = [trial.state for trial in search.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert search.study.trials[0].values == [1.0, 5.0]
    assert [direction.name for direction in search.study.directions] == ["MINIMIZE", "MAXIMIZE"]


# Points.


def test_trials_of_elsewhere_are_known_before_the_first_suggestion_and_after_a_resume() -> None:
    results = [
        Result(
            {"trial_id": str(x), "loss": float(x), "config": {"x": x, "net": {"width": 5}, "epochs": 3}},
            None,
            None,
            "/t",
        )
        for x in (3, 2)
    ]
    for result in results:
        result.status = Status.TERMINATED
    search = OptunaSearch(metric="loss", mode="min", seed=1)
    search.add_evaluated_trials(ExperimentAnalysis.of(ResultGrid(results, "/t"), "loss", "min"), "loss")
    search.set_search_properties(None, None, SPACE, num_samples=10)
    again = a_search()
    again.set_state(json.loads(json.dumps(search.get_state())))

    for each in (search, again):
        assert [(trial.params, trial.value) for trial in each.study.trials] == [
            ({"x": 3.0, "net/width": 5}, 3.0),
            ({"x": 2.0, "net/width": 5}, 2.0),
        ]
    assert config_of(search.suggest("t0")) == config_of(again.suggest("t0"))


def test_trials_of_elsewhere_without_the_metric_are_refused() -> None:
    result = Result({"trial_id": "1", "config": {"x": 1}}, None, None, "/t")
    result.status = Status.TERMINATED

    with pytest.raises(ConfigError, match="none of 1 trials has ended and reported 'loss'"):
        a_search().add_evaluated_trials(ExperimentAnalysis.of(ResultGrid([result], "/t")), "loss")
    with pytest.raises(ConfigError, match="'t0' is no trial"):
        a_search().add_evaluated_trials(["t0"], "loss")


def test_what_is_within_a_choice_is_a_conditional_parameter() -> None:
    sgd = {"name": "sgd", "momentum": tune.uniform(0, 1)}
    search = a_search({"opt": tune.choice([sgd, {"name": "adam"}]), "lr": tune.loguniform(1e-3, 1)})
    configs = [config_of(search.suggest(f"t{number}")) for number in range(20)]

    for config, trial in zip(configs, search.study.trials, strict=True):
        if config["opt"]["name"] == "sgd":
            assert trial.params == {"opt": 0, "opt.0/momentum": config["opt"]["momentum"], "lr": config["lr"]}
        else:
            assert trial.params == {"opt": 1, "lr": config["lr"]}
    assert {config["opt"]["name"] for config in configs} == {"sgd", "adam"}


def test_sampler_learns_what_is_within_a_choice() -> None:
    space = {"opt": tune.choice([{"name": "sgd", "momentum": tune.uniform(0, 1)}, {"name": "adam"}])}
    search = a_search(space)
    for number in range(60):
        opt = config_of(search.suggest(f"t{number}"))["opt"]
        loss = abs(opt["momentum"] - 0.8) if opt["name"] == "sgd" else 1.0
        search.on_trial_complete(f"t{number}", {"loss": loss, "training_iteration": 1})

    ran = [trial for trial in search.study.trials if trial.state is TrialState.COMPLETE]
    last = [trial.params.get("opt.0/momentum", -9) for trial in ran[-20:]]
    assert sum(abs(momentum - 0.8) < 0.2 for momentum in last) > 10  # at random it would be 4


def test_points_reach_into_choices() -> None:
    space = {"opt": tune.choice([{"name": "sgd", "momentum": tune.uniform(0, 1)}, {"name": "adam"}])}
    search = a_search(space, points_to_evaluate=[{"opt": {"name": "sgd", "momentum": 0.25}}])

    assert config_of(search.suggest("t0")) == {"opt": {"name": "sgd", "momentum": 0.25}}
    assert search.study.trials[0].params == {"opt": 0, "opt.0/momentum": 0.25}
    with pytest.raises(ConfigError, match="is none of"):
        a_search(space, points_to_evaluate=[{"opt": {"name": "sgd", "momentum": 1.25}}])


def test_configuration_is_suggested_once_and_the_search_ends_when_all_have_been(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    search = a_search({"a": tune.choice(["x", "y", "z"]), "b": tune.randint(0, 3)})
    found = []
    for number in range(30):
        answer = search.suggest(f"t{number}")
        if answer == search.FINISHED:
            break
        found.append(tuple(config_of(answer).values()))
        search.on_trial_complete(f"t{number}", {"loss": float(found[-1][0] != "x")})

    assert len(found) == len(set(found)) == 9
    assert search.suggest("t31") == search.FINISHED
    assert "all 9 configurations of the search space have been suggested" in caplog.text


def test_configuration_is_suggested_again_if_that_is_asked_for() -> None:
    space = {"a": tune.choice(["x", "y"])}
    again = a_search(space, dedupe=False)
    given = a_search(space, points_to_evaluate=[{"a": "x"}, {"a": "x"}])

    assert {config_of(again.suggest(f"t{number}"))["a"] for number in range(9)} == {"x", "y"}
    assert [config_of(given.suggest(f"t{number}"))["a"] for number in range(3)] == ["x", "x", "y"]


def test_what_a_function_makes_tells_configurations_apart() -> None:
    counts = iter(range(99))
    search = a_search({"a": tune.choice(["x", "y"]), "seed": tune.sample_from(lambda: next(counts))})

    assert all(search.suggest(f"t{number}") != search.FINISHED for number in range(9))


def test_constraints_are_told_and_unknown_ones_count_as_violated(caplog: pytest.LogCaptureFixture) -> None:
    search = a_search(constraints={"latency_ms": ("<=", 20), "eval/auc": [">=", 0.5]})
    for number in range(4):
        search.suggest(f"t{number}")

    search.on_trial_complete("t0", {"loss": 1.0, "latency_ms": 25, "eval": {"auc": 0.75}})
    search.on_trial_complete("t1", {"loss": 2.0, "latency_ms": 15, "eval": {"auc": 0.75}})
    search.on_trial_complete("t2", {"loss": 0.0, "latency_ms": 15})
    search.on_trial_stopped_early("t3", {"loss": 0.0, "training_iteration": 1})

    first, second, third, fourth = search.study.trials
    assert first.constraints == {"latency_ms": 5.0, "eval/auc": -0.25}
    assert second.constraints == {"latency_ms": -5.0, "eval/auc": -0.25}
    assert third.constraints == {"latency_ms": -5.0, "eval/auc": math.inf}
    assert fourth.constraints == {}
    assert search.study.best_trial.number == 1
    assert "trial t2 is complete and has not reported 'eval/auc'" in caplog.text


def test_auto_is_a_sampler_for_the_space_and_stays_the_same() -> None:
    pytest.importorskip("torch")
    numbers = a_search({"x": tune.uniform(0, 1)}, sampler="auto")
    mixed = a_search({"x": tune.choice(["a", "b"])}, sampler="auto")

    assert [search.get_state()["sampler"] for search in (numbers, mixed)] == ["gp", "tpe"]


def test_sampler_whose_package_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_core.search.optuna.samplers.find_spec", lambda name: None)

    with pytest.raises(ImportError, match=r"sampler='cmaes'\) needs cmaes.*prefect-tune\[cmaes\]"):
        OptunaSearch(sampler="cmaes")


def test_points_come_first_and_may_be_parts() -> None:
    points = [{"x": 1.5, "net": {"width": 7}}, {"net/width": 8}]
    search = a_search(points_to_evaluate=points)

    configs = [config_of(search.suggest(f"t{number}")) for number in range(3)]

    assert configs[0] == {"x": 1.5, "net": {"width": 7}, "epochs": 3}
    assert configs[1]["net"]["width"] == 8
    assert -10 <= configs[1]["x"] <= 10


def test_points_with_rewards_are_told_and_not_run() -> None:
    search = a_search(
        points_to_evaluate=[{"x": 1.5, "net": {"width": 7}}, {"x": 2.5, "net": {"width": 8}}],
        evaluated_rewards=[0.89, 0.42],
    )

    config = config_of(search.suggest("t0"))

    assert [trial.value for trial in search.study.trials] == [0.89, 0.42, None]
    assert search.study.best_params == {"x": 2.5, "net/width": 8}
    assert config["x"] not in (1.5, 2.5)


def test_points_of_several_metrics_may_have_rewards() -> None:
    search = a_search(
        metric=["a", "b"],
        mode=["min", "min"],
        points_to_evaluate=[{"x": 1.5, "net": {"width": 7}}],
        evaluated_rewards=[[1, 2]],
    )

    assert search.study.trials[0].values == [1.0, 2.0]


def test_point_that_was_tried_elsewhere_can_be_added() -> None:
    search = a_search()
    point = {"x": 1, "net": {"width": 2}}

    search.add_evaluated_point(point, 0.5)
    search.add_evaluated_point(point, None, error=True)
    search.add_evaluated_point(point, 0.7, pruned=True, intermediate_values=[0.9, 0.8])

    states = [trial.state for trial in search.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED]
    assert search.study.trials[2].intermediate_values == {0: 0.9, 1: 0.8}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"points_to_evaluate": [{"wdth": 1, "net": {}}]},
            r"points_to_evaluate\[0\]: the search space has no 'wdth'",
        ),
        (
            {"points_to_evaluate": [{"x": 1}], "evaluated_rewards": [1]},
            r"evaluated point .* lacks \['net/width'\]",
        ),
        (
            {"points_to_evaluate": [{"x": 99, "net": {"width": 2}}], "evaluated_rewards": [1]},
            r"evaluated point .*99.*: ",
        ),
    ],
)
def test_points_that_do_not_fit_the_space_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        a_search(**options)


def test_points_of_a_choice_of_lists_go_by_value() -> None:
    space = {"layers": tune.choice([[64], [64, 64]])}
    search = a_search(space, points_to_evaluate=[{"layers": [64, 64]}])

    assert config_of(search.suggest("t0")) == {"layers": [64, 64]}
    with pytest.raises(
        ConfigError, match=r"points_to_evaluate\[0\]: layers: \[1\] is none of \[\[64\], \[64, 64\]\]"
    ):
        a_search(space, points_to_evaluate=[{"layers": [1]}])


def test_points_with_rewards_need_a_space_that_is_known() -> None:
    with pytest.raises(ConfigError, match="the space is a function"):
        a_search({}, space=lambda trial: None, points_to_evaluate=[{"x": 1}], evaluated_rewards=[1])


# Seeds, and resuming.


def test_seed_repeats_a_search_and_another_seed_does_not() -> None:
    runs = []
    for seed in (1, 1, 2):
        search = a_search(seed=seed)
        runs.append([step(search, number) for number in range(15)])

    assert runs[0] == runs[1] != runs[2]


def test_search_without_a_seed_follows_pythons() -> None:
    runs = []
    for _ in range(2):
        random.seed(5)
        __import__("numpy").random.seed(5)
        runs.append(step(a_search(seed=None), 0))

    assert runs[0] == runs[1]


def test_resumed_search_without_a_seed_goes_on_with_the_seed_of_its_state() -> None:
    first, second = a_search(seed=None), a_search(seed=None)
    config = step(first, 0)

    second.set_state(first.get_state())
    second.on_suggestion_replayed("t0", config)
    second.on_trial_complete("t0", {"loss": config["x"] ** 2})

    assert step(second, 1) == step(first, 1)


def test_replay_of_trials_that_overlapped_gives_the_same_study() -> None:
    first, second = a_search(), a_search()
    configs = {name: config_of(first.suggest(name)) for name in "abcdefghijklmn"}
    for name in "nac":
        first.on_trial_complete(name, {"loss": configs[name]["x"] ** 2})

    for name, config in configs.items():
        second.on_suggestion_replayed(name, config)
    for name in "nac":
        second.on_trial_complete(name, {"loss": configs[name]["x"] ** 2})

    assert second.suggest("o") == first.suggest("o")
    assert [trial.params for trial in second.study.trials] == [trial.params for trial in first.study.trials]


@pytest.mark.parametrize(
    ("space", "before"),
    [
        ({"layers": tune.choice([[1], [2]])}, {"layers": [7]}),
        ({"layers": tune.choice(["a", "b"])}, {"layers": "c"}),
        ({"layers": tune.uniform(0, 1)}, {"layers": 1.5}),
        ({"layers": tune.randint(0, 3)}, {}),
    ],
)
@pytest.mark.parametrize("sampler", [None, optuna.samplers.RandomSampler])
def test_replayed_value_that_is_in_the_space_no_more_is_not_learnt_from(
    space: dict[str, Any], before: dict[str, Any], sampler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    search = a_search(space, **({} if sampler is None else {"sampler": sampler(seed=1), "seed": None}))

    search.on_suggestion_replayed("t0", before)
    search.on_trial_complete("t0", {"loss": 1.0})

    fault = "'layers' of its configuration is not in the search space any more"
    fault = fault if before else "lacks 'layers', which the search space has now"
    assert f"trial t0: {fault}" in caplog.text
    assert [trial for trial in search.study.trials if trial.state == TrialState.COMPLETE] == []
    assert search.suggest("t1")


def test_function_that_has_a_category_no_more_does_not_learn_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    search = a_search({}, space=lambda trial: {"kind": trial.suggest_categorical("kind", ["a", "b"])})

    search.on_suggestion_replayed("t0", {"kind": "c"})
    search.on_trial_complete("t0", {"loss": 1.0})

    assert "trial t0" in caplog.text
    assert {trial.state for trial in search.study.trials} == {TrialState.FAIL}
    assert config_of(search.suggest("t1"))["kind"] in ("a", "b")


SAMPLERS = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=3),
    "grid": lambda seed: optuna.samplers.GridSampler({"x": [1, 2, 3, 4], "k": [5, 6]}, seed=seed),
    "quasi-random": lambda seed: optuna.samplers.QMCSampler(seed=seed),
}
SMALL = {"x": tune.randint(0, 100), "k": tune.randint(1, 10)}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_that_was_passed_with_a_seed_goes_on_after_a_resume(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def make(seed: int = 7) -> OptunaSearch:
        points = [{"x": 50, "k": 5}] if name != "grid" else None
        return a_search(SMALL, sampler=SAMPLERS[name](seed), seed=None, points_to_evaluate=points)

    first, second = make(), make()
    known = {f"t{number}": step(first, number) for number in range(5)}
    for trial_id, config in known.items():
        second.on_suggestion_replayed(trial_id, dict(config))
        second.on_trial_result(trial_id, {"loss": 100.0, "training_iteration": 1})
        second.on_trial_complete(trial_id, {"loss": config["x"] ** 2, "training_iteration": 2})

    assert [step(second, number) for number in (5, 6, 7)] == [step(first, number) for number in (5, 6, 7)]
    assert "suggests otherwise" not in caplog.text


def test_sampler_with_another_seed_goes_on_from_what_was_found_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = a_search(sampler=optuna.samplers.RandomSampler(seed=7), seed=None)
    known = {f"t{number}": step(first, number) for number in range(3)}
    second = a_search(sampler=optuna.samplers.RandomSampler(seed=8), seed=None)

    for trial_id, config in known.items():
        second.on_suggestion_replayed(trial_id, config)
        second.on_trial_complete(trial_id, {"loss": config["x"] ** 2})

    assert caplog.text.count("RandomSampler suggests otherwise for trial t0 than it did") == 1
    complete = [trial for trial in second.study.trials if trial.state == TrialState.COMPLETE]
    assert [trial.params["x"] for trial in complete] == [config["x"] for config in known.values()]


def test_sampler_does_not_draw_again_what_is_in_a_storage() -> None:
    storage = optuna.storages.InMemoryStorage()
    first = a_search(storage=storage, sampler=optuna.samplers.RandomSampler(seed=7), seed=None)
    known = {f"t{number}": step(first, number) for number in range(3)}
    second = a_search(storage=storage, sampler=optuna.samplers.RandomSampler(seed=7), seed=None)
    for trial_id, config in known.items():
        second.on_suggestion_replayed(trial_id, config)

    assert step(second, 3)["x"] not in [config["x"] for config in known.values()]


def test_sampler_that_ends_its_study_ends_the_search() -> None:
    def run(config: dict[str, Any]) -> None:
        tune.report({"loss": config["x"]})

    sampler = optuna.samplers.GridSampler({"x": [1, 2, 3]})
    search = OptunaSearch(sampler=sampler)
    tuner = tune.Tuner(
        run,
        param_space={"x": tune.randint(0, 10)},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", search_alg=search, num_samples=9, max_concurrent_trials=1
        ),
        run_config=tune.RunConfig(storage_path="memory://grid-sampler"),
    )

    results = LocalRuntime().run(tuner.experiment())

    assert sorted(result.config["x"] for result in results) == [1, 2, 3]
    assert search.suggest("another") == OptunaSearch.FINISHED


def test_study_in_a_storage_goes_on_and_a_replay_does_not_double_it() -> None:
    storage = optuna.storages.InMemoryStorage()
    first = a_search(storage=storage, study_name="mine")
    config = step(first, 0)
    second_config = config_of(first.suggest("t1"))

    second = a_search(storage=storage, study_name="mine")
    second.on_suggestion_replayed("t0", config)
    second.on_trial_complete("t0", {"loss": 1.0})
    second.on_suggestion_replayed("t1", second_config)
    second.on_trial_complete("t1", {"loss": 2.0})

    assert [trial.value for trial in second.study.trials] == [config["x"] ** 2, 2.0]


def test_sampler_of_ones_own_is_used(caplog: pytest.LogCaptureFixture) -> None:
    sampler = optuna.samplers.RandomSampler(seed=5)

    search = a_search(sampler=sampler, seed=1)
    search.suggest("t0")

    assert search.study.sampler is sampler
    assert "OptunaSearch(seed=1) is not used: give it to the sampler" in caplog.text


# Bad input, and the rest.


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"space": 3}, "space=3.*expected a dict of samplers"),
        ({"space": {}}, r"space=\{\}.*expected a dict"),
        ({"space": {"x": 3}}, r"space\['x'\]=3.*expected an Optuna distribution or a sampler"),
        ({"space": {"x": tune.grid_search([1])}}, r"space\['x'\]: OptunaSearch does not walk grids"),
        ({"sampler": 5}, "sampler=5.*expected a BaseSampler"),
        ({"sampler": "tpee"}, "sampler='tpee'.*expected one of 'tpe', .*did you mean"),
        (
            {"sampler": "tpe", "sampler_options": {"gama": 1}},
            "sampler_options.*no such argument.*did you mean 'gamma'",
        ),
        ({"sampler_options": {"n_startup_trials": "x"}}, "n_startup_trials.*expected a int"),
        ({"constraints": {"a": 5}}, r"constraints\['a'\]=5"),
        ({"dedupe": 1}, "dedupe=1"),
        ({"storage": "sqlite:///x.db"}, "storage: expected an optuna.storages.BaseStorage.*got str"),
        ({"seed": -1}, "seed=-1.*at least 0"),
        ({"study_name": ""}, "study_name=''"),
        ({"points_to_evaluate": {"x": 1}}, "points_to_evaluate=.*expected a list of dicts"),
        ({"points_to_evaluate": [1]}, "points_to_evaluate=.*expected a list of dicts"),
        ({"points_to_evaluate": [{"x": 1}], "evaluated_rewards": [1, 2]}, "evaluated_rewards=.*for each of"),
        ({"evaluated_rewards": 5}, "evaluated_rewards=5"),
        ({"metric": ["a", "b"], "mode": ["min", "obs"]}, "expected 'min' or 'max' for each metric"),
        ({"metric": ["a", "b"], "mode": ["min"]}, "expected two lists of one length"),
        ({"seed": "x", "study_name": 3}, "2 faults"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        OptunaSearch(**options)


def test_objective_that_nobody_gave_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"no metric, no mode: give metric and mode to it or to TuneConfig"):
        a_search(metric=None, mode=None)
    with pytest.raises(ConfigError, match=r"no space: give"):
        OptunaSearch(metric="loss", mode="min").suggest("t0")


def test_optuna_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger("optuna.study").level

    step(a_search(), 0)

    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("optuna.study").level == before


def test_without_optuna_the_error_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "from tune_core.search.optuna import OptunaSearch\n"
        "try: OptunaSearch()\n"
        "except ImportError as error: print(error)"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "OptunaSearch needs Optuna: run pip install 'prefect-tune[optuna]'\n"


def test_experiment_is_searched_by_optuna_and_repeats_under_its_seed(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for _ in range(2):
            tune.report({"loss": config["x"] ** 2})

    found = []
    for run in range(2):
        tuner = tune.Tuner(
            train,
            param_space=SPACE,
            tune_config=tune.TuneConfig(
                metric="loss", mode="min", num_samples=12, search_alg=create_searcher("Optuna", seed=4)
            ),
            run_config=tune.RunConfig(name=f"run{run}", storage_path=str(tmp_path), verbose=0),
        )
        found.append([result.config for result in LocalRuntime().run(tuner.experiment())])

    assert len(found[0]) == 12
    assert found[0] == found[1]


# By name.


@pytest.mark.parametrize(
    ("name", "kind"),
    [("optuna", OptunaSearch), ("OPTUNA", OptunaSearch), ("random", None), ("variant_generator", None)],
)
def test_searcher_is_made_by_its_name(name: str, kind: type | None) -> None:
    searcher = create_searcher(name, metric="loss", mode="min", not_an_argument=3)

    assert isinstance(searcher, kind or tune.search.BasicVariantGenerator)
    assert searcher.metric == ("loss" if kind else None)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("optna", "expected 'random', 'variant_generator', 'optuna', .*; did you mean 'optuna'"),
        ("hebo", "there is none here; expected .* or a Searcher of your own"),
        (3, r"create_searcher\(3\): expected"),
    ],
)
def test_name_of_no_searcher_is_refused(name: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        create_searcher(name)
