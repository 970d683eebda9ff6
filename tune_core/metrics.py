"""Metrics: what may be one, names ("a/b" is "b" below "a", as in Ray Tune), and values that can be compared."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any

from tune_core.encoding import Opaque, as_plain
from tune_core.errors import InvalidMetric
from tune_core.validation import safe_str, shorten

#: Keys that say of which trial a report is, where and when it was made.
ORIGIN = ("trial_id", "date", "pid", "hostname", "node_ip", "config")
#: Keys that count from the start of an attempt.
SINCE_RESTORE = ("time_since_restore", "iterations_since_restore", "timesteps_since_restore")
#: Every key that a report has besides the user's own metrics.
AUTO_FILLED = frozenset(
    (
        *ORIGIN,
        *SINCE_RESTORE,
        "attempt_number",
        "checkpoint_dir_name",
        "done",
        "experiment_tag",
        "should_checkpoint",
        "time_this_iter_s",
        "time_total_s",
        "timestamp",
        "training_iteration",
    )
)
#: Levels of nesting that a metric may have: writers and readers of JSON stop at a few hundred.
MAX_DEPTH = 100
#: What most metrics are: to ask an abstract class about them takes several times as long.
_LEAVES = frozenset((float, int, str, bool, type(None)))
_STR = frozenset((str,))
_LARGEST = int(sys.float_info.max)


def lookup(metrics: Mapping[str, Any], name: str) -> Any:
    """Return a metric by its name, or by its path "a/b" into nested metrics; None if it is not there.

    Example:
        >>> lookup({"eval": {"loss": 0.5}}, "eval/loss")
        0.5
    """
    if name in metrics:
        return metrics[name]
    value: Any = metrics
    for part in name.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def comparable(value: object) -> float | None:
    """Return a reported value as a float, to be compared; None if it is no number.

    The only place where that happens: a trial may report any number, and none may end an experiment.
    NaN stays NaN. What is beyond floats is infinite. True and False are 1 and 0, as in Ray Tune.

    Example:
        >>> [comparable(value) for value in (0.5, 2, True, 10**400, -(10**400), "0.5", None)]
        [0.5, 2.0, 1.0, inf, -inf, None, None]
    """
    if type(value) is float:
        return value
    if not isinstance(value, Real):
        return None
    number: Any = value
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def flatten(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested metrics as one dict with names such as "a/b".

    Example:
        >>> flatten({"a": {"b": 1}, "c": 2})
        {'a/b': 1, 'c': 2}
    """
    if _is_flat(metrics):
        return dict(metrics)
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if type(value) not in _LEAVES and isinstance(value, Mapping):
            flat.update((f"{name}/{inner}", item) for inner, item in flatten(value).items())
        else:
            flat[name] = value
    return flat


def validate_metrics(metrics: Any) -> dict[str, Any]:
    """Return a copy of reported metrics that can be written, compared and read again, whatever was reported.

    Names that are no strings become `str(name)`, numbers Python's own, and objects that JSON lacks their
    `repr`. Values are bounded here, so that nothing after this has to expect others.

    Raises:
        TypeError: Not a mapping.
        InvalidMetric: A torch tensor is in it, which would hold GPU memory and its graph; an integer beyond
            floats; more than `MAX_DEPTH` levels; two names that become one; something whose own methods raise.
    """
    if type(metrics) is dict and _STR.issuperset(map(type, metrics)) and _is_flat(metrics):
        for name, value in metrics.items():
            if type(value) is int and not -_LARGEST <= value <= _LARGEST:
                raise _too_large(value, name)
        return dict(metrics)
    if not isinstance(metrics, Mapping):
        message = f"report expects a dict of metrics, such as {{'loss': 0.1}}; got {shorten(metrics)}"
        raise TypeError(f"{message} ({type(metrics).__name__})")
    validated: dict[str, Any] = _validated(metrics, "", 0)
    return validated


def _validated(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is int:
        if not -_LARGEST <= value <= _LARGEST:
            raise _too_large(value, path)
        return value
    if kind in _LEAVES:
        return value
    if depth > MAX_DEPTH:
        raise InvalidMetric(
            f"metric {path[:80]!r}… is nested more than {MAX_DEPTH} levels deep, or contains itself: "
            "report what is in it under names of its own"
        )
    try:
        return _plain(value, path, depth)
    except InvalidMetric:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {safe_str(error)}"
        raise InvalidMetric(
            f"metric {path!r} cannot be written, since this object of {kind.__module__}.{kind.__qualname__} raised "
            f"{said}: report a number or a string instead"
        ) from error


def _plain(value: Any, path: str, depth: int) -> Any:
    if isinstance(value, Mapping):
        named = {}
        for key, item in value.items():
            name = key if type(key) is str else str(key)
            inner = f"{path}/{name}" if path else name
            if name in named:
                raise InvalidMetric(
                    f"two metrics have the name {inner!r}, since names are written as strings"
                )
            named[name] = _validated(item, inner, depth + 1)
        return named
    if isinstance(value, (list, tuple)):
        items = [_validated(item, path, depth + 1) for item in value]
        return tuple(items) if type(value) is tuple else items
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        raise InvalidMetric(
            f"metric {path!r} is a torch tensor: report a number, {path}.item() or float({path})"
        )
    plain = as_plain(value)
    if plain is not value:
        return _validated(plain, path, depth + 1)
    for base in (int, float, str):  # subclasses, such as an IntEnum
        if isinstance(value, base):
            return _validated(base(value), path, depth)
    if isinstance(value, (bytes, bytearray, Opaque)):
        return value
    if isinstance(value, Real):
        return float(value)
    return Opaque(repr(value))


def _too_large(value: int, path: str) -> InvalidMetric:
    digits = int(value.bit_length() * 0.30103) + 1
    return InvalidMetric(
        f"metric {path!r} is an integer of about {digits:,} digits, larger than any float, so that nothing could "
        f"compare or plot it: report its logarithm, or str(…) of it if it is no quantity"
    )


def _is_flat(metrics: Mapping[str, Any]) -> bool:
    return _LEAVES.issuperset(map(type, metrics.values()))
