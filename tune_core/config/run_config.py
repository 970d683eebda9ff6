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
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any, Literal

from tune_core.callback import Callback, CallbackList
from tune_core.errors import ConfigError
from tune_core.masking import masked
from tune_core.progress_reporter.reporters import ProgressReporter
from tune_core.ranking import MODES, SCOPES, Objective
from tune_core.schedulers import TrialScheduler
from tune_core.schedulers.scheduler import RETURNED_METRIC
from tune_core.search.searcher import Searcher
from tune_core.stopper import resolve_stop
from tune_core.storage.experiment_storage import split_number
from tune_core.storage.filesystems import check_url, without_credentials
from tune_core.trial import Trial
from tune_core.validation import Validator, are_names, has_names_as_keys, is_name, is_number


class _Unset(Enum):
    """Marks arguments that Ray Tune has removed, so that giving them is noticed."""

    UNSET = "unset"


#: Characters with a meaning in paths, in glob patterns of filesystems, or in chained URLs.
_UNSAFE_IN_NAMES = re.compile(r"[/\\*?\[\]\x00-\x1f\x7f]|::")


def _default_of(each: Any) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


def _shown(config: Any) -> str:
    """Return the repr of a configuration: what differs from the defaults, and never a secret."""
    parts = []
    for each in fields(config):
        value = getattr(config, each.name)
        if each.repr and value != _default_of(each):
            is_path = each.name == "storage_path" and isinstance(value, str)
            shown = repr(without_credentials(value)) if is_path else masked(repr(value))
            parts.append(f"{each.name}={shown}")
    return f"{type(config).__name__}({', '.join(parts)})"


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

    __repr__ = _shown


@dataclass(repr=False)
class FailureConfig:
    """What happens when an attempt at a trial fails.

    Args:
        max_failures: How often a trial is tried again, from its latest checkpoint if there is
            one; 0 for never, -1 for ever.
        fail_fast: True ends the experiment with the first trial that fails; "raise" does so
            and raises the error out of `fit()`. Both need `max_failures=0`.
        max_infrastructure_failures: Beyond Ray Tune: how often a trial is tried again after it was lost with
            what it ran on (its node, its placement group, a process that Ray killed because memory ran out)
            or could not even begin, one time after the other without a new checkpoint; 0 for never, -1 for
            ever. Such losses are not counted in `max_failures`.
        on_corrupted_checkpoint: Beyond Ray Tune: what happens when the checkpoint that an attempt starts
            from is not what was committed (a file is missing, cut, or has other bytes). "fail": the
            attempt fails, which counts; "previous": the trial goes on from the checkpoint before that
            one, which does not count. Without one before it fails: no trial starts over unasked.

    Raises:
        ConfigError: A value cannot work; all faults are named together.

    Example:
        >>> FailureConfig(max_failures=3)
        FailureConfig(max_failures=3)

    Source: as Ray Tune 2.60. Differs: there, a lost node is a failure like any other.
    """

    max_failures: int = 0
    fail_fast: bool | Literal["raise"] = False
    max_infrastructure_failures: int = field(default=16, kw_only=True)
    on_corrupted_checkpoint: Literal["fail", "previous"] = field(default="fail", kw_only=True)

    def __post_init__(self) -> None:
        validator = Validator("FailureConfig")
        for name in ("max_failures", "max_infrastructure_failures"):
            validator.check_integer(name, getattr(self, name), minimum=-1, also=" (-1 for no end)")
        fail_fast: object = self.fail_fast
        if isinstance(fail_fast, str) and fail_fast.lower() == "raise":
            self.fail_fast = "raise"
        elif not isinstance(fail_fast, bool):
            validator.add("fail_fast", fail_fast, "expected True, False or 'raise'")
        if self.fail_fast and self.max_failures != 0:
            validator.add(
                "max_failures", self.max_failures, f"must be 0 with fail_fast={self.fail_fast!r}: choose one"
            )
        validator.check_choice("on_corrupted_checkpoint", self.on_corrupted_checkpoint, ("fail", "previous"))
        validator.raise_any()

    __repr__ = _shown


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

    __repr__ = _shown


