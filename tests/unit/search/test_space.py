from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_core.errors import ConfigError
from tune_core.search import space as samplers
from tune_core.search.sample import Categorical, Domain, Float, Function, Integer, unresolved_paths
from tune_core.search.space import (
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
    validate_space,
)

#: Other processes may take the machine's time.
unhurried = settings(deadline=None)

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-300, max_value=1e300)
seeds = st.integers(0, 2**32)


def ordered(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair)))


def draws(domain: Domain, count: int = 200, seed: int = 0) -> list[Any]:
    rng = random.Random(seed)
    return [domain.sample(rng) for _ in range(count)]


# What is drawn.


@unhurried
@given(ordered(finite), seeds)
def test_uniform_stays_between_its_bounds(bounds: tuple[float, float], seed: int) -> None:
    value = uniform(*bounds).sample(random.Random(seed))

    assert type(value) is float
    assert bounds[0] <= value <= bounds[1]


@unhurried
@given(ordered(positive), seeds)
def test_loguniform_stays_between_its_bounds(bounds: tuple[float, float], seed: int) -> None:
    value = loguniform(*bounds).sample(random.Random(seed))

    assert bounds[0] <= value <= bounds[1]


@unhurried
@given(ordered(st.integers(-(10**6), 10**6)), st.sampled_from(["0.1", "0.25", "0.003", "2", "1e-7"]), seeds)
def test_quniform_draws_the_float_nearest_to_a_multiple(indices: tuple[int, int], q: str, seed: int) -> None:
    step = Fraction(q)
    lower, upper = (float(index * step) for index in indices)

    value = quniform(lower, upper, float(q)).sample(random.Random(seed))

    assert value == float(round(value / float(q)) * step)
    assert lower <= value <= upper


@unhurried
@given(ordered(st.integers(1, 10**4)), st.sampled_from(["0.1", "0.5", "3"]), seeds)
def test_qloguniform_draws_multiples_between_its_bounds(indices: tuple[int, int], q: str, seed: int) -> None:
    step = Fraction(q)
    lower, upper = (float(index * step) for index in indices)

    value = qloguniform(lower, upper, float(q)).sample(random.Random(seed))

    assert value == float(round(value / float(q)) * step)
    assert lower <= value <= upper


@unhurried
@given(st.integers(-(10**20), 10**20), st.integers(1, 10**20), seeds)
def test_randint_excludes_its_upper_bound(lower: int, size: int, seed: int) -> None:
    value = randint(lower, lower + size).sample(random.Random(seed))

    assert type(value) is int
    assert lower <= value < lower + size


@unhurried
@given(st.integers(1, 10**15), st.integers(1, 10**15), seeds)
def test_lograndint_excludes_its_upper_bound(lower: int, size: int, seed: int) -> None:
    assert lower <= lograndint(lower, lower + size).sample(random.Random(seed)) < lower + size


@unhurried
@given(st.integers(-1000, 1000), st.integers(0, 1000), st.integers(2, 50), seeds)
def test_qrandint_draws_multiples_between_bounds_that_need_not_be(
    lower: int, size: int, q: int, seed: int
) -> None:
    multiples = [value for value in range(lower, lower + size + 1) if value % q == 0]
    if not multiples:
        with pytest.raises(ConfigError, match=f"no multiple of q={q} lies between"):
            qrandint(lower, lower + size, q)
        return

    domain = qrandint(lower, lower + size, q)

    assert domain.sample(random.Random(seed)) in multiples
    assert (domain.first, domain.last) == (multiples[0], multiples[-1])


def test_every_multiple_of_a_quantized_uniform_is_equally_likely() -> None:
    integers = Counter(draws(qrandint(0, 10, 5), 6000))
    floats = Counter(draws(quniform(0, 1, 0.5), 6000))

    assert sorted(integers) == [0, 5, 10]
    assert sorted(floats) == [0.0, 0.5, 1.0]
    assert all(1800 < count < 2200 for count in [*integers.values(), *floats.values()])


