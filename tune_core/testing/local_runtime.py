"""Runs whole experiments in the calling process, without Prefect and Ray: for tests of trainables.

What decides is the real thing: searcher, scheduler, stoppers, controller, session, journal, storage
and loggers. Only the engine is missing: bundles are not enforced, `log_to_file`, `time_budget_s` and `max_cost`
are not looked at, a trainable that hangs is not killed, and one that kills its process kills the test.
"""

from __future__ import annotations

import copy
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tune_core.callback import Callback, CallbackList
from tune_core.control import messages
from tune_core.control.controller import Controller
from tune_core.control.experiment import SPEC_FILE, Experiment
from tune_core.control.journal import Journal, claim
from tune_core.control.loop import Backend, Loop
from tune_core.control.messages import Command, EndExperiment, Event, StartAttempt
from tune_core.control.resume import Replay, complete_files, put_back, start_or_resume
from tune_core.control.segments import read_journal
from tune_core.encoding import dumps, loads
from tune_core.errors import TrialError
from tune_core.logger.callbacks import TrialFiles, default_loggers
from tune_core.results.result_grid import ResultGrid
from tune_core.states import Decision, Outcome, StopCause
from tune_core.training.execution import Ending, run_attempt
from tune_core.training.trainable_cache import Leftover, TrainableCache
from tune_core.training.uplink import Report
from tune_core.trial import Trial


