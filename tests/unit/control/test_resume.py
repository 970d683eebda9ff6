"""Resume without servers: replay, what is taken up, what is completed, and what `Tuner.restore` refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.object_refs import ObjectRef
from tune_core import references
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.journal import Journal, claim
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    SearchEnded,
    SearchRetried,
    SegmentsGivenUp,
    SpecRecorded,
    StateSaved,
    StopRequested,
    TrialReported,
)
from tune_core.control.policy import Policy
from tune_core.control.resume import Replay, loosened, read_spec, reports, steered_spec
from tune_core.control.segments import read_journal
from tune_core.errors import ConfigError, JournalDamaged, SpecError, StorageError
from tune_core.logger.trial_files import TrialFiles
from tune_core.schedulers import ResourceChangingScheduler
from tune_core.states import StopCause
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.trial import Status, Trial

STEPS = 6


def count(config: dict[str, Any]) -> None:
    """Count to six, saving each second step; what is reported follows from the configuration alone."""
    start = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            start = int(Path(directory, "step").read_text())
    for step in range(start + 1, config.get("steps", STEPS) + 1):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "step").write_text(str(step))
            saved = tune.Checkpoint.from_directory(directory) if step % 2 == 0 else None
            tune.report({"score": config["x"] * step}, checkpoint=saved)


def fit(tuner: tune.Tuner) -> tune.ResultGrid:
    return LocalRuntime().run(tuner.experiment())


def begin(path: Path, space: dict[str, Any] | None = None, **run: Any) -> tune.ResultGrid:
    space = {"x": tune.grid_search([1, 2])} if space is None else space
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent), **run)
    return fit(tune.Tuner(count, param_space=space, run_config=run_config))


def rows_of(results: tune.ResultGrid) -> list[list[tuple[int, float]]]:
    return [[(row["training_iteration"], row["score"]) for row in result.rows] for result in results]


def undisturbed(*xs: int, steps: int = STEPS) -> list[list[tuple[int, float]]]:
    return [[(step, x * step) for step in range(1, steps + 1)] for x in xs]


def storage_of(path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(path.parent, path.name)


def events(path: Path, kind: type[Event]) -> list[Any]:
    return [event for event, _ in read_journal(storage_of(path)) if isinstance(event, kind)]


@pytest.fixture
def every_event_is_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a journal can be cut after any event."""
    monkeypatch.setattr("tune_core.control.journal.FLUSH_EVENTS", 1)
    monkeypatch.setattr("tune_core.control.journal.FLUSH_INTERVAL_S", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experiment"


def cut(path: Path, kind: type[Event]) -> Path:
    """Return a copy whose journal ends with the first event of that kind; its checkpoints are of later."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    segments = sorted((copy / "journal").iterdir())
    name = kind.__name__.encode()
    first = next(number for number, segment in enumerate(segments, 1) if name in segment.read_bytes())
    for segment in segments[first:]:
        segment.unlink()
    return copy


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


def torn(path: Path, kind: type[Event], remains: Callable[[bytes], bytes]) -> tuple[Path, int]:
    """Return a copy of which a power cut has taken the end: all from the last event of that kind on."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    segments = sorted((copy / "journal").iterdir())
    name = kind.__name__.encode()
    first = max(number for number, segment in enumerate(segments, 1) if name in segment.read_bytes())
    for segment in segments[first - 1 :]:
        segment.write_bytes(remains(segment.read_bytes()))
    return copy, first


@pytest.mark.parametrize(
    "remains",
    [
        lambda _: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"attempt_number", b"leash"),
    ],
    ids=["empty", "half", "changed"],
)
@pytest.mark.parametrize("kind", [TrialReported, AttemptStarted, AttemptEnded])
def test_experiment_with_a_damaged_end_goes_on_only_if_that_is_given_up(
    kind: type[Event], remains: Callable[[bytes], bytes], every_event_is_a_segment: None, path: Path
) -> None:
    begin(path, {"x": tune.grid_search([1, 2])})
    copy, first = torn(path, kind, remains)
    with pytest.raises(JournalDamaged, match=rf"{first:08d}\.jsonl is damaged: .*discard_damaged=True"):
        tune.Tuner.restore(copy, count)
    for refused in (tune.Tuner.can_restore, begin):
        with pytest.raises(JournalDamaged):
            refused(copy)

    tuner = tune.Tuner.restore(copy, count, discard_damaged=True)
    tuner.get_results()
    experiment_id = read_spec(storage_of(copy), discard_damaged=True).spec["experiment_id"]
    left = [event for event, _ in read_journal(storage_of(copy), experiment_id, discard_damaged=True)]
    results = fit(tuner)

    assert rows_of(results) == undisturbed(1, 2)
    (given_up,) = events(copy, SegmentsGivenUp)
    assert given_up.first == first
    # An attempt that only the lost segments knew may have reported and committed under its number.
    started = [each for each in events(copy, AttemptStarted) if each not in left]
    before = [(each.trial_id, each.attempt_number) for each in events(path, AttemptStarted)]
    assert started
    assert not [each for each in started if (each.trial_id, each.attempt_number) in before]
    assert rows_of(fit(tune.Tuner.restore(copy, count))) == undisturbed(1, 2), "it is known from now on"


