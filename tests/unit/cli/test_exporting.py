"""`prefect-tune export`: the files that other tools read."""

from __future__ import annotations

import csv
import datetime
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import tune_core as tune
from tests.unit.command_line import CommandLine, tuned
from tune_core.schedulers import AsyncHyperBandScheduler
from tune_core.search import BasicVariantGenerator
from tune_core.testing.local_runtime import LocalRuntime


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    tuned(path, "digits", param_space={"depth": tune.randint(1, 5), "act": tune.choice(["relu", "tanh"])})
    return path / "digits"


@pytest.fixture
def prefect_tune(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_per_trial(prefect_tune: CommandLine, digits: Path, tmp_path: Path) -> None:
    called = prefect_tune("export", digits, "-o", tmp_path / "trials.csv")

    lines = lines_of(tmp_path / "trials.csv")
    assert called.out == f"wrote 3 trials to {tmp_path}/trials.csv\n"
    assert [line["status"] for line in lines] == ["TERMINATED", "TERMINATED", "ERROR"]
    assert [float(line["best"]) for line in lines] == pytest.approx([16 / 5, 32 / 5, 32])
    assert [line["config/net/width"] for line in lines] == ["16", "32", "64"]
    assert float(lines[2]["last/eval/accuracy"]) == pytest.approx(1 / 33)
    assert lines[2]["error"] == "ValueError: too wide: 64 units"
    assert lines[0]["error"] == ""


def test_csv_has_a_line_per_report_if_asked(prefect_tune: CommandLine, digits: Path, tmp_path: Path) -> None:
    document = prefect_tune("export", digits, "--rows", "-o", tmp_path / "rows.csv", "--json").json

    lines = lines_of(tmp_path / "rows.csv")
    assert document == {
        "experiment": str(digits),
        "format": "csv",
        "to": f"{tmp_path}/rows.csv",
        "reports": 12,
    }
    assert [line["training_iteration"] for line in lines] == [*"12345", *"12345", *"12"]
    assert {line["attempt_number"] for line in lines} == {"1"}
    assert {line["config/net/width"] for line in lines[10:]} == {"64"}


def test_text_that_spreadsheets_would_run_is_text_in_csv(prefect_tune: CommandLine, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"loss": -1, "=note": "=1+1", "nested": ["=1"]})

    tuned(tmp_path, "formulas", trainable=train, param_space={"word": tune.grid_search(["@SUM(A1)"])})

    for options in ((), ("--rows",)):
        prefect_tune("export", tmp_path / "formulas", *options, "-o", tmp_path / "out.csv", "--overwrite")

        line = lines_of(tmp_path / "out.csv")[0]
        last = "" if options else "last/"
        assert line["config/word"] == "'@SUM(A1)"
        assert line.get(f"{last}=note", line.get("'=note")) == "'=1+1"
        assert line[f"{last}loss"] == "-1"


def test_only_the_newest_attempts_reports_are_written(prefect_tune: CommandLine, tmp_path: Path) -> None:
    failed: list[int] = []

    def train(config: dict[str, Any]) -> None:
        for step in range(3):
            tune.report({"loss": step})
            if step == 1 and len(failed) < 1:
                failed.append(step)
                raise ValueError("once")

    tuned(
        tmp_path,
        "twice",
        trainable=train,
        param_space={"net": {"width": 1}},
        failure_config=tune.FailureConfig(max_failures=1),
    )
    prefect_tune("export", tmp_path / "twice", "--rows", "-o", tmp_path / "rows.csv")

    lines = lines_of(tmp_path / "rows.csv")
    assert [(line["training_iteration"], line["attempt_number"]) for line in lines] == [
        ("1", "2"),
        ("2", "2"),
        ("3", "2"),
    ]


def test_parquet_keeps_the_kinds_of_values(prefect_tune: CommandLine, digits: Path, tmp_path: Path) -> None:
    prefect_tune("export", digits, "--format", "parquet", "--to", tmp_path / "trials.parquet")

    frame = pandas.read_parquet(tmp_path / "trials.parquet")
    assert len(frame) == 3
    assert frame["config/net/width"].dtype.kind == "i"
    assert frame["best"].dtype.kind == "f"
    assert frame["error"].isna().tolist() == [True, True, False]


def test_parquet_takes_a_column_of_several_kinds_as_text(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "mixed", param_space={"act": tune.grid_search(["relu", 3, [1, 2], {"a": 1}])})

    called = prefect_tune("export", tmp_path / "mixed", "-f", "parquet", "-o", tmp_path / "mixed.parquet")

    values = pandas.read_parquet(tmp_path / "mixed.parquet")["config/act"]
    assert called.code == 0
    assert {"relu", "3", "[1,2]"} <= {str(value).replace(" ", "") for value in values}


