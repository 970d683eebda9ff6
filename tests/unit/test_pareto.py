"""Fronts of several objectives, and the order within a front."""

from __future__ import annotations

import math
import random

import pytest

from tune_core.pareto import dominates, non_dominated_ranks, pareto_order, spread_order


def _peeled(points: list[tuple[float, ...]]) -> list[int]:
    """The fronts by their definition: what nobody that is left dominates, again and again."""
    ranks = [-1] * len(points)
    left, rank = set(range(len(points))), 0
    while left:
        front = {
            index for index in left if not any(dominates(points[other], points[index]) for other in left)
        }
        for index in front:
            ranks[index] = rank
        left -= front
        rank += 1
    return ranks


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("values", [3, 1000])
def test_the_fronts_are_those_of_the_definition(dimensions: int, values: int) -> None:
    draws = random.Random(dimensions * values)
    for size in (0, 1, 2, 7, 60):
        points = [tuple(float(draws.randrange(values)) for _ in range(dimensions)) for _ in range(size)]

        assert non_dominated_ranks(points) == _peeled(points)


def test_nan_is_worse_than_any_number_and_infinities_are_what_they_are() -> None:
    nan, inf = math.nan, math.inf

    assert non_dominated_ranks([(nan, 1.0), (-1e300, 1.0), (inf, 0.0), (nan, nan), (-inf, -inf)]) == [
        1,
        0,
        0,
        2,
        2,
    ]


def test_equal_points_share_a_front() -> None:
    assert non_dominated_ranks([(1.0, 1.0)] * 3 + [(0.0, 0.0)] * 2) == [0, 0, 0, 1, 1]


def test_points_with_other_numbers_of_values_are_refused() -> None:
    with pytest.raises(ValueError, match="as many values in each"):
        non_dominated_ranks([(1.0,), (1.0, 2.0)])


def test_the_order_within_a_front_takes_the_farthest_next_whatever_the_units() -> None:
    front = [(0.0, 10.0), (9.0, 1.0), (10.0, 0.0), (5.0, 5.0)]

    assert spread_order(front) == [2, 0, 3, 1]
    assert spread_order([(first, 1e9 * second) for first, second in front]) == [2, 0, 3, 1]
    assert spread_order(front, 2) == [2, 0]
    assert spread_order(front, 0) == []


def test_distances_do_not_fail_at_the_end_of_floats() -> None:
    most = 1.7e308

    assert sorted(spread_order([(most, -most), (-most, most), (0.0, 0.0), (math.inf, -math.inf)])) == [
        0,
        1,
        2,
        3,
    ]
    assert spread_order([(math.inf,), (math.nan,)]) == [0, 1]


def test_the_order_of_all_goes_front_by_front() -> None:
    points = [(0.0, 0.0), (2.0, 1.0), (1.0, 2.0), (1.0, 1.0), (3.0, 0.0)]

    assert pareto_order(points) == [4, 2, 1, 3, 0]
    assert pareto_order(points, 4) == [4, 2, 1, 3]
    assert pareto_order([]) == []
