"""`export`: an experiment in the formats of other tools."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tune_core.cli.answer import Answer, Output
from tune_core.cli.experiment import Reading, read_experiment
from tune_core.cli.opening import Access, open_experiment
from tune_core.config.spec import makeable, rebuild_tune_config
from tune_core.control.messages import AttemptStarted
from tune_core.control.resume import reports
from tune_core.control.segments import read_journal
from tune_core.encoding import dumps_row
from tune_core.errors import ConfigError, TuneError
from tune_core.logger.appending import without_formula
from tune_core.logger.rows import newest_rows, user_metrics
from tune_core.metrics import flatten, lookup
from tune_core.search.sample import GRID_KEY
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import brief, without_credentials
from tune_core.trial import Status
from tune_core.validation import is_number

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from rich.console import RenderableType

_ENDINGS = {"csv": "csv", "parquet": "parquet", "optuna": "log", "html": "html"}
#: What every report has, in front of what the user's code reported.
_ROW_COLUMNS = ("training_iteration", "attempt_number", "timestamp", "time_this_iter_s", "time_total_s")


def export(
    path: str,
    /,
    *,
    format: Annotated[Literal["csv", "parquet", "optuna", "html"], Parameter(alias="-f")] = "csv",  # noqa: A002
    to: Annotated[str | None, Parameter(alias="-o")] = None,
    rows: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    access: Access | None = None,
    output: Output | None = None,
) -> Answer:
    """Write an experiment's trials, or all its reports, to a file.

    For `optuna` the file is a journal that `optuna-dashboard FILE` opens, or a database
    (`--to sqlite:///studies.db`): further experiments can be added to both.

    Args:
        path: The experiment: STORAGE_PATH/NAME, a path or a URL.
        format: csv, parquet, optuna or html.
        to: File to write, or for optuna the URL of a database; none: a file named after the experiment,
            for html report.html beside its results.
        rows: A line per report, instead of one per trial.
        overwrite: Replace the file if it is there; not for optuna.
        access: How to get to the storage.
        output: How to answer.
    """
    storage, _ = open_experiment(path, access)
    if rows and format not in ("csv", "parquet"):
        raise ConfigError(f"--rows with --format {format}: every report is in it anyway, leave --rows out")
    if overwrite and format == "optuna":
        raise ConfigError(
            "--overwrite with --format optuna: a study is added to what is there; give another file, or delete that one"
        )
    target = to or f"{storage.label.replace('/', '-')}.{_ENDINGS[format]}"
    is_file = format in ("csv", "parquet") or (format == "html" and to is not None)
    if is_file and Path(target).exists() and not overwrite:
        raise ConfigError(f"--to {target}: the file exists; give another one, or --overwrite")
    reading = read_experiment(storage)
    count, what = len(reading.snapshot.trials), "trials"
    if format == "optuna":
        _write_study(reading, target)
    elif format == "html":
        target = _write_html(reading, to)
    else:
        lines = _report_lines(storage) if rows else _trial_lines(reading)
        _guarded(_write_csv if format == "csv" else _write_parquet, lines, target)
        count, what = len(lines), "reports" if rows else "trials"
    document = {"experiment": reading.path, "format": format, "to": without_credentials(target), what: count}
    return Answer(document, _view)


def _view(document: dict[str, Any]) -> Iterator[RenderableType]:
    *_, (what, count) = document.items()
    yield f"wrote {count} {what} to {document['to']}"
    if document["format"] == "optuna":
        yield f"look at them with: optuna-dashboard {document['to']}"


def _guarded(write: Any, *arguments: Any) -> Any:
    try:
        return write(*arguments)
    except OSError as error:
        raise TuneError(f"cannot write {arguments[-1]}: {brief(error)}") from None


# Lines of a table.


def _trial_lines(reading: Reading) -> list[dict[str, Any]]:
    """Return a flat line per trial: what `show` says, `config/…`, and its last report as `last/…`."""
    lines, fronts, names = [], reading.snapshot.fronts, reading.snapshot.objective.names
    for record, trial in zip(reading.snapshot.trials, reading.replay.trials, strict=True):
        line = reading.trial_document(record, fronts)
        del line["config"]
        last, scores, front = line.pop("last"), line.pop("scores"), line.pop("front")
        metric = {"metric": ", ".join(names)} if names else {}
        several = {"front": front, **flatten({"scores": scores})} if len(names) > 1 else {}
        lines.append(
            {
                **line,
                **metric,
                **several,
                "last": last,
                **flatten({"config": record.config}),
                **flatten({"last": user_metrics(trial.last_row)}),
            }
        )
    return lines


def _report_lines(storage: ExperimentStorage) -> list[dict[str, Any]]:
    """Return a flat line per report that counts, trial by trial."""
    found: dict[str, list[dict[str, Any]]] = {}
    places: dict[str, str] = {}
    for trial, report in reports(storage):
        if places.setdefault(trial.trial_id, trial.dirname) != trial.dirname:  # it started over
            found[trial.trial_id].clear()
            places[trial.trial_id] = trial.dirname
        known = {
            "training_iteration": report.iteration,
            "attempt_number": report.attempt_number,
            "config": trial.config,
        }
        found.setdefault(trial.trial_id, []).append({**report.row, **known})
    return [
        {
            "trial_id": trial_id,
            **{name: row.get(name) for name in _ROW_COLUMNS},
            **flatten(user_metrics(row)),
            **flatten({"config": row["config"]}),
        }
        for trial_id in sorted(found)
        for row in newest_rows(found[trial_id])
    ]


def _columns(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dumps_row({"": value}).decode()[len('{"":') : -1].strip()


def _write_csv(lines: Sequence[Mapping[str, Any]], target: str) -> None:
    with Path(target).open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, [without_formula(name) for name in _columns(lines)], restval="")
        writer.writeheader()
        for line in lines:
            writer.writerow(
                {
                    without_formula(name): value
                    if isinstance(value, (int, float)) or value is None
                    else without_formula(value if isinstance(value, str) else _text(value))
                    for name, value in line.items()
                }
            )


def _write_parquet(lines: Sequence[Mapping[str, Any]], target: str) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise TuneError(
            "--format parquet needs pyarrow: run pip install 'prefect-tune[parquet]', or use --format csv"
        ) from None
    columns = {}
    for name in _columns(lines):
        values = [line.get(name) for line in lines]
        try:
            column = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError, UnicodeEncodeError):
            column = None  # of several kinds, beyond 64 bits, or no UTF-8
        if column is None or "struct<>" in str(column.type):  # Parquet has no empty dicts
            texts = [None if value is None else _text(value) for value in values]
            column = pyarrow.array(
                [text and text.encode("utf-8", "backslashreplace") for text in texts], "utf8"
            )
        columns[name] = column
    parquet.write_table(pyarrow.table(columns), target)


def _write_html(reading: Reading, to: str | None) -> str:
    """Write the report to a file, or beside the results; return where it is."""
    from tune_core.views.html_report import report_page, write_report

    try:
        if to is None:
            return write_report(reading.storage)
        page = report_page(reading.snapshot, reading.storage.label, reading.storage.url)
    except ImportError as error:
        raise TuneError(str(error)) from None
    _guarded(lambda text, target: Path(target).write_text(text, encoding="utf-8"), page, to)
    return to


# Optuna.


def _write_study(reading: Reading, target: str) -> None:
    try:
        import optuna
    except ImportError:
        raise TuneError("--format optuna needs Optuna: run pip install 'prefect-tune[optuna]'") from None
    objective = reading.snapshot.objective
    if not objective.names:
        raise ConfigError(
            f"{reading.storage.url} has no metric, which an Optuna study needs: use --format csv"
        )
    if Path(target).is_file() and not _holds_studies(Path(target)):
        raise ConfigError(f"--to {target}: the file exists, and holds no studies; give another one")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Literal["minimize", "maximize"]] = [
        "maximize" if mode == "max" else "minimize" for mode in objective.modes
    ]
    name, shown, trials = reading.storage.name, without_credentials(target), _study_trials(reading)
    try:
        study = optuna.create_study(storage=_study_storage(target), study_name=name, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        raise ConfigError(f"--to {shown}: it has a study {name!r} already; give another file") from None
    except OSError as error:
        raise TuneError(f"cannot write {shown}: {brief(error)}") from None
    except Exception as error:  # what SQLAlchemy and its drivers raise
        if type(error).__module__.partition(".")[0] != "sqlalchemy":
            raise
        raise TuneError(f"cannot write {shown}: {brief(error)}") from None
    study.set_user_attr("metric", objective.names[0] if len(objective.names) == 1 else list(objective.names))
    study.set_user_attr("prefect-tune", reading.storage.url)
    study.add_trials(trials)


def _holds_studies(path: Path) -> bool:
    """Whether a file is a journal of Optuna, to which it adds: it would add to any other as well."""
    with path.open("rb") as file:
        first = file.readline()
    try:
        return not first or "op_code" in json.loads(first)
    except (ValueError, TypeError):
        return False


def _study_storage(target: str) -> Any:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    return RDBStorage(target) if "://" in target else JournalStorage(JournalFileBackend(target))


def _study_trials(reading: Reading) -> list[optuna.trial.FrozenTrial]:
    import optuna

    metric = reading.snapshot.metric  # of several, Optuna keeps no curves
    curves, began = _curves(reading.storage, metric)
    distributions, cut_short = _distributions(reading), _cut_short(reading)
    states = {Status.ERROR: optuna.trial.TrialState.FAIL, Status.TERMINATED: optuna.trial.TrialState.COMPLETE}
    trials = []
    for record in reading.snapshot.trials:
        state = states.get(record.status, optuna.trial.TrialState.RUNNING)
        scores = record.scores or [record.score]
        values = [score for score in scores if score is not None and math.isfinite(score)]
        is_whole = len(values) == len(scores)
        if state is optuna.trial.TrialState.COMPLETE and len(scores) == 1 and record.trial_id in cut_short:
            state = optuna.trial.TrialState.PRUNED  # by several metrics, Optuna knows none
        elif state is optuna.trial.TrialState.COMPLETE and not is_whole:
            state = optuna.trial.TrialState.FAIL  # a study knows no complete trial without a value
        start = began.get(record.trial_id)
        end = reading.replay.ended_at.get(record.trial_id)
        params = {
            name: _study_value(value, distributions[name])
            for name, value in flatten(dict(record.config)).items()
            if name in distributions
        }
        trials.append(
            optuna.trial.FrozenTrial(
                number=record.number,
                trial_id=record.number,
                state=state,
                value=None,
                values=values if record.status is Status.TERMINATED and is_whole else None,
                datetime_start=_moment(start if start is not None else end) or datetime.datetime.now(),
                datetime_complete=_moment(end) if state.is_finished() else None,
                params=params,
                distributions={name: distributions[name] for name in params},
                user_attrs={
                    "trial_id": record.trial_id,
                    "path": f"{reading.storage.url}/{record.dirname}",
                    "attempts": record.attempts,
                    "seconds": record.seconds,
                    **({"error": record.error} if record.error else {}),
                },
                system_attrs={},
                intermediate_values=curves.get(record.trial_id, {}),
            )
        )
    return trials


def _cut_short(reading: Reading) -> set[str]:
    """Return the trials that were stopped below the scheduler's full budget, and not by a stop rule."""
    # A user's own scheduler is not made again: what its full budget is, nobody knows.
    scheduler = rebuild_tune_config(makeable(reading.spec), search_alg=None).scheduler
    return {
        trial.trial_id
        for trial in reading.replay.trials
        if trial.is_cut_short
        and not (scheduler is not None and scheduler.is_full_budget(trial, trial.last_result))
    }


