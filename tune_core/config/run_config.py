"""What a user says about an experiment: how to search, how to run, what to keep, when to retry.

Owns Ray Tune's configuration objects with their names and defaults. Each is checked when it is
made, and raises everything that is wrong with it at once; nothing here opens a connection or
reads a file. What an object keeps is normalised, so that nobody has to ask again what None means.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal

from tune_core.callback import Callback, CallbackList
from tune_core.config.failure_config import FailureConfig
from tune_core.config.parts import check_parts, objective_of, plain
from tune_core.config.shown import default_of, shown
from tune_core.config.warm_start import WarmStart, warm_start_of
from tune_core.errors import ConfigError
from tune_core.objective import SCOPES, Objective, check_objective
from tune_core.progress_reporter.reporters import ProgressReporter
from tune_core.schedulers import TrialScheduler
from tune_core.search.searcher import Searcher
from tune_core.stopper import resolve_stop
from tune_core.storage.experiment_storage import split_number
from tune_core.storage.filesystems import check_url
from tune_core.trial import Trial
from tune_core.validation import Validator, are_names, has_names_as_keys, is_name, is_number


class _Unset(Enum):
    """Marks arguments that Ray Tune has removed, so that giving them is noticed."""

    UNSET = "unset"


#: Characters with a meaning in paths, in glob patterns of filesystems, or in chained URLs.
_UNSAFE_IN_NAMES = re.compile(r"[/\\*?\[\]\x00-\x1f\x7f]|::")


@dataclass(repr=False)
class CheckpointConfig:
    """Which checkpoints of a trial are made, and which are kept.

    Args:
        num_to_keep: How many of the best are kept, at least 1; None keeps all. The latest is
            kept in any case: it is where a trial goes on after a failure.
        checkpoint_score_attribute: The metric, "a/b" for a nested one, that says which are
            best; None: the latest are.
        checkpoint_score_order: "max" if high scores are good, else "min".
        checkpoint_frequency: Trainable classes save every so many iterations; 0 for never.
        checkpoint_at_end: Whether a trainable class saves when its trial ends; None: it does if it
            has a `save_checkpoint`. Functions save by `report(..., checkpoint=...)` alone.
        async_upload: Beyond Ray Tune: whether a trial goes on while its checkpoint is uploaded: `report`
            returns when the directory is copied to a private one on the same machine. Its row, and those
            after it, are seen after the commit; the next checkpoint waits for the one before. Where a
            scheduler or a stopper decides on reports, they wait for the upload all the same.

    Raises:
        ConfigError: A value cannot work; all faults are named together.

    Example:
        >>> CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="eval/accuracy")
        CheckpointConfig(num_to_keep=2, checkpoint_score_attribute='eval/accuracy')

    Source: as Ray Tune 2.60. Differs: a nested score attribute is found.
    """

    num_to_keep: int | None = None
    checkpoint_score_attribute: str | None = None
    checkpoint_score_order: Literal["max", "min"] = "max"
    checkpoint_frequency: int = 0
    checkpoint_at_end: bool | None = None
    _checkpoint_keep_all_ranks: Any = field(default=_Unset.UNSET, repr=False, compare=False)
    _checkpoint_upload_from_workers: Any = field(default=_Unset.UNSET, repr=False, compare=False)
    async_upload: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        validator = Validator("CheckpointConfig")
        if self.num_to_keep is not None:
            validator.check_integer("num_to_keep", self.num_to_keep, minimum=1, also=", or None to keep all")
        if self.checkpoint_score_attribute is not None:
            validator.check_name(
                "checkpoint_score_attribute", self.checkpoint_score_attribute, ": a metric, or None"
            )
        validator.check_choice("checkpoint_score_order", self.checkpoint_score_order, ("max", "min"))
        validator.check_integer("checkpoint_frequency", self.checkpoint_frequency, minimum=0)
        if self.checkpoint_at_end is not None:
            validator.check_bool("checkpoint_at_end", self.checkpoint_at_end)
        validator.check_bool("async_upload", self.async_upload)
        if self._checkpoint_keep_all_ranks is not _Unset.UNSET:
            validator.note(
                "_checkpoint_keep_all_ranks is gone: report checkpoint=None where none should be kept"
            )
        if self._checkpoint_upload_from_workers is not _Unset.UNSET:
            validator.note("_checkpoint_upload_from_workers is gone: workers always upload by themselves")
        validator.raise_any()

    __repr__ = shown


@dataclass(repr=False)
class SyncConfig:
    """What of a trial's working directory is copied to the storage.

    Checkpoints and rows are always written there as they come, so neither waits for this.

    Args:
        sync_period: Accepted for Ray Tune's sake; files are copied at the moments named below.
        sync_timeout: As `sync_period`.
        sync_artifacts: Whether files that a trial writes into its working directory are copied to
            its directory in the storage when the trial ends.
        sync_artifacts_on_checkpoint: Whether they are copied with each checkpoint as well.

    Raises:
        ConfigError: A value cannot work; all faults are named together.

    Example:
        >>> SyncConfig(sync_artifacts=True)
        SyncConfig(sync_artifacts=True)

    Source: as Ray Tune 2.60. Differs: copies are not periodic, and only changed files go.
    """

    sync_period: float = 300
    sync_timeout: float = 1800
    sync_artifacts: bool = False
    sync_artifacts_on_checkpoint: bool = True

    def __post_init__(self) -> None:
        validator = Validator("SyncConfig")
        validator.check_number("sync_period", self.sync_period, also=" seconds")
        validator.check_number("sync_timeout", self.sync_timeout, also=" seconds")
        validator.check_bool("sync_artifacts", self.sync_artifacts)
        validator.check_bool("sync_artifacts_on_checkpoint", self.sync_artifacts_on_checkpoint)
        validator.raise_any()

    __repr__ = shown


@dataclass(repr=False)
class TuneConfig:
    """How to search: what to optimise, with which searcher and scheduler, how often and how long.

    Args:
        mode: "min" or "max": the better values of the metric. Needs `metric`. Of several, a list.
        metric: A reported metric; "a/b" for a nested one. A function that returns a number
            reports it as "_metric". Needs `mode`. Beyond Ray Tune: a list of several; every report has to
            have them all, and `ResultGrid.pareto_front()` has the trials that no other dominates.
        search_alg: Chooses configurations; None: grid and random search over `param_space`.
        scheduler: Ends or pauses trials early; None: none is.
        num_samples: How many configurations; with a grid, how often the whole of it. -1: no
            end until something stops the experiment.
        max_concurrent_trials: How many trials run at once; None or 0: as many as fit.
        time_budget_s: Seconds, or a timedelta, after which the experiment is stopped.
        reuse_actors: Whether a trainable object, or a loaded function, goes on to the next trial of equal
            bundles in its process: an object by `reset_config`, else a fresh one is made.
        trial_name_creator: Called with a Trial; its result is what the trial is shown as.
        trial_dirname_creator: Called with a Trial; its result names the trial's directory, and no other's: neither
            another trial's nor that of an earlier experiment of the name, nor what the experiment itself
            keeps, such as `journal`.
        fresh_process: Beyond Ray Tune: whether each attempt has a process of its own. None: yes
            where the trial has GPUs, since a process can initialise CUDA only once, or more than
            one bundle, since what it started there ends with its process; no with `reuse_actors`. A shared
            process is replaced after each failure, and when half of the descriptors that it may have are open.
        max_reuses: Beyond Ray Tune: after how many reuses a process is replaced, at least 1; None: never.
        max_reuse_memory: Beyond Ray Tune: a process that holds more bytes than this when a trial ends
            is replaced; None: however much it holds. Both need `reuse_actors`.
        max_process_growth: Beyond Ray Tune: a process that holds so many bytes more than as its first trial
            began is replaced; None: however much it grows.
        warm_start: Beyond Ray Tune: earlier experiments to learn from, or whose best configurations are run first:
            a `WarmStart`, or its sources or arguments alone: a path, a list of them, a dict.
        best_scope: Beyond Ray Tune: what of a trial's reports counts wherever the best trial is named or
            trials are ranked: its "last" value; its best of "all"; the mean of all ("avg"), of the last 5
            ("last-5-avg"), of the last 10 ("last-10-avg"). Several metrics are compared as they were
            together: by any but "all".
        max_cost: Beyond Ray Tune: how many resource hours attempts may take before the experiment is stopped, such as
            `{"CPU": 40, "GPU": 2}`; a number is CPU hours; None: any. An attempt takes all of its bundles from its
            begin to its end. Those of failed attempts, and of all runs of the experiment before a resume, count.

    Raises:
        ConfigError: A value cannot work; all faults are named together.

    Example:
        >>> TuneConfig(metric="loss", mode="min", num_samples=20)
        TuneConfig(mode='min', metric='loss', num_samples=20)
        >>> TuneConfig(metric=["accuracy", "latency_ms"], mode=["max", "min"]).objective.is_several
        True

    Source: as Ray Tune 2.60. Differs: `metric` and `mode` need each other, and everything is
        checked here instead of in `fit()`.
    """

    mode: Literal["min", "max"] | list[str] | None = None
    metric: str | list[str] | None = None
    search_alg: Searcher | None = None
    scheduler: TrialScheduler | None = None
    num_samples: int = 1
    max_concurrent_trials: int | None = None
    time_budget_s: float | datetime.timedelta | None = None
    reuse_actors: bool = False
    trial_name_creator: Callable[[Trial], str] | None = None
    trial_dirname_creator: Callable[[Trial], str] | None = None
    chdir_to_trial_dir: Any = field(default=_Unset.UNSET, repr=False, compare=False)
    fresh_process: bool | None = field(default=None, kw_only=True)
    max_reuses: int | None = field(default=None, kw_only=True)
    max_reuse_memory: int | None = field(default=None, kw_only=True)
    max_process_growth: int | None = field(default=2**30, kw_only=True)
    best_scope: Literal["last", "all", "avg", "last-5-avg", "last-10-avg"] = field(
        default="last", kw_only=True
    )
    max_cost: float | dict[str, float] | None = field(default=None, kw_only=True)
    warm_start: WarmStart | str | Sequence[str] | dict[str, Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        validator = Validator("TuneConfig")
        self._check_objective(validator)
        check_parts(validator, self)
        self._check_warm_start(validator)
        if self.num_samples != -1 or isinstance(self.num_samples, bool):
            validator.check_integer("num_samples", self.num_samples, minimum=1, also=", or -1 for no end")
        if self.max_concurrent_trials is not None:
            validator.check_integer(
                "max_concurrent_trials", self.max_concurrent_trials, minimum=0, also=", or None for no limit"
            )
        if self.time_budget_s is not None:
            seconds = self.time_budget_seconds
            if not is_number(seconds) or seconds <= 0:
                expected = "expected seconds above 0, a timedelta, or None for no limit"
                validator.add("time_budget_s", self.time_budget_s, expected)
        validator.check_bool("reuse_actors", self.reuse_actors)
        for name in ("trial_name_creator", "trial_dirname_creator"):
            if getattr(self, name) is not None:
                validator.check_callable(name, getattr(self, name), f"{name}(trial)")
        if self.fresh_process is not None:
            validator.check_bool("fresh_process", self.fresh_process)
        if (growth := self.max_process_growth) is not None:
            validator.check_integer("max_process_growth", growth, minimum=1, also=", or None for no limit")
        self._check_reuse(validator)
        if self.max_cost is not None and not _are_hours(self.max_cost):
            expected = (
                'hours above 0 of CPU and GPU, such as {"CPU": 40, "GPU": 2}, a number of CPU hours, or None'
            )
            validator.add("max_cost", self.max_cost, f"expected {expected}")
        validator.check_choice("best_scope", self.best_scope, tuple(SCOPES))
        if self.chdir_to_trial_dir is not _Unset.UNSET:
            validator.note(
                "chdir_to_trial_dir is gone: set the environment variable RAY_CHDIR_TO_TRIAL_DIR=0 "
                "to stay in the current directory"
            )
        validator.raise_any()

    @property
    def time_budget_seconds(self) -> float | None:
        """`time_budget_s` as seconds; None for no limit."""
        budget = self.time_budget_s
        return budget.total_seconds() if isinstance(budget, datetime.timedelta) else budget

    @property
    def cost_limits(self) -> dict[str, float]:
        """`max_cost` as amounts times seconds, by resource; {} for no limit."""
        limits = self.max_cost if isinstance(self.max_cost, dict) else {"CPU": self.max_cost}
        return {name: 3600.0 * hours for name, hours in limits.items() if hours is not None}

    @property
    def objective(self) -> Objective:
        """What trials are compared by; without a metric of its own, by that of the scheduler or the searcher."""
        constraints = self.search_alg.constraints if self.search_alg is not None else ()
        return objective_of((self, self.scheduler, self.search_alg), self.best_scope, constraints)

    @property
    def is_endless(self) -> bool:
        """Whether the number of trials has no limit."""
        return self.num_samples == -1

    def _check_reuse(self, validator: Validator) -> None:
        if self.reuse_actors is True and self.fresh_process is True:
            validator.add("fresh_process", True, "reuse_actors=True keeps the process: choose one")
        for name in ("max_reuses", "max_reuse_memory"):
            limit = getattr(self, name)
            if limit is None:
                continue
            validator.check_integer(name, limit, minimum=1, also=", or None for no limit")
            if not self.reuse_actors:
                validator.add(name, limit, "limits what reuse_actors=True does: add that")

    def _check_warm_start(self, validator: Validator) -> None:
        try:
            self.warm_start = warm = warm_start_of(self.warm_start)
        except ConfigError as error:
            validator.extend(error.faults)
            return
        searcher = self.search_alg
        can_learn = isinstance(searcher, Searcher) and searcher.learns_from_earlier
        if warm is not None and not can_learn and not warm.max_points:
            name = type(searcher).__name__ if searcher is not None else "grid and random search"
            validator.add(
                "warm_start",
                warm,
                f"{name} learns nothing from earlier trials: give WarmStart(max_points=…), which are run first, or a "
                "search_alg that learns, such as OptunaSearch",
            )

    def _check_objective(self, validator: Validator) -> None:
        check_objective(validator, self.metric, self.mode)
        if self.mode is None and isinstance(self.metric, str):
            validator.add("metric", self.metric, "mode is missing: add mode='min' or mode='max'")
        if self.metric is None and isinstance(self.mode, str):
            expected = "metric is missing: add metric=..., '_metric' if the trainable returns a number"
            validator.add("mode", self.mode, expected)
        if not validator.found:
            self.metric, self.mode = plain(self.metric), plain(self.mode)

    __repr__ = shown


@dataclass(repr=False)
class RunConfig:
    """How to run: name, storage, stop rules, retries, and what to show.

    Args:
        name: The experiment's name, also of its directory; None: trainable and date.
        storage_path: Directory, or URL such as `s3://bucket/path`, that experiments are kept in.
        storage_filesystem: An fsspec or pyarrow filesystem; `storage_path` is then a path in it.
        failure_config: Retries.
        checkpoint_config: Which checkpoints are kept.
        sync_config: Whether files of the working directory are kept.
        verbose: 0 shows nothing, 1 a table and what trials print, 2 and 3 each report too.
        stop: A dict of metric to bound, a Stopper, a list of Stoppers, or a function of trial id
            and report.
        callbacks: Instances of `Callback`.
        progress_reporter: A `ProgressReporter`, such as `CLIReporter`, that shows the progress instead.
        log_to_file: Where a trial's output goes, below its directory: True for files "stdout"
            and "stderr", one name for both, or two names.
        storage_options: Beyond Ray Tune: options of the filesystem behind a URL, such as
            `{"key": ..., "secret": ..., "endpoint_url": ...}`. Never shown, never written down.
        ray_address: Beyond Ray Tune: the cluster, "auto" or "host:port"; None: the environment
            decides, else a local one is started.
        runtime_env: Beyond Ray Tune: Ray's `runtime_env` for the trials' processes. Not shown here, but Ray
            writes it to a log and to command lines that every user of the machine can read: secrets go
            into `tune.with_parameters`, or a Prefect block that the trial loads.
        tags: Beyond Ray Tune: tags of the Prefect flow run and its task runs.
        every_report: Beyond Ray Tune: whether each report updates its artifact at once, instead
            of together with others every few seconds.
        placement_timeout_s: Beyond Ray Tune: for how long a trial waits for bundles that the
            cluster as it is can never give, for the sake of an autoscaler; None: not at all.
        stop_timeout_s: Beyond Ray Tune: for how long a trainable may go on after it was told to
            stop, to run its `finally` blocks; after SIGTERM at most 12 s, since a kill follows soon.
        trial_timeout_s: Beyond Ray Tune: for how long an attempt at a trial may run before its process is
            killed, whatever it is doing; None: for ever. To end trials at a report, which counts as
            success, use `stop={"time_total_s": ...}`.
        report_timeout_s: Beyond Ray Tune: how long an attempt may take to its first report, or from one
            report to the next or to its end, before its process is killed; None: for ever. Checkpoints are
            uploaded meanwhile, so allow for a storage that is slow. After either, the trial is tried
            again as `max_failures` allows.

    Raises:
        ConfigError: A value cannot work; all faults are named together.

    Example:
        >>> RunConfig(name="digits", storage_path="s3://bucket/runs", storage_options={"secret": "x"})
        RunConfig(name='digits', storage_path='s3://bucket/runs')

    Source: as Ray Tune 2.60, but for what is marked.
    """

    name: str | None = None
    storage_path: str | os.PathLike[str] = "~/ray_results"
    storage_filesystem: Any = field(default=None, repr=False)
    failure_config: FailureConfig = field(default_factory=FailureConfig)
    checkpoint_config: CheckpointConfig = field(default_factory=CheckpointConfig)
    sync_config: SyncConfig = field(default_factory=SyncConfig)
    verbose: int = 1
    stop: Any = None
    callbacks: Sequence[Callback] | None = None
    progress_reporter: Any = None
    log_to_file: bool | str | tuple[str, str] = False
    local_dir: Any = field(default=None, repr=False)
    storage_options: dict[str, Any] | None = field(default=None, repr=False, kw_only=True)
    ray_address: str | None = field(default=None, kw_only=True)
    runtime_env: dict[str, Any] | None = field(default=None, repr=False, kw_only=True)
    tags: Sequence[str] | None = field(default=None, kw_only=True)
    every_report: bool = field(default=False, kw_only=True)
    placement_timeout_s: float | None = field(default=None, kw_only=True)
    stop_timeout_s: float = field(default=10.0, kw_only=True)
    trial_timeout_s: float | None = field(default=None, kw_only=True)
    report_timeout_s: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._fill_defaults()
        validator = Validator("RunConfig")
        self._check_storage(validator)
        for name, cls in (
            ("failure_config", FailureConfig),
            ("checkpoint_config", CheckpointConfig),
            ("sync_config", SyncConfig),
        ):
            validator.check_instance(name, getattr(self, name), cls)
        validator.check_integer("verbose", self.verbose, minimum=0, maximum=3)
        self._check_rules(validator)
        self._check_log_to_file(validator)
        self._check_cluster(validator)
        validator.raise_any()

    @property
    def log_files(self) -> tuple[str, str] | None:
        """Names of the files for a trial's stdout and stderr; None if neither is kept."""
        names = self.log_to_file
        if isinstance(names, bool):
            return ("stdout", "stderr") if names else None
        return (names, names) if isinstance(names, str) else (names[0], names[1])

    def _fill_defaults(self) -> None:
        """Replace None, which Ray Tune takes for "the default", by the default."""
        for each in fields(self):
            if getattr(self, each.name) is None:
                setattr(self, each.name, default_of(each))
        if isinstance(self.storage_path, os.PathLike):
            self.storage_path = os.fspath(self.storage_path)

    def _check_storage(self, validator: Validator) -> None:
        name: object = self.name
        if name is not None and not _is_safe_name(name):
            expected = "expected a name of one part, without any of / \\ * ? [ ] :: and control characters"
            validator.add("name", name, f"{expected}, and without @ and a number at its end, or None")
        if not is_name(self.storage_path):
            given = type(self.storage_path).__name__
            validator.note(f"storage_path: expected a directory or a URL that is not empty, got {given}")
        else:
            try:
                check_url(os.fspath(self.storage_path))
            except ConfigError as error:
                validator.note(f"storage_path: {error}")
        if self.local_dir is not None:
            validator.note("local_dir is gone: give the directory as storage_path")
        if self.storage_options is not None and not has_names_as_keys(self.storage_options):
            given = type(self.storage_options).__name__
            validator.note(f"storage_options: expected a dict with strings as keys, got {given}")
        elif self.storage_options and self.storage_filesystem is not None:
            validator.note("storage_options and storage_filesystem: the filesystem has its options already")

    def _check_rules(self, validator: Validator) -> None:
        try:
            resolve_stop(self.stop)
        except ConfigError as error:
            validator.extend(error.faults)
        callbacks: object = self.callbacks
        if isinstance(callbacks, (list, tuple)):
            try:
                CallbackList(callbacks)
            except ConfigError as error:
                validator.extend(error.faults)
        elif callbacks is not None:
            validator.add("callbacks", callbacks, "expected a list of Callbacks, or None")
        if self.progress_reporter is not None:
            validator.check_instance("progress_reporter", self.progress_reporter, ProgressReporter)

    def _check_log_to_file(self, validator: Validator) -> None:
        names: Any = (self.log_to_file,) * 2 if isinstance(self.log_to_file, str) else self.log_to_file
        is_pair = isinstance(names, (list, tuple)) and len(names) == 2 and all(map(_is_file_below, names))
        if not is_pair and not isinstance(names, bool):
            expected = "expected a bool, a file name, or two, each relative to the trial's directory"
            validator.add("log_to_file", self.log_to_file, expected)

    def _check_cluster(self, validator: Validator) -> None:
        address: object = self.ray_address
        if isinstance(address, str) and address.startswith("ray://"):
            expected = "Ray Client loses every trial with its connection: run the flow inside the cluster's"
            validator.add("ray_address", address, f"{expected} network, with ray_address='auto'")
        elif address is not None:
            validator.check_name("ray_address", address, ": 'auto', 'host:port', or None")
        if self.runtime_env is not None and not has_names_as_keys(self.runtime_env):
            given = type(self.runtime_env).__name__
            validator.note(f"runtime_env: expected a dict with strings as keys, got {given}")
        if self.tags is not None and not are_names(self.tags):
            validator.add("tags", self.tags, "expected a list of strings, or None")
        validator.check_bool("every_report", self.every_report)
        if self.placement_timeout_s is not None:
            validator.check_number("placement_timeout_s", self.placement_timeout_s, also=" seconds, or None")
        validator.check_number("stop_timeout_s", self.stop_timeout_s, also=" seconds")
        for name in ("trial_timeout_s", "report_timeout_s"):
            limit = getattr(self, name)
            if limit is not None and (not is_number(limit) or limit <= 0):
                validator.add(name, limit, "expected seconds above 0, or None for no limit")

    __repr__ = shown


def _are_hours(value: object) -> bool:
    if is_number(value):
        return value > 0
    return (
        isinstance(value, dict)
        and bool(value)
        and value.keys() <= {"CPU", "GPU"}
        and all(is_number(hours) and hours > 0 for hours in value.values())
    )


def _is_safe_name(name: object) -> bool:
    if not is_name(name) or name in (".", "..") or name != name.strip():
        return False
    if split_number(name)[1] is not None:
        return False
    return _UNSAFE_IN_NAMES.search(name) is None and len(name.encode("utf-8", "replace")) <= 200


def _is_file_below(name: object) -> bool:
    return is_name(name) and not any(part in ("", ".", "..") for part in name.split("/"))
