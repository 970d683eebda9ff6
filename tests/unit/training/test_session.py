"""What a trainable sees of its trial: rows, checkpoints, decisions, context."""

from __future__ import annotations

import contextvars
import logging
import math
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tune_core as tune
from tune_core.encoding import Opaque, dumps, loads
from tune_core.errors import (
    CheckpointError,
    ConfigError,
    InvalidMetric,
    MetricMissing,
    NotInTrial,
    StorageError,
)
from tune_core.metrics import validate_metrics
from tune_core.resources import PlacementGroupFactory
from tune_core.states import Decision
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training import context as context_module
from tune_core.training import session as session_module
from tune_core.training.session import AttemptSpec, Session, StopTrial, working_directory
from tune_core.training.session_binding import bind, current_session
from tune_core.training.uplink import Report

NOW = 1_700_000_000.75


class FakeUplink:
    """A driver that notes everything and answers what the test says."""

    wants_save = False

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.decisions: dict[int, Decision] = {}
        self.wants_stop = False
        self.journaled = 0
        self.waits: list[tuple[str, int]] = []
        self.stop_cause: str | None = None
        self.stop_rules: dict[str, float] | None = None
        self.checkpoints: list[tuple[int, int]] = []
        self.on_send: Callable[[Report], None] = lambda report: None

    def send(self, report: Report) -> None:
        self.on_send(report)
        self.reports.append(report)

    def keep(self, report: Report) -> None:
        return

    def send_checkpoint(self, iteration: int, index: int) -> None:
        self.checkpoints.append((iteration, index))

    def wait_for_decision(self, iteration: int) -> Decision:
        self.waits.append(("decision", iteration))
        return self.decisions.get(iteration, Decision.CONTINUE)

    def wait_for_journal(self, iteration: int) -> None:
        self.waits.append(("journal", iteration))
        self.journaled = iteration

    def poll(self) -> bool:
        return self.wants_stop

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [report.row for report in self.reports]


