"""Which of several points are better where each has several values: fronts, and an order within a front.

Owns the one definition of "better" for several objectives. Invariant: more is better, in every place of a point;
who minimises negates. Never raises for a value that is no number: NaN counts as the worst.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = Sequence[float]


def dominates(one: Point, other: Point) -> bool:
    """Return whether one point is at least as good as the other everywhere, and better somewhere.

    Args:
        one: A point; more is better.
        other: A point with as many values.

    Example:
        >>> dominates((1.0, 2.0), (1.0, 1.0)), dominates((1.0, 2.0), (2.0, 1.0)), dominates((1.0,), (1.0,))
        (True, False, False)
    """
    first, second = _clean(one), _clean(other)
    return first != second and _covers(first, second)


def non_dominated_ranks(points: Sequence[Point]) -> list[int]:
    """Return the front of each point: 0 for those that no other dominates, 1 for those that only these dominate.

    So on with 2 and more. Equal points are in the same front. NaN counts as negative infinity.

    Args:
        points: Each with as many values, of which more is better. Two values take n log n steps for n points, more
            values at most n² steps.

    Raises:
        ValueError: The points differ in how many values they have.

    Example:
        >>> non_dominated_ranks([(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (1.0, 1.0), (0.0, float("nan"))])
        [0, 0, 0, 1, 2]

    Source: the fronts of Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002, found
        point by point in lexicographic order, as Zhang et al., "An Efficient Approach to Nondominated Sorting for
        Evolutionary Multiobjective Optimization", 2015, algorithm 1 with binary search.
    """
    clean = _all_clean(points)
    ranks = [0] * len(clean)
    fronts: list[list[tuple[float, ...]]] = []
    for index in sorted(range(len(clean)), key=lambda index: clean[index], reverse=True):
        point = clean[index]
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            if _front_dominates(fronts[middle], point):
                low = middle + 1
            else:
                high = middle
        if low == len(fronts):
            fronts.append([])
        fronts[low].append(point)
        ranks[index] = low
    return ranks


def spread_order(points: Sequence[Point], count: int | None = None) -> list[int]:
    """Return the indices of points such that each next one is far from all before it.

    The first is the best by the first value, of several such points the earliest. Each next one has the largest
    distance to the nearest of those before; of equal ones the earliest is next. Distances are Euclidean, each value
    scaled by its range among the points; an infinite value counts as the nearest finite one.

    Args:
        points: Each with as many values, of which more is better.
        count: How many are wanted; None: all. Each takes as many steps as there are points.

    Raises:
        ValueError: The points differ in how many values they have.

    Example:
        >>> spread_order([(0.0, 10.0), (9.0, 1.0), (10.0, 0.0), (5.0, 5.0)])
        [2, 0, 3, 1]

    Source: the epsilon-net of Schmucker et al., "Multi-objective Asynchronous Successive Halving", 2021
        (https://arxiv.org/abs/2106.12639), section 3. Differs: each value is scaled by its range, so that units do
        not matter.
    """
    scaled = _scaled(_all_clean(points))
    wanted = len(scaled) if count is None else min(count, len(scaled))
    if wanted <= 0:
        return []
    latest = max(range(len(scaled)), key=lambda index: (scaled[index][:1], -index))
    order, left = [latest], [index for index in range(len(scaled)) if index != latest]
    nearest = [math.inf] * len(scaled)
    while len(order) < wanted:
        for index in left:
            nearest[index] = min(nearest[index], math.dist(scaled[index], scaled[latest]))
        latest = max(left, key=lambda index: (nearest[index], -index))
        order.append(latest)
        left.remove(latest)
    return order


def pareto_order(
    points: Sequence[Point], count: int | None = None, *, ranks: Sequence[int] | None = None
) -> list[int]:
    """Return the indices of points, the best first: by front, within a front as `spread_order`.

    Args:
        points: Each with as many values, of which more is better.
        count: How many are wanted; None: all.
        ranks: What `non_dominated_ranks` returned of them; None: not known.

    Raises:
        ValueError: The points differ in how many values they have.

    Example:
        >>> pareto_order([(1.0, 1.0), (3.0, 1.0), (1.0, 3.0)])
        [1, 2, 0]
    """
    ranks = non_dominated_ranks(points) if ranks is None else ranks
    wanted = len(points) if count is None else count
    order: list[int] = []
    for rank in range(max(ranks, default=-1) + 1):
        if len(order) >= wanted:
            break
        front = [index for index, each in enumerate(ranks) if each == rank]
        chosen = spread_order([points[index] for index in front], wanted - len(order))
        order += [front[index] for index in chosen]
    return order


def _clean(point: Point) -> tuple[float, ...]:
    return tuple(-math.inf if math.isnan(value) else float(value) for value in point)


def _all_clean(points: Sequence[Point]) -> list[tuple[float, ...]]:
    clean = [_clean(point) for point in points]
    sizes = sorted({len(point) for point in clean})
    if len(sizes) > 1:
        raise ValueError(f"points with {sizes} values each: expected as many values in each point")
    return clean


def _covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(mine >= theirs for mine, theirs in zip(one, other, strict=True))


def _front_dominates(front: list[tuple[float, ...]], point: tuple[float, ...]) -> bool:
    """Whether a point of the front dominates this one, which comes after all of them in descending order."""
    if len(point) == 2:  # the latest of a front has the most in the second place
        return front[-1][1] >= point[1] and front[-1] != point
    return any(each != point and _covers(each, point) for each in reversed(front))


def _scaled(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The points with each value from 0 to 1; one that all points share is 0."""
    columns = []
    for column in zip(*points, strict=True):
        finite = [value for value in column if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
        width = high / 2 - low / 2  # halves: the whole may be beyond floats
        columns.append(
            [(min(max(value, low), high) / 2 - low / 2) / width if width > 0 else 0.0 for value in column]
        )
    return [*zip(*columns, strict=True)] if columns else [()] * len(points)