def test_logarithmic_samplers_give_each_order_of_magnitude_the_same_share() -> None:
    floats = Counter(math.floor(math.log10(value)) for value in draws(loguniform(1e-3, 1), 6000))
    integers = Counter(len(str(value)) for value in draws(lograndint(1, 1000), 6000))

    assert sorted(floats) == [-3, -2, -1]
    assert all(1800 < count < 2200 for count in [*floats.values(), *integers.values()])


def test_logarithmic_quantized_integers_are_drawn_by_the_index_of_the_multiple() -> None:
    counts = Counter(draws(qlograndint(2, 10, 2), 6000))

    # ln((k + 1) / k) / ln(6), for the k-th multiple; Ray Tune 2.60: 419, 230, 141, 115, 95 of 1000.
    expected = {2 * k: 6000 * math.log((k + 1) / k) / math.log(6) for k in range(1, 6)}
    assert counts.keys() == expected.keys()
    assert all(abs(counts[value] - expected[value]) < 200 for value in expected)


@pytest.mark.parametrize("domain", [qrandint(2, 5, 1), qrandint(2, 5), qlograndint(2, 5, 1), randint(2, 5)])
def test_a_step_of_one_excludes_the_upper_bound(domain: Integer) -> None:
    assert set(draws(domain)) == {2, 3, 4}
    assert domain.last == 4


@pytest.mark.parametrize(
    ("domain", "value"),
    [
        (uniform(1, 1), 1.0),
        (loguniform(3, 3), 3.0),
        (quniform(1, 1, 0.5), 1.0),
        (qloguniform(2, 2, 0.5), 2.0),
        (qrandint(4, 4, 2), 4),
        (qlograndint(4, 4, 2), 4),
        (randint(4, 5), 4),
        (lograndint(4, 5), 4),
    ],
    ids=repr,
)
def test_bounds_that_leave_one_value_draw_it(domain: Domain, value: float) -> None:
    assert set(draws(domain, 20)) == {value}


def test_bounds_that_are_multiples_within_a_tolerance_are_drawn_as_they_were_given() -> None:
    assert set(draws(quniform(0.1 + 0.2, 0.4, 0.1))) == {0.1 + 0.2, 0.4}


def test_neighbours_of_a_bound_far_from_zero_are_not_taken_for_it() -> None:
    assert set(draws(quniform(1e9, 1e9 + 1, 0.5))) == {1e9, 1e9 + 0.5, 1e9 + 1}


def test_randn_has_its_mean_and_deviation() -> None:
    values = draws(randn(10, 2), 4000)

    mean = sum(values) / len(values)
    assert mean == pytest.approx(10, abs=0.2)
    assert sum((value - mean) ** 2 for value in values) / len(values) == pytest.approx(4, abs=0.4)


def test_qrandn_draws_multiples() -> None:
    values = draws(qrandn(0, 1, 0.1))

    assert all(value == float(Fraction("0.1") * round(value * 10)) for value in values)
    assert len(set(values)) > 10


def test_choice_draws_every_category_itself() -> None:
    shared = object()

    assert set(draws(choice([shared, "a", None]))) == {shared, "a", None}


@pytest.mark.parametrize(
    "domain",
    [uniform(0, 1), randn(), qrandint(0, 100, 5), lograndint(1, 99), choice(["a", "b", "c"])],
    ids=repr,
)
def test_one_seed_draws_one_sequence(domain: Domain) -> None:
    assert draws(domain, 20, seed=7) == draws(domain, 20, seed=7) != draws(domain, 20, seed=8)


def test_a_sampler_without_a_source_of_randomness_uses_the_global_one() -> None:
    random.seed(3)
    first = uniform(0, 1).sample()
    random.seed(3)

    assert uniform(0, 1).sample() == first


# What can be seen from outside.


