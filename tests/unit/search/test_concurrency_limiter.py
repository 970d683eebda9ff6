"""No more trials at once than allowed; a batch is told of together."""

from __future__ import annotations

import json
from typing import Any

import pytest

import tune_core as tune
from tests.support.searchers import Numbers
from tune_core.config.run_config import TuneConfig
from tune_core.control.messages import SearchEnded, SuggestionDeferred, TrialSuggested
from tune_core.control.policy import Policy
from tune_core.errors import ConfigError
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter


class Early(Numbers):
    """Is told of trials that were stopped early."""

    def on_trial_stopped_early(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        self.told.append((trial_id, result, "early"))


def test_suggestions_wait_while_as_many_trials_run_as_may() -> None:
    limiter = ConcurrencyLimiter(Numbers(), 2)

    answers = [limiter.suggest(name) for name in "abc"]
    limiter.on_trial_complete("a", {"loss": 1})
    answers += [limiter.suggest(name) for name in "cd"]

    assert answers == [{"x": 1}, {"x": 2}, None, {"x": 3}, None]


def test_searcher_is_told_at_once_without_batches() -> None:
    limiter = ConcurrencyLimiter(searcher := Numbers(), 2)
    limiter.suggest("a")
    limiter.suggest("b")

    limiter.on_trial_result("b", {})
    limiter.on_trial_complete("b", None, error=True)

    assert searcher.told == [("result", "b"), ("b", None, True)]


def test_batch_is_told_of_once_all_of_it_is_over() -> None:
    limiter = ConcurrencyLimiter(searcher := Numbers(), 2, batch=True)
    limiter.suggest("a")
    limiter.suggest("b")

    limiter.on_trial_complete("b", {"loss": 2})
    before = list(searcher.told), limiter.suggest("c")
    limiter.on_trial_complete("a", None, error=True)

    assert before == ([], None)
    assert searcher.told == [("b", {"loss": 2}, False), ("a", None, True)]
    assert limiter.suggest("c") == {"x": 3}


def test_batch_remembers_which_trials_were_stopped_early() -> None:
    limiter = ConcurrencyLimiter(searcher := Early(), 2, batch=True)
    limiter.suggest("a")
    limiter.suggest("b")

    limiter.on_trial_stopped_early("b", {"loss": 2})
    again = ConcurrencyLimiter(searcher, 2, batch=True)
    again.set_state(json.loads(json.dumps(limiter.get_state())))
    again.on_trial_complete("a", {"loss": 1})

    assert searcher.told == [("b", {"loss": 2}, "early"), ("a", {"loss": 1}, False)]


def test_batch_that_is_not_full_ends_with_its_last_trial() -> None:
    limiter = ConcurrencyLimiter(searcher := Numbers(), 5, batch=True)
    limiter.suggest("a")

    limiter.on_trial_complete("a", {"loss": 2})

    assert searcher.told == [("a", {"loss": 2}, False)]


def test_trial_that_was_replayed_counts_until_it_is_over() -> None:
    limiter = ConcurrencyLimiter(searcher := Numbers(), 1, batch=True)

    limiter.on_suggestion_replayed("a", {"x": 1})
    waiting = limiter.suggest("b")
    limiter.on_trial_complete("a", None)

    assert waiting is None
    assert searcher.told == [("replayed", "a", {"x": 1}), ("a", None, False)]


def test_state_holds_who_runs() -> None:
    first = ConcurrencyLimiter(Numbers(), 2, batch=True)
    first.suggest("a")
    first.suggest("b")
    first.on_trial_complete("a", {"loss": 1})
    second = ConcurrencyLimiter(searcher := Numbers(), 2, batch=True)

    second.set_state(first.get_state())
    second.on_trial_complete("b", {"loss": 2})

    assert searcher.told == [("a", {"loss": 1}, False), ("b", {"loss": 2}, False)]


def test_objective_and_number_of_trials_are_the_searchers() -> None:
    limiter = ConcurrencyLimiter(Numbers(metric="loss", mode="min"), 2)
    grid = ConcurrencyLimiter(BasicVariantGenerator(), 2)
    space = {"x": tune.grid_search([1, 2, 3])}

    assert (limiter.metric, limiter.mode, limiter.total_trials) == ("loss", "min", None)
    assert grid.set_search_properties(None, None, space, num_samples=2)
    assert (grid.total_trials, grid.counts_samples) == (6, True)


def test_experiment_keeps_the_limit_too() -> None:
    config = TuneConfig(search_alg=ConcurrencyLimiter(Numbers(), 1), num_samples=2)
    policy = Policy(config, None, {}, lambda config: None, "train")

    events = [policy.suggest("a", 0), policy.suggest("b", 1), policy.suggest("b", 2)]

    assert policy.max_concurrent == 1
    assert [type(event) for event in events] == [TrialSuggested, SuggestionDeferred, SearchEnded]


@pytest.mark.parametrize(
    ("searcher", "limit", "batch", "match"),
    [
        ("optuna", 1, False, "searcher='optuna'.*expected a Searcher"),
        (Numbers, 1, False, "given the class; expected an instance"),
        (Numbers(), 0, False, "max_concurrent=0.*at least 1"),
        (Numbers(), 2.5, "yes", r"2 faults: .*max_concurrent=2.5.*batch='yes'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(searcher: Any, limit: Any, batch: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        ConcurrencyLimiter(searcher, limit, batch)
