"""What a process keeps between trials: which objects go on, and that each is cleaned up once."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

import tune_core as tune
from tests.support.fake_uplink import OnlyReports
from tests.support.sessions import an_attempt
from tune_core.resources import PlacementGroupFactory
from tune_core.states import Outcome
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training import trainable_cache as reuse_module
from tune_core.training.attempt_spec import ReuseRule
from tune_core.training.execution import Ending, run_attempt
from tune_core.training.trainable import TrialPlace
from tune_core.training.trainable_cache import Leftover, TrainableCache, open_part, resident_memory

RULE = ReuseRule("experiment 1")
PLACE = TrialPlace("a1b2c_00001", "Model_a1b2c_00001", PlacementGroupFactory([{"CPU": 1}]), "/work/trial_1")

calls: list[str] = []


class Fresh(tune.Trainable):
    """Notes what is called; has no reset_config."""

    def setup(self, config: dict[str, Any]) -> None:
        calls.append(f"setup {config.get('x')}")
        self.steps = 0
        if config.get("fails") == "setup":
            raise ValueError("made up")

    def step(self) -> dict[str, Any]:
        self.steps += 1
        if self.config.get("fails") == "step":
            raise ValueError("made up")
        return {"steps": self.steps, "x": self.config.get("x"), "cwd": str(Path.cwd()), "logdir": self.logdir}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps = checkpoint["steps"]

    def cleanup(self) -> None:
        calls.append("cleanup")


class Reused(Fresh):
    def reset_config(self, new_config: dict[str, Any]) -> Any:
        calls.append(f"reset {new_config.get('x')}")
        self.steps = 0
        answer = new_config.get("reset", True)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def nothing_called_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls.clear()
    monkeypatch.chdir(tmp_path)


Run = Callable[..., tuple[Ending, list[dict[str, Any]]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs one trial after the other in one process: returns how each ended, and its rows."""
    storage = ExperimentStorage.open(tmp_path / "storage", "experiment")
    numbers = iter(range(100))

    def run_one(
        trainables: TrainableCache,
        kind: Any,
        config: dict[str, Any],
        rule: ReuseRule | None = RULE,
        **changes: Any,
    ) -> tuple[Ending, list[dict[str, Any]]]:
        number, uplink = next(numbers), OnlyReports()
        values = {
            "trial_id": f"a1b2c_0000{number}",
            "dirname": f"trial_{number}",
            "config": config,
            "resources": PLACE.resources,
            "stop": {"steps": 2},
            "reuse": rule,
        }
        trainable = trainables.begin(rule, lambda: kind)
        attempt, directory = an_attempt(storage, **values | changes), tmp_path / f"work-{number}"
        ending = run_attempt(attempt, trainable, uplink, directory, trainables=trainables)
        return ending, uplink.rows

    return run_one


STOPPED = Ending(Outcome.STOPPED)
KEPT = Ending(Outcome.STOPPED, leaves=Leftover.OBJECT)


def test_object_serves_one_trial_after_the_other(run: Run, tmp_path: Path) -> None:
    trainables = TrainableCache()

    ended = [run(trainables, Reused, {"x": x}) for x in (1, 2, 3)]
    trainables.clean_up()
    trainables.clean_up()

    assert calls == ["setup 1", "reset 2", "reset 3", "cleanup"]
    assert [ending for ending, _ in ended] == [KEPT] * 3
    for number, (_, rows) in enumerate(ended):
        assert [(row["x"], row["steps"], row["training_iteration"]) for row in rows] == [
            (number + 1, 1, 1),
            (number + 1, 2, 2),
        ]
        directory = str(tmp_path / f"work-{number}")
        assert {(row["cwd"], row["logdir"]) for row in rows} == {(directory, directory)}


def test_nothing_is_kept_unless_asked_for(run: Run) -> None:
    trainables = TrainableCache()

    ended = [run(trainables, Reused, {"x": x}, None)[0] for x in (1, 2)]

    assert ended == [STOPPED] * 2
    assert calls == ["setup 1", "cleanup", "setup 2", "cleanup"]


def test_class_without_reset_config_gets_a_fresh_object_for_each_trial(run: Run) -> None:
    trainables = TrainableCache()

    ended = [run(trainables, Fresh, {"x": x})[0] for x in (1, 2)]

    assert ended == [STOPPED] * 2
    assert calls == ["setup 1", "cleanup", "setup 2", "cleanup"]


@pytest.mark.parametrize("answer", [False, None, 0, ValueError("no"), SystemExit(1)], ids=repr)
def test_object_that_cannot_be_reset_is_replaced(answer: Any, run: Run) -> None:
    trainables = TrainableCache()
    run(trainables, Reused, {"x": 1})

    ending, rows = run(trainables, Reused, {"x": 2, "reset": answer})

    assert ending == KEPT
    assert [row["x"] for row in rows] == [2, 2]
    assert calls == ["setup 1", "reset 2", "cleanup", "setup 2"]


def test_interrupt_in_reset_config_ends_the_attempt(run: Run) -> None:
    trainables = TrainableCache()
    run(trainables, Reused, {"x": 1})

    ending, _ = run(trainables, Reused, {"x": 2, "reset": KeyboardInterrupt()})

    assert (ending.outcome, ending.error) == (Outcome.ERROR, "KeyboardInterrupt")


@pytest.mark.parametrize("where", ["setup", "step"])
def test_failed_object_is_never_reused(where: str, run: Run) -> None:
    trainables = TrainableCache()

    failed, _ = run(trainables, Reused, {"x": 1, "fails": where})
    after, _ = run(trainables, Reused, {"x": 2})

    assert (failed.outcome, failed.leaves) == (Outcome.ERROR, Leftover.NOTHING)
    assert after == KEPT
    assert calls == ["setup 1", "cleanup", "setup 2"]


