"""`ls` and `show`: what there is, and how it went."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from tune_core.cli.answer import Answer, Output
from tune_core.cli.cells import fields, parameters, table, varied
from tune_core.cli.experiment import Reading, compared_by, read_experiment, read_experiments
from tune_core.cli.opening import Access, experiment_names, open_experiment, place_of
from tune_core.control.resume import reports
from tune_core.errors import StorageError
from tune_core.logger.rows import newest_rows, user_metrics
from tune_core.metrics import flatten
from tune_core.objective import SCOPES, Objective
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import resolve
from tune_core.storage.transfer import in_parallel
from tune_core.text import duration, first_few, short
from tune_core.views.pages import lacking

if TYPE_CHECKING:
    from rich.console import RenderableType

_Drawn = Iterator["RenderableType"]
#: Columns of a trial's reports: the first ones of what it reported.
_METRICS_SHOWN = 6
#: Trials of a front that are named.
_FRONT_SHOWN = 8
_NO_FRONT = "no trial has a finite number for each metric"


def ls(
    storage: str | None = None,
    /,
    *,
    access: Access | None = None,
    output: Output | None = None,
) -> Answer:
    """List the experiments below a storage path, the latest first; NAME@1 is the first of several of one name.

    Reads the whole journal of each. An experiment that cannot be read is listed with its fault.

    Args:
        storage: A path or URL; none: the configured place, else ~/ray_results.
        access: How to get to the storage.
        output: How to answer.
    """
    place = place_of(storage, access)
    read = in_parallel(lambda name: _summaries(place.experiment(name)), experiment_names(place))
    found = sorted(
        (each for several in read for each in several), key=lambda each: -(each.get("last_event_at") or 0.0)
    )
    shown = resolve(place.url, None, place.options)[2]
    return Answer({"storage": shown, "experiments": found}, _list_view)


def _summaries(storage: ExperimentStorage) -> list[dict[str, Any]]:
    """Return what there is to say of the experiments of one name, or of their fault."""
    try:
        return [each.summary() for each in read_experiments(storage)]
    except StorageError as error:
        return [{"name": storage.name, "path": storage.url, "status": "damaged", "fault": str(error)}]


def _list_view(document: dict[str, Any]) -> _Drawn:
    found = document["experiments"]
    if not found:
        yield f"no experiments in {document['storage']}"
        return
    columns = {"NAME": "fold", "STATUS": "left", "TRIALS": "fold", "BEST": "fold", "LAST EVENT": "right"}
    yield table(columns, map(_list_row, found))
    yield f"one of them: prefect-tune show {shlex.quote(found[0]['path'])}"


def _list_row(each: dict[str, Any]) -> list[str]:
    if "fault" in each:
        return [each["name"], each["status"], "", short(each["fault"], width=60), ""]
    return [each["name"], each["status"], _counts(each), _best_text(each), _ago(each["last_event_at"])]


def _counts(summary: dict[str, Any]) -> str:
    parts = [f"{count} {status.lower()}" for status, count in summary["trials_by_status"].items()]
    return f"{summary['num_trials']}" + (f": {', '.join(parts)}" if parts else "")


def _best_text(summary: dict[str, Any]) -> str:
    if summary["best_by_metric"]:
        found = [(name, best) for name, best in summary["best_by_metric"].items() if best is not None]
        shown = ", ".join(f"{name}={short(best['value'], 6)}" for name, best in found)
        return (
            f"front of {len(summary['pareto_front'])}: {shown} ({SCOPES[summary['best_scope']]})"
            if found
            else ""
        )
    best = summary["best"]
    if best is None:
        return ""
    return f"{summary['metric']}={short(best['value'], 6)} ({SCOPES[summary['best_scope']]})"


def _ago(moment: float | None) -> str:
    return "" if moment is None else f"{duration(max(0.0, time.time() - moment))} ago"


def show(
    path: str,
    trial: str | None = None,
    /,
    *,
    metric: str | None = None,
    mode: Literal["min", "max"] | None = None,
    limit: int = 50,
    access: Access | None = None,
    output: Output | None = None,
) -> Answer:
    """Show an experiment's trials, the best first; of one trial, everything and its reports.

    Args:
        path: The experiment: STORAGE_PATH/NAME, a path or a URL.
        trial: A trial's id, name or number.
        metric: Compare trials by this metric, with --mode.
        mode: min or max.
        limit: Rows of the table at most; --json has all.
        access: How to get to the storage.
        output: How to answer.
    """
    storage, _ = open_experiment(path, access)
    reading = read_experiment(storage, metric, mode)
    if trial is not None:
        return _show_trial(reading, trial, limit)
    why_failed = ["", *lines] if (lines := reading.failure_lines()) else []
    return Answer(experiment_document(reading), lambda shown: _experiment_view(shown, limit, why_failed))


def experiment_document(reading: Reading) -> dict[str, Any]:
    """Return all that there is to say of an experiment, but the reports."""
    return {
        **reading.summary(),
        "best_so_far": [list(point) for point in reading.snapshot.best_so_far],
        "trials": reading.trial_documents(),
        "failures": reading.failures(),
    }


def summary_text(document: dict[str, Any]) -> str:
    """Return what a person is told of an experiment, without its trials."""
    best = document["best"] or {}
    return fields(
        {
            "experiment": document["path"],
            "status": document["status"]
            + (", paused on request" if document["is_paused"] else "")
            + (f": {document['reason']}" if document["reason"] else ""),
            "trials": _counts(document),
            "began with": document["warm_start"] or "",
            "best": f"{_best_text(document)}  {best.get('trial_id', '')}, iteration {best.get('iteration', '')}"
            if best
            else _best_text(document),
            **_front_fields(document),
            "config": parameters(best.get("config", {})),
            "checkpoint": best.get("checkpoint") or "",
            "cost": _cost(document),
        }
    )


def _front_fields(document: dict[str, Any]) -> dict[str, str]:
    """Return, of several metrics, the front and the best trial by each."""
    if not document["best_by_metric"]:
        return {}
    front = document["pareto_front"]
    found = {"front": first_few(front, _FRONT_SHOWN) or _NO_FRONT}
    for name, best in document["best_by_metric"].items():
        if best is not None:
            saved = f"  {best['checkpoint']}" if best["checkpoint"] else ""
            found[f"best {name}"] = f"{short(best['value'], 6)}  {best['trial_id']}{saved}"
    return found


def _experiment_view(document: dict[str, Any], limit: int, why_failed: list[str]) -> _Drawn:
    yield summary_text(document)
    trials = document["trials"]
    if not trials:
        return
    names = varied([trial["config"] for trial in trials])
    has_retries = any(trial["attempts"] > 1 for trial in trials)
    columns = {"TRIAL": "left", "STATUS": "left", "ITER": "right"}
    objective = Objective(document["metric"], document["mode"], document["best_scope"] or "last")
    columns |= {"FRONT": "right"} if objective.is_several else {}
    columns |= dict.fromkeys(objective.columns, "right")
    columns |= {"TIME": "right"} | ({"TRIES": "right"} if has_retries else {}) | {"PARAMETERS": "fold"}
    yield ""
    yield table(
        columns,
        (
            [
                trial["trial_id"],
                trial["status"],
                str(trial["iterations"] or ""),
                *([str(trial["front"] or "")] if objective.is_several else []),
                *(short(score, 6) for score in trial["scores"].values()),
                duration(trial["seconds"]),
                *([str(trial["attempts"])] if has_retries else []),
                parameters(trial["config"], names),
            ]
            for trial in trials[:limit]
        ),
    )
    if len(trials) > limit:
        yield f"… and {len(trials) - limit} more trials: --limit {len(trials)} shows all"
    left_out = sum(trial["front"] is None for trial in trials) if objective.is_several else 0
    if left_out:
        yield lacking(left_out)
    yield from why_failed


def _cost(document: dict[str, Any]) -> str:
    parts = [f"{duration(document['seconds'])} at work", f"{duration(document['cpu_seconds'])} of CPU"]
    if document["gpu_seconds"]:
        parts.append(f"{duration(document['gpu_seconds'])} of GPU")
    if document["idle_cpu_seconds"] is not None:
        parts.append(f"{duration(document['idle_cpu_seconds'])} of CPU held idle")
    if document["num_drivers"] > 1:
        parts.append(f"{document['num_drivers']} drivers")
    return ", ".join(parts)


def _show_trial(reading: Reading, given: str, limit: int) -> Answer:
    record = reading.trial(given)
    rows = newest_rows(
        [
            {**report.row, "training_iteration": report.iteration, "attempt_number": report.attempt_number}
            for trial, report in reports(reading.storage)
            if trial.trial_id == record.trial_id and trial.dirname == record.dirname
        ]
    )
    attempts = [
        {
            "attempt_number": each.attempt_number,
            "began_s": each.began,
            "ended_s": each.ended,
            "outcome": str(each.outcome) if each.outcome else None,
            "resources": dict(each.resources),
        }
        for each in record.timeline
    ]
    document = {
        "experiment": reading.path,
        **compared_by(reading.snapshot),
        **reading.trial_document(record),
        "failure": next((each for each in reading.failures([record.trial_id])), None),
        "timeline": attempts,
        "rows": rows,
    }
    return Answer(document, lambda shown: _trial_view(shown, limit))


def _trial_view(document: dict[str, Any], limit: int) -> _Drawn:
    metric, failure = document["metric"], document["failure"]
    scores = [f"{name}={short(value, 6)}" for name, value in document["scores"].items() if value is not None]
    score = f"{', '.join(scores)} ({SCOPES[document['best_scope']]})" if scores else ""
    score += f", front {document['front']}" if document["front"] else ""
    metrics_first = metric if isinstance(metric, list) else [metric]
    best = f"{metric}={short(document['best'], 6)}, iteration {document['best_iteration']}"
    yield fields(
        {
            "trial": document["path"],
            "status": document["status"] + (", paused on request" if document["is_paused_by_user"] else ""),
            "reason": document["reason"],
            "config": parameters(document["config"], width=1000),
            "score": score,
            "best": best if document["best"] is not None else "",
            "checkpoint": document["checkpoint"] or "",
            "attempts": _attempts_text(document["timeline"]) or str(document["attempts"]),
            "cost": f"{duration(document['seconds'])} at work, {duration(document['cpu_seconds'])} of CPU"
            + (f", {duration(document['gpu_seconds'])} of GPU" if document["gpu_seconds"] else ""),
            "error": failure["error"] if failure else "",
            "failed at": (failure["place"] or "") if failure else "",
            "traceback": failure["traceback"] if failure else "",
        }
    )
    rows = [(row, flatten(user_metrics(row))) for row in document["rows"]]
    if not rows:
        return
    names = dict.fromkeys(name for _, metrics in rows for name in metrics)
    first = sorted(names, key=lambda name: name not in metrics_first)[:_METRICS_SHOWN]
    columns = {"ITER": "right", "ATTEMPT": "right", "TIME": "right"} | dict.fromkeys(first, "right")
    yield ""
    if len(rows) > limit:
        yield f"… {len(rows) - limit} earlier reports: --limit {len(rows)} shows all"
    yield table(
        columns,
        (
            [
                str(row["training_iteration"]),
                str(row["attempt_number"]),
                duration(row.get("time_total_s")),
                *(short(metrics.get(name), 6) for name in first),
            ]
            for row, metrics in rows[-limit:]
        ),
    )
    if len(names) > len(first):
        yield f"further metrics: {', '.join(name for name in names if name not in first)}"


def _attempts_text(timeline: list[dict[str, Any]]) -> str:
    return ", ".join(f"{each['attempt_number']} {each['outcome'] or 'has no end'}" for each in timeline)
