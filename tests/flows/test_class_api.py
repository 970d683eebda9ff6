"""Class trainables on real servers: deaths, pauses and interrupts, reuse, and cleanup at every kind of end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import CPUS, Recorded, logs_of
from tests.support.waiting import wait_for
from tune_core.engine.slots.pool import Slot, SlotPool
from tune_core.schedulers import TrialScheduler
from tune_core.search import Searcher
from tune_core.trial import Trial

ROOT = Path(__file__).resolve().parents[2]


class Steps(tune.Trainable):
    """Counts its steps and notes what is called in a file; dies where the config says, once."""

    def setup(self, config: dict[str, Any]) -> None:
        self.note("setup")
        self.steps = 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        if self.steps == self.config.get("dies_at") and self.first_time():
            self.die(self.config["death"])
        return {"steps": self.steps, "pid_seen": os.getpid()}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.note(f"save {self.steps}")
        Path(checkpoint_dir, "steps").write_text(str(self.steps))

    def load_checkpoint(self, checkpoint: str) -> None:
        self.steps = int(Path(checkpoint, "steps").read_text())
        self.note(f"load {self.steps}")

    def cleanup(self) -> None:
        self.note("cleanup")

    def note(self, text: str) -> None:
        with Path(self.config["marks"], self.config.get("name", "notes")).open("a") as notes:
            notes.write(f"{text}\n")

    def first_time(self) -> bool:
        mark = Path(self.config["marks"], f"{self.config.get('name', '')}-died")
        is_first = not mark.exists()
        mark.touch()
        return is_first

    def die(self, death: str) -> None:
        if death == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if death == "sys.exit":
            sys.exit(3)
        raise ValueError("made up")


def notes_of(directory: Path, name: str = "notes") -> list[str]:
    return (directory / name).read_text().splitlines()


def rows_of(result: tune.Result) -> list[tuple[int, int]]:
    return [(row["attempt_number"], row["steps"]) for row in result.rows]


def every(frequency: int, **more: Any) -> tune.CheckpointConfig:
    return tune.CheckpointConfig(checkpoint_frequency=frequency, **more)


def test_class_on_s3_goes_on_after_every_kind_of_death(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    s3: S3Server,
    tmp_path: Path,
) -> None:
    deaths = ["SIGKILL", "sys.exit", "exception"]
    config = run_config(
        storage_path=f"s3://{s3.bucket}/classes",
        storage_options=s3.storage_options,
        stop={"training_iteration": 6},
        checkpoint_config=every(2),
        failure_config=tune.FailureConfig(max_failures=1),
    )
    space = {"marks": str(tmp_path), "dies_at": 4, "death": tune.grid_search(deaths)}
    space["name"] = tune.sample_from(lambda config: config["death"])

    results = tune.Tuner(Steps, param_space=space, run_config=config).fit()

    assert results.num_errors == 0
    for death, result in zip(deaths, results, strict=True):
        # The third row is not in a checkpoint: SIGKILL may take it along before it is journaled.
        assert [row for row in rows_of(result) if row != (1, 3)] == [
            (1, 1),
            (1, 2),
            (2, 3),
            (2, 4),
            (2, 5),
            (2, 6),
        ]
        assert [row["training_iteration"] for row in result.rows if row["attempt_number"] == 2] == [
            3,
            4,
            5,
            6,
        ]
        with result.checkpoint.as_directory() as directory:
            assert Path(directory, "steps").read_text() == "6"
        ended = [] if death == "SIGKILL" else ["cleanup"]
        expected = ["setup", "save 2", *ended, "setup", "load 2", "save 4", "save 6", "cleanup"]
        assert notes_of(tmp_path, death) == expected
    states = sorted(run.state_name for run in recorded(config.name).task_runs(6))
    assert states == ["Completed", "Completed", "Completed", "Crashed", "Failed", "Failed"]


class PauseOnce(TrialScheduler):
    """Pauses every trial at its second step."""

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self.PAUSE if result["steps"] == 2 else self.CONTINUE


def test_paused_class_is_saved_after_its_row_and_goes_on(
    run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    config = run_config(stop={"training_iteration": 4})
    tuner = tune.Tuner(
        Steps,
        param_space={"marks": str(tmp_path)},
        tune_config=tune.TuneConfig(scheduler=PauseOnce()),
        run_config=config,
    )

    (result,) = tuner.fit()

    assert rows_of(result) == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert notes_of(tmp_path) == ["setup", "save 2", "cleanup", "setup", "load 2", "save 4", "cleanup"]
    assert [metrics["steps"] for _, metrics in result.best_checkpoints] == [2, 4]


SCRIPT = """
import sys, time
from pathlib import Path
import ray
import tune_core as tune
from tests.flows.test_class_api import Steps

