"""The record of one trial, its statuses, and the only table of legal moves between them.

A `Trial` is written by the controller alone; searchers, schedulers, callbacks and
reporters read it. How far the current attempt has come is the attempt's phase, not a status.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tune_core.errors import IllegalTransition
from tune_core.resources import ONE_CPU, PlacementGroupFactory
from tune_core.states import Decision, ExploitChoice


class Status(StrEnum):
    """Where a trial stands, in Ray Tune's words."""

    #: Waits for its first attempt, or for another one after a failure.
    PENDING = "PENDING"
    #: Its trainable runs.
    RUNNING = "RUNNING"
    #: Stopped, and able to go on from its last committed checkpoint.
    PAUSED = "PAUSED"
    #: Over, without an error.
    TERMINATED = "TERMINATED"
    #: Over, by an error that used up its retries.
    ERROR = "ERROR"


#: Every legal move. Final statuses have none.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.RUNNING, Status.PAUSED, Status.TERMINATED, Status.ERROR}),
    Status.RUNNING: frozenset({Status.PENDING, Status.PAUSED, Status.TERMINATED, Status.ERROR}),
    Status.PAUSED: frozenset({Status.PENDING, Status.TERMINATED}),
    Status.TERMINATED: frozenset(),
    Status.ERROR: frozenset(),
}
FINAL = frozenset({Status.TERMINATED, Status.ERROR})


class AttemptPhase(StrEnum):
    """How far the current attempt at a trial has come."""

    #: No attempt is under way.
    NONE = "none"
    #: Ordered; waits for its placement group or its process.
    STARTING = "starting"
    #: The trainable runs.
    RUNNING = "running"
    #: Told to stop; its `finally` blocks may still run.
    STOPPING = "stopping"


#: What Ray Tune's `Trial` has besides, and what says the same here.
_INSTEAD = {
    "evaluated_params": "config, or experiment_tag, which names what varied",
    "logdir": "local_path",
    "local_dir": "storage.path",
    "local_experiment_path": "storage.path",
    "remote_experiment_path": "storage.path",
    "experiment_dir_name": "storage.name",
    "placement_group_factory": "resources",
    "node_ip": "worker['node_ip']",
    "error_file": "error and traceback",
    "get_error": "error and traceback",
}


class Storage(Protocol):
    """Where an experiment is kept: see `tune_core.storage.experiment_storage.ExperimentStorage`."""

    path: str
    url: str
    name: str
    is_local: bool


#: Totals that go on over a restore.
TOTALS = ("time_total_s", "timesteps_total", "episodes_total")


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A committed checkpoint, as the journal knows it.

    Attributes:
        index: The number in `checkpoint_000007`.
        iteration: The `training_iteration` of the report that it came with.
        metrics: The report that it came with.
        is_brief: Only what is needed of the report is left: its trial is over, and the rest is in the marker.
        is_damaged: An attempt could not start from it: nothing starts from it any more.
        path: Where its directory is, in the filesystem of the storage; None if the trial does not know it.
    """

    index: int
    iteration: int
    metrics: dict[str, Any] = field(default_factory=dict)
    is_damaged: bool = False
    is_brief: bool = False
    path: str | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The directory's name, as Ray Tune spells it."""
        return checkpoint_name(self.index)


@dataclass(frozen=True, slots=True)
class StartPoint:
    """The checkpoint that an attempt starts from, and whose it is.

    Attributes:
        trial_id: The trial that committed it.
        dirname: That trial's directory.
        record: The checkpoint.
    """

    trial_id: str
    dirname: str
    record: CheckpointRecord


def checkpoint_name(index: int) -> str:
    """Return the directory name of a trial's checkpoint number `index`.

    Example:
        >>> checkpoint_name(7)
        'checkpoint_000007'
    """
    return f"checkpoint_{index:06d}"


@dataclass(slots=True)
class Attempt:
    """What is known of the latest attempt at a trial; the next one begins with another.

    Attributes:
        order: Its place among the attempts of all trials, in the order in which they were ordered.
        iteration: `training_iteration` of the latest report that counts.
        phase: How far it has come.
        decision: What it was told; CONTINUE until it is told to stop.
        exploit: Told EXPLOIT: from where the trial goes on, and how, once it has ended.
        next_resources: The bundles that the attempt after it gets; None: the same.
        wants_pause: It is to pause, as soon as it has reported with a checkpoint.
        should_relocate: It is to end, as soon as it has saved or can save on request, and not for the scheduler's sake:
            the trial goes on as soon as it may.
        has_returned: The trainable has come to its own end, and was not told to stop.
    """

    order: int = 0
    iteration: int = 0
    phase: AttemptPhase = AttemptPhase.STARTING
    decision: Decision = Decision.CONTINUE
    exploit: ExploitChoice | None = None
    wants_pause: bool = False
    should_relocate: bool = False
    next_resources: PlacementGroupFactory | None = None
    has_returned: bool = False


