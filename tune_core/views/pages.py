"""Pages on an experiment in markdown, as both of Prefect's UIs show it: charts, and a summary.

Images are SVG within the text, since the UIs show no others without a web server. Everything that
comes from configurations and errors is escaped: it can neither break a table nor hide where a link leads.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tune_core.logger.failures import group_failures
from tune_core.metrics import flatten
from tune_core.text import cut, duration, one_line, short
from tune_core.validation import shorten
from tune_core.views import charts
from tune_core.views.importance import LEAST_TRIALS, importance, parameters_of
from tune_core.views.overview import PAID, ExperimentSnapshot, TrialRecord

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
    shown: list[tuple[str, str | None, str]] = []
    if snapshot.objective.is_several:
        title = f"Pareto front: {text(', '.join(snapshot.objective.names))}{_scope(snapshot)}"
        shown.append((title, charts.pareto(snapshot), _why_no_front(snapshot)))
    for part in snapshot.parts:
        of = f": {text(part.metric)}" if snapshot.objective.is_several else ""
        shown += [
            (f"Best so far{of}{_scope(part)}", charts.best_so_far(part), _why_no_metric(part)),
            (f"Learning curves of the best trials{of}", charts.learning_curves(part), ""),
            (f"Importance of parameters{of}", charts.importances(part), _why_no_importance(part)),
            (f"Value by parameter{of}{_scope(part)}", charts.slices(part), ""),
        ]
    shown.append(("Timeline", charts.timeline(snapshot), "No trial has begun."))
    parts = [f"{len(snapshot.trials)} trials, {duration(snapshot.seconds)}."]
    for title, svg, otherwise in shown:
        if svg is not None or otherwise:
            parts.append(f"## {title}\n\n{image(title, svg) if svg is not None else otherwise}")
    return "\n\n".join(parts) + "\n"


def trial_page(trial: TrialRecord, snapshot: ExperimentSnapshot) -> str | None:
    """Return the learning curves of one trial with what it says of it; None if it reported no metric."""
    shown = [(part.trials[trial.number], part) for part in snapshot.by_metric] or [(trial, snapshot)]
    pages = [page for each, part in shown if (page := _curve_part(each, part)) is not None]
    return "\n".join(pages) or None


def _curve_part(trial: TrialRecord, snapshot: ExperimentSnapshot) -> str | None:
    svg = charts.trial_curve(trial, snapshot)
    if svg is None or trial.best is None:
        return None
    best = f"best {text(snapshot.metric)} {short(trial.best)} in iteration {trial.best_iteration}"
    if trial.score is not None:
        best += f"; {snapshot.objective.said} {short(trial.score)}"
    why = f"\n\n{text(trial.reason)}." if trial.reason else ""
    return f"{best}; {_status(trial)}, {_cost(trial)}{why}\n\n{image(f'trial {trial.number}', svg)}\n"


def checkpoint_page(*found: tuple[str, str]) -> str:
    """Return links to checkpoints, each with what there is to say of it; without a URL, that there is none.

    Args:
        *found: URL and text: of one checkpoint, or of several, each the best by another metric.
    """
    return "\n".join(_checkpoint_part(url, said) for url, said in found)


def _checkpoint_part(url: str, said: str) -> str:
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
        f"It began with a {text(snapshot.warm_start)}." if snapshot.warm_start else "",
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
    return _SPECIAL.sub(r"\\\1", one_line(value))


def code(value: object) -> str:
    """Return a value as code, in one line.

    Example:
        >>> code("s3://bucket/a")
        '`s3://bucket/a`'
    """
    return "`" + one_line(value).replace("`", "'").replace("|", "¦") + "`"


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


def lacking(count: int) -> str:
    """Return that so many trials are on no front, since they lack a number.

    Example:
        >>> lacking(1)
        '1 trial has no finite number for each metric: it is on no front, and comes last'
    """
    if count == 1:
        return "1 trial has no finite number for each metric: it is on no front, and comes last"
    return f"{count} trials have no finite number for each metric: they are on no front, and come last"


def beyond(count: int) -> str:
    """Return that so many trials are on no front, since they do not keep the constraints.

    Example:
        >>> beyond(2)
        '2 trials do not keep the constraints: they are on no front, and come last'
    """
    if count == 1:
        return "1 trial does not keep the constraints: it is on no front, and comes last"
    return f"{count} trials do not keep the constraints: they are on no front, and come last"


def _cell(value: object, letters: int) -> str:
    if isinstance(value, float):
        return short(value)
    return text("" if value is None else cut(str(value), letters))


def _best_part(snapshot: ExperimentSnapshot, storage_url: str) -> str:
    if snapshot.objective.is_several:
        return _front_part(snapshot, storage_url)
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


def _front_part(snapshot: ExperimentSnapshot, storage_url: str) -> str:
    """Say which trials no other dominates, and which is the best by each metric."""
    front, svg = snapshot.front, charts.pareto(snapshot)
    if svg is None:
        return f"## Pareto front\n\n{_why_no_front(snapshot)}"
    names = ", ".join(f"{name} ({mode})" for name, mode in _with_modes(snapshot))
    count = "1 trial" if len(front) == 1 else f"{len(front)} trials"
    parts = [
        f"## Pareto front\n\n{count} of {len(snapshot.trials)}: no other is at least as good by each of "
        f"{text(names)} and better by one ({snapshot.objective.said}).",
        image("Pareto front", svg),
    ]
    for part in snapshot.parts:
        best = part.best_trial
        if best is not None and best.score is not None:
            where = f"{storage_url}/{best.dirname}/{best.checkpoint}"
            saved = f" Its checkpoint: {code(where)}" if best.checkpoint else " It kept no checkpoint."
            parts.append(
                f"Best by {text(part.metric)} ({part.mode}): {code(best.trial_id)}, **{best.score:.6g}**.{saved}"
            )
    num_beyond = sum(bool(trial.violated) for trial in snapshot.trials)
    num_lacking = len(snapshot.trials) - len(snapshot.fronts) - num_beyond
    parts += [f"{lacking(num_lacking)}."] if num_lacking else []
    parts += [f"{beyond(num_beyond)}."] if num_beyond else []
    return "\n\n".join(parts)


def _with_modes(snapshot: ExperimentSnapshot) -> list[tuple[str, str]]:
    objective = snapshot.objective
    return [(name, str(mode)) for name, mode in zip(objective.names, objective.modes, strict=True)]


def _trials_table(snapshot: ExperimentSnapshot) -> str:
    """Of the columns, what fits beside the UI's own: the leaderboard has all of them."""
    objective, fronts = snapshot.objective, snapshot.fronts
    shown = snapshot.ranked[:_TRIALS]
    first = snapshot.parts[0]
    order = {name: place for place, (name, _) in enumerate(importance(first))}
    parameters = sorted(parameters_of(snapshot.trials), key=lambda each: order.get(each.name, len(order)))
    kinds = [name for name in PAID if snapshot.used[name]]
    scores = ["front", *objective.columns] if objective.is_several else [objective.label or "attempts"]
    head = ["trial", "status", *scores, "iterations"]
    head += [f"{name} seconds" for name in kinds] or ["seconds"]
    head += [parameter.name for parameter in parameters[:_PARAMETERS]]
    has_reasons = any(trial.reason for trial in shown)
    head += ["why it ended"] if has_reasons else []
    rows = [
        [
            trial.trial_id,
            f"{trial.status}, violates {' and '.join(trial.violated)}" if trial.violated else trial.status,
            *(
                [_front_of(trial, fronts), *trial.scores]
                if objective.is_several
                else [trial.score if snapshot.metric else trial.attempts]
            ),
            trial.iterations,
            *([trial.used.get(name, 0.0) for name in kinds] or [trial.seconds]),
            *(parameter.values.get(trial.trial_id) for parameter in parameters[:_PARAMETERS]),
            *([trial.reason] if has_reasons else []),
        ]
        for trial in shown
    ]
    left_out = (
        f"\n\nThe {len(shown)} best of {len(snapshot.trials)}." if len(shown) < len(snapshot.trials) else ""
    )
    how = (
        f"\n\nOn front 1 are the trials that no other dominates, on front 2 those that only these dominate, and so "
        f"on; within a front the best by {text(first.metric)} come first."
        if objective.is_several
        else ""
    )
    return table(head, rows) + left_out + how


def _front_of(trial: TrialRecord, fronts: Mapping[str, int]) -> int | None:
    front = fronts.get(trial.trial_id)
    return None if front is None else front + 1


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
    return f" ({snapshot.objective.said})" if snapshot.objective.names else ""


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


def _why_no_front(snapshot: ExperimentSnapshot) -> str:
    names = text(", ".join(snapshot.objective.names))
    if any(trial.violated for trial in snapshot.trials):
        bounds = " and ".join(map(str, snapshot.objective.constraints))
        return f"No trial with a finite number for each of {names}{_scope(snapshot)} keeps {text(bounds)}."
    return f"No trial has a finite number for each of {names}{_scope(snapshot)}."


def _why_no_importance(snapshot: ExperimentSnapshot) -> str:
    with_value = len(snapshot.with_value)
    if snapshot.metric is None:
        return ""
    if with_value < LEAST_TRIALS:
        return f"{with_value} trials have a value so far: {LEAST_TRIALS} are needed."
    return "No parameter that was varied sets the best trials apart."


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else shorten(value)
