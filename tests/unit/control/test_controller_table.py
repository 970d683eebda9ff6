"""Every event in every state of one trial, which is the only one that may run."""

from __future__ import annotations

import copy

import pytest

from tests.support.controller_events import (
    COMPLETED,
    ERROR,
    EXPLOIT,
    ONE,
    PAUSE,
    STOP,
    STOPPED,
    controller_after,
    ended,
    from_donor,
    reported,
    running,
    started,
    stop,
    tid,
)
from tune_core.control.messages import CapacityChanged, Command, Event, Steered, describe
from tune_core.states import Outcome, Steer, StopCause
from tune_core.trial import Status


def steered(action: Steer, trial_id: str = "") -> Event:
    return Steered(7.0, "r1", action, trial_id, "enough")


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
        stop, failed_trials | PENDING stopping | StopAttempt 1
        stop, cost        | PENDING stopping | StopAttempt 1
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
        stop, failed_trials | RUNNING stopping | StopAttempt 1
        stop, cost        | RUNNING stopping | StopAttempt 1
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
        stop, failed_trials | RUNNING stopping |
        stop, cost        | RUNNING stopping |
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
        stop, failed_trials | RUNNING stopping |
        stop, cost        | RUNNING stopping |
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
        stop, failed_trials | RUNNING stopping | StopAttempt 1
        stop, cost        | RUNNING stopping | StopAttempt 1
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
        stop, failed_trials | RUNNING stopping |
        stop, cost        | RUNNING stopping |
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
        stop, failed_trials | RUNNING stopping |
        stop, cost        | RUNNING stopping |
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
        stop, failed_trials | RUNNING stopping |
        stop, cost        | RUNNING stopping |
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
        stop, failed_trials | TERMINATED none  | CompleteTrial False
        stop, cost        | TERMINATED none  | CompleteTrial False
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
