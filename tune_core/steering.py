"""What chooses: searcher, scheduler and stoppers, asked and told at the right moments.

The shell owns one `Steering`. Every answer becomes part of an event, so replay applies it and
never asks again. None of the three ever holds the controller: they see trials and rows, and
return values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tune_core.config import TuneConfig
from tune_core.errors import ConfigError
from tune_core.messages import Decision, Event, SearchEnded, SuggestionDeferred, TrialSuggested
from tune_core.metrics import flatten, lookup
from tune_core.resources import resources_of
from tune_core.schedulers import FIFOScheduler, TrialScheduler
from tune_core.search import BasicVariantGenerator, Searcher, Suggestion, fill_in, unresolved_paths
from tune_core.search.variants import experiment_tag, trial_dirname
from tune_core.stoppers import Stopper, resolve_stop
from tune_core.trial import Status, Trial

_DECISIONS = {decision.value: decision for decision in Decision}


class Steering:
    """The searcher, scheduler and stoppers of one experiment.

    Args:
        tune_config: Which searcher and scheduler, for which metric.
        stop: `RunConfig.stop`.
        param_space: The search space.
        trainable: Whose resources each configuration is given.
        trainable_name: Goes into directory names.
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
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = tune_config
        self._trainable, self._trainable_name = trainable, trainable_name
        self._wall_clock = wall_clock
        self.searcher: Searcher = tune_config.search_alg or BasicVariantGenerator()
        self.scheduler: TrialScheduler = tune_config.scheduler or FIFOScheduler()
        #: Rules that the session checks by itself, so that no report has to wait for them.
        self.local_stop: dict[str, float] = dict(stop) if isinstance(stop, Mapping) else {}
        self.stopper: Stopper | None = None if isinstance(stop, Mapping) else resolve_stop(stop)
        self._param_space = param_space
        draws = self.searcher.set_search_properties(
            tune_config.metric, tune_config.mode, param_space, num_samples=tune_config.num_samples
        )
        if not draws:
            self._refuse_unresolved(
                param_space, "does not draw from param_space, which has samplers or grids"
            )
        self.scheduler.set_search_properties(tune_config.metric, tune_config.mode)

    @property
    def waits_for_decisions(self) -> bool:
        """Whether something here could answer a report with other than CONTINUE."""
        return self.stopper is not None or not self.scheduler.always_continues

    @property
    def total_trials(self) -> int | None:
        """How many trials there will be; None if nobody knows."""
        total = getattr(self.searcher, "total_trials", None)
        if not isinstance(total, int) and not self.searcher.counts_samples and not self._config.is_endless:
            total = self._config.num_samples
        return total if isinstance(total, int) else None

    @property
    def max_concurrent(self) -> int | None:
        """The tighter of `TuneConfig.max_concurrent_trials` and the searcher's own limit."""
        limits = (self._config.max_concurrent_trials, getattr(self.searcher, "max_concurrent", None))
        return min((limit for limit in limits if limit), default=None)

    def suggest(self, trial_id: str, number: int) -> Event:
        """Ask the searcher for a configuration; return its answer as an event."""
        now = self._wall_clock()
        is_counted = not self.searcher.counts_samples and not self._config.is_endless
        if is_counted and number >= self._config.num_samples:
            return SearchEnded(now)
        answer = self.searcher.suggest(trial_id)
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
        tag = experiment_tag(number, answer.varied)
        date = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
        name, dirname = self._names(trial_id, number, answer.config, tag, date)
        return TrialSuggested(
            now,
            trial_id,
            answer.config,
            tag,
            dirname,
            self._trainable_name,
            resources_of(self._trainable, answer.config).to_dict(),
            name,
        )

    def add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Tell the scheduler of a new trial."""
        self.scheduler.on_trial_add(trials, trial)

    def decide(
        self, trials: Sequence[Trial], trial: Trial, row: dict[str, Any], result: dict[str, Any]
    ) -> Decision:
        """Answer a report; a stopper's hit is written into `row` and `result` as `done`.

        Args:
            trials: All trials, for reading.
            trial: Whose report it is.
            row: The report, compact, as it will be journaled.
            result: The same with every auto-filled key.
        """
        if row["done"]:
            return Decision.STOP
        if self.stopper is not None and self.stopper(trial.trial_id, result):
            row["done"] = result["done"] = True
            return Decision.STOP
        if self.scheduler.always_continues:
            decision = Decision.CONTINUE
        else:
            answer = self.scheduler.on_trial_result(trials, trial, result)
            if answer not in _DECISIONS:
                raise ConfigError(
                    f"{type(self.scheduler).__name__}.on_trial_result returned {answer!r}: "
                    f"expected one of {', '.join(_DECISIONS)}"
                )
            decision = _DECISIONS[answer]
        if decision is not Decision.STOP:
            self.searcher.on_trial_result(trial.trial_id, result)
        return decision

    def wants_all_stopped(self) -> bool:
        """Whether a stopper ends the whole experiment."""
        return self.stopper is not None and self.stopper.stop_all()

    def complete(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Tell searcher and scheduler that a trial is over."""
        failed = trial.status is Status.ERROR
        result = trial.last_result or None
        metric = self._config.metric
        has_metric = result is not None and (metric is None or lookup(result, metric) is not None)
        self.searcher.on_trial_complete(trial.trial_id, result if has_metric else None, error=failed)
        if failed:
            self.scheduler.on_trial_error(trials, trial)
        else:
            self.scheduler.on_trial_complete(trials, trial, result or {})

    def _refuse_unresolved(self, config: dict[str, Any], fault: str) -> None:
        left = unresolved_paths(config)
        if left:
            raise ConfigError(
                f"{type(self.searcher).__name__} {fault}: {', '.join(left)}. Give them to the searcher, or use another"
            )

    def _names(
        self, trial_id: str, number: int, config: dict[str, Any], tag: str, date: str
    ) -> tuple[str, str]:
        """The trial's name, "" for the usual one, and its directory's."""
        trial = Trial(trial_id, number, config, self._trainable_name, experiment_tag=tag)
        if self._config.trial_name_creator is not None:
            trial.name = str(self._config.trial_name_creator(trial))
        if self._config.trial_dirname_creator is None:
            return trial.name, trial_dirname(self._trainable_name, trial_id, tag, date)
        dirname: Any = self._config.trial_dirname_creator(trial)
        if not isinstance(dirname, str) or not dirname or "/" in dirname or dirname in (".", ".."):
            raise ConfigError(
                f"trial_dirname_creator returned {dirname!r} for trial {trial_id}: expected a name without '/'"
            )
        return trial.name, dirname