class LocalRuntime(Backend):
    """Runs the trials of an experiment one after the other, or in threads; make one for each run.

    Args:
        threads: How many trials run at once. With 1 they run in the calling thread, each in a
            directory of its own; with more, the process stays in the directory that it is in.
        wall_clock: Seconds since the epoch, for events and rows.

    Attributes:
        controller: The state of the experiment, once `run` was called.

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
        >>> LocalRuntime().run(tuner.experiment()).get_best_result().config
        {'x': 1}
    """

    controller: Controller

    def __init__(self, *, threads: int = 1, wall_clock: Callable[[], float] = time.time) -> None:
        self._threads, self._wall_clock = threads, wall_clock
        self._lock = threading.RLock()  # held by whoever touches what follows
        self._orders: SimpleQueue[StartAttempt | None] = SimpleQueue()
        self._trials: list[Trial] = []
        self._stopping: set[tuple[str, int]] = set()
        self._failure: Exception | None = None

    def run(self, experiment: Experiment) -> ResultGrid:
        """Run an experiment to its end; return its results.

        Raises:
            TrialError: The first trial that failed, with `FailureConfig(fail_fast="raise")`.
            ExperimentConflict: Another process runs an experiment of this name and path.
        """
        run, tune, storage = experiment.run_config, experiment.tune_config, experiment.storage
        self._experiment = experiment
        self._policy = experiment.policy(self._wall_clock)
        self.controller = Controller(experiment.rules(self._policy), storage)
        users = run.callbacks or ()
        self._watchers = experiment.watchers(self._policy, CallbackList(users), self._wall_clock)
        self._replay = Replay(self.controller, self._policy, experiment.loaded_config, self._watchers)
        self._trials = self._replay.trials
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        with ExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prefect-tune-")))
            if self._threads > 1:
                stack.enter_context(_fixed_directory())
            number = claim(
                storage,
                experiment.experiment_id,
                owner,
                lambda other: other != owner and experiment.continuation is None,
                discard_damaged=experiment.continuation is not None
                and experiment.continuation.discard_damaged,
            )
            storage.write(SPEC_FILE, dumps(experiment.spec()))
            if experiment.continuation is not None:
                self._watchers.rewind()
                self._replay.run(read_journal(storage))
                self._watchers.resume()
            self._journal = Journal(
                storage,
                experiment.experiment_id,
                owner,
                number,
                is_sealed=self._watchers.have_state,
                on_flushed=lambda _: None,
                on_failure=lambda _: None,  # `close` raises it
            )
            stack.callback(self._journal.close)
            users = run.callbacks or ()
            files = self._files = TrialFiles(storage, self._directory)
            stack.callback(self._put_back, users)
            stack.callback(files.close)
            loggers = default_loggers(files, users)
            self._callbacks = CallbackList([*users, *loggers])
            self._loop = Loop(
                self._replay.state,
                self._policy,
                self._journal,
                self,
                watchers=self._watchers,
                callbacks=self._callbacks,
                wall_clock=self._wall_clock,
            )
            self._callbacks.setup(run.stop, tune.num_samples, self._policy.total_trials, files=files)
            complete_files(storage, self._replay.unsettled, loggers)
            start_or_resume(
                experiment,
                self._replay,
                self._loop.apply,
                recover=self._recover,
                clock=self._wall_clock,
                capacity=self._threads,
                total={"CPU": float(self._threads)},
            )
            with self._guarded():
                self._loop.look_at_stop_all()
            helpers = [threading.Thread(target=self._work) for _ in range(self._threads - 1)]
            for helper in helpers:
                helper.start()
            self._work()
            for helper in helpers:
                helper.join()
            if self._failure is not None:
                raise self._failure
            self._callbacks.on_experiment_end(self._trials)
            self._save(self._watchers.news())
        if self._loop.end is not None and self._loop.end.error is not None:
            raise TrialError(self._loop.end.error, next(t.traceback for t in self._trials if t.error))
        keep, rank = self.controller.rules.num_to_keep, self.controller.rank_checkpoint
        return ResultGrid.from_trials(self._trials, storage, tune.objective, num_to_keep=keep, rank=rank)

    def identity(self, name: str | None) -> None:
        """Return None: nothing repeats a run of this process."""
        return

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Hold the lock for a step; what a searcher, scheduler or callback raises ends the run, not a trial."""
        with self._lock:
            try:
                with self._loop.step():
                    yield
            except Exception as error:  # noqa: BLE001 - `run` raises it
                if self._failure is None:
                    self._failure = error
                    self._save(self._watchers.news(of_stoppers=False))
                self._release()

    def _save(self, state: messages.WatchersSaved | None) -> None:
        if state is not None:
            self._journal.append(state, ())

    def _release(self) -> None:
        for _ in range(self._threads):
            self._orders.put(None)

    def _recover(self, trial: Trial) -> None:
        """Take up what an attempt of a dead process has committed and not reported."""
        self._loop.recover(trial, self._experiment.storage.committed(trial.dirname, skip_damaged=True))

    # What the loop orders, and tells.

    def now(self) -> float:
        """Return seconds of a clock that does not go back."""
        return time.monotonic()

    def receive(self, until: float) -> Iterable[StartAttempt | None]:
        """Wait for an order to run an attempt, which the calling thread is to run then."""
        due = self.controller.waits_for_search or until < math.inf
        with suppress(Empty):
            return (self._orders.get(timeout=0.05 if due else None),)
        return ()

    def start(self, trial: Trial, order: StartAttempt) -> None:
        """Have the next thread that is free run an attempt."""
        self._orders.put(order)

    def stop(self, trial: Trial, attempt_number: int) -> None:
        """Have an attempt stop at its next report."""
        self._stopping.add((trial.trial_id, attempt_number))

    def answer(self, trial: Trial, decision: Decision) -> None:
        """Do nothing: a report returns what was decided."""

    def delete_checkpoint(self, trial: Trial, index: int) -> None:
        """Remove a checkpoint at once."""
        self._experiment.storage.delete_checkpoint(trial.dirname, index)

    def noted(self, event: Event, commands: Sequence[Command]) -> None:
        """Let all threads end with the experiment."""
        if any(isinstance(command, EndExperiment) for command in commands):
            self._release()

    def decided(
        self,
        trial: Trial,
        row: dict[str, Any],
        result: dict[str, Any],
        decision: Decision,
        checkpoint: int | None,
    ) -> tuple[dict[str, Any], int | None]:
        """Show a result to callbacks, which may add to it."""
        self._callbacks.on_trial_result(self._loop.turn, self._trials, trial, result)
        return trial.row_of(result), checkpoint

    def show_report(
        self, trial: Trial, checkpoint: int | None, row: dict[str, Any], result: dict[str, Any]
    ) -> None:
        """Show the checkpoint of a report to callbacks."""
        if checkpoint is not None:
            self.show_checkpoint(trial, checkpoint)

    def show_checkpoint(self, trial: Trial, index: int) -> None:
        """Show a checkpoint to callbacks."""
        self._callbacks.on_trial_save(self._loop.turn, self._trials, trial)
        stored = self._experiment.storage.checkpoint(trial.dirname, index)
        self._callbacks.on_checkpoint(self._loop.turn, self._trials, trial, stored)

    def completed(self, trial: Trial, *, failed: bool) -> None:
        """Tell callbacks that a trial is over."""
        tell = self._callbacks.on_trial_error if failed else self._callbacks.on_trial_complete
        tell(self._loop.turn, self._trials, trial)

    def _put_back(self, users: Sequence[Callback]) -> None:
        if self._files.lost:
            self._journal.flush()
            put_back(self._experiment.storage, self._files.lost, self._directory, users)

    def _work(self) -> None:
        trainables = TrainableCache()
        try:
            self._serve(trainables)
        finally:
            trainables.clean_up()

    def _serve(self, trainables: TrainableCache) -> None:
        while (order := self._next_order()) is not None:
            trial, ending = self.controller.trials[order.trial_id], Ending(Outcome.STOPPED)
            uplink = _LocalUplink(self, trial, order.attempt_number)
            if uplink.stop_cause is None:
                with self._guarded():
                    self._begin(trial, order)
                spec = self._experiment.attempt_spec(self._policy, trial, order)
                # A copy, as if it had travelled: what a trainable does to it stays in the trial.
                spec = replace(spec, config=copy.deepcopy(trial.config))
                directory = self._directory / "work" / trial.dirname
                clock = self._wall_clock
                trainable = trainables.begin(spec.reuse, lambda: self._experiment.trainable)
                ending = run_attempt(
                    spec, trainable, uplink, directory, trainables=trainables, wall_clock=clock
                )
                if ending.leaves is Leftover.EXHAUSTED:  # where a process would be replaced
                    trainables.clean_up()
            with self._guarded():
                self._finish(trial, order, ending)

    def _next_order(self) -> StartAttempt | None:
        """Wait for an order, or for the end; meanwhile the searcher is asked again if nothing else can happen."""
        while True:
            for order in self.receive(math.inf):
                return order
            with self._guarded():
                self._loop.look(self.now())

    def _begin(self, trial: Trial, order: StartAttempt) -> None:
        where = (os.getpid(), socket.gethostname(), "127.0.0.1")
        self._loop.apply(
            messages.AttemptStarted(self._wall_clock(), trial.trial_id, order.attempt_number, *where)
        )
        self._callbacks.on_trial_start(self._loop.turn, self._trials, trial)
        if trial.start_point is not None:
            self._callbacks.on_trial_restore(self._loop.turn, self._trials, trial)

    def _finish(self, trial: Trial, order: StartAttempt, ending: Ending) -> None:
        now = self._wall_clock()
        if ending.error == "KeyboardInterrupt":  # meant for the experiment, not for the trial
            self._loop.apply(messages.StopRequested(now, StopCause.INTERRUPT, "stopped by Ctrl-C"))
        how = (ending.outcome, ending.error, ending.traceback, ending.retryable)
        self._loop.end_attempt(trial.trial_id, order.attempt_number, *how)
        if ending.outcome is Outcome.ERROR and trial.attempt_number > order.attempt_number:
            self._callbacks.on_trial_recover(self._loop.turn, self._trials, trial)
        self._files.flush_due(time.monotonic())

    def report(self, trial: Trial, attempt_number: int, report: Report) -> Decision:
        """Take a report from a trial's thread; return what was decided."""
        with self._guarded():
            self._loop.report(trial, report.iteration, report.checkpoint, loads(dumps(report.row)))
        # A pause may have to wait for a checkpoint.
        return trial.decision if self._failure is None else Decision.STOP

    def checkpoint(self, trial: Trial, attempt_number: int, iteration: int, index: int) -> None:
        """Take up a checkpoint that was committed after its report."""
        with self._guarded():
            self._loop.add_checkpoint(trial.trial_id, attempt_number, iteration, index)

    def stop_cause(self, trial: Trial, attempt_number: int) -> str | None:
        """Return why a trial was told to stop; None if it was not."""
        if self._failure is not None:
            return str(StopCause.FAILURE)
        request = self.controller.stop_request
        is_stopping = request is not None and (trial.trial_id, attempt_number) in self._stopping
        return str(request.cause) if is_stopping and request is not None else None


