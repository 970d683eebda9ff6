"""The journal's words: every event is written and read back without loss."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_core.control import messages
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
    SegmentsGivenUp,
    SlotsHeld,
    SpecRecorded,
    StartAttempt,
    StateSaved,
    Steered,
    StopAttempt,
    StopRequested,
    Suggest,
    SuggestionDeferred,
    TrialReported,
    TrialSuggested,
    WarmStarted,
    WatchersSaved,
    describe,
    event_from_dict,
    event_to_dict,
)
from tune_core.encoding import dumps, loads
from tune_core.states import Decision, ExploitChoice, Outcome, Steer, StopCause

SUGGESTED = TrialSuggested(
    1.5,
    "a1b2c_00000",
    {"lr": 0.1, "sizes": (1, 2)},
    "0_lr=0.1",
    "train_0",
    "train",
    {"bundles": [{"CPU": 1.0}]},
)

EVENTS: list[Event] = [
    ExperimentStarted(0.0, 4),
    CapacityChanged(1.0, 0),
    SUGGESTED,
    SuggestionDeferred(2.0),
    SearchRetried(2.5),
    SearchEnded(3.0),
    AttemptStarted(4.0, "a1b2c_00000", 1, 4711, "host", "127.0.0.1"),
    TrialReported(5.0, "a1b2c_00000", 1, 1, {"loss": 0.5, "nested": {"x": math.inf}}),
    TrialReported(6.0, "a1b2c_00000", 1, 2, {}, checkpoint=0, decision=Decision.PAUSE),
    TrialReported(
        6.5,
        "a1b2c_00000",
        1,
        3,
        {},
        decision=Decision.EXPLOIT,
        exploit=ExploitChoice("a1b2c_00001", 4, {"lr": math.inf, "sizes": (1, 2)}, "0@perturbed[lr=inf]"),
    ),
    RelocationRequested(6.5, "a1b2c_00000", 2, "node ab is about to go"),
    Steered(6.5, "r1", Steer.PAUSE, "a1b2c_00000"),
    Steered(6.5, "r1", Steer.STOP, reason="enough"),
    replace(SUGGESTED, request_id="r1"),
    PausedChosen(6.6, None),
    PausedChosen(6.7, "a1b2c_00000", ("a1b2c_00001", "a1b2c_00002")),
    PausedChosen(6.8, None, reason={"a1b2c_00001": {"rung": 1, "value": math.inf}}),
    PausedChosen(
        6.8, None, exploits={"a1b2c_00001": ExploitChoice("a1b2c_00000", 3, {"lr": 0.2}, "0@perturbed[]")}
    ),
    TrialReported(
        6.9, "a1b2c_00000", 1, 4, {}, decision=Decision.STOP, reason={"rung": 4, "rank": 7, "of": 9}
    ),
    *(AttemptEnded(7.0, "a1b2c_00000", 1, outcome) for outcome in Outcome),
    AttemptEnded(
        8.0, "a1b2c_00000", 2, Outcome.ERROR, "ValueError: no", "Traceback …\n  line", retryable=False
    ),
    *(StopRequested(9.0, cause, "because") for cause in StopCause),
    CheckpointSaved(10.0, "a1b2c_00000", 1, 2, 0),
    SpecRecorded(0.0, 1, {"name": "example", "sizes": (1, 2)}, {"experiment_id": "a1b2c", "max_failures": 2}),
    StateSaved(0.0, {"seed": "4af1"}, None),
    WarmStarted(
        0.0, ({"config": {"x": 1}, "values": [0.5], "trial": "a 0"},), ({"x": 1},), "warm start from 1"
    ),
    WatchersSaved(0.0, {"0 TimeoutStopper": {"used_s": 1.5}}, None),
    SlotsHeld(0.0, {"CPU": 2.5, "GPU": 0.0}),
    SegmentsGivenUp(0.0, 7, 2),
    ExperimentResumed(0.5, 2),
    ExperimentResumed(0.5, 2, ("a1b2c_00000",), ("a1b2c_00001",), {"a1b2c_00002": "train_2_attempt_3"}),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_event_survives_the_journal(event: Event) -> None:
    line = dumps(event_to_dict(event))

    assert event_from_dict(loads(line)) == event
    assert b"\n" not in line


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_event_is_a_json_object_that_names_its_kind_first(event: Event) -> None:
    data = json.loads(dumps(event_to_dict(event)))

    assert next(iter(data.items())) == ("event", type(event).__name__)


def test_a_journal_from_before_there_were_reasons_is_read_and_one_without_is_written_as_before() -> None:
    old = {"event": "PausedChosen", "time": 1.0, "trial_id": None, "stopped": ["a1b2c_00001"]}

    assert event_to_dict(event_from_dict(old)) == {**old, "stopped": ("a1b2c_00001",)}
    assert "reason" not in event_to_dict(TrialReported(5.0, "a1b2c_00000", 1, 1, {}))


def test_every_kind_of_event_is_tried_here() -> None:
    kinds = {
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }

    assert {type(event) for event in EVENTS} == kinds


names = st.text(max_size=5)
rows = st.dictionaries(names, st.none() | st.booleans() | st.floats(allow_nan=False) | st.binary(max_size=3))
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        TrialReported,
        finite,
        names,
        st.integers(),
        st.integers(),
        rows,
        st.none() | st.integers(0),
        st.sampled_from(Decision),
        st.none() | st.builds(ExploitChoice, names, st.integers(), rows, names),
    )
    | st.builds(
        PausedChosen,
        finite,
        st.none() | names,
        st.lists(names).map(tuple),
        st.dictionaries(names, rows, max_size=2),
        st.dictionaries(names, st.builds(ExploitChoice, names, st.integers(), rows, names), max_size=2),
    )
    | st.builds(
        AttemptEnded, finite, names, st.integers(), st.sampled_from(Outcome), st.none() | names, names
    )
    | st.builds(TrialSuggested, finite, names, rows, names, names, names, rows)
    | st.builds(StopRequested, finite, st.sampled_from(StopCause), names)
)
def test_events_of_any_content_survive_the_journal(event: Event) -> None:
    assert event_from_dict(loads(dumps(event_to_dict(event)))) == event


def test_enums_come_back_as_enums() -> None:
    back = event_from_dict(loads(dumps(event_to_dict(EVENTS[8]))))

    assert isinstance(back, TrialReported)
    assert back.decision is Decision.PAUSE


@pytest.mark.parametrize("data", [{"event": "TrialTeleported", "time": 1.0}, {"time": 1.0}, {"event": None}])
def test_unknown_event_asks_for_a_newer_version(data: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"unknown journal event .*; this version knows .*TrialReported.*newer"
    ):
        event_from_dict(data)


def test_reading_an_event_leaves_its_journal_object_alone() -> None:
    data = event_to_dict(EVENTS[0])

    event_from_dict(data)

    assert data == {"event": "ExperimentStarted", "time": 0.0, "capacity": 4}


COMMANDS: list[tuple[Command, str]] = [
    (Suggest("a1b2c_00000"), "Suggest a1b2c_00000"),
    (StartAttempt("a1b2c_00000", 2, 3, 7, 4), "StartAttempt a1b2c_00000 2 3 7 4"),
    (StartAttempt("a1b2c_00000", 1, None, 0, -1), "StartAttempt a1b2c_00000 1 None 0 -1"),
    (Answer("a1b2c_00000", 1, Decision.STOP), "Answer a1b2c_00000 1 STOP"),
    (StopAttempt("a1b2c_00000", 2), "StopAttempt a1b2c_00000 2"),
    (StartAttempt("a1b2c_00000", 2, 3, 7, 4, "a1b2c_00001"), "StartAttempt a1b2c_00000 2 3 7 4 a1b2c_00001"),
    (ChoosePaused(), "ChoosePaused"),
    (DeleteCheckpoint("a1b2c_00000", 5), "DeleteCheckpoint a1b2c_00000 5"),
    (CompleteTrial("a1b2c_00000", failed=True), "CompleteTrial a1b2c_00000 True"),
    (EndExperiment("every trial is finished"), "EndExperiment every trial is finished None"),
    (Command(), "Command"),
]


@pytest.mark.parametrize(("command", "text"), COMMANDS, ids=lambda value: str(value)[:20])
def test_command_is_described_with_all_its_values(command: Command, text: str) -> None:
    assert describe(command) == text


def test_every_kind_of_command_is_tried_here() -> None:
    kinds = {kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Command)}

    assert {type(command) for command, _ in COMMANDS} == kinds


@pytest.mark.parametrize(
    "message", [*EVENTS, *(command for command, _ in COMMANDS)], ids=lambda m: type(m).__name__
)
def test_messages_are_values(message: Event | Command) -> None:
    for field in fields(message):
        with pytest.raises(FrozenInstanceError):
            setattr(message, field.name, None)


def test_a_new_kind_of_event_is_read_and_written_without_being_named_anywhere_else() -> None:
    @dataclass(frozen=True, slots=True)
    class Weighed(Event):
        outcome: Outcome
        parts: tuple[str, ...]
        choice: ExploitChoice | None = None

    event = Weighed(1.0, Outcome.LOST, ("a", "b"), ExploitChoice("a1b2c_00000", 3, {"x": 1}, "tag"))
    try:
        data = event_to_dict(replace(event, choice=None))
        again = event_from_dict(loads(dumps(data)) | {"choice": asdict(event.choice)})  # type: ignore[arg-type]
    finally:
        del Event.kinds["Weighed"]

    assert again == event
    assert type(again.parts) is tuple  # type: ignore[attr-defined]


def test_the_controller_handles_every_kind_of_event() -> None:
    assert set(Controller(ControllerConfig("a1b2c"))._handlers) == set(Event.kinds.values())
