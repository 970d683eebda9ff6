"""What `tune.run` returns: the answers of a `ResultGrid` under the names that older scripts read.

Owns those names only: rows, scores and frames come from `results`. Never runs or changes anything.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune_core.control.namesakes import experiment_at
from tune_core.control.resume import find_spec
from tune_core.errors import ConfigError
from tune_core.logger.rows import ERROR_FILE
from tune_core.metrics import flatten
from tune_core.objective import Objective, check_objective
from tune_core.results.choice import front_objective, one_objective
from tune_core.results.reading import read_results
from tune_core.results.result_grid import Result, ResultGrid, import_pandas
from tune_core.storage.checkpoint import Checkpoint
from tune_core.trial import Status
from tune_core.validation import Validator, shorten, suggestion

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_MODES = ("min", "max")


@dataclass(frozen=True, eq=False)
class AnalysedTrial:
    """A trial that is over, as `ExperimentAnalysis.trials` shows it.

    Attributes:
        trial_id: Its id.
        result: Everything else that is known of it.
    """

    trial_id: str
    result: Result

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        return self.result.config or {}

    @property
    def last_result(self) -> dict[str, Any]:
        """Its last report, with the auto-filled keys."""
        return self.result.metrics or {}

    @property
    def status(self) -> Status | None:
        """`TERMINATED`, `ERROR` …; None if its result was read by itself, which does not say."""
        return self.result.status

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Its latest checkpoint."""
        return self.result.checkpoint

    @property
    def path(self) -> str:
        """Its directory."""
        return self.result.path

    #: Older names of the directory.
    logdir = local_path = path

    @property
    def error_file(self) -> str | None:
        """The file that its failures are in; None if it did not fail."""
        return f"{self.path}/{ERROR_FILE}" if self.result.error is not None else None

    def __str__(self) -> str:
        return self.trial_id


