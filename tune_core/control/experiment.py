"""An experiment as its driver gets it: what is tuned, how, under which name, and what it goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tune_core.callback import Callback, CallbackList
from tune_core.config.resume_config import ResumeConfig
from tune_core.config.run_config import RunConfig, TuneConfig
from tune_core.config.spec import describe, resolve_objects
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import StartAttempt
from tune_core.control.policy import Policy
from tune_core.control.watchers import States, Watchers
from tune_core.errors import ConfigError
from tune_core.objective import Objective
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.attempt_spec import AttemptSpec, ReuseRule
from tune_core.training.execution import changes_directory
from tune_core.training.resource_requests import is_fixed, resources_of
from tune_core.training.serialization import PickledTrainable
from tune_core.training.trainable import can_save
from tune_core.trial import TOTALS, Trial

#: The spec, beside the trials' directories.
SPEC_FILE = "experiment.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run of an experiment has in common with its retries, and with nothing else.

    Attributes:
        key: Names the task or flow run that calls `fit`, and which of its calls this is.
        attempt: How often each flow run around the call was run, the outermost first, or its task run: higher
            is later.
        began: When the outermost of them began for the first time, epoch seconds.
    """

    key: str
    attempt: tuple[int, ...]
    began: float


@dataclass(frozen=True, slots=True)
class Continuation:
    """How an experiment that was begun before goes on.

    Attributes:
        config: What becomes of its trials.
        takeover: Whether its driver is known to be dead, whatever it looks like from here.
        is_retry: Whether the same run is repeated: if the experiment had come to its end, that stands.
        may_go_on: Whether a trial that ended well has more to do since a rule was loosened.
        discard_damaged: Whether damaged segments of its journal, and those after them, are given up.
    """

    config: ResumeConfig = field(default_factory=ResumeConfig)
    takeover: bool = False
    is_retry: bool = False
    may_go_on: Callable[[Trial], bool] = lambda _: False
    discard_damaged: bool = False


@dataclass(frozen=True, slots=True)
class Experiment:
    """A validated experiment, ready to run.

    Attributes:
        name: Also its directory's name and its flow run's.
        experiment_id: Five hex digits in front of its trial ids.
        trainable: The training function, or the class derived from `Trainable`.
        pickled: The same, for other processes.
        trainable_name: What trials are called after.
        param_space: The search space.
        tune_config: How to search.
        run_config: How to run.
        storage: Where everything is kept.
        parameters: What `with_parameters` gave the trainable, by name; not in `pickled`.
        identity: Which run this is, if it can be repeated; None: it cannot.
        continuation: How it goes on from its journal; None: it begins.
        counted: What stoppers and callbacks had counted before it began; see `tune_core.control.watchers`.
    """

    name: str
    experiment_id: str
    trainable: Callable[..., Any]
    pickled: PickledTrainable
    trainable_name: str
    param_space: dict[str, Any]
    tune_config: TuneConfig
    run_config: RunConfig
    storage: ExperimentStorage
    parameters: dict[str, Any] = field(default_factory=dict, repr=False)
    identity: Identity | None = None
    continuation: Continuation | None = None
    counted: tuple[States, States] = field(default=({}, {}), repr=False)

    def rules(self, policy: Policy) -> ControllerConfig:
        """Return what the controller of this experiment has to obey."""
        saves = can_save(self.trainable)
        objective, limit = self.tune_config.objective, policy.max_concurrent
        total = policy.total_trials
        return rules_of(
            self.experiment_id,
            self.run_config,
            limit,
            objective,
            saves_on_request=saves,
            resumes_first=policy.resumes_first,
            total_trials=total,
        )

    def spec(self) -> dict[str, Any]:
        """Return what this experiment is made of, as `tune_core.config.spec` writes it: no pickle, no credentials."""
        is_same = is_fixed(self.trainable)
        return describe(
            name=self.name,
            experiment_id=self.experiment_id,
            trainable_name=self.trainable_name,
            param_space=self.param_space,
            tune_config=self.tune_config,
            run_config=self.run_config,
            storage_url=self.storage.url,
            resources=resources_of(self.trainable, {}).to_dict() if is_same else None,
        )

    def loaded_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return a trial's configuration of the journal with the objects of the search space in it."""
        return resolve_objects(config, self.param_space)[0]

    def policy(self, wall_clock: Callable[[], float] = time.time) -> Policy:
        """Return what steers this experiment, at its beginning."""
        return Policy(
            self.tune_config,
            self.run_config.stop,
            self.param_space,
            self.trainable,
            self.trainable_name,
            saves_on_request=can_save(self.trainable),
            wall_clock=wall_clock,
        )

    def watchers(
        self, policy: Policy, callbacks: CallbackList, wall_clock: Callable[[], float] = time.time
    ) -> Watchers:
        """Return what watches this experiment."""
        return Watchers(policy.stopper, callbacks, self.counted, wall_clock=wall_clock)

    def attempt_spec(self, policy: Policy, trial: Trial, order: StartAttempt) -> AttemptSpec:
        """Return what an attempt at a trial has to know, as it was ordered."""
        start = trial.start_point if order.checkpoint is not None else None
        metrics = start.record.metrics if start else {}
        totals: dict[str, float] = {name: metrics[name] for name in TOTALS if name in metrics}
        checkpoints, saves = self.run_config.checkpoint_config, can_save(self.trainable)
        sync = self.run_config.sync_config
        when: Literal["always", "at_end"] = "always" if sync.sync_artifacts_on_checkpoint else "at_end"
        return AttemptSpec(
            experiment_name=self.name,
            trial_id=trial.trial_id,
            trial_name=str(trial),
            dirname=trial.dirname,
            attempt_number=order.attempt_number,
            config=trial.config,
            resources=trial.resources,
            storage=self.storage,
            checkpoint=order.checkpoint,
            checkpoint_dirname=start.dirname if start and order.source else "",
            iteration=order.iteration,
            totals=totals,
            highest_index=order.highest_index,
            metric=self.tune_config.metric or policy.required_metric,
            stop=policy.local_stop,
            waits_for_decisions=policy.waits_for_decisions,
            may_be_told_to_save=saves
            and (policy.may_want_saves or any(map(_may_want_saves, self.run_config.callbacks or ()))),
            log_files=self.run_config.log_files,
            prints=bool(self.run_config.verbose),
            keeps_artifacts="never" if not sync.sync_artifacts else when,
            checkpoint_frequency=checkpoints.checkpoint_frequency if saves else 0,
            reuse=self._reuse_rule(trial),
            max_growth=self.tune_config.max_process_growth,
            async_upload=checkpoints.async_upload,
            checkpoint_at_end=saves and checkpoints.checkpoint_at_end is not False,
            changes_directory=changes_directory(),
        )

    def _reuse_rule(self, trial: Trial) -> ReuseRule | None:
        tune = self.tune_config
        if not tune.reuse_actors:
            return None
        key = f"{self.storage.url} {self.experiment_id} {trial.resources}"
        return ReuseRule(key, tune.max_reuses, tune.max_reuse_memory)


