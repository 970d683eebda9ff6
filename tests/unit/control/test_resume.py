"""Resume without servers: replay, and what is taken up."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.resuming import STEPS, begin, count, cut, events, fit, rows_of, storage_of, undisturbed
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.journal import Journal, claim
from tune_core.control.messages import (
    CapacityChanged,
    ExperimentResumed,
    ExperimentStarted,
    SearchEnded,
    SpecRecorded,
    StateSaved,
    StopRequested,
    TrialReported,
)
from tune_core.control.resume import Replay, loosened, read_spec, reports, steered_spec
from tune_core.control.segments import read_journal
from tune_core.schedulers import ResourceChangingScheduler
from tune_core.states import StopCause
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.trial import Status, Trial


class Snapshots(tune.Callback):
    """Copies the experiment's directory each time something happens, as a sudden death would leave it."""

    def __init__(self, path: Path, runtime: LocalRuntime) -> None:
        self._path, self._runtime = path, runtime
        self.copies: list[Path] = []

    def take(self, *_: Any, **info: Any) -> None:
        """Copy what is there once the journal has what was handled."""
        self._runtime._journal.flush()
        self.copies.append(self._path.with_name(f"copy-{len(self.copies)}"))
        shutil.copytree(self._path, self.copies[-1])

    on_trial_start = on_trial_restore = on_trial_result = on_trial_save = on_checkpoint = (
        on_trial_complete
    ) = take


def test_driver_may_die_at_any_time(path: Path) -> None:
    runtime = LocalRuntime()
    snapshots = Snapshots(path, runtime)
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent), callbacks=[snapshots])
    space = {"x": tune.grid_search([1, 2])}
    runtime.run(tune.Tuner(count, param_space=space, run_config=run_config).experiment())
    assert len(snapshots.copies) > 20

    for copy in snapshots.copies:
        acknowledged = [
            (each.trial_id, each.attempt_number, each.row) for each in events(copy, TrialReported)
        ]
        tuner = tune.Tuner.restore(copy, count, run_config=tune.RunConfig())
        results = fit(tuner)

        assert rows_of(results) == undisturbed(1, 2), copy
        assert [result.status for result in results] == [Status.TERMINATED] * 2
        kept = [(each.trial_id, each.attempt_number, each.row) for each in events(copy, TrialReported)]
        assert kept[: len(acknowledged)] == acknowledged


def test_what_was_committed_after_the_last_journal_write_is_taken_up(
    every_event_is_a_segment: None, path: Path
) -> None:
    begin(path, {"x": 3})
    copy = cut(path, TrialReported)  # one row is in the journal, three checkpoints are committed

    results = fit(tune.Tuner.restore(copy, count))

    resumed = [event for event, _ in read_journal(storage_of(copy))]
    position = next(place for place, event in enumerate(resumed) if isinstance(event, ExperimentResumed))
    taken_up = [event.iteration for event in resumed[:position] if isinstance(event, TrialReported)]
    # This runtime journals each row before it is committed, so a marker carries its own row alone.
    assert taken_up == [1, 2, 4, 6]
    assert rows_of(results)[0][-1] == (6, 18)


def test_more_samples_extend_a_finished_experiment(path: Path) -> None:
    begin(path)

    results = fit(tune.Tuner.restore(path, count, num_samples=2))

    assert rows_of(results) == undisturbed(1, 2, 1, 2)
    assert [event.revision for event in events(path, SpecRecorded)] == [1, 2]
    assert read_spec(storage_of(path)).spec["tune_config"]["num_samples"] == 2


def test_a_looser_rule_lets_those_go_on_that_the_old_one_ended(path: Path) -> None:
    begin(path, {"x": tune.grid_search([1, 2]), "steps": 8}, stop={"training_iteration": 4})

    results = fit(tune.Tuner.restore(path, count, stop={"training_iteration": 6}))

    assert rows_of(results) == undisturbed(1, 2)
    assert events(path, ExperimentResumed)[0].reopened == tuple(
        sorted(events(path, ExperimentResumed)[0].reopened)
    )


