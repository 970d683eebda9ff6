"""Optuna's samplers by name, made again for each suggestion.

Owns which names there are, and what each needs. Invariant: a sampler of a name has no state of its own that
matters. What it knows is in the study, and what it draws follows from the seed that it is made with; so a study
to which the same trials were told goes on as the one before, in whatever process.
"""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from tune_core.search.optuna.conversion import Parameter
from tune_core.validation import Validator, is_number, suggestion

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

#: The classes of `optuna.samplers` by name.
_CLASSES: Final = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    "qmc": "QMCSampler",
    "random": "RandomSampler",
}
AUTO: Final = "auto"
NAMES: Final = (*_CLASSES, AUTO)
#: The same as a type, from which the form makes a choice.
SamplerName: TypeAlias = Literal["tpe", "gp", "cmaes", "nsgaii", "nsgaiii", "qmc", "random", "auto"]

#: Those that make a model of all trials each time, so that another study may be put before them.
MODELS: Final = ("tpe", "gp")

#: What a sampler imports beside Optuna, and the extra that brings it.
_NEEDS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "gp": (("torch", "scipy"), "gp"),
    "cmaes": (("cmaes",), "cmaes"),
    "qmc": (("scipy",), "qmc"),
}
#: What is ours to say, and what has no meaning for a sampler that is made again.
_OURS: Final = frozenset({"seed", "constraints_func", "independent_sampler", "source_trials"})
#: With how many parameters a Gaussian process is still worth its time.
_MAX_GP_PARAMETERS: Final = 20


def check_sampler(validator: Validator, name: str, options: Any) -> None:
    """Note what is wrong with a sampler's name and its options.

    Raises:
        ImportError: What it needs is not installed; the message says how to.
    """
    if name not in NAMES:
        validator.add(
            "sampler", name, f"expected one of {', '.join(map(repr, NAMES))}{suggestion(name, NAMES)}"
        )
        return
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        validator.add("sampler_options", options, "expected a dict of the sampler's arguments")
        return
    if name == AUTO:
        if options:
            validator.add("sampler_options", options, "sampler='auto' takes none: name a sampler")
        return
    _require(name)
    cls = _class(name)
    known = set(inspect.signature(cls).parameters) - _OURS
    for key in options:
        if key not in known:
            expected = f"optuna.samplers.{cls.__name__} has no such argument here{suggestion(key, known)}"
            validator.add(f"sampler_options[{key!r}]", options[key], expected)
        elif not _is_of_kind(options[key], inspect.signature(cls).parameters[key].default):
            kind = type(inspect.signature(cls).parameters[key].default).__name__
            validator.add(f"sampler_options[{key!r}]", options[key], f"expected a {kind}")
    if not validator.found:
        try:
            make_sampler(name, options, random.Random(0), 0)
        except (TypeError, ValueError) as error:
            validator.add("sampler_options", dict(options), str(error))


def choose_sampler(parameters: Sequence[Parameter], num_metrics: int) -> str:
    """Return what "auto" stands for.

    That is a Gaussian process for one metric and at most 20 numbers, if what it needs is installed; else TPE,
    which takes choices, conditions and several metrics as they are.
    """
    from optuna.distributions import CategoricalDistribution

    are_numbers = all(
        each.when is None and not isinstance(each.distribution, CategoricalDistribution)
        for each in parameters
    )
    is_small = 0 < len(parameters) <= _MAX_GP_PARAMETERS
    return "gp" if num_metrics == 1 and are_numbers and is_small and not _lacking("gp") else "tpe"


def make_sampler(name: str, options: Mapping[str, Any], draws: random.Random, seed: int) -> BaseSampler:
    """Return a new sampler.

    Args:
        name: One of the names, but not "auto".
        options: Its arguments, without a seed.
        draws: Seeds what this sampler draws: another one for each suggestion.
        seed: Seeds what has to be the same for all suggestions.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import RandomSampler

    own: dict[str, Any] = {"seed": draws.getrandbits(32)}
    if name == "qmc":  # a point of one sequence, whose scrambling is the seed's
        own = {"seed": seed, "independent_sampler": RandomSampler(seed=own["seed"])}
    if name == "cmaes":
        own["independent_sampler"] = RandomSampler(seed=draws.getrandbits(32))
    if name in ("qmc", "cmaes", "gp"):
        own["warn_independent_sampling"] = False
    if name == "qmc":
        own["warn_asynchronous_seeding"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        made: BaseSampler = _class(name)(**{**own, **options})
    return made


def _is_of_kind(value: Any, default: Any) -> bool:
    """Whether a value may take the place of a default: Optuna looks only when it needs it."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(default, float) or is_number(value)


def _class(name: str) -> Any:
    import optuna.samplers

    return getattr(optuna.samplers, _CLASSES[name])


def _lacking(name: str) -> list[str]:
    return [module for module in _NEEDS.get(name, ((), ""))[0] if find_spec(module) is None]


def _require(name: str) -> None:
    lacking = _lacking(name)
    if lacking:
        extra = _NEEDS[name][1]
        raise ImportError(
            f"OptunaSearch(sampler={name!r}) needs {' and '.join(lacking)}: run pip install 'prefect-tune[{extra}]'"
        )
