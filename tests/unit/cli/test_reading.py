"""`prefect-tune ls`, `show` and `compare` on experiments that are over, and on paths that are none."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.unit.command_line import CommandLine, tuned
from tune_core.cli import experiment
from tune_core.cli.experiment import read_experiment
from tune_core.cli.opening import driver_status
from tune_core.control import segments
from tune_core.storage.experiment_storage import ExperimentStorage

#: The keys that docs/command-line.md promises.
SUMMARY = {
    "name", "path", "experiment_id", "trainable", "status", "reason", "warm_start", "is_paused", "metric", "mode",
    "best_scope", "num_trials", "trials_by_status", "best", "pareto_front", "best_by_metric", "began_at",
    "last_event_at", "seconds", "num_drivers", "cpu_seconds", "gpu_seconds", "idle_cpu_seconds", "idle_gpu_seconds",
}  # fmt: skip
TRIAL = {
    "trial_id", "number", "name", "path", "status", "is_paused_by_user", "config", "iterations", "score", "scores",
    "front", "best", "best_iteration", "last", "checkpoint", "attempts", "failures", "error", "reason", "seconds",
    "cpu_seconds", "gpu_seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments, an empty directory and a file below one storage path."""
    path = tmp_path_factory.mktemp("runs")
    tuned(path, "digits")
    tuned(path, "wider", tune_config={"num_samples": 2})
    (path / "notes").mkdir()
    (path / "README").write_text("not an experiment")
    return path


