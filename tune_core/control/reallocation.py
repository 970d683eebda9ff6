"""Which bundles trials get other than their trainable's: since the scheduler says so, or an attempt died.

Owns when that is refused, and what the log says then: a trial keeps what it has, and goes on. What is granted
becomes part of an event, so a replay does not come here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from tune_core.control.resources_after import enlarged, factors_after
from tune_core.errors import ConfigError
from tune_core.resources import PlacementGroupFactory, as_resources
from tune_core.schedulers import Reallocate
from tune_core.states import Outcome
from tune_core.trial import Trial

_logger = logging.getLogger("prefect.tune")


class Reallocation:
    """Grants other bundles to the next attempts of trials, or refuses them.

    Args:
        asker: Who asks for them, as messages name it.
        saves_on_request: Whether the trainable saves when it is told to pause.

    Attributes:
        shortfall: Says why the cluster can never give a trial such bundles; None: it can. A backend that knows
            the nodes sets its own; this one goes by the sums.
        total: What the cluster has of each resource; {}: that is not known.
    """

    def __init__(self, asker: str, *, saves_on_request: bool) -> None:
        self.shortfall: Callable[[PlacementGroupFactory], str | None] = self._shortfall_by_sums
        self.total: Mapping[str, float] = {}
        self._asker, self._saves_on_request = asker, saves_on_request
        self._refused: set[str] = set()

    def answer(
        self, trial: Trial, answer: Reallocate, result: Mapping[str, Any], checkpoint: int | None
    ) -> PlacementGroupFactory | None:
        """Return the bundles that a trial moves to; None: it goes on as it is.

        Args:
            trial: Who has reported.
            answer: What the scheduler wants.
            result: The report.
            checkpoint: Index of the checkpoint that came with it, if any.

        Raises:
            ConfigError: The answer holds no bundles.
        """
        wanted = as_resources(answer.resources, f"{self._asker}: Reallocate(resources=…): ")
        is_news = trial.next_resources is None and wanted != trial.resources
        if not is_news or result["training_iteration"] <= trial.reallocated_at:
            return None
        reason = self.shortfall(wanted)
        if reason is None and checkpoint is None and trial.start_point is None and not self._saves_on_request:
            reason = "it has never saved a checkpoint, so it would start over; report with checkpoint=…"
        if reason is not None:
            self._refuse(trial, wanted, reason)
            return None
        _logger.info("trial %s moves to %s at its next checkpoint (%s)", trial.trial_id, wanted, self._asker)
        return wanted

    def after_death(
        self, trial: Trial, rules: Mapping[str, Mapping[str, float]], outcome: Outcome, error: str | None
    ) -> PlacementGroupFactory | None:
        """Return the bundles that a trial is tried again with after an attempt ended so; None: they stay.

        Args:
            trial: Whose attempt ended.
            rules: `FailureConfig.resources_after`.
            outcome: How it ended.
            error: Its error, on one line.
        """
        factors = factors_after(rules, outcome, error)
        if not factors:
            return None
        before = trial.next_resources or trial.resources
        try:
            wanted = enlarged(before, factors)
        except ConfigError as fault:
            self._refuse(trial, before, str(fault))
            return None
        reason = self.shortfall(wanted)
        if reason is not None:
            self._refuse(trial, wanted, f"resources_after asks for more than there is: {reason}")
            return None
        _logger.info("trial %s gets %s if it is tried again: %s", trial.trial_id, wanted, error)
        return wanted

    def _refuse(self, trial: Trial, wanted: PlacementGroupFactory, reason: str) -> None:
        """Say, once for each trial and reason, that a trial keeps the bundles that it has."""
        text = f"trial {trial.trial_id} keeps {trial.resources} and does not get {wanted}: {reason}"
        if text not in self._refused:
            self._refused.add(text)
            _logger.warning("%s", text)

    def _shortfall_by_sums(self, resources: PlacementGroupFactory) -> str | None:
        for name, amount in resources.required_resources.items() if self.total else ():
            if amount > self.total.get(name, 0.0) + 1e-9:
                return f"{name}: {amount:g} needed in all, the cluster has {self.total.get(name, 0.0):g}"
        return None
