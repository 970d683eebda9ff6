"""What trials are compared by if there are several metrics, and who leads then."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.objective import Objective
from tune_core.ranking import Standings
from tune_core.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter, Repeater, Searcher
from tune_core.search.optuna import OptunaSearch
from tune_core.trial import Trial

BOTH: dict[str, Any] = {"metric": ["acc", "ms"], "mode": ["max", "min"]}
NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf, None, "text"])


def a_trial(number: int) -> Trial:
    return Trial(f"a1b2c_{number:05d}", number, {})


def none_dominates(place: int, points: list[tuple[float, float] | None]) -> bool:
    """Whether a point (acc, ms) is on the front, by the definition."""
    own = points[place]
    return own is not None and not any(
        other is not None and other != own and other[0] >= own[0] and other[1] <= own[1] for other in points
    )


def state(standings: Standings) -> Any:
    """The front and the best by each metric, with their scores."""
    front = [(trial, standings.scores(trial)) for trial in standings.front]
    return front, [(part.best, part.best_score) for part in standings.parts]


def test_one_metric_in_a_list_is_that_metric() -> None:
    assert Objective(["loss"], ["min"]) == Objective("loss", "min")
    config = tune.TuneConfig(metric=["loss"], mode=["min"])
    assert (config.metric, config.mode) == ("loss", "min")
    assert Objective("loss", "min").parts == (Objective("loss", "min"),)
    assert Objective().names == ()


def test_fronts_are_numbered_and_what_lacks_a_number_is_on_none() -> None:
    both = Objective(["acc", "ms"], ["max", "min"])
    scores = [(0.9, 20.0), (0.8, 5.0), (0.8, 6.0), (None, 1.0), (0.7, math.inf), (0.1, 30.0), (0.9, 20.0)]

    assert both.fronts(scores) == [0, 0, 1, None, None, 2, 0]
    assert both.front(scores) == [0, 6, 1]
    order = sorted(range(7), key=lambda place: (both.keys(scores)[place], place))
    assert order == [0, 6, 1, 2, 5, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 3), NUMBERS, NUMBERS), max_size=30))
def test_the_front_while_it_runs_is_the_one_of_the_definition(reports: list[tuple[int, Any, Any]]) -> None:
    standings = Standings(Objective(["acc", "ms"], ["max", "min"]))
    trials = [a_trial(number) for number in range(4)]
    points: list[tuple[float, float] | None] = [None] * 4
    for iteration, (number, acc, ms) in enumerate(reports, 1):
        before = state(standings)
        is_news = standings.note(trials[number], iteration, {"acc": acc, "ms": ms})
        if isinstance(acc, float) and isinstance(
            ms, float
        ):  # else the report does not count, as with one metric
            points[number] = (acc, ms) if math.isfinite(acc) and math.isfinite(ms) else None
        front = [trial for trial in trials if none_dominates(trial.number, points)]
        assert sorted(standings.front, key=lambda trial: trial.number) == front
        assert not (is_news and before == state(standings))
        for trial in trials:
            assert (standings.key(trial)[0] == 0) is (trial in front)
    standings.forget(trials[0])
    assert trials[0] not in standings.front
    assert standings.num_trials == len({number for number, *_ in reports} - {0})


def test_news_is_a_new_member_of_the_front_or_one_that_became_better() -> None:
    standings = Standings(Objective(["acc", "ms"], ["max", "min"]))
    one, two, three = map(a_trial, range(3))

    def note(trial: Trial, iteration: int, acc: float, ms: float) -> bool:
        return standings.note(trial, iteration, {"acc": acc, "ms": ms})

    assert note(one, 1, 0.5, 10.0)
    assert not note(one, 2, 0.5, 10.0)
    assert not note(two, 1, 0.4, 11.0)  # dominated
    assert note(two, 2, 0.4, 9.0)  # another trade
    assert note(three, 1, 0.45, 9.5)  # the best by neither, and on the front
    assert [standings.best, standings.leaders] == [None, [one, two]]
    assert [trial.number for trial in standings.front] == [0, 2, 1]
    assert not note(three, 2, 0.45, 12.0)  # it leaves the front
    assert not note(three, 3, 0.45, 9.5)  # and is back as it was told
    assert note(three, 4, 0.46, 9.5)
    assert note(one, 3, 0.6, 1.0)  # dominates all
    assert standings.front == [one]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metric": ["a", "b"], "mode": ["max"]}, "two lists of one length"),
        ({"metric": ["a", "b"], "mode": "max"}, "two lists of one length"),
        ({"metric": "a", "mode": ["max"]}, "two lists of one length"),
        ({"metric": ["a", "b"]}, "two lists of one length"),
        ({"metric": ["a", "a"], "mode": ["max", "min"]}, "names 'a' twice"),
        ({"metric": ["a", "b"], "mode": ["max", "avg"]}, r"mode='avg'\): expected 'min' or 'max'"),
        ({"metric": ["a", "b"], "mode": ["max", "obs"]}, r"mode='obs'\): expected 'min' or 'max'"),
        ({"metric": ["a", 3], "mode": ["max", "min"]}, r"metric=3\): expected a string"),
        ({"metric": ["a", ""], "mode": ["max", "min"]}, r"metric=''\): expected a string"),
        ({"metric": [], "mode": []}, "expected at least one metric"),
        ({**BOTH, "best_scope": "all"}, "no report has together: use another scope"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tune.TuneConfig(**given)


class OfOneMetric(Searcher):
    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {}


class OfSeveral(OfOneMetric):
    supports_several_objectives = True


class Lenient(FIFOScheduler):
    def on_trial_result(self, trials: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.STOP if result["training_iteration"] > 3 else self.CONTINUE


class Comparing(TrialScheduler):
    def on_trial_result(self, trials: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.CONTINUE


@pytest.mark.parametrize("scheduler", [ASHAScheduler(), MedianStoppingRule(), Comparing()])
def test_a_scheduler_of_one_metric_refuses_several_and_names_another(scheduler: TrialScheduler) -> None:
    name = type(scheduler).__name__
    with pytest.raises(ConfigError, match=rf"{name} works with one metric\. Use MultiObjectiveASHAScheduler"):
        tune.TuneConfig(**BOTH, scheduler=scheduler)


@pytest.mark.parametrize(
    "searcher", [OfOneMetric(), ConcurrencyLimiter(OfOneMetric(), 2), Repeater(OptunaSearch(), 2)]
)
def test_a_searcher_of_one_metric_refuses_several_and_names_another(searcher: Searcher) -> None:
    with pytest.raises(ConfigError, match=r"works with one metric\. Use OptunaSearch"):
        tune.TuneConfig(**BOTH, search_alg=searcher)


@pytest.mark.parametrize(
    "given",
    [
        {"scheduler": FIFOScheduler()},
        {"scheduler": Lenient()},
        {"search_alg": OfSeveral()},
        {"search_alg": BasicVariantGenerator()},
        {"search_alg": ConcurrencyLimiter(OptunaSearch(), 2)},
    ],
)
def test_what_takes_several_metrics_or_compares_nothing_is_taken(given: dict[str, Any]) -> None:
    config = tune.TuneConfig(**BOTH, **given)

    assert config.objective == Objective(("acc", "ms"), ("max", "min"))


def test_a_scheduler_that_compares_says_that_a_list_is_none_of_its_metrics() -> None:
    with pytest.raises(
        ConfigError, match="compares by one metric: name one, or use MultiObjectiveASHAScheduler"
    ):
        ASHAScheduler(metric=["a", "b"], mode="max")  # type: ignore[arg-type]


def test_metrics_that_only_the_searcher_has_are_compared_by() -> None:
    searcher = OptunaSearch(metric=["acc", "ms"], mode=["max", "min"])

    assert tune.TuneConfig(search_alg=searcher).objective == Objective(("acc", "ms"), ("max", "min"))
    with pytest.raises(ConfigError, match="use another scope"):
        tune.TuneConfig(search_alg=searcher, best_scope="all")
    seen = OfSeveral(["acc", "seen"], ["max", "obs"])
    assert tune.TuneConfig(search_alg=seen).objective == Objective("acc", "max")
