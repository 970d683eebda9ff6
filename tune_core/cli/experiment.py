"""One experiment as the commands show it, read from its journal. Executes nothing that is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_core.cli.opening import driver_status
from tune_core.control.resume import Replay
from tune_core.control.segments import Record, Segment, last_segment, read_segments
from tune_core.errors import ConfigError
from tune_core.logger.failures import failure_lines, group_failures
from tune_core.logger.rows import user_metrics
from tune_core.metrics import flatten
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.text import first_few
from tune_core.trial import Status
from tune_core.validation import is_number, suggestion
from tune_core.views.overview import ExperimentSnapshot, Following, TrialRecord, follow

#: At most this many names of metrics in a message.
_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Reading:
    """An experiment as its journal told it when it was read.

    Attributes:
        storage: Where it is.
        status: "running"; "ended" by itself; "interrupted", able to go on; "died" with its driver, able
            to go on; "unknown": its journal is open, and its driver cannot be seen from here.
        replay: What the controller knows.
        snapshot: What there is to tell.
    """

    storage: ExperimentStorage
    status: str
    replay: Replay
    snapshot: ExperimentSnapshot

    @property
    def spec(self) -> dict[str, Any]:
        """What the experiment is made of; {} if it died before that was written."""
        return self.replay.spec.spec if self.replay.spec is not None else {}

    @property
    def path(self) -> str:
        """What the commands take for it: its directory, with `@1` if it is an earlier one of its name."""
        return f"{self.storage.url.removesuffix(self.storage.name)}{self.storage.label}"

    def trial(self, given: str) -> TrialRecord:
        """Return a trial by its id, its directory's or its own name, or its number.

        Raises:
            ConfigError: There is none; the text names some that there are.
        """
        names = {
            name: trial
            for trial in self.snapshot.trials
            for name in (str(trial.number), trial.trial_id, trial.name, trial.dirname)
        }
        if given.rstrip("/") in names:
            return names[given.rstrip("/")]
        ids = [trial.trial_id for trial in self.snapshot.trials]
        known = f"there are {len(ids)}, from {ids[0]} to {ids[-1]}" if ids else "there are none yet"
        raise ConfigError(
            f"trial {given!r}: {self.storage.url} has no such trial{suggestion(given, names)}; {known}"
        )

    def summary(self) -> dict[str, Any]:
        """Return what `ls`, `show` and `compare` say of the whole experiment, as documented."""
        snapshot, best = self.snapshot, self.snapshot.best_trial
        return {
            "name": self.storage.label,
            "path": self.path,
            "experiment_id": self.spec.get("experiment_id"),
            "trainable": self.spec.get("trainable"),
            "status": self.status,
            "reason": snapshot.reason,
            "warm_start": snapshot.warm_start or None,
            "is_paused": self.replay.controller.is_paused,
            **compared_by(snapshot),
            "num_trials": len(snapshot.trials),
            "trials_by_status": dict(Counter(str(trial.status) for trial in snapshot.trials)),
            "best": self._best(best),
            "pareto_front": [trial.trial_id for trial in snapshot.front] if snapshot.by_metric else None,
            "best_by_metric": {str(part.metric): self._best(part.best_trial) for part in snapshot.by_metric}
            or None,
            "began_at": snapshot.began_at,
            "last_event_at": snapshot.last_at or None,
            "seconds": snapshot.seconds,
            "num_drivers": snapshot.num_drivers,
            "cpu_seconds": snapshot.used["CPU"],
            "gpu_seconds": snapshot.used["GPU"],
            "idle_cpu_seconds": snapshot.idle["CPU"] if snapshot.idle else None,
            "idle_gpu_seconds": snapshot.idle["GPU"] if snapshot.idle else None,
        }

    def _best(self, best: TrialRecord | None) -> dict[str, Any] | None:
        if best is None:
            return None
        return {
            "trial_id": best.trial_id,
            "value": best.score,
            "iteration": best.scored_in,
            "config": best.config,
            "checkpoint": self.checkpoint(best),
        }

    def trial_documents(self) -> list[dict[str, Any]]:
        """Return what `show` says of each trial, the best first."""
        fronts = self.snapshot.fronts
        return [self.trial_document(trial, fronts) for trial in self.snapshot.ranked]

    def trial_document(self, trial: TrialRecord, fronts: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return what `show` says of one trial, as documented; `fronts` are the snapshot's, if they are known."""
        names, is_several = self.snapshot.objective.names, bool(self.snapshot.by_metric)
        scores = trial.scores if is_several else (trial.score,)
        front = (self.snapshot.fronts if fronts is None else fronts).get(trial.trial_id)
        return {
            "trial_id": trial.trial_id,
            "number": trial.number,
            "name": trial.name,
            "path": f"{self.storage.url}/{trial.dirname}",
            "status": str(trial.status),
            "reason": trial.reason,
            "is_paused_by_user": self.replay.controller.trials[trial.trial_id].is_paused_by_user,
            "config": trial.config,
            "iterations": trial.iterations,
            "score": trial.score,
            "scores": dict(zip(names, scores, strict=False)),
            "front": None if front is None else front + 1,
            "best": trial.best,
            "best_iteration": trial.best_iteration,
            "last": trial.last,
            "checkpoint": self.checkpoint(trial),
            "attempts": trial.attempts,
            "failures": trial.failures,
            "error": trial.error,
            "seconds": trial.seconds,
            "cpu_seconds": trial.used.get("CPU", 0.0),
            "gpu_seconds": trial.used.get("GPU", 0.0),
        }

    def failures(self, trial_ids: Collection[str] | None = None) -> list[dict[str, Any]]:
        """Return why trials failed, as documented: each way once, the most frequent first.

        Args:
            trial_ids: Of these trials only; None: of all.
        """
        failures = self.snapshot.failures
        if trial_ids is not None:
            failures = [failure for failure in failures if failure.trial_id in trial_ids]
        return [
            {
                "count": group.count,
                "error": group.first.line,
                "place": group.first.place,
                "first_trial": group.first.trial_id,
                "trial_ids": list(group.trial_ids),
                "traceback": group.file(self.storage.url),
            }
            for group in group_failures(failures)
        ]

    def failure_lines(self) -> list[str]:
        """Return why trials failed, for a person."""
        return failure_lines(self.snapshot.failures, self.storage.url)

    def checkpoint(self, trial: TrialRecord) -> str | None:
        """Return where the checkpoint is that goes with the trial's score."""
        if trial.checkpoint is None:
            return None
        return f"{self.storage.url}/{trial.dirname}/{trial.checkpoint}"

    @property
    def has_succeeded(self) -> bool:
        """Whether it ended by itself, with a trial that ended well, or without any trial."""
        trials = self.snapshot.trials
        return self.status == "ended" and (
            not trials or any(trial.status is Status.TERMINATED for trial in trials)
        )


