"""`prefect-tune resume` and `extend`, with a runtime of this process instead of Prefect and Ray."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.unit.command_line import CommandLine, train, tuned
from tune_core.control.messages import ExperimentResumed, SpecRecorded
from tune_core.control.segments import read_journal
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime

TRAIN = "tests.unit.command_line:train"


@pytest.fixture
def prefect_tune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setattr("tune_core.tuner.load_runtime", LocalRuntime)
    monkeypatch.setattr(sys, "path", sys.path)  # the commands put the current directory in front
    return CommandLine(capsys)


def specs(path: Path) -> list[SpecRecorded]:
    storage = ExperimentStorage.open(path.parent, path.name)
    return [event for event, _ in read_journal(storage) if isinstance(event, SpecRecorded)]


def test_more_samples_extend_an_experiment(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "digits")

    called = prefect_tune("extend", tmp_path / "digits", TRAIN, "--num-samples", 2, "--json")

    assert called.code == 0
    assert called.json["num_trials"] == 6
    assert called.json["num_drivers"] == 2
    assert called.json["trials_by_status"] == {"TERMINATED": 4, "ERROR": 2}
    assert specs(tmp_path / "digits")[-1].spec["tune_config"]["num_samples"] == 2


def test_a_looser_stop_lets_trials_go_on(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "digits", stop={"training_iteration": 2})

    called = prefect_tune("extend", tmp_path / "digits", TRAIN, "--stop", "training_iteration=4", "--json")

    iterations = {trial["number"]: trial["iterations"] for trial in called.json["trials"]}
    assert called.code == 0
    assert (iterations[0], iterations[1]) == (4, 4)


def test_failed_trials_go_on_or_start_over_as_asked(prefect_tune: CommandLine, tmp_path: Path) -> None:
    def attempts(document: dict[str, Any]) -> tuple[int, int]:
        (trial,) = (each for each in document["trials"] if each["number"] == 2)
        return trial["attempts"], trial["iterations"]

    tuned(tmp_path, "digits")

    left = prefect_tune("resume", tmp_path / "digits", TRAIN, "--json").json
    resumed = prefect_tune("resume", tmp_path / "digits", TRAIN, "--resume-errored", "--json").json
    restarted = prefect_tune("resume", tmp_path / "digits", TRAIN, "--restart-errored", "--json").json
    both = prefect_tune("resume", tmp_path / "digits", TRAIN, "--restart-errored", "--resume-errored")

    assert attempts(left) == (1, 2)
    assert attempts(resumed) == (2, 5)  # from its checkpoint on, nothing is wrong
    assert attempts(restarted) == (2, 5)  # it has not failed any more
    assert (both.code, "either goes on or starts over" in both.err) == (2, True)


@pytest.mark.parametrize("command", [("resume",), ("extend", "--num-samples", 2)])
def test_damaged_journal_is_resumed_only_if_its_end_is_given_up(
    command: tuple[Any, ...], prefect_tune: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_core.control.journal.FLUSH_EVENTS", 1)
    tuned(tmp_path, "digits")
    last = max((tmp_path / "digits" / "journal").iterdir())
    last.write_bytes(last.read_bytes()[:-10])
    name, *options = command

    refused = prefect_tune(name, tmp_path / "digits", TRAIN, *options)
    resumed = prefect_tune(name, tmp_path / "digits", TRAIN, *options, "--discard-damaged", "--json")

    assert refused.code == 1
    assert f"{last.name} is damaged" in refused.err
    assert "prefect-tune resume --discard-damaged" in refused.err
    assert resumed.json["trials"]


def test_a_run_may_begin_with_what_an_earlier_one_found(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "digits")
    file = tmp_path / "again.yaml"
    file.write_text(f"""
trainable: {TRAIN}
param_space:
  net: {{ width: {{ choice: [16, 32] }} }}
  lr: {{ loguniform: {{ lower: 0.001, upper: 0.1 }} }}
  steps: 5
