"""HyperBand: which brackets there are, who goes on at a milestone, and that nobody waits for ever."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest

import tune_core as tune
from tune_core.control.messages import TrialReported
from tune_core.errors import ConfigError
from tune_core.schedulers import HyperBandForBOHB, HyperBandScheduler
from tune_core.schedulers.hyperband import rounds_of
from tune_core.search import ConcurrencyLimiter
from tune_core.search.optuna import OptunaSearch
from tune_core.states import Decision
from tune_core.steering.inbox import PauseTrial, ResumeTrial, StopTrial
from tune_core.testing.simulator import SimulatedRun, simulate
from tune_core.trial import Status, Trial


class Experiment:
    """Trials, by number, that report to a scheduler by hand."""

    def __init__(self, scheduler: HyperBandScheduler, count: int, *, ends: bool = True) -> None:
        self.scheduler = scheduler
        scheduler.set_search_properties("score", "max")
        self.trials: list[Trial] = []
        for _ in range(count):
            self.add()
        if ends:
            scheduler.trials_to_stop(self.trials)  # the searcher has no more

    def add(self) -> Trial:
        trial = Trial(f"t{len(self.trials)}", len(self.trials), {}, status=Status.RUNNING)
        self.trials.append(trial)
        self.scheduler.on_trial_add(self.trials, trial)
        return trial

    def report(self, number: int, time: float, score: Any = None) -> str:
        """Report; the score is the trial number by default. A trial that is told to pause is paused."""
        trial = self.trials[number]
        row = {"training_iteration": time, "score": number if score is None else score}
        answer = self.scheduler.on_trial_result(self.trials, trial, row)
        if answer == "PAUSE":
            trial.status = Status.PAUSED
        if answer == "STOP":
            self.end(number)
        return str(answer)

    def end(self, number: int, hook: str = "on_trial_complete") -> None:
        self.trials[number].status = Status.TERMINATED
        more = ({},) if hook == "on_trial_complete" else ()
        getattr(self.scheduler, hook)(self.trials, self.trials[number], *more)

    def settle(self) -> tuple[list[int], list[int]]:
        """End what is to end and start what is to go on; return the numbers of both."""
        stopped, chosen = [], []
        while named := self.scheduler.trials_to_stop(self.trials):
            for trial in named:
                stopped.append(trial.number)
                self.end(trial.number)
        while (paused := self.scheduler.choose_trial_to_run(self.trials)) is not None:
            paused.status = Status.RUNNING
            chosen.append(paused.number)
        return sorted(stopped, reverse=True), sorted(chosen)


# Brackets.


def test_the_brackets_are_those_of_the_paper() -> None:
    """Table 1: R = 81, eta = 3; n is rounded up where the paper rounds down."""
    assert {s: tuple(map(tuple, rounds_of(s, 81, 3))) for s in range(5)} == {
        4: ((81, 1), (27, 3), (9, 9), (3, 27), (1, 81)),
        3: ((34, 3), (12, 9), (4, 27), (2, 81)),
        2: ((15, 9), (5, 27), (2, 81)),
        1: ((8, 27), (3, 81)),
        0: ((5, 81),),
    }


@pytest.mark.parametrize(
    ("max_t", "factor", "firsts"),
    [
        (729, 3, [(7, 729), (11, 243), (21, 81), (48, 27), (114, 9), (284, 3), (729, 1)]),
        (49, 7, [(3, 49), (11, 7), (49, 1)]),
        (16, 4, [(3, 16), (6, 4), (16, 1)]),
        (1, 3, [(1, 1)]),
        (5, 3, [(2, 5), (3, 1)]),
        (2.5, 2, [(2, 2), (2, 1)]),
    ],
)
def test_rounding_errors_lose_no_bracket(max_t: float, factor: float, firsts: list[tuple[int, int]]) -> None:
    kinds = HyperBandScheduler(max_t=max_t, reduction_factor=factor)._kinds

    assert [tuple(rounds[0]) for rounds in kinds] == firsts


def test_milestones_grow_until_the_end_even_with_a_small_factor() -> None:
    milestones = [milestone for _, milestone in rounds_of(5, 10, 1.5)]

    assert milestones == [1, 2, 3, 4, 6, 9]


def test_brackets_are_filled_one_after_the_other_and_then_again() -> None:
    smallest = Experiment(HyperBandScheduler(max_t=9), 18).scheduler
    largest = Experiment(HyperBandForBOHB(max_t=9), 18).scheduler

    for scheduler, sizes in ((smallest, [3, 5, 9, 1]), (largest, [9, 5, 3, 1])):
        members = Counter(bracket.number for bracket in scheduler._bracket_of.values())
        assert [members[number] for number in range(4)] == sizes
    assert "Round #1:" in smallest.debug_string()


# One bracket.


def test_the_best_third_of_a_bracket_goes_on_at_each_milestone() -> None:
    """A bracket of nine, by hand: three of them pass 1, one of those passes 3 and trains up to 9."""
    each = Experiment(HyperBandForBOHB(max_t=9), 9)

    assert [each.report(number, 1) for number in range(8)] == ["PAUSE"] * 8
    assert each.settle() == ([], [])  # one is still missing
    assert each.report(8, 1) == "CONTINUE"
    assert each.settle() == ([5, 4, 3, 2, 1, 0], [6, 7])

    assert [each.report(number, 2) for number in (6, 7, 8)] == ["CONTINUE"] * 3
    assert [each.report(number, 3, score) for number, score in ((8, 0), (6, 5))] == ["PAUSE", "PAUSE"]
    assert each.report(7, 3, 4) == "STOP"
    assert each.settle() == ([8], [6])

    assert [each.report(6, time) for time in (8, 9)] == ["CONTINUE", "STOP"]


def test_trial_that_comes_last_and_is_not_good_enough_is_stopped_at_once() -> None:
    each = Experiment(HyperBandForBOHB(max_t=3), 3)
    each.report(1, 1), each.report(2, 1)

    assert each.report(0, 1) == "STOP"
    assert each.settle() == ([1], [2])


def test_of_equal_trials_the_newer_goes_on_and_without_a_number_is_worst() -> None:
    each = Experiment(HyperBandForBOHB(max_t=3), 3)
    each.report(0, 1, 1), each.report(1, 1, 1), each.report(2, 1, math.nan)

    assert each.trials[2].status is Status.TERMINATED  # it was the last, and worst
    assert each.settle() == ([0], [1])


def test_reports_without_metric_or_time_decide_nothing() -> None:
    each = Experiment(HyperBandForBOHB(max_t=3), 3)

    assert each.report(0, 1, "high") == "CONTINUE"
    assert each.report(0, math.nan) == "CONTINUE"
    assert each.report(0, 2) == "PAUSE"


def test_trials_beyond_the_next_milestone_too_are_compared_again_at_once() -> None:
    each = Experiment(HyperBandForBOHB(max_t=9), 9)
    for number in range(9):
        each.report(number, 4)

    stopped, chosen = each.settle()
    assert (stopped, chosen) == ([7, 6, 5, 4, 3, 2, 1, 0], [])
    assert each.trials[8].status is Status.RUNNING  # it was the last, and had come beyond both


def test_trial_that_has_come_to_the_end_waits_for_nobody() -> None:
    each = Experiment(HyperBandScheduler(max_t=9), 3)

    assert each.report(0, 9) == "STOP"


def test_last_trials_may_go_on() -> None:
    each = Experiment(HyperBandForBOHB(max_t=3, stop_last_trials=False), 3)
    for number in range(3):
        each.report(number, 1)

    assert [each.report(2, time) for time in (2, 3, 4, 500)] == ["CONTINUE"] * 4


@pytest.mark.parametrize("hook", ["on_trial_complete", "on_trial_error", "on_trial_remove"])
def test_end_of_the_trial_that_the_others_wait_for_lets_them_go_on(hook: str) -> None:
    each = Experiment(HyperBandForBOHB(max_t=9), 9)
    for number in range(8):
        each.report(number, 1)

    each.end(8, hook)

    assert each.settle() == ([4, 3, 2, 1, 0], [5, 6, 7])


@pytest.mark.parametrize(
    ("count", "hook", "bracket"),
    [
        (8, "on_trial_error", 0),
        (8, "on_trial_complete", 1),
        (9, "on_trial_error", 1),
        (9, "on_trial_complete", 1),
    ],
)
def test_place_of_a_trial_that_failed_is_taken_while_its_bracket_fills(
    count: int, hook: str, bracket: int
) -> None:
    each = Experiment(HyperBandForBOHB(max_t=9), count)
    each.end(0, hook)
    each.add()

    assert each.scheduler._bracket_of[each.add().trial_id].number == bracket


# Brackets that are not full.


def test_a_bracket_that_is_not_full_waits_while_there_are_more_trials() -> None:
    each = Experiment(HyperBandForBOHB(max_t=9), 2, ends=False)

    assert [each.report(number, 1) for number in (0, 1)] == ["PAUSE", "PAUSE"]
    assert each.scheduler.choose_trial_to_run(each.trials) is None


def test_a_bracket_that_is_not_full_goes_on_when_the_searcher_has_no_more() -> None:
    each = Experiment(HyperBandForBOHB(max_t=9), 5, ends=False)
    for number in range(5):
        each.report(number, 1)

    assert each.settle() == ([1, 0], [2, 3, 4])  # three of nine may go on, and so three of five


def test_bracket_of_bohb_that_is_not_full_waits_until_nothing_runs() -> None:
    each = Experiment(HyperBandForBOHB(max_t=3), 4)  # the fourth is in a bracket of its own
    for number in range(3):
        each.report(number, 1)
    each.settle()
    each.add()
    assert each.report(4, 1) == "CONTINUE"  # of two, where nobody is compared before 3
    other = Experiment(HyperBandForBOHB(max_t=9), 2)
    other.report(0, 1)
    assert other.settle() == ([], [])

    other.report(1, 1)
    assert other.settle() == ([], [0, 1])


# Trials that come back.


def test_trial_that_starts_over_is_waited_for() -> None:
    each = Experiment(HyperBandForBOHB(max_t=9), 9)
    each.report(0, 1)
    each.trials[0].status = Status.RUNNING  # it failed before it was paused
    each.report(0, 0.5)
    for number in range(1, 9):
        assert each.report(number, 1) == "PAUSE"

    assert each.settle() == ([], [])
    assert each.report(0, 1) == "STOP"
    assert each.settle() == ([5, 4, 3, 2, 1], [6, 7, 8])


def test_trial_that_was_found_bad_and_runs_again_is_stopped_at_its_next_report() -> None:
    each = Experiment(HyperBandForBOHB(max_t=3), 3)
    each.report(0, 1)
    each.trials[0].status = Status.RUNNING  # it goes on to its next checkpoint
    each.report(1, 1), each.report(2, 1)

    assert each.settle() == ([1], [])
    assert each.report(0, 1) == "STOP"


def test_trial_that_somebody_has_paused_is_not_waited_for_and_catches_up() -> None:
    each = Experiment(HyperBandForBOHB(max_t=9), 9)
    each.trials[8].status, each.trials[8].is_paused_by_user = Status.PAUSED, True
    for number in range(8):
        each.report(number, 1)

    stopped, chosen = each.settle()
    assert (stopped, chosen) == ([4, 3, 2, 1, 0], [5, 6])
    assert each.trials[7].status is Status.RUNNING  # the last one

    each.trials[8].status, each.trials[8].is_paused_by_user = Status.RUNNING, False
    assert [each.report(number, 3) for number in (5, 6, 7)] == ["PAUSE"] * 3
    assert [each.report(8, time) for time in (1, 2, 3)] == ["CONTINUE"] * 3  # the best of four


def test_trial_that_goes_on_and_is_held_by_somebody_holds_no_other_bracket_up() -> None:
    held = Experiment(HyperBandForBOHB(max_t=9), 10)
    held.report(8, 1)
    held.trials[8].is_paused_by_user = True
    for number in (0, 1, 2, 3, 4, 5, 6, 7):
        held.report(number, 1)
    held.settle()
    for number in (6, 7):
        held.end(number)

    assert held.report(9, 3) == "PAUSE"  # alone in its bracket for five
    assert held.settle() == ([], [9])


def test_trial_that_is_bad_and_held_by_somebody_ends_once_it_is_let_go() -> None:
    each = Experiment(HyperBandForBOHB(max_t=3), 3)
    each.report(0, 1)
    each.trials[0].is_paused_by_user = True
    each.report(1, 1), each.report(2, 1)

    assert each.settle() == ([1], [])
    each.trials[0].is_paused_by_user = False
    assert each.settle() == ([0], [])


# Words.


def test_it_says_what_it_decided_by() -> None:
    scheduler = HyperBandForBOHB("training_iteration", max_t=9)
    each = Experiment(scheduler, 9)
    each.report(0, 1)
    assert scheduler.decision_reason(each.trials[0]) == {"bracket": 0, "rung": 1, "value": 0}
    for number in range(1, 9):
        each.report(number, 1)

    bad = {"bracket": 0, "rung": 1, "value": 5, "cutoff": 6, "rank": 4, "of": 9}
    assert scheduler.decision_reason(each.trials[5]) == bad
    json.dumps(bad)
    each.settle()
    assert scheduler.decision_reason(each.trials[5]) == {}  # it is over


def test_values_in_reasons_have_the_sign_of_the_metric_and_are_numbers() -> None:
    scheduler = HyperBandForBOHB(metric="score", mode="min", max_t=3)
    each = Experiment(scheduler, 0, ends=False)
    for _ in range(3):
        each.add()
    each.report(0, 1, 0.5), each.report(1, 1, math.nan), each.report(2, 1, 0.25)

    assert scheduler.decision_reason(each.trials[0])["value"] == 0.5
    assert scheduler.decision_reason(each.trials[0])["cutoff"] == 0.25
    assert "value" not in scheduler.decision_reason(each.trials[1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_t": 0.5}, "at least 1"),
        ({"max_t": math.inf}, "finite"),
        ({"reduction_factor": 1}, "above 1"),
        ({"reduction_factor": 1.0001}, "1000 kinds of brackets"),
        ({"stop_last_trials": 1}, "True or False"),
        ({"metric": "loss"}, "mode is missing"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        HyperBandScheduler(**options)


# Whole experiments.


def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
    return {"loss": config["x"] + 1 / iteration}, 1.0 + config["x"]


def search(scheduler: Any, num_samples: int = 17, **options: Any) -> SimulatedRun:
    tuning: dict[str, Any] = {"metric": "loss", "mode": "min", "num_samples": num_samples}
    tuning |= options.pop("tuning", {})
    return simulate(
        curve,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(scheduler=scheduler, **tuning),
        **options,
    )


def lengths(run: SimulatedRun) -> list[dict[int, int]]:
    """How many trials ended where, of each bracket of a round with max_t=9."""
    ends = [trial.iteration for trial in run.trials]
    return [dict(sorted(Counter(part).items())) for part in (ends[:3], ends[3:8], ends[8:17])]


@pytest.mark.parametrize("slots", [1, 2, 4, 40])
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_a_round_of_brackets_comes_to_the_same_with_any_number_of_slots(
    slots: int, limit: int | None
) -> None:
    run = search(HyperBandScheduler(max_t=9), slots=slots, tuning={"max_concurrent_trials": limit})

    assert lengths(run) == [{9: 3}, {3: 3, 9: 2}, {1: 6, 3: 2, 9: 1}]
    assert run.reason == "every trial is finished"
    best = sorted(run.trials[8:], key=lambda trial: trial.config["x"])
    assert [trial.iteration for trial in best] == [9, 3, 3, 1, 1, 1, 1, 1, 1]


def test_nothing_is_trained_twice_where_trials_save() -> None:
    run = search(HyperBandScheduler(max_t=9))

    assert len({(row["trial_id"], row["training_iteration"]) for row in run.rows}) == len(run.rows)
    assert len(run.rows) == sum(trial.iteration for trial in run.trials)


@pytest.mark.parametrize("kind", [HyperBandScheduler, HyperBandForBOHB])
@pytest.mark.parametrize("count", [1, 2, 7, 19])
def test_search_may_end_before_a_bracket_is_full(kind: type[HyperBandScheduler], count: int) -> None:
    run = search(kind(max_t=9), count)

    assert run.reason == "every trial is finished"
    assert max(trial.iteration for trial in run.trials) == 9


def test_searcher_that_waits_for_paused_trials_does_not_wait_for_ever() -> None:
    """A limiter counts trials until they are over, paused ones too."""
    run = search(
        HyperBandForBOHB(max_t=9),
        tuning={"search_alg": ConcurrencyLimiter(OptunaSearch(seed=1), max_concurrent=4)},
    )

    assert run.reason == "every trial is finished"
    assert {trial.status for trial in run.trials} == {Status.TERMINATED}


def test_steered_trials_hold_nobody_up() -> None:
    requests = {
        (4, 1): [PauseTrial("4")],
        (9, 1): [PauseTrial("9"), StopTrial("10")],
        (8, 1): [PauseTrial("8")],
        None: [ResumeTrial("4"), ResumeTrial("9"), StopTrial("8")],
    }
    run = search(HyperBandScheduler(max_t=9), requests=requests, slots=2)

    assert run.reason == "every trial is finished"
    ended = {(trial.number, trial.iteration) for trial in run.trials}
    assert {(8, 1)} <= ended
    assert Counter(end for number, end in ended if number >= 8)[9] >= 1


def test_pauses_are_few_where_the_searcher_has_ended() -> None:
    """The last trial of a bracket to come to a milestone goes on at once, in a bracket that is not full too."""
    run = search(HyperBandForBOHB(max_t=9), 3, slots=1)
    pauses = [
        event
        for event, _ in run.records
        if isinstance(event, TrialReported) and event.decision is Decision.PAUSE
    ]

    assert len(pauses) < 7


def test_only_who_has_come_to_the_last_milestone_has_had_the_full_budget() -> None:
    scheduler = HyperBandScheduler(max_t=9)
    trial = Experiment(scheduler, 4).trials[3]  # of the second bracket, which compares at 3

    told = [scheduler.is_full_budget(trial, {"training_iteration": time}) for time in (3, 8, 9, 10)]

    assert told == [False, False, True, True]


class Listening(OptunaSearch):
    """Remembers how trials have ended."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.early: dict[str, int] = {}
        self.complete: dict[str, int] = {}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.complete[trial_id] = (result or {}).get("training_iteration", 0)
        super().on_trial_complete(trial_id, result, error)

    def on_trial_stopped_early(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        self.early[trial_id] = (result or {}).get("training_iteration", 0)
        super().on_trial_stopped_early(trial_id, result)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda: HyperBandScheduler(max_t=9),
        lambda: HyperBandForBOHB(max_t=9),
        lambda: tune.schedulers.ASHAScheduler(max_t=9, reduction_factor=3, type="promotion", seed=1),
        lambda: tune.schedulers.ResourceChangingScheduler(
            tune.schedulers.ASHAScheduler(max_t=9, reduction_factor=3, seed=1)
        ),
    ],
)
def test_searcher_hears_that_who_was_dropped_or_left_paused_was_stopped_early(scheduler: Any) -> None:
    searcher = Listening()

    run = search(scheduler(), num_samples=12, tuning={"search_alg": searcher})

    assert len(searcher.early) + len(searcher.complete) == len(run.trials) == 12
    assert {*searcher.complete.values()} == {9}
    assert searcher.early
    assert all(time < 9 for time in searcher.early.values())
