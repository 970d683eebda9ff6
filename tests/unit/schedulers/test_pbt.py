"""Population based training: who takes over from whom, and what becomes of hyperparameters."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

import tune_core as tune
from tune_core.config.spec import REBUILDABLE, describe, rebuild_tune_config
from tune_core.errors import ConfigError
from tune_core.schedulers import Exploit, PopulationBasedTraining, create_scheduler
from tune_core.schedulers.mutations import explore, read_mutations
from tune_core.search import BasicVariantGenerator, Repeater
from tune_core.search.optuna import OptunaSearch
from tune_core.states import Decision
from tune_core.testing.scheduler_contract import SchedulerContract
from tune_core.testing.simulator import SimulatedRun, simulate
from tune_core.trial import Attempt, CheckpointRecord, Status, Trial
from tune_core.validation import Validator


class TestContract(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self) -> Any:
        return lambda: a_pbt(require_attrs=False)


class TestContractTogether(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self) -> Any:
        return lambda: a_pbt(require_attrs=False, synch=True)


def a_pbt(interval: float = 2, **options: Any) -> PopulationBasedTraining:
    mutations = {"x": tune.uniform(0, 1), "y": [0.1, 0.3, 0.5]}
    return PopulationBasedTraining(
        "training_iteration",
        perturbation_interval=interval,
        **{"hyperparam_mutations": mutations, "seed": 3, **options},
    )


def population(number: int, **config: Any) -> list[Trial]:
    """Trials that run, each with a checkpoint."""
    return [
        Trial(
            f"t{each}",
            each,
            {"lr": float(each), **config},
            status=Status.RUNNING,
            attempt=Attempt(),
            checkpoints=[CheckpointRecord(0, 1)],
        )
        for each in range(number)
    ]


def report(pbt: PopulationBasedTraining, trials: list[Trial], number: int, time: Any, score: Any) -> Any:
    return pbt.on_trial_result(trials, trials[number], {"training_iteration": time, "score": score})


def a_simple(mode: str = "max", interval: float = 1, **options: Any) -> PopulationBasedTraining:
    """One whose every draw has one outcome: a factor of 2."""
    fixed = {
        "resample_probability": 0.0,
        "perturbation_factors": (2.0,),
        "hyperparam_mutations": {"lr": lambda: -1.0},
    }
    return PopulationBasedTraining(
        "training_iteration", "score", mode, interval, **{**fixed, "seed": 1, **options}
    )


def config_of(answer: Any) -> dict[str, Any]:
    assert isinstance(answer, Exploit)
    assert callable(answer.config)
    return answer.config()


@pytest.mark.parametrize(
    ("number", "fraction", "size"),
    [
        (8, 0.25, 2),
        (5, 0.25, 2),
        (4, 0.25, 1),
        (3, 0.5, 1),
        (2, 0.25, 1),
        (2, 0.5, 1),
        (1, 0.5, 0),
        (9, 0, 0),
    ],
)
def test_quantiles_are_rounded_up_and_never_overlap(number: int, fraction: float, size: int) -> None:
    trials, pbt = population(number), a_simple(quantile_fraction=fraction)
    for each in range(number):
        report(pbt, trials, each, 1, each)

    replaced = [each for each in range(number) if isinstance(report(pbt, trials, each, 2, each), Exploit)]

    assert replaced == list(range(size))


@pytest.mark.parametrize(("mode", "replaced"), [("max", 0), ("min", 3)])
def test_worst_goes_on_from_the_best_with_its_perturbed_configuration(mode: str, replaced: int) -> None:
    trials, pbt = population(4, other="kept"), a_simple(mode)
    best = 3 - replaced
    for each in range(4):
        report(pbt, trials, each, 1, each)

    answer = report(pbt, trials, replaced, 2, replaced)

    assert answer.donor is trials[best]
    assert config_of(answer) == {"lr": 2.0 * best, "other": "kept"}
    assert trials[best].config == {"lr": float(best), "other": "kept"}, "the donor's own was changed"
    assert pbt.decision_reason(trials[replaced]) == {
        "value": replaced,
        "rank": 4,
        "of": 4,
        "donor": f"t{best}",
    }


def test_first_to_report_is_compared_with_nobody() -> None:
    trials, pbt = population(4), a_simple()

    answers = [report(pbt, trials, each, 1, score) for each, score in enumerate([1, 2, 3, 0])]

    assert [str(answer) for answer in answers[:3]] == ["CONTINUE"] * 3
    assert answers[3].donor is trials[2]


def test_trials_are_considered_once_in_each_interval_and_not_before_the_burn_in() -> None:
    trials, pbt = population(2), a_simple(interval=3, burn_in_period=5)
    for time in range(1, 12):
        report(pbt, trials, 1, time, 1)

    times = [time for time in range(1, 12) if isinstance(report(pbt, trials, 0, time, 0), Exploit)]

    assert times[:1] == [5]
    # It takes over when the other one was last considered, which is at 11.
    assert len(times) == 1


def test_who_exploits_is_considered_again_when_its_donor_is() -> None:
    trials, pbt = population(2), a_simple(interval=4)
    for time in (4, 5):
        report(pbt, trials, 1, time, 1)
    assert isinstance(report(pbt, trials, 0, 7, 0), Exploit)

    assert [isinstance(report(pbt, trials, 0, time, 0), Exploit) for time in (5, 7, 8)] == [
        False,
        False,
        True,
    ]


def test_diverged_trial_counts_as_the_worst_and_gives_nothing() -> None:
    trials, pbt = population(3), a_simple(quantile_fraction=0.5)
    report(pbt, trials, 0, 1, 5)
    report(pbt, trials, 1, 1, 7)

    assert report(pbt, trials, 2, 1, math.nan).donor is trials[1]

    alone = a_simple(quantile_fraction=0.5)
    report(alone, trials, 0, 1, math.nan)
    assert report(alone, trials, 1, 1, math.nan) == Decision.CONTINUE


def test_without_a_checkpoint_nobody_is_gone_on_from_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trials, pbt = population(2), a_simple()
    trials[1].checkpoints.clear()
    report(pbt, trials, 1, 1, 1)

    answers = [report(pbt, trials, 0, time, 0) for time in (1, 2)]

    assert [str(answer) for answer in answers] == ["CONTINUE"] * 2
    assert len(caplog.records) == 1
    assert "cannot go on from any of the best: there is no checkpoint" in caplog.text


def test_finished_trials_are_no_part_of_the_population() -> None:
    trials, pbt = population(3), a_simple()
    for each in range(3):
        report(pbt, trials, each, 1, each)
    pbt.on_trial_complete(trials, trials[2], {})

    assert report(pbt, trials, 0, 2, 0).donor is trials[1]
    pbt.on_trial_error(trials, trials[1])
    assert report(pbt, trials, 0, 9, 0) == Decision.CONTINUE


def test_trial_gives_way_to_one_that_has_come_less_far() -> None:
    trials, pbt = population(3), a_simple()
    trials[2].status = Status.PAUSED
    report(pbt, trials, 2, 4, 0)

    assert report(pbt, trials, 1, 4, 1) == Decision.CONTINUE, "it has come as far"
    assert report(pbt, trials, 1, 5, 1) == Decision.PAUSE
    trials[2].is_paused_by_user = True
    assert report(pbt, trials, 1, 6, 1) == Decision.CONTINUE, "somebody holds it"


def test_paused_trial_that_has_come_least_far_goes_on() -> None:
    trials, pbt = population(3), a_simple(quantile_fraction=0)
    for each, time in enumerate((6, 4, 9)):
        report(pbt, trials, each, time, 1)
        trials[each].status = Status.PAUSED

    assert pbt.choose_trial_to_run(trials) is trials[1]
    trials[1].status = Status.RUNNING
    assert pbt.choose_trial_to_run(trials) is trials[0]


def test_trial_that_leaves_anyway_is_not_decided_on() -> None:
    trials, pbt = population(2), a_simple()
    report(pbt, trials, 1, 1, 1)
    trials[0].live.decision = Decision.PAUSE

    assert report(pbt, trials, 0, 1, 0) == Decision.CONTINUE
    assert "2 in the population, 0 perturbs" in pbt.debug_string()


def test_best_trials_are_asked_to_save() -> None:
    trials, pbt = population(4), a_simple()
    for each in range(4):
        report(pbt, trials, each, 1, each)

    assert [pbt.wants_checkpoint(trial) for trial in trials] == [False, True, True, True]
    report(pbt, trials, 3, 1.5, 3)
    assert not pbt.wants_checkpoint(trials[3]), "not at every report"


# All together.


def wait(pbt: PopulationBasedTraining, trials: list[Trial], time: float, scores: list[float]) -> None:
    for each, score in enumerate(scores):
        assert report(pbt, trials, each, time, score) == Decision.PAUSE
        trials[each].status = Status.PAUSED


def test_all_wait_for_the_last_one_and_then_change_together() -> None:
    trials, pbt = population(4), a_simple(synch=True, quantile_fraction=0.5, interval=2)
    assert report(pbt, trials, 0, 1, 9) == Decision.CONTINUE
    wait(pbt, trials[:3], 2, [9, 1, 8])
    assert pbt.exploit_paused(trials) == {}
    assert pbt.choose_trial_to_run(trials) is None

    assert report(pbt, trials, 3, 3, 2) == Decision.PAUSE
    assert pbt.exploit_paused(trials) == {}, "the last one has not paused yet"
    trials[3].status = Status.PAUSED
    exploits = pbt.exploit_paused(trials)

    assert exploits.keys() == {"t1", "t3"}
    donors = {each.donor for each in exploits.values()}
    assert donors <= {trials[0], trials[2]}
    assert pbt.exploit_paused(trials) == {}, "once in each interval"
    assert pbt.choose_trial_to_run(trials) in (trials[0], trials[1], trials[2])
    for trial in trials:
        trial.status = Status.RUNNING
    assert report(pbt, trials, 0, 3, 1) == Decision.CONTINUE
    assert report(pbt, trials, 0, 4, 1) == Decision.PAUSE


def test_interval_that_is_shorter_than_an_iteration_ends_after_each() -> None:
    trials, pbt = population(2), a_simple(synch=True, interval=1)
    for time in (5, 10, 15):
        wait(pbt, trials, time, [1, 2])

        assert pbt.exploit_paused(trials).keys() == {"t0"}
        assert pbt.choose_trial_to_run(trials) is not None, "all would wait for ever"


def test_who_is_held_by_somebody_is_not_waited_for() -> None:
    trials, pbt = population(3), a_simple(synch=True)
    wait(pbt, trials[:2], 1, [1, 2])

    assert pbt.exploit_paused(trials[:2]).keys() == {"t0"}  # the policy shows those only


def test_trials_that_start_late_are_waited_for() -> None:
    run = a_run(a_pbt(synch=True, quantile_fraction=0.25), slots=2, num_samples=6, iterations=8)

    paused = {trial.trial_id: 0 for trial in run.trials}
    for row in run.rows:
        if row["training_iteration"] % 2 == 0:
            paused[row["trial_id"]] = row["training_iteration"]
            assert max(paused.values()) - min(paused.values()) <= 2


# What hyperparameters become.


def explored(config: dict[str, Any], mutations: dict[str, Any], resample: float = 0.0, seed: int = 0) -> Any:
    validator = Validator("test")
    read = read_mutations(validator, "mutations", mutations)
    validator.raise_any()
    return explore(config, read, random.Random(seed), resample_probability=resample, factors=[1.2, 0.8])


def outcomes(value: Any, mutation: Any, resample: float = 0.0) -> set[Any]:
    return {explored({"p": value}, {"p": mutation}, resample, seed)["p"] for seed in range(60)}


@pytest.mark.parametrize(
    ("value", "mutation", "expected"),
    [
        (20, [10, 20, 30], {10, 30}),
        (10, [10, 20, 30], {10, 20}),
        (30, (10, 20, 30), {20, 30}),
        (99, [10, 20, 30], {10, 20, 30}),
        ("b", ["a", "b", "c"], {"a", "c"}),
        (10, tune.randint(0, 99), {8, 12}),
        (1, tune.randint(0, 99), {1}),
        (10.0, tune.uniform(0, 1), {8.0, 12.0}),
        (10.0, lambda: 0.5, {8.0, 12.0}),
        (True, tune.choice([True, False]), {True}),
        (False, tune.choice([True, False]), {False}),
        (10, tune.choice([10, 20]), {8, 12}),
        ("a", tune.choice(["a", "b"]), {"a", "b"}),
        (None, [None, 1], {None, 1}),
    ],
)
def test_values_move_to_neighbours_or_by_a_factor(value: Any, mutation: Any, expected: set[Any]) -> None:
    found = outcomes(value, mutation)

    assert found == expected
    assert {type(each) for each in found} <= {type(each) for each in expected}


@pytest.mark.parametrize(
    ("value", "mutation", "expected"),
    [
        (20, [10, 20, 30], {10, 20, 30}),
        (True, tune.choice([True, False]), {True, False}),
        (10.0, lambda: 0.5, {0.5}),
        (10, tune.uniform(4, 6), {4, 5, 6}),
    ],
)
def test_values_are_drawn_anew(value: Any, mutation: Any, expected: set[Any]) -> None:
    assert outcomes(value, mutation, resample=1.0) == expected


def test_nested_parameters_change_and_others_stay() -> None:
    config = {"opt": {"lr": 10.0, "name": "adam"}, "net": {"layers": [8, 8]}, "seed": 1}

    changed = explored(config, {"opt": {"lr": tune.uniform(0, 1)}})

    assert changed["opt"]["lr"] in (8.0, 12.0)
    changed["opt"]["lr"] = 10.0
    changed["net"]["layers"].append(1)
    assert config == {"opt": {"lr": 10.0, "name": "adam"}, "net": {"layers": [8, 8]}, "seed": 1}


def test_lists_of_lists_have_neighbours_after_a_journal_too() -> None:
    assert tuple(explored({"p": [8, 8]}, {"p": [(4, 4), (8, 8)]})["p"]) in ((4, 4), (8, 8))
    assert {tuple(explored({"p": [8, 8]}, {"p": [(4, 4), (8, 8)]}, seed=s)["p"]) for s in range(30)} == {
        (4, 4),
        (8, 8),
    }


def test_samplers_may_be_data() -> None:
    validator = Validator("test")
    read = read_mutations(
        validator,
        "mutations",
        {
            "a": {"type": "loguniform", "lower": 1e-4, "upper": 0.1},
            "b": {"uniform": {"lower": 0, "upper": 1, "q": 0.5}},
            "c": {"choice": [1, 2]},
            "d": {"width": [1, 2], "uniform": {"choice": [3]}},
            "e": "math:sqrt",
            "f": {"uniform": tune.uniform(0, 1)},
        },
    )
    validator.raise_any()

    assert repr(read["a"]) == "loguniform(0.0001, 0.1)"
    assert repr(read["b"]) == "quniform(0.0, 1.0, 0.5)" or repr(read["b"]) == "quniform(0, 1, 0.5)"
    assert repr(read["c"]) == "choice([1, 2])"
    assert repr(read["d"]["uniform"]) == "choice([3])"
    assert read["e"] is math.sqrt
    assert repr(read["f"]["uniform"]) == "uniform(0, 1)"


def test_custom_function_has_the_last_word() -> None:
    trials = population(2)
    pbt = a_simple(custom_explore_fn=lambda config: {**config, "lr": config["lr"] + 0.5})
    report(pbt, trials, 1, 1, 1)

    assert config_of(report(pbt, trials, 0, 1, 0)) == {"lr": 2.5}


def test_custom_function_that_returns_nothing_is_named() -> None:
    trials, pbt = population(2), a_simple(custom_explore_fn=lambda config: None)
    report(pbt, trials, 1, 1, 1)

    with pytest.raises(ConfigError, match="custom_explore_fn returned None: expected the new configuration"):
        config_of(report(pbt, trials, 0, 1, 0))


def test_draws_follow_from_the_seed_alone() -> None:
    def drawn(pbt: PopulationBasedTraining) -> list[Any]:
        trials = population(6, x=1.0, y=0.3)
        answers = [report(pbt, trials, each, 2, each) for each in (5, 4, 3, 2, 1, 0)]
        found = [
            (answer.donor.trial_id, config_of(answer)) for answer in answers if isinstance(answer, Exploit)
        ]
        return [*found, pbt.fill_in(4, {})]

    saved = a_pbt(metric="score", mode="max", quantile_fraction=0.5, seed=None)
    other = a_pbt(metric="score", mode="max", quantile_fraction=0.5, seed=None)
    first = drawn(saved)
    assert first != drawn(other)
    again = a_pbt(metric="score", mode="max", quantile_fraction=0.5, seed=None)
    again.set_state(saved.get_state())

    assert drawn(again) == first


def test_parameters_that_the_space_leaves_out_are_drawn_and_shown() -> None:
    mutations = {"lr": tune.loguniform(1e-4, 1e-1), "net": {"width": [8], "depth": [2]}, "x": [7]}
    pbt = a_pbt(hyperparam_mutations=mutations)
    run = a_run(pbt, num_samples=3, param_space={"x": 1, "net": {"depth": 5}})

    first = run.trials[0]
    assert set(run.trials[0].config) == {"x", "net", "lr"}
    assert first.config["net"] == {"depth": 5, "width": 8}
    assert "lr=" in first.experiment_tag
    assert len({trial.config["lr"] for trial in run.trials}) > 1


# Whole experiments.


def a_run(pbt: PopulationBasedTraining, *, num_samples: int = 4, **options: Any) -> SimulatedRun:
    given = {"param_space": {"x": tune.uniform(0, 1), "y": 0.3}, "iterations": 6, "slots": 4, **options}
    return simulate(
        lambda config, iteration: ({"loss": config["x"] + 1 / iteration}, 1.0),
        tune_config=tune.TuneConfig(metric="loss", mode="min", scheduler=pbt, num_samples=num_samples),
        **given,
    )


def test_report_without_what_is_compared_by_ends_the_experiment() -> None:
    with pytest.raises(ConfigError, match=r"reported no number as score.*require_attrs=False"):
        report(a_simple(), population(1), 0, 1, None)
    with pytest.raises(ConfigError, match=r"reported no number as training_iteration and score"):
        report(a_simple(), population(1), 0, "x", None)

    assert report(a_simple(require_attrs=False), population(1), 0, 1, None) == Decision.CONTINUE


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"hyperparam_mutations": None},
            r"hyperparam_mutations=None\): expected some, or a custom_explore_fn",
        ),
        ({"hyperparam_mutations": [1]}, "expected a dict of parameter names"),
        ({"hyperparam_mutations": {"a": 1}}, r"hyperparam_mutations\['a'\]=1\): expected a list, a sampler"),
        ({"hyperparam_mutations": {"a": []}}, "expected at least one value"),
        ({"hyperparam_mutations": {"a": {}}}, "expected at least one mutation"),
        ({"hyperparam_mutations": {"a": {"b": {}}}}, r"\['a'\]\['b'\]"),
        ({"hyperparam_mutations": {"a": tune.uniform}}, "the sampler was not called"),
        ({"hyperparam_mutations": {"a": tune.sample_from(lambda: 1)}}, "sample_from is not supported"),
        ({"hyperparam_mutations": {"a": {"type": "unifrm", "lower": 0}}}, "did you mean 'uniform'"),
        ({"hyperparam_mutations": {"a": {"uniform": {"low": 0}}}}, r"hyperparam_mutations\['a'\]: uniform: "),
        ({"hyperparam_mutations": {"a": "no.such:thing"}}, "no.such:thing"),
        ({"hyperparam_mutations": {1: [1]}}, "parameter names that are strings"),
        ({"quantile_fraction": 0.6}, r"quantile_fraction=0.6\): expected a number from 0 to 0.5"),
        ({"quantile_fraction": -0.1}, "expected a number from 0 to 0.5"),
        ({"interval": 0}, r"perturbation_interval=0\): expected a number above 0"),
        ({"interval": math.nan}, "perturbation_interval=nan"),
        ({"burn_in_period": -1}, "burn_in_period=-1"),
        ({"resample_probability": 1.5}, r"resample_probability=1.5\): expected a number from 0 to 1"),
        ({"perturbation_factors": ()}, "perturbation_factors="),
        ({"perturbation_factors": (0, 1)}, "perturbation_factors="),
        ({"custom_explore_fn": 3}, "custom_explore_fn=3"),
        ({"custom_explore_fn": "no.such:thing"}, "custom_explore_fn: "),
        ({"synch": 1}, r"synch=1\): expected True or False"),
        ({"seed": -1}, "seed=-1"),
        ({"metric": "loss"}, "mode is missing"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        a_pbt(**options)


@pytest.mark.parametrize("searcher", [OptunaSearch(), Repeater(BasicVariantGenerator(), 2)])
def test_searchers_that_choose_are_refused(searcher: Any) -> None:
    with pytest.raises(ConfigError, match="PopulationBasedTraining changes hyperparameters by itself"):
        tune.TuneConfig(metric="loss", mode="min", scheduler=a_pbt(), search_alg=searcher)

    tune.TuneConfig(metric="loss", mode="min", scheduler=a_pbt(), search_alg=BasicVariantGenerator())


@pytest.mark.parametrize(
    ("space", "mutations", "fault"),
    [
        ({"learning_rate": 1}, {"learning_rat": [1]}, "did you mean 'learning_rate'"),
        ({"learning_rate": 1}, {"LearningRate": [1]}, "did you mean 'learning_rate'"),
        ({"net": {"width": 1}}, {"net": [1]}, "is one mutation, and param_space has parameters below 'net'"),
        ({"net": 8}, {"net": {"width": [1]}}, "is a dict of mutations, and param_space has 8 there"),
        (
            {"net": {"act": "relu"}},
            {"net": {"act": tune.uniform(0, 1)}},
            r"\['net'\]\['act'\] multiplies numbers",
        ),
        ({"act": tune.choice(["a", "b"])}, {"act": lambda: "a"}, "multiplies numbers"),
    ],
)
def test_space_that_the_mutations_do_not_fit_is_refused(space: Any, mutations: Any, fault: str) -> None:
    config = tune.TuneConfig(metric="loss", mode="min", scheduler=a_pbt(hyperparam_mutations=mutations))

    with pytest.raises(ConfigError, match=fault):
        tune.Tuner(lambda config: None, param_space=space, tune_config=config)


def test_space_that_leaves_parameters_out_is_fine() -> None:
    scheduler = a_pbt(hyperparam_mutations={"factor_1": [1], "layers": [1], "lr": tune.uniform(0, 1)})
    config = tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler)

    tune.Tuner(lambda config: None, param_space={"factor_2": 1, "layer": 1}, tune_config=config)


def test_it_is_made_by_name_and_described_as_data() -> None:
    scheduler = create_scheduler("pbt", hyperparam_mutations={"lr": tune.uniform(0, 1)}, seed=4)
    assert isinstance(scheduler, PopulationBasedTraining)
    assert REBUILDABLE["PopulationBasedTraining"] is PopulationBasedTraining
    config = tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler)
    data = describe(
        name="n",
        experiment_id="a1b2c",
        trainable_name="t",
        param_space={},
        tune_config=config,
        run_config=tune.RunConfig(),
    )

    again = rebuild_tune_config(data).scheduler

    assert isinstance(again, PopulationBasedTraining)
    assert again.fill_in(0, {}) == scheduler.fill_in(0, {})
