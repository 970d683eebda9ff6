"""Whatever names the best trial of an experiment names the same one."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tune_core as tune
from tune_core.cli import main
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.namesakes import experiment_at
from tune_core.control.resume import Replay
from tune_core.control.segments import read_journal
from tune_core.progress_reporter.display import ProgressDisplay
from tune_core.ranking import SCOPES, Objective
from tune_core.schedulers import ASHAScheduler
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.views.html_report import report_page
from tune_core.views.notifications import Notification, Notifier
from tune_core.views.overview import ExperimentSnapshot, Overview
from tune_core.views.pages import summary_page

#: The first peaks and falls behind, the second ends highest, the third is the steadiest.
CURVES = ((0.3, 0.95, 0.5), (0.1, 0.2, 0.9), (0.7, 0.7, 0.7))
BEST = {"last": 1, "all": 0, "avg": 2, "last-5-avg": 2, "last-10-avg": 2}
#: Which of its checkpoints goes with that.
SAVED = {"all": "checkpoint_000001"}


def learn(config: dict[str, Any]) -> None:
    for accuracy in CURVES[config["curve"]]:
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = tune.Checkpoint.from_directory(directory)
            tune.report({"accuracy": accuracy}, checkpoint=checkpoint)


def a_tuner(path: Path, **tune_config: Any) -> tune.Tuner:
    return tune.Tuner(
        learn,
        param_space={"curve": tune.grid_search([0, 1, 2])},
        tune_config=tune.TuneConfig(metric="accuracy", mode="max", **tune_config),
        run_config=tune.RunConfig(name="exp", storage_path=str(path), verbose=0),
    )


def told(storage: ExperimentStorage) -> tuple[Replay, Overview, list[Notification]]:
    """Replay an experiment as its driver saw it."""
    replay = Replay(Controller(ControllerConfig("")))
    overview = Overview(replay.controller)
    notifier, found = None, []
    for event, _ in read_journal(storage):
        commands = replay.apply(event)
        is_best = overview.note(event)
        notifier = notifier or Notifier(replay.controller, "exp", storage.url, overview.standings)
        found += notifier.note(event, commands, is_best=is_best)
    return replay, overview, found


def printed(replay: Replay, overview: Overview) -> str:
    console = Console(file=io.StringIO(), width=120)
    ProgressDisplay(overview.standings, console=console).finish(replay.trials, "the end")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("scope", SCOPES)
def test_results_terminal_events_pages_and_command_line_name_the_same_best_trial(
    tmp_path: Path, scope: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    results = LocalRuntime().run(a_tuner(tmp_path, best_scope=scope).experiment())
    storage = ExperimentStorage.open(str(tmp_path), "exp")
    replay, overview, announced = told(storage)
    best = results[BEST[scope]]
    name = (best.metrics or {})["trial_id"]

    assert results.get_best_result() is best
    assert overview.snapshot().best_trial == overview.snapshot().trials[BEST[scope]]
    assert f"best: {name} accuracy=" in printed(replay, overview)
    assert f"({SCOPES[scope]})" in printed(replay, overview)
    url = f"{best.path}/{SAVED.get(scope, 'checkpoint_000002')}"
    finished = announced[-1].payload
    assert (finished["best"]["trial_id"], finished["best_checkpoint"]) == (name, url)
    snapshot = overview.snapshot()
    summary = summary_page(snapshot, "exp", storage.url)
    assert f"## Best trial\n\n`{name}`: accuracy" in summary
    assert f"({SCOPES[scope]}," in summary
    assert url in summary
    rows = report_page(snapshot, "exp", storage.url).partition("<h2>Trials</h2>")[2].split("<tr>")
    assert f"<th>accuracy ({SCOPES[scope]})</th>" in rows[1]
    assert rows[2].startswith(f"<td>{name}</td>")
    for command in (["show", storage.url], ["compare", storage.url, storage.url]):
        assert main([*command, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        summary_of = document if command[0] == "show" else document["experiments"][0]
        assert (summary_of["best"]["trial_id"], summary_of["best"]["checkpoint"]) == (name, url)
        assert summary_of["best_scope"] == scope
    assert main(["show", storage.url]) == 0
    assert f"({SCOPES[scope]})  {name}" in capsys.readouterr().out


def test_a_restored_experiment_keeps_its_scope_and_a_new_one_holds_for_all_its_reports(
    tmp_path: Path,
) -> None:
    LocalRuntime().run(a_tuner(tmp_path, best_scope="all").experiment())
    path = str(tmp_path / "exp")

    restored = tune.Tuner.restore(path, learn)
    changed = tune.Tuner.restore(
        path, learn, tune_config=tune.TuneConfig(metric="accuracy", mode="max", best_scope="avg")
    )

    def best_of(grid: tune.ResultGrid) -> int:
        return int((grid.get_best_result().config or {})["curve"])

    assert best_of(restored.get_results()) == BEST["all"]
    assert best_of(changed.get_results()) == BEST["avg"]
    assert best_of(LocalRuntime().run(changed.experiment())) == BEST["avg"]
    snapshot = Overview.read(experiment_at(path)).snapshot()
    assert snapshot.objective == Objective("accuracy", "max", "avg")
    assert snapshot.best_trial is not None
    assert snapshot.best_trial.config == {"curve": BEST["avg"]}
    other = Overview.read(experiment_at(path), metric="accuracy", mode="min").snapshot()
    assert other.objective == Objective("accuracy", "min", "avg")
    assert best_snapshot(other) == 1


def best_snapshot(snapshot: ExperimentSnapshot) -> int:
    assert snapshot.best_trial is not None
    return int(snapshot.best_trial.config["curve"])


def test_a_metric_that_only_the_scheduler_has_is_shown_and_compared_by(tmp_path: Path) -> None:
    scheduler = ASHAScheduler(metric="accuracy", mode="max", grace_period=3)
    tuner = tune.Tuner(
        learn,
        param_space={"curve": tune.grid_search([0, 1, 2])},
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=tune.RunConfig(name="exp", storage_path=str(tmp_path), verbose=0),
    )

    results = LocalRuntime().run(tuner.experiment())

    replay, overview, _ = told(ExperimentStorage.open(str(tmp_path), "exp"))
    head, *rows = printed(replay, overview).splitlines()
    assert results.get_best_result() is results[BEST["last"]]
    assert "accuracy" in head.split()
    assert "0.9" in rows[1].split()
    assert f"best: {(results[1].metrics or {})['trial_id']} accuracy=0.9 (last report)" in "\n".join(rows)


def test_an_analysis_goes_by_the_last_report_as_in_ray_tune_unless_it_is_told(tmp_path: Path) -> None:
    LocalRuntime().run(a_tuner(tmp_path, best_scope="all").experiment())

    analysis = tune.ExperimentAnalysis(tmp_path / "exp", default_metric="accuracy", default_mode="max")

    assert analysis.best_config == {"curve": BEST["last"]}
    assert analysis.get_best_config(scope="all") == {"curve": BEST["all"]}