@pytest.mark.parametrize("kind", ["csv", "parquet", "optuna", "html"])
def test_odd_values_can_be_exported(prefect_tune: CommandLine, tmp_path: Path, kind: str) -> None:
    def report(config: dict[str, Any]) -> None:
        tune.report({"loss": 1.0, **config["odd"]})

    odd = {str(number): value for number, value in enumerate([10**400, "\ud800", [{}], [], "\x00", None])}
    space = {"odd": odd, "chosen": {name: tune.grid_search([value]) for name, value in odd.items()}}
    tuned(tmp_path, "odd", trainable=report, param_space=space)
    target, rows = tmp_path / f"odd.{kind}", tmp_path / f"rows.{kind}"

    assert prefect_tune("export", tmp_path / "odd", "-f", kind, "-o", target).code == 0
    assert target.stat().st_size > 0
    if kind in ("csv", "parquet"):
        assert prefect_tune("export", tmp_path / "odd", "-f", kind, "--rows", "-o", rows).code == 0
        assert rows.stat().st_size > 0


def test_without_pyarrow_parquet_says_how_to_get_it(
    prefect_tune: CommandLine, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    called = prefect_tune("export", digits, "-f", "parquet", "-o", tmp_path / "trials.parquet")

    assert (called.code, "pip install 'prefect-tune[parquet]'" in called.err) == (1, True)


def load(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="digits", storage=JournalStorage(JournalFileBackend(str(path))))


def test_a_study_has_the_trials_with_their_curves(
    prefect_tune: CommandLine, digits: Path, tmp_path: Path
) -> None:
    called = prefect_tune("export", digits, "--format", "optuna", "--to", tmp_path / "study.log")

    study = load(tmp_path / "study.log")
    good, _, bad = study.trials
    assert called.out.splitlines()[1] == f"look at them with: optuna-dashboard {tmp_path}/study.log"
    assert study.direction is optuna.study.StudyDirection.MINIMIZE
    assert study.best_trial.number == 0
    assert good.value == pytest.approx(16 / 5)
    assert good.intermediate_values == pytest.approx({step: 16 / step for step in range(1, 6)})
    assert good.params["net/width"] == 16
    assert "steps" not in good.params  # nobody chose it
    assert good.distributions["lr"] == FloatDistribution(0.001, 0.1, log=True)
    assert good.distributions["net/width"] == CategoricalDistribution((16, 32, 64))
    assert good.distributions["depth"] == IntDistribution(1, 4)
    assert isinstance(good.distributions["act"], CategoricalDistribution)
    assert bad.state is optuna.trial.TrialState.FAIL
    assert bad.user_attrs["error"] == "ValueError: too wide: 64 units"
    assert bad.intermediate_values == pytest.approx({1: 64, 2: 32})


def test_a_study_says_pruned_of_what_a_scheduler_stopped_below_its_full_budget(
    prefect_tune: CommandLine, tmp_path: Path
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(1, 20):
            tune.report({"loss": config["x"] / step})

    tuner = tune.Tuner(
        train,
        param_space={"x": tune.grid_search([1.0, 2.0])},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            max_concurrent_trials=1,
            scheduler=AsyncHyperBandScheduler(max_t=4, reduction_factor=4),
        ),
        run_config=tune.RunConfig(name="digits", storage_path=str(tmp_path)),
    )
    LocalRuntime().run(tuner.experiment())
    prefect_tune("export", tmp_path / "digits", "-f", "optuna", "-o", tmp_path / "study.log")

    full, stopped = load(tmp_path / "study.log").trials
    assert (full.state, full.value) == (optuna.trial.TrialState.COMPLETE, 0.25)
    assert (stopped.state, stopped.value) == (optuna.trial.TrialState.PRUNED, 2.0)
    assert (full.last_step, stopped.last_step) == (4, 1)


def test_the_times_of_a_study_are_those_of_the_trials(
    prefect_tune: CommandLine, digits: Path, tmp_path: Path
) -> None:
    prefect_tune("export", digits, "--format", "optuna", "--to", tmp_path / "study.log")
    summary = prefect_tune("show", digits, "--json").json

    began = [trial.datetime_start for trial in load(tmp_path / "study.log").trials]
    assert began == sorted(began)
    for moment in began:
        assert isinstance(moment, datetime.datetime)
        assert summary["began_at"] - 1 <= moment.timestamp() <= summary["last_event_at"] + 1


def test_a_study_goes_into_a_database_beside_another(
    prefect_tune: CommandLine, digits: Path, tmp_path: Path
) -> None:
    tuned(tmp_path, "second")
    database = f"sqlite:///{tmp_path}/studies.db"

    for path in (digits, tmp_path / "second"):
        assert prefect_tune("export", path, "-f", "optuna", "-o", database).code == 0
    again = prefect_tune("export", digits, "-f", "optuna", "-o", database)

    assert sorted(optuna.get_all_study_names(database)) == ["digits", "second"]
    assert (again.code, "has a study 'digits' already" in again.err) == (2, True)


def test_values_outside_of_the_space_are_kept(prefect_tune: CommandLine, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"loss": config["lr"]})

    tuner = tune.Tuner(
        train,
        param_space={"lr": tune.loguniform(1e-3, 0.1)},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=2,
            search_alg=BasicVariantGenerator(points_to_evaluate=[{"lr": 7.0}]),
        ),
        run_config=tune.RunConfig(name="digits", storage_path=str(tmp_path)),
    )
    LocalRuntime().run(tuner.experiment())
    prefect_tune("export", tmp_path / "digits", "-f", "optuna", "-o", tmp_path / "study.log")

    trials = load(tmp_path / "study.log").trials
    assert trials[0].params == {"lr": 7.0}
    assert trials[1].distributions["lr"] == FloatDistribution(0.001, 7.0, log=True)


