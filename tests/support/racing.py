"""Drivers without Prefect and Ray that race for one experiment, each a process of its own.

What decides is the real thing: controller, journal and checkpoint commits, in the order in which the
flow's driver uses them. The trial is one whose every report carries a checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.journal import Journal, claim
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    Command,
    CompleteTrial,
    DeleteCheckpoint,
    EndExperiment,
    Event,
    ExperimentStarted,
    SearchEnded,
    StartAttempt,
    Suggest,
    TrialReported,
    TrialSuggested,
)
from tune_core.control.segments import read_journal, read_segment, segment_numbers
from tune_core.errors import CheckpointNotFound, ExperimentConflict
from tune_core.states import Outcome
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.replay import replay
from tune_core.trial import Status

EXPERIMENT, TRIAL = "a1b2c", "a1b2c_00000"
#: Only the latest checkpoint is kept, so that a driver that went on too long would delete what another one needs.
RULES = ControllerConfig(EXPERIMENT, max_failures=-1, max_concurrent=1, num_to_keep=1)
#: Where the driver died that the racers find; where they race; where the trial is done.
LEFT_AT, RACE_AT, DONE_AT = 2, 3, 6
PATIENCE_S = 120.0

Scenario = Literal["double start", "takeover"]


class RacingDriver:
    """One driver of the experiment in `storage`."""

    def __init__(self, storage: ExperimentStorage) -> None:
        self.storage = storage
        self.controller = Controller(RULES)
        self._owner = {"host": "here", "pid": os.getpid()}
        self._attempt = 0
        self._commands: deque[Command] = deque()

    def claim(self) -> None:
        """Take the journal over as if nobody else were alive, and apply what is in it."""
        number = claim(self.storage, EXPERIMENT, self._owner, lambda _: False)
        for event, _ in read_journal(self.storage):
            self.controller.handle(event)
        self._journal = Journal(
            self.storage,
            EXPERIMENT,
            self._owner,
            number,
            on_flushed=lambda _: None,
            on_failure=lambda _: None,  # `flush` raises it
        )
        if TRIAL not in self.controller.trials:
            self._apply(ExperimentStarted(time.time(), capacity=1))
        else:
            self._attempt = self.controller.trials[TRIAL].attempt_number
            self._apply(AttemptEnded(time.time(), TRIAL, self._attempt, Outcome.CRASHED, "its driver died"))

    def report(self) -> int:
        """Go on from the trial's checkpoint, commit another one, report; return when that is journaled."""
        trial = self.controller.trials[TRIAL]
        iteration = 1
        if trial.checkpoints:
            iteration += self._iteration_of(trial.last_checkpoint_index)
        row = {"training_iteration": iteration}
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state").write_text(f"{iteration} {os.getpid()}")
            marker = self.storage.commit_checkpoint(
                TRIAL,
                directory,
                index=trial.last_checkpoint_index + 1,
                attempt_number=self._attempt,
                iteration=iteration,
                rows=[row],
                metrics=row,
            )
        self._apply(TrialReported(time.time(), TRIAL, self._attempt, iteration, row, marker.index))
        self._journal.flush()
        return iteration

    def _iteration_of(self, index: int) -> int:
        try:
            with self.storage.checkpoint(TRIAL, index).as_directory() as directory:
                return int(Path(directory, "state").read_text().split()[0])
        except CheckpointNotFound:
            # The driver that has won may have gone on, and removed it: then the next segment is taken.
            self._apply(CapacityChanged(time.time(), capacity=1))
            self._journal.flush()
            raise

    def finish(self) -> None:
        """Report until the trial is done, and close the journal."""
        while self.controller.trials[TRIAL].iteration < DONE_AT:
            self.report()
        self._apply(AttemptEnded(time.time(), TRIAL, self._attempt, Outcome.COMPLETED))
        self._journal.close()

    def _apply(self, event: Event) -> None:
        commands = self.controller.handle(event)
        self._journal.append(event, commands)
        is_acting = bool(self._commands)
        self._commands.extend(commands)
        while self._commands and not is_acting:
            self._do(self._commands[0])
            self._commands.popleft()

    def _do(self, command: Command) -> None:
        if isinstance(command, Suggest):
            self._apply(self._suggested(command) if not self.controller.trials else SearchEnded(time.time()))
        elif isinstance(command, StartAttempt):
            self._attempt = command.attempt_number
            self._apply(
                AttemptStarted(time.time(), TRIAL, command.attempt_number, os.getpid(), "here", "127.0.0.1")
            )
        elif isinstance(command, DeleteCheckpoint):
            index = command.index
            self._journal.when_written(lambda: self.storage.delete_checkpoint(TRIAL, index))
        else:
            assert isinstance(command, CompleteTrial | EndExperiment), command

    def _suggested(self, command: Suggest) -> Event:
        resources = {"bundles": [{"CPU": 1}]}
        return TrialSuggested(time.time(), command.trial_id, {}, "0", TRIAL, "train", resources)


