"""Trials in processes of their own: no Prefect in them unless they import it, and yet all that a task run has."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import get_run_logger, runtime
from prefect.client.orchestration import SyncPrefectClient

import tune_core as tune
from tests.flows.conftest import Recorded, logs_of
from tests.support.trials import report_step, rows_of, state_history, step_of, wait_until_acknowledged
from tests.support.waiting import wait_for
from tune_core.engine.slots.pool import SlotPool


def fit(
    train: Callable[..., Any], config: tune.RunConfig, space: dict[str, Any] | None = None, **options: Any
) -> tune.ResultGrid:
    tuning = tune.TuneConfig(fresh_process=True, **options)
    return tune.Tuner(train, param_space=space, tune_config=tuning, run_config=config).fit()


def test_process_of_a_trial_has_no_prefect_and_what_it_prints_and_logs_is_in_its_task_runs_log(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], client: SyncPrefectClient
) -> None:
    def train(config: dict[str, Any]) -> None:
        print("printed")
        try:
            raise ValueError("made up")
        except ValueError:
            logging.getLogger("mine").warning("logged %s", "with its error", exc_info=True)
        tune.report({"pid": os.getpid(), "has_prefect": "prefect" in sys.modules})
        raise ValueError("the end")

    config = run_config()

    (result,) = fit(train, config)

    assert result.metrics["has_prefect"] is False
    (run,) = recorded(config.name).task_runs(1)
    assert state_history(client, run) == ["Pending", "Running", "Failed"]
    lines = wait_for(lambda: logs_of(client, run)[2:] and logs_of(client, run), what="the log")
    assert lines[0] == "printed"
    assert lines[1].startswith("logged with its error\nTraceback")
    assert any("ValueError: the end" in line for line in lines[2:])


def imports_at_the_top() -> Callable[[dict[str, Any]], None]:
    def train(config: dict[str, Any]) -> None:
        get_run_logger().info("said by Prefect's logger")
        print("printed")
        tune.report({"task_run": runtime.task_run.id, "flow_run": runtime.flow_run.id})

    return train


def imports_when_it_runs() -> Callable[[dict[str, Any]], None]:
    def train(config: dict[str, Any]) -> None:
        assert "prefect" not in sys.modules
        from prefect import get_run_logger, runtime

        get_run_logger().info("said by Prefect's logger")
        print("printed")
        tune.report({"task_run": runtime.task_run.id, "flow_run": runtime.flow_run.id})

    return train


@pytest.mark.parametrize(
    "make", [pytest.param(imports_at_the_top, marks=pytest.mark.slow), imports_when_it_runs]
)
def test_trainable_that_imports_prefect_is_in_the_context_of_its_task_run(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
    make: Callable[[], Callable[[dict[str, Any]], None]],
) -> None:
    config = run_config()

    (result,) = fit(make(), config)

    seen = recorded(config.name)
    (run,) = seen.task_runs(1)
    assert result.error is None
    assert (result.metrics["task_run"], result.metrics["flow_run"]) == (str(run.id), str(seen.flow_run.id))
    wanted = {"printed", "said by Prefect's logger"}
    wait_for(lambda: wanted <= {*logs_of(client, run)}, what="the log")


def siblings(*titles: str) -> list[int]:
    """Ids of the processes of this one's Ray that call themselves one of these."""
    prefixes = tuple(title.encode() for title in titles)
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getppid() and (directory / "cmdline").read_bytes().startswith(prefixes):
                found.append(int(directory.name))
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.parametrize(
    "victims",
    [
        ["ray::TrialProcess", "ray::trial"],
        pytest.param(["ray::recorder", "ray::Recorder"], marks=pytest.mark.slow),
    ],
)
def test_death_of_a_trials_process_or_of_its_task_runs_leads_to_a_new_attempt(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
    victims: list[str],
) -> None:
    def train(config: dict[str, Any]) -> None:
        first = step_of(tune.get_checkpoint()) + 1
        if first == 1:
            report_step(1, pid=os.getpid())
            wait_until_acknowledged(1)
            print("before it died")
            time.sleep(1.0)  # the line is sent in half of that
            (pid,) = siblings(*config["victims"])
            os.kill(pid, signal.SIGKILL)
            time.sleep(60)
        report_step(2, pid=os.getpid())

    config = run_config(failure_config=tune.FailureConfig(max_failures=1))

    (result,) = fit(train, config, {"victims": victims})

    assert result.error is None
    assert [(row["attempt_number"], row["step"]) for row in rows_of(result)] == [(1, 1), (2, 2)]
    first, second = sorted(recorded(config.name).task_runs(2), key=lambda run: run.name)
    assert state_history(client, first) == ["Pending", "Running", "Crashed"]
    assert state_history(client, second) == ["Pending", "Running", "Completed"]
    assert "before it died" in logs_of(client, first)
    pid = rows_of(result)[0]["pid"]
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the first process")


class OneMoreOnce(tune.search.Searcher):
    """Has a third trial once there is a mark."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark, self.num_suggested = mark, 0

    def suggest(self, trial_id: str) -> Any:
        if self.num_suggested == 2 and not self.mark.exists():
            return None
        self.num_suggested += 1
        return {"number": self.num_suggested}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn nothing."""


class KillsWhatIsIdle(tune.Callback):
    """Kills the processes that wait for a trial while the second runs, and leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark
        self.pools: list[SlotPool] = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        idle = [slot for pool in self.pools for slot in pool.idle()]
        if not any(slot.uses for slot in idle) or self.mark.exists():
            return
        for slot in idle:
            pid = slot.worker["pid"]
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), what="its end")
        self.mark.touch()


@pytest.mark.slow
@pytest.mark.timeout(100)
def test_process_that_dies_before_its_trial_costs_no_attempt_and_leaves_no_task_run(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    mark, second_runs, attach = tmp_path / "killed", tmp_path / "runs", SlotPool.attach

    def train(config: dict[str, Any]) -> dict[str, Any]:
        if config["number"] == 2:
            second_runs.touch()
        # The first ends when both have slots, the second when the process that the first ran in is dead.
        awaited = {1: second_runs, 2: mark}.get(config["number"])
        while awaited is not None and not awaited.exists():
            tune.report({"x": 0})
            time.sleep(0.1)
        return {"x": 1}

    searcher, killer = OneMoreOnce(mark), KillsWhatIsIdle(mark)
    monkeypatch.setattr(
        SlotPool, "attach", lambda self, notify: (killer.pools.append(self), attach(self, notify))[1]
    )
    config = run_config(callbacks=[killer])

    options = tune.TuneConfig(search_alg=searcher, num_samples=3, max_concurrent_trials=2)
    results = tune.Tuner(train, tune_config=options, run_config=config).fit()

    assert mark.exists()
    assert len(results) == 3
    assert results.num_errors == 0
    assert [run.state_name for run in recorded(config.name).task_runs(3)] == ["Completed"] * 3
