"""The driver's loop, apart from Prefect and Ray."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import tune_core as tune
from flows.channel import Message
from flows.driver import Driver
from tune_core.controller import Controller
from tune_core.messages import ExperimentStarted, LeaseStarted
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
    parts = MagicMock(experiment=experiment, steering=steering, controller=controller)
    parts.clock.return_value = parts.wall_clock.return_value = 0.0
    driver = Driver(parts)

    row = {"training_iteration": 1, "timestamp": 0, "done": False}
    driver._take(Message(trial_id, 1, "row", [1, None, True, row]))

    steps = ("journal.append", "channel.send", "loggers.on_trial_result", "artifacts.add_row")
    assert [name for name, _, _ in parts.mock_calls if name in steps] == list(steps)
    parts.channel.send.assert_called_once_with(trial_id, 1, "decision", 1, "CONTINUE")
