"""Values that a trainable needs besides its config, and which must not travel with it.

Owns `with_parameters`: the values stay in the object that it returns, in the process that made
it. Never puts them anywhere: the runtime does, once per experiment, and supplies them to the
trial's copy. Invariant: no pickle of a trainable holds such a value, only its name.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

from tune_core.errors import ConfigError, TrainableError
from tune_core.validation import Validator, ray_origin, shorten, suggestion

AnyTrainable = TypeVar("AnyTrainable", bound=Callable[..., Any])
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
    if inspect.isclass(trainable):
        return cast("AnyTrainable", _subclass(trainable, kwargs))
    if not callable(trainable):
        raise ConfigError(
            f"with_parameters: trainable={shorten(trainable)}: expected a function, a callable object or a "
            "class derived from tune_core.Trainable"
        )
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
    found: list[Parameters] = []
    if inspect.isclass(trainable):
        found = [vars(cls)[_ATTRIBUTE] for cls in trainable.__mro__ if _ATTRIBUTE in vars(cls)]
    else:
        node: Any = trainable
        for _ in range(64):  # a chain of wrappers ends; a proxy that makes up attributes need not
            parameters = getattr(node, _ATTRIBUTE, None)
            if isinstance(parameters, Parameters):
                found.append(parameters)
            node = node.func if isinstance(node, functools.partial) else getattr(node, "__wrapped__", None)
            if node is None:
                break
    # `functools.wraps` copies attributes, so that several wrappers may show the same one.
    return list({id(each): each for each in found}.values())


def _wrap(function: Callable[..., Any], values: dict[str, Any]) -> Callable[..., Any]:
    name = _name_of(function)
    signature = _signature(function)
    _check_names(name, signature, values, taken=1)
    parameters = Parameters(tuple(values), values)

    def call(config: Any, *args: Any, **kwargs: Any) -> Any:
        return function(config, *args, **{**parameters.get(), **kwargs})

    # An object's attributes are its state, not metadata: only a function's are copied.
    updated = ("__dict__",) if isinstance(function, types.FunctionType) else ()
    functools.update_wrapper(call, function, updated=updated)
    call.__name__ = name
    if signature is not None:
        left = [each for each in signature.parameters.values() if each.name not in values]
        call.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
    setattr(call, _ATTRIBUTE, parameters)
    return call


def _subclass(trainable: type, values: dict[str, Any]) -> type:
    origin = ray_origin(trainable)
    if origin is not None or not all(callable(getattr(trainable, name, None)) for name in ("setup", "step")):
        given = f"derived from {origin}" if origin else "a class of its own"
        raise ConfigError(
            f"with_parameters: {shorten(trainable)} is {given}; derive it from tune_core.Trainable "
            "(`import tune_core as tune`)"
        )
    base: Any = trainable
    _check_names(f"{trainable.__name__}.setup", _signature(base.setup), values, taken=2)
    parameters = Parameters(tuple(values), values)

    def setup(self: Any, config: dict[str, Any], **kwargs: Any) -> None:
        base.setup(self, config, **{**parameters.get(), **kwargs})

    body = {
        "setup": functools.update_wrapper(setup, base.setup, updated=()),
        _ATTRIBUTE: parameters,
        "__module__": trainable.__module__,
        "__qualname__": trainable.__qualname__,
        "__doc__": trainable.__doc__,
    }
    return types.new_class(trainable.__name__, (trainable,), exec_body=lambda names: names.update(body))


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


def _name_of(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        return _name_of(function.func)
    return str(getattr(function, "__name__", type(function).__name__))
