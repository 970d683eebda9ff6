"""Names of metrics: nested dicts are addressed as "a/b", as in Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What most metrics are: to ask an abstract class about them takes several times as long.
_LEAVES = frozenset((float, int, str, bool, type(None)))


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


def flatten(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested metrics as one dict with names such as "a/b".

    Example:
        >>> flatten({"a": {"b": 1}, "c": 2})
        {'a/b': 1, 'c': 2}
    """
    if _LEAVES.issuperset(map(type, metrics.values())):
        return dict(metrics)
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if type(value) not in _LEAVES and isinstance(value, Mapping):
            flat.update((f"{name}/{inner}", item) for inner, item in flatten(value).items())
        else:
            flat[name] = value
    return flat
