"""How a search space may change half way, and in which words it is refused."""

from __future__ import annotations

from typing import Any

import pytest

import tune_core as tune
from tune_core.config.space_change import (
    changed_samplers,
    check_space_change,
    sampler_of,
    space_changes,
    with_samplers,
)
from tune_core.config.spec import describe_value
from tune_core.encoding import dumps, loads
from tune_core.errors import ConfigError

SPACE = {
    "lr": tune.loguniform(1e-3, 0.1),
    "net": {"width": tune.choice([16, 32]), "depth": tune.randint(1, 4)},
    "epochs": 5,
}


def described(space: dict[str, Any]) -> Any:
    return loads(dumps(describe_value(space)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"lr": tune.loguniform(1e-5, 1)}, ["lr: loguniform(1e-05, 1) instead of loguniform(0.001, 0.1)"]),
        ({"lr": tune.uniform(0, 1)}, ["lr: uniform(0, 1) instead of loguniform(0.001, 0.1)"]),
        ({"net/width": tune.choice([16, 64])}, ["net/width: choice([16, 64]) instead of choice([16, 32])"]),
        ({"momentum": tune.uniform(0, 1)}, ["momentum is new: uniform(0, 1)"]),
        ({"opt/beta": tune.uniform(0, 1)}, ["opt/beta is new: uniform(0, 1)"]),
    ],
)
def test_what_changes_is_named(changes: dict[str, Any], said: list[str]) -> None:
    before, after = described(SPACE), described(with_samplers(SPACE, changes))

    assert [str(each) for each in check_space_change(before, after)] == said
    assert changed_samplers(before, after) == changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": tune.choice([0.1])}, "it was a number, and cannot become a choice half way"),
        ({"net/depth": tune.uniform(1, 4)}, "it was a whole number, and cannot become a number"),
        ({"epochs": tune.randint(1, 9)}, "it was a fixed value, and cannot become a whole number"),
    ],
)
def test_a_parameter_of_another_kind_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_space_change(described(SPACE), described(with_samplers(SPACE, changes)))


def test_a_grid_keeps_its_space_but_for_fixed_values() -> None:
    grid = {**SPACE, "seed": tune.grid_search([1, 2])}
    for other in ({**grid, "seed": tune.grid_search([1, 2, 3])}, {**grid, "lr": tune.loguniform(1e-3, 1)}):
        with pytest.raises(ConfigError, match="a grid is walked in its order"):
            check_space_change(described(grid), described(other))

    assert [each.name for each in check_space_change(described(grid), described({**grid, "epochs": 9}))] == [
        "epochs"
    ]


def test_a_grid_may_become_a_choice() -> None:
    grid, choice = ({**SPACE, "seed": node} for node in (tune.grid_search([1, 2]), tune.choice([1, 2, 3])))

    (change,) = check_space_change(described(grid), described(choice))
    assert str(change).startswith("seed: choice([1, 2, 3]) instead of")


def test_a_parameter_may_go() -> None:
    after = {name: node for name, node in SPACE.items() if name != "lr"}

    assert [str(each) for each in space_changes(described(SPACE), described(after))] == ["lr is gone"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"uniform": {"lower": 0, "upper": 1}}, tune.uniform(0, 1)),
        ({"uniform": [0, 1]}, tune.uniform(0, 1)),
        ({"type": "loguniform", "lower": 1e-4, "upper": 1}, tune.loguniform(1e-4, 1)),
        ({"choice": [16, 32]}, tune.choice([16, 32])),
        ({"choice": {"categories": ["a", "b"]}}, tune.choice(["a", "b"])),
        ({"$sampler": "choice", "arguments": [[16, 32]]}, tune.choice([16, 32])),
        (tune.randint(1, 3), tune.randint(1, 3)),
    ],
)
def test_a_sampler_may_be_written_in_several_ways(given: Any, made: Any) -> None:
    assert sampler_of("x", given) == made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0.5, "expected a sampler"),
        ({"unifrom": [0, 1]}, "did you mean 'uniform'"),
        ({"uniform": [0]}, "upper"),
        ({"uniform": {"low": 0}}, "low"),
        ({"grid_search": [1]}, "write choice"),
        ({"sample_from": []}, "is no sampler"),
        ({"lower": 0, "upper": 1}, "expected a sampler"),
        ({"uniform": [1, 0]}, "upper"),
    ],
)
def test_what_is_no_sampler_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sampler_of("x", given)


def test_a_name_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="'epochs' of the search space is 5, not a dict"):
        with_samplers(SPACE, {"epochs/first": tune.uniform(0, 1)})
