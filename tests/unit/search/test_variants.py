from __future__ import annotations

import copy
import itertools
import random
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_core.errors import ConfigError
from tune_core.search import (
    choice,
    experiment_tag,
    generate_variants,
    grid_search,
    randint,
    sample_from,
    trial_dirname,
    uniform,
)
from tune_core.search.variants import grid_size, outside_values, read_point

#: Other processes may take the machine's time.
unhurried = settings(deadline=None)

Shape = namedtuple("Shape", "rows columns")


def variants(space: dict[str, Any], seed: int = 0, **options: Any) -> list[Any]:
    return list(generate_variants(space, random.Random(seed), **options))


def configs(space: dict[str, Any], seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    return [variant.config for variant in variants(space, seed, **options)]


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3))
names = st.text("abcde_-/ é", min_size=1, max_size=3)
spaces = st.recursive(
    st.one_of(
        values,
        st.lists(values, min_size=1, max_size=3).map(grid_search),
        st.lists(values, min_size=1, max_size=3).map(choice),
        st.just(uniform(0, 1)),
    ),
    lambda inner: st.one_of(
        st.dictionaries(names, inner, max_size=3), st.lists(inner, max_size=2), st.tuples(inner, inner)
    ),
    max_leaves=8,
).flatmap(lambda inner: st.fixed_dictionaries({"root": st.just(inner)}))


# Grids.


def test_the_first_grid_by_alphabet_varies_fastest() -> None:
    space = {"b": grid_search([1, 2]), "a": grid_search(["x", "y"]), "c": {"d": grid_search([True, False])}}

    found = [(config["a"], config["b"], config["c"]["d"]) for config in configs(space)]

    assert found == [
        ("x", 1, True),
        ("y", 1, True),
        ("x", 2, True),
        ("y", 2, True),
        ("x", 1, False),
        ("y", 1, False),
        ("x", 2, False),
        ("y", 2, False),
    ]


def test_grids_in_lists_and_tuples_are_walked_by_index() -> None:
    space = {"layers": [grid_search([1, 2]), 5, (grid_search([7, 8]),)]}

    assert [config["layers"] for config in configs(space)] == [
        [1, 5, (7,)],
        [2, 5, (7,)],
        [1, 5, (8,)],
        [2, 5, (8,)],
    ]


def test_a_fixed_space_has_one_variant_in_which_nothing_varied() -> None:
    assert [(variant.config, variant.varied) for variant in variants({"a": 1})] == [({"a": 1}, {})]


def test_grids_within_the_values_of_a_grid_are_walked_where_they_apply() -> None:
    space = {"net": grid_search([{"kind": "deep", "layers": grid_search([2, 3])}, {"kind": "flat"}])}

    assert [config["net"] for config in configs(space)] == [
        {"kind": "deep", "layers": 2},
        {"kind": "deep", "layers": 3},
        {"kind": "flat"},
    ]
    assert grid_size(space) == 3


def test_a_grid_within_a_choice_is_walked_once_it_is_chosen() -> None:
    space = {"a": choice([grid_search([1, 2, 3])])}

    assert [config["a"] for config in configs(space)] == [1, 2, 3]
    assert grid_size(space) == 1


@unhurried
@given(spaces, st.integers(0, 99))
def test_a_sample_has_as_many_variants_as_its_grids_have_points(space: dict[str, Any], seed: int) -> None:
    assert len(variants(space, seed)) == grid_size(space)


@unhurried
@given(spaces, st.integers(0, 99), st.booleans())
def test_one_seed_makes_one_sequence_of_variants(space: dict[str, Any], seed: int, constant: bool) -> None:
    first = variants(space, seed, constant_grid_search=constant)

    assert variants(copy.deepcopy(space), seed, constant_grid_search=constant) == first


@unhurried
@given(spaces)
def test_a_variant_holds_no_sampler_and_tells_every_value_that_varied(space: dict[str, Any]) -> None:
    for variant in variants(space):
        assert "grid_search" not in repr(variant.config)
        assert "uniform" not in repr(variant.config)
        assert list(variant.varied) == ["/".join(map(str, path)) for path in sorted(_open_paths(space))]


def _open_paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(node, str | float | int | None) and (not isinstance(node, dict | list | tuple)):
        return [path]
    if isinstance(node, dict) and list(node) == ["grid_search"]:
        return [path]
    children = (
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    )
    return [found for key, child in children for found in _open_paths(child, (*path, key))]


def test_a_grid_of_ten_million_points_is_walked_and_not_built() -> None:
    space: dict[str, Any] = {f"g{number}": grid_search(list(range(10))) for number in range(7)}

    first = list(itertools.islice(generate_variants(space, random.Random(0)), 11))

    assert grid_size(space) == 10**7
    assert [variant.config["g0"] for variant in first] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert first[10].config["g1"] == 1


