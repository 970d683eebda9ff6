"""What the user configured and the controller has to obey; the journal holds it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from tune_core.constraints import Constraint
from tune_core.objective import Objective
from tune_core.states import StopCause
from tune_core.trial import Trial


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """What the user configured and the controller has to obey.

    Attributes:
        experiment_id: Five hex digits in front of every trial id.
        max_failures: Failed attempts that each trial may have and go on; -1: any number.
        max_infrastructure_failures: Attempts that each trial may lose with a node or the like, one after
            the other without a new checkpoint, and go on; -1: any number.
        fail_fast: Stop everything at the first trial that is out of retries.
        max_concurrent: Trials that may be pending or running at once; None: as many as fit.
        num_to_keep: Checkpoints to keep per trial; None: all. The latest is kept besides.
        score_attribute: Metric that ranks checkpoints, nested with "/"; None: the time.
        score_order: Whether more or less of it is better.
        falls_back: Whether an attempt whose checkpoint is damaged is followed by one from the checkpoint
            before, if there is one; no failure is counted then.
        saves_on_request: Whether the trainable can save when it is told to pause, as classes do.
            A function is paused at a report that carries a checkpoint.
        metric: What trials are compared by, or a list of that: remembered of every checkpoint.
        max_fruitless: Attempts, one after the other, that each trial may be paused or moved in without having
            come to an iteration that none came to before.
        mode: "min" or "max": which values of it are better, a list with a list; None only without a metric.
        best_scope: What of a trial's reports counts when trials are ranked: see `TuneConfig`.
        resumes_first: Whether the scheduler is asked which paused trial goes on before the searcher is asked for a
            new one.
        max_failed_trials: How many trials may fail for good before everything is stopped: a number, or a share
            of `total_trials` as a float below 1; None: any number.
        total_trials: How many trials there will be; None unless that is known and `max_failed_trials` is a share.
        resources_after: What the first bundle of a trial is multiplied by for its next attempt, by cause of
            death and resource.
        constraints: What a trial has to keep to be best, as `{"latency_ms": ["<=", 20]}`.
    """

    experiment_id: str
    max_failures: int = 0
    max_infrastructure_failures: int = 16
    fail_fast: Literal["no", "yes", "raise"] = "no"
    max_concurrent: int | None = None
    num_to_keep: int | None = None
    score_attribute: str | None = None
    score_order: Literal["max", "min"] = "max"
    saves_on_request: bool = False
    falls_back: bool = False
    metric: str | list[str] | None = None
    max_fruitless: int = 100
    mode: str | list[str] | None = None
    best_scope: str = "last"
    resumes_first: bool = False
    max_failed_trials: int | float | None = None
    total_trials: int | None = None
    resources_after: dict[str, dict[str, float]] = field(default_factory=dict)
    constraints: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def objective(self) -> Objective:
        """What trials are compared by."""
        bounds = tuple(Constraint(metric, *bound) for metric, bound in self.constraints.items())
        return Objective(self.metric, self.mode, self.best_scope, bounds)

    @property
    def failed_trials_allowed(self) -> float:
        """How many trials may fail for good before everything is stopped; infinity for any number."""
        allowed = self.max_failed_trials
        if isinstance(allowed, float) and self.total_trials is not None:
            return math.floor(allowed * self.total_trials + 1e-9)
        return math.inf if allowed is None or isinstance(allowed, float) else allowed

    def stop_after_failure(self, trial: Trial, num_failed: int) -> tuple[StopCause, str] | None:
        """Return why everything is to stop, if it is, now that this trial and so many in all have failed for good."""
        if self.fail_fast != "no":
            return StopCause.FAIL_FAST, f"fail_fast: trial {trial.trial_id} failed with {trial.error}"
        if num_failed <= self.failed_trials_allowed:
            return None
        share = f" of {self.total_trials}" if isinstance(self.max_failed_trials, float) else ""
        reason = (
            f"{num_failed}{share} trials have failed (max_failed_trials={self.max_failed_trials}), the last one, "
            f"{trial.trial_id}, with {trial.error}"
        )
        return StopCause.FAILED_TRIALS, reason
