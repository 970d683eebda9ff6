"""Ray Tune's own functions in the process of a trial: they reach our session, or fail and say what to import.

A module that somebody forgot to change, or a callback of Ray's, calls `ray.tune.report`. Ray knows of no trial here: it
would warn once and drop the row, and the trial would end well without any. So these public functions are replaced,
in processes that run trials and nowhere else, as soon as the module that has them was imported. Nothing of it is
imported here. Without a trial in the process they do what Ray's do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from tune_core.engine.worker.import_hook import after_import
from tune_core.errors import TrainableError
from tune_core.storage.checkpoint import Checkpoint
from tune_core.training import context
from tune_core.training.session_binding import current_session
from tune_core.validation import ray_origin

#: What Ray's deprecated `ray.air.session` has of the context.
_OF_CONTEXT = (
    "get_experiment_name",
    "get_trial_name",
    "get_trial_id",
    "get_trial_resources",
    "get_trial_dir",
    "get_world_size",
    "get_world_rank",
    "get_local_rank",
    "get_local_world_size",
    "get_node_rank",
)
_ADVICE = (
    "This trial is run by prefect-tune: `import tune_core as tune`, and call {instead} "
    "(docs/migrating.md, 'Code that still imports ray.tune')"
)


@functools.cache  # once per process
def bridge() -> None:
    """Have Ray Tune's functions mean the trial that this process runs, from now on."""
    after_import("ray.tune", _bridge_functions, failed=_advise)
    after_import("ray.train", _bridge_train)
    after_import("ray.air.session", _bridge_air)


def _bridge_functions(module: ModuleType) -> None:
    for name, ours in (
        ("report", _report),
        ("get_checkpoint", context.get_checkpoint),
        ("get_context", context.get_context),
    ):
        _replace(module, name, ours)


def _bridge_air(module: ModuleType) -> None:
    _replace(module, "report", _report)
    _replace(module, "get_checkpoint", context.get_checkpoint)
    for name in _OF_CONTEXT:
        _replace(module, name, getattr(context.get_context(), name))


def _bridge_train(module: ModuleType) -> None:
    if not hasattr(module, "get_all_reported_checkpoints"):  # of version 1, whose functions work in trials
        _bridge_functions(module)
        return
    # Those of version 2 do not, in Ray Tune either; a Trainer that a trial starts may run workers in this process.
    for name in ("report", "get_checkpoint", "get_context"):
        _explain(module, name)


def _replace(module: ModuleType, name: str, ours: Callable[..., Any]) -> None:
    theirs = getattr(module, name)

    @functools.wraps(theirs)  # it is pickled by the name that theirs has
    def call(*args: Any, **kwargs: Any) -> Any:
        return (theirs if current_session() is None else ours)(*args, **kwargs)

    setattr(module, name, call)


def _explain(module: ModuleType, name: str) -> None:
    theirs = getattr(module, name)

    @functools.wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return theirs(*args, **kwargs)
        except RuntimeError as error:  # this is no process of Ray Train's
            if current_session() is None:
                raise
            raise TrainableError(
                f"ray.train.{name}: {error} " + _ADVICE.format(instead=f"tune.{name}")
            ) from error

    setattr(module, name, call)


def _report(metrics: Any, checkpoint: Any = None) -> None:
    if ray_origin(checkpoint) is not None:
        checkpoint = Checkpoint(checkpoint.path, filesystem=checkpoint.filesystem)
    context.report(metrics, checkpoint=checkpoint)


def _advise(error: ImportError) -> NoReturn:
    raise ImportError(f"{error} " + _ADVICE.format(instead="tune.report")) from error