# What is random.


def test_random_values_are_drawn_anew_for_each_point_of_the_grid() -> None:
    space = {
        "a": grid_search([1, 2, 3]),
        "b": uniform(0, 1),
        "c": sample_from(lambda config: config["a"] * 10),
    }

    found = configs(space)

    assert len({config["b"] for config in found}) == 3
    assert [config["c"] for config in found] == [10, 20, 30]


def test_constant_grid_search_draws_once_for_all_points_of_the_grid() -> None:
    calls = itertools.count()
    space = {
        "a": grid_search([1, 2, 3]),
        "b": uniform(0, 1),
        "c": sample_from(lambda config: config["a"] + config["b"]),
        "d": sample_from(lambda: next(calls)),
    }

    found = configs(space, constant_grid_search=True)

    assert len({config["b"] for config in found}) == 1
    assert [config["d"] for config in found] == [0, 0, 0]
    assert [config["c"] - config["b"] for config in found] == pytest.approx([1, 2, 3])


def test_the_order_of_keys_does_not_change_what_is_drawn() -> None:
    one = {"a": uniform(0, 1), "b": randint(0, 100), "c": {"d": uniform(0, 1)}}
    other = {"c": {"d": uniform(0, 1)}, "b": randint(0, 100), "a": uniform(0, 1)}

    assert configs(one) == configs(other)


def test_samplers_within_a_choice_are_drawn_once_chosen() -> None:
    space = {
        "opt": choice([{"name": "sgd", "lr": uniform(0, 1)}]),
        "plain": choice([uniform(5, 6)]),
        "copy": sample_from(lambda config: config["opt"]["lr"]),
    }

    (variant,) = variants(space)

    assert 0 <= variant.config["opt"]["lr"] <= 1
    assert 5 <= variant.config["plain"] <= 6
    assert variant.config["copy"] == variant.config["opt"]["lr"]
    assert list(variant.varied) == ["copy", "opt", "opt/lr", "plain"]
    assert variant.varied["opt"] == variant.config["opt"]


# Values that read each other.


@pytest.mark.parametrize(
    "read",
    [
        lambda spec: spec.config.a,
        lambda spec: spec["config"]["a"],
        lambda config: config["a"],
        lambda config: config.a,
        lambda spec: spec.config["a"],
        lambda config: config.get("a"),
        lambda config: dict(config)["a"],
        lambda config: {**config}["a"],
        lambda config: config.copy()["a"],
        lambda config: dict(config.items())["a"],
        lambda config: max(config.values()),
    ],
)
@pytest.mark.parametrize("name", ["0_before", "b_after"])
def test_sample_from_reads_other_values_in_every_form(read: Callable[[Any], Any], name: str) -> None:
    space = (
        {name: sample_from(read), "a": uniform(2, 3)}
        if name < "a"
        else {"a": uniform(2, 3), name: sample_from(read)}
    )

    (config,) = configs(space)

    assert config[name] == config["a"]


def test_sample_from_reads_a_key_called_config_of_the_space_itself() -> None:
    space = {
        "config": {"a": choice([1])},
        "b": sample_from(lambda config: config["config"]["a"]),
        "c": sample_from(lambda spec: spec.config.b),
    }

    (config,) = configs(space)

    assert (config["b"], config["c"]) == (1, 1)


def test_values_that_depend_on_each_other_are_decided_in_any_depth_and_order() -> None:
    space: dict[str, Any] = {
        f"v{n:03}": sample_from(lambda config, n=n: config[f"v{n + 1:03}"] + 1) for n in range(60)
    }
    space |= {
        "v060": sample_from(lambda spec: spec.config.net.layers[0]),
        "net": {"layers": [choice([5]), 2]},
    }

    (config,) = configs(space)

    assert config["v000"] == 65


def test_a_function_reads_decided_items_of_a_list_that_holds_itself() -> None:
    space = {
        "layers": [choice([4]), sample_from(lambda config: config["layers"][0] * 2), (sample_from(len),)]
    }

    (config,) = configs(space)

    assert config["layers"][:2] == [4, 8]


def test_a_function_asks_a_list_that_holds_itself_for_its_length_and_for_slices() -> None:
    def halves(config: Any) -> int:
        return int(len(config["layers"]) * sum(config.layers[:2]))

    (config,) = configs({"layers": [choice([4]), choice([5]), sample_from(halves)]})

    assert config["layers"] == [4, 5, 27]


def test_a_function_cannot_return_the_list_that_it_stands_in() -> None:
    with pytest.raises(ConfigError, match="'layers/1' reads 'layers/1'"):
        variants({"layers": [1, sample_from(lambda config: config["layers"])]})


def test_a_missing_value_may_have_a_default() -> None:
    assert configs({"a": sample_from(lambda config: config.get("b", 3))}) == [{"a": 3}]


