"""An experiment that runs until it is asked to end."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tune_core as tune
from tests.support.waiting import wait_for
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.namesakes import experiment_at
from tune_core.control.segments import read_journal
from tune_core.steering.inbox import (
    Reply,
    Request,
    StopExperiment,
    post,
)
from tune_core.trial import Status

RUNNING, PAUSED, PENDING, TERMINATED = Status.RUNNING, Status.PAUSED, Status.PENDING, Status.TERMINATED


def train(config: dict[str, Any]) -> None:
    """Count on from the last checkpoint, saving each step, until somebody ends it."""
    step = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            step = int(Path(directory, "step").read_text())
    while True:
        time.sleep(0.05)
        step += 1
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "step").write_text(str(step))
            tune.report({"step": step}, checkpoint=tune.Checkpoint.from_directory(directory))


class Running:
    """An experiment that runs in a thread."""

    def __init__(self, tuner: tune.Tuner, path: str) -> None:
        self.path = path
        self.storage = experiment_at(path)
        self.results: list[tune.ResultGrid] = []
        self._thread = threading.Thread(target=lambda: self.results.append(tuner.fit()))
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def ask(self, request: Request) -> Reply:
        return tune.steer(self.path, request)

    def now(self) -> Controller:
        """What its journal says."""
        controller = Controller(ControllerConfig(""))
        for event, _ in read_journal(self.storage):
            controller.handle(event)
        return controller

    def wait_for(self, *statuses: Status) -> None:
        """Wait until its first trials have these statuses."""

        def seen() -> bool:
            return [trial.status for trial in self.now().trials.values()][: len(statuses)] == [*statuses]

        wait_for(seen, what=f"{statuses}", timeout_s=90)

    def end(self) -> tune.ResultGrid:
        self._thread.join(90)
        assert not self.is_alive
        return self.results[0]


@contextmanager
def running(tuner: tune.Tuner, path: str) -> Iterator[Running]:
    """Run an experiment, and stop it if the test fails."""
    experiment = Running(tuner, path)
    try:
        yield experiment
    finally:
        if experiment.is_alive:
            post(experiment.storage, StopExperiment("the test has failed"))
            experiment.end()


def tuned(trainable: Any, xs: list[int], run: tune.RunConfig, **options: Any) -> tune.Tuner:
    space = {"x": tune.grid_search(xs)}
    return tune.Tuner(trainable, param_space=space, tune_config=tune.TuneConfig(**options), run_config=run)


def path_of(run: tune.RunConfig) -> str:
    return f"{run.storage_path}/{run.name}"
