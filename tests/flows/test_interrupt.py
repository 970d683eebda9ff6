"""Ctrl-C and what is left afterwards, seen from outside: each test runs a script of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.conftest import Recorded
from tests.support.processes import descendants
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]

ENDLESS = """
import sys, time
from pathlib import Path
import ray
import tune_core as tune

marks = Path({marks!r})

def endless(config):
    try:
        for step in range(10_000):
            time.sleep(0.05)
            tune.report({{"step": step}})
            (marks / f"running-{{config['x']}}").touch()
    finally:
        (marks / f"finally-{{config['x']}}").touch()

def deaf(config):
    tune.report({{"step": 0}})
    (marks / f"running-{{config['x']}}").touch()
    time.sleep(600)

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    results = tune.Tuner(
        {trainable},
        param_space={{"x": tune.grid_search([0, 1, 2])}},
        run_config=tune.RunConfig(name={name!r}, storage_path={storage!r}, stop_timeout_s={stop_timeout_s}),
    ).fit()
    print("trials:", [(len(result.rows) > 0, str(result.status)) for result in results], flush=True)
    groups = [g for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
    print("groups left:", len(groups), flush=True)
"""


def stop_is_journaled(directory: Path) -> bool:
    return any("StopRequested" in segment.read_text() for segment in directory.glob("journal/*.jsonl"))


def start(
    tmp_path: Path, api: str, trainable: str, name: str, stop_timeout_s: float = 5
) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    text = ENDLESS.format(
        marks=str(tmp_path),
        name=name,
        storage=str(tmp_path / "results"),
        trainable=trainable,
        stop_timeout_s=stop_timeout_s,
    )
    script.write_text(text)
    return start_script(script, api)


def start_script(script: Path, api: str) -> subprocess.Popen[str]:
    """Run a script in a process group of its own, against the tests' server."""
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": api},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    """Send what a terminal sends: SIGINT, to the whole process group."""
    os.killpg(process.pid, signal.SIGINT)


def wait_until_gone(family: list[int], timeout_s: float = 60.0) -> None:
    wait_for(
        lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()],
        what="every process to end",
        timeout_s=timeout_s,
    )


@pytest.mark.parametrize("trainable", ["endless", pytest.param("deaf", marks=pytest.mark.slow)])
def test_ctrl_c_stops_the_trials_in_order_and_leaves_nothing(
    trainable: str, tmp_path: Path, api: str, recorded: Callable[[str], Recorded]
) -> None:
    name = f"interrupted-{trainable}-{tmp_path.name[-6:]}"
    process = start(tmp_path, api, trainable, name)
    wait_for(lambda: (tmp_path / "running-1").exists(), what="the second trial", timeout_s=120)
    family = descendants(process.pid)

    press_ctrl_c(process)
    printed, _ = process.communicate(timeout=90)

    assert process.returncode == 0, printed
    assert "Tuner.restore" in printed
    assert "groups left: 0" in printed
    assert "trials: [(True, 'PAUSED'), (True, 'PAUSED')" in printed
    if trainable == "endless":
        assert {path.name for path in tmp_path.glob("finally-*")} == {"finally-0", "finally-1"}
    seen = recorded(name)
    assert seen.flow_run.state_name == "Cancelled"
    assert {run.state_name for run in seen.task_runs(2)} == {"Cancelled"}
    wait_for(
        lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], what="every process to end"
    )


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing_either(
    tmp_path: Path, api: str, recorded: Callable[[str], Recorded]
) -> None:
    name = f"twice-{tmp_path.name[-6:]}"
    process = start(tmp_path, api, "deaf", name, stop_timeout_s=600)
    wait_for(lambda: (tmp_path / "running-1").exists(), what="the second trial", timeout_s=120)
    family = descendants(process.pid)

    press_ctrl_c(process)
    wait_for(lambda: stop_is_journaled(tmp_path / "results" / name), what="the first one to be heard")
    press_ctrl_c(process)
    printed, _ = process.communicate(timeout=90)

    assert process.returncode != 0
    assert "KeyboardInterrupt" in printed
    seen = recorded(name)
    assert seen.flow_run.state_name == "Cancelled"
    assert {run.state_name for run in seen.task_runs(2)} == {"Cancelled"}
    wait_until_gone(family)