class Slow(Steps):
    def step(self):
        time.sleep(0.05)
        Path(self.config["marks"], f"step-{{self.steps}}").touch()
        return super().step()

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    (result,) = tune.Tuner(
        Slow,
        param_space={{"marks": {marks!r}}},
        tune_config=tune.TuneConfig(reuse_actors={reuse}),
        run_config=tune.RunConfig(name="interrupted", storage_path={storage!r}),
    ).fit()
    with result.checkpoint.as_directory() as directory:
        print("ended:", result.status, Path(directory, "steps").read_text() == str(result.metrics["steps"]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
def test_ctrl_c_has_a_class_saved_where_it_is_and_cleaned_up(reuse: bool, tmp_path: Path, api: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(marks=str(tmp_path), storage=str(tmp_path / "results"), reuse=reuse))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": api},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    wait_for(lambda: (tmp_path / "step-3").exists(), what="the third step", timeout_s=120)

    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=90)

    assert process.returncode == 0, printed
    assert "ended: PAUSED True" in printed
    setup, saved, cleaned = notes_of(tmp_path)
    assert (setup, saved.partition(" ")[0], cleaned) == ("setup", "save", "cleanup")


# Reuse.


def expensive_setup() -> None:
    print("EXPENSIVE SETUP")


class QuadraticTrainable(tune.Trainable):
    """The contract's example of reuse, without its pause."""

    def setup(self, config: dict[str, Any]) -> None:
        self.config = config
        expensive_setup()  # use reuse_actors=True to only run this once
        self.max_steps = 5
        self.step_count = 0

    def step(self) -> dict[str, Any]:
        h1, h2 = self.config["hparam1"], self.config["hparam2"]
        metrics: dict[str, Any] = {"loss": (h1 - 3) ** 2 + (h2 - 5) ** 2}
        self.step_count += 1
        if self.step_count > self.max_steps:
            metrics["done"] = True
        return metrics

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True


NO_END = tune.CheckpointConfig(checkpoint_at_end=False)


def test_contracts_example_sets_up_once_for_ten_trials(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], client: SyncPrefectClient
) -> None:
    config = run_config(checkpoint_config=NO_END)

    results = tune.Tuner(
        QuadraticTrainable,
        param_space={"hparam1": tune.uniform(-10, 10), "hparam2": tune.uniform(-10, 10)},
        tune_config=tune.TuneConfig(num_samples=10, max_concurrent_trials=1, reuse_actors=True),
        run_config=config,
    ).fit()

    assert results.num_errors == 0
    for result in results:
        loss = (result.config["hparam1"] - 3) ** 2 + (result.config["hparam2"] - 5) ** 2
        assert result.metrics["loss"] == loss
    runs = recorded(config.name).task_runs(10)
    wait_for(lambda: any("EXPENSIVE SETUP" in logs_of(client, run) for run in runs), what="the log")
    assert sum(logs_of(client, run).count("EXPENSIVE SETUP") for run in runs) == 1


