"""A search space that is a function of an Optuna trial.

Owns calling it, and what of a configuration it has chosen. Never talks to a study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tune_core.errors import ConfigError
from tune_core.validation import shorten

if TYPE_CHECKING:
    from optuna import Trial


class _Recorder:
    """An Optuna trial that notes what its `suggest_…` methods return."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.suggested: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._trial, name)
        if not name.startswith("suggest_"):
            return attribute

        def suggest(*args: Any, **kwargs: Any) -> Any:
            value = attribute(*args, **kwargs)
            self.suggested[args[0] if args else kwargs["name"]] = value
            return value

        return suggest


def call(function: Callable[..., Any], trial: Trial) -> dict[str, Any]:
    """Return what a function of a trial has chosen and what it returned, by path.

    Raises:
        ConfigError: It returned what is no dict of constants.
    """
    recorder = _Recorder(trial)
    constants = function(recorder)
    if constants is None:
        return recorder.suggested
    if not isinstance(constants, Mapping) or not all(isinstance(key, str) for key in constants):
        raise ConfigError(
            f"OptunaSearch: the function of the space returned {shorten(constants)}: "
            "expected None, or a dict of constants with strings as keys"
        )
    return {**recorder.suggested, **constants}


def unflattened(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"a/b": 1}` as `{"a": {"b": 1}}`."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = nested
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return nested


def is_scalar(value: object) -> bool:
    """Return whether Optuna can hold a value."""
    return value is None or isinstance(value, str | int | float | bool)
