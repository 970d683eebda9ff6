"""Trials that pause at rungs and are promoted, on real Ray with checkpoints on S3, over the death of the driver."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded
from tests.flows.test_resume import count, rows_of
from tests.support.processes import descendants
from tests.support.scripts import start_script, wait_until_gone
from tests.support.waiting import wait_for
from tune_core.control.messages import Event, ExperimentResumed, PausedChosen, TrialReported
from tune_core.control.segments import read_journal
from tune_core.schedulers import ASHAScheduler
from tune_core.storage.experiment_storage import ExperimentStorage

#: `count` saves at even steps, so that there are rungs at 2 and 4; the more x, the better.
XS = [3, 1, 2, 6, 5, 4]
SCRIPT = """
import ray
import tune_core as tune
from tests.flows.test_promotion import XS
from tests.flows.test_resume import count

if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    path, restored, options = {path!r}, {restored!r}, {options!r}
    if restored:
        tuner = tune.Tuner.restore(path, count, storage_options=options)
    else:
        parent, _, name = path.rpartition("/")
        scheduler = tune.schedulers.ASHAScheduler(
            max_t=8, grace_period=2, reduction_factor=2, type="promotion"
        )
        tuner = tune.Tuner(
            count,
            param_space={{"x": tune.grid_search(XS), "steps": 9, "pause_s": 0.1}},
            tune_config=tune.TuneConfig(
                metric="score", mode="max", scheduler=scheduler, max_concurrent_trials=1
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=parent,
                storage_options=options,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        )
    for result in tuner.fit():
        print("ended:", result.config["x"], [row["training_iteration"] for row in result.rows], result.reason)
"""


def run_script(
    tmp_path: Path, api: str, path: str, options: dict[str, Any], *, restored: bool
) -> subprocess.Popen[str]:
    script = tmp_path / f"promoting{int(restored)}.py"
    script.write_text(SCRIPT.format(path=path, restored=restored, options=options))
    return start_script(script, api)


def journal(path: str, options: dict[str, Any]) -> list[Event]:
    parent, _, name = path.rpartition("/")
    return [event for event, _ in read_journal(ExperimentStorage.open(parent, name, storage_options=options))]


def promotions(events: list[Event]) -> list[str]:
    return [event.trial_id for event in events if isinstance(event, PausedChosen) and event.trial_id]


@pytest.mark.slow
def test_a_driver_that_is_killed_in_a_promotion_goes_on_promoting(
    tmp_path: Path, api: str, s3: S3Server
) -> None:
    path, options = f"s3://{s3.bucket}/promoted-{tmp_path.name[-8:]}", s3.storage_options
    process = run_script(tmp_path, api, path, options, restored=False)

    def is_in_a_promotion() -> bool:
        events = journal(path, options)
        last = [
            place for place, event in enumerate(events) if isinstance(event, PausedChosen) and event.trial_id
        ]
        return bool(last) and any(
            isinstance(event, TrialReported) and event.iteration == 3 for event in events[last[-1] :]
        )

    wait_for(is_in_a_promotion, what="a promoted trial's report", timeout_s=120)
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = journal(path, options)

    again = run_script(tmp_path, api, path, options, restored=True)
    printed, _ = again.communicate(timeout=240)

    assert again.returncode == 0, printed
    after = journal(path, options)
    assert after[: len(before)] == before
    assert any(isinstance(event, ExperimentResumed) for event in after)
    assert len(promotions(after)) > len(promotions(before)) >= 1
    ended = {line.split()[1]: line for line in printed.splitlines() if line.startswith("ended:")}
    assert "[1, 2, 3, 4, 5, 6, 7, 8] Stopped: training_iteration >= 8" in ended["6"], printed
    assert "[1, 2] Stopped early: rung 2, rank 6 of 6, needed score >= 8, had 2" in ended["1"], printed
    # By hand, in the order of XS, one at a time: 3 is promoted as the best of two, 6 of four (and as the best of two
    # at the rung at 4), 5 as the second of five, 4 as the third of six, and then 5 as the second of four.
    assert sorted(ended) == ["1", "2", "3", "4", "5", "6"]
    assert "[1, 2, 3, 4, 5, 6, 7, 8]" in ended["5"], printed
    assert all("[1, 2, 3, 4] Stopped early: rung 4" in ended[x] for x in "34"), printed
    assert "[1, 2] Stopped early: rung 2, rank 5 of 6" in ended["2"], printed
    wait_until_gone(family, timeout_s=120)


def test_the_state_of_a_task_run_says_why_its_trial_was_paused_or_stopped(
    cluster: None, run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    scheduler = ASHAScheduler(max_t=4, grace_period=2, reduction_factor=2, type="promotion")
    run = run_config()

    results = tune.Tuner(
        count,
        param_space={"x": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(metric="score", mode="max", scheduler=scheduler, max_concurrent_trials=1),
        run_config=run,
    ).fit()

    assert rows_of(results) == [[(1, 1), (2, 2)], [(step, 2 * step) for step in range(1, 5)]]
    assert [result.reason for result in results] == [
        "Stopped early: rung 2, rank 2 of 2, needed score >= 4, had 2",
        "Stopped: training_iteration >= 4",
    ]
    states = {each.name: each.state for each in recorded(str(run.name)).task_runs(3)}
    said = {name: state.message for name, state in states.items() if state is not None}
    first, second = (result.metrics["trial_id"] for result in results if result.metrics)
    assert said == {
        f"trial-{first}": "Paused: rung 2, rank 1 of 1, had score 2.",
        f"trial-{second}": "Paused: rung 2, rank 1 of 2, needed score >= 4, had 4.",
        f"trial-{second}-attempt-2": "Stopped: training_iteration >= 4.",
    }
