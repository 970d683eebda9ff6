"""What Python says of an experiment, as the values of a form."""

from __future__ import annotations

from typing import Any

import pytest

import tune_core as tune
from tune_core.engine.form.form import ExperimentForm
from tune_core.engine.form.values import form_values
from tune_core.errors import ConfigError
from tune_core.init_args import arguments_of


def test_what_python_says_comes_back_from_the_form() -> None:
    space = {
        "lr": tune.loguniform(1e-4, 0.1),
        "step": tune.quniform(0.0, 1.0, 0.1),
        "grid": tune.grid_search([1, 2]),
        "net": {"width": tune.choice([16, 32]), "depth": 3},
    }
    scheduler = tune.schedulers.ASHAScheduler(max_t=20, grace_period=2)
    run_config = tune.RunConfig(
        name="digits",
        stop={"training_iteration": 3},
        failure_config=tune.FailureConfig(max_failures=2),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
    )

    values = form_values(
        space,
        tune.TuneConfig(metric="score", mode="max", num_samples=3, scheduler=scheduler),
        run_config,
        tune.PlacementGroupFactory([{"CPU": 1}, {"CPU": 2}], strategy="SPREAD"),
    )
    form = ExperimentForm.read({"trainable": "package.module:train", **values})

    assert repr(form.space()) == repr(space)
    made = form.tune_config.make()
    assert (made.metric, made.mode, made.num_samples) == ("score", "max", 3)
    assert arguments_of(made.scheduler)["max_t"] == 20
    assert arguments_of(made.scheduler)["grace_period"] == 2
    run = form.run_config.make()
    assert (run.name, run.stop) == ("digits", {"training_iteration": 3})
    assert run.failure_config.max_failures == 2
    assert run.checkpoint_config.num_to_keep == 2
    bundles = form.resources.make()
    assert bundles is not None
    assert (bundles.bundles, bundles.strategy) == ([{"CPU": 1.0}, {"CPU": 2.0}], "SPREAD")


def test_defaults_are_not_written_down() -> None:
    assert form_values({}, tune.TuneConfig(), tune.RunConfig(), None) == {
        "param_space": {},
        "tune_config": {},
        "run_config": {},
    }


def test_values_of_a_form_stay_as_they_are() -> None:
    given = [{"name": "lr", "sampler": {"uniform": {"lower": 0, "upper": 1}}}]

    assert form_values(given, {"num_samples": 2}, None, [{"CPU": 1}]) == {
        "param_space": given,
        "tune_config": {"num_samples": 2},
        "resources": [{"CPU": 1}],
    }


def test_everything_that_only_python_can_say_is_named() -> None:
    class Own(tune.schedulers.FIFOScheduler):
        pass

    with pytest.raises(ConfigError) as caught:
        form_values(
            {"lr": tune.sample_from(lambda config: 1), "nested": {"thing": object()}},
            tune.TuneConfig(scheduler=Own(), trial_name_creator=str),
            tune.RunConfig(callbacks=[tune.Callback()], stop=lambda trial_id, result: True),
            None,
        )

    places = [fault.partition(":")[0] for fault in caught.value.faults]
    assert sorted(places) == [
        "param_space.lr",
        "param_space.nested.thing",
        "run_config.callbacks",
        "run_config.stop",
        "tune_config.scheduler",
        "tune_config.trial_name_creator",
    ]


def test_credentials_are_refused_and_not_left_out_without_a_word() -> None:
    run_config = tune.RunConfig(storage_path="s3://bucket/tuning", storage_options={"secret": "hidden"})

    with pytest.raises(ConfigError, match=r"run_config\.storage_options: .*ExperimentStore") as caught:
        form_values({}, None, run_config, None)

    assert "hidden" not in str(caught.value)


def test_several_metrics_are_lists_and_one_in_a_list_is_that_one() -> None:
    several = {"metric": ["accuracy", "eval/ms"], "mode": ["max", "min"], "search_alg": {"optuna": {}}}
    form = ExperimentForm.read({"trainable": "a:b", "tune_config": several})

    assert form.model_dump()["tune_config"]["metric"] == ["accuracy", "eval/ms"]
    assert ExperimentForm.read(form.model_dump()) == form
    made = form.tune_config.make()
    assert (made.metric, made.mode) == (["accuracy", "eval/ms"], ["max", "min"])
    again = form_values({}, made, tune.RunConfig(), None)["tune_config"]
    assert (again["metric"], again["mode"]) == (["accuracy", "eval/ms"], ["max", "min"])
    one = ExperimentForm.read({"trainable": "a:b", "tune_config": {"metric": ["loss"], "mode": ["min"]}})
    assert (one.tune_config.make().metric, one.tune_config.make().mode) == ("loss", "min")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metric": ["a", "b"], "mode": ["max", "avg"]}, r"tune_config\.mode\.several\.1: Input should be"),
        ({"metric": "a", "mode": "avg"}, r"^tune_config\.mode\.one: Input should be 'min' or 'max'$"),
        ({"metric": ["a", "b"], "mode": ["max"]}, "two lists of one length"),
        ({"metric": ["a", "b"], "mode": ["max", "min"], "scheduler": "asha"}, "MultiObjectiveASHAScheduler"),
    ],
)
def test_metrics_and_modes_that_do_not_go_together_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ExperimentForm.read({"trainable": "a:b", "tune_config": given})


def test_schedulers_in_schedulers_budgets_and_rules_for_deaths_are_values() -> None:
    inside = tune.schedulers.ASHAScheduler(max_t=20)
    function = tune.schedulers.DistributeResources(increase_by={"CPU": 2})
    failures = tune.FailureConfig(max_failed_trials=3, resources_after={"oom": {"memory": 2.0}})
    values = form_values(
        None,
        tune.TuneConfig(
            "min", "loss", scheduler=tune.schedulers.ResourceChangingScheduler(inside, function), max_cost=2
        ),
        tune.RunConfig(failure_config=failures),
        None,
    )

    form = ExperimentForm.read({"trainable": "math:sqrt", **values})

    tuned = form.tune_config.make()
    scheduler = tuned.scheduler
    assert isinstance(scheduler, tune.schedulers.ResourceChangingScheduler)
    assert arguments_of(scheduler.base_scheduler)["max_t"] == 20
    assert arguments_of(scheduler)["resources_allocation_function"].increase_by == {"CPU": 2}
    assert tuned.max_cost == {"CPU": 2}
    assert form.run_config.make().failure_config == failures


def test_a_function_of_the_users_own_is_no_value() -> None:
    scheduler = tune.schedulers.ResourceChangingScheduler(None, lambda *_: None)

    with pytest.raises(ConfigError, match=r"tune_config.scheduler: only Python can say this"):
        form_values(None, tune.TuneConfig(scheduler=scheduler), None, None)
