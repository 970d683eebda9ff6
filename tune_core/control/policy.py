"""What chooses: searcher, scheduler and stoppers, asked and told at the right moments.

The shell owns one `Policy`. Every answer becomes part of an event, so replay applies it and
never asks again. None of the three ever holds the controller: they see trials and rows, and
return values.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tune_core.config.run_config import TuneConfig
from tune_core.control.messages import (
    CapacityChanged,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    PausedChosen,
    SearchEnded,
    StateSaved,
    SuggestionDeferred,
    TrialSuggested,
    WarmStarted,
)
from tune_core.control.own_state import has_foreign_state, restore_state, saved_state
from tune_core.control.reallocation import Reallocation
from tune_core.control.scheduler_answers import choosable, choose_paused, exploit_choice, reason_of
from tune_core.errors import ConfigError, StorageError
from tune_core.metrics import flatten, lookup
from tune_core.resources import PlacementGroupFactory
from tune_core.schedulers import Exploit, FIFOScheduler, Reallocate, TrialScheduler
from tune_core.search import BasicVariantGenerator, Searcher, Suggestion, fill_in, unresolved_paths
from tune_core.search.searcher import note_asked
from tune_core.search.variants import added_variant, experiment_tag, trial_dirname
from tune_core.states import Decision, ExploitChoice
from tune_core.stopper import DictStopper, Stopper, resolve_stop
from tune_core.storage.experiment_storage import check_trial_dirname
from tune_core.training.resource_requests import resources_of
from tune_core.training.trainable import is_trainable_class
from tune_core.trial import Status, Trial

_DECISIONS = {decision.value: decision for decision in Decision if decision is not Decision.EXPLOIT}

_logger = logging.getLogger(__name__)


class Policy:
    """The searcher, scheduler and stoppers of one experiment.

    Args:
        tune_config: Which searcher and scheduler, for which metric.
        stop: `RunConfig.stop`.
        param_space: The search space.
        trainable: Whose resources each configuration is given.
        trainable_name: Goes into directory names.
        saves_on_request: Whether the trainable saves when it is told to pause.
        wall_clock: Seconds since the epoch; dates directory names.
    """

    def __init__(
        self,
        tune_config: TuneConfig,
        stop: Any,
        param_space: dict[str, Any],
        trainable: Callable[..., Any],
        trainable_name: str,
        *,
        saves_on_request: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = tune_config
        self._trainable, self._trainable_name = trainable, trainable_name
        self._wall_clock = wall_clock
        self.searcher: Searcher = tune_config.search_alg or BasicVariantGenerator()
        self.scheduler: TrialScheduler = tune_config.scheduler or FIFOScheduler()
        #: ControllerConfig that the session checks by itself, so that no report has to wait for them.
        self.local_stop: dict[str, float] = dict(stop) if isinstance(stop, Mapping) else {}
        self.stopper: Stopper | None = None if isinstance(stop, Mapping) else resolve_stop(stop)
        self._param_space = param_space
        limit = tune_config.max_concurrent_trials
        #: Whether the searcher keeps to `max_concurrent_trials` by itself. It would count trials that are paused.
        self._searcher_limits = (
            bool(limit) and not self.resumes_first and self.searcher.set_max_concurrency(limit or 0)
        )
        self._draws = draws = self.searcher.set_search_properties(
            tune_config.metric, tune_config.mode, param_space, num_samples=tune_config.num_samples
        )
        if not draws:
            self._refuse_unresolved(
                param_space, "does not draw from param_space, which has samplers or grids"
            )
        if not self.scheduler.set_search_properties(tune_config.metric, tune_config.mode):
            name, own = type(self.scheduler).__name__, (self.scheduler.metric, self.scheduler.mode)
            raise ConfigError(
                f"TuneConfig(metric={tune_config.metric!r}, mode={tune_config.mode!r}): {name} was given "
                f"metric and mode {own} already; give them in one place, and each experiment its own scheduler"
            )
        self._saves_on_request = self.scheduler.saves_on_request = saves_on_request
        #: Whether the searcher has taken the place of one of another class, which suggested what is replayed.
        self.is_other_searcher = False
        self._has_warned = False
        #: Trials whose end the searcher knows: one that is reopened ends twice.
        self._completed: set[str] = set()
        #: Directories of all trials so far, by which their checkpoints are kept apart.
        self._dirnames: set[str] = set()
        #: Whether a stopper has ended the trial whose report was decided on last.
        self._stopper_hit = False
        #: Whether the searcher had nothing new when it was asked last.
        self._has_nothing_new = False
        #: Trials that somebody added, and those of them that the searcher does not learn from.
        self._added: set[str] = set()
        self._untold: set[str] = set()
        if is_trainable_class(trainable) and not saves_on_request:
            self._warn_of_no_checkpoints(f"{trainable_name} has no save_checkpoint method: write it")
        #: Grants trials other bundles.
        self.reallocation = Reallocation(type(self.scheduler).__name__, saves_on_request=saves_on_request)

    @property
    def waits_for_decisions(self) -> bool:
        """Whether something here could answer a report with other than CONTINUE."""
        return self.stopper is not None or not self.scheduler.always_continues

    @property
    def resumes_first(self) -> bool:
        """Whether the scheduler is asked which paused trial goes on before the searcher is asked for a new one."""
        return self.scheduler.resumes_before_new_trials

    @property
    def may_want_saves(self) -> bool:
        """Whether the scheduler could ask a trial to save, of those that can be asked."""
        asks = type(self.scheduler).wants_checkpoint is not TrialScheduler.wants_checkpoint
        return self._saves_on_request and asks

    @property
    def required_metric(self) -> str | list[str] | None:
        """The metric, or metrics, that the scheduler cannot do without; None if it can without any."""
        return self.scheduler.metric if self.scheduler.needs_metric else None

    @property
    def total_trials(self) -> int | None:
        """How many trials there will be; None if nobody knows."""
        total = getattr(self.searcher, "total_trials", None)
        if not isinstance(total, int) and not self.searcher.counts_samples and not self._config.is_endless:
            total = self._config.num_samples
        return total + len(self._added) if isinstance(total, int) else None

    @property
    def num_samples(self) -> int:
        """`TuneConfig.num_samples`, as it is now."""
        return self._config.num_samples

    @property
    def max_concurrent(self) -> int | None:
        """The tighter of `TuneConfig.max_concurrent_trials`, unless the searcher sees to that, and its own limit."""
        ours = None if self._searcher_limits else self._config.max_concurrent_trials
        limits = (ours, getattr(self.searcher, "max_concurrent", None))
        return min((limit for limit in limits if limit), default=None)

    def suggest(self, trial_id: str, number: int) -> Event:
        """Ask the searcher for a configuration; return its answer as an event."""
        self._has_nothing_new = True
        now = self._wall_clock()
        is_counted = not self.searcher.counts_samples and not self._config.is_endless
        if is_counted and number - len(self._added) >= self._config.num_samples:
            return SearchEnded(now)
        answer = self.searcher.suggest(trial_id)
        note_asked(self.searcher, trial_id)
        if answer is None:
            return SuggestionDeferred(now)
        if answer == Searcher.FINISHED:
            return SearchEnded(now)
        if isinstance(answer, Mapping):
            config = fill_in(self._param_space, answer)
            self._refuse_unresolved(config, "did not choose every value of param_space")
            answer = Suggestion(config, flatten(answer))
        if not isinstance(answer, Suggestion):
            raise ConfigError(
                f"{type(self.searcher).__name__}.suggest returned {answer!r}: "
                "expected a dict, a Suggestion, None, or Searcher.FINISHED"
            )
        event = self._suggested(now, trial_id, number, self._completed_by_scheduler(number, answer))
        self._dirnames.add(event.dirname)
        self._has_nothing_new = False
        return event

    def _completed_by_scheduler(self, number: int, answer: Suggestion) -> Suggestion:
        """Let the scheduler put in what the search space leaves to it; what it adds shows in the trial's tag."""
        config = self.scheduler.fill_in(number, answer.config)
        if config is answer.config:
            return answer
        before, after = flatten(answer.config), flatten(config)
        added = {path: value for path, value in after.items() if path not in before}
        return Suggestion(config, {**answer.varied, **added})

    def add_configuration(
        self, request_id: str, trial_id: str, number: int, config: Mapping[str, Any]
    ) -> TrialSuggested:
        """Return the trial that somebody wants besides those of the searcher, which has taken note of it.

        Args:
            request_id: The request for it.
            trial_id: The trial's id.
            number: How many trials there are.
            config: What was asked for.

        Raises:
            ConfigError: It is none of the search space.
        """
        chosen = Suggestion(fill_in(self._param_space, config), flatten(config))
        if self._draws:
            variant = added_variant(self._param_space, config)
            chosen = Suggestion(variant.config, variant.varied)
        chosen = self._completed_by_scheduler(number, chosen)
        event = self._suggested(self._wall_clock(), trial_id, number, chosen, request_id)
        is_told = self.searcher.on_configuration_added(
            event.trial_id, event.config
        )  # before all: it may refuse
        self._note_added(event, is_told=is_told)
        return event

    def _note_added(self, event: TrialSuggested, *, is_told: bool) -> None:
        self._dirnames.add(event.dirname)
        self._added.add(event.trial_id)
        if not is_told:
            self._untold.add(event.trial_id)

    def raise_num_samples(self, num_samples: int) -> None:
        """Let the search go on up to this `TuneConfig.num_samples`."""
        self.searcher.on_num_samples_raised(num_samples)
        self._config = replace(self._config, num_samples=num_samples)

    def _suggested(
        self, now: float, trial_id: str, number: int, answer: Suggestion, request_id: str = ""
    ) -> TrialSuggested:
        tag = experiment_tag(number, answer.varied)
        date = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
        name, dirname = self._names(trial_id, number, answer.config, tag, date)
        if dirname in self._dirnames:
            raise ConfigError(
                f"trial_dirname_creator returned {dirname!r} for trial {trial_id} too: another trial of this "
                "experiment, or an earlier experiment of its name, has that directory. Expected another name for each "
                "trial, such as one with its trial_id in it"
            )
        return TrialSuggested(
            now,
            trial_id,
            answer.config,
            tag,
            dirname,
            self._trainable_name,
            resources_of(self._trainable, answer.config).to_dict(),
            name,
            request_id,
        )

    @property
    def tune_config(self) -> TuneConfig:
        """How to search."""
        return self._config

    @property
    def param_space(self) -> dict[str, Any]:
        """The search space."""
        return self._param_space

    @property
    def draws_from_space(self) -> bool:
        """Whether the searcher draws from it; if not, it has a space of its own."""
        return self._draws

    def change_space(self, space: dict[str, Any]) -> None:
        """Have the searcher go on in another search space.

        Raises:
            ConfigError: It cannot.
        """
        name = type(self.searcher).__name__
        if not self._draws:
            raise ConfigError(f"{name} has a search space of its own: nothing of param_space is drawn from")
        if not self.searcher.on_space_changed(space):
            raise ConfigError(
                f"{name} cannot take another search space while it runs: stop the experiment, and go on with "
                "Tuner.restore(…, param_space=…)"
            )
        self._param_space = space

    def replay_space_change(self) -> None:
        """Tell the searcher that its space was another before; it has been made with the latest one."""
        try:
            self.searcher.on_space_changed(self._param_space)
        except ConfigError as error:
            _logger.warning("the searcher has not taken up that its space has changed: %s", error)

    def tell_earlier(self, config: dict[str, Any], values: list[float]) -> str | None:
        """Tell the searcher of a trial of an earlier experiment; return why it cannot learn from it, if so."""
        try:
            self.searcher.on_earlier_trial(config, values)
        except ConfigError as error:
            return str(error)
        return None

    def try_first(self, points: Sequence[dict[str, Any]]) -> None:
        """Have the searcher suggest these configurations first.

        Raises:
            ConfigError: It does not.
        """
        if points and not self.searcher.on_points_to_try(list(points)):
            raise ConfigError(
                f"WarmStart(max_points=…): {type(self.searcher).__name__} does not take points to run first, or has "
                "begun already: give max_points=0"
            )

    def replay_warm_start(
        self, event: WarmStarted, resolve: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        """Tell the searcher again what was taken from earlier experiments."""
        faults = Counter(
            self.tell_earlier(resolve(point["config"]), point["values"])
            for point in event.points
            if self.searcher.learns_from_earlier
        )
        for fault, count in faults.items():
            if fault is not None:
                _logger.warning("the searcher learns no more from %d earlier trials: %s", count, fault)
        if event.first and not self.searcher.on_points_to_try([resolve(point) for point in event.first]):
            _logger.warning(
                "%s does not know of the points that were to be run first", type(self.searcher).__name__
            )

    def refuse_dirnames(self, names: Iterable[str]) -> None:
        """Let no trial have a directory of one of these names, which exist already."""
        self._dirnames.update(names)

    def add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Tell the scheduler of a new trial."""
        self.scheduler.on_trial_add(trials, trial)

    def decide(
        self,
        trials: Sequence[Trial],
        trial: Trial,
        row: dict[str, Any],
        result: dict[str, Any],
        checkpoint: int | None = None,
    ) -> tuple[Decision, ExploitChoice | PlacementGroupFactory | None]:
        """Answer a report; a stopper's hit is written into `row` and `result` as `done`.

        Args:
            trials: All trials, for reading.
            trial: Whose report it is.
            row: The report, compact, as it will be journaled.
            result: The same with every auto-filled key.
            checkpoint: Index of the checkpoint that came with it, if any.

        Returns:
            The decision and, with EXPLOIT, what was chosen; with CONTINUE, the bundles that the next attempt
            gets, if they are others.
        """
        if self._is_done(trial, row, result):
            return Decision.STOP, None
        if checkpoint is None and trial.start_point is None and not self._saves_on_request:
            self._warn_of_no_checkpoints(
                f"trial {trial.trial_id} has reported without one: report with checkpoint=…"
            )
        decision = Decision.CONTINUE
        chosen: ExploitChoice | PlacementGroupFactory | None = None
        if not self.scheduler.always_continues and not trial.wants_pause:
            answer: Any = self.scheduler.on_trial_result(trials, trial, result)
            if isinstance(answer, Exploit):
                name = f"{type(self.scheduler).__name__}.on_trial_result"
                chosen = exploit_choice(trials, trial, answer, checkpoint, name)
                decision = Decision.EXPLOIT if chosen is not None else Decision.CONTINUE
            elif isinstance(answer, Reallocate):
                chosen = self.reallocation.answer(trial, answer, result, checkpoint)
            elif isinstance(answer, str) and answer in _DECISIONS:
                decision = _DECISIONS[answer]
            else:
                raise ConfigError(
                    f"{type(self.scheduler).__name__}.on_trial_result returned {answer!r}: "
                    f"expected one of {', '.join(_DECISIONS)}, an Exploit or a Reallocate"
                )
        if decision is Decision.PAUSE and checkpoint is None:
            self._warn_of_lost_work(trial)
        if self.may_want_saves and decision is Decision.CONTINUE and self.scheduler.wants_checkpoint(trial):
            row["should_checkpoint"] = result["should_checkpoint"] = True
        self._tell(trial, result, decision)
        return decision, chosen

    def reason(self, trial: Trial, row: dict[str, Any], decision: Decision) -> dict[str, Any]:
        """Return what `decide` has based its answer on, asked right after it; {} if nobody says.

        Args:
            trial: Whose report it was.
            row: The report, as `decide` has left it.
            decision: What it returned.

        Raises:
            ConfigError: The scheduler says what JSON cannot hold.
        """
        if decision is Decision.CONTINUE:
            return {}
        if not row["done"]:
            return reason_of(self.scheduler, trial, decision)
        rule = DictStopper(self.local_stop).reached(row)
        if rule is None and self.stopper is not None and self._stopper_hit:
            return {"decision": str(decision), "stopper": type(self.stopper).__name__}
        return {"decision": str(decision), "rule": rule or "it reported done"}

    def replay_suggestion(self, event: TrialSuggested) -> None:
        """Tell the searcher what it, or one like it, suggested before a resume, or what somebody added."""
        if event.request_id:
            is_told = False
            try:
                is_told = self.searcher.on_configuration_added(event.trial_id, event.config)
            except ConfigError as error:
                _logger.warning(
                    "the searcher does not learn from trial %s any more: %s", event.trial_id, error
                )
            self._note_added(event, is_told=is_told)
            return
        self._dirnames.add(event.dirname)
        asks_again = type(self.searcher).on_suggestion_replayed is Searcher.on_suggestion_replayed
        if asks_again and self.is_other_searcher:
            return
        self.searcher.on_suggestion_replayed(event.trial_id, event.config)

    def replay_report(
        self,
        trials: Sequence[Trial],
        trial: Trial,
        row: dict[str, Any],
        result: dict[str, Any],
        decision: Decision,
    ) -> None:
        """Tell of a report what `decide` told before a resume; what is answered now does not count.

        Args:
            trials: All trials, for reading.
            trial: Whose report it is.
            row: The report as it was journaled.
            result: The same with every auto-filled key.
            decision: What was decided then.
        """
        was_done = row["done"]
        if self._is_done(trial, dict(row), dict(result)) and was_done:
            return
        if not self.scheduler.always_continues and not trial.wants_pause:
            self.scheduler.on_trial_result(trials, trial, result)
        self._tell(trial, result, decision)

    def _tell(self, trial: Trial, result: dict[str, Any], decision: Decision) -> None:
        if decision is not Decision.STOP and trial.trial_id not in self._untold:
            self.searcher.on_trial_result(trial.trial_id, result)

    def replay_choice(self, trials: Sequence[Trial], event: PausedChosen) -> None:
        """Ask the scheduler what `choose` asked before a resume; what is answered now does not count."""
        self.scheduler.trials_to_stop(trials)
        if not event.stopped:
            self.scheduler.exploit_paused(choosable(trials))
        if not (event.stopped or event.exploits):
            self.scheduler.choose_trial_to_run(choosable(trials))

    def resume(self, trials: Sequence[Trial], event: ExperimentResumed) -> None:
        """Tell the scheduler of trials that were over and go on; the searcher has learnt from them already."""
        again = {*event.reopened, *event.restarted}
        for trial in trials:
            if trial.trial_id in again and trial.is_finished():
                self.scheduler.on_trial_add(trials, trial)

    def state(self) -> StateSaved | None:
        """Return what searcher and scheduler save of themselves; None if they save nothing.

        Raises:
            ConfigError: The state has what JSON cannot hold.
        """
        return saved_state(self.searcher, self.scheduler, self._wall_clock())

    @property
    def has_own_state(self) -> bool:
        """Whether one of them is a user's and saves state: unlike the seeds of ours, it may change."""
        return has_foreign_state(self.searcher, self.scheduler)

    def set_state(self, saved: StateSaved) -> bool:
        """Give searcher and scheduler back what they saved; return whether it was theirs.

        What another kind of searcher or scheduler saved, before it was exchanged, is left alone.
        """
        return restore_state(self.searcher, self.scheduler, saved)

    def choose(self, trials: Sequence[Trial]) -> PausedChosen:
        """Ask the scheduler which paused trials never go on, and which does now."""
        now = self._wall_clock()
        return choose_paused(self.scheduler, trials, now, has_nothing_new=self._has_nothing_new)

    def wants_all_stopped(self) -> bool:
        """Whether a stopper ends the whole experiment."""
        return self.stopper is not None and self.stopper.stop_all()

    def complete(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Tell searcher and scheduler that a trial is over."""
        failed = trial.status is Status.ERROR
        result = trial.last_result or None
        metric = self._config.metric
        names = [metric] if isinstance(metric, str) else metric or ()
        has_metric = result is not None and all(lookup(result, name) is not None for name in names)
        has_metric = has_metric and not failed
        is_news = trial.trial_id not in self._completed and trial.trial_id not in self._untold
        self._completed.add(trial.trial_id)
        if is_news:
            told = result if has_metric else None
            if self._is_early(trial, result or {}):
                self.searcher.on_trial_stopped_early(trial.trial_id, told)
            else:
                self.searcher.on_trial_complete(trial.trial_id, told, error=failed)
        if failed:
            self.scheduler.on_trial_error(trials, trial)
        elif trial.decision is Decision.PAUSE:
            self.scheduler.on_trial_remove(trials, trial)
        else:
            self.scheduler.on_trial_complete(trials, trial, result or {})

    def _is_early(self, trial: Trial, result: dict[str, Any]) -> bool:
        """Whether a trial was ended before its own end, a stop rule, or the scheduler's full budget.

        It follows from the journal: from the trial's last row, and from what was decided on it.
        """
        is_cut = trial.status is not Status.ERROR and trial.is_cut_short
        return is_cut and not self.scheduler.is_full_budget(trial, result)

    def _is_done(self, trial: Trial, row: dict[str, Any], result: dict[str, Any]) -> bool:
        """Whether the trial's own word or a stopper ends it; a stopper sees every row, as in Ray Tune."""
        self._stopper_hit = self.stopper is not None and self.stopper(trial.trial_id, result)
        if self._stopper_hit:
            row["done"] = result["done"] = True
        return bool(row["done"])

    def _refuse_unresolved(self, config: dict[str, Any], fault: str) -> None:
        left = unresolved_paths(config)
        if left:
            raise ConfigError(
                f"{type(self.searcher).__name__} {fault}: {', '.join(left)}. Give them to the searcher, or use another"
            )

    def _warn_of_no_checkpoints(self, why: str) -> None:
        if self._has_warned or not self.scheduler.needs_checkpoints:
            return
        self._has_warned = True
        _logger.warning(
            "%s needs checkpoints, and %s. A trial that has saved none when it is paused starts over, and no other "
            "trial can go on from where it is (said once)",
            type(self.scheduler).__name__,
            why,
        )

    def note_cluster(self, event: ExperimentStarted | ExperimentResumed | CapacityChanged) -> None:
        """Tell the scheduler what the cluster has, if an event says it."""
        if event.total:
            self.reallocation.total = event.total
            self.scheduler.on_cluster_changed(dict(event.total))

    @property
    def sees_cluster(self) -> bool:
        """Whether the scheduler wants to know when the cluster changes."""
        return type(self.scheduler).on_cluster_changed is not TrialScheduler.on_cluster_changed

    def _warn_of_lost_work(self, trial: Trial) -> None:
        if trial.start_point is not None or self._saves_on_request or self._has_warned:
            return
        self._has_warned = True
        _logger.warning(
            "%s pauses trial %s, which has never saved a checkpoint: it will start over. "
            "Report with checkpoint=… so that paused trials go on where they were (said once)",
            type(self.scheduler).__name__,
            trial.trial_id,
        )

    def _names(
        self, trial_id: str, number: int, config: dict[str, Any], tag: str, date: str
    ) -> tuple[str, str]:
        """The trial's name, "" for the usual one, and its directory's."""
        usual = trial_dirname(self._trainable_name, trial_id, tag, date)
        if self._config.trial_name_creator is None and self._config.trial_dirname_creator is None:
            return "", usual
        trial = Trial(trial_id, number, config, self._trainable_name, experiment_tag=tag)
        if self._config.trial_name_creator is not None:
            trial.name = str(self._config.trial_name_creator(trial))
        if self._config.trial_dirname_creator is None:
            return trial.name, usual
        dirname: Any = self._config.trial_dirname_creator(trial)
        try:
            return trial.name, check_trial_dirname(dirname)
        except StorageError as error:
            raise ConfigError(f"trial_dirname_creator, for trial {trial_id}: {error}") from None