def test_rows_that_files_lack_are_written_from_the_journal(path: Path) -> None:
    whole = begin(path)
    file = Path(whole[0].path, "result.json")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # as a crash leaves it
    table = Path(whole[1].path, "progress.csv")
    records = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(records[:2]) + records[2][:-5])
    Path(whole[1].path, "params.json").unlink()

    results = fit(tune.Tuner.restore(path, count))

    with pytest.warns(UserWarning, match="skipped 1 of 7 rows"):
        assert rows_of(results) == undisturbed(1, 2)
    assert len(file.read_bytes().splitlines()) == STEPS + 1
    assert table.read_bytes() == b"".join(records)
    assert json.loads(Path(whole[1].path, "params.json").read_text()) == {"x": 2}


@pytest.mark.parametrize("how", ["removed", "emptied"])
@pytest.mark.parametrize("after", [4, STEPS])
def test_rows_of_files_that_somebody_removed_meanwhile_are_written_again(
    how: str, after: int, path: Path
) -> None:
    class Remover(tune.Callback):
        def setup(self, *args: Any, files: TrialFiles, **info: Any) -> None:
            self._files = files

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Trial, result: Any, **info: Any
        ) -> None:
            if result["training_iteration"] == after:
                self._files.flush(trial.dirname)
                for name in ("result.json", "progress.csv"):
                    file = path / trial.dirname / name
                    file.unlink() if how == "removed" else file.write_bytes(b"")

    results = begin(path, callbacks=[Remover()])

    assert rows_of(results) == undisturbed(1, 2)
    assert [row["config"] for row in results[1].rows] == [{"x": 2}] * STEPS
    for result in results:
        table = list(csv.DictReader(Path(result.path, "progress.csv").read_text().splitlines()))
        assert [int(row["training_iteration"]) for row in table] == [*range(1, STEPS + 1)]


def test_file_that_lacks_rows_in_its_middle_is_written_again_by_a_resume(path: Path) -> None:
    whole = begin(path)
    for name in ("result.json", "progress.csv"):
        file = Path(whole[0].path, name)
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join([*lines[:1], *lines[3:]]))

    results = fit(tune.Tuner.restore(path, count))

    assert rows_of(results) == undisturbed(1, 2)
    assert len(Path(whole[0].path, "progress.csv").read_text().splitlines()) == STEPS + 1


