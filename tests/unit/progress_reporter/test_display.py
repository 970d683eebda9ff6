"""What is shown of an experiment, and when."""

from __future__ import annotations

import io
import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tune_core.progress_reporter.display import ProgressDisplay
from tune_core.progress_reporter.reporters import ProgressReporter
from tune_core.ranking import Objective, Standings
from tune_core.trial import Attempt, Status, Trial

ROOT = Path(__file__).resolve().parents[3]
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


def a_trial(number: int, status: Status = Status.TERMINATED, loss: Any = None, **values: Any) -> Trial:
    row = {} if loss is None else {"loss": loss, "eval": {"loss": loss}, "time_total_s": 1.25}
    known: dict[str, Any] = {
        "trial_id": f"abcde_{number:05d}",
        "number": number,
        "config": {"lr": 0.1 * (number + 1), "width": 64},
        "status": status,
        "last_row": row,
        "attempt": Attempt(iteration=3) if row else None,
    }
    return Trial(**known | values)


def a_pipe(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def ranked(
    trials: Sequence[Trial] = (),
    metric: str | None = "loss",
    mode: str | None = "min",
    scope: str = "last",
) -> Standings:
    """Standings that have seen the last reports of these trials."""
    standings = Standings(Objective(metric, mode, scope))
    for trial in trials:
        standings.note(trial, 1, trial.last_row)
    return standings


def finished(trials: Sequence[Trial], metric: str | None = "loss", mode: str | None = "min") -> list[str]:
    console = a_pipe()
    reporter = ProgressDisplay(ranked(trials, metric, mode), console=console)
    reporter.finish(trials, "every trial is finished")
    return written(console).splitlines()


def ids(lines: Sequence[str]) -> list[int]:
    """Numbers of the trials that have a line of the table."""
    return [
        int(line.split()[0].removeprefix("abcde_")) for line in lines if line.lstrip().startswith("abcde_")
    ]


# What is said.


def test_the_start_says_what_runs_and_where_to_look() -> None:
    console = a_pipe(40)
    url = "http://127.0.0.1:4200/runs/flow-run/0d2c3a4e-1111-2222-3333-444455556666"

    ProgressDisplay(console=console).start("exp", "s3://bucket/exp", url, 10)

    assert written(console) == f"experiment exp\n  storage  s3://bucket/exp\n  watch    {url}\n"


def test_the_start_without_a_page_to_watch_names_none() -> None:
    console = a_pipe()

    ProgressDisplay(console=console).start("exp", "/tmp/exp")

    assert written(console) == "experiment exp\n  storage  /tmp/exp\n"


def test_a_message_is_printed_line_by_line() -> None:
    console = a_pipe()

    ProgressDisplay(console=console).message("one [bold]\ntwo")

    assert written(console) == "one [bold]\ntwo\n"


@pytest.mark.parametrize(
    ("metric", "mode", "order"),
    [
        ("loss", "min", [2, 0, 1, 3, 4]),
        ("loss", "max", [1, 0, 2, 3, 4]),
        ("eval/loss", "min", [2, 0, 1, 3, 4]),
        (None, None, [0, 1, 2, 3, 4]),
    ],
)
def test_the_final_table_has_the_best_first(metric: str | None, mode: str | None, order: list[int]) -> None:
    trials = [a_trial(n, loss=loss) for n, loss in enumerate((2, 3, 1, math.nan, None))]

    assert ids(finished(trials, metric, mode)) == order


def test_the_final_lines_name_the_best_trial_and_why_it_ended() -> None:
    trials = [a_trial(0, loss=0.5), a_trial(1, Status.ERROR, loss=0.25, error="ValueError: boom"), a_trial(2)]

    lines = finished(trials)

    assert lines[-2:] == [
        "best: abcde_00001 loss=0.25 (last report) lr=0.2",
        "3 trials: 2 terminated, 1 error; every trial is finished",
    ]


def test_a_row_has_what_is_known_of_a_trial() -> None:
    lines = finished([a_trial(0, loss=0.5), a_trial(1, Status.ERROR, error="ValueError: [red]two\nlines")])

    first, second = (line.split() for line in lines if line.lstrip().startswith("abcde_"))
    assert first == ["abcde_00000", "TERMINATED", "3", "1.2", "0.5", "lr=0.1"]
    assert second == ["abcde_00001", "ERROR", "lr=0.2", "ValueError:", "[red]two", "lines"]


def test_parameters_that_do_not_vary_are_not_shown_unless_there_is_one_trial() -> None:
    many, one = finished([a_trial(0), a_trial(1)]), finished([a_trial(0)])

    assert "width" not in "\n".join(many)
    assert "lr=0.1 width=64" in "\n".join(one)


def test_a_parameter_that_only_some_trials_have_varies() -> None:
    trials = [a_trial(0, config={"a": 1}), a_trial(1, config={"a": 1, "b": {"c": 2}})]

    assert "b/c=2" in "\n".join(finished(trials))


def test_a_long_final_table_is_cut() -> None:
    lines = finished([a_trial(n, loss=n) for n in range(150)])

    assert ids(lines) == list(range(100))
    assert "… and 50 more trials" in lines


@pytest.mark.parametrize("width", [80, 120])
def test_why_trials_failed_is_told_whole_below_the_table_however_many_there_are(width: int) -> None:
    error = "RuntimeError: " + "the classifier does not fit into this GPU " * 4 + "and never will"
    trace = 'Traceback (most recent call last):\n  File "/home/me/train.py", line 12, in train\n'
    failed: dict[str, Any] = {"status": Status.ERROR, "error": error, "traceback": trace}
    trials = [a_trial(n, loss=n) if n < 150 else a_trial(n, dirname=f"t{n}", **failed) for n in range(153)]
    console = a_pipe(width)

    with ProgressDisplay(ranked(trials), console=console) as display:
        display.start("exp", "s3://bucket/exp")
        display.finish(trials, "every trial is finished")

    lines = written(console).splitlines()
    assert lines[-5:-2] == [
        f"3 trials failed: {error}",
        "  first: abcde_00150 at /home/me/train.py:12",
        "  traceback: s3://bucket/exp/t150/error.txt",
    ]
    assert lines[-2].startswith("best: abcde_00000")


def test_an_experiment_without_trials_ends_with_one_line() -> None:
    assert finished([]) == ["0 trials; every trial is finished"]


@pytest.mark.parametrize("loss", [None, math.nan, "low", 10**400])
def test_without_a_number_there_is_no_best_trial(loss: Any) -> None:
    assert not any(line.startswith("best:") for line in finished([a_trial(0, loss=loss)]))


# When it is said.


def test_a_pipe_gets_a_line_every_thirty_seconds() -> None:
    console = a_pipe()
    trials = [a_trial(0, Status.RUNNING, loss=0.5)]
    reporter = ProgressDisplay(ranked(trials), console=console)
    reporter.start("exp", "/tmp/exp", total=4)
    before = written(console)

    printed_at = []
    for now in range(1000, 1100):
        length = len(written(console))
        reporter.update(trials, {"abcde_00001": "needs 2 GPUs"}, now)
        if len(written(console)) > length:
            printed_at.append(now)

    assert printed_at == [1030, 1060, 1090]
    line = written(console).removeprefix(before).splitlines()[0]
    assert line.partition(" ")[2] == (
        "1 of 4 trials: 1 running; best: abcde_00000 loss=0.5 (last report) lr=0.1 width=64; "
        "waiting: abcde_00001: needs 2 GPUs"
    )


def test_a_terminal_is_looked_at_four_times_a_second_at_most(terminal: Console) -> None:
    class Watched(list[Trial]):
        looks = 0

        def __iter__(self) -> Any:
            self.looks += 1
            return super().__iter__()

    trials = Watched([a_trial(0)])
    with ProgressDisplay(console=terminal) as reporter:
        reporter.start("exp", "/tmp/exp")
        looked_at = []
        for step in range(400):
            before = trials.looks
            reporter.update(trials, {}, step / 100)
            if trials.looks > before:
                looked_at.append(step)

    assert looked_at[0] == 0
    assert 2 <= len(looked_at) <= 16
    assert min(later - earlier for earlier, later in pairwise(looked_at)) >= 25


def test_many_waiting_trials_are_summed_up() -> None:
    console = a_pipe()
    reporter = ProgressDisplay(console=console)
    reporter.start("exp", "/tmp/exp")

    for now in (0, 30):
        reporter.update([a_trial(0)], {f"trial_{n}": "no GPU" for n in range(5)}, now)

    assert written(console).rstrip().endswith("waiting: trial_2: no GPU; waiting: 2 more")


def test_reports_are_printed_if_asked_for() -> None:
    row = {
        "acc": 0.9,
        "eval": {"x": 1},
        "loss": 0.123456789,
        "training_iteration": 7,
        "pid": 1,
        "config": {"a": 1},
    }
    lines = []
    for verbose in (1, 2):
        console = a_pipe()
        ProgressDisplay(ranked(), verbose, console=console).report(a_trial(0), row)
        lines.append(written(console))

    assert lines == ["", "abcde_00000 iteration 7: loss=0.1235 acc=0.9 eval/x=1\n"]


def test_reports_of_many_metrics_are_cut() -> None:
    console = a_pipe()

    ProgressDisplay(None, 2, console=console).report(a_trial(0), {f"m{n}": n for n in range(9)})

    assert written(console) == "abcde_00000 iteration ?: m0=0 m1=1 m2=2 m3=3 m4=4 m5=5 …\n"


# The live view.


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("TERM", "xterm")
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=120, height=60)


