"""What is known of the time before this driver, and kept for one after it."""

from __future__ import annotations

import math
from dataclasses import replace

from prefect.logging import get_run_logger

from flows.parts import Parts
from tune_core.messages import StateSaved, TrialReported
from tune_core.resume import Replay, complete_files
from tune_core.steering import Steering
from tune_core.trial import Trial

#: How often the state of a user's own searcher or scheduler is journaled at most, in seconds.
SAVE_STATE_EVERY_S = 10.0


def show_history(parts: Parts, replay: Replay) -> None:
    """Complete files and artifacts from the journal.

    Tables of trials that had ended are where they were: in the flow run that ran them.
    """
    finished = {trial.trial_id for trial in replay.trials if trial.is_finished}
    get_run_logger().info(
        "Going on with experiment %s: of its %d trials, %d had ended.",
        parts.experiment.name,
        len(replay.trials),
        len(finished),
    )

    def show(trial: Trial, report: TrialReported) -> None:
        if trial.trial_id not in finished:
            parts.artifacts.add_row(trial, report.row)

    complete_files(parts.experiment.storage, replay.unsettled, parts.default_loggers, show)
    for trial in replay.trials:
        parts.artifacts.show_trial(trial)


class OwnState:
    """Takes note, now and then, of what a user's own searcher or scheduler saves of itself.

    Args:
        steering: Whose searcher and scheduler they are.
    """

    def __init__(self, steering: Steering) -> None:
        self._steering = steering
        self._due = 0.0 if steering.has_own_state else math.inf
        self._before: StateSaved | None = None

    def news(self, now: float) -> StateSaved | None:
        """Return the state if it is time and it has changed; to be called when nothing else is under way."""
        if now < self._due:
            return None
        self._due = now + SAVE_STATE_EVERY_S
        state = self._steering.state()
        before, self._before = self._before, state
        is_new = state is not None and (before is None or replace(state, time=before.time) != before)
        return state if is_new else None
