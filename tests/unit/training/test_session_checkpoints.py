"""Checkpoints with a report and after it, and reports that wait for the journal."""

from __future__ import annotations

from pathlib import Path

import pytest

import tune_core as tune
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import a_session
from tune_core.errors import CheckpointError
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training import session as session_module
from tune_core.training.session_binding import bind

# Checkpoints that are committed after their report.


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


# Checkpoints that come with a report.


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


# Reports that wait for the journal.


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
