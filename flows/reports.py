"""What trials report and commit: everybody who has to see it sees it, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flows.parts import Parts
from tune_core.commit import CheckpointMarker
from tune_core.messages import CheckpointSaved, Event, StopCause, TrialReported
from tune_core.metrics import validate_metrics
from tune_core.resume import unreported
from tune_core.trial import Trial


class Reports:
    """Takes rows and checkpoints in.

    Args:
        parts: What the driver works with.
        trials: All trials in creation order.
        apply: Lets the controller handle an event.
        request_stop: Stops the experiment, with a reason.

    Attributes:
        turn: Counts the turns of the driver's loop, for callbacks.
    """

    def __init__(
        self,
        parts: Parts,
        trials: list[Trial],
        apply: Callable[[Event], None],
        request_stop: Callable[[StopCause, str], None],
    ) -> None:
        self._parts, self._trials = parts, trials
        self._apply, self._request_stop = apply, request_stop
        self._standings = parts.overview.standings
        self.turn = 0
        self._has_linked = False
        self._has_user_callbacks = bool(parts.experiment.run_config.callbacks)
        self._checks_stop_all = parts.steering.stopper is not None

    def take(
        self, trial: Trial, iteration: int, checkpoint: int | None, row: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Let those see a row who have a say in what becomes of the trial.

        Returns:
            The row as it is journaled, and the same with every auto-filled key, for `show`.
        """
        parts, trials = self._parts, self._trials
        result = trial.result_of(row)
        decided = parts.steering.decide(trials, trial, row, result, checkpoint)
        if self._has_user_callbacks:
            parts.user_callbacks.on_trial_result(self.turn, trials, trial, result)
            row = validate_metrics(trial.row_of(result))  # a callback may have added to it
        now = parts.wall_clock()
        self._apply(TrialReported(now, trial.trial_id, trial.lease, iteration, row, checkpoint, *decided))
        return row, result

    def show(self, trial: Trial, checkpoint: int | None, row: dict[str, Any], result: dict[str, Any]) -> None:
        """Let the others see a row that was taken: files, artifacts, the terminal."""
        parts = self._parts
        parts.loggers.on_trial_result(self.turn, self._trials, trial, result)
        is_best = parts.overview.is_best(row)
        parts.artifacts.add_row(trial, row, at_once=row["done"] or is_best)
        if is_best or (checkpoint is not None and trial is self._standings.best):
            self.link_best_checkpoint()
        parts.progress.report(trial, result)
        if checkpoint is not None:
            self._show_checkpoint(trial, checkpoint)
        self.look_at_stop_all()

    def add_checkpoint(self, trial_id: str, lease: int, iteration: int, index: int) -> None:
        """Take up a checkpoint that was committed after its row had been sent."""
        trial = self._parts.controller.live_trial(trial_id, lease)
        if trial is None or iteration > trial.iteration or index <= trial.last_checkpoint_index:
            return  # out of date, known, or to be said again after the rows before it
        self._apply(CheckpointSaved(self._parts.wall_clock(), trial_id, lease, iteration, index))
        if trial is self._standings.best:
            self.link_best_checkpoint()
        self._show_checkpoint(trial, index)

    def recover_committed(self, trial: Trial) -> None:
        """Take up what a trial has committed on storage and nobody has heard of."""
        storage = self._parts.experiment.storage
        self.recover(trial, storage.committed(trial.dirname, skip_damaged=True))

    def recover(
        self,
        trial: Trial,
        markers: Sequence[CheckpointMarker],
        rows: Mapping[int, dict[str, Any]] | None = None,
    ) -> None:
        """Take up what these markers carry and nobody has heard of, and rows without a checkpoint between them."""
        for iteration, index, row in unreported(markers, trial):
            self._recover_rows(trial, rows or {}, until=iteration)
            if row is not None:
                self.show(trial, index, *self.take(trial, iteration, index, row))
            elif index is not None:
                self.add_checkpoint(trial.trial_id, trial.lease, iteration, index)
        self._recover_rows(trial, rows or {})

    def _recover_rows(
        self, trial: Trial, rows: Mapping[int, dict[str, Any]], until: int | None = None
    ) -> None:
        while (iteration := trial.iteration + 1) in rows and iteration != until:
            self.show(trial, None, *self.take(trial, iteration, None, rows[iteration]))

    def look_at_stop_all(self) -> None:
        """Stop the experiment if a stopper says so."""
        if self._checks_stop_all and self._parts.steering.wants_all_stopped():
            self._request_stop(StopCause.STOPPER, "a stopper ended the experiment (stop_all)")

    def link_best_checkpoint(self) -> None:
        """Link the checkpoint of the best trial as an artifact."""
        best, objective = self._standings.best, self._standings.objective
        if best is None:
            return
        record = self._standings.best_checkpoint(best)
        if record is None and not self._has_linked:
            return  # there is nothing to take back, and texts for every better row take longer than the rest of it
        self._has_linked = True
        by = f"the best trial by {objective.label}, {self._standings.score(best):g}"
        if record is None:
            self._parts.artifacts.set_best_checkpoint("", f"trial {best.trial_id}, {by}, has none")
            return
        url = f"{self._parts.experiment.storage.url}/{best.dirname}/{record.name}"
        value = objective.value(record.metrics)
        said = "" if value is None else f", {objective.metric} {value:g}"
        text = f"trial {best.trial_id}, iteration {record.iteration}{said}; {by}"
        self._parts.artifacts.set_best_checkpoint(url, text)

    def _show_checkpoint(self, trial: Trial, index: int) -> None:
        if self._has_user_callbacks:
            stored = self._parts.experiment.storage.checkpoint(trial.dirname, index)
            self._parts.user_callbacks.on_checkpoint(self.turn, self._trials, trial, stored)
            self._parts.user_callbacks.on_trial_save(self.turn, self._trials, trial)
