"""The reporters that scripts of Ray Tune make."""

from __future__ import annotations

import math
import sys
import types
from typing import Any

import pytest

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.trial import Status, Trial


def a_trial(number: int, status: Status = Status.TERMINATED, **values: Any) -> Trial:
    row = {"loss": 1.0 / (number + 1), "accuracy": number, "time_total_s": 1.25, "training_iteration": 3}
    known: dict[str, Any] = {
        "trial_id": f"abcde_{number:05d}",
        "number": number,
        "trainable_name": "train",
        "config": {"lr": 0.1 * (number + 1), "net": {"width": 64}},
        "status": status,
        "last_row": row,
    }
    return Trial(**known | values)


def printed(
    capsys: pytest.CaptureFixture[str], reporter: tune.CLIReporter, trials: list[Trial], done: bool = True
) -> list[str]:
    reporter.report(trials, done)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_table_has_parameters_and_the_first_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = tune.CLIReporter()
    reporter.setup(total_samples=4, metric="loss", mode="min")

    lines = printed(capsys, reporter, [a_trial(0), a_trial(1, Status.RUNNING)])

    assert lines[0].split("  ")[0] == "trial"
    assert lines[0].split() == [
        "trial",
        "status",
        "lr",
        "net/width",
        "iter",
        "total",
        "time",
        "(s)",
        "loss",
        "accuracy",
    ]
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["train_abcde_00001", "RUNNING"],
        ["train_abcde_00000", "TERMINATED"],
    ]
    assert lines[1].split()[2:] == ["0.2", "64", "3", "1.25", "0.5", "1"]
    assert lines[3:] == [
        "2 of 4 trials: 1 running, 1 terminated",
        "best: train_abcde_00001 loss=0.5 (last report)",
    ]


def test_columns_are_those_that_were_given(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = tune.CLIReporter(metric_columns={"loss": "error"}, parameter_columns=["net/width"])
    reporter.add_metric_column("accuracy", "acc")
    reporter.add_parameter_column("lr")

    lines = printed(capsys, reporter, [a_trial(0)])

    assert lines[0].split() == ["trial", "status", "net/width", "lr", "error", "acc"]
    assert lines[1].split() == ["train_abcde_00000", "TERMINATED", "64", "0.1", "1", "0"]


def test_rows_errors_and_values_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = tune.CLIReporter(
        max_progress_rows=1,
        max_error_rows=1,
        max_column_length=6,
        sort_by_metric=True,
        metric="loss",
        mode="max",
    )
    trials = [a_trial(n, config={"name": "something long"}, error=f"ValueError: {n}") for n in range(3)]

    lines = printed(capsys, reporter, trials)

    assert lines[1].split()[:3] == ["train_abcde_00000", "TERMINATED", "somet…"]
    assert "… and 2 more trials" in lines[2]
    assert lines[3:] == [
        "3 trials: 3 terminated",
        "best: train_abcde_00000 loss=1 (last report)",
        "train_abcde_00000: ValueError: 0",
    ]


def test_table_before_the_end_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = tune.CLIReporter(print_intermediate_tables=False)

    assert printed(capsys, reporter, [a_trial(0)], done=False) == ["1 trials: 1 terminated"]
    assert len(printed(capsys, reporter, [a_trial(0)])) == 3
    assert printed(capsys, reporter, []) == ["0 trials"]


def test_trial_without_the_metric_is_not_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = tune.CLIReporter(metric="loss", mode="min", sort_by_metric=True)
    trials = [a_trial(0, last_row={}), a_trial(1, last_row={"loss": math.nan}), a_trial(2)]

    lines = printed(capsys, reporter, trials)

    assert lines[-1] == "best: train_abcde_00002 loss=0.333333 (last report)"


def test_reports_come_as_often_as_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((100.0, 101.0, 104.9, 105.0, 106.0, 106.1))
    monkeypatch.setattr(
        "tune_core.progress_reporter.reporters.time", types.SimpleNamespace(monotonic=lambda: next(times))
    )
    reporter = tune.CLIReporter(max_report_frequency=5)

    answers = [reporter.should_report([]) for _ in range(5)]

    assert answers == [True, False, False, True, False]
    assert reporter.should_report([], done=True)


def test_subclass_decides_when_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    class Ends(tune.CLIReporter):
        """As in Ray Tune's guide: reports when a trial has ended."""

        def __init__(self) -> None:
            super().__init__()
            self.num_ended = 0

        def should_report(self, trials: Any, done: bool = False) -> bool:
            before, self.num_ended = self.num_ended, sum(trial.status == "TERMINATED" for trial in trials)
            return before != self.num_ended

    reporter = Ends()

    assert [reporter.should_report([a_trial(0)]), reporter.should_report([a_trial(0)])] == [True, False]


def test_notebook_redraws_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def display(panel: Any, display_id: bool) -> Any:
        drawn.append("new")
        return types.SimpleNamespace(update=lambda panel: drawn.append("again"))

    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))

    for overwrite in (True, False):
        reporter = tune.JupyterNotebookReporter(overwrite=overwrite)
        reporter.report([a_trial(0)], False)
        reporter.report([a_trial(0)], True)

    assert drawn == ["new", "again", "new", "new"]


def test_notebook_reporter_prints_where_there_is_no_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)

    assert printed(capsys, tune.JupyterNotebookReporter(), [])[-1] == "0 trials"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metric_columns": "loss"}, "metric_columns='loss'.*expected a list of names"),
        ({"parameter_columns": [1]}, r"parameter_columns=\[1\]"),
        ({"metric_columns": {"loss": 1}}, "metric_columns="),
        ({"max_progress_rows": 0, "infer_limit": -1}, "2 faults"),
        ({"max_report_frequency": "often"}, "max_report_frequency='often'"),
        ({"mode": "up"}, "mode='up'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        tune.CLIReporter(**options)


def test_run_config_takes_a_reporter_and_nothing_else() -> None:
    reporter = tune.CLIReporter()

    assert tune.RunConfig(progress_reporter=reporter).progress_reporter is reporter
    with pytest.raises(ConfigError, match=r"progress_reporter='bar'.*expected a ProgressReporter"):
        tune.RunConfig(progress_reporter="bar")
