"""Searchers around other libraries: what they take, what they refuse, and that they learn."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

import pytest

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.search import Suggestion, create_searcher
from tune_core.search.bayesopt import BayesOptSearch
from tune_core.search.hyperopt import HyperOptSearch
from tune_core.search.library_search import LibrarySearch
from tune_core.search.nevergrad import NevergradSearch

PACKAGES = {"hyperopt": "hyperopt", "bayesopt": "bayes_opt", "nevergrad": "nevergrad"}
SEEDS = {"hyperopt": "random_state_seed", "bayesopt": "random_state", "nevergrad": "seed"}


def a_search(name: str, space: dict[str, Any] | None = None, **options: Any) -> LibrarySearch:
    pytest.importorskip(PACKAGES[name])
    search = create_searcher(name, **{"metric": "loss", "mode": "min", SEEDS[name]: 1, **options})
    assert isinstance(search, LibrarySearch)
    search.set_search_properties(None, None, space or {"x": tune.uniform(-10, 10)}, num_samples=10)
    return search


def config_of(answer: Any) -> dict[str, Any]:
    assert answer != LibrarySearch.FINISHED
    return answer.config if isinstance(answer, Suggestion) else answer


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_search_learns(name: str, mode: str, sign: int) -> None:
    search = a_search(name, mode=mode)
    found = []
    for number in range(40):
        answer = search.suggest(f"t{number}")
        if answer == search.FINISHED:
            break
        found.append(config_of(answer)["x"])
        search.on_trial_complete(f"t{number}", {"loss": sign * (found[-1] - 3) ** 2})

    assert min(abs(x - 3) for x in found) < 0.5
    assert sum(abs(x - 3) < 2 for x in found[-10:]) > 2  # at random it would be 2


@pytest.mark.parametrize("name", PACKAGES)
def test_points_come_first_and_may_be_parts(name: str) -> None:
    space = {"x": tune.uniform(0, 1), "n": tune.randint(1, 9)}
    search = a_search(name, space, points_to_evaluate=[{"x": 0.5, "n": 3}, {"n": 4}])

    assert config_of(search.suggest("t0")) == {"x": 0.5, "n": 3}
    assert config_of(search.suggest("t1"))["n"] == 4


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize(
    ("space", "options", "match"),
    [
        ({"x": tune.grid_search([1, 2])}, {}, "'x' is a grid"),
        ({"x": tune.randn()}, {}, "no bounds"),
        ({"x": tune.choice([{"y": tune.uniform(0, 1)}])}, {}, "choice with samplers in it"),
        ({"x": 3}, {}, "no sampler"),
        (
            {"x": tune.uniform(0, 1)},
            {"points_to_evaluate": [{"x": 2}]},
            r"points_to_evaluate\[0\]: x: 2 is none",
        ),
        ({"x": tune.uniform(0, 1)}, {"points_to_evaluate": [{"z": 2}]}, "has no 'z'"),
        ({"x": tune.uniform(0, 1)}, {"points_to_evaluate": 3}, "expected a list of dicts"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    name: str, space: dict[str, Any], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        a_search(name, space, **options)


def test_bayesian_optimization_takes_no_choices_and_ends_when_it_repeats_itself() -> None:
    with pytest.raises(ConfigError, match="only numbers are known here"):
        a_search("bayesopt", {"x": tune.choice([1, 2])})

    search = a_search("bayesopt", {"x": tune.randint(0, 3)}, random_search_steps=3, patience=2)
    answers = []
    for number in range(20):
        answers.append(search.suggest(f"t{number}"))
        search.on_trial_complete(f"t{number}", {"loss": 1.0})
    assert answers[-1] == search.FINISHED


def test_bounds_may_be_tuples_as_with_ray_tune() -> None:
    pytest.importorskip("bayes_opt")
    search = BayesOptSearch({"x": (0, 1)}, metric="loss", mode="min")
    search.set_search_properties(None, None, {"epochs": 3})

    assert 0 <= config_of(search.suggest("t0"))["x"] <= 1


@pytest.mark.parametrize("name", PACKAGES)
def test_resume_with_another_seed_goes_on_and_says_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    search = a_search(name, **{SEEDS[name]: 5})

    search.on_suggestion_replayed("t0", {"x": 1.25})
    search.on_trial_complete("t0", {"loss": 1.0})

    assert "asked again for trial t0" in caplog.text
    assert config_of(search.suggest("t1"))["x"] != 1.25


@pytest.mark.parametrize("kind", [HyperOptSearch, BayesOptSearch, NevergradSearch])
def test_without_its_package_the_error_names_the_extra(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in PACKAGES if name in kind.__name__.lower())
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)

    with pytest.raises(ImportError, match=rf"prefect-tune\[{name}\]"):
        kind()


@pytest.mark.parametrize(("name", "kind"), [("zoopt", "ZOOptSearch"), ("hebo", "HEBOSearch")])
def test_what_is_not_here_names_what_to_use_instead(name: str, kind: str) -> None:
    module = importlib.import_module(f"tune_core.search.{name}")

    with pytest.raises(ImportError, match="use OptunaSearch"):
        getattr(module, kind)
    assert not hasattr(module, "other")