def live_ids(terminal: Console, trials: Sequence[Trial], metric: str | None) -> list[int]:
    with ProgressDisplay(ranked(trials, metric), console=terminal) as reporter:
        reporter.start("exp", "/tmp/exp")
        reporter.update(trials, {}, 0)
    drawn = written(terminal).rpartition("status")[2]
    return [int(part[:5]) for part in drawn.split("abcde_")[1:] if part[:5].isdigit()][:20]


def test_the_live_view_has_running_trials_first_and_then_the_best(terminal: Console) -> None:
    trials = [a_trial(n, loss=100 - n) for n in range(30)]
    trials[3].status = trials[7].status = Status.RUNNING

    assert live_ids(terminal, trials, "loss") == [3, 7, *range(29, 11, -1)]


def test_the_live_view_without_a_metric_has_the_newest_trials(terminal: Console) -> None:
    trials = [a_trial(n) for n in range(30)]
    trials[3].status = Status.RUNNING

    assert live_ids(terminal, trials, None) == [3, *range(11, 30)]


def test_a_terminal_is_given_back_whatever_is_raised(terminal: Console) -> None:
    stdout = sys.stdout

    def run() -> None:
        with ProgressDisplay(console=terminal) as reporter:
            reporter.start("exp", "/tmp/exp")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()

    assert sys.stdout is stdout
    assert (written(terminal).count(HIDE), written(terminal).count(SHOW)) == (1, 1)


