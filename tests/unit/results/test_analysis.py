"""What scripts read of `tune.run`: the best trial, frames, checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.errors import ConfigError, StorageError
from tune_core.results.analysis import ExperimentAnalysis
from tune_core.testing.local_runtime import LocalRuntime

LOSSES = {1: [5.0, 1.0], 2: [4.0, 3.0], 3: [0.5, 9.0]}


def train(config: dict[str, Any]) -> None:
    if config["x"] == 4:
        raise ValueError("four")
    for step, loss in enumerate(LOSSES[config["x"]]):
        Path("weights").write_text(f"{config['x']} {step}")
        checkpoint = tune.Checkpoint.from_directory(".")
        tune.report({"eval": {"loss": loss}, "loss": loss}, checkpoint=checkpoint if config["save"] else None)


@pytest.fixture
def analysis(tmp_path: Path) -> ExperimentAnalysis:
    return ExperimentAnalysis.of(run(tmp_path, [1, 2, 3], save=True), "loss", "min")


def run(path: Path, values: list[int], *, save: bool = False) -> tune.ResultGrid:
    tuner = tune.Tuner(
        train,
        param_space={"x": tune.grid_search(values), "save": save},
        run_config=tune.RunConfig(name="experiment", storage_path=str(path), verbose=0),
    )
    return LocalRuntime().run(tuner.experiment())


def written(checkpoint: tune.Checkpoint | None) -> str:
    assert checkpoint is not None
    with checkpoint.as_directory() as directory:
        return (Path(directory) / "weights").read_text()


def test_best_trial_is_the_one_whose_last_report_is_best(analysis: ExperimentAnalysis) -> None:
    best = analysis.best_trial

    assert best is analysis.trials[0]
    assert (best.config["x"], best.last_result["loss"], best.status) == (1, 1.0, "TERMINATED")
    assert best.trial_id == str(best) == best.last_result["trial_id"]
    assert best.path == best.logdir == best.local_path
    assert best.error_file is None
    assert analysis.best_config == {"x": 1, "save": True}
    assert analysis.best_result is not None
    assert analysis.best_result["loss"] == 1.0


@pytest.mark.parametrize(
    ("metric", "mode", "scope", "expected"),
    [
        ("loss", "max", "last", 3),
        ("loss", "min", "all", 3),
        ("eval/loss", "min", "avg", 1),
        (None, None, "last", 1),
        (None, "max", "last", 3),
    ],
)
def test_best_trial_of_another_metric_can_be_asked_for(
    analysis: ExperimentAnalysis, metric: Any, mode: Any, scope: str, expected: int
) -> None:
    best = analysis.get_best_trial(metric, mode, scope)

    assert best is not None
    assert best.config["x"] == expected
    assert analysis.get_best_config(metric, mode, scope) == best.config


def test_best_and_last_checkpoint_are_found(analysis: ExperimentAnalysis) -> None:
    third = analysis.trials[2]

    assert written(analysis.best_checkpoint) == "1 1"
    assert written(analysis.get_best_checkpoint(third)) == "3 0"
    assert written(analysis.get_best_checkpoint(third.trial_id, "training_iteration", "max")) == "3 1"
    assert written(analysis.get_best_checkpoint(third.path, "loss", "max")) == "3 1"
    assert written(analysis.get_last_checkpoint(third)) == "3 1"
    assert written(analysis.get_last_checkpoint(metric="loss", mode="min")) == "1 1"


def test_frames_have_a_row_per_trial_or_per_report(analysis: ExperimentAnalysis) -> None:
    ids = [trial.trial_id for trial in analysis.trials]

    assert list(analysis.results) == list(analysis.trial_dataframes) == list(analysis.results_df.index) == ids
    assert list(analysis.results_df["eval/loss"]) == [1.0, 3.0, 9.0]
    assert list(analysis.results_df["config/x"]) == [1, 2, 3]
    assert list(analysis.dataframe()["loss"]) == [1.0, 3.0, 9.0]
    assert list(analysis.dataframe(metric="loss", mode="min")["loss"]) == [1.0, 3.0, 0.5]
    assert list(analysis.trial_dataframes[ids[1]]["loss"]) == [4.0, 3.0]
    assert list(analysis.best_dataframe["loss"]) == [5.0, 1.0]
    assert list(analysis.best_result_df.index) == [ids[0]]
    assert analysis.get_all_configs()[ids[0]] == {"x": 1, "save": True}
    assert analysis.get_all_configs(prefix=True)[ids[0]] == {"config/x": 1, "config/save": True}


def test_experiment_that_is_read_from_its_directory_gives_the_same_answers(
    analysis: ExperimentAnalysis, tmp_path: Path
) -> None:
    read = ExperimentAnalysis(tmp_path / "experiment", default_metric="loss", default_mode="min")

    assert read.best_config == analysis.best_config
    assert [trial.trial_id for trial in read.trials] == [trial.trial_id for trial in analysis.trials]
    assert list(read.dataframe()["loss"]) == [1.0, 3.0, 9.0]
    assert written(read.best_checkpoint) == "1 1"
    assert read.experiment_path == analysis.experiment_path
    assert repr(read) == f"ExperimentAnalysis(3 trials; experiment_path={str(tmp_path / 'experiment')!r})"


def test_of_two_experiments_of_one_name_each_is_read_by_itself(tmp_path: Path) -> None:
    run(tmp_path, [1, 2])
    run(tmp_path, [2, 3])

    def values(name: str) -> list[int]:
        return [trial.config["x"] for trial in ExperimentAnalysis(tmp_path / name).trials]

    assert values("experiment") == values("experiment@2") == [2, 3]
    assert values("experiment@1") == [1, 2]
    with pytest.raises(
        StorageError, match=r"@3: of the experiments of this name there are 2, experiment@1 to"
    ):
        values("experiment@3")


def test_an_attempt_that_a_restart_replaced_is_no_trial(tmp_path: Path) -> None:
    failed = run(tmp_path, [4, 1])
    restarted = tune.Tuner.restore(failed.experiment_path, train, restart_errored=True)
    LocalRuntime().run(restarted.experiment())
    assert len([path for path in (tmp_path / "experiment").iterdir() if "train" in path.name]) == 3

    read = ExperimentAnalysis(tmp_path / "experiment")

    assert [(trial.config["x"], trial.status) for trial in read.trials] == [(4, "ERROR"), (1, "TERMINATED")]
    assert read.trials[0].path.endswith("_attempt_2")


def test_trials_of_another_analysis_can_be_given(analysis: ExperimentAnalysis, tmp_path: Path) -> None:
    part = ExperimentAnalysis(tmp_path, trials=analysis.trials[1:], default_metric="loss", default_mode="min")

    assert part.best_config == {"x": 2, "save": True}


def test_analysis_can_be_pickled(analysis: ExperimentAnalysis) -> None:
    copy = pickle.loads(pickle.dumps(analysis))

    assert copy.best_config == analysis.best_config


def test_failed_trial_has_an_error_file(tmp_path: Path) -> None:
    analysis = ExperimentAnalysis.of(run(tmp_path, [4, 1]))

    assert analysis.trials[0].error_file is not None
    assert "ValueError: four" in Path(analysis.trials[0].error_file).read_text()
    assert len(analysis.results_df) == 2


def test_what_is_not_there_is_none_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    analysis = ExperimentAnalysis.of(run(tmp_path, [1, 2]), "los", "min")

    assert (
        analysis.best_trial
        is analysis.best_config
        is analysis.best_result
        is analysis.best_checkpoint
        is None
    )
    assert analysis.get_best_checkpoint(analysis.trials[0], "loss") is None
    assert analysis.get_last_checkpoint(metric="los", mode="min") is None
    assert "no best trial for 'los'" in caplog.text
    assert "has no checkpoint" in caplog.text
    with pytest.raises(ConfigError, match="best_dataframe: no trial has reported a finite 'los'"):
        _ = analysis.best_dataframe


@pytest.mark.parametrize(
    "name",
    ["best_trial", "best_config", "best_result", "best_checkpoint", "best_dataframe", "best_result_df"],
)
def test_best_without_a_metric_says_where_to_give_it(tmp_path: Path, name: str) -> None:
    analysis = ExperimentAnalysis.of(run(tmp_path, [1]))

    with pytest.raises(
        ConfigError, match=f"{name} needs a metric and a mode: pass metric= and mode= to tune.run"
    ):
        getattr(analysis, name)


def test_mode_alone_means_the_number_that_a_trainable_returns(tmp_path: Path) -> None:
    assert ExperimentAnalysis.of(run(tmp_path, [1]), None, "min").default_metric == "_metric"


def test_bad_arguments_are_refused(analysis: ExperimentAnalysis, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="default_mode='up'"):
        ExperimentAnalysis(tmp_path, trials=[], default_mode="up")
    with pytest.raises(
        ConfigError, match=r"no journal of an experiment is in it; expected <storage_path>/<experiment>"
    ):
        ExperimentAnalysis(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"trial='t0': expected one of analysis\.trials"):
        analysis.get_best_checkpoint("t0")
    with pytest.raises(ConfigError, match="no mode is known"):
        ExperimentAnalysis(tmp_path, trials=analysis.trials).get_best_checkpoint(analysis.trials[0], "loss")
