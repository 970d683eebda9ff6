from __future__ import annotations

import copy
import dataclasses
import datetime
import math
import pickle
import re
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from tune_core.callback import Callback
from tune_core.config.resume_config import ResumeConfig
from tune_core.config.run_config import (
    CheckpointConfig,
    FailureConfig,
    RunConfig,
    SyncConfig,
    TuneConfig,
)
from tune_core.errors import ConfigError
from tune_core.schedulers import FIFOScheduler
from tune_core.search.searcher import Searcher
from tune_core.states import CAUSES
from tune_core.stopper import MaximumIterationStopper

CONFIGS = (CheckpointConfig, FailureConfig, ResumeConfig, RunConfig, SyncConfig, TuneConfig)
SECRET = "hunter2"


class Suggester(Searcher):
    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {}


def of_ray(name: str, module: str = "ray.tune.impl.config") -> Any:
    """An instance of a class that looks like one of Ray's."""
    cls = type(name, (), {"__call__": lambda self: None})
    cls.__module__ = module
    return cls()


def faults_of(cls: Any, **arguments: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        cls(**arguments)
    return caught.value.faults


# All of them.


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (
            TuneConfig,
            "mode metric search_alg scheduler num_samples max_concurrent_trials time_budget_s reuse_actors "
            "trial_name_creator trial_dirname_creator chdir_to_trial_dir",
        ),
        (
            RunConfig,
            "name storage_path storage_filesystem failure_config checkpoint_config sync_config verbose stop "
            "callbacks progress_reporter log_to_file local_dir",
        ),
        (
            CheckpointConfig,
            "num_to_keep checkpoint_score_attribute checkpoint_score_order checkpoint_frequency "
            "checkpoint_at_end _checkpoint_keep_all_ranks _checkpoint_upload_from_workers",
        ),
        (FailureConfig, "max_failures fail_fast"),
        (SyncConfig, "sync_period sync_timeout sync_artifacts sync_artifacts_on_checkpoint"),
        (ResumeConfig, "finished unfinished errored"),
    ],
)
def test_positional_arguments_are_ray_tunes_in_its_order(cls: Any, names: str) -> None:
    positional = [field.name for field in dataclasses.fields(cls) if not field.kw_only]

    assert positional == names.split()


@pytest.mark.parametrize("cls", CONFIGS)
def test_default_configuration_is_valid_and_shows_nothing(cls: Any) -> None:
    assert repr(cls()) == f"{cls.__name__}()"
    assert cls() == cls()


@pytest.mark.parametrize("cls", CONFIGS)
def test_configuration_survives_pickle_copy_and_replace(cls: Any) -> None:
    config = cls()

    copies = [pickle.loads(pickle.dumps(config)), copy.deepcopy(config), dataclasses.replace(config)]

    assert copies == [config] * 3


@pytest.mark.parametrize("cls", [CheckpointConfig, TuneConfig])
def test_removed_arguments_stay_unnoticed_through_pickle(cls: Any) -> None:
    restored = pickle.loads(pickle.dumps(cls()))

    assert dataclasses.replace(restored) == cls()


def test_configurations_do_not_share_their_parts() -> None:
    first, second = RunConfig(), RunConfig()

    first.checkpoint_config.num_to_keep = 1

    assert second.checkpoint_config.num_to_keep is None


# CheckpointConfig.


def test_checkpoint_defaults_are_ray_tunes() -> None:
    config = CheckpointConfig()

    assert (config.num_to_keep, config.checkpoint_score_attribute) == (None, None)
    assert (config.checkpoint_score_order, config.checkpoint_frequency) == ("max", 0)
    assert config.checkpoint_at_end is None


