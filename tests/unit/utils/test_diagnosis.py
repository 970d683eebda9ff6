"""What `diagnose_serialization` prints and returns."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

import tune_core as tune


def of_closure() -> Callable[..., Any]:
    lock, other, size = threading.Lock(), threading.Lock(), 3

    def train(config: dict[str, Any]) -> Any:
        return lock, other, size

    return train


def takes_more(config: dict[str, Any], data: Any) -> None: ...


class WithLock:
    def __init__(self) -> None:
        self.lock, self.size = threading.Lock(), 3

    def __call__(self, config: dict[str, Any]) -> None: ...


class HidesItsState:
    def __call__(self, config: dict[str, Any]) -> None: ...

    def __reduce__(self) -> Any:
        raise TypeError("not today")


def with_class_attribute() -> type:
    class Model:
        lock = threading.Lock()

    return Model


def test_trainable_that_can_be_pickled_is_said_to_be_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.utils.diagnose_serialization(lambda config: None) is True

    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Trying to serialize <function ")
    assert printed[1] == "Serialization succeeded!"


def test_function_need_not_take_a_config() -> None:
    assert tune.utils.diagnose_serialization(lambda: None) is True


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (of_closure, {"lock", "other"}),
        (lambda: functools.partial(takes_more, data=threading.Lock()), {"data"}),
        (lambda: functools.partial(of_closure()), {"lock", "other"}),
        (WithLock, {"lock"}),
        (with_class_attribute, {"lock"}),
        (HidesItsState, set()),
    ],
)
def test_what_cannot_be_pickled_is_returned(make: Callable[[], Any], names: set[str]) -> None:
    assert tune.utils.diagnose_serialization(make()) == names


def test_each_variable_is_printed_with_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    tune.utils.diagnose_serialization(of_closure())

    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1].startswith("Serialization failed: the trainable ")
    assert lines[2] == "Detected 3 closure variables. Checking serializability..."
    assert "3[name='size']... PASSED" in lines
    assert sum(line.endswith("[name='lock']... FAILED") for line in lines) == 1
    assert "TypeError: cannot pickle '_thread.lock' object" in lines
    assert lines[-1].startswith("Variable(s) ['lock', 'other'] cannot be serialized.")


def test_culprit_that_is_out_of_sight_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    tune.utils.diagnose_serialization(HidesItsState())

    assert "Each variable can be serialized by itself" in capsys.readouterr().out
