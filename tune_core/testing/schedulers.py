"""Schedulers to test and to measure with; no experiment gains anything by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tune_core.schedulers import TrialScheduler
from tune_core.trial import Trial


class AnsweringScheduler(TrialScheduler):
    """Answers each report with CONTINUE, so that each report waits for its answer.

    `FIFOScheduler` decides the same, but nobody waits for it: the difference between the two is what
    a round trip from trial to experiment costs.

    Example:
        >>> AnsweringScheduler().always_continues
        False
        >>> str(AnsweringScheduler().on_trial_result([], None, {"loss": 1.5}))
        'CONTINUE'
    """

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return CONTINUE."""
        return self.CONTINUE
