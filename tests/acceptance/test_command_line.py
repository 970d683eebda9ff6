"""`prefect-tune` as a user types it: each call a process, on a Prefect server, S3 and Ray of their own."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.seaweedfs import S3Server, start_seaweedfs
from tests.support.waiting import wait_for
from tune_core.engine.server import server as prefect_servers

ROOT = Path(__file__).resolve().parents[2]

#: What users write: a trainable that takes its time, and the description of an experiment.
MODELS = """
import tempfile
import time
from pathlib import Path

import tune_core as tune


def train(config):
    first, checkpoint = 0, tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            first = int(Path(directory, "state").read_text()) + 1
    for step in range(first, config["steps"]):
        time.sleep(config["pause_s"])
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state").write_text(str(step))
            checkpoint = tune.Checkpoint.from_directory(directory)
            tune.report({"loss": config["lr"] + 1 / (step + 1)}, checkpoint=checkpoint)
"""
SPEC = """
trainable: models:train
param_space:
  lr: {type: uniform, lower: 0, upper: 1}
  steps: 2000
  pause_s: 0.2
tune_config: {metric: loss, mode: min, num_samples: 2, max_concurrent_trials: 2}
run_config: {storage_path: PLACE}
"""


class Shell:
    """Calls `prefect-tune` in a directory with the user's files."""

    def __init__(self, directory: Path, api_url: str, s3: S3Server) -> None:
        self.directory, self.place = directory, f"s3://{s3.bucket}/runs"
        self.started: list[subprocess.Popen[str]] = []
        (directory / "models.py").write_text(MODELS)
        self.describe("spec.yaml")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = {
            **kept,
            **s3.environment,
            "PREFECT_API_URL": api_url,
            "PREFECT_HOME": str(directory / "prefect"),
            "PYTHONPATH": str(ROOT),
        }

    def describe(self, file: str, **changes: str) -> None:
        """Write the description of an experiment: the usual one, with some texts replaced."""
        text = SPEC.replace("PLACE", self.place)
        for before, after in changes.items():
            text = re.sub(rf"{before}: [^,}}\n]+", f"{before}: {after}", text)
        (self.directory / file).write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tune_core.cli", *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(
        self, *arguments: str, code: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "tune_core.cli", *arguments],
            cwd=self.directory,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def wait_for_reports(self, experiment: str, process: subprocess.Popen[str]) -> Any:
        """Wait until both trials of an experiment have reported; return what `show` says then."""

        def seen() -> Any:
            assert process.poll() is None, process.communicate()
            names = [each["name"] for each in self.json("ls", self.place)["experiments"]]
            if experiment not in names:
                return None
            document = self.json("show", f"{self.place}/{experiment}")
            return (
                document if [bool(each["iterations"]) for each in document["trials"]] == [True] * 2 else None
            )

        return wait_for(seen, f"reports of {experiment}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    s3 = start_seaweedfs(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        server = prefect_servers.start_own_server()
    shell = Shell(tmp_path_factory.mktemp("user"), server.api_url, s3)
    try:
        yield shell
    finally:
        for process in shell.started:  # what a failed test has left
            process.kill()
            process.communicate()
        prefect_servers.stop_own_server()
        s3.stop()


def test_an_experiment_is_run_watched_stopped_and_exported(shell: Shell, tmp_path: Path) -> None:
    path = f"{shell.place}/first"
    running = shell.start("run", "spec.yaml", "--name", "first", "--json")
    seen = shell.wait_for_reports("first", running)
    answer = shell("stop", path, "--reason", "seen enough")
    code, out, err = ended(running)

    assert seen["status"] == "running"
    assert seen["trials_by_status"] == {"RUNNING": 2}
    assert answer.stdout.strip()
    document = json.loads(out)
    assert code == 0, err
    assert (document["status"], document["trials_by_status"]) == ("ended", {"TERMINATED": 2})
    assert "seen enough" in document["reason"]
    assert document["best"]["checkpoint"].startswith(f"{path}/")
    assert document["idle_cpu_seconds"] is not None

    shown = shell("show", path).stdout
    assert "status      ended: " in shown
    assert document["best"]["trial_id"] in shown
    shell("export", path, "--rows", "--to", str(tmp_path / "rows.csv"))
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(trial["iterations"] for trial in document["trials"])
    assert "has ended" in shell("stop", path, code=1).stderr


def test_doctor_finds_servers_storage_and_workers_well(shell: Shell) -> None:
    installed = shell("automations", "install", "--silent-for", "60")
    document = shell.json("doctor", "--storage", shell.place)

    outcomes = {check["name"].partition(" from ")[0]: check["outcome"] for check in document["checks"]}
    assert "installed crash_detection" in installed.stdout
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "ok"} == {}
    for name in ("versions", "server", "crash detection", "storage: create-only writes", "storage: clock"):
        assert name in outcomes
    for name in ("ray", "ray: server", "ray: storage"):  # as the workers see them
        assert name in outcomes


