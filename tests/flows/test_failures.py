"""Attempts that fail or die: what is kept, what the next attempt starts from, what Prefect shows."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from prefect.client.orchestration import SyncPrefectClient

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded, logs_of
from tests.support.trials import (
    report_step,
    rows_of,
    running_session,
    state_history,
    step_of,
    wait_until_acknowledged,
)
from tests.support.waiting import wait_for
from tune_core.errors import TrialError


def end_process(death: str) -> None:
    """End the first attempt in the given way."""
    if running_session().spec.attempt_number > 1:
        return
    if death == "exception":
        raise ValueError("made up")
    if death == "sys.exit":
        sys.exit(3)
    if death == "os._exit":
        os._exit(1)
    if death == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def deaths() -> list[str]:
    return ["exception", "sys.exit", "os._exit", "SIGKILL"]


def test_every_kind_of_end_leads_to_a_new_attempt_that_loses_nothing_and_shows_in_prefect(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
    deaths: list[str],
) -> None:
    def train(config: dict[str, Any]) -> None:
        first = step_of(tune.get_checkpoint()) + 1
        print(f"attempt from step {first}")
        for step in range(first, 4):
            report_step(step)
        report_step(4, save=False)
        wait_until_acknowledged(4)
        end_process(config["death"])
        report_step(5)

    config = run_config(failure_config=tune.FailureConfig(max_failures=1), tags=["nightly"])

    results = tune.Tuner(train, param_space={"death": tune.grid_search(deaths)}, run_config=config).fit()

    assert results.num_errors == 0
    for result in results:
        steps = [(row["attempt_number"], row["training_iteration"], row["step"]) for row in rows_of(result)]
        # The acknowledged row of the first attempt is kept, and produced again by the second.
        assert steps == [(1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4), (2, 4, 4), (2, 5, 5)]
        assert list(result.metrics_dataframe["training_iteration"]) == [1, 2, 3, 4, 5]
        assert step_of(result.checkpoint) == 5
        assert result.error is None
    seen = recorded(config.name)
    runs = {run.name: run for run in seen.task_runs(8)}
    assert len(runs) == 8
    for death, result in zip(deaths, results, strict=True):
        trial_id = result.metrics["trial_id"]
        first, second = runs[f"trial-{trial_id}"], runs[f"trial-{trial_id}-attempt-2"]
        expected = "Crashed" if death in ("os._exit", "SIGKILL") else "Failed"
        assert (first.state_name, second.state_name) == (expected, "Completed")
        assert state_history(client, first) == ["Pending", "Running", expected]
        assert state_history(client, second) == ["Pending", "Running", "Completed"]
        for run in (first, second):
            assert run.flow_run_id == seen.flow_run.id
            assert "nightly" in run.tags
            assert run.start_time is not None
            assert run.end_time is not None
        wait_for(lambda run=second: "attempt from step 4" in logs_of(client, run), what="the log")
        if expected == "Failed":
            wait_for(lambda run=first: "attempt from step 1" in logs_of(client, run), what="the log")
        assert [(row["attempt_number"], row["step"]) for row in seen.reports(trial_id)] == [
            (attempt_number, step) for attempt_number, _, step in steps
        ]


def test_trial_that_is_out_of_retries_ends_in_error_and_says_why(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    def fail(config: dict[str, Any]) -> None:
        report_step(step_of(tune.get_checkpoint()) + 1)
        raise ValueError(f"attempt {running_session().spec.attempt_number} failed")

    def succeed(config: dict[str, Any]) -> dict[str, Any]:
        return {"fine": 1}

    config = run_config(failure_config=tune.FailureConfig(max_failures=2))

    def train(config: dict[str, Any]) -> Any:
        return fail(config) if config["fails"] else succeed(config)

    results = tune.Tuner(
        train, param_space={"fails": tune.grid_search([True, False])}, run_config=config
    ).fit()

    failed, fine = results
    assert results.num_errors == 1
    assert fine.error is None
    assert isinstance(failed.error, TrialError)
    assert "ValueError: attempt 3 failed" in str(failed.error)
    assert "in fail" in failed.error.traceback
    text = Path(failed.path, "error.txt").read_text()
    assert [f"attempt {number} failed" in text for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert [row["step"] for row in rows_of(failed)] == [1, 2, 3]
    assert step_of(failed.checkpoint) == 3
    seen = recorded(config.name)
    states = [run.state_name for run in seen.task_runs(4)]
    assert sorted(states) == ["Completed", "Failed", "Failed", "Failed"]
    assert seen.flow_run.state_name == "Completed"
    (entry,) = [row for row in json.loads(str(seen.artifacts()["leaderboard"].data)) if row["error"]]
    assert entry["status"] == "ERROR"
    assert entry["attempts"] == 3


def wait_then_report(config: dict[str, Any]) -> None:
    """Fail as the second trial, once the first runs; report for ever as the first."""
    marker = Path(config["marker"])
    if config["fails"]:
        wait_for(marker.exists, what="the other trial to run")
        raise ValueError("made up")
    while True:
        tune.report({"x": 1})
        marker.touch()


@pytest.mark.parametrize("fail_fast", [pytest.param(True, marks=pytest.mark.slow), "raise"])
def test_fail_fast_stops_the_other_trials_at_the_first_that_fails(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    tmp_path: Path,
    fail_fast: Any,
) -> None:
    config = run_config(failure_config=tune.FailureConfig(fail_fast=fail_fast))
    space = {"marker": str(tmp_path / "runs"), "fails": tune.grid_search([False, True])}
    tuner = tune.Tuner(wait_then_report, param_space=space, run_config=config)

    if fail_fast == "raise":
        with pytest.raises(TrialError, match="ValueError: made up") as raised:
            tuner.fit()
        assert "in wait_then_report" in raised.value.traceback
    else:
        other, failed = tuner.fit()
        assert other.error is None
        assert other.metrics["done"] is True
        assert "ValueError: made up" in str(failed.error)

    seen = recorded(config.name)
    assert [run.state_name for run in seen.task_runs(2)] == ["Completed", "Failed"]
    leaders = json.loads(str(seen.artifacts()["leaderboard"].data))
    assert [row["status"] for row in leaders] == ["TERMINATED", "ERROR"]
    assert seen.flow_run.state_name == ("Failed" if fail_fast == "raise" else "Completed")


def test_without_fail_fast_the_other_trials_go_on(run_config: Callable[..., tune.RunConfig]) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(3):
            if config["fails"]:
                raise ValueError("made up")
            tune.report({"step": step})

    config = run_config(failure_config=tune.FailureConfig(fail_fast=False))
    results = tune.Tuner(
        train, param_space={"fails": tune.grid_search([True, False])}, run_config=config
    ).fit()

    assert [result.error is None for result in results] == [False, True]
    assert results[1].metrics["training_iteration"] == 3


@pytest.mark.parametrize("place", ["local", "s3"])
def test_checkpoint_that_was_half_uploaded_when_its_writer_died_is_never_offered(
    run_config: Callable[..., tune.RunConfig], s3: S3Server, place: str
) -> None:
    def die_at_the_second_file(*args: Any, **kwargs: Any) -> Any:
        from tune_core.storage import transfer

        if Path(args[1]).name == "weights-2":
            os.kill(os.getpid(), signal.SIGKILL)
        return transfer.upload_file(*args, **kwargs)

    def train(config: dict[str, Any]) -> None:
        from tune_core.storage import checkpoint_files

        first = step_of(tune.get_checkpoint()) + 1
        for step in range(first, 4):
            if step == 2 and running_session().spec.attempt_number == 1:
                checkpoint_files.upload_file = die_at_the_second_file
                checkpoint_files.in_parallel = lambda action, items, **_: [action(item) for item in items]
            with tempfile.TemporaryDirectory() as directory:
                for name in ("step", "weights-1", "weights-2"):
                    Path(directory, name).write_text(str(step))
                tune.report(
                    {"step": step, "from": first}, checkpoint=tune.Checkpoint.from_directory(directory)
                )

    remote = {"storage_path": f"s3://{s3.bucket}/half", "storage_options": s3.storage_options}
    config = run_config(
        failure_config=tune.FailureConfig(max_failures=1), **(remote if place == "s3" else {})
    )

    results = tune.Tuner(train, run_config=config).fit()

    (result,) = results
    assert result.error is None
    rows = result.metrics_dataframe
    assert list(rows["step"]) == [1, 2, 3]
    assert list(rows["from"]) == [1, 2, 2]
    assert list(rows["checkpoint_dir_name"]) == [f"checkpoint_00000{n}" for n in (0, 2, 3)]
    saved = [checkpoint.path.rpartition("/")[2] for checkpoint, _ in result.best_checkpoints]
    assert saved == [f"checkpoint_00000{n}" for n in (0, 2, 3)]
    half = {Path(name).name for name in result.filesystem.find(f"{result.path}/checkpoint_000001")}
    assert half <= {
        ".writer.json",
        "COMMIT.json",
    }  # it was swept; what is left lets nobody commit it any more
    assert step_of(result.checkpoint) == 3


def test_rows_that_report_has_returned_for_survive_the_kill_of_the_trial(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def train(config: dict[str, Any]) -> None:
        if (first := step_of(tune.get_checkpoint()) + 1) == 1:
            for step in range(1, 40):
                tune.report({"step": step})
            report_step(40)
            for step in range(41, 51):
                tune.report({"step": step})
            os.kill(os.getpid(), signal.SIGKILL)
        tune.report({"step": first})

    config = run_config(failure_config=tune.FailureConfig(max_failures=1))

    (result,) = tune.Tuner(train, run_config=config).fit()

    assert result.error is None
    reported = [(row["attempt_number"], row["step"]) for row in rows_of(result)]
    assert reported == [*((1, step) for step in range(1, 51)), (2, 41)]


def test_death_between_commit_and_report_loses_neither_the_checkpoint_nor_its_rows(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def train(config: dict[str, Any]) -> None:
        first = step_of(tune.get_checkpoint()) + 1
        from tune_core.training.send_queue import SendQueue

        session = running_session()

        def send_nothing_then_die(report: Any) -> None:
            if report.checkpoint is not None:
                os.kill(os.getpid(), signal.SIGKILL)

        if first == 1:
            session._send_queue = SendQueue(send_nothing_then_die)
        for step in range(first, 6):
            report_step(step, save=step == 3, first=first)

    config = run_config(failure_config=tune.FailureConfig(max_failures=1))

    (result,) = tune.Tuner(train, run_config=config).fit()

    assert result.error is None
    rows = [
        (row["attempt_number"], row["training_iteration"], row["step"], row["first"])
        for row in rows_of(result)
    ]
    assert rows == [(1, 1, 1, 1), (1, 2, 2, 1), (1, 3, 3, 1), (2, 4, 4, 4), (2, 5, 5, 4)]
    assert rows_of(result)[2]["checkpoint_dir_name"] == "checkpoint_000000"
    assert step_of(result.checkpoint) == 3


def test_process_that_dies_in_every_attempt_uses_up_its_retries(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config(failure_config=tune.FailureConfig(max_failures=1))

    (result,) = tune.Tuner(lambda config: os._exit(7), run_config=config).fit()

    assert "the trial's process died" in str(result.error)
    seen = recorded(config.name)
    assert [run.state_name for run in seen.task_runs(2)] == ["Crashed", "Crashed"]
    assert seen.flow_run.state_name == "Failed"


def leak(config: dict[str, Any]) -> dict[str, Any]:
    """Leave half of the descriptors open that the process may have, or close the sockets of everybody in it."""
    if config["how"] == "descriptors":
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, most))
        for _ in range(600):
            os.open(os.devnull, os.O_RDONLY)
    if config["how"] == "sockets":
        for each in gc.get_objects():
            if isinstance(each, zmq.Context):
                each.destroy(linger=0)
    return {"pid": os.getpid()}


def test_what_one_trial_breaks_in_a_shared_process_costs_no_other_trial(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config()
    ways = ["descriptors", "descriptors", "descriptors", "sockets", "nothing", "nothing"]

    results = tune.Tuner(
        leak,
        param_space={"how": tune.grid_search(ways)},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=config,
    ).fit()

    assert [result.error is None for result in results] == [True, True, True, False, True, True]
    assert "without a last word" in str(results[3].error)
    first, second, third, _, fifth, sixth = (result.metrics.get("pid") for result in results)
    assert len({first, second, third, fifth}) == 4
    assert fifth == sixth
    # What was broken is the process of the task run, too, which could still say how it ended.
    assert len(recorded(config.name).task_runs(6)) == 6