def test_a_study_needs_a_metric(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "blind", tune_config={"metric": None, "mode": None})

    called = prefect_tune("export", tmp_path / "blind", "-f", "optuna", "-o", tmp_path / "study.log")

    assert (called.code, "has no metric" in called.err) == (2, True)
    assert not (tmp_path / "study.log").exists()


def test_a_file_is_replaced_only_if_asked(prefect_tune: CommandLine, digits: Path, tmp_path: Path) -> None:
    target = tmp_path / "trials.csv"
    target.write_text("mine")

    refused = prefect_tune("export", digits, "-o", target)
    assert (refused.code, target.read_text()) == (2, "mine")
    assert "--overwrite" in refused.err

    assert prefect_tune("export", digits, "-o", target, "--overwrite").code == 0
    assert len(lines_of(target)) == 3


def test_a_file_that_holds_no_studies_is_left_alone(
    prefect_tune: CommandLine, digits: Path, tmp_path: Path
) -> None:
    target = tmp_path / "trials.csv"
    target.write_text("mine")

    called = prefect_tune("export", digits, "-f", "optuna", "-o", target)
    asked = prefect_tune("export", digits, "-f", "optuna", "-o", target, "--overwrite")

    assert (called.code, asked.code, target.read_text()) == (2, 2, "mine")
    assert "holds no studies" in called.err
    assert "--overwrite" in asked.err


def test_a_file_that_cannot_be_written_is_named(
    prefect_tune: CommandLine, digits: Path, tmp_path: Path
) -> None:
    for arguments in (
        ["-o", tmp_path / "no" / "x.csv"],
        ["-f", "optuna", "-o", f"sqlite:///{tmp_path}/no/x.db"],
    ):
        called = prefect_tune("export", digits, *arguments)

        assert called.code == 1
        assert "cannot write" in called.err
        assert len(called.err.splitlines()) == 1


def test_credentials_of_a_database_are_not_echoed(prefect_tune: CommandLine, digits: Path) -> None:
    url = "postgresql+nothing://user:S3CRET@localhost/studies"

    called = prefect_tune("export", digits, "-f", "optuna", "-o", url, "--json")

    assert called.code == 1
    assert "S3CRET" not in called.out + called.err


def test_a_report_is_written_beside_the_results_or_where_it_is_asked_for(
    prefect_tune: CommandLine, tmp_path: Path
) -> None:
    pytest.importorskip("plotly", reason="the extra `report` is not installed")
    tuned(tmp_path, "digits")

    beside = prefect_tune("export", tmp_path / "digits", "--format", "html")
    elsewhere = prefect_tune(
        "export", tmp_path / "digits", "--format", "html", "--to", tmp_path / "mine.html"
    )
    again = prefect_tune("export", tmp_path / "digits", "--format", "html", "--to", tmp_path / "mine.html")

    assert (beside.code, elsewhere.code, again.code) == (0, 0, 2)
    for page in (tmp_path / "digits" / "report.html", tmp_path / "mine.html"):
        assert "<title>digits</title>" in page.read_text(encoding="utf-8")
        assert f"wrote 3 trials to {page}" in beside.out + elsewhere.out


def test_without_plotly_a_report_says_how_to_get_it(
    prefect_tune: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(tmp_path, "digits")
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)

    called = prefect_tune("export", tmp_path / "digits", "-f", "html")

    assert (called.code, "pip install 'prefect-tune[report]'" in called.err) == (1, True)
    assert len(called.err.splitlines()) == 1
