"""What a scheduler answers, checked, and in the words of the journal.

Owns what is an answer and what is none. Every fault is a `ConfigError` that names the scheduler's class.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence, Set
from typing import Any

from tune_core.control.messages import PausedChosen
from tune_core.encoding import dumps, holds_opaque, loads
from tune_core.errors import ConfigError
from tune_core.metrics import flatten
from tune_core.schedulers import Exploit, TrialScheduler
from tune_core.search.variants import exploit_tag
from tune_core.states import Decision, ExploitChoice
from tune_core.trial import AttemptPhase, Status, Trial
from tune_core.validation import shorten

_logger = logging.getLogger(__name__)


def reason_of(scheduler: TrialScheduler, trial: Trial, decision: Decision) -> dict[str, Any]:
    """Return why a scheduler has decided so, as far as it says.

    Raises:
        ConfigError: It says what JSON cannot hold.
    """
    said: Any = scheduler.decision_reason(trial)
    if not isinstance(said, dict) or (said and holds_opaque(loads(dumps(said)))):
        raise ConfigError(
            f"{type(scheduler).__name__}.decision_reason returned {shorten(said)}: expected a dict of what JSON "
            "can hold, since it is written to the journal"
        )
    if not said:
        return {}
    return {"decision": str(decision), "metric": scheduler.metric, "mode": scheduler.mode, **said}


def choosable(trials: Sequence[Trial]) -> Sequence[Trial]:
    """Return the trials among which a scheduler chooses one to go on: not those that somebody has paused."""
    return (
        [trial for trial in trials if not trial.is_paused_by_user]
        if any(t.is_paused_by_user for t in trials)
        else trials
    )


def choose_paused(
    scheduler: TrialScheduler, trials: Sequence[Trial], now: float, *, has_nothing_new: bool
) -> PausedChosen:
    """Ask a scheduler which paused trials never go on, and which does now.

    Args:
        scheduler: Which.
        trials: All trials.
        now: Seconds since the epoch.
        has_nothing_new: Whether the searcher had nothing new when it was asked last.

    Raises:
        ConfigError: It has named a trial that is not paused.
    """
    name = type(scheduler).__name__
    shown = choosable(trials)
    paused = {trial.trial_id for trial in shown if trial.status is Status.PAUSED}
    stopped = [
        trial
        for trial in scheduler.trials_to_stop(trials)
        if not (trial.is_finished() or trial.is_paused_by_user)
    ]
    for trial in stopped:
        if trial.trial_id not in paused:
            raise ConfigError(
                f"{name}.trials_to_stop returned trial {trial.trial_id}, which is {trial.status}: "
                "expected paused trials only; answer STOP to a report of a running one"
            )
    if stopped:  # when they are over, the scheduler knows, and is asked again
        ids = {trial.trial_id: trial for trial in stopped}
        return PausedChosen(now, None, tuple(ids), _reasons(scheduler, ids.values()))
    exploits = _exploits_of_paused(scheduler, trials, shown, paused)
    if exploits:  # then it is asked again
        return PausedChosen(now, None, exploits=exploits)
    chosen: Any = scheduler.choose_trial_to_run(shown)
    if isinstance(chosen, Trial) and chosen.is_paused_by_user:
        chosen = None  # it has looked beyond what it was shown: that trial is not its to choose now
    if chosen is not None and (not isinstance(chosen, Trial) or chosen.trial_id not in paused):
        what = f"trial {chosen.trial_id}" if isinstance(chosen, Trial) else repr(chosen)
        raise ConfigError(
            f"{name}.choose_trial_to_run returned {what}: expected None or one of the trials that are "
            f"PAUSED, which are {', '.join(sorted(paused))}"
        )
    if chosen is not None:
        return PausedChosen(now, chosen.trial_id)
    is_last = has_nothing_new and not any(trial.phase is not AttemptPhase.NONE for trial in trials)
    left = [trial for trial in trials if trial.trial_id in paused] if is_last else []
    return PausedChosen(now, None, reason=_reasons(scheduler, left))


def exploit_choice(
    trials: Sequence[Trial], trial: Trial, answer: Exploit, checkpoint: int | None, name: str
) -> ExploitChoice | None:
    """Fill in what an Exploit leaves open; None if there is no checkpoint to go on from.

    Args:
        trials: All trials.
        trial: Which is to go on from another one.
        answer: What the scheduler wants.
        checkpoint: Index of the checkpoint that came with the trial's report, if any.
        name: The method that returned it, for errors.

    Raises:
        ConfigError: There is no such donor, or the configuration is no dict.
    """
    name += " returned Exploit"
    donor_id = answer.donor.trial_id if isinstance(answer.donor, Trial) else answer.donor
    donor = next((each for each in trials if each.trial_id == donor_id), None)
    if donor is None:
        raise ConfigError(f"{name}(donor={answer.donor!r}): there is no such trial in this experiment")
    is_own = donor.trial_id == trial.trial_id and checkpoint is not None
    start = donor.start_point
    if start is None and not is_own:
        _logger.warning(
            "trial %s cannot go on from trial %s, which has no checkpoint: it goes on as it is",
            trial.trial_id,
            donor.trial_id,
        )
        return None
    config = answer.config() if callable(answer.config) else answer.config
    if not isinstance(config, dict):
        raise ConfigError(f"{name}(config={config!r}): expected a dict")
    tag = exploit_tag(trial.experiment_tag, flatten(trial.config), flatten(config))
    if is_own or start is None:
        return ExploitChoice(donor.trial_id, checkpoint or 0, dict(config), tag)
    return ExploitChoice(start.trial_id, start.record.index, dict(config), tag)


def _reasons(scheduler: TrialScheduler, trials: Iterable[Trial]) -> dict[str, dict[str, Any]]:
    """Why paused trials never go on, as far as the scheduler says."""
    reasons = {trial.trial_id: reason_of(scheduler, trial, Decision.STOP) for trial in trials}
    return {trial_id: reason for trial_id, reason in reasons.items() if reason}


def _exploits_of_paused(
    scheduler: TrialScheduler, trials: Sequence[Trial], shown: Sequence[Trial], paused: Set[str]
) -> dict[str, ExploitChoice]:
    """Ask the scheduler which paused trials are to go on from others' checkpoints, and how."""
    name = f"{type(scheduler).__name__}.exploit_paused"
    found: dict[str, ExploitChoice] = {}
    for trial_id, answer in scheduler.exploit_paused(shown).items():
        trial = next((each for each in trials if each.trial_id == trial_id), None)
        if trial is None or trial_id not in paused or trial.attempt is None:
            raise ConfigError(
                f"{name} returned trial {trial_id!r}: expected trials that are PAUSED and have run, "
                f"which are {', '.join(sorted(paused))}"
            )
        choice = exploit_choice(trials, trial, answer, None, name)
        if choice is not None:
            found[trial_id] = choice
    return found