def test_every_fault_of_a_checkpoint_config_is_named() -> None:
    faults = faults_of(
        CheckpointConfig,
        num_to_keep=0,
        checkpoint_score_attribute="",
        checkpoint_score_order="maximum",
        checkpoint_frequency=-1,
        checkpoint_at_end="yes",
    )

    assert faults[0] == (
        "CheckpointConfig(num_to_keep=0): expected an integer of at least 1, or None to keep all"
    )
    assert "expected 'max' or 'min'" in faults[2]
    assert len(faults) == 5


@pytest.mark.parametrize("name", ["_checkpoint_keep_all_ranks", "_checkpoint_upload_from_workers"])
@pytest.mark.parametrize("value", [True, False, None])
def test_checkpoint_arguments_that_ray_removed_are_refused(name: str, value: Any) -> None:
    assert f"{name} is gone" in faults_of(CheckpointConfig, **{name: value})[0]


# FailureConfig.


@pytest.mark.parametrize("max_failures", [0, 3, -1])
def test_failures_may_be_few_or_without_end(max_failures: int) -> None:
    assert FailureConfig(max_failures).max_failures == max_failures
    losses = FailureConfig(max_infrastructure_failures=max_failures)
    assert (losses.max_failures, losses.max_infrastructure_failures) == (0, max_failures)


@pytest.mark.parametrize("fail_fast", ["raise", "RAISE", "Raise"])
def test_fail_fast_is_read_in_any_case(fail_fast: Any) -> None:
    assert FailureConfig(fail_fast=fail_fast).fail_fast == "raise"


@pytest.mark.parametrize("fail_fast", ["yes", 1, None])
def test_fail_fast_of_another_kind_is_refused(fail_fast: Any) -> None:
    assert "expected True, False or 'raise'" in faults_of(FailureConfig, fail_fast=fail_fast)[0]


@pytest.mark.parametrize("fail_fast", [True, "RAISE"])
def test_failing_fast_excludes_retries(fail_fast: Any) -> None:
    faults = faults_of(FailureConfig, max_failures=-1, fail_fast=fail_fast)

    assert faults[0].startswith("FailureConfig(max_failures=-1): must be 0 with fail_fast=")


@pytest.mark.parametrize("max_failures", [-2, 1.5, True, None])
def test_max_failures_is_an_integer(max_failures: Any) -> None:
    assert "at least -1 (-1 for no end)" in faults_of(FailureConfig, max_failures=max_failures)[0]


# SyncConfig and ResumeConfig.


def test_every_fault_of_a_sync_config_is_named() -> None:
    faults = faults_of(
        SyncConfig, sync_period=-1, sync_timeout="1h", sync_artifacts=1, sync_artifacts_on_checkpoint=None
    )

    assert len(faults) == 4


def test_resume_defaults_are_ray_tunes() -> None:
    kinds = ResumeConfig.ResumeType

    config = ResumeConfig()

    assert (config.finished, config.unfinished, config.errored) == (kinds.SKIP, kinds.RESUME, kinds.SKIP)


def test_kind_of_resuming_may_be_its_value() -> None:
    assert ResumeConfig(errored="restart") == ResumeConfig(errored=ResumeConfig.ResumeType.RESTART)


def test_every_fault_of_a_resume_config_is_named() -> None:
    faults = faults_of(ResumeConfig, finished="restrt", unfinished=None, errored=True)

    assert "did you mean 'restart'?" in faults[0]
    assert len(faults) == 3


# TuneConfig.


def test_tune_defaults_are_ray_tunes() -> None:
    config = TuneConfig()

    assert (config.metric, config.mode, config.search_alg, config.scheduler) == (None, None, None, None)
    assert (config.num_samples, config.max_concurrent_trials, config.time_budget_s) == (1, None, None)
    assert (config.reuse_actors, config.fresh_process) == (False, None)
    assert not config.is_endless


def test_minus_one_sample_means_no_end() -> None:
    assert TuneConfig(num_samples=-1).is_endless


