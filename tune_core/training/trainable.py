"""What can be tuned: functions of the config, and classes derived from `Trainable`.

Owns the class API, which works without a Tuner too, and what makes a function fit to be run.
It never talks to a driver or a storage: `tune_core.training.execution` does that for both kinds.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any

import cloudpickle

from tune_core.errors import TrainableError
from tune_core.metrics import ORIGIN
from tune_core.resources import PlacementGroupFactory
from tune_core.storage.checkpoint import Checkpoint
from tune_core.training.autofill import Counters
from tune_core.trial import TOTALS
from tune_core.validation import shorten

logger = logging.getLogger(__name__)

#: Holds what `save_checkpoint` returned, if that was a dict; as Ray Tune names it.
DICT_CHECKPOINT = "_dict_checkpoint.pkl"
#: A `setup` that takes longer is worth a hint, in seconds; as Ray Tune.
SETUP_HINT_S = 10.0


@dataclass(frozen=True, slots=True)
class TrialPlace:
    """Which trial a trainable object serves, and where.

    Attributes:
        trial_id: The trial's id.
        trial_name: Its name.
        resources: The bundles that it was given.
        logdir: Its working directory on this node.
    """

    trial_id: str
    trial_name: str
    resources: PlacementGroupFactory
    logdir: str


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What `Trainable.save` returns and `Trainable.restore` takes.

    Attributes:
        checkpoint: The saved state.
        metrics: The latest result when it was saved; counters go on from it.
    """

    checkpoint: Checkpoint
    metrics: dict[str, Any] = field(default_factory=dict)


