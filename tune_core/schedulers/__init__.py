"""Schedulers: what decides, report by report, which trials go on."""

from tune_core.schedulers.asha import ASHAScheduler, AsyncHyperBandScheduler
from tune_core.schedulers.by_name import create_scheduler
from tune_core.schedulers.median import MedianStoppingRule
from tune_core.schedulers.resource_changing_scheduler import (
    ClusterView,
    DistributeResources,
    DistributeResourcesToTopJob,
    ResourceChangingScheduler,
)
from tune_core.schedulers.scheduler import Exploit, FIFOScheduler, Reallocate, TrialScheduler

__all__ = [
    "ASHAScheduler",
    "AsyncHyperBandScheduler",
    "ClusterView",
    "DistributeResources",
    "DistributeResourcesToTopJob",
    "Exploit",
    "FIFOScheduler",
    "MedianStoppingRule",
    "Reallocate",
    "ResourceChangingScheduler",
    "TrialScheduler",
    "create_scheduler",
]
