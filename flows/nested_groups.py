"""Placement groups that trials make: those of an experiment that a trial runs itself.

Ray removes a group when the *job* that made it ends, and a trial's process is of its driver's job. A process that
dies while it tunes would leave its groups, and the CPUs that they hold, for as long as the outer driver lives.
So each group's name ends in the group that it was made in, and whoever removes that one removes them too.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ray.util import get_placement_group
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group_table,
    remove_placement_group,
)

_INSIDE = "-in-"


def new_name(base: str) -> str:
    """Return a name for one more group: Ray refuses one that another group of the namespace has, whose ever it is."""
    outer = get_current_placement_group()
    inside = f"{_INSIDE}{outer.id.hex()}" if outer is not None else ""
    return f"{base}-{secrets.token_hex(6)}{inside}"


def remove_groups_inside(group: PlacementGroup) -> None:
    """Remove the groups that were made in a group, and in those. What made them is dead, or about to be."""
    table: Iterable[dict[str, Any]] = placement_group_table().values()
    left = {each["placement_group_id"]: each["name"] for each in table if each["state"] != "REMOVED"}
    outer = {group.id.hex()}
    while outer:
        inner = {key: name for key, name in left.items() if name.rpartition(_INSIDE)[2] in outer}
        for name in inner.values():
            with suppress(ValueError):  # its own driver has just removed it
                remove_placement_group(get_placement_group(name))
        outer = set(inner)