def leave_behind(storages: Sequence[ExperimentStorage]) -> None:
    """Drive each experiment a little, then die without a word."""
    for storage in storages:
        driver = RacingDriver(storage)
        driver.claim()
        while driver.report() < LEFT_AT:
            pass
    os.kill(os.getpid(), signal.SIGKILL)


def race(
    storages: Sequence[ExperimentStorage], scenario: Scenario, is_first: bool, barrier: Any, outcomes: Any
) -> None:
    """Take part in one race per experiment; put down how each ended: "won", or the text of the conflict."""
    ended = []
    for storage in storages:
        driver = RacingDriver(storage)
        has_claimed = scenario == "takeover" and is_first
        try:
            if has_claimed:
                driver.claim()
            barrier.wait(PATIENCE_S)
            try:
                driver.report() if has_claimed else driver.claim()
            finally:
                barrier.wait(PATIENCE_S)
            driver.finish()
        except ExperimentConflict as conflict:
            ended.append(str(conflict))
        else:
            ended.append("won")
    outcomes.put((is_first, os.getpid(), ended))


def run_races(storages: Sequence[ExperimentStorage], scenario: Scenario) -> list[dict[int, str]]:
    """Let a driver die, then two others race, on each of the experiments; return their ends, by process."""
    context = multiprocessing.get_context("spawn")
    dead = context.Process(target=leave_behind, args=(storages,))
    dead.start()
    dead.join(PATIENCE_S * 2)
    assert dead.exitcode == -signal.SIGKILL
    barrier, outcomes = context.Barrier(2), context.Queue()
    racers = [
        context.Process(target=race, args=(storages, scenario, is_first, barrier, outcomes))
        for is_first in (True, False)
    ]
    for racer in racers:
        racer.start()
    try:
        ends = [outcomes.get(timeout=PATIENCE_S * 3) for _ in racers]
    finally:
        for racer in racers:
            racer.join(10)
            racer.kill()
    by_process = {pid: ended for _, pid, ended in ends}
    return [{pid: ended[number] for pid, ended in by_process.items()} for number in range(len(storages))]


def check_race(storage: ExperimentStorage, ended: dict[int, str]) -> None:
    """Make sure that one driver won, that the other one was told so, and that the experiment is whole."""
    (winner,) = [pid for pid, end in ended.items() if end == "won"]
    (loser,) = ended.keys() - {winner}
    assert "was taken over by another driver" in ended[loser], ended
    assert f"pid {winner}" in ended[loser]

    segments = [read_segment(storage, number) for number in segment_numbers(storage)]
    owners = [segment.owner["pid"] for segment in segments]
    first = owners.index(winner)
    assert segments[-1].is_last
    if loser in owners:  # it wrote before it lost, and never again
        since = owners.index(loser)
        lost = len(owners) - owners[::-1].index(loser)
        assert owners[since:] == [*owners[since:lost], *[winner] * (len(owners) - lost)]
    assert not [pid for pid in owners[:first] if pid == winner]

    controller = replay(read_journal(storage), RULES)
    assert controller.has_ended
    trial = controller.trials[TRIAL]
    assert (trial.status, trial.iteration) == (Status.TERMINATED, DONE_AT)
    (kept,) = trial.checkpoints
    with storage.checkpoint(TRIAL, kept.index).as_directory() as directory:
        assert Path(directory, "state").read_text() == f"{DONE_AT} {winner}"
    for marker in storage.committed(TRIAL):
        if marker.index != kept.index:  # the loser's, or one that the dead driver was about to delete
            with storage.checkpoint(TRIAL, marker.index).as_directory() as directory:
                assert Path(directory, "state").read_text().split()[1] != str(winner)
    assert storage.list() == [TRIAL, "journal"]
