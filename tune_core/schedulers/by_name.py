"""Schedulers by the names that Ray Tune gives them."""

from __future__ import annotations

import inspect
from typing import Any

from tune_core.schedulers.asha import AsyncHyperBandScheduler
from tune_core.schedulers.hb_bohb import HyperBandForBOHB
from tune_core.schedulers.hyperband import HyperBandScheduler
from tune_core.schedulers.median import MedianStoppingRule
from tune_core.schedulers.mo_asha import MultiObjectiveASHAScheduler
from tune_core.schedulers.optuna_pruner import OptunaPruner
from tune_core.schedulers.pb2 import PB2
from tune_core.schedulers.pbt import PopulationBasedTraining
from tune_core.schedulers.pbt_replay import PopulationBasedTrainingReplay
from tune_core.schedulers.resource_changing_scheduler import (
    AllocationFunction,
    DistributeResources,
    DistributeResourcesToTopJob,
    ResourceChangingScheduler,
)
from tune_core.schedulers.scheduler import FIFOScheduler, TrialScheduler
from tune_core.validation import Validator, suggestion

_SCHEDULERS: dict[str, type[TrialScheduler]] = {
    "fifo": FIFOScheduler,
    "asha": AsyncHyperBandScheduler,
    "async_hyperband": AsyncHyperBandScheduler,
    "asynchyperband": AsyncHyperBandScheduler,
    "hyperband": HyperBandScheduler,
    "hb_bohb": HyperBandForBOHB,
    "median_stopping_rule": MedianStoppingRule,
    "medianstopping": MedianStoppingRule,
    "mo_asha": MultiObjectiveASHAScheduler,
    "optuna_pruner": OptunaPruner,
    "pbt": PopulationBasedTraining,
    "pb2": PB2,
    "pbt_replay": PopulationBasedTrainingReplay,
    "resource_changing": ResourceChangingScheduler,
}


def schedulers() -> dict[str, type[TrialScheduler]]:
    """Return the classes of schedulers by every name that they have.

    Example:
        >>> schedulers()["asha"].__name__
        'AsyncHyperBandScheduler'
    """
    return dict(_SCHEDULERS)


def base_schedulers() -> dict[str, type[TrialScheduler]]:
    """Return those that a scheduler around another one may have inside.

    Example:
        >>> "asha" in base_schedulers(), "resource_changing" in base_schedulers()
        (True, False)
    """
    return {name: kind for name, kind in schedulers().items() if kind is not ResourceChangingScheduler}


def allocation_functions() -> dict[str, type[AllocationFunction]]:
    """Return what `ResourceChangingScheduler` can allocate resources by, by name.

    Example:
        >>> list(allocation_functions())
        ['evenly', 'top_job']
    """
    return {"evenly": DistributeResources, "top_job": DistributeResourcesToTopJob}


def create_scheduler(scheduler: str, **kwargs: Any) -> TrialScheduler:
    """Return a new scheduler, by its name.

    Args:
        scheduler: A key of `schedulers()`, such as "fifo", "asha", "hyperband" or "median_stopping_rule"; in any case
            of letters.
        **kwargs: Its arguments. Those that only other schedulers know are left out, so that one
            set of them does for trying several.

    Raises:
        ConfigError: There is no scheduler of this name, or no scheduler knows an argument.

    Example:
        >>> create_scheduler("async_hyperband", max_t=10, hard_stop=False).debug_string().splitlines()[0]
        'Using AsyncHyperBand: num_stopped=0'

    Source: as Ray Tune 2.60. Differs: "asha", "mo_asha", "optuna_pruner"; an argument that no scheduler knows is
        refused.
    """
    validator = Validator("create_scheduler")
    kind = _SCHEDULERS.get(str(scheduler).lower())
    if kind is None:
        expected = f"expected one of {', '.join(map(repr, _SCHEDULERS))}"
        validator.add("scheduler", scheduler, expected + suggestion(scheduler, _SCHEDULERS))
    known = {name for each in _SCHEDULERS.values() for name in _arguments(each)}
    for name in kwargs.keys() - known:
        validator.add(name, kwargs[name], f"no scheduler has this argument{suggestion(name, known)}")
    validator.raise_any()
    assert kind is not None  # else a fault was found
    return kind(**{name: value for name, value in kwargs.items() if name in _arguments(kind)})


def _arguments(kind: type[TrialScheduler]) -> set[str]:
    return set(inspect.signature(kind).parameters)
