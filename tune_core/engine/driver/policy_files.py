"""Keeps the policy files of population based training in the experiment's directory."""

from __future__ import annotations

from collections.abc import Mapping

from tune_core.control.messages import Event, ExperimentResumed, PausedChosen, TrialReported, TrialSuggested
from tune_core.logger.policy_log import GLOBAL_FILE, PolicyLog, policy_file
from tune_core.logger.trial_files import EXPERIMENT, TrialFiles
from tune_core.trial import Trial


class PolicyFiles:
    """Writes, event by event, who went on from whom; after a resume the files are those of the journal.

    Args:
        files: Where they are written.
        trials: All trials by id, as the controller has them.
        is_wanted: Whether there are such files at all.
    """

    def __init__(self, files: TrialFiles, trials: Mapping[str, Trial], *, is_wanted: bool) -> None:
        self._files, self._trials, self._is_wanted = files, trials, is_wanted
        self._is_replaying = False
        self._log = PolicyLog(self._write)

    def replayed(self, event: Event) -> None:
        """Take up an event of the journal, which has been applied; nothing is written."""
        self._is_replaying = True
        self.noted(event)
        self._is_replaying = False

    def restore(self) -> None:
        """Write the files as the journal has them: a driver that died may have written more, or less."""
        for name, data in self._log.files.items():
            self._files.replace(EXPERIMENT, name, data)

    def noted(self, event: Event) -> None:
        """Take up an event that has been applied."""
        if not self._is_wanted:
            return
        if isinstance(event, TrialReported):  # of which there are a thousand times as many
            trial = self._trials.get(event.trial_id)
            chosen, told = event.exploit, trial.exploit if trial is not None else None
            if trial is None or chosen is None or told is None:
                return
            if (chosen.donor, chosen.checkpoint, chosen.experiment_tag) == (
                told.donor,
                told.checkpoint,
                told.experiment_tag,
            ):
                self._log.exploited(trial, told, self._trials[told.donor])
        elif isinstance(event, TrialSuggested):
            self._log.add(self._trials[event.trial_id])
        elif isinstance(event, PausedChosen):
            for trial_id, choice in event.exploits.items():
                self._log.exploited(self._trials[trial_id], choice, self._trials[choice.donor])
        elif isinstance(event, ExperimentResumed):
            for trial_id in event.restarted:
                self._log.add(self._trials[trial_id])

    def _write(self, line: bytes, trial: Trial, whole: bytes) -> None:
        if not self._is_replaying:
            self._files.append_line(EXPERIMENT, GLOBAL_FILE, line)
            self._files.replace(EXPERIMENT, policy_file(trial.trial_id), whole)
