"""The one seam to the engine that runs trials.

`tune_core` never imports Prefect or Ray: a `Runtime` is found by an import string when an
experiment is run. An `Experiment` is what a `Tuner` has validated and a runtime runs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tune_core.control.experiment import Experiment, Identity
from tune_core.results.result_grid import ResultGrid

#: `module:attribute` of the runtime that Prefect and Ray make up.
PREFECT_RUNTIME = "tune_core.engine.prefect_runtime:PrefectRuntime"


class RemoteObject(Protocol):
    """An object in a process of its own."""

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of it and return what that returns; what it raises is raised here."""


class Runtime(Protocol):
    """Runs experiments."""

    def run(self, experiment: Experiment) -> ResultGrid:
        """Run an experiment to its end; return its results in creation order of the trials."""

    def identity(self, name: str | None) -> Identity | None:
        """Return which run the calling code is part of; None if nothing could repeat it.

        Args:
            name: The experiment's, if it was given one.
        """

    def experiment_flow(
        self, name: str, trainable: Callable[..., Any] | str, **parts: Any
    ) -> Callable[..., ResultGrid]:
        """Return a flow that tunes one trainable; see `tune_core.experiment_flow`."""

    def gpu_ids(self) -> list[int | str]:
        """Return the GPUs that this process was given: indexes on its machine, or UUIDs."""

    def remote_object(
        self, kind: Callable[..., Any], *args: Any, num_gpus: float = 0
    ) -> AbstractContextManager[RemoteObject]:
        """Make `kind(*args)` in a process of its own, which ends with the context.

        Args:
            kind: Something that can be imported there.
            *args: Its arguments; they are pickled.
            num_gpus: GPUs of the process.
        """


def load_runtime(path: str = PREFECT_RUNTIME) -> Runtime:
    """Import a runtime by its import string.

    Raises:
        ImportError: It cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    module = importlib.import_module(module_name)
    runtime: Runtime = getattr(module, attribute)()
    return runtime
