"""Searchers that note what they are told."""

from __future__ import annotations

from typing import Any

from tune_core.search import Searcher


class Numbers(Searcher):
    """Suggests 1, 2, 3 …, and notes what it is told."""

    def __init__(self, **objective: Any) -> None:
        super().__init__(**objective)
        self.suggested = 0
        self.told: list[Any] = []

    def suggest(self, trial_id: str) -> Any:
        self.suggested += 1
        return {"x": self.suggested}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append(("result", trial_id))

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.told.append((trial_id, result, error))

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        self.told.append(("replayed", trial_id, config))