def _may_want_saves(callback: Callback) -> bool:
    """Whether a callback sees results before they are kept, and is not one of ours, which leave them alone."""
    hook = vars(callback).get("on_trial_result") or type(callback).on_trial_result
    return not str(getattr(hook, "__module__", "")).startswith("tune_core.")


def rules_of(
    experiment_id: str,
    run_config: RunConfig,
    max_concurrent: int | None,
    objective: Objective,
    *,
    saves_on_request: bool = False,
    resumes_first: bool = False,
    total_trials: int | None = None,
) -> ControllerConfig:
    """Return what the controller of an experiment that is run like this has to obey.

    Args:
        experiment_id: Five hex digits in front of every trial id.
        run_config: Says what to retry, and which checkpoints to keep.
        max_concurrent: Trials that may run at once; None: as many as fit.
        objective: What trials are compared by.
        saves_on_request: Whether the trainable can save when it is told to pause.
        resumes_first: Whether paused trials go before new ones.
        total_trials: How many trials there will be; None if nobody knows.

    Raises:
        ConfigError: `max_failed_trials` is a share of trials whose number nobody knows.
    """
    failures, checkpoints = run_config.failure_config, run_config.checkpoint_config
    fail_fast, allowed = failures.fail_fast, failures.max_failed_trials
    is_share = isinstance(allowed, float)
    if is_share and total_trials is None:
        raise ConfigError(
            f"FailureConfig(max_failed_trials={allowed}) is a share of the trials, and nobody knows how many there "
            "will be: give a number, or a num_samples that is not -1"
        )
    return ControllerConfig(
        experiment_id=experiment_id,
        max_failures=failures.max_failures,
        max_infrastructure_failures=failures.max_infrastructure_failures,
        fail_fast="raise" if fail_fast == "raise" else "yes" if fail_fast else "no",
        max_concurrent=max_concurrent,
        num_to_keep=checkpoints.num_to_keep,
        score_attribute=checkpoints.checkpoint_score_attribute,
        score_order=checkpoints.checkpoint_score_order,
        saves_on_request=saves_on_request,
        falls_back=failures.on_corrupted_checkpoint == "previous",
        metric=objective.plain_metric,
        mode=objective.plain_mode,
        constraints={each.metric: [each.operator, each.bound] for each in objective.constraints},
        best_scope=objective.scope,
        resumes_first=resumes_first,
        max_failed_trials=allowed,
        total_trials=total_trials if is_share else None,
        resources_after=failures.resources_after or {},
    )
