"""BOHB's searcher: coordinates, densities, budgets, and that it finds what it searches."""

from __future__ import annotations

import builtins
import itertools
import math
import random
import statistics
from typing import Any

import numpy as np
import pytest

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.schedulers import FIFOScheduler, HyperBandForBOHB
from tune_core.search import BasicVariantGenerator, Searcher, create_searcher
from tune_core.search.bohb import TuneBOHB
from tune_core.search.bohb.coordinates import parameters_of, read
from tune_core.search.bohb.density import Density
from tune_core.testing.simulator import simulate

SAMPLERS: dict[str, Any] = {
    "uniform": tune.uniform(-2, 3),
    "huge": tune.uniform(-1.7e308, 1.7e308),
    "log": tune.loguniform(1e-5, 1e2),
    "quantised": tune.quniform(0, 3, 0.1),
    "quantised log": tune.qloguniform(0.5, 8, 0.5),
    "integer": tune.randint(0, 10),
    "log integer": tune.lograndint(1, 1000),
    "quantised integer": tune.qrandint(1, 12, 4),
    "quantised log integer": tune.qlograndint(2, 64, 2),
    "normal": tune.randn(3, 2),
    "quantised normal": tune.qrandn(3, 2, 0.5),
    "choice": tune.choice(["a", 1, True, None, [1, 2], {"deep": 1}]),
}


def parameter(name: str) -> Any:
    (found,) = parameters_of({name: SAMPLERS[name]}, "space")
    return found


def at(values: dict[str, float], metric: float, step: int = 1) -> dict[str, Any]:
    return {"loss": metric, "training_iteration": step, **values}


def a_searcher(space: dict[str, Any] | None = None, mode: str = "min", **options: Any) -> TuneBOHB:
    options = {"random_fraction": 0, **options}
    searcher = TuneBOHB(seed=1, bohb_config=options)
    searcher.set_search_properties("loss", mode, space or {"x": tune.uniform(0, 1)}, num_samples=99)
    return searcher


def observe(searcher: TuneBOHB, xs: dict[float, float], step: int = 1) -> None:
    """Have it learn losses by x, at one budget."""
    for x, loss in xs.items():
        name = f"x={x}"
        if name not in searcher._coordinates:
            searcher.on_configuration_added(name, {"x": x})
        searcher.on_trial_result(name, at({}, loss, step))


def suggestions(searcher: TuneBOHB, count: int = 20) -> list[float]:
    answers = [searcher.suggest(f"s{number}") for number in range(count)]
    return [getattr(answer, "config", answer)["x"] for answer in answers]


# Coordinates.


@pytest.mark.parametrize("name", SAMPLERS)
def test_values_come_back_from_their_coordinates(name: str) -> None:
    each, rng = parameter(name), random.Random(1)
    for _ in range(200):
        value = SAMPLERS[name].sample(rng)
        coordinate = each.coordinate(value)
        assert 0 <= coordinate <= (each.num_categories or 1)
        again = each.value(coordinate)
        is_close = isinstance(value, float) and math.isclose(value, again, rel_tol=1e-6, abs_tol=1e-9)
        assert is_close or (again == value and type(again) is type(value))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "choice"])
def test_coordinates_of_draws_are_uniform_and_every_coordinate_is_a_value(name: str) -> None:
    each, rng = parameter(name), random.Random(2)
    drawn = [each.coordinate(SAMPLERS[name].sample(rng)) for _ in range(2000)]

    assert statistics.mean(drawn) == pytest.approx(0.5, abs=0.05)
    for coordinate in (0.0, 1e-300, 0.25, 0.999999, 1.0):
        assert SAMPLERS[name].is_valid(each.value(coordinate))


@pytest.mark.parametrize(
    "config", [{}, {"uniform": "x"}, {"uniform": 7}, {"uniform": math.nan}, {"uniform": True}, None]
)
def test_what_is_not_of_the_space_has_no_coordinate(config: Any) -> None:
    assert read(parameter("uniform"), config) is None


def test_constants_functions_and_inner_samplers_are_not_modelled() -> None:
    space = {
        "a": tune.choice(["only"]),
        "b": tune.uniform(2, 2),
        "c": tune.randint(3, 4),
        "d": tune.sample_from(lambda config: 1),
        "e": [tune.choice([{"inner": tune.uniform(0, 1)}, 2])],
    }

    assert [each.name for each in parameters_of(space, "space")] == ["e/0"]


# Densities.


def test_density_integrates_to_one_over_numbers_and_categories() -> None:
    density = Density([[0.0, 0], [0.1, 0], [0.9, 2]], [0, 3], 1e-3)
    places = [[(index + 0.5) / 500, category] for index in range(500) for category in range(3)]

    assert np.exp(density.logarithms(places)).sum() / 500 == pytest.approx(1, abs=1e-3)


