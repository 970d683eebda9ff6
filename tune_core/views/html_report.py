"""A report on an experiment as one HTML file that needs nothing else: plotly's charts, and its trials.

Needs the extra `report`. Reads the journal only: it can be written at any time, from anywhere that
reaches the storage. It is not written by itself, since plotly takes a second and its script 5 MB.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tune_core.logger.failures import group_failures
from tune_core.metrics import flatten
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.text import duration, printable
from tune_core.validation import shorten
from tune_core.views.importance import importance, parameters_of
from tune_core.views.overview import PAID, ExperimentSnapshot, Overview, TrialRecord

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: Its name, below the experiment's directory.
REPORT_FILE: Final = "report.html"
_CURVES: Final = 40
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #24292f }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
td, th { border-bottom: 1px solid #d0d7de; padding: 4px 10px; text-align: left; white-space: nowrap }
code { background: #eff1f3; padding: 1px 4px }
"""


def write_report(storage: ExperimentStorage) -> str:
    """Write the report on an experiment beside its results; return where it is.

    It replaces an older one. The experiment may still run.

    Args:
        storage: The experiment's storage.

    Raises:
        ImportError: plotly is missing; the message says how to install it.
        StorageError: The journal is damaged, or there is none.
    """
    page = report_page(Overview.read(storage).snapshot(), storage.label, storage.url)
    stem, _, ending = REPORT_FILE.rpartition(".")
    file = REPORT_FILE if storage.number is None else f"{stem}@{storage.number}.{ending}"
    storage.write(file, page.encode())
    return f"{storage.url}/{file}"


def report_page(snapshot: ExperimentSnapshot, name: str, storage_url: str) -> str:
    """Return the report as HTML.

    Args:
        snapshot: The experiment.
        name: What it is called.
        storage_url: Where its results are, without credentials.
    """
    figures = [figure for figure in _figures(snapshot) if figure is not None]
    shown = [
        figure.to_html(full_html=False, include_plotlyjs="inline" if number == 0 else False)
        for number, figure in enumerate(figures)
    ]
    state = f"It has ended: {snapshot.reason}." if snapshot.has_ended else "It had not ended."
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(name)}</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(name)}</h1>",
        f"<p>{len(snapshot.trials)} trials, {duration(snapshot.seconds)}. {html.escape(printable(state))} ",
        f"Results are in <code>{html.escape(storage_url)}</code>.</p>",
        _cost(snapshot),
        _failures(snapshot, storage_url),
        *shown,
        "<h2>Trials</h2>",
        _trials(snapshot),
        "</html>",
    ]
    return "".join(parts)


def _plotly() -> Any:
    try:
        import plotly.graph_objects
    except ImportError as error:
        raise ImportError("the HTML report needs plotly: run pip install 'prefect-tune[report]'") from error
    return plotly.graph_objects


def _figures(snapshot: ExperimentSnapshot) -> list[Figure | None]:
    go = _plotly()
    made = [_pareto(go, snapshot)]
    for part in snapshot.parts:
        drawn = (_best(go, part), _curves(go, part), _importance(go, part), _coordinates(go, part))
        if snapshot.objective.is_several:
            for figure in drawn:
                if figure is not None:
                    title = f"{figure.layout.title.text}: {html.escape(printable(str(part.metric)))}"
                    figure.update_layout(title=title)
        made += drawn
    return [*made, _timeline(go, snapshot)]


def _pareto(go: Any, snapshot: ExperimentSnapshot) -> Figure | None:
    """The trials by several metrics: a plane of two, of more a matrix of planes; those on the front stand out."""
    front, fronts, parts = snapshot.front, snapshot.fronts, snapshot.objective.parts
    if not front:
        return None
    names = [html.escape(printable(f"{part.metric} ({part.mode})")) for part in parts]
    others = [trial for trial in snapshot.ranked if fronts.get(trial.trial_id)]
    made = []
    for trials, name, colour in ((others, "dominated", "#868e99"), (front, "Pareto front", "#e08a1e")):
        columns = [[trial.scores[number] for trial in trials] for number, _ in enumerate(parts)]
        look: dict[str, Any] = {"name": name, "text": [*map(_hover, trials)], "marker": {"color": colour}}
        if len(parts) == 2:
            made.append(go.Scatter(x=columns[0], y=columns[1], mode="markers", **look))
        else:
            dimensions = [
                {"label": each, "values": column} for each, column in zip(names, columns, strict=True)
            ]
            made.append(go.Splom(dimensions=dimensions, diagonal_visible=False, showupperhalf=False, **look))
    x, y = (names[0], names[1]) if len(parts) == 2 else ("", "")
    title = f"Pareto front: {len(front)} of {len(snapshot.trials)} trials ({snapshot.objective.said})"
    return _titled(go.Figure(made), title, x, y)


def _titled(figure: Figure, title: str, x: str, y: str) -> Figure:
    return figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, template="plotly_white")


def _best(go: Any, snapshot: ExperimentSnapshot) -> Figure | None:
    if not snapshot.best_so_far:
        return None
    points = [*snapshot.best_so_far, (snapshot.seconds, snapshot.best_so_far[-1][1])]
    line = go.Scatter(x=[x for x, _ in points], y=[y for _, y in points], line_shape="hv")
    return _titled(
        go.Figure(line), f"Best so far ({snapshot.objective.said})", "seconds", str(snapshot.metric)
    )


