"""What Ray says of a `runtime_env` that it cannot set up is shown without the credentials of its URLs."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
from ray.exceptions import RuntimeEnvSetupError

import tune_core as tune
from tune_core.engine.deaths import ProcessDied
from tune_core.engine.driver.placement import Placement
from tune_core.states import Outcome

ERROR = RuntimeEnvSetupError("Failed to download s3://AKIA:hunter2@bucket/code.zip:\n not found")
SHOWN = "Failed to download s3://***@bucket/code.zip: not found"


def test_slot_that_cannot_start_says_why_without_passwords() -> None:
    parts, ended = MagicMock(), MagicMock()
    parts.pool.answered.return_value = [(("t", 1), ERROR)]
    parts.pool.take_granted.return_value = []

    Placement(parts, MagicMock(), ended).answered(MagicMock())

    (said,) = ended.call_args.args
    assert said.outcome is Outcome.UNPLACED
    assert SHOWN in said.error
    assert "hunter2" not in said.error


def test_process_that_died_says_why_without_passwords() -> None:
    assert SHOWN in ProcessDied.of(ERROR).text
    assert "hunter2" not in ProcessDied.of(ERROR).text


@pytest.mark.parametrize("shown", [repr, str])
def test_configuration_of_a_run_does_not_show_its_runtime_env(shown: type[str]) -> None:
    config = tune.RunConfig(runtime_env={"env_vars": {"TOKEN": "hunter2"}, "pip": ["x"]})

    assert "hunter2" not in shown(config)
    assert "hunter2" not in shown(tune.Tuner(lambda config: None, run_config=config))
