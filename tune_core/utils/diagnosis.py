"""Finding out which of a trainable's variables keeps it from being sent to workers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from tune_core.errors import TrainableError
from tune_core.training.serialization import pickle_trainable, pickling_fault, variables_of


def diagnose_serialization(trainable: Callable[..., Any]) -> bool | set[str]:
    """Print what of a trainable can be pickled and what cannot; return True, or the names that cannot.

    The set is empty if the trainable cannot be pickled, but each of its variables can.

    Args:
        trainable: A function, method, partial, callable object, or class.

    Example:
        >>> import threading
        >>> def build():
        ...     lock = threading.Lock()
        ...     def train(config):
        ...         with lock:
        ...             return {"loss": 0}
        ...     return train
        >>> diagnose_serialization(build())  # doctest: +ELLIPSIS
        Trying to serialize <function build...
        ...
        {'lock'}

    Source: as Ray Tune 2.60. Differs: attributes of objects and classes and arguments of
        partials are looked at too, not only variables of functions.
    """
    _say(f"Trying to serialize {trainable}...")
    try:
        pickle_trainable(trainable)
    except TrainableError as error:
        _say(f"Serialization failed: {error}")
    else:
        _say("Serialization succeeded!")
        return True
    failed: set[str] = set()
    for kind, group in itertools.groupby(variables_of(trainable), key=lambda variable: variable.kind):
        variables = list(group)
        _say(f"Detected {len(variables)} {kind}{'s' * (len(variables) != 1)}. Checking serializability...")
        for variable in variables:
            fault = pickling_fault(variable.value)
            _say(f"   {variable.value}[name='{variable.name}']... {'FAILED' if fault else 'PASSED'}")
            if fault is not None:
                failed.add(variable.name)
                _say(f"   {type(fault).__name__}: {fault}")
    if failed:
        _say(
            f"Variable(s) {sorted(failed)} cannot be serialized. Make them inside the trainable, "
            "or pass what they are made from through the config."
        )
    else:
        _say("Each variable can be serialized by itself: look at what their objects refer to.")
    return failed


def _say(text: str) -> None:
    print(text)  # noqa: T201 - that is what it is for
