"""Pages on an experiment in markdown, as both of Prefect's UIs show it: charts, and a summary.

Images are SVG within the text, since the UIs show no others without a web server. Everything that
comes from configurations and errors is escaped: it can neither break a table nor hide where a link leads.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tune_core.logger.failures import group_failures
from tune_core.metrics import flatten
from tune_core.validation import printable, shorten
from tune_core.views import charts
from tune_core.views.importance import LEAST_TRIALS, importance, parameters_of
from tune_core.views.overview import PAID, ExperimentSnapshot, TrialRecord
from tune_core.views.svg import cut, short

#: Trials, and ways in which trials failed, that a summary lists.
_TRIALS, _FAILURES = 50, 20
#: Columns of parameters in its table.
_PARAMETERS: Final = 3
#: Letters of a cell.
_CELL: Final = 300
#: Letters of an error, which is shown whole.
_LINE: Final = 2000
#: What markdown or HTML would take for more than text.
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|#!&~$])")


def charts_page(snapshot: ExperimentSnapshot) -> str:
    """Return the charts of an experiment, as it stands."""
    shown = (
        (f"Best so far{_scope(snapshot)}", charts.best_so_far(snapshot), _why_no_metric(snapshot)),
        ("Learning curves of the best trials", charts.learning_curves(snapshot), ""),
        ("Importance of parameters", charts.importances(snapshot), _why_no_importance(snapshot)),
        (f"Value by parameter{_scope(snapshot)}", charts.slices(snapshot), ""),
        ("Timeline", charts.timeline(snapshot), "No trial has begun."),
    )
    parts = [f"{len(snapshot.trials)} trials, {duration(snapshot.seconds)}."]
    for title, svg, otherwise in shown:
        if svg is not None or otherwise:
            parts.append(f"## {title}\n\n{image(title, svg) if svg is not None else otherwise}")
    return "\n\n".join(parts) + "\n"


def trial_page(trial: TrialRecord, snapshot: ExperimentSnapshot) -> str | None:
    """Return the learning curve of one trial with what it says of it; None if it reported no metric."""
    svg = charts.trial_curve(trial, snapshot)
    if svg is None or trial.best is None:
        return None
    best = f"best {text(snapshot.metric)} {short(trial.best)} in iteration {trial.best_iteration}"
    if trial.score is not None:
        best += f"; {snapshot.objective.said} {short(trial.score)}"
    return f"{best}; {_status(trial)}, {_cost(trial)}\n\n{image(f'trial {trial.number}', svg)}\n"


def checkpoint_page(url: str, said: str) -> str:
    """Return a link to a checkpoint, with what there is to say of it; without a URL, that there is none."""
    if not url:
        return f"**No best checkpoint**: {code(said)}\n"
    target = url.replace("<", "%3C").replace(">", "%3E")
    return f"**Best checkpoint** ({code(said)}): [{text(url)}](<{target}>)\n\n{code(url)}\n"


def summary_page(snapshot: ExperimentSnapshot, name: str, storage_url: str) -> str:
    """Return what is left to know of an experiment that has ended, on one page.

    Args:
        snapshot: The experiment.
        name: What it is called.
        storage_url: Where its results are, without credentials.
    """
    counts = Counter(str(trial.status) for trial in snapshot.trials)
    ends = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    parts = [
        f"# {text(name)}",
        f"{len(snapshot.trials)} trials ({ends or 'none'}) in {duration(snapshot.seconds)}: {text(snapshot.reason)}.",
        _best_part(snapshot, storage_url),
        f"## Trials\n\n{_trials_table(snapshot)}",
        f"## Cost\n\n{_cost_part(snapshot)}",
        _failures_part(snapshot, storage_url),
        f"## Files\n\nResults, checkpoints and the journal are in {code(storage_url)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def image(title: str, svg: str) -> str:
    """Return an SVG image as markdown that needs nothing else.

    Example:
        >>> image("a", "<svg/>")
        '![a](data:image/svg+xml;base64,PHN2Zy8+)'
    """
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def text(value: object) -> str:
    r"""Return a value as one line of markdown that shows it as it is.

    Example:
        >>> text("a|b <i>")
        'a\\|b \\<i\\>'
    """
    return _SPECIAL.sub(r"\\\1", printable(" ".join(str(value).split())))


def code(value: object) -> str:
    """Return a value as code, in one line.

    Example:
        >>> code("s3://bucket/a")
        '`s3://bucket/a`'
    """
    return "`" + printable(" ".join(str(value).split())).replace("`", "'").replace("|", "¦") + "`"


def duration(seconds: float) -> str:
    """Return a time as a reader wants it.

    Example:
        >>> duration(4.2), duration(125), duration(7200)
        ('4.2 s', '2 min 5 s', '2 h')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    sizes = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    amounts = [
        (whole // size if size == 86400 else whole // size % (24 if size == 3600 else 60), unit)
        for size, unit in sizes
    ]
    first = next(place for place, (amount, _) in enumerate(amounts) if amount)
    return " ".join(f"{amount} {unit}" for amount, unit in amounts[first : first + 2] if amount)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], cell: int = _CELL) -> str:
    r"""Return a markdown table; cells are texts and numbers, shown as they are.

    Example:
        >>> print(table(["a"], [["x|y"]]))
        | a |
        |---|
        | x\|y |
    """
    lines = [f"| {' | '.join(map(text, head))} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_cell(value, cell) for value in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object, letters: int) -> str:
    if isinstance(value, float):
        return short(value)
    return text("" if value is None else cut(str(value), letters))


def _best_part(snapshot: ExperimentSnapshot, storage_url: str) -> str:
    best = snapshot.best_trial
    if best is None or best.score is None:
        return f"## Best trial\n\n{_why_no_metric(snapshot)}"
    where = f"{storage_url}/{best.dirname}"
    saved = (
        f"The checkpoint that goes with it: {code(f'{where}/{best.checkpoint}')}"
        if best.checkpoint
        else "It kept no checkpoint."
    )
    config = [(name, _shown(value)) for name, value in flatten(best.config).items()]
    return "\n\n".join(
        (
            f"## Best trial\n\n{code(best.trial_id)}: {text(snapshot.metric)} **{best.score:.6g}** "
            f"({snapshot.objective.said}, iteration {best.scored_in}, {snapshot.mode}). {saved}",
            table(["parameter", "value"], config) if config else "It has no parameters.",
        )
    )


def _trials_table(snapshot: ExperimentSnapshot) -> str:
    """Of the columns, what fits beside the UI's own: the leaderboard has all of them."""
    shown = snapshot.ranked[:_TRIALS]
    order = {name: place for place, (name, _) in enumerate(importance(snapshot))}
    parameters = sorted(parameters_of(snapshot.trials), key=lambda each: order.get(each.name, len(order)))
    kinds = [name for name in PAID if snapshot.used[name]]
    head = ["trial", "status", snapshot.objective.label or "attempts", "iterations"]
    head += [f"{name} seconds" for name in kinds] or ["seconds"]
    head += [parameter.name for parameter in parameters[:_PARAMETERS]]
    rows = [
        [
            trial.trial_id,
            f"{trial.status}, violates {' and '.join(trial.violated)}" if trial.violated else trial.status,
            trial.score if snapshot.metric else trial.attempts,
            trial.iterations,
            *([trial.used.get(name, 0.0) for name in kinds] or [trial.seconds]),
            *(parameter.values.get(trial.trial_id) for parameter in parameters[:_PARAMETERS]),
        ]
        for trial in shown
    ]
    left_out = (
        f"\n\nThe {len(shown)} best of {len(snapshot.trials)}." if len(shown) < len(snapshot.trials) else ""
    )
    return table(head, rows) + left_out


def _cost_part(snapshot: ExperimentSnapshot) -> str:
    rows = []
    for name in PAID:
        used, held = snapshot.used[name], (snapshot.held or {}).get(name, 0.0)
        if used or held:
            idle = snapshot.idle[name] if snapshot.idle is not None else None
            share = f"{duration(idle)} ({idle / held:.0%})" if idle is not None and held else "not known"
            rows.append(
                [name, duration(used), duration(held) if snapshot.held is not None else "not known", share]
            )
    if not rows:
        return "No attempt ran."
    said = table(["resource", "attempts had it for", "placement groups held it for", "idle"], rows)
    how = "Times are multiplied by amounts: 2 CPUs for 1 h are 2 h. Idle is what was held without an attempt in it."
    return f"{said}\n\n{how}"


def _failures_part(snapshot: ExperimentSnapshot, storage_url: str) -> str:
    groups = group_failures(snapshot.failures)
    if not groups:
        return ""
    rows = [
        (
            group.count,
            group.error,
            group.first.place,
            group.first.trial_id,
            group.file(storage_url),
        )
        for group in groups[:_FAILURES]
    ]
    left_out = sum(group.count for group in groups[_FAILURES:])
    more = f"\n\n{left_out} trials failed in other ways." if left_out else ""
    head = ["trials", "error", "at", "first trial", "its traceback"]
    return f"## Failures\n\n{table(head, rows, cell=_LINE)}{more}"


def _scope(snapshot: ExperimentSnapshot) -> str:
    return f" ({snapshot.objective.said})" if snapshot.metric is not None else ""


def _status(trial: TrialRecord) -> str:
    return f"{trial.status} after {trial.iterations} iterations"


def _cost(trial: TrialRecord) -> str:
    used = [f"{short(trial.used[name])} {name} seconds" for name in PAID if trial.used.get(name)]
    return ", ".join([duration(trial.seconds), *used])


def _why_no_metric(snapshot: ExperimentSnapshot) -> str:
    if snapshot.metric is None:
        return "Nothing is compared: give `TuneConfig(metric=…, mode=…)`."
    if any(trial.violated for trial in snapshot.trials):
        bounds = " and ".join(map(str, snapshot.objective.constraints))
        return f"No trial with a finite number as {text(snapshot.objective.label)} keeps {text(bounds)}."
    return f"No trial has a finite number as {text(snapshot.objective.label)}."


def _why_no_importance(snapshot: ExperimentSnapshot) -> str:
    with_value = len(snapshot.with_value)
    if snapshot.metric is None:
        return ""
    if with_value < LEAST_TRIALS:
        return f"{with_value} trials have a value so far: {LEAST_TRIALS} are needed."
    return "No parameter that was varied sets the best trials apart."


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else shorten(value)
