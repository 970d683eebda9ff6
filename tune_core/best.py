"""Which checkpoint that is kept came with the best report."""

from __future__ import annotations

from collections.abc import Iterable

from tune_core.faults import is_number
from tune_core.metrics import lookup
from tune_core.trial import CheckpointRecord, Trial


class Best:
    """Compares checkpoints by the experiment's metric; without one, nothing is best.

    Args:
        metric: The metric.
        mode: "min" or "max".
    """

    def __init__(self, metric: str | None, mode: str | None) -> None:
        self.metric = metric
        self._sign = -1.0 if mode == "max" else 1.0

    def checkpoint(self, trials: Iterable[Trial]) -> tuple[float, Trial, CheckpointRecord] | None:
        """Return the best checkpoint of these trials, with its value and its trial; None if there is none."""
        if self.metric is None:
            return None
        kept = [
            (value, trial, record)
            for trial in trials
            for record in trial.usable_checkpoints
            if is_number(value := lookup(record.metrics, self.metric))
        ]
        return min(kept, key=lambda item: self._sign * item[0], default=None)

    def link(self, trials: Iterable[Trial], storage_url: str) -> tuple[str, str] | None:
        """Return the URL of the best checkpoint of these trials and a word on it; None if there is none."""
        found = self.checkpoint(trials)
        if found is None:
            return None
        best, trial, record = found
        text = f"trial {trial.trial_id}, iteration {record.iteration}, {self.metric} {best:g}"
        return f"{storage_url}/{trial.dirname}/{record.name}", text
