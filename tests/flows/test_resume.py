"""Experiments that go on where their journal ends: after a retry, a kill, a takeover, and with more to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.runtime import flow_run
from prefect.states import Crashed

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded
from tests.support.counting import FailAt, count, events, rows_of, undisturbed
from tests.support.processes import descendants
from tests.support.scripts import start_script, wait_until_gone
from tests.support.waiting import wait_for
from tune_core.control.messages import ExperimentResumed, SpecRecorded, TrialReported
from tune_core.control.segments import read_journal
from tune_core.engine.experiment import experiment
from tune_core.errors import ExperimentConflict
from tune_core.storage.experiment_storage import ExperimentStorage

ROOT = Path(__file__).resolve().parents[2]


def test_a_flow_that_is_tried_again_goes_on_with_its_experiments(cluster: None, tmp_path: Path) -> None:
    paths = []

    @flow(retries=1, log_prints=False)
    def nightly() -> list[tune.ResultGrid]:
        grids = []
        for xs, fails_at in (([1, 2], 1000), ([3, 4], 7)):
            callbacks = [FailAt(fails_at)] if flow_run.run_count == 1 else []
            run_config = tune.RunConfig(storage_path=str(tmp_path), verbose=0, callbacks=callbacks)
            tuner = tune.Tuner(count, param_space={"x": tune.grid_search(xs)}, run_config=run_config)
            grids.append(tuner.fit())
            paths.append(grids[-1].experiment_path)
        return grids

    first, second = nightly()

    assert paths[0] == paths[1] == first.experiment_path  # it was finished, and is not run again
    assert len({*paths}) == 2
    assert len(list(tmp_path.iterdir())) == 2
    assert not any(isinstance(event, ExperimentResumed) for event in events(first.experiment_path))
    assert any(isinstance(event, ExperimentResumed) for event in events(second.experiment_path))
    assert rows_of(first) == undisturbed([1, 2])
    assert rows_of(second) == undisturbed([3, 4])


@pytest.mark.slow
def test_the_experiment_flow_itself_may_be_tried_again(
    cluster: None, run_config: Callable[..., tune.RunConfig]
) -> None:
    results = experiment.with_options(retries=1)(
        count, param_space={"x": tune.grid_search([1, 2])}, run_config=run_config(callbacks=[FailAt(7)])
    )

    assert rows_of(results) == undisturbed([1, 2])
    assert any(isinstance(event, ExperimentResumed) for event in events(results.experiment_path))


@pytest.mark.slow
def test_a_flow_run_of_its_own_begins_a_new_experiment(cluster: None, tmp_path: Path) -> None:
    @flow
    def nightly() -> str:
        run_config = tune.RunConfig(storage_path=str(tmp_path), verbose=0)
        return tune.Tuner(count, param_space={"x": 1}, run_config=run_config).fit().experiment_path

    assert nightly() != nightly()


@pytest.mark.slow
def test_a_finished_experiment_is_extended_by_more_samples_and_a_looser_rule(
    cluster: None, run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    run = run_config(stop={"training_iteration": 4}, failure_config=tune.FailureConfig(max_failures=1))
    space = {"x": tune.grid_search([1, 2])}
    before = tune.Tuner(count, param_space=space, run_config=run).fit()
    assert rows_of(before) == undisturbed([1, 2], steps=4)

    tuner = tune.Tuner.restore(before.experiment_path, count, num_samples=2, stop={"training_iteration": 5})
    after = tuner.fit()

    assert rows_of(after) == undisturbed([1, 2, 1, 2], steps=5)
    assert [
        event.revision for event in events(before.experiment_path) if isinstance(event, SpecRecorded)
    ] == [1, 2]
    assert (
        json.loads(Path(before.experiment_path, "experiment.json").read_text())["tune_config"]["num_samples"]
        == 2
    )


@pytest.mark.slow
def test_failed_trials_go_on_or_start_over_as_is_asked(
    cluster: None, run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()

    def train(config: dict[str, Any]) -> None:
        import tempfile

        checkpoint = tune.get_checkpoint()
        first = 1 if checkpoint is None else 4
        for step in range(first, 6):
            if step == 4 and broken.exists():
                raise OSError("no data")
            with tempfile.TemporaryDirectory() as directory:
                saved = tune.Checkpoint.from_directory(directory) if step == 3 else None
                tune.report({"score": step, "began_at": first}, checkpoint=saved)

    failed = tune.Tuner(train, run_config=run_config()).fit()
    assert failed.num_errors == 1
    left = tune.Tuner.restore(failed.experiment_path, train).fit()
    assert left.num_errors == 1
    broken.unlink()
    resumed = tune.Tuner.restore(failed.experiment_path, train, resume_errored=True).fit()
    assert [row["began_at"] for row in resumed[0].rows] == [1, 1, 1, 4, 4]
    assert resumed.num_errors == 0

    broken.touch()
    failed = tune.Tuner(train, run_config=run_config()).fit()
    broken.unlink()
    restarted = tune.Tuner.restore(failed.experiment_path, train, restart_errored=True).fit()
    assert [row["began_at"] for row in restarted[0].rows] == [1, 1, 1, 1, 1]
    assert restarted[0].path != failed[0].path


SCRIPT = """
import sys
import ray
import tune_core as tune
from tests.support.counting import count

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    path, restored = {path!r}, {restored!r}
    options = {options!r}
    if restored:
        tuner = tune.Tuner.restore(path, count, storage_options=options, takeover=restored == "takeover")
    else:
        parent, _, name = path.rpartition("/")
        tuner = tune.Tuner(
            count,
            param_space={{"x": tune.grid_search([1, 2, 3]), "pause_s": 0.3}},
            run_config=tune.RunConfig(name=name, storage_path=parent, storage_options=options, verbose=0),
        )
    results = tuner.fit()
    print("rows:", [[(row["training_iteration"], row["score"]) for row in result.rows] for result in results])
