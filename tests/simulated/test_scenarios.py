"""Whole experiments in this process: how their trials end, and where each goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.scenarios import SCENARIOS, Played, Scenario, always_fails, play, retries
from tune_core.control.segments import read_journal
from tune_core.errors import TrialError
from tune_core.trial import Status


@pytest.mark.parametrize("name", SCENARIOS)
def test_trials_end_as_they_have_to(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]()

    played = play(scenario, str(tmp_path))

    initials = {Status.TERMINATED: "T", Status.ERROR: "E", Status.PAUSED: "P"}
    assert "".join(initials[trial.status] for trial in played.trials) == scenario.statuses
    assert [result.status for result in played.results] == [trial.status for trial in played.trials]
    assert played.controller.has_ended


@pytest.mark.parametrize(
    "name", ["retries", "pauses and retries", "best checkpoints", "interrupt", "generator"]
)
def test_object_storage_leads_to_the_same_trials_as_a_disk(name: str, tmp_path: Path) -> None:
    on_disk = play(SCENARIOS[name](), str(tmp_path))
    in_memory = play(SCENARIOS[name](), f"memory://{tmp_path.name}")

    def told(played: Played) -> list[Any]:
        return [
            (
                trial.config,
                trial.status,
                trial.attempt_number,
                trial.iteration,
                [r.index for r in trial.checkpoints],
            )
            for trial in played.trials
        ]

    assert told(on_disk) == told(in_memory)
    assert in_memory.storage.fs.protocol == "memory"


def test_retries_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    played = play(SCENARIOS["retries"](), str(tmp_path))

    trial, result = played.trials[0], played.results[0]
    assert (trial.attempt_number, trial.num_failures, trial.error) == (4, 3, None)
    # Attempts fail at steps 1, 4 and 7; checkpoints are of steps 2, 4 and 6.
    assert [(row["attempt_number"], row["step"]) for row in result.rows] == [
        *((2, step) for step in (1, 2)),
        *((3, step) for step in (3, 4, 5, 6)),
        *((4, step) for step in (7, 8, 9, 10)),
    ]
    assert [row["training_iteration"] for row in result.rows] == list(range(1, 11))
    totals = [row["time_total_s"] for row in result.rows]
    assert totals == sorted(totals)


def test_paused_trials_go_on_where_they_were_saved(tmp_path: Path) -> None:
    played = play(SCENARIOS["pausing scheduler"](), str(tmp_path))

    for trial, result in zip(played.trials, played.results, strict=True):
        assert trial.attempt_number == 3
        assert [row["step"] for row in result.rows] == list(range(1, 11))


def test_trials_take_turns_where_the_scheduler_pauses_them(tmp_path: Path) -> None:
    played = play(SCENARIOS["pauses at checkpoints"](), str(tmp_path))

    # Told to at steps 3, 6 and 9, saved at 4, 6 and 10.
    attempts = [
        [(row["attempt_number"], row["step"]) for row in result.rows if row["step"] in (4, 5, 6, 7)]
        for result in played.results
    ]
    assert attempts == [[(1, 4), (2, 5), (2, 6), (3, 7)]] * 3
    assert [[row["step"] for row in result.rows] for result in played.results] == [list(range(1, 11))] * 3


def test_exploit_goes_on_from_the_donors_checkpoint_with_the_new_configuration(tmp_path: Path) -> None:
    played = play(SCENARIOS["exploits"](), str(tmp_path))

    donor, trial, _ = played.trials
    result = played.results[1]
    assert trial.config == result.config == {"x": 7, "steps": 14}
    assert trial.experiment_tag == "1_x=2@perturbed[steps=14,x=7]"
    rows = [
        (row["attempt_number"], row["training_iteration"], row["step"], row["loss"]) for row in result.rows
    ]
    assert rows[:3] == [(1, step, step, (2 - step) ** 2) for step in (1, 2, 3)]
    assert rows[3:] == [(2, step, step, (7 - step) ** 2) for step in (11, 12, 13, 14)]
    before = donor.checkpoints[-1].metrics["time_total_s"]
    totals = [row["time_total_s"] for row in result.rows[3:]]
    assert totals == sorted(totals)
    assert totals[0] > before
    assert [row["iterations_since_restore"] for row in result.rows[3:]] == [1, 2, 3, 4]
    assert [marker.iteration for marker in played.storage.committed(trial.dirname)] == [14]


@pytest.mark.parametrize(("name", "given_up"), [("chooses nobody", 3), ("gives up", 0)])
def test_paused_trials_whom_nobody_chooses_end_as_they_are(name: str, given_up: int, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]()
    ends: list[str] = []

    class NotingEnd(tune.Callback):
        def on_experiment_end(self, trials: Any, **info: Any) -> None:
            ends.extend(f"{trial.status} {trial.iteration}" for trial in trials)

    scenario.run["callbacks"] = [NotingEnd()]
    played = play(scenario, str(tmp_path))

    assert ends == (["TERMINATED 4"] * 3 if given_up else ["TERMINATED 10", "TERMINATED 4", "TERMINATED 4"])
    commands = [text for _, commands in read_journal(played.storage) for text in commands]
    said = f"; {given_up} of them were paused, and the scheduler chose none to go on" if given_up else ""
    assert commands[-1] == f"EndExperiment every trial is finished{said} None"


def test_stopping_scheduler_stops_the_worse_ones_early(tmp_path: Path) -> None:
    played = play(SCENARIOS["stopping scheduler"](), str(tmp_path))

    # At step 1 the losses are 0, 1 and 4, as x is 1, 2 and 3.
    assert [trial.iteration for trial in played.trials] == [10, 10, 1]
    assert all(trial.status is Status.TERMINATED for trial in played.trials)


def test_interrupted_trial_can_go_on_from_its_checkpoint(tmp_path: Path) -> None:
    played = play(SCENARIOS["interrupt"](), str(tmp_path))

    _, begun, waiting = played.trials
    assert played.controller.unfinished == [begun, waiting]
    assert begun.checkpoint is not None
    assert (waiting.worker, waiting.checkpoint) == ({}, None)


def test_best_and_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    played = play(SCENARIOS["best checkpoints"](), str(tmp_path))

    # x is 1 and 2, the loss (x - step) ** 2 at steps 2, 4, … 10: the first is best.
    assert [[record.iteration for record in trial.checkpoints] for trial in played.trials] == [
        [2, 10],
        [2, 10],
    ]
    best = played.results[0].best_checkpoints or []
    assert [metrics["loss"] for _, metrics in best] == [1]


def test_fail_fast_raise_raises_the_trials_own_error(tmp_path: Path) -> None:
    scenario = Scenario("", always_fails, run=retries(0, fail_fast="raise"))

    with pytest.raises(TrialError, match="ValueError: no use: 1") as raised:
        play(scenario, str(tmp_path))

    assert "in always_fails" in raised.value.traceback