def _curves(go: Any, snapshot: ExperimentSnapshot) -> Figure | None:
    lines = [
        go.Scatter(
            x=[x for x, _ in trial.curve], y=[y for _, y in trial.curve], name=_hover(trial), mode="lines"
        )
        for trial in snapshot.ranked[:_CURVES]
        if trial.curve
    ]
    if not lines:
        return None
    title = f"Learning curves of the {len(lines)} best trials"
    return _titled(go.Figure(lines), title, "training_iteration", str(snapshot.metric))


def _importance(go: Any, snapshot: ExperimentSnapshot) -> Figure | None:
    parts = list(reversed(importance(snapshot)))
    if not parts:
        return None
    bars = go.Bar(x=[part for _, part in parts], y=[name for name, _ in parts], orientation="h")
    return _titled(go.Figure(bars), "Importance of parameters", "part", "")


def _coordinates(go: Any, snapshot: ExperimentSnapshot) -> Figure | None:
    """Parallel coordinates: a line per trial through its parameters and its score."""
    trials = [trial for trial, _ in snapshot.with_value]
    parameters = [
        each for each in parameters_of(trials) if all(trial.trial_id in each.values for trial in trials)
    ]
    if not parameters:
        return None
    axes: list[dict[str, Any]] = []
    for parameter in parameters:
        places = [
            parameter.axis.part(float(parameter.values[t.trial_id]))
            if parameter.axis
            else parameter.place(t.trial_id)
            for t in trials
        ]
        if parameter.axis is not None:
            ticks = parameter.axis.ticks()
            where, texts = [parameter.axis.part(tick) for tick in ticks], [f"{tick:g}" for tick in ticks]
        else:
            count = len(parameter.choices)
            where, texts = [(number + 0.5) / count for number in range(count)], list(parameter.choices)
        axes.append(
            {"label": parameter.name, "values": places, "tickvals": where, "ticktext": texts, "range": [0, 1]}
        )
    scores = [score for _, score in snapshot.with_value]
    axes.append({"label": snapshot.objective.label, "values": scores})
    line = {
        "color": scores,
        "colorscale": "Viridis",
        "reversescale": snapshot.mode == "min",
        "showscale": True,
    }
    return _titled(go.Figure(go.Parcoords(dimensions=axes, line=line)), "Parameters of all trials", "", "")


def _timeline(go: Any, snapshot: ExperimentSnapshot) -> Figure | None:
    spans = [(trial, span) for trial in snapshot.trials for span in trial.timeline]
    if not spans:
        return None
    bars = go.Bar(
        base=[span.began for _, span in spans],
        x=[(snapshot.seconds if span.ended is None else span.ended) - span.began for _, span in spans],
        y=[trial.number for trial, _ in spans],
        text=[
            f"attempt {span.attempt_number}: {span.outcome or 'no end is known'}; {_had(span.resources)}"
            for _, span in spans
        ],
        textposition="none",
        orientation="h",
    )
    figure = _titled(go.Figure(bars), "Timeline", "seconds", "trial")
    return figure.update_layout(height=max(300, min(1200, 14 * len(snapshot.trials) + 160)))


def _had(resources: Any) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items() if amount)


def _hover(trial: TrialRecord) -> str:
    return html.escape(printable(f"{trial.number}: {trial.experiment_tag}"[:80]))


def _cost(snapshot: ExperimentSnapshot) -> str:
    held = snapshot.held
    rows = [
        [name, duration(used), duration(held.get(name, 0.0)) if held is not None else "not known"]
        for name, used in snapshot.used.items()
        if used or (held or {}).get(name)
    ]
    return _table(["resource", "attempts had it for", "placement groups held it for"], rows) if rows else ""


def _failures(snapshot: ExperimentSnapshot, storage_url: str) -> str:
    """Say in which ways trials failed, and where to read on: all ways, since nothing bounds this page."""
    rows = [
        [group.count, group.error, group.first.place or "", group.first.trial_id, group.file(storage_url)]
        for group in group_failures(snapshot.failures)
    ]
    head = ["trials", "error", "at", "first trial", "its traceback"]
    return f"<h2>Failures</h2>{_table(head, rows)}" if rows else ""


def _trials(snapshot: ExperimentSnapshot) -> str:
    names = list(dict.fromkeys(name for trial in snapshot.trials for name in flatten(trial.config)))
    is_several, fronts = snapshot.objective.is_several, snapshot.fronts
    head = [
        "trial",
        "status",
        *(("front", *snapshot.objective.columns) if is_several else (snapshot.objective.label,)),
        "iterations",
        "attempts",
        "seconds",
        *(f"{n} s" for n in PAID),
    ]
    rows = []
    for trial in snapshot.ranked:
        config = flatten(trial.config)
        values = [config.get(name) for name in names]
        rows.append(
            [
                trial.trial_id,
                trial.status,
                *(
                    (fronts.get(trial.trial_id, -1) + 1 or "", *trial.scores)
                    if is_several
                    else (trial.score,)
                ),
                trial.iterations,
                trial.attempts,
                round(trial.seconds, 2),
                *(round(trial.used.get(name, 0.0), 2) for name in PAID),
                *(value if isinstance(value, str) else shorten(value) for value in values),
                trial.error or "",
            ]
        )
    return _table([*head, *names, "error"], rows)


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    def line(cells: Sequence[object], tag: str) -> str:
        return (
            "<tr>"
            + "".join(f"<{tag}>{html.escape(printable(str(cell)))}</{tag}>" for cell in cells)
            + "</tr>"
        )

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
