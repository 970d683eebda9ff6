"""The documentation of training in Ray Tune, with only its imports changed.

The blocks in `contract/` are the API's contract, word for word; what they leave undefined is the prelude.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import get_current_placement_group

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]

#: `score` of the blocks' objective at the last of 20 steps, with a=2 and b=4.
LAST_SCORE = 2 * 19**0.5 + 4

PRELUDE = "def objective(x, a, b):\n    return a * (x ** 0.5) + b\n"


#: The only changes: what the blocks import, and by which name they call it.
IMPORTS = {
    "from ray import tune": "import tune_core as tune",
    "from ray.tune.tuner import Tuner": "from tune_core.tuner import Tuner",
    "ray.tune.": "tune.",
}


def block(name: str) -> str:
    """A block as a script that imports this library instead of Ray Tune."""
    text = textwrap.dedent((Path(__file__).parent / "contract" / f"{name}.py.txt").read_text())
    for theirs, ours in IMPORTS.items():
        text = text.replace(theirs, ours)
    return text


def run_block(name: str, **prelude: Any) -> dict[str, Any]:
    """Execute a block; return its variables."""
    variables = {"__name__": "__main__", "tune": tune, **prelude}
    exec(PRELUDE + block(name), variables)
    return variables


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The blocks name no storage path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_trainable_that_reports_each_step_has_twenty_iterations(home: Path) -> None:
    results = run_block("report_each_step")["results"]

    assert results.num_errors == 0
    assert results[0].config == {"a": 2, "b": 4}
    assert results[0].metrics["score"] == pytest.approx(LAST_SCORE)
    scores = list(results[0].metrics_dataframe["score"])
    assert scores == pytest.approx([2 * x**0.5 + 4 for x in range(20)])
    assert Path(results[0].path).is_relative_to(home)


def test_trainable_that_reports_once_at_the_end_has_one_iteration() -> None:
    results = run_block("report_once")["results"]

    assert results.num_errors == 0
    assert results[0].metrics["score"] == pytest.approx(LAST_SCORE)
    assert results[0].metrics["training_iteration"] == 1


def test_trainable_that_returns_its_metrics_reports_them() -> None:
    trainable = run_block("return_metrics")["trainable"]

    results = tune.Tuner(trainable, param_space={"a": 2, "b": 4}).fit()

    assert results.num_errors == 0
    assert results[0].metrics["score"] == pytest.approx(LAST_SCORE)
    assert results[0].metrics["training_iteration"] == 1


def test_class_that_is_stopped_after_twenty_steps_has_twenty_iterations() -> None:
    results = run_block("class_api")["results"]

    assert results.num_errors == 0
    assert results[0].metrics["score"] == pytest.approx(LAST_SCORE)
    assert list(results[0].metrics_dataframe["training_iteration"]) == list(range(1, 21))
    assert results[0].checkpoint is None


def test_reused_actor_is_set_up_once_for_ten_trials(
    home: Path, api: str, recorded: Callable[[str], Recorded]
) -> None:
    script = home / "reuse_actors.py"
    script.write_text(f"{block('reuse_actors')}\nprint(tuner_with_reuse.get_results().experiment_path)\n")
    address = ray.get_runtime_context().gcs_address
    token = Path(pwd.getpwuid(os.getuid()).pw_dir, ".ray", "auth_token")  # the home is another one here
    environment = {
        **os.environ,
        "PREFECT_API_URL": api,
        "RAY_ADDRESS": address,
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONPATH": str(ROOT),
    }

    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=200, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "EXPENSIVE" not in done.stdout  # verbose=0
    seen = recorded(Path(done.stdout.strip().splitlines()[-1]).name)
    assert {run.state_name for run in seen.task_runs(10)} == {"Completed"}
    wait_for(lambda: "EXPENSIVE SETUP" in seen.logs(), what="the trials' logs")
    assert seen.logs().count("EXPENSIVE SETUP") == 1


def test_trainable_with_five_bundles_has_a_gpu_itself_and_four_more_for_its_actors() -> None:
    def my_trainable(config: dict[str, Any]) -> None:
        actor = ray.remote(num_cpus=0, num_gpus=1)(_Worker)
        workers = [actor.remote() for _ in range(4)]
        gpus = [*ray.get_gpu_ids(), *(gpu for worker in workers for gpu in ray.get(worker.gpus.remote()))]
        tune.report({"gpus": sorted(map(str, gpus)), "bundles": get_current_placement_group().bundle_specs})

    tuner = run_block("with_resources", my_trainable=my_trainable, RunConfig=tune.RunConfig)["tuner"]
    results = tuner.fit()

    assert results.num_errors == 0
    assert results[0].metrics["gpus"] == ["0", "1", "2", "3", "4"]
    assert results[0].metrics["bundles"] == [{"CPU": 1.0, "GPU": 1.0}, *[{"GPU": 1.0}] * 4]
    assert Path(results.experiment_path).name == "my_trainable"


class _Worker:
    def gpus(self) -> list[Any]:
        return list(ray.get_gpu_ids())
