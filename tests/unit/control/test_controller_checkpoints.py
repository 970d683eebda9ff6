"""Which checkpoints are kept, those that are committed after their report, and damaged ones."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.support.controller_events import (
    ALONE,
    CORRUPTED,
    CRASHED,
    ERROR,
    ONE,
    PAUSE,
    STOP,
    STOPPED,
    after_last,
    chosen,
    controller_after,
    ended,
    exploit,
    reported,
    running,
    saved,
    start_attempt,
    stop,
    tid,
    two_trials,
)
from tune_core.control.messages import (
    Answer,
    CheckpointSaved,
    ChoosePaused,
    CompleteTrial,
    DeleteCheckpoint,
    Event,
    SearchEnded,
)
from tune_core.states import Outcome, StopCause
from tune_core.trial import Status

# Checkpoints that are committed after their report.


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