class Reused(Steps):
    """Goes on to the next trial; two steps each."""

    def step(self) -> dict[str, Any]:
        if self.config.get("fails"):
            raise ValueError("made up")
        return {"pid_seen": os.getpid(), "cwd": str(Path.cwd()), "logdir": self.logdir, **super().step()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.steps = 0
        self.note(f"reset {new_config['n']}")
        if new_config.get("raises"):
            raise ValueError("made up")
        return True

    def cleanup(self) -> None:
        super().cleanup()
        if self.config.get("hangs"):
            time.sleep(600)


def reuse(
    config: tune.RunConfig, space: dict[str, Any], trainable: Any = Reused, **options: Any
) -> tune.ResultGrid:
    config.stop, config.checkpoint_config = {"steps": 2}, NO_END
    options = {"max_concurrent_trials": 1, "reuse_actors": True, **options}
    return tune.Tuner(
        trainable, param_space=space, tune_config=tune.TuneConfig(**options), run_config=config
    ).fit()


def pids(results: Iterable[tune.Result]) -> list[int]:
    return [result.metrics["pid_seen"] for result in results]


def test_object_goes_on_unless_it_failed_or_cannot_be_reset(
    run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    space = {
        "marks": str(tmp_path),
        "n": tune.grid_search([0, 1, 2, 3, 4]),
        "fails": tune.sample_from(lambda config: config["n"] == 1),
        "raises": tune.sample_from(lambda config: config["n"] == 4),
    }

    # So wide that no more than one process fits the cluster.
    results = reuse(run_config(), space, tune.with_resources(Reused, {"cpu": 8}))

    assert [result.error is not None for result in results] == [False, True, False, False, False]
    assert notes_of(tmp_path) == [
        *("setup", "reset 1", "cleanup"),
        *("setup", "reset 3", "reset 4", "cleanup"),
        *("setup", "cleanup"),
    ]
    ended_well = [result for result in results if result.error is None]
    for result in ended_well:
        directory = result.metrics["cwd"]
        assert directory == result.metrics["logdir"]
        assert Path(directory).name == Path(result.path).name
    first, *others = pids(ended_well)
    assert {*others} != {first}
    assert len({*others}) == 1, "it is replaced after a failure alone"


def test_process_is_replaced_after_so_many_reuses(
    run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    results = reuse(run_config(), {"marks": str(tmp_path), "n": tune.grid_search([0, 1, 2, 3])}, max_reuses=1)

    first, second, third, fourth = pids(results)
    assert (first, third) == (second, fourth)
    assert first != third
    assert notes_of(tmp_path) == ["setup", "reset 1", "cleanup", "setup", "reset 3", "cleanup"]


def test_process_that_holds_too_much_is_replaced(
    run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    space = {"marks": str(tmp_path), "n": tune.grid_search([0, 1])}

    results = reuse(run_config(), space, max_reuse_memory=1)

    assert len(set(pids(results))) == 2
    assert notes_of(tmp_path) == ["setup", "cleanup"] * 2


class KillsBetween(Searcher):
    """Kills the process of the first trial after its task run has ended, before there is a second."""

    def __init__(self, marks: Path) -> None:
        super().__init__()
        self.marks, self.suggested = marks, 0

    def suggest(self, trial_id: str) -> Any:
        if self.suggested == 1:
            (slot,) = [each for each in self.slots() if each.uses == 0]
            time.sleep(2)  # its task run ends while nobody looks
            os.kill(slot.worker["pid"], signal.SIGKILL)
            time.sleep(1)
        self.suggested += 1
        return {"marks": str(self.marks), "n": self.suggested} if self.suggested <= 2 else self.FINISHED

    def slots(self) -> list[Slot]:
        return [slot for pool in pools for slot in pool._all()]


pools: list[SlotPool] = []


def test_process_that_dies_between_two_trials_costs_its_object_alone(
    run_config: Callable[..., tune.RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = SlotPool.attach
    monkeypatch.setattr(
        SlotPool, "attach", lambda self, notify: (pools.append(self), attach(self, notify))[1]
    )

    results = reuse(run_config(), {}, search_alg=KillsBetween(tmp_path), num_samples=2)

    assert results.num_errors == 0
    assert len(set(pids(results))) == 2
    assert [len(result.rows) for result in results] == [2, 2]
    assert notes_of(tmp_path) == ["setup", "setup", "cleanup"], (
        "no retry, and nobody could clean up the first"
    )


def test_slot_that_is_given_up_for_another_shape_cleans_up(
    run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    space = {"marks": str(tmp_path), "n": tune.grid_search([1, CPUS])}

    results = reuse(run_config(), space, tune.with_resources(Reused, lambda config: {"cpu": config["n"]}))

    assert results.num_errors == 0
    assert len(set(pids(results))) == 2
    assert notes_of(tmp_path) == ["setup", "cleanup"] * 2


@pytest.mark.parametrize("shapes", [pytest.param([1], marks=pytest.mark.slow), [1, CPUS]])
def test_cleanup_that_hangs_is_cut_off(
    shapes: list[int], run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    space = {"marks": str(tmp_path), "n": tune.grid_search(shapes), "hangs": True}
    started = time.monotonic()

    results = reuse(
        run_config(stop_timeout_s=1.0),
        space,
        tune.with_resources(Reused, lambda config: {"cpu": config["n"]}),
    )

    assert results.num_errors == 0
    assert time.monotonic() - started < 40
    assert notes_of(tmp_path) == ["setup", "cleanup"] * len(shapes)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids(results)), what="their ends")


calls_in_this_process = 0


def counts(config: dict[str, Any]) -> dict[str, Any]:
    global calls_in_this_process
    calls_in_this_process += 1
    if config["n"] == 2:
        raise ValueError("made up")
    return {"pid_seen": os.getpid(), "calls": calls_in_this_process}


def test_functions_share_a_process_on_gpus_too_but_not_one_that_saw_a_failure(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    trainable = tune.with_resources(counts, {"cpu": 1, "gpu": 1})

    results = tune.Tuner(
        trainable,
        param_space={"n": tune.grid_search([0, 1, 2, 3])},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
        run_config=run_config(),
    ).fit()

    first, second, failed, fourth = results
    assert first.metrics["pid_seen"] == second.metrics["pid_seen"] != fourth.metrics["pid_seen"]
    assert failed.error is not None


class WantsSaves(tune.Callback):
    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        result["should_checkpoint"] = result["training_iteration"] in (2, 3, 5)


def test_callback_that_wants_a_report_saved_has_its_state_saved(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    class Line(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.steps = 0

        def step(self) -> dict[str, Any]:
            self.steps += 1
            return {"steps": self.steps, "done": self.steps == 5}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, int]:
            return {"steps": self.steps}

    (result,) = tune.Tuner(Line, run_config=run_config(callbacks=[WantsSaves()])).fit()

    assert [metrics["steps"] for _, metrics in result.best_checkpoints] == [2, 3, 5]
