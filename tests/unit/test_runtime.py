"""The seam to the engine: what is imported, and what a controller and an attempt are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tune_core import runtime
from tune_core.config.failure_config import FailureConfig
from tune_core.config.run_config import CheckpointConfig, RunConfig, SyncConfig, TuneConfig
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.experiment import Experiment
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    ExperimentStarted,
    StartAttempt,
    TrialReported,
)
from tune_core.control.policy import Policy
from tune_core.encoding import dumps, loads
from tune_core.results.result_grid import ResultGrid
from tune_core.runtime import load_runtime
from tune_core.search import BasicVariantGenerator
from tune_core.states import Outcome
from tune_core.tuner import Tuner

ROOT = Path(__file__).resolve().parents[2]


def an_experiment(
    tmp_path: Path, run: dict[str, Any] | None = None, tune: dict[str, Any] | None = None
) -> Experiment:
    run_config = RunConfig(name="experiment", storage_path=str(tmp_path), **run or {})
    tune_config = TuneConfig(**tune or {})
    return Tuner(
        lambda config: None, param_space={"lr": 0.1}, tune_config=tune_config, run_config=run_config
    ).experiment()


def steering_of(experiment: Experiment) -> Policy:
    run = experiment.run_config
    return Policy(
        experiment.tune_config,
        run.stop,
        experiment.param_space,
        experiment.trainable,
        experiment.trainable_name,
    )


class EmptyRuntime:
    def run(self, experiment: Experiment) -> ResultGrid:
        return ResultGrid([], experiment.storage.path)


# Finding the engine.


def test_runtime_is_found_by_its_import_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "EmptyRuntime", EmptyRuntime, raising=False)

    assert isinstance(load_runtime("tune_core.runtime:EmptyRuntime"), EmptyRuntime)


# What the user configured, as the controller's rules.


@pytest.mark.parametrize(
    ("run", "tune", "expected"),
    [
        ({}, {}, {}),
        ({"failure_config": FailureConfig(max_failures=3)}, {}, {"max_failures": 3}),
        ({"failure_config": FailureConfig(fail_fast=True)}, {}, {"fail_fast": "yes"}),
        ({"failure_config": FailureConfig(fail_fast="raise")}, {}, {"fail_fast": "raise"}),
        ({}, {"max_concurrent_trials": 2}, {"max_concurrent": 2}),
        ({}, {"max_concurrent_trials": 0}, {}),
        (
            {},
            {"max_concurrent_trials": 4, "search_alg": BasicVariantGenerator(max_concurrent=3)},
            {"max_concurrent": 3},
        ),
        (
            {"checkpoint_config": CheckpointConfig(2, "eval/loss", "min")},
            {},
            {"num_to_keep": 2, "score_attribute": "eval/loss", "score_order": "min"},
        ),
    ],
)
def test_rules_follow_from_the_configuration(
    run: dict[str, Any], tune: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    experiment = an_experiment(tmp_path, run, tune)

    assert experiment.rules(steering_of(experiment)) == ControllerConfig(experiment.experiment_id, **expected)


# The spec that is kept with the results.


def test_spec_says_what_was_run_and_where(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, {"stop": {"loss": 1}}, {"metric": "loss", "mode": "min"})

    spec = loads(dumps(experiment.spec()))

    assert (spec["format"], spec["name"], spec["experiment_id"]) == (
        1,
        "experiment",
        experiment.experiment_id,
    )
    assert (spec["trainable"], spec["param_space"]) == ("lambda", {"lr": 0.1})
    assert (spec["tune_config"]["metric"], spec["run_config"]["stop"]) == ("loss", {"loss": 1})
    assert spec["storage"] == str(tmp_path / "experiment")
    assert spec["resources"]["bundles"] == [{"CPU": 1.0}]


def test_spec_has_no_credentials() -> None:
    run_config = RunConfig(
        name="experiment",
        storage_path="s3://someone:secret-in-url@bucket/runs",
        storage_options={"secret": "secret-in-options"},
        runtime_env={"env_vars": {"TOKEN": "secret-in-env"}},
    )
    experiment = Tuner(lambda config: None, run_config=run_config).experiment()

    assert b"secret-" not in dumps(experiment.spec())


# What an attempt is told.


def test_first_attempt_starts_from_scratch(tmp_path: Path) -> None:
    experiment = an_experiment(
        tmp_path,
        {"stop": {"loss": 1}, "log_to_file": True, "sync_config": SyncConfig(sync_artifacts=True)},
        {"metric": "loss", "mode": "min"},
    )
    policy = steering_of(experiment)
    controller = Controller(experiment.rules(policy))
    controller.handle(ExperimentStarted(0.0, 1))
    (order, *_) = controller.handle(policy.suggest(f"{experiment.experiment_id}_00000", 0))
    assert isinstance(order, StartAttempt)
    trial = controller.trials[order.trial_id]

    spec = experiment.attempt_spec(policy, trial, order)

    assert (spec.experiment_name, spec.trial_id, spec.attempt_number) == ("experiment", trial.trial_id, 1)
    assert (spec.trial_name, spec.dirname) == (str(trial), trial.dirname)
    assert (spec.config, spec.resources) == ({"lr": 0.1}, trial.resources)
    assert (spec.checkpoint, spec.iteration, spec.highest_index, spec.totals) == (None, 0, -1, {})
    assert (spec.metric, spec.stop, spec.waits_for_decisions) == ("loss", {"loss": 1}, False)
    assert (spec.log_files, spec.keeps_artifacts) == (("stdout", "stderr"), "always")
    assert spec.storage is experiment.storage


@pytest.mark.parametrize(
    ("sync", "expected"),
    [
        (SyncConfig(), "never"),
        (SyncConfig(sync_artifacts=True, sync_artifacts_on_checkpoint=False), "at_end"),
        (SyncConfig(sync_artifacts=True), "always"),
    ],
)
def test_files_are_kept_when_the_user_says_so(sync: SyncConfig, expected: str, tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, {"sync_config": sync})
    policy = steering_of(experiment)
    controller = Controller(experiment.rules(policy))
    controller.handle(ExperimentStarted(0.0, 1))
    order = controller.handle(policy.suggest("t0", 0))[0]
    assert isinstance(order, StartAttempt)

    assert experiment.attempt_spec(policy, controller.trials["t0"], order).keeps_artifacts == expected


def test_later_attempt_goes_on_from_the_counters_of_its_checkpoint(tmp_path: Path) -> None:
    experiment = an_experiment(tmp_path, {"failure_config": FailureConfig(max_failures=1)})
    policy = steering_of(experiment)
    controller = Controller(experiment.rules(policy))
    row = {"time_total_s": 9.0, "timesteps_total": 7, "episodes_total": 2, "loss_total": 5, "timestamp": 0}
    controller.handle(ExperimentStarted(0.0, 1))
    controller.handle(policy.suggest("t0", 0))
    controller.handle(AttemptStarted(1.0, "t0", 1, 1, "host", "ip"))
    controller.handle(TrialReported(2.0, "t0", 1, 1, row, checkpoint=0))
    controller.handle(TrialReported(3.0, "t0", 1, 2, {**row, "time_total_s": 12.0}))
    order = controller.handle(AttemptEnded(4.0, "t0", 1, Outcome.CRASHED))[0]
    assert isinstance(order, StartAttempt)

    spec = experiment.attempt_spec(policy, controller.trials["t0"], order)

    assert (spec.attempt_number, spec.checkpoint, spec.iteration, spec.highest_index) == (2, 0, 1, 0)
    assert spec.totals == {"time_total_s": 9.0, "timesteps_total": 7, "episodes_total": 2}
