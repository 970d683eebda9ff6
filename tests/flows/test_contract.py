"""The documentation of Ray Tune's function API, with only its import changed.

The blocks in `contract/` are the API's contract, word for word; what they leave undefined is the prelude.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import get_current_placement_group

import tune_core as tune

#: `score` of the blocks' objective at the last of 20 steps, with a=2 and b=4.
LAST_SCORE = 2 * 19**0.5 + 4

PRELUDE = "def objective(x, a, b):\n    return a * (x ** 0.5) + b\n"


def run_block(name: str, **prelude: Any) -> dict[str, Any]:
    """Execute a block as a script that imports this library instead of Ray Tune; return its variables."""
    block = textwrap.dedent((Path(__file__).parent / "contract" / f"{name}.py.txt").read_text())
    variables = {"__name__": "__main__", "tune": tune, **prelude}
    exec(PRELUDE + block.replace("from ray import tune", "import tune_core as tune"), variables)
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
