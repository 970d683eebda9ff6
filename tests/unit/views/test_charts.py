"""Charts and pages: what they show, that they are well formed, and that they stay small."""

from __future__ import annotations

import base64
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.support.snapshots import searched, snapshot, trial
from tune_core.ranking import Objective
from tune_core.states import Outcome
from tune_core.trial import Status
from tune_core.views import charts, pages
from tune_core.views.importance import importance, parameters_of
from tune_core.views.overview import AttemptRecord, ExperimentSnapshot
from tune_core.views.svg import Axis

ALL = (charts.best_so_far, charts.learning_curves, charts.importances, charts.slices, charts.timeline)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


def count(svg: str, tag: str) -> int:
    return sum(element.tag.endswith(f"}}{tag}") for element in ET.fromstring(svg).iter())


@pytest.mark.parametrize("draw", ALL)
@pytest.mark.parametrize("number", [1, 12, 200, 1000])
def test_every_chart_is_well_formed_and_small(
    draw: Callable[[ExperimentSnapshot], str | None], number: int
) -> None:
    svg = draw(searched(number))

    if svg is not None:
        ET.fromstring(svg)
        assert len(svg) < 60_000


@pytest.mark.parametrize("draw", ALL)
def test_there_is_no_chart_of_nothing(draw: Callable[[ExperimentSnapshot], str | None]) -> None:
    assert draw(snapshot()) is None


def test_names_of_users_cannot_become_markup() -> None:
    evil = '<script>alert("1")</script>&'
    shown = searched(20)
    trials = [
        replace(each, config={evil: each.config["lr"], "b": evil + str(each.number % 2)})
        for each in shown.trials
    ]

    for draw in ALL:
        svg = draw(replace(shown, trials=trials, objective=Objective(evil, "min")))
        assert svg is not None
        assert "script" not in {element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()}


def test_best_so_far_is_drawn_as_steps_up_to_the_end() -> None:
    svg = charts.best_so_far(searched(1, seed=2)) or ""
    shown = snapshot(trial(0, 4.0, {}), best_so_far=[(0.0, 4.0), (50.0, 2.0)], seconds=100.0)

    svg = charts.best_so_far(shown) or ""

    (line,) = re.findall(r'points="([^"]*)"[^>]*stroke-width="2"', svg)
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points
    assert x0 < x1 == x2 < x3
    assert y0 == y1 < y2 == y3  # downwards
    assert x2 - x0 == pytest.approx(x3 - x2, abs=0.2)


def test_learning_curves_are_those_of_the_best_trials_best_first() -> None:
    svg = charts.learning_curves(searched(30)) or ""

    ranked = searched(30).ranked[:8]
    named = sorted(
        (float(element.get("y", 0)), element.text)
        for element in ET.fromstring(svg).iter()
        if (element.text or "").startswith("trial ")
    )
    assert [name for _, name in named] == [f"trial {each.number}: {each.best:.4g}" for each in ranked]


@pytest.mark.parametrize("value", [0.0, -1e300, 1e-300, 5e-324])
def test_curves_of_one_value_and_of_extreme_ones_are_drawn(value: float) -> None:
    one = trial(0, value, {}, curve=[(1, value)])

    for shown in (snapshot(one), snapshot(one, trial(1, -value, {}, curve=[(1, -value), (2, 1e300)]))):
        for draw in (charts.best_so_far, charts.learning_curves, charts.slices, charts.timeline):
            svg = draw(shown)
            assert svg is None or "nan" not in svg


def test_axis_that_spans_thousands_is_logarithmic_only_where_all_is_positive() -> None:
    assert Axis.over([1e-6, 1.0], may_be_log=True).is_log
    assert not Axis.over([0.0, 1e-6, 1.0], may_be_log=True).is_log
    assert not Axis.over([1.0, 10.0], may_be_log=True).is_log


@pytest.mark.parametrize(
    "axis", [Axis(0.0, 1e-12), Axis(-3.0, 4e9), Axis(0.99, 1.01), Axis(1e-9, 1e12, is_log=True)]
)
def test_ticks_are_few_and_on_their_axis(axis: Axis) -> None:
    for number in (2, 5, 8):
        ticks = axis.ticks(number)
        assert 1 <= len(ticks) <= 2 * number + 1
        assert all(axis.low * (1 - 1e-9) - 1e-15 <= tick <= axis.high * (1 + 1e-9) for tick in ticks)


