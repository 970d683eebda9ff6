"""Schedulers: what decides, report by report, which trials go on."""

from tune_core.schedulers.create import create_scheduler
from tune_core.schedulers.scheduler import FIFOScheduler, TrialScheduler

__all__ = ["FIFOScheduler", "TrialScheduler", "create_scheduler"]