class Trainable:
    """Base of trainable classes: derive from it, and write `setup` and `step`.

    A Tuner makes one object for each attempt at a trial, in the process that runs it, and calls
    `step` until a result says `done` or something stops the trial; then it calls `cleanup`, once.
    With `TuneConfig(reuse_actors=True)` an object goes on to the next trial by `reset_config`.
    An object can be used without a Tuner: `train`, `save`, `restore`, `stop`.

    To be written by subclasses: `setup`, `step`, `save_checkpoint`, `load_checkpoint`,
    `reset_config`, `cleanup`, `log_result`, `default_resource_request`, `_export_model`.

    Args:
        config: The configuration; `setup` gets a copy. None: {}.
        storage: Where the Tuner runs it; pass it on if you override `__init__`. None: no Tuner does.

    Attributes:
        config: The configuration.

    Raises:
        Exception: Whatever `setup` raises, after `cleanup` was called.

    Example:
        >>> class Line(Trainable):
        ...     def setup(self, config):
        ...         self.x = 0
        ...     def step(self):
        ...         self.x += 1
        ...         return {"score": self.config["a"] * self.x}
        >>> line = Line({"a": 2})
        >>> line.train()["score"], line.train()["score"], line.iteration
        (2, 4, 2)
        >>> line.stop()

    Source: as Ray Tune 2.60. Differs: a `setup` that raises is followed by `cleanup`, since the process
        goes on; outside a Tuner the directory is made in the temporary one, when it is asked for.
    """

    def __init__(self, config: dict[str, Any] | None = None, storage: TrialPlace | None = None) -> None:
        self.config: dict[str, Any] = config or {}
        self._tune_place = storage
        self._tune_logdir: str | None = None
        self._tune_counters = Counters()
        self._tune_last_result: dict[str, Any] = {}
        self._tune_is_stopped = False
        self._tune_address, self._tune_hostname = _own_address(), socket.gethostname()
        started = time.monotonic()
        try:
            self.setup(copy.deepcopy(self.config))
        except BaseException:
            clean_up(self)
            raise
        took = time.monotonic() - started
        if took > SETUP_HINT_S:
            logger.info(
                "%s.setup took %.1f s; TuneConfig(reuse_actors=True) with a reset_config runs it only once",
                type(self).__name__,
                took,
            )

    # To be written by subclasses.

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare for training; called once, before the first `step`.

        Args:
            config: The configuration, as a copy.
        """

    def step(self) -> dict[str, Any]:
        """Train for one iteration; return its metrics.

        `done: True` among them ends the trial after this iteration, and `should_checkpoint: True`
        has it saved now. Must be written.
        """
        raise TrainableError(_not_written(type(self), "step", "train for one iteration and return metrics"))

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | str | None:
        """Write the state into a directory, or return it as a dict.

        Args:
            checkpoint_dir: An empty directory, removed after its upload.

        Returns:
            A dict, which `load_checkpoint` gets; or None, or `checkpoint_dir` itself, if the
            state was written there.
        """
        purpose = "write the state to a directory, or return it as a dict"
        raise TrainableError(_not_written(type(self), "save_checkpoint", purpose))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Take up a state that was saved.

        Args:
            checkpoint: The dict that `save_checkpoint` returned; or a directory, not the same one,
                with the files that it wrote. It is removed when this returns.
        """
        purpose = "take up what save_checkpoint saved"
        raise TrainableError(_not_written(type(self), "load_checkpoint", purpose))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare for another configuration, without another `setup`.

        `self.config` is the new one already. Used with `TuneConfig(reuse_actors=True)`.

        Args:
            new_config: The next trial's configuration.

        Returns:
            True if the object can go on. False, as here: a fresh one is made.
        """
        return False

    def cleanup(self) -> None:
        """Give up what `setup` has taken; called once, however the object ends."""

    def log_result(self, result: dict[str, Any]) -> None:
        """See each result, in the trial's process, with what was filled in; what is added to it is kept.

        Args:
            result: What `train` is about to return.
        """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        """Return the resources of a trial: a PlacementGroupFactory or a dict; None for the usual ones.

        `tune.with_resources` counts before it.

        Args:
            config: The trial's configuration.
        """
        return None

    @classmethod
    def resource_help(cls, config: dict[str, Any]) -> str:
        """Return a hint for users whose cluster cannot give a trial its resources: it ends that message."""
        return ""

    def _export_model(self, export_formats: list[str], export_dir: str) -> dict[str, str]:
        """Export the model; return the path per format that was written."""
        return {}

    # To be called.

    def train(self) -> dict[str, Any]:
        """Run one `step`; return its metrics with what Ray Tune fills in.

        The user's values win for `training_iteration`, `done`, `timesteps_total`, `episodes_total`,
        `time_this_iter_s` and `timestamp`; for every other key that is filled in they lose.

        Raises:
            TrainableError: `step` did not return a dict.
        """
        self._tune_counters.restart_clock()
        metrics = self.step()
        if not isinstance(metrics, Mapping):
            raise TrainableError(
                f"{type(self).__name__}.step() returned {shorten(metrics)} ({type(metrics).__name__}): it needs to "
                "return a dict of metrics, such as {'loss': 0.1}"
            )
        result = self._tune_counters.fill(metrics, keeps_timestamp=True)
        spent, timestamp = result["time_this_iter_s"], result["timestamp"]
        result.update(self.get_auto_filled_metrics(time_this_iter=spent, timestamp=timestamp))
        self._tune_last_result = result
        self.log_result(result)
        return result

    def train_buffered(self, buffer_time_s: float, max_buffer_length: int = 1000) -> list[dict[str, Any]]:
        """Call `train` for some time; return the results, at least one.

        It ends early with a result that says `done` or `should_checkpoint`.

        Args:
            buffer_time_s: After which time no further iteration is begun, in seconds.
            max_buffer_length: How many results at most, at least 1.
        """
        results: list[dict[str, Any]] = []
        until = time.monotonic() + buffer_time_s
        while not results or (len(results) < max_buffer_length and time.monotonic() < until):
            results.append(self.train())
            if results[-1].get("done") or results[-1].get("should_checkpoint"):
                break
        return results

    def save(self, checkpoint_dir: str | os.PathLike[str] | None = None) -> TrainingResult:
        """Save the state into a directory; return a reference to it, with the latest result.

        Args:
            checkpoint_dir: Where to; made if missing. None: a new temporary directory, which the
                caller removes.

        Raises:
            TrainableError: `save_checkpoint` is not written, or returned another path.
        """
        if checkpoint_dir is None:
            checkpoint_dir = tempfile.mkdtemp(prefix="checkpoint_tmp_")
        directory = str(checkpoint_dir)
        Path(directory).mkdir(parents=True, exist_ok=True)
        state: object = self.save_checkpoint(directory)
        if isinstance(state, Mapping):
            with Path(directory, DICT_CHECKPOINT).open("wb") as file:
                cloudpickle.dump(state, file)
        elif state is not None and not _is_path(state, directory):
            raise TrainableError(
                f"{type(self).__name__}.save_checkpoint({directory!r}) returned {shorten(state)}: expected a dict, "
                "None, or the directory that it was given: write the files there"
            )
        return TrainingResult(Checkpoint.from_directory(directory), dict(self._tune_last_result))

    def restore(self, checkpoint_path: str | Path | Checkpoint | TrainingResult) -> None:
        """Take up a state that was saved; counters go on from the result that it was saved with.

        With a bare path or Checkpoint they start at 0: counters are not in the directory.

        Args:
            checkpoint_path: What `save` returned, or where it saved.

        Raises:
            CheckpointNotFound: Nothing is there; a ValueError too.
            TrainableError: `load_checkpoint` is not written.
        """
        given: object = checkpoint_path
        if isinstance(given, (str, Path)):  # a Checkpoint looks like a path too, to say that it is none
            given = Checkpoint(given)
        if isinstance(given, Checkpoint):
            given = TrainingResult(given)
        if not isinstance(given, TrainingResult):
            raise TrainableError(
                f"restore({checkpoint_path!r}): expected what save() returned, a Checkpoint, or a directory"
            )
        with given.checkpoint.as_directory() as directory:
            state: Any = directory
            if (saved := Path(directory, DICT_CHECKPOINT)).is_file():
                with saved.open("rb") as file:
                    state = cloudpickle.load(file)
            self.load_checkpoint(state)
        metrics = given.metrics
        totals = {name: metrics[name] for name in TOTALS if isinstance(metrics.get(name), Real)}
        self._tune_counters.start_from(int(metrics.get("training_iteration") or 0), totals)
        self._tune_last_result = dict(metrics)

    def reset(self, new_config: dict[str, Any], storage: TrialPlace | None = None) -> bool:
        """Have the object serve another configuration, by `reset_config`; return whether it can.

        If it can, all counters are 0; else nothing but `config` and the trial's name has changed.

        Args:
            new_config: The configuration.
            storage: Where the Tuner runs the next trial; None: no Tuner does.
        """
        self.config = new_config
        self._tune_place, self._tune_logdir = storage, None
        if not self.reset_config(new_config):
            return False
        self._tune_counters.start_from(0, {})
        self._tune_last_result = {}
        return True

    def stop(self) -> None:
        """End the object: calls `cleanup`, unless that was done."""
        if not self._tune_is_stopped:
            self._tune_is_stopped = True
            self.cleanup()

    def export_model(
        self, export_formats: str | list[str], export_dir: str | os.PathLike[str] | None = None
    ) -> dict[str, str]:
        """Export the model by `_export_model`; return the path per format that was written.

        Args:
            export_formats: One format or several.
            export_dir: Where to; None: `logdir`.
        """
        formats = [export_formats] if isinstance(export_formats, str) else export_formats
        return self._export_model(formats, str(export_dir or self.logdir))

    def get_state(self) -> dict[str, Any]:
        """Return the counters and the latest result."""
        totals = self._tune_counters.totals
        return {
            "iteration": self.iteration,
            "timesteps_total": totals.get("timesteps_total"),
            "time_total": totals["time_total_s"],
            "episodes_total": totals.get("episodes_total"),
            "last_result": self._tune_last_result,
        }

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return self.config

    def get_auto_filled_metrics(
        self,
        now: datetime | None = None,
        time_this_iter: float | None = None,
        timestamp: float | None = None,
        debug_metrics_only: bool = False,
    ) -> dict[str, Any]:
        """Return what is filled in whatever the user returned.

        Args:
            now: The time; None: now.
            time_this_iter: How long the iteration took, in seconds.
            timestamp: Seconds since the epoch; None: those of `now`.
            debug_metrics_only: Only what says where, when and with which configuration.
        """
        now = now or datetime.now()
        here = self._tune_counters.since_restore
        filled = {
            "trial_id": self.trial_id,
            "date": now.strftime("%Y-%m-%d_%H-%M-%S"),
            "timestamp": timestamp or int(now.timestamp()),
            "time_this_iter_s": time_this_iter,
            "time_total_s": self._tune_counters.totals["time_total_s"],
            "pid": os.getpid(),
            "hostname": self._tune_hostname,
            "node_ip": self._tune_address,
            "config": self.config,
            "time_since_restore": here["time"],
            "iterations_since_restore": here["iterations"],
        }
        if here["timesteps"]:
            filled["timesteps_since_restore"] = here["timesteps"]
        if debug_metrics_only:
            return {name: value for name, value in filled.items() if name in (*ORIGIN, "timestamp")}
        return filled

    def get_current_ip_pid(self) -> tuple[str, int]:
        """Return the address of this node and the id of this process."""
        return self._tune_address, os.getpid()

    def is_actor(self) -> bool:
        """Return whether this runs in a Ray actor."""
        ray = _connected_ray()
        return ray is not None and ray.get_runtime_context().get_actor_id() is not None

    @property
    def logdir(self) -> str:
        """The trial's working directory; outside a Tuner a temporary one."""
        if self._tune_place is not None:
            return self._tune_place.logdir
        if self._tune_logdir is None:
            self._tune_logdir = tempfile.mkdtemp(prefix=f"{type(self).__name__}_")
        return self._tune_logdir

    @property
    def trial_name(self) -> str:
        """The trial's name; "default" outside a Tuner."""
        return self._tune_place.trial_name if self._tune_place else "default"

    @property
    def trial_id(self) -> str:
        """The trial's id; "default" outside a Tuner."""
        return self._tune_place.trial_id if self._tune_place else "default"

    @property
    def trial_resources(self) -> PlacementGroupFactory | None:
        """The bundles that the trial was given; None outside a Tuner."""
        return self._tune_place.resources if self._tune_place else None

    @property
    def iteration(self) -> int:
        """How often `train` has been called, by the objects that this one was restored from too."""
        return self._tune_counters.iteration

    @property
    def training_iteration(self) -> int:
        """The same as `iteration`."""
        return self._tune_counters.iteration


