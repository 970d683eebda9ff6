"""Objects that know the arguments they were made with, so that they can be made again.

Owns the recording, one mechanism for searchers, schedulers, stoppers, callbacks and reporters.
Never makes anything: that is `tune_core.config.spec`, which knows what may be made.
"""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

_GIVEN = "_given_arguments"


class RecordsArguments:
    """Remembers what was passed to the constructor; derive a class from it and nothing else is needed.

    Example:
        >>> class Limit(RecordsArguments):
        ...     def __init__(self, top, *, strict=False):
        ...         self.top = top
        >>> arguments_of(Limit(3))
        {'top': 3}
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap the constructor of each subclass that has one of its own."""
        super().__init_subclass__(**kwargs)
        init = vars(cls).get("__init__")
        if init is not None:
            cls.__init__ = _recording(init)  # type: ignore[method-assign]


def arguments_of(value: RecordsArguments) -> dict[str, Any]:
    """Return the arguments that an object was made with, by name; what was left to its default is not there.

    Example:
        >>> arguments_of(RecordsArguments())
        {}
    """
    return dict(vars(value).get(_GIVEN, {}))


def note_arguments(value: RecordsArguments, **arguments: Any) -> None:
    """Note these values in place of what was passed; call it in the constructor.

    For what cannot be given twice, such as a generator of random numbers that has been drawn from.
    """
    vars(value)[_GIVEN].update(arguments)


def make(cls: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a class with what `arguments_of` returned.

    Raises:
        TypeError: It has no such argument, or needs another one.

    Example:
        >>> make(complex, {"real": 1, "imag": 2})
        (1+2j)
    """
    signature = inspect.signature(cls)
    unknown = arguments.keys() - signature.parameters.keys()
    if unknown:
        raise TypeError(f"it has no argument {', '.join(sorted(unknown))}")
    bound = inspect.BoundArguments(signature, OrderedDict(arguments))
    return cls(*bound.args, **bound.kwargs)


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        if _GIVEN in vars(self):  # a subclass has called super().__init__(): its own arguments count
            init(self, *args, **kwargs)
            return
        noted: dict[str, Any] = {}
        vars(self)[_GIVEN] = noted
        init(self, *args, **kwargs)
        given = dict(inspect.signature(init).bind(self, *args, **kwargs).arguments)
        given.pop(next(iter(given)))  # self
        vars(self)[_GIVEN] = {**given, **noted}

    return recorded
