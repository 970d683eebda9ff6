"""`prefect-tune replay`: another scheduler on the curves of an experiment that is over."""

from __future__ import annotations

from pathlib import Path

import pytest

import tune_core as tune
from tests.unit.command_line import CommandLine, tuned
from tune_core.errors import ConfigError, StorageError
from tune_core.schedulers import AsyncHyperBandScheduler

#: The keys that docs/command-line.md promises.
KEYS = {
    "experiment", "scheduler", "options", "metric", "mode", "slots", "recorded_slots", "recorded", "cost", "trials",
    "recorded_best", "best", "recorded_score", "score", "loses_best", "num_by_fate", "decisions",
    "recorded_decisions", "notes",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose third trial fails, below a storage path."""
    path = tmp_path_factory.mktemp("runs")
    tuned(path, "digits")
    return path


@pytest.fixture
def prefect_tune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("COLUMNS", "80")
    return CommandLine(capsys)


def test_what_it_would_have_cost_is_shown_within_eighty_columns(
    prefect_tune: CommandLine, runs: Path
) -> None:
    called = prefect_tune(
        "replay", runs / "digits", "--scheduler", "asha", "--max-t", "5", "--reduction-factor", "2"
    )

    assert called.code == 0
    lines = called.out.splitlines()
    assert lines[1] == "scheduler   AsyncHyperBandScheduler max_t=5 reduction_factor=2"
    assert lines[2] == "trials      3: 1 completed, 2 stopped"
    assert lines[3].startswith("best        loss=3.2 of ")
    assert lines[3].endswith(": kept")
    assert lines[6].split() == ["reports", "12", "7", "58%"]
    assert max(map(len, lines[4:])) <= 80


def test_as_json_it_has_the_documented_keys(prefect_tune: CommandLine, runs: Path) -> None:
    document = prefect_tune("replay", runs / "digits", "--json").json

    assert set(document) == KEYS
    assert document["scheduler"] == "FIFOScheduler"
    assert document["cost"]["reports"] == document["recorded"]["reports"] == 12
    assert document["num_by_fate"] == {"completed": 2, "failed": 1}
    assert document["loses_best"] is False


def test_a_file_may_say_the_scheduler(prefect_tune: CommandLine, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.yaml"
    file.write_text("asha: {max_t: 5, reduction_factor: 2, stop_last_trials: false}")

    document = prefect_tune("replay", runs / "digits", "--scheduler-file", file, "--json").json

    assert document["options"] == {"max_t": 5, "reduction_factor": 2, "stop_last_trials": False}
    assert document["cost"]["reports"] == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scheduler", "ash"], "did you mean 'asha'?"),
        (["--scheduler", "asha", "--max-tt", "4"], "did you mean 'max-t'?"),
        (["--scheduler", "asha", "--max-t", "four"], "--max-t 'four': input should be a valid number"),
        (["--scheduler", "asha", "--max-t", "0"], "AsyncHyperBandScheduler(max_t=0"),
        (["--max-t", "4"], "need --scheduler NAME"),
        (["--sots", "4"], "did you mean 'slots'?"),
        (["--slots", "0"], "replay(slots=0): expected an integer of at least 1"),
        (["--metric", "loss"], "give both, or neither"),
        (["--scheduler-file", "/is/not/there"], "cannot be read"),
        (["--scheduler-file", "/is/not/there", "--scheduler", "asha"], "give no others"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(
    prefect_tune: CommandLine, runs: Path, options: list[str], said: str
) -> None:
    called = prefect_tune("replay", runs / "digits", *options)

    assert called.code == 2
    assert said in called.err


def test_a_file_that_names_no_scheduler_is_refused(
    prefect_tune: CommandLine, runs: Path, tmp_path: Path
) -> None:
    (file := tmp_path / "scheduler.yaml").write_text("[1, 2]")

    assert (
        "expected a scheduler's name" in prefect_tune("replay", runs / "digits", "--scheduler-file", file).err
    )


def test_from_python_it_is_one_call(runs: Path) -> None:
    result = tune.replay(runs / "digits", AsyncHyperBandScheduler(max_t=5, reduction_factor=2))

    assert result.cost.reports == 7
    assert [each.iterations for each in result.trials] == [5, 1, 1]
    assert tune.replay(runs / "digits", "fifo").cost.reports == 12
    with pytest.raises(ConfigError, match="expected a TrialScheduler"):
        tune.replay(runs / "digits", 4)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="holds no experiment that can be replayed"):
        tune.replay(runs / "not-there")