@pytest.mark.parametrize(
    "text",
    [
        "uniform(0, 1)",
        "uniform(-0.5, 1)",
        "quniform(0, 1, 0.1)",
        "loguniform(0.0001, 0.1)",
        "qloguniform(0.1, 1, 0.1)",
        "randn(0.0, 1.0)",
        "qrandn(10, 2, 0.2)",
        "randint(0, 10)",
        "qrandint(0, 10, 2)",
        "qrandint(0, 10, 1)",
        "lograndint(1, 10)",
        "qlograndint(2, 10, 2)",
        "choice(['a', 1, None])",
    ],
)
def test_the_repr_of_a_sampler_is_its_call(text: str) -> None:
    domain = eval(text, dict(vars(samplers)))

    assert repr(domain) == text
    assert eval(repr(domain), dict(vars(samplers))) == domain


def test_domains_show_what_a_searcher_needs_to_translate_them() -> None:
    normal = qrandn(1, 2, 0.5)

    assert qloguniform(0.5, 8, 0.5) == Float(lower=0.5, upper=8, q=0.5, log=True, mean=None, sd=None)
    assert (normal.mean, normal.sd, normal.q, normal.lower, normal.upper) == (1, 2, 0.5, -math.inf, math.inf)
    assert lograndint(1, 10) == Integer(lower=1, upper=10, q=None, log=True)
    assert choice([1, 2]) == Categorical(categories=(1, 2))


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (uniform(0, 1), [0, 1, 0.5], [-0.1, 1.1, "0.5", None, math.nan, True]),
        (randint(0, 3), [0, 2], [3, -1, 1.0, "1", True]),
        (qrandint(0, 4, 2), [0, 4], [5]),
        (randn(), [-1e9, 0], ["x", math.inf]),
        (choice(["a", [1]]), ["a", [1]], ["b", 1]),
        (sample_from(lambda: 1), [1, "anything"], []),
    ],
    ids=repr,
)
def test_a_domain_knows_which_values_are_valid(domain: Domain, inside: list[Any], outside: list[Any]) -> None:
    assert [domain.is_valid(value) for value in inside] == [True] * len(inside)
    assert [domain.is_valid(value) for value in outside] == [False] * len(outside)


