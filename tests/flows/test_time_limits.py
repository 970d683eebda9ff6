"""Trials that hang, where no exception can reach them: their processes are killed, and they are tried again."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.trials import report_step, rows_of, running_session, step_of

pytestmark = pytest.mark.slow


def hang_in_c_with_the_interpreter_locked() -> None:
    ctypes.PyDLL(None).sleep(600)


def test_trial_that_hangs_in_c_code_between_reports_is_killed_and_goes_on_from_its_checkpoint(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    def train(config: dict[str, Any]) -> None:
        first = step_of(tune.get_checkpoint()) + 1
        for step in range(first, 4):
            report_step(step, hangs=config["hangs"])
            if step == 2 and config["hangs"] and running_session().spec.attempt_number == 1:
                hang_in_c_with_the_interpreter_locked()

    config = run_config(report_timeout_s=3, failure_config=tune.FailureConfig(max_failures=1))
    space = {"hangs": tune.grid_search([True, False])}

    hung, fine = tune.Tuner(train, param_space=space, run_config=config).fit()

    assert hung.error is None
    assert [(row["attempt_number"], row["step"]) for row in rows_of(hung)] == [(1, 1), (1, 2), (2, 3)]
    assert [row["attempt_number"] for row in rows_of(fine)] == [1, 1, 1]
    first, second, third = recorded(config.name).task_runs(3)
    assert [run.state_name for run in (first, second, third)] == ["TimedOut", "Completed", "Completed"]
    assert first.state is not None
    assert "RunConfig.report_timeout_s=3" in str(first.state.message)


def test_attempt_has_no_more_time_than_allowed_however_busily_it_reports(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(100_000):
            tune.report({"step": step})
            time.sleep(0.01)

    config = run_config(trial_timeout_s=2, report_timeout_s=1)

    (result,) = tune.Tuner(train, run_config=config).fit()

    text = r"the trial was killed: it ran for ([\d.]+) s \(RunConfig.trial_timeout_s=2\)"
    match = re.fullmatch(text, str(result.error))
    assert match is not None, result.error
    assert 2 < float(match[1]) < 8
    assert result.metrics["step"] > 10
    (run,) = recorded(config.name).task_runs(1)
    assert run.state_name == "TimedOut"


def test_trial_that_was_told_to_stop_has_the_time_for_that_instead(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def train(config: dict[str, Any]) -> None:
        try:
            while True:
                tune.report({"cleaned": 0})
        finally:
            time.sleep(6)
            report_step(1)

    # A busy machine may keep a process from its next report for a second.
    config = run_config(stop={"training_iteration": 3}, report_timeout_s=4, stop_timeout_s=30)

    (result,) = tune.Tuner(train, run_config=config).fit()

    assert result.error is None