def test_an_unchanged_rule_lets_nobody_go_on(path: Path) -> None:
    begin(path, stop={"training_iteration": 4})

    results = fit(tune.Tuner.restore(path, count, stop={"training_iteration": 4}))

    assert rows_of(results) == undisturbed(1, 2, steps=4)


@pytest.mark.parametrize(
    ("before", "after", "row", "goes_on"),
    [
        ({"training_iteration": 4}, {"training_iteration": 6}, {"training_iteration": 4, "done": True}, True),
        (
            {"training_iteration": 4},
            {"training_iteration": 4},
            {"training_iteration": 4, "done": True},
            False,
        ),
        (
            {"training_iteration": 4},
            {"training_iteration": 6},
            {"training_iteration": 3, "done": True},
            False,
        ),
        (
            {"training_iteration": 4},
            {"training_iteration": 6},
            {"training_iteration": 4, "done": False},
            False,
        ),
        ({"$object": "TrialPlateauStopper"}, {"score": 9}, {"score": 4, "done": True}, True),
        ({"score": 3}, lambda _, result: True, {"score": 4, "done": True}, True),
        ({"score": 3}, {"score": 9}, {}, False),
        (None, {"score": 9}, {"score": 4, "done": True}, False),
    ],
)
def test_who_was_ended_by_a_rule_that_is_looser_now(
    before: Any, after: Any, row: dict[str, Any], goes_on: bool
) -> None:
    assert loosened(before, after)(Trial("t0", 0, {}, last_row=row)) is goes_on


class Broken(RuntimeError):
    """What a trial raises while its data is missing."""


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Any]:
    """A trainable that fails at step 4 until it is mended."""
    state = {"broken": True}

    def train(config: dict[str, Any]) -> None:
        checkpoint = tune.get_checkpoint()
        first = 1 if checkpoint is None else 4
        for step in range(first, 6):
            if step == 4 and state["broken"]:
                raise Broken
            with tempfile.TemporaryDirectory() as directory:
                saved = tune.Checkpoint.from_directory(directory) if step == 3 else None
                tune.report({"score": step, "began_at": first}, checkpoint=saved)

    def mend(is_mended: bool) -> Any:
        state["broken"] = not is_mended
        return train

    return mend


@pytest.mark.parametrize(
    ("arguments", "began_at", "errors"),
    [
        ({}, [1, 1, 1], 1),
        ({"resume_errored": True}, [1, 1, 1, 4, 4], 0),
        ({"restart_errored": True}, [1, 1, 1, 1, 1], 0),
        ({"_resume_config": tune.ResumeConfig(errored="resume")}, [1, 1, 1, 4, 4], 0),
    ],
)
def test_failed_trials_go_on_or_start_over_as_is_asked(
    fragile: Callable[[bool], Any], path: Path, arguments: dict[str, Any], began_at: list[int], errors: int
) -> None:
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    failed = fit(tune.Tuner(fragile(False), run_config=run_config))
    assert failed.num_errors == 1

    results = fit(tune.Tuner.restore(path, fragile(True), **arguments))

    assert [row["began_at"] for row in results[0].rows] == began_at
    assert results.num_errors == errors
    assert (results[0].path == failed[0].path) == ("restart_errored" not in arguments)


def interrupted(path: Path) -> None:
    """Leave one trial in the middle and one that has not begun."""

    def train(config: dict[str, Any]) -> None:
        if tune.get_checkpoint() is None:
            with tempfile.TemporaryDirectory() as directory:
                tune.report({"score": 1}, checkpoint=tune.Checkpoint.from_directory(directory))
            raise KeyboardInterrupt
        tune.report({"score": 2})

    train._name = "count"  # type: ignore[attr-defined]
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    space = {"x": tune.grid_search([1, 2])}
    results = fit(tune.Tuner(train, param_space=space, run_config=run_config))
    assert [result.status for result in results] == [Status.PAUSED, Status.PAUSED]


