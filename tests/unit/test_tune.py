"""`tune.run` is a Tuner in one call."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core import registry, tuner
from tune_core.control.experiment import Experiment
from tune_core.control.messages import AttemptEnded
from tune_core.control.segments import read_journal
from tune_core.errors import ConfigError, TuneError
from tune_core.search import BasicVariantGenerator
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.training.resource_requests import resources_of

#: Parameters of Ray Tune 2.60's `run` that scripts give.
TAKEN = [
    "run_or_experiment",
    "name",
    "metric",
    "mode",
    "stop",
    "time_budget_s",
    "config",
    "resources_per_trial",
    "num_samples",
    "storage_path",
    "storage_filesystem",
    "search_alg",
    "scheduler",
    "checkpoint_config",
    "verbose",
    "progress_reporter",
    "log_to_file",
    "trial_name_creator",
    "trial_dirname_creator",
    "sync_config",
    "max_failures",
    "fail_fast",
    "reuse_actors",
    "raise_on_failed_trial",
    "callbacks",
    "max_concurrent_trials",
    "resume",
    "resume_config",
]
REFUSED = [
    "export_formats",
    "restore",
    "keep_checkpoints_num",
    "checkpoint_score_attr",
    "checkpoint_freq",
    "checkpoint_at_end",
    "chdir_to_trial_dir",
    "local_dir",
]


def train(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("x") == 13:
        raise ValueError("thirteen")
    return {"y": config.get("x", 0) * 2}


@pytest.fixture(autouse=True)
def experiments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Experiment]:
    """Runs experiments in this process; returns those that were run."""
    ran: list[Experiment] = []

    class Runtime(LocalRuntime):
        def run(self, experiment: Experiment) -> tune.ResultGrid:
            ran.append(experiment)
            return super().run(experiment)

    monkeypatch.setattr(tuner, "load_runtime", Runtime)
    monkeypatch.setattr(registry, "_trainables", {})
    monkeypatch.setenv("HOME", str(tmp_path))
    return ran


def test_script_written_for_ray_tune_reads_its_answers(tmp_path: Path) -> None:
    analysis = tune.run(
        train,
        config={"x": tune.grid_search([1, 5, 3])},
        metric="y",
        mode="max",
        storage_path=str(tmp_path),
        verbose=0,
        resources_per_trial={"cpu": 1},
    )

    assert isinstance(analysis, tune.ExperimentAnalysis)
    assert analysis.best_config == {"x": 5}
    assert analysis.best_result is not None
    assert analysis.best_result["y"] == 10
    assert len(analysis.trials) == 3
    assert sorted(analysis.results_df["y"]) == [2, 6, 10]


def test_arguments_go_where_a_tuner_has_them(experiments: list[Experiment], tmp_path: Path) -> None:
    callback, stop = tune.Callback(), {"training_iteration": 3}

    def name_of(trial: Any) -> str:
        return f"trial-{trial.number}"

    tune.run(
        train,
        name="mine",
        metric="y",
        mode="min",
        stop=stop,
        time_budget_s=60,
        config={"x": 1},
        resources_per_trial=tune.PlacementGroupFactory([{"CPU": 2}]),
        num_samples=2,
        storage_path=str(tmp_path),
        search_alg="random",
        scheduler="fifo",
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        verbose=0,
        log_to_file=True,
        trial_name_creator=name_of,
        trial_dirname_creator=name_of,
        sync_config=tune.SyncConfig(sync_artifacts=True),
        max_failures=3,
        reuse_actors=True,
        callbacks=[callback],
        max_concurrent_trials=1,
        resume=False,
        local_dir=None,
    )

    (experiment,) = experiments
    run, config = experiment.run_config, experiment.tune_config
    assert resources_of(experiment.trainable, {}).head_cpus == 2
    assert (experiment.name, experiment.trainable_name, experiment.param_space) == ("mine", "train", {"x": 1})
    assert (config.metric, config.mode, config.num_samples, config.time_budget_s) == ("y", "min", 2, 60)
    assert isinstance(config.search_alg, BasicVariantGenerator)
    assert isinstance(config.scheduler, tune.schedulers.FIFOScheduler)
    assert (config.trial_name_creator, config.trial_dirname_creator) == (name_of, name_of)
    assert (config.reuse_actors, config.max_concurrent_trials) == (True, 1)
    assert (run.stop, run.verbose, run.log_to_file, run.storage_path) == (stop, 0, True, str(tmp_path))
    assert run.callbacks == [callback]
    assert run.checkpoint_config.num_to_keep == 2
    assert run.sync_config.sync_artifacts
    assert (run.failure_config.max_failures, run.failure_config.fail_fast) == (3, False)


def test_defaults_are_those_of_a_tuner(experiments: list[Experiment], tmp_path: Path) -> None:
    analysis = tune.run(train, verbose=0)

    (experiment,) = experiments
    assert experiment.run_config == tune.RunConfig(verbose=0)
    assert experiment.tune_config == tune.TuneConfig()
    assert Path(analysis.experiment_path).parent == tmp_path / "ray_results"


@pytest.mark.parametrize("resources", [None, {"cpu": 2}])
def test_trainable_may_be_a_registered_name_or_an_import_string(
    experiments: list[Experiment], resources: Any
) -> None:
    tune.register_trainable("mine", train)

    tune.run("mine", verbose=0, resources_per_trial=resources)
    tune.run("math:sqrt", verbose=0, resources_per_trial=resources, raise_on_failed_trial=False)

    assert [experiment.trainable_name for experiment in experiments] == ["mine", "sqrt"]
    cpus = [resources_of(experiment.trainable, {}).head_cpus for experiment in experiments]
    assert cpus == [2, 2] if resources else [1, 1]


def test_failed_trial_raises_once_all_are_over(experiments: list[Experiment]) -> None:
    with pytest.raises(
        TuneError, match=r"1 of 3 trials failed: .*_00001'\]; the first: ValueError: thirteen."
    ) as caught:
        tune.run(train, config={"x": tune.grid_search([1, 13, 2])}, verbose=0)

    assert isinstance(caught.value.__cause__, TuneError)
    assert "raise_on_failed_trial=False" in str(caught.value)


def test_failed_trial_can_be_left_to_the_caller() -> None:
    analysis = tune.run(
        train, config={"x": tune.grid_search([1, 13])}, verbose=0, raise_on_failed_trial=False
    )

    assert [trial.status for trial in analysis.trials] == ["TERMINATED", "ERROR"]


# Arguments that are not taken.


def test_every_argument_of_ray_tune_is_taken_or_refused_by_name() -> None:
    parameters = inspect.signature(tune.run).parameters

    assert [name for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD] == TAKEN
    for name in REFUSED:
        with pytest.raises(
            ConfigError, match=rf"tune.run\({name}='x'\): not taken here; the same is done by "
        ):
            tune.run(train, **{name: "x"})


def test_arguments_that_are_not_taken_are_named_together() -> None:
    with pytest.raises(
        ConfigError, match=r"2 faults: .*checkpoint_freq=5.*frequency=….*no such argument; .*'num_samples'"
    ):
        tune.run(train, checkpoint_freq=5, num_sample=3)


def again(tmp_path: Path, values: list[int], **options: Any) -> tune.ExperimentAnalysis:
    """Run a script once more."""
    return tune.run(
        train,
        name="again",
        config={"x": tune.grid_search(values)},
        storage_path=str(tmp_path),
        verbose=0,
        raise_on_failed_trial=False,
        **options,
    )


def test_resume_goes_on_with_the_experiment_of_that_name_or_begins_it(
    experiments: list[Experiment], tmp_path: Path
) -> None:
    begun = again(tmp_path, [1, 13], resume="AUTO")
    resumed = again(tmp_path, [1, 13], resume=True)
    extended = again(tmp_path, [1, 13], resume="AUTO", num_samples=2)
    new = again(tmp_path, [1, 13], resume=False)
    unnamed = tune.run(train, config={"x": 1}, storage_path=str(tmp_path), verbose=0, resume="AUTO")

    ids = [[trial.trial_id for trial in analysis.trials] for analysis in (begun, resumed, extended, new)]
    assert ids[0] == ids[1] == ids[2][:2]
    assert len(ids[2]) == 4
    assert ids[3][0] not in ids[2]
    assert len(unnamed.trials) == 1
    assert [each.continuation is not None for each in experiments] == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("given", "tries"),
    [
        ({"resume": "AUTO"}, 1),
        ({"resume": "AUTO+ERRORED"}, 2),
        ({"resume": "AUTO+RESTART_ERRORED_ONLY"}, 2),
        ({"resume_config": tune.ResumeConfig(errored="resume")}, 2),
    ],
)
def test_failed_trials_are_tried_again_when_a_resume_says_so(
    tmp_path: Path, given: dict[str, Any], tries: int
) -> None:
    again(tmp_path, [13])
    (trial,) = again(tmp_path, [13], **given).trials

    assert trial.status == "ERROR"
    storage = ExperimentStorage.open(tmp_path, "again")
    ends = [event for event, _ in read_journal(storage) if isinstance(event, AttemptEnded)]
    assert len(ends) == tries


@pytest.mark.parametrize("given", ["LOCAL", "auto", "AUTO+ALL", 3])
def test_other_ways_to_resume_are_refused(given: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"resume=.*: expected True, False or 'AUTO', which one of \+ERRORED"
    ):
        tune.run(train, resume=given)


@pytest.mark.parametrize("given", [{"run": train}, None, 3])
def test_what_is_no_trainable_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"run_or_experiment=.*an Experiment is a Tuner here"):
        tune.run(given)


class Wide(tune.Trainable):
    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> dict[str, int]:
        return {"cpu": 2}


@pytest.mark.parametrize("trainable", [Wide, tune.with_resources(lambda config: None, {"cpu": 2})])
def test_resources_that_are_said_twice_are_refused(trainable: Any) -> None:
    with pytest.raises(ConfigError, match="say it in one place"):
        tune.run(trainable, verbose=0, resources_per_trial={"cpu": 1})