def test_messages_are_printed_above_the_live_view(terminal: Console) -> None:
    with ProgressDisplay(console=terminal) as reporter:
        reporter.start("exp", "/tmp/exp")
        reporter.message("something happened")
        reporter.finish([a_trial(0)], "every trial is finished")

    text = written(terminal)
    assert text.index("something happened") < text.index(SHOW) < text.index("1 trial: 1 terminated")


# Nothing, and no place to say it.


def test_verbose_0_prints_nothing_and_loads_no_rich() -> None:
    code = """
import sys
from tune_core.progress_reporter.display import ProgressDisplay
from tune_core.progress_reporter.reporters import ProgressReporter
from tune_core.trial import Trial
with ProgressDisplay(verbose=0) as reporter:
    reporter.start("exp", "/tmp/exp", "http://127.0.0.1", 3)
    for now in range(100):
        reporter.update([Trial("a", 0, {})], {"a": "waits"}, now)
        reporter.report(Trial("a", 0, {}), {"loss": 1})
    reporter.message("hello")
    reporter.finish([Trial("a", 0, {})], "done")
assert "rich" not in sys.modules
"""

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), ValueError("I/O operation on closed file")]
)
def test_a_lost_output_ends_the_output_and_nothing_else(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Lost(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    reporter = ProgressDisplay(console=Console(file=Lost()))

    with caplog.at_level(logging.WARNING):
        reporter.start("exp", "/tmp/exp")
        reporter.message("hello")
        reporter.finish([a_trial(0)], "every trial is finished")

    assert [record.message for record in caplog.records] == [
        f"the experiment goes on without terminal output: {error!r}"
    ]


# A reporter of the user's.


class Noting(ProgressReporter):
    """Notes what it is asked; reports at every second question, and at the end."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def setup(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("setup", *args[1:]))

    def should_report(self, trials: Sequence[Trial], done: bool = False) -> bool:
        self.calls.append("asked")
        return done or len(self.calls) % 2 == 1

    def report(self, trials: Sequence[Trial], done: bool, *sys_info: str) -> None:
        self.calls.append((len(trials), done))


def test_reporter_of_the_users_shows_the_trials_instead() -> None:
    console, reporter = a_pipe(), Noting()

    trials = [a_trial(0), a_trial(1, loss=0.5)]
    with ProgressDisplay(ranked(trials), reporter=reporter, console=console) as display:
        display.start("name", "s3://bucket", total=2)
        for now in range(2):
            display.update(trials[:1], {}, now)
        display.finish(trials, "the end")

    assert reporter.calls == [("setup", 2, "loss", "min"), "asked", "asked", (1, False), "asked", (2, True)]
    assert written(console).splitlines() == [
        "experiment name",
        "  storage  s3://bucket",
        "best: abcde_00001 loss=0.5 (last report) lr=0.2",
        "2 trials: 2 terminated; the end",
    ]


def test_more_trials_than_were_planned_are_told_of_as_what_they_are() -> None:
    console = a_pipe()

    with ProgressDisplay(ranked(), console=console) as display:
        display.start("name", "s3://bucket", total=2)
        display.expect(5)
        display.finish([a_trial(number) for number in range(3)], "stopped on request")

    assert "3 of 5 trials: 3 terminated; stopped on request" in written(console)


def test_reporter_of_the_users_is_silent_where_everything_is() -> None:
    reporter = Noting()

    with ProgressDisplay(ranked(), 0, reporter) as display:
        display.start("name", "s3://bucket")
        display.update([], {}, 0)
        display.finish([], "the end")

    assert reporter.calls == []


def test_reporter_that_fails_ends_the_output_and_not_the_experiment(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Noting):
        def report(self, trials: Sequence[Trial], done: bool, *sys_info: str) -> None:
            raise ZeroDivisionError("a defect of the reporter")

    reporter = Failing()
    with ProgressDisplay(ranked(), reporter=reporter, console=a_pipe()) as display:
        display.start("name", "s3://bucket")
        for now in range(9):
            display.update([], {}, now)
        display.finish([], "the end")

    assert reporter.calls == [("setup", None, "loss", "min"), "asked", "asked"]
    assert "goes on without its progress_reporter" in caplog.text
    assert "a defect of the reporter" in caplog.text
