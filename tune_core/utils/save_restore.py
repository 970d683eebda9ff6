"""Tries out whether one process can go on from what another has saved."""

from __future__ import annotations

import inspect
import pickle
import tempfile
from pathlib import Path
from typing import Any

import cloudpickle

from tune_core.errors import SaveRestoreError, TrainableError
from tune_core.runtime import load_runtime
from tune_core.storage.checkpoint import Checkpoint
from tune_core.training.serialization import PickledTrainable, pickle_trainable

_USED_METHODS = ("train", "save", "restore", "stop")


def validate_save_restore(
    trainable_cls: type, config: dict[str, Any] | None = None, num_gpus: float = 0
) -> bool:
    """Make sure that a class trainable goes on from its own checkpoint in another process; return True.

    One process trains three iterations and saves; a second one, on what may be another node,
    restores and trains two more, which must be the fourth and the fifth. The first is over
    before the second begins, and nothing but the checkpoint's files reaches it.

    Args:
        trainable_cls: A subclass of `Trainable`.
        config: What it is made with.
        num_gpus: GPUs of each process.

    Raises:
        TrainableError: It is no trainable class, or cannot be pickled.
        SaveRestoreError: An AssertionError: the second process counts on from elsewhere.

    Example:
        >>> validate_save_restore(MyTrainable, {"lr": 0.1})  # doctest: +SKIP
        True

    Source: as Ray Tune 2.60. Differs: Ray is started if it is not there; the processes run
        one after the other, so that GPUs for one are enough, and need no disk in common.
    """
    missing = [name for name in _USED_METHODS if not callable(getattr(trainable_cls, name, None))]
    if not inspect.isclass(trainable_cls) or missing:
        raise TrainableError(f"{trainable_cls!r} is no trainable class: give a subclass of tune.Trainable")
    pickled = pickle_trainable(trainable_cls)
    runtime = load_runtime()
    with runtime.remote_object(RemoteTrainable, pickled, config, num_gpus=num_gpus) as first:
        trained = [first.call("train") for _ in range(3)][-1]
        if not trained:
            raise SaveRestoreError(
                f"{trainable_cls.__name__}.train() returned no `training_iteration`, by which the second process "
                "is compared: do not take it out of the result"
            )
        saved: bytes = first.call("save")
        first.call("stop")
    with runtime.remote_object(RemoteTrainable, pickled, config, num_gpus=num_gpus) as second:
        second.call("restore", saved)
        for expected in (4, 5):
            trained = second.call("train")
            if trained != expected:
                raise SaveRestoreError(
                    f"{trainable_cls.__name__} was restored after 3 iterations, but its next one says "
                    f"training_iteration={trained!r}: {expected} was expected. A step() that sets "
                    "training_iteration itself has to save and load what it counts with"
                )
        second.call("stop")
    return True


class RemoteTrainable:
    """A trainable in a process of its own; what it saves travels as bytes.

    Args:
        pickled: The class.
        config: What it is made with.
    """

    def __init__(self, pickled: PickledTrainable, config: dict[str, Any] | None) -> None:
        self._trainable: Any = pickled.load()(config=config)

    def train(self) -> int | None:
        """Train one iteration; return its number."""
        iteration: int | None = self._trainable.train().get("training_iteration")
        return iteration

    def save(self) -> bytes:
        """Save; return the result of it, with the files of its checkpoint."""
        result = self._trainable.save()
        with result.checkpoint.as_directory() as directory:
            files = {
                path.relative_to(directory): path.read_bytes()
                for path in Path(directory).rglob("*")
                if path.is_file()
            }
        packed: bytes = cloudpickle.dumps((type(result), result.metrics, files))
        return packed

    def restore(self, packed: bytes) -> None:
        """Restore what another process saved; its files are gone afterwards."""
        kind, metrics, files = pickle.loads(packed)  # noqa: S301 - from our own process
        with tempfile.TemporaryDirectory(prefix="prefect-tune-") as directory:
            for name, content in files.items():
                path = Path(directory, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            checkpoint = Checkpoint.from_directory(directory)
            self._trainable.restore(kind(checkpoint=checkpoint, metrics=metrics))

    def stop(self) -> None:
        """End the trainable cleanly."""
        self._trainable.stop()
