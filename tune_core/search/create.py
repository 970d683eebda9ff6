"""Searchers by name, as Ray Tune names them."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from tune_core.errors import ConfigError
from tune_core.search.searcher import Searcher
from tune_core.validation import shorten, suggestion

#: Modules are imported when they are asked for: behind some of them are packages that need not be there.
_SEARCHERS = {
    "random": "tune_core.search.basic_variant:BasicVariantGenerator",
    "variant_generator": "tune_core.search.basic_variant:BasicVariantGenerator",
    "optuna": "tune_core.search.optuna.optuna_search:OptunaSearch",
    "bohb": "tune_core.search.bohb.bohb_search:TuneBOHB",
    "hyperopt": "tune_core.search.hyperopt:HyperOptSearch",
    "bayesopt": "tune_core.search.bayesopt:BayesOptSearch",
    "nevergrad": "tune_core.search.nevergrad:NevergradSearch",
}
#: Names that Ray Tune has besides.
_ONLY_THERE = ("ax", "zoopt", "hebo")


def searchers() -> dict[str, type[Searcher]]:
    """Return the classes of searchers by every name that they have.

    Example:
        >>> searchers()["optuna"].__name__
        'OptunaSearch'
    """
    return {name: _load(path) for name, path in _SEARCHERS.items()}


def create_searcher(search_alg: str, **kwargs: Any) -> Searcher:
    """Return a new searcher of this name.

    Args:
        search_alg: "random" (or "variant_generator"), "optuna", "bohb", "hyperopt", "bayesopt" or "nevergrad", in any
            case.
        **kwargs: Arguments of its class; what that does not take is left out.

    Raises:
        ConfigError: There is no searcher of this name, or its arguments cannot work.
        ImportError: What it needs is not installed.

    Example:
        >>> create_searcher("random", max_concurrent=2, metric="loss").max_concurrent
        2

    Source: as Ray Tune 2.60.
    """
    given: object = search_alg
    name = given.lower() if isinstance(given, str) else None
    if name not in _SEARCHERS:
        known = f"expected {', '.join(map(repr, _SEARCHERS))}"
        if name in _ONLY_THERE:
            known = (
                f"there is none here; {known}, or a Searcher of your own that asks that library. "
                "OptunaSearch(sampler='gp') of tune_core.search.optuna works in a similar way"
            )
        raise ConfigError(
            f"create_searcher({shorten(search_alg)}): {known}{suggestion(search_alg, _SEARCHERS)}"
        )
    cls = _load(_SEARCHERS[name])
    taken = inspect.signature(cls).parameters
    return cls(**{key: value for key, value in kwargs.items() if key in taken})


def _load(path: str) -> type[Searcher]:
    module, _, attribute = path.partition(":")
    cls: type[Searcher] = getattr(importlib.import_module(module), attribute)
    return cls
