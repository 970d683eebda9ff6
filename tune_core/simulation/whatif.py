"""What another scheduler would have made of an experiment: its curves once more, on a virtual clock.

Controller, policy and scheduler are the real ones; trials report what the journal says that they reported. Executes
nothing that is stored. Invariant: where the journal knows no more of a trial, it ends, and is counted as unknown:
nothing is made up.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tune_core.callback import CallbackList
from tune_core.config.run_config import TuneConfig
from tune_core.config.spec import rebuild_tune_config
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.loop import Loop
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    Command,
    Event,
    ExperimentStarted,
    SpecRecorded,
    StartAttempt,
    StateSaved,
    TrialReported,
)
from tune_core.control.namesakes import experiment_at
from tune_core.control.policy import Policy
from tune_core.control.segments import read_journal
from tune_core.control.state import ExperimentState
from tune_core.control.watchers import Watchers
from tune_core.errors import ConfigError, SpecIncomplete, StorageError
from tune_core.init_args import arguments_of
from tune_core.ranking import Objective, Standings
from tune_core.schedulers import FIFOScheduler, TrialScheduler, create_scheduler
from tune_core.search import Searcher, Suggestion
from tune_core.simulation.recording import Curve, Recording, Step, read_recording
from tune_core.simulation.virtual import MemoryJournal, VirtualBackend
from tune_core.states import Decision, Outcome
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.trial import Status, Trial, checkpoint_name
from tune_core.validation import Validator

#: When a replay that comes to no end is given up, in events.
MAX_EVENTS = 20_000_000
_Key = tuple[str, int]


@dataclass(frozen=True)
class TrialOutcome:
    """What the other scheduler would have made of one trial.

    Attributes:
        trial_id: Its id.
        config: Its configuration, as it was suggested.
        recorded_iterations: How many it came to.
        recorded_fate: How it ended: "completed" by itself or by a stop rule, "failed", "stopped" by the
            scheduler, on request or with the experiment, or "unfinished".
        iterations: How many it comes to now.
        fate: The same, besides: "unknown", since the journal knows nothing after these iterations, and the
            scheduler would have gone on. Whom the scheduler paused and never let go on is "stopped" as well.
        recorded_score: What it was compared by.
        score: The same now.
    """

    trial_id: str
    config: dict[str, Any]
    recorded_iterations: int
    recorded_fate: str
    iterations: int
    fate: str
    recorded_score: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Cost:
    """What an experiment takes.

    Attributes:
        reports: How many reports, of all attempts: epochs, for most trainables.
        trial_seconds: Time in which attempts run, of all of them.
        wall_seconds: Time from the beginning to the end, without that between two drivers.
    """

    reports: int
    trial_seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class ReplayResult:
    """What came of a replay.

    Attributes:
        scheduler: The name of the scheduler's class.
        options: The arguments that it was made with.
        metric: What trials are compared by; None: nothing.
        mode: Whether less or more of it is better.
        slots: How many trials ran at once.
        recorded_slots: How many did.
        recorded: What the experiment took.
        cost: What it would take; at least that, if some trials' fates are unknown.
        trials: Each trial, in creation order.
        recorded_best: Id of the best trial; None: none has reported the metric.
        best: The same now.
        decisions: (trial id, iteration, decision, donor) of all reports that are answered other than CONTINUE.
        recorded_decisions: Those of the journal.
        notes: What a reader has to know, as sentences.
    """

    scheduler: str
    options: dict[str, Any]
    metric: str | list[str] | None
    mode: str | list[str] | None
    slots: int
    recorded_slots: int
    recorded: Cost
    cost: Cost
    trials: list[TrialOutcome]
    recorded_best: str | None
    best: str | None
    decisions: list[tuple[str, int, str, str]] = field(repr=False)
    recorded_decisions: list[tuple[str, int, str, str]] = field(repr=False)
    notes: list[str]

    @property
    def unknown(self) -> list[TrialOutcome]:
        """Trials that the scheduler would have let go on beyond what is known."""
        return [each for each in self.trials if each.fate == "unknown"]

    @property
    def stopped(self) -> list[TrialOutcome]:
        """Trials that it would have stopped, or paused for good, before the end of what is known."""
        return [each for each in self.trials if each.fate == "stopped"]

    @property
    def recorded_score(self) -> float | None:
        """The score of the best trial, as it was recorded."""
        return next(
            (each.recorded_score for each in self.trials if each.trial_id == self.recorded_best), None
        )

    @property
    def score(self) -> float | None:
        """The score of the best trial now."""
        return next((each.score for each in self.trials if each.trial_id == self.best), None)

    @property
    def loses_best(self) -> bool | None:
        """Whether the best score is worse than the recorded one; None: that is not known.

        It is not if there is no metric, or if trials of unknown fate might have become better.
        """
        objective = Objective(self.metric, self.mode)
        if self.recorded_score is None:
            return None
        if objective.loss(self.score) <= objective.loss(self.recorded_score):
            return False
        return None if self.unknown else True

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it, with what the properties say."""
        told = ("recorded_score", "score", "loses_best")
        document = {**asdict(self), **{name: getattr(self, name) for name in told}}
        counts = Counter(each.fate for each in self.trials)
        decisions = {
            name: [list(each) for each in document.pop(name)] for name in ("decisions", "recorded_decisions")
        }
        return {**document, "num_by_fate": dict(counts), **decisions}


