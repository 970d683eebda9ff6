"""What an experiment announces to the world: a fold from its events to a few that others act on.

It is pure: the driver sends what it returns, or, in a replay of what was before it, does not. Values
are plain JSON and short. See docs/events.md for the list.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tune_core.control.controller import Controller
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    Command,
    CompleteTrial,
    EndExperiment,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    StartAttempt,
    TrialReported,
)
from tune_core.metrics import flatten
from tune_core.ranking import Standings
from tune_core.text import cut
from tune_core.trial import Status, Trial
from tune_core.validation import shorten

#: Least time between two announcements of a new best, in seconds; the end of a trial does not wait for it.
NEW_BEST_EVERY_S: Final = 10.0
#: So many trials in a row without a new best, or without a change of the front, are a plateau.
PLATEAU_TRIALS: Final = 20
#: So many trials in a row that end with an error are announced.
FAILING_TRIALS: Final = 3
#: Parameters of a configuration, and letters of a text.
_PARAMETERS, _LETTERS = 100, 500
#: Trials of a front that an announcement has.
_MEMBERS: Final = 20
#: Letters that they have together: Prefect takes no event of any size.
_FRONT_LETTERS: Final = 200_000


@dataclass(frozen=True, slots=True)
class Notification:
    """Something that others may want to act on.

    Attributes:
        kind: `experiment.started`, `trial.ended` …
        time: When it was, epoch seconds.
        trial_id: Of which trial; None: of the experiment.
        payload: What there is to say, as JSON.
    """

    kind: str
    time: float
    trial_id: str | None
    payload: Mapping[str, Any]


class Notifier:
    """Finds out what there is to announce.

    Args:
        controller: Whose events they are: `note` comes after its `handle`.
        name: The experiment's name.
        storage_url: Where it is, without credentials.
        standings: Who is best; it has noted each report before `note` comes.
    """

    def __init__(self, controller: Controller, name: str, storage_url: str, standings: Standings) -> None:
        self._controller, self._standings = controller, standings
        self._storage_url, objective = storage_url, standings.objective
        self._about = {
            "experiment": name,
            "storage_url": storage_url,
            "metric": objective.plain_metric,
            "mode": objective.plain_mode,
            "best_scope": objective.scope if objective.metric is not None else None,
        }
        #: Attempts that were ordered and have not ended, with whether they have begun.
        self._open: dict[tuple[str, int], bool] = {}
        self._is_best_announced = True
        self._best_announced_at = 0.0
        self._ended_since_best = self._failed_in_row = 0

    def note(self, event: Event, commands: Sequence[Command], *, is_best: bool) -> list[Notification]:
        """Take an event that was handled; return what it makes worth announcing.

        Args:
            event: The event.
            commands: What followed from it.
            is_best: Whether it is a report after which another trial is the best one, or the best one has
                become better; by several metrics, one of them or the front: what `Overview.note` returned.
        """
        found: list[Notification] = []
        if isinstance(event, (ExperimentStarted, ExperimentResumed)):
            self._open.clear()
            is_resumed = isinstance(event, ExperimentResumed)
            found.append(
                self._tell("experiment.started", event, {"capacity": event.capacity, "resumed": is_resumed})
            )
        elif isinstance(event, AttemptStarted):
            found += self._begun(event)
        elif isinstance(event, AttemptEnded):
            found += self._ended(event)
        elif isinstance(event, TrialReported) and is_best:
            self._is_best_announced, self._ended_since_best = False, 0
        if self._is_best_due(event):
            found.append(self._new_best(event))
        for command in commands:
            if isinstance(command, StartAttempt):
                self._open[command.trial_id, command.attempt_number] = False
            elif isinstance(command, CompleteTrial):
                found += self._completed(command, event)
            elif isinstance(command, EndExperiment):
                found.append(self._finished(command, event))
        return found

    def _tell(
        self, kind: str, event: Event, payload: Mapping[str, Any], trial: Trial | None = None
    ) -> Notification:
        trial_id = trial.trial_id if trial is not None else None
        about = {**self._about, "trial_id": trial_id} if trial_id is not None else self._about
        return Notification(kind, event.time, trial_id, {**about, **payload})

    def _begun(self, event: AttemptStarted) -> list[Notification]:
        if self._open.get((event.trial_id, event.attempt_number)) is not False:
            return []  # an older attempt's
        self._open[event.trial_id, event.attempt_number] = True
        trial = self._controller.trials[event.trial_id]
        payload = {
            "attempt": event.attempt_number,
            "config": plain_config(trial.config),
            "resources": trial.resources.required_resources,
            "hostname": event.hostname,
        }
        return [self._tell("trial.started", event, payload, trial)]

    def _ended(self, event: AttemptEnded) -> list[Notification]:
        if self._open.pop((event.trial_id, event.attempt_number), None) is None:
            return []
        trial = self._controller.trials[event.trial_id]
        payload = {
            "attempt": event.attempt_number,
            "outcome": str(event.outcome),
            "status": str(trial.status),
            "iterations": trial.iteration,
            **self._values(trial),
            "error": cut(event.error, _LETTERS) if event.error else None,
        }
        return [self._tell("trial.ended", event, payload, trial)]

    def _values(self, trial: Trial) -> dict[str, Any]:
        """A trial's latest value of the metric, or of each."""
        objective = self._standings.objective
        if not objective.is_several:
            return {"value": _number(objective.value(trial.last_row))}
        return {"values": {str(part.metric): _number(part.value(trial.last_row)) for part in objective.parts}}

    def _best(self, standings: Standings | None = None) -> dict[str, Any] | None:
        """The best trial as it stands now; None: there is none, or there are several metrics."""
        standings = standings or self._standings
        trial = standings.best
        if trial is None:
            return None
        return {
            "trial_id": trial.trial_id,
            "iteration": standings.scored_in(trial),
            "value": _number(standings.score(trial)),
            "config": plain_config(trial.config),
            "checkpoint_url": self._checkpoint_url(standings, trial),
        }

    def _checkpoint_url(self, standings: Standings, trial: Trial) -> str | None:
        checkpoint = standings.best_checkpoint(trial)
        return f"{self._storage_url}/{trial.dirname}/{checkpoint.name}" if checkpoint else None

    def _front(self) -> dict[str, Any]:
        """With several metrics: the front as it stands now, and the best trial by each metric; else {}."""
        standings = self._standings
        names = standings.objective.names
        if len(names) < 2:
            return {}
        front = standings.front
        members, room = list[dict[str, Any]](), _FRONT_LETTERS
        for trial in front[:_MEMBERS]:
            member = {
                "trial_id": trial.trial_id,
                "values": dict(zip(names, map(_number, standings.scores(trial)), strict=True)),
                "config": plain_config(trial.config),
                "checkpoint_url": self._checkpoint_url(standings, trial),
            }
            room -= len(str(member))
            if room < 0:
                break
            members.append(member)
        return {
            "front_size": len(front),
            "front": members,
            "best_by_metric": {str(part.objective.metric): self._best(part) for part in standings.parts},
        }

    def _is_best_due(self, event: Event) -> bool:
        if self._is_best_announced:
            return False
        return isinstance(event, AttemptEnded) or event.time >= self._best_announced_at + NEW_BEST_EVERY_S

    def _new_best(self, event: Event) -> Notification:
        self._is_best_announced, self._best_announced_at = True, event.time
        if self._standings.objective.is_several:
            return self._tell("experiment.front-changed", event, self._front())
        return self._tell("experiment.new-best", event, self._best() or {})

    def _completed(self, command: CompleteTrial, event: Event) -> list[Notification]:
        found = []
        self._failed_in_row = self._failed_in_row + 1 if command.failed else 0
        if self._failed_in_row == FAILING_TRIALS:
            error = self._controller.trials[command.trial_id].error
            payload = {"failed_in_a_row": self._failed_in_row, "error": cut(error or "", _LETTERS)}
            found.append(self._tell("experiment.failing", event, payload))
        self._ended_since_best += 1
        if self._ended_since_best == PLATEAU_TRIALS and self._standings.leaders:
            best = self._best()
            payload = {"trials_since_best": self._ended_since_best, "best": best, **self._front()}
            found.append(self._tell("experiment.plateau", event, payload))
        return found

    def _finished(self, command: EndExperiment, event: Event) -> Notification:
        trials = self._controller.trials.values()
        counts = Counter(str(trial.status) for trial in trials)
        best = self._best()
        payload = {
            "outcome": self._outcome(command, counts),
            "reason": command.reason,
            "error": cut(command.error, _LETTERS) if command.error else None,
            "interrupted": self._controller.is_interrupted,
            "trials": dict(counts),
            "best": best,
            "best_checkpoint": best["checkpoint_url"] if best is not None else None,
            **self._front(),
        }
        return self._tell("experiment.finished", event, payload)

    def _outcome(self, command: EndExperiment, counts: Mapping[str, int]) -> str:
        """Return how the flow run ends, in one word."""
        if self._controller.is_interrupted or counts.get(Status.PAUSED):
            return "interrupted"
        all_failed = bool(counts) and set(counts) == {str(Status.ERROR)}
        return "failed" if command.error is not None or all_failed else "completed"


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as flat JSON that is short, whatever it holds.

    Example:
        >>> plain_config({"net": {"depth": 3}, "sizes": (1, 2), "f": None})
        {'net/depth': 3, 'sizes': '(1, 2)', 'f': None}
    """
    flat = list(flatten(config).items())[:_PARAMETERS]
    return {
        cut(name, _LETTERS): value
        if value is None or isinstance(value, (bool, int))
        else _number(value)
        if isinstance(value, float)
        else cut(value if isinstance(value, str) else shorten(value), _LETTERS)
        for name, value in flat
    }


def _number(value: Any) -> float | str | None:
    """A number as JSON has it, infinities and NaN as text; None for what is no number."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float)) else None
