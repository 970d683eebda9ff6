"""Nevergrad's optimisers, at Ray Tune's import path; Nevergrad itself is imported when one is made."""

from __future__ import annotations

import random
import warnings
from typing import Any

from tune_core.errors import ConfigError
from tune_core.search.library_search import LibrarySearch
from tune_core.validation import Validator, suggestion


class NevergradSearch(LibrarySearch):
    """Chooses configurations by an optimiser of Nevergrad, for scripts that did so with Ray Tune.

    A trial that was stopped early counts with its last value: Nevergrad knows no other. `OptunaSearch` does.

    Args:
        optimizer: Its name in `nevergrad.optimizers.registry`, or what is registered there; None: "OnePlusOne".
            With numpy 2.4, "NGOpt" of Nevergrad 1.0.12 fails after some trials.
        optimizer_kwargs: Its `budget` (None: 100) and `num_workers`.
        space: A dict with samplers; None: the Tuner's `param_space`.
        metric: The metric to optimise; None: the experiment's.
        mode: "min" or "max".
        points_to_evaluate: Configurations, or parts of them, to try first.
        seed: Beyond Ray Tune; None: from Python's (or numpy's) global random state.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
        ImportError: Nevergrad is not installed; the message says how to.

    Source: as Ray Tune 2.60. Differs: `optimizer` may be a name, and has a default; Nevergrad's own parametrizations
        are not taken; a resume goes on exactly; a choice with samplers in it is refused.
    """

    def __init__(
        self,
        optimizer: str | Any | None = None,
        optimizer_kwargs: dict[str, Any] | None = None,
        space: dict[str, Any] | None = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: list[dict[str, Any]] | None = None,
        seed: int | None = None,
    ) -> None:
        registry = _import_nevergrad().optimizers.registry
        validator = Validator(type(self).__name__)
        name = "OnePlusOne" if optimizer is None else optimizer
        if isinstance(name, str) and name not in registry:
            expected = f"expected a name of nevergrad.optimizers.registry{suggestion(name, registry)}"
            validator.add("optimizer", name, expected)
        elif not isinstance(name, str) and not callable(name):
            validator.add("optimizer", name, "expected a name, or an optimiser's class")
        self._optimizer: Any = registry[name] if isinstance(name, str) and name in registry else name
        self._options = {"budget": 100, **(optimizer_kwargs or {})}
        if unknown := self._options.keys() - {"budget", "num_workers"}:
            validator.add("optimizer_kwargs", sorted(unknown), "expected budget and num_workers")
        if seed is not None:
            validator.check_integer("seed", seed, minimum=0, also=", or None")
        super().__init__(space, metric, mode, points_to_evaluate, seed, validator)

    def _begin(self, seed: int) -> None:
        p = _import_nevergrad().p
        made = {
            axis.name: p.Choice(list(range(axis.size)))
            if axis.size
            else p.Scalar(lower=axis.low, upper=axis.high)
            if axis.low < axis.high
            else axis.low
            for axis in self._axes
        }
        space = p.Dict(**made)
        space.random_state.seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model = self._optimizer(parametrization=space, **self._options)

    def _propose(self, draws: random.Random) -> tuple[Any, dict[str, Any]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = self._model.ask()
            except TypeError as error:  # of Nevergrad, which uses what numpy has taken away
                raise ConfigError(
                    f"NevergradSearch: {self._model.name} of this version of Nevergrad does not work with this numpy "
                    f"({error}): name another optimizer, such as 'OnePlusOne'"
                ) from error
        return found, {
            axis.name: int(found.value[axis.name]) if axis.size else float(found.value[axis.name])
            for axis in self._axes
        }

    def _given(self, params: dict[str, Any]) -> Any:
        return self._model.parametrization.spawn_child(new_value=dict(params))

    def _learn(self, token: Any, params: dict[str, Any], result: dict[str, Any], loss: float | None) -> None:
        if loss is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._model.tell(token, loss)


def _import_nevergrad() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nevergrad
    except ImportError as error:
        raise ImportError(
            "NevergradSearch needs Nevergrad: run pip install 'prefect-tune[nevergrad]'"
        ) from error
    return nevergrad
