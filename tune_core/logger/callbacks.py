"""What is in the files next to each trial: `result.json`, `progress.csv`, `params.json`, `error.txt`.

The logger callbacks say what is written; `trial_files` owns how. A retried trial goes on below
the rows of its earlier attempts, and each row names the attempt (`attempt_number`) that made it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from tune_core.callback import Callback
from tune_core.encoding import dumps_row
from tune_core.errors import StorageError
from tune_core.logger.rows import ERROR_FILE, FAILED, PARAMS_FILE, PROGRESS_FILE, RECOVERED, RESULT_FILE
from tune_core.logger.trial_files import TrialFiles
from tune_core.metrics import flatten

if TYPE_CHECKING:
    from tune_core.trial import Trial

__all__ = [
    "CSVLoggerCallback",
    "ErrorLoggerCallback",
    "JsonLoggerCallback",
    "LoggerCallback",
    "TrialFiles",
    "default_loggers",
]


class LoggerCallback(Callback):
    """Receives what happens to trials, one method for each event: subclass it to log elsewhere.

    Methods that are not overridden do nothing. `log_trial_end` is the place to release what
    `log_trial_start` acquired; a retried trial starts again without having ended.

    Example:
        >>> class PrintLogger(LoggerCallback):
        ...     def log_trial_result(self, iteration, trial, result):
        ...         print(trial.trial_id, result["loss"])

    Source: as Ray Tune 2.60; there, `log_trial_restore` is never called.
    """

    def log_trial_start(self, trial: Trial) -> None:
        """Handle the start of an attempt at a trial."""

    def log_trial_restore(self, trial: Trial) -> None:
        """Handle that a trial went on from a checkpoint."""

    def log_trial_save(self, trial: Trial) -> None:
        """Handle that a trial saved a checkpoint."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Handle a report.

        Args:
            iteration: Number of steps that the experiment's loop has made.
            trial: The trial that reported.
            result: The report with its auto-filled keys.
        """

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Handle the end of a trial: it has completed, or used up its retries.

        Args:
            trial: The trial that ended.
            failed: Whether it ended by an error.
        """

    def on_trial_start(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call `log_trial_start`."""
        self.log_trial_start(trial)

    def on_trial_restore(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call `log_trial_restore`."""
        self.log_trial_restore(trial)

    def on_trial_save(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call `log_trial_save`."""
        self.log_trial_save(trial)

    def on_trial_result(
        self, iteration: int, trials: Sequence[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Call `log_trial_result`."""
        self.log_trial_result(iteration, trial, result)

    def on_trial_complete(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call `log_trial_end`."""
        self.log_trial_end(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Call `log_trial_end`, with `failed=True`."""
        self.log_trial_end(trial, failed=True)


class _FileLogger(LoggerCallback):
    """A logger that writes through `TrialFiles`.

    Args:
        files: Where to write; if omitted, what `setup` gets as `files`.
    """

    def __init__(self, files: TrialFiles | None = None) -> None:
        self._files = files

    def setup(
        self,
        stop: Any = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Take the experiment's `files`, unless the constructor was given some."""
        self._files = self._files or info.get("files")

    @property
    def files(self) -> TrialFiles:
        """Where this logger writes.

        Raises:
            StorageError: Neither the constructor nor `setup` was given a `TrialFiles`.
        """
        if self._files is None:
            name = type(self).__name__
            raise StorageError(
                f"{name} has no files to write to: call {name}.setup(files=TrialFiles(...)) first"
            )
        return self._files

    def log_trial_start(self, trial: Trial) -> None:
        """Expect rows of a trial, below those of its earlier attempts."""
        self.files.open(trial.dirname, is_new=trial.attempt_number <= 1)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Bring the trial's files to the storage."""
        self.files.finish(trial.dirname)


class JsonLoggerCallback(_FileLogger):
    """Writes `result.json`, one line per report, and `params.json`, the configuration.

    Reports are nested as they were made, NaN and infinities are literals, objects that JSON lacks
    are text. The key `attempt_number` holds the number of the attempt that made the report. The configuration
    (`config`) is in the first report of each attempt alone; `Result` puts it back into the others.

    Args:
        files: Where to write; if omitted, what `setup` gets as `files`.

    Source: as Ray Tune 2.60. Differs: the key `attempt_number`; `config` once per attempt; rows survive a
        retry; no `params.pkl`.
    """

    def log_trial_start(self, trial: Trial) -> None:
        """Write `params.json`, unless it is there already."""
        super().log_trial_start(trial)
        self.files.replace(trial.dirname, PARAMS_FILE, _readable(dumps_row(trial.config)))

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Append a line to `result.json`."""
        row = {**result, "attempt_number": trial.attempt_number}
        if result.get("iterations_since_restore", 1) != 1:
            row.pop("config", None)  # it may be large, and is that of the attempt's first row
        line = dumps_row(row)
        self.files.append_line(trial.dirname, RESULT_FILE, line)


class CSVLoggerCallback(_FileLogger):
    """Writes `progress.csv`, one record per report, nested metrics as `a/b`, without the configuration.

    A metric that is first reported later becomes a new column, empty in earlier records. The
    column `attempt_number` holds the number of the attempt. Records are formatted together, when
    they are written, and a new column rewrites the file at most once for each such time.

    Args:
        files: Where to write; if omitted, what `setup` gets as `files`.

    Source: as Ray Tune 2.60. Differs: new columns are kept; the column `attempt_number`; a line
        break inside a value is a space; numbers are written as in JSON (`1e-5`).
    """

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Append a record to `progress.csv`."""
        metrics = dict(result)
        metrics.pop("config", None)
        row = flatten(metrics)
        row["attempt_number"] = trial.attempt_number
        self.files.append_row(trial.dirname, PROGRESS_FILE, row)


class ErrorLoggerCallback(_FileLogger):
    """Appends each failure of a trial to its `error.txt`, and whether the trial recovered.

    Args:
        files: Where to write; if omitted, what `setup` gets as `files`.

    Source: as Ray Tune 2.60. Differs: there is no `error.pkl`, and the last line says so if the
        trial ended well after all.
    """

    def on_trial_recover(self, iteration: int, trials: Sequence[Trial], trial: Trial, **info: Any) -> None:
        """Append a failure after which the trial is tried again."""
        self._append_failure(trial)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Append the failure that ended the trial, or that it ended well after failures."""
        if failed:
            self._append_failure(trial)
        elif trial.has_failed:
            self._append(trial, f"{RECOVERED} (at {_date()})")
        super().log_trial_end(trial, failed)

    def _append_failure(self, trial: Trial) -> None:
        summary = " ".join((trial.error or "unknown error").splitlines())
        number = trial.num_failures + trial.num_losses
        text = f"{FAILED}{number} (occurred at {_date()})\n{summary}\n{trial.traceback}"
        self._append(trial, text.rstrip("\n"))

    def _append(self, trial: Trial, text: str) -> None:
        self.files.append_line(trial.dirname, ERROR_FILE, text.encode("utf-8", "backslashreplace"))


def _readable(line: bytes) -> bytes:
    """Return JSON with its keys sorted, each on a line of its own."""
    try:
        return orjson.dumps(orjson.loads(line), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    except (ValueError, TypeError):  # NaN and infinities, integers beyond 64 bits, half a surrogate pair
        return json.dumps(json.loads(line), indent=2, sort_keys=True).encode()


def _date() -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S")


def default_loggers(files: TrialFiles, given: Iterable[Callback] = ()) -> list[LoggerCallback]:
    """Return the loggers that every experiment has, in the order to call them.

    With `TUNE_DISABLE_AUTO_CALLBACK_LOGGERS=1` in the environment these are no more `result.json`,
    `params.json` and `progress.csv`, as in Ray Tune; the journal has every report all the same.

    Args:
        files: Where they write.
        given: The user's callbacks: a logger of a kind that is among them is left out, so that no
            row is written twice. Call their `setup` with `files=files`.
    """
    loggers: tuple[LoggerCallback, ...] = (ErrorLoggerCallback(files),)
    if os.environ.get("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS") != "1":
        loggers += (CSVLoggerCallback(files), JsonLoggerCallback(files))
    users = tuple(given)
    return [logger for logger in loggers if not any(isinstance(user, type(logger)) for user in users)]
