"""The other import path that Ray Tune has for these tools, and checks for authors of searchers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tune_core.errors import ConfigError
from tune_core.text import quantity
from tune_core.utils.diagnosis import diagnose_serialization
from tune_core.utils.gpu import wait_for_gpu
from tune_core.utils.save_restore import validate_save_restore
from tune_core.validation import shorten

__all__ = ["diagnose_serialization", "validate_save_restore", "validate_warmstart", "wait_for_gpu"]


def validate_warmstart(
    parameter_names: Sequence[str],
    points_to_evaluate: Any,
    evaluated_rewards: Any,
    validate_point_name_lengths: bool = True,
) -> None:
    """Make sure that the points that a searcher is to begin with go with its parameters and rewards.

    Nothing is checked of what is None or empty.

    Args:
        parameter_names: The names of the searcher's parameters.
        points_to_evaluate: A list of points, each a dict by name or a list in the order of the names.
        evaluated_rewards: A list with the metric's value at each point; None if they are not known.
        validate_point_name_lengths: Whether each point has to have as many values as there are names.

    Raises:
        TypeError: The points are no list, one of them is neither dict nor list, or the rewards are no list.
        ConfigError: A point has more or less values than there are names, or there are more or less
            rewards than points. It is a `ValueError`.

    Example:
        >>> validate_warmstart(["lr", "width"], [{"lr": 0.1, "width": 8}], [0.5])
        >>> validate_warmstart(["lr", "width"], [{"lr": 0.1}], [0.5])
        Traceback (most recent call last):
        ...
        tune_core.errors.ConfigError: points_to_evaluate[0]={'lr': 0.1} has 1 value, but there are 2 parameters: \
lr, width

    Source: as Ray Tune 2.60.
    """
    if not points_to_evaluate:
        return
    if not isinstance(points_to_evaluate, list):
        kind = type(points_to_evaluate).__name__
        raise TypeError(f"points_to_evaluate={shorten(points_to_evaluate)}: expected a list, got a {kind}")
    faults = []
    for number, point in enumerate(points_to_evaluate):
        given = f"points_to_evaluate[{number}]={shorten(point)}"
        if not isinstance(point, dict | list):
            raise TypeError(f"{given}: expected a dict or a list, got a {type(point).__name__}")
        if validate_point_name_lengths and len(point) != len(parameter_names):
            values = quantity(len(point), "value")
            known = ", ".join(parameter_names)
            faults.append(f"{given} has {values}, but there are {len(parameter_names)} parameters: {known}")
    if evaluated_rewards:
        if not isinstance(evaluated_rewards, list):
            kind = type(evaluated_rewards).__name__
            raise TypeError(f"evaluated_rewards={shorten(evaluated_rewards)}: expected a list, got a {kind}")
        if len(evaluated_rewards) != len(points_to_evaluate):
            faults.append(
                f"evaluated_rewards has {len(evaluated_rewards)} values for {len(points_to_evaluate)} points: "
                "expected one for each"
            )
    if faults:
        raise ConfigError(faults)
