from __future__ import annotations

from typing import Any

import pytest

from tune_core.errors import ConfigError
from tune_core.search import Searcher, Suggestion


class Countdown(Searcher):
    """As short as a user's searcher gets: no super().__init__()."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.scores: dict[str, Any] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        self.count -= 1
        return {"x": self.count} if self.count >= 0 else self.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.scores[trial_id] = result and result[str(self.metric)]


def test_a_searcher_of_two_methods_is_enough() -> None:
    searcher = Countdown(2)

    accepted = searcher.set_search_properties("loss", "min", {"fixed": 1}, num_samples=3, something_new=True)
    searcher.on_suggestion_replayed("t0", {"x": 9})
    answers = [searcher.suggest(f"t{number}") for number in range(1, 4)]
    searcher.on_trial_result("t1", {"loss": 0.7})
    searcher.on_trial_complete("t1", {"loss": 0.5})
    searcher.set_state(searcher.get_state())

    assert accepted is False
    assert answers == [{"x": 0}, "FINISHED", "FINISHED"]  # a replay has asked for the first one again
    assert searcher.scores == {"t1": 0.5}
    assert (searcher.metric, searcher.mode, searcher.max_concurrent) == ("loss", "min", 0)


def test_a_searcher_that_only_suggests_is_told_everything_all_the_same() -> None:
    class Constant(Searcher):
        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {"x": 1}

    searcher = Constant()

    searcher.on_trial_complete("t", {"loss": 1.0}, error=True)

    assert searcher.suggest("t") == {"x": 1}


def test_a_searcher_keeps_an_objective_of_its_own() -> None:
    class Fixed(Countdown):
        def __init__(self) -> None:
            Searcher.__init__(self, metric="accuracy", mode="max")

    searcher = Fixed()

    searcher.set_search_properties("loss", "min", {})

    assert (searcher.metric, searcher.mode) == ("accuracy", "max")


def test_a_searcher_without_suggest_cannot_be_made() -> None:
    class Empty(Searcher):
        pass

    with pytest.raises(TypeError, match="suggest"):
        Empty()  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("metric", "mode", "text"),
    [
        ("loss", "mini", r"Plain\(mode='mini'\): expected 'min' or 'max'; did you mean 'min'"),
        ("", "min", r"Plain\(metric=''\): expected the name of a metric"),
        (3, None, r"Plain\(metric=3\)"),
        (["a", "b"], ["min"], "expected two lists of one length"),
        (["a"], "min", "expected two lists of one length"),
        (["a"], ["lowest"], r"expected 'min' or 'max' or 'obs'"),
    ],
)
def test_an_objective_that_makes_no_sense_is_refused(metric: Any, mode: Any, text: str) -> None:
    class Plain(Searcher):
        def suggest(self, trial_id: str) -> None:
            return None

    with pytest.raises(ConfigError, match=text):
        Plain(metric, mode)


def test_several_metrics_have_a_mode_each() -> None:
    class Plain(Searcher):
        def suggest(self, trial_id: str) -> None:
            return None

    searcher = Plain(["loss", "time"], ["min", "obs"])

    assert (searcher.metric, searcher.mode) == (["loss", "time"], ["min", "obs"])
    assert Plain(["loss", "time"]).mode is None


def test_a_suggestion_may_say_what_varied() -> None:
    assert Suggestion({"a": 1}).varied == {}
    assert Suggestion({"a": 1, "b": 2}, {"a": 1}) == Suggestion(config={"a": 1, "b": 2}, varied={"a": 1})
