"""What stoppers and callbacks have counted survives their driver, wherever that dies."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.clocks import Clock
from tune_core.callback import CallbackList
from tune_core.control import journal
from tune_core.control.experiment import Continuation
from tune_core.control.messages import TrialReported, WatchersSaved
from tune_core.control.segments import read_journal
from tune_core.control.watchers import Watchers, counted
from tune_core.errors import ConfigError
from tune_core.stopper import (
    CombinedStopper,
    FunctionStopper,
    MaximumIterationStopper,
    Stopper,
    TimeoutStopper,
)
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime

STEPS = 4


class Tally(tune.Callback):
    """Counts the reports it is told of, and remembers what it knew at its `setup`."""

    def __init__(self) -> None:
        self.rows, self.at_setup = 0, -1

    def setup(self, **info: Any) -> None:  # type: ignore[override]
        self.at_setup = self.rows

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        self.rows += 1

    def get_state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def set_state(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


class AfterAsked(Stopper):
    """Ends the experiment after it was asked a number of times: no report tells how often."""

    state_names = ("asked",)

    def __init__(self, limit: int) -> None:
        self.limit, self.asked, self.given = limit, 0, 0

    def stop_all(self) -> bool:
        self.asked += 1
        return self.asked >= self.limit

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.given = self.asked


class Shifted(MaximumIterationStopper):
    """Counts something beside the reports."""

    state_names = ("counts", "shift")
    shift = 0


def trainable(clock: Clock, steps: int = STEPS) -> Callable[[dict[str, Any]], None]:
    def train(config: dict[str, Any]) -> None:
        done = 0
        checkpoint = tune.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as directory:
                done = int(Path(directory, "step").read_text())
        for step in range(done + 1, steps + 1):
            clock.now += 10.0
            with tempfile.TemporaryDirectory() as directory:
                Path(directory, "step").write_text(str(step))
                tune.report({"step": step}, checkpoint=tune.Checkpoint.from_directory(directory))

    return train


def run_config(path: Path, **parts: Any) -> tune.RunConfig:
    return tune.RunConfig(name=path.name, storage_path=str(path.parent), **parts)


def events(path: Path) -> list[Any]:
    return [event for event, _ in read_journal(ExperimentStorage.open(str(path.parent), path.name))]


def cut(path: Path, segments: int) -> None:
    """Leave what there was when so many segments were written, and checkpoints of their reports."""
    for segment in sorted(path.glob("journal/*.jsonl"))[segments:]:
        segment.unlink()
    reports = [event for event in events(path) if isinstance(event, TrialReported)]
    for checkpoint in path.glob("*/checkpoint_*"):
        trial_id = re.search(r"_([0-9a-f]{5}_\d{5})_", checkpoint.parent.name)
        assert trial_id is not None
        if int(checkpoint.name[-6:]) >= sum(event.trial_id == trial_id[1] for event in reports):
            shutil.rmtree(checkpoint)


@pytest.fixture
def each_step_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FLUSH_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("each_step_is_written")
def test_callback_goes_on_from_what_it_knew_at_the_journals_last_event(tmp_path: Path) -> None:
    space = {"x": tune.grid_search([1, 2])}
    train = trainable(Clock())
    path = tmp_path / "whole"
    LocalRuntime().run(
        tune.Tuner(train, param_space=space, run_config=run_config(path, callbacks=[Tally()])).experiment()
    )
    segments = len(list(path.glob("journal/*.jsonl")))
    assert segments > 2 * STEPS

    for count in range(2, segments + 1):
        path = tmp_path / f"killed-{count}"
        first = tune.Tuner(train, param_space=space, run_config=run_config(path, callbacks=[Tally()]))
        LocalRuntime().run(first.experiment())
        cut(path, count)
        before = sum(isinstance(event, TrialReported) for event in events(path))
        tally = Tally()
        restored = tune.Tuner.restore(path, train, run_config=run_config(path, callbacks=[tally]))

        LocalRuntime().run(restored.experiment())

        told = sum(isinstance(event, TrialReported) for event in events(path))
        assert (tally.at_setup, tally.rows) == (before, told), f"killed after segment {count}"


@pytest.mark.usefixtures("each_step_is_written")
@pytest.mark.parametrize("parts", [1, 2])
def test_timeout_goes_on_with_the_time_that_was_left(tmp_path: Path, parts: int) -> None:
    def stop(clock: Clock) -> Any:
        timeout = TimeoutStopper(95, clock=clock)
        return timeout if parts == 1 else [MaximumIterationStopper(99), timeout]

    def run(path: Path, *, killed_after: int | None = None) -> int:
        clock = Clock()
        train = trainable(clock, steps=20)
        tuner = tune.Tuner(train, run_config=run_config(path, stop=stop(clock)))
        LocalRuntime().run(tuner.experiment())
        if killed_after is not None:
            cut(path, killed_after)
            clock = Clock()
            train = trainable(clock, steps=20)
            restored = tune.Tuner.restore(path, train, run_config=run_config(path, stop=stop(clock)))
            LocalRuntime().run(restored.experiment())
        return max(event.iteration for event in events(path) if isinstance(event, TrialReported))

    undisturbed = run(tmp_path / "whole")

    assert undisturbed == 10
    for segments in (4, 7, 9):
        assert run(tmp_path / f"killed-{segments}", killed_after=segments) == undisturbed


@pytest.mark.usefixtures("each_step_is_written")
def test_stopper_of_a_users_own_goes_on_too(tmp_path: Path) -> None:
    path, train = tmp_path / "own", trainable(Clock(), steps=20)
    LocalRuntime().run(tune.Tuner(train, run_config=run_config(path, stop=AfterAsked(9))).experiment())
    cut(path, 6)
    saved = [event.stoppers for event in events(path) if isinstance(event, WatchersSaved)]
    stopper = AfterAsked(9)

    restored = tune.Tuner.restore(path, train, run_config=run_config(path, stop=stopper))
    LocalRuntime().run(restored.experiment())

    assert saved[-1] == {"0 AfterAsked": {"asked": stopper.given}}
    assert stopper.given > 2
    assert max(event.iteration for event in events(path) if isinstance(event, TrialReported)) < 9


@pytest.mark.usefixtures("each_step_is_written")
def test_run_that_is_tried_again_in_its_process_counts_from_the_beginning(tmp_path: Path) -> None:
    path, tally, stopper = tmp_path / "again", Tally(), MaximumIterationStopper(6)
    config = run_config(path, callbacks=[tally], stop=stopper)
    experiment = tune.Tuner(trainable(Clock(), steps=20), run_config=config).experiment()
    LocalRuntime().run(experiment)
    cut(path, 4)
    before = sum(isinstance(event, TrialReported) for event in events(path))
    assert before < 6 == tally.rows

    LocalRuntime().run(replace(experiment, continuation=Continuation(is_retry=True)))

    assert stopper.counts == {f"{experiment.experiment_id}_00000": 6}
    assert (tally.at_setup, tally.rows) == (before, 6)


def test_nothing_is_journaled_of_what_follows_from_reports(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    stop = [MaximumIterationStopper(3), FunctionStopper(lambda trial_id, result: False)]

    LocalRuntime().run(tune.Tuner(trainable(Clock()), run_config=run_config(path, stop=stop)).experiment())

    assert not any(isinstance(event, WatchersSaved) for event in events(path))


def test_subclass_that_counts_more_is_journaled() -> None:
    assert not Watchers(MaximumIterationStopper(3), CallbackList(())).have_state
    assert Watchers(Shifted(3), CallbackList(())).have_state


def test_only_what_has_changed_is_news() -> None:
    tally, stopper = Tally(), AfterAsked(9)
    watchers = Watchers(stopper, CallbackList([tally]), wall_clock=lambda: 5.0)
    assert watchers.news() is None

    tally.rows += 1
    assert watchers.news() == WatchersSaved(5.0, None, {"0 Tally": {"rows": 1}})
    assert watchers.news() is None

    stopper.stop_all()
    assert watchers.news(of_stoppers=False) is None
    assert watchers.news() == WatchersSaved(5.0, {"0 AfterAsked": {"asked": 1}}, None)


def test_state_of_a_stopper_that_is_not_there_now_is_left_aside(caplog: pytest.LogCaptureFixture) -> None:
    timeout = TimeoutStopper(10)
    watchers = Watchers(CombinedStopper(timeout, AfterAsked(9)), CallbackList(()))

    watchers.replay(WatchersSaved(0.0, {"0.0 AfterAsked": {"asked": 4}, "0.1 AfterAsked": {"asked": 5}}))

    assert watchers.news() == WatchersSaved(
        pytest.approx(watchers._wall_clock(), abs=60),
        {  # type: ignore[arg-type]
            "0.0 TimeoutStopper": {"used_s": 0.0},
            "0.1 AfterAsked": {"asked": 5},
        },
    )
    assert "stopper 0.0 AfterAsked is not used" in caplog.text


def test_timeout_that_is_raised_goes_on_with_the_time_that_was_used() -> None:
    longer = TimeoutStopper(200, clock=Clock())

    Watchers(longer, CallbackList(())).replay(WatchersSaved(0.0, {"0 TimeoutStopper": {"used_s": 95.0}}))

    assert longer.remaining_s == 105.0


@pytest.mark.parametrize("state", [{"rows": object()}, [1]])
def test_state_that_json_cannot_hold_is_refused_before_anything_starts(tmp_path: Path, state: Any) -> None:
    tally = Tally()
    tally.get_state = lambda: state  # type: ignore[method-assign]
    tuner = tune.Tuner(trainable(Clock()), run_config=run_config(tmp_path / "no", callbacks=[tally]))

    with pytest.raises(ConfigError, match=r"Tally.get_state\(\) returned .*JSON can hold"):
        tuner.experiment()
    assert not (tmp_path / "no").exists()


def test_counted_has_what_follows_from_reports_too() -> None:
    stopper = MaximumIterationStopper(3)
    stopper("t0", {})

    assert counted(stopper, CallbackList([Tally()])) == (
        {"0 MaximumIterationStopper": {"counts": {"t0": 1}}},
        {"0 Tally": {"rows": 0}},
    )
