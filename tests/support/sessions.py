"""Sessions of an attempt, with whatever uplink a test has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune_core.resources import PlacementGroupFactory
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session import AttemptSpec, Session
from tune_core.training.uplink import Uplink


def a_session(uplink: Uplink, tmp_path: Path, **changes: Any) -> Session:
    """Return the session of the first attempt at a trial, with changes to its attempt."""
    arguments: dict[str, Any] = {
        "experiment_name": "e",
        "trial_id": "trial",
        "trial_name": "trial",
        "dirname": "trial",
        "attempt_number": 1,
        "config": {},
        "resources": PlacementGroupFactory([{"CPU": 1}]),
        "storage": ExperimentStorage.open(tmp_path / "storage", "e"),
    }
    return Session(AttemptSpec(**arguments | changes), uplink)