@pytest.fixture
def prefect_tune(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def test_experiments_are_listed_the_latest_first(prefect_tune: CommandLine, runs: Path) -> None:
    called = prefect_tune("ls", runs)

    first, second, third, hint = called.out.splitlines()
    assert called.code == 0
    assert first.split()[:3] == ["NAME", "STATUS", "TRIALS"]
    assert " ".join(second.split()).startswith("wider ended 6: 4 terminated, 2 error loss=3.2")
    assert " ".join(third.split()).startswith("digits ended 3: 2 terminated, 1 error loss=3.2")
    assert hint == f"one of them: prefect-tune show {runs / 'wider'}"
    assert called.err == ""


def test_a_list_as_json_has_the_documented_keys(prefect_tune: CommandLine, runs: Path) -> None:
    document = prefect_tune("ls", runs, "--json").json

    assert document["storage"] == str(runs)
    assert [set(each) for each in document["experiments"]] == [SUMMARY, SUMMARY]
    wider, digits = document["experiments"]
    assert (wider["name"], digits["name"]) == ("wider", "digits")
    assert digits["trials_by_status"] == {"TERMINATED": 2, "ERROR": 1}
    assert digits["best"]["config"]["net"] == {"width": 16}
    assert digits["best"]["value"] == pytest.approx(16 / 5)
    assert Path(digits["best"]["checkpoint"]).is_dir()


def test_an_earlier_experiment_of_a_name_is_listed_and_shown_by_its_number(
    prefect_tune: CommandLine, tmp_path: Path
) -> None:
    tuned(tmp_path, "digits")
    tuned(tmp_path, "digits", tune_config={"num_samples": 2})

    listed = prefect_tune("ls", tmp_path, "--json").json["experiments"]
    shown = {name: prefect_tune("show", tmp_path / name, "--json").json for name in ("digits", "digits@1")}
    file = tmp_path / "reports.csv"
    prefect_tune("export", tmp_path / "digits@1", "--rows", "--to", file)

    assert [(each["name"], each["num_trials"]) for each in listed] == [("digits", 6), ("digits@1", 3)]
    assert [each["path"] for each in listed] == [str(tmp_path / "digits"), str(tmp_path / "digits@1")]
    assert {name: len(each["trials"]) for name, each in shown.items()} == {"digits": 6, "digits@1": 3}
    assert shown["digits@1"]["status"] == "ended"
    first = shown["digits@1"]["trials"][0]
    assert len(prefect_tune("show", tmp_path / "digits@1", first["trial_id"], "--json").json["rows"]) == 5
    assert len(file.read_text().splitlines()) == 1 + 5 + 5 + 2
    assert "experiments of this name there are 2" in prefect_tune("show", tmp_path / "digits@3").err
    assert "does not run: another experiment" in prefect_tune("stop", tmp_path / "digits@1").err


def test_a_metric_that_nobody_reported_is_refused_with_those_that_there_are(
    prefect_tune: CommandLine, runs: Path
) -> None:
    called = prefect_tune("show", runs / "digits", "--metric", "los", "--mode", "min")

    assert called.code == 2
    assert "'los'" in called.err
    assert "did you mean 'loss'" in called.err
    assert "there are loss, eval/accuracy" in called.err
    shown = prefect_tune("show", runs / "digits", "--metric", "eval/accuracy", "--mode", "max", "--json").json
    assert shown["best"]["value"] == pytest.approx(1 / (1 + 16 / 5))
    assert prefect_tune("show", runs / "digits", "--metric", "training_iteration", "--mode", "max").code == 0


def test_what_is_listed_can_be_shown(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "digits")
    for name in ("no-segment", "digits@7", "~home"):
        (tmp_path / name / "journal").mkdir(parents=True)

    listed = prefect_tune("ls", tmp_path, "--json").json["experiments"]

    assert [each["name"] for each in listed] == ["digits"]
    assert prefect_tune("show", listed[0]["path"]).code == 0


def test_an_empty_place_is_no_fault(prefect_tune: CommandLine, tmp_path: Path) -> None:
    called = prefect_tune("ls", tmp_path / "nothing")

    assert (called.code, called.out) == (0, f"no experiments in {tmp_path}/nothing\n")


def test_an_experiment_that_cannot_be_read_does_not_hide_the_others(
    prefect_tune: CommandLine, runs: Path, tmp_path: Path
) -> None:
    place = tmp_path / "runs"
    shutil.copytree(runs, place)
    (place / "wider" / "journal" / "00000001.jsonl").write_bytes(b"\0")

    called = prefect_tune("ls", place, "--json")

    faults = {each["name"]: each.get("fault", "") for each in called.json["experiments"]}
    assert called.code == 0
    assert faults["digits"] == ""
    assert "00000001.jsonl is damaged" in faults["wider"]
    assert "damaged" in prefect_tune("ls", place).out


def test_trials_are_shown_the_best_first_with_what_failed_below(
    prefect_tune: CommandLine, runs: Path
) -> None:
    called = prefect_tune("show", runs / "digits")

    lines = called.out.splitlines()
    table = [line.split() for line in lines[lines.index("") + 1 :]]
    assert called.code == 0
    assert lines[1].split() == ["status", "ended:", "every", "trial", "is", "finished"]
    assert table[0] == ["TRIAL", "STATUS", "ITER", "loss", "TIME", "PARAMETERS"]
    assert [row[1:4] for row in table[1:4]] == [
        ["TERMINATED", "5", "3.2"],
        ["TERMINATED", "5", "6.4"],
        ["ERROR", "2", "32"],
    ]
    assert "net/width=16" in table[1]
    assert not any(word.startswith("steps=") for word in table[1])  # the same in all trials
    assert table[4] == []
    url = ExperimentStorage.open(str(runs), "digits").url
    assert lines[-3] == "1 trial failed: ValueError: too wide: 64 units"
    assert re.fullmatch(r"  first: \w+ at \S+/command_line\.py:\d+", lines[-2])
    assert re.fullmatch(rf"  traceback: {url}/train_\S+/error\.txt", lines[-1])


@pytest.mark.parametrize("columns", [80, 140])
def test_tables_fit_the_terminal_and_paths_stay_whole(
    prefect_tune: CommandLine, runs: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))

    lines = prefect_tune("show", runs / "wider").out.splitlines()

    first, last = (place for place, line in enumerate(lines) if line == "")
    table = lines[first + 1 : last]
    assert all(len(line.rstrip()) <= columns for line in table)
    assert all("…" not in line for line in table)
    (checkpoint,) = (line.split()[1] for line in lines if line.startswith("checkpoint"))
    assert Path(checkpoint).is_dir()


def test_what_is_shown_as_json_has_the_documented_keys(prefect_tune: CommandLine, runs: Path) -> None:
    document = prefect_tune("show", runs / "digits", "--json").json

    assert set(document) == SUMMARY | {"best_so_far", "trials", "failures"}
    assert [set(trial) for trial in document["trials"]] == [TRIAL] * 3
    assert [trial["best"] for trial in document["trials"]] == pytest.approx([16 / 5, 32 / 5, 32])
    assert document["trials"][2]["error"] == "ValueError: too wide: 64 units"
    (failure,) = document["failures"]
    failed = document["trials"][2]
    assert (failure["count"], failure["error"]) == (1, failed["error"])
    assert failure["trial_ids"] == [failure["first_trial"]] == [failed["trial_id"]]
    assert failure["place"].partition(":")[0].endswith("tests/unit/command_line.py")
    assert "too wide" in Path(failure["traceback"]).read_text()


