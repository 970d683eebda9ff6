"""The record of a trial, and every move between statuses: the legal ones and the others."""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path

import pytest

from tune_core.errors import IllegalTransition
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.trial import FINAL, TRANSITIONS, CheckpointRecord, Status, Trial, checkpoint_name

P, R, Z, T, E = Status.PENDING, Status.RUNNING, Status.PAUSED, Status.TERMINATED, Status.ERROR

#: Written out a second time on purpose: a changed table shows as a failed test.
LEGAL = {(P, R), (P, Z), (P, T), (P, E), (R, P), (R, Z), (R, T), (R, E), (Z, P), (Z, T)}


def a_trial(status: Status = P) -> Trial:
    return Trial("a1b2c_00003", 3, {"lr": 0.1}, "train", status=status)


@pytest.mark.parametrize(("start", "end"), sorted(LEGAL))
def test_legal_move_changes_the_status(start: Status, end: Status) -> None:
    trial = a_trial(start)

    trial.move_to(end, because="test")

    assert trial.status is end


@pytest.mark.parametrize(
    ("start", "end"), [pair for pair in product(Status, Status) if pair not in LEGAL and pair[0] != pair[1]]
)
def test_illegal_move_is_refused_and_changes_nothing(start: Status, end: Status) -> None:
    trial = a_trial(start)

    with pytest.raises(
        IllegalTransition, match=rf"a1b2c_00003 cannot go from {start} to {end} .*'the reason'"
    ):
        trial.move_to(end, because="the reason")

    assert trial.status is start


@pytest.mark.parametrize("status", Status)
def test_staying_where_it_is_is_no_move(status: Status) -> None:
    trial = a_trial(status)

    trial.move_to(status, because="test")

    assert trial.status is status


def test_final_statuses_lead_nowhere_and_all_others_somewhere() -> None:
    assert {status for status in Status if not TRANSITIONS[status]} == FINAL == {T, E}
    assert {status for status in Status if a_trial(status).is_finished()} == FINAL


def test_statuses_are_spelled_as_in_ray_tune() -> None:
    assert [str(status) for status in Status] == ["PENDING", "RUNNING", "PAUSED", "TERMINATED", "ERROR"]


def test_checkpoint_is_named_by_its_index() -> None:
    assert checkpoint_name(7) == CheckpointRecord(7, 20).name == "checkpoint_000007"
    assert checkpoint_name(1234567) == "checkpoint_1234567"


def test_latest_checkpoint_is_the_last_that_was_committed() -> None:
    trial = a_trial()

    assert trial.checkpoint is None

    trial.checkpoints += [CheckpointRecord(4, 9), CheckpointRecord(6, 10)]
    assert trial.checkpoint == CheckpointRecord(6, 10)


def test_trial_is_shown_under_its_name() -> None:
    trial = a_trial()
    assert str(trial) == "train_a1b2c_00003"

    trial.name = "mine"
    assert str(trial) == "mine"


def test_there_is_no_result_before_the_first_report() -> None:
    assert a_trial().last_result == {}


def test_result_has_what_the_process_need_not_send_each_time() -> None:
    trial = a_trial()
    trial.worker = {"pid": 4711, "hostname": "host", "node_ip": "127.0.0.1"}
    row = {"loss": 0.5, "timestamp": 1_700_000_000, "done": False}

    result = trial.result_of(row)

    assert result == {
        **row,
        "trial_id": "a1b2c_00003",
        "date": time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(1_700_000_000)),
        "pid": 4711,
        "hostname": "host",
        "node_ip": "127.0.0.1",
        "config": {"lr": 0.1},
    }
    assert trial.row_of(result) == row


def test_what_a_callback_added_to_a_result_stays_in_its_row() -> None:
    trial = a_trial()
    result = trial.result_of({"loss": 0.5, "timestamp": 1_700_000_000})

    result["added"] = 1

    assert trial.row_of(result) == {"loss": 0.5, "timestamp": 1_700_000_000, "added": 1}


@pytest.mark.parametrize(("status", "done"), [(P, False), (R, False), (Z, False), (T, True), (E, False)])
def test_last_result_of_a_trial_that_has_ended_well_is_done(status: Status, done: bool) -> None:
    trial = a_trial(status)
    trial.experiment_tag = "3_lr=0.1"
    trial.last_row = {"timestamp": 1_700_000_000, "done": False}

    assert trial.last_result["done"] is done
    assert trial.last_result["experiment_tag"] == "3_lr=0.1"
    assert trial.last_row["done"] is False


def test_what_only_ray_tunes_trials_have_is_named_with_what_says_the_same() -> None:
    trial = Trial("t0", 0, {})

    with pytest.raises(
        AttributeError, match=r"a Trial has no 'evaluated_params', as Ray Tune's has: use config"
    ):
        _ = trial.evaluated_params
    with pytest.raises(AttributeError, match=r"a Trial has no 'no_such_thing'$"):
        _ = trial.no_such_thing
    assert not hasattr(trial, "logdir")
    assert (trial.path, trial.local_path, trial.storage) == (None, None, None)


def test_place_on_other_storage_than_this_machines_is_no_local_path(tmp_path: Path) -> None:
    storage = ExperimentStorage.open("memory://bucket", tmp_path.name)
    trial = Trial("t0", 0, {}, dirname="trial_0", storage=storage)

    assert trial.path == f"/bucket/{tmp_path.name}/trial_0"
    assert trial.local_path is None
