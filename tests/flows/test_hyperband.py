"""HyperBand with real processes and checkpoints on S3: who trains how far, also if the driver dies in a bracket."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.support.processes import descendants
from tests.support.scripts import start_script, wait_until_gone
from tests.support.waiting import wait_for
from tune_core.control.messages import ExperimentResumed, TrialReported
from tune_core.control.segments import read_journal
from tune_core.schedulers import HyperBandScheduler
from tune_core.states import Decision
from tune_core.storage.experiment_storage import ExperimentStorage

#: Brackets of 3, 3 and 4 trials; the higher its number, the better a trial is. None is compared in the first; one
#: of three ends at 2 in the second; of four, two end at 1 and another at 2 in the third.
EXPECTED = [4, 4, 4, 2, 4, 4, 1, 1, 2, 4]


def climb(config: dict[str, Any]) -> None:
    """Count up for ever, saving each step."""
    import tempfile
    import time
    from pathlib import Path

    import tune_core as tune

    start = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            start = int((Path(directory) / "step").read_text())
    for step in range(start + 1, 100):
        time.sleep(config.get("pause_s", 0))
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "step").write_text(str(step))
            saved = tune.Checkpoint.from_directory(directory)
            tune.report({"score": config["x"] + step / 100}, checkpoint=saved)


def tune_config() -> tune.TuneConfig:
    scheduler = HyperBandScheduler(max_t=4, reduction_factor=2)
    return tune.TuneConfig(metric="score", mode="max", scheduler=scheduler)


SPACE = {"x": tune.grid_search(list(range(10)))}


def steps_of(results: tune.ResultGrid) -> list[list[int]]:
    """The iterations of every row of every trial, in creation order of the trials."""
    return [[row["training_iteration"] for row in result.rows] for result in results]


def events(path: str, options: dict[str, Any]) -> list[Any]:
    parent, _, name = path.rpartition("/")
    return [event for event, _ in read_journal(ExperimentStorage.open(parent, name, storage_options=options))]


def test_the_best_of_each_bracket_go_on_from_their_checkpoints(
    cluster: None, run_config: Callable[..., tune.RunConfig], s3: S3Server
) -> None:
    run = run_config(storage_path=f"s3://{s3.bucket}", storage_options=s3.storage_options)
    tuner = tune.Tuner(climb, param_space=SPACE, tune_config=tune_config(), run_config=run)

    results = tuner.fit()

    assert steps_of(results) == [list(range(1, end + 1)) for end in EXPECTED]  # nothing is trained twice
    assert results.num_terminated == 10
    assert results.get_best_result().config["x"] == 9
    pauses = [
        event
        for event in events(f"{run.storage_path}/{run.name}", s3.storage_options)
        if isinstance(event, TrialReported) and event.decision is Decision.PAUSE
    ]
    assert len(pauses) >= 5


SCRIPT = """
import json
import sys
import ray
import tune_core as tune
from tests.flows.test_hyperband import SPACE, climb, steps_of, tune_config

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    path, options = {path!r}, {options!r}
    if {restored!r}:
        tuner = tune.Tuner.restore(path, climb, storage_options=options)
    else:
        parent, _, name = path.rpartition("/")
        run = tune.RunConfig(name=name, storage_path=parent, storage_options=options, verbose=0)
        space = {{**SPACE, "pause_s": 0.2}}
        tuner = tune.Tuner(climb, param_space=space, tune_config=tune_config(), run_config=run)
    print("steps:", json.dumps(steps_of(tuner.fit())))
"""


def is_in_the_last_bracket(path: str, options: dict[str, Any]) -> bool:
    """Whether one of its trials is paused, and none has been compared yet."""
    told = [event for event in events(path, options) if isinstance(event, TrialReported)]
    return any(event.decision is Decision.PAUSE for event in told if int(event.trial_id[-5:]) >= 6)


@pytest.mark.slow
def test_a_driver_that_dies_in_a_bracket_goes_on_with_it(tmp_path: Path, api: str, s3: S3Server) -> None:
    path, options = f"s3://{s3.bucket}/bracket-{tmp_path.name[-8:]}", s3.storage_options

    def run(restored: bool) -> Any:
        script = tmp_path / f"script{restored}.py"
        script.write_text(SCRIPT.format(path=path, options=options, restored=restored))
        return start_script(script, api)

    process = run(restored=False)
    wait_for(lambda: is_in_the_last_bracket(path, options), what="a paused trial", timeout_s=180)
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = [event for event in events(path, options) if isinstance(event, TrialReported)]
    assert {event.trial_id[-5:] for event in before if event.iteration == 4} < {f"{n:05d}" for n in range(10)}

    again = run(restored=True)
    printed, _ = again.communicate(timeout=240)

    assert again.returncode == 0, printed
    line = next(each for each in printed.splitlines() if each.startswith("steps: "))
    steps = json.loads(line.removeprefix("steps: "))
    assert [sorted(set(each)) for each in steps] == [list(range(1, end + 1)) for end in EXPECTED]
    assert any(isinstance(event, ExperimentResumed) for event in events(path, options))
    wait_until_gone(family, timeout_s=120)
