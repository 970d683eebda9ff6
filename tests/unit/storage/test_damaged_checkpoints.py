"""An attempt whose checkpoint is not what was committed: how it is noticed, said, and survived."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest

import tune_core as tune
from tests.support.directories import a_directory
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import an_attempt
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import AttemptEnded
from tune_core.control.segments import read_journal
from tune_core.errors import CheckpointCorrupted, CheckpointNotFound, ConfigError
from tune_core.results.result_grid import Result
from tune_core.states import Outcome
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.commit import COMMIT
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.replay import replay
from tune_core.training.execution import Ending, run_attempt

FILES = {"model.pt": b"weights" * 100, "optimizer/state.bin": b"\0\1\2" * 50}


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ExperimentStorage:
    url = str(tmp_path / "storage") if request.param == "local" else f"memory://{uuid4().hex}"
    return ExperimentStorage.open(url, "e")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return a_directory(tmp_path / "source", FILES)


@pytest.fixture
def run(storage: ExperimentStorage, source: Path, tmp_path: Path) -> Callable[..., Ending]:
    """Runs an attempt that starts from a checkpoint to which something was done."""
    storage.commit_checkpoint("t", source, index=3, attempt_number=1, iteration=9, rows=[], metrics={})

    def run_from(trainable: Any, harm: Callable[[ExperimentStorage], Any] = lambda _: None) -> Ending:
        harm(storage)
        changes = {"attempt_number": 2, "checkpoint": 3, "iteration": 9, "highest_index": 3}
        attempt = an_attempt(storage, **{"dirname": "t", "config": {}} | changes)
        return run_attempt(attempt, trainable, FakeUplink(), tmp_path / "work")

    return run_from


def load(config: dict[str, Any]) -> None:
    checkpoint = tune.get_checkpoint()
    assert checkpoint is not None
    with checkpoint.as_directory() as path:
        assert Path(path, "model.pt").read_bytes() == FILES["model.pt"]


class Loading(tune.Trainable):
    def step(self) -> dict[str, Any]:
        return {"done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    def load_checkpoint(self, checkpoint: Any) -> None:
        assert Path(checkpoint, "model.pt").read_bytes() == FILES["model.pt"]


PLACE = "t/checkpoint_000003"
HARMS = {
    "flipped byte": (lambda storage: storage.write(f"{PLACE}/model.pt", b"Weights" * 100), "with digest"),
    "cut file": (lambda storage: storage.write(f"{PLACE}/model.pt", b"weights" * 99), "found 693 bytes"),
    "missing file": (lambda storage: storage.delete(f"{PLACE}/optimizer/state.bin"), "found nothing"),
    "damaged marker": (lambda storage: storage.write(f"{PLACE}/{COMMIT}", b"{}"), "COMMIT.json is damaged"),
    "no marker": (lambda storage: storage.delete(f"{PLACE}/{COMMIT}"), "was never committed"),
    "nothing": (lambda storage: storage.delete(PLACE), "does not exist"),
}


@pytest.mark.parametrize("trainable", [load, Loading])
@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_noticed_when_the_attempt_loads_its_checkpoint(
    run: Callable[..., Ending], trainable: Any, harm: str
) -> None:
    do, text = HARMS[harm]

    ending = run(trainable, do)

    assert ending.outcome is Outcome.CORRUPTED
    assert ending.error is not None
    assert text in ending.error
    assert "checkpoint_000003" in ending.error
    assert (ending.retryable, ending.traceback != "") == (True, True)


def test_undamaged_checkpoint_is_loaded(run: Callable[..., Ending]) -> None:
    assert run(load).outcome is Outcome.COMPLETED


@pytest.mark.parametrize("harm", ["cut file", "missing file", "damaged marker", "no marker", "nothing"])
def test_what_a_listing_shows_is_noticed_even_if_nobody_loads_it(
    run: Callable[..., Ending], harm: str
) -> None:
    begun: list[str] = []

    ending = run(lambda config: begun.append("begun"), HARMS[harm][0])

    assert (ending.outcome, begun) == (Outcome.CORRUPTED, [])


def test_damage_that_the_trainable_wraps_is_recognised(run: Callable[..., Ending]) -> None:
    def wrapping(config: dict[str, Any]) -> None:
        try:
            load(config)
        except Exception as error:
            raise RuntimeError("cannot load") from error

    assert run(wrapping, HARMS["missing file"][0]).outcome is Outcome.CORRUPTED


def test_trainable_that_bears_the_damage_goes_on(
    run: Callable[..., Ending], storage: ExperimentStorage
) -> None:
    def bearing(config: dict[str, Any]) -> None:
        with pytest.raises(CheckpointCorrupted):
            load(config)

    expected = Outcome.CORRUPTED if storage.is_local else Outcome.COMPLETED  # locally, before it begins

    assert run(bearing, HARMS["flipped byte"][0]).outcome is expected


def test_damage_of_another_checkpoint_is_an_ordinary_error(
    run: Callable[..., Ending], storage: ExperimentStorage, source: Path
) -> None:
    storage.commit_checkpoint("other", source, index=3, attempt_number=1, iteration=9, rows=[], metrics={})
    storage.delete("other")

    def reading_another(config: dict[str, Any]) -> None:
        with storage.checkpoint("other", 3).as_directory():
            pass

    ending = run(reading_another)

    assert ending.outcome is Outcome.ERROR
    assert ending.error is not None
    assert ending.error.startswith("CheckpointNotFound")


def test_damage_after_something_newer_was_saved_is_an_ordinary_error(
    run: Callable[..., Ending], storage: ExperimentStorage, source: Path
) -> None:
    def reading_the_old_one(config: dict[str, Any]) -> None:
        start = tune.get_checkpoint()
        assert start is not None
        tune.report({}, checkpoint=Checkpoint.from_directory(source))
        storage.delete(PLACE)
        start.to_directory()

    assert run(reading_the_old_one).outcome is Outcome.ERROR


class TestCheck:
    def test_whole_checkpoint_passes(self, storage: ExperimentStorage, source: Path) -> None:
        storage.commit_checkpoint("t", source, index=0, attempt_number=1, iteration=1, rows=[], metrics={})

        storage.checkpoint("t", 0).check()

    def test_error_names_the_checkpoint_and_survives_pickling(
        self, storage: ExperimentStorage, source: Path
    ) -> None:
        import pickle

        storage.commit_checkpoint("t", source, index=0, attempt_number=1, iteration=1, rows=[], metrics={})
        storage.write("t/checkpoint_000000/model.pt", b"cut")
        checkpoint = storage.checkpoint("t", 0)

        with pytest.raises(
            CheckpointCorrupted, match=r"model\.pt: expected 700 bytes .* found 3 bytes"
        ) as caught:
            checkpoint.check()

        assert caught.value.path == checkpoint.path
        assert pickle.loads(pickle.dumps(caught.value)).path == checkpoint.path

    def test_plain_directory_is_no_committed_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointNotFound, match=r"has no COMMIT\.json"):
            Checkpoint.from_directory(tmp_path).check()


def test_damaged_markers_are_left_out_where_that_is_asked_for(
    storage: ExperimentStorage, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(3):
        storage.commit_checkpoint(
            "t", source, index=index, attempt_number=1, iteration=1, rows=[], metrics={}
        )
    storage.write(f"t/checkpoint_000001/{COMMIT}", b"{}")

    with pytest.raises(CheckpointCorrupted):
        storage.committed("t")
    assert [marker.index for marker in storage.committed("t", skip_damaged=True)] == [0, 2]
    assert "a checkpoint is left out" in caplog.text
    assert "checkpoint_000001" in caplog.text


@pytest.mark.parametrize("given", ["Previous", None, True, "ignore"])
def test_other_answers_to_damage_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="on_corrupted_checkpoint"):
        tune.FailureConfig(on_corrupted_checkpoint=given)


# Whole experiments.


class Faulty(tune.Trainable):
    """Breaks once, at its sixth step, after something was done to its latest checkpoints."""

    harms: ClassVar[list[Callable[[], None]]] = []

    def setup(self, config: dict[str, Any]) -> None:
        self.total = 0

    def step(self) -> dict[str, Any]:
        self.total += 1
        if self.iteration == 5 and self.harms:
            self.harms.pop()()
            raise OSError("the node breaks")
        return {"total": self.total}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "total").write_text(str(self.total))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.total = int(Path(checkpoint, "total").read_text())


@pytest.fixture
def experiment(storage: ExperimentStorage) -> Callable[..., tuple[Result, list[AttemptEnded]]]:
    """Runs an experiment of one trial that saves at each step; returns its result, and how attempts ended."""

    def run_with(
        num_damaged: int, failure_config: tune.FailureConfig, num_to_keep: int | None = None
    ) -> tuple[Result, list[AttemptEnded]]:
        def harm() -> None:
            [dirname] = [name for name in storage.list() if name.startswith("Faulty_")]
            for index in range(5 - num_damaged, 5):
                storage.write(f"{dirname}/checkpoint_{index:06d}/total", b"?")

        Faulty.harms.append(harm)
        tuner = tune.Tuner(
            Faulty,
            run_config=tune.RunConfig(
                name="e",
                storage_path=storage.url.removesuffix("/e"),
                stop={"training_iteration": 7},
                failure_config=failure_config,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=num_to_keep),
                verbose=0,
            ),
        )
        run = tuner.experiment()
        [result] = LocalRuntime().run(run)
        records = list(read_journal(storage))
        rules = run.rules(run.policy())
        assert isinstance(rules, ControllerConfig)
        replay(records, rules)
        return result, [event for event, _ in records if isinstance(event, AttemptEnded)]

    return run_with


@pytest.mark.parametrize("num_to_keep", [None, 3])
def test_trial_goes_on_from_the_newest_checkpoint_that_is_whole(
    experiment: Callable[..., tuple[Result, list[AttemptEnded]]], num_to_keep: int | None
) -> None:
    allowed = tune.FailureConfig(max_failures=1, on_corrupted_checkpoint="previous")

    result, ends = experiment(2, allowed, num_to_keep)

    assert [end.outcome for end in ends] == ["error", "corrupted", "corrupted", "stopped"]
    assert result.error is None
    assert result.metrics is not None
    assert (result.metrics["training_iteration"], result.metrics["total"]) == (7, 7)
    rows = [(row["training_iteration"], row["total"], row["attempt_number"]) for row in result.rows]
    assert rows == [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 4), (5, 5, 4), (6, 6, 4), (7, 7, 4)]
    for checkpoint, _ in result.best_checkpoints:
        checkpoint.check()


def test_trial_without_a_whole_checkpoint_fails_and_does_not_start_over(
    experiment: Callable[..., tuple[Result, list[AttemptEnded]]],
) -> None:
    allowed = tune.FailureConfig(max_failures=1, on_corrupted_checkpoint="previous")

    result, ends = experiment(5, allowed)

    assert [end.outcome for end in ends] == ["error", *["corrupted"] * 5]
    assert "checkpoint_000000" in str(result.error)


def test_damage_fails_the_trial_unless_more_is_allowed(
    experiment: Callable[..., tuple[Result, list[AttemptEnded]]],
) -> None:
    result, ends = experiment(1, tune.FailureConfig(max_failures=1))

    assert [end.outcome for end in ends] == ["error", "corrupted"]
    assert "on_corrupted_checkpoint='previous'" in str(result.error)
