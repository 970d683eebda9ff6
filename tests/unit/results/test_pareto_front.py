"""The results that no other dominates, and what is said where no trial is the best."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.results.analysis import ExperimentAnalysis
from tune_core.results.result_grid import Result, ResultGrid

ROWS: list[dict[str, Any]] = [
    {"acc": 0.8, "ms": 5.0},
    {"acc": 0.9, "ms": 20.0},
    {"acc": 0.7, "ms": 9.0},
    {"acc": 0.95},
    {"acc": 0.99, "ms": math.nan},
    {"acc": 0.8, "ms": 5.0},
    {},
]


def grid(rows: list[dict[str, Any]] = ROWS, several: bool = True) -> ResultGrid:
    results = [Result({**row, "trial_id": str(n)}, None, None, f"/tmp/{n}") for n, row in enumerate(rows)]
    objective: Any = (["acc", "ms"], ["max", "min"]) if several else ("acc", "max")
    return ResultGrid(results, "/tmp", None, *objective)


def ids(results: list[Result]) -> list[str]:
    return [str((result.metrics or {})["trial_id"]) for result in results]


def test_front_has_what_no_other_dominates_by_the_first_metric_equal_ones_as_created() -> None:
    assert ids(grid().pareto_front()) == ["1", "0", "5"]
    assert ids(grid(several=False).pareto_front(["acc", "ms"], ["max", "min"])) == ["1", "0", "5"]
    assert ids(grid().pareto_front(["ms", "acc"])) == ["0", "5", "1"]


def test_front_of_one_metric_has_the_best_ones() -> None:
    assert ids(grid(several=False).pareto_front()) == ["4"]
    assert ids(grid().pareto_front(["ms"])) == ["0", "5"]


def test_best_result_of_several_metrics_is_refused_until_one_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no trial is the best. pareto_front\(\) returns those"):
        grid().get_best_result()
    with pytest.raises(ConfigError, match=r"pareto_front\(\)"):
        grid().get_best_result(["acc", "ms"], ["max", "min"])  # type: ignore[arg-type]
    assert ids([grid().get_best_result("ms")]) == ["0"]
    assert ids([grid().get_best_result(metric="acc")]) == ["4"]
    assert ids([grid().get_best_result(metric="ms", mode="max")]) == ["1"]
    with pytest.raises(ConfigError, match="No mode is provided"):
        grid().get_best_result("other")
    assert ids([grid(ROWS[:1]).get_best_result()]) == ["0"]


@pytest.mark.parametrize(
    ("metric", "mode", "scope", "said"),
    [
        (["acc", "other"], None, None, "mode=None"),
        (["acc", "ms"], ["max"], None, "two lists of one length"),
        (["acc", "acc"], ["max", "max"], None, "'acc' twice"),
        (["acc", "ms"], ["max", "avg"], None, "mode='avg'"),
        (None, None, "all", "not of one report"),
        (None, None, "best", "expected one of last, all"),
        (None, ["max", "min"], None, "no metric is known"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(metric: Any, mode: Any, scope: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grid().pareto_front(metric, mode, scope)
    with pytest.raises(ConfigError, match="no metric is known"):
        ResultGrid([], "/tmp").pareto_front()


def test_front_without_any_trial_says_which_metric_nobody_reported() -> None:
    with pytest.raises(RuntimeError, match="no best trial for 'ms': no trial has reported a number"):
        grid([{"acc": 1.0}, {"acc": 0.5}]).pareto_front()
    with pytest.raises(RuntimeError, match="'ms': every value reported for it is NaN or infinite"):
        grid([{"acc": 1.0, "ms": math.inf}, {"acc": 0.5}]).pareto_front()
    with pytest.raises(RuntimeError, match="no trial has reported a finite number for each of acc, ms"):
        grid([{"acc": 1.0}, {"ms": 0.5}]).pareto_front()
    with pytest.raises(RuntimeError, match="no trials"):
        grid([]).pareto_front()


def test_front_by_means_is_read_from_the_reports(tmp_path: Path) -> None:
    results = []
    for number, values in enumerate([[(0.1, 1.0), (0.9, 9.0)], [(0.6, 5.0), (0.6, 5.0)]]):
        path = tmp_path / str(number)
        path.mkdir()
        rows = [{"acc": acc, "ms": ms, "training_iteration": n} for n, (acc, ms) in enumerate(values, 1)]
        (path / "result.json").write_text("\n".join(map(json.dumps, rows)))
        results.append(Result({**rows[-1], "trial_id": str(number)}, None, None, str(path)))
    both = ResultGrid(results, str(tmp_path), None, ["acc", "ms"], ["max", "min"])

    assert ids(both.pareto_front()) == ["0", "1"]
    assert ids(both.pareto_front(scope="avg")) == ["1"]  # means: 0.5 and 5, 0.6 and 5


def test_analysis_has_the_front_and_refuses_a_best_trial() -> None:
    analysis = ExperimentAnalysis.of(grid(), ["acc", "ms"], ["max", "min"])

    assert [trial.trial_id for trial in analysis.pareto_front()] == ["1", "0", "5"]
    assert (analysis.default_metric, analysis.default_mode) == (["acc", "ms"], ["max", "min"])
    for name in ("best_trial", "best_config", "best_result", "best_checkpoint", "best_dataframe"):
        with pytest.raises(ConfigError, match=rf"{name}: by several metrics, acc, ms, .*pareto_front\(\)"):
            getattr(analysis, name)
    with pytest.raises(ConfigError, match=r"pareto_front\(\)"):
        analysis.get_best_trial()
    best = analysis.get_best_trial("ms")
    assert best is not None
    assert best.trial_id == "0"
    with pytest.raises(ConfigError, match="name one by metric="):
        analysis.get_best_checkpoint("0")
    assert analysis.get_best_checkpoint("0", "ms") is None  # there is none
    with pytest.raises(ConfigError, match="two lists of one length"):
        tune.ExperimentAnalysis.of(grid(), ["acc", "ms"], "max")
