"""The driver's loop, apart from Prefect and Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from ray.exceptions import ActorDiedError, RayTaskError

import tune_core as tune
from flows.attempts import Attempt, TaskEnded
from flows.channel import Message
from flows.deaths import ProcessDied
from flows.driver import LAST_WORDS_TIMEOUT_S, Driver
from flows.slots import Slot
from tune_core.controller import Controller
from tune_core.messages import ExperimentStarted, LeaseStarted, Outcome, StartLease
from tune_core.overview import Overview
from tune_core.resources import ONE_CPU
from tune_core.reuse import Leftover
from tune_core.testing.schedulers import AnsweringScheduler


def test_a_report_is_answered_once_it_waits_for_the_journal_and_before_its_files_are_written(
    tmp_path: Path,
) -> None:
    tune_config = tune.TuneConfig(scheduler=AnsweringScheduler())
    run_config = tune.RunConfig(storage_path=str(tmp_path))
    experiment = tune.Tuner(lambda config: None, tune_config=tune_config, run_config=run_config).experiment()
    steering = experiment.steering()
    controller = Controller(experiment.rules(steering))
    (suggest,) = controller.handle(ExperimentStarted(0.0, capacity=1))
    trial_id = suggest.trial_id  # type: ignore[attr-defined]
    controller.handle(steering.suggest(trial_id, 0))
    controller.handle(LeaseStarted(0.0, trial_id, 1, 1, "host", "127.0.0.1"))
    overview = Overview(controller, tune_config.objective)
    parts = MagicMock(experiment=experiment, steering=steering, controller=controller, overview=overview)
    parts.clock.return_value = parts.wall_clock.return_value = 0.0
    driver = Driver(parts)

    row = {"training_iteration": 1, "timestamp": 0, "done": False}
    driver._take(Message(trial_id, 1, "row", [1, None, True, row]))

    steps = ("journal.append", "channel.send", "loggers.on_trial_result", "artifacts.add_row")
    assert [name for name, _, _ in parts.mock_calls if name in steps] == list(steps)
    parts.channel.send.assert_called_once_with(trial_id, 1, "decision", 1, "CONTINUE")


# Ends of attempts, and what becomes of their processes.


class Running:
    """A driver whose only trial has an attempt under way, in a process that many share."""

    def __init__(self, tmp_path: Path) -> None:
        run_config = tune.RunConfig(storage_path=str(tmp_path))
        experiment = tune.Tuner(lambda config: None, run_config=run_config).experiment()
        steering = experiment.steering()
        controller = Controller(experiment.rules(steering))
        (suggest,) = controller.handle(ExperimentStarted(0.0, capacity=1))
        self.trial_id: str = suggest.trial_id  # type: ignore[attr-defined]
        controller.handle(steering.suggest(self.trial_id, 0))
        self.parts = MagicMock(experiment=experiment, steering=steering, controller=controller)
        self.parts.clock.return_value = self.parts.wall_clock.return_value = 0.0
        self.parts.pool.needs_fresh_process.return_value = False
        self.parts.channel.drain.return_value = ()
        self.driver = Driver(self.parts)
        self.driver._placement = MagicMock(leaving=frozenset())  # it asks Ray
        self.slot = Slot(ONE_CPU, MagicMock())
        order = StartLease(self.trial_id, 1, None, 0, -1, "")
        self.attempt = Attempt(order, self.slot, uuid4(), "trial")
        self.driver._attempts[self.trial_id, 1] = self.attempt

    def say(self, kind: str, *content: Any) -> None:
        self.driver._take(Message(self.trial_id, 1, kind, list(content)))

    def end_task(self, state: State[Any] | None = None, error: BaseException | None = None) -> None:
        self.driver._take(TaskEnded(self.trial_id, 1, state, error))

    @property
    def recovered(self) -> tuple[Outcome, str]:
        """The outcome and the error that the storage is asked about."""
        (ended, _), _ = self.parts.recovery.begin.call_args
        return ended.outcome, ended.error


@pytest.mark.parametrize(
    ("outcome", "is_replaced"),
    [
        (Outcome.COMPLETED, False),
        (Outcome.STOPPED, False),
        (Outcome.ERROR, True),
        (Outcome.CORRUPTED, True),
    ],
)
def test_a_shared_process_is_replaced_after_every_failure(
    tmp_path: Path, outcome: Outcome, *, is_replaced: bool
) -> None:
    running = Running(tmp_path)
    running.say("hello", 1, "host", "127.0.0.1")

    running.say("end", str(outcome), "error", "", True, str(Leftover.NOTHING), 0, -1)
    running.end_task(Completed())

    pool = running.parts.pool
    assert pool.renew.called is is_replaced
    assert pool.release.called is not is_replaced


@pytest.mark.parametrize(
    ("is_heard", "state", "outcome", "message"),
    [
        (False, Failed(message="too many open files"), Outcome.LOST, "before the trial began: too many"),
        (False, Completed(message="done"), Outcome.CRASHED, "nothing was heard of the trial"),
        (True, Failed(message="socket is gone"), Outcome.CRASHED, "without a last word of the trial: socket"),
    ],
)
def test_an_attempt_without_a_last_word_has_its_process_replaced_and_is_lost_if_it_never_began(
    tmp_path: Path, *, is_heard: bool, state: State[Any], outcome: Outcome, message: str
) -> None:
    running = Running(tmp_path)
    if is_heard:
        running.say("hello", 1, "host", "127.0.0.1")

    running.end_task(state)
    running.parts.clock.return_value = LAST_WORDS_TIMEOUT_S + 1
    running.driver._look_at_timers()

    running.parts.pool.discard.assert_called_once_with(running.slot)
    assert running.recovered[0] is outcome
    assert message in running.recovered[1]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RayTaskError("run", "its traceback", OSError(24, "Too many open files")), Outcome.LOST),
        (ActorDiedError(), Outcome.CRASHED),
        (ProcessDied(Outcome.CRASHED, "died", is_recorded=True), Outcome.CRASHED),
    ],
)
def test_an_attempt_is_lost_if_its_process_lives_and_could_not_begin_it(
    tmp_path: Path, error: BaseException, outcome: Outcome
) -> None:
    running = Running(tmp_path)

    running.end_task(error=error)

    running.parts.pool.discard.assert_called_once_with(running.slot)
    assert running.recovered[0] is outcome
