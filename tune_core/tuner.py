"""`Tuner`: everything is validated when it is made, and run by `fit`."""

from __future__ import annotations

import functools
import inspect
import os
import secrets
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from tune_core.config import RunConfig, TuneConfig
from tune_core.errors import ConfigError, NoResults
from tune_core.faults import ray_origin
from tune_core.parameters import parameters_of
from tune_core.registry import find_trainable, is_registered
from tune_core.results import ResultGrid
from tune_core.runtime import Experiment, load_runtime
from tune_core.search.space import validate_space
from tune_core.serialization import pickle_trainable
from tune_core.storage import ExperimentStorage
from tune_core.trainable import Trainable, check_class, check_signature, is_written, trainable_name

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
        if inspect.isclass(trainable):
            check_class(trainable)
            self._check_class_options(trainable)
        else:
            check_signature(trainable)
            self._refuse_class_options()
        self._pickled = pickle_trainable(trainable)
        self._results: ResultGrid | None = None

    def fit(self) -> ResultGrid:
        """Run the experiment; return its results.

        When this returns, every trial is over and its rows, its checkpoints and the Prefect
        artifacts are written. Errors of trials do not raise: they are in the results. On
        Ctrl-C the trials are stopped in order and the partial results are returned.

        Raises:
            StorageError: The storage cannot be used; raised before anything starts.
            PlacementError: The cluster can never give a trial its bundles.
            ExperimentConflict: An experiment of this name and path is running.
            TrialError: The first trial that failed, with `FailureConfig(fail_fast="raise")`.
        """
        runtime = load_runtime()
        self._results = runtime.run(self.experiment())
        return self._results

    def get_results(self) -> ResultGrid:
        """Return the results of the finished `fit`.

        Raises:
            NoResults: A RuntimeError: `fit` has not been called, or did not finish.
        """
        if self._results is None:
            raise NoResults("there are no results yet: call fit() first")
        return self._results

    def experiment(self) -> Experiment:
        """Return what `fit` would run, under a fresh name unless `RunConfig.name` is given."""
        name = self._name
        run = self._run_config
        experiment_id = secrets.token_hex(4)
        date = time.strftime("%Y-%m-%d_%H-%M-%S")
        undated = os.environ.get("TUNE_DISABLE_DATED_SUBDIR") == "1"
        full_name = run.name or (name if undated else f"{name}_{date}_{experiment_id}")
        storage = ExperimentStorage.open(
            run.storage_path,
            full_name,
            filesystem=run.storage_filesystem,
            storage_options=run.storage_options,
        )
        return Experiment(
            name=full_name,
            experiment_id=experiment_id[:5],
            trainable=self._trainable,
            pickled=self._pickled,
            trainable_name=name,
            param_space=self._param_space,
            tune_config=self._tune_config,
            run_config=run,
            storage=storage,
            parameters=parameters_of(self._trainable),
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
