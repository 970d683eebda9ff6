"""Schedulers: what decides, report by report, which trials go on."""

from tune_core.schedulers.asha import ASHAScheduler, AsyncHyperBandScheduler
from tune_core.schedulers.by_name import create_scheduler
from tune_core.schedulers.hb_bohb import HyperBandForBOHB
from tune_core.schedulers.hyperband import HyperBandScheduler
from tune_core.schedulers.median import MedianStoppingRule
from tune_core.schedulers.scheduler import Exploit, FIFOScheduler, TrialScheduler

__all__ = [
    "ASHAScheduler",
    "AsyncHyperBandScheduler",
    "Exploit",
    "FIFOScheduler",
    "HyperBandForBOHB",
    "HyperBandScheduler",
    "MedianStoppingRule",
    "TrialScheduler",
    "create_scheduler",
]
