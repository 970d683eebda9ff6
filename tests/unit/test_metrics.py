from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from tune_core.metrics import flatten, lookup


@pytest.mark.parametrize(
    ("metrics", "name", "expected"),
    [
        ({"loss": 0.5}, "loss", 0.5),
        ({"eval": {"loss": 0.5}}, "eval/loss", 0.5),
        ({"a": {"b": {"c": 1}}}, "a/b/c", 1),
        ({"a": {"b": 1}}, "a", {"b": 1}),
        ({"eval/loss": 1, "eval": {"loss": 2}}, "eval/loss", 1),
        ({"a": MappingProxyType({"b": 1})}, "a/b", 1),
        ({"loss": 0}, "loss", 0),
        ({"loss": None}, "loss", None),
        ({}, "loss", None),
        ({"eval": {}}, "eval/loss", None),
        ({"eval": 3}, "eval/loss", None),
        ({"a": {"b": 1}}, "a/b/c", None),
        ({"a": {"b": 1}}, "/a", None),
    ],
)
def test_metric_is_found_by_name_or_path(metrics: dict[str, Any], name: str, expected: Any) -> None:
    assert lookup(metrics, name) == expected


def test_nested_metrics_become_paths_in_their_order() -> None:
    flat = flatten({"z": 1, "a": {"c": 2, "b": {"d": [3]}}, "empty": {}})

    assert list(flat.items()) == [("z", 1), ("a/c", 2), ("a/b/d", [3])]


def test_every_flat_name_finds_its_value() -> None:
    metrics = {"z": 1, "a": {"c": 2, "b": {"d": 3}}}

    assert {name: lookup(metrics, name) for name in flatten(metrics)} == flatten(metrics)
