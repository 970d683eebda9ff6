"""Placement groups that trials make: those of an experiment that a trial runs itself.

Ray removes a group when the *job* that made it ends, and a trial's process is of its driver's job. A process that
dies while it tunes would leave its groups, and the CPUs that they hold, for as long as the outer driver lives.
So each group's name ends in the group that it was made in, and removing that one removes them too.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ray.util import get_placement_group
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group_table,
    remove_placement_group,
)

from tune_core.resources import PlacementGroupFactory

_INSIDE = "-in-"


def new_name(base: str) -> str:
    """Return a name for one more group: Ray refuses one that any other group of the namespace has."""
    outer = get_current_placement_group()
    inside = f"{_INSIDE}{outer.id.hex()}" if outer is not None else ""
    return f"{base}-{secrets.token_hex(6)}{inside}"


def maker_of(name: str) -> str:
    """Return the id of the group in which a group of this name was made; "" if it was in none."""
    return name.rpartition(_INSIDE)[2] if _INSIDE in name else ""


def remove_groups_inside(group: PlacementGroup) -> None:
    """Remove the groups that were made in a group, and in those. What made them is dead, or about to be."""
    table: Iterable[dict[str, Any]] = placement_group_table().values()
    left = {each["placement_group_id"]: each["name"] for each in table if each["state"] != "REMOVED"}
    outer = {group.id.hex()}
    while outer:
        inner = {key: name for key, name in left.items() if maker_of(name) in outer}
        for name in inner.values():
            with suppress(ValueError):  # its own driver has just removed it
                remove_placement_group(get_placement_group(name))
        outer = set(inner)


def held_around() -> dict[str, float]:
    """Return what the trial that this process runs holds, with the trials that it runs in; {} outside of trials."""
    current = get_current_placement_group()
    if current is None:
        return {}
    table, key = placement_group_table(), current.id.hex()
    held: dict[str, float] = {}
    while key in table:
        for bundle in table[key]["bundles"].values():
            for name, amount in bundle.items():
                held[name] = held.get(name, 0.0) + amount
        key = maker_of(table[key]["name"])
    return held


def shortfall_inside(resources: PlacementGroupFactory, total: Mapping[str, float]) -> str | None:
    """Say why a Tuner in a trial can never get such a group: the trials around it hold what it needs.

    Args:
        resources: The group.
        total: The sums of the cluster.
    """
    held = held_around()
    for name, amount in resources.required_resources.items():
        there, taken = total.get(name, 0.0), held.get(name, 0.0)
        if taken and amount > there - taken + 1e-9:
            return (
                f"{name}: {amount:g} needed, but of {there:g} that the cluster has, the trials that this Tuner runs in "
                f"hold {taken:g}"
            )
    return None
