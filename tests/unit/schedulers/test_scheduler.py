from __future__ import annotations

from typing import Any

import pytest

from tune_core.schedulers import FIFOScheduler, TrialScheduler
from tune_core.states import Decision
from tune_core.trial import Trial


class StopEverything(TrialScheduler):
    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self.STOP


def a_trial() -> Trial:
    return Trial("a1b2c_00000", 0, {})


def test_fifo_lets_every_trial_continue_and_says_so_in_advance() -> None:
    scheduler = FIFOScheduler()
    trial = a_trial()

    scheduler.on_trial_add([trial], trial)
    decision = scheduler.on_trial_result([trial], trial, {"loss": 1.0})

    assert decision == TrialScheduler.CONTINUE == "CONTINUE"
    assert scheduler.always_continues


def test_scheduler_of_ones_own_is_asked() -> None:
    assert not StopEverything().always_continues
    assert StopEverything().on_trial_result([], a_trial(), {}) == "STOP"


def test_hooks_need_not_be_overridden() -> None:
    scheduler, trial = StopEverything(), a_trial()

    scheduler.on_trial_add([trial], trial)
    scheduler.on_trial_complete([trial], trial, {})
    scheduler.on_trial_error([trial], trial)
    scheduler.on_trial_remove([trial], trial)

    assert trial.attempt_number == 0


def test_scheduler_that_does_not_decide_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="on_trial_result"):
        TrialScheduler()  # type: ignore[abstract]


def test_constants_are_the_decisions_of_the_core() -> None:
    constants = (TrialScheduler.CONTINUE, TrialScheduler.PAUSE, TrialScheduler.STOP)

    assert constants == tuple(Decision(value) for value in ("CONTINUE", "PAUSE", "STOP"))


def test_metric_and_mode_are_taken_over() -> None:
    scheduler = FIFOScheduler()

    assert scheduler.set_search_properties("loss", "min", num_samples=3)
    assert (scheduler.metric, scheduler.mode) == ("loss", "min")


def test_nothing_to_take_over_is_no_conflict() -> None:
    scheduler = FIFOScheduler()

    assert scheduler.set_search_properties(None, None)
    assert (scheduler.metric, scheduler.mode) == (None, None)


@pytest.mark.parametrize(("metric", "mode"), [("acc", "min"), ("loss", "max"), ("acc", None), (None, "max")])
def test_another_metric_or_mode_is_refused_and_changes_nothing(metric: str | None, mode: str | None) -> None:
    scheduler = FIFOScheduler()
    scheduler.set_search_properties("loss", "min")

    assert not scheduler.set_search_properties(metric, mode)
    assert (scheduler.metric, scheduler.mode) == ("loss", "min")


def test_same_metric_may_be_given_again() -> None:
    scheduler = FIFOScheduler()
    scheduler.metric = "loss"

    assert scheduler.set_search_properties("loss", "min")
    assert scheduler.mode == "min"


def test_properties_of_one_scheduler_do_not_reach_another() -> None:
    FIFOScheduler().set_search_properties("loss", "min")

    assert FIFOScheduler().metric is None
