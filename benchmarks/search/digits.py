"""Record learning curves of a small network, once: 512 configurations, 27 epochs each, 3 to 4 minutes on one core.

    python -m benchmarks.search.digits

What it writes, `digits.npz`, is a table of this benchmark. The network is scikit-learn's MLPClassifier on the
digits that come with it; the configurations are the first 512 points of a scrambled Sobol sequence.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

import tune_core as tune

RECORDED = Path(__file__).with_name("digits.npz")
EPOCHS, CONFIGURATIONS = 27, 512
SPACE: dict[str, Any] = {
    "lr": tune.loguniform(1e-4, 1.0),
    "width": tune.lograndint(4, 129),
    "batch_size": tune.lograndint(16, 257),
    "alpha": tune.loguniform(1e-6, 1.0),
    "momentum": tune.uniform(0.0, 0.99),
}


def at(point: np.ndarray) -> dict[str, Any]:
    """Return the configuration at a point of the unit cube.

    Example:
        >>> at(np.zeros(5))["width"]
        4
    """
    config: dict[str, Any] = {}
    for (name, domain), part in zip(SPACE.items(), point, strict=True):
        low, high = float(domain.lower), float(domain.upper)
        value = low + part * (high - low) if name == "momentum" else low * (high / low) ** part
        config[name] = int(value) if name in ("width", "batch_size") else float(value)
    return config


def main() -> None:
    """Train every configuration, and write errors and seconds of all epochs."""
    from scipy.stats import qmc

    points = qmc.Sobol(len(SPACE), seed=1).random(CONFIGURATIONS)
    errors = np.empty((CONFIGURATIONS, EPOCHS), dtype=np.float32)
    seconds = np.empty_like(errors)
    for number, point in enumerate(points):
        errors[number], seconds[number] = _train(at(point))
    np.savez_compressed(RECORDED, points=points.astype(np.float32), errors=errors, seconds=seconds)
    print(f"{RECORDED.name}: {RECORDED.stat().st_size} bytes, best error {errors.min():.4f}")


def _train(config: dict[str, Any]) -> tuple[list[float], list[float]]:
    import warnings

    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    train, test, train_y, test_y = train_test_split(
        digits.data / 16, digits.target, test_size=0.4, random_state=0
    )
    network = MLPClassifier(
        (config["width"],),
        solver="sgd",
        batch_size=config["batch_size"],
        learning_rate_init=config["lr"],
        alpha=config["alpha"],
        momentum=config["momentum"],
        random_state=0,
    )
    errors, seconds = [], []
    for _ in range(EPOCHS):
        began = time.perf_counter()
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # weights that overflow are what a learning rate of 1 gives
            try:
                network.partial_fit(train, train_y, classes=np.arange(10))
                error = 1.0 - float(network.score(test, test_y))
            except ValueError:  # they have become NaN
                error = 0.9
        errors.append(error)
        seconds.append(time.perf_counter() - began)
    return errors, seconds


if __name__ == "__main__":
    main()
