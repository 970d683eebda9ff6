"""Completes the files beside the journal, after the death of a driver or a removal by somebody."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_core.callback import Callback
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import TrialReported
from tune_core.control.resume import Observer, Replay, reports
from tune_core.control.segments import read_journal
from tune_core.errors import StorageError
from tune_core.logger.callbacks import CSVLoggerCallback, JsonLoggerCallback, LoggerCallback, default_loggers
from tune_core.logger.rows import (
    ERROR_FILE,
    PARAMS_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    last_failure,
    parse_line,
)
from tune_core.logger.trial_files import TrialFiles
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.transfer import in_parallel
from tune_core.trial import Status, Trial


@dataclass(slots=True)
class _Written:
    """What a trial's files hold: the numbers of the reports of each attempt, for each of the two."""

    rows: dict[str, dict[int, set[int]]]
    has_params: bool
    has_failure: bool

    def holds(self, name: str, report: TrialReported) -> bool:
        return report.row["iterations_since_restore"] in self.rows[name].get(report.attempt_number, ())

    def has_gap(self, name: str) -> bool:
        """Whether rows are lacking before others: somebody has removed or cut the file."""
        return any(len(numbers) < max(numbers) for numbers in self.rows[name].values())


def complete_files(
    storage: ExperimentStorage,
    trials: Sequence[Trial],
    loggers: Sequence[LoggerCallback],
    observe: Observer = lambda _trial, _report: None,
    cut: Collection[str] = (),
) -> int:
    """Write what the journal holds and the files of these trials lack; return how many rows that were.

    A driver that dies takes the last second of these files with it: what is lacking is at their end. A file
    that lacks rows before others, or is named by `cut`, is written again as a whole.

    Args:
        storage: The experiment's storage.
        trials: Those that were not settled, as the replay left them.
        loggers: What writes the files.
        observe: Called with each report of these trials, lacking or not.
        cut: Directories of trials whose files somebody has removed or cut.

    Raises:
        StorageError: A file cannot be read.
    """
    limit = csv.field_size_limit(sys.maxsize)  # a reported text may be long
    try:
        read = in_parallel(lambda trial: _written(storage, trial.dirname), trials)
    finally:
        csv.field_size_limit(limit)
    written = {trial.dirname: each for trial, each in zip(trials, read, strict=True)}
    writers = [
        (logger, RESULT_FILE if isinstance(logger, JsonLoggerCallback) else PROGRESS_FILE)
        for logger in loggers
        if isinstance(logger, (JsonLoggerCallback, CSVLoggerCallback))
    ]
    for _, name in writers:
        for dirname, each in written.items():
            if each.rows[name] and (dirname in cut or each.has_gap(name)):
                storage.delete(f"{dirname}/{name}")
                each.rows[name] = {}
    lacking = {
        trial.dirname: 0 for trial in trials if trial.attempt_number and not written[trial.dirname].has_params
    }
    for trial in trials:
        if trial.dirname in lacking:
            for logger in loggers:
                logger.log_trial_start(trial)
    for trial, report in reports(storage):
        if trial.dirname not in written:
            continue
        observe(trial, report)
        for logger, name in writers:
            if not written[trial.dirname].holds(name, report):
                lacking[trial.dirname] = lacking.get(trial.dirname, 0) + 1
                logger.log_trial_result(0, trial, trial.result_of(report.row))
    for trial in trials:
        failed = trial.status is Status.ERROR
        if trial.is_finished() and (
            trial.dirname in lacking or (failed and not written[trial.dirname].has_failure)
        ):
            for logger in loggers:
                logger.log_trial_end(trial, failed)
    return sum(lacking.values())


def put_back(
    storage: ExperimentStorage,
    dirnames: Collection[str],
    staging_dir: str | Path,
    given: Iterable[Callback] = (),
) -> None:
    """Write again from the journal what somebody has removed or cut while the experiment ran.

    Args:
        storage: The experiment's storage; its journal is closed.
        dirnames: The trials' directories.
        staging_dir: As of `TrialFiles`.
        given: The user's callbacks, as of `default_loggers`.

    Raises:
        StorageError: The journal cannot be read, or the files cannot be written.
    """
    replay = Replay(Controller(ControllerConfig(""))).run(read_journal(storage))
    trials = [trial for trial in replay.trials if trial.dirname in dirnames]
    files = TrialFiles(storage, staging_dir)
    try:
        complete_files(storage, trials, default_loggers(files, given), cut=dirnames)
    finally:
        files.close()


def _written(storage: ExperimentStorage, dirname: str) -> _Written:
    names = set(storage.list(dirname))
    results, table, failures = (
        storage.read(f"{dirname}/{name}") if name in names else b""
        for name in (RESULT_FILE, PROGRESS_FILE, ERROR_FILE)
    )
    try:
        places = {
            RESULT_FILE: _numbers(_result_places(results)),
            PROGRESS_FILE: _numbers(_table_places(table)),
        }
    except csv.Error as error:
        raise StorageError(
            f"{storage.url}/{dirname}/{PROGRESS_FILE} is damaged ({error}): move it away, and it is written again"
        ) from error
    has_failure = last_failure(failures.decode("utf-8", "replace")) is not None
    return _Written(places, PARAMS_FILE in names, has_failure)


def _place_of(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Which attempt a row is of, and which report of it: unlike `training_iteration`, no function sets that."""
    return row.get("attempt_number"), row.get("iterations_since_restore")


def _result_places(data: bytes) -> Iterator[tuple[Any, Any]]:
    for line in data.split(b"\n"):
        row = parse_line(line)
        if isinstance(row, dict):  # else the half line that a crash leaves
            yield _place_of(row)


def _table_places(data: bytes) -> Iterator[tuple[Any, Any]]:
    whole = data[: data.rfind(b"\n") + 1]
    for record in csv.DictReader(io.StringIO(whole.decode("utf-8", "replace"), newline="")):
        yield _place_of(record)


def _numbers(places: Iterable[tuple[Any, Any]]) -> dict[int, set[int]]:
    numbers: dict[int, set[int]] = {}
    for attempt_number, report in places:
        with contextlib.suppress(TypeError, ValueError):  # a record that lacks them was not written here
            numbers.setdefault(int(attempt_number), set()).add(int(report))
    return numbers
