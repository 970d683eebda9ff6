"""`Tuner`: everything is validated when it is made, and run by `fit`."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import secrets
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tune_core.callback import CallbackList
from tune_core.config.resume_config import ResumeConfig
from tune_core.config.run_config import RunConfig, TuneConfig
from tune_core.config.space_change import check_space_change
from tune_core.config.spec import (
    describe_value,
    makeable,
    rebuild_param_space,
    rebuild_run_config,
    rebuild_tune_config,
)
from tune_core.control.experiment import Continuation, Experiment, Identity
from tune_core.control.namesakes import experiment_at
from tune_core.control.resume import find_spec, loosened, read_spec
from tune_core.control.watchers import counted
from tune_core.encoding import dumps, loads
from tune_core.environment import check_environment
from tune_core.errors import ConfigError, NoResults, SpecIncomplete
from tune_core.registry import find_trainable, is_registered
from tune_core.results.reading import read_results
from tune_core.results.result_grid import ResultGrid
from tune_core.runtime import load_runtime
from tune_core.search.space import validate_space
from tune_core.stopper import resolve_stop
from tune_core.storage.experiment_storage import ExperimentStorage, split_path
from tune_core.training.parameters import parameters_of
from tune_core.training.serialization import pickle_trainable
from tune_core.training.trainable import Trainable, check_class, check_signature, is_written, trainable_name
from tune_core.validation import ray_origin

Config = TypeVar("Config", TuneConfig, RunConfig)


class Tuner:
    """Tunes a trainable: runs it as many trials, each with a configuration of its own.

    Everything that can be checked without a cluster is checked here, before anything starts.

    Args:
        trainable: A function of the config, `def train(config):`, which reports with `tune.report`;
            or a class derived from `tune.Trainable`; or an import string of one, `"package.module:name"`;
            or a name of `tune.register_trainable`.
        param_space: The search space: a dict whose leaves are values, samplers such as
            `tune.uniform(0, 1)`, or `tune.grid_search([…])`.
        tune_config: What to optimise and how: see `TuneConfig`.
        run_config: Name, storage, stop rules, retries: see `RunConfig`.

    Raises:
        ConfigError: A value is missing or wrong; all faults of an object are named together.
        TrainableError: The trainable takes other than one argument, lacks a method, or cannot be pickled.

    Warns:
        UserWarning: The class cannot save its state, and nobody said that it need not.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     tune.report({"loss": (config["x"] - 1) ** 2})
        >>> tuner = tune.Tuner(
        ...     train,
        ...     param_space={"x": tune.uniform(0, 2)},
        ...     tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=10),
        ... )
        >>> results = tuner.fit()  # doctest: +SKIP
        >>> results.get_best_result().config  # doctest: +SKIP

    Source: as Ray Tune 2.60; differs: nothing is written before `fit`.
    """

    def __init__(
        self,
        trainable: Callable[..., Any] | str | None = None,
        *,
        param_space: dict[str, Any] | None = None,
        tune_config: TuneConfig | None = None,
        run_config: RunConfig | None = None,
    ) -> None:
        if trainable is None:
            raise ConfigError(
                "trainable=None: a Tuner needs a trainable to tune, such as a function of the config"
            )
        registered = trainable if isinstance(trainable, str) and is_registered(trainable) else None
        if isinstance(trainable, str):
            trainable = find_trainable(trainable)
        _check_kind(trainable)
        if param_space is not None:
            validate_space(param_space)
        self._trainable = trainable
        self._name = registered or trainable_name(trainable)
        self._param_space = param_space or {}
        self._tune_config = _expect(tune_config, TuneConfig, "tune_config")
        self._run_config = _expect(run_config, RunConfig, "run_config")
        tune = self._tune_config
        if tune.search_alg is not None:
            tune.search_alg.check_search_properties(tune.metric, tune.mode, self._param_space)
        if tune.scheduler is not None:
            tune.scheduler.check_space(self._param_space, tune.num_samples)
        if inspect.isclass(trainable):
            check_class(trainable)
            self._check_class_options(trainable)
        else:
            check_signature(trainable)
            self._refuse_class_options()
        self._pickled = pickle_trainable(trainable)
        self._results: ResultGrid | None = None
        self._restored: _Restored | None = None

    def fit(self) -> ResultGrid:
        """Run the experiment; return its results.

        When this returns, every trial is over and its rows, its checkpoints and the Prefect
        artifacts are written. Errors of trials do not raise: they are in the results. On
        Ctrl-C the trials are stopped cleanly and the partial results are returned.

        Raises:
            ConfigError: An environment variable is set that Ray Tune refuses, too.
            StorageError: The storage cannot be used; raised before anything starts.
            PlacementError: The cluster can never give a trial its bundles.
            ExperimentConflict: An experiment of this name and path is running.
            TrialError: The first trial that failed, with `FailureConfig(fail_fast="raise")`.
            SpecIncomplete: What `restore` found stored is not enough; the message says what to pass.
        """
        check_environment()
        runtime = load_runtime()
        self._results = runtime.run(self.experiment(runtime.identity))
        return self._results

    def get_results(self) -> ResultGrid:
        """Return the results of the finished `fit`; of a restored experiment, those so far.

        Raises:
            NoResults: A RuntimeError: `fit` has not been called, or did not finish.
        """
        if self._results is None and self._restored is not None:
            restored, continuation = self._restored, self._restored.continuation or Continuation()
            return read_results(
                restored.storage,
                restored.experiment_id,
                self._tune_config.objective,
                discard_damaged=continuation.discard_damaged,
            )
        if self._results is None:
            raise NoResults("there are no results yet: call fit() first")
        return self._results

    @classmethod
    def can_restore(
        cls,
        path: str | os.PathLike[str],
        storage_filesystem: Any = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> bool:
        """Return whether there is an experiment at a path that `restore` could go on with.

        Args:
            path: `<storage_path>/<name>` of the experiment: a local path or a URL.
            storage_filesystem: An fsspec or pyarrow filesystem that `path` is in.
            storage_options: fsspec options for a URL.

        Raises:
            StorageError: The storage does not answer.

        Example:
            >>> import tune_core as tune
            >>> tune.Tuner.can_restore("memory://runs/there-is-none")
            False

        Source: as Ray Tune 2.60.
        """
        return (
            find_spec(experiment_at(path, filesystem=storage_filesystem, storage_options=storage_options))
            is not None
        )

    @classmethod
    def restore(
        cls,
        path: str | os.PathLike[str],
        trainable: Callable[..., Any] | str,
        resume_unfinished: bool = True,
        resume_errored: bool = False,
        restart_errored: bool = False,
        param_space: dict[str, Any] | None = None,
        storage_filesystem: Any = None,
        _resume_config: ResumeConfig | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        tune_config: TuneConfig | None = None,
        run_config: RunConfig | None = None,
        num_samples: int | None = None,
        stop: Any = None,
        takeover: bool = False,
        discard_damaged: bool = False,
    ) -> Tuner:
        """Return a Tuner whose `fit` goes on with an experiment where its journal ends, or that reads its results.

        Nothing is unpickled, and nothing is written before `fit`. Searcher and scheduler are made again
        and told what happened, so they survive; what was decided is never decided again. What changes
        here (`num_samples`, `stop`, `tune_config`, `run_config`, resources) is recorded, and holds from now on.
        `get_results` needs no more than the path; `fit` refuses, naming it, what JSON could not hold and was not
        passed again.

        Args:
            path: `<storage_path>/<name>` of the experiment: a local path or a URL. `<name>@1` is the first one
                of several that began with that name; without a number, the one whose driver wrote last.
            trainable: The trainable, as the first Tuner was given it; of the same name.
            resume_unfinished: Whether trials that had not ended go on from their last checkpoint; else
                they end as they are.
            resume_errored: Whether trials that failed go on from their last checkpoint.
            restart_errored: Whether trials that failed begin again, in a new directory.
            param_space: The search space, if it has what JSON cannot hold, such as lambdas; or another one, for the
                trials to come: with more parameters, or other values. A model learns from the trials before whose
                configuration is of it. No parameter becomes one of another kind, and what has a grid stays as it is.
            storage_filesystem: An fsspec or pyarrow filesystem that `path` is in.
            _resume_config: Says more exactly which trials go on: see `ResumeConfig`.
            storage_options: fsspec options for a URL: credentials are never stored.
            tune_config: Instead of the stored one; needed if that has objects of your own.
            run_config: The same; its name and storage are those of `path`.
            num_samples: Instead of `TuneConfig.num_samples`: more of them extend the experiment.
            stop: Instead of `RunConfig.stop`: trials that the old rule ended, and this one would not, go on.
            takeover: Go on even if the driver before seems to be alive. It is fenced off: it can write
                nothing more, and stops.
            discard_damaged: Give up the segments of a damaged journal from the first damaged one on, about a
                second of events each, which a power cut can make necessary; without damage, nothing. What
                live trials have committed since is taken up all the same; other rows of that time are
                made again, and checkpoints of attempts that only those segments knew are removed. The
                segments stay where they are.

        Raises:
            ConfigError: An argument cannot work, or the trainable has another name.
            SpecError: The description that is stored cannot be read.
            StorageError: There is no experiment, or the storage does not answer.

        Example:
            >>> import tune_core as tune
            >>> tuner = tune.Tuner.restore("s3://bucket/runs/digits", train, resume_errored=True)  # doctest: +SKIP
            >>> results = tuner.fit()  # doctest: +SKIP

        Source: as Ray Tune 2.60. Differs: the arguments after `_resume_config`; a trial that is
            restarted keeps its id; what cannot be loaded is refused.
        """
        resume_config = _resume_config_of(_resume_config, resume_unfinished, resume_errored, restart_errored)
        storage = experiment_at(path, filesystem=storage_filesystem, storage_options=storage_options)
        data = read_spec(storage, discard_damaged=discard_damaged).spec
        place: dict[str, Any] = {
            "name": storage.name,
            "storage_path": split_path(path)[0],
            "storage_filesystem": storage_filesystem,
            "storage_options": None if storage_options is None else dict(storage_options),
        }
        changes: dict[str, Any] = {} if num_samples is None else {"num_samples": num_samples}
        rules: dict[str, Any] = {} if stop is None else {"stop": stop}

        def parts_of(described: Mapping[str, Any]) -> tuple[dict[str, Any], TuneConfig, RunConfig]:
            return (
                rebuild_param_space(described) if param_space is None else param_space,
                rebuild_tune_config(described, **changes)
                if tune_config is None
                else replace(tune_config, **changes),
                rebuild_run_config(described, **place, **rules)
                if run_config is None
                else replace(run_config, **place, **rules),
            )

        if param_space is not None:
            described = loads(dumps(describe_value(param_space)))
            check_space_change(data["param_space"], described)
        lacking = None
        try:
            space, tune, run = parts_of(data)
        except SpecIncomplete as error:
            lacking, (space, tune, run) = error, parts_of(makeable(data))
        tuner = cls(trainable, param_space=space, tune_config=tune, run_config=run)
        if tuner._name != data["trainable"]:
            raise ConfigError(
                f"trainable={tuner._name!r}: the experiment at {storage.url} tunes {data['trainable']!r}; "
                "pass Tuner.restore the same trainable, under the same name"
            )
        continuation = Continuation(resume_config, takeover, discard_damaged=discard_damaged)
        if stop is not None:
            may_go_on = loosened(data["run_config"]["stop"], run.stop)
            continuation = replace(continuation, may_go_on=may_go_on)
        tuner._restored = _Restored(storage, data["experiment_id"], continuation, lacking)
        return tuner

    def experiment(self, identify: Callable[[str | None], Identity | None] | None = None) -> Experiment:
        """Return what `fit` would run.

        Args:
            identify: Says which run it is part of, given `RunConfig.name`: without one, each attempt at the
                same run uses the same name, and so goes on. None: the name is a new one each time.
        """
        name, run, restored = self._name, self._run_config, self._restored
        identity = identify(run.name) if identify is not None else None
        if restored is None:
            digits, date = dated(identity)
            undated = os.environ.get("TUNE_DISABLE_DATED_SUBDIR") == "1"
            storage = ExperimentStorage.open(
                run.storage_path,
                run.name or (name if undated else f"{name}_{date}_{digits}"),
                filesystem=run.storage_filesystem,
                storage_options=run.storage_options,
            )
            restored = _Restored(storage, digits[:5], None)
        elif restored.lacking is not None:
            raise restored.lacking
        return Experiment(
            name=restored.storage.name,
            experiment_id=restored.experiment_id,
            trainable=self._trainable,
            pickled=self._pickled,
            trainable_name=name,
            param_space=self._param_space,
            tune_config=self._tune_config,
            run_config=run,
            storage=restored.storage,
            parameters=parameters_of(self._trainable),
            identity=identity,
            continuation=restored.continuation,
            counted=counted(resolve_stop(run.stop), CallbackList(run.callbacks or ())),
        )

    def _refuse_class_options(self) -> None:
        checkpoints = self._run_config.checkpoint_config
        faults = []
        if checkpoints.checkpoint_frequency:
            faults.append(f"checkpoint_frequency={checkpoints.checkpoint_frequency}")
        if checkpoints.checkpoint_at_end:
            faults.append("checkpoint_at_end=True")
        if faults:
            raise ConfigError(
                [
                    f"{fault}: a training function saves by itself, `tune.report(…, checkpoint=…)`"
                    for fault in faults
                ]
            )

    def _check_class_options(self, trainable: type) -> None:
        """Refuse checkpoints that were asked for and cannot be made; only by default, a warning does."""
        if is_written(trainable, "save_checkpoint"):
            return
        checkpoints, name = self._run_config.checkpoint_config, trainable.__name__
        asked = [
            f"{option}: {name} has no save_checkpoint(): write one, or leave that out"
            for option, is_asked in (
                (
                    f"checkpoint_frequency={checkpoints.checkpoint_frequency}",
                    checkpoints.checkpoint_frequency,
                ),
                ("checkpoint_at_end=True", checkpoints.checkpoint_at_end),
            )
            if is_asked
        ]
        if asked:
            raise ConfigError(asked)
        if checkpoints.checkpoint_at_end is None:
            warnings.warn(
                f"{name} has no save_checkpoint(), so its trials have no checkpoints and start over after a failure; "
                "CheckpointConfig(checkpoint_at_end=False) says that this is meant",
                stacklevel=3,
            )

    def __repr__(self) -> str:
        return f"Tuner({self._name}, param_space={self._param_space!r})"


@dataclass(frozen=True, slots=True)
class _Restored:
    """Where an experiment is kept, how it goes on (None: it begins), and why it cannot, if it cannot."""

    storage: ExperimentStorage
    experiment_id: str
    continuation: Continuation | None
    lacking: SpecIncomplete | None = None


def dated(identity: Identity | None) -> tuple[str, str]:
    """Return eight hex digits and a date for a name: the same ones for each attempt at the same run.

    Args:
        identity: The run, dated in UTC: another attempt may be made in another time zone. None: now, local time.
    """
    if identity is None:
        digits, began = secrets.token_hex(4), time.localtime()
    else:
        digits, began = hashlib.sha256(identity.key.encode()).hexdigest()[:8], time.gmtime(identity.began)
    return digits, time.strftime("%Y-%m-%d_%H-%M-%S", began)


def _resume_config_of(
    given: ResumeConfig | None, unfinished: bool, errored: bool, restart: bool
) -> ResumeConfig:
    if given is not None:
        if not isinstance(given, ResumeConfig):
            raise ConfigError(f"_resume_config={given!r}: expected a tune_core.ResumeConfig")
        return given
    if errored and restart:
        raise ConfigError(
            "resume_errored=True, restart_errored=True: a failed trial either goes on or starts over"
        )
    return ResumeConfig(
        unfinished="resume" if unfinished else "skip",
        errored="resume" if errored else "restart" if restart else "skip",
    )


def _check_kind(trainable: object) -> None:
    """Make sure that this is a function or a class derived from Trainable."""
    expected = "a function of the config, `def train(config):`, or a class derived from tune_core.Trainable"
    hint = ""
    if inspect.isclass(trainable):
        if issubclass(trainable, Trainable):
            return
        origin = ray_origin(trainable)
        hint = (
            f"; it is derived from {origin}: use tune.Trainable of `import tune_core as tune`"
            if origin
            else ""
        )
    elif isinstance(trainable, Trainable):
        hint = "; give the class, not an object of it"
    elif isinstance(trainable, functools.partial) and inspect.isclass(trainable.func):
        hint = "; a class gets what it needs by tune.with_parameters, not by functools.partial"
    elif isinstance(trainable, (list, tuple, set, dict)):
        hint = "; a Tuner tunes one trainable"
    elif callable(trainable):
        return
    raise ConfigError(f"trainable={trainable!r}: expected {expected}{hint}")


def _expect(given: Config | None, kind: type[Config], name: str) -> Config:
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    origin = f"{type(given).__module__}.{type(given).__qualname__}"
    hint = f"; use tune.{kind.__name__} of `import tune_core as tune`" if origin.startswith("ray.") else ""
    raise ConfigError(f"{name}={given!r} is a {origin}: expected a tune_core.{kind.__name__}{hint}")
