"""What searcher and scheduler are asked, in which order, and what they have answered.

Owns whether each of the two may be asked now. Never asks: the controller returns the question as a command.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from tune_core.control.controller_config import ControllerConfig
from tune_core.trial import Status, Trial


class Questions:
    """What may be asked of the searcher and the scheduler.

    Attributes:
        search: Of a new configuration: "idle": it may be asked; "asked": it has not answered; "deferred": it had
            nothing, and is not asked before something has happened; "ended": it has no more.
        choice: Of the paused trial that goes on: the same; "declined": not before the scheduler has learnt more.

    Example:
        >>> questions = Questions()
        >>> questions.next([], ControllerConfig("a1b2c"))
        'search'
        >>> questions.search = "ended"
        >>> questions.next([Trial("t0", 0, {}, status=Status.PAUSED)], ControllerConfig("a1b2c"))
        'choice'
        >>> questions.are_open
        True
    """

    def __init__(self) -> None:
        self.search: Literal["idle", "asked", "deferred", "ended"] = "idle"
        self.choice: Literal["idle", "asked", "declined"] = "idle"

    @property
    def are_open(self) -> bool:
        """Whether one of them has not answered yet."""
        return "asked" in (self.search, self.choice)

    def next(
        self, unfinished: Collection[Trial], rules: ControllerConfig
    ) -> Literal["search", "choice"] | None:
        """Note who is asked what fills the room; return that, or None if both have answered.

        Args:
            unfinished: Trials whose status is not final.
            rules: Say who is asked first.
        """
        if self.search == "idle" and not (rules.resumes_first and self._may_choose(unfinished)):
            self.search = "asked"
            return "search"
        if self._may_choose(unfinished):
            self.choice = "asked"
            return "choice"
        return None

    def nothing_new(self, rules: ControllerConfig, *, is_over: bool) -> None:
        """Note that the searcher has no configuration now, or, if it `is_over`, will have none any more.

        Where paused trials go first, the scheduler is asked once more then: it may choose since nothing new
        comes, and is to say why it does not.
        """
        self.search = "ended" if is_over else "deferred"
        if rules.resumes_first and self.choice == "declined":
            self.choice = "idle"

    def again(self) -> None:
        """Searcher and scheduler have learnt something: what they declined to answer may be answered now."""
        if self.search == "deferred":
            self.search = "idle"
        if self.choice == "declined":
            self.choice = "idle"

    def _may_choose(self, unfinished: Collection[Trial]) -> bool:
        return self.choice == "idle" and any(
            trial.status is Status.PAUSED and not trial.is_paused_by_user for trial in unfinished
        )