@pytest.mark.parametrize("num_samples", [0, -2, 1.0, "3", True, None])
def test_number_of_samples_is_a_positive_integer(num_samples: Any) -> None:
    faults = faults_of(TuneConfig, num_samples=num_samples)

    assert faults == [
        f"TuneConfig(num_samples={num_samples!r}): expected an integer of at least 1, or -1 for no end"
    ]


@pytest.mark.parametrize("limit", [None, 0, 4])
def test_concurrency_may_have_no_limit(limit: int | None) -> None:
    assert TuneConfig(max_concurrent_trials=limit).max_concurrent_trials == limit


@pytest.mark.parametrize("limit", [-1, 2.0, "4"])
def test_concurrency_limit_is_an_integer(limit: Any) -> None:
    assert "or None for no limit" in faults_of(TuneConfig, max_concurrent_trials=limit)[0]


@pytest.mark.parametrize(
    ("budget", "seconds"), [(None, None), (90, 90), (0.5, 0.5), (datetime.timedelta(minutes=2), 120.0)]
)
def test_time_budget_is_read_as_seconds(budget: Any, seconds: float | None) -> None:
    assert TuneConfig(time_budget_s=budget).time_budget_seconds == seconds


@pytest.mark.parametrize("budget", [0, -1, math.nan, math.inf, "60", True, datetime.timedelta(0)])
def test_time_budget_is_above_zero(budget: Any) -> None:
    assert "expected seconds above 0, a timedelta" in faults_of(TuneConfig, time_budget_s=budget)[0]


def test_metric_without_mode_is_refused() -> None:
    faults = faults_of(TuneConfig, metric="loss")

    assert faults == ["TuneConfig(metric='loss'): mode is missing: add mode='min' or mode='max'"]


def test_mode_without_metric_is_refused() -> None:
    assert "metric is missing: add metric=" in faults_of(TuneConfig, mode="min")[0]


@pytest.mark.parametrize("metric", ["", 3])
def test_metric_is_one_name(metric: Any) -> None:
    assert "the name of a reported metric" in faults_of(TuneConfig, metric=metric, mode="min")[0]


def test_mode_in_another_spelling_is_refused_with_the_nearest() -> None:
    assert "did you mean 'max'?" in faults_of(TuneConfig, metric="loss", mode="MAX")[0]


def test_searcher_and_scheduler_are_taken() -> None:
    searcher, scheduler = Suggester(), FIFOScheduler()

    config = TuneConfig(metric="loss", mode="min", search_alg=searcher, scheduler=scheduler)

    assert (config.search_alg, config.scheduler) == (searcher, scheduler)


def test_searcher_of_ray_is_refused_by_name() -> None:
    faults = faults_of(TuneConfig, search_alg=of_ray("OptunaSearch", "ray.tune.search.optuna"))

    assert "given ray.tune.OptunaSearch; use tune_core.search.optuna.OptunaSearch" in faults[0]


@pytest.mark.parametrize(("name", "value"), [("search_alg", "optuna"), ("scheduler", FIFOScheduler)])
def test_searcher_and_scheduler_are_objects(name: str, value: Any) -> None:
    assert f"TuneConfig({name}=" in faults_of(TuneConfig, **{name: value})[0]


def test_contradiction_between_scheduler_and_config_is_refused() -> None:
    scheduler = FIFOScheduler()
    scheduler.metric, scheduler.mode = "accuracy", "max"

    faults = faults_of(TuneConfig, metric="loss", mode="min", scheduler=scheduler)

    assert faults == [
        "TuneConfig(metric='loss'): the scheduler was given metric='accuracy': give it in one place",
        "TuneConfig(mode='min'): the scheduler was given mode='max': give it in one place",
    ]


def test_scheduler_that_was_given_the_same_is_no_contradiction() -> None:
    scheduler = FIFOScheduler()
    scheduler.set_search_properties("loss", "min")

    assert TuneConfig(metric="loss", mode="min", scheduler=scheduler).scheduler is scheduler


