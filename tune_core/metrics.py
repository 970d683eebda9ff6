"""Metrics: what may be one, names ("a/b" is "b" below "a", as in Ray Tune), and values that can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from tune_core.encoding import as_plain

#: What most metrics are: to ask an abstract class about them takes several times as long.
_LEAVES = frozenset((float, int, str, bool, type(None)))
_STR = frozenset((str,))


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


def _is_flat(metrics: Mapping[str, Any]) -> bool:
    return _LEAVES.issuperset(map(type, metrics.values()))


def validate_metrics(metrics: Any) -> dict[str, Any]:
    """Return a copy of reported metrics in Python's own types.

    Raises:
        TypeError: Not a mapping with string keys.
        ValueError: A torch tensor is in it: it would hold GPU memory and its graph.
    """
    if type(metrics) is dict and _STR.issuperset(map(type, metrics)) and _is_flat(metrics):
        return dict(metrics)
    if not isinstance(metrics, Mapping):
        message = f"report expects a dict of metrics, such as {{'loss': 0.1}}; got {metrics!r}"
        raise TypeError(f"{message} ({type(metrics).__name__})")
    _refuse_unfit(metrics, "")
    return {key: as_plain(value) for key, value in metrics.items()}


def _refuse_unfit(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"report: metric names are strings; got {key!r} at {path or 'the top'}")
            if type(item) not in _LEAVES:
                _refuse_unfit(item, f"{path}/{key}" if path else key)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_unfit(item, path)
    elif type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        raise ValueError(
            f"metric {path!r} is a torch tensor: report a number, {path}.item() or float({path})"
        )
