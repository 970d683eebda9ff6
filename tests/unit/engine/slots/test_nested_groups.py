"""Placement groups that trials make are found by their names, and go with the trial."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import tune_core as tune
from tune_core.engine.slots import nested_groups
from tune_core.engine.slots.nested_groups import held_around, new_name, remove_groups_inside, shortfall_inside


def group(key: str) -> Any:
    return SimpleNamespace(id=SimpleNamespace(hex=lambda: key))


class Cluster:
    """Groups by id; those that are removed stay in the table, as Ray's do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current: str | None = None
        self.table: dict[str, dict[str, Any]] = {}
        for name in ("placement_group_table", "get_placement_group", "remove_placement_group"):
            monkeypatch.setattr(nested_groups, name, getattr(self, name))
        monkeypatch.setattr(
            nested_groups,
            "get_current_placement_group",
            lambda: group(self.current) if self.current else None,
        )

    def make(self, key: str, inside: str | None = None) -> str:
        """Make a group as a process in another group does."""
        self.current = inside
        name = new_name("mine")
        bundles = {0: {"CPU": 1.0}, 1: {"CPU": 0.5, "GPU": 1.0}}
        self.table[key] = {"placement_group_id": key, "name": name, "state": "CREATED", "bundles": bundles}
        return key

    def placement_group_table(self) -> dict[str, dict[str, Any]]:
        return {key: dict(each) for key, each in self.table.items()}

    def get_placement_group(self, name: str) -> Any:
        for key, each in self.table.items():
            if each["name"] == name and each["state"] != "REMOVED":
                return group(key)
        raise ValueError(f"Failed to look up placement group with name: {name}")

    def remove_placement_group(self, removed: Any) -> None:
        self.table[removed.id.hex()]["state"] = "REMOVED"

    def left(self) -> list[str]:
        return [key for key, each in self.table.items() if each["state"] != "REMOVED"]


def test_groups_of_a_trial_that_died_go_with_those_inside_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    outer, other = cluster.make("a0"), cluster.make("b0")
    cluster.make("a00", inside=cluster.make("a1", inside=outer))
    cluster.make("a2", inside=outer)
    cluster.make("b1", inside=other)
    cluster.table["a3"] = {
        "placement_group_id": "a3",
        "name": "",
        "state": "CREATED",
    }  # a user's, without a name

    remove_groups_inside(group(outer))

    assert cluster.left() == ["a0", "b0", "b1", "a3"]


def test_a_group_that_its_own_driver_removes_meanwhile_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    cluster.make("a1", inside=cluster.make("a0"))
    stale = cluster.placement_group_table()
    cluster.table["a1"]["state"] = "REMOVED"
    monkeypatch.setattr(nested_groups, "placement_group_table", lambda: stale)

    remove_groups_inside(group("a0"))

    assert cluster.left() == ["a0"]


def test_a_trial_knows_what_it_and_the_trials_around_it_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    inner = cluster.make("a1", inside=cluster.make("a0"))
    cluster.make("b0")

    cluster.current = inner
    assert held_around() == {"CPU": 3.0, "GPU": 2.0}
    shape = tune.PlacementGroupFactory([{"CPU": 1}])
    assert shortfall_inside(shape, {"CPU": 4.0}) is None
    assert shortfall_inside(shape, {"CPU": 3.5}) == (
        "CPU: 1 needed, but of 3.5 that the cluster has, the trials that this Tuner runs in hold 3"
    )
    cluster.current = None
    assert held_around() == {}
    assert shortfall_inside(shape, {"CPU": 0.5}) is None  # that is for others to say


def test_names_are_never_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    cluster.current = "a0"

    assert new_name("mine") != new_name("mine")
    assert new_name("mine").startswith("mine-")
