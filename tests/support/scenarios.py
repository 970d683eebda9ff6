"""Whole experiments of all kinds, to be run in this process: their trainables, what steers them, and their ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tune_core as tune
from tune_core.control.controller import Controller
from tune_core.control.experiment import Experiment
from tune_core.results.result_grid import ResultGrid
from tune_core.schedulers import Exploit, TrialScheduler
from tune_core.search import Searcher
from tune_core.stopper import MaximumIterationStopper, Stopper
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.schedulers import ExploitingScheduler, PausingScheduler
from tune_core.trial import Status, Trial

# Trainables.


def save(directory: Path, **state: Any) -> tune.Checkpoint:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "state.json").write_text(json.dumps(state))
    return tune.Checkpoint.from_directory(directory)


def load() -> dict[str, Any]:
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return {"step": 0}
    with checkpoint.as_directory() as directory:
        state: dict[str, Any] = json.loads(Path(directory, "state.json").read_text())
        return state


def train(config: dict[str, Any]) -> None:
    """Ten steps, a checkpoint at every second one; fails once at each of the steps `fail_at`."""
    work = Path(tune.get_context().get_trial_dir() or "")
    for step in range(load()["step"] + 1, config.get("steps", 10) + 1):
        if step in config.get("fail_at", ()) and not (work / f"failed-{step}").exists():
            (work / f"failed-{step}").touch()
            raise ValueError(f"failed at step {step}")
        checkpoint = save(work / "saved", step=step) if step % 2 == 0 else None
        tune.report({"loss": (config["x"] - step) ** 2, "step": step}, checkpoint=checkpoint)


class Model(tune.Trainable):
    """The same model as `train`, as a class."""

    def setup(self, config: dict[str, Any]) -> None:
        self.done = 0
        self.marks = Path(tune.get_context().get_trial_dir() or "")

    def step(self) -> dict[str, Any]:
        step = self.done + 1
        if step in self.config.get("fail_at", ()) and not (self.marks / f"failed-{step}").exists():
            (self.marks / f"failed-{step}").touch()
            raise ValueError(f"failed at step {step}")
        self.done = step
        if step == self.config.get("interrupted_at"):
            raise KeyboardInterrupt
        return {"loss": (self.config["x"] - step) ** 2, "step": step}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"done": self.done}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.done = checkpoint["done"]


class Reusable(Model):
    """Goes on to the next trial, but refuses every third."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.done = 0
        self.marks = Path(tune.get_context().get_trial_dir() or "")
        return bool(new_config["x"] != 3)


def always_fails(config: dict[str, Any]) -> None:
    tune.report({"loss": config["x"]})
    raise ValueError(f"no use: {config['x']}")


def interrupted(config: dict[str, Any]) -> None:
    tune.report({"loss": 1}, checkpoint=save(Path("saved"), step=1))
    if config["x"] == 2:
        raise KeyboardInterrupt
    tune.report({"loss": 2})


def generator(config: dict[str, Any]) -> Iterator[Any]:
    for step in range(config["x"]):
        yield {"loss": step, "nested": {"deep": [step, (float("nan"), b"bytes")]}}


# What steers.


