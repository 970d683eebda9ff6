"""The one seam to the engine that runs trials.

`tune_core` never imports Prefect or Ray: a `Runtime` is found by an import string when an
experiment is run. An `Experiment` is what a `Tuner` has validated and a runtime runs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tune_core.config import RunConfig, TuneConfig
from tune_core.errors import TuneError
from tune_core.results import ResultGrid
from tune_core.serialization import PickledTrainable
from tune_core.storage import ExperimentStorage

#: `module:attribute` of the runtime that Prefect and Ray make up.
PREFECT_RUNTIME = "flows.experiment:PrefectRuntime"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A validated experiment, ready to run.

    Attributes:
        name: Also its directory's name and its flow run's.
        experiment_id: Five hex digits in front of its trial ids.
        trainable: The training function.
        pickled: The same, for other processes.
        trainable_name: What trials are called after.
        param_space: The search space.
        tune_config: How to search.
        run_config: How to run.
        storage: Where everything is kept.
    """

    name: str
    experiment_id: str
    trainable: Callable[..., Any]
    pickled: PickledTrainable
    trainable_name: str
    param_space: dict[str, Any]
    tune_config: TuneConfig
    run_config: RunConfig
    storage: ExperimentStorage


class Runtime(Protocol):
    """Runs experiments."""

    def run(self, experiment: Experiment) -> ResultGrid:
        """Run an experiment to its end; return its results in creation order of the trials."""


def load_runtime(path: str = PREFECT_RUNTIME) -> Runtime:
    """Import a runtime by its import string.

    Raises:
        TuneError: It cannot be imported; if another package of the same name is in the way,
            the message names both.
    """
    module_name, _, attribute = path.partition(":")
    _refuse_shadow(module_name.partition(".")[0])
    module = importlib.import_module(module_name)
    runtime: Runtime = getattr(module, attribute)()
    return runtime


def _refuse_shadow(package: str) -> None:
    """`flows` is a common name: a user's own package of that name would be imported instead."""
    ours = Path(__file__).resolve().parent.parent / package
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise TuneError(f"the package {package!r} of prefect-tune is not installed: expected it at {ours}")
    found = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or "?"]]
    if ours not in found:
        raise TuneError(
            f"{found[0]} is imported as {package!r} and hides prefect-tune's own package at {ours}: "
            f"rename your package {package!r}, or do not put its parent directory on sys.path"
        )