def test_nothing_is_written_twice_where_nothing_lacks(path: Path) -> None:
    whole = begin(path)
    files = {file: file.read_bytes() for result in whole for file in Path(result.path).glob("*.*")}

    fit(tune.Tuner.restore(path, count))

    assert {file: file.read_bytes() for file in files} == files


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
def test_failed_trials_go_on_or_begin_anew_as_is_asked(
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


def test_can_restore_says_whether_there_is_an_experiment(path: Path) -> None:
    assert not tune.Tuner.can_restore(path)
    begin(path)
    assert tune.Tuner.can_restore(path)
    assert tune.Tuner.can_restore(f"{path}/")
    assert not tune.Tuner.can_restore(path.parent)


def test_a_relative_path_is_below_the_current_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(path)
    monkeypatch.chdir(path.parent)

    assert tune.Tuner.can_restore("experiment")
    assert rows_of(tune.Tuner.restore("experiment", count).get_results()) == undisturbed(1, 2)


def test_what_is_no_experiment_is_refused(path: Path) -> None:
    with pytest.raises(StorageError, match="holds no experiment that can be resumed"):
        tune.Tuner.restore(path, count)
    with pytest.raises(ConfigError, match=r"path=3: expected <storage_path>/<name>"):
        tune.Tuner.restore(3, count)  # type: ignore[arg-type]


def test_another_trainable_is_refused(path: Path) -> None:
    begin(path)

    def other(config: dict[str, Any]) -> None:
        """Tune something else."""

    with pytest.raises(ConfigError, match=r"trainable='other': the experiment at .* tunes 'count'"):
        tune.Tuner.restore(path, other)


def test_contradicting_wishes_are_refused(path: Path) -> None:
    begin(path)

    with pytest.raises(ConfigError, match="either goes on or begins anew"):
        tune.Tuner.restore(path, count, resume_errored=True, restart_errored=True)
    with pytest.raises(ConfigError, match=r"_resume_config=\{\}: expected a tune_core.ResumeConfig"):
        tune.Tuner.restore(path, count, _resume_config={})  # type: ignore[arg-type]


class Activation:
    """An object that JSON cannot hold."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"


def test_what_cannot_be_described_has_to_be_passed_again(path: Path) -> None:
    objects = [Activation("relu"), Activation("tanh")]
    space = {"x": 1, "act": tune.grid_search(objects)}
    begin(path, space)

    with pytest.raises(SpecError, match=r"param_space.act.*: pass param_space=… to Tuner.restore"):
        fit(tune.Tuner.restore(path, count))
    assert rows_of(tune.Tuner.restore(path, count).get_results()) == undisturbed(1, 1)
    results = fit(tune.Tuner.restore(path, count, param_space=space, num_samples=2))
    assert [result.config["act"] for result in results] == [*objects, *objects]  # type: ignore[index]


def test_a_trial_whose_objects_are_gone_does_not_go_on(every_event_is_a_segment: None, path: Path) -> None:
    begin(path, {"x": 1, "act": tune.grid_search([Activation("relu")])})
    copy = cut(path, TrialReported)

    with pytest.raises(
        SpecError, match=r"cannot go on: its config holds objects that JSON could not store, at act"
    ):
        fit(tune.Tuner.restore(copy, count, param_space={"x": 1, "act": 2}))


def test_a_trial_whose_reference_was_one_of_several_is_refused_with_advice(
    every_event_is_a_segment: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(path, {"x": 1, "data": tune.grid_search([ObjectRef(), ObjectRef()])})
    copy = cut(path, TrialReported)
    monkeypatch.setattr(references, "_PROCESS", "another")

    space = {"x": 1, "data": tune.grid_search([ObjectRef(), ObjectRef()])}
    with pytest.raises(SpecError, match=r"at data\..*references end with the process.*with_parameters"):
        fit(tune.Tuner.restore(copy, count, param_space=space))


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


class Remembering(tune.search.Searcher):
    """Suggests what follows from its state, which only `get_state` knows of."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.next = start

    def suggest(self, trial_id: str) -> Any:
        self.next += 1
        return {"x": self.next}

    def get_state(self) -> dict[str, Any]:
        return {"next": self.next}

    def set_state(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


def test_state_of_a_searcher_is_given_back_and_objects_in_it_are_refused(path: Path) -> None:
    tune_config = tune.TuneConfig(search_alg=Remembering(5), num_samples=1)
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    fit(tune.Tuner(count, tune_config=tune_config, run_config=run_config))

    assert rows_of(tune.Tuner.restore(path, count).get_results()) == undisturbed(6)
    restored = tune.Tuner.restore(
        path, count, tune_config=tune.TuneConfig(search_alg=Remembering(), num_samples=2)
    )
    results = fit(restored)

    assert [result.config for result in results] == [{"x": 6}, {"x": 7}]

    other = tune.TuneConfig(search_alg=Remembering(Activation("relu")))  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"Remembering.get_state\(\) returned .*: expected a dict of what JSON"
    ):
        fit(tune.Tuner(count, tune_config=other, run_config=tune.RunConfig(storage_path=str(path.parent))))


class Points(tune.search.Searcher):
    """Suggests its points one after the other, as searchers written for Ray Tune do; at first it has none yet."""

    def __init__(self, waits: int = 0) -> None:
        super().__init__()
        self.points, self.waits = [1, 2, 3, 4], waits

    def suggest(self, trial_id: str) -> Any:
        if self.waits:
            self.waits -= 1
            return None
        return {"x": self.points.pop(0)} if self.points else self.FINISHED


def test_points_of_a_searcher_that_knows_nothing_of_resumes_are_run_once(path: Path) -> None:
    def stops(config: dict[str, Any]) -> None:
        if config["x"] == 2 and not (path / "stopped").exists():
            (path / "stopped").touch()
            raise KeyboardInterrupt
        tune.report({"x": config["x"]})

    def search(searcher: Points) -> tune.TuneConfig:
        return tune.TuneConfig(search_alg=searcher, num_samples=9)

    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    used = Points()
    fit(tune.Tuner(stops, tune_config=search(used), run_config=run_config))

    results = fit(tune.Tuner.restore(path, stops, tune_config=search(Points())))

    assert [result.config for result in results] == [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 4}]


