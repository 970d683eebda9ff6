"""The model behind PB2: which hyperparameters promise the greatest improvement in the next interval.

Owns the time-varying kernel and the choice of a point by its upper confidence bound. Needs scikit-learn; who imports
this module has to say so to those who lack it. Never knows of trials. All numbers come from the arguments.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

#: Observations that are looked at, the latest: fitting takes the cube of their number.
MAX_OBSERVATIONS = 200
#: Fewer than these say nothing about how far the kernel reaches.
_MIN_TO_FIT = 5
#: Variance of noise in standardised improvements.
_NOISE = 0.01
#: Constants of the confidence bound, as in the paper's appendix.
_C1, _C2 = 0.2, 0.4
_NUM_CANDIDATES, _NUM_REFINED = 512, 1


class Observation(NamedTuple):
    """What a trial gained in one interval.

    Attributes:
        time: When the interval began.
        score: What the trial's score was then; higher is better.
        params: The hyperparameters that it trained with.
        gain: How much the score grew for each unit of time.
    """

    time: float
    score: float
    params: tuple[float, ...]
    gain: float


class TimeVaryingKernel(Kernel):  # type: ignore[misc] # scikit-learn has no types
    """A squared exponential kernel of which older observations count less.

    k((t, x), (t', x')) = variance (1 - epsilon)^(|t - t'| / 2) exp(-|x - x'|^2 / (2 lengthscale^2)); the first column
    is time.

    Args:
        variance: Its value at no distance.
        lengthscale: How far it reaches in the other columns.
        epsilon: How fast what is known gets old, for each unit of time.

    Source: Parker-Holder et al., "Provably Efficient Online Hyperparameter Optimization with Population-Based
        Bandits", 2020 (https://arxiv.org/abs/2002.02518), section 4, after Bogunovic et al., 2016.
    """

    _BOUNDS = {"variance": (0.1, 10.0), "lengthscale": (0.1, 3.0), "epsilon": (1e-3, 0.5)}  # noqa: RUF012

    def __init__(self, variance: float = 1.0, lengthscale: float = 0.5, epsilon: float = 0.1) -> None:
        self.variance, self.lengthscale, self.epsilon = variance, lengthscale, epsilon

    @property
    def hyperparameter_variance(self) -> Any:
        """See `Kernel`."""
        return Hyperparameter("variance", "numeric", self._BOUNDS["variance"])

    @property
    def hyperparameter_lengthscale(self) -> Any:
        """See `Kernel`."""
        return Hyperparameter("lengthscale", "numeric", self._BOUNDS["lengthscale"])

    @property
    def hyperparameter_epsilon(self) -> Any:
        """See `Kernel`."""
        return Hyperparameter("epsilon", "numeric", self._BOUNDS["epsilon"])

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:  # noqa: N803 - of scikit-learn
        """Return the covariances; with `eval_gradient` also their derivatives by the logarithms of the arguments."""
        other = X if Y is None else Y
        age = np.abs(X[:, None, 0] - other[None, :, 0])
        square = np.sum((X[:, None, 1:] - other[None, :, 1:]) ** 2, axis=2)
        decay = (1.0 - self.epsilon) ** (age / 2.0)
        values = self.variance * decay * np.exp(-square / (2.0 * self.lengthscale**2))
        if not eval_gradient:
            return values
        # theta is sorted by name: epsilon, lengthscale, variance.
        by_epsilon = -values * age / 2.0 * self.epsilon / (1.0 - self.epsilon)
        return values, np.dstack([by_epsilon, values * square / self.lengthscale**2, values])

    def diag(self, X: Any) -> Any:  # noqa: N803
        """Return the variances."""
        return np.full(X.shape[0], self.variance)

    def is_stationary(self) -> bool:
        """Return True: only distances count."""
        return True


def propose(
    observations: Sequence[Observation],
    pending: Sequence[tuple[float, ...]],
    context: tuple[float, float],
    bounds: Sequence[tuple[float, float]],
    *,
    interval: float,
    seed: Sequence[int],
) -> list[float]:
    """Return the hyperparameters with the highest upper confidence bound on the improvement to come.

    Args:
        observations: What was gained so far, oldest first.
        pending: Hyperparameters that others have begun to train with: what they will show needs no second look.
        context: Time and score from which the training goes on.
        bounds: Lower and upper bound of each hyperparameter.
        interval: The unit of time.
        seed: Chooses where the search for the best point begins; without observations, the point.

    Example:
        >>> seen = [Observation(0.0, 0.0, (0.0,), 1.0)]  # one end is known, so the other end tells the most
        >>> propose(seen, [], (1.0, 0.0), [(0.0, 1.0)], interval=1.0, seed=[1])
        [1.0]

    Source: the paper's Algorithm 1 and Equation 5, batches after Desautels et al., 2014.
    """
    rng = np.random.default_rng(list(seed))
    low, high = np.array(bounds, dtype=float).T
    size = np.where(high > low, high - low, 1.0)
    seen = list(observations)[-MAX_OBSERVATIONS:]
    if not seen:
        return [float(value) for value in low + rng.random(len(low)) * (high - low)]
    scores = np.array([each.score for each in seen] + [context[1]])
    spread = max(float(np.ptp(scores)), 1e-12)

    # An interval may be next to nothing: what is older than ten thousand of them is forgotten anyway.
    unit = max(interval, 1e-4 * max(abs(each.time - context[0]) for each in seen))

    def rows(time: Any, score: Any, params: Any) -> Any:
        times = (np.asarray(time, dtype=float).reshape(-1, 1) - context[0]) / unit
        levels = (np.asarray(score, dtype=float).reshape(-1, 1) - scores.min()) / spread
        return np.hstack([times, levels, (np.asarray(params, dtype=float) - low) / size])

    known = rows([each.time for each in seen], scores[:-1], [each.params for each in seen])
    gains = np.array([each.gain for each in seen])
    varies = float(gains.std()) > 1e-12 * float(np.abs(gains).max())
    gains = (gains - gains.mean()) / float(gains.std()) if varies else np.zeros(len(gains))
    mean = _fitted(TimeVaryingKernel(), known, gains, optimises=varies and len(seen) >= _MIN_TO_FIT)
    spreading = mean
    if pending:
        begun = rows([context[0]] * len(pending), [context[1]] * len(pending), list(pending))
        more = np.vstack([known, begun])
        spreading = _fitted(mean.kernel_, more, np.zeros(len(more)), optimises=False)
    here = rows(context[0], context[1], low.reshape(1, -1))[0, :2]
    weight = np.sqrt(_C1 + max(0.0, float(np.log(_C2 * len(seen)))))

    def bound(points: Any) -> Any:
        places = np.hstack([np.tile(here, (len(points), 1)), points])
        return mean.predict(places) + weight * spreading.predict(places, return_std=True)[1]

    return [float(value) for value in low + _highest(bound, len(low), rng) * (high - low)]


def _fitted(kernel: Any, places: Any, values: Any, *, optimises: bool) -> Any:
    model = GaussianProcessRegressor(kernel, alpha=_NOISE, optimizer="fmin_l_bfgs_b" if optimises else None)
    with warnings.catch_warnings():  # a bound that is reached is no news
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(places, values)


def _highest(bound: Any, dimensions: int, rng: Any) -> Any:
    """Return where a function of points of the unit cube is highest: the best of many, and moved uphill."""
    candidates = np.vstack(
        [rng.random((_NUM_CANDIDATES, dimensions)), np.zeros(dimensions), np.ones(dimensions)]
    )
    values = bound(candidates)
    order = np.argsort(-values, kind="stable")[:_NUM_REFINED]
    best, highest = candidates[order[0]], values[order[0]]
    for start in candidates[order]:
        found = minimize(
            lambda point: -float(bound(point.reshape(1, -1))[0]),
            start,
            bounds=[(0.0, 1.0)] * dimensions,
            method="L-BFGS-B",
            options={"maxiter": 30},
        )
        if -found.fun > highest:
            best, highest = found.x, -found.fun
    return np.clip(best, 0.0, 1.0)