def test_unfinished_trials_can_be_left_as_they_are(path: Path) -> None:
    interrupted(path)

    results = fit(tune.Tuner.restore(path, count, resume_unfinished=False))

    assert [result.status for result in results] == [Status.TERMINATED] * 2
    assert [len(result.rows) for result in results] == [1, 0]


def test_restored_tuner_shows_what_there_is_before_it_is_run(path: Path) -> None:
    interrupted(path)
    before = sorted(file for file in path.rglob("*"))

    results = tune.Tuner.restore(path, count).get_results()

    assert [result.status for result in results] == [Status.PAUSED, Status.PAUSED]
    assert sorted(file for file in path.rglob("*")) == before


def test_a_relative_path_is_below_the_current_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(path)
    monkeypatch.chdir(path.parent)

    assert tune.Tuner.can_restore("experiment")
    assert rows_of(tune.Tuner.restore("experiment", count).get_results()) == undisturbed(1, 2)


def test_seed_that_nobody_gave_is_the_same_after_a_resume(every_event_is_a_segment: None, path: Path) -> None:
    space = {"x": tune.randint(0, 10**9)}
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    tune_config = tune.TuneConfig(num_samples=3)
    whole = fit(tune.Tuner(count, param_space=space, tune_config=tune_config, run_config=run_config))
    assert events(path, StateSaved)
    copy = cut(path, TrialReported)
    assert len(Replay(Controller(ControllerConfig(""))).run(read_journal(storage_of(copy))).trials) < 3

    again = fit(tune.Tuner.restore(copy, count))

    assert [result.config for result in again] == [result.config for result in whole]


def test_reports_yields_what_counts_with_the_trial_as_it_was(path: Path) -> None:
    begin(path)

    found = [(trial.number, report.iteration) for trial, report in reports(storage_of(path))]

    assert found == [(number, step) for number in (0, 1) for step in range(1, STEPS + 1)]


def test_time_that_drivers_have_used_counts_against_the_budget() -> None:
    told = [
        ExperimentStarted(100.0, 1),
        CapacityChanged(130.0, 2),
        ExperimentResumed(200.0, 1),
        CapacityChanged(225.0, 2),
    ]

    assert (
        Replay(Controller(ControllerConfig("a1b2c"))).run((event, ()) for event in told).budget_used_s == 55.0
    )


def test_trials_that_go_on_get_the_resources_that_are_asked_for_now(path: Path) -> None:
    interrupted(path)
    bundles = {"CPU": 1, "memory": 1000}

    fit(tune.Tuner.restore(path, tune.with_resources(count, bundles)))

    trials = Replay(Controller(ControllerConfig(""))).run(read_journal(storage_of(path))).trials
    (resumed,) = events(path, ExperimentResumed)
    assert set(resumed.resources) == {trial.trial_id for trial in trials}
    assert {trial.resources.required_resources["memory"] for trial in trials} == {1000.0}


def test_trials_that_were_given_others_than_they_ask_for_keep_them(path: Path) -> None:
    runtime = LocalRuntime(threads=2)
    snapshots = Snapshots(path, runtime)
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent), callbacks=[snapshots])
    tune_config = tune.TuneConfig(scheduler=ResourceChangingScheduler())
    tuner = tune.Tuner(count, param_space={"x": 1}, tune_config=tune_config, run_config=run_config)
    runtime.run(tuner.experiment())
    moved = [copy for copy in snapshots.copies if any(each.resources for each in events(copy, TrialReported))]
    assert 5 < len(moved) < len(snapshots.copies)

    for copy in moved[::5]:
        tuner = tune.Tuner.restore(copy, count, run_config=tune.RunConfig())
        assert rows_of(LocalRuntime(threads=2).run(tuner.experiment())) == undisturbed(1), copy

        (trial,) = Replay(Controller(ControllerConfig(""))).run(read_journal(storage_of(copy))).trials
        assert [each.resources for each in events(copy, ExperimentResumed)] == [{}]
        assert (trial.resources.head_cpus, trial.base_resources.head_cpus) == (2, 1)
        assert sum(each.resources is not None for each in events(copy, TrialReported)) == 1