def test_timeline_shows_attempts_by_how_they_ended_and_what_they_had() -> None:
    lost = [
        AttemptRecord(1, 0.0, 5.0, Outcome.CRASHED, {"CPU": 1.0, "GPU": 1.0}),
        AttemptRecord(2, 6.0, None, None, {"CPU": 1.0, "GPU": 1.0}),
    ]

    svg = charts.timeline(snapshot(trial(0, 1.0, {}), trial(1, 1.0, {}, timeline=lost))) or ""

    assert count(svg, "rect") == 3
    assert {"#d2493f", "#868e99", "#2f8fd0"} <= set(re.findall(r'<rect[^>]*fill="([^"]*)"', svg))
    assert {"CPUs that trials have", "GPUs that trials have"} <= set(texts(svg))


# Importance.


def test_importance_finds_what_decides() -> None:
    parts = importance(searched(100))

    assert [name for name, _ in parts] == ["lr", "act", "noise"]
    assert sum(part for _, part in parts) == pytest.approx(1.0)
    assert parts[0][1] > 0.5


def test_importance_is_silent_while_there_are_too_few_trials() -> None:
    assert importance(searched(9)) == []
    assert "9 trials have a value so far: 10 are needed" in pages.charts_page(searched(9))


@pytest.mark.filterwarnings("ignore::Warning")
def test_importance_of_numbers_agrees_with_that_of_optuna() -> None:
    """Of choices its estimate is smoother, so that they count for less."""
    optuna = pytest.importorskip("optuna")
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    chosen = random.Random(5)
    configs = [
        {"lr": 10 ** chosen.uniform(-6, -1), "x": chosen.uniform(0, 1), "noise": chosen.uniform(0, 1)}
        for _ in range(200)
    ]
    losses = [(math.log10(config["lr"]) + 3) ** 2 + config["x"] for config in configs]
    shown = snapshot(*(trial(n, loss, configs[n]) for n, loss in enumerate(losses)))
    distributions: dict[str, Any] = {
        each.name: optuna.distributions.FloatDistribution(each.axis.low, each.axis.high, log=each.axis.is_log)
        for each in parameters_of(shown.trials)
        if each.axis is not None
    }
    study = optuna.create_study()
    for config, loss in zip(configs, losses, strict=True):
        made = optuna.trial.create_trial(params=config, distributions=distributions, value=loss)
        study.add_trial(made)

    theirs = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())

    ours = dict(importance(shown))
    assert list(ours) == list(theirs) == ["lr", "x", "noise"]
    assert ours == {name: pytest.approx(part, abs=0.05) for name, part in theirs.items()}


def test_only_parameters_that_differ_are_shown_and_objects_as_text() -> None:
    values = [
        trial(n, 1.0, {"same": 1, "net": {"depth": n}, "sizes": (n % 2, 1), "flag": n % 2 == 0})
        for n in range(4)
    ]

    found = {each.name: each for each in parameters_of(values)}

    assert list(found) == ["net/depth", "sizes", "flag"]
    assert list(found["sizes"].choices) == ["(0, 1)", "(1, 1)"]
    assert found["flag"].axis is None
    assert parameters_of([trial(n, 1.0, {"id": f"name {n}"}) for n in range(30)]) == []


# Pages.


def test_charts_page_holds_every_chart_as_an_image() -> None:
    page = pages.charts_page(searched(30))

    images = re.findall(r"!\[[^\]]*\]\(data:image/svg\+xml;base64,([^)]*)\)", page)
    assert len(images) == 5
    for data in images:
        ET.fromstring(base64.b64decode(data))
    assert len(page) < 150_000


def test_charts_page_says_what_is_missing() -> None:
    page = pages.charts_page(snapshot(trial(0, None, {}, timeline=[]), objective=Objective()))

    assert "TuneConfig(metric=…, mode=…)" in page
    assert "No trial has begun." in page


