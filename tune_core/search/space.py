"""The words of a search space: samplers and grids, which may stand in `param_space` for values.

Owns what a user may write, and every check of it. Never puts a configuration together (that is
`variants`). Invariant: all faults of one call, or of one space, are raised together as one
`ConfigError` that names the sampler and the argument, or the path in the space.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from numbers import Integral
from typing import Any, Final

from tune_core.errors import ConfigError
from tune_core.search.sample import (
    GRID_KEY,
    SCALARS,
    Categorical,
    Float,
    Function,
    Integer,
    children,
    inner_nodes,
)
from tune_core.validation import Validator, is_number, ray_origin, shorten

_NOT_GIVEN: Final = object()


def uniform(lower: float, upper: float) -> Float:
    """Sample a float uniformly between `lower` and `upper`.

    Args:
        lower: Smallest value; finite.
        upper: Largest value; may equal `lower`.

    Raises:
        ConfigError: A bound is not a finite number, or they are the wrong way round.

    Example:
        >>> import random
        >>> uniform(0, 2).sample(random.Random(0))
        1.6888437030500962

    Source: as Ray Tune 2.60, which lets swapped bounds pass. So do the other samplers.
    """
    return _float("uniform", lower, upper)


def quniform(lower: float, upper: float, q: float) -> Float:
    """Sample a multiple of `q` uniformly between `lower` and `upper`, both included.

    Args:
        lower: Smallest value; a multiple of q.
        upper: Largest value; a multiple of q.
        q: Distance between neighbours, above 0.

    Raises:
        ConfigError: As `uniform`; or a bound is not a multiple of q.

    Example:
        >>> sorted({quniform(0, 0.3, 0.1).sample() for _ in range(300)})
        [0.0, 0.1, 0.2, 0.3]

    Source: differs from Ray Tune 2.60 as `Float` says.
    """
    return _float("quniform", lower, upper, q=q)


def loguniform(lower: float, upper: float, base: object = _NOT_GIVEN) -> Float:
    """Sample a float between `lower` and `upper` whose logarithm is uniform.

    Args:
        lower: Smallest value, above 0: the bound itself, not its logarithm.
        upper: Largest value; may equal `lower`.
        base: Refused: it never changed the distribution.

    Raises:
        ConfigError: As `uniform`; or lower is not above 0; or base is given.

    Example:
        >>> 1e-4 <= loguniform(1e-4, 1e-1).sample() <= 1e-1
        True
    """
    return _float("loguniform", lower, upper, log=True, base=base)


def qloguniform(lower: float, upper: float, q: float, base: object = _NOT_GIVEN) -> Float:
    """Sample as `loguniform`, rounded to a multiple of `q`; both ends are included.

    Example:
        >>> qloguniform(0.5, 8, 0.5)
        qloguniform(0.5, 8, 0.5)
    """
    return _float("qloguniform", lower, upper, q=q, log=True, base=base)


def randn(mean: float = 0.0, sd: float = 1.0) -> Float:
    """Sample a float from the normal distribution of this `mean` and standard deviation > 0.

    Example:
        >>> randn(10, 2)
        randn(10, 2)
    """
    return _normal("randn", mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Float:
    """Sample as `randn`, rounded to a multiple of `q`.

    Example:
        >>> import random
        >>> qrandn(10, 2, 0.2).sample(random.Random(1))
        11.2
    """
    return _normal("qrandn", mean, sd, q)


def randint(lower: int, upper: int) -> Integer:
    """Sample an integer uniformly from `lower` up to, and without, `upper`.

    Args:
        lower: Smallest value. A float without fraction, such as 1e5, counts as an integer.
        upper: One above the largest value.

    Raises:
        ConfigError: A bound is not an integer, or none lies between them.

    Example:
        >>> randint(0, 10).last
        9
    """
    return _integer("randint", lower, upper)


def qrandint(lower: int, upper: int, q: int = 1) -> Integer:
    """Sample one of the multiples of `q` from `lower` to `upper`, uniformly.

    Args:
        lower: Lower bound, included; need not be a multiple of q.
        upper: Upper bound, included unless q is 1; need not be a multiple of q.
        q: Distance between neighbours, at least 1.

    Raises:
        ConfigError: As `randint`; or no multiple of q lies between the bounds.

    Example:
        >>> sorted({qrandint(1, 12, 4).sample() for _ in range(300)})
        [4, 8, 12]
    """
    return _integer("qrandint", lower, upper, q=q)


def lograndint(lower: int, upper: int, base: object = _NOT_GIVEN) -> Integer:
    """Sample an integer from `lower` > 0 up to, and without, `upper`, log-uniformly.

    Raises:
        ConfigError: As `randint`; or lower is below 1; or base is given.

    Example:
        >>> 1 <= lograndint(1, 1000).sample() < 1000
        True
    """
    return _integer("lograndint", lower, upper, log=True, base=base)


def qlograndint(lower: int, upper: int, q: int, base: object = _NOT_GIVEN) -> Integer:
    """Sample one of the multiples of `q`, bounds as in `qrandint`, log-uniformly.

    Example:
        >>> sorted({qlograndint(2, 6, 2).sample() for _ in range(300)})
        [2, 4, 6]
    """
    return _integer("qlograndint", lower, upper, q=q, log=True, base=base)


def choice(categories: Sequence[Any]) -> Categorical:
    """Sample one of `categories`, each with the same chance.

    Args:
        categories: At least one value; a value may itself hold samplers.

    Raises:
        ConfigError: Empty, or without an order: no seed repeats the draws from a set.

    Example:
        >>> choice(["relu", "tanh"])
        choice(['relu', 'tanh'])
    """
    listed, fault = _listed(categories)
    if fault:
        raise ConfigError(f"choice(categories={shorten(categories)}): {fault}")
    return Categorical(tuple(listed))


def grid_search(values: Iterable[Any]) -> dict[str, list[Any]]:
    """Run every one of `values`, combined with every value of the other grids.

    Args:
        values: At least one value; a value may itself hold samplers or grids.

    Returns:
        `{"grid_search": [...]}`, which may also be written by hand.

    Raises:
        ConfigError: Empty, or without an order.

    Example:
        >>> grid_search([16, 32])
        {'grid_search': [16, 32]}
    """
    listed, fault = _listed(values)
    if fault:
        raise ConfigError(f"grid_search(values={shorten(values)}): {fault}")
    return {GRID_KEY: listed}


def sample_from(func: Callable[..., Any]) -> Function:
    """Take the value from `func`, which may read what the other parameters became.

    Args:
        func: Called with nothing, or with the configuration: `config["a"]`, `config.a`,
            `spec.config.a` and `spec["config"]["a"]` all work, in any order of definition.

    Raises:
        ConfigError: It cannot be called with nothing, nor with one argument.

    Example:
        >>> sample_from(lambda config: config["layers"] * 2)
        sample_from(<lambda>)
    """
    given: Any = func
    if not callable(given):
        raise ConfigError(f"sample_from(func={shorten(given)}): expected a function")
    try:
        signature = inspect.signature(func)
    except ValueError:  # functions written in C may have none: they are called with nothing
        return Function(func, takes_config=False)
    if _accepts(signature, {}):
        return Function(func, takes_config=True)
    if _accepts(signature):
        return Function(func, takes_config=False)
    raise ConfigError(
        f"sample_from(func={shorten(func)}): expected a function of the configuration, or of nothing; "
        f"this one takes {signature}"
    )


def validate_space(space: Any) -> None:
    """Check a whole search space, before anything runs.

    Args:
        space: What was given as `param_space`.

    Raises:
        ConfigError: Every fault with its path: keys that are no strings, objects and functions of
            `ray.tune`, samplers that were not called, grids without values, `{"eval": ...}`.

    Example:
        >>> validate_space({"lr": uniform, "layers": {"grid_search": 3}})
        Traceback (most recent call last):
        ...
        tune_core.errors.ConfigError: 2 faults: (1) param_space['lr']: the sampler uniform was not called: \