class _LocalUplink:
    """Hands reports over by a call; rows count as journaled at once, since no driver can die alone."""

    def __init__(self, runtime: LocalRuntime, trial: Trial, attempt_number: int) -> None:
        self._runtime, self._trial, self._attempt = runtime, trial, attempt_number
        self._decision = Decision.CONTINUE
        self.journaled = 0
        self.stop_rules: dict[str, float] | None = None

    def send(self, report: Report) -> None:
        if report.iteration <= self._trial.iteration:
            return  # an interruption came after it had been heard
        self._decision = self._runtime.report(self._trial, self._attempt, report)
        self.journaled = report.iteration

    def keep(self, report: Report) -> None:
        return

    def wait_for_decision(self, iteration: int) -> Decision:
        return self._decision

    def wait_for_journal(self, iteration: int) -> None:
        return

    def send_checkpoint(self, iteration: int, index: int) -> None:
        self._runtime.checkpoint(self._trial, self._attempt, iteration, index)

    def poll(self) -> bool:
        return self.stop_cause is not None

    @property
    def wants_save(self) -> bool:
        return self._trial.wants_save

    @property
    def stop_cause(self) -> str | None:
        return self._runtime.stop_cause(self._trial, self._attempt)


@contextmanager
def _fixed_directory() -> Iterator[None]:
    """Keep trials from changing the current directory, which all threads share."""
    before = os.environ.get("RAY_CHDIR_TO_TRIAL_DIR")
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_CHDIR_TO_TRIAL_DIR"]
        else:
            os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = before
