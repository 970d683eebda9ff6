"""Schedulers: what decides, report by report, which trials go on."""

from tune_core.schedulers.asha import ASHAScheduler, AsyncHyperBandScheduler
from tune_core.schedulers.by_name import create_scheduler
from tune_core.schedulers.median import MedianStoppingRule
from tune_core.schedulers.pb2 import PB2
from tune_core.schedulers.pbt import PopulationBasedTraining
from tune_core.schedulers.pbt_replay import PopulationBasedTrainingReplay
from tune_core.schedulers.scheduler import Exploit, FIFOScheduler, TrialScheduler

__all__ = [
    "PB2",
    "ASHAScheduler",
    "AsyncHyperBandScheduler",
    "Exploit",
    "FIFOScheduler",
    "MedianStoppingRule",
    "PopulationBasedTraining",
    "PopulationBasedTrainingReplay",
    "TrialScheduler",
    "create_scheduler",
]
