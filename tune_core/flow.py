"""`experiment_flow`: named flows, for deployments of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tune_core.config.run_config import RunConfig, TuneConfig
from tune_core.resources import PlacementGroupFactory
from tune_core.results.result_grid import ResultGrid
from tune_core.runtime import load_runtime


def experiment_flow(
    name: str,
    trainable: Callable[..., Any] | str,
    *,
    param_space: Mapping[str, Any] | None = None,
    tune_config: TuneConfig | Mapping[str, Any] | None = None,
    run_config: RunConfig | Mapping[str, Any] | None = None,
    resources: PlacementGroupFactory | Mapping[str, Any] | None = None,
) -> Callable[..., ResultGrid]:
    """Return a Prefect flow that tunes one trainable, with a name and a form of its own in Prefect's UI.

    Called, it runs the experiment and returns its results. Deployed, by file (`flows/digits.py:digits`) or by module
    (`my_package.flows.digits`), its parameters are the form of an experiment with these values as defaults.

    Args:
        name: The flow's name in Prefect, such as "tune-digits".
        trainable: A function of the config, a class derived from `Trainable`, or an import string.
        param_space: The search space, as for `Tuner`.
        tune_config: How to search, as for `Tuner`.
        run_config: How to run, as for `Tuner`.
        resources: Bundles of each trial; None: what the trainable asks for, else 1 CPU.

    Returns:
        A `prefect.Flow`. It takes `param_space`, `tune_config`, `run_config` and `resources`, each in place of the
        default.

    Raises:
        ConfigError: A value cannot work, or is no plain value, which a form cannot hold: a function in the search
            space, a callback, a scheduler of your own. All of them are named.

    Example:
        >>> digits = experiment_flow(  # doctest: +SKIP
        ...     "tune-digits",
        ...     train,
        ...     param_space={"lr": tune.loguniform(1e-4, 1e-1)},
        ...     tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=8),
        ... )
        >>> digits.serve("nightly", cron="30 2 * * *")  # doctest: +SKIP
    """
    parts = {
        "param_space": param_space,
        "tune_config": tune_config,
        "run_config": run_config,
        "resources": resources,
    }
    return load_runtime().experiment_flow(name, trainable, **parts)