def test_a_function_walks_over_all_values_but_its_own() -> None:
    space = {
        "sum": sample_from(lambda config: sum(config.values())),
        "a": choice([1]),
        "b": grid_search([2, 3]),
    }

    assert [config["sum"] for config in configs(space)] == [3, 4]


def test_undecided_values_do_not_leak_through_copies() -> None:
    seen: list[Any] = []

    def copied(config: dict[str, Any]) -> int:
        seen.append({**config})
        return 2

    def read(config: dict[str, Any]) -> int:
        seen.append(config["c"])
        return 1

    space = {"a": sample_from(copied), "b": sample_from(read), "c": sample_from(lambda: 7)}

    (config,) = configs(space)

    assert seen == [7, {"b": 1, "c": 7}]
    assert config == {"a": 2, "b": 1, "c": 7}


def test_a_function_that_swallows_the_refusal_is_called_again() -> None:
    def careless(config: Any) -> int:
        try:
            return int(config["z"])
        except Exception:  # noqa: BLE001 - what a careless user writes
            return -1

    space = {"a": sample_from(careless), "z": sample_from(lambda: 5)}

    assert configs(space) == [{"a": 5, "z": 5}]


def test_what_a_function_returns_is_plain_and_no_view() -> None:
    space = {
        "copy": sample_from(lambda config: [config["net"], config["mixed"]]),
        "net": {"a": choice([1])},
        "mixed": (choice([2]), [3]),
    }

    (config,) = configs(space)

    assert config["copy"] == [{"a": 1}, (2, [3])]
    assert type(config["copy"][0]) is dict
    assert config["copy"][0] is not config["net"]


def test_a_function_may_return_samplers_and_grids() -> None:
    space = {"a": sample_from(lambda: grid_search([1, 2])), "b": sample_from(lambda: uniform(5, 6))}

    found = configs(space)

    assert [config["a"] for config in found] == [1, 2]
    assert all(5 <= config["b"] <= 6 for config in found)


def test_functions_that_wait_for_each_other_are_named() -> None:
    space = {
        "a": sample_from(lambda spec: spec.config.n.b),
        "n": {"b": sample_from(lambda config: config["c"])},
        "c": sample_from(lambda config: config["a"]),
        "free": uniform(0, 1),
    }

    with pytest.raises(ConfigError, match="'a' reads 'n/b', 'n/b' reads 'c', 'c' reads 'a'; decide one"):
        variants(space)


def test_a_function_that_reads_its_own_value_is_named() -> None:
    with pytest.raises(ConfigError, match="wait for each other: 'a' reads 'a'"):
        variants({"a": sample_from(lambda config: config["a"])})


