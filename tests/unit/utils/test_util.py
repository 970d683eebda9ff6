"""Points and rewards that a searcher is to begin with."""

from __future__ import annotations

from typing import Any

import pytest

from tune_core.errors import ConfigError
from tune_core.utils.util import validate_warmstart

NAMES = ["lr", "width"]


@pytest.mark.parametrize(
    ("points", "rewards"),
    [
        ([{"lr": 1, "width": 2}], [0.5]),
        ([[1, 2], {"lr": 1, "width": 2}], None),
        ([[1, 2]], []),
        (None, None),
        (None, [1, 2]),
        ([], "anything"),
    ],
)
def test_points_that_fit_pass(points: Any, rewards: Any) -> None:
    validate_warmstart(NAMES, points, rewards)


@pytest.mark.parametrize(
    ("points", "rewards", "error", "match"),
    [
        ({"lr": 1}, None, TypeError, r"points_to_evaluate=\{'lr': 1\}: expected a list, got a dict"),
        (
            [(1, 2)],
            None,
            TypeError,
            r"points_to_evaluate\[0\]=\(1, 2\): expected a dict or a list, got a tuple",
        ),
        ([[1, 2]], (1,), TypeError, r"evaluated_rewards=\(1,\): expected a list, got a tuple"),
        (
            [[1, 2], [1]],
            None,
            ConfigError,
            r"points_to_evaluate\[1\]=\[1\] has 1 value, .* 2 parameters: lr, width",
        ),
        ([[1, 2]], [1, 2], ConfigError, "evaluated_rewards has 2 values for 1 points"),
        ([[1]], [1, 2], ValueError, "2 faults"),
    ],
)
def test_points_that_do_not_fit_are_refused(
    points: Any, rewards: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        validate_warmstart(NAMES, points, rewards)


def test_number_of_values_need_not_be_looked_at() -> None:
    validate_warmstart(NAMES, [[1], [1, 2, 3]], [1, 2], validate_point_name_lengths=False)