tune_config: {{ metric: loss, mode: min, num_samples: 2 }}
run_config: {{ name: again, storage_path: {tmp_path} }}
""")

    warm = prefect_tune("run", file, "--warm-start", "digits", "--warm-start-points", 1, "--json").json
    refused = prefect_tune("run", file, "--warm-start", "digits")
    aimless = prefect_tune("run", file, "--warm-start-points", 1)

    assert warm["warm_start"] == (
        "warm start from 1 experiment: 2 trials to choose from, the best 1 are run first, 1 left out: failed, or "
        "reported nothing"
    )
    first = min(warm["trials"], key=lambda trial: trial["number"])
    assert first["config"]["net"]["width"] == 16
    assert (refused.code, aimless.code) == (2, 2)
    assert "learns nothing from earlier trials" in refused.err
    assert "say which, with --warm-start" in aimless.err


def test_what_a_run_prints_says_why_trials_failed(
    prefect_tune: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    tuned(tmp_path, "digits")

    lines = prefect_tune("extend", tmp_path / "digits", TRAIN, "--num-samples", 2).out.splitlines()

    assert lines[-3] == "2 trials failed: ValueError: too wide: 64 units"
    assert "/command_line.py:" in lines[-2]
    assert lines[-1].endswith("/error.txt")


def test_resources_stay_what_they_were_unless_given(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "digits", trainable=tune.with_resources(train, {"cpu": 2}))

    prefect_tune("extend", tmp_path / "digits", TRAIN, "--num-samples", 2)
    assert [each.spec["resources"]["bundles"] for each in specs(tmp_path / "digits")] == [[{"CPU": 2.0}]] * 2

    prefect_tune("extend", tmp_path / "digits", TRAIN, "--resources", "CPU=3", "--resources", "special=1")
    storage = ExperimentStorage.open(tmp_path, "digits")
    assert specs(tmp_path / "digits")[-1].spec["resources"]["bundles"] == [{"CPU": 3.0, "special": 1.0}]
    assert sum(isinstance(event, ExperimentResumed) for event, _ in read_journal(storage)) == 2


def test_nothing_that_is_stored_is_imported(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "digits")

    for command, options in (("resume", []), ("extend", ["--num-samples", 2])):
        called = prefect_tune(command, tmp_path / "digits", *options)

        assert called.code == 2
        assert f"prefect-tune {command} {tmp_path}/digits package.module:train" in called.err


def test_extending_needs_something_to_extend(prefect_tune: CommandLine, tmp_path: Path) -> None:
    called = prefect_tune("extend", tmp_path / "digits", TRAIN)

    assert (called.code, "--num-samples, --stop or --resources" in called.err) == (2, True)


@pytest.mark.parametrize(
    ("trainable", "told"),
    [
        ("tests.unit.command_line:trian", "did you mean 'train'"),
        ("no.such.module:train", "no.such.module"),
        ("math:sqrt", "tunes 'train'"),
        ("train", "import string"),
    ],
)
def test_a_wrong_trainable_is_refused_before_anything_starts(
    prefect_tune: CommandLine, tmp_path: Path, trainable: str, told: str
) -> None:
    tuned(tmp_path, "digits")

    called = prefect_tune("resume", tmp_path / "digits", trainable)

    assert (called.code, called.out) == (2, "")
    assert told in called.err
    assert len(specs(tmp_path / "digits")) == 1


def test_modules_of_the_current_directory_are_found(
    prefect_tune: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(tmp_path, "digits")
    (tmp_path / "mine_of_this_test.py").write_text("from tests.unit.command_line import train\n")
    monkeypatch.chdir(tmp_path)

    called = prefect_tune("resume", "./digits", "mine_of_this_test:train")

    assert (called.code, called.err) == (0, "")
    assert f"experiment  {tmp_path}/digits" in called.out


def test_an_experiment_whose_trials_all_failed_has_failed(prefect_tune: CommandLine, tmp_path: Path) -> None:
    def broken(config: dict[str, Any]) -> None:
        raise ValueError("broken")

    broken.__name__ = "train"
    tuned(tmp_path, "digits", trainable=broken)

    called = prefect_tune("resume", tmp_path / "digits", TRAIN)

    assert called.code == 1
    assert "3 error" in called.out


def test_an_interrupted_experiment_says_so_by_its_code(prefect_tune: CommandLine, tmp_path: Path) -> None:
    def interrupted(config: dict[str, Any]) -> None:
        tune.report({"loss": 1.0})
        raise KeyboardInterrupt

    interrupted.__name__ = "train"
    tuned(tmp_path, "digits", trainable=interrupted)
    shown = prefect_tune("show", tmp_path / "digits", "--json").json
    assert shown["status"] == "interrupted"

    (tmp_path / "again.py").write_text("def train(config):\n    raise KeyboardInterrupt\n")
    sys.path.insert(0, str(tmp_path))
    again = prefect_tune("resume", tmp_path / "digits", "again:train")
    done = prefect_tune("resume", tmp_path / "digits", TRAIN)

    assert again.code == 130
    assert "status      interrupted" in again.out
    assert f"go on with: prefect-tune resume {tmp_path / 'digits'} " in again.out
    assert done.code == 0
    sys.path.remove(str(tmp_path))
    sys.modules.pop("again")
