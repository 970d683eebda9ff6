"""Every searcher keeps the contract that `tune_core.testing` ships."""

from __future__ import annotations

from collections.abc import Iterator
from random import random
from typing import Any, ClassVar

import pytest

from tune_core.search import (
    BasicVariantGenerator,
    ConcurrencyLimiter,
    Repeater,
    Searcher,
    Suggestion,
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from tune_core.search.bayesopt import BayesOptSearch
from tune_core.search.bohb import TuneBOHB
from tune_core.search.hyperopt import HyperOptSearch
from tune_core.search.nevergrad import NevergradSearch
from tune_core.search.optuna import OptunaSearch
from tune_core.testing.searcher_contract import SearcherContract

#: What samplers import beside Optuna.
PACKAGES = {"gp": ("torch", "scipy"), "cmaes": ("cmaes",), "qmc": ("scipy",)}


class TestBasicVariantGenerator(SearcherContract):
    def make(self) -> Searcher:
        return BasicVariantGenerator(random_state=7)


class TestGrid(SearcherContract):
    space: ClassVar[dict[str, Any]] = {
        "a": grid_search([1, 2, 3]),
        "b": grid_search(["x", "y"]),
        "c": uniform(0, 1),
    }
    num_samples = 2

    def make(self) -> Searcher:
        return BasicVariantGenerator(points_to_evaluate=[{"a": 2}], random_state=7)


class TestOptunaSearch(SearcherContract):
    num_samples = 24  # its first ten are random

    def make(self) -> Searcher:
        return OptunaSearch(seed=7)


class TestOptunaSearchOfEverySampler(SearcherContract):
    space: ClassVar[dict[str, Any]] = {
        "uniform": uniform(-1, 1),
        "quniform": quniform(0, 3, 0.1),
        "loguniform": loguniform(1e-4, 1e-1),
        "qloguniform": qloguniform(0.5, 8, 0.5),
        "ints": [randint(0, 10), qrandint(1, 12, 4), lograndint(1, 1000), qlograndint(2, 64, 2)],
        "choice": choice([[64, 64], [128], {"deep": True}]),
        "inner": choice([{"kind": "sgd", "momentum": uniform(0, 1)}, {"kind": "adam"}]),
        "mixed": choice([1, True, 1.0, None]),
        "double": sample_from(lambda config: config["uniform"] * 2),
        "fixed": {"epochs": 3},
    }
    num_samples = 16

    def make(self) -> Searcher:
        return OptunaSearch(seed=3, points_to_evaluate=[{"uniform": 0.5}, {"choice": [128], "quniform": 0.3}])


class TestOptunaSearchWithDistributionsOfItsOwn(SearcherContract):
    space: ClassVar[dict[str, Any]] = {"epochs": 3}
    num_samples = 14

    def make(self) -> Searcher:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        return OptunaSearch(
            {"lr": FloatDistribution(0, 1), "net/act": CategoricalDistribution(["a", "b"])}, seed=1
        )


class TestOptunaSearchDefinedByRun(SearcherContract):
    space: ClassVar[dict[str, Any]] = {"epochs": 3}
    num_samples = 14

    def make(self) -> Searcher:
        def define(trial: Any) -> dict[str, Any]:
            if trial.suggest_categorical("kind", ["sgd", "adam"]) == "sgd":
                trial.suggest_float("net/momentum", 0, 1)
            return {"constant": 5}

        return OptunaSearch(define, seed=1)


class TestTuneBOHB(SearcherContract):
    num_samples = 24  # its first are random

    def make(self) -> Searcher:
        return TuneBOHB(seed=7, max_concurrent=4)


class TestTuneBOHBOfEverySampler(SearcherContract):
    space: ClassVar[dict[str, Any]] = {
        **TestOptunaSearchOfEverySampler.space,
        "normal": [randn(3, 2), qrandn(1, 5, 0.5)],
        "one": [choice(["only"]), uniform(2, 2), randint(3, 4)],
    }
    num_samples = 40

    def make(self) -> Searcher:
        return TuneBOHB(
            bohb_config={"random_fraction": 0.1, "num_samples": 8},
            points_to_evaluate=[{"uniform": 0.5}, {"choice": [128], "quniform": 0.3}],
            seed=3,
        )


class TestTuneBOHBWithASpaceOfItsOwn(SearcherContract):
    space: ClassVar[dict[str, Any]] = {"epochs": 3}
    num_samples = 14

    def make(self) -> Searcher:
        return TuneBOHB({"lr": uniform(0, 1), "net": {"act": choice(["a", "b"])}}, seed=1)


class TestOptunaSearchWithConditions(SearcherContract):
    space: ClassVar[dict[str, Any]] = {
        "opt": choice(
            [
                {
                    "name": "sgd",
                    "momentum": uniform(0, 1),
                    "nesterov": choice([True, {"rate": uniform(0, 1)}]),
                },
                {"name": "sgd", "momentum": uniform(0.5, 2), "nesterov": True},
                uniform(0, 1),
                randint(0, 3),
            ]
        ),
        "double": sample_from(lambda config: [config["opt"]] * 2),
    }
    num_samples = 24

    def make(self) -> Searcher:
        return OptunaSearch(seed=5)


class TestOptunaSearchOfAFiniteSpace(SearcherContract):
    space: ClassVar[dict[str, Any]] = {"a": choice([1, 2]), "b": randint(0, 4), "epochs": 3}
    num_samples = 12

    def make(self) -> Searcher:
        return OptunaSearch(seed=5)


class OptunaSampler(SearcherContract):
    """A sampler that is given by its name."""

    name = ""
    options: ClassVar[dict[str, Any]] = {}
    num_samples = 16

    def make(self) -> Searcher:
        for package in PACKAGES.get(self.name, ()):
            pytest.importorskip(package)
        return OptunaSearch(sampler=self.name, seed=3, sampler_options=self.options)


class TestOptunaTpe(OptunaSampler):
    name = "tpe"
    options: ClassVar[dict[str, Any]] = {"n_startup_trials": 3}


class TestOptunaGp(OptunaSampler):
    name = "gp"
    options: ClassVar[dict[str, Any]] = {"n_startup_trials": 3}
    space: ClassVar[dict[str, Any]] = {"x": uniform(0, 1), "n": randint(0, 99), "epochs": 3}
    num_samples = 6


class TestOptunaCmaes(OptunaSampler):
    name = "cmaes"
    options: ClassVar[dict[str, Any]] = {"popsize": 4}
    space: ClassVar[dict[str, Any]] = {"x": uniform(0, 1), "y": uniform(0, 1), "epochs": 3}


class TestOptunaNsgaii(OptunaSampler):
    name = "nsgaii"
    options: ClassVar[dict[str, Any]] = {"population_size": 4}


class TestOptunaNsgaiii(OptunaSampler):
    name = "nsgaiii"
    options: ClassVar[dict[str, Any]] = {"population_size": 4}


class TestOptunaQmc(OptunaSampler):
    name = "qmc"
    options: ClassVar[dict[str, Any]] = {"scramble": True}


class TestOptunaRandom(OptunaSampler):
    name = "random"


class LibraryContract(SearcherContract):
    space: ClassVar[dict[str, Any]] = {
        "x": uniform(-1, 1),
        "lr": loguniform(1e-4, 1e-1),
        "ints": [randint(0, 10), qrandint(1, 12, 4), lograndint(1, 1000), quniform(0, 3, 0.1)],
        "act": choice(["relu", [64, 64], None]),
        "double": sample_from(lambda config: config["x"] * 2),
        "epochs": 3,
    }
    num_samples = 16


class TestHyperOptSearch(LibraryContract):
    def make(self) -> Searcher:
        pytest.importorskip("hyperopt")
        return HyperOptSearch(n_initial_points=4, random_state_seed=3, points_to_evaluate=[{"x": 0.5}])


class TestBayesOptSearch(SearcherContract):
    space: ClassVar[dict[str, Any]] = {"x": uniform(-1, 1), "lr": loguniform(1e-4, 1e-1), "n": randint(0, 99)}

    def make(self) -> Searcher:
        pytest.importorskip("bayes_opt")
        return BayesOptSearch(random_search_steps=4, random_state=3, points_to_evaluate=[{"x": 0.5}])


class TestNevergradSearch(LibraryContract):
    def make(self) -> Searcher:
        pytest.importorskip("nevergrad")
        return NevergradSearch("OnePlusOne", seed=3, points_to_evaluate=[{"x": 0.5}])


class TestNevergradSearchByDefault(SearcherContract):
    def make(self) -> Searcher:
        pytest.importorskip("nevergrad")
        return NevergradSearch(seed=3)


class TestConcurrencyLimiter(SearcherContract):
    def make(self) -> Searcher:
        return ConcurrencyLimiter(OptunaSearch(seed=7), max_concurrent=4)


class TestConcurrencyLimiterInBatches(SearcherContract):
    def make(self) -> Searcher:
        return ConcurrencyLimiter(BasicVariantGenerator(random_state=7), max_concurrent=4, batch=True)


class TestRepeater(SearcherContract):
    def make(self) -> Searcher:
        return Repeater(OptunaSearch(seed=7), repeat=3)


# The contract itself.


class Broken(Searcher):
    """Breaks one rule of the contract."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.number = 0
        self.shared = {"width": 1, "act": "relu"}

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        super().set_search_properties(metric, mode, config, **spec)
        return True

    def suggest(self, trial_id: str) -> Any:
        self.number += 1
        if self.fault == "waits":
            return None
        if self.fault == "goes on after its end" and self.number % 3 == 0:
            return Searcher.FINISHED
        net = self.shared if self.fault == "shares" else {"width": 1, "act": "relu"}
        lr = 7.0 if self.fault == "outside" else random() if self.fault == "varies" else self.number / 100
        return Suggestion({"lr": lr, "net": net, "epochs": 3})

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        if self.fault == "wants to know every trial" and trial_id == "somebody_else":
            raise KeyError(trial_id)
        if self.fault == "needs a metric":
            float(result["loss"])
        if self.fault == "writes" and result:
            result["seen"] = True

    def get_state(self) -> dict[str, Any]:
        return {"state": {1, 2}} if self.fault == "state" else {}

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        self.number += 0 if self.fault == "forgets" else 1


def contract_of(fault: str) -> SearcherContract:
    class Contract(SearcherContract):
        def make(self) -> Searcher:
            return Broken(fault)

    return Contract()


def names_of(contract: SearcherContract) -> Iterator[str]:
    return (name for name in dir(contract) if name.startswith("test_"))


def test_searcher_without_fault_passes() -> None:
    contract = contract_of("none")

    for name in names_of(contract):
        getattr(contract, name)()


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("outside", "test_suggestions_lie_in_the_search_space"),
        ("shares", "test_suggestions_share_no_container"),
        ("waits", "test_search_ends_or_goes_on_but_does_not_wait_for_nothing"),
        ("goes on after its end", "test_search_that_has_ended_stays_at_its_end"),
        ("varies", "test_same_arguments_and_results_give_the_same_suggestions"),
        ("needs a metric", "test_results_need_not_come_in_order_nor_be_good"),
        ("writes", "test_results_are_only_read"),
        ("wants to know every trial", "test_trials_that_it_does_not_know_are_no_error"),
        ("forgets", "test_searcher_that_is_told_of_a_journal_goes_on_like_the_one_that_wrote_it"),
        ("state", "test_state_is_json"),
    ],
)
def test_searcher_with_a_fault_does_not_pass(fault: str, name: str) -> None:
    contract = contract_of(fault)

    with pytest.raises((AssertionError, KeyError, TypeError)):
        getattr(contract, name)()


def test_contract_without_a_searcher_says_what_to_write() -> None:
    with pytest.raises(AssertionError, match=r"write make\(self\)"):
        SearcherContract().make()