class StopAboveMedian(TrialScheduler):
    """Stops trials that are worse than half of the others were at the same step."""

    def __init__(self) -> None:
        self.seen: dict[int, list[float]] = {}

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        seen = self.seen.setdefault(result["training_iteration"], [])
        seen.append(result["loss"])
        return self.STOP if result["loss"] > sorted(seen)[len(seen) // 2] else self.CONTINUE


class PauseTwice(TrialScheduler):
    """Pauses each trial at its third and at its seventh step."""

    def __init__(self) -> None:
        self.paused: set[tuple[str, int]] = set()

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        key = trial.trial_id, result["step"]
        if result["step"] not in (3, 7) or key in self.paused:
            return self.CONTINUE
        self.paused.add(key)
        return self.PAUSE


class ChoosesNobody(PausingScheduler):
    """Pauses trials, and lets none go on."""

    def choose_trial_to_run(self, trials: Any) -> Trial | None:
        return None


class GivesUp(PausingScheduler):
    """Pauses trials, and gives up all but the first of them."""

    def trials_to_stop(self, trials: Any) -> list[Trial]:
        return [trial for trial in trials if trial.status is Status.PAUSED and trial.number > 0]


class Copying(TrialScheduler):
    """The second trial, at its third step, goes on from the first one's last checkpoint, up to step 14."""

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str | Exploit:
        if trial.number != 1 or trial.attempt_number > 1 or result["step"] != 3:
            return self.CONTINUE
        return Exploit(trials[0], {"x": 7, "steps": 14})


class Patient(Searcher):
    """Waits for every result before it suggests the next value; has four."""

    def __init__(self) -> None:
        super().__init__()
        self.suggested, self.completed = 0, 0

    def suggest(self, trial_id: str) -> Any:
        if self.suggested == 4:
            return self.FINISHED
        if self.completed < self.suggested:
            return None
        self.suggested += 1
        return {"x": self.suggested}

    def on_trial_complete(self, *args: Any, **kwargs: Any) -> None:
        self.completed += 1


class EnoughReports(Stopper):
    """Ends the experiment after so many reports."""

    def __init__(self, enough: int) -> None:
        self.left = enough

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.left -= 1
        return False

    def stop_all(self) -> bool:
        return self.left <= 0


# The experiments.


@dataclass
class Scenario:
    """An experiment, and what its trials come to."""

    statuses: str
    trainable: Callable[..., Any] = train
    space: dict[str, Any] = field(default_factory=lambda: {"x": tune.grid_search([1, 2, 3])})
    tune: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    threads: int = 1


def retries(number: int, **more: Any) -> dict[str, Any]:
    return {"failure_config": tune.FailureConfig(max_failures=number, **more)}


def keep(number: int, **more: Any) -> dict[str, Any]:
    return {"checkpoint_config": tune.CheckpointConfig(num_to_keep=number, **more)}


def save_every(number: int, **more: Any) -> dict[str, Any]:
    return {"checkpoint_config": tune.CheckpointConfig(checkpoint_frequency=number, **more)}


def interrupt_second(config: dict[str, Any]) -> int | None:
    return 4 if config["x"] == 2 else None


REUSE = {"reuse_actors": True}
TEN = {"stop": {"training_iteration": 10}}
FAILING = {"x": tune.grid_search([1, 2]), "fail_at": [1, 4, 7]}
#: Made for each test, since schedulers and stoppers remember.
SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "grid": lambda: Scenario("TTT"),
    "threads": lambda: Scenario("TTTTTT", tune={"num_samples": 2}, threads=3),
    "one at a time": lambda: Scenario("TTT", tune={"max_concurrent_trials": 1}, threads=3),
    "retries": lambda: Scenario("TT", space=FAILING, run=retries(3)),
    "retries in threads": lambda: Scenario("TT", space=FAILING, run=retries(-1), threads=2),
    "too few retries": lambda: Scenario("EE", space=FAILING, run=retries(2)),
    "failures": lambda: Scenario("EEE", always_fails, run=retries(1)),
    "fail fast": lambda: Scenario("ET", always_fails, run=retries(0, fail_fast=True)),
    "stop rule": lambda: Scenario("TTT", run={"stop": {"step": 3, "time_total_s": 1e9}}),
    "stopper": lambda: Scenario("TTT", run={"stop": MaximumIterationStopper(4)}),
    "stop function": lambda: Scenario("TTT", run={"stop": lambda trial_id, result: result["loss"] > 20}),
    "stop all": lambda: Scenario("TTT", run={"stop": [EnoughReports(13)]}),
    "stop all in threads": lambda: Scenario("TTT", run={"stop": EnoughReports(9)}, threads=3),
    "stopping scheduler": lambda: Scenario("TTT", tune={"scheduler": StopAboveMedian()}),
    "pausing scheduler": lambda: Scenario("TTT", tune={"scheduler": PauseTwice()}),
    "pauses and retries": lambda: Scenario(
        "TT", space=FAILING, tune={"scheduler": PauseTwice()}, run=retries(3)
    ),
    "pauses at checkpoints": lambda: Scenario("TTT", tune={"scheduler": PausingScheduler(3)}, run=keep(1)),
    "pauses without checkpoints": lambda: Scenario(
        "TT", generator, {"x": tune.grid_search([4, 7])}, tune={"scheduler": PausingScheduler(2)}
    ),
    "pauses in threads": lambda: Scenario(
        "TTTTTT", tune={"scheduler": PausingScheduler(2), "num_samples": 2}, run=keep(1), threads=3
    ),
    "chooses nobody": lambda: Scenario("TTT", tune={"scheduler": ChoosesNobody(4)}),
    "gives up": lambda: Scenario("TTT", tune={"scheduler": GivesUp(4)}),
    "exploits": lambda: Scenario("TTT", tune={"scheduler": Copying()}, run=keep(1)),
    "exploits and retries": lambda: Scenario(
        "TTTT",
        space={"x": tune.grid_search([1.0, 2.0]), "fail_at": tune.grid_search([[3], [7]])},
        tune={"scheduler": ExploitingScheduler(every=4), "metric": "loss", "mode": "min"},
        run=keep(1) | retries(-1),
        threads=4,
    ),
    "patient searcher": lambda: Scenario(
        "TTTT", space={}, tune={"search_alg": Patient(), "num_samples": -1}, threads=2
    ),
    "newest checkpoints": lambda: Scenario("TTT", run=keep(2)),
    "best checkpoints": lambda: Scenario(
        "TT",
        space=FAILING,
        run=keep(1, checkpoint_score_attribute="loss", checkpoint_score_order="min") | retries(3),
    ),
    "metric": lambda: Scenario("TTT", tune={"metric": "loss", "mode": "min"}),
    "missing metric": lambda: Scenario("EEE", tune={"metric": "los", "mode": "min"}, run=retries(3)),
    "generator": lambda: Scenario("TTT", generator),
    "returned value": lambda: Scenario("TTT", lambda config: 0),
    "no reports": lambda: Scenario("TTT", lambda config: None),
    "interrupt": lambda: Scenario("TPP", interrupted),
    "class": lambda: Scenario("TTT", Model, run=TEN | save_every(2)),
    "class, threads": lambda: Scenario("TTTTTT", Model, tune={"num_samples": 2}, run=TEN, threads=3),
    "class, retries": lambda: Scenario("TT", Model, FAILING, run=TEN | save_every(2) | retries(3)),
    "class, stopper": lambda: Scenario("TTT", Model, run={"stop": MaximumIterationStopper(4)}),
    "class, pauses": lambda: Scenario("TTT", Model, tune={"scheduler": PauseTwice()}, run=TEN),
    "class, best": lambda: Scenario(
        "TTT",
        Model,
        run=TEN
        | save_every(3, num_to_keep=1, checkpoint_score_attribute="loss", checkpoint_score_order="min"),
    ),
    "class, interrupt": lambda: Scenario(
        "TPP",
        Model,
        {"x": tune.grid_search([1, 2, 3]), "interrupted_at": tune.sample_from(interrupt_second)},
        run=TEN,
    ),
    "class, reused": lambda: Scenario("TTTTTT", Reusable, tune=REUSE | {"num_samples": 2}, run=TEN),
    "class, reused in threads": lambda: Scenario(
        "TTTTTT",
        Reusable,
        tune=REUSE | {"num_samples": 2, "max_reuses": 1},
        run=TEN | save_every(3),
        threads=2,
    ),
    "class, reused with retries": lambda: Scenario(
        "TT", Reusable, FAILING, tune=REUSE, run=TEN | save_every(2) | retries(3)
    ),
    "class, reused with pauses": lambda: Scenario(
        "TTT", Reusable, tune=REUSE | {"scheduler": PauseTwice()}, run=TEN
    ),
    "function, reused": lambda: Scenario("TTT", tune=REUSE),
    "class, stop all": lambda: Scenario("TTT", Model, run={"stop": EnoughReports(9)}, threads=3),
    "no trials": lambda: Scenario("", space={}, tune={"search_alg": NoTrials()}),
}


class NoTrials(Searcher):
    def suggest(self, trial_id: str) -> Any:
        return self.FINISHED


@dataclass
class Played:
    """An experiment that was run, with all there is to compare."""

    experiment: Experiment
    controller: Controller
    results: ResultGrid

    @property
    def storage(self) -> ExperimentStorage:
        return self.experiment.storage

    @property
    def trials(self) -> list[Trial]:
        return list(self.controller.trials.values())


def play(scenario: Scenario, storage_path: str) -> Played:
    tuner = tune.Tuner(
        scenario.trainable,
        param_space=scenario.space,
        tune_config=tune.TuneConfig(**scenario.tune),
        run_config=tune.RunConfig(name="experiment", storage_path=storage_path, **scenario.run),
    )
    experiment, runtime = tuner.experiment(), LocalRuntime(threads=scenario.threads)
    results = runtime.run(experiment)
    return Played(experiment, runtime.controller, results)