def test_every_fault_of_a_tune_config_is_named() -> None:
    faults = faults_of(
        TuneConfig,
        mode="up",
        num_samples=0,
        reuse_actors=None,
        trial_name_creator="name",
        trial_dirname_creator=3,
        fresh_process=1,
        chdir_to_trial_dir=False,
    )

    assert len(faults) == 8
    assert "RAY_CHDIR_TO_TRIAL_DIR=0" in faults[-1]


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ({"reuse_actors": True, "fresh_process": True}, ["fresh_process=True.*choose one"]),
        ({"max_reuses": 3}, [r"max_reuses=3.*limits what reuse_actors=True does: add that"]),
        ({"max_reuse_memory": 2**30}, ["max_reuse_memory=1073741824.*add that"]),
        ({"reuse_actors": True, "max_reuses": 0}, ["max_reuses=0"]),
        (
            {"reuse_actors": True, "max_reuses": 1.5, "max_reuse_memory": "1 GB"},
            [r"max_reuses=1\.5", "max_reuse_memory='1 GB'"],
        ),
    ],
)
def test_limits_of_reuse_are_checked(values: dict[str, Any], faults: list[str]) -> None:
    found = faults_of(TuneConfig, **values)

    assert len(found) == len(faults)
    assert all(re.search(pattern, fault) for pattern, fault in zip(faults, found, strict=True))


def test_reuse_may_be_limited() -> None:
    config = TuneConfig(reuse_actors=True, max_reuses=10, max_reuse_memory=2**30, fresh_process=False)

    assert (config.max_reuses, config.max_reuse_memory) == (10, 2**30)


# RunConfig.


def test_run_defaults_are_ray_tunes() -> None:
    config = RunConfig()

    assert (config.name, config.storage_path, config.storage_filesystem) == (None, "~/ray_results", None)
    assert config.failure_config == FailureConfig()
    assert config.checkpoint_config == CheckpointConfig()
    assert config.sync_config == SyncConfig()
    assert (config.verbose, config.stop, config.callbacks, config.progress_reporter) == (1, None, None, None)
    assert (config.log_to_file, config.log_files) == (False, None)


def test_defaults_beyond_ray_tune_change_nothing() -> None:
    config = RunConfig()

    assert (config.storage_options, config.ray_address, config.runtime_env, config.tags) == (None,) * 4
    assert (config.every_report, config.placement_timeout_s, config.stop_timeout_s) == (False, None, 10.0)
    assert (config.trial_timeout_s, config.report_timeout_s) == (None, None)


def test_none_means_the_default_as_in_ray_tune() -> None:
    names = "storage_path failure_config checkpoint_config sync_config verbose log_to_file"
    given: Any = dict.fromkeys(names.split())

    assert RunConfig(**given) == RunConfig()


def test_path_becomes_a_string() -> None:
    assert RunConfig(storage_path=Path("runs") / "a").storage_path == "runs/a"


@pytest.mark.parametrize("storage_path", ["", 3, b"runs"])
def test_storage_path_is_a_path_or_url(storage_path: Any) -> None:
    assert "expected a directory or a URL" in faults_of(RunConfig, storage_path=storage_path)[0]


@pytest.mark.parametrize("name", ["digits", "a b", "x" * 200, "größe", "run-1.2_b=3,c", ".hidden"])
def test_name_may_be_any_single_part_of_a_path(name: str) -> None:
    assert RunConfig(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a\\b", "a*", "a?", "a[1]", "a::b", "a\nb", " a", "a ", "x" * 201, 3]
)
def test_name_that_could_mean_something_to_a_filesystem_is_refused(name: Any) -> None:
    assert "expected a name of one part" in faults_of(RunConfig, name=name)[0]


