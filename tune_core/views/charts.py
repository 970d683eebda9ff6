"""The charts of an experiment, as SVG text: see `tune_core.views.svg` for how they are drawn.

Each takes a `ExperimentSnapshot` and returns an image, or None where there is nothing to show. A few
kilobytes each, however many trials there are: what would not be seen is left out, and said so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Final

from tune_core.states import Outcome
from tune_core.text import cut, short
from tune_core.views.importance import importance, parameters_of
from tune_core.views.overview import PAID, AttemptRecord, ExperimentSnapshot, TrialRecord
from tune_core.views.svg import BAD, COLOURS, GREY, Axis, Drawing, Panel

WIDTH: Final = 760
_LEFT, _TOP, _BOTTOM = 62, 34, 40
#: Lines of the learning curves, parameters of the slices, trials of the timeline.
_CURVES, _SLICES, _ROWS = 8, 6, 60
#: Dots of one slice.
_DOTS: Final = 300
#: Pairs of metrics that are drawn against each other, and members of the front whose numbers are written.
_PAIRS, _NUMBERED = 6, 12
#: Points of a curve of resources.
_STEPS: Final = 400
_UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_FAILED = frozenset({Outcome.ERROR, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.CORRUPTED, Outcome.UNPLACED})


def best_so_far(snapshot: ExperimentSnapshot) -> str | None:
    """Draw the best trial's score over the time that drivers were at work; None before the first."""
    if not snapshot.best_so_far:
        return None
    unit, name = _unit(snapshot.seconds)
    points = [(seconds / unit, value) for seconds, value in snapshot.best_so_far]
    drawing = Drawing(WIDTH, 260, f"best {snapshot.metric} so far")
    x = Axis(0.0, max(snapshot.seconds / unit, 1e-3), label=name)
    y = Axis.over(
        [value for _, value in points], f"best {snapshot.metric} ({snapshot.mode})", may_be_log=True
    )
    _panel(drawing, x, y).steps(points, COLOURS[0], snapshot.seconds / unit)
    return drawing.svg()


def pareto(snapshot: ExperimentSnapshot) -> str | None:
    """Draw the trials by each two of several metrics, and which of them no other dominates; None if there is no front.

    With two metrics a line joins the front, along what it dominates, and its trials have their numbers.
    """
    front, ranked = snapshot.front, snapshot.ranked
    if not front:
        return None
    fronts, parts = snapshot.fronts, snapshot.objective.parts
    others = [trial for trial in ranked if fronts.get(trial.trial_id)]
    said = f"orange: the Pareto front, {_count(front)}; grey: dominated, {_count(others)}"
    num_beyond = sum(bool(trial.violated) for trial in ranked)
    if num_lacking := len(ranked) - len(fronts) - num_beyond:
        said += f"; without a number for each metric: {num_lacking}"
    said += f"; beyond the constraints: {num_beyond}" if num_beyond else ""
    pairs = [*combinations(range(len(parts)), 2)][:_PAIRS]
    columns = min(2, len(pairs))
    width, height = WIDTH / columns, 340 if columns == 1 else 280
    drawing = Drawing(WIDTH, 24 + height * math.ceil(len(pairs) / columns), "Pareto front")
    drawing.text(_LEFT - 5, 14, said)
    for number, (first, second) in enumerate(pairs):
        down, column = divmod(number, columns)
        axes = [
            Axis.over(
                [_score(trial, which) for trial in (*front[:_DOTS], *others[:_DOTS])],
                f"{cut(str(parts[which].metric), 40)} ({parts[which].mode})",
                may_be_log=True,
            )
            for which in (first, second)
        ]
        place = (
            _LEFT + column * width,
            24 + _TOP + down * height,
            width - _LEFT - 24,
            height - _TOP - _BOTTOM,
        )
        panel = Panel(drawing, *place, *axes)
        points = [(_score(trial, first), _score(trial, second)) for trial in front[:_DOTS]]
        drawing.dots(
            [panel.place(_score(trial, first), _score(trial, second)) for trial in others[:_DOTS]], GREY, 5
        )
        if len(parts) == 2:
            panel.curve(_stairs(points, rises_first=parts[0].mode == "max"), COLOURS[1], 1)
        drawing.dots([panel.place(*point) for point in points], COLOURS[1], 7)
        if len(parts) == 2 and len(front) <= _NUMBERED:
            for trial, point in zip(front, points, strict=True):
                x, y = panel.place(*point)
                is_right = x > place[0] + place[2] - 30
                drawing.text(
                    x - 7 if is_right else x + 7, y - 6, str(trial.number), "end" if is_right else "start"
                )
    return drawing.svg()