def clean_up(trainable: Trainable) -> None:
    """End an object; what its `cleanup` raises is logged, since the trial's outcome stands already."""
    try:
        trainable.stop()
    except (Exception, SystemExit):
        logger.warning("cleanup() of %s raised", type(trainable).__name__, exc_info=True)


def is_trainable_class(trainable: object) -> bool:
    """Return whether this is a class derived from `Trainable`."""
    return inspect.isclass(trainable) and issubclass(trainable, Trainable)


def hint_on_resources(trainable: Any, config: dict[str, Any]) -> str:
    """Return `resource_help` of a class, as the end of a message that says what a cluster lacks; "" of a function."""
    hint = str(trainable.resource_help(config)) if is_trainable_class(trainable) else ""
    return f". {trainable.__name__}.resource_help says: {hint}" if hint else ""


def is_written(trainable: object, name: str) -> bool:
    """Return whether a class has written a method of `Trainable` that subclasses may write.

    Example:
        >>> is_written(Trainable, "step")
        False
    """
    return getattr(trainable, name, None) is not getattr(Trainable, name)


def can_save(trainable: object) -> bool:
    """Return whether this is a trainable class that can save its state when it is told to."""
    return is_trainable_class(trainable) and is_written(trainable, "save_checkpoint")


def check_class(kind: type) -> None:
    """Make sure that objects of a class derived from `Trainable` can be made and trained.

    Raises:
        TrainableError: It has no `step`, or an `__init__` of another kind.
    """
    if not is_written(kind, "step"):
        raise TrainableError(_not_written(kind, "step", "train for one iteration and return metrics"))
    try:
        inspect.signature(kind).bind({}, None)
    except TypeError as error:
        raise TrainableError(
            f"{kind.__name__}.__init__{inspect.signature(kind)}: it is called with config and storage ({error}). "
            "Write `def __init__(self, config=None, storage=None):` and pass both on, or use setup(config)"
        ) from error


