"""Collecting everything that is wrong with one object, so that it is raised at once.

Owns the wording of such faults: what was given, what was expected, what to do. Never
decides what is allowed; the checks here are told. A value that may be secret goes through
`note`, which shows nothing by itself.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import TypeGuard

from tune_core.errors import ConfigError
from tune_core.masking import masked
from tune_core.text import cut


class Validator:
    """The faults of one object, in the order in which they were found.

    Args:
        owner: What the user called, as it is shown: `TuneConfig`.

    Example:
        >>> faults = Validator("TuneConfig")
        >>> faults.check_integer("num_samples", 0, minimum=1)
        >>> faults.check_choice("mode", "mn", ("min", "max"))
        >>> for fault in faults.found:
        ...     print(fault)
        TuneConfig(num_samples=0): expected an integer of at least 1
        TuneConfig(mode='mn'): expected 'min' or 'max'; did you mean 'min'?
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.found: list[str] = []

    def note(self, text: str) -> None:
        """Keep a fault that shows no value but those in its text."""
        self.found.append(f"{self.owner}: {text}")

    def add(self, name: str, value: object, expected: str) -> None:
        """Keep the fault that the argument `name` has this value instead of what was expected."""
        self.found.append(f"{self.owner}({name}={shorten(value)}): {expected}")

    def extend(self, faults: Iterable[str]) -> None:
        """Keep the faults that a part of the object has found itself."""
        self.found.extend(faults)

    def raise_any(self) -> None:
        """Raise what was found.

        Raises:
            ConfigError: At least one fault was found; it holds them all.
        """
        if self.found:
            raise ConfigError(self.found)

    def check_bool(self, name: str, value: object) -> None:
        """Find a fault unless the value is True or False."""
        if not isinstance(value, bool):
            self.add(name, value, "expected True or False")

    def check_integer(
        self, name: str, value: object, *, minimum: int, maximum: int | None = None, also: str = ""
    ) -> None:
        """Find a fault unless the value is an integer of at least `minimum`.

        Args:
            name: The argument's name.
            value: What was given.
            minimum: The lowest legal value.
            maximum: The highest one; None for no limit.
            also: What else the caller allows, for the text: " or None for no limit".
        """
        if (
            isinstance(value, bool)
            or not isinstance(value, Integral)
            or int(value) < minimum
            or (maximum is not None and int(value) > maximum)
        ):
            limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
            self.add(name, value, f"expected an integer {limits}{also}")

    def check_number(self, name: str, value: object, *, minimum: float = 0.0, also: str = "") -> None:
        """Find a fault unless the value is a finite number of at least `minimum`."""
        if not is_number(value) or value < minimum:
            self.add(name, value, f"expected a finite number of at least {minimum:g}{also}")

    def check_choice(self, name: str, value: object, choices: Sequence[str], also: str = "") -> None:
        """Find a fault unless the value is one of these strings."""
        if isinstance(value, str) and value in choices:
            return
        expected = f"expected {' or '.join(map(repr, choices))}{also}"
        self.add(name, value, expected + suggestion(value, choices))

    def check_name(self, name: str, value: object, also: str = "") -> None:
        """Find a fault unless the value is a string that is not empty."""
        if not is_name(value):
            self.add(name, value, f"expected a string that is not empty{also}")

    def check_callable(self, name: str, value: object, call: str) -> None:
        """Find a fault unless the value can be called; `call` shows how it will be."""
        if not callable(value):
            self.add(name, value, f"expected a function that can be called as {call}, or None")

    def check_instance(self, name: str, value: object, cls: type) -> bool:
        """Return whether the value is an instance of `cls`; find a fault if not."""
        if isinstance(value, cls):
            return True
        origin = ray_origin(value)
        if origin is not None:
            wanted = origin.rpartition(".")[2]
            own = _public_name(wanted, cls)
            instead = (
                f"use {own}"
                if own
                else f"there is none here: derive one from {_public_name(cls.__name__, cls)}"
            )
            self.add(name, value, f"given {origin}; {instead}: `import tune_core as tune`")
        elif isinstance(value, type) and issubclass(value, cls):
            self.add(name, value, f"given the class; expected an instance: write {value.__name__}(...)")
        else:
            self.add(name, value, f"expected a {cls.__name__}, got {type(value).__name__}")
        return False


def _public_name(name: str, base: type) -> str | None:
    """Return the shortest path to the class of this name that is, or is derived from, `base`; None if there is none."""
    known, waiting = [base], [base]
    while waiting:
        found: list[type] = waiting.pop().__subclasses__()
        known, waiting = known + found, waiting + found
    for module in dict.fromkeys(each.__module__ for each in known if each.__module__.startswith("tune_core")):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            place = ".".join(parts[:end])
            found_there = getattr(sys.modules.get(place), name, None)
            if isinstance(found_there, type) and issubclass(found_there, base):
                return f"{place}.{name}"
    return None


def is_number(value: object) -> TypeGuard[float]:
    """Return whether the value is a real, finite number that a float can hold; True and False are none.

    Example:
        >>> [is_number(value) for value in (1, 0.5, True, "1", float("nan"), 10**400)]
        [True, True, False, False, False, False]
    """
    # To ask an abstract class takes several times as long as the rest.
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond floats
        return False


def is_name(value: object) -> TypeGuard[str]:
    """Return whether the value is a string that is not empty."""
    return isinstance(value, str) and value != ""


def has_names_as_keys(value: object) -> bool:
    """Whether this is a mapping with names as keys."""
    return isinstance(value, Mapping) and all(map(is_name, value))


def are_names(value: object) -> bool:
    """Whether this is a collection of names."""
    return isinstance(value, (list, tuple, set, frozenset)) and all(map(is_name, value))


def safe_repr(value: object) -> str:
    """Return the `repr` of a value, or that it has none: a message about it must not fail for it.

    Example:
        >>> class Broken:
        ...     def __repr__(self):
        ...         raise RuntimeError("no")
        >>> safe_repr(Broken())
        '<Broken, whose repr() raised RuntimeError>'
    """
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - of any kind: it is the user's code
        return f"<{type(value).__qualname__}, whose repr() raised {type(error).__name__}>"


def safe_str(error: BaseException) -> str:
    """Return the text of an exception, or that it has none."""
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001 - as above
        return f"<its str() raised {type(failure).__name__}>"


def shorten(value: object, limit: int = 120) -> str:
    """Return the `repr` of a value without the credentials of URLs in it, cut to `limit` characters."""
    return cut(masked(safe_repr(value)), limit)


def suggestion(value: object, choices: Iterable[object]) -> str:
    """Return "; did you mean 'CPU'?" for the choice that is nearest in spelling, else nothing.

    Example:
        >>> suggestion("strategi", ("name", "strategy"))
        "; did you mean 'strategy'?"
    """
    by_lower = {choice.lower(): choice for choice in choices if isinstance(choice, str)}
    near = get_close_matches(value.lower(), by_lower, n=1) if isinstance(value, str) else []
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def ray_origin(value: object) -> str | None:
    """Return the name of the class of Ray that a value is of, or a class inherits from.

    Ray's own configuration objects look like ours and are given by mistake where an import
    was missed; nothing of Ray is imported to find that out.

    Returns:
        Such as "ray.tune.RunConfig"; None if no class of Ray is involved.
    """
    for cls in (value if isinstance(value, type) else type(value)).__mro__:
        parts = cls.__module__.split(".")
        if parts[0] == "ray":
            return ".".join([*parts[:2], cls.__qualname__])
    return None
