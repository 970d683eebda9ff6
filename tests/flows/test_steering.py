"""Schedulers on real servers: trials that pause and go on, and one that goes on from another's checkpoint."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tune_core as tune
from tests.flows.conftest import Recorded
from tune_core.schedulers import Exploit, TrialScheduler
from tune_core.testing.schedulers import PausingScheduler
from tune_core.trial import Status, Trial


def train(config: dict[str, Any]) -> None:
    """Six steps, saved at every second one; what is saved says whose steps they were."""
    done: list[Any] = []
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            done = json.loads(Path(directory, "done").read_text())
    for step in range(len(done) + 1, 7):
        done.append(config["name"])
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "done").write_text(json.dumps(done))
            saved = tune.Checkpoint.from_directory(directory) if step % 2 == 0 else None
            tune.report({"step": step, "done_by": "".join(done)}, checkpoint=saved)


class CopyTheFirst(TrialScheduler):
    """The second trial, at its third step, goes on from the first one, which waits for that at its fourth."""

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str | Exploit:
        if trial.number == 0:
            return self.PAUSE if result["step"] == 4 and trial.attempt_number == 1 else self.CONTINUE
        if result["step"] == 3 and trial.attempt_number == 1:
            return Exploit(trials[0], {"name": "c"})
        return self.CONTINUE

    def choose_trial_to_run(self, trials: Any) -> Trial | None:
        is_over = len(trials) > 1 and trials[1].is_finished()
        return trials[0] if is_over and trials[0].status is Status.PAUSED else None


def names(*each: str) -> dict[str, Any]:
    return {"name": tune.grid_search(list(each))}


def test_paused_trials_take_turns_and_lose_nothing(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config(checkpoint_config=tune.CheckpointConfig(num_to_keep=1))
    scheduler = tune.TuneConfig(scheduler=PausingScheduler(2))

    results = tune.Tuner(
        train, param_space=names("a", "b", "d"), tune_config=scheduler, run_config=config
    ).fit()

    assert results.num_errors == 0
    for result, name in zip(results, "abd", strict=True):
        assert [row["step"] for row in result.rows] == [1, 2, 3, 4, 5, 6]
        assert [row["attempt_number"] for row in result.rows] == [1, 1, 2, 2, 3, 3]
        assert result.metrics["done_by"] == name * 6
    assert config.name is not None
    runs = recorded(config.name).task_runs(12)  # each pause is the end of one, also that after the last step
    assert [run.state_name for run in runs] == ["Completed"] * 12


def test_trial_goes_on_from_another_ones_checkpoint(run_config: Callable[..., tune.RunConfig]) -> None:
    config = run_config(checkpoint_config=tune.CheckpointConfig(num_to_keep=1))
    scheduler = tune.TuneConfig(scheduler=CopyTheFirst(), max_concurrent_trials=1)

    first, second = tune.Tuner(
        train, param_space=names("a", "b"), tune_config=scheduler, run_config=config
    ).fit()

    assert first.metrics["done_by"] == "aaaaaa"
    assert second.config == {"name": "c"}
    assert second.metrics["done_by"] == "aaaacc"
    assert [(row["attempt_number"], row["step"]) for row in second.rows] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 5),
        (2, 6),
    ]
    assert second.checkpoint is not None
    assert "perturbed[name=c]" in second.metrics["experiment_tag"]
