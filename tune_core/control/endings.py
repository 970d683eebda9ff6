"""What is known of an attempt that has a process, how it ended, and what was found out about it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tune_core.config.run_config import RunConfig
from tune_core.control.messages import StartAttempt
from tune_core.states import Outcome
from tune_core.storage.commit import CheckpointMarker
from tune_core.training.trainable_cache import Leftover

#: Ends after which the storage may know more of an attempt than was heard of it.
UNHEARD = frozenset({Outcome.ERROR, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.LOST})
#: How the error of an attempt begins that could not say itself how it ended.
WHAT_HAPPENED = {
    Outcome.CRASHED: "the trial's process died",
    Outcome.TIMED_OUT: "the trial was killed",
    Outcome.LOST: "the trial's process was lost with what it ran on",
}


class Fault(NamedTuple):
    """Why a trial is failed by the driver, and the traceback of that."""

    error: str
    traceback: str


@dataclass(slots=True)
class RunningAttempt:
    """What is known of an attempt that has a process.

    Attributes:
        order: The command that it carries out.
        process: What it runs in, as its backend knows it: with the ids of its `nodes`, and whether it `is_used`,
            so that it may have died unnoticed since another attempt ended in it.
        stop_cause: Set once it was told, or is to be told, to stop.
        is_connected: Whether its process has said hello.
        journaled: The highest iteration whose row is known to be in the journal.
        has_ended: Whether it has said how it ended, or this is known otherwise.
        is_over: Whether its task is over.
        has_completed: Whether its task run ended as Completed; `task_message` is what that said.
        fault: Why the driver has failed it; None: it has not.
        is_leaving: Whether its node is about to go, and the controller knows.
        rules: The stop rules that its process knows.
        leaves: What it left in its process, a `Leftover`.
        deadline: When patience ends, in monotonic seconds; None: no limit.
        started: When it was submitted, in monotonic seconds.
        heard: When it last reported, or was submitted.
    """

    order: StartAttempt
    process: Any
    stop_cause: str | None = None
    is_connected: bool = False
    journaled: int = 0
    has_ended: bool = False
    is_over: bool = False
    has_completed: bool = False
    task_message: str = ""
    fault: Fault | None = None
    is_leaving: bool = False
    rules: dict[str, float] = field(default_factory=dict)
    leaves: str = Leftover.NOTHING
    deadline: float | None = None
    started: float = 0.0
    heard: float = 0.0

    @property
    def key(self) -> tuple[str, int]:
        """Its trial's id, and its number."""
        return self.order.trial_id, self.order.attempt_number

    def overrun(self, now: float, run: RunConfig) -> str | None:
        """Say which time limit it has passed; None: none, or it is ending anyway.

        Args:
            now: Monotonic seconds.
            run: Says what the limits are.
        """
        if self.deadline is not None or self.has_ended:
            return None
        for name, since, what in (
            ("trial_timeout_s", self.started, "it ran"),
            ("report_timeout_s", self.heard, "it did not report"),
        ):
            limit: float | None = getattr(run, name)
            if limit is not None and now - since > limit:
                return f"{what} for {now - since:.1f} s (RunConfig.{name}={limit:g})"
        return None

    def end_without_last_word(self) -> tuple[Outcome, str]:
        """Return how it ended, and what is said of that, if its task is over and nobody has heard more of it."""
        message = self.task_message or "no message"
        if self.is_connected:
            return Outcome.CRASHED, f"the task run ended without a last word of the trial: {message}"
        if self.has_completed:
            return Outcome.CRASHED, f"nothing was heard of the trial, though its task run ended: {message}"
        return Outcome.LOST, f"the task run ended before the trial began: {message}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, as far as the loop knows.

    Attributes:
        nodes: The ids of the nodes that its bundles were on.
        unused: It, if it may never have begun; None: it did.
    """

    trial_id: str
    attempt_number: int
    outcome: Outcome
    error: str | None = None
    traceback: str = ""
    retryable: bool = True
    nodes: frozenset[str] = frozenset()
    unused: RunningAttempt | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found out about an attempt: how it ended, and all that it and earlier ones have committed.

    Attributes:
        rows: What its process had reported when it died and the journal need not have, by iteration.
    """

    ended: Ended
    markers: Sequence[CheckpointMarker]
    rows: Mapping[int, dict[str, Any]] = field(default_factory=dict)
