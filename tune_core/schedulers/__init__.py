"""Schedulers: what decides, report by report, which trials go on."""

from tune_core.schedulers.asha import ASHAScheduler, AsyncHyperBandScheduler
from tune_core.schedulers.by_name import create_scheduler
from tune_core.schedulers.hb_bohb import HyperBandForBOHB
from tune_core.schedulers.hyperband import HyperBandScheduler
from tune_core.schedulers.median import MedianStoppingRule
from tune_core.schedulers.mo_asha import MultiObjectiveASHAScheduler
from tune_core.schedulers.optuna_pruner import OptunaPruner
from tune_core.schedulers.pb2 import PB2
from tune_core.schedulers.pbt import PopulationBasedTraining
from tune_core.schedulers.pbt_replay import PopulationBasedTrainingReplay
from tune_core.schedulers.resource_changing_scheduler import (
    ClusterView,
    DistributeResources,
    DistributeResourcesToTopJob,
    ResourceChangingScheduler,
)
from tune_core.schedulers.scheduler import Exploit, FIFOScheduler, Reallocate, TrialScheduler

__all__ = [
    "PB2",
    "ASHAScheduler",
    "AsyncHyperBandScheduler",
    "ClusterView",
    "DistributeResources",
    "DistributeResourcesToTopJob",
    "Exploit",
    "FIFOScheduler",
    "HyperBandForBOHB",
    "HyperBandScheduler",
    "MedianStoppingRule",
    "MultiObjectiveASHAScheduler",
    "OptunaPruner",
    "PopulationBasedTraining",
    "PopulationBasedTrainingReplay",
    "Reallocate",
    "ResourceChangingScheduler",
    "TrialScheduler",
    "create_scheduler",
]