def test_time_between_two_drivers_does_not_count_against_the_budget() -> None:
    told = [
        SpecRecorded(0.0, 1, {}, {"experiment_id": "a1b2c"}),
        ExperimentStarted(100.0, 1),
        CapacityChanged(130.0, 2),
        CapacityChanged(5000.0, 0),  # the next driver's first word
        ExperimentResumed(5001.0, 1),
        StateSaved(5011.0),
        CapacityChanged(5021.0, 2),
    ]

    assert (
        Replay(Controller(ControllerConfig("a1b2c"))).run((event, ()) for event in told).budget_used_s == 50.0
    )


def test_time_after_a_request_counts_against_the_budget() -> None:
    told = [
        ExperimentStarted(100.0, 1),
        SpecRecorded(110.0, 2, {}, {"experiment_id": "a1b2c"}, "a request"),
        CapacityChanged(150.0, 2),
    ]

    assert (
        Replay(Controller(ControllerConfig("a1b2c"))).run((event, ()) for event in told).budget_used_s == 50.0
    )


def test_what_a_request_has_changed_is_found_behind_later_changes_and_not_in_other_experiments(
    path: Path,
) -> None:
    storage = storage_of(path)
    for number, (experiment_id, requests) in enumerate({"aaaaa": ["r", "s", ""], "bbbbb": [""]}.items()):
        claim(storage, experiment_id, {"host": "here"}, lambda _: False)
        journal = Journal(
            storage,
            experiment_id,
            {"host": "here"},
            2 * number + 1,
            on_flushed=lambda _: None,
            on_failure=lambda _: None,
        )
        for revision, request_id in enumerate(requests, 1):
            rules = {"experiment_id": experiment_id}
            journal.append(SpecRecorded(0.0, revision, {}, rules, request_id), [])
        journal.close()

    found = steered_spec(storage, "aaaaa")

    assert found is not None
    assert found.request_id == "s"
    assert steered_spec(storage, "bbbbb") is None
    assert steered_spec(storage, "ccccc") is None


def test_budget_that_had_ended_the_experiment_begins_anew() -> None:
    told = [
        ExperimentStarted(100.0, 1),
        SearchEnded(101.0),
        StopRequested(160.0, StopCause.TIME_BUDGET, "time_budget_s is used up"),
    ]
    replay = Replay(Controller(ControllerConfig("a1b2c"))).run((event, ()) for event in told)
    assert replay.controller.has_ended

    assert replay.budget_used_s == 0.0


def test_journal_that_only_was_claimed_holds_no_experiment_and_hides_none(path: Path) -> None:
    storage, owner = storage_of(path), {"host": socket.gethostname(), "pid": os.getpid()}
    claim(storage, "aaaaa", owner, lambda _: False)
    assert not tune.Tuner.can_restore(path)
    begin(path)
    claim(storage, "bbbbb", owner, lambda _: False)

    assert tune.Tuner.can_restore(path)
    restored = tune.Tuner.restore(path, count)
    assert rows_of(restored.get_results()) == undisturbed(1, 2)
    assert rows_of(fit(restored)) == undisturbed(1, 2)


def test_reopened_trial_that_ends_well_has_no_error_any_more(
    fragile: Callable[[bool], Any], path: Path
) -> None:
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    fit(tune.Tuner(fragile(False), run_config=run_config))

    (result,) = fit(tune.Tuner.restore(path, fragile(True), resume_errored=True))

    assert tune.Result.from_path(result.path).error is None
