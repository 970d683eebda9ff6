"""Schedulers: what decides, report by report, which trials go on."""

from tune_core.schedulers.scheduler import Exploit, FIFOScheduler, TrialScheduler

__all__ = ["Exploit", "FIFOScheduler", "TrialScheduler"]