@pytest.mark.parametrize("name", ["failure_config", "checkpoint_config", "sync_config"])
def test_part_of_ray_is_refused_with_what_to_import(name: str) -> None:
    cls = {"failure_config": "FailureConfig", "checkpoint_config": "CheckpointConfig"}.get(name, "SyncConfig")

    faults = faults_of(RunConfig, **{name: of_ray(cls)})

    assert f"given ray.tune.{cls}; use tune_core.{cls}: `import tune_core as tune`" in faults[0]


def test_part_of_another_kind_is_refused() -> None:
    assert "expected a FailureConfig, got dict" in faults_of(RunConfig, failure_config={"max_failures": 3})[0]


@pytest.mark.parametrize("verbose", [0, 1, 2, 3])
def test_verbosity_goes_from_0_to_3(verbose: int) -> None:
    assert RunConfig(verbose=verbose).verbose == verbose


def test_verbosity_may_be_a_named_integer() -> None:
    class Verbosity(IntEnum):
        SILENT = 0

    assert RunConfig(verbose=Verbosity.SILENT).verbose == 0


@pytest.mark.parametrize("verbose", [-1, 4, True, "1", 1.0])
def test_other_verbosity_is_refused(verbose: Any) -> None:
    assert faults_of(RunConfig, verbose=verbose) == [
        f"RunConfig(verbose={verbose!r}): expected an integer from 0 to 3"
    ]


@pytest.mark.parametrize(
    "stop", [{"training_iteration": 3}, MaximumIterationStopper(3), [MaximumIterationStopper(3)]]
)
def test_stop_is_kept_as_it_was_given(stop: Any) -> None:
    assert RunConfig(stop=stop).stop is stop


def test_every_fault_of_stop_and_callbacks_is_named() -> None:
    faults = faults_of(RunConfig, stop={"a": "b", "": 1}, callbacks=[Callback(), print])

    assert len(faults) == 3
    assert "callbacks[1]" in faults[2]


@pytest.mark.parametrize("callbacks", [Callback(), "mine"])
def test_callbacks_are_a_list(callbacks: Any) -> None:
    assert "expected a list of Callbacks" in faults_of(RunConfig, callbacks=callbacks)[0]


def test_callback_and_reporter_of_ray_are_refused_by_name() -> None:
    faults = faults_of(
        RunConfig, callbacks=[of_ray("Callback")], progress_reporter=of_ray("CLIReporter", "ray.tune.x")
    )

    assert "given ray.tune.Callback; use tune_core.Callback" in faults[0]
    assert "given ray.tune.CLIReporter" in faults[1]


@pytest.mark.parametrize(
    ("given", "files"),
    [
        (False, None),
        (True, ("stdout", "stderr")),
        ("out.txt", ("out.txt", "out.txt")),
        (("o", "logs/e"), ("o", "logs/e")),
        (["o", "e"], ("o", "e")),
    ],
)
def test_output_goes_to_no_file_to_one_or_to_two(given: Any, files: Any) -> None:
    assert RunConfig(log_to_file=given).log_files == files


@pytest.mark.parametrize("given", ["", "/etc/passwd", "../out", ("a",), ("a", "b", "c"), ("a", 3), 1])
def test_output_stays_below_the_trials_directory(given: Any) -> None:
    assert "each relative to the trial's directory" in faults_of(RunConfig, log_to_file=given)[0]


def test_address_of_ray_client_is_refused_with_what_to_do() -> None:
    faults = faults_of(RunConfig, ray_address="ray://head:10001")

    assert "run the flow inside the cluster's network, with ray_address='auto'" in faults[0]


@pytest.mark.parametrize("tags", [["a"], ("a", "b"), {"a"}, []])
def test_tags_are_strings(tags: Any) -> None:
    assert RunConfig(tags=tags).tags == tags


@pytest.mark.parametrize("tags", ["abc", [1], [""]])
def test_other_tags_are_refused(tags: Any) -> None:
    assert "expected a list of strings" in faults_of(RunConfig, tags=tags)[0]