def test_a_trial_is_found_by_number_id_and_name_and_shown_with_its_reports(
    prefect_tune: CommandLine, runs: Path
) -> None:
    called = prefect_tune("show", runs / "digits", 2)
    documents = [
        prefect_tune("show", runs / "digits", given, "--json").json
        for given in ("2", called.out.split("/train_")[1][:11], called.out.splitlines()[0].split("/")[-1])
    ]

    assert documents[0] == documents[1] == documents[2]
    assert set(documents[0]) == TRIAL | {
        "experiment",
        "metric",
        "mode",
        "best_scope",
        "failure",
        "timeline",
        "rows",
    }
    assert [row["training_iteration"] for row in documents[0]["rows"]] == [1, 2]
    assert documents[0]["timeline"][0]["outcome"] == "error"
    assert "attempts    1 error" in called.out
    assert re.search(r"^failed at   \S+/command_line\.py:\d+$", called.out, re.MULTILINE)
    assert re.search(r"^traceback   \S+/error\.txt$", called.out, re.MULTILINE)
    assert "eval/accuracy" in called.out


def test_a_trial_that_was_stopped_is_shown_with_the_reason(prefect_tune: CommandLine, tmp_path: Path) -> None:
    tuned(tmp_path, "ruled", stop={"training_iteration": 2})

    assert re.search(
        r"^reason +Stopped: training_iteration >= 2$",
        prefect_tune("show", tmp_path / "ruled", 0).out,
        re.MULTILINE,
    )


def test_a_limit_says_what_it_hides(prefect_tune: CommandLine, runs: Path) -> None:
    trials = prefect_tune("show", runs / "digits", "--limit", 1).out
    reports = prefect_tune("show", runs / "digits", 0, "--limit", 2).out

    assert "… and 2 more trials: --limit 3 shows all" in trials
    assert "… 3 earlier reports: --limit 5 shows all" in reports


def test_trials_can_be_compared_by_another_metric(prefect_tune: CommandLine, runs: Path) -> None:
    document = prefect_tune(
        "show", runs / "digits", "--metric", "eval/accuracy", "--mode", "max", "--json"
    ).json
    half = prefect_tune("show", runs / "digits", "--metric", "loss")

    assert document["metric"] == "eval/accuracy"
    assert document["best"]["value"] == pytest.approx(1 / (1 + 16 / 5))
    assert (half.code, "give both, or neither" in half.err) == (2, True)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("digts", "did you mean 'digits'?"),
        ("nothing/here", "there is no such directory, and no experiment in"),
        ("", "it is a storage path with 2 experiments (digits, wider); give one of them"),
        ("notes", "has 2 experiments (digits, wider)"),
        ("README", "holds no experiment"),
    ],
)
def test_a_wrong_path_is_told_what_is_there_instead(
    prefect_tune: CommandLine, runs: Path, path: str, told: str
) -> None:
    called = prefect_tune("show", runs / path)

    assert (called.code, called.out) == (1, "")
    assert called.err.startswith("prefect-tune: ")
    assert len(called.err.splitlines()) == 1
    assert told in called.err


@pytest.mark.parametrize("command", ["show", "resume", "export", "ls"])
@pytest.mark.parametrize("path", ["s3:/tuning/digits", "s3://AKIA:a/hunter2@tuning/digits"])
def test_what_only_resembles_a_url_is_refused_and_shows_no_secret(
    prefect_tune: CommandLine, command: str, path: str
) -> None:
    called = prefect_tune(command, path, *(("train:train",) if command == "resume" else ()))

    assert called.code != 0
    assert "a URL has '//'" in called.err or "where credentials end" in called.err
    assert "hunter2" not in called.err + called.out


@pytest.mark.parametrize("arguments", [(), ("show", "digits", "--limit"), ("ls", "--nonsense")])
def test_what_was_typed_wrongly_is_quoted_without_its_secret(
    prefect_tune: CommandLine, arguments: tuple[str, ...]
) -> None:
    called = prefect_tune(*arguments, "s3://AKIA:a/hunter2@tuning/digits")

    assert called.code != 0
    assert "hunter2" not in called.err + called.out


def test_a_trials_directory_is_told_from_an_experiment(prefect_tune: CommandLine, runs: Path) -> None:
    trial = next(each for each in (runs / "digits").iterdir() if each.name.startswith("train"))

    called = prefect_tune("show", trial)

    assert f"it is the directory of a trial; the experiment is likely {runs / 'digits'}" in called.err


def test_an_unknown_trial_is_told_which_there_are(prefect_tune: CommandLine, runs: Path) -> None:
    called = prefect_tune("show", runs / "digits", "99")

    assert called.code == 2
    assert "no such trial" in called.err
    assert "there are 3, from" in called.err


def test_a_file_in_the_way_of_an_experiment_does_not_end_in_a_traceback(
    prefect_tune: CommandLine, runs: Path
) -> None:
    called = prefect_tune("show", runs / "README" / "x")

    assert called.code == 1
    assert len(called.err.splitlines()) == 1