def replay(
    path: str | os.PathLike[str],
    scheduler: TrialScheduler | str | None = None,
    *,
    slots: int | None = None,
    metric: str | None = None,
    mode: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    storage_filesystem: Any = None,
) -> ReplayResult:
    """Say what another scheduler would have made of an experiment, from the curves in its journal.

    Nothing runs and nothing is written. The trials are the recorded ones in their order, with the times that
    their reports took; a searcher is not asked again. Where the scheduler lets a trial go on beyond its recorded
    end, its fate is "unknown", and the costs are lower bounds. So an experiment that ran without a scheduler tells
    most.

    Args:
        path: `<storage_path>/<name>` of the experiment: a local path or a URL; `<name>@1` for an earlier one.
        scheduler: A new one, or its name for `create_scheduler`; None: the recorded one, made again, which
            repeats the decisions of the journal.
        slots: How many trials run at once, at least 1; None: as many as did.
        metric: What to compare by; None: what the experiment says.
        mode: "min" or "max"; goes with `metric`.
        storage_options: fsspec options for a URL.
        storage_filesystem: An fsspec or pyarrow filesystem that `path` is in.

    Raises:
        ConfigError: An argument cannot work; the scheduler needs a metric, and there is none.
        SpecError: The recorded scheduler cannot be made again: pass one.
        StorageError: There is no experiment, or its journal cannot be read.

    Example:
        >>> import tune_core as tune
        >>> from tune_core.schedulers import ASHAScheduler
        >>> result = tune.replay("s3://bucket/runs/digits", ASHAScheduler(max_t=20))  # doctest: +SKIP
        >>> result.cost.reports, result.loses_best  # doctest: +SKIP

    Source: beyond Ray Tune.
    """
    storage = experiment_at(path, filesystem=storage_filesystem, storage_options=storage_options)
    return replay_stored(storage, scheduler, slots=slots, metric=metric, mode=mode)


def replay_stored(
    storage: ExperimentStorage,
    scheduler: TrialScheduler | str | None = None,
    *,
    slots: int | None = None,
    metric: str | None = None,
    mode: str | None = None,
) -> ReplayResult:
    """Return what `replay` does, of an experiment in a storage."""
    validator = Validator("replay")
    if slots is not None:
        validator.check_integer("slots", slots, minimum=1, also=", or None for as many as there were")
    if (metric is None) != (mode is None):
        validator.add("metric", metric, f"goes with mode, which is {mode!r}: give both, or neither")
    elif mode is not None:
        validator.check_choice("mode", mode, ("min", "max"))
    if scheduler is not None and not isinstance(scheduler, str):
        validator.check_instance("scheduler", scheduler, TrialScheduler)
    validator.raise_any()
    records = list(read_journal(storage))
    if not any(isinstance(event, SpecRecorded) for event, _ in records):
        raise StorageError(
            f"{storage.url} holds no experiment that can be replayed: expected a journal with a spec in it"
        )
    return replay_records(records, scheduler, slots=slots, metric=metric, mode=mode)


