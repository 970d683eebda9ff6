"""`tune.utils` where it meets Ray: processes of their own, and the GPUs that a trial was given."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.flows.conftest import CPUS


class Counts(tune.Trainable):
    """Counts in a file, and notes in which process."""

    def setup(self, config: dict[str, Any]) -> None:
        self.count, self.log = 0, Path(config["log"])

    def step(self) -> dict[str, Any]:
        self.count += 1
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {self.count}\n")
        return {"count": self.count}

    def save_checkpoint(self, directory: str) -> None:
        Path(directory, "count").write_text(str(self.count))

    def load_checkpoint(self, directory: str) -> None:
        self.count = int(Path(directory, "count").read_text())


class Forgets(Counts):
    def step(self) -> dict[str, Any]:
        return super().step() | {"training_iteration": self.count}

    def load_checkpoint(self, directory: str) -> None: ...


def test_class_goes_on_in_a_second_process(tmp_path: Path) -> None:
    log = tmp_path / "log"

    assert tune.utils.validate_save_restore(Counts, {"log": str(log)}) is True

    lines = [line.split() for line in log.read_text().splitlines()]
    assert [count for _, count in lines] == ["1", "2", "3", "4", "5"]
    processes = [process for process, _ in lines]
    assert len(set(processes[:3])) == len(set(processes[3:])) == 1
    assert len({os.getpid(), *map(int, processes)}) == 3


def test_class_that_does_not_go_on_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"Forgets was restored after 3 iterations, .* 4 was expected"):
        tune.utils.validate_save_restore(Forgets, {"log": str(tmp_path / "log")})


def waits(config: dict[str, Any]) -> dict[str, Any]:
    """Wait for the trial's GPU, as a GPUtil shows it that knows which one is asked for."""
    import ray

    looked: list[int] = []

    def gpus() -> list[Any]:
        looked.append(1)
        own = int(ray.get_gpu_ids()[0])
        return [types.SimpleNamespace(id=n, uuid=f"GPU-{n}", memoryUtil=float(n != own)) for n in range(9)]

    sys.modules["GPUtil"] = types.SimpleNamespace(getGPUs=gpus)  # type: ignore[assignment]
    try:
        return {"free": tune.utils.wait_for_gpu(retry=0), "looked": len(looked)}
    finally:
        del sys.modules["GPUtil"]


def test_trial_waits_for_the_gpu_that_it_was_given(run_config: Callable[..., tune.RunConfig]) -> None:
    # Two at once, so that at least one has another GPU than the first.
    space = {"x": tune.grid_search([1, 2])}
    trainable = tune.with_resources(waits, {"cpu": CPUS / 2, "gpu": 1})

    results = tune.Tuner(trainable, param_space=space, run_config=run_config()).fit()

    assert [result.error for result in results] == [None, None]
    assert all(result.metrics["free"] for result in results)