def test_draws_follow_the_density() -> None:
    density, rng = Density([[0.2, 0], [0.21, 0], [0.8, 1]], [0, 3], 1e-3), random.Random(3)
    drawn = [density.draw(rng, 1.0) for _ in range(3000)]

    assert all(0 <= number <= 1 and category in (0, 1, 2) for number, category in drawn)
    edges = [0, 0.3, 0.6, 1]
    for low, high in itertools.pairwise(edges):
        grid = [[low + (high - low) * (step + 0.5) / 100, each] for step in range(100) for each in range(3)]
        expected = np.exp(density.logarithms(grid)).sum() * (high - low) / 100
        found = sum(low <= number < high for number, _ in drawn) / len(drawn)
        assert found == pytest.approx(expected, abs=0.04)


def test_draws_spread_with_the_factor_and_never_leave_the_range() -> None:
    density = Density([[0.5]] * 5, [0], 1e-3)
    near, far = ([density.draw(random.Random(n), factor)[0] for n in range(99)] for factor in (1.0, 1000.0))

    assert statistics.stdev(near) < 0.01 < 0.2 < statistics.stdev(far)
    assert all(0 <= each <= 1 for each in far)


def test_order_of_categories_changes_no_bandwidth() -> None:
    first = Density([[0], [0], [0], [2]], [3], 1e-3)
    second = Density([[1], [1], [1], [0]], [3], 1e-3)

    assert first.logarithms([[0]])[0] == pytest.approx(second.logarithms([[1]])[0])


# Budgets.


GOOD_AT_LOW = {x / 20: abs(x / 20 - 0.1) for x in range(20)}
GOOD_AT_HIGH = {x / 20: abs(x / 20 - 0.9) for x in range(20)}


def test_it_draws_at_random_until_there_are_enough_observations() -> None:
    """One parameter: two observations in each density, and two more."""
    searcher = a_searcher()
    observe(searcher, dict(list(GOOD_AT_LOW.items())[:3]))
    assert searcher._observations(4) == []
    assert statistics.stdev(suggestions(searcher)) > 0.2

    searcher.on_configuration_added("one more", {"x": 0.9})
    searcher.on_trial_complete("one more", at({}, 0.8))
    assert len(searcher._observations(4)) == 4


def test_it_suggests_where_good_configurations_are() -> None:
    for mode, sign in (("min", 1), ("max", -1)):
        searcher = a_searcher(mode=mode)
        observe(searcher, {x: sign * loss for x, loss in GOOD_AT_LOW.items()})

        assert statistics.mean(suggestions(searcher)) < 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"top_n_percent": 20.5},
        {"min_points_in_model": 4},
        {"min_points_in_model": None},
        {"num_samples": 100},
        {"bandwidth_factor": 1},
        {"min_bandwidth": 0.01},
        {"random_fraction": 0.05},
    ],
)
def test_options_keep_it_searching(options: dict[str, Any]) -> None:
    searcher = a_searcher(**options)
    observe(searcher, GOOD_AT_LOW)

    assert statistics.median(suggestions(searcher)) < 0.35


def test_random_fraction_of_one_is_random_search() -> None:
    searcher = a_searcher(random_fraction=1)
    observe(searcher, GOOD_AT_LOW)

    assert statistics.stdev(suggestions(searcher)) > 0.2


def test_the_largest_budget_with_enough_observations_counts() -> None:
    searcher = a_searcher()
    observe(searcher, GOOD_AT_LOW, step=1)
    observe(searcher, dict(list(GOOD_AT_HIGH.items())[-3:]), step=3)
    assert statistics.mean(suggestions(searcher)) < 0.3  # three are too few

    observe(searcher, GOOD_AT_HIGH, step=3)
    assert statistics.mean(suggestions(searcher)) > 0.7


def test_a_metric_that_is_reported_now_and_then_is_learnt_from() -> None:
    searcher = a_searcher()
    for step in range(1, 12):
        for x, loss in GOOD_AT_LOW.items():
            name = f"x={x}"
            if step == 1:
                searcher.on_configuration_added(name, {"x": x})
            row = at({}, loss, step) if step % 5 == 0 else {"training_iteration": step}
            searcher.on_trial_result(name, row)

    assert len(searcher._observations(4)) == 20
    assert statistics.mean(suggestions(searcher)) < 0.3


def test_nan_is_worst_and_what_is_no_number_is_no_observation() -> None:
    searcher = a_searcher()
    observe(searcher, {0.1: 1.0, 0.2: math.nan, 0.3: 0.5, 0.4: math.inf})
    searcher.on_configuration_added("none", {"x": 0.5})
    searcher.on_trial_result("none", {"loss": "high", "training_iteration": 1})
    searcher.on_trial_complete("none", None, error=True)

    assert [each[0] for each in searcher._observations(4)][:2] == [0.3, 0.1]
    assert len(searcher._observations(4)) == 4


def test_a_trial_that_is_tried_again_reports_anew() -> None:
    searcher = a_searcher()
    observe(searcher, {0.1: 5.0, 0.2: 1.0, 0.3: 2.0, 0.4: 3.0})
    observe(searcher, {0.1: 0.0})

    assert searcher._observations(4)[0] == [0.1]