def replay_records(
    records: Sequence[tuple[Event, Sequence[str]]],
    scheduler: TrialScheduler | str | None = None,
    *,
    slots: int | None = None,
    metric: str | None = None,
    mode: str | None = None,
) -> ReplayResult:
    """Return what `replay` does, of the records of a journal; there is a `SpecRecorded` in them."""
    spec = [event for event, _ in records if isinstance(event, SpecRecorded)][-1]
    rules = ControllerConfig(**spec.rules)
    objective = rules.objective
    if metric is not None:
        objective = replace(objective, metric=metric, mode=mode)
    recording = read_recording(records, Standings(objective), spec)
    is_recorded = scheduler is None
    if scheduler is None:
        scheduler = _recorded_scheduler(spec)
    elif isinstance(scheduler, str):
        scheduler = create_scheduler(scheduler)
    run = _Rerun(recording, scheduler, objective, slots)
    if is_recorded and recording.scheduler_state is not None:
        run.policy.set_state(StateSaved(0.0, None, recording.scheduler_state))
    run.run()
    return _result(recording, run, objective)


def _recorded_scheduler(spec: SpecRecorded) -> TrialScheduler:
    kept = {"search_alg": None, "trial_name_creator": None, "trial_dirname_creator": None}
    described = {**spec.spec, "tune_config": {**spec.spec["tune_config"], **kept}}
    try:
        return rebuild_tune_config(described).scheduler or FIFOScheduler()
    except SpecIncomplete as error:
        raise SpecIncomplete(
            f"the recorded scheduler cannot be made again ({error}). Pass the one to try: "
            "tune.replay(path, scheduler=…)"
        ) from error


class _Recorded(Searcher):
    """Suggests the recorded configurations in their order."""

    counts_samples = True

    def __init__(self, curves: Sequence[Curve]) -> None:
        super().__init__()
        self._left = deque(curves)

    def suggest(self, trial_id: str) -> Suggestion | str:
        return Suggestion(self._left.popleft().suggested.config) if self._left else self.FINISHED


@dataclass
class _Player:
    """Where a trial is on its curve.

    Attributes:
        curve: What is known of it.
        life: The stretch that it is on.
        is_unknown: Whether nothing more is known.
        num_attempts: How many have begun.
    """

    curve: Curve
    life: int = 0
    is_unknown: bool = False
    has_completed: bool = False
    num_attempts: int = 0


@dataclass
class _Attempt:
    trial: Trial
    attempt_number: int
    began: float
    wants_stop: bool = False