"""


def run_script(
    tmp_path: Path, api: str, path: str, restored: str = "", options: dict[str, Any] | None = None
) -> subprocess.Popen[str]:
    script = tmp_path / f"script{restored}.py"
    script.write_text(SCRIPT.format(path=path, restored=restored, options=options))
    return start_script(script, api)


def reported(path: str, options: dict[str, Any] | None = None) -> list[TrialReported]:
    parent, _, name = path.rpartition("/")
    storage = ExperimentStorage.open(parent, name, storage_options=options)
    return [event for event, _ in read_journal(storage) if isinstance(event, TrialReported)]


@pytest.mark.slow
@pytest.mark.parametrize("on_s3", [False, True], ids=["local", "s3"])
def test_a_driver_that_is_killed_loses_no_row_that_is_in_the_journal(
    on_s3: bool, tmp_path: Path, api: str, s3: S3Server
) -> None:
    name = f"killed-{tmp_path.name[-8:]}"
    path = f"s3://{s3.bucket}/{name}" if on_s3 else str(tmp_path / "results" / name)
    options = s3.storage_options if on_s3 else None
    process = run_script(tmp_path, api, path, options=options)
    wait_for(lambda: len(reported(path, options)) >= 4, what="rows in the journal", timeout_s=120)
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = reported(path, options)

    again = run_script(tmp_path, api, path, "yes", options)
    printed, _ = again.communicate(timeout=180)

    assert again.returncode == 0, printed
    assert f"rows: {undisturbed([1, 2, 3])}" in printed
    assert reported(path, options)[: len(before)] == before
    wait_until_gone(family, timeout_s=120)  # Ray's agents look for their parent about once a minute


@pytest.mark.slow
def test_a_driver_that_was_only_stopped_writes_nothing_once_its_place_was_taken(
    tmp_path: Path, api: str
) -> None:
    path = str(tmp_path / "results" / f"zombie-{tmp_path.name[-8:]}")
    zombie = run_script(tmp_path, api, path)
    wait_for(lambda: len(reported(path)) >= 2, what="rows in the journal", timeout_s=120)
    os.kill(zombie.pid, signal.SIGSTOP)

    refused = run_script(tmp_path, api, path, "yes")
    printed, _ = refused.communicate(timeout=120)
    assert refused.returncode != 0
    assert "is running now" in printed
    taken = run_script(tmp_path, api, path, "takeover")
    printed, _ = taken.communicate(timeout=180)
    assert f"rows: {undisturbed([1, 2, 3])}" in printed
    kept = {file: file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}

    os.kill(zombie.pid, signal.SIGCONT)
    printed, _ = zombie.communicate(timeout=120)

    assert zombie.returncode != 0
    assert ExperimentConflict.__name__ in printed
    assert "taken over by another driver" in printed
    for file, content in kept.items():  # it may have appended what it had heard before, and no more
        assert file.read_bytes().startswith(content), file
    assert rows_of(tune.Tuner.restore(path, count).get_results()) == undisturbed([1, 2, 3])


TUNED = """
import sys
import ray
import tune_core as tune
from prefect import flow
from tests.support.counting import count

PATH = {path!r}


def fit():
    parent, _, name = PATH.rpartition("/")
    named = {{"name": name}} if {named!r} else {{}}
    return tune.Tuner(
        count,
        param_space={{"x": tune.grid_search([1, 2, 3]), "pause_s": 0.3}},
        run_config=tune.RunConfig(storage_path=parent, verbose=0, **named),
    ).fit()


@flow(name="nightly", flow_run_name={run_name!r})
def nightly():
    fit()


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    {call}
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ad hoc", "flow"])
def test_a_killed_run_that_prefect_tries_again_goes_on(
    kind: str, tmp_path: Path, api: str, recorded: Callable[[str], Recorded], client: SyncPrefectClient
) -> None:
    name = f"again-{tmp_path.name[-8:]}"
    directory = tmp_path / "results"
    text = TUNED.format(
        path=str(directory / name),
        named=kind == "ad hoc",
        run_name=name if kind == "flow" else "unused",
        call="fit()" if kind == "ad hoc" else "nightly()",
    )
    script = tmp_path / "tuned.py"
    script.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": api, "RAY_ADDRESS": "local"}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, process_group=0)

    def written() -> list[TrialReported]:
        paths = [path.parent for path in directory.glob("*/journal")]
        return [row for path in paths for row in reported(str(path))]

    wait_for(lambda: len(written()) >= 4, what="rows in the journal", timeout_s=120)
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = recorded(name).flow_run
    client.set_flow_run_state(run.id, Crashed(message="its heartbeat is gone"), force=True)

    entrypoint = "tune_core.engine.experiment.experiment" if kind == "ad hoc" else f"{script}:nightly"
    command = [sys.executable, "-m", "prefect", "flow-run", "retry", str(run.id), "--entrypoint", entrypoint]
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)

    assert again.returncode == 0, again.stdout + again.stderr
    assert client.read_flow_run(run.id).state_name == "Completed"
    (path,) = directory.iterdir()
    assert any(isinstance(event, ExperimentResumed) for event in events(path))
    assert rows_of(tune.Tuner.restore(path, count).get_results()) == undisturbed([1, 2, 3])
    wait_until_gone(family, timeout_s=120)