def test_reused_object_takes_up_the_next_trials_checkpoint(run: Run) -> None:
    trainables = TrainableCache()
    run(trainables, Reused, {"x": 1}, checkpoint_frequency=1)

    ending, rows = run(
        trainables,
        Reused,
        {"x": 1},
        dirname="trial_0",
        attempt_number=2,
        checkpoint=0,
        iteration=1,
        highest_index=1,
        totals={"time_total_s": 50.0},
    )

    assert ending == KEPT
    assert [(row["steps"], row["training_iteration"], row["iterations_since_restore"]) for row in rows] == [
        (2, 2, 1)
    ]
    assert rows[0]["time_total_s"] > 50
    assert calls == ["setup 1", "reset 1"]


def test_object_of_another_experiment_is_cleaned_up_first(run: Run) -> None:
    trainables = TrainableCache()
    run(trainables, Reused, {"x": 1})

    run(trainables, Reused, {"x": 2}, ReuseRule("experiment 2"))
    run(trainables, Reused, {"x": 3}, None)

    assert calls == ["setup 1", "cleanup", "setup 2", "cleanup", "setup 3", "cleanup"]


# Functions.


def test_function_is_loaded_once_and_again_after_it_failed() -> None:
    trainables, loads = TrainableCache(), []

    def load() -> Any:
        loads.append("load")
        return print

    for has_failed in (False, False, True, False):
        assert trainables.begin(RULE, load) is print
        assert trainables.end(has_failed=has_failed) is Leftover.NOTHING
    trainables.begin(None, load)
    trainables.end(has_failed=False)
    trainables.begin(None, load)

    assert len(loads) == 2 + 2, "with a rule at first and after the failure; without one always"


def test_trainable_that_cannot_be_loaded_is_not_kept() -> None:
    trainables = TrainableCache()

    def fail() -> Any:
        raise ImportError("no such module")

    with pytest.raises(ImportError):
        trainables.begin(RULE, fail)

    assert trainables.begin(RULE, lambda: print) is print


def test_state_of_a_callable_object_goes_on(run: Run) -> None:
    class Counting:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
            self.calls += 1
            return {"calls": self.calls}

    trainables = TrainableCache()
    rows = [row for _ in range(3) for row in run(trainables, Counting(), {})[1]]

    assert [row["calls"] for row in rows] == [1, 2, 3]


# Limits.


def test_process_is_worn_after_so_many_reuses(run: Run) -> None:
    trainables, rule = TrainableCache(), ReuseRule("experiment 1", max_reuses=2)

    ended = [run(trainables, Reused, {"x": x}, rule)[0].leaves for x in (1, 2, 3)]

    assert ended == [Leftover.OBJECT, Leftover.OBJECT, Leftover.EXHAUSTED]
    assert calls == ["setup 1", "reset 2", "reset 3", "cleanup"], "cleaned up while its trial is still there"


def test_process_is_worn_when_it_holds_too_much(run: Run) -> None:
    held = iter([10, 100, 101])
    trainables, rule = TrainableCache(lambda: next(held)), ReuseRule("experiment 1", max_memory=100)

    ended = [run(trainables, Reused, {"x": x}, rule)[0].leaves for x in (1, 2, 3)]

    assert ended == [Leftover.OBJECT, Leftover.OBJECT, Leftover.EXHAUSTED]


@pytest.mark.parametrize("kind", [Fresh, lambda config: None])
def test_what_keeps_no_object_wears_its_process_out_too(kind: Any, run: Run) -> None:
    trainables, rule = TrainableCache(), ReuseRule("experiment 1", max_reuses=1)

    ended = [run(trainables, kind, {"x": x}, rule)[0].leaves for x in (1, 2)]

    assert ended == [Leftover.NOTHING, Leftover.EXHAUSTED]


def test_failed_trials_count_as_uses(run: Run) -> None:
    trainables, rule = TrainableCache(), ReuseRule("experiment 1", max_reuses=1)

    ended = [run(trainables, Reused, {"x": x, "fails": "step"}, rule)[0].leaves for x in (1, 2)]

    assert ended == [Leftover.NOTHING, Leftover.EXHAUSTED]


def test_memory_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**20 < resident_memory() < 2**36

    monkeypatch.setattr(
        reuse_module.Path, "read_text", lambda self: (_ for _ in ()).throw(FileNotFoundError())
    )
    assert 2**20 < resident_memory() < 2**36


def test_process_with_half_of_its_descriptors_open_is_worn_whatever_it_may_keep() -> None:
    for rule in (None, RULE):
        for part, expected in ((0.4, Leftover.NOTHING), (0.6, Leftover.EXHAUSTED)):
            trainables = TrainableCache(descriptors=lambda part=part: part)  # type: ignore[misc]
            trainables.begin(rule, lambda: print)

            assert trainables.end(has_failed=False) == expected


def test_open_descriptors_are_counted_against_the_limit_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = open_part()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(Path(os.devnull).open())
        assert open_part() - before == pytest.approx(100 / limit)

    def full(self: Path) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "iterdir", full)
    assert open_part() == 1.0


@pytest.mark.parametrize(
    ("limit", "expected"), [(50, Leftover.EXHAUSTED), (51, Leftover.NOTHING), (None, Leftover.NOTHING)]
)
def test_process_is_worn_once_it_has_grown_by_more_than_the_limit(
    limit: int | None, expected: Leftover
) -> None:
    held = iter([100, 150, 151])
    trainables = TrainableCache(lambda: next(held))
    ends = []
    for _ in range(2):
        trainables.begin(None, lambda: print, max_growth=limit)
        ends.append(trainables.end(has_failed=False))

    assert ends == [Leftover.NOTHING, expected]
