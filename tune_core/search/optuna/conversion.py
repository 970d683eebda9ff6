"""From a search space to Optuna's distributions, and between their values.

Owns the translation of each sampler. Never talks to a study. Invariant: `decode(encode(value))`
is `value`, so that a configuration of the journal is told to a new study as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tune_core.errors import ConfigError
from tune_core.metrics import flatten
from tune_core.search.sample import (
    Categorical,
    Domain,
    Float,
    Function,
    Integer,
    Path,
    children,
    fits,
    grid_values,
    path_text,
    unresolved_paths,
)
from tune_core.search.space import validate_space
from tune_core.validation import Validator, shorten, suggestion

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

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
        label: Its name in the study, where that is not the path; "" if it is.
        when: It is there only where another parameter, named first, has this value of Optuna; None: always.
        could_be: Returns which of Optuna's values may stand for one of a configuration: several, where choices
            overlap; None: the one that `encode` returns.
    """

    path: Path
    distribution: BaseDistribution
    decode: Callable[[Any], Any] = _same
    encode: Callable[[Any], Any] = _same
    label: str = ""
    when: tuple[str, int] | None = None
    could_be: Callable[[Any], list[int]] | None = None

    @property
    def name(self) -> str:
        """Its name in the study: `net/width`, or within the first category of a choice `net.0/width`."""
        return self.label or path_text(self.path)

    def is_active(self, params: Mapping[str, Any]) -> bool:
        """Return whether it is there, by what Optuna has decided before."""
        return self.when is None or params.get(self.when[0]) == self.when[1]


def parameters_of(space: Mapping[str, Any], name: str) -> list[Parameter]:
    """Return what of a search space Optuna decides: in order of definition, a choice before what is in it.

    `sample_from` functions are left out: they are called once everything else is decided.

    Args:
        space: The search space.
        name: What errors call it.

    Raises:
        ConfigError: Every place that Optuna cannot decide: grids, normal distributions.

    Example:
        >>> from tune_core.search import choice, uniform
        >>> sgd = {"name": "sgd", "momentum": uniform(0, 1)}
        >>> [each.name for each in parameters_of({"optimizer": choice([sgd, {"name": "adam"}])}, "space")]
        ['optimizer', 'optimizer.0/momentum']
    """
    found: list[Parameter] = []
    faults: list[str] = []

    def walk(node: Any, path: Path, label: str, when: tuple[str, int] | None) -> None:
        place = f"{name}[{label!r}]"
        grid = grid_values(node)
        if grid is not None and when is None:
            faults.append(
                f"{place}: OptunaSearch does not walk grids: write choice([…]), or leave search_alg out"
            )
        elif grid is not None:  # within a choice it counts as one
            walk(Categorical(tuple(grid)), path, label, when)
        elif isinstance(node, Domain) and not isinstance(node, Function):
            try:
                found.append(replace(_convert(node, path), label=label, when=when))
            except ConfigError as error:
                faults.extend(f"{place}: {fault}" for fault in error.faults)
                return
            for index, category in enumerate(node.categories if isinstance(node, Categorical) else ()):
                walk(category, path, f"{label}.{index}", (label, index))
        elif not isinstance(node, Function):
            for key, child in children(node):
                walk(child, (*path, key), f"{label}/{key}" if label else str(key), when)

    walk(space, (), "", None)
    if faults:
        raise ConfigError(faults)
    return found


def values_of(parameters: Sequence[Parameter], params: Mapping[str, Any]) -> dict[Path, Any]:
    """Return what Optuna has decided, by path and in the configuration's own values."""
    active = [each for each in parameters if each.is_active(params)]
    return {each.path: each.decode(params[each.name]) for each in active}


@dataclass(frozen=True)
class Encoded:
    """A configuration in Optuna's values.

    Attributes:
        params: The values by name, of the parameters that are there.
        lacking: Parameters that should be there and are not, or whose value Optuna could not choose.
        is_ambiguous: Whether choices overlap, so that another set of values stands for it, too.
    """

    params: dict[str, Any]
    lacking: list[str]
    is_ambiguous: bool


def encoded(parameters: Sequence[Parameter], config: Any) -> Encoded:
    """Return a configuration in Optuna's values; of overlapping choices it is the first."""
    params: dict[str, Any] = {}
    lacking: list[str] = []
    is_ambiguous = False
    for each in parameters:
        if not each.is_active(params):
            continue
        value = possible(each, config)
        if value is MISSING:
            lacking.append(each.name)
            continue
        params[each.name] = value
        is_ambiguous = is_ambiguous or (
            each.could_be is not None and len(each.could_be(part(config, each))) > 1
        )
    return Encoded(params, lacking, is_ambiguous)


