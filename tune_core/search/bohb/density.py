"""Kernel densities over coordinates: where good configurations are, and where the others are.

Owns BOHB's model. Never sees a configuration or a trial, only coordinates: from 0 to 1 for numbers, the
number of a category else. Invariant: all randomness is of the generator that the caller brings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STANDARD = NormalDist()


class Density:
    """A kernel density over points.

    Each point stands for a kernel: in numbers a normal distribution that is cut off at 0 and 1, in categories
    one that keeps the category with the probability 1 - bandwidth.

    Args:
        points: One row for each point, at least one; one column for each parameter.
        num_categories: Of each parameter; 0 for a number.
        min_bandwidth: No bandwidth is smaller.

    Example:
        >>> density = Density([[0.2], [0.3], [0.25]], [0], 1e-3)
        >>> near, far = density.logarithms([[0.25], [0.9]])
        >>> bool(near > far)
        True

    Source: Falkner et al., "BOHB", section 3.2 and appendix D (https://arxiv.org/abs/1807.01774): one density over
        all parameters, bandwidths by the normal reference rule. Differs: kernels are normalised where they are cut
        off; a category's bandwidth does not depend on the order of categories.
    """

    def __init__(
        self, points: Sequence[Sequence[float]], num_categories: Sequence[int], min_bandwidth: float
    ) -> None:
        import numpy as np

        self._points: NDArray[Any] = np.asarray(points, dtype=float)
        self._num_categories = list(num_categories)
        count, width = self._points.shape
        rule = 1.06 * count ** (-1 / (4 + width))
        self._bandwidths = [
            _bandwidth(self._points[:, column], categories, rule, min_bandwidth)
            for column, categories in enumerate(num_categories)
        ]

    def draw(self, rng: random.Random, factor: float) -> list[float]:
        """Return coordinates drawn from the density with all bandwidths multiplied by a factor of at least 1."""
        center = self._points[rng.randrange(len(self._points))]
        return [
            _draw_category(rng, int(at), categories, bandwidth * factor)
            if categories
            else _draw_number(rng, float(at), bandwidth * factor)
            for at, categories, bandwidth in zip(center, self._num_categories, self._bandwidths, strict=True)
        ]

    def logarithms(self, places: Sequence[Sequence[float]]) -> NDArray[Any]:
        """Return the logarithm of the density at each place."""
        import numpy as np

        at = np.asarray(places, dtype=float)
        kernels: NDArray[Any] = np.zeros((len(at), len(self._points)))
        for column, categories in enumerate(self._num_categories):
            centers, bandwidth = self._points[:, column], self._bandwidths[column]
            offsets = at[:, column][:, None] - centers[None, :]
            if categories:
                others = math.log(bandwidth / (categories - 1))
                kernels += np.where(offsets == 0, math.log1p(-bandwidth), others)
            else:
                inside = [_share_inside(float(center), bandwidth) for center in centers]
                areas = math.sqrt(2 * math.pi) * bandwidth * np.array(inside)
                kernels -= (offsets / bandwidth) ** 2 / 2 + np.log(areas)[None, :]
        highest = kernels.max(axis=1)
        sums: NDArray[Any] = np.log(np.exp(kernels - highest[:, None]).mean(axis=1)) + highest
        return sums


def _bandwidth(column: NDArray[Any], categories: int, rule: float, least: float) -> float:
    if not categories:
        return max(rule * float(column.std()), least)
    shares = [float((column == each).mean()) for each in range(categories)]
    spread = math.sqrt(max(1 - sum(share * share for share in shares), 0.0))
    return min(max(rule * spread, least), _most(categories))


def _most(categories: int) -> float:
    """The bandwidth at which every category is equally likely."""
    return (categories - 1) / categories


def _draw_number(rng: random.Random, center: float, bandwidth: float) -> float:
    low, high = _STANDARD.cdf(-center / bandwidth), _STANDARD.cdf((1 - center) / bandwidth)
    share = low + (high - low) * rng.random()
    share = min(max(share, 1e-15), 1 - 1e-15)
    return min(max(center + bandwidth * _STANDARD.inv_cdf(share), 0.0), 1.0)


def _draw_category(rng: random.Random, center: int, categories: int, bandwidth: float) -> float:
    if rng.random() >= min(bandwidth, _most(categories)):
        return float(center)
    return float((center + rng.randrange(1, categories)) % categories)


def _share_inside(center: float, bandwidth: float) -> float:
    return _STANDARD.cdf((1 - center) / bandwidth) - _STANDARD.cdf(-center / bandwidth)
