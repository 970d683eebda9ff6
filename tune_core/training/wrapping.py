"""Attaching something to a trainable: a function or a subclass that passes for what was given."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from tune_core.errors import ConfigError
from tune_core.validation import ray_origin, shorten

AnyTrainable = TypeVar("AnyTrainable", bound=Callable[..., Any])


def check_trainable(function: str, trainable: object, *methods: str) -> None:
    """Refuse what is neither a callable nor a class with these methods.

    Raises:
        ConfigError: It names `function`, which was given the trainable.
    """
    if inspect.isclass(trainable):
        origin = ray_origin(trainable)
        if origin is None and all(callable(getattr(trainable, name, None)) for name in methods):
            return
        given = f"derived from {origin}" if origin else "a class of its own"
        raise ConfigError(
            f"{function}: {shorten(trainable)} is {given}; derive it from tune_core.Trainable "
            "(`import tune_core as tune`)"
        )
    if not callable(trainable):
        raise ConfigError(
            f"{function}: trainable={shorten(trainable)}: expected a function, a callable object or a "
            "class derived from tune_core.Trainable"
        )


def wrap(
    function: Callable[..., Any], call: Callable[..., Any], attribute: str, value: object
) -> Callable[..., Any]:
    """Return `call` with the name and the documentation of `function`, which it calls, and an attribute of its own."""
    # An object's attributes are its state, not metadata: only a function's are copied.
    # Guarded by test_state_of_a_callable_object_is_not_copied_to_its_wrapper.
    updated = ("__dict__",) if isinstance(function, types.FunctionType) else ()
    functools.update_wrapper(call, function, updated=updated)
    if not hasattr(function, "__name__"):
        call.__name__ = call.__qualname__ = name_of(function)
    setattr(call, attribute, value)
    return call


def subclass(trainable: type, **attributes: object) -> type:
    """Return a subclass that has the class's name, module and documentation, and these attributes."""
    same = {name: getattr(trainable, name) for name in ("__module__", "__qualname__", "__doc__")}
    return types.new_class(
        trainable.__name__, (trainable,), exec_body=lambda names: names.update(same, **attributes)
    )


def attached(trainable: object, attribute: str, *kinds: type) -> Iterator[Any]:
    """Yield the values of these kinds that `wrap` attached to a callable and to what it wraps, the outermost first.

    `functools.wraps` copies attributes, so that one may be found several times.
    """
    node: Any = trainable
    for _ in range(64):  # a chain of wrappers ends; a proxy that makes up attributes need not
        value = getattr(node, attribute, None)
        if isinstance(value, kinds):
            yield value
        node = node.func if isinstance(node, functools.partial) else getattr(node, "__wrapped__", None)
        if node is None:
            return


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's name; of a partial, that of its function, of an object, that of its class."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return str(getattr(function, "__name__", type(function).__name__))