@pytest.mark.parametrize(
    ("func", "text"),
    [
        (lambda config: config["width_"], "at 'net/x' raised KeyError: 'width_'; did you mean 'width'?"),
        (lambda spec: spec.config.widht, "raised AttributeError: .*'widht'; did you mean 'width'?"),
        (lambda: 1 / 0, "at 'net/x' raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_fails_is_named_with_its_error(func: Callable[..., Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")) as caught:
        variants({"net": {"x": sample_from(func)}, "width": choice([1])})

    assert caught.value.__cause__ is not None


# What a configuration is made of.


def test_containers_are_fresh_and_leaves_are_passed_on() -> None:
    leaf = object()
    space = {
        "fixed": {"list": [leaf, {"deep": 1}]},
        "picked": choice([[leaf]]),
        "grid": grid_search([{"x": [leaf]}, {"x": []}]),
    }
    before = copy.copy(space)

    first, second = variants(space)
    first.config["fixed"]["list"][1]["deep"] = 2
    first.config["picked"].append(3)
    first.config["grid"]["x"].append(4)

    assert second.config["fixed"]["list"][1] == {"deep": 1}
    assert second.config["picked"] == [leaf]
    assert first.varied["grid"] == {"x": [leaf]}
    assert first.config["fixed"]["list"][0] is leaf
    assert space == before
    assert configs(space)[0]["grid"] == {"x": [leaf]}


def test_containers_keep_their_types() -> None:
    class Sizes(tuple[int, ...]):
        pass

    class Names(list[str]):
        pass

    counts: Any = defaultdict(int, a=choice([1]))
    space = {
        "ordered": OrderedDict(b=1, a=choice([2])),
        "counts": counts,
        "shape": Shape(choice([3]), 4),
        "sizes": Sizes((1, 2)),
        "names": Names(["x"]),
    }

    (config,) = configs(space)

    assert config["ordered"] == OrderedDict(b=1, a=2)
    assert config["counts"]["missing"] == 0
    assert config["shape"] == Shape(3, 4)
    assert [type(value) for value in config.values()] == [OrderedDict, defaultdict, Shape, Sizes, Names]
    assert "missing" not in counts


def test_a_faulty_space_is_refused_before_the_first_variant() -> None:
    with pytest.raises(ConfigError, match="was not called"):
        generate_variants({"a": uniform}, random.Random(0))


# Points.


def test_a_point_gives_some_values_and_leaves_the_rest_to_be_drawn() -> None:
    space = {"a": grid_search([1, 2]), "b": randint(0, 9), "n": {"c": uniform(0, 1), "d": 4}}

    found = variants(space, point={"b": 77, "n": {"c": 0.5}})

    assert [variant.config for variant in found] == [
        {"a": 1, "b": 77, "n": {"c": 0.5, "d": 4}},
        {"a": 2, "b": 77, "n": {"c": 0.5, "d": 4}},
    ]
    assert found[0].varied == {"a": 1, "b": 77, "n/c": 0.5}


def test_a_point_may_replace_a_whole_choice_and_what_is_fixed() -> None:
    space = {
        "opt": choice([{"lr": uniform(0, 1)}]),
        "n": {"x": uniform(0, 1)},
        "fixed": 1,
        "grid": grid_search([1, 2]),
    }

    (variant,) = variants(space, point={"opt": {"lr": 3}, "n": None, "fixed": 2, "grid": 9})

    assert variant.config == {"opt": {"lr": 3}, "n": None, "fixed": 2, "grid": 9}
    assert variant.varied == {"grid": 9, "n": None, "opt": {"lr": 3}}


def test_faults_of_a_point_are_raised_together_with_near_names() -> None:
    space = {"width": uniform(0, 1), "n": {"x": 1}}

    with pytest.raises(ConfigError) as caught:
        read_point(space, {"widht": 1, "n": {"y": 2}, "width": uniform(0, 1)}, "points[0]")

    assert caught.value.faults == [
        "points[0]: the search space has no 'widht'; did you mean 'width'?",
        "points[0]: the search space has no 'n/y'",
        "points[0]: 'width' is uniform(0, 1): expected a value",
    ]


def test_values_of_a_point_that_the_space_would_never_make_are_found() -> None:
    space = {"a": uniform(0, 1), "b": grid_search([1, 2]), "c": choice(["x"]), "d": 5}

    found = outside_values(space, read_point(space, {"a": 7, "b": 3, "c": "x", "d": 6}))

    assert [(path, value) for path, value, _ in found] == [(("a",), 7), (("b",), 3)]


# Names.


@pytest.mark.parametrize(
    ("number", "varied", "tag"),
    [
        (0, {}, "0"),
        (1, {"b": 1, "a": 10, "z/y": "p"}, "1_a=10,b=1,y=p"),
        (2, {"lr": 1.23456, "tiny": 1e-9}, "2_lr=1.2346,tiny=0.0000"),
        (3, {"a b": "x/y é..z"}, "3_a_b=x_y_z"),
        (4, {"flag": True, "none": None, "list": [1, 2], "neg": -1}, "4_flag=True,list=1_2,neg=-1,none=None"),
        (5, {"l/10": 1, "l/2": 2}, "5_2=2,10=1"),
    ],
)
def test_the_tag_shows_what_varied(number: int, varied: dict[str, Any], tag: str) -> None:
    assert experiment_tag(number, varied) == tag


def test_a_directory_is_named_by_trainable_trial_tag_and_date() -> None:
    name = trial_dirname("train", "a1b2c_00007", "7_lr=0.0100", "2026-01-31_23-59-59")

    assert name == "train_a1b2c_00007_7_lr=0.0100_2026-01-31_23-59-59"


def test_a_long_tag_is_cut_and_the_date_is_kept() -> None:
    name = trial_dirname("train", "a1b2c_00007", "7_" + "p" * 500, "2026-01-31_23-59-59")

    assert name == ("train_a1b2c_00007_7_" + "p" * 500)[:130] + "_2026-01-31_23-59-59"


def test_a_long_name_of_the_trainable_leaves_the_trial_id_whole() -> None:
    name = trial_dirname("t" * 500, "a1b2c_00007", "7_lr=1", "2026-01-31_23-59-59")

    assert name == "t" * 118 + "_a1b2c_00007_2026-01-31_23-59-59"


@unhurried
@given(st.text(max_size=300), st.text(max_size=300))
def test_a_directory_name_is_one_safe_path_component(trainable: str, tag: str) -> None:
    name = trial_dirname(trainable, "a1b2c_00007", tag, "2026-01-31_23-59-59")

    assert not set(name) & set('/\\:*?"<>|[]{}()\0\n')
    assert name.isprintable()
    assert ".." not in name
    assert not name.startswith(".")
    assert "_a1b2c_00007" in name
    assert name.endswith("_2026-01-31_23-59-59")
    assert len(name.encode()) <= 150
