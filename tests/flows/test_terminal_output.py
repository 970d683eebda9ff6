"""What a script shows on its terminal of what its trials print, log and raise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import logging, sys
import ray
import tune_core as tune

logging.basicConfig(level=logging.INFO)

def train(config):
    print("printed by", "abc"[config["x"]])
    logging.getLogger("mine").info("not asked for")
    tune.report({"loss": config["x"]})
    if config["x"] == 2:
        raise ValueError("made up")

if __name__ == "__main__":
    if sys.argv[2] == "user":
        ray.init(num_cpus=2, include_dashboard=False)
    tune.Tuner(
        train,
        param_space={"x": tune.grid_search([1, 2])},
        run_config=tune.RunConfig(name="shown", storage_path=sys.argv[1], verbose=int(sys.argv[3])),
    ).fit()
"""


@pytest.mark.parametrize(("whose_ray", "verbose"), [("ours", 1), ("user", 1), ("ours", 0)])
def test_terminal_shows_what_trials_print_and_why_they_fail_once_and_no_requests(
    tmp_path: Path, whose_ray: str, verbose: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    environment.pop("PREFECT_API_URL", None)

    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "results"), whose_ray, str(verbose)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )

    shown = ran.stdout + ran.stderr
    assert ran.returncode == 0, shown
    assert "HTTP Request" not in shown
    assert "not asked for" not in shown
    assert "recorder" not in shown  # it has nothing to say to a user
    if verbose:
        assert {*re.findall(r"\(trial pid=\d+\)\S* (\w+_0000\d: printed by \w)", shown)} == {
            *re.findall(r"\w+_00000: printed by b", shown),
            *re.findall(r"\w+_00001: printed by c", shown),
        }
        assert shown.count("printed by") == 2
        assert shown.count("in train") == 1
        assert shown.count("raise ValueError") == 1
        assert "_00001 failed" in shown
    else:
        assert "printed by" not in shown
        assert "Traceback" not in shown
