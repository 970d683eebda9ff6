"""What is known of the time before this driver, and kept for one after it."""

from __future__ import annotations

import math
from dataclasses import replace

from prefect.logging import get_run_logger

from tune_core.control.messages import StateSaved, TrialReported
from tune_core.control.policy import Steering
from tune_core.control.resume import Replay, complete_files
from tune_core.control.segments import read_journal
from tune_core.engine.driver.services import Parts
from tune_core.trial import Trial

#: How often the state of a user's own searcher or scheduler is journaled at most, in seconds.
SAVE_STATE_EVERY_S = 10.0


def take_in_history(parts: Parts, replay: Replay) -> None:
    """Apply what the journal has, if the experiment had begun before; then set the user's callbacks up."""
    if parts.experiment.continuation is not None:
        parts.watchers.rewind()
        _replay_journal(parts, replay)
        parts.watchers.resume()
        _show_history(parts, replay)
    parts.user_callbacks.setup(
        stop=parts.experiment.run_config.stop,
        num_samples=parts.experiment.tune_config.num_samples,
        total_num_samples=parts.steering.total_trials,
        files=parts.files,
    )


def save_counts(parts: Parts, *, has_failed: bool) -> None:
    """Let the journal end with what stoppers and callbacks have counted.

    Args:
        parts: What the driver worked with.
        has_failed: Whether that was in the middle of a report, which stoppers will be shown again.
    """
    counts = parts.watchers.news(of_stoppers=not has_failed)
    if counts is not None:
        parts.journal.append(counts, ())


def _replay_journal(parts: Parts, replay: Replay) -> None:
    for event, _ in read_journal(parts.experiment.storage):
        commands = replay.apply(event)
        parts.events.replayed(event, commands, is_best=parts.overview.note(event))


def _show_history(parts: Parts, replay: Replay) -> None:
    """Complete files and artifacts.

    Tables of trials that had ended are where they were: in the flow run that ran them.
    """
    finished = {trial.trial_id for trial in replay.trials if trial.is_finished()}
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
