"""What `fit()` returns, and what can be read back from storage later: `ResultGrid` and `Result`.

Only the last report of each trial is in memory; every other row is read from the trial's
`result.json` when it is asked for. Reading executes nothing that is stored: no pickle, JSON only.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from tune_core.constraints import Constraint
from tune_core.errors import ConfigError, TrialError
from tune_core.logger.rows import (
    ERROR_FILE,
    PARAMS_FILE,
    RESULT_FILE,
    last_failure,
    newest_rows,
    parse_params,
    parse_rows,
    user_metrics,
    with_configs,
)
from tune_core.metrics import flatten
from tune_core.objective import MODES, Objective
from tune_core.reasons import reason_text
from tune_core.results.choice import front_objective, keeps, one_objective, score_of, scores_of
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import ProcessLocal, is_local, protocols, resolve
from tune_core.storage.transfer import explaining, in_parallel, read_bytes
from tune_core.text import first_few
from tune_core.trial import CheckpointRecord, Status, Trial
from tune_core.validation import suggestion

if TYPE_CHECKING:
    import pandas as pd

#: Checkpoints, each with the report that it came with.
_Best: TypeAlias = list[tuple[Checkpoint, dict[str, Any]]]

Item = TypeVar("Item")

#: At most this many names in a message.
_NAMES_SHOWN = 20


class Result:
    """What became of one trial.

    Attributes:
        metrics: The last report, with its auto-filled keys; nested as it was made.
        checkpoint: The latest checkpoint; None if there is none.
        error: Why the trial failed, with the traceback of its process as text; None if it did not.
        path: The trial's directory, as `filesystem` names it: `bucket/experiment/trial` on S3.
        best_checkpoints: Pairs of a checkpoint and the report that it came with: the best ones, as
            many as `num_to_keep` says, worst first; without a score attribute, oldest first.
        status: `TERMINATED`, `ERROR`, or where an interrupted experiment left the trial; None: unknown.
        reason: Why it was stopped or paused, in words; "" if it has come to its own end, or nobody has said.

    Example:
        >>> result = Result({"loss": 0.5, "config": {"lr": 0.1}}, None, None, "/tmp/trial")
        >>> result.config
        {'lr': 0.1}

    Source: as Ray Tune 2.60. Differs: `rows`, `status` and `reason`; `metrics_dataframe` is read when it is
        first asked for, and has one row per iteration after a retry; `filesystem` is fsspec's.
    """

    def __init__(
        self,
        metrics: dict[str, Any] | None,
        checkpoint: Checkpoint | None,
        error: Exception | None,
        path: str,
        best_checkpoints: _Best | Callable[[], _Best] | None = None,
        filesystem: Any = None,
        *,
        status: Status | None = None,
        reason: str = "",
    ) -> None:
        self.metrics = metrics
        self.checkpoint = checkpoint
        self.error = error
        self.path = path
        self._best = best_checkpoints
        self.status, self.reason = status, reason
        self._filesystem = None if filesystem is None else ProcessLocal(filesystem)
        self._dataframe: pd.DataFrame | None = None

    @classmethod
    def from_trial(
        cls,
        trial: Trial,
        storage: ExperimentStorage,
        *,
        num_to_keep: int | None = None,
        rank: Callable[[CheckpointRecord], Any] | None = None,
    ) -> Result:
        """Return the result of a trial as its record stands now; reads nothing from storage.

        Args:
            trial: The trial's record.
            storage: Where the experiment is.
            num_to_keep: `CheckpointConfig.num_to_keep`; the latest checkpoint, which is kept
                besides, is not among the best ones.
            rank: Sorts checkpoints, worse ones first; None: by time.
        """
        ranked = sorted(trial.usable_checkpoints, key=rank) if rank else trial.usable_checkpoints
        best = ranked if num_to_keep is None else ranked[-num_to_keep:]
        failed = trial.error is not None and trial.status is not Status.TERMINATED
        return cls(
            metrics=trial.last_result
            or {
                "trial_id": trial.trial_id,
                **trial.worker,
                "config": trial.config,
                "experiment_tag": trial.experiment_tag,
                **({"done": True} if trial.status is Status.TERMINATED else {}),
            },
            checkpoint=storage.checkpoint(trial.dirname, trial.checkpoint.index)
            if trial.checkpoint
            else None,
            error=TrialError(trial.error or "", trial.traceback) if failed else None,
            path=storage.absolute(trial.dirname),
            best_checkpoints=functools.partial(_with_reports, storage, trial, best),
            filesystem=storage.fs,
            status=trial.status,
            reason=reason_text(trial.reason),
        )

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike[str],
        storage_filesystem: Any = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Result:
        """Read the result of a trial from its directory, by whomever and whenever it was written.

        Args:
            path: A trial's directory: a local path, a URL, or with `storage_filesystem` a path in that.
            storage_filesystem: An fsspec filesystem, or a `pyarrow.fs.FileSystem`.
            storage_options: fsspec options for a URL (`endpoint_url`, `key`, `secret` …).

        Raises:
            RuntimeError: No trial has written there.
            StorageError: The storage does not answer.

        Source: as Ray Tune 2.60. Differs: executes nothing that is stored; a failure from which
            the trial recovered is no `error`; `progress.csv` is not read.
        """
        filesystem, trial_path, url = resolve(path, storage_filesystem, storage_options)
        data, params, failures = (
            _read(filesystem, f"{trial_path}/{name}", url) for name in (RESULT_FILE, PARAMS_FILE, ERROR_FILE)
        )
        if data is None and params is None and failures is None:
            raise RuntimeError(
                f"{url} is no trial's directory: neither {RESULT_FILE} nor {PARAMS_FILE} "
                f"nor {ERROR_FILE} is in it; expected <storage_path>/<experiment>/<trial>"
            )
        config = None if params is None else parse_params(params, f"{url}/{PARAMS_FILE}")
        rows = newest_rows(with_configs(parse_rows(data or b"", f"{url}/{RESULT_FILE}"), config))
        metrics = dict(rows[-1]) if rows else {} if config is None else {"config": config}
        metrics.pop("attempt_number", None)
        parent, _, trial = trial_path.rpartition("/")
        storage = ExperimentStorage(filesystem, parent or "/", url, parent)
        markers = storage.committed(trial, skip_damaged=True)
        checkpoints = [(storage.checkpoint(trial, marker.index), marker.metrics) for marker in markers]
        return cls(
            metrics=metrics,
            checkpoint=checkpoints[-1][0] if checkpoints else None,
            error=last_failure((failures or b"").decode("utf-8", "replace")),
            path=trial_path,
            best_checkpoints=checkpoints,
            filesystem=filesystem,
        )

    @property
    def best_checkpoints(self) -> _Best | None:
        """The checkpoints that are kept, worse ones first, each with its report; read when first asked for.

        Raises:
            StorageError: The storage does not answer.
        """
        if callable(self._best):
            self._best = self._best()
        return self._best

    @property
    def config(self) -> dict[str, Any] | None:
        """The trial's configuration; None if it is not known."""
        config: dict[str, Any] | None = (self.metrics or {}).get("config")
        return config

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem of `path`."""
        if self._filesystem is None:
            from fsspec.implementations.local import LocalFileSystem

            self._filesystem = ProcessLocal(LocalFileSystem())
        return self._filesystem.get()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every report, read from storage each time; of each iteration, what its newest attempt reported.

        The key `attempt_number` holds the number of the attempt. Empty if nothing was reported.
        """
        place = f"{self.path}/{RESULT_FILE}"
        data = _read(self.filesystem, place, place)
        rows = parse_rows(data or b"", place)
        config = self.config
        if config is None and rows:
            params = _read(self.filesystem, f"{self.path}/{PARAMS_FILE}", place)
            config = None if params is None else parse_params(params, f"{self.path}/{PARAMS_FILE}")
        return newest_rows(with_configs(rows, config))

    @property
    def metrics_dataframe(self) -> pd.DataFrame:
        """Every report as a row of a pandas frame, nested metrics as `a/b`; read once, when first asked for.

        Raises:
            ImportError: pandas is not installed; the message says how to.
        """
        if self._dataframe is None:
            pandas = import_pandas()
            self._dataframe = pandas.DataFrame([flatten(row) for row in self.rows])
        return self._dataframe

    def get_best_checkpoint(self, metric: str, mode: str) -> Checkpoint:
        """Return the checkpoint whose report has the best value of a metric.

        Args:
            metric: Name of the metric, nested with "/".
            mode: "min" or "max".

        Raises:
            RuntimeError: There is no checkpoint, or none came with that metric.
            ConfigError: `mode` is something else.

        Source: as Ray Tune 2.60. Differs: NaN is never the best.
        """
        if mode not in MODES:
            raise ConfigError(f"get_best_checkpoint(mode={mode!r}): expected 'min' or 'max'")
        if not self.best_checkpoints:
            raise RuntimeError(
                f"the trial at {self.path} has no checkpoint: report one with tune.report(…, checkpoint=)"
            )
        best = _best_by(metric, mode, self.best_checkpoints)
        if best is None:
            hint = _name_hint(metric, (metrics for _, metrics in self.best_checkpoints))
            raise RuntimeError(
                f"no checkpoint of the trial at {self.path} came with a number as {metric!r}; {hint}"
            )
        return best

    def __repr__(self) -> str:
        parts = [f"status={self.status.value}"] if self.status else []
        parts += [f"error={type(self.error).__name__}({str(self.error)!r})"] if self.error else []
        parts += [
            f"metrics={user_metrics(self.metrics or {})!r}",
            f"path={self.path!r}",
            f"filesystem={protocols(self.filesystem)[0]!r}",
        ]
        parts += [f"checkpoint={self.checkpoint!r}"]
        return f"Result({', '.join(parts)})"


