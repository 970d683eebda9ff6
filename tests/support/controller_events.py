"""Controllers, events for them and the commands that follow, in few words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Command,
    Event,
    ExperimentStarted,
    PausedChosen,
    SearchEnded,
    StartAttempt,
    StopRequested,
    TrialReported,
    TrialSuggested,
)
from tune_core.states import Decision, ExploitChoice, Outcome, StopCause

CONTINUE, STOP, PAUSE, EXPLOIT = Decision
COMPLETED, STOPPED, ERROR, CRASHED, TIMED_OUT, LOST, CORRUPTED, UNPLACED = Outcome


def tid(number: int) -> str:
    return f"a1b2c_{number:05d}"


def started(capacity: int = 1) -> Event:
    return ExperimentStarted(0.0, capacity)


def suggested(number: int = 0) -> Event:
    resources = {"bundles": [{"CPU": 1.0}]}
    return TrialSuggested(1.0, tid(number), {"n": number}, f"{number}", f"t{number}", "train", resources)


def running(number: int = 0, attempt_number: int = 1) -> Event:
    return AttemptStarted(2.0, tid(number), attempt_number, 4711, "host", "127.0.0.1")


def reported(
    iteration: int,
    decision: Decision = CONTINUE,
    *,
    number: int = 0,
    attempt_number: int = 1,
    checkpoint: int | None = None,
    exploit: ExploitChoice | None = None,
    **metrics: Any,
) -> Event:
    return TrialReported(3.0, tid(number), attempt_number, iteration, metrics, checkpoint, decision, exploit)


def from_donor(checkpoint: int, number: int = 0, **config: Any) -> ExploitChoice:
    return ExploitChoice(tid(number), checkpoint, config, "0@perturbed[]")


def chosen(number: int | None = 0, *stopped: int) -> Event:
    return PausedChosen(4.5, None if number is None else tid(number), tuple(map(tid, stopped)))


def ended(outcome: Outcome, *, number: int = 0, attempt_number: int = 1, retryable: bool = True) -> Event:
    error = None if outcome in (COMPLETED, STOPPED) else f"ValueError: attempt {attempt_number}"
    return AttemptEnded(
        4.0, tid(number), attempt_number, outcome, error, "Traceback" if error else "", retryable
    )


def stop(cause: StopCause) -> Event:
    return StopRequested(5.0, cause, f"stopped by {cause}")


def controller_after(events: Iterable[Event] = (), **rules: Any) -> Controller:
    controller = Controller(ControllerConfig("a1b2c", **rules))
    for event in events:
        controller.handle(event)
    return controller


def after_last(events: list[Event], **rules: Any) -> list[Command]:
    """What the last of these events leads to."""
    return controller_after(events[:-1], **rules).handle(events[-1])


def start_attempt(
    attempt_number: int,
    checkpoint: int | None = None,
    iteration: int = 0,
    highest: int = -1,
    *,
    number: int = 0,
    source: str = "",
) -> Command:
    return StartAttempt(tid(number), attempt_number, checkpoint, iteration, highest, source)


def saved(iteration: int, index: int, *, attempt_number: int = 1) -> Event:
    return CheckpointSaved(3.5, tid(0), attempt_number, iteration, index)


#: Trial 0 runs, and the searcher is asked for trial 1.
ONE = [started(), suggested(), running()]
#: Trials 0 and 1 run, as many as may.
TWO = [started(2), suggested(0), suggested(1), running(0), running(1)]
#: Trial 0 runs, with room for another, and there are no more to come.
ALONE = [started(2), suggested(0), SearchEnded(1.0), running()]


def two_trials(*more: Event, **rules: Any) -> Controller:
    """Trial 0 has saved at its steps 1 and 2, trial 1 at its step 1; both run."""
    events = [started(2), suggested(0), suggested(1), SearchEnded(1.0), running(0), running(1)]
    events += [reported(1, checkpoint=0, n=10), reported(2, checkpoint=1, n=20)]
    return controller_after([*events, reported(1, number=1, checkpoint=0), *more], **rules)


def exploit(
    iteration: int = 2, *, attempt_number: int = 1, checkpoint: int | None = None, donor: int = 1
) -> Event:
    choice = ExploitChoice(tid(0), donor, {"n": 7}, "1@perturbed[n=7]")
    return reported(
        iteration, EXPLOIT, number=1, attempt_number=attempt_number, checkpoint=checkpoint, exploit=choice
    )