class ExperimentAnalysis:
    """The trials of an experiment, and which of them is best.

    Args:
        experiment_checkpoint_path: The experiment's directory: a local path, a URL, or with
            `storage_filesystem` a path in that. Its journal is read, as `Tuner.restore` reads it: of several
            experiments of that name the one whose driver wrote last, unless `@1` at the end says which.
        storage_filesystem: An fsspec filesystem, or a `pyarrow.fs.FileSystem`.
        trials: Trials of another analysis, to be used instead of those in the directory.
        default_metric: What the best trial is chosen by, unless a method is told. A list of several metrics: no
            trial is the best by all, `pareto_front` has those that no other dominates.
        default_mode: "min" or "max", likewise; a list with a list.

    Raises:
        ConfigError: The mode is something else, or does not go with the metric; or there is no experiment at that path.
        StorageError: Its journal is damaged, or the storage does not answer.

    Example:
        >>> results = [
        ...     Result({"trial_id": str(n), "loss": n, "config": {"x": n}}, None, None, "/t") for n in (3, 2)
        ... ]
        >>> analysis = ExperimentAnalysis.of(ResultGrid(results, "/tmp"), "loss", "min")
        >>> analysis.best_config, analysis.best_trial.trial_id
        ({'x': 2}, '2')

    Source: as Ray Tune 2.60. Differs: frames are read when they are asked for; `trials` are read-only
        and have no more than `AnalysedTrial`; reading executes nothing that is stored.
    """

    def __init__(
        self,
        experiment_checkpoint_path: str | os.PathLike[str],
        *,
        storage_filesystem: Any = None,
        trials: Iterable[AnalysedTrial] | None = None,
        default_metric: str | list[str] | None = None,
        default_mode: str | list[str] | None = None,
    ) -> None:
        storage = experiment_at(experiment_checkpoint_path, filesystem=storage_filesystem)
        if trials is None:
            recorded = find_spec(storage)
            if recorded is None:
                raise ConfigError(
                    f"ExperimentAnalysis({storage.url!r}): no journal of an experiment is in it; expected "
                    "<storage_path>/<experiment>"
                )
            grid = read_results(storage, recorded.spec["experiment_id"])
        else:
            grid = ResultGrid([each.result for each in trials], storage.path, storage.fs)
        self._take(grid, default_metric, default_mode)

    @classmethod
    def of(
        cls,
        results: ResultGrid,
        default_metric: str | list[str] | None = None,
        default_mode: str | list[str] | None = None,
    ) -> ExperimentAnalysis:
        """Return the analysis of results; arguments as of the class."""
        analysis = cls.__new__(cls)
        analysis._take(results, default_metric, default_mode)
        return analysis

    def _take(
        self, results: ResultGrid, metric: str | list[str] | None, mode: str | list[str] | None
    ) -> None:
        if isinstance(mode, (list, tuple)) or isinstance(metric, (list, tuple)):
            validator = Validator("ExperimentAnalysis")
            check_objective(validator, metric, mode)
            validator.raise_any()
        elif mode is not None and mode not in _MODES:
            raise ConfigError(f"ExperimentAnalysis(default_mode={mode!r}): expected 'min', 'max' or None")
        self._objective = Objective("_metric" if mode and not metric else metric, mode)
        #: What the best trial is chosen by: a metric, or a list of several.
        self.default_metric = self._objective.plain_metric
        self.default_mode = self._objective.plain_mode
        self._grid = results
        #: The trials in creation order.
        self.trials = [
            AnalysedTrial(str((result.metrics or {}).get("trial_id", number)), result)
            for number, result in enumerate(results)
        ]

    @property
    def experiment_path(self) -> str:
        """The experiment's directory, without its protocol."""
        return self._grid.experiment_path

    def pareto_front(
        self, metric: list[str] | None = None, mode: list[str] | None = None, scope: str = "last"
    ) -> list[AnalysedTrial]:
        """Return the trials that no other dominates, the best by the first metric first.

        Arguments, and what is raised, as of `ResultGrid.pareto_front`; None: the default metrics and modes.

        Example:
            >>> results = [Result({"acc": acc, "ms": ms}, None, None, "/t") for acc, ms in ((0.9, 9), (0.8, 5))]
            >>> analysis = ExperimentAnalysis.of(ResultGrid(results, "/tmp"), ["acc", "ms"], ["max", "min"])
            >>> [trial.trial_id for trial in analysis.pareto_front()]
            ['0', '1']
        """
        wanted = front_objective(self._objective, metric, mode, scope)
        front = self._grid.pareto_front(wanted.names, [str(each) for each in wanted.modes], scope)
        return [trial for result in front for trial in self.trials if trial.result is result]

    @property
    def best_trial(self) -> AnalysedTrial | None:
        """The trial whose last report is best by the default metric; None if none has it.

        Raises:
            ConfigError: There is no default metric or mode, or there are several. So do the other `best_…`
                properties.
        """
        return self.get_best_trial(*self._defaults("best_trial"))

    @property
    def best_config(self) -> dict[str, Any] | None:
        """The configuration of the best trial."""
        return self.get_best_config(*self._defaults("best_config"))

    @property
    def best_result(self) -> dict[str, Any] | None:
        """The last report of the best trial."""
        best = self.get_best_trial(*self._defaults("best_result"))
        return best.last_result if best else None

    @property
    def best_checkpoint(self) -> Checkpoint | None:
        """The checkpoint of the best trial whose report is best."""
        metric, mode = self._defaults("best_checkpoint")
        best = self.get_best_trial(metric, mode)
        return self.get_best_checkpoint(best, metric, mode) if best else None

    @property
    def best_dataframe(self) -> pd.DataFrame:
        """Every report of the best trial as a pandas frame."""
        best = self._best_of("best_dataframe")
        return best.result.metrics_dataframe

    @property
    def best_result_df(self) -> pd.DataFrame:
        """The last report of the best trial as a pandas frame of one row."""
        best = self._best_of("best_result_df")
        return import_pandas().DataFrame.from_records([flatten(best.last_result)], index="trial_id")

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The last report of each trial, by trial id."""
        return {trial.trial_id: trial.last_result for trial in self.trials}

    @property
    def results_df(self) -> pd.DataFrame:
        """The last report of each trial as a pandas frame, whose index is the trial id."""
        rows = [{"trial_id": trial.trial_id, **flatten(trial.last_result)} for trial in self.trials]
        return import_pandas().DataFrame.from_records(rows, index="trial_id" if rows else None)

    @property
    def trial_dataframes(self) -> dict[str, pd.DataFrame]:
        """Every report of each trial as a pandas frame, by trial id."""
        return {trial.trial_id: trial.result.metrics_dataframe for trial in self.trials}

    def dataframe(self, metric: str | None = None, mode: str | None = None) -> pd.DataFrame:
        """Return a pandas frame with a row per trial: its last report, or the one that is best by a metric.

        The default metric does not count here. Arguments and columns as of `ResultGrid.get_dataframe`.
        """
        return self._grid.get_dataframe(metric, mode)

    def get_all_configs(self, prefix: bool = False) -> dict[str, dict[str, Any]]:
        """Return the configurations by trial id; with `prefix` flat, as `config/a`."""
        return {
            trial.trial_id: flatten({"config": trial.config}) if prefix else trial.config
            for trial in self.trials
        }

    def get_best_trial(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "last",
        filter_nan_and_inf: bool = True,
    ) -> AnalysedTrial | None:
        """Return the best trial; None, with a warning, if none has the metric.

        With exactly one trial it is returned whatever it reported. Arguments as of
        `ResultGrid.get_best_result`.

        Raises:
            ConfigError: No metric or mode is known, or mode or scope is none that there is; or there are
                several metrics, and none is named.
        """
        if len(self.trials) == 1:
            return self.trials[0]
        wanted = one_objective(self._objective, metric, mode, scope)
        try:
            best = self._grid.get_best_result(str(wanted.metric), str(wanted.mode), scope, filter_nan_and_inf)
        except RuntimeError as error:
            logger.warning("%s", error)
            return None
        return next(trial for trial in self.trials if trial.result is best)

    def get_best_config(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last"
    ) -> dict[str, Any] | None:
        """Return the configuration of the best trial; as `get_best_trial`."""
        best = self.get_best_trial(metric, mode, scope)
        return best.config if best else None

    def get_best_checkpoint(
        self, trial: AnalysedTrial | str, metric: str | None = None, mode: str | None = None
    ) -> Checkpoint | None:
        """Return the checkpoint of a trial whose report is best; None, with a warning, if there is none.

        Args:
            trial: A trial, its id, or its directory.
            metric: Name of the metric; None: the default one, else `training_iteration`.
            mode: "min" or "max"; None: the default one.

        Raises:
            ConfigError: There is no such trial; or no mode is known, or it is something else; or there are
                several metrics, and none is named.
        """
        found, own = self._trial(trial), self._objective
        if own.is_several and metric is None:
            raise ConfigError(
                f"get_best_checkpoint: there are several metrics, {', '.join(own.names)}: name one by metric="
            )
        known = dict(zip(own.names, own.modes, strict=True))
        chosen = mode or (known.get(str(metric)) if own.is_several else self.default_mode)
        if chosen is None:
            raise ConfigError("get_best_checkpoint: no mode is known: give mode='min' or mode='max'")
        name = metric or (own.names[0] if own.names else "training_iteration")
        try:
            return found.result.get_best_checkpoint(name, str(chosen))
        except RuntimeError as error:
            logger.warning("%s", error)
            return None

    def get_last_checkpoint(
        self,
        trial: AnalysedTrial | str | None = None,
        metric: str = "training_iteration",
        mode: str = "max",
    ) -> Checkpoint | None:
        """Return the latest checkpoint of a trial; of the best one by `metric` if none is given."""
        found = self._trial(trial) if trial is not None else self.get_best_trial(metric, mode)
        return found.checkpoint if found else None

    def __repr__(self) -> str:
        return f"ExperimentAnalysis({len(self.trials)} trials; experiment_path={self.experiment_path!r})"

    def _defaults(self, what: str) -> tuple[str, str]:
        if self._objective.is_several:
            raise ConfigError(
                f"{what}: by several metrics, {', '.join(self._objective.names)}, no trial is the best. "
                "pareto_front() returns those that no other dominates; get_best_trial(metric=…) the best by one"
            )
        if not isinstance(self.default_metric, str) or not isinstance(self.default_mode, str):
            raise ConfigError(
                f"{what} needs a metric and a mode: pass metric= and mode= to tune.run, or ask "
                f"get_best_trial(metric, mode)"
            )
        return self.default_metric, self.default_mode

    def _best_of(self, what: str) -> AnalysedTrial:
        best = self.get_best_trial(*self._defaults(what))
        if best is None:
            raise ConfigError(f"{what}: no trial has reported a finite {self.default_metric!r}")
        return best

    def _trial(self, given: object) -> AnalysedTrial:
        for trial in self.trials:
            if isinstance(given, AnalysedTrial):
                if given.result is trial.result:
                    return trial
            elif given in (trial.trial_id, trial.path):
                return trial
        near = suggestion(given, [trial.trial_id for trial in self.trials])
        raise ConfigError(
            f"trial={shorten(given)}: expected one of analysis.trials, its id or its directory{near}"
        )
