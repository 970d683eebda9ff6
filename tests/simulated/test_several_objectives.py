"""An experiment with several metrics: searched, resumed after any death, and shown the same everywhere."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tune_core as tune
from tests.simulated.test_one_best import told
from tests.simulated.test_resume import read_back
from tune_core.cli import main
from tune_core.control.namesakes import experiment_at
from tune_core.objective import Objective
from tune_core.progress_reporter.display import ProgressDisplay
from tune_core.progress_reporter.reporters import CLIReporter
from tune_core.search import BasicVariantGenerator, Searcher
from tune_core.search.optuna import OptunaSearch
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.simulator import SimulatedRun, simulate
from tune_core.trial import Status
from tune_core.views.html_report import report_page
from tune_core.views.overview import Overview
from tune_core.views.pages import charts_page, summary_page

BOTH: dict[str, Any] = {"metric": ["acc", "ms"], "mode": ["max", "min"]}
#: Of each trial its (acc, ms): two trades, one that is dominated, one without a number, one that lacks a metric.
ENDS: list[dict[str, Any]] = [
    {"acc": 0.8, "ms": 5.0},
    {"acc": 0.9, "ms": 20.0},
    {"acc": 0.7, "ms": 9.0},
    {"acc": math.nan, "ms": 1.0},
    {"acc": 0.99},
]


def nsga() -> Searcher:
    optuna = pytest.importorskip("optuna")
    return OptunaSearch(sampler=optuna.samplers.NSGAIISampler(population_size=4, seed=3))


def searched(searcher: Searcher, journal: Any = (), num_samples: int = 14) -> SimulatedRun:
    def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
        width = config["width"]
        return {
            "acc": 1 - math.exp(-width * iteration / 2),
            "ms": 2 + width**2 + (config["depth"] - 0.5) ** 2,
        }, 1.0

    return simulate(
        curve,
        param_space={"width": tune.uniform(0.1, 4), "depth": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(**BOTH, search_alg=searcher, num_samples=num_samples),
        run_config=tune.RunConfig(),
        slots=1,
        iterations=2,
        journal=read_back(journal),
    )


@pytest.mark.parametrize("make", [nsga, lambda: OptunaSearch(seed=1)], ids=["NSGA-II", "TPE"])
def test_a_search_by_several_metrics_goes_on_after_a_death_as_if_nothing_had_been(
    make: Callable[[], Searcher],
) -> None:
    whole = searched(make())
    expected = [
        (trial.trial_id, trial.config, trial.last_row["acc"], trial.last_row["ms"]) for trial in whole.trials
    ]
    assert len(expected) == 14

    for end in range(1, len(whole.records), 5):
        resumed = searched(make(), whole.records[:end])
        found = [(t.trial_id, t.config, t.last_row["acc"], t.last_row["ms"]) for t in resumed.trials]
        assert found == expected, end


def test_a_search_finds_better_trades_than_chance() -> None:
    """The area up to a reference point (0, 20) that the front dominates is larger, on the mean of seeds."""

    def area(run: SimulatedRun) -> float:
        objective = Objective(["acc", "ms"], ["max", "min"])
        scores = [(trial.last_row["acc"], trial.last_row["ms"]) for trial in run.trials]
        front = sorted(scores[place] for place in objective.front(scores))
        widths = zip(front, [0.0, *(acc for acc, _ in front)], strict=False)
        return sum((acc - before) * max(0.0, 20 - ms) for (acc, ms), before in widths)

    chance = [area(searched(BasicVariantGenerator(random_state=seed), num_samples=30)) for seed in range(4)]
    found = [area(searched(OptunaSearch(seed=seed), num_samples=30)) for seed in range(4)]
    assert statistics.mean(found) > statistics.mean(chance)


def learn(config: dict[str, Any]) -> None:
    tune.report({"acc": 0.1, "ms": 50.0})
    tune.report(ENDS[config["trial"]])


def a_tuner(path: Path, **more: Any) -> tune.Tuner:
    return tune.Tuner(
        learn,
        param_space={"trial": tune.grid_search([*range(len(ENDS))])},
        tune_config=tune.TuneConfig(**{**BOTH, **more}),
        run_config=tune.RunConfig(name="exp", storage_path=str(path), verbose=0),
    )


def test_results_terminal_events_pages_and_command_line_name_the_same_front(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = LocalRuntime().run(a_tuner(tmp_path).experiment())
    storage = ExperimentStorage.open(str(tmp_path), "exp")
    replay, overview, announced = told(storage)
    names = [(result.metrics or {})["trial_id"] for result in results]
    front = [names[1], names[0]]
    snapshot = overview.snapshot()

    assert [(result.metrics or {})["trial_id"] for result in results.pareto_front()] == front
    assert [trial.trial_id for trial in snapshot.front] == front
    # The last one counts with the report before, which lacked nothing.
    assert [trial.trial_id for trial in snapshot.ranked] == [*front, names[2], names[4], names[3]]
    assert results.num_errors == 1
    assert "metric 'ms' is missing from the report" in str(results[4].error)

    console = Console(file=io.StringIO(), width=200)
    ProgressDisplay(overview.standings, console=console).finish(replay.trials, "the end")
    printed = console.file.getvalue()  # type: ignore[attr-defined] # made above
    assert printed.split()[4:6] == ["(s)", "acc"]
    said = "Pareto front: 2 of 5 trials, 1 without a finite number for each metric; best acc"
    assert said in printed

    finished = announced[-1].payload
    assert (finished["metric"], finished["mode"], finished["best"]) == (["acc", "ms"], ["max", "min"], None)
    assert [each["trial_id"] for each in finished["front"]] == front
    assert finished["front"][1]["values"] == {"acc": 0.8, "ms": 5.0}
    assert finished["best_by_metric"]["ms"]["trial_id"] == names[3]
    kinds = {each.kind for each in announced}
    assert "experiment.front-changed" in kinds
    assert "experiment.new-best" not in kinds

    summary = summary_page(snapshot, "exp", storage.url)
    assert "## Pareto front\n\n2 trials of 5: no other is at least as good by each of" in summary
    assert "1 trial has no finite number for each metric: it is on no front, and comes last." in summary
    charts = charts_page(snapshot)
    assert "## Pareto front: acc, ms (last report)\n\n![" in charts
    assert "## Best so far: ms (last report)" in charts
    report = report_page(snapshot, "exp", storage.url)
    assert "Pareto front: 2 of 5 trials (last report)" in report
    assert "<th>front</th><th>acc</th><th>ms</th>" in report

    for command in (["show", storage.url], ["compare", storage.url, storage.url], ["ls", str(tmp_path)]):
        assert main([*command, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        summary_of = document if command[0] == "show" else document["experiments"][0]
        assert (summary_of["metric"], summary_of["best"]) == (["acc", "ms"], None)
        assert summary_of["pareto_front"] == front
        assert summary_of["best_by_metric"]["acc"]["trial_id"] == names[4]
        assert main(command) == 0
        assert "ms" in capsys.readouterr().out
    assert main(["show", storage.url, names[2]]) == 0
    assert "acc=0.7, ms=9 (last report), front 2" in capsys.readouterr().out


def test_a_restored_experiment_keeps_its_metrics_and_others_hold_for_all_its_reports(tmp_path: Path) -> None:
    LocalRuntime().run(a_tuner(tmp_path).experiment())
    path = str(tmp_path / "exp")

    restored = tune.Tuner.restore(path, learn)
    one = tune.Tuner.restore(path, learn, tune_config=tune.TuneConfig(metric="ms", mode="min"))

    assert [(result.config or {})["trial"] for result in restored.get_results().pareto_front()] == [1, 0]
    assert (one.get_results().get_best_result().config or {})["trial"] == 3
    LocalRuntime().run(one.experiment())
    assert Overview.read(experiment_at(path)).snapshot().objective == Objective("ms", "min")
    again = tune.Tuner.restore(
        path, learn, tune_config=tune.TuneConfig(metric=["ms", "acc"], mode=["min", "max"])
    )
    LocalRuntime().run(again.experiment())
    snapshot = Overview.read(experiment_at(path)).snapshot()
    assert snapshot.objective == Objective(("ms", "acc"), ("min", "max"))
    assert [trial.config["trial"] for trial in snapshot.front] == [0, 1]


def test_a_trial_that_lacks_one_of_the_metrics_fails_as_with_one(tmp_path: Path) -> None:
    results = LocalRuntime().run(a_tuner(tmp_path).experiment())

    assert [result.status for result in results] == [*[Status.TERMINATED] * 4, Status.ERROR]


def test_a_reporter_of_a_script_shows_the_best_by_each_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LocalRuntime().run(a_tuner(tmp_path).experiment())
    replay, overview, _ = told(ExperimentStorage.open(str(tmp_path), "exp"))

    plain, ranked = CLIReporter(sort_by_metric=True), CLIReporter(metric="acc")
    for reporter in (plain, ranked):
        reporter.setup(0.0, 5, ["acc", "ms"], ["max", "min"])
    plain.rank_by(overview.standings)
    plain.report(replay.trials, True)
    shown = capsys.readouterr().out
    assert "Pareto front: 2 of 5 trials" in shown
    assert "ms=1.0" in shown or "ms=1 " in shown
    ranked.report(replay.trials, True)
    assert "acc=0.9" in capsys.readouterr().out


def test_an_optuna_study_and_a_table_have_all_metrics(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    LocalRuntime().run(a_tuner(tmp_path).experiment())
    path = str(tmp_path / "exp")

    assert main(["export", path, "--format", "optuna", "--to", str(tmp_path / "study.log")]) == 0
    assert main(["export", path, "--format", "csv", "--to", str(tmp_path / "trials.csv")]) == 0

    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
    study = optuna.load_study(study_name="exp", storage=optuna.storages.JournalStorage(backend))
    assert [str(direction.name) for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert sorted(trial.values for trial in study.best_trials) == [[0.8, 5.0], [0.9, 20.0]]
    assert [trial.state.name for trial in study.trials] == [*["COMPLETE"] * 3, "FAIL", "FAIL"]
    head, first, *_ = (tmp_path / "trials.csv").read_text().splitlines()
    shown = dict(zip(head.split(","), first.replace('"acc, ms"', "acc+ms").split(","), strict=False))
    assert "scores/acc" in head.split(",")
    assert shown["front"] == "1"
