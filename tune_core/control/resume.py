"""Takes an experiment up where its journal ends.

A replay applies what was chosen and never asks again: searcher, scheduler and stoppers are told
what happened, in the order in which they were told when it was new, so that they know what they
would know had nothing died. Executes nothing that is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tune_core.config.resume_config import ResumeConfig
from tune_core.config.space_change import has_other_space, space_changes
from tune_core.config.spec import is_kind_of, resolve_objects
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.experiment import Continuation, Experiment
from tune_core.control.messages import (
    CapacityChanged,
    Command,
    CompleteTrial,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    PausedChosen,
    SpecRecorded,
    StateSaved,
    TrialReported,
    TrialSuggested,
    WarmStarted,
    WatchersSaved,
)
from tune_core.control.policy import Policy
from tune_core.control.segments import events_of, experiments, read_journal
from tune_core.control.state import ExperimentState
from tune_core.control.warm_start import LocateRuns, take_warm_start
from tune_core.control.watchers import Watchers
from tune_core.encoding import opaque_texts
from tune_core.errors import SpecError, StorageError
from tune_core.references import is_reference_text
from tune_core.stopper import DictStopper
from tune_core.storage.commit import CheckpointMarker
from tune_core.storage.experiment_storage import RESTARTED, ExperimentStorage
from tune_core.training.resource_requests import resources_of
from tune_core.trial import Status, Trial, checkpoint_name

_logger = logging.getLogger("prefect.tune")

Records = Iterable[tuple[Event, Sequence[str]]]
#: Called with each report that counts, after the controller has taken it.
Observer = Callable[[Trial, TrialReported], None]


class Replay:
    """Applies what a journal holds to an experiment's state, and tells searcher, scheduler and stoppers of it.

    Args:
        controller: Decides what follows from each event.
        policy: What is told; None: nobody is.
        resolve: Gives a configuration back the objects that JSON could not hold.
        watchers: Who is given back what they had counted; None: nobody is.

    Attributes:
        state: What all of it has come to; events that are new are applied to the same.
        controller: Its controller.
        trials: All trials in creation order.
        has_state: Whether what searcher and scheduler saved last is of these kinds.
    """

    def __init__(
        self,
        controller: Controller,
        policy: Policy | None = None,
        resolve: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        watchers: Watchers | None = None,
    ) -> None:
        self.state = ExperimentState(controller)
        self.controller, self.trials = controller, self.state.trials
        self.policy, self.resolve, self.watchers = policy, resolve, watchers
        self.has_state = False

    def run(self, records: Records, observe: Observer | None = None) -> Replay:
        """Apply the events of a journal, as `read_journal` yields them; return this replay."""
        for event, _ in records:
            self.apply(event, observe)
        return self

    def apply(self, event: Event, observe: Observer | None = None) -> list[Command]:
        """Apply one event; return the commands that followed, which have been carried out or are void."""
        event = self._resolved(event)
        trial = self._reporting(event)
        self._tell_before(event, trial)
        commands = self.state.apply(event)
        if self.policy is not None:
            if isinstance(event, (ExperimentStarted, ExperimentResumed, CapacityChanged)):
                self.policy.note_cluster(event)
            if isinstance(event, TrialSuggested):
                self.policy.add(self.trials, self.trials[-1])
            for command in commands:
                if isinstance(command, CompleteTrial):
                    self.policy.complete(self.trials, self.controller.trials[command.trial_id])
        if trial is not None and observe is not None and isinstance(event, TrialReported):
            observe(trial, event)
        return commands

    @property
    def spec(self) -> SpecRecorded | None:
        """What `SpecRecorded` said last; None before that."""
        return self.state.spec

    @property
    def ended_at(self) -> dict[str, float]:
        """When each finished trial ended, epoch seconds."""
        return self.state.ended_at

    @property
    def live(self) -> list[Trial]:
        """Trials with an attempt that was live when the journal ended."""
        return self.state.live

    @property
    def is_over(self) -> bool:
        """Whether the experiment had come to its own end: nothing interrupted it."""
        return self.state.is_over

    @property
    def budget_used_s(self) -> float:
        """Seconds of `time_budget_s` that drivers have used up; one that had ended the experiment starts over."""
        return self.state.budget_used_s

    @property
    def unsettled(self) -> list[Trial]:
        """Trials whose files may lack what the journal holds."""
        return self.state.unsettled

    def _resolved(self, event: Event) -> Event:
        if isinstance(event, TrialSuggested):
            return replace(event, config=self.resolve(event.config))
        if isinstance(event, TrialReported) and event.exploit is not None:
            return replace(event, exploit=replace(event.exploit, config=self.resolve(event.exploit.config)))
        if isinstance(event, PausedChosen) and event.exploits:
            exploits = {
                name: replace(choice, config=self.resolve(choice.config))
                for name, choice in event.exploits.items()
            }
            return replace(event, exploits=exploits)
        return event

    def _reporting(self, event: Event) -> Trial | None:
        """The trial that a report belongs to; None if the report does not count."""
        if not isinstance(event, TrialReported):
            return None
        trial = self.controller.live_trial(event.trial_id, event.attempt_number)
        return trial if trial is not None and event.iteration > trial.iteration else None

    def _tell_before(self, event: Event, trial: Trial | None) -> None:
        """Tell what was told before the controller handled the event."""
        if isinstance(event, WatchersSaved) and self.watchers is not None:
            self.watchers.replay(event)
        policy = self.policy
        if policy is None:
            return
        if isinstance(event, SpecRecorded) and "tune_config" in event.spec:
            before = event.spec["tune_config"]["search_alg"]
            policy.is_other_searcher = not is_kind_of(before, policy.searcher)
            if self.spec is not None and has_other_space(self.spec.spec, event.spec):
                policy.replay_space_change()
        if isinstance(event, WarmStarted):
            policy.replay_warm_start(event, self.resolve)
        elif isinstance(event, StateSaved):
            self.has_state = policy.set_state(event)
        elif isinstance(event, TrialSuggested):
            policy.replay_suggestion(event)
        elif isinstance(event, PausedChosen):
            policy.replay_choice(self.trials, event)
        elif isinstance(event, ExperimentResumed):
            policy.resume(self.trials, event)
        elif isinstance(event, TrialReported) and trial is not None:
            result = trial.result_of(event.row)
            policy.replay_report(self.trials, trial, event.row, result, event.decision)


def start_or_resume(
    experiment: Experiment,
    replay: Replay,
    apply: Callable[[Event], None],
    *,
    recover: Callable[[Trial], None],
    clock: Callable[[], float],
    capacity: int,
    total: Mapping[str, float] | None = None,
    locate_runs: LocateRuns | None = None,
) -> None:
    """Begin an experiment, or go on with one that was replayed.

    Args:
        experiment: What is run, as it is now.
        replay: What was before; a fresh one if nothing was.
        apply: Journals an event and does what follows from it; only the last one has to be written at once.
        recover: Reports what a trial's live attempt has committed and not reported.
        clock: Seconds since the epoch.
        capacity: So many trials of the usual size fit the cluster at once.
        total: What the cluster has of each resource; None: that is not known.
        locate_runs: Finds the experiments of a deployment, to learn from them; None: nobody can.

    Raises:
        SpecError: A trial that has to run again has a value that cannot be loaded.
        ConfigError: Nothing can be learnt from the earlier experiments of `TuneConfig.warm_start`.
    """
    policy, recorded = replay.policy, replay.spec
    assert policy is not None
    continuation = experiment.continuation or Continuation()
    resumed = resumption(replay, clock(), capacity, continuation.config, continuation.may_go_on)
    again = _who_runs_again(replay, resumed)
    _refuse_opaque(experiment, again)
    total = dict(total or {})
    resumed = replace(resumed, resources=_changed_resources(experiment, again), total=total)
    warm, is_first = None, replay.state.warm_start is None and not replay.trials
    state = None
    if is_first:
        state = None if replay.has_state else policy.state()  # before it learns
        run, storage = experiment.run_config, experiment.storage
        warm = take_warm_start(policy, run, storage, now=clock(), locate_runs=locate_runs)
    if replay.live:
        apply(CapacityChanged(clock(), 0))  # nothing starts until all is known
    for trial in replay.live:
        recover(trial)
    spec, rules = experiment.spec(), asdict(experiment.rules(policy))
    if recorded is None or (recorded.spec, recorded.rules) != (spec, rules):
        event = SpecRecorded(clock(), recorded.revision + 1 if recorded else 1, spec, rules)
        if recorded is not None and has_other_space(recorded.spec, spec):
            changes = "; ".join(map(str, space_changes(recorded.spec["param_space"], spec["param_space"])))
            _logger.info("the search space is another from here on: %s", changes)
            policy.replay_space_change()
        apply(event)
    if not is_first:
        state = None if replay.has_state else policy.state()
    for taken in (state, warm):
        if taken is not None:
            apply(taken)
    if recorded is None:
        if experiment.tune_config.trial_dirname_creator is not None:
            policy.refuse_dirnames(experiment.storage.list())  # of earlier experiments of this name
        apply(ExperimentStarted(clock(), capacity, total))
        return
    policy.resume(replay.trials, resumed)
    apply(resumed)


def _who_runs_again(replay: Replay, resumed: ExperimentResumed) -> list[Trial]:
    again = {*resumed.reopened, *resumed.restarted}
    return [
        trial
        for trial in replay.trials
        if trial.trial_id in again or not (trial.is_finished() or trial.trial_id in resumed.skipped)
    ]


def _refuse_opaque(experiment: Experiment, trials: Sequence[Trial]) -> None:
    """Refuse to run a trial with a value of which only the text is left."""
    for trial in trials:
        resolved, left = resolve_objects(trial.config, experiment.param_space)
        if left:
            advice = "Pass Tuner.restore the param_space that has them, or resume_unfinished=False"
            if any(map(is_reference_text, opaque_texts(resolved))):
                advice += (
                    ". Ray's references end with the process that made them, and of several at one place nobody "
                    "knows which it was: give their values with tune.with_parameters, and choose them by name"
                )
            raise SpecError(
                f"trial {trial.trial_id} cannot go on: its config holds objects that JSON could not store, at "
                f"{', '.join(left)}. {advice}"
            )


def _changed_resources(experiment: Experiment, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """What these trials get, where the trainable now asks for something else than when it was asked last."""
    wanted = {trial.trial_id: resources_of(experiment.trainable, trial.config) for trial in trials}
    return {
        trial.trial_id: wanted[trial.trial_id].to_dict()
        for trial in trials
        if wanted[trial.trial_id] != trial.base_resources
    }


def loosened(before: Any, after: Any) -> Callable[[Trial], bool]:
    """Return whether a trial was ended by the stop rule `before`, and would not be by `after`.

    Args:
        before: The rule as the spec describes it; one that is no plain dict has ended every trial that is `done`.
        after: `RunConfig.stop` from now on; one that is no dict is asked at the next report.
    """
    bounds = (
        before if isinstance(before, Mapping) and not any(key.startswith("$") for key in before) else None
    )

    def may_go_on(trial: Trial) -> bool:
        row = trial.last_row
        if before is None or not row.get("done"):
            return False
        was_ended = bounds is None or DictStopper(dict(bounds))(trial.trial_id, row)
        return was_ended and not (
            isinstance(after, Mapping) and DictStopper(dict(after))(trial.trial_id, row)
        )

    return may_go_on


def resumption(
    replay: Replay,
    time: float,
    capacity: int,
    config: ResumeConfig,
    may_go_on: Callable[[Trial], bool] = lambda _: False,
) -> ExperimentResumed:
    """Return the event that takes a replayed experiment up again.

    Args:
        replay: Where it stands.
        time: Now, in epoch seconds.
        capacity: So many trials fit the cluster at once.
        config: What becomes of trials that are finished, unfinished, or failed.
        may_go_on: Whether a trial that ended without an error has more to do since a rule was loosened.
    """
    kinds = ResumeConfig.ResumeType
    skipped: list[str] = []
    reopened: list[str] = []
    restarted: dict[str, str] = {}
    for trial in replay.trials:
        if not trial.is_finished():
            wanted = config.unfinished
        else:
            wanted = config.errored if trial.status is Status.ERROR else config.finished
        if wanted is kinds.RESTART:
            restarted[trial.trial_id] = (
                f"{RESTARTED.sub('', trial.dirname)}_attempt_{trial.attempt_number + 1}"
            )
        elif not trial.is_finished():
            skipped += [trial.trial_id] if wanted is kinds.SKIP else []
        elif wanted is kinds.RESUME or (trial.status is Status.TERMINATED and may_go_on(trial)):
            reopened.append(trial.trial_id)
    return ExperimentResumed(time, capacity, tuple(skipped), tuple(reopened), restarted)


def read_spec(storage: ExperimentStorage, *, discard_damaged: bool = False) -> SpecRecorded:
    """Return what the journal says last of what an experiment is: of the one that `storage` means and had begun.

    Args:
        storage: Where it is.
        discard_damaged: Whether the journal is read up to its first damaged segment, instead of refused.

    Raises:
        StorageError: There is no experiment, its journal is damaged, or it began with a prefect-tune
            that kept no spec in it.
    """
    found = find_spec(storage, discard_damaged=discard_damaged)
    if found is None:
        raise StorageError(
            f"{storage.url} holds no experiment that can be resumed: expected a journal with a spec in it, "
            "as <storage_path>/<name>/journal/00000001.jsonl"
        )
    return found


def find_spec(storage: ExperimentStorage, *, discard_damaged: bool = False) -> SpecRecorded | None:
    """Return what `read_spec` does; None if there is no experiment.

    Raises:
        StorageError: Its journal is damaged.
    """
    known = experiments(storage, discard_damaged=discard_damaged)
    if storage.experiment_id is not None:
        return last_spec(known.get(storage.experiment_id, []))
    found = (last_spec(segments) for segments in reversed(known.values()))
    return next((spec for spec in found if spec is not None), None)


def steered_spec(storage: ExperimentStorage, experiment_id: str) -> SpecRecorded | None:
    """Return what an experiment is since a request changed it last; None if none did.

    Raises:
        StorageError: Its journal is damaged.
    """
    return last_spec(experiments(storage).get(experiment_id, []), lambda spec: bool(spec.request_id))


def last_spec(
    segments: Sequence[bytes], counts: Callable[[SpecRecorded], bool] = lambda _: True
) -> SpecRecorded | None:
    """Return the last spec of these segments that counts; None if there is none."""
    for data in reversed(segments):
        specs = [event for event in events_of(data) if isinstance(event, SpecRecorded) and counts(event)]
        if specs:
            return specs[-1]
    return None


def reports(storage: ExperimentStorage) -> Iterator[tuple[Trial, TrialReported]]:
    """Yield every report that counts, in order, with its trial as it was then."""
    found: list[tuple[Trial, TrialReported]] = []
    replay = Replay(Controller(ControllerConfig("")))
    for event, _ in read_journal(storage):
        replay.apply(event, lambda trial, report: found.append((trial, report)))
        yield from found
        found.clear()


def unreported(
    markers: Iterable[CheckpointMarker], trial: Trial
) -> Iterator[tuple[int, int | None, dict[str, Any] | None]]:
    """Yield what a trial's latest attempt has committed, by the trial's markers, and the controller does not know.

    Each is an iteration, the index of the checkpoint that came with it or None, and its row; None
    instead of the row if that is known and the checkpoint is not. The trial is looked at between
    them: let the controller take each one before the next is asked for.
    """
    for marker in markers:
        if marker.attempt_number != trial.attempt_number or marker.index <= trial.last_checkpoint_index:
            continue
        first = marker.iteration - len(marker.rows) + 1
        for iteration, row in enumerate(marker.rows[:-1], first):
            if iteration > trial.iteration:
                yield iteration, None, dict(row)
        if marker.iteration > trial.iteration:
            # The row was written before it was known which index was free.
            row = {**marker.rows[-1], "checkpoint_dir_name": checkpoint_name(marker.index)}
            yield marker.iteration, marker.index, row
        else:
            yield marker.iteration, marker.index, None
