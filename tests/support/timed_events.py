"""Events of an experiment, with the times at which they happen."""

from __future__ import annotations

from typing import Any

from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    Event,
    ExperimentStarted,
    TrialReported,
    TrialSuggested,
)
from tune_core.states import Decision, Outcome

RULES = {"experiment_id": "a1b2c", "max_failures": -1}


def tid(number: int) -> str:
    return f"a1b2c_{number:05d}"


def began(time: float = 100.0, capacity: int = 1) -> Event:
    return ExperimentStarted(time, capacity)


def suggested(number: int = 0, *, cpus: float = 1.0, gpus: float = 0.0) -> Event:
    bundles = {"bundles": [{"CPU": cpus}, {"GPU": gpus}] if gpus else [{"CPU": cpus}]}
    return TrialSuggested(
        100.0, tid(number), {"x": number}, f"{number}_x={number}", f"t{number}", "f", bundles
    )


def runs(time: float, number: int = 0, attempt_number: int = 1) -> Event:
    return AttemptStarted(time, tid(number), attempt_number, 4711, "host", "127.0.0.1")


def told(
    time: float,
    iteration: int,
    loss: Any,
    number: int = 0,
    attempt_number: int = 1,
    checkpoint: int | None = None,
    decision: Decision = Decision.CONTINUE,
) -> Event:
    return TrialReported(time, tid(number), attempt_number, iteration, {"loss": loss}, checkpoint, decision)


def over(
    time: float, outcome: Outcome = Outcome.COMPLETED, number: int = 0, attempt_number: int = 1
) -> Event:
    return AttemptEnded(
        time, tid(number), attempt_number, outcome, "ValueError: no" if outcome is Outcome.ERROR else None
    )
