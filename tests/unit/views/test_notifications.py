"""What is announced of an experiment: from lists of events."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from tests.support.timed_events import RULES, began, over, runs, suggested, told
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import AttemptStarted, Event, ExperimentResumed, SearchEnded, StopRequested
from tune_core.ranking import Objective
from tune_core.states import Outcome, StopCause
from tune_core.views.notifications import (
    FAILING_TRIALS,
    PLATEAU_TRIALS,
    Notification,
    Notifier,
    plain_config,
)
from tune_core.views.overview import Overview


class Told:
    """An experiment whose events are told one by one."""

    def __init__(self, scope: str = "last", **rules: Any) -> None:
        self.controller = Controller(ControllerConfig(**{**RULES, **rules}))
        self.overview = Overview(self.controller, Objective("loss", "min", scope))
        self.notifier = Notifier(self.controller, "tuning", "s3://bucket/tuning", self.overview.standings)

    def tell(self, *events: Event) -> list[Notification]:
        found: list[Notification] = []
        for event in events:
            commands = self.controller.handle(event)
            found += self.notifier.note(event, commands, is_best=self.overview.note(event))
        return found


def announced(events: Iterable[Event], scope: str = "last", **rules: Any) -> list[Notification]:
    return Told(scope, **rules).tell(*events)


def kinds(found: Iterable[Notification]) -> list[str]:
    return [announcement.kind for announcement in found]


ONE = [began(), suggested(), SearchEnded(101), runs(102.0)]


def test_life_of_an_experiment_is_announced_in_order() -> None:
    found = announced([*ONE, told(103, 1, 0.5, checkpoint=0), over(104)])

    assert kinds(found) == [
        "experiment.started",
        "trial.started",
        "experiment.new-best",
        "trial.ended",
        "experiment.finished",
    ]
    about = {"experiment": "tuning", "storage_url": "s3://bucket/tuning", "metric": "loss", "mode": "min"}
    assert all(about.items() <= announcement.payload.items() for announcement in found)
    started, begun, best, ended, finished = found
    assert (started.payload["resumed"], started.payload["capacity"]) == (False, 1)
    assert begun.payload["config"] == {"x": 0}
    assert begun.payload["resources"] == {"CPU": 1.0}
    assert best.payload["value"] == 0.5
    assert best.payload["checkpoint_url"] == "s3://bucket/tuning/t0/checkpoint_000000"
    assert (ended.trial_id, ended.payload["outcome"], ended.payload["status"]) == (
        "a1b2c_00000",
        "completed",
        "TERMINATED",
    )
    assert (ended.payload["iterations"], ended.payload["value"]) == (1, 0.5)
    assert finished.payload["trials"] == {"TERMINATED": 1}
    assert finished.payload["best"]["trial_id"] == "a1b2c_00000"
    assert finished.payload["best_checkpoint"] == "s3://bucket/tuning/t0/checkpoint_000000"
    assert finished.payload["interrupted"] is False
    assert finished.payload["outcome"] == "completed"
    assert finished.time == 104


def test_new_best_is_announced_at_most_every_ten_seconds_and_never_lost() -> None:
    events = [told(103 + step, step, 1 / step) for step in range(1, 26)]

    found = [each for each in announced([*ONE, *events, over(128)]) if each.kind == "experiment.new-best"]

    assert [each.payload["iteration"] for each in found] == [1, 11, 21, 25]
    assert [each.time for each in found] == [104, 114, 124, 128]


def test_report_that_is_no_better_is_not_announced() -> None:
    found = announced([*ONE, told(103, 1, 0.5), told(203, 2, 0.5), told(303, 3, math.nan)])

    assert kinds(found).count("experiment.new-best") == 1


def test_each_attempt_begins_and_ends_once_whoever_says_it_again() -> None:
    found = announced(
        [
            *ONE,
            runs(102.5),
            over(103, Outcome.CRASHED),
            over(103, Outcome.CRASHED),
            runs(103.5),
            runs(104, attempt_number=2),
        ]
    )

    assert kinds(found) == ["experiment.started", "trial.started", "trial.ended", "trial.started"]
    assert [each.payload.get("attempt") for each in found] == [None, 1, 1, 2]
    assert (found[2].payload["outcome"], found[2].payload["status"]) == ("crashed", "PENDING")


def test_driver_that_goes_on_announces_that_and_nothing_from_before() -> None:
    """What the replay returns has been announced; what it leads to is known."""
    before = [*ONE, told(103, 1, 0.5), told(104, 2, 0.4)]
    uninterrupted, resumed = Told(), Told()
    uninterrupted.tell(*before)
    resumed.tell(*before)  # a replay: nothing of it is sent

    found = resumed.tell(
        ExperimentResumed(500, 1),
        over(501),
        runs(502, attempt_number=2),
        told(503, 3, 0.45, attempt_number=2),
    )

    assert kinds(found) == ["experiment.started", "experiment.new-best", "trial.started"]
    assert found[0].payload["resumed"] is True
    assert found[1].payload["value"] == 0.4  # it waited for its ten seconds when the driver died


def test_best_checkpoint_of_the_end_is_the_best_that_is_kept() -> None:
    """The best report had none, and the one of the report before has been deleted."""
    rules: dict[str, Any] = {"metric": "loss", "num_to_keep": 1}
    reports = [told(103, 1, 0.3, checkpoint=0), told(104, 2, 0.1), told(105, 3, 0.5, checkpoint=1)]

    (finished,) = announced([*ONE, *reports, over(106)], "all", **rules)[-1:]

    assert (finished.payload["best"]["value"], finished.payload["best"]["iteration"]) == (0.1, 2)
    assert finished.payload["best_checkpoint"] == "s3://bucket/tuning/t0/checkpoint_000001"


def test_trial_that_falls_behind_is_followed_by_the_new_best_one_and_its_checkpoint() -> None:
    events = [
        began(capacity=9),
        *(event for number in range(2) for event in (suggested(number), runs(101, number))),
        SearchEnded(101),
        told(110, 1, 0.1, 0, checkpoint=0),
        told(120, 1, 0.2, 1, checkpoint=0),
        told(130, 2, 0.9, 0, checkpoint=1),
        over(140, number=0),
        over(150, number=1),
    ]

    last, best = announced(events), announced(events, "all", metric="loss")

    told_of = [
        (each.payload["trial_id"], each.payload["value"]) for each in last if each.kind.endswith("best")
    ]
    assert told_of == [("a1b2c_00000", 0.1), ("a1b2c_00001", 0.2)]
    assert last[-1].payload["best"]["trial_id"] == "a1b2c_00001"
    assert last[-1].payload["best_checkpoint"] == "s3://bucket/tuning/t1/checkpoint_000000"
    assert best[-1].payload["best_checkpoint"] == "s3://bucket/tuning/t0/checkpoint_000000"
    assert {each.payload["best_scope"] for each in best} == {"all"}


def test_trials_that_fail_one_after_the_other_are_announced_once() -> None:
    events: list[Event] = [began(capacity=99)]
    for number in range(FAILING_TRIALS + 2):
        events += [suggested(number), runs(101, number), over(102, Outcome.ERROR, number)]

    found = [each for each in announced(events, max_failures=0) if each.kind == "experiment.failing"]

    assert [each.payload["failed_in_a_row"] for each in found] == [FAILING_TRIALS]
    assert found[0].payload["error"] == "ValueError: no"


def test_failing_is_announced_again_after_a_trial_that_did_not() -> None:
    events: list[Event] = [began(capacity=99)]
    for number in range(2 * FAILING_TRIALS + 1):
        outcome = Outcome.COMPLETED if number == FAILING_TRIALS else Outcome.ERROR
        events += [suggested(number), runs(101, number), over(102, outcome, number)]

    assert kinds(announced(events, max_failures=0)).count("experiment.failing") == 2


def test_plateau_is_announced_after_so_many_trials_without_a_new_best_and_again_after_the_next() -> None:
    events: list[Event] = [began(capacity=999)]
    for number in range(2 * PLATEAU_TRIALS + 3):
        loss = {0: 0.5, PLATEAU_TRIALS + 1: 0.4}.get(number, 0.9)
        events += [suggested(number), runs(101, number), told(102, 1, loss, number), over(103, number=number)]

    found = [each for each in announced(events) if each.kind == "experiment.plateau"]

    assert [each.payload["best"]["value"] for each in found] == [0.5, 0.4]
    assert {each.payload["trials_since_best"] for each in found} == {PLATEAU_TRIALS}


def test_there_is_no_plateau_without_a_best() -> None:
    events: list[Event] = [began(capacity=999)]
    for number in range(PLATEAU_TRIALS + 5):
        events += [suggested(number), runs(101, number), over(103, number=number)]

    assert "experiment.plateau" not in kinds(announced(events))


def test_interrupted_experiment_says_so() -> None:
    found = announced([*ONE, StopRequested(103, StopCause.INTERRUPT, "Ctrl-C"), over(104, Outcome.STOPPED)])

    assert (found[-1].kind, found[-1].payload["interrupted"], found[-1].payload["reason"]) == (
        "experiment.finished",
        True,
        "Ctrl-C",
    )
    assert found[-1].payload["trials"] == {"PAUSED": 1}


def test_payloads_are_short_json_whatever_is_in_a_configuration() -> None:
    config = {
        "text": "x" * 10_000,
        "object": object(),
        "nested": {"deep": {"er": math.inf}},
        "huge": 10**30,
        "many": list(range(10_000)),
        "flag": True,
        **{f"p{number}": number for number in range(500)},
    }

    plain = plain_config(config)

    encoded = json.dumps(plain, allow_nan=False)
    assert len(encoded) < 10_000
    assert (plain["nested/deep/er"], plain["flag"], plain["huge"]) == ("inf", True, 10**30)
    assert plain["text"].endswith("…")


def test_failed_value_and_unknown_error_are_json_too() -> None:
    found = announced([*ONE, told(103, 1, math.nan), over(104, Outcome.ERROR)], max_failures=0)

    for each in found:
        json.dumps(dict(each.payload), allow_nan=False)
    ended = next(each for each in found if each.kind == "trial.ended")
    assert (ended.payload["value"], ended.payload["error"]) == ("nan", "ValueError: no")


def test_process_of_an_attempt_that_says_hello_late_is_not_announced() -> None:
    late = AttemptStarted(110.0, "a1b2c_00000", 7, 1, "host", "127.0.0.1")

    assert kinds(announced([*ONE, late])) == ["experiment.started", "trial.started"]