class ResultGrid(Sequence[Result]):
    """The results of an experiment's trials, in the order in which the trials were created.

    Every trial is in it: failed and unfinished ones with their last report and checkpoint.

    Args:
        results: One for each trial.
        experiment_path: The experiment's directory, as `filesystem` names it.
        filesystem: fsspec filesystem of `experiment_path`; None: the local one.
        metric: What `get_best_result` and `pareto_front` go by if they are not told; several as a list.
        mode: "min" or "max", likewise.
        scope: What of a trial's reports counts, likewise.
        constraints: What a trial has to keep in its last report to be best, or on the front.

    Example:
        >>> results = [Result({"loss": loss}, None, None, "/tmp/t") for loss in (0.5, 0.25)]
        >>> ResultGrid(results, "/tmp", None, "loss", "min").get_best_result().metrics
        {'loss': 0.25}

    Source: as Ray Tune 2.60. Differs: creation order always; `pareto_front`.
    """

    def __init__(
        self,
        results: Iterable[Result],
        experiment_path: str,
        filesystem: Any = None,
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        scope: str = "last",
        constraints: tuple[Constraint, ...] = (),
    ) -> None:
        self._results = list(results)
        self._experiment_path = experiment_path
        self._filesystem = None if filesystem is None else ProcessLocal(filesystem)
        self._objective = Objective(metric, mode, scope, constraints)

    @classmethod
    def from_trials(
        cls,
        trials: Iterable[Trial],
        storage: ExperimentStorage,
        objective: Objective,
        *,
        num_to_keep: int | None = None,
        rank: Callable[[CheckpointRecord], Any] | None = None,
    ) -> ResultGrid:
        """Return the results of trials as their records stand now; arguments as of `Result.from_trial`.

        `objective` is what `get_best_result` goes by if it is not told.
        """
        ordered = sorted(trials, key=lambda trial: trial.number)
        results = [Result.from_trial(trial, storage, num_to_keep=num_to_keep, rank=rank) for trial in ordered]
        own = objective.metric, objective.mode, objective.scope, objective.constraints
        return cls(results, storage.path, storage.fs, *own)

    @property
    def experiment_path(self) -> str:
        """The experiment's directory, as `filesystem` names it."""
        return self._experiment_path

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem of `experiment_path`."""
        if self._filesystem is None:
            from fsspec.implementations.local import LocalFileSystem

            self._filesystem = ProcessLocal(LocalFileSystem())
        return self._filesystem.get()

    @property
    def errors(self) -> list[Exception]:
        """The errors of the trials that have one."""
        return [result.error for result in self._results if result.error is not None]

    @property
    def num_errors(self) -> int:
        """Number of trials that failed for good."""
        return sum(1 for result in self._results if _status(result) is Status.ERROR)

    @property
    def num_terminated(self) -> int:
        """Number of trials that ended without an error."""
        return sum(1 for result in self._results if _status(result) is Status.TERMINATED)

    def get_best_result(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str | None = None,
        filter_nan_and_inf: bool = True,
    ) -> Result:
        """Return the result of the best trial; of several equal ones, the first.

        A trial that does not keep the searcher's constraints in its last report is never best. With exactly one
        trial it is returned whatever it reported. `scope` chooses the trial:
        metrics and checkpoint of what is returned are still its last ones. Every scope but `last`
        reads the trials' rows from storage. Where `TuneConfig` has several metrics, no trial is the best
        by all of them: name one, or ask `pareto_front`.

        Args:
            metric: Name of the metric, nested with "/"; None: the one of `TuneConfig`.
            mode: "min" or "max"; None: the one of `TuneConfig`, of several metrics that of this one.
            scope: What of a trial counts: its `last` value; its best of `all`; the mean of all
                (`avg`), of the last 5 (`last-5-avg`), of the last 10 (`last-10-avg`). None: what
                `TuneConfig(best_scope=…)` says, "last" unless it is given.
            filter_nan_and_inf: Whether a trial whose score is NaN or infinite is left out. If not,
                NaN is worse than any number.

        Raises:
            ConfigError: No metric or mode is known, or mode or scope is none of the above; or there are
                several metrics, and none is named.
            RuntimeError: No trial has such a metric, or none that is finite, or none keeps the constraints.

        Source: as Ray Tune 2.60. Differs: with `all`, a NaN does not hide the values before it;
            `avg` is the plain mean also if the metric is missing in some rows.
        """
        if len(self._results) == 1:
            return self._results[0]
        wanted = one_objective(self._objective, metric, mode, scope)
        scores = self._each(lambda result: score_of(result, wanted), reads=wanted.scope != "last")
        ranked = [
            (wanted.loss(score, finite=False), place)
            for place, score in enumerate(scores)
            if score is not None and (math.isfinite(score) or not filter_nan_and_inf)
        ]
        kept = [each for each in ranked if keeps(self._results[each[1]], wanted)]
        if ranked and not kept:
            raise RuntimeError(f"no best trial for {str(wanted.metric)!r}: {self._none_keeps(len(ranked))}")
        if not kept:
            is_reported = any(score is not None for score in scores)
            raise RuntimeError(self._nothing_found(str(wanted.metric), is_reported))
        return self._results[min(kept)[1]]

    def pareto_front(
        self,
        metric: Sequence[str] | None = None,
        mode: Sequence[str] | None = None,
        scope: str | None = None,
    ) -> list[Result]:
        """Return the results that no other dominates: none is at least as good by each metric and better by one.

        They are in the order of the first metric, the best first; equal ones in creation order, and those that
        are equal by all metrics are all in it. Reports count that have a number for each metric; a trial without a
        finite one for each is not in it, nor one that breaks a constraint. Failed and unfinished trials count, too.

        Args:
            metric: Names of the metrics, nested with "/"; None: those of `TuneConfig`. With one metric, the
                results with the best value are returned.
            mode: "min" or "max" for each metric; None: those of `TuneConfig`.
            scope: As of `get_best_result`, but for "all": the best values of several metrics are not of one
                report.

        Raises:
            ConfigError: No metrics or modes are known, or they do not go together.
            RuntimeError: No trial has a finite number for each metric, or none that has keeps the constraints.

        Example:
            >>> rows = ({"acc": 0.9, "ms": 20}, {"acc": 0.8, "ms": 5}, {"acc": 0.7, "ms": 9}, {"acc": 0.95})
            >>> grid = ResultGrid([Result(row, None, None, "/tmp/t") for row in rows], "/tmp")
            >>> [result.metrics for result in grid.pareto_front(["acc", "ms"], ["max", "min"])]
            [{'acc': 0.9, 'ms': 20}, {'acc': 0.8, 'ms': 5}]
        """
        wanted = front_objective(self._objective, metric, mode, scope)
        scores = self._each(lambda result: scores_of(result, wanted), reads=wanted.scope != "last")
        front = wanted.front(scores, [not keeps(each, wanted) for each in self._results])
        if not front:
            if num_whole := sum(math.inf not in wanted.losses(each) for each in scores):
                raise RuntimeError(f"no Pareto front: {self._none_keeps(num_whole)}")
            for part in wanted.parts:
                known = [number for each in self._results if (number := score_of(each, part)) is not None]
                if self._results and not any(map(math.isfinite, known)):
                    raise RuntimeError(self._nothing_found(str(part.metric), bool(known)))
            why = f"no trial has reported a finite number for each of {', '.join(wanted.names)}"
            raise RuntimeError(f"no Pareto front: {why if self._results else 'the experiment has no trials'}")
        return [self._results[place] for place in front]

    def _none_keeps(self, count: int) -> str:
        bounds = " and ".join(map(str, self._objective.constraints))
        return (
            f"none of the {count} trials keeps {bounds}; loosen the constraints, or look at get_dataframe()"
        )

    def get_dataframe(self, filter_metric: str | None = None, filter_mode: str | None = None) -> pd.DataFrame:
        """Return a pandas frame with one row per trial, in creation order: its last report, or its best.

        Columns are the metrics, nested ones as `a/b`, the configuration as `config/a`, `logdir`, the
        trial's directory, and, if a trial failed, `trial_error`: the last line of why. A trial that
        never reported has its configuration and no metrics, so pandas makes floats of integer metrics.

        Args:
            filter_metric: If given with a mode, the row where this metric is best is taken, from
                storage; a trial without it has its last row.
            filter_mode: "min" or "max".

        Raises:
            ConfigError: A mode without a metric, or something else than min and max.
            ImportError: pandas is not installed; the message says how to.

        Source: as Ray Tune 2.60. Differs: `logdir` is the directory, there it is the trial id; Ray
            leaves trials that never reported out, and has no `trial_error`.
        """
        if filter_mode is not None and filter_mode not in MODES:
            raise ConfigError(f"get_dataframe(filter_mode={filter_mode!r}): expected 'min' or 'max'")
        if filter_mode is not None and not filter_metric:
            raise ConfigError(
                f"get_dataframe(filter_mode={filter_mode!r}) needs filter_metric=, the metric to filter by"
            )
        pandas = import_pandas()
        rows = self._each(
            lambda result: _best_row(result, filter_metric, filter_mode), reads=filter_mode is not None
        )
        has_errors = bool(self.errors)
        frame_rows = [
            {
                **flatten({name: value for name, value in row.items() if name != "experiment_tag"}),
                **flatten({"config": result.config or {}}),
                "logdir": result.path,
                **({"trial_error": result.error and str(result.error)} if has_errors else {}),
            }
            for row, result in zip(rows, self._results, strict=True)
        ]
        return pandas.DataFrame(frame_rows)

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        """Return the result of the trial that was created as number `index`."""
        return self._results[index]

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    def __repr__(self) -> str:
        others = len(self) - self.num_terminated - self.num_errors
        counts = f"{self.num_terminated} terminated, {self.num_errors} errors" + (
            f", {others} unfinished" if others else ""
        )
        return f"ResultGrid({len(self)} trials: {counts}; experiment_path={self._experiment_path!r})"

    def _each(self, call: Callable[[Result], Any], *, reads: bool) -> list[Any]:
        """Call with every result; with several at once where each call waits for the network."""
        if reads and len(self._results) > 1 and not is_local(self.filesystem):
            return in_parallel(call, self._results)
        return [call(result) for result in self._results]

    def _nothing_found(self, metric: str, is_reported: bool) -> str:
        if not self._results:
            return f"no best trial for {metric!r}: the experiment has no trials"
        if is_reported:
            return (
                f"no best trial for {metric!r}: every value reported for it is NaN or infinite; "
                "pass filter_nan_and_inf=False to compare them all the same"
            )
        hint = _name_hint(metric, (result.metrics or {} for result in self._results))
        return f"no best trial for {metric!r}: no trial has reported a number of that name; {hint}"


def _best_by(metric: str, mode: str, found: Iterable[tuple[Item, Mapping[str, Any]]]) -> Item | None:
    """Return what comes with the best value of a metric, of equal ones the first; infinite values count."""
    objective = Objective(metric, mode)
    scored = [(objective.value(row), item) for item, row in found]
    valid = [(score, item) for score, item in scored if score is not None and not math.isnan(score)]
    return (max if mode == "max" else min)(valid, key=lambda pair: pair[0])[1] if valid else None


def _best_row(result: Result, metric: str | None, mode: str | None) -> dict[str, Any]:
    last = result.metrics or {}
    if metric is None or mode is None:
        return last
    return _best_by(metric, mode, ((row, row) for row in result.rows)) or last


def _status(result: Result) -> Status:
    return result.status or (Status.ERROR if result.error else Status.TERMINATED)


def _name_hint(metric: str, rows: Iterable[Mapping[str, Any]]) -> str:
    known: dict[str, None] = {}
    reported: dict[str, None] = {}
    for row in rows:
        known |= dict.fromkeys(flatten(row))
        reported |= dict.fromkeys(flatten(user_metrics(row)))
    return f"reported: {first_few(reported, _NAMES_SHOWN) or 'nothing'}{suggestion(metric, known)}"


def _with_reports(storage: ExperimentStorage, trial: Trial, records: Sequence[CheckpointRecord]) -> _Best:
    """Return the checkpoints with their reports; those that the driver has let go of are in the markers."""
    stored: dict[int, dict[str, Any]] = {}
    if any(record.is_brief for record in records):
        markers = storage.committed(trial.dirname, skip_damaged=True)
        stored = {marker.index: marker.metrics for marker in markers}
    found = []
    for record in records:
        metrics = {**stored.get(record.index, {}), **record.metrics} if record.is_brief else record.metrics
        report = trial.result_of(metrics) if "timestamp" in metrics else metrics
        found.append((storage.checkpoint(trial.dirname, record.index), report))
    return found


def import_pandas() -> Any:
    """Return the module pandas, or raise an ImportError that says how to install it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "data frames need pandas: run pip install 'prefect-tune[pandas]', "
            "or read the rows without it from Result.rows"
        ) from error
    return pandas


def _read(filesystem: Any, path: str, url: str) -> bytes | None:
    """The bytes of a file; None if it does not exist."""
    try:
        with explaining(url, "read it", FileNotFoundError, NotADirectoryError):
            return read_bytes(filesystem, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
