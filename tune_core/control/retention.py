"""Which checkpoints trials keep: never fewer than something still needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import Command, DeleteCheckpoint
from tune_core.errors import IllegalTransition
from tune_core.metrics import lookup
from tune_core.states import ExploitChoice
from tune_core.trial import TOTALS, CheckpointRecord, StartPoint, Trial


class Retention:
    """Decides which checkpoints are deleted, by the rules of an experiment and by who borrows them.

    Args:
        rules: How many to keep, and how they are ranked; exchanged when the rules change.
        trials: All trials, by id; the controller's own.
        unfinished: Those that may need a checkpoint, by id; the controller's own.
    """

    def __init__(
        self, rules: ControllerConfig, trials: Mapping[str, Trial], unfinished: Mapping[str, Trial]
    ) -> None:
        self.rules = rules
        self._trials, self._unfinished = trials, unfinished

    def find(self, choice: ExploitChoice | None) -> StartPoint:
        """Return the checkpoint that was chosen.

        Raises:
            IllegalTransition: It does not exist: a defect of prefect-tune.
        """
        if choice is not None and choice.donor in self._trials:
            donor = self._trials[choice.donor]
            for record in donor.checkpoints:
                if record.index == choice.checkpoint:
                    return StartPoint(donor.trial_id, donor.dirname, record)
        raise IllegalTransition(f"{choice!r}: there is no such checkpoint")

    def forget(self, trial: Trial) -> list[Command]:
        """Delete what is beyond `num_to_keep`, but not the latest, nor what another trial needs."""
        keep = self.rules.num_to_keep
        if keep is None or len(trial.checkpoints) <= keep:
            return []
        usable = trial.usable_checkpoints
        kept = {record.index for record in sorted(usable, key=self.rank)[-keep:]}
        kept |= {record.index for record in usable[-1:]}
        kept |= {
            point.record.index
            for borrower in self._unfinished.values()
            for point in self.needed_by(borrower)
            if point.trial_id == trial.trial_id
        }
        gone = [record.index for record in trial.checkpoints if record.index not in kept]
        trial.checkpoints = [record for record in trial.checkpoints if record.index in kept]
        return [DeleteCheckpoint(trial.trial_id, index) for index in gone]

    def release(self, point: StartPoint | None) -> list[Command]:
        """Delete what was kept only for a borrower."""
        return [] if point is None else self.forget(self._trials[point.trial_id])

    def take_over(self, choices: Iterable[tuple[Trial, ExploitChoice]]) -> list[Command]:
        """Give trials the configurations and the checkpoints that were chosen for them; return what follows.

        All of them have what they start from before anything is deleted: one may lend what it has borrowed.
        """
        released: list[StartPoint | None] = []
        for trial, choice in choices:
            released.append(trial.borrowed)
            trial.borrowed = self.find(choice)
            trial.config, trial.experiment_tag, trial.live.exploit = (
                choice.config,
                choice.experiment_tag,
                None,
            )
        return [command for point in released for command in self.release(point)]

    def needed_by(self, trial: Trial) -> list[StartPoint]:
        """Return the checkpoints that this trial has borrowed, or is about to."""
        coming = [self.find(trial.exploit)] if trial.exploit is not None else []
        return coming if trial.borrowed is None else [trial.borrowed, *coming]

    def step_back(self, trial: Trial) -> bool:
        """Mark the checkpoint that a trial starts from as damaged, if there is one before it to start from instead."""
        start = trial.start_point
        if start is None:
            return False
        owner, earlier = self._trials[start.trial_id], []
        if owner.dirname == start.dirname:  # else it has started over since it was borrowed from
            earlier = [r for r in owner.usable_checkpoints if r.index < start.record.index]
        if earlier:
            owner.mark_damaged(start.record.index)
            if trial.borrowed is not None:
                trial.borrowed = StartPoint(owner.trial_id, owner.dirname, earlier[-1])
        elif trial.checkpoint is not None and owner is not trial:
            trial.borrowed = None  # what it has saved itself is left
        else:
            return False
        return True

    def rank(self, record: CheckpointRecord) -> tuple[int, float, int]:
        """Sort key, the worst first: a missing or NaN score is worse than -inf; equal scores go by time."""
        if self.rules.score_attribute is None:
            return 0, 0.0, record.index
        value = lookup(record.metrics, self.rules.score_attribute)
        if not isinstance(value, (int, float)) or (isinstance(value, float) and math.isnan(value)):
            return 0, 0.0, record.index
        return 1, value if self.rules.score_order == "max" else -value, record.index

    def shorten(self, trial: Trial) -> None:
        """Drop what nobody asks for any more: else the reports of all checkpoints would stay in memory."""
        trial.checkpoints = [*map(self._brief, trial.checkpoints[:-1]), *trial.checkpoints[-1:]]

    def _brief(self, record: CheckpointRecord) -> CheckpointRecord:
        values = {
            name: value
            for name in (*TOTALS, *self.rules.objective.names, self.rules.score_attribute)
            if name and (value := lookup(record.metrics, name)) is not None
        }
        return record if record.is_brief else replace(record, metrics=values, is_brief=True)
