"""Gaussian processes by bayesian-optimization, at Ray Tune's import path; imported when one is made."""

from __future__ import annotations

import random
import warnings
from typing import Any, ClassVar

from tune_core.search.library_search import LibrarySearch
from tune_core.validation import Validator


class BayesOptSearch(LibrarySearch):
    """Chooses numbers by a Gaussian process, for scripts that did so with Ray Tune.

    A trial that was stopped early counts with its last value. `OptunaSearch(sampler="gp")` knows better.

    Args:
        space: A dict with samplers, or with bounds as tuples of two numbers; None: the Tuner's `param_space`.
        metric: The metric to optimise; None: the experiment's.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, to try first.
        utility_kwargs: `kind` ("ucb", "ei" or "poi"), `kappa` and `xi` of the acquisition function; None: "ucb" with
            2.576.
        random_state: Seed.
        random_search_steps: How many are drawn at random first, at least 1.
        verbose: Not used.
        patience: After how many proposals in a row that were made before the search ends, at least 1.
        skip_duplicate: Whether such a proposal is replaced by a random one; if not, it is run again.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
        ImportError: bayesian-optimization is not installed; the message says how to.

    Source: as Ray Tune 2.60. Differs: log scales, integers and steps work; a resume goes on exactly; no `analysis`.
    """

    only_numbers: ClassVar[bool] = True

    def __init__(
        self,
        space: dict[str, Any] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: list[dict[str, Any]] | None = None,
        utility_kwargs: dict[str, Any] | None = None,
        random_state: int = 42,
        random_search_steps: int = 10,
        verbose: int = 0,
        patience: int = 5,
        skip_duplicate: bool = True,
    ) -> None:
        library = _import_bayes_opt()
        validator = Validator(type(self).__name__)
        validator.check_integer("random_state", random_state, minimum=0)
        validator.check_integer("random_search_steps", random_search_steps, minimum=1)
        validator.check_integer("patience", patience, minimum=1)
        validator.check_bool("skip_duplicate", skip_duplicate)
        utility = {"kind": "ucb", "kappa": 2.576, "xi": 0.0, **(utility_kwargs or {})}
        try:
            self._utility = library.UtilityFunction(**utility)
        except (TypeError, ValueError, NotImplementedError) as error:
            validator.add("utility_kwargs", utility_kwargs, str(error))
        self._num_random, self._patience, self._skips = random_search_steps, patience, skip_duplicate
        super().__init__(_from_bounds(space), metric, mode, points_to_evaluate, random_state, validator)

    def _begin(self, seed: int) -> None:
        bounds = {axis.name: (axis.low, axis.high) for axis in self._axes}
        self._model = _import_bayes_opt().BayesianOptimization(
            f=None, pbounds=bounds, random_state=seed, verbose=0, allow_duplicate_points=True
        )
        self._known: set[tuple[Any, ...]] = set()
        self._num_repeats = 0

    def _propose(self, draws: random.Random) -> tuple[Any, dict[str, Any]] | None:
        if self._num_asked - len(self._points) < self._num_random:
            return None, self._drawn(draws)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._model.suggest(self._utility)
        params = {axis.name: float(found[axis.name]) for axis in self._axes}
        if self._key(params) not in self._known:
            self._num_repeats = 0
            return None, self._noted(params)
        self._num_repeats += 1
        if self._num_repeats >= self._patience:
            return None
        return None, self._drawn(draws) if self._skips else params

    def _drawn(self, draws: random.Random) -> dict[str, Any]:
        return self._noted({axis.name: axis.draw(draws) for axis in self._axes})

    def _noted(self, params: dict[str, Any]) -> dict[str, Any]:
        self._known.add(self._key(params))
        return params

    def _key(self, params: dict[str, Any]) -> tuple[Any, ...]:
        made = (axis.decode(params[axis.name]) for axis in self._axes)
        return tuple(round(value, 5) if isinstance(value, float) else value for value in made)

    def _given(self, params: dict[str, Any]) -> Any:
        self._noted(params)

    def _learn(self, token: Any, params: dict[str, Any], result: dict[str, Any], loss: float | None) -> None:
        if loss is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._model.register(params=params, target=-loss)


def _from_bounds(space: Any) -> Any:
    from tune_core.search.space import uniform

    if not isinstance(space, dict):
        return space
    return {
        key: uniform(*value) if isinstance(value, tuple) and len(value) == 2 else value
        for key, value in space.items()
    }


def _import_bayes_opt() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import bayes_opt
    except ImportError as error:
        raise ImportError(
            "BayesOptSearch needs bayesian-optimization: run pip install 'prefect-tune[bayesopt]'"
        ) from error
    return bayes_opt
