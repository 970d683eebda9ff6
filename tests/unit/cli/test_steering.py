"""`prefect-tune stop` and `steer`: what is typed becomes a request, and its answer an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.unit.command_line import CommandLine, tuned
from tune_core.cli import steering
from tune_core.steering.inbox import (
    AddConfiguration,
    ChangeSpace,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Reply,
    Request,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
)


class Driver:
    """Answers requests as an experiment's driver would, at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[Request, float]] = []
        self.reply = Reply(True, "it shall be so")

    def send(self, storage: Any, request: Request, timeout_s: float) -> Reply:
        self.asked.append((request, timeout_s))
        return self.reply


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(steering, "send", driver.send)
    return driver


@pytest.fixture
def prefect_tune(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    tuned(tmp_path, "digits")
    return tmp_path / "digits"


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        (["pause"], [PauseExperiment()]),
        (["resume"], [ResumeExperiment()]),
        (["stop"], [StopExperiment()]),
        (["pause", "a1b2c_00003"], [PauseTrial("a1b2c_00003")]),
        (["resume", "3", "4"], [ResumeTrial("3"), ResumeTrial("4")]),
        (["stop", "3"], [StopTrial("3")]),
        (
            ["add", "lr=0.01", "net/width=64", "act=relu", "layers=[8, 8]"],
            [AddConfiguration({"lr": 0.01, "net": {"width": 64}, "act": "relu", "layers": [8, 8]})],
        ),
        (["num-samples", "40"], [RaiseNumSamples(40)]),
        (["loosen", "training_iteration=200"], [LoosenStop({"training_iteration": 200})]),
        (
            ["space", 'lr={"loguniform": [1e-5, 1]}', 'net/width={"choice": [16, 64]}'],
            [ChangeSpace({"lr": tune.loguniform(1e-5, 1), "net/width": tune.choice([16, 64])})],
        ),
    ],
)
def test_each_action_is_its_request(
    prefect_tune: CommandLine, driver: Driver, digits: Path, typed: list[str], asked: list[Request]
) -> None:
    called = prefect_tune("steer", digits, *typed, "--timeout", 7)

    assert driver.asked == [(request, 7.0) for request in asked]
    assert (called.code, called.out) == (0, "it shall be so\n" * len(asked))


def test_stop_ends_the_experiment_with_a_reason(
    prefect_tune: CommandLine, driver: Driver, digits: Path
) -> None:
    called = prefect_tune("stop", digits, "--reason", "good enough", "--json")

    assert driver.asked[0][0] == StopExperiment("good enough")
    assert called.json == {
        "experiment": str(digits),
        "request": "StopExperiment",
        "reason": "good enough",
        "accepted": True,
        "message": "it shall be so",
    }


def test_a_refusal_is_an_exit_code(prefect_tune: CommandLine, driver: Driver, digits: Path) -> None:
    driver.reply = Reply(False, "trial 9: there is none")

    one, many = (
        prefect_tune("steer", digits, "stop", "9"),
        prefect_tune("steer", digits, "stop", "8", "9", "--json"),
    )

    assert (one.code, one.out) == (1, "refused: trial 9: there is none\n")
    assert many.code == 1
    assert [reply["trial_id"] for reply in many.json["replies"]] == ["8", "9"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["add"], "nothing to set"),
        (["add", "lr"], "no assignment"),
        (["add", "lr=1", "lr=2"], "given twice"),
        (["add", "net=1", "net/width=2"], "has a value itself"),
        (["add", "net/width=2", "net=1"], "has values below it"),
        (["num-samples"], "expected one whole number"),
        (["num-samples", "-3"], "num-samples"),
        (["num-samples", "0"], "num_samples=0"),
        (["loosen"], "nothing to set"),
        (["loosen", "loss=low"], "low"),
        (["space"], "nothing to set"),
        (["space", "lr=0.1"], "expected a sampler"),
        (["space", 'lr={"unifrom": [0, 1]}'], "did you mean 'uniform'"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_sent(
    prefect_tune: CommandLine, driver: Driver, digits: Path, typed: list[str], told: str
) -> None:
    called = prefect_tune("steer", digits, *typed)

    assert (called.code, driver.asked) == (2, [])
    assert told in called.err


def test_an_experiment_that_is_over_cannot_be_steered(prefect_tune: CommandLine, digits: Path) -> None:
    called = prefect_tune("stop", digits)

    assert called.code == 1
    assert "has ended" in called.err
    assert len(called.err.splitlines()) == 1