def compared_by(snapshot: ExperimentSnapshot) -> dict[str, Any]:
    """Return by what trials are compared, as documented: `metric` and `mode` are lists if there are several."""
    objective = snapshot.objective
    return {
        "metric": objective.plain_metric,
        "mode": objective.plain_mode if objective.names else None,
        "best_scope": objective.scope if objective.names else None,
    }


def read_experiment(
    storage: ExperimentStorage, metric: str | None = None, mode: str | None = None
) -> Reading:
    """Read an experiment.

    Args:
        storage: Where it is.
        metric: What trials are compared by; None: what the experiment says.
        mode: "min" or "max".

    Raises:
        ConfigError: A metric without a mode, or the other way round; or there is no such mode, or no trial has
            reported the metric.
        StorageError: The journal is damaged, or the storage does not answer.
    """
    if (metric is None) != (mode is None):
        raise ConfigError(f"metric={metric!r}, mode={mode!r}: give both, or neither")
    if mode not in (None, "min", "max"):
        raise ConfigError(f"mode={mode!r}: expected 'min' or 'max'")
    newest = last_segment(storage)  # first, so that what ends meanwhile is not called dead
    wanted = storage.experiment_id or (newest.experiment_id if newest is not None else None)
    last: Segment | None = None

    def records() -> Iterator[Record]:
        nonlocal last
        for segment in read_segments(storage, wanted):
            last = _newer(last, segment, newest)
            yield from segment.records

    replay, overview = follow(records, metric, mode)
    reading = Reading(storage, _status(storage.url, replay, last, newest), replay, overview.snapshot())
    if metric is not None and all(trial.best is None for trial in reading.snapshot.trials):
        _refuse_unreported(metric, [trial.last_row for trial in reading.replay.trials])
    return reading


def read_experiments(storage: ExperimentStorage) -> list[Reading]:
    """Read every experiment of one name, in one go through their journal; in the order in which they began.

    Raises:
        StorageError: The journal is damaged, or the storage does not answer.
    """
    newest = last_segment(storage)  # first, as above
    found: dict[str, Following] = {}
    last: dict[str, Segment | None] = {}
    for segment in read_segments(storage):
        key = segment.experiment_id
        found.setdefault(key, Following()).take(segment.records)
        last[key] = _newer(last.get(key), segment, newest)
    readings = []
    for number, (key, following) in enumerate(found.items(), 1):
        is_latest = newest is not None and key == newest.experiment_id
        each = storage if is_latest else storage.only(key, number)
        if following.other_objective(None, None) is not None:
            readings.append(read_experiment(each))
            continue
        replay, snapshot = following.replay, following.overview.snapshot()
        readings.append(Reading(each, _status(each.url, replay, last[key], newest), replay, snapshot))
    return readings


def _newer(last: Segment | None, segment: Segment, newest: Segment | None) -> Segment | None:
    """Return the segment that tells of the driver: what came after `newest` was found tells nothing of it."""
    return segment if newest is None or segment.number <= newest.number else last


def _status(url: str, replay: Replay, last: Segment | None, newest: Segment | None) -> str:
    if replay.is_over:
        return "ended"
    if last is None or last.is_last:
        return "interrupted"
    if newest is None or last.experiment_id != newest.experiment_id:
        return "died"  # another experiment has taken the journal since
    return driver_status(url, last.owner)


def _refuse_unreported(metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a metric that no trial has reported, unless none has reported anything: then it may still come."""
    reported = [row for row in rows if row]
    if not reported:
        return
    names = dict.fromkeys(
        name for row in reported for name, value in flatten(user_metrics(row)).items() if is_number(value)
    )
    raise ConfigError(
        f"metric={metric!r}: no trial has reported a number of that name{suggestion(metric, names)}; there are "
        f"{first_few(names, _NAMES_SHOWN) or 'none'}"
    )
