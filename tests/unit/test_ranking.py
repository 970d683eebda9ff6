"""Which trial is best, and what of its reports counts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tune_core as tune
from tune_core.cli.experiment import read_experiment
from tune_core.cli.opening import open_experiment
from tune_core.constraints import Constraint
from tune_core.errors import ConfigError
from tune_core.progress_reporter.reporters import CLIReporter
from tune_core.ranking import MODES, SCOPES, Objective, Standings, Tally
from tune_core.results.result_grid import Result, ResultGrid
from tune_core.schedulers import ASHAScheduler
from tune_core.search.optuna import OptunaSearch
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.trial import CheckpointRecord, Trial
from tune_core.views.pages import summary_page

HUGE = 10**400
#: What a trainable may report as its metric.
VALUES = st.one_of(
    st.integers(-3, 3),
    st.floats(-3, 3, width=16),
    st.sampled_from([math.nan, math.inf, -math.inf, HUGE, -HUGE, None, "0.5", True, [1]]),
)
#: Per trial, its attempts; of each, from which iteration on, and what it reports.
ATTEMPTS = st.lists(st.tuples(st.integers(1, 6), st.lists(VALUES, max_size=6)), min_size=1, max_size=3)


def a_trial(number: int = 0, **values: Any) -> Trial:
    return Trial(f"a1b2c_{number:05d}", number, {}, **values)


def scored(scope: str, *values: Any, mode: str = "max") -> float | None:
    objective = Objective("m", mode, scope)
    tally = Tally(objective)
    for iteration, value in enumerate(values, 1):
        tally.add(iteration, objective.value({"m": value}))
    return tally.score


@pytest.mark.parametrize(
    ("scope", "score"),
    [("last", 4.0), ("all", 9.0), ("avg", 5.0), ("last-5-avg", 3.8), ("last-10-avg", 5.0)],
)
def test_each_scope_has_its_score(scope: str, score: float) -> None:
    assert scored(scope, 7, 9, 1, 5, 4, "text", None, 5, 4) == pytest.approx(score)
    assert set(SCOPES) == {"last", "all", "avg", "last-5-avg", "last-10-avg"}


def test_what_is_no_number_leaves_the_last_one_and_nan_does_not() -> None:
    assert scored("last", 0.5, None) == 0.5
    assert math.isnan(scored("last", 0.5, math.nan) or 0.0)
    assert scored("all", 0.5, math.nan) == 0.5
    assert scored("last", 0.5, HUGE) == math.inf


def test_report_that_is_made_again_takes_the_place_of_the_one_before() -> None:
    tally = Tally(Objective("m", "max", "all"))
    for iteration, value in ((1, 0.1), (2, 0.9), (3, 0.8), (2, 0.2)):
        tally.add(iteration, value)
    assert (tally.score, tally.iteration) == (0.8, 3)
    tally.add(3, None)
    assert (tally.score, tally.iteration) == (0.2, 2)

    tally = Tally(Objective("m", "max", "avg"))
    for iteration, value in ((1, 1.0), (2, math.inf), (2, 3.0)):
        tally.add(iteration, value)
    assert tally.score == 2.0


@given(st.lists(ATTEMPTS, min_size=2, max_size=4), st.sampled_from(MODES), st.sampled_from(sorted(SCOPES)))
def test_the_best_while_it_runs_is_the_one_that_the_results_have(
    tmp_path_factory: pytest.TempPathFactory, trials: list[Any], mode: str, scope: str
) -> None:
    objective = Objective("m", mode, scope)
    standings, results = Standings(objective), []
    for number, attempts in enumerate(trials):
        trial, lines, last = a_trial(number), list[str](), dict[str, Any]()
        for attempt_number, (first, values) in enumerate(attempts, 1):
            for report, value in enumerate(values, 1):
                iteration = first + report - 1
                last = {"m": value, "training_iteration": iteration, "attempt_number": attempt_number}
                last["iterations_since_restore"] = report
                standings.note(trial, iteration, last)
                lines.append(json.dumps(last))
        path = tmp_path_factory.mktemp("trial")
        (path / "result.json").write_text("\n".join(lines))
        results.append(Result(last, None, None, str(path)))
    grid = ResultGrid(results, "/tmp", None, "m", mode, scope)

    if standings.best is None:
        with pytest.raises(RuntimeError, match="no best trial"):
            grid.get_best_result()
    else:
        assert grid.get_best_result() is results[standings.best.number]


@given(st.lists(st.tuples(st.integers(0, 3), VALUES), max_size=40), st.sampled_from(sorted(SCOPES)))
def test_the_leader_is_always_the_first_of_the_order_and_news_is_told_when_it_changes(
    reports: list[tuple[int, Any]], scope: str
) -> None:
    standings = Standings(Objective("m", "max", scope))
    trials = [a_trial(number) for number in range(4)]
    leader = None
    for iteration, (number, value) in enumerate(reports, 1):
        is_news = standings.note(trials[number], iteration, {"m": value})
        first = min(trials, key=standings.key)
        expected = first if standings.key(first)[0] < math.inf else None
        assert standings.best is expected
        if expected is not None and expected is not leader:
            assert is_news or standings.best is leader
            leader = expected
    standings.forget(trials[0])
    assert standings.best is not trials[0]
    assert standings.score(trials[0]) is None


@pytest.mark.parametrize("value", [HUGE, -HUGE, math.nan, math.inf, None, "text", True, [1], {"a": 1}])
@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_whatever_a_trial_reports_every_ranking_has_an_answer(
    tmp_path: Path, value: Any, scope: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"m": value, "training_iteration": 1}
    trials = [a_trial(0, last_row=row), a_trial(1, last_row={"m": 0.5})]
    results = []
    for trial in trials:
        path = tmp_path / str(trial.number)
        path.mkdir()
        (path / "result.json").write_text(json.dumps(trial.last_row))
        checkpoints: Any = [(f"of {trial.number}", trial.last_row), ("other", {"m": 0.25})]
        results.append(Result(trial.last_row, None, None, str(path), checkpoints))
    grid = ResultGrid(results, str(tmp_path), None, "m", "max", scope)

    best = grid.get_best_result()

    assert best is results[0 if value is True else 1]
    assert grid.get_best_result(filter_nan_and_inf=False) in results
    assert results[0].get_best_checkpoint("m", "max") in ("of 0", "other")
    assert len(grid.get_dataframe("m", "max")) > 0
    reporter = CLIReporter(metric="m", mode="max", sort_by_metric=True)
    reporter.report(trials, True)
    assert "best: " in capsys.readouterr().out


def test_checkpoint_goes_with_the_score() -> None:
    records = [CheckpointRecord(n, n, {"loss": loss}) for n, loss in enumerate((0.5, 0.1, math.nan, 0.3))]
    trial = a_trial(checkpoints=records)

    def name(scope: str) -> str | None:
        found = Standings(Objective("loss", "min", scope)).best_checkpoint(trial)
        return found.name if found else None

    assert name("last") == name("avg") == "checkpoint_000003"
    assert name("all") == "checkpoint_000001"
    trial.checkpoints = []
    assert name("last") is name("all") is None


def test_config_names_what_trials_are_compared_by() -> None:
    scheduler, searcher = ASHAScheduler(metric="a", mode="max"), OptunaSearch(metric="b", mode="min")

    assert tune.TuneConfig().objective == Objective()
    assert tune.TuneConfig(metric="m", mode="min", best_scope="all").objective == Objective("m", "min", "all")
    assert tune.TuneConfig(scheduler=scheduler).objective == Objective("a", "max")
    assert tune.TuneConfig(search_alg=searcher).objective == Objective("b", "min")
    assert tune.TuneConfig(scheduler=ASHAScheduler(mode="max")).objective == Objective("_metric", "max")
    with pytest.raises(ConfigError, match=r"best_scope='best'\): expected 'last' or 'all' or"):
        tune.TuneConfig(best_scope="best")  # type: ignore[arg-type]


# Constraints.


def constrained_run(tmp_path: Path, bound: float = 20) -> ResultGrid:
    def train(config: dict[str, Any]) -> None:
        tune.report({"loss": config["x"], "latency_ms": 100 - config["x"]})

    tuner = tune.Tuner(
        train,
        param_space={"x": tune.uniform(0, 100)},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=4,
            search_alg=OptunaSearch(
                points_to_evaluate=[{"x": 10.0}, {"x": 90.0}, {"x": 95.0}, {"x": 50.0}],
                constraints={"latency_ms": ("<=", bound)},
                seed=1,
            ),
        ),
        run_config=tune.RunConfig(name="bounded", storage_path=str(tmp_path)),
    )
    return LocalRuntime().run(tuner.experiment())


def test_trial_beyond_a_constraint_is_never_best_and_ranked_last(tmp_path: Path) -> None:
    results = constrained_run(tmp_path)
    reading = read_experiment(open_experiment(str(tmp_path / "bounded"))[0])

    assert results.get_best_result().config == {"x": 90.0}
    best = reading.snapshot.best_trial
    assert best is not None
    assert best.config == {"x": 90.0}
    assert [trial.config["x"] for trial in reading.snapshot.ranked] == [90.0, 95.0, 10.0, 50.0]
    assert [trial.violated for trial in reading.snapshot.ranked] == [(), (), *2 * [("latency_ms <= 20",)]]


def test_nobody_is_best_where_all_are_beyond_a_constraint_and_it_is_said(tmp_path: Path) -> None:
    results = constrained_run(tmp_path, bound=1)

    with pytest.raises(RuntimeError, match="none of the 4 trials keeps latency_ms <= 1"):
        results.get_best_result()
    reading = read_experiment(open_experiment(str(tmp_path / "bounded"))[0])
    assert reading.snapshot.best_trial is None
    assert "keeps latency" in summary_page(reading.snapshot, "bounded", "/tmp")


def test_leader_that_comes_to_be_beyond_a_constraint_is_overtaken() -> None:
    standings = Standings(Objective("loss", "min", constraints=(Constraint("size", "<=", 5),)))
    first, second = Trial("a", 0, {}), Trial("b", 1, {})

    standings.note(first, 1, {"loss": 0.1, "size": 5})
    standings.note(second, 1, {"loss": 0.2, "size": 4})
    before = standings.best
    standings.note(first, 2, {"loss": 0.1, "size": 6})

    assert (before, standings.best) == (first, second)
    assert standings.violated(first) == ("size <= 5",)
    standings.note(second, 2, {"loss": 0.1})
    assert standings.best is None


def test_trial_beyond_a_constraint_is_on_no_front_and_gives_its_place_to_others() -> None:
    small = (Constraint("size", "<=", 5),)
    standings = Standings(Objective(["acc", "ms"], ["max", "min"], constraints=small))
    best, beaten, lacking = (Trial(name, number, {}) for number, name in enumerate("abc"))

    standings.note(best, 1, {"acc": 0.9, "ms": 5, "size": 5})
    standings.note(beaten, 1, {"acc": 0.8, "ms": 9, "size": 4})
    standings.note(lacking, 1, {"acc": 0.7, "size": 4})
    before = standings.front
    is_news = standings.note(best, 2, {"acc": 0.9, "ms": 5, "size": 6})

    assert (before, standings.front, is_news) == ([best], [beaten], True)
    assert [part.best for part in standings.parts] == [beaten, beaten]
    assert standings.violated(best) == ("size <= 5",)
    assert (standings.num_lacking, standings.num_beyond) == (1, 1)
    assert sorted([best, beaten, lacking], key=standings.key) == [beaten, lacking, best]
    standings.note(best, 3, {"acc": 0.9, "ms": 5, "size": 1})
    assert (standings.front, standings.num_beyond) == ([best], 0)


def test_trials_beyond_a_constraint_are_on_no_front_anywhere(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"loss": config["x"], "latency_ms": 100 - config["x"], "size": config["x"] % 50})

    tuner = tune.Tuner(
        train,
        param_space={"x": tune.uniform(0, 100)},
        tune_config=tune.TuneConfig(
            metric=["loss", "latency_ms"],
            mode=["min", "min"],
            num_samples=4,
            search_alg=OptunaSearch(
                points_to_evaluate=[{"x": 10.0}, {"x": 90.0}, {"x": 95.0}, {"x": 60.0}],
                constraints={"size": ("<=", 42)},
                seed=1,
            ),
        ),
        run_config=tune.RunConfig(name="bounded", storage_path=str(tmp_path)),
    )
    results = LocalRuntime().run(tuner.experiment())
    reading = read_experiment(open_experiment(str(tmp_path / "bounded"))[0])

    assert [(result.config or {})["x"] for result in results.pareto_front()] == [10.0, 60.0, 90.0]
    assert results.get_best_result(metric="latency_ms").config == {"x": 90.0}
    assert [trial.config["x"] for trial in reading.snapshot.front] == [10.0, 60.0, 90.0]
    assert [trial.config["x"] for trial in reading.snapshot.ranked] == [10.0, 60.0, 90.0, 95.0]
    assert [part.best_trial.config["x"] for part in reading.snapshot.parts if part.best_trial] == [10.0, 90.0]
    assert "1 trial does not keep the constraints" in summary_page(reading.snapshot, "bounded", "/tmp")