def test_doctor_tells_a_wrong_secret_and_a_server_that_is_away(shell: Shell) -> None:
    done = shell(
        "doctor",
        "--no-ray",
        "--storage",
        shell.place,
        code=1,
        AWS_SECRET_ACCESS_KEY="wrong-S3CRET",
        PREFECT_API_URL="http://127.0.0.1:9/api",
    )

    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["fail", "server"] in [line[:2] for line in lines]
    assert any(line[0] == "fail" and line[1] == "storage:" for line in lines if line)
    assert "check the credentials" in " ".join(done.stdout.split())
    assert "S3CRET" not in done.stdout + done.stderr


def test_a_wrong_file_is_refused_with_the_names_of_its_fields(shell: Shell) -> None:
    shell.describe("wrong.yaml", mode="down", upper="-1")

    done = shell("run", "wrong.yaml", code=2)

    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "tune_config.mode" in done.stderr
    assert "param_space" in done.stderr


def test_a_server_that_is_away_is_told_before_anything_starts(shell: Shell) -> None:
    done = shell("run", "spec.yaml", "--name", "never", code=1, PREFECT_API_URL="http://127.0.0.1:9/api")

    assert len(done.stderr.splitlines()) == 1
    assert "http://127.0.0.1:9/api does not answer" in done.stderr
    assert "never" not in [each["name"] for each in shell.json("ls", shell.place)["experiments"]]


@pytest.mark.slow
def test_an_interrupted_and_then_killed_experiment_is_resumed_and_extended(shell: Shell) -> None:
    path = f"{shell.place}/second"
    shell.describe("quick.yaml", steps="40")

    first = shell.start("run", "quick.yaml", "--name", "second", "--json")
    shell.wait_for_reports("second", first)
    first.send_signal(signal.SIGINT)
    code, out, _ = ended(first)
    assert code == 130
    assert json.loads(out)["status"] == "interrupted"

    second = shell.start("resume", path, "models:train", "--json")
    wait_for(lambda: shell.json("show", path)["num_drivers"] == 2, "the second driver")
    shell.wait_for_reports("second", second)
    second.kill()
    ended(second)
    assert shell.json("show", path)["status"] == "died"

    refused = shell("resume", path, code=2).stderr
    assert f"prefect-tune resume {path} package.module:train" in refused
    resumed = shell.json("resume", path, "models:train")
    assert (resumed["status"], resumed["num_drivers"]) == ("ended", 3)
    assert [trial["iterations"] for trial in resumed["trials"]] == [40, 40]

    extended = shell.json("extend", path, "models:train", "--num-samples", "3")
    assert [trial["iterations"] for trial in extended["trials"]] == [40, 40, 40]


@pytest.mark.slow
def test_a_running_experiment_is_steered(shell: Shell) -> None:
    path = f"{shell.place}/third"
    running = shell.start("run", "spec.yaml", "--name", "third", "--json")
    shell.wait_for_reports("third", running)

    def statuses() -> dict[int, str]:
        return {trial["number"]: trial["status"] for trial in shell.json("show", path)["trials"]}

    shell("steer", path, "pause", "0")
    wait_for(lambda: statuses()[0] == "PAUSED", "the pause of trial 0")
    shell("steer", path, "add", "lr=0.5")
    wait_for(lambda: statuses().get(2) == "RUNNING", "the trial that was added")
    shell("steer", path, "resume", "0")
    shell("steer", path, "stop", "1")
    wait_for(lambda: statuses()[1] == "TERMINATED", "the end of trial 1")
    wait_for(lambda: statuses()[0] == "RUNNING", "trial 0 to go on")
    refused = shell("steer", path, "stop", "77", code=1)
    assert "refused: " in refused.stdout
    shell("steer", path, "num-samples", "3")
    shell("steer", path, "stop", "2")  # two run at once
    wait_for(lambda: len(statuses()) == 4, "the sample that was added")
    shell("stop", path)
    code, out, err = ended(running)

    assert code == 0, err
    assert json.loads(out)["trials_by_status"] == {"TERMINATED": 4}
