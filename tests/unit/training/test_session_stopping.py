"""What ends a trial at a report: `done`, stop rules, and the driver's decisions."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest

from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import a_session
from tune_core.errors import ConfigError
from tune_core.states import Decision
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session import StopTrial


@pytest.mark.parametrize("done", [True, 1, np.True_])
def test_reporting_done_ends_the_trial_after_that_row(
    done: Any, local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink, waits_for_decisions=True)

    with pytest.raises(StopTrial):
        session.report({"done": done})

    assert uplink.rows[0]["done"] is True
    assert uplink.reports[0].wants_decision is False
    assert uplink.waits == []


@pytest.mark.parametrize("done", [False, 0, None, np.False_])
def test_not_done_goes_on(done: Any, local: ExperimentStorage, uplink: FakeUplink) -> None:
    a_session(local, uplink).report({"done": done})

    assert uplink.rows[0]["done"] is False


def test_stopped_session_stops_again_and_sends_nothing(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink)
    with pytest.raises(StopTrial):
        session.report({"done": True})

    with pytest.raises(StopTrial):
        session.report({"loss": 1})

    assert len(uplink.reports) == 1


def test_a_stop_passes_except_exception_and_runs_finally(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session, seen = a_session(local, uplink), []

    def train() -> None:
        try:
            session.report({"done": True})
        except Exception:  # noqa: BLE001 - what users write
            seen.append("except")
        finally:
            seen.append("finally")

    with pytest.raises(SystemExit) as stopped:
        train()

    assert seen == ["finally"]
    assert stopped.value.code == 0


@pytest.mark.parametrize(
    ("stop", "metrics", "expected"),
    [
        ({"loss": 1}, {"loss": 0.5}, False),
        ({"loss": 1}, {"loss": 1}, True),
        ({"loss": 1}, {"loss": 2}, True),
        ({"loss": 1}, {"loss": math.nan}, False),
        ({"loss": 1}, {"loss": math.inf}, True),
        ({"eval/loss": 1}, {"eval": {"loss": 1}}, True),
        ({"training_iteration": 1}, {}, True),
        ({"training_iteration": 5}, {"training_iteration": 5}, True),
        ({"time_total_s": 1.0}, {}, True),
        ({"loss": 3, "accuracy": 0.5}, {"loss": 1, "accuracy": 0.9}, True),
        ({}, {"loss": 1}, False),
    ],
)
def test_stop_rules_are_checked_without_the_driver(
    stop: dict[str, float],
    metrics: dict[str, Any],
    expected: bool,
    local: ExperimentStorage,
    uplink: FakeUplink,
) -> None:
    session = a_session(local, uplink, stop=stop)

    if expected:
        with pytest.raises(StopTrial):
            session.report(metrics)
    else:
        session.report(metrics)

    assert uplink.rows[0]["done"] is expected
    assert uplink.waits == []


def test_looser_stop_rules_hold_from_the_report_on_that_they_arrive_before(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink, stop={"training_iteration": 2})

    session.report({})
    uplink.stop_rules = {"training_iteration": 4}
    session.report({})
    session.report({})
    with pytest.raises(StopTrial):
        session.report({})

    assert [row["done"] for row in uplink.rows] == [False, False, False, True]


def test_stop_rules_that_are_gone_stop_nothing(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink, stop={"training_iteration": 1})
    uplink.stop_rules = {}

    session.report({})

    assert [row["done"] for row in uplink.rows] == [False]


def test_stop_rule_for_a_metric_that_is_missing_is_logged_once(
    local: ExperimentStorage, uplink: FakeUplink, caplog: pytest.LogCaptureFixture
) -> None:
    session = a_session(local, uplink, stop={"accuracy": 1})

    with caplog.at_level(logging.WARNING):
        session.report({"acuracy": 2})
        session.report({"acuracy": 2})

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "did you mean 'acuracy'" in caplog.text


def test_stop_rule_for_what_is_no_number_is_an_error_and_the_row_is_not_sent(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink, stop={"loss": 1})

    with pytest.raises(ConfigError, match=r"stop=\{'loss': 1\}: trial a1b2c_00000 reported 'high'"):
        session.report({"loss": "high"})
    session.report({"loss": 0})

    assert [row["training_iteration"] for row in uplink.rows] == [1]


def test_driver_that_wants_the_trial_to_stop_is_heard_before_anything_is_done(
    local: ExperimentStorage, uplink: FakeUplink, checkpoint: Checkpoint
) -> None:
    uplink.wants_stop = True

    with pytest.raises(StopTrial):
        a_session(local, uplink).report({"loss": 1}, checkpoint)

    assert uplink.reports == []
    assert local.committed("trial_0") == []


@pytest.mark.parametrize("decision", [Decision.STOP, Decision.PAUSE])
def test_decision_of_the_driver_is_waited_for_and_obeyed(
    decision: Decision, local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink, waits_for_decisions=True)
    uplink.decisions[2] = decision

    session.report({"loss": 1})
    with pytest.raises(StopTrial):
        session.report({"loss": 2})

    assert uplink.waits == [("decision", 1), ("decision", 2)]
    assert [report.wants_decision for report in uplink.reports] == [True, True]


def test_report_does_not_wait_where_nothing_could_answer(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    a_session(local, uplink).report({"loss": 1})

    assert uplink.waits == []
    assert uplink.reports[0].wants_decision is False


def test_the_stop_rule_that_was_met_is_known_in_words(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink, stop={"loss": 5, "training_iteration": 2})
    session.report({"loss": 1})
    assert session.rule_met == ""

    with pytest.raises(StopTrial):
        session.report({"loss": 1})

    assert session.rule_met == "Stopped: training_iteration >= 2"