# Whole searches.


def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
    depth = abs(config["net"]["depth"] - 3)
    bowl = (config["x"] - 0.2) ** 2 + (math.log10(config["lr"]) + 3) ** 2 / 9 + depth / 9
    worse = 0.0 if config["act"] == "relu" else 0.3
    return {"loss": bowl + worse + 1 / iteration}, 1.0


SPACE = {
    "x": tune.uniform(0, 1),
    "lr": tune.loguniform(1e-6, 1),
    "act": tune.choice(["relu", "tanh", "gelu"]),
    "net": {"depth": tune.randint(1, 9)},
    "fixed": 3,
}


def regret(searcher: Searcher, scheduler: Any) -> float:
    run = simulate(
        curve,
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", search_alg=searcher, scheduler=scheduler, num_samples=160
        ),
        iterations=9,
    )
    assert run.reason == "every trial is finished"
    return float(run.best("loss", "min")["loss"]) - 1 / 9


@pytest.mark.parametrize("make", [lambda: HyperBandForBOHB(max_t=9), FIFOScheduler])
def test_it_finds_better_configurations_than_random_search(make: Any) -> None:
    ours = [regret(TuneBOHB(seed=seed), make()) for seed in range(3)]
    others = [regret(BasicVariantGenerator(random_state=seed), make()) for seed in range(3)]

    assert statistics.median(ours) < 0.7 * statistics.median(others)


# Arguments.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"space": {"x": 1}}, "a dict of samplers"),
        ({"space": {"x": tune.grid_search([1])}}, "does not walk grids"),
        ({"bohb_config": {"top_n_per_cent": 3}}, "did you mean 'top_n_percent'"),
        ({"bohb_config": {"top_n_percent": 100}}, "below 100"),
        ({"bohb_config": {"random_fraction": 2}}, "from 0 to 1"),
        ({"bohb_config": {"bandwidth_factor": 0.5}}, "from 1"),
        ({"bohb_config": {"min_bandwidth": 0}}, "above 0"),
        ({"bohb_config": {"num_samples": 0}}, "at least 1|from 1"),
        ({"bohb_config": {"min_points_in_model": 0}}, "from 1"),
        ({"bohb_config": 3}, "a dict of options"),
        ({"points_to_evaluate": [3]}, "a list of dicts"),
        ({"metric": ["a", "b"], "mode": ["min", "max"]}, "optimises one"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        TuneBOHB(**options)


@pytest.mark.parametrize(
    ("space", "objective", "options", "text"),
    [
        ({"x": tune.grid_search([1])}, ("loss", "min"), {}, "does not walk grids"),
        ({"x": 1}, ("loss", "min"), {}, "nothing to choose"),
        ({"x": tune.uniform(0, 1)}, (None, None), {}, "no mode"),
        (
            {"x": tune.uniform(0, 1)},
            ("loss", "min"),
            {"points_to_evaluate": [{"y": 1}]},
            "has no 'y'",
        ),
        ({"y": tune.uniform(0, 1)}, ("loss", "min"), {"space": {"x": tune.uniform(0, 1)}}, "in one place"),
    ],
)
def test_spaces_and_objectives_that_cannot_work_are_refused(
    space: dict[str, Any], objective: Any, options: dict[str, Any], text: str
) -> None:
    searcher = TuneBOHB(**options)
    for check in (searcher.check_search_properties, searcher.set_search_properties):
        with pytest.raises(ConfigError, match=text):
            check(*objective, space)


def test_configuration_that_is_not_of_the_space_is_refused_or_not_learnt_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    searcher = a_searcher()
    with pytest.raises(ConfigError, match="expected a value of the search space for x"):
        searcher.on_configuration_added("t0", {"x": 7})

    searcher.on_suggestion_replayed("t1", {"x": 7})
    searcher.on_trial_complete("t1", at({}, 1.0))
    assert "TuneBOHB does not learn from it" in caplog.text
    assert searcher._losses == {}


def test_points_are_tried_first_and_what_they_lack_is_drawn() -> None:
    searcher = TuneBOHB(points_to_evaluate=[{"x": 0.25}], seed=1)
    searcher.set_search_properties("loss", "min", SPACE)

    config = getattr(searcher.suggest("t0"), "config", {})
    assert config["x"] == 0.25
    assert 1 <= config["net"]["depth"] < 9


def test_another_seed_is_another_search_and_it_has_a_name() -> None:
    first, second = (create_searcher("bohb", seed=seed, metric="loss", mode="min") for seed in (1, 2))
    for each in (first, second):
        each.set_search_properties(None, None, {"x": tune.uniform(0, 1)})

    assert isinstance(first, TuneBOHB)
    assert first.suggest("t0") != second.suggest("t0")


def test_without_numpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name == "numpy":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"prefect-tune\[bohb\]"):
        TuneBOHB()