write uniform(...); (2) param_space['layers']: grid_search=3: expected a list, got int
    """
    if not isinstance(space, dict):
        raise ConfigError(
            f"param_space={shorten(space)}: expected a dict of parameter names to values or samplers, "
            f"got {type(space).__name__}"
        )
    validator: list[str] = []
    _check_node(space, "param_space", validator, ())
    if validator:
        raise ConfigError(validator)


def _check_node(node: Any, place: str, validator: list[str], parents: tuple[int, ...]) -> None:
    if id(node) in parents:
        validator.append(f"{place}: contains itself; a search space is a tree")
        return
    parents = (*parents, id(node))
    if isinstance(node, Categorical):
        for index, category in enumerate(node.categories):
            _check_node(category, f"{place}.categories[{index}]", validator, parents)
    elif isinstance(node, dict) and len(node) == 1 and GRID_KEY in node:
        values, fault = _listed(node[GRID_KEY], once=False)
        if fault:
            validator.append(f"{place}: grid_search={shorten(node[GRID_KEY])}: {fault}")
        for index, value in inner_nodes(values):
            _check_node(value, f"{place}[{GRID_KEY!r}][{index}]", validator, parents)
    elif isinstance(node, dict) and len(node) == 1 and isinstance(node.get("eval"), str):
        validator.append(
            f"{place}: {shorten(node)} is not evaluated here: use sample_from(lambda config: ...)"
        )
    else:
        validator += _leaf_faults(node, place)
        for key, child in children(node):
            if isinstance(node, dict) and not isinstance(key, str):
                validator.append(f"{place}: the key {shorten(key)} is a {type(key).__name__}: expected a str")
            if type(child) not in SCALARS:
                _check_node(child, f"{place}[{key!r}]", validator, parents)


def _leaf_faults(node: Any, place: str) -> list[str]:
    kind = type(node)
    if kind.__module__.startswith("ray.tune"):
        return [f"{place}: {shorten(node)} is of {ray_origin(node)}: import it from tune_core instead"]
    if inspect.isfunction(node):
        if node.__module__.startswith("ray.tune"):
            return [f"{place}: {node.__name__} is a function of ray.tune: import it from tune_core instead"]
        if node in SAMPLERS:
            return [f"{place}: the sampler {node.__name__} was not called: write {node.__name__}(...)"]
    return []


def _listed(values: Any, *, once: bool = True) -> tuple[list[Any], str]:
    """Return the values as a list, and what is wrong with them, if anything.

    Args:
        values: What the user gave.
        once: Whether an iterator, which can be walked only once, will do.
    """
    if isinstance(values, AbstractSet):
        return [], "a set has no order that a seed could repeat: give sorted(...)"
    if isinstance(values, Mapping):
        return [], "expected a list, got a dict: list(...) gives its keys"
    is_walkable = isinstance(values, Iterable) and (once or hasattr(values, "__getitem__"))
    if isinstance(values, str | bytes) or not is_walkable:
        return [], f"expected a list, got {type(values).__name__}"
    listed = list(values)
    return listed, "" if listed else "at least one value is needed"


def _accepts(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _float(
    call: str, lower: Any, upper: Any, *, q: Any = _NOT_GIVEN, log: bool = False, base: Any = _NOT_GIVEN
) -> Float:
    validator = Validator(call)
    _refuse_base(validator, base)
    low, high = _number(validator, "lower", lower), _number(validator, "upper", upper)
    step = None if q is _NOT_GIVEN else _positive(validator, "q", q)
    if low is not None and high is not None and low > high:
        validator.note(f"lower={low!r} is above upper={high!r}: swap them")
    if log and low is not None and low <= 0:
        validator.add("lower", low, "expected a number above 0: the bound itself, not its logarithm")
    if step is not None:
        for name, bound in (("lower", low), ("upper", high)):
            if bound is not None and not _divides(step, bound):
                validator.add(name, bound, f"expected a multiple of q={step!r}")
    validator.raise_any()
    assert low is not None
    assert high is not None
    return Float(low, high, step, log)


def _normal(call: str, mean: Any, sd: Any, q: Any = _NOT_GIVEN) -> Float:
    validator = Validator(call)
    centre, spread = _number(validator, "mean", mean), _positive(validator, "sd", sd)
    step = None if q is _NOT_GIVEN else _positive(validator, "q", q)
    validator.raise_any()
    return Float(-math.inf, math.inf, step, mean=centre, sd=spread)


def _integer(
    call: str, lower: Any, upper: Any, *, q: Any = _NOT_GIVEN, log: bool = False, base: Any = _NOT_GIVEN
) -> Integer:
    validator = Validator(call)
    _refuse_base(validator, base)
    low, high = _whole(validator, "lower", lower), _whole(validator, "upper", upper)
    step = None if q is _NOT_GIVEN else _whole(validator, "q", q)
    if step is not None and step < 1:
        validator.add("q", q, "expected an integer of at least 1")
    elif low is not None and high is not None and (q is _NOT_GIVEN or step is not None):
        domain = Integer(low, high, step)
        if domain.first > domain.last:
            what, end = (
                ("integer", ", which is excluded") if step in (None, 1) else (f"multiple of q={step}", "")
            )
            validator.note(f"no {what} lies between lower={low} and upper={high}{end}")
    if log and low is not None and low < 1:
        validator.add("lower", low, "expected an integer of at least 1: the bound itself, not its logarithm")
    validator.raise_any()
    assert low is not None
    assert high is not None
    return Integer(low, high, step, log)


def _number(validator: Validator, name: str, value: Any) -> float | None:
    if not is_number(value):
        validator.add(name, value, "expected a finite number")
        return None
    return int(value) if hasattr(value, "__index__") else float(value)


def _positive(validator: Validator, name: str, value: Any) -> float | None:
    number = _number(validator, name, value)
    if number is not None and number <= 0:
        validator.add(name, value, "expected a number above 0")
        return None
    return number


def _whole(validator: Validator, name: str, value: Any) -> int | None:
    is_whole = isinstance(value, Integral) or (is_number(value) and float(value).is_integer())
    if is_whole and not isinstance(value, bool):
        return int(value)
    validator.add(name, value, "expected an integer")
    return None


def _divides(q: float, bound: float) -> bool:
    ratio = bound / q
    return math.isfinite(ratio) and math.isclose(ratio, round(ratio))


def _refuse_base(validator: Validator, base: Any) -> None:
    if base is not _NOT_GIVEN:
        validator.add("base", base, "no longer used: leave it out, the distribution is the same for any base")


#: Every function that makes an entry of a search space.
SAMPLERS: Final[tuple[Callable[..., Any], ...]] = (
    uniform,
    quniform,
    loguniform,
    qloguniform,
    randn,
    qrandn,
    randint,
    qrandint,
    lograndint,
    qlograndint,
    choice,
    grid_search,
    sample_from,
)
