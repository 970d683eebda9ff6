"""What is known of the time before this driver, and kept for one after it."""

from __future__ import annotations

import math
from dataclasses import replace

from prefect.logging import get_run_logger

from tune_core.control.file_completion import complete_files
from tune_core.control.messages import StateSaved, TrialReported
from tune_core.control.policy import Policy
from tune_core.control.resume import Replay
from tune_core.control.segments import read_journal
from tune_core.engine.driver.policy_files import PolicyFiles
from tune_core.engine.driver.services import Services
from tune_core.trial import Trial

#: How often the state of a user's own searcher or scheduler is journaled at most, in seconds.
SAVE_STATE_EVERY_S = 10.0


def take_in_history(services: Services, replay: Replay, policy_files: PolicyFiles) -> None:
    """Apply what the journal has, if the experiment had begun before; then set the user's callbacks up."""
    if services.experiment.continuation is not None:
        services.watchers.rewind()
        _replay_journal(services, replay, policy_files)
        services.watchers.resume()
        policy_files.restore()
        _show_history(services, replay)
    services.user_callbacks.setup(
        stop=services.experiment.run_config.stop,
        num_samples=services.experiment.tune_config.num_samples,
        total_num_samples=services.policy.total_trials,
        files=services.files,
    )


def save_counts(services: Services, *, has_failed: bool) -> None:
    """Let the journal end with what stoppers and callbacks have counted.

    Args:
        services: What the driver worked with.
        has_failed: Whether that was in the middle of a report, which stoppers will be shown again.
    """
    counts = services.watchers.news(of_stoppers=not has_failed)
    if counts is not None:
        services.journal.append(counts, ())


def _replay_journal(services: Services, replay: Replay, policy_files: PolicyFiles) -> None:
    for event, _ in read_journal(services.experiment.storage):
        commands = replay.apply(event)
        policy_files.replayed(event)
        services.events.replayed(event, commands, is_best=services.overview.note(event))


def _show_history(services: Services, replay: Replay) -> None:
    """Complete files and artifacts.

    Tables of trials that had ended are where they were: in the flow run that ran them.
    """
    finished = {trial.trial_id for trial in replay.trials if trial.is_finished()}
    get_run_logger().info(
        "Going on with experiment %s: of its %d trials, %d had ended.",
        services.experiment.name,
        len(replay.trials),
        len(finished),
    )

    def show(trial: Trial, report: TrialReported) -> None:
        if trial.trial_id not in finished:
            services.artifacts.add_row(trial, report.row)

    complete_files(services.experiment.storage, replay.unsettled, services.default_loggers, show)
    for trial in replay.trials:
        services.artifacts.show_trial(trial)


class OwnState:
    """Takes note, now and then, of what a user's own searcher or scheduler saves of itself.

    Args:
        policy: Whose searcher and scheduler they are.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._due = 0.0 if policy.has_own_state else math.inf
        self._before: StateSaved | None = None

    def news(self, now: float) -> StateSaved | None:
        """Return the state if it is time and it has changed; call it when nothing else is under way."""
        if now < self._due:
            return None
        self._due = now + SAVE_STATE_EVERY_S
        state = self._policy.state()
        before, self._before = self._before, state
        is_new = state is not None and (before is None or replace(state, time=before.time) != before)
        return state if is_new else None
