"""What the user configured and the controller has to obey; the journal holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tune_core.constraints import Constraint
from tune_core.ranking import Objective


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
        metric: What trials are compared by: remembered of every checkpoint.
        max_fruitless: Attempts, one after the other, that each trial may be paused or moved in without having
            come to an iteration that none came to before.
        mode: "min" or "max": which values of it are better; None only without a metric.
        best_scope: What of a trial's reports counts when trials are ranked: see `TuneConfig`.
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
    metric: str | None = None
    max_fruitless: int = 100
    mode: str | None = None
    best_scope: str = "last"
    constraints: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def objective(self) -> Objective:
        """What trials are compared by."""
        bounds = tuple(Constraint(metric, *bound) for metric, bound in self.constraints.items())
        return Objective(self.metric, self.mode, self.best_scope, bounds)
