"""What an experiment that goes on shows of the time before this driver: its files and its artifacts."""

from __future__ import annotations

import logging

from flows.parts import Parts
from tune_core.messages import TrialReported
from tune_core.resume import Replay, complete_files
from tune_core.storage import COMMIT_TIMEOUT_S
from tune_core.trial import Trial

logger = logging.getLogger("prefect.tune")


def show_history(parts: Parts, replay: Replay) -> None:
    """Complete files and artifacts from the journal; have swept what attempts of a dead driver left.

    Tables of trials that had ended are where they were: in the flow run that ran them.
    """
    finished = {trial.trial_id for trial in replay.trials if trial.is_finished}

    def show(trial: Trial, report: TrialReported) -> None:
        if trial.trial_id not in finished:
            parts.artifacts.add_row(trial, report.row)

    complete_files(parts.experiment.storage, replay.unsettled, parts.default_loggers, show)
    for trial in replay.trials:
        parts.artifacts.show_trial(trial)
    for trial in replay.unsettled:
        keep = {record.index for record in trial.checkpoints}
        parts.deletions.submit(_sweep, parts, trial.dirname, keep, trial.last_checkpoint_index)


def _sweep(parts: Parts, dirname: str, keep: set[int], last_index: int) -> None:
    storage = parts.experiment.storage
    try:
        for marker in storage.committed(dirname, skip_damaged=True):
            if marker.index <= last_index and marker.index not in keep:
                storage.delete_checkpoint(dirname, marker.index)  # ordered before, and not done
        # What is younger may be an upload that a process of the dead driver has not given up.
        storage.sweep(dirname, keep=keep, older_than_s=COMMIT_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - costs space, not the experiment
        logger.warning("cannot sweep %s: %s", dirname, error)
