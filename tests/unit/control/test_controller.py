"""(state, event) -> commands: every event in every state, then each rule by itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import pytest

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    Answer,
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    CheckpointSaved,
    ChoosePaused,
    Command,
    CompleteTrial,
    DeleteCheckpoint,
    EndExperiment,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    PausedChosen,
    RelocationRequested,
    SearchEnded,
    SearchRetried,
    SpecRecorded,
    StartAttempt,
    Steered,
    StopAttempt,
    StopRequested,
    Suggest,
    SuggestionDeferred,
    TrialReported,
    TrialSuggested,
    describe,
)
from tune_core.errors import IllegalTransition
from tune_core.states import Decision, ExploitChoice, Outcome, Steer, StopCause
from tune_core.trial import AttemptPhase, CheckpointRecord, StartPoint, Status

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


def steered(action: Steer, trial_id: str = "") -> Event:
    return Steered(7.0, "r1", action, trial_id, "enough")


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


# Every event in every state of one trial, which is the only one that may run.

ONE = [started(), suggested(), running()]
STATES: dict[str, list[Event]] = {
    "starting": ONE[:2],
    "running": [*ONE, reported(1)],
    "told STOP": [*ONE, reported(1, STOP)],
    "told PAUSE": [*ONE, reported(1, PAUSE)],
    "wants PAUSE": [*ONE, reported(1, checkpoint=0), reported(2, PAUSE)],
    "told EXPLOIT": [*ONE, reported(1, EXPLOIT, checkpoint=0, exploit=from_donor(0, n=5))],
    "interrupted": [*ONE, reported(1), stop(StopCause.INTERRUPT)],
    "out of time": [*ONE, reported(1), stop(StopCause.TIME_BUDGET)],
    "paused": [*ONE, reported(1, PAUSE), ended(STOPPED)],
    "terminated": [*ONE, reported(1), ended(COMPLETED)],
    "failed": [*ONE, reported(1), ended(ERROR)],
}
EVENTS: dict[str, Event] = {
    "started": running(),
    "started, stale": running(attempt_number=0),
    "reported": reported(3),
    "reported again": reported(1),
    "reported, stale": reported(3, attempt_number=0),
    "reported, saved": reported(3, checkpoint=7),
    "reported, STOP": reported(3, STOP),
    "reported, PAUSE": reported(3, PAUSE),
    "reported, EXPLOIT": reported(3, EXPLOIT, checkpoint=7, exploit=from_donor(7)),
    **{f"ended, {outcome}": ended(outcome) for outcome in Outcome},
    "ended, stale": ended(ERROR, attempt_number=0),
    **{f"stop, {cause}": stop(cause) for cause in StopCause},
    "capacity 2": CapacityChanged(6.0, 2),
    **{f"trial: {action}": steered(action, tid(0)) for action in Steer},
    **{f"all: {action}": steered(action) for action in Steer},
}

#: Event, then status and phase of the trial, then the commands (without the id of this trial).
TABLES = {
    "starting": """
        started           | RUNNING running  |
        started, stale    | PENDING starting |
        reported          | PENDING starting |
        reported again    | PENDING starting |
        reported, stale   | PENDING starting |
        reported, saved   | PENDING starting |
        reported, STOP    | PENDING stopping | Answer 1 STOP
        reported, PAUSE   | PENDING stopping | Answer 1 PAUSE
        reported, EXPLOIT | PENDING stopping | Answer 1 EXPLOIT
        ended, completed  | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, stopped    | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, error      | ERROR none       | CompleteTrial True; Suggest #1
        ended, crashed    | ERROR none       | CompleteTrial True; Suggest #1
        ended, timed_out  | ERROR none       | CompleteTrial True; Suggest #1
        ended, lost       | PENDING starting | StartAttempt 2 None 0 -1
        ended, corrupted  | ERROR none       | CompleteTrial True; Suggest #1
        ended, unplaced   | ERROR none       | CompleteTrial True; Suggest #1
        ended, stale      | PENDING starting |
        stop, interrupt   | PENDING stopping | StopAttempt 1
        stop, time_budget | PENDING stopping | StopAttempt 1
        stop, stopper     | PENDING stopping | StopAttempt 1
        stop, fail_fast   | PENDING stopping | StopAttempt 1
        stop, failure     | PENDING stopping | StopAttempt 1
        stop, request     | PENDING stopping | StopAttempt 1
        capacity 2        | PENDING starting |
        trial: pause      | PENDING stopping | StopAttempt 1
        trial: resume     | PENDING starting |
        trial: stop       | PENDING stopping | StopAttempt 1
        all: pause        | PENDING stopping | StopAttempt 1
        all: resume       | PENDING starting |
        all: stop         | PENDING stopping | StopAttempt 1
    """,
    "running": """
        started           | RUNNING running  |
        started, stale    | RUNNING running  |
        reported          | RUNNING running  |
        reported again    | RUNNING running  |
        reported, stale   | RUNNING running  |
        reported, saved   | RUNNING running  |
        reported, STOP    | RUNNING stopping | Answer 1 STOP
        reported, PAUSE   | RUNNING stopping | Answer 1 PAUSE
        reported, EXPLOIT | RUNNING stopping | Answer 1 EXPLOIT
        ended, completed  | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, stopped    | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, error      | ERROR none       | CompleteTrial True; Suggest #1
        ended, crashed    | ERROR none       | CompleteTrial True; Suggest #1
        ended, timed_out  | ERROR none       | CompleteTrial True; Suggest #1
        ended, lost       | PENDING starting | StartAttempt 2 None 0 -1
        ended, corrupted  | ERROR none       | CompleteTrial True; Suggest #1
        ended, unplaced   | ERROR none       | CompleteTrial True; Suggest #1
        ended, stale      | RUNNING running  |
        stop, interrupt   | RUNNING stopping | StopAttempt 1
        stop, time_budget | RUNNING stopping | StopAttempt 1
        stop, stopper     | RUNNING stopping | StopAttempt 1
        stop, fail_fast   | RUNNING stopping | StopAttempt 1
        stop, failure     | RUNNING stopping | StopAttempt 1
        stop, request     | RUNNING stopping | StopAttempt 1
        capacity 2        | RUNNING running  |
        trial: pause      | RUNNING running  |
        trial: resume     | RUNNING running  |
        trial: stop       | RUNNING stopping | StopAttempt 1
        all: pause        | RUNNING running  |
        all: resume       | RUNNING running  |
        all: stop         | RUNNING stopping | StopAttempt 1
    """,
    "told STOP": """
        started           | RUNNING stopping |
        started, stale    | RUNNING stopping |
        reported          | RUNNING stopping | Answer 1 STOP
        reported again    | RUNNING stopping |
        reported, stale   | RUNNING stopping |
        reported, saved   | RUNNING stopping | Answer 1 STOP
        reported, STOP    | RUNNING stopping | Answer 1 STOP
        reported, PAUSE   | RUNNING stopping | Answer 1 STOP
        reported, EXPLOIT | RUNNING stopping | Answer 1 STOP
        ended, completed  | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, stopped    | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, error      | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, crashed    | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, timed_out  | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, lost       | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, corrupted  | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, unplaced   | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, stale      | RUNNING stopping |
        stop, interrupt   | RUNNING stopping |
        stop, time_budget | RUNNING stopping |
        stop, stopper     | RUNNING stopping |
        stop, fail_fast   | RUNNING stopping |
        stop, failure     | RUNNING stopping |
        stop, request     | RUNNING stopping |
        capacity 2        | RUNNING stopping |
        trial: pause      | RUNNING stopping |
        trial: resume     | RUNNING stopping |
        trial: stop       | RUNNING stopping |
        all: pause        | RUNNING stopping |
        all: resume       | RUNNING stopping |
        all: stop         | RUNNING stopping |
    """,
    "told PAUSE": """
        started           | RUNNING stopping |
        started, stale    | RUNNING stopping |
        reported          | RUNNING stopping | Answer 1 PAUSE
        reported again    | RUNNING stopping |
        reported, stale   | RUNNING stopping |
        reported, saved   | RUNNING stopping | Answer 1 PAUSE
        reported, STOP    | RUNNING stopping | Answer 1 STOP
        reported, PAUSE   | RUNNING stopping | Answer 1 PAUSE
        reported, EXPLOIT | RUNNING stopping | Answer 1 PAUSE
        ended, completed  | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, stopped    | PAUSED none      | Suggest #1
        ended, error      | PAUSED none      | Suggest #1
        ended, crashed    | PAUSED none      | Suggest #1
        ended, timed_out  | PAUSED none      | Suggest #1
        ended, lost       | PAUSED none      | Suggest #1
        ended, corrupted  | PAUSED none      | Suggest #1
        ended, unplaced   | PAUSED none      | Suggest #1
        ended, stale      | RUNNING stopping |
        stop, interrupt   | RUNNING stopping |
        stop, time_budget | RUNNING stopping |
        stop, stopper     | RUNNING stopping |
        stop, fail_fast   | RUNNING stopping |
        stop, failure     | RUNNING stopping |
        stop, request     | RUNNING stopping |
        capacity 2        | RUNNING stopping |
        trial: pause      | RUNNING stopping |
        trial: resume     | RUNNING stopping |
        trial: stop       | RUNNING stopping |
        all: pause        | RUNNING stopping |
        all: resume       | RUNNING stopping |
        all: stop         | RUNNING stopping |
    """,
    "wants PAUSE": """
        started           | RUNNING running  |
        started, stale    | RUNNING running  |
        reported          | RUNNING running  |
        reported again    | RUNNING running  |
        reported, stale   | RUNNING running  |
        reported, saved   | RUNNING stopping | Answer 1 PAUSE
        reported, STOP    | RUNNING stopping | Answer 1 STOP
        reported, PAUSE   | RUNNING running  |
        reported, EXPLOIT | RUNNING stopping | Answer 1 EXPLOIT
        ended, completed  | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, stopped    | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, error      | ERROR none       | CompleteTrial True; Suggest #1
        ended, crashed    | ERROR none       | CompleteTrial True; Suggest #1
        ended, timed_out  | ERROR none       | CompleteTrial True; Suggest #1
        ended, lost       | PENDING starting | StartAttempt 2 0 1 0
        ended, corrupted  | ERROR none       | CompleteTrial True; Suggest #1
        ended, unplaced   | ERROR none       | CompleteTrial True; Suggest #1
        ended, stale      | RUNNING running  |
        stop, interrupt   | RUNNING stopping | StopAttempt 1
        stop, time_budget | RUNNING stopping | StopAttempt 1
        stop, stopper     | RUNNING stopping | StopAttempt 1
        stop, fail_fast   | RUNNING stopping | StopAttempt 1
        stop, failure     | RUNNING stopping | StopAttempt 1
        stop, request     | RUNNING stopping | StopAttempt 1
        capacity 2        | RUNNING running  |
        trial: pause      | RUNNING running  |
        trial: resume     | RUNNING running  |
        trial: stop       | RUNNING stopping | StopAttempt 1
        all: pause        | RUNNING running  |
        all: resume       | RUNNING running  |
        all: stop         | RUNNING stopping | StopAttempt 1
    """,
    "told EXPLOIT": """
        started           | RUNNING stopping |
        started, stale    | RUNNING stopping |
        reported          | RUNNING stopping | Answer 1 EXPLOIT
        reported again    | RUNNING stopping |
        reported, stale   | RUNNING stopping |
        reported, saved   | RUNNING stopping | Answer 1 EXPLOIT
        reported, STOP    | RUNNING stopping | Answer 1 STOP
        reported, PAUSE   | RUNNING stopping | Answer 1 EXPLOIT
        reported, EXPLOIT | RUNNING stopping | Answer 1 EXPLOIT
        ended, completed  | TERMINATED none  | CompleteTrial False; Suggest #1
        ended, stopped    | PENDING starting | StartAttempt 2 0 1 0
        ended, error      | PENDING starting | StartAttempt 2 0 1 0
        ended, crashed    | PENDING starting | StartAttempt 2 0 1 0
        ended, timed_out  | PENDING starting | StartAttempt 2 0 1 0
        ended, lost       | PENDING starting | StartAttempt 2 0 1 0
        ended, corrupted  | PENDING starting | StartAttempt 2 0 1 0
        ended, unplaced   | PENDING starting | StartAttempt 2 0 1 0
        ended, stale      | RUNNING stopping |
        stop, interrupt   | RUNNING stopping |
        stop, time_budget | RUNNING stopping |
        stop, stopper     | RUNNING stopping |
        stop, fail_fast   | RUNNING stopping |
        stop, failure     | RUNNING stopping |
        stop, request     | RUNNING stopping |
        capacity 2        | RUNNING stopping |
        trial: pause      | RUNNING stopping |
        trial: resume     | RUNNING stopping |
        trial: stop       | RUNNING stopping |
        all: pause        | RUNNING stopping |
        all: resume       | RUNNING stopping |
        all: stop         | RUNNING stopping |
    """,
    "interrupted": """
        started           | RUNNING stopping |
        started, stale    | RUNNING stopping |
        reported          | RUNNING stopping |
        reported again    | RUNNING stopping |
        reported, stale   | RUNNING stopping |
        reported, saved   | RUNNING stopping |
        reported, STOP    | RUNNING stopping | Answer 1 STOP
        reported, PAUSE   | RUNNING stopping | Answer 1 PAUSE
        reported, EXPLOIT | RUNNING stopping | Answer 1 EXPLOIT
        ended, completed  | TERMINATED none  | CompleteTrial False; EndExperiment stopped by interrupt None
        ended, stopped    | PAUSED none      | EndExperiment stopped by interrupt None
        ended, error      | PAUSED none      | EndExperiment stopped by interrupt None
        ended, crashed    | PAUSED none      | EndExperiment stopped by interrupt None
        ended, timed_out  | PAUSED none      | EndExperiment stopped by interrupt None
        ended, lost       | PAUSED none      | EndExperiment stopped by interrupt None
        ended, corrupted  | PAUSED none      | EndExperiment stopped by interrupt None
        ended, unplaced   | PAUSED none      | EndExperiment stopped by interrupt None
        ended, stale      | RUNNING stopping |
        stop, interrupt   | RUNNING stopping |
        stop, time_budget | RUNNING stopping |
        stop, stopper     | RUNNING stopping |
        stop, fail_fast   | RUNNING stopping |
        stop, failure     | RUNNING stopping |
        stop, request     | RUNNING stopping |
        capacity 2        | RUNNING stopping |
        trial: pause      | RUNNING stopping |
        trial: resume     | RUNNING stopping |
        trial: stop       | RUNNING stopping |
        all: pause        | RUNNING stopping |
        all: resume       | RUNNING stopping |
        all: stop         | RUNNING stopping |
    """,
    "out of time": """
        started           | RUNNING stopping |
        started, stale    | RUNNING stopping |
        reported          | RUNNING stopping |
        reported again    | RUNNING stopping |
        reported, stale   | RUNNING stopping |
        reported, saved   | RUNNING stopping |
        reported, STOP    | RUNNING stopping | Answer 1 STOP
        reported, PAUSE   | RUNNING stopping | Answer 1 PAUSE
        reported, EXPLOIT | RUNNING stopping | Answer 1 EXPLOIT
        ended, completed  | TERMINATED none  | CompleteTrial False; EndExperiment stopped by time_budget None
        ended, stopped    | TERMINATED none  | CompleteTrial False; EndExperiment stopped by time_budget None
        ended, error      | TERMINATED none  | CompleteTrial False; EndExperiment stopped by time_budget None
        ended, crashed    | TERMINATED none  | CompleteTrial False; EndExperiment stopped by time_budget None
        ended, timed_out  | TERMINATED none  | CompleteTrial False; EndExperiment stopped by time_budget None
        ended, lost       | TERMINATED none  | CompleteTrial False; EndExperiment stopped by time_budget None
        ended, corrupted  | TERMINATED none  | CompleteTrial False; EndExperiment stopped by time_budget None
        ended, unplaced   | TERMINATED none  | CompleteTrial False; EndExperiment stopped by time_budget None
        ended, stale      | RUNNING stopping |
        stop, interrupt   | RUNNING stopping |
        stop, time_budget | RUNNING stopping |
        stop, stopper     | RUNNING stopping |
        stop, fail_fast   | RUNNING stopping |
        stop, failure     | RUNNING stopping |
        stop, request     | RUNNING stopping |
        capacity 2        | RUNNING stopping |
        trial: pause      | RUNNING stopping |
        trial: resume     | RUNNING stopping |
        trial: stop       | RUNNING stopping |
        all: pause        | RUNNING stopping |
        all: resume       | RUNNING stopping |
        all: stop         | RUNNING stopping |
    """,
    "paused": """
        started           | PAUSED none      |
        started, stale    | PAUSED none      |
        reported          | PAUSED none      |
        reported again    | PAUSED none      |
        reported, stale   | PAUSED none      |
        reported, saved   | PAUSED none      |
        reported, STOP    | PAUSED none      |
        reported, PAUSE   | PAUSED none      |
        reported, EXPLOIT | PAUSED none      |
        ended, completed  | PAUSED none      |
        ended, stopped    | PAUSED none      |
        ended, error      | PAUSED none      |
        ended, crashed    | PAUSED none      |
        ended, timed_out  | PAUSED none      |
        ended, lost       | PAUSED none      |
        ended, corrupted  | PAUSED none      |
        ended, unplaced   | PAUSED none      |
        ended, stale      | PAUSED none      |
        stop, interrupt   | PAUSED none      |
        stop, time_budget | TERMINATED none  | CompleteTrial False
        stop, stopper     | TERMINATED none  | CompleteTrial False
        stop, fail_fast   | TERMINATED none  | CompleteTrial False
        stop, failure     | PAUSED none      |
        stop, request     | TERMINATED none  | CompleteTrial False
        capacity 2        | PAUSED none      |
        trial: pause      | PAUSED none      |
        trial: resume     | PAUSED none      |
        trial: stop       | TERMINATED none  | CompleteTrial False
        all: pause        | PAUSED none      |
        all: resume       | PAUSED none      |
        all: stop         | TERMINATED none  | CompleteTrial False
    """,
}


def rows_of(table: str) -> list[tuple[str, str, str]]:
    lines = (line.split("|") for line in table.strip().splitlines())
    return [(event.strip(), state.strip(), commands.strip()) for event, state, commands in lines]


def shortly(command: Command) -> str:
    text = describe(command).replace(tid(0), "").replace(tid(1), "#1")
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("state", "event", "expected_state", "expected_commands"),
    [(state, *row) for state, table in TABLES.items() for row in rows_of(table)],
)
def test_table(state: str, event: str, expected_state: str, expected_commands: str) -> None:
    controller = controller_after(STATES[state], max_concurrent=1)

    commands = controller.handle(EVENTS[event])

    trial = controller.trials[tid(0)]
    assert "; ".join(map(shortly, commands)) == expected_commands
    assert f"{trial.status} {trial.phase}" == expected_state


def test_tables_have_every_event_in_every_state_that_is_not_final() -> None:
    final = {"terminated", "failed"}

    assert set(TABLES) == set(STATES) - final
    assert all([row[0] for row in rows_of(table)] == list(EVENTS) for table in TABLES.values())


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(("state", "status"), [("terminated", Status.TERMINATED), ("failed", Status.ERROR)])
def test_no_event_moves_a_finished_trial(state: str, status: Status, event: str) -> None:
    controller = controller_after(STATES[state], max_concurrent=1)

    commands = controller.handle(EVENTS[event])

    assert commands == []
    assert controller.trials[tid(0)].status is status


@pytest.mark.parametrize("state", STATES)
def test_events_of_an_older_attempt_leave_no_trace(state: str) -> None:
    controller = controller_after(STATES[state], max_concurrent=1)
    trial = controller.trials[tid(0)]
    before = copy.deepcopy([getattr(trial, name) for name in trial.__slots__])

    for event in (
        running(attempt_number=0),
        reported(9, STOP, attempt_number=0, checkpoint=7, loss=1),
        ended(COMPLETED, attempt_number=0),
    ):
        assert controller.handle(event) == []

    assert [getattr(trial, name) for name in trial.__slots__] == before


def test_events_of_a_trial_that_nobody_knows_are_ignored() -> None:
    controller = controller_after([started()])

    assert controller.handle(running(7)) == controller.handle(reported(1, number=7)) == []
    assert controller.live_trial(tid(7), 1) is None


# The life of one trial.


def test_new_experiment_asks_for_its_first_trial() -> None:
    assert after_last([started()]) == [Suggest(tid(0))]


def test_suggestion_becomes_a_trial_that_starts_from_scratch() -> None:
    controller = controller_after([started()])

    commands = controller.handle(suggested())

    trial = controller.trials[tid(0)]
    assert commands == [
        StartAttempt(tid(0), attempt_number=1, checkpoint=None, iteration=0, highest_index=-1)
    ]
    assert (trial.number, trial.config, trial.experiment_tag, trial.dirname) == (0, {"n": 0}, "0", "t0")
    assert trial.resources.required_resources == {"CPU": 1.0}
    assert controller.live_trial(tid(0), 1) is trial
    assert controller.live_trial(tid(0), 2) is None


@pytest.mark.parametrize(
    "events",
    [[suggested()], [started(), suggested(), suggested()], [started(), SearchEnded(1.0), suggested()]],
)
def test_suggestion_that_nobody_asked_for_is_a_defect(events: list[Event]) -> None:
    with pytest.raises(IllegalTransition, match="nobody asked for this suggestion"):
        after_last(events, max_concurrent=1)


def test_running_trial_knows_its_process() -> None:
    controller = controller_after(ONE)

    worker = {"pid": 4711, "hostname": "host", "node_ip": "127.0.0.1"}
    assert controller.trials[tid(0)].worker == worker


def test_report_is_kept_with_its_iteration() -> None:
    controller = controller_after([*ONE, reported(1, loss=0.5), reported(2, loss=0.25)])

    trial = controller.trials[tid(0)]
    assert (trial.iteration, trial.last_row) == (2, {"loss": 0.25})


def test_report_that_came_before_is_not_counted_twice() -> None:
    events = [*ONE, reported(1, checkpoint=0), reported(2, checkpoint=1), reported(2, checkpoint=1, loss=7)]
    controller = controller_after(events)

    trial = controller.trials[tid(0)]
    assert [record.index for record in trial.checkpoints] == [0, 1]
    assert trial.last_row == {}


def test_what_a_stopping_trial_still_reports_is_kept() -> None:
    controller = controller_after([*ONE, reported(1), stop(StopCause.INTERRUPT), reported(2, checkpoint=0)])

    trial = controller.trials[tid(0)]
    assert (trial.iteration, trial.checkpoint.index if trial.checkpoint else None) == (2, 0)


def test_later_pause_does_not_take_back_a_stop() -> None:
    controller = controller_after([*ONE, reported(1, STOP)])

    assert controller.handle(reported(2, PAUSE)) == [Answer(tid(0), 1, STOP)]
    assert CompleteTrial(tid(0), failed=False) in controller.handle(ended(STOPPED))


# Failures.


@pytest.mark.parametrize("outcome", [ERROR, CRASHED, TIMED_OUT])
def test_failed_trial_is_tried_again_as_often_as_allowed(outcome: Outcome) -> None:
    controller = controller_after(ONE, max_failures=2, max_concurrent=1)
    trial = controller.trials[tid(0)]

    assert controller.handle(ended(outcome)) == [start_attempt(2)]
    assert (trial.status, trial.error) == (Status.PENDING, "ValueError: attempt 1")
    assert controller.handle(ended(outcome, attempt_number=2)) == [start_attempt(3)]
    assert controller.handle(ended(outcome, attempt_number=3)) == [
        CompleteTrial(tid(0), failed=True),
        Suggest(tid(1)),
    ]
    assert (trial.status, trial.num_failures) == (Status.ERROR, 3)
    assert (trial.error, trial.traceback) == ("ValueError: attempt 3", "Traceback")


def test_trial_without_a_limit_is_tried_again_for_ever() -> None:
    controller = controller_after(ONE, max_failures=-1, max_concurrent=1)

    for attempt_number in range(1, 50):
        assert controller.handle(ended(ERROR, attempt_number=attempt_number)) == [
            start_attempt(attempt_number + 1)
        ]


def test_lost_attempt_is_tried_again_without_using_up_the_retries_for_failures() -> None:
    controller = controller_after(ONE, max_failures=0, fail_fast="yes", max_concurrent=1)
    trial = controller.trials[tid(0)]

    for attempt_number in range(1, 17):
        assert controller.handle(ended(LOST, attempt_number=attempt_number)) == [
            start_attempt(attempt_number + 1)
        ]
    assert (trial.num_failures, trial.num_losses) == (0, 16)
    assert CompleteTrial(tid(0), failed=True) in controller.handle(ended(LOST, attempt_number=17))
    assert trial.error == "ValueError: attempt 17 (loss 17 in a row, max_infrastructure_failures=16)"


def test_losses_are_counted_anew_after_a_checkpoint() -> None:
    rules = {"max_infrastructure_failures": 1, "max_concurrent": 1}
    events = [*ONE, ended(LOST), running(attempt_number=2), reported(1, attempt_number=2, checkpoint=0)]
    controller = controller_after(events, **rules)

    assert controller.handle(ended(LOST, attempt_number=2)) == [
        start_attempt(3, checkpoint=0, iteration=1, highest=0)
    ]
    assert CompleteTrial(tid(0), failed=True) in controller.handle(ended(LOST, attempt_number=3))
    assert controller.trials[tid(0)].num_losses == 3


@pytest.mark.parametrize("outcome", [ERROR, CRASHED, UNPLACED])
def test_failure_that_would_happen_again_is_not_tried_again(outcome: Outcome) -> None:
    commands = after_last([*ONE, ended(outcome, retryable=False)], max_failures=-1, max_concurrent=1)

    assert commands == [CompleteTrial(tid(0), failed=True), Suggest(tid(1))]


def test_retry_starts_from_the_latest_checkpoint_and_counts_on_from_there() -> None:
    events = [*ONE, reported(1), reported(2, checkpoint=0), reported(3)]
    controller = controller_after(events, max_failures=1, max_concurrent=1)

    assert controller.handle(ended(CRASHED)) == [start_attempt(2, checkpoint=0, iteration=2, highest=0)]
    controller.handle(running(attempt_number=2))
    controller.handle(reported(3, attempt_number=2, loss=7))
    assert controller.trials[tid(0)].last_row == {"loss": 7}


def test_retry_without_a_checkpoint_counts_from_the_beginning() -> None:
    controller = controller_after([*ONE, reported(1), ended(ERROR)], max_failures=1, max_concurrent=1)

    controller.handle(running(attempt_number=2))
    controller.handle(reported(1, attempt_number=2, loss=7))

    assert controller.trials[tid(0)].last_row == {"loss": 7}


def test_late_words_of_a_failed_attempt_do_not_reach_its_retry() -> None:
    controller = controller_after(
        [*ONE, ended(CRASHED), running(attempt_number=2)], max_failures=1, max_concurrent=1
    )

    assert controller.handle(reported(1, STOP, checkpoint=0)) == []
    assert controller.handle(ended(COMPLETED)) == []
    assert controller.trials[tid(0)].status is Status.RUNNING
    assert controller.trials[tid(0)].checkpoints == []


def test_trial_that_recovers_has_no_error() -> None:
    controller = controller_after(
        [*ONE, ended(ERROR), running(attempt_number=2)], max_failures=1, max_concurrent=1
    )

    controller.handle(ended(COMPLETED, attempt_number=2))

    trial = controller.trials[tid(0)]
    assert (trial.status, trial.error, trial.traceback) == (Status.TERMINATED, None, "")
    assert trial.num_failures == 1


def test_failure_without_a_text_is_named_by_its_outcome() -> None:
    controller = controller_after(ONE)

    controller.handle(AttemptEnded(4.0, tid(0), 1, CRASHED))

    assert controller.trials[tid(0)].error == "crashed"


# fail_fast.

TWO = [started(2), suggested(0), suggested(1), running(0), running(1)]


def test_failed_trial_leaves_the_others_alone() -> None:
    commands = after_last([*TWO, ended(ERROR)], max_concurrent=2)

    assert commands == [CompleteTrial(tid(0), failed=True), Suggest(tid(2))]


def test_fail_fast_stops_everything_with_the_first_failed_trial() -> None:
    controller = controller_after(TWO, fail_fast="yes", max_concurrent=2)

    first = controller.handle(ended(ERROR))
    second = controller.handle(ended(STOPPED, number=1))

    assert first == [CompleteTrial(tid(0), failed=True), StopAttempt(tid(1), 1)]
    reason = f"fail_fast: trial {tid(0)} failed with ValueError: attempt 1"
    assert second == [CompleteTrial(tid(1), failed=False), EndExperiment(reason)]
    assert controller.trials[tid(1)].status is Status.TERMINATED


def test_fail_fast_raise_ends_with_the_error_of_the_first_failed_trial() -> None:
    controller = controller_after(TWO, fail_fast="raise", max_concurrent=2)

    controller.handle(ended(ERROR))
    commands = controller.handle(ended(ERROR, number=1))

    assert commands[-1] == EndExperiment(f"trial {tid(0)} failed", "ValueError: attempt 1")


def test_fail_fast_waits_until_a_trial_is_out_of_retries() -> None:
    controller = controller_after(ONE, fail_fast="yes", max_failures=1, max_concurrent=1)

    assert controller.handle(ended(ERROR)) == [start_attempt(2)]
    assert controller.stop_request is None
    assert isinstance(controller.handle(ended(ERROR, attempt_number=2))[-1], EndExperiment)


def test_fail_fast_ends_trials_that_are_paused() -> None:
    events = [*TWO, CapacityChanged(2.0, 0), reported(1, PAUSE), ended(STOPPED)]

    commands = after_last([*events, ended(ERROR, number=1)], fail_fast="yes", max_concurrent=2)

    assert commands[:2] == [CompleteTrial(tid(1), failed=True), CompleteTrial(tid(0), failed=False)]


def test_trial_that_fails_while_all_stop_is_no_first_failure() -> None:
    events = [*ONE, stop(StopCause.STOPPER), ended(ERROR)]

    commands = after_last(events, fail_fast="raise", max_concurrent=1)

    assert commands == [CompleteTrial(tid(0), failed=False), EndExperiment("stopped by stopper")]


def test_suggestion_on_its_way_when_all_stops_is_not_started() -> None:
    controller = controller_after([started(2), suggested()], fail_fast="yes")

    controller.handle(ended(UNPLACED, retryable=False))
    commands = controller.handle(suggested(1))

    assert commands[0] == CompleteTrial(tid(1), failed=False)
    assert isinstance(commands[1], EndExperiment)


def test_suggestion_on_its_way_at_an_interrupt_can_go_on_later() -> None:
    controller = controller_after([started(), stop(StopCause.INTERRUPT)])

    commands = controller.handle(suggested())

    assert commands == [EndExperiment("stopped by interrupt")]
    assert controller.trials[tid(0)].status is Status.PAUSED
    assert controller.unfinished == [controller.trials[tid(0)]]


# Stopping everything.


@pytest.mark.parametrize("cause", [StopCause.INTERRUPT, StopCause.FAILURE])
def test_trials_can_go_on_after_an_interrupt(cause: StopCause) -> None:
    controller = controller_after([*ONE, reported(1, checkpoint=0), stop(cause)], max_concurrent=1)

    assert controller.handle(ended(STOPPED)) == [EndExperiment(f"stopped by {cause}")]
    trial = controller.trials[tid(0)]
    assert (trial.status, trial.checkpoint and trial.checkpoint.index) == (Status.PAUSED, 0)


@pytest.mark.parametrize("cause", [StopCause.TIME_BUDGET, StopCause.STOPPER, StopCause.FAIL_FAST])
@pytest.mark.parametrize("decision", [CONTINUE, PAUSE, STOP])
def test_trials_are_over_when_their_time_is_up(cause: StopCause, decision: Decision) -> None:
    controller = controller_after([*ONE, reported(1, decision), stop(cause)], max_concurrent=1)

    commands = controller.handle(ended(STOPPED))

    assert commands == [CompleteTrial(tid(0), failed=False), EndExperiment(f"stopped by {cause}")]


def test_first_request_to_stop_rules() -> None:
    controller = controller_after(TWO, max_concurrent=2)
    controller.handle(stop(StopCause.INTERRUPT))
    controller.handle(ended(STOPPED))

    assert controller.handle(stop(StopCause.TIME_BUDGET)) == []
    assert controller.handle(ended(STOPPED, number=1)) == [EndExperiment("stopped by interrupt")]
    assert {trial.status for trial in controller.trials.values()} == {Status.PAUSED}


def test_retry_does_not_happen_while_all_stop() -> None:
    controller = controller_after([*ONE, stop(StopCause.TIME_BUDGET)], max_failures=-1)

    assert controller.handle(ended(CRASHED))[0] == CompleteTrial(tid(0), failed=False)


def test_stop_before_the_first_suggestion_ends_the_experiment() -> None:
    controller = controller_after([started(), stop(StopCause.INTERRUPT)])

    assert controller.handle(SearchEnded(6.0)) == [EndExperiment("stopped by interrupt")]


def test_nothing_happens_after_the_end() -> None:
    controller = controller_after([started(), SearchEnded(1.0)])

    assert controller.has_ended
    late = [
        started(4),
        CapacityChanged(6.0, 9),
        SearchEnded(7.0),
        SuggestionDeferred(7.0),
        *map(stop, StopCause),
    ]
    assert [controller.handle(event) for event in late] == [[]] * len(late)


# Checkpoints that are committed after their report.


def saved(iteration: int, index: int, *, attempt_number: int = 1) -> Event:
    return CheckpointSaved(3.5, tid(0), attempt_number, iteration, index)


def test_late_checkpoint_belongs_to_the_latest_report_and_is_resumed_from() -> None:
    controller = controller_after([*ONE, reported(1, loss=2), reported(2, PAUSE, loss=1)], max_concurrent=1)

    assert controller.handle(saved(2, 4)) == []
    (record,) = controller.trials[tid(0)].checkpoints
    assert (record.index, record.iteration, record.metrics) == (4, 2, {"loss": 1})
    controller.handle(ended(STOPPED))
    assert controller.handle(SearchEnded(5.0)) == [ChoosePaused()]
    assert controller.handle(chosen()) == [start_attempt(2, checkpoint=4, iteration=2, highest=4)]


@pytest.mark.parametrize("outcome", [STOPPED, CRASHED, ERROR])
def test_late_checkpoint_is_kept_however_the_attempt_ends(outcome: Outcome) -> None:
    controller = controller_after([*ONE, reported(1), stop(StopCause.INTERRUPT), saved(1, 0), ended(outcome)])

    trial = controller.trials[tid(0)]
    assert (trial.status, trial.checkpoint and trial.checkpoint.index) == (Status.PAUSED, 0)


def test_late_checkpoint_displaces_an_older_one() -> None:
    events = [*ONE, reported(1, checkpoint=0), reported(2, STOP)]

    assert after_last([*events, saved(2, 1)], num_to_keep=1) == [DeleteCheckpoint(tid(0), 0)]


@pytest.mark.parametrize(
    "event",
    [
        saved(1, 0),
        saved(1, 0, attempt_number=0),
        saved(1, 1, attempt_number=2),
        CheckpointSaved(3.5, "other", 1, 1, 7),
    ],
)
def test_late_checkpoint_that_is_known_or_of_another_attempt_changes_nothing(event: Event) -> None:
    controller = controller_after([*ONE, reported(1, checkpoint=0)])

    assert controller.handle(event) == []
    assert [record.index for record in controller.trials[tid(0)].checkpoints] == [0]


# A node that is about to go.

MOVE = RelocationRequested(3.7, tid(0), 1, "node ab is about to go")


def test_function_on_a_node_that_goes_moves_once_it_has_saved_and_that_is_no_failure() -> None:
    rules = {"max_failures": 0, "max_infrastructure_failures": 0, "max_concurrent": 1}
    controller = controller_after([*ONE, reported(1, checkpoint=0)], **rules)

    assert controller.handle(MOVE) == []
    assert controller.handle(reported(2)) == []
    assert controller.handle(reported(3, checkpoint=1)) == [Answer(tid(0), 1, PAUSE)]
    assert controller.handle(reported(4)) == [Answer(tid(0), 1, PAUSE)]  # it was on its way
    assert controller.handle(ended(STOPPED)) == [start_attempt(2, checkpoint=1, iteration=3, highest=1)]
    controller.handle(running(attempt_number=2))
    assert controller.handle(reported(4, attempt_number=2, checkpoint=2)) == []
    assert controller.trials[tid(0)].status is Status.RUNNING


def test_class_on_a_node_that_goes_moves_at_its_next_report() -> None:
    controller = controller_after([*ONE, MOVE], saves_on_request=True, max_concurrent=1)

    assert controller.handle(reported(1)) == [Answer(tid(0), 1, PAUSE)]
    controller.handle(saved(1, 0))
    assert controller.handle(ended(STOPPED)) == [start_attempt(2, checkpoint=0, iteration=1, highest=0)]


@pytest.mark.parametrize(
    ("event", "status"),
    [(reported(1, PAUSE), Status.PAUSED), (reported(1, STOP), Status.TERMINATED)],
)
def test_trial_that_was_to_move_obeys_the_scheduler_first(event: Event, status: Status) -> None:
    controller = controller_after([started(2), suggested(), SearchEnded(1.0), running(), MOVE])

    controller.handle(event)
    controller.handle(ended(STOPPED))

    assert controller.trials[tid(0)].status is status


def test_trial_that_was_to_move_stays_paused_after_an_interrupt() -> None:
    events = [*ONE, MOVE, reported(1, checkpoint=0), stop(StopCause.INTERRUPT), ended(STOPPED)]

    assert controller_after(events).trials[tid(0)].status is Status.PAUSED


@pytest.mark.parametrize(
    "event", [RelocationRequested(3.7, tid(0), 7, "stale"), RelocationRequested(3.7, "x", 1, "?")]
)
def test_move_of_another_attempt_changes_nothing(event: Event) -> None:
    controller = controller_after([*ONE, event])

    assert controller.handle(reported(1, checkpoint=0)) == []


# PAUSE.

ALONE = [started(2), suggested(0), SearchEnded(1.0), running()]


def test_paused_trial_resumes_from_its_last_committed_checkpoint() -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0), reported(2, PAUSE, checkpoint=1)])

    assert controller.handle(ended(STOPPED)) == [ChoosePaused()]
    assert controller.handle(chosen()) == [start_attempt(2, checkpoint=1, iteration=2, highest=1)]
    assert controller.trials[tid(0)].status is Status.PENDING


def test_paused_trial_without_a_checkpoint_starts_again_from_scratch() -> None:
    assert after_last([*ALONE, reported(1, PAUSE), ended(STOPPED), chosen()]) == [start_attempt(2)]


def test_function_that_has_saved_before_pauses_at_its_next_checkpoint() -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0)])

    assert controller.handle(reported(2, PAUSE)) == []
    assert controller.trials[tid(0)].wants_pause
    assert controller.trials[tid(0)].decision is CONTINUE
    assert controller.handle(reported(3)) == []
    assert controller.handle(reported(4, checkpoint=1)) == [Answer(tid(0), 1, PAUSE)]


def test_trainable_that_saves_on_request_pauses_at_once() -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0)], saves_on_request=True)

    assert controller.handle(reported(2, PAUSE)) == [Answer(tid(0), 1, PAUSE)]


@pytest.mark.parametrize(
    ("event", "commands"),
    [
        (ended(COMPLETED), [CompleteTrial(tid(0), failed=False), EndExperiment("every trial is finished")]),
        (ended(CRASHED), [start_attempt(2, checkpoint=0, iteration=1, highest=0)]),
        (reported(3, STOP), [Answer(tid(0), 1, STOP)]),
    ],
)
def test_trial_that_waits_for_a_checkpoint_to_pause_may_end_first(
    event: Event, commands: list[Command]
) -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0), reported(2, PAUSE)], max_failures=1)

    assert controller.handle(event) == commands


def test_pause_that_a_failure_forestalled_is_not_made_up_for() -> None:
    events = [*ALONE, reported(1, checkpoint=0), reported(2, PAUSE), ended(ERROR), running(attempt_number=2)]
    controller = controller_after(events, max_failures=1)

    assert controller.handle(reported(2, attempt_number=2, checkpoint=1)) == []


def test_pause_of_an_earlier_attempt_does_not_count_for_a_later_one() -> None:
    events = [*ALONE, reported(1, PAUSE), ended(STOPPED), chosen(), running(attempt_number=2)]

    commands = after_last([*events, ended(STOPPED, attempt_number=2)])

    assert commands[0] == CompleteTrial(tid(0), failed=False)


def test_new_configurations_go_before_paused_trials() -> None:
    controller = controller_after([*ONE, reported(1, PAUSE)], max_concurrent=1)

    assert controller.handle(ended(STOPPED)) == [Suggest(tid(1))]
    assert controller.handle(SearchEnded(6.0)) == [ChoosePaused()]


def two_paused() -> Controller:
    """Trials 0 and 1 are paused, trial 2 is about to be; two may run at once."""
    events = [started(3), *map(suggested, range(3)), SearchEnded(1.0), *map(running, range(3))]
    controller = controller_after(events)
    controller.rules = ControllerConfig("a1b2c", max_concurrent=2)
    for number in range(3):
        controller.handle(reported(1, PAUSE, number=number))
    for number in range(2):
        assert controller.handle(ended(STOPPED, number=number)) == ([] if number == 0 else [ChoosePaused()])
    return controller


def test_chosen_paused_trials_wake_as_far_as_there_is_room() -> None:
    controller = two_paused()

    assert controller.handle(chosen(1)) == [start_attempt(2, number=1)]
    assert controller.handle(ended(STOPPED, number=2)) == [ChoosePaused()]
    assert controller.handle(chosen(2)) == [start_attempt(2, number=2)]
    assert [trial.status for trial in controller.unfinished] == [
        Status.PAUSED,
        Status.PENDING,
        Status.PENDING,
    ]


def test_scheduler_that_chose_nobody_is_asked_again_when_it_has_learnt_more() -> None:
    controller = two_paused()

    assert controller.handle(chosen(None)) == []
    assert controller.handle(CapacityChanged(5.0, 3)) == []
    assert controller.handle(reported(2, number=2)) == [Answer(tid(2), 1, PAUSE), ChoosePaused()]
    assert controller.handle(chosen(None)) == []
    assert controller.handle(ended(STOPPED, number=2)) == [ChoosePaused()]


def test_paused_trials_that_the_scheduler_gives_up_are_over() -> None:
    controller = two_paused()

    commands = controller.handle(chosen(None, 0, 1))

    assert commands == [CompleteTrial(tid(0), failed=False), CompleteTrial(tid(1), failed=False)]
    assert [trial.status for trial in controller.trials.values()] == ["TERMINATED", "TERMINATED", "RUNNING"]


def test_experiment_ends_when_nothing_runs_and_the_scheduler_chooses_nobody() -> None:
    controller = controller_after([*ALONE, reported(1, PAUSE), ended(STOPPED)])

    commands = controller.handle(chosen(None))

    reason = "every trial is finished; 1 of them were paused, and the scheduler chose none to go on"
    assert commands == [CompleteTrial(tid(0), failed=False), EndExperiment(reason)]
    assert controller.trials[tid(0)].status is Status.TERMINATED


def test_searcher_that_waits_is_asked_again_when_paused_trials_are_given_up() -> None:
    controller = controller_after([*ONE, SuggestionDeferred(2.5), reported(1, PAUSE)], max_concurrent=1)
    controller.handle(ended(STOPPED))
    assert controller.handle(SuggestionDeferred(5.0)) == [ChoosePaused()]

    commands = controller.handle(chosen(None))

    assert commands == [CompleteTrial(tid(0), failed=False), Suggest(tid(1))]


@pytest.mark.parametrize("cause", StopCause)
def test_choice_on_its_way_when_all_stops_is_not_obeyed(cause: StopCause) -> None:
    controller = controller_after([*ALONE, reported(1, PAUSE), ended(STOPPED)])
    completed = [] if cause in ("interrupt", "failure") else [CompleteTrial(tid(0), failed=False)]

    assert controller.handle(stop(cause)) == completed
    assert controller.handle(chosen(0)) == [EndExperiment(f"stopped by {cause}")]


@pytest.mark.parametrize(
    "events",
    [
        [*ALONE, chosen(None)],
        [*ALONE, reported(1, PAUSE), ended(STOPPED), chosen(0), chosen(0)],
    ],
)
def test_choice_that_nobody_asked_for_is_a_defect(events: list[Event]) -> None:
    with pytest.raises(IllegalTransition, match="nobody asked for this choice"):
        controller_after(events)


def test_choice_of_a_trial_that_is_not_paused_is_a_defect() -> None:
    controller = two_paused()

    with pytest.raises(IllegalTransition, match="trial a1b2c_00002 is RUNNING"):
        controller.handle(chosen(2))


def test_scheduler_that_gave_a_paused_trial_up_is_asked_for_the_others() -> None:
    assert two_paused().handle(chosen(None, 0)) == [CompleteTrial(tid(0), failed=False), ChoosePaused()]


# Checkpoints that are damaged.


SAVED_THREE = [*ALONE, *(reported(n + 1, checkpoint=n, n=n) for n in range(3)), ended(CRASHED)]


def damaged_at(attempt_number: int) -> list[Event]:
    return [running(attempt_number=attempt_number), ended(CORRUPTED, attempt_number=attempt_number)]


def test_damaged_checkpoint_is_a_failure_like_others_unless_the_user_allows_more() -> None:
    assert after_last([*SAVED_THREE, *damaged_at(2)], max_failures=2) == [start_attempt(3, 2, 3, 2)]
    assert after_last([*SAVED_THREE, *damaged_at(2)], max_failures=1)[0] == CompleteTrial(tid(0), failed=True)


def test_trial_falls_back_to_the_checkpoint_before_and_that_is_no_failure() -> None:
    controller = controller_after(SAVED_THREE, max_failures=1, falls_back=True)
    trial = controller.trials[tid(0)]

    controller.handle(running(attempt_number=2))
    assert controller.handle(ended(CORRUPTED, attempt_number=2)) == [start_attempt(3, 1, 2, 2)]
    assert (trial.num_failures, trial.status, trial.iteration) == (1, Status.PENDING, 2)
    assert [record.index for record in trial.usable_checkpoints] == [0, 1]
    controller.handle(running(attempt_number=3))
    assert controller.handle(ended(CORRUPTED, attempt_number=3)) == [start_attempt(4, 0, 1, 2)]
    controller.handle(running(attempt_number=4))
    # The last one: it does not start over unasked.
    assert controller.handle(ended(CORRUPTED, attempt_number=4))[0] == CompleteTrial(tid(0), failed=True)
    assert trial.error == "ValueError: attempt 4"


def test_trial_that_fell_back_goes_on_and_its_new_checkpoint_counts() -> None:
    controller = controller_after([*SAVED_THREE, *damaged_at(2)], max_failures=2, falls_back=True)
    controller.handle(running(attempt_number=3))
    controller.handle(reported(3, attempt_number=3, checkpoint=3))

    assert controller.handle(ended(CRASHED, attempt_number=3)) == [start_attempt(4, 3, 3, 3)]


def test_damaged_checkpoint_is_neither_among_the_best_nor_the_latest() -> None:
    rules = {"num_to_keep": 1, "score_attribute": "n", "max_failures": 1, "falls_back": True}
    controller = controller_after(
        [*ALONE, reported(1, checkpoint=0, n=5), reported(2, checkpoint=1, n=9)], **rules
    )
    # 0 is no longer among the best one, but is kept as long as 1 is the latest.
    assert [record.index for record in controller.trials[tid(0)].checkpoints] == [1]
    controller.handle(reported(3, checkpoint=2, n=1))
    controller.handle(ended(CRASHED))
    controller.handle(running(attempt_number=2))

    assert controller.handle(ended(CORRUPTED, attempt_number=2)) == [start_attempt(3, 1, 2, 2)]
    controller.handle(running(attempt_number=3))
    assert controller.handle(reported(3, attempt_number=3, checkpoint=3, n=2)) == [
        DeleteCheckpoint(tid(0), 2)
    ]


def test_borrower_falls_back_to_an_earlier_checkpoint_of_the_donor_and_then_to_its_own() -> None:
    controller = two_trials(exploit(), ended(STOPPED, number=1), running(1, 2), falls_back=True)
    donor, trial = controller.trials[tid(0)], controller.trials[tid(1)]

    assert controller.handle(ended(CORRUPTED, number=1, attempt_number=2)) == [
        start_attempt(3, checkpoint=0, iteration=1, highest=0, number=1, source=tid(0))
    ]
    assert [record.index for record in donor.usable_checkpoints] == [0]
    controller.handle(running(1, 3))
    assert controller.handle(ended(CORRUPTED, number=1, attempt_number=3)) == [
        start_attempt(4, checkpoint=0, iteration=1, highest=0, number=1)
    ]
    assert [record.index for record in donor.usable_checkpoints] == [0]  # else it would start over itself
    controller.handle(running(1, 4))
    assert controller.handle(ended(CORRUPTED, number=1, attempt_number=4)) == [
        CompleteTrial(tid(1), failed=True)
    ]
    assert trial.num_failures == 1


def test_what_a_borrower_falls_back_to_is_kept_for_it() -> None:
    controller = two_trials(
        exploit(), ended(STOPPED, number=1), running(1, 2), num_to_keep=2, falls_back=True
    )
    controller.handle(ended(CORRUPTED, number=1, attempt_number=2))

    # 1 is damaged; 0 is borrowed; 2 and 3 are the latest.
    assert controller.handle(reported(3, checkpoint=2)) == [DeleteCheckpoint(tid(0), 1)]
    assert controller.handle(reported(4, checkpoint=3)) == []
    controller.handle(running(1, 3))
    assert controller.handle(reported(2, number=1, attempt_number=3, checkpoint=1)) == [
        DeleteCheckpoint(tid(0), 0)
    ]


def test_trial_that_is_stopped_does_not_fall_back() -> None:
    controller = controller_after([*SAVED_THREE, running(attempt_number=2)], max_failures=1, falls_back=True)
    controller.handle(stop(StopCause.INTERRUPT))

    controller.handle(ended(CORRUPTED, attempt_number=2))

    trial = controller.trials[tid(0)]
    assert trial.status is Status.PAUSED
    assert trial.checkpoint == trial.checkpoints[-1]


# EXPLOIT.


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


def test_exploit_goes_on_from_the_donors_checkpoint_with_another_configuration() -> None:
    controller = two_trials()
    trial = controller.trials[tid(1)]

    assert controller.handle(exploit()) == [Answer(tid(1), 1, EXPLOIT)]
    assert (trial.config, trial.experiment_tag) == ({"n": 1}, "1")  # of the attempt that still runs
    assert controller.handle(ended(STOPPED, number=1)) == [
        start_attempt(2, checkpoint=1, iteration=2, highest=0, number=1, source=tid(0))
    ]
    assert (trial.config, trial.experiment_tag) == ({"n": 7}, "1@perturbed[n=7]")
    assert trial.start_point == StartPoint(tid(0), "t0", CheckpointRecord(1, 2, {"n": 20}))
    assert (trial.status, trial.num_failures, trial.iteration) == (Status.PENDING, 0, 2)
    assert trial.checkpoint == CheckpointRecord(0, 1, {})


def test_retry_after_an_exploit_starts_from_the_borrowed_checkpoint() -> None:
    controller = two_trials(exploit(), ended(STOPPED, number=1), running(1, 2), max_failures=1)

    assert controller.handle(ended(CRASHED, number=1, attempt_number=2)) == [
        start_attempt(3, checkpoint=1, iteration=2, highest=0, number=1, source=tid(0))
    ]


def test_own_checkpoint_replaces_a_borrowed_one() -> None:
    controller = two_trials(exploit(), ended(STOPPED, number=1), running(1, 2), max_failures=1)
    controller.handle(reported(3, number=1, attempt_number=2, checkpoint=1))

    assert controller.handle(ended(CRASHED, number=1, attempt_number=2)) == [
        start_attempt(3, checkpoint=1, iteration=3, highest=1, number=1)
    ]


def test_borrowed_checkpoint_is_kept_until_the_borrower_has_its_own() -> None:
    controller = two_trials(exploit(), num_to_keep=1)

    kept = controller.handle(reported(3, checkpoint=2))
    controller.handle(ended(STOPPED, number=1))
    still_kept = controller.handle(reported(4, checkpoint=3))
    controller.handle(running(1, 2))
    released = controller.handle(reported(3, number=1, attempt_number=2, checkpoint=1))

    assert kept == []
    assert still_kept == [DeleteCheckpoint(tid(0), 2)]
    assert released == [DeleteCheckpoint(tid(1), 0), DeleteCheckpoint(tid(0), 1)]


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (ended(COMPLETED, number=1, attempt_number=2), "TERMINATED"),
        (ended(ERROR, number=1, attempt_number=2), "ERROR"),
    ],
)
def test_borrowed_checkpoint_is_deleted_when_the_borrower_is_finished(event: Event, status: str) -> None:
    controller = two_trials(exploit(), ended(STOPPED, number=1), running(1, 2), num_to_keep=1)
    controller.handle(reported(3, checkpoint=2))

    commands = controller.handle(event)

    assert commands == [CompleteTrial(tid(1), failed=status == "ERROR"), DeleteCheckpoint(tid(0), 1)]
    assert controller.trials[tid(1)].status == status


def test_finished_donor_keeps_what_is_borrowed() -> None:
    controller = two_trials(exploit(), reported(3, checkpoint=2), ended(COMPLETED), num_to_keep=1)

    assert controller.handle(ended(STOPPED, number=1)) == [
        start_attempt(2, checkpoint=1, iteration=2, highest=0, number=1, source=tid(0))
    ]
    assert controller.handle(ended(COMPLETED, number=1, attempt_number=2))[:2] == [
        CompleteTrial(tid(1), failed=False),
        DeleteCheckpoint(tid(0), 1),
    ]


def test_trial_may_go_on_from_its_own_earlier_checkpoint() -> None:
    controller = controller_after([*ALONE, reported(1, checkpoint=0)], num_to_keep=1)

    saved = controller.handle(reported(2, EXPLOIT, checkpoint=1, exploit=from_donor(0, n=9)))
    restarted = controller.handle(ended(STOPPED))
    controller.handle(running(attempt_number=2))
    replaced = controller.handle(reported(2, attempt_number=2, checkpoint=2))

    assert saved == [Answer(tid(0), 1, EXPLOIT)]
    assert restarted == [start_attempt(2, checkpoint=0, iteration=1, highest=1)]
    assert replaced == [DeleteCheckpoint(tid(0), 0), DeleteCheckpoint(tid(0), 1)]


def test_second_exploit_releases_what_the_first_had_borrowed() -> None:
    controller = two_trials(exploit(), ended(STOPPED, number=1), running(1, 2), num_to_keep=1)
    controller.handle(reported(3, checkpoint=2))
    controller.handle(exploit(3, attempt_number=2, donor=2))

    commands = controller.handle(ended(STOPPED, number=1, attempt_number=2))

    assert commands == [
        DeleteCheckpoint(tid(0), 1),
        start_attempt(3, checkpoint=2, iteration=3, highest=0, number=1, source=tid(0)),
    ]


def test_stop_overrules_an_exploit_under_way() -> None:
    controller = two_trials(exploit(), reported(3, STOP, number=1), num_to_keep=1)
    controller.handle(reported(3, checkpoint=2))

    commands = controller.handle(ended(STOPPED, number=1))

    assert commands == [CompleteTrial(tid(1), failed=False)]
    assert controller.trials[tid(1)].config == {"n": 1}


def test_interrupted_exploit_can_go_on_later() -> None:
    controller = two_trials(exploit(), stop(StopCause.INTERRUPT), ended(STOPPED))

    assert controller.handle(ended(STOPPED, number=1)) == [EndExperiment("stopped by interrupt")]
    trial = controller.trials[tid(1)]
    assert (trial.status, trial.config) == (Status.PAUSED, {"n": 7})
    assert trial.start_point is not None
    assert trial.start_point.trial_id == tid(0)


def test_exploit_under_way_when_the_time_is_up_does_not_happen() -> None:
    controller = two_trials(exploit(), stop(StopCause.TIME_BUDGET), ended(STOPPED))

    commands = controller.handle(ended(STOPPED, number=1))

    assert commands == [CompleteTrial(tid(1), failed=False), EndExperiment("stopped by time_budget")]


@pytest.mark.parametrize("choice", [None, from_donor(7), from_donor(0, number=9)])
def test_exploit_of_a_checkpoint_that_nobody_knows_is_a_defect(choice: ExploitChoice | None) -> None:
    with pytest.raises(IllegalTransition, match="there is no such checkpoint"):
        two_trials(reported(3, EXPLOIT, exploit=choice))


# Checkpoints that are kept.


def deleted(scores: list[Any], **rules: Any) -> list[int]:
    """Indices that are deleted, in order, as checkpoints with these scores come."""
    controller = controller_after(ONE, **rules)
    commands = []
    for index, score in enumerate(scores):
        commands += controller.handle(
            reported(index + 1, checkpoint=index, score=score, deep={"score": score})
        )
    assert all(isinstance(command, DeleteCheckpoint) for command in commands)
    return [command.index for command in commands if isinstance(command, DeleteCheckpoint)]


@pytest.mark.parametrize(
    ("scores", "rules", "expected"),
    [
        ([1, 2, 3], {}, []),
        ([1, 2, 3], {"num_to_keep": 3}, []),
        ([1, 2, 3, 4], {"num_to_keep": 2}, [0, 1]),
        ([9, 8, 1, 2], {"num_to_keep": 2}, [0, 1]),  # without an attribute, by time
        ([1, 3, 2, 4], {"num_to_keep": 2, "score_attribute": "score"}, [0, 2]),
        ([4, 3, 2, 1], {"num_to_keep": 2, "score_attribute": "score"}, [2]),  # 3 is worst, and the latest
        ([4, 3, 2, 1], {"num_to_keep": 1, "score_attribute": "score"}, [1, 2]),
        ([1, 2, 3, 4], {"num_to_keep": 1, "score_attribute": "score", "score_order": "min"}, [1, 2]),
        ([1, 2, 3, 0], {"num_to_keep": 1, "score_attribute": "deep/score", "score_order": "min"}, [1, 0, 2]),
        ([math.nan, 1, 2], {"num_to_keep": 2, "score_attribute": "score"}, [0]),
        ([1, math.nan, -math.inf, 0], {"num_to_keep": 2, "score_attribute": "score"}, [1, 2]),
        (
            [math.inf, 1, math.nan, 0],
            {"num_to_keep": 2, "score_attribute": "score", "score_order": "min"},
            [0, 2],
        ),
        ([5, None, "high", 1], {"num_to_keep": 1, "score_attribute": "score"}, [1, 2]),
        ([5, 4, 3], {"num_to_keep": 1, "score_attribute": "absent"}, [0, 1]),
        ([1, 1, 1, 1], {"num_to_keep": 2, "score_attribute": "score"}, [0, 1]),  # equal: the older goes
        ([10**400, 1, 2], {"num_to_keep": 1, "score_attribute": "score"}, [1]),
        ([False, True, 0.5], {"num_to_keep": 1, "score_attribute": "score"}, [0]),
    ],
)
def test_worst_checkpoints_are_deleted(scores: list[Any], rules: dict[str, Any], expected: list[int]) -> None:
    assert deleted(scores, **rules) == expected


def test_latest_checkpoint_is_never_deleted() -> None:
    controller = controller_after(
        ONE, num_to_keep=1, score_attribute="score", max_failures=1, max_concurrent=1
    )
    for index, score in enumerate([3, 2, 1]):
        controller.handle(reported(index + 1, checkpoint=index, score=score))

    trial = controller.trials[tid(0)]
    assert [record.index for record in trial.checkpoints] == [0, 2]
    assert controller.handle(ended(CRASHED)) == [start_attempt(2, checkpoint=2, iteration=3, highest=2)]


def test_highest_index_counts_deleted_checkpoints() -> None:
    controller = controller_after(ONE, num_to_keep=1, max_failures=1, max_concurrent=1)
    controller.handle(reported(1, checkpoint=0))
    controller.handle(reported(2, checkpoint=5))  # indices in between are another writer's leftovers

    assert controller.handle(ended(ERROR)) == [start_attempt(2, checkpoint=5, iteration=2, highest=5)]


def test_checkpoint_is_kept_with_the_report_that_it_came_with() -> None:
    controller = controller_after([*ONE, reported(1), reported(2, checkpoint=0, loss=0.5), reported(3)])

    record = controller.trials[tid(0)].checkpoint
    assert record is not None
    assert (record.iteration, record.metrics) == (2, {"loss": 0.5})


def test_deletions_come_before_the_answer_to_the_report() -> None:
    events = [*ONE, reported(1, checkpoint=0), reported(2, STOP, checkpoint=1)]

    assert after_last(events, num_to_keep=1) == [DeleteCheckpoint(tid(0), 0), Answer(tid(0), 1, STOP)]


# How many trials there are at once.


def num_started(capacity: int, *, run: int, **rules: Any) -> int:
    """How many attempts are started while the first `run` of them begin to run."""
    controller = controller_after(**rules)
    pending, number = controller.handle(started(capacity)), 0
    count = 0
    while pending:
        command = pending.pop(0)
        if isinstance(command, Suggest):
            pending += controller.handle(suggested(number))
            number += 1
        elif isinstance(command, StartAttempt):
            count += 1
            if count <= run:
                pending += controller.handle(running(count - 1))
    return count


@pytest.mark.parametrize(
    ("capacity", "run", "rules", "expected"),
    [
        (1, 0, {}, 1),
        (4, 0, {}, 4),
        (4, 2, {}, 4),
        (4, 4, {}, 5),  # one more waits, so that the next starts at once
        (4, 9, {}, 10),
        (4, 0, {"max_concurrent": 2}, 2),
        (4, 2, {"max_concurrent": 2}, 2),
        (1, 0, {"max_concurrent": 3}, 1),
        (1, 3, {"max_concurrent": 3}, 3),
    ],
)
def test_as_many_trials_are_started_as_fit(
    capacity: int, run: int, rules: dict[str, Any], expected: int
) -> None:
    assert num_started(capacity, run=run, **rules) == expected


def test_more_capacity_starts_more_trials() -> None:
    controller = controller_after([started(1), suggested()])

    assert controller.handle(CapacityChanged(2.0, 2)) == [Suggest(tid(1))]


def test_less_capacity_starts_none_and_stops_none() -> None:
    controller = controller_after([started(2), suggested(0), suggested(1), running(0)])

    assert controller.handle(CapacityChanged(2.0, 1)) == []
    assert controller.trials[tid(1)].phase is AttemptPhase.STARTING


def test_experiment_waits_while_the_cluster_is_empty() -> None:
    controller = controller_after([started(0)])

    assert controller.handle(CapacityChanged(1.0, 1)) == [Suggest(tid(0))]


def test_experiment_without_capacity_wakes_nobody_and_does_not_end() -> None:
    controller = controller_after([*ONE, reported(1, PAUSE), CapacityChanged(3.0, 0)], max_concurrent=1)

    assert controller.handle(ended(STOPPED)) == []
    assert controller.handle(CapacityChanged(6.0, 1)) == [Suggest(tid(1))]


def test_experiment_whose_trials_are_finished_ends_without_capacity() -> None:
    events = [started(2), suggested(), SearchEnded(1.0), running(), CapacityChanged(3.0, 0)]

    assert after_last([*events, ended(COMPLETED)])[-1] == EndExperiment("every trial is finished")


def test_stopped_experiment_ends_without_capacity() -> None:
    controller = controller_after([started(0)])

    assert controller.handle(stop(StopCause.INTERRUPT)) == [EndExperiment("stopped by interrupt")]


# The searcher's answers, and the end.


def test_experiment_ends_when_the_search_has_and_every_trial_is_finished() -> None:
    controller = controller_after([started(2), suggested(), SearchEnded(1.0), running()])

    assert controller.handle(ended(COMPLETED)) == [
        CompleteTrial(tid(0), failed=False),
        EndExperiment("every trial is finished"),
    ]
    assert controller.has_ended
    assert controller.unfinished == []


def test_experiment_without_a_configuration_ends_at_once() -> None:
    assert after_last([started(), SearchEnded(1.0)]) == [EndExperiment("every trial is finished")]


def test_searcher_that_waits_is_asked_again_when_a_trial_has_ended() -> None:
    controller = controller_after([started(2), suggested()])

    assert controller.handle(SuggestionDeferred(1.0)) == []
    assert controller.handle(running()) == []
    assert controller.handle(ended(COMPLETED)) == [CompleteTrial(tid(0), failed=False), Suggest(tid(1))]


def test_paused_trial_wakes_while_the_searcher_waits() -> None:
    controller = controller_after([*ONE, reported(1, PAUSE), ended(STOPPED)], max_concurrent=1)

    assert controller.handle(SuggestionDeferred(5.0)) == [ChoosePaused()]
    assert controller.handle(chosen()) == [start_attempt(2)]


def test_searcher_that_waits_for_nothing_is_asked_again() -> None:
    controller = controller_after([started(), SuggestionDeferred(1.0)])
    assert controller.waits_for_search

    assert controller.handle(SearchRetried(2.0)) == [Suggest(tid(0))]
    assert controller.handle(SearchRetried(2.5)) == []
    assert controller.handle(SearchEnded(3.0)) == [EndExperiment("every trial is finished")]
    assert not controller.waits_for_search


def test_searcher_that_waits_is_not_asked_while_a_trial_runs_or_all_is_to_end() -> None:
    controller = controller_after([started(2), suggested(), SuggestionDeferred(1.0), running()])
    assert not controller.waits_for_search
    assert controller.handle(SearchRetried(2.0)) == []

    waiting = controller_after([started(), SuggestionDeferred(1.0)])
    request = StopRequested(2.0, StopCause.REQUEST, "enough")
    assert waiting.handle(request) == [EndExperiment("enough")]


def test_only_one_question_is_open_at_a_time() -> None:
    controller = controller_after([started(4)])

    assert controller.handle(CapacityChanged(1.0, 9)) == []
    assert controller.handle(suggested()) == [StartAttempt(tid(0), 1, None, 0, -1), Suggest(tid(1))]


def test_trials_are_numbered_in_the_order_of_their_suggestions() -> None:
    controller = controller_after([started(3), *map(suggested, range(3))])

    assert [trial.number for trial in controller.trials.values()] == [0, 1, 2]
    assert [trial.trial_id for trial in controller.unfinished] == [tid(0), tid(1), tid(2)]


def test_stop_that_takes_the_place_of_an_exploit_lets_its_checkpoint_go() -> None:
    told = [*ONE, reported(1, EXPLOIT, checkpoint=0, exploit=from_donor(0)), reported(2, checkpoint=1)]
    controller = controller_after(told, num_to_keep=1)
    assert [record.index for record in controller.trials[tid(0)].checkpoints] == [0, 1]

    commands = controller.handle(reported(3, STOP))

    assert commands == [DeleteCheckpoint(tid(0), 0), Answer(tid(0), 1, STOP)]


# A driver that died, and one that goes on.


def resumed(**details: Any) -> ExperimentResumed:
    return ExperimentResumed(9.0, 1, **details)


@pytest.mark.parametrize(
    ("told", "status", "attempts"),
    [
        ([*ONE, reported(1, checkpoint=0)], Status.PENDING, [(2, 0, 1)]),
        ([*ONE, reported(1, checkpoint=0), reported(2)], Status.PENDING, [(2, 0, 1)]),
        ([*ONE, reported(1)], Status.PENDING, [(2, None, 0)]),
        ([*ONE, reported(1, STOP)], Status.TERMINATED, []),
        ([*ONE, reported(1, PAUSE, checkpoint=0)], Status.PAUSED, []),
        ([*ONE, reported(1, EXPLOIT, checkpoint=0, exploit=from_donor(0, n=5))], Status.PENDING, [(2, 0, 1)]),
        ([*ONE, stop(StopCause.INTERRUPT)], Status.PENDING, [(2, None, 0)]),
        ([*ONE, stop(StopCause.INTERRUPT), ended(Outcome.STOPPED)], Status.PENDING, [(2, None, 0)]),
        ([*ONE, stop(StopCause.TIME_BUDGET)], Status.TERMINATED, []),
        ([*ONE, ended(Outcome.ERROR)], Status.ERROR, []),
    ],
)
def test_what_becomes_of_a_trial_when_its_driver_has_died(
    told: list[Event], status: Status, attempts: list[tuple[int, int | None, int]]
) -> None:
    controller = controller_after(told)

    commands = controller.handle(resumed())

    trial = controller.trials[tid(0)]
    started_attempts = [
        (command.attempt_number, command.checkpoint, command.iteration)
        for command in commands
        if isinstance(command, StartAttempt)
    ]
    assert (trial.status, started_attempts) == (status, attempts)
    assert trial.num_failures == (1 if status is Status.ERROR else 0)
    assert controller.live_trial(tid(0), 1) is None


def test_interrupted_experiment_asks_for_more_and_one_whose_time_was_up_does_not() -> None:
    interrupted = controller_after([*ONE, stop(StopCause.INTERRUPT), ended(Outcome.STOPPED)])
    interrupted.handle(ExperimentResumed(9.0, 4))
    assert interrupted.stop_request is None

    stopping = controller_after([*ONE, stop(StopCause.TIME_BUDGET)])
    commands = stopping.handle(ExperimentResumed(9.0, 4))
    assert isinstance(commands[-1], EndExperiment)


def test_restored_experiment_that_its_budget_had_ended_asks_for_more() -> None:
    told = [*ONE, SearchEnded(2.0), stop(StopCause.TIME_BUDGET), ended(Outcome.STOPPED)]
    controller = controller_after(told)
    assert controller.has_ended

    assert controller.handle(resumed()) == [Suggest(tid(1))]


def test_skipped_reopened_and_restarted_trials() -> None:
    failed = [*ONE, reported(1, checkpoint=0), ended(Outcome.ERROR)]

    skipped = controller_after(ONE)
    assert skipped.handle(resumed(skipped=(tid(0),)))[0] == CompleteTrial(tid(0), failed=False)
    reopened = controller_after(failed)
    assert reopened.handle(resumed(reopened=(tid(0),)))[0] == StartAttempt(tid(0), 2, 0, 1, 0)
    assert reopened.trials[tid(0)].error is None
    restarted = controller_after(failed)
    assert restarted.handle(resumed(restarted={tid(0): "anew"}))[0] == StartAttempt(tid(0), 2, None, 0, -1)
    assert (restarted.trials[tid(0)].dirname, restarted.trials[tid(0)].last_row) == ("anew", {})


def test_those_that_had_begun_go_first_and_those_that_waited_keep_their_order() -> None:
    told = [started(3), suggested(0), suggested(1), suggested(2), running(2), running(0)]
    controller = controller_after(told)

    commands = controller.handle(ExperimentResumed(9.0, 3))

    assert [c.trial_id for c in commands if isinstance(c, StartAttempt)] == [tid(0), tid(2), tid(1)]


def test_rules_are_those_of_the_newest_spec() -> None:
    controller = controller_after([*ONE, reported(1, checkpoint=0)])

    controller.handle(SpecRecorded(5.0, 2, {}, {"experiment_id": "a1b2c", "max_failures": 1}))

    assert controller.handle(ended(Outcome.ERROR))[0] == start_attempt(2, 0, 1, 0)


def test_trial_that_was_told_to_move_goes_on_though_its_driver_has_died() -> None:
    told = [*ONE, RelocationRequested(2.0, tid(0), 1, "its node goes"), reported(1, checkpoint=0)]
    controller = controller_after(told)
    assert controller.trials[tid(0)].decision is PAUSE

    assert start_attempt(2, 0, 1, 0) in controller.handle(resumed())


def test_reopened_trials_keep_to_the_number_that_may_run_at_once() -> None:
    told: list[Event] = [started(4)]
    for number in range(3):
        told += [suggested(number), running(number), ended(Outcome.ERROR, number=number)]
    controller = controller_after([*told, SearchEnded(3.0)], max_concurrent=1)

    commands = controller.handle(ExperimentResumed(9.0, 4, reopened=(tid(0), tid(1), tid(2))))
    assert [c.trial_id for c in commands if isinstance(c, StartAttempt)] == [tid(0)]
    controller.handle(running(0, attempt_number=2))
    commands = controller.handle(ended(Outcome.COMPLETED, attempt_number=2))
    assert [c.trial_id for c in commands if isinstance(c, StartAttempt)] == [tid(1)]
    assert controller.trials[tid(2)].status is Status.PENDING
    controller.handle(stop(StopCause.INTERRUPT))
    assert controller.trials[tid(2)].status is Status.PAUSED


def test_reopened_trial_that_waited_for_room_waits_on_after_the_next_resume() -> None:
    given_up = [
        *ONE,
        reported(1, PAUSE, checkpoint=0),
        ended(STOPPED),
        suggested(1),
        running(1),
        ended(COMPLETED, number=1),
        SearchEnded(5.0),
        chosen(None),
    ]
    controller = controller_after(given_up, max_concurrent=1)
    assert controller.has_ended

    controller.handle(resumed(reopened=(tid(1), tid(0))))
    assert controller.trials[tid(0)].phase is AttemptPhase.NONE
    controller.handle(resumed())

    assert [controller.trials[tid(number)].status for number in (0, 1)] == [Status.PENDING, Status.PENDING]
