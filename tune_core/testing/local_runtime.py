"""Runs whole experiments in the calling process: without Prefect, Ray or a network.

What decides is the real thing (searcher, scheduler, stoppers, controller, session, journal,
storage, loggers); only the engine is missing. So bundles are not enforced, a hung trainable hangs
the test, and a process that dies takes everything with it.
"""

from __future__ import annotations

import copy
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tune_core.callbacks import CallbackList
from tune_core.controller import Controller
from tune_core.encoding import dumps, loads
from tune_core.errors import TrialError
from tune_core.journal import Journal, claim
from tune_core.loggers import TrialFiles, default_loggers
from tune_core.messages import (
    Answer,
    Command,
    CompleteTrial,
    Decision,
    DeleteCheckpoint,
    EndExperiment,
    Event,
    ExperimentStarted,
    LeaseEnded,
    LeaseStarted,
    Outcome,
    StartLease,
    StopCause,
    StopLease,
    StopRequested,
    Suggest,
    TrialReported,
    TrialSuggested,
)
from tune_core.results import ResultGrid
from tune_core.runtime import Experiment
from tune_core.session import Report
from tune_core.steering import Steering
from tune_core.trainable import run_lease
from tune_core.trial import Trial


class LocalRuntime:
    """Runs the trials of an experiment one after the other, or in threads.

    Trials run in directories below a temporary one; with more than one thread the current directory
    stays as it is, since it belongs to the process. Callbacks are called under a lock.

    Args:
        threads: How many trials run at once. With 1 they run in the calling thread.
        wall_clock: Seconds since the epoch: in events, rows and directory names.
        clock: Monotonic seconds: what `time_budget_s` and `time_total_s` are measured with.

    Attributes:
        controller: The state of the experiment that was run last.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     tune.report({"loss": (config["x"] - 1) ** 2})
        >>> tuner = tune.Tuner(
        ...     train,
        ...     param_space={"x": tune.grid_search([0, 1, 3])},
        ...     tune_config=tune.TuneConfig(metric="loss", mode="min"),
        ...     run_config=tune.RunConfig(storage_path="memory://runs"),
        ... )
        >>> results = LocalRuntime().run(tuner.experiment())
        >>> [result.metrics["loss"] for result in results], results.get_best_result().config
        ([1, 0, 4], {'x': 1})
    """

    def __init__(
        self,
        *,
        threads: int = 1,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads, self._wall_clock, self._clock = threads, wall_clock, clock
        self.controller: Controller

    def run(self, experiment: Experiment) -> ResultGrid:
        """Run an experiment to its end; see `Tuner.fit`.

        Raises:
            TrialError: The first trial that failed, with `FailureConfig(fail_fast="raise")`.
            ExperimentConflict: Another process runs an experiment of this name and path.
        """
        run, tune = experiment.run_config, experiment.tune_config
        steering = Steering(
            tune,
            run.stop,
            experiment.param_space,
            experiment.trainable,
            experiment.trainable_name,
            wall_clock=self._wall_clock,
        )
        self.controller = Controller(experiment.rules(steering))
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prefect-tune-")))
            if self._threads > 1:
                stack.enter_context(_fixed_directory())
            shell = _Shell(experiment, self.controller, steering, directory, self._wall_clock, self._clock)
            ended = shell.run(self._threads)
        trials = list(self.controller.trials.values())
        if ended.error is not None:
            raise TrialError(ended.error, next((t.traceback for t in trials if t.error == ended.error), ""))
        return ResultGrid.from_trials(
            trials,
            experiment.storage,
            tune.metric,
            tune.mode,
            num_to_keep=self.controller.rules.num_to_keep,
            rank=self.controller.rank_checkpoint,
        )


class _Shell:
    """Does what the controller orders. Every method that touches the controller holds the lock."""

    def __init__(
        self,
        experiment: Experiment,
        controller: Controller,
        steering: Steering,
        directory: Path,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.experiment, self.controller, self.steering = experiment, controller, steering
        self.directory, self.wall_clock, self.clock = directory, wall_clock, clock
        budget_s = experiment.tune_config.time_budget_seconds
        self.deadline = None if budget_s is None else clock() + budget_s
        self.lock = threading.RLock()
        self.journaled: dict[tuple[str, int], int] = {}
        self.told_to_stop: set[tuple[str, int]] = set()
        self.orders: SimpleQueue[StartLease | None] = SimpleQueue()
        self.failure: BaseException | None = None
        self._commands: deque[Command] = deque()
        self._trials: list[Trial] = []
        self._end: EndExperiment | None = None
        self._actions: dict[type[Command], Callable[[Any], None]] = {
            Suggest: self._suggest,
            StartLease: self.orders.put,
            Answer: lambda _: None,  # `report` returns the decision
            StopLease: lambda command: self.told_to_stop.add((command.trial_id, command.lease)),
            DeleteCheckpoint: self._delete_checkpoint,
            CompleteTrial: self._complete_trial,
            EndExperiment: self._end_experiment,
        }
