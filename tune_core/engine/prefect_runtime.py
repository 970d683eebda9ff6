"""The runtime that `Tuner.fit` finds: experiments are Prefect flow runs, their trials run on Ray."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import ray

from tune_core.config.run_config import RunConfig
from tune_core.control.experiment import Experiment, Identity
from tune_core.engine import cluster
from tune_core.engine.experiment import ExperimentFlow, experiment, own_identity, run_experiment
from tune_core.engine.named_flow import experiment_flow
from tune_core.engine.remote_object import hosted
from tune_core.results.result_grid import ResultGrid
from tune_core.runtime import RemoteObject


class PrefectRuntime:
    """Runs experiments as Prefect flow runs, their trials on Ray."""

    def run(self, live_experiment: Experiment) -> ResultGrid:
        """See `tune_core.runtime.Runtime`."""
        return run_experiment(live_experiment, experiment)

    def identity(self, name: str | None) -> Identity | None:
        """See `tune_core.runtime.Runtime`."""
        return own_identity(name)

    def experiment_flow(self, name: str, trainable: Callable[..., Any] | str, **parts: Any) -> ExperimentFlow:
        """See `tune_core.runtime.Runtime`."""
        return experiment_flow(name, trainable, **parts)

    def gpu_ids(self) -> list[int | str]:
        """See `tune_core.runtime.Runtime`."""
        return list(ray.get_gpu_ids()) if ray.is_initialized() else []

    def remote_object(
        self, kind: Callable[..., Any], *args: Any, num_gpus: float = 0
    ) -> AbstractContextManager[RemoteObject]:
        """See `tune_core.runtime.Runtime`; Ray is started if it is not there."""
        cluster.connect(RunConfig())
        return hosted(kind, *args, num_gpus=num_gpus)
