"""What trials report and commit is shown to everybody who has to see it, in the same order."""

from __future__ import annotations

from typing import Any

from tune_core.control.loop import Loop
from tune_core.engine.driver.services import Services
from tune_core.metrics import validate_metrics
from tune_core.ranking import Standings
from tune_core.trial import CheckpointRecord, Trial


class Reports:
    """Shows rows and checkpoints: to callbacks, files, artifacts and the terminal.

    Args:
        services: What the driver works with.
        loop: The experiment's.
    """

    def __init__(self, services: Services, loop: Loop) -> None:
        self._services, self._loop, self._trials = services, loop, loop.trials
        self._standings = services.overview.standings
        self._has_linked = False
        self._has_user_callbacks = bool(services.experiment.run_config.callbacks)

    def show_callbacks(self, trial: Trial, row: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        """Show a result to the user's callbacks, which may add to it; return the row as it is journaled."""
        if not self._has_user_callbacks:
            return row
        self._services.user_callbacks.on_trial_result(self._loop.turn, self._trials, trial, result)
        return validate_metrics(trial.row_of(result))

    def show(self, trial: Trial, checkpoint: int | None, row: dict[str, Any], result: dict[str, Any]) -> None:
        """Let the others see a row that was journaled: files, artifacts, the terminal."""
        services = self._services
        services.loggers.on_trial_result(self._loop.turn, self._trials, trial, result)
        is_best = services.overview.is_best(row)
        services.artifacts.add_row(trial, row, at_once=row["done"] or is_best)
        if is_best or (checkpoint is not None and trial in self._standings.leaders):
            self.link_best_checkpoint()
        services.progress.report(trial, result)
        if checkpoint is not None:
            self._show_checkpoint(trial, checkpoint)

    def show_checkpoint(self, trial: Trial, index: int) -> None:
        """Show a checkpoint that was committed after its row had been sent."""
        if trial in self._standings.leaders:
            self.link_best_checkpoint()
        self._show_checkpoint(trial, index)

    def link_best_checkpoint(self) -> None:
        """Link the checkpoint of the best trial as an artifact; of several metrics, of the best by each."""
        parts = [(part, part.best) for part in self._standings.parts]
        found = [(part, best, part.best_checkpoint(best)) for part, best in parts if best is not None]
        if not found or (not any(record for _, _, record in found) and not self._has_linked):
            return  # there is nothing to take back, and texts for every better row take longer than the rest of it
        self._has_linked = True
        self._services.artifacts.set_best_checkpoint(*(self._link(*each) for each in found))

    def _link(self, standings: Standings, best: Trial, record: CheckpointRecord | None) -> tuple[str, str]:
        objective = standings.objective
        by = f"the best trial by {objective.label}, {standings.score(best):g}"
        if record is None:
            return "", f"trial {best.trial_id}, {by}, has none"
        url = f"{self._services.experiment.storage.url}/{best.dirname}/{record.name}"
        value = objective.value(record.metrics)
        said = "" if value is None else f", {objective.metric} {value:g}"
        return url, f"trial {best.trial_id}, iteration {record.iteration}{said}; {by}"

    def _show_checkpoint(self, trial: Trial, index: int) -> None:
        if self._has_user_callbacks:
            stored = self._services.experiment.storage.checkpoint(trial.dirname, index)
            self._services.user_callbacks.on_checkpoint(self._loop.turn, self._trials, trial, stored)
            self._services.user_callbacks.on_trial_save(self._loop.turn, self._trials, trial)
