"""Attempts and sessions, with whatever storage and uplink a test has."""

from __future__ import annotations

from typing import Any

from tests.support.clocks import Ticks
from tune_core.resources import PlacementGroupFactory
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.attempt_spec import AttemptSpec
from tune_core.training.session import Session
from tune_core.training.uplink import Uplink

NOW = 1_700_000_000.75


def an_attempt(storage: ExperimentStorage, **changes: Any) -> AttemptSpec:
    """Return the first attempt at a trial, with changes."""
    values: dict[str, Any] = {
        "experiment_name": "experiment",
        "trial_id": "a1b2c_00000",
        "trial_name": "train_a1b2c_00000",
        "dirname": "trial_0",
        "attempt_number": 1,
        "config": {"lr": 0.1},
        "resources": PlacementGroupFactory([{"CPU": 2}]),
        "storage": storage,
    }
    return AttemptSpec(**values | changes)


def a_session(storage: ExperimentStorage, uplink: Uplink, **changes: Any) -> Session:
    """Return the session of such an attempt; it is NOW all the time, and each look at the clock takes a second."""
    return Session(an_attempt(storage, **changes), uplink, wall_clock=lambda: NOW, clock=Ticks())
