"""What `tune.utils` offers."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

from tests.differential.case import Case, script
from tests.differential.scripts.class_api import counter, filer


@contextlib.contextmanager
def gpus(*looks: float) -> Iterator[list[float]]:
    """A GPUtil of two GPUs, the second of which has these parts of its memory in use; yields the naps."""
    left, naps = list(looks), []

    def look() -> list[Any]:
        used = left.pop(0) if len(left) > 1 else left[0]
        return [
            types.SimpleNamespace(id=0, uuid="GPU-aaaa", memoryUtil=1.0),
            types.SimpleNamespace(id=1, uuid="GPU-bbbb", memoryUtil=used),
        ]

    before, sleep = sys.modules.get("GPUtil"), time.sleep
    sys.modules["GPUtil"] = types.SimpleNamespace(getGPUs=look)  # type: ignore[assignment]
    time.sleep = naps.append  # type: ignore[assignment]
    try:
        yield naps
    finally:
        time.sleep = sleep
        del sys.modules["GPUtil"]
        if before is not None:
            sys.modules["GPUtil"] = before


@script("l")
def gpu_that_is_free(tune: Any, case: Case) -> Any:
    wait = tune.utils.wait_for_gpu
    with gpus(0.01):
        return [case.attempt(lambda gpu=gpu: wait(gpu)) for gpu in (1, "1", "GPU-bbbb")]


@script("l")
def gpu_that_becomes_free(tune: Any, case: Case) -> Any:
    with gpus(0.9, 0.9, 0.5, 0.0) as naps:
        return {"answer": tune.utils.wait_for_gpu(1, retry=9, delay_s=3) is True, "waited": min(naps) == 3}


@script("l", fails=True)
def gpu_that_is_not_to_be_had(tune: Any, case: Case) -> Any:
    wait = tune.utils.wait_for_gpu
    with gpus(0.5):
        told = {
            "busy": case.attempt(lambda: wait(1, retry=2, delay_s=1)),
            "busy, but less than the target": case.attempt(lambda: wait(1, target_util=0.5)),
            "unknown index": case.attempt(lambda: wait(7)),
            "unknown uuid": case.attempt(lambda: wait("GPU-cccc")),
            "other type": case.attempt(lambda: wait([1])),
            "float": case.attempt(lambda: wait(1.0)),
            "none given": case.attempt(wait),
        }
    sys.modules["GPUtil"] = None  # type: ignore[assignment]
    try:
        return told | {"no library": case.attempt(lambda: wait(1))}
    finally:
        del sys.modules["GPUtil"]


def printed(action: Any) -> tuple[Any, str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        answer = action()
    return answer, text.getvalue()


@script("l")
def diagnosis_of_what_can_be_pickled(tune: Any, case: Case) -> Any:
    answer, text = printed(lambda: tune.utils.diagnose_serialization(lambda config: None))
    return {
        "answer": answer is True,
        "begins": text.startswith("Trying to serialize "),
        "says": "Serialization succeeded!" in text,
    }


@script("l", fails=True)
def diagnosis_of_what_cannot(tune: Any, case: Case) -> Any:
    lock, other, size = threading.Lock(), threading.Event(), 3

    def train(config: dict[str, Any]) -> Any:
        return lock, other, size

    answer, text = printed(lambda: tune.utils.diagnose_serialization(train))
    return {
        "answer": answer,
        "says": [
            words in text for words in ("Serialization failed: ", "... FAILED", "... PASSED", "name='lock'")
        ],
    }


@script("l")
def save_and_restore_that_work(tune: Any, case: Case) -> Any:
    validate = tune.utils.validate_save_restore
    return {"dict": validate(counter(tune), config={"by": 2}), "file": validate(filer(tune))}


@script("l", fails=True)
def save_and_restore_that_do_not(tune: Any, case: Case) -> Any:
    class Forgets(counter(tune)):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            return {**super().step(), "training_iteration": self.count}

        def load_checkpoint(self, checkpoint: Any) -> None: ...

    class Fails(counter(tune)):  # type: ignore[misc]
        def load_checkpoint(self, checkpoint: Any) -> None:
            raise ValueError("made up")

    validate = tune.utils.validate_save_restore
    return {
        "forgets": case.attempt(lambda: validate(Forgets)),
        "fails": case.attempt(lambda: validate(Fails)),
    }


@script("l", fails=True)
def points_and_rewards_of_a_warm_start(tune: Any, case: Case) -> Any:
    validate = case.module("utils.util").validate_warmstart
    return {
        "fine": case.attempt(lambda: validate(["a", "b"], [{"a": 1, "b": 2}, [3, 4]], [1.0, 2.0])),
        "nothing": case.attempt(lambda: validate(["a"], [], [])),
        "no list": case.attempt(lambda: validate(["a"], {"a": 1}, [])),
        "no point": case.attempt(lambda: validate(["a"], [3], [])),
        "short point": case.attempt(lambda: validate(["a", "b"], [[1]], [])),
        "short point, not looked at": case.attempt(
            lambda: validate(["a", "b"], [[1]], [], validate_point_name_lengths=False)
        ),
        "rewards without points": case.attempt(lambda: validate(["a"], [], [1.0])),
        "rewards no list": case.attempt(lambda: validate(["a"], [[1]], 1.0)),
        "too many rewards": case.attempt(lambda: validate(["a"], [[1]], [1.0, 2.0])),
    }
