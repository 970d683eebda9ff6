"""Values that a trainable needs besides its config, and which must not travel with it.

Owns `with_parameters`: the values stay in the object that it returns, in the process that made
it. Never puts them anywhere: the runtime does, once per experiment, and supplies them to the
trial's copy. Invariant: no pickle of a trainable holds such a value, only its name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from tune_core.errors import TrainableError
from tune_core.training.wrapping import AnyTrainable, attached, check_trainable, name_of, subclass, wrap
from tune_core.validation import Validator, suggestion

#: Returns the values of these names.
Fetch = Callable[[Sequence[str]], Mapping[str, Any]]

_ATTRIBUTE = "_parameters"


class Parameters:
    """The named values of one `with_parameters`; a copy of it that was pickled has the names only.

    Args:
        names: The names.
        values: Their values; None where they are elsewhere.
    """

    __slots__ = ("_fetch", "_values", "names")

    def __init__(self, names: Sequence[str], values: Mapping[str, Any] | None = None) -> None:
        self.names = tuple(names)
        self._values = values
        self._fetch: Fetch | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The values by name, if this is where they are; {} elsewhere."""
        return dict(self._values or {})

    def get(self) -> dict[str, Any]:
        """Return the values as they are supplied at the moment.

        Raises:
            TrainableError: Nobody does.
        """
        if self._fetch is not None:
            return dict(self._fetch(self.names))
        if self._values is None:
            raise TrainableError(
                f"the values of with_parameters ({', '.join(self.names)}) stay in the process that called it, and "
                "this is a pickled copy of the trainable: let a Tuner run it, or call with_parameters here"
            )
        return dict(self._values)

    @contextmanager
    def supplied(self, fetch: Fetch) -> Iterator[None]:
        """Take the values from `fetch` within this context."""
        before, self._fetch = self._fetch, fetch
        try:
            yield
        finally:
            self._fetch = before

    def __reduce__(self) -> tuple[type[Parameters], tuple[tuple[str, ...]]]:
        return Parameters, (self.names,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameters:
        return self  # a copy within the process that has the values

    def __repr__(self) -> str:
        return f"Parameters({', '.join(self.names)})"


def with_parameters(trainable: AnyTrainable, **kwargs: Any) -> AnyTrainable:
    """Return the trainable with values for its further arguments, which may be large.

    A function gets them as keyword arguments, a class in `setup(config, **kwargs)`. The values are
    put into Ray's object store once per experiment, and a trial's process reads them from there: one
    copy per node, however many trials. They are not in what is pickled for a trial. What is
    returned has the trainable's name, and can be given to `with_resources`, as can the other way
    round. The object that was given stays as it is.

    An experiment that is resumed in another process is given the values again, with its trainable.

    Args:
        trainable: A function, method, partial, callable object, or Trainable class.
        **kwargs: The values by the names of the arguments. A `ray.ObjectRef` stands for its value.

    Raises:
        ConfigError: The trainable is of another kind, or has no arguments of these names.

    Example:
        >>> def train(config, data):
        ...     return {"mean": config["scale"] * sum(data) / len(data)}
        >>> with_data = with_parameters(train, data=[1, 2, 3])
        >>> with_data.__name__, with_data({"scale": 10})
        ('train', {'mean': 20.0})

    Source: as Ray Tune 2.60. Differs: names are checked here; it may be applied to what it
        returned; outside of an experiment the values are passed as they are.
    """
    check_trainable("with_parameters", trainable, "setup", "step")
    if inspect.isclass(trainable):
        return cast("AnyTrainable", _subclass(trainable, kwargs))
    return cast("AnyTrainable", _wrap(trainable, kwargs))


def parameters_of(trainable: object) -> dict[str, Any]:
    """Return the values that `with_parameters` gave a trainable, by name; {} if there are none.

    Example:
        >>> parameters_of(with_parameters(lambda config, data: None, data=[1, 2]))
        {'data': [1, 2]}
    """
    values: dict[str, Any] = {}
    for parameters in reversed(_attached(trainable)):  # outer ones win
        values.update(parameters.values)
    return values


@contextmanager
def supplied_parameters(trainable: object, fetch: Fetch) -> Iterator[None]:
    """Within this context, a trainable that came from another process gets its values from `fetch`.

    Nothing is fetched before the trainable is called, or its `setup`; and nothing is kept here.
    """
    with ExitStack() as stack:
        for parameters in _attached(trainable):
            stack.enter_context(parameters.supplied(fetch))
        yield


def _attached(trainable: object) -> list[Parameters]:
    """Every `Parameters` of a trainable and of what it wraps, the outermost first."""
    if inspect.isclass(trainable):
        return [vars(cls)[_ATTRIBUTE] for cls in trainable.__mro__ if _ATTRIBUTE in vars(cls)]
    return list({id(each): each for each in attached(trainable, _ATTRIBUTE, Parameters)}.values())


def _wrap(function: Callable[..., Any], values: dict[str, Any]) -> Callable[..., Any]:
    signature = _signature(function)
    _check_names(name_of(function), signature, values, taken=1)
    parameters = Parameters(tuple(values), values)

    def call(config: Any, *args: Any, **kwargs: Any) -> Any:
        return function(config, *args, **{**parameters.get(), **kwargs})

    wrap(function, call, _ATTRIBUTE, parameters)
    if signature is not None:
        left = [each for each in signature.parameters.values() if each.name not in values]
        call.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
    return call


def _subclass(trainable: type, values: dict[str, Any]) -> type:
    base: Any = trainable
    _check_names(f"{trainable.__name__}.setup", _signature(base.setup), values, taken=2)
    parameters = Parameters(tuple(values), values)

    def setup(self: Any, config: dict[str, Any], **kwargs: Any) -> None:
        base.setup(self, config, **{**parameters.get(), **kwargs})

    updated = functools.update_wrapper(setup, base.setup, updated=())
    return subclass(trainable, setup=updated, **{_ATTRIBUTE: parameters})


def _check_names(
    name: str, signature: inspect.Signature | None, values: Mapping[str, Any], *, taken: int
) -> None:
    """Find names that the function does not take; its first `taken` arguments are the caller's."""
    if signature is None:
        return
    kinds = inspect.Parameter
    arguments = list(signature.parameters.values())
    if any(each.kind is kinds.VAR_KEYWORD for each in arguments):
        return
    by_name = (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    known = [
        each.name
        for number, each in enumerate(arguments)
        if each.kind in by_name and (each.kind is kinds.KEYWORD_ONLY or number >= taken)
    ]
    validator = Validator("with_parameters")
    for given, value in values.items():
        if given not in known:
            validator.note(
                f"{name}{signature} takes no {given}=, which was given a {type(value).__name__}"
                f"{suggestion(given, known)}"
            )
    validator.raise_any()


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None  # a builtin without a signature: calling it will tell