def check_signature(function: Callable[..., Any]) -> None:
    """Make sure that a training function can be called with the config alone.

    Raises:
        TrainableError: It takes no argument, or needs more than one.

    Source: as Ray Tune 2.60.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin without a signature: calling it will tell
    try:
        signature.bind({})
    except TypeError as error:
        raise TrainableError(
            f"{trainable_name(function)}{signature}: a Tuner calls its trainable with one argument, the config "
            f"({error}). Write `def {trainable_name(function)}(config):`; for more arguments use functools.partial"
        ) from error


def trainable_name(trainable: Any) -> str:
    """Return the name that trial directories and runs are called by.

    Example:
        >>> trainable_name(lambda config: None)
        'lambda'

    Source: as Ray Tune 2.60.
    """
    name = getattr(trainable, "_name", None) or getattr(trainable, "__name__", None)
    if isinstance(name, str):
        if name == "<lambda>":
            return "lambda"
        return "DEFAULT" if name.startswith("<") else name
    if isinstance(trainable, functools.partial):
        return trainable_name(trainable.func)
    return type(trainable).__name__ if callable(trainable) else "DEFAULT"


def _not_written(kind: type, method: str, purpose: str) -> str:
    return f"{kind.__name__} has no {method}(): a class derived from Trainable writes one, to {purpose}"


def _is_path(returned: object, directory: str) -> bool:
    return isinstance(returned, (str, Path)) and os.path.normpath(returned) == os.path.normpath(directory)


def _connected_ray() -> Any:
    """Ray, if this process is connected to a cluster; it is never imported for this."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None


def _own_address() -> str:
    ray = _connected_ray()
    return str(ray.util.get_node_ip_address()) if ray is not None else "127.0.0.1"