class _Rerun(VirtualBackend):
    """The trials of a recording once more, under another scheduler."""

    def __init__(
        self, recording: Recording, scheduler: TrialScheduler, objective: Objective, slots: int | None
    ) -> None:
        super().__init__()
        self.recording, self.scheduler = recording, scheduler
        self.slots = slots or recording.slots
        self.capacity = slots or recording.capacity
        self.time = recording.began
        self.standings = Standings(objective)
        self.decisions: list[tuple[str, int, str, str]] = []
        self.players: list[_Player] = [_Player(curve) for curve in recording.curves.values()]
        self.reports, self.trial_s = 0, 0.0
        rules = replace(
            ControllerConfig(**recording.spec.rules), metric=objective.plain_metric, mode=objective.plain_mode
        )
        self.policy = _policy_of(scheduler, objective, recording, lambda: self.time)
        self.state = ExperimentState(Controller(rules))
        self.loop = Loop(
            self.state,
            self.policy,
            MemoryJournal(self.state, MAX_EVENTS),
            self,
            watchers=Watchers(None, CallbackList(()), wall_clock=lambda: self.time),
            callbacks=CallbackList(()),
            wall_clock=lambda: self.time,
        )
        self.take_from(self.loop)
        self._waiting: deque[StartAttempt] = deque()
        self._attempts: dict[_Key, _Attempt] = {}

    def run(self) -> None:
        """Run it to its end."""
        spec = self.recording.spec
        self.loop.apply(SpecRecorded(self.time, 1, spec.spec, asdict(self.state.controller.rules)))
        self.loop.apply(ExperimentStarted(self.time, self.capacity, self.recording.total))
        self.loop.run()

    def player(self, trial: Trial) -> _Player:
        """Return where a trial is."""
        return self.players[trial.number]

    # What the loop orders, and tells.

    def start(self, trial: Trial, order: StartAttempt) -> None:
        self._waiting.append(order)
        self.later(0.0, self._fill, rank=-1)

    def stop(self, trial: Trial, attempt_number: int) -> None:
        for order in self._waiting:
            if (order.trial_id, order.attempt_number) == (trial.trial_id, attempt_number):
                self._waiting.remove(order)
                self.loop.apply(AttemptEnded(self.time, trial.trial_id, attempt_number, Outcome.STOPPED))
                return
        self._attempts[trial.trial_id, attempt_number].wants_stop = True

    def answer(self, trial: Trial, decision: Decision) -> None:
        """Its attempt looks at the decision after each report."""

    def delete_checkpoint(self, trial: Trial, index: int) -> None:
        """There are no bytes."""

    def decided(
        self,
        trial: Trial,
        row: dict[str, Any],
        result: dict[str, Any],
        decision: Decision,
        checkpoint: int | None,
    ) -> tuple[dict[str, Any], int | None]:
        saves = self.state.controller.rules.saves_on_request
        if decision is Decision.PAUSE and saves and checkpoint is None:
            checkpoint = trial.last_checkpoint_index + 1
            row["checkpoint_dir_name"] = checkpoint_name(checkpoint)
        return row, checkpoint

    def noted(self, event: Event, commands: Sequence[Command]) -> None:
        if not isinstance(event, TrialReported):
            return
        trial = self.state.controller.trials[event.trial_id]
        self.reports += 1
        self.standings.note(trial, event.iteration, event.row)
        if event.decision is not Decision.CONTINUE:
            donor = event.exploit.donor if event.exploit is not None else ""
            self.decisions.append((event.trial_id, event.iteration, str(event.decision), donor))

    def idle(self) -> None:
        raise AssertionError(f"nothing happens any more, at {self.time:g} s: {self.state.trials}")

    # Attempts.

    def _fill(self) -> None:
        while self._waiting and len(self._attempts) < self.slots:
            order = self._waiting.popleft()
            trial = self.state.controller.trials[order.trial_id]
            attempt = _Attempt(trial, order.attempt_number, self.time)
            self._attempts[order.trial_id, order.attempt_number] = attempt
            player = self.player(trial)
            starts = player.curve.starts
            delay, rank = self.recording.starts_s, 0
            if player.num_attempts < len(starts):
                delay, rank = starts[player.num_attempts]
            player.num_attempts += 1
            self.later(delay, lambda attempt=attempt: self._begin(attempt), rank)  # type: ignore[misc]

    def _begin(self, attempt: _Attempt) -> None:
        trial = attempt.trial
        attempt.began = self.time
        self.loop.apply(
            AttemptStarted(self.time, trial.trial_id, attempt.attempt_number, 0, "replayed", "replayed")
        )
        self._train(attempt)

    def _train(self, attempt: _Attempt) -> None:
        trial = attempt.trial
        player, iteration = self.player(trial), trial.iteration + 1
        stretch = player.curve.stretches[player.life]
        step = player.curve.step(player.life, iteration)
        if attempt.wants_stop:
            self._end(attempt, Outcome.STOPPED)
        elif player.is_unknown:
            self._give_up(attempt)
        elif stretch.failure is not None and iteration > stretch.failed_after:
            self.later(stretch.end[0], lambda: self._fail(attempt), stretch.end[1])
        elif step is not None:
            self.later(step.spent_s, lambda: self._report(attempt, iteration, step), step.rank)
        elif stretch.is_whole and (iteration - 1 in stretch.steps or not stretch.steps):
            player.has_completed = True
            self.later(stretch.end[0], lambda: self._end(attempt, Outcome.COMPLETED), stretch.end[1])
        else:
            self._give_up(attempt)

    def _give_up(self, attempt: _Attempt) -> None:
        """End a trial of which nothing more is known."""
        self.player(attempt.trial).is_unknown = True
        self._end(attempt, Outcome.STOPPED)

    def _report(self, attempt: _Attempt, iteration: int, step: Step) -> None:
        trial, player = attempt.trial, self.player(attempt.trial)
        if attempt.wants_stop:
            self._end(attempt, Outcome.STOPPED)
            return
        row, index = dict(step.row), None
        if step.checkpoint is not None:
            index = max(step.checkpoint, trial.last_checkpoint_index + 1)
        self.loop.report(trial, iteration, index, row)
        if trial.decision is Decision.CONTINUE and not attempt.wants_stop:
            self._train(attempt)
            return
        if trial.decision is Decision.EXPLOIT:
            self._take_over(player, trial, step)
        left, rank = step.left or (self.recording.leaves_s, step.rank)
        self.later(left, lambda: self._end(attempt, Outcome.STOPPED), rank)

    def _take_over(self, player: _Player, trial: Trial, step: Step) -> None:
        """Go on with another configuration: only what the journal has seen is known of it."""
        then, now = step.exploit, trial.exploit
        is_same = then is not None and now is not None
        is_same = is_same and (then.donor, then.config) == (now.donor, now.config)  # type: ignore[union-attr]
        lives = player.curve.stretches
        generation = lives[player.life].generation
        following = [place for place, each in enumerate(lives) if each.generation == generation + 1]
        if is_same and following:
            player.life = following[0]
        else:
            player.is_unknown = True

    def _fail(self, attempt: _Attempt) -> None:
        player = self.player(attempt.trial)
        failure = player.curve.stretches[player.life].failure
        assert failure is not None
        if player.life + 1 < len(player.curve.stretches):
            player.life += 1
        self._end(attempt, failure.outcome, failure)

    def _end(self, attempt: _Attempt, outcome: Outcome, failure: AttemptEnded | None = None) -> None:
        trial = attempt.trial
        del self._attempts[trial.trial_id, attempt.attempt_number]
        self.trial_s += self.time - attempt.began
        ended = AttemptEnded(self.time, trial.trial_id, attempt.attempt_number, outcome)
        if failure is not None:
            ended = replace(ended, error=failure.error, retryable=failure.retryable)
        self.loop.apply(ended)
        self._fill()


