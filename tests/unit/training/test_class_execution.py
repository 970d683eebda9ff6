"""Attempts at trials of trainable classes: rows, checkpoints in time and late ones, and every kind of end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import an_attempt
from tune_core.errors import CheckpointError, MetricMissing
from tune_core.states import Decision, Outcome
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.execution import Ending, run_attempt

calls: list[str] = []


class Model(tune.Trainable):
    """Counts its steps, notes what is called, and fails where the config says."""

    def setup(self, config: dict[str, Any]) -> None:
        calls.append("setup")
        self.steps = 0
        self.fail("setup")

    def step(self) -> dict[str, Any]:
        self.steps += 1
        self.fail(f"step {self.steps}")
        return {"steps": self.steps, **self.config.get("metrics", {})}

    def cleanup(self) -> None:
        calls.append("cleanup")
        self.fail("cleanup")

    def fail(self, where: str) -> None:
        if self.config.get("fail_at") == where:
            raise self.config.get("error", ValueError)(f"failed at {where}")


class Saving(Model):
    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        calls.append(f"save {self.steps}")
        self.fail(f"save {self.steps}")
        return self.config.get("returned", {"steps": self.steps})

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        calls.append(f"load {checkpoint['steps']}")
        self.steps = checkpoint["steps"]


@pytest.fixture(autouse=True)
def nothing_called_yet() -> None:
    calls.clear()


@pytest.fixture
def uplink() -> FakeUplink:
    return FakeUplink()


@pytest.fixture
def storage(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path / "storage", "experiment")


Run = Callable[..., Ending]


@pytest.fixture
def run(storage: ExperimentStorage, uplink: FakeUplink, tmp_path: Path) -> Run:
    """Runs a class as an attempt, for three steps unless told otherwise."""

    def run_class(kind: Any, config: dict[str, Any] | None = None, **changes: Any) -> Ending:
        values = {
            "config": config or {},
            "waits_for_decisions": bool(uplink.decisions),
            "stop": {"training_iteration": 3},
        }
        ending = run_attempt(an_attempt(storage, **values | changes), kind, uplink, tmp_path / "work")
        assert uplink.journaled == 0, "so few rows wait for no journal"
        return ending

    return run_class


def markers(storage: ExperimentStorage) -> list[tuple[int, int]]:
    return [(marker.index, marker.iteration) for marker in storage.committed("trial_0")]


# Rows.


def test_each_step_is_a_report_until_a_rule_stops_the_trial(run: Run, uplink: FakeUplink) -> None:
    ending = run(Model)

    assert ending == Ending(Outcome.STOPPED)
    assert uplink.columns("steps", "training_iteration", "done") == [
        (1, 1, False),
        (2, 2, False),
        (3, 3, True),
    ]
    assert [report.iteration for report in uplink.reports] == [1, 2, 3]
    assert calls == ["setup", "cleanup"]


def test_looser_stop_rules_that_arrive_in_a_step_hold_for_its_row(run: Run, uplink: FakeUplink) -> None:
    class Slow(Model):
        def step(self) -> dict[str, Any]:
            if self.steps == 2:
                uplink.arriving = {"training_iteration": 5}
            return super().step()

    run(Slow)

    assert uplink.columns("training_iteration", "done")[-3:] == [(3, False), (4, False), (5, True)]


def test_rows_of_a_class_have_the_keys_of_those_of_a_function(run: Run, uplink: FakeUplink) -> None:
    run(Model)
    of_class = list(uplink.reports[0].row)

    run(lambda config: {"steps": 1})

    assert sorted(uplink.reports[-1].row) == sorted(of_class)


def test_step_says_that_the_trial_is_done(run: Run, uplink: FakeUplink) -> None:
    ending = run(Model, {"metrics": {"done": True}})

    assert ending == Ending(Outcome.STOPPED)
    assert uplink.columns("done") == [(True,)]


def test_users_timestamp_wins_if_it_is_a_date(run: Run, uplink: FakeUplink) -> None:
    run(Model, {"metrics": {"timestamp": 7, "time_this_iter_s": 2.5}})

    assert uplink.columns("timestamp", "time_total_s") == [(7, 2.5), (7, 5.0), (7, 7.5)]


def test_timestamp_that_is_spoilt_after_it_was_filled_in_is_mended(run: Run, uplink: FakeUplink) -> None:
    class Spoiling(Model):
        def log_result(self, result: dict[str, Any]) -> None:
            del result["done"]
            result["timestamp"] = "now"

    run(Spoiling)

    assert all(timestamp > 1_600_000_000 for (timestamp,) in uplink.columns("timestamp"))


def test_functions_of_the_function_api_do_nothing_in_a_class(run: Run, uplink: FakeUplink) -> None:
    class Mixed(Model):
        def step(self) -> dict[str, Any]:
            tune.report({"reported": 1})
            assert tune.get_checkpoint() is None
            assert tune.get_context().get_trial_id() == self.trial_id
            return super().step()

    with (
        pytest.warns(
            UserWarning, match=r"`report` does nothing inside a Trainable class: return the metrics from"
        ),
        pytest.warns(UserWarning, match=r"`get_checkpoint` does nothing .*: load_checkpoint\(\) is called"),
    ):
        ending = run(Mixed)

    assert ending == Ending(Outcome.STOPPED)
    assert uplink.columns("steps", "reported") == [(1, None), (2, None), (3, None)]


@pytest.mark.parametrize("returned", [None, 3, [1]])
def test_step_without_a_dict_is_an_error_of_the_trial(returned: Any, run: Run, uplink: FakeUplink) -> None:
    class Wrong(Model):
        def step(self) -> Any:
            return returned

    ending = run(Wrong)

    assert ending.outcome is Outcome.ERROR
    assert ending.error is not None
    assert ending.error.startswith("TrainableError: Wrong.step() returned")
    assert (uplink.reports, calls) == ([], ["setup", "cleanup"])


def test_metrics_that_are_none_are_an_error_of_the_trial(run: Run) -> None:
    ending = run(Model, {"metrics": {"nested": {1: 10**400}}})

    assert ending.error == (
        "InvalidMetric: metric 'nested/1' is an integer of about 401 digits, larger than any float, so that "
        "nothing could compare or plot it: report its logarithm, or str(…) of it if it is no quantity"
    )


def test_missing_metric_would_be_missing_again(run: Run, uplink: FakeUplink) -> None:
    ending = run(Saving, metric="loss", checkpoint_at_end=True)

    assert (ending.outcome, ending.retryable) == (Outcome.ERROR, False)
    assert ending.error is not None
    assert ending.error.startswith(MetricMissing.__name__)
    assert uplink.columns("steps") == [(1,)]


# Checkpoints that come with a row.


@pytest.mark.parametrize(
    ("config", "attempt_number", "expected"),
    [
        ({}, {}, []),
        ({}, {"checkpoint_at_end": True}, [(0, 3)]),
        ({}, {"checkpoint_frequency": 1}, [(0, 1), (1, 2), (2, 3)]),
        ({}, {"checkpoint_frequency": 2}, [(0, 2)]),
        ({}, {"checkpoint_frequency": 2, "checkpoint_at_end": True}, [(0, 2), (1, 3)]),
        ({}, {"checkpoint_frequency": 3, "checkpoint_at_end": True}, [(0, 3)]),
        ({"metrics": {"should_checkpoint": True}}, {}, [(0, 1), (1, 2), (2, 3)]),
        ({"metrics": {"should_checkpoint": False}}, {}, []),
        ({"metrics": {"done": True}}, {"checkpoint_at_end": True}, [(0, 1)]),
    ],
)
def test_checkpoints_are_made_when_they_are_due(
    config: dict[str, Any],
    attempt_number: dict[str, Any],
    expected: list[tuple[int, int]],
    run: Run,
    uplink: FakeUplink,
    storage: ExperimentStorage,
) -> None:
    ending = run(Saving, config, **attempt_number)

    assert ending == Ending(Outcome.STOPPED)
    assert markers(storage) == expected
    assert [(r.checkpoint, r.iteration) for r in uplink.reports if r.checkpoint is not None] == expected
    assert uplink.checkpoints == []
    saved = {iteration: f"checkpoint_00000{index}" for index, iteration in expected}
    names = [saved.get(report.iteration) for report in uplink.reports]
    assert [name for (name,) in uplink.columns("checkpoint_dir_name")] == names


def test_attempt_goes_on_where_the_checkpoint_was_saved(
    run: Run, uplink: FakeUplink, storage: ExperimentStorage
) -> None:
    run(Saving, checkpoint_frequency=2, stop={"training_iteration": 2})
    calls.clear()

    totals = {"time_total_s": 100.0, "timesteps_total": 20}
    ending = run(
        Saving,
        {"metrics": {"timesteps_this_iter": 5}},
        attempt_number=2,
        checkpoint=0,
        iteration=2,
        totals=totals,
        highest_index=0,
        checkpoint_at_end=True,
        stop={"training_iteration": 4},
    )

    assert ending == Ending(Outcome.STOPPED)
    assert calls == ["setup", "load 2", "save 4", "cleanup"]
    names = ("steps", "training_iteration", "iterations_since_restore", "timesteps_total", "done")
    assert uplink.columns(*names)[2:] == [(3, 3, 1, 25, False), (4, 4, 2, 30, True)]
    assert uplink.reports[-1].row["time_total_s"] > 100
    assert markers(storage) == [(0, 2), (1, 4)]


@pytest.mark.parametrize(
    "fault", [{"fail_at": "save 2"}, {"returned": "/elsewhere"}, {"fail_at": "save 2", "error": SystemExit}]
)
def test_step_whose_state_cannot_be_saved_is_reported_all_the_same(
    fault: dict[str, Any], run: Run, uplink: FakeUplink, storage: ExperimentStorage
) -> None:
    ending = run(Saving, fault, checkpoint_frequency=2)

    assert ending.outcome is Outcome.ERROR
    assert uplink.columns("steps", "checkpoint_dir_name", "should_checkpoint") == [
        (1, None, None),
        (2, None, None),
    ]
    assert markers(storage) == []
    assert calls == ["setup", "save 2", "cleanup"]


def test_last_step_whose_state_cannot_be_saved_is_not_the_end_of_the_trial(
    run: Run, uplink: FakeUplink
) -> None:
    ending = run(Saving, {"fail_at": "save 3"}, checkpoint_at_end=True)

    assert (ending.outcome, ending.error) == (Outcome.ERROR, "ValueError: failed at save 3")
    assert uplink.columns("steps", "done") == [(1, False), (2, False), (3, False)]


def test_checkpoint_that_the_storage_refuses_is_an_error_and_its_step_is_reported(
    run: Run, uplink: FakeUplink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise CheckpointError("no space")

    monkeypatch.setattr(ExperimentStorage, "commit_checkpoint", refuse)

    ending = run(Saving, checkpoint_frequency=2)

    assert ending.error == "CheckpointError: no space"
    assert uplink.columns("steps", "checkpoint_dir_name", "should_checkpoint") == [
        (1, None, None),
        (2, None, None),
    ]
    assert [report.iteration for report in uplink.reports] == [1, 2]


def test_checkpoint_that_a_class_cannot_make_is_asked_for_in_vain(run: Run, uplink: FakeUplink) -> None:
    ending = run(Model, {"metrics": {"should_checkpoint": True}})

    assert ending.error is not None
    assert ending.error.startswith("TrainableError: Model has no save_checkpoint()")
    assert uplink.columns("steps") == [(1,)]


def test_class_that_cannot_load_says_so(run: Run, storage: ExperimentStorage) -> None:
    run(Saving, checkpoint_frequency=1)

    ending = run(Model, attempt_number=2, checkpoint=0, iteration=1, highest_index=2)

    assert ending.error is not None
    assert ending.error.startswith("TrainableError: Model has no load_checkpoint()")
    assert calls[-2:] == ["setup", "cleanup"]


def test_checkpoint_that_is_gone_is_an_error_of_the_attempt(run: Run) -> None:
    ending = run(Saving, attempt_number=2, checkpoint=5, iteration=9, highest_index=5)

    assert ending.outcome is Outcome.CORRUPTED
    assert ending.error is not None
    assert ending.error.startswith("CheckpointNotFound")
    assert calls == []


# Checkpoints that come after their row.

ANSWERS = {
    # decision: late checkpoint with checkpoint_at_end, and without
    Decision.STOP: (True, False),
    Decision.PAUSE: (True, True),
}
CAUSES = {
    "interrupt": (True, True),
    "failure": (True, True),
    "time_budget": (True, False),
    "stopper": (True, False),
    "fail_fast": (True, False),
    "failed_trials": (True, False),
    "cost": (True, False),
    "stale": (False, False),
    "EXPLOIT": (False, False),
}


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("decision", ANSWERS)
def test_answer_that_stops_the_trial_has_it_saved_after_its_row(
    decision: Decision, at_end: bool, run: Run, uplink: FakeUplink, storage: ExperimentStorage
) -> None:
    uplink.decisions[2] = decision

    ending = run(Saving, checkpoint_at_end=at_end)

    expected = ANSWERS[decision][0 if at_end else 1]
    assert ending == Ending(Outcome.STOPPED)
    assert uplink.columns("steps", "checkpoint_dir_name") == [(1, None), (2, None)]
    assert uplink.checkpoints == ([(2, 0)] if expected else [])
    assert markers(storage) == ([(0, 2)] if expected else [])
    assert calls == ["setup", *(["save 2"] if expected else []), "cleanup"]


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("cause", CAUSES)
def test_stop_in_the_middle_has_the_trial_saved_if_that_is_of_use(
    cause: str, at_end: bool, run: Run, uplink: FakeUplink, storage: ExperimentStorage
) -> None:
    uplink.stops[2] = cause

    ending = run(Saving, checkpoint_at_end=at_end)

    assert ending == Ending(Outcome.STOPPED)
    assert uplink.columns("steps") == [(1,), (2,)]
    assert uplink.checkpoints == ([(2, 0)] if CAUSES[cause][0 if at_end else 1] else [])
    assert calls[-1] == "cleanup"


def test_late_checkpoint_belongs_to_the_latest_report(
    run: Run, uplink: FakeUplink, storage: ExperimentStorage
) -> None:
    """It was told to stop while a step was under way: that step is still reported."""

    class Interrupted(Saving):
        def step(self) -> dict[str, Any]:
            metrics = super().step()
            if self.steps == 2:
                uplink.stops[1] = uplink.stops[2] = "interrupt"
            return metrics

    run(Interrupted)

    (marker,) = storage.committed("trial_0")
    assert uplink.columns("steps") == [(1,), (2,)]
    assert (marker.iteration, marker.metrics["steps"]) == (2, 2)
    assert [row["steps"] for row in marker.rows] == [1, 2], "what is not journaled goes along"


def test_trial_that_was_just_saved_is_not_saved_again(run: Run, uplink: FakeUplink) -> None:
    uplink.decisions[2] = Decision.PAUSE

    run(Saving, checkpoint_frequency=2, checkpoint_at_end=True)

    assert calls == ["setup", "save 2", "cleanup"]
    assert uplink.checkpoints == []


@pytest.mark.parametrize("checkpoint", [None, 0])
def test_trial_that_has_not_taken_a_step_is_not_saved(
    checkpoint: int | None, run: Run, uplink: FakeUplink
) -> None:
    run(Saving, checkpoint_frequency=1, stop={"steps": 1})
    already = len(uplink.reports)
    uplink.stops[already] = "interrupt"
    calls.clear()

    ending = run(Saving, attempt_number=2, checkpoint=checkpoint, iteration=0 if checkpoint is None else 1)

    assert ending == Ending(Outcome.STOPPED)
    assert len(uplink.reports) == already
    assert [call for call in calls if call.startswith("save")] == []
    assert calls[-1] == "cleanup"


def test_class_that_cannot_save_is_stopped_without(run: Run, uplink: FakeUplink) -> None:
    uplink.decisions[2] = Decision.PAUSE

    assert run(Model) == Ending(Outcome.STOPPED)
    assert uplink.checkpoints == []


def test_late_checkpoint_that_fails_is_an_error_of_the_attempt(run: Run, uplink: FakeUplink) -> None:
    uplink.decisions[2] = Decision.PAUSE

    ending = run(Saving, {"fail_at": "save 2"})

    assert ending.error == "ValueError: failed at save 2"
    assert calls == ["setup", "save 2", "cleanup"]


# Endings.


@pytest.mark.parametrize("where", ["setup", "step 1", "step 3"])
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_is_raised_ends_the_attempt_and_the_object(
    where: str, error: type[BaseException], run: Run, uplink: FakeUplink
) -> None:
    ending = run(Saving, {"fail_at": where, "error": error}, checkpoint_at_end=True)

    assert (ending.outcome, ending.error) == (Outcome.ERROR, f"{error.__name__}: failed at {where}")
    assert calls == ["setup", "cleanup"]
    assert len(uplink.reports) == (2 if where == "step 3" else 0)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_cleanup_that_raises_changes_nothing(
    error: type[BaseException], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(Model, {"fail_at": "cleanup", "error": error}) == Ending(Outcome.STOPPED)

    assert calls == ["setup", "cleanup"]
    assert "failed at cleanup" in caplog.text


def test_object_works_and_ends_in_its_trials_directory(run: Run, tmp_path: Path) -> None:
    class Writing(Model):
        def setup(self, config: dict[str, Any]) -> None:
            assert Path.cwd() == Path(self.logdir) == tmp_path / "work"
            super().setup(config)

        def cleanup(self) -> None:
            Path("summary.txt").write_text(str(self.steps))

    assert run(Writing) == Ending(Outcome.STOPPED)
    assert (tmp_path / "work" / "summary.txt").read_text() == "3"


def test_files_that_cleanup_writes_are_kept(run: Run, storage: ExperimentStorage) -> None:
    class Writing(Model):
        def cleanup(self) -> None:
            Path("summary.txt").write_text("x")

    run(Writing, keeps_artifacts="at_end")

    assert storage.read("trial_0/summary.txt") == b"x"


def test_traceback_starts_at_the_users_own_frame(run: Run) -> None:
    ending = run(Model, {"fail_at": "step 1"})

    lines = ending.traceback.splitlines()
    assert lines[1].startswith(f'  File "{__file__}"')
    assert lines[1].endswith("in step")


def test_sys_exit_in_step_is_an_error(run: Run) -> None:
    class Leaving(Model):
        def step(self) -> dict[str, Any]:
            sys.exit("giving up")

    ending = run(Leaving)

    assert (ending.outcome, ending.error) == (Outcome.ERROR, "SystemExit: giving up")
