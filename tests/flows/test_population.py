"""Population based training on real servers: killed on S3 and resumed, and with a class that saves when asked."""

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
from tune_core.control.messages import PausedChosen, TrialReported
from tune_core.control.segments import read_journal
from tune_core.schedulers import PopulationBasedTraining
from tune_core.schedulers.pbt_replay import read_schedule
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.simulator import simulate
from tune_core.trial import Trial

STEPS = 9


def train(config: dict[str, Any]) -> None:
    """Nine steps; what is saved says with which learning rate each was made."""
    import json
    import tempfile
    import time
    from pathlib import Path

    import tune_core as tune

    used: list[float] = []
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            used = json.loads(Path(directory, "used").read_text())
    for step in range(len(used) + 1, 10):
        time.sleep(0.2)
        used.append(config["lr"])
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "used").write_text(json.dumps(used))
            saved = tune.Checkpoint.from_directory(directory)
            tune.report({"score": score(config, step), "used": json.dumps(used)}, checkpoint=saved)


def score(config: dict[str, Any], step: int) -> float:
    value: float = step - (config["lr"] - 0.3) ** 2
    return value


def together() -> PopulationBasedTraining:
    """All at once, so that what comes of it does not depend on who is how fast."""
    return PopulationBasedTraining(
        "training_iteration",
        "score",
        "max",
        2,
        hyperparam_mutations={"lr": tune.uniform(0.0, 1.0)},
        quantile_fraction=0.5,
        synch=True,
        seed=5,
    )


SPACE = {"lr": tune.grid_search([0.1, 0.5, 0.9])}


def expected() -> list[Trial]:
    """What comes of it when nothing is in the way."""
    return simulate(
        lambda config, step: ({"score": score(config, step)}, 1.0),
        param_space=SPACE,
        tune_config=tune.TuneConfig(scheduler=together()),
        iterations=STEPS,
    ).trials


SCRIPT = """
import ray
import tune_core as tune
from tests.flows.test_population import SPACE, together, train

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    path, options = {path!r}, {options!r}
    if {restored!r}:
        tuner = tune.Tuner.restore(path, train, storage_options=options)
    else:
        parent, _, name = path.rpartition("/")
        tuner = tune.Tuner(
            train,
            param_space=SPACE,
            tune_config=tune.TuneConfig(scheduler=together()),
            run_config=tune.RunConfig(
                name=name,
                storage_path=parent,
                storage_options=options,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        )
    print("used:", [result.metrics["used"] for result in tuner.fit()])
"""


def exploits(storage: ExperimentStorage) -> list[PausedChosen]:
    return [event for event, _ in read_journal(storage) if isinstance(event, PausedChosen) and event.exploits]


@pytest.mark.slow
def test_population_that_is_killed_on_s3_ends_as_if_nothing_had_been(
    tmp_path: Path, api: str, s3: S3Server
) -> None:
    name = f"population-{tmp_path.name[-8:]}"
    parent = f"s3://{s3.bucket}/runs"
    storage = ExperimentStorage.open(parent, name, storage_options=s3.storage_options)

    def start(restored: bool) -> Any:
        script = tmp_path / f"script{restored}.py"
        options = {"path": f"{parent}/{name}", "options": s3.storage_options, "restored": restored}
        script.write_text(SCRIPT.format(**options))
        return start_script(script, api)

    process = start(restored=False)
    wait_for(lambda: exploits(storage), what="the first to take over", timeout_s=180)
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(exploits(storage)) < STEPS // 2, "it was over before it was killed"

    again = start(restored=True)
    printed, _ = again.communicate(timeout=240)

    assert again.returncode == 0, printed
    used = {
        event.trial_id: json.loads(event.row["used"])
        for event, _ in read_journal(storage)
        if isinstance(event, TrialReported)
    }
    trials = expected()
    assert len(used) == len(trials) == 3
    for trial_id, trial in zip(sorted(used), trials, strict=True):
        assert len(used[trial_id]) == STEPS
        assert used[trial_id][-1] == trial.config["lr"]
    for trial_id, rates in used.items():
        policy = tmp_path / trial_id
        policy.write_bytes(storage.read(f"pbt_policy_{trial_id}.txt")) if storage.exists(
            f"pbt_policy_{trial_id}.txt"
        ) else policy.touch()
        schedule = read_schedule(str(policy))
        now, changes = (schedule.initial or {"lr": rates[0]})["lr"], dict(schedule.changes)
        for step, rate in enumerate(rates, 1):
            assert rate == now, f"{trial_id}, step {step}: {rates}, {schedule}"
            now = changes.get(step, {"lr": now})["lr"]
    lines = storage.read("pbt_global.txt").decode().splitlines()
    assert len(lines) == sum(len(event.exploits) for event in exploits(storage))
    wait_until_gone(family, timeout_s=120)


class Counter(tune.Trainable):
    """Counts, by a step that may change; saves only when it is told to."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin at 0."""
        self.total = 0.0

    def step(self) -> dict[str, Any]:
        """Add the step."""
        import time

        time.sleep(0.1)
        self.total += self.config["by"]
        return {"total": self.total, "done": self.iteration >= 11}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save the count."""
        Path(checkpoint_dir, "total").write_text(str(self.total))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from a count."""
        self.total = float(Path(checkpoint, "total").read_text())


@pytest.mark.parametrize("synch", [False, True])
def test_best_trials_of_a_class_save_so_that_others_can_go_on_from_them(
    run_config: Callable[..., tune.RunConfig], synch: bool
) -> None:
    scheduler = PopulationBasedTraining(
        "training_iteration",
        "total",
        "max",
        3,
        hyperparam_mutations={"by": [1, 8]},
        resample_probability=0.0,
        quantile_fraction=0.5,
        synch=synch,
        seed=1,
    )

    results = tune.Tuner(
        Counter,
        param_space={"by": tune.grid_search([1, 8])},
        tune_config=tune.TuneConfig(scheduler=scheduler),
        run_config=run_config(checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)),
    ).fit()

    assert results.num_errors == 0
    assert " 0 perturbs" not in scheduler.debug_string()
    policies = sorted(path.name for path in Path(results.experiment_path).glob("pbt_*"))
    assert policies[0] == "pbt_global.txt"
    assert len(policies) >= 2
    totals = [result.metrics["total"] for result in results]
    assert min(totals) > 12, "nobody went on from the better one"
