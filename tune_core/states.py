"""What an attempt may be told, and how it may end: the words that trials, schedulers and the controller share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How an attempt at a trial ended."""

    #: The trainable returned.
    COMPLETED = "completed"
    #: It was told to stop, and did.
    STOPPED = "stopped"
    #: Its code raised.
    ERROR = "error"
    #: Its process died.
    CRASHED = "crashed"
    #: It took longer than a time limit allows, so it was killed.
    TIMED_OUT = "timed_out"
    #: What it ran on was lost (its node, its placement group, memory that others used): it did nothing wrong.
    LOST = "lost"
    #: The checkpoint that it starts from is damaged or gone; nothing was saved since.
    CORRUPTED = "corrupted"
    #: Its bundles cannot be had, or its process cannot be started.
    UNPLACED = "unplaced"


#: What `FailureConfig.resources_after` tells apart: ends as above, and "oom", any of them for lack of memory.
CAUSES = ("oom", "crashed", "timed_out", "lost", "error")
#: How the error begins, or goes on, of an attempt that was lost since memory ran out where it was.
OUT_OF_MEMORY = "out of memory: "


class Decision(StrEnum):
    """The answer to a report."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"
    PAUSE = "PAUSE"
    #: Stop without saving; go on from another trial's checkpoint, with another configuration.
    EXPLOIT = "EXPLOIT"


class StopCause(StrEnum):
    """Why a whole experiment is told to stop."""

    #: Ctrl-C, SIGTERM, or cancelled in Prefect: unfinished trials stay PAUSED, able to go on.
    INTERRUPT = "interrupt"
    #: `time_budget_s` is used up.
    TIME_BUDGET = "time_budget"
    #: A stopper's `stop_all`.
    STOPPER = "stopper"
    #: `fail_fast`, after the first failed trial.
    FAIL_FAST = "fail_fast"
    #: The shell cannot go on (storage, cluster): unfinished trials stay PAUSED.
    FAILURE = "failure"
    #: Somebody asked for it: see `tune_core.steering.inbox.StopExperiment`.
    REQUEST = "request"
    #: More trials have failed than `max_failed_trials` allows.
    FAILED_TRIALS = "failed_trials"
    #: `max_cost` is used up.
    COST = "cost"


class Steer(StrEnum):
    """What somebody wants of a trial, or of the whole experiment."""

    #: Run no further, and be able to go on.
    PAUSE = "pause"
    #: Go on after a PAUSE.
    RESUME = "resume"
    #: End.
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class ExploitChoice:
    """What a scheduler chose for a trial that goes on from another one's checkpoint.

    Attributes:
        donor: The trial whose directory holds the checkpoint.
        checkpoint: Index of that checkpoint.
        config: The configuration that the trial goes on with.
        experiment_tag: The trial's tag from then on.
    """

    donor: str
    checkpoint: int
    config: dict[str, Any]
    experiment_tag: str
