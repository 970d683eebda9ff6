"""What an experiment that goes on shows of the time before this driver: its files and its artifacts."""

from __future__ import annotations

from flows.parts import Parts
from tune_core.messages import TrialReported
from tune_core.resume import Replay, complete_files
from tune_core.trial import Trial


def show_history(parts: Parts, replay: Replay) -> None:
    """Complete files and artifacts from the journal.

    Tables of trials that had ended are where they were: in the flow run that ran them.
    """
    finished = {trial.trial_id for trial in replay.trials if trial.is_finished}

    def show(trial: Trial, report: TrialReported) -> None:
        if trial.trial_id not in finished:
            parts.artifacts.add_row(trial, report.row)

    complete_files(parts.experiment.storage, replay.unsettled, parts.default_loggers, show)
    for trial in replay.trials:
        parts.artifacts.show_trial(trial)
