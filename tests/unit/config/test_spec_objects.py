"""Objects that the journal keeps as text are found again in the search space."""

from __future__ import annotations

import enum
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tune_core as tune
from tests.support.object_refs import ObjectRef
from tune_core import references
from tune_core.config.spec import resolve_objects
from tune_core.encoding import Opaque, dumps, loads
from tune_core.search import BasicVariantGenerator

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


class Activation:
    """A class, as one chooses layers by."""


def module_function() -> None:
    """Something whose text has an address in it."""


OBJECT_VALUES: list[Any] = [
    Activation,
    module_function,
    Point(1, Activation),
    np.arange(3.0),
    Colour.BLUE,
    (1, [Colour.RED, module_function]),
    {"act": Activation, "n": 1},
]


def journaled(config: Any) -> Any:
    return loads(dumps(config))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return type(other) is np.ndarray and bool((one == other).all())
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or one == other


@given(st.data())
def test_objects_of_the_space_are_found_again(data: st.DataObject) -> None:
    values = data.draw(st.lists(st.sampled_from(range(len(OBJECT_VALUES))), unique=True, min_size=1))
    listed = [OBJECT_VALUES[number] for number in values] + ["plain", 7]
    space = {
        "a": tune.choice(listed),
        "b": [tune.grid_search(listed), {"c": tune.choice([{"inner": tune.choice(listed)}, 0])}],
        "fixed": listed,
        "x": tune.uniform(0, 1),
    }
    searcher = BasicVariantGenerator(random_state=data.draw(st.integers(0, 99)))
    searcher.set_search_properties(None, None, space)
    suggestion = searcher.suggest("t0")
    assert not isinstance(suggestion, str)

    resolved, unresolved = resolve_objects(journaled(suggestion.config), space)

    assert unresolved == []
    assert same(resolved, suggestion.config)


def test_objects_that_the_space_has_not_are_named() -> None:
    config = {
        "a": Opaque("<class 'gone'>"),
        "b": [1, {"c": Opaque("gone")}],
        "__trial_index__": 1,
        "extra": Opaque("x"),
    }
    space = {"a": tune.choice([int, str]), "b": [2, {"c": tune.sample_from(lambda: object())}], "left": 1}

    resolved, unresolved = resolve_objects(config, space)

    assert unresolved == ["a", "b/1/c", "extra"]
    assert resolved == config


def test_objects_of_one_text_are_not_guessed() -> None:
    def one() -> Any:
        return lambda: 1

    first, second = one(), one()
    space = {"same": tune.choice([first, first]), "either": tune.choice([first, second])}

    resolved, unresolved = resolve_objects(journaled({"same": first, "either": first}), space)

    assert unresolved == ["either"]
    assert resolved["same"] is first


def test_plain_values_are_never_taken_for_others() -> None:
    config = {"a": 1, "b": True, "c": 1.0, "d": [1, 2], "changed": 5}
    space = {
        "a": tune.choice([True, 1.0, 1]),
        "b": tune.choice([1, True]),
        "c": tune.grid_search([1, 1.0]),
        "d": tune.choice([(1, 2), [1, 2]]),
        "changed": 4,
    }

    resolved, unresolved = resolve_objects(config, space)

    assert unresolved == []
    assert dumps(resolved) == dumps(config)
    assert resolved["d"] is not space["d"]


def test_references_are_found_again_in_the_process_that_made_them() -> None:
    first, second = ObjectRef(1), ObjectRef(2)
    space = {"data": tune.grid_search([first, second]), "fixed": first}

    resolved, unresolved = resolve_objects(journaled({"data": second, "fixed": first}), space)

    assert unresolved == []
    assert resolved["data"] is second
    assert resolved["fixed"] is first


def test_in_another_process_a_reference_is_taken_for_the_only_one_at_its_place_and_never_guessed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = journaled({"data": ObjectRef(2), "fixed": ObjectRef(1), "changed": ObjectRef(3)})
    monkeypatch.setattr(references, "_PROCESS", "another")
    # Ray gives the same names again, here in another order.
    space = {
        "data": tune.grid_search([ObjectRef(2), ObjectRef(1)]),
        "fixed": ObjectRef(7),
        "changed": tune.choice([1, "x"]),
    }

    resolved, unresolved = resolve_objects(before, space)

    assert unresolved == ["data", "changed"]
    assert resolved["fixed"] is space["fixed"]