def _policy_of(scheduler: TrialScheduler, objective: Objective, recording: Recording, clock: Any) -> Policy:
    has_own = scheduler.metric is not None or scheduler.mode is not None
    if scheduler.needs_metric and not has_own and objective.metric is None:
        raise ConfigError(
            f"{type(scheduler).__name__} compares trials by a metric, and the experiment says none: give metric=… and "
            "mode=… (--metric and --mode)"
        )
    given: dict[str, Any] = {} if has_own else {"metric": objective.metric, "mode": objective.mode}
    config = TuneConfig(search_alg=_Recorded([*recording.curves.values()]), num_samples=-1, **given)
    config.scheduler = scheduler  # not checked against a searcher: none is asked

    def trainable(config: dict[str, Any]) -> None:
        """Stands for what the journal says."""

    saves = bool(recording.spec.rules.get("saves_on_request"))
    name = str(recording.spec.spec.get("trainable", "trainable"))
    return Policy(config, None, {}, trainable, name, saves_on_request=saves, wall_clock=clock)


def _fate(player: _Player, trial: Trial | None) -> str:
    if trial is None or not trial.is_finished():
        return "unfinished"
    if trial.status is Status.ERROR:
        return "failed"
    if player.is_unknown:
        return "unknown"
    if player.has_completed or trial.last_row.get("done"):
        return "completed"
    stretch = player.curve.stretches[player.life]
    if stretch.is_whole and trial.iteration == max(stretch.steps, default=0):
        return "completed"  # told to stop where it would have ended
    return "stopped"


def _result(recording: Recording, run: _Rerun, objective: Objective) -> ReplayResult:
    trials = {trial.number: trial for trial in run.state.trials}
    outcomes = []
    for number, (trial_id, curve) in enumerate(recording.curves.items()):
        trial = trials.get(number)
        outcomes.append(
            TrialOutcome(
                trial_id,
                curve.suggested.config,
                curve.iterations,
                curve.fate,
                trial.iteration if trial is not None else 0,
                _fate(run.players[number], trial),
                curve.score,
                run.standings.score(trial) if trial is not None else None,
            )
        )
    wall = run.time - recording.began
    best, recorded_best = run.standings.best, recording.standings.best
    return ReplayResult(
        scheduler=type(run.scheduler).__name__,
        options=arguments_of(run.scheduler),
        metric=objective.plain_metric,
        mode=objective.plain_mode,
        slots=run.slots,
        recorded_slots=recording.slots,
        recorded=Cost(recording.reports, recording.trial_s, recording.wall_s),
        cost=Cost(run.reports, run.trial_s, wall),
        trials=outcomes,
        recorded_best=recorded_best.trial_id if recorded_best is not None else None,
        best=best.trial_id if best is not None else None,
        decisions=run.decisions,
        recorded_decisions=recording.decisions,
        notes=[*recording.notes, *_notes(recording)],
    )


def _notes(recording: Recording) -> list[str]:
    notes = []
    searcher = recording.spec.spec["tune_config"].get("search_alg")
    if isinstance(searcher, Mapping) and searcher.get("$object") != "BasicVariantGenerator":
        name = searcher.get("$object") or searcher.get("$undescribed", "the searcher")
        notes.append(f"{name} is not asked again: it might have suggested otherwise")
    stop = recording.spec.spec["run_config"].get("stop")
    if isinstance(stop, Mapping) and any(key.startswith("$") for key in stop):
        notes.append("stoppers are not asked again: reports that they ended are the ends of their trials")
    return notes