def _count(trials: Sequence[TrialRecord]) -> str:
    shown = f" ({_DOTS} shown)" if len(trials) > _DOTS else ""
    return f"{len(trials)} trial{'' if len(trials) == 1 else 's'}{shown}"


def _score(trial: TrialRecord, which: int) -> float:
    score = trial.scores[which]
    return math.nan if score is None else score


def _stairs(points: Sequence[tuple[float, float]], *, rises_first: bool) -> list[tuple[float, float]]:
    """Return the line along what these points dominate, from left to right."""
    line: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if line:
            line.append((line[-1][0], y) if rises_first else (x, line[-1][1]))
        line.append((x, y))
    return line


def learning_curves(snapshot: ExperimentSnapshot, count: int = _CURVES) -> str | None:
    """Draw what the best trials reported, iteration by iteration; None if none reported the metric."""
    return _curves([trial for trial in snapshot.ranked if trial.curve][: min(count, len(COLOURS))], snapshot)


def trial_curve(trial: TrialRecord, snapshot: ExperimentSnapshot) -> str | None:
    """Draw the learning curve of one trial; None if it did not report the metric."""
    return _curves([trial], snapshot, height=200) if trial.curve else None


def _curves(shown: Sequence[TrialRecord], snapshot: ExperimentSnapshot, height: int = 300) -> str | None:
    if not shown:
        return None
    drawing = Drawing(WIDTH, height, f"{snapshot.metric} of {len(shown)} trials")
    x = Axis.over([x for trial in shown for x, _ in trial.curve], "training_iteration", zero=True)
    y = Axis.over([y for trial in shown for _, y in trial.curve], str(snapshot.metric), may_be_log=True)
    panel = _panel(drawing, x, y, right=150)
    for number, (trial, colour) in reversed(list(enumerate(zip(shown, COLOURS, strict=False)))):
        panel.curve(trial.curve, colour)
        text = f"trial {trial.number}: {short(trial.score if trial.score is not None else math.nan)}"
        drawing.text(WIDTH - 142, _TOP + 10 + 17 * number, text, colour=colour)
    return drawing.svg()


def importances(snapshot: ExperimentSnapshot) -> str | None:
    """Draw which parameters set the best trials apart; None while there are too few trials to say."""
    parts = importance(snapshot)[:12]
    if not parts:
        return None
    drawing = Drawing(WIDTH, 24 + 24 * len(parts), "importance of parameters")
    for row, (name, part) in enumerate(parts):
        top = 12 + 24 * row
        drawing.text(205, top + 12, cut(name, 32), "end")
        drawing.bar(212, top, part * (WIDTH - 280), 16, COLOURS[0])
        drawing.text(218 + part * (WIDTH - 280), top + 12, f"{part:.0%}")
    return drawing.svg()


def slices(snapshot: ExperimentSnapshot) -> str | None:
    """Draw the score of each trial over each parameter, the most important first; None if nothing differs."""
    scored = snapshot.with_value[:_DOTS]
    trials = [trial for trial, _ in scored]
    order = {name: place for place, (name, _) in enumerate(importance(snapshot))}
    parameters = sorted(parameters_of(trials), key=lambda each: order.get(each.name, len(order)))[:_SLICES]
    if not parameters:
        return None
    columns = min(3, len(parameters))
    width, height = (WIDTH - _LEFT - 10) / columns, 200
    drawing = Drawing(WIDTH, height * math.ceil(len(parameters) / columns), f"{snapshot.metric} by parameter")
    y = Axis.over([score for _, score in scored], may_be_log=True)
    for number, parameter in enumerate(parameters):
        down, column = divmod(number, columns)
        x = Axis.unit() if parameter.axis is None else replace(parameter.axis, label="")
        place = (_LEFT + column * width, 24 + down * height, width - 24, height - 50)
        panel = Panel(drawing, *place, x, y, names=parameter.choices, y_ticks=column == 0)
        drawing.text(place[0], place[1] - 8, cut(parameter.name, 36))
        dots = [
            panel.place(value, score)
            for trial, score in scored
            if (value := parameter.place(trial.trial_id)) is not None
        ]
        drawing.dots(dots, COLOURS[0])
        drawing.dots(dots[:1] if trials[0].trial_id in parameter.values else (), COLOURS[1], 9)
    return drawing.svg()


