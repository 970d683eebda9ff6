"""Snapshots of experiments, to be drawn."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tune_core.logger.failures import Failure
from tune_core.ranking import Objective
from tune_core.states import Outcome
from tune_core.trial import Status
from tune_core.views.overview import AttemptRecord, ExperimentSnapshot, TrialRecord


def trial(number: int, best: float | None, config: Mapping[str, Any], **changes: Any) -> TrialRecord:
    curve = [] if best is None else [(step, best + 1 / step) for step in range(1, 11)]
    attempt = AttemptRecord(1, 10.0 * number, 10.0 * number + 8, Outcome.COMPLETED, {"CPU": 2.0, "GPU": 0.0})
    record = TrialRecord(
        trial_id=f"a1b2c_{number:05d}",
        number=number,
        name=f"train_a1b2c_{number:05d}",
        dirname=f"train_{number}",
        status=Status.TERMINATED,
        config=config,
        experiment_tag="",
        iterations=10,
        attempts=1,
        failures=0,
        error=None,
        score=best,
        scored_in=None if best is None else 10,
        best=best,
        best_iteration=None if best is None else 10,
        last=best,
        checkpoint="checkpoint_000009",
        seconds=8.0,
        used={"CPU": 16.0, "GPU": 0.0},
        curve=curve,
        timeline=[attempt],
    )
    return replace(record, **changes)


def snapshot(*trials: TrialRecord, **changes: Any) -> ExperimentSnapshot:
    values = [record.best for record in trials if record.best is not None]
    shown = ExperimentSnapshot(
        objective=Objective("loss", "min"),
        trials=trials,
        best_so_far=[(10.0 * place, value) for place, value in enumerate(values)],
        began_at=0.0,
        last_at=10.0 * len(trials),
        seconds=10.0 * len(trials),
        num_drivers=1,
        held={"CPU": 20.0 * len(trials), "GPU": 0.0},
        failures=[
            Failure(each.trial_id, each.dirname, each.error, 'Traceback …\n  File "/a|b.py", line 3, in f\n')
            for each in trials
            if each.error is not None
        ],
        has_ended=True,
        reason="every trial is finished",
    )
    return replace(shown, **changes)


def searched(count: int, seed: int = 1) -> ExperimentSnapshot:
    """Trials of which `lr` decides most, `act` some, and `noise` nothing."""
    chosen = random.Random(seed)
    trials = []
    for number in range(count):
        config = {
            "lr": 10 ** chosen.uniform(-6, -1),
            "act": chosen.choice(["relu", "tanh"]),
            "noise": chosen.uniform(0, 1),
            "fixed": 3,
        }
        best = (math.log10(config["lr"]) + 3) ** 2 + (0.5 if config["act"] == "tanh" else 0.0)
        trials.append(trial(number, best, config))
    return snapshot(*trials)