def test_every_fault_of_the_rest_is_named() -> None:
    faults = faults_of(
        RunConfig,
        ray_address="",
        runtime_env="pip",
        every_report=1,
        placement_timeout_s=-1,
        stop_timeout_s="10",
        trial_timeout_s=0,
        report_timeout_s=float("nan"),
        local_dir="/tmp/runs",
    )

    assert len(faults) == 8
    assert "local_dir is gone: give the directory as storage_path" in faults[0]


# Secrets.


def test_repr_shows_no_secret() -> None:
    config = RunConfig(
        name="digits",
        storage_path=f"s3://key:{SECRET}@bucket/runs?token={SECRET}",
        storage_options={"secret": SECRET},
        runtime_env={"env_vars": {"TOKEN": SECRET}},
    )

    assert repr(config) == "RunConfig(name='digits', storage_path='s3://bucket/runs')"
    assert SECRET in str(config.storage_options)


@pytest.mark.parametrize(
    "arguments",
    [
        {"storage_options": [SECRET]},
        {"storage_options": {3: SECRET}},
        {"storage_options": {"secret": SECRET}, "storage_filesystem": object()},
        {"runtime_env": [SECRET]},
    ],
)
def test_faults_show_no_secret(arguments: dict[str, Any]) -> None:
    faults = faults_of(RunConfig, **arguments)

    assert len(faults) == 1
    assert SECRET not in str(faults)


# What ends an experiment, and what a death changes.


@pytest.mark.parametrize(
    ("cost", "limits"),
    [
        (None, {}),
        (2, {"CPU": 7200.0}),
        (0.5, {"CPU": 1800.0}),
        ({"CPU": 40, "GPU": 0.25}, {"CPU": 144_000.0, "GPU": 900.0}),
    ],
)
def test_cost_is_in_hours(cost: Any, limits: dict[str, float]) -> None:
    assert TuneConfig(max_cost=cost).cost_limits == limits


@pytest.mark.parametrize(
    "cost", [0, -1, {}, {"CPU": 0}, {"cpu": 1}, {"CPU": "1"}, True, "40", {"CPU": math.inf}]
)
def test_other_costs_are_refused(cost: Any) -> None:
    assert "expected hours above 0 of CPU and GPU" in faults_of(TuneConfig, max_cost=cost)[0]


@pytest.mark.parametrize("allowed", [None, 0, 3, 0.5, 0.001])
def test_so_many_trials_may_fail(allowed: Any) -> None:
    assert FailureConfig(max_failed_trials=allowed).max_failed_trials == allowed


@pytest.mark.parametrize("allowed", [-1, 1.0, 1.5, 0.0, True, "3", math.nan])
def test_other_numbers_of_failed_trials_are_refused(allowed: Any) -> None:
    assert "a share between 0 and 1, or None" in faults_of(FailureConfig, max_failed_trials=allowed)[0]


def test_failing_fast_leaves_nothing_to_count() -> None:
    assert "choose one" in faults_of(FailureConfig, fail_fast=True, max_failed_trials=2)[0]


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ([], "expected a dict, such as"),
        ({"oomm": {"memory": 2.0}}, "did you mean 'oom'?"),
        ({"oom": {}}, "expected factors"),
        ({"oom": 2.0}, "expected factors"),
        ({"oom": {"memory": 0}}, "expected a finite factor above 0"),
        ({"oom": {"memory": "2"}}, "expected a finite factor above 0"),
        ({"crashed": {"cpu": 2.0}}, "Ray knows no 'cpu': write 'CPU'"),
    ],
)
def test_rules_for_a_death_that_cannot_work_are_refused(rules: Any, fault: str) -> None:
    assert fault in faults_of(FailureConfig, resources_after=rules)[0]


def test_rules_for_every_cause_of_death_are_kept() -> None:
    rules = {cause: {"memory": 1.5, "special": 2.0} for cause in CAUSES}

    assert FailureConfig(resources_after=rules).resources_after == rules
