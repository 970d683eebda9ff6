"""What a trainable calls: `report`, `get_checkpoint`, `get_context`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tune_core.resources import PlacementGroupFactory
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session import Session
from tune_core.training.session_binding import current_session

T = TypeVar("T")


_warned: set[str] = set()


def _outside(name: str, default: T, stacklevel: int = 3) -> T:
    """Warn, once per process, that there is no session; return what the caller's caller gets."""
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"`{name}` is meant to be called inside a function that a Tuner runs. Returning `{default}`.",
            stacklevel=stacklevel,
        )
    return default


def report(metrics: Mapping[str, Any], *, checkpoint: Checkpoint | None = None) -> None:
    """Report metrics of one training iteration, and optionally a checkpoint.

    When this returns, the checkpoint is committed to the experiment's storage and the row is
    on its way to the driver; with `CheckpointConfig(async_upload=True)`, the directory is copied on
    this machine, and both follow. The call counts as one `training_iteration`. If a scheduler or
    a stop rule ends the trial, this call does not return: it raises `SystemExit`, so that
    `finally` blocks run.

    Args:
        metrics: A dict of metrics; nested dicts are fine. numpy scalars become numbers, names that are no
            strings `str(name)`, other objects their `repr`. NaN and infinities are kept.
        checkpoint: A directory to keep, by `Checkpoint.from_directory(path)`; it is uploaded
            before this call returns, so the directory may be removed afterwards.

    Raises:
        TypeError: `metrics` is no dict, or `checkpoint` no `Checkpoint`.
        InvalidMetric: A torch tensor is among the metrics, an integer larger than any float, something nested more
            than 100 levels deep, or an object that cannot be shown. No row is sent.
        CheckpointError: The checkpoint cannot be stored; no row is sent. With `async_upload` also: the one
            before could not be stored; its row was sent without it.
        MetricMissing: `TuneConfig(metric=…)` is not among the metrics; the row is kept.
        NotInTrial: It is called by a thread of a trial that has ended, or in a process that the trial has forked.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     for epoch in range(3):
        ...         tune.report({"loss": config["lr"] / (epoch + 1)})

    Source: as Ray Tune 2.60. Outside a trial, and inside a `Trainable` class, it warns once and does nothing.
    """
    session = current_session()
    if session is None:
        return _outside("report", None)
    if session.takes_reports:
        session.report(metrics, checkpoint)
    else:
        session.refuse("report", "return the metrics from step()")
    return None


def get_checkpoint() -> Checkpoint | None:
    """Return the newest committed checkpoint of this trial, to resume from.

    That is the one that this attempt was started from, until `report(checkpoint=…)` makes a newer one.

    Returns:
        None in a trial that has no checkpoint yet.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     checkpoint = tune.get_checkpoint()
        ...     if checkpoint:
        ...         with checkpoint.as_directory() as directory:
        ...             ...  # load from directory

    Source: as Ray Tune 2.60.
    """
    session = current_session()
    if session is None:
        return _outside("get_checkpoint", None)
    if not session.takes_reports:
        session.refuse("get_checkpoint", "load_checkpoint() is called with it")
        return None
    return session.checkpoint


class TuneContext:
    """Metadata of the running trial; get it with `get_context()`.

    Source: as Ray Tune 2.60; differs: `get_trial_dir` is always the trial's working directory.
    """

    def get_experiment_name(self) -> str | None:
        """Return the experiment's name; None outside a trial."""
        return self._of("get_experiment_name", lambda session: session.spec.experiment_name)

    def get_trial_name(self) -> str | None:
        """Return the trial's name, `<trainable>_<trial id>`; None outside a trial."""
        return self._of("get_trial_name", lambda session: session.spec.trial_name)

    def get_trial_id(self) -> str | None:
        """Return the trial's id; None outside a trial."""
        return self._of("get_trial_id", lambda session: session.spec.trial_id)

    def get_trial_resources(self) -> PlacementGroupFactory | None:
        """Return the bundles that this trial was given; None outside a trial."""
        return self._of("get_trial_resources", lambda session: session.spec.resources)

    def get_trial_dir(self) -> str | None:
        """Return the trial's working directory on this node; None outside a trial."""
        return self._of("get_trial_dir", lambda session: session.trial_dir)

    def get_storage(self) -> ExperimentStorage | None:
        """Return the experiment's storage; None outside a trial."""
        return self._of("get_storage", lambda session: session.spec.storage)

    def get_world_size(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 1 outside."""
        return self._rank("get_world_size", 1)

    def get_local_world_size(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 1 outside."""
        return self._rank("get_local_world_size", 1)

    def get_world_rank(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 0 outside."""
        return self._rank("get_world_rank", 0)

    def get_local_rank(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 0 outside."""
        return self._rank("get_local_rank", 0)

    def get_node_rank(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 0 outside."""
        return self._rank("get_node_rank", 0)

    def get_metadata(self) -> dict[str, Any]:
        """Raise: there is no metadata in Tune.

        Raises:
            DeprecationWarning: Always, as in Ray Tune 2.60; pass what is needed in the config.
        """
        raise DeprecationWarning("`get_metadata` is deprecated for Ray Tune: put the values into param_space")

    @staticmethod
    def _of(name: str, get: Callable[[Session], T]) -> T | None:
        session = current_session()
        return _outside(name, None, stacklevel=4) if session is None else get(session)

    @staticmethod
    def _rank(name: str, default: int) -> int | None:
        return _outside(name, default, stacklevel=4) if current_session() is None else None


_context = TuneContext()


def get_context() -> TuneContext:
    """Return the context object, from which a trainable reads its trial's id, name and directory.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     print(tune.get_context().get_trial_id())

    Source: as Ray Tune 2.60.
    """
    return _context
