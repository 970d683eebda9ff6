"""What people are told of why a trial was stopped."""

from __future__ import annotations

from typing import Any

import pytest

from tune_core.reasons import reason_text

AT_RUNG = {"rung": 4, "rank": 7, "of": 9, "cutoff": 0.83, "value": 0.79, "metric": "accuracy", "mode": "max"}


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ({}, ""),
        ({"decision": "STOP", "metric": "loss", "mode": "min"}, ""),
        (
            {"decision": "STOP", **AT_RUNG},
            "Stopped early: rung 4, rank 7 of 9, needed accuracy >= 0.83, had 0.79",
        ),
        (
            {"decision": "PAUSE", **AT_RUNG, "mode": "min", "bracket": 1},
            "Paused: bracket 1, rung 4, rank 7 of 9, needed accuracy <= 0.83, had 0.79",
        ),
        ({"decision": "PAUSE", "rung": 1, "rank": 1, "of": 1, "value": 0.5, "metric": "loss"},
         "Paused: rung 1, rank 1 of 1, had loss 0.5"),
        ({"decision": "STOP", "rule": "training_iteration >= 10"}, "Stopped: training_iteration >= 10"),
        ({"decision": "STOP", "stopper": "TrialPlateauStopper"}, "Stopped by TrialPlateauStopper"),
        ({"decision": "EXPLOIT", "donor": "a1b2c_00003", "rank": 4, "of": 4},
         "Exchanged: it goes on from trial a1b2c_00003, rank 4 of 4"),
        (
            {
                "decision": "STOP", "rung": 2.0, "rank": 3, "of": 4, "front": 2,
                "metric": ["error", "latency"], "mode": ["min", "min"], "value": [0.25, 12.0],
            },
            "Stopped early: rung 2, rank 3 of 4, front 2, had error 0.25, latency 12",
        ),
        ({"decision": "STOP", "pruner": "WilcoxonPruner", "step": 3}, "Stopped early: pruner WilcoxonPruner, step 3"),
        ({"decision": "STOP", "why": "two\nlines"}, "Stopped early: why two lines"),
        ({"decision": "STOP", "value": 1 / 3, "cutoff": 2.0}, "Stopped early: needed a value 2, had 0.333333"),
    ],
)  # fmt: skip
def test_a_reason_is_said_in_one_line(reason: dict[str, Any], said: str) -> None:
    assert reason_text(reason) == said
