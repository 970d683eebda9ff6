"""`validate_save_restore`: what is compared, and what reaches the second process."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tune_core as tune
from tune_core.errors import TrainableError
from tune_core.utils import save_restore


@dataclass
class Saved:
    checkpoint: tune.Checkpoint
    metrics: dict[str, Any]


class Counts:
    """The methods that are used of a Trainable, saving a file in a directory."""

    restored_from = None

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.config, self.iteration, self.weight = config or {}, 0, 0

    def train(self) -> dict[str, Any]:
        self.iteration += 1
        self.weight += self.config.get("step", 1)
        return {"training_iteration": self.iteration}

    def save(self) -> Saved:
        directory = Path(tempfile.mkdtemp())
        (directory / "deep").mkdir()
        (directory / "deep" / "weight").write_text(str(self.weight))
        return Saved(tune.Checkpoint.from_directory(directory), {"training_iteration": self.iteration})

    def restore(self, saved: Saved) -> None:
        self.iteration = saved.metrics["training_iteration"]
        with saved.checkpoint.as_directory() as directory:
            self.weight = int(Path(directory, "deep", "weight").read_text())

    def stop(self) -> None: ...


class ForgetsIteration(Counts):
    def restore(self, saved: Saved) -> None: ...


class SaysNothing(Counts):
    def train(self) -> dict[str, Any]:
        return {}


class Breaks(Counts):
    def restore(self, saved: Saved) -> None:
        raise KeyError("weights")


class FakeRuntime:
    """Keeps the processes' objects here; arguments and results are pickled on the way."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []
        self.objects: list[Any] = []
        self.gpus: list[float] = []
        self.alive = 0

    @contextmanager
    def remote_object(self, kind: Callable[..., Any], *args: Any, num_gpus: float) -> Iterator[Any]:
        assert not self.alive
        self.gpus.append(num_gpus)
        number, made = len(self.objects), kind(*pickle.loads(pickle.dumps(args)))
        self.objects.append(made)

        def call(method: str, *arguments: Any) -> Any:
            self.calls.append((number, method))
            result = getattr(made, method)(*pickle.loads(pickle.dumps(arguments)))
            return pickle.loads(pickle.dumps(result))

        self.alive += 1
        yield SimpleNamespace(call=call)
        self.alive -= 1


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setattr(save_restore, "load_runtime", lambda: fake)
    return fake


def test_trainable_that_goes_on_in_another_process_is_valid(runtime: FakeRuntime) -> None:
    assert tune.utils.validate_save_restore(Counts, {"step": 10}, num_gpus=2) is True

    assert runtime.calls == [
        *[(0, "train")] * 3,
        *[(0, "save"), (0, "stop")],
        *[(1, "restore"), (1, "train"), (1, "train"), (1, "stop")],
    ]
    assert runtime.objects[1]._trainable.weight == 50
    assert runtime.gpus == [2, 2]


def test_trainable_that_begins_anew_is_not(runtime: FakeRuntime) -> None:
    with pytest.raises(AssertionError, match=r"ForgetsIteration was restored after 3 .* 4 was expected"):
        tune.utils.validate_save_restore(ForgetsIteration)


def test_trainable_that_does_not_count_is_not(runtime: FakeRuntime) -> None:
    with pytest.raises(AssertionError, match=r"SaysNothing.train\(\) returned no `training_iteration`"):
        tune.utils.validate_save_restore(SaysNothing)


def test_what_the_trainable_raises_is_raised(runtime: FakeRuntime) -> None:
    with pytest.raises(KeyError, match=r"weights"):
        tune.utils.validate_save_restore(Breaks)


@pytest.mark.parametrize("given", [lambda config: None, Counts(), dict, None])
def test_anything_but_a_trainable_class_is_refused(runtime: FakeRuntime, given: Any) -> None:
    with pytest.raises(TrainableError, match=r"is no trainable class: give a subclass of tune.Trainable"):
        tune.utils.validate_save_restore(given)
    assert not runtime.objects