class Ticks:
    """A clock that advances by one each time it is asked."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def uplink() -> FakeUplink:
    return FakeUplink()


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ExperimentStorage:
    root = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"
    return ExperimentStorage.open(root, "experiment")


@pytest.fixture
def local(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path, "experiment")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    directory = tmp_path / "to-report"
    directory.mkdir()
    (directory / "weights.txt").write_text("0.5")
    return Checkpoint.from_directory(directory)


def an_attempt(storage: ExperimentStorage, **changes: Any) -> AttemptSpec:
    values: dict[str, Any] = {
        "experiment_name": "experiment",
        "trial_id": "a1b2c_00000",
        "trial_name": "train_a1b2c_00000",
        "dirname": "trial_0",
        "attempt_number": 1,
        "config": {"lr": 0.1},
        "resources": PlacementGroupFactory([{"CPU": 2}]),
        "storage": storage,
    }
    return AttemptSpec(**values | changes)


def a_session(storage: ExperimentStorage, uplink: FakeUplink, **changes: Any) -> Session:
    return Session(an_attempt(storage, **changes), uplink, wall_clock=lambda: NOW, clock=Ticks())


# Rows of a class, and checkpoints after a row.


def test_row_of_a_class_is_sent_as_it_is(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink, iteration=4, stop={"loss": 2})

    row = session.row_of({"loss": np.float32(2), "timestamp": 7, "config": object(), "pid": 1, "date": ""})
    with pytest.raises(StopTrial):
        session.publish(row)

    assert uplink.rows == [{"loss": 2.0, "timestamp": 7, "done": True, "checkpoint_dir_name": None}]
    assert (uplink.reports[0].iteration, session.stopped_by) == (5, "done")


def test_row_of_a_class_is_sent_even_if_the_trial_is_to_stop(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink)
    uplink.wants_stop, uplink.stop_cause = True, "interrupt"

    session.publish(session.row_of({"loss": 1}))
    with pytest.raises(StopTrial):
        session.check_stop()

    assert len(uplink.reports) == 1
    assert session.stopped_by == "interrupt"


def test_late_checkpoint_is_committed_before_it_is_told(
    storage: ExperimentStorage, uplink: FakeUplink, checkpoint: Checkpoint
) -> None:
    session = a_session(storage, uplink, highest_index=6)
    assert not session.has_unsaved_progress
    session.report({"loss": 2})
    session.report({"loss": 1})
    uplink.journaled = 1
    assert session.has_unsaved_progress

    session.save(checkpoint)

    (marker,) = storage.committed("trial_0")
    assert (marker.index, marker.iteration, marker.metrics["loss"]) == (7, 2, 1)
    assert [row["loss"] for row in marker.rows] == [1], "the first is journaled"
    assert uplink.checkpoints == [(2, 7)]
    assert not session.has_unsaved_progress
    assert session.checkpoint == storage.checkpoint("trial_0", 7)


def test_late_checkpoint_that_cannot_be_stored_is_not_told(
    local: ExperimentStorage, uplink: FakeUplink, tmp_path: Path
) -> None:
    session = a_session(local, uplink)
    session.report({"loss": 2})

    with pytest.raises(CheckpointError):
        session.save(Checkpoint.from_directory(tmp_path / "gone"))

    assert uplink.checkpoints == []
    assert session.has_unsaved_progress


# Rows.


def test_row_has_what_ray_tune_fills_in(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink)

    session.report({"loss": 0.5, "deep": {"x": 1}})
    session.report({"loss": 0.25})

    assert uplink.rows == [
        {
            "loss": 0.5,
            "deep": {"x": 1},
            "training_iteration": 1,
            "time_this_iter_s": 1.0,
            "time_total_s": 1.0,
            "time_since_restore": 1.0,
            "iterations_since_restore": 1,
            "timestamp": 1_700_000_000,
            "done": False,
            "checkpoint_dir_name": None,
        },
        {
            "loss": 0.25,
            "training_iteration": 2,
            "time_this_iter_s": 1.0,
            "time_total_s": 2.0,
            "time_since_restore": 2.0,
            "iterations_since_restore": 2,
            "timestamp": 1_700_000_000,
            "done": False,
            "checkpoint_dir_name": None,
        },
    ]
    assert [report.iteration for report in uplink.reports] == [1, 2]
    assert session.iteration == 2


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        # The user wins.
        ({"training_iteration": 70}, {"training_iteration": 70}),
        ({"time_this_iter_s": 5}, {"time_this_iter_s": 5, "time_total_s": 5.0, "time_since_restore": 5.0}),
        ({"timesteps_total": 7}, {"timesteps_total": 7}),
        (
            {"timesteps_total": 7, "timesteps_this_iter": 3},
            {"timesteps_total": 7, "timesteps_since_restore": 3},
        ),
        ({"episodes_total": 7, "episodes_this_iter": 3}, {"episodes_total": 7}),
        ({"should_checkpoint": True}, {"should_checkpoint": True}),
        # The session wins.
        ({"timestamp": 1}, {"timestamp": 1_700_000_000}),
        ({"time_this_iter_s": None}, {"time_this_iter_s": 1.0}),
        ({"time_total_s": 9.0}, {"time_total_s": 1.0}),
        ({"time_since_restore": 9.0}, {"time_since_restore": 1.0}),
        ({"iterations_since_restore": 9}, {"iterations_since_restore": 1}),
        ({"timesteps_this_iter": 3, "timesteps_since_restore": 9}, {"timesteps_since_restore": 3}),
        ({"checkpoint_dir_name": "mine"}, {"checkpoint_dir_name": None}),
        # Both.
        ({"timesteps_this_iter": 3}, {"timesteps_total": 3, "timesteps_since_restore": 3}),
        ({"episodes_this_iter": 3}, {"episodes_total": 3}),
        ({"timesteps_this_iter": 0}, {"timesteps_total": 0}),
    ],
)
def test_who_wins(
    metrics: dict[str, Any], expected: dict[str, Any], local: ExperimentStorage, uplink: FakeUplink
) -> None:
    a_session(local, uplink).report(metrics)

    row = uplink.rows[0]
    assert {name: row.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "absent", ["timesteps_total", "episodes_total", "timesteps_since_restore", "should_checkpoint"]
)
def test_counters_that_nobody_feeds_are_absent(
    absent: str, local: ExperimentStorage, uplink: FakeUplink
) -> None:
    a_session(local, uplink).report({"loss": 1})

    assert absent not in uplink.rows[0]


def test_counters_of_timesteps_stay_in_every_later_row(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink)

    session.report({"timesteps_this_iter": 3})
    session.report({"loss": 1})
    session.report({"timesteps_this_iter": 4, "episodes_this_iter": 1})

    assert [row["timesteps_total"] for row in uplink.rows] == [3, 3, 7]
    assert [row["timesteps_since_restore"] for row in uplink.rows] == [3, 3, 7]
    assert "episodes_total" not in uplink.rows[1]


def test_a_later_attempt_counts_on_from_its_checkpoint(local: ExperimentStorage, uplink: FakeUplink) -> None:
    totals = {"time_total_s": 50.0, "timesteps_total": 30, "episodes_total": 2}
    session = a_session(
        local, uplink, attempt_number=2, checkpoint=4, iteration=7, totals=totals, highest_index=5
    )

    session.report({"timesteps_this_iter": 3})

    row = uplink.rows[0]
    assert uplink.reports[0].iteration == row["training_iteration"] == 8
    assert (row["time_total_s"], row["timesteps_total"], row["episodes_total"]) == (51.0, 33, 2)
    assert (row["time_since_restore"], row["iterations_since_restore"]) == (1.0, 1)
    assert row["timesteps_since_restore"] == 3


def test_first_iteration_is_measured_from_the_start_of_the_trainable(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    clock = Ticks()
    session = Session(an_attempt(local), uplink, wall_clock=lambda: NOW, clock=clock)
    clock.now += 100.0

    session.restart_clock()
    session.report({})

    assert uplink.rows[0]["time_this_iter_s"] == 1.0


def test_row_is_a_copy_in_pythons_own_types(local: ExperimentStorage, uplink: FakeUplink) -> None:
    metrics = {"loss": np.float32(0.5), "deep": {"list": [np.int64(1)]}}

    a_session(local, uplink).report(metrics)
    metrics["deep"]["list"].append(2)  # type: ignore[index]

    assert type(uplink.rows[0]["loss"]) is float
    assert uplink.rows[0]["deep"] == {"list": [1]}


class Tensor:
    """Looks like a torch tensor, for all that `report` can know without importing torch."""

    __module__ = "torch"

    def detach(self) -> None: ...


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def listed(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_what_json_lacks_is_reported_as_what_it_is_written_as(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    class Level(IntEnum):
        LOW = 1

    metrics = {
        "recall": {0: 0.9, None: 0.5, (1, 2): {True: 1}},
        3: 1,
        "level": Level.LOW,
        "third": Fraction(1, 4),
        "at": [Path("/a")],
        "largest": int(sys.float_info.max),
    }

    a_session(local, uplink).report(metrics)

    (row,) = uplink.rows
    assert row["recall"] == {"0": 0.9, "None": 0.5, "(1, 2)": {"True": 1}}
    assert (row["3"], row["third"], row["largest"]) == (1, 0.25, int(sys.float_info.max))
    assert type(row["level"]) is int
    assert row["at"] == [Opaque("PosixPath('/a')")]
    assert loads(dumps(row)) == row


@pytest.mark.parametrize(
    ("metrics", "error", "text"),
    [
        (7, TypeError, r"expects a dict of metrics, such as .*; got 7 \(int\)"),
        (None, TypeError, r"got None \(NoneType\)"),
        ([("loss", 1)], TypeError, r"got \[\('loss', 1\)\] \(list\)"),
        ({1: 2, "1": 3}, InvalidMetric, "two metrics have the name '1', since names are written as strings"),
        (
            {"a": {"b": {Broken(): 2}}},
            InvalidMetric,
            "metric 'a/b' cannot be written, .* raised RuntimeError: no",
        ),
        (
            {"a": Broken()},
            InvalidMetric,
            r"'a' cannot be written, since this object of .*\.Broken raised Run.*: no:",
        ),
        (
            {"n": 10**400},
            InvalidMetric,
            "metric 'n' is an integer of about 401 digits, larger than any float",
        ),
        ({"a": {"n": -(10**5000)}}, InvalidMetric, "metric 'a/n' is an integer of about 5,001 digits"),
        ({"a": np.array([10**400])}, InvalidMetric, "metric 'a' is an integer of about 401 digits"),
        ({"a": Fraction(10**400)}, InvalidMetric, "metric 'a' cannot be written, .* OverflowError"),
        (
            {"training_iteration": 10**400},
            InvalidMetric,
            "metric 'training_iteration' is an integer of about",
        ),
        ({"time_this_iter_s": 10**400}, InvalidMetric, "metric 'time_this_iter_s' is an integer of about"),
        ({"deep": nested(1500)}, InvalidMetric, "is nested more than 100 levels deep, or contains itself"),
        ({"deep": listed(1500)}, InvalidMetric, "is nested more than 100 levels deep, or contains itself"),
        (
            Broken(),
            TypeError,
            r"expects a dict .*; got <Broken, whose repr\(\) raised RuntimeError> \(Broken\)",
        ),
        (
            {"loss": Tensor()},
            InvalidMetric,
            r"metric 'loss' is a torch tensor: report a number, loss.item\(\)",
        ),
        ({"a": {"b": [1, (Tensor(),)]}}, InvalidMetric, "metric 'a/b' is a torch tensor"),
    ],
)
def test_metrics_that_cannot_be_reported_are_named(metrics: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        validate_metrics(metrics)


def test_refused_report_leaves_no_trace(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink)

    for value in (Broken(), 10**400, nested(1500)):
        with pytest.raises(InvalidMetric, match="metric"):
            session.report({"loss": value})
    with pytest.raises(
        TypeError, match=r"checkpoint='/tmp/x': report expects a tune_core.Checkpoint, such as"
    ):
        session.report({"loss": 1}, checkpoint="/tmp/x")  # type: ignore[arg-type]
    session.report({"loss": 1})

    assert [row["training_iteration"] for row in uplink.rows] == [1]


# Stopping.


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


# The metric that the experiment is tuned for.


def test_missing_metric_is_an_error_that_says_what_was_reported(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink, metric="accuracy")

    with pytest.raises(
        MetricMissing,
        match=r"metric 'accuracy' is missing from the report of trial a1b2c_00000 \(iteration 1\); "
        r"reported: acuracy, .*TuneConfig\(metric='accuracy'\) needs it: .*Did you mean 'acuracy'\?",
    ) as raised:
        session.report({"acuracy": 1})

    assert session.metric_missing is raised.value
    assert uplink.rows[0]["acuracy"] == 1


@pytest.mark.parametrize(
    ("metric", "metrics"), [("loss", {"loss": math.nan}), ("eval/loss", {"eval": {"loss": 0}}), (None, {})]
)
def test_metric_that_is_there_is_enough(
    metric: str | None, metrics: dict[str, Any], local: ExperimentStorage, uplink: FakeUplink
) -> None:
    a_session(local, uplink, metric=metric).report(metrics)

    assert len(uplink.rows) == 1


def test_no_name_is_suggested_where_none_is_close(local: ExperimentStorage, uplink: FakeUplink) -> None:
    with pytest.raises(MetricMissing) as raised:
        a_session(local, uplink, metric="zzz").report({"loss": 1})

    assert "Did you mean" not in str(raised.value)


# Checkpoints.


def test_checkpoint_is_committed_before_its_row_is_sent(
    storage: ExperimentStorage, uplink: FakeUplink, checkpoint: Checkpoint
) -> None:
    committed: list[list[int]] = []
    uplink.on_send = lambda _: committed.append([marker.index for marker in storage.committed("trial_0")])
    session = a_session(storage, uplink)

    session.report({"loss": 1}, checkpoint)
    session.report({"loss": 2})
    session.report({"loss": 3}, checkpoint)

    assert committed == [[0], [0], [0, 1]]
    assert [report.checkpoint for report in uplink.reports] == [0, None, 1]
    names = [row["checkpoint_dir_name"] for row in uplink.rows]
    assert names == ["checkpoint_000000", None, "checkpoint_000001"]
    assert [row.get("should_checkpoint") for row in uplink.rows] == [True, None, True]


def test_marker_carries_the_rows_that_are_not_journaled(
    storage: ExperimentStorage, uplink: FakeUplink, checkpoint: Checkpoint
) -> None:
    session = a_session(storage, uplink, attempt_number=3)
    for loss in (1, 2, 3):
        session.report({"loss": loss})
    uplink.journaled = 1

    session.report({"loss": 4}, checkpoint)
    uplink.journaled = 4
    session.report({"loss": 5}, checkpoint)

    first, second = storage.committed("trial_0")
    assert [row["loss"] for row in first.rows] == [2, 3, 4]
    assert first.rows == tuple(uplink.rows[1:4])
    assert (first.attempt_number, first.iteration) == (3, 4)
    assert [row["loss"] for row in second.rows] == [5]


def test_checkpoint_that_cannot_be_stored_sends_no_row_and_keeps_its_number_free(
    local: ExperimentStorage, uplink: FakeUplink, checkpoint: Checkpoint
) -> None:
    session = a_session(local, uplink)
    session.report({"timesteps_this_iter": 1})

    with pytest.raises(CheckpointError):
        session.report({"timesteps_this_iter": 2}, Checkpoint.from_directory("/nonexistent/directory"))
    session.report({"timesteps_this_iter": 4}, checkpoint)

    assert [report.iteration for report in uplink.reports] == [1, 2]
    last = uplink.rows[-1]
    assert (last["training_iteration"], last["iterations_since_restore"], last["timesteps_total"]) == (
        2,
        2,
        5,
    )
    (marker,) = local.committed("trial_0")
    assert [row["timesteps_total"] for row in marker.rows] == [1, 5]


def test_new_attempt_takes_the_next_index(
    local: ExperimentStorage, uplink: FakeUplink, checkpoint: Checkpoint
) -> None:
    a_session(local, uplink, attempt_number=2, highest_index=4).report({}, checkpoint)

    assert uplink.reports[0].checkpoint == 5


def test_index_that_an_older_attempt_has_taken_is_passed_over(
    local: ExperimentStorage, uplink: FakeUplink, checkpoint: Checkpoint
) -> None:
    orphan = {"index": 0, "attempt_number": 1, "iteration": 1, "rows": [], "metrics": {}}
    local.commit_checkpoint("trial_0", checkpoint, **orphan)  # type: ignore[arg-type]
    session = a_session(local, uplink, attempt_number=2)

    session.report({}, checkpoint)
    session.report({}, checkpoint)

    assert [report.checkpoint for report in uplink.reports] == [1, 2]
    assert [row["checkpoint_dir_name"] for row in uplink.rows] == ["checkpoint_000001", "checkpoint_000002"]


def test_new_trial_has_no_checkpoint(local: ExperimentStorage, uplink: FakeUplink) -> None:
    with bind(a_session(local, uplink)):
        assert tune.get_checkpoint() is None


def test_get_checkpoint_is_the_one_restored_from_until_a_newer_one_is_reported(
    storage: ExperimentStorage, uplink: FakeUplink, checkpoint: Checkpoint
) -> None:
    a_session(storage, uplink).report({"loss": 1}, checkpoint)

    with bind(a_session(storage, FakeUplink(), attempt_number=2, checkpoint=0, iteration=1, highest_index=0)):
        restored = tune.get_checkpoint()
        tune.report({"loss": 2})
        unchanged = tune.get_checkpoint()
        tune.report({"loss": 3}, checkpoint=checkpoint)
        newest = tune.get_checkpoint()

    assert restored is not None
    with restored.as_directory() as directory:
        assert Path(directory, "weights.txt").read_text() == "0.5"
    assert restored == unchanged == storage.checkpoint("trial_0", 0)
    assert newest == storage.checkpoint("trial_0", 1)


# Back-pressure.


def test_report_waits_when_too_many_rows_are_not_journaled(
    local: ExperimentStorage, uplink: FakeUplink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "WINDOW", 4)
    session = a_session(local, uplink)

    for _ in range(3):
        session.report({})
    assert uplink.waits == []

    for _ in range(4):
        session.report({})
    assert uplink.waits == [("journal", 3), ("journal", 6)]


def test_report_does_not_wait_while_the_journal_keeps_up(
    local: ExperimentStorage, uplink: FakeUplink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "WINDOW", 4)
    session = a_session(local, uplink)

    for iteration in range(20):
        uplink.journaled = iteration
        session.report({})

    assert uplink.waits == []


# Threads, and several trials in one process.


def test_reports_of_several_threads_are_numbered_one_by_one(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink)

    with bind(session), ThreadPoolExecutor(8) as pool:
        for _ in range(200):
            pool.submit(tune.report, {"loss": 1})

    assert [report.iteration for report in uplink.reports] == list(range(1, 201))


def test_thread_that_a_trainable_starts_reports_to_its_trial(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    with bind(a_session(local, uplink)):
        thread = threading.Thread(target=tune.report, args=({"loss": 1},))
        thread.start()
        thread.join()

    assert len(uplink.rows) == 1


def in_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_thread_that_was_left_behind_reports_to_no_later_trial(local: ExperimentStorage) -> None:
    uplinks = FakeUplink(), FakeUplink()
    with ThreadPoolExecutor(1) as left_behind, ThreadPoolExecutor(1) as unused:
        with bind(a_session(local, uplinks[0])):
            left_behind.submit(tune.report, {"loss": 1}).result()
            unused.submit(int).result()  # it lives, and has not asked for its session
        with bind(a_session(local, uplinks[1], trial_id="next")):
            with pytest.raises(
                NotInTrial, match="trial a1b2c_00000 has ended, and this thread still reports"
            ):
                left_behind.submit(tune.report, {"loss": 2}).result()
            with pytest.raises(NotInTrial, match="was started before trial next began"):
                unused.submit(tune.report, {"loss": 2}).result()
            assert left_behind.submit(lambda: tune.get_context().get_trial_id()).result() == "a1b2c_00000"
            tune.report({"loss": 3})
        with pytest.raises(NotInTrial, match="has ended"):
            left_behind.submit(tune.report, {"loss": 4}).result()

    assert [[row["loss"] for row in uplink.rows] for uplink in uplinks] == [[1], [3]]


def test_end_waits_for_a_report_that_is_under_way(local: ExperimentStorage, uplink: FakeUplink) -> None:
    is_sending, may_send = threading.Event(), threading.Event()

    def send_slowly(_: Report) -> None:
        is_sending.set()
        assert may_send.wait(10)

    uplink.on_send = send_slowly
    session = a_session(local, uplink)
    reporting = threading.Thread(target=session.report, args=({"loss": 1},))
    reporting.start()
    assert is_sending.wait(10)
    ending = threading.Thread(target=session.end)
    ending.start()
    may_send.set()
    ending.join(10)
    reporting.join(10)

    assert len(uplink.rows) == 1
    with pytest.raises(NotInTrial):
        session.report({"loss": 2})


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_process_is_told_that_it_cannot_report(local: ExperimentStorage, uplink: FakeUplink) -> None:
    session = a_session(local, uplink)
    read, write = os.pipe()
    with ThreadPoolExecutor(1) as other:
        other.submit(session._lock.acquire).result()
        child = os.fork()
        if child == 0:
            try:
                session.report({"loss": 1})
            except NotInTrial as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        other.submit(session._lock.release).result()
    os.close(write)
    said = b"".join(iter(lambda: os.read(read, 4096), b"")).decode()
    os.close(read)
    os.waitpid(child, 0)

    assert f"in process {child}, which was forked from that of trial a1b2c_00000, {os.getpid()}" in said
    assert "Queue" in said
    assert uplink.rows == []


def test_thread_without_context_belongs_to_no_trial_where_there_are_several(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    first, second = a_session(local, uplink), a_session(local, uplink)

    with bind(first), bind(second):
        context = contextvars.copy_context()
        assert in_thread(current_session) is None
        assert in_thread(lambda: context.run(current_session)) is second
        assert current_session() is second


def test_sessions_may_end_in_any_order(local: ExperimentStorage, uplink: FakeUplink) -> None:
    first, second = a_session(local, uplink), a_session(local, uplink)
    is_bound, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with bind(first):
            is_bound.set()
            may_end.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    is_bound.wait(10)
    with bind(second):
        may_end.set()
        thread.join()
        assert in_thread(current_session) is second

    assert current_session() is None
    assert in_thread(current_session) is None


# Files of the working directory.


def test_files_of_the_working_directory_are_copied_when_they_have_changed(
    local: ExperimentStorage, uplink: FakeUplink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = a_session(local, uplink)
    session.trial_dir = str(tmp_path / "work")
    (tmp_path / "work" / "plots").mkdir(parents=True)
    (tmp_path / "work" / "plots" / "a.txt").write_text("1")
    (tmp_path / "work" / "b.txt").write_text("1")
    uploaded: list[str] = []
    upload = local.upload
    monkeypatch.setattr(local, "upload", lambda path, name: (uploaded.append(name), upload(path, name)))

    session.keep_artifacts()
    (tmp_path / "work" / "b.txt").write_text("22")
    session.keep_artifacts()

    assert uploaded == ["trial_0/b.txt", "trial_0/plots/a.txt", "trial_0/b.txt"]
    assert local.read("trial_0/b.txt") == b"22"


@pytest.mark.parametrize(("keeps", "expected"), [("always", True), ("at_end", False), ("never", False)])
def test_files_go_along_with_a_checkpoint_if_they_are_asked_to(
    keeps: str,
    expected: bool,
    local: ExperimentStorage,
    uplink: FakeUplink,
    checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    session = a_session(local, uplink, keeps_artifacts=keeps)
    session.trial_dir = str(tmp_path / "work")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "plot.txt").write_text("x")

    session.report({})
    assert not local.exists("trial_0/plot.txt")

    session.report({}, checkpoint)
    assert local.exists("trial_0/plot.txt") is expected


def test_working_directory_is_the_users_own_and_one_per_trial(
    local: ExperimentStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    path = Path(working_directory(an_attempt(local)))

    assert path.parts[-2:] == ("experiment", "trial_0")
    assert path.parts[-3] == f"prefect-tune-{os.getuid()}"


def test_working_directory_is_not_where_a_link_of_another_user_leads(
    local: ExperimentStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"prefect-tune-{os.getuid()}").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageError, match="set TMPDIR to a directory of your own"):
        working_directory(an_attempt(local))


# The public functions, inside and outside of a trial.


@pytest.fixture
def bound(local: ExperimentStorage, uplink: FakeUplink) -> Iterator[Session]:
    session = a_session(local, uplink)
    session.trial_dir = "/trial/dir"
    with bind(session):
        yield session


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "_warned", set())
    assert current_session() is None


def test_report_of_the_module_is_that_of_the_session(bound: Session, uplink: FakeUplink) -> None:
    tune.report({"loss": 1})

    assert uplink.rows[0]["loss"] == 1


def test_checkpoint_is_passed_by_keyword_only(bound: Session) -> None:
    with pytest.raises(TypeError, match="positional"):
        tune.report({"loss": 1}, None)  # type: ignore[misc]


def test_context_tells_about_the_trial(bound: Session) -> None:
    context = tune.get_context()

    assert context.get_experiment_name() == "experiment"
    assert context.get_trial_id() == "a1b2c_00000"
    assert context.get_trial_name() == "train_a1b2c_00000"
    assert context.get_trial_resources() == PlacementGroupFactory([{"CPU": 2}])
    assert context.get_trial_dir() == "/trial/dir"
    assert context.get_storage() is bound.spec.storage


#: Method, and what it returns outside of a trial.
RANKS = {
    "get_world_size": 1,
    "get_local_world_size": 1,
    "get_world_rank": 0,
    "get_local_rank": 0,
    "get_node_rank": 0,
}
GETTERS = {
    "get_experiment_name": None,
    "get_trial_name": None,
    "get_trial_id": None,
    "get_trial_resources": None,
    "get_trial_dir": None,
    "get_storage": None,
    **RANKS,
}


@pytest.mark.parametrize("name", RANKS)
def test_ranks_are_none_inside_a_trial(name: str, bound: Session) -> None:
    assert getattr(tune.get_context(), name)() is None


@pytest.mark.parametrize(("name", "default"), GETTERS.items())
def test_context_outside_of_a_trial_warns_once_and_returns_the_default(
    name: str, default: Any, outside: None
) -> None:
    get = getattr(tune.get_context(), name)

    with pytest.warns(UserWarning, match=f"`{name}` is meant to be .* Returning `{default}`") as caught:
        value = get()

    assert value == default
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get() == default


def test_every_method_of_the_context_is_tried_here() -> None:
    methods = {name for name in vars(tune.TuneContext) if name.startswith("get_")}

    assert methods == {*GETTERS, "get_metadata"}


def test_metadata_is_refused_everywhere(outside: None) -> None:
    with pytest.raises(DeprecationWarning, match="put the values into param_space"):
        tune.get_context().get_metadata()


def test_context_is_one_object_for_the_whole_process(bound: Session) -> None:
    assert tune.get_context() is tune.get_context()
    assert isinstance(tune.get_context(), tune.TuneContext)


@pytest.mark.parametrize(
    ("name", "call"), [("report", lambda: tune.report({"loss": 1})), ("get_checkpoint", tune.get_checkpoint)]
)
def test_functions_outside_of_a_trial_warn_once_and_do_nothing(
    name: str, call: Callable[[], Any], outside: None
) -> None:
    with pytest.warns(UserWarning, match=f"`{name}` is meant to be called inside a function") as caught:
        value = call()

    assert value is None
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call() is None