def _moment(seconds: float | None) -> datetime.datetime | None:
    # Optuna's own times are local, without a zone.
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds)


def _curves(
    storage: ExperimentStorage, metric: str | None
) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """Return each trial's values by iteration, and when its first attempt began."""
    curves: dict[str, dict[int, float]] = {}
    for trial, report in reports(storage):
        value = lookup(report.row, metric) if metric is not None else None
        if is_number(value):
            curves.setdefault(trial.trial_id, {})[report.iteration] = float(value)
    began: dict[str, float] = {}
    for event, _ in read_journal(storage):
        if isinstance(event, AttemptStarted):
            began.setdefault(event.trial_id, event.time)
    return curves, began


def _distributions(reading: Reading) -> dict[str, BaseDistribution]:
    """Return what Optuna is to take each parameter for: what was sampled, wide enough for what was run."""
    sampled = dict(_sampled(reading.spec.get("param_space", {}), ""))
    values: dict[str, list[Any]] = {}
    for record in reading.snapshot.trials:
        for name, value in flatten(dict(record.config)).items():
            values.setdefault(name, []).append(value)
    return {
        name: _distribution(sampled.get(name), found)
        for name, found in values.items()
        if name in sampled or any(value != found[0] for value in found)
    }


def _sampled(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the places of a described search space where a value was chosen, with how."""
    if not isinstance(node, Mapping):
        return
    if "$sampler" in node or (len(node) == 1 and GRID_KEY in node):
        yield place, node
        return
    for key, child in node.items():
        yield from _sampled(child, f"{place}/{key}" if place else key)


def _distribution(sampler: Mapping[str, Any] | None, found: Sequence[Any]) -> BaseDistribution:
    from optuna import distributions as to

    name = str((sampler or {}).get("$sampler", ""))
    numbers = [value for value in found if is_number(value)]
    if name == "choice" or (sampler and GRID_KEY in sampler) or len(numbers) < len(found):
        return to.CategoricalDistribution(list(dict.fromkeys(map(_category, found))))
    bounds = [value for value in (sampler or {}).get("arguments", [])[:2] if is_number(value)]
    if name.endswith("randn") or len(bounds) < 2:
        bounds = []  # mean and deviation are no bounds
    low, high = min([*bounds, *numbers]), max([*bounds, *numbers])
    log = "log" in name and low > 0
    if all(isinstance(value, int) for value in numbers):
        is_open = name in ("randint", "lograndint") and high not in numbers
        return to.IntDistribution(int(low), max(int(low), int(high) - is_open), log=log)
    return to.FloatDistribution(float(low), float(high), log=log)


def _category(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else _text(value)


def _study_value(value: Any, distribution: BaseDistribution) -> Any:
    from optuna import distributions as to

    return _category(value) if isinstance(distribution, to.CategoricalDistribution) else value