def suggest(trial: Trial, parameter: Parameter) -> Any:
    """Have Optuna decide a parameter; return its value."""
    from optuna import distributions as to

    name, drawn = parameter.name, parameter.distribution
    if isinstance(drawn, to.CategoricalDistribution):
        return trial.suggest_categorical(name, drawn.choices)
    if isinstance(drawn, to.FloatDistribution):
        return trial.suggest_float(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
    assert isinstance(drawn, to.IntDistribution)
    return trial.suggest_int(name, drawn.low, drawn.high, step=drawn.step, log=drawn.log)


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

    def which(value: Any) -> list[int]:
        return [index for index, category in enumerate(categories) if fits(value, category)]

    def encode(value: Any) -> int:
        found = which(value)
        if not found:
            raise ValueError(f"{shorten(value)} is none of {shorten(list(categories))}")
        return found[0]

    drawn = to.CategoricalDistribution(tuple(range(len(categories))))
    return Parameter(path, drawn, categories.__getitem__, encode, could_be=which)


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


def fixed_point(
    parameters: Sequence[Parameter], point: Mapping[str, Any], where: str, also: Iterable[str] = ()
) -> dict[str, Any]:
    """Return a configuration, or a part of one, by the names of the study and in Optuna's values.

    Args:
        parameters: What Optuna decides.
        point: Nested, or named "a/b".
        where: What errors call it.
        also: What else it may have, which is not looked at.

    Raises:
        ConfigError: The space has no such parameter, or never such a value.
    """
    fixed: dict[str, Any] = {}
    for parameter in parameters:
        if not parameter.is_active(fixed):
            continue
        value = point[parameter.name] if parameter.name in point else part(point, parameter)
        if value is MISSING:
            continue
        try:
            fixed[parameter.name] = parameter.encode(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"OptunaSearch: {where}: {parameter.name}: {error}") from error
    known = [name for each in parameters for name in (each.name, path_text(each.path))]
    others = {*known, *also}
    for name in flatten(point):
        if not any(f"{name}/".startswith(f"{each}/") for each in others):
            fault = f"OptunaSearch: {where}: the search space has no {name!r}{suggestion(name, known)}"
            raise ConfigError(fault)
    return fixed


def refuse_impossible(parameters: Sequence[Parameter], config: Mapping[str, Any]) -> None:
    """Refuse a configuration that Optuna could not choose.

    Raises:
        ConfigError: It lacks a parameter, or has a value that is none of the space.
    """
    from optuna.trial import create_trial

    params: dict[str, Any] = {}
    missing: list[str] = []
    for each in parameters:
        if not each.is_active(params):
            continue
        value = part(config, each)
        if value is MISSING:
            missing.append(each.name)
            continue
        try:
            params[each.name] = each.encode(value)
            one = {each.name: params[each.name]}
            create_trial(value=0.0, params=one, distributions={each.name: each.distribution})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config: {each.name}={shorten(value)}: {error}") from error
    if missing:
        raise ConfigError(f"config: {', '.join(missing)} is missing: OptunaSearch chooses it")


def read_space(space: Any, validator: Validator) -> tuple[dict[str, Any], list[Parameter]]:
    """Return a searcher's own search space and what Optuna decides of it; what is wrong is noted.

    Args:
        space: A dict with samplers, which comes back, or with Optuna's distributions, of which {} does.
        validator: Collects faults.
    """
    from optuna.distributions import BaseDistribution

    if not isinstance(space, Mapping) or not space:
        validator.add(
            "space", space, "expected a dict of samplers or distributions, or a function of a trial"
        )
        return {}, []
    if unresolved_paths(space):
        try:
            validate_space(dict(space))
            return dict(space), parameters_of(space, "space")
        except ConfigError as error:
            validator.extend(error.faults)
        return {}, []
    found = []
    for name, distribution in flatten(space).items():
        if isinstance(distribution, BaseDistribution):
            found.append(Parameter(tuple(name.split("/")), distribution))
        else:
            expected = "expected an Optuna distribution or a sampler; constants go into param_space"
            validator.add(f"space[{name!r}]", distribution, expected)
    return {}, found


def evaluated_trial(
    parameters: Sequence[Parameter],
    point: Mapping[str, Any],
    fixed: Mapping[str, Any],
    values: list[Any] | None,
    intermediate: Sequence[float] | None,
    *,
    is_early: bool,
) -> FrozenTrial:
    """Return a trial that was run elsewhere.

    Args:
        parameters: What Optuna decides.
        point: The configuration, for errors.
        fixed: The same as `fixed_point` returned it.
        values: Of each metric; None: it has failed.
        intermediate: The metric's values at steps 0, 1, 2, …
        is_early: Whether it was stopped early.

    Raises:
        ConfigError: A parameter is missing, or Optuna could not choose its value.
    """
    from optuna.trial import TrialState, create_trial

    there = [each for each in parameters if each.is_active(fixed)]
    missing = [each.name for each in there if each.name not in fixed]
    if missing:
        raise ConfigError(f"OptunaSearch: the evaluated point {shorten(dict(point))} lacks {missing}")
    state = TrialState.FAIL if values is None else TrialState.PRUNED if is_early else TrialState.COMPLETE
    try:
        return create_trial(
            state=state,
            values=values,
            params=dict(fixed),
            distributions={each.name: each.distribution for each in there},
            intermediate_values=dict(enumerate(intermediate or ())),
        )
    except ValueError as fault:
        raise ConfigError(f"OptunaSearch: the evaluated point {shorten(dict(point))}: {fault}") from fault
