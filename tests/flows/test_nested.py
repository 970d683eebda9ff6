"""Tuners in several trials at the same time: with room, without, and when the driver is told to end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.processes import descendants
from tests.support.scripts import start_script, wait_until_gone
from tests.support.waiting import wait_for


def tunes(path: Path, at_once: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a trainable that tunes one trial after another, once so many of its kind do."""

    def inner(config: dict[str, Any]) -> dict[str, Any]:
        return {"score": config["factor"] * config["x"]}

    def outer(config: dict[str, Any]) -> dict[str, Any]:
        factor = config["factor"]
        (path / f"began-{factor}").touch()
        deadline = time.monotonic() + 60
        while len(list(path.glob("began-*"))) < at_once and time.monotonic() < deadline:
            time.sleep(0.05)
        results = tune.Tuner(
            inner,
            param_space={"factor": factor, "x": tune.grid_search([1, 2, 3])},
            tune_config=tune.TuneConfig("max", "score", max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=str(path / "inner"), verbose=0),
        ).fit()
        return {"scores": [result.metrics["score"] for result in results]}

    return outer


def fit_outer(trainable: Any, cpus: float, num: int, run_config: tune.RunConfig) -> tune.ResultGrid:
    space = {"factor": tune.grid_search(list(range(1, num + 1)))}
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": cpus}), param_space=space, run_config=run_config
    ).fit()


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 2], ids=["room for all", "room for two"])
def test_three_trials_that_tune_at_once_all_find_what_they_tune(
    cpus: int, cluster: None, run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    results = fit_outer(tunes(tmp_path, at_once=3), cpus, 3, run_config())

    assert [result.error for result in results] == [None] * 3
    assert [result.metrics["scores"] for result in results] == [[f, 2 * f, 3 * f] for f in (1, 2, 3)]
    assert len(list((tmp_path / "inner").iterdir())) == 3


@pytest.mark.slow
def test_trials_that_leave_their_tuners_no_room_do_not_wait_for_each_other_for_ever(
    cluster: None, run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    results = fit_outer(tunes(tmp_path, at_once=4), 2, 4, run_config())

    refused = [str(result.error) for result in results if result.error]
    assert len(refused) == 1, refused
    assert "max_concurrent_trials" in refused[0]
    found = [result.metrics["scores"] for result in results if not result.error]
    assert all(scores == [scores[0], 2 * scores[0], 3 * scores[0]] for scores in found)


TUNING = """
import time
from pathlib import Path
import ray
import tune_core as tune

marks = Path({marks!r})

def inner(config):
    for step in range(10_000):
        time.sleep(0.05)
        tune.report({{"step": step}})
        (marks / f"running-{{config['factor']}}").touch()

def outer(config):
    results = tune.Tuner(
        inner,
        param_space={{"factor": config["factor"], "x": tune.grid_search([1, 2, 3])}},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path={inner!r}, verbose=0),
    ).fit()
    return {{"num": len(results)}}

if __name__ == "__main__":
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tune.Tuner(
        outer,
        param_space={{"factor": tune.grid_search([1, 2, 3])}},
        run_config=tune.RunConfig(storage_path={outer!r}),
    ).fit()
"""


@pytest.mark.slow
def test_sigterm_while_three_trials_tune_ends_everything_within_45_s(api: str, tmp_path: Path) -> None:
    places = {"marks": str(tmp_path), "inner": str(tmp_path / "inner"), "outer": str(tmp_path / "outer")}
    script = tmp_path / "script.py"
    script.write_text(TUNING.format(**places))
    process = start_script(script, api)
    wait_for(lambda: len(list(tmp_path.glob("running-*"))) == 3, what="a trial in each trial", timeout_s=180)
    family = descendants(process.pid)

    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=90)
    wait_until_gone(family)

    assert time.monotonic() - began < 45, printed
