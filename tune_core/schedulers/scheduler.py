"""What may answer a report with other than CONTINUE: the interface, and first in, first out.

A view goes in, a decision comes out: a scheduler reads trials and rows, keeps what it needs to
know, and returns a decision. It never holds the controller, starts or stops anything, or
changes what it reads; so its past can be replayed and it can be tested as a function.
"""

# ruff: noqa: B027 - hooks do nothing until they are overridden, and need not be
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from tune_core.messages import Decision
from tune_core.trial import Trial


class TrialScheduler(ABC):
    """Decides, report by report, which trials go on.

    `trials` holds every trial so far, in creation order. It and `trial` are for reading; `trial`
    does not know yet of the report that is being decided on. Every report of a running trial
    is decided on; each trial ends with exactly one `on_trial_complete`, `on_trial_error` or
    `on_trial_remove`.

    Attributes:
        metric: What to optimise; None until it is known.
        mode: "min" or "max"; None until it is known.

    Example:
        >>> class StopAboveOne(TrialScheduler):
        ...     def on_trial_result(self, trials, trial, result):
        ...         return self.STOP if result[self.metric] > 1 else self.CONTINUE
        >>> scheduler = StopAboveOne()
        >>> scheduler.set_search_properties("loss", "min")
        True
        >>> str(scheduler.on_trial_result([], None, {"loss": 1.5}))
        'STOP'

    Source: the hooks of Ray Tune 2.60. Differs: they are given the trials instead of the
        controller, which they would have to drive; only `on_trial_result` must be there; a
        metric may be given twice if it is the same.
    """

    #: Train on.
    CONTINUE: ClassVar[str] = Decision.CONTINUE
    #: Stop now; go on later, from the last checkpoint.
    PAUSE: ClassVar[str] = Decision.PAUSE
    #: Stop for good.
    STOP: ClassVar[str] = Decision.STOP

    #: Whether every answer is CONTINUE, whatever is reported: then no report waits for it.
    always_continues: ClassVar[bool] = False

    metric: str | None = None
    mode: str | None = None

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take over what `TuneConfig` says to optimise.

        Args:
            metric: None if `TuneConfig` does not say.
            mode: The same.
            **spec: What later versions tell in addition.

        Returns:
            False if the scheduler was given another metric or mode already: nothing is taken over.
        """
        if metric and self.metric not in (None, metric):
            return False
        if mode and self.mode not in (None, mode):
            return False
        self.metric = metric or self.metric
        self.mode = mode or self.mode
        return True

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Learn of a new trial, before it starts."""

    @abstractmethod
    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Decide on a report.

        Args:
            trials: All trials.
            trial: Whose report it is.
            result: The report with every auto-filled key.

        Returns:
            CONTINUE, PAUSE or STOP.
        """

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Learn that a trial is over; `result` is its last report, {} if there was none."""

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Learn that a trial has failed for good."""

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Learn that a trial that was not running will never run again."""


class FIFOScheduler(TrialScheduler):
    """Lets every trial run to its own end, in the order of their creation.

    Example:
        >>> FIFOScheduler().always_continues
        True

    Source: as Ray Tune 2.60.
    """

    always_continues = True

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return CONTINUE."""
        return self.CONTINUE