@lru_cache(maxsize=64)
def _date(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(timestamp))


@dataclass(slots=True, eq=False)
class Trial:
    """One configuration and everything known about it.

    Attributes:
        trial_id: Unique in the experiment: `<5 hex>_00003`.
        number: 0 for the first trial; results come in this order.
        config: The configuration, as the trainable gets it.
        name: What `TuneConfig.trial_name_creator` returned; "" for `<trainable>_<trial id>`.
        experiment_tag: `<number>_<key>=<value>,…` of the parameters that varied.
        dirname: The trial's directory below the experiment's.
        resources: The bundles of its latest attempt, or of the first one that is to come.
        base_resources: The bundles that its trainable asks for, whatever it was given since.
        reallocated_at: The iteration at which other bundles were chosen for it last; 0: never.
        attempt_number: Number of the latest attempt; 0 before the first.
        attempt: The latest attempt, which may be over; None before the first.
        num_failures: Attempts that failed so far.
        num_losses: Attempts that were lost with what they ran on, which is no failure of the trial.
        num_losses_in_row: Those of them since its newest checkpoint was committed.
        num_fruitless: Attempts in a row that were told to leave before a new `highest_iteration`.
        highest_iteration: The highest one that any attempt came to.
        last_row: The latest report, compact: see `result_of`; {} before the first.
        worker: `pid`, `hostname` and `node_ip` of the latest attempt's process.
        checkpoints: Committed and not deleted, oldest first.
        last_checkpoint_index: The highest index ever committed; -1 before the first.
        is_paused_by_user: Somebody has paused it, until somebody lets it go on.
        is_set_aside: It is PAUSED since somebody has paused it or all, and not by the scheduler.
        reason: What the latest decision on it was based on, see `tune_core.reasons`; {} if it goes on since, or
            nobody has said.
        borrowed: The checkpoint, mostly another trial's, that its attempts start from until one
            of them has committed its own.
        has_failed_before: One of its attempts failed or was lost before it was reopened.
        error: The last failure, as one line; None unless the last attempt failed.
        storage: The experiment's, an `ExperimentStorage`, for who reads or writes beside the trial; None where it
            is replayed without.

    Source: names as Ray Tune 2.60; differs: read-only; `checkpoint` is a record, and
        `storage.checkpoint(trial.dirname, trial.checkpoint.index)` the checkpoint itself.
    """

    trial_id: str
    number: int
    config: dict[str, Any]
    trainable_name: str = "trainable"
    name: str = ""
    experiment_tag: str = ""
    dirname: str = ""
    resources: PlacementGroupFactory = ONE_CPU
    status: Status = Status.PENDING
    attempt_number: int = 0
    attempt: Attempt | None = None
    num_failures: int = 0
    num_losses: int = 0
    num_losses_in_row: int = 0
    num_fruitless: int = 0
    highest_iteration: int = 0
    last_row: dict[str, Any] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    last_checkpoint_index: int = -1
    is_paused_by_user: bool = False
    is_set_aside: bool = False
    reason: dict[str, Any] = field(default_factory=dict)
    borrowed: StartPoint | None = None
    has_failed_before: bool = False
    error: str | None = None
    traceback: str = ""
    storage: Storage | None = field(default=None, repr=False)
    base_resources: PlacementGroupFactory = field(init=False)
    reallocated_at: int = 0

    def __post_init__(self) -> None:
        self.base_resources = self.resources

    def __getattr__(self, name: str) -> NoReturn:
        instead = _INSTEAD.get(name)
        advice = f", as Ray Tune's has: use {instead}" if instead else ""
        raise AttributeError(f"a Trial has no {name!r}{advice}", name=name, obj=self)

    def __str__(self) -> str:
        return self.name or f"{self.trainable_name}_{self.trial_id}"

    @property
    def phase(self) -> AttemptPhase:
        """How far its latest attempt has come; NONE if that is over, or there was none."""
        return self.attempt.phase if self.attempt is not None else AttemptPhase.NONE

    @property
    def iteration(self) -> int:
        """`training_iteration` of the latest report of its latest attempt that counts."""
        return self.attempt.iteration if self.attempt is not None else 0

    @property
    def decision(self) -> Decision:
        """What its latest attempt was told; CONTINUE until it is told to stop."""
        return self.attempt.decision if self.attempt is not None else Decision.CONTINUE

    @property
    def exploit(self) -> ExploitChoice | None:
        """Told EXPLOIT: from where it goes on, and how, once its attempt has ended."""
        return self.attempt.exploit if self.attempt is not None else None

    @property
    def next_resources(self) -> PlacementGroupFactory | None:
        """The bundles that its next attempt gets; None: those that it has."""
        return self.attempt.next_resources if self.attempt is not None else None

    @property
    def wants_pause(self) -> bool:
        """Whether its attempt is to pause, as soon as it has reported with a checkpoint."""
        return self.attempt is not None and self.attempt.wants_pause

    @property
    def should_relocate(self) -> bool:
        """Whether its attempt is to end when it has saved, and not for the scheduler's sake."""
        return self.attempt is not None and self.attempt.should_relocate

    @property
    def is_cut_short(self) -> bool:
        """Whether its trainable would go on: it has not returned, and no stop rule of its own has ended it."""
        has_returned = self.attempt is not None and self.attempt.has_returned
        return not (has_returned or self.last_row.get("done"))

    @property
    def path(self) -> str | None:
        """Its directory in the filesystem of the storage."""
        return f"{self.storage.path}/{self.dirname}" if self.storage is not None else None

    @property
    def local_path(self) -> str | None:
        """Its directory on this machine, which is made; None if the storage is elsewhere."""
        if self.storage is None or not self.storage.is_local:
            return None
        directory = Path(self.storage.path, self.dirname)
        directory.mkdir(parents=True, exist_ok=True)
        return str(directory)

    @property
    def usable_checkpoints(self) -> list[CheckpointRecord]:
        """Its own checkpoints that still exist and were not found damaged, oldest first."""
        return [record for record in self.checkpoints if not record.is_damaged]

    @property
    def checkpoint(self) -> CheckpointRecord | None:
        """The latest of them."""
        usable = self.usable_checkpoints
        return usable[-1] if usable else None

    @property
    def start_point(self) -> StartPoint | None:
        """Where its next attempt would start: a borrowed checkpoint, or its own latest."""
        if self.borrowed is not None or self.checkpoint is None:
            return self.borrowed
        return StartPoint(self.trial_id, self.dirname, self.checkpoint)

    def add_checkpoint(self, index: int, iteration: int) -> StartPoint | None:
        """Take up a committed checkpoint; return the borrowed one that the trial no longer needs."""
        self.last_checkpoint_index = index
        self.num_losses_in_row = 0
        path = f"{self.path}/{checkpoint_name(index)}" if self.path else None
        self.checkpoints.append(CheckpointRecord(index, iteration, self.last_row, path=path))
        released, self.borrowed = self.borrowed, None
        return released

    def begin(self, worker: dict[str, Any], because: object) -> None:
        """Take note that the trainable runs.

        Args:
            worker: Where: `pid`, `hostname` and `node_ip`.
            because: What an error names as the reason.
        """
        self.move_to(Status.RUNNING, because=because)
        self.worker = worker
        if self.phase is AttemptPhase.STARTING:
            self.live.phase = AttemptPhase.RUNNING

    @property
    def live(self) -> Attempt:
        """Its latest attempt; there has been one."""
        assert self.attempt is not None
        return self.attempt

    def start_attempt(self, number: int, order: int) -> None:
        """Take note that its next attempt was ordered, with this number, from where it would start now."""
        start = self.start_point
        self.resources = self.next_resources or self.resources
        self.attempt_number, self.is_set_aside = number, False
        self.attempt = Attempt(order, start.record.iteration if start else 0)

    def need_no_others(self) -> None:
        """Take note that it no longer starts from another trial's checkpoint."""
        self.borrowed = None
        if self.attempt is not None:
            self.attempt.exploit = None

    def end_attempt(self) -> bool:
        """Take note that no attempt is under way any more; return whether one was."""
        was_live = self.phase is not AttemptPhase.NONE
        if self.attempt is not None:
            self.attempt.phase = AttemptPhase.NONE
        return was_live

    def give(self, resources: PlacementGroupFactory) -> None:
        """Take up that its trainable asks for other bundles from now on."""
        self.resources = self.base_resources = resources
        if self.attempt is not None:
            self.attempt.next_resources = None

    def move_to_resources(self, resources: PlacementGroupFactory, iteration: int) -> None:
        """Take up that other bundles were chosen for it at this iteration: its attempt is to make room for the next."""
        self.live.next_resources, self.live.should_relocate = resources, True
        self.reallocated_at = iteration

    def take_report(self, attempt: Attempt, iteration: int, row: dict[str, Any]) -> None:
        """Take up a report of its live attempt."""
        attempt.iteration, self.last_row = iteration, row
        if iteration > self.highest_iteration:
            self.highest_iteration, self.num_fruitless = iteration, 0

    def count_failure(self, *, is_lost: bool) -> int:
        """Count an attempt that failed, or was lost; return how many did so, of losses those in a row."""
        if not is_lost:
            self.num_failures += 1
            return self.num_failures
        self.num_losses += 1
        self.num_losses_in_row += 1
        return self.num_losses_in_row

    @property
    def turn(self) -> tuple[int, int]:
        """Who starts first after a resume: those that had begun, those that waited, those that would have queued."""
        attempt = self.attempt or Attempt(phase=AttemptPhase.NONE)
        moves = attempt.next_resources is not None and attempt.decision is Decision.PAUSE
        if attempt.decision is Decision.EXPLOIT or moves:
            return 2, attempt.order
        return int(attempt.phase is AttemptPhase.STARTING), attempt.order

    @property
    def why_stuck(self) -> str:
        """The error of a trial that is paused or moved again and again and comes to nothing new."""
        return (
            f"it makes no progress: {self.num_fruitless} attempts in a row ended with {self.decision}, none of them "
            f"past iteration {self.highest_iteration}. Report with checkpoint=…, so that it goes on where it was, or "
            "use a scheduler that leaves it alone for longer"
        )

    def mark_damaged(self, index: int) -> None:
        """Let nothing start any more from a checkpoint of it."""
        self.checkpoints = [
            replace(record, is_damaged=True) if record.index == index else record
            for record in self.checkpoints
        ]

    @property
    def last_result(self) -> dict[str, Any]:
        """The latest report with every auto-filled key, `experiment_tag` too; {} before the first."""
        if not self.last_row:
            return {}
        result = self.result_of(self.last_row)
        result["experiment_tag"] = self.experiment_tag
        if self.status is Status.TERMINATED:
            result["done"] = True
        return result

    def result_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a report row with the keys that its process need not send each time."""
        return {
            **row,
            "trial_id": self.trial_id,
            "date": _date(row["timestamp"]),
            **self.worker,
            "config": self.config,
        }

    def row_of(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return what `result_of` was given, with what has been added since."""
        added = {"trial_id", "date", "config", *self.worker}
        return {name: value for name, value in result.items() if name not in added}

    @property
    def wants_save(self) -> bool:
        """Whether its latest report says that it is to be saved, as a callback may ask."""
        return bool(self.last_row.get("should_checkpoint"))

    @property
    def has_failed(self) -> bool:
        """Whether an attempt at it ever failed or was lost."""
        return self.num_failures + self.num_losses > 0 or self.has_failed_before

    def is_finished(self) -> bool:
        """Whether the status is final."""
        return self.status in FINAL

    def reopen(self, dirname: str | None) -> None:
        """Have a trial of any status wait for its next attempt, with its failures forgotten.

        Args:
            dirname: Start over, in this directory; None: go on from the last checkpoint.
        """
        self.status = Status.PENDING
        self.has_failed_before = self.has_failed
        self.num_failures = self.num_losses = self.num_losses_in_row = self.num_fruitless = 0
        self.error, self.traceback = None, ""
        self.is_paused_by_user = self.is_set_aside = False
        self.reason = {}
        self.attempt = Attempt(iteration=self.iteration, phase=AttemptPhase.NONE)
        if dirname is not None:
            self.attempt, self.resources, self.reallocated_at = None, self.base_resources, 0
            self.dirname, self.highest_iteration, self.last_row = dirname, 0, {}
            self.checkpoints, self.last_checkpoint_index, self.borrowed = [], -1, None

    def move_to(self, status: Status, *, because: object) -> None:
        """Change the status along a legal edge.

        Raises:
            IllegalTransition: The table has no such edge: a defect of prefect-tune. The
                message names trial, statuses and the event, so that a report can be replayed.
        """
        if status is self.status:
            return
        if status not in TRANSITIONS[self.status]:
            message = f"trial {self.trial_id} cannot go from {self.status} to {status} because of {because!r}"
            raise IllegalTransition(message)
        self.status = status