@dataclass(repr=False)
class ResumeConfig:
    """What becomes of the trials of an experiment that is restored.

    Each is a `ResumeConfig.ResumeType`, or its value as a string.

    Args:
        finished: Trials that ended without an error.
        unfinished: Trials that were waiting, running or paused.
        errored: Trials that failed for good.

    Raises:
        ConfigError: A value is none of them; all faults are named together.

    Example:
        >>> ResumeConfig(errored="restart").errored
        <ResumeType.RESTART: 'restart'>

    Source: as Ray Tune 2.60.
    """

    class ResumeType(Enum):
        """What to do with a trial."""

        #: Go on from its latest checkpoint.
        RESUME = "resume"
        #: Begin again, as a new trial with the same configuration.
        RESTART = "restart"
        #: Leave it as it is.
        SKIP = "skip"

    finished: ResumeType | str = ResumeType.SKIP
    unfinished: ResumeType | str = ResumeType.RESUME
    errored: ResumeType | str = ResumeType.SKIP

    def __post_init__(self) -> None:
        validator = Validator("ResumeConfig")
        known = {kind.value: kind for kind in self.ResumeType}
        for name in ("finished", "unfinished", "errored"):
            given = getattr(self, name)
            if isinstance(given, self.ResumeType):
                continue
            validator.check_choice(name, given, tuple(known), also=", or a ResumeConfig.ResumeType")
            setattr(self, name, known.get(given) if isinstance(given, str) else given)
        validator.raise_any()

    __repr__ = _shown


@dataclass(repr=False)
class TuneConfig:
    """How to search: what to optimise, with which searcher and scheduler, how often and how long.

    Args:
        mode: "min" or "max": the better values of the metric. Needs `metric`.
        metric: A reported metric; "a/b" for a nested one. A function that returns a number
            reports it as "_metric". Needs `mode`.
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
        best_scope: Beyond Ray Tune: what of a trial's reports counts wherever the best trial is named or
            trials are ranked: its "last" value; its best of "all"; the mean of all ("avg"), of the last 5
            ("last-5-avg"), of the last 10 ("last-10-avg").

    Raises:
        ConfigError: A value cannot work; all faults are named together.

    Example:
        >>> TuneConfig(metric="loss", mode="min", num_samples=20)
        TuneConfig(mode='min', metric='loss', num_samples=20)

    Source: as Ray Tune 2.60. Differs: `metric` and `mode` need each other, and everything is
        checked here instead of in `fit()`.
    """

    mode: Literal["min", "max"] | None = None
    metric: str | None = None
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

    def __post_init__(self) -> None:
        validator = Validator("TuneConfig")
        self._check_objective(validator)
        self._check_parts(validator)
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
    def objective(self) -> Objective:
        """What trials are compared by; without a metric of its own, by that of the scheduler or the searcher."""
        for part in (self, self.scheduler, self.search_alg):
            metric, mode = getattr(part, "metric", None), getattr(part, "mode", None)
            if part is self.scheduler and mode is not None:
                metric = metric or RETURNED_METRIC
            if isinstance(metric, str) and mode in MODES:
                return Objective(metric, mode, self.best_scope, getattr(self.search_alg, "constraints", ()))
        return Objective(scope=self.best_scope)

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

    def _check_objective(self, validator: Validator) -> None:
        if self.mode is not None:
            validator.check_choice("mode", self.mode, MODES)
        if self.metric is not None:
            validator.check_name("metric", self.metric, ": the name of a reported metric")
        if self.mode is None and self.metric is not None:
            validator.add("metric", self.metric, "mode is missing: add mode='min' or mode='max'")
        if self.metric is None and self.mode is not None:
            expected = "metric is missing: add metric=..., '_metric' if the trainable returns a number"
            validator.add("mode", self.mode, expected)

    def _check_parts(self, validator: Validator) -> None:
        for name, cls in (("search_alg", Searcher), ("scheduler", TrialScheduler)):
            part = getattr(self, name)
            if part is None or not validator.check_instance(name, part, cls):
                continue
            for what in ("metric", "mode"):
                own, ours = getattr(part, what, None), getattr(self, what)
                is_own = getattr(part, "has_own_objective", False)
                if own is not None and ours is not None and (is_own or own != ours):
                    expected = f"the {name} was given {what}={own!r}: give it in one place"
                    validator.add(what, ours, expected)
        scheduler = self.scheduler
        if isinstance(scheduler, TrialScheduler):
            try:
                scheduler.check_searcher(self.search_alg)
            except ConfigError as error:
                validator.note(str(error))
        needs_metric = isinstance(scheduler, TrialScheduler) and scheduler.needs_metric
        if needs_metric and (self.metric, getattr(scheduler, "mode", None)) == (None, None):
            kind = type(scheduler).__name__
            validator.add("metric", None, f"{kind} compares trials by a metric: add metric=... and mode=...")

    __repr__ = _shown


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
                setattr(self, each.name, _default_of(each))
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

    __repr__ = _shown


def _is_safe_name(name: object) -> bool:
    if not is_name(name) or name in (".", "..") or name != name.strip():
        return False
    if split_number(name)[1] is not None:
        return False
    return _UNSAFE_IN_NAMES.search(name) is None and len(name.encode("utf-8", "replace")) <= 200


def _is_file_below(name: object) -> bool:
    return is_name(name) and not any(part in ("", ".", "..") for part in name.split("/"))
