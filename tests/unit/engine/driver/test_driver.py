"""The driver's loop, apart from Prefect and Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError

import tune_core as tune
from tune_core.callback import CallbackList
from tune_core.control.attempts import LAST_WORDS_TIMEOUT_S
from tune_core.control.controller import Controller
from tune_core.control.endings import Ended, Recovered, RunningAttempt
from tune_core.control.messages import AttemptStarted, ExperimentStarted, StartAttempt
from tune_core.engine.deaths import ProcessDied
from tune_core.engine.driver.driver import Driver
from tune_core.engine.driver.task_runs import TaskEnded, TaskRun
from tune_core.engine.slots.pool import Slot
from tune_core.errors import ConfigError, ExperimentConflict, StorageError
from tune_core.resources import ONE_CPU
from tune_core.states import Outcome
from tune_core.testing.schedulers import AnsweringScheduler
from tune_core.training.trainable_cache import Leftover
from tune_core.training.uplink import Message
from tune_core.trial import Status, Trial
from tune_core.views.overview import Overview


@pytest.fixture
def parts(tmp_path: Path) -> MagicMock:
    """What a driver of one running trial, the first attempt at it, works with."""
    tune_config = tune.TuneConfig(scheduler=AnsweringScheduler())
    run_config = tune.RunConfig(storage_path=str(tmp_path))
    experiment = tune.Tuner(lambda config: None, tune_config=tune_config, run_config=run_config).experiment()
    policy = experiment.policy()
    controller = Controller(experiment.rules(policy))
    (suggest,) = controller.handle(ExperimentStarted(0.0, capacity=1))
    trial_id = suggest.trial_id  # type: ignore[attr-defined]
    controller.handle(policy.suggest(trial_id, 0))
    controller.handle(AttemptStarted(0.0, trial_id, 1, 1, "host", "127.0.0.1"))
    parts = MagicMock(experiment=experiment, policy=policy, controller=controller)
    parts.clock.return_value = parts.wall_clock.return_value = 0.0
    return parts


def trial_of(parts: MagicMock) -> Trial:
    (trial,) = parts.controller.trials.values()
    return trial


def a_driver(parts: MagicMock) -> Driver:
    driver = Driver(parts)
    slot = MagicMock(nodes=frozenset(), uses=0)
    order = StartAttempt(trial_of(parts).trial_id, 1, None, 0, -1)
    driver.attempts.add(RunningAttempt(order, TaskRun(slot, uuid4(), "trial")))
    return driver


def row_of(parts: MagicMock, iteration: int) -> Message:
    row = {"training_iteration": iteration, "timestamp": 0, "done": False}
    return Message(trial_of(parts).trial_id, 1, "row", [iteration, None, True, row])


@pytest.mark.parametrize("culprit", ["loggers.on_trial_result", "policy.decide", "overview.is_best"])
def test_message_that_cannot_be_handled_fails_its_trial_and_nothing_else(
    parts: MagicMock, culprit: str
) -> None:
    trial, driver = trial_of(parts), a_driver(parts)
    if culprit == "policy.decide":
        parts.policy.decide = MagicMock()
    parts.configure_mock(**{f"{culprit}.side_effect": OverflowError("int too large for a float")})

    driver.loop.take(row_of(parts, 1))
    driver.loop.take(row_of(parts, 2))
    error = "the driver could not handle the row of iteration 1 of this trial: OverflowError: int too large for a float"
    sent = [call.args for call in parts.channel.send.call_args_list if call.args[2] == "fail"]
    driver.loop.take(
        Message(trial.trial_id, 1, "end", ["error", error, "Traceback", False, "nothing", 9, -1])
    )
    driver.loop.take(Recovered(parts.recovery.begin.call_args.args[0], []))

    assert [args[:4] for args in sent] == [(trial.trial_id, 1, "fail", error)] * 2
    assert "OverflowError" in sent[0][4]
    assert (trial.iteration, trial.status) == (0 if culprit == "policy.decide" else 1, Status.ERROR)
    assert trial.error == error
    assert not parts.pool.discard.called


def test_bytes_that_cannot_be_decoded_fail_their_trial(parts: MagicMock) -> None:
    trial, driver = trial_of(parts), a_driver(parts)

    driver.loop.take(Message(trial.trial_id, 1, "unreadable", [RecursionError("too deep")]))
    driver.loop.take(Message("stranger", 1, "unreadable", [RecursionError("too deep")]))

    ((*key, kind, error, _),) = [call.args for call in parts.channel.send.call_args_list]
    assert (*key, kind) == (trial.trial_id, 1, "fail")
    assert error.endswith("could not handle the unreadable of this trial: RecursionError: too deep")


@pytest.mark.parametrize(
    "error",
    [StorageError("disk full"), ExperimentConflict("taken"), ConfigError("wrong"), OSError("no room")],
)
def test_error_of_the_experiment_is_not_blamed_on_a_trial(parts: MagicMock, error: Exception) -> None:
    driver = a_driver(parts)
    parts.loggers.on_trial_result.side_effect = error

    with pytest.raises(type(error), match=str(error)):
        driver.loop.take(row_of(parts, 1))


def test_what_a_callback_adds_is_bounded_like_a_report(parts: MagicMock) -> None:
    class Adds(tune.Callback):
        def on_trial_result(self, *args: object, result: dict[str, object], **info: object) -> None:
            result["large"] = 10**5000

    parts.experiment.run_config.callbacks = [Adds()]
    parts.user_callbacks = CallbackList([Adds()])
    driver = a_driver(parts)

    driver.loop.take(row_of(parts, 1))

    (sent,) = [call.args for call in parts.channel.send.call_args_list]
    assert "InvalidMetric: metric 'large' is an integer of about 5,001 digits" in sent[3]
    parts.journal.append.assert_not_called()


def test_callback_of_the_user_that_raises_ends_the_experiment(parts: MagicMock) -> None:
    class Broken(tune.Callback):
        def on_trial_result(self, *args: object, **info: object) -> None:
            raise RuntimeError("the callback broke")

    parts.experiment.run_config.callbacks = [Broken()]
    parts.user_callbacks = CallbackList([Broken()])
    driver = a_driver(parts)

    with pytest.raises(RuntimeError, match="the callback broke"):
        driver.loop.take(row_of(parts, 1))


def test_rows_that_a_dead_process_has_left_and_that_cannot_be_handled_fail_the_trial(
    parts: MagicMock,
) -> None:
    trial, driver = trial_of(parts), a_driver(parts)
    parts.loggers.on_trial_result.side_effect = OverflowError("too large")
    ended = Ended(trial.trial_id, 1, Outcome.CRASHED, "it died")

    driver.loop.take(Recovered(ended, [], {1: row_of(parts, 1).content[3]}))

    assert trial.status is Status.ERROR
    assert trial.error == "the driver could not handle what is left of this trial: OverflowError: too large"


def test_a_report_is_answered_once_it_waits_for_the_journal_and_before_its_files_are_written(
    parts: MagicMock,
) -> None:
    parts.overview = Overview(parts.controller, parts.experiment.tune_config.objective)
    trial_id = trial_of(parts).trial_id
    driver = Driver(parts)

    row = {"training_iteration": 1, "timestamp": 0, "done": False}
    driver.loop.take(Message(trial_id, 1, "row", [1, None, True, row]))

    steps = ("journal.append", "channel.send", "loggers.on_trial_result", "artifacts.add_row")
    assert [name for name, _, _ in parts.mock_calls if name in steps] == list(steps)
    parts.channel.send.assert_called_once_with(trial_id, 1, "decision", 1, "CONTINUE", False)


# Ends of attempts, and what becomes of their processes.


class Running:
    """A driver whose only trial has an attempt under way, in a process that many share."""

    def __init__(self, tmp_path: Path) -> None:
        run_config = tune.RunConfig(storage_path=str(tmp_path))
        experiment = tune.Tuner(lambda config: None, run_config=run_config).experiment()
        policy = experiment.policy()
        controller = Controller(experiment.rules(policy))
        (suggest,) = controller.handle(ExperimentStarted(0.0, capacity=1))
        self.trial_id: str = suggest.trial_id  # type: ignore[attr-defined]
        controller.handle(policy.suggest(self.trial_id, 0))
        self.parts = MagicMock(experiment=experiment, policy=policy, controller=controller)
        self.parts.clock.return_value = self.parts.wall_clock.return_value = 0.0
        self.parts.pool.needs_fresh_process.return_value = False
        self.parts.channel.drain.return_value = ()
        self.driver = Driver(self.parts)
        self.driver._placement = MagicMock(leaving=frozenset())  # it asks Ray
        self.slot = Slot(ONE_CPU, MagicMock())
        order = StartAttempt(self.trial_id, 1, None, 0, -1, "")
        self.driver.attempts.add(RunningAttempt(order, TaskRun(self.slot, uuid4(), "trial")))

    def say(self, kind: str, *content: Any) -> None:
        self.driver.loop.take(Message(self.trial_id, 1, kind, list(content)))

    def end_task(self, state: State[Any] | None = None, error: BaseException | None = None) -> None:
        self.driver.loop.take(TaskEnded(self.trial_id, 1, state, error))

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
    running.driver.look(LAST_WORDS_TIMEOUT_S + 1)

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


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.COMPLETED])
def test_what_a_process_raises_after_its_node_was_lost_is_no_error_of_its_trial(
    tmp_path: Path, outcome: Outcome
) -> None:
    running = Running(tmp_path)
    running.say("hello", 1, "host", "127.0.0.1")
    running.end_task(error=NodeDiedError("its node has died"))

    # Its process outlives the raylet of its node for some seconds.
    running.say("end", str(outcome), "ActorDiedError: its owner has died", "", True, "nothing", 0, -1)

    assert running.parts.recovery.begin.call_count == 1
    assert running.recovered[0] is Outcome.LOST
    trial = running.parts.controller.trials[running.trial_id]
    assert trial.is_finished() is (outcome is Outcome.COMPLETED)
