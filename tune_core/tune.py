"""`tune.run`: a `Tuner` in one call, for scripts that were written before there was one.

Owns only how its arguments are spelled as `Tuner`, `TuneConfig` and `RunConfig`. What none of them
has any more is refused with the spelling that does the same. New code uses `Tuner`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tune_core.config.failure_config import FailureConfig
from tune_core.config.resume_config import ResumeConfig
from tune_core.config.run_config import (
    CheckpointConfig,
    RunConfig,
    SyncConfig,
    TuneConfig,
)
from tune_core.errors import ConfigError, TrialError, TuneError
from tune_core.registry import find_trainable, is_registered
from tune_core.results.analysis import ExperimentAnalysis
from tune_core.schedulers import TrialScheduler, create_scheduler
from tune_core.search import Searcher, create_searcher
from tune_core.training.resource_requests import requests_resources, with_resources
from tune_core.trial import Status
from tune_core.tuner import Tuner
from tune_core.validation import Validator, shorten, suggestion

#: Arguments of Ray Tune that are not taken here, and what does the same.
_ELSEWHERE = {
    "keep_checkpoints_num": "checkpoint_config=tune.CheckpointConfig(num_to_keep=…)",
    "checkpoint_score_attr": "checkpoint_config=tune.CheckpointConfig(checkpoint_score_attribute=…)",
    "checkpoint_freq": "checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=…)",
    "checkpoint_at_end": "checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=…)",
    "local_dir": "storage_path=…",
    "chdir_to_trial_dir": "the environment variable RAY_CHDIR_TO_TRIAL_DIR=0",
    "restore": "tune.Tuner with param_space={'start': path}, and load it in the trainable",
    "export_formats": "report what is to be kept as a checkpoint: tune.report(…, checkpoint=…)",
}
#: What may follow `resume="AUTO"`, after a plus: what becomes of trials that had not ended, and that failed.
_SUFFIXES = {
    "ERRORED": ("resume", "resume"),
    "RESTART_ERRORED": ("resume", "restart"),
    "ERRORED_ONLY": ("skip", "resume"),
    "RESTART_ERRORED_ONLY": ("skip", "restart"),
}
#: The defaults that Ray Tune gives them: scripts that spell them out mean nothing by it.
_IGNORED = (None, False, 0)


def run(
    run_or_experiment: Callable[..., Any] | str,
    *,
    name: str | None = None,
    metric: str | list[str] | None = None,
    mode: str | list[str] | None = None,
    stop: Any = None,
    time_budget_s: Any = None,
    config: dict[str, Any] | None = None,
    resources_per_trial: Any = None,
    num_samples: int = 1,
    storage_path: Any = None,
    storage_filesystem: Any = None,
    search_alg: Searcher | str | None = None,
    scheduler: TrialScheduler | str | None = None,
    checkpoint_config: CheckpointConfig | None = None,
    verbose: int | None = None,
    progress_reporter: Any = None,
    log_to_file: bool | str | tuple[str, str] = False,
    trial_name_creator: Callable[..., str] | None = None,
    trial_dirname_creator: Callable[..., str] | None = None,
    sync_config: SyncConfig | None = None,
    max_failures: int = 0,
    fail_fast: Any = False,
    reuse_actors: bool = False,
    raise_on_failed_trial: bool = True,
    callbacks: Any = None,
    max_concurrent_trials: int | None = None,
    resume: bool | str | None = None,
    resume_config: ResumeConfig | None = None,
    **others: Any,
) -> ExperimentAnalysis:
    """Tune a trainable; return the analysis of its trials.

    It is `Tuner(…).fit()` with the arguments of `TuneConfig`, `RunConfig` and `FailureConfig` in one
    list, and those docstrings say what they mean.

    Args:
        run_or_experiment: The trainable: a function of the config, a Trainable class, an import
            string, or a registered name.
        name: As in `RunConfig`, like the others of that name.
        metric: As in `TuneConfig`, like the others of that name.
        mode: "min" or "max"; of several metrics, a list.
        stop: When trials end.
        time_budget_s: When the experiment ends.
        config: The search space: `param_space` of a `Tuner`.
        resources_per_trial: As for `with_resources`.
        num_samples: How many configurations.
        storage_path: Where results are kept.
        storage_filesystem: A filesystem for it.
        search_alg: A searcher, or its name for `create_searcher`.
        scheduler: A scheduler, or its name for `create_scheduler`.
        checkpoint_config: Which checkpoints are kept.
        verbose: 0 shows nothing; None: the default.
        progress_reporter: Shows the progress.
        log_to_file: Where a trial's output goes.
        trial_name_creator: Names trials.
        trial_dirname_creator: Names their directories.
        sync_config: Whether files are kept.
        max_failures: How often a trial is tried again.
        fail_fast: Whether the first trial that fails ends the experiment.
        reuse_actors: Whether the trainable object goes on to the next trial.
        raise_on_failed_trial: Whether a failed trial raises, once all of them are over.
        callbacks: Told what happens.
        max_concurrent_trials: How many trials run at once.
        resume: Whether to go on with the experiment of that `name`, if there is one: True or "AUTO", which
            "+ERRORED", "+RESTART_ERRORED", "+ERRORED_ONLY" or "+RESTART_ERRORED_ONLY" may follow.
        resume_config: The same, and which of its trials go on: see `ResumeConfig`.
        **others: None; what Ray Tune takes besides is named with what does the same.

    Raises:
        ConfigError: An argument cannot work, or is not taken here.
        TuneError: Trials failed: their ids, and the first error as its cause. Or what `Tuner.fit` raises.

    Example:
        >>> import tune_core as tune
        >>> analysis = tune.run(train, config={"x": tune.uniform(0, 1)}, metric="y", mode="max")  # doctest: +SKIP
        >>> analysis.best_config  # doctest: +SKIP

    Source: as Ray Tune 2.60. Differs: takes no `Experiment`; old arguments are refused; when an experiment
        goes on, what the call says holds from now on, there it is ignored; an experiment that cannot be read is
        refused, there it is begun again.
    """
    _check(run_or_experiment, others)
    resuming = _resuming(resume, resume_config)
    trainable = run_or_experiment
    if resources_per_trial is not None:
        trainable = _with_resources(trainable, resources_per_trial)
    given: dict[str, Any] = {"storage_path": storage_path, "verbose": verbose}
    parts: dict[str, Any] = {
        "param_space": config,
        "tune_config": TuneConfig(
            metric=metric,
            mode=mode,  # type: ignore[arg-type] # checked there
            search_alg=create_searcher(search_alg) if isinstance(search_alg, str) else search_alg,
            scheduler=create_scheduler(scheduler) if isinstance(scheduler, str) else scheduler,
            num_samples=num_samples,
            max_concurrent_trials=max_concurrent_trials,
            time_budget_s=time_budget_s,
            reuse_actors=reuse_actors,
            trial_name_creator=trial_name_creator,
            trial_dirname_creator=trial_dirname_creator,
        ),
        "run_config": RunConfig(
            name=name,
            storage_filesystem=storage_filesystem,
            failure_config=FailureConfig(max_failures=max_failures, fail_fast=fail_fast),
            checkpoint_config=checkpoint_config or CheckpointConfig(),
            sync_config=sync_config or SyncConfig(),
            stop=stop,
            callbacks=callbacks,
            progress_reporter=progress_reporter,
            log_to_file=log_to_file,
            **{key: value for key, value in given.items() if value is not None},
        ),
    }
    tuner = _restored(trainable, parts, resuming) or Tuner(trainable, **parts)
    analysis = ExperimentAnalysis.of(tuner.fit(), metric, mode)
    failed = [trial for trial in analysis.trials if trial.status is Status.ERROR]
    if failed and raise_on_failed_trial:
        error = failed[0].result.error or TrialError("failed")
        ids = [str(trial) for trial in failed]
        raise TuneError(
            f"{len(failed)} of {len(analysis.trials)} trials failed: {shorten(ids)}; the first: {error}. "
            "With raise_on_failed_trial=False, tune.run returns the others"
        ) from error
    return analysis


def _resuming(resume: object, config: ResumeConfig | None) -> ResumeConfig | None:
    """Return which trials go on; None if the experiment begins."""
    if config is not None:
        if not isinstance(config, ResumeConfig):
            raise ConfigError(f"tune.run(resume_config={config!r}): expected a tune_core.ResumeConfig")
        return config
    if resume is None or resume is False:
        return None
    first, *suffixes = ["AUTO"] if resume is True else str(resume).split("+")
    if first != "AUTO" or len(suffixes) > 1 or not _SUFFIXES.keys() >= {*suffixes}:
        known = " or ".join(f"+{suffix}" for suffix in _SUFFIXES)
        raise ConfigError(
            f"tune.run(resume={resume!r}): expected True, False or 'AUTO', which one of {known} may follow"
        )
    unfinished, errored = _SUFFIXES[suffixes[0]] if suffixes else ("resume", "skip")
    return ResumeConfig(unfinished=unfinished, errored=errored)


def _restored(trainable: Any, parts: dict[str, Any], resuming: ResumeConfig | None) -> Tuner | None:
    """Return a Tuner that goes on with the experiment of this name; None if none is to, or there is none."""
    run_config: RunConfig = parts["run_config"]
    if resuming is None or run_config.name is None:
        return None
    path = f"{os.fspath(run_config.storage_path).rstrip('/')}/{run_config.name}"
    filesystem = run_config.storage_filesystem
    if not Tuner.can_restore(path, filesystem):
        return None
    return Tuner.restore(path, trainable, storage_filesystem=filesystem, _resume_config=resuming, **parts)


def _with_resources(trainable: Any, resources: object) -> Any:
    found = find_trainable(trainable) if isinstance(trainable, str) else trainable
    if requests_resources(found):
        raise ConfigError(
            f"tune.run(resources_per_trial={resources!r}): {getattr(found, '__name__', found)} says by itself what "
            "its trials need, by with_resources or default_resource_request: say it in one place"
        )
    wrapped: Any = with_resources(found, resources)
    if isinstance(trainable, str) and is_registered(trainable):
        wrapped._name = trainable  # which its trials are called by
    return wrapped


def _check(trainable: object, others: dict[str, Any]) -> None:
    """Refuse what only Ray Tune's `run` takes."""
    validator = Validator("tune.run")
    if not callable(trainable) and not isinstance(trainable, str):
        validator.add(
            "run_or_experiment",
            trainable,
            "expected a function of the config, a Trainable class, or the name of one; an Experiment is a Tuner here",
        )
    for key, value in others.items():
        if key not in _ELSEWHERE:
            validator.add(
                key, value, f"no such argument{suggestion(key, [*run.__annotations__, *_ELSEWHERE])}"
            )
        elif value not in _IGNORED:
            validator.add(key, value, f"not taken here; the same is done by {_ELSEWHERE[key]}")
    validator.raise_any()
