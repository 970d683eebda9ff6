"""From a search space to Optuna's distributions, and between their values.

Owns the translation of each sampler. Never talks to a study. Invariant: `decode(encode(value))`
is `value`, so that a configuration of the journal is told to a new study as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tune_core.errors import ConfigError
from tune_core.search.sample import (
    Categorical,
    Domain,
    Float,
    Function,
    Integer,
    Path,
    children,
    could_be,
    grid_values,
    path_text,
)
from tune_core.search.space import validate_space
from tune_core.validation import shorten

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: What stands for a value that is not there.
MISSING: Final = object()
#: What Optuna takes as a category; anything else goes by its index.
_SCALARS = (str, int, float, bool, type(None))


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Parameter:
    """One place of a search space that Optuna decides.

    Attributes:
        path: Where it is.
        distribution: What Optuna draws from.
        decode: Returns the value of the configuration for Optuna's.
        encode: Returns Optuna's value for one of a configuration; raises ValueError if there is none.
    """

    path: Path
    distribution: BaseDistribution
    decode: Callable[[Any], Any] = _same
    encode: Callable[[Any], Any] = _same

    @property
    def name(self) -> str:
        """Its name in the study: `net/width`."""
        return path_text(self.path)


def parameters_of(space: Mapping[str, Any], name: str) -> list[Parameter]:
    """Return what of a search space Optuna decides, in order of definition.

    `sample_from` functions are left out: they are called once everything else is decided. So are
    samplers within a choice, which are drawn from.

    Args:
        space: The search space.
        name: What errors call it.

    Raises:
        ConfigError: Every place that Optuna cannot decide: grids, normal distributions.
    """
    found: list[Parameter] = []
    faults: list[str] = []

    def walk(node: Any, path: Path) -> None:
        place = f"{name}[{path_text(path)!r}]"
        if grid_values(node) is not None:
            faults.append(
                f"{place}: OptunaSearch does not walk grids: write choice([…]), or leave search_alg out"
            )
        elif isinstance(node, Domain) and not isinstance(node, Function):
            try:
                found.append(_convert(node, path))
            except ConfigError as error:
                faults.extend(f"{place}: {fault}" for fault in error.faults)
        elif not isinstance(node, Function):
            for key, child in children(node):
                walk(child, (*path, key))

    walk(space, ())
    if faults:
        raise ConfigError(faults)
    return found


def _convert(domain: Domain, path: Path) -> Parameter:
    from optuna import distributions as to

    if isinstance(domain, Categorical):
        return _convert_categorical(domain, path)
    if isinstance(domain, Float) and domain.mean is None:
        low, high, q = float(domain.lower), float(domain.upper), domain.q
        if not domain.log or q is None:
            return Parameter(path, to.FloatDistribution(low, high, log=domain.log, step=q))
        step = q
        # Optuna has no steps on a logarithmic scale: it draws which multiple of q it is to be.
        return Parameter(
            path,
            to.IntDistribution(max(round(low / step), 1), round(high / step), log=True),
            domain.multiple,
            lambda value: round(value / step),
        )
    if isinstance(domain, Integer):
        whole = domain.q or 1
        if not domain.log or whole == 1:
            return Parameter(path, to.IntDistribution(domain.first, domain.last, domain.log, whole))
        return Parameter(
            path,
            to.IntDistribution(domain.first // whole, domain.last // whole, log=True),
            lambda index: index * whole,
            lambda value: value // whole,
        )
    raise ConfigError(f"{domain!r}: Optuna has no such distribution; use uniform or loguniform")


def _convert_categorical(domain: Categorical, path: Path) -> Parameter:
    from optuna import distributions as to

    categories = domain.categories
    # 1, 1.0 and True are one category to Optuna.
    if all(type(each) in _SCALARS for each in categories) and len(set(categories)) == len(categories):
        return Parameter(path, to.CategoricalDistribution(categories))

    def encode(value: Any) -> int:
        for index, category in enumerate(categories):
            if could_be(value, category):
                return index
        raise ValueError(f"{shorten(value)} is none of {shorten(list(categories))}")

    return Parameter(
        path, to.CategoricalDistribution(tuple(range(len(categories)))), categories.__getitem__, encode
    )


def part(config: Any, parameter: Parameter) -> Any:
    """Return what a configuration has at the place of a parameter; `MISSING` if nothing."""
    try:
        for key in parameter.path:
            config = config[key]
    except (LookupError, TypeError):
        return MISSING
    return config


def possible(parameter: Parameter, config: Any) -> Any:
    """Return Optuna's value of a parameter; `MISSING` if there is none, or if Optuna could not choose it."""
    from optuna.trial import create_trial

    value = part(config, parameter)
    if value is MISSING:
        return MISSING
    try:
        encoded = parameter.encode(value)
        params, distributions = {parameter.name: encoded}, {parameter.name: parameter.distribution}
        create_trial(value=0.0, params=params, distributions=distributions)
    except (TypeError, ValueError):
        return MISSING
    return encoded


def chosen_of(param_space: dict[str, Any]) -> list[Parameter]:
    """Return what of the Tuner's search space Optuna decides.

    Raises:
        ConfigError: It cannot decide something in it, or there is nothing to decide.
    """
    validate_space(param_space)
    parameters = parameters_of(param_space, "param_space")
    if not parameters:
        raise ConfigError("OptunaSearch: param_space has no sampler, so there is nothing to choose: add one")
    return parameters
