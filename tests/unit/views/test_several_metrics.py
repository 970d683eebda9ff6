"""Charts, pages and announcements of experiments with several metrics."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest

from tests.support.snapshots import snapshot, trial
from tests.support.timed_events import RULES, began, over, runs, suggested, tid
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import Event, SearchEnded, TrialReported, TrialSuggested
from tune_core.objective import Objective
from tune_core.states import Decision
from tune_core.views import charts, pages
from tune_core.views.html_report import report_page
from tune_core.views.notifications import PLATEAU_TRIALS, Notification, Notifier
from tune_core.views.overview import ExperimentSnapshot, Overview

BOTH = Objective(["acc", "ms"], ["max", "min"])
SVG = "{http://www.w3.org/2000/svg}"


def of(*scores: tuple[float | None, ...], objective: Objective = BOTH) -> ExperimentSnapshot:
    """An experiment of trials with these scores."""
    together = [replace(trial(n, None, {"x": n}), scores=each) for n, each in enumerate(scores)]
    shown = replace(snapshot(*together), objective=objective, best_so_far=())
    alone = [
        replace(
            snapshot(*(trial(n, each[number], {"x": n}) for n, each in enumerate(scores))), objective=part
        )
        for number, part in enumerate(objective.parts)
    ]
    return replace(shown, by_metric=alone)


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ET.fromstring(svg).iter(f"{SVG}text")]


def circles(svg: str) -> list[int]:
    """How many dots each layer has."""
    paths = [each.get("d", "") for each in ET.fromstring(svg).iter(f"{SVG}path")]
    return [path.count("M") for path in paths]


def test_two_metrics_are_drawn_with_the_front_and_the_numbers_of_its_trials() -> None:
    svg = charts.pareto(of((0.8, 5.0), (0.9, 20.0), (0.7, 9.0), (None, 1.0), (0.1, math.nan)))

    assert svg is not None
    assert circles(svg) == [1, 2]
    shown = texts(svg)
    said = "orange: the Pareto front, 2 trials; grey: dominated, 1 trial; without a number for each metric: 2"
    assert said in shown
    assert {"acc (max)", "ms (min)", "0", "1"} <= {*shown}


def test_line_along_the_front_goes_where_the_front_dominates() -> None:
    assert charts._stairs([(2.0, 5.0), (1.0, 3.0)], rises_first=True) == [(1, 3), (1, 5), (2, 5)]
    assert charts._stairs([(2.0, 5.0), (1.0, 3.0)], rises_first=False) == [(1, 3), (2, 3), (2, 5)]


@pytest.mark.parametrize("count", [3, 4, 5])
def test_more_metrics_are_drawn_by_two_each_at_most_six_pairs(count: int) -> None:
    objective = Objective([f"m{number}" for number in range(count)], ["max"] * count)
    svg = charts.pareto(
        of(*[tuple(float(n * each % 5) for each in range(count)) for n in range(9)], objective=objective)
    )

    assert svg is not None
    pairs = min(6, count * (count - 1) // 2)
    assert len([text for text in texts(svg) if text.endswith("(max)")]) == 2 * pairs


def test_thousands_of_trials_make_a_small_chart_that_says_what_is_left_out() -> None:
    shown = of(*[(math.sin(n), float(n % 97)) for n in range(3000)])

    svg = charts.pareto(shown)

    assert svg is not None
    assert len(svg) < 20_000
    assert any("(300 shown)" in text for text in texts(svg))


@pytest.mark.parametrize("scores", [[], [(None, 1.0)], [(math.nan, 1.0), (1.0, math.inf)]])
def test_without_a_front_there_is_no_chart_and_the_page_says_why(scores: Any) -> None:
    shown = of(*scores)

    assert charts.pareto(shown) is None
    assert "No trial has a finite number for each of acc, ms (last report)." in pages.charts_page(shown)
    assert "## Pareto front\n\nNo trial has a finite" in pages.summary_page(shown, "n", "/tmp/n")
    assert charts.pareto(snapshot(trial(0, 0.5, {}))) is None


def test_each_metric_has_its_charts_and_names_are_nothing_but_text() -> None:
    evil = "</text><script>|[x](http://y)"
    shown = of((0.8, 5.0), (0.9, 20.0), objective=Objective([evil, "ms"], ["max", "min"]))

    page = pages.charts_page(shown) + pages.summary_page(shown, "n", "/tmp/n")
    report = report_page(shown, "n", "/tmp/n")

    assert len(re.findall(r"^## Best so far: ", page, re.MULTILINE)) == 2
    assert "](http://y)" not in page.replace(r"\]", "")
    assert "<script>|" not in report
    svg = charts.pareto(shown)
    assert svg is not None
    ET.fromstring(svg)


def test_summary_has_the_front_the_best_by_each_and_who_is_on_which_front() -> None:
    page = pages.summary_page(of((0.8, 5.0), (0.9, 20.0), (0.7, 9.0), (None, 1.0)), "n", "/tmp/n")

    assert (
        "2 trials of 4: no other is at least as good by each of acc (max), ms (min) and better by one" in page
    )
    assert (
        "Best by acc (max): `a1b2c_00001`, **0.9**. Its checkpoint: `/tmp/n/train_1/checkpoint_000009`"
        in page
    )
    assert "Best by ms (min): `a1b2c_00003`, **1**" in page
    rows = [line.split(" | ")[:5] for line in page.splitlines() if line.startswith(r"| a1b2c")]
    assert [(row[0][-1], row[2]) for row in rows] == [("1", "1"), ("0", "1"), ("2", "2"), ("3", "")]


def told(time: float, iteration: int, acc: float, ms: float, number: int = 0) -> Event:
    row = {"acc": acc, "ms": ms}
    return TrialReported(time, tid(number), 1, iteration, row, 0 if number == 0 else None, Decision.CONTINUE)


def announced(*events: Event) -> list[Notification]:
    controller = Controller(ControllerConfig(**{**RULES, "metric": ["acc", "ms"], "mode": ["max", "min"]}))  # type: ignore[arg-type]
    overview = Overview(controller, BOTH)
    notifier, found = Notifier(controller, "tuning", "s3://b/tuning", overview.standings), []
    for event in events:
        commands = controller.handle(event)
        found += notifier.note(event, commands, is_best=overview.note(event))
    return found


def test_changes_of_the_front_are_announced_instead_of_a_new_best() -> None:
    found = announced(
        began(capacity=3),
        *(suggested(number) for number in range(3)),
        SearchEnded(101),
        *(runs(102, number) for number in range(3)),
        told(103, 1, 0.5, 10.0),
        told(120, 1, 0.4, 5.0, number=1),
        told(140, 1, 0.3, 20.0, number=2),  # dominated
        *(over(150 + number, number=number) for number in range(3)),
    )

    changes = [each for each in found if each.kind == "experiment.front-changed"]
    assert [[member["trial_id"] for member in each.payload["front"]] for each in changes] == [
        [tid(0)],
        [tid(0), tid(1)],
    ]
    assert changes[1].payload["front_size"] == 2
    assert changes[1].payload["front"][0] == {
        "trial_id": tid(0),
        "values": {"acc": 0.5, "ms": 10.0},
        "config": {"x": 0},
        "checkpoint_url": "s3://b/tuning/t0/checkpoint_000000",
    }
    best = changes[1].payload["best_by_metric"]
    assert {metric: (each["trial_id"], each["value"]) for metric, each in best.items()} == {
        "acc": (tid(0), 0.5),
        "ms": (tid(1), 5.0),
    }
    ended = [each.payload for each in found if each.kind == "trial.ended"]
    assert ended[2]["values"] == {"acc": 0.3, "ms": 20.0}
    assert "value" not in ended[2]
    finished = found[-1].payload
    assert (finished["best"], finished["best_checkpoint"], finished["front_size"]) == (None, None, 2)
    assert not [each for each in found if each.kind == "experiment.new-best"]
    json.dumps([dict(each.payload) for each in found], allow_nan=False)


def test_a_plateau_is_a_front_that_stays() -> None:
    many = range(1, PLATEAU_TRIALS + 1)
    found = announced(
        began(capacity=PLATEAU_TRIALS + 1),
        *(suggested(number) for number in (0, *many)),
        SearchEnded(101),
        *(runs(102, number) for number in (0, *many)),
        told(103, 1, 0.5, 10.0),
        *(told(104, 1, 0.4, 11.0, number) for number in many),
        *(over(200 + number, number=number) for number in many),
    )

    (plateau,) = [each for each in found if each.kind == "experiment.plateau"]
    assert plateau.payload["trials_since_best"] == PLATEAU_TRIALS
    assert plateau.payload["best"] is None
    assert [each["trial_id"] for each in plateau.payload["front"]] == [tid(0)]


def test_a_front_of_huge_configurations_is_cut_and_its_size_is_said() -> None:
    bundles: dict[str, Any] = {"bundles": [{"CPU": 1.0}]}
    config = {f"parameter {number}": "x" * 500 for number in range(90)}
    found = announced(
        began(capacity=9),
        *(TrialSuggested(100.0, tid(n), config, str(n), f"t{n}", "f", bundles) for n in range(9)),
        SearchEnded(101),
        *(runs(102, number) for number in range(9)),
        *(told(103 + number, 1, float(number), float(number), number) for number in range(9)),
        *(over(200 + number, number=number) for number in range(9)),
    )

    finished = found[-1].payload
    assert (finished["front_size"], len(finished["front"])) == (9, 4)
    assert len(json.dumps(dict(finished))) < 400_000