def test_experiments_side_by_side_show_what_they_do_not_share(prefect_tune: CommandLine, runs: Path) -> None:
    document = prefect_tune("compare", runs / "digits", runs / "wider", "--json").json
    drawn = prefect_tune("compare", runs / "digits", runs / "wider").out

    assert document["differences"] == {"tune_config/num_samples": [1, 2]}
    assert [each["num_trials"] for each in document["experiments"]] == [3, 6]
    assert "1: digits" in drawn
    assert "2: wider" in drawn
    assert ["tune_config/num_samples", "1", "2"] in [line.split() for line in drawn.splitlines()]


def test_samplers_that_differ_are_shown_as_the_calls_that_make_them(
    prefect_tune: CommandLine, runs: Path, tmp_path: Path
) -> None:
    import tune_core as tune

    tuned(tmp_path, "other", param_space={"lr": tune.uniform(0, 1)})

    document = prefect_tune("compare", runs / "digits", tmp_path / "other", "--json").json

    assert document["differences"]["param_space/lr"] == ["loguniform(0.001, 0.1)", "uniform(0, 1)"]


def test_comparing_needs_two(prefect_tune: CommandLine, runs: Path) -> None:
    called = prefect_tune("compare", runs / "digits")

    assert (called.code, "compare needs two experiments" in called.err) == (2, True)


def test_an_open_journal_asks_whether_its_driver_lives(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "digits", tmp_path / "cut")
    files = sorted((tmp_path / "cut" / "journal").iterdir())
    last = files[-1]
    while b"EndExperiment" not in last.read_bytes():
        files.pop().unlink()
        last = files[-1]
    header, *lines = last.read_bytes().split(b"\n")
    values = {**json.loads(header), "is_last": False}
    del values["digest"]
    opened = json.dumps(values).encode()
    left = [line for line in lines if b"EndExperiment" not in line]
    last.write_bytes(segments._sealed(opened, b"\n".join(left)))  # as if it had died before its last event
    asked: list[object] = []

    def status(url: str, owner: dict[str, object]) -> str:
        asked.append((url, owner["pid"]))
        return "died"

    monkeypatch.setattr(experiment, "driver_status", status)
    reading = read_experiment(ExperimentStorage.open(tmp_path, "cut"))

    assert reading.status == "died"
    assert not reading.has_succeeded
    assert asked == [(str(tmp_path / "cut"), os.getpid())]


def test_control_characters_of_an_error_do_not_reach_the_terminal(
    prefect_tune: CommandLine, tmp_path: Path
) -> None:
    def train(config: dict[str, object]) -> None:
        raise ValueError("\x1b[2J\x07 gone")

    tuned(tmp_path, "rude", trainable=train)

    for arguments in (["show", tmp_path / "rude"], ["show", tmp_path / "rude", 0], ["ls", tmp_path]):
        assert "\x1b" not in prefect_tune(*arguments).out
        assert "\x07" not in prefect_tune(*arguments).out


def test_a_driver_of_another_machine_is_unknown_where_no_server_knows_it() -> None:
    owner = {"host": "elsewhere", "pid": 1, "flow_run_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6"}

    assert driver_status("s3://bucket/x", {"host": "elsewhere", "pid": 1}) == "unknown"
    assert driver_status("s3://bucket/x", owner) == "unknown"


def test_a_driver_of_this_machine_is_dead_once_its_process_is_another_one(tmp_path: Path) -> None:
    owner = {"host": socket.gethostname(), "pid": os.getppid(), "process_started": "1"}

    assert driver_status(str(tmp_path), owner) == "died"


def test_nothing_that_is_stored_can_control_the_terminal(prefect_tune: CommandLine, tmp_path: Path) -> None:
    def report(config: dict[str, Any]) -> None:
        tune.report({"loss": 1.0, "a\x1b[2J": config["x"]})
        if config["x"] == "b\ud800":
            raise ValueError("\x1b[2J")

    tuned(tmp_path, "odd", trainable=report, param_space={"x": tune.grid_search(["a\x1b[2J", "b\ud800"])})

    for arguments in (["ls", tmp_path], ["show", tmp_path / "odd"], ["show", tmp_path / "odd", 0]):
        called = prefect_tune(*arguments)
        assert called.code == 0
        assert called.out.replace("\n", "").isprintable()


def test_a_name_that_no_experiment_can_have_does_not_keep_others_from_being_listed(
    prefect_tune: CommandLine, tmp_path: Path
) -> None:
    tuned(tmp_path, "digits")
    (tmp_path / "odd\x1b[2J" / "journal").mkdir(parents=True)

    called = prefect_tune("ls", tmp_path)

    assert called.code == 0
    assert [line.split()[0] for line in called.out.splitlines()] == ["NAME", "digits", "one"]
