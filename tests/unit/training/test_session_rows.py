"""What a report becomes: rows, what is filled in, and metrics that cannot be reported."""

from __future__ import annotations

import math
import sys
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clocks import Ticks
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import NOW, a_session, an_attempt
from tune_core.encoding import Opaque, dumps, loads
from tune_core.errors import InvalidMetric, MetricMissing
from tune_core.metrics import validate_metrics
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session import Session, StopTrial

# Rows of a class.


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


# Rows of a function.


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


# The metric that the experiment is tuned for.


def test_missing_metric_is_an_error_that_says_what_was_reported(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    session = a_session(local, uplink, metric="accuracy")

    with pytest.raises(
        MetricMissing,
        match=r"metric 'accuracy' is missing from the report of trial a1b2c_00000 \(iteration 1\); "
        r"reported: acuracy, .*TuneConfig\(metric='accuracy'\) needs it: .*did you mean 'acuracy'\?",
    ) as raised:
        session.report({"acuracy": 1})

    assert session.metric_missing is raised.value
    assert uplink.rows[0]["acuracy"] == 1


@pytest.mark.parametrize(
    ("metric", "metrics"),
    [
        ("loss", {"loss": math.nan}),
        ("eval/loss", {"eval": {"loss": 0}}),
        (["loss", "eval/ms"], {"loss": 1, "eval": {"ms": 2}}),
        (None, {}),
    ],
)
def test_metric_that_is_there_is_enough(
    metric: str | list[str] | None, metrics: dict[str, Any], local: ExperimentStorage, uplink: FakeUplink
) -> None:
    a_session(local, uplink, metric=metric).report(metrics)

    assert len(uplink.rows) == 1


def test_one_of_several_metrics_that_is_missing_is_named(
    local: ExperimentStorage, uplink: FakeUplink
) -> None:
    with pytest.raises(
        MetricMissing, match=r"metric 'ms' is missing .*TuneConfig\(metric=\['loss', 'ms'\]\) needs it"
    ):
        a_session(local, uplink, metric=["loss", "ms"]).report({"loss": 1})

    assert len(uplink.rows) == 1


def test_no_name_is_suggested_where_none_is_close(local: ExperimentStorage, uplink: FakeUplink) -> None:
    with pytest.raises(MetricMissing) as raised:
        a_session(local, uplink, metric="zzz").report({"loss": 1})

    assert "did you mean" not in str(raised.value)