def test_summary_names_the_best_trial_its_cost_and_where_everything_is() -> None:
    shown = searched(60)
    best = shown.ranked[0]

    page = pages.summary_page(shown, "my_tuning", "s3://bucket/my_tuning")
    began = pages.summary_page(replace(shown, warm_start="warm start from 2 experiments"), "n", "/tmp/n")
    assert "It began with a warm start from 2 experiments." in began
    assert "began with" not in page

    assert f"`{best.trial_id}`: loss **{best.score:.6g}** (last report, iteration 10, min)" in page
    assert f"`s3://bucket/my_tuning/{best.dirname}/checkpoint_000009`" in page
    assert "| CPU | 16 min | 20 min | 4 min (20%) |" in page
    assert "The 50 best of 60." in page
    assert "## Failures" not in page


def test_summary_lists_failures_and_nothing_in_them_breaks_its_tables() -> None:
    failed = trial(
        1, None, {"a|b": "x|y\nz"}, status=Status.ERROR, error="ValueError: a | b\n[c](http://d) <img>"
    )

    page = pages.summary_page(snapshot(trial(0, 1.0, {"a|b": "w"}), failed), "n", "/tmp/n")

    assert r"| 1 | ValueError: a \| b \[c\](http://d) \<img\> | /a\|b.py:3 | a1b2c\_00001 |" in page
    assert r"| /tmp/n/train\_1/error.txt |" in page
    for block in page.split("\n\n"):
        if block.startswith("| "):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_costs_that_are_not_known_are_said_to_be() -> None:
    page = pages.summary_page(snapshot(trial(0, 1.0, {}), held=None), "n", "/tmp/n")

    assert "| CPU | 16 s | not known | not known |" in page


def test_page_of_one_trial_shows_its_curve() -> None:
    shown = searched(3)

    page = pages.trial_page(shown.trials[0], shown)

    assert page is not None
    assert "TERMINATED after 10 iterations, 8 s, 16 CPU seconds" in page
    assert len(page) < 6000
    assert pages.trial_page(trial(0, None, {}), shown) is None


def test_an_integer_that_no_float_can_hold_is_shown_as_text() -> None:
    trials = [trial(number, number / 10, {"n": 10**400 if number % 2 else 3}) for number in range(12)]
    shown = snapshot(*trials)

    (found,) = parameters_of(shown.trials)

    assert found.axis is None
    assert len(found.choices) == 2
    assert all(chart(shown) is not None for chart in ALL)


def test_text_that_no_file_can_hold_breaks_no_page() -> None:
    odd = ["\x1b[31mred", "\ud800", "\x00"]
    trials = [trial(number, number / 10, {"c\x07": odd[number % 3]}, error=odd[1]) for number in range(12)]
    shown = snapshot(*trials, objective=Objective("loss\x1b", "min"))

    for chart in ALL:
        svg = chart(shown)
        assert svg is not None
        ET.fromstring(svg.encode())
    page = pages.charts_page(shown) + pages.summary_page(shown, "n", "/tmp/n")
    assert page.encode().decode().replace("\n", "").isprintable()


def test_link_of_the_best_checkpoint_is_one_whatever_metric_and_path_are_called() -> None:
    page = pages.checkpoint_page(
        ("/runs/a (2) <b>/checkpoint_000001", "trial a_1, iteration 2, [l](http://x)`<i> 1")
    )

    assert page.splitlines() == [
        r"**Best checkpoint** (`trial a_1, iteration 2, [l](http://x)'<i> 1`): "
        r"[/runs/a (2) \<b\>/checkpoint\_000001](</runs/a (2) %3Cb%3E/checkpoint_000001>)",
        "",
        "`/runs/a (2) <b>/checkpoint_000001`",
    ]


def test_pages_say_why_trials_were_stopped() -> None:
    why = "Stopped early: rung 4, rank 7 of 9, needed accuracy >= 0.83, had 0.79"
    stopped = trial(1, 0.2, {"lr": 0.1}, reason=why)
    shown = snapshot(trial(0, 0.1, {"lr": 0.2}), stopped)

    assert f"\n\n{pages.text(why)}.\n\n" in (pages.trial_page(stopped, shown) or "")
    summary = pages.summary_page(shown, "n", "/tmp/n")
    assert "why it ended" in summary
    assert pages.text(why) in summary
    assert "why it ended" not in pages.summary_page(snapshot(trial(0, 0.1, {})), "n", "/tmp/n")