def timeline(snapshot: ExperimentSnapshot) -> str | None:
    """Draw when each trial ran, and what all of them had of the cluster; None before the first attempt."""
    ran = [trial for trial in snapshot.trials if trial.timeline]
    if not ran:
        return None
    shown = ran[-_ROWS:]
    unit, name = _unit(snapshot.seconds)
    x = Axis(0.0, max(snapshot.seconds / unit, 1e-3), label=name)
    kinds = [
        kind for kind in PAID if any(span.resources.get(kind) for trial in shown for span in trial.timeline)
    ]
    row = max(6.0, min(16.0, 480.0 / len(shown)))
    first = _TOP + 88 * len(kinds)
    drawing = Drawing(WIDTH, int(first + row * len(shown) + _BOTTOM), f"when {len(shown)} trials ran")
    for number, kind in enumerate(kinds):
        steps = _in_use([span for trial in ran for span in trial.timeline], kind, snapshot.seconds)
        y = Axis.over([amount for _, amount in steps], f"{kind}s that trials have", zero=True)
        panel = Panel(drawing, _LEFT, _TOP + 88 * number, WIDTH - _LEFT - 12, 46, replace(x, label=""), y)
        panel.steps([(at / unit, amount) for at, amount in steps], COLOURS[number], snapshot.seconds / unit)
    rows = Axis(0.0, float(len(shown)))
    panel = Panel(drawing, _LEFT, first, WIDTH - _LEFT - 12, row * len(shown), x, rows, rows=True)
    hidden = f", the newest {len(shown)} of {len(ran)}" if len(ran) > len(shown) else ""
    drawing.text(
        _LEFT - 5, first - 7, f"trials{hidden}: blue ran, red failed, grey was lost with its driver or runs"
    )
    for number, trial in enumerate(shown):
        top = first + row * number
        if row >= 10 or number % 2 == 0:
            drawing.text(_LEFT - 5, top + row / 2 + 4, str(trial.number), "end")
        for span in trial.timeline:
            left, _ = panel.place(span.began / unit, 0)
            right, _ = panel.place((snapshot.seconds if span.ended is None else span.ended) / unit, 0)
            drawing.bar(left, top + 1, right - left, row - 2, _colour(span))
    return drawing.svg()


def _in_use(spans: Sequence[AttemptRecord], kind: str, until: float) -> list[tuple[float, float]]:
    """(seconds, amount that attempts have from then on), at not more than `_STEPS` places."""
    changes: dict[float, float] = defaultdict(float, {0.0: 0.0})
    for span in spans:
        changes[span.began] += span.resources.get(kind, 0.0)
        changes[until if span.ended is None else span.ended] -= span.resources.get(kind, 0.0)
    steps: list[tuple[float, float]] = []
    amount = 0.0
    for at in sorted(changes):
        amount += changes[at]
        steps.append((at, max(0.0, amount)))
    every = math.ceil(len(steps) / _STEPS)
    return [*steps[::every], steps[-1]]


def _colour(span: AttemptRecord) -> str:
    if span.outcome is None:
        return GREY
    return BAD if span.outcome in _FAILED else COLOURS[0]


def _panel(drawing: Drawing, x: Axis, y: Axis, right: float = 12) -> Panel:
    width, height = drawing.width - _LEFT - right, drawing.height - _TOP - _BOTTOM
    return Panel(drawing, _LEFT, _TOP, width, height, x, y)


def _unit(seconds: float) -> tuple[float, str]:
    return next(
        (size, name) for size, name in (*_UNITS, (1.0, "seconds")) if seconds >= 2 * size or size == 1.0
    )