def test_searcher_that_is_tried_again_in_its_process_is_not_asked_twice(path: Path) -> None:
    searcher = Points()
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    options = {"tune_config": tune.TuneConfig(search_alg=searcher, num_samples=2)}
    fit(tune.Tuner(count, run_config=run_config, **options))  # type: ignore[arg-type]

    again = {"tune_config": tune.TuneConfig(search_alg=searcher, num_samples=3)}
    results = fit(tune.Tuner.restore(path, count, **again))  # type: ignore[arg-type]

    assert [result.config["x"] for result in results] == [1, 2, 3]


def test_searcher_that_suggests_otherwise_after_a_resume_is_named(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    fit(
        tune.Tuner(
            count, run_config=run_config, tune_config=tune.TuneConfig(search_alg=Points(), num_samples=2)
        )
    )
    other = Points()
    other.points = [8, 9, 5]

    results = fit(
        tune.Tuner.restore(path, count, tune_config=tune.TuneConfig(search_alg=other, num_samples=3))
    )

    assert caplog.text.count("Points, asked again for trial") == 1
    assert [result.config["x"] for result in results] == [1, 2, 5]


def test_searcher_of_another_class_begins_with_its_first_suggestion(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(path)
    other = tune.TuneConfig(search_alg=Points(), num_samples=3)

    results = fit(tune.Tuner.restore(path, count, param_space={}, tune_config=other))

    assert [result.config["x"] for result in results] == [1, 2, 1]
    assert "asked again" not in caplog.text


def test_searcher_that_has_nothing_at_first_is_asked_again(path: Path) -> None:
    tune_config = tune.TuneConfig(search_alg=Points(waits=3), num_samples=2)
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))

    results = fit(tune.Tuner(count, tune_config=tune_config, run_config=run_config))

    assert [result.config["x"] for result in results] == [1, 2]
    assert len(events(path, SearchRetried)) == 3


def test_long_texts_and_own_iterations_are_completed_too(path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(1, 7):
            tune.report({"note": "x" * 200_000, "training_iteration": 100 * step})

    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    (result,) = fit(tune.Tuner(train, run_config=run_config))
    file = Path(result.path, "result.json")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]))

    (again,) = fit(tune.Tuner.restore(path, train))

    assert [row["training_iteration"] for row in again.rows] == [100, 200, 300, 400, 500, 600]
    assert file.read_bytes() == b"".join(lines)


def test_arrays_in_configurations_do_not_stop_a_resume(path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    space = {"x": tune.grid_search([1, 2]), "weights": numpy.array([1.0, 2.0])}

    def train(config: dict[str, Any]) -> None:
        if tune.get_checkpoint() is None and config["x"] == 1:
            with tempfile.TemporaryDirectory() as directory:
                tune.report({"score": 1}, checkpoint=tune.Checkpoint.from_directory(directory))
            raise KeyboardInterrupt
        tune.report({"score": config["weights"].sum()})

    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    fit(tune.Tuner(train, param_space=space, run_config=run_config))

    results = fit(tune.Tuner.restore(path, train, param_space=space))

    assert [result.metrics["score"] for result in results] == [3.0, 3.0]


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


def test_state_of_another_kind_of_searcher_is_left_alone(path: Path) -> None:
    begin(path)
    other = tune.TuneConfig(search_alg=Remembering(7), num_samples=3)

    results = fit(tune.Tuner.restore(path, count, param_space={}, tune_config=other))

    assert [result.config["x"] for result in results] == [1, 2, 8]  # type: ignore[index]


def test_own_state_of_a_searcher_in_a_limiter_is_found() -> None:
    limited = tune.TuneConfig(search_alg=tune.search.ConcurrencyLimiter(Remembering(), max_concurrent=1))

    assert Policy(limited, None, {}, count, "count").has_own_state
    assert not Policy(tune.TuneConfig(), None, {}, count, "count").has_own_state
