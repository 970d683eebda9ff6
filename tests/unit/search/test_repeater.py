"""Each configuration several times; the searcher learns the mean."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.support.searchers import Numbers
from tune_core.errors import ConfigError
from tune_core.search import BasicVariantGenerator, Repeater, Suggestion, grid_search, uniform
from tune_core.search.optuna import OptunaSearch


def a_repeater(repeat: int = 2, **options: Any) -> tuple[Repeater, Numbers]:
    repeater = Repeater(searcher := Numbers(metric="loss", mode="min"), repeat, **options)
    repeater.set_search_properties(None, None, {}, num_samples=9)
    return repeater, searcher


def test_configuration_is_suggested_as_often_as_it_is_repeated() -> None:
    repeater, _ = a_repeater(2)

    configs = [repeater.suggest(name) for name in "abc"]

    assert configs == [
        Suggestion({"x": 1, "__trial_index__": 0}, {"x": 1, "__trial_index__": 0}),
        Suggestion({"x": 1, "__trial_index__": 1}, {"x": 1, "__trial_index__": 1}),
        Suggestion({"x": 2, "__trial_index__": 0}, {"x": 2, "__trial_index__": 0}),
    ]


def test_index_can_be_left_out() -> None:
    repeater, _ = a_repeater(2, set_index=False)

    assert repeater.suggest("a") == Suggestion({"x": 1}, {"x": 1})


def test_searcher_is_told_of_the_mean_under_the_name_of_the_first_trial() -> None:
    repeater, searcher = a_repeater(3)
    for name in "abc":
        repeater.suggest(name)

    repeater.on_trial_complete("c", {"loss": 1.0})
    repeater.on_trial_complete("a", {"loss": math.nan})
    before = list(searcher.told)
    repeater.on_trial_complete("b", {"loss": 4.0})

    assert before == []
    assert searcher.told == [("a", {"loss": 2.5}, False)]


@pytest.mark.parametrize(("failed", "error"), [((True, True), True), ((True, False), False)])
def test_configuration_without_any_result_has_failed_if_all_its_trials_have(
    failed: tuple[bool, bool], error: bool
) -> None:
    repeater, searcher = a_repeater(2)
    for name, each in zip("ab", failed, strict=True):
        repeater.suggest(name)
        repeater.on_trial_complete(name, None, error=each)

    assert searcher.told == [("a", None, error)]


def test_what_a_trial_reported_before_it_failed_is_not_in_the_mean() -> None:
    repeater, searcher = a_repeater(2)
    for name in "ab":
        repeater.suggest(name)

    repeater.on_trial_complete("a", {"loss": 100.0}, error=True)
    repeater.on_trial_complete("b", {"loss": 2.0})

    assert searcher.told == [("a", {"loss": 2.0}, False)]


def test_mean_of_trials_of_which_one_was_stopped_early_is_told_as_stopped_early() -> None:
    searcher = OptunaSearch(metric="loss", mode="min", seed=1)
    repeater = Repeater(searcher, 2)
    repeater.set_search_properties(None, None, {"x": uniform(0, 1)})
    repeater.suggest("a")
    repeater.suggest("b")

    repeater.on_trial_stopped_early("a", {"loss": 4.0, "training_iteration": 1})
    repeater.on_trial_complete("b", {"loss": 2.0, "training_iteration": 9})

    (trial,) = searcher.study.trials
    assert (trial.state.name, trial.value) == ("PRUNED", 3.0)


def test_replayed_trials_are_repetitions_too() -> None:
    repeater, searcher = a_repeater(2)

    repeater.on_suggestion_replayed("a", {"x": 5, "__trial_index__": 0})
    second = repeater.suggest("b")
    repeater.on_trial_complete("a", {"loss": 1})
    repeater.on_trial_complete("b", {"loss": 3})

    assert isinstance(second, Suggestion)
    assert second.config == {"x": 5, "__trial_index__": 1}
    assert searcher.told == [("replayed", "a", {"x": 5}), ("a", {"loss": 2.0}, False)]


def test_grid_is_walked_once_for_all_repetitions() -> None:
    repeater = Repeater(BasicVariantGenerator(), repeat=2)
    repeater.set_search_properties("loss", "min", {"x": grid_search([1, 2])}, num_samples=1)

    assert repeater.total_trials == 4


def test_arguments_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 faults: .*searcher=3.*repeat=0.*set_index=None"):
        Repeater(3, 0, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"metrics \['a', 'b'\]; expected one"):
        Repeater(Numbers(metric=["a", "b"], mode=["min", "max"])).set_search_properties(None, None, {})
