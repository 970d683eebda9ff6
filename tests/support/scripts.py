"""Scripts that run experiments in processes of their own, and are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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