def test_a_category_that_cannot_be_compared_counts_as_valid() -> None:
    class Array:
        def __eq__(self, other: object) -> Any:
            raise ValueError("the truth value of an array is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    assert choice([Array(), 1]).is_valid(2)


def test_grid_search_is_the_dict_that_may_be_written_by_hand() -> None:
    assert grid_search([1, 2]) == {"grid_search": [1, 2]}
    assert grid_search(range(3)) == {"grid_search": [0, 1, 2]}
    assert grid_search(value * 2 for value in (1, 2)) == {"grid_search": [2, 4]}


@pytest.mark.parametrize(
    ("func", "takes_config"),
    [
        (lambda: 1, False),
        (lambda config: 1, True),
        (lambda spec: 1, True),
        (lambda *args: 1, True),
        (lambda config=None: 1, True),
        (random.random, False),
        (dict, False),  # written in C: no signature
    ],
)
def test_sample_from_sees_whether_its_function_takes_the_configuration(
    func: Callable[..., Any], takes_config: bool
) -> None:
    assert sample_from(func) == Function(func, takes_config)


def test_sample_from_is_shown_by_the_name_of_its_function() -> None:
    assert repr(sample_from(random.random)) == "sample_from(Random.random)"
    assert sample_from(lambda: 5).sample() == 5
    assert sample_from(lambda config: config.get("a", 1)).sample(config={"a": 2}) == 2
    assert sample_from(lambda config: config.get("a", 1)).sample() == 1


# What is refused.


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: uniform("a", 1), r"uniform\(lower='a'\): expected a finite number"),  # type: ignore[arg-type]
        (lambda: uniform(0, True), r"uniform\(upper=True\): expected a finite number"),
        (lambda: uniform(0, math.nan), r"uniform\(upper=nan\): expected a finite number"),
        (lambda: uniform(0, math.inf), r"uniform\(upper=inf\)"),
        (lambda: uniform(2, 1), r"uniform: lower=2 is above upper=1: swap them"),
        (lambda: loguniform(0, 1), r"loguniform\(lower=0\): expected a number above 0: .*not its logarithm"),
        (lambda: loguniform(1, 2, 10), r"loguniform\(base=10\): no longer used: leave it out"),
        (lambda: qloguniform(1, 2, 1, 10), r"qloguniform\(base=10\)"),
        (lambda: lograndint(1, 2, None), r"lograndint\(base=None\)"),
        (lambda: qlograndint(1, 2, 1, base=2), r"qlograndint\(base=2\)"),
        (lambda: quniform(0, 1, 0.3), r"quniform\(upper=1\): expected a multiple of q=0.3"),
        (lambda: qloguniform(0.05, 1, 0.1), r"qloguniform\(lower=0.05\): expected a multiple of q=0.1"),
        (lambda: quniform(0, 1, 0), r"quniform\(q=0\): expected a number above 0"),
        (lambda: quniform(0, 1, -0.5), r"quniform\(q=-0.5\): expected a number above 0"),
        (lambda: quniform(0, 1, None), r"quniform\(q=None\): expected a finite number"),  # type: ignore[arg-type]
        (lambda: quniform(0, 1, 5e-324), r"quniform\(upper=1\): expected a multiple of q=5e-324"),
        (lambda: randn(0, 0), r"randn\(sd=0\): expected a number above 0"),
        (lambda: randn("x"), r"randn\(mean='x'\)"),  # type: ignore[arg-type]
        (lambda: qrandn(0, 1, 0), r"qrandn\(q=0\)"),
        (lambda: randint(0.5, 3), r"randint\(lower=0.5\): expected an integer"),  # type: ignore[arg-type]
        (lambda: randint(5, 5), r"randint: no integer lies between lower=5 and upper=5, which is excluded"),
        (lambda: randint(False, 5), r"randint\(lower=False\): expected an integer"),
        (lambda: qrandint(1, 3, 5), r"qrandint: no multiple of q=5 lies between lower=1 and upper=3$"),
        (lambda: qrandint(0, 10, 0), r"qrandint\(q=0\): expected an integer of at least 1"),
        (lambda: qrandint(0, 10, 2.5), r"qrandint\(q=2.5\): expected an integer"),  # type: ignore[arg-type]
        (lambda: qrandint(0, 10, None), r"qrandint\(q=None\): expected an integer"),  # type: ignore[arg-type]
        (lambda: lograndint(0, 10), r"lograndint\(lower=0\): expected an integer of at least 1"),
        (lambda: choice([]), r"choice\(categories=\[\]\): at least one value is needed"),
        (lambda: choice("abc"), r"choice\(categories='abc'\): expected a list, got str"),
        (lambda: choice(3), r"choice\(categories=3\): expected a list, got int"),  # type: ignore[arg-type]
        (lambda: choice({1, 2}), r"a set has no order that a seed could repeat: give sorted"),  # type: ignore[arg-type]
        (lambda: choice({"a": 1}), r"expected a list, got a dict"),  # type: ignore[arg-type]
        (lambda: grid_search([]), r"grid_search\(values=\[\]\): at least one value is needed"),
        (lambda: grid_search({1, 2}), r"grid_search\(values=\{1, 2\}\): a set has no order"),
        (lambda: sample_from(3), r"sample_from\(func=3\): expected a function"),  # type: ignore[arg-type]
        (lambda: sample_from(lambda a, b: 1), r"a function of the configuration, or of nothing.*\(a, b\)"),
    ],
)
def test_a_sampler_refuses_what_it_could_not_draw_from(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        call()


def test_all_faults_of_one_call_are_raised_together() -> None:
    with pytest.raises(ConfigError) as caught:
        qloguniform("a", -1, 0, base=10)  # type: ignore[arg-type]

    assert caught.value.faults == [
        "qloguniform(base=10): no longer used: leave it out, the distribution is the same for any base",
        "qloguniform(lower='a'): expected a finite number",
        "qloguniform(q=0): expected a number above 0",
    ]


def test_floats_without_fraction_count_as_integers() -> None:
    assert randint(1, 1e5) == Integer(1, 100000)  # type: ignore[arg-type]


# Whole spaces.


def test_unresolved_paths_are_found_at_any_depth_in_order_of_definition() -> None:
    space = {
        "z": uniform(0, 1),
        "net": {"layers": [{"width": grid_search([1, 2])}, (3, sample_from(lambda: 1))]},
        "fixed": {"grid_search": [1], "and": 2},
    }

    assert unresolved_paths(space) == ["z", "net/layers/0/width", "net/layers/1/1"]


def test_a_space_of_values_samplers_and_grids_is_accepted() -> None:
    validate_space(
        {
            "lr": loguniform(1e-4, 1),
            "act": choice(["relu", {"leaky": uniform(0, 1)}]),
            "nested": {"list": [grid_search([1, 2]), (randn(),)], "by_hand": {"grid_search": (1, 2)}},
            "object": object(),
            "function": len,
            "settings": {"eval": True},
            "twice": [shared := {"a": 1}, shared],
        }
    )


@pytest.mark.parametrize("space", [None, [uniform(0, 1)], uniform(0, 1), "lr"])
def test_a_space_that_is_no_dict_is_refused(space: Any) -> None:
    with pytest.raises(ConfigError, match=rf"expected a dict of .* got {type(space).__name__}$"):
        validate_space(space)


def test_every_fault_of_a_space_is_named_with_its_path() -> None:
    ray = ModuleType("ray.tune.search.sample")
    exec("class Float: pass\ndef uniform(lower, upper): pass", vars(ray))
    space = {
        1: "key",
        "ours": uniform,
        "grids": grid_search,
        "theirs": ray.Float(),
        "deep": [{"x": ray.uniform}],
        "grid": {"grid_search": 3},
        "empty": {"grid_search": []},
        "iterator": {"grid_search": iter([1])},
        "inside": grid_search([1, {"y": randint}]),
        "choice": choice(["a", {"z": {2: 3}}]),
        "old": {"eval": "spec.config.a"},
    }

    with pytest.raises(ConfigError) as caught:
        validate_space(space)

    faults = caught.value.faults
    assert faults[0] == "param_space: the key 1 is a int: expected a str"
    assert faults[1] == "param_space['ours']: the sampler uniform was not called: write uniform(...)"
    assert faults[2].startswith("param_space['grids']: the sampler grid_search was not called")
    assert faults[3].startswith("param_space['theirs']: <ray.tune.search.sample.Float object")
    assert faults[3].endswith("is of ray.tune.Float: import it from tune_core instead")
    assert faults[4] == (
        "param_space['deep'][0]['x']: uniform is a function of ray.tune: import it from tune_core instead"
    )
    assert faults[5] == "param_space['grid']: grid_search=3: expected a list, got int"
    assert faults[6] == "param_space['empty']: grid_search=[]: at least one value is needed"
    assert "param_space['iterator']" in faults[7]
    assert faults[8].startswith("param_space['inside']['grid_search'][1]['y']: the sampler randint")
    assert faults[9] == "param_space['choice'].categories[1]['z']: the key 2 is a int: expected a str"
    assert faults[10] == (
        "param_space['old']: {'eval': 'spec.config.a'} is not evaluated here: "
        "use sample_from(lambda config: ...)"
    )
    assert len(faults) == 11


def test_a_space_that_contains_itself_is_refused() -> None:
    space: dict[str, Any] = {"a": [1]}
    space["a"].append(space)

    with pytest.raises(ConfigError, match=r"param_space\['a'\]\[1\]: contains itself"):
        validate_space(space)
