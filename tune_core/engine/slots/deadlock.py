"""Tuners in trials that wait for each other: all hold what the others need, so that none of them ever goes on.

A group's name says which group it was made in (`tune_core.engine.slots.nested_groups`). A trial is stuck if it tunes,
none of its trials runs, and what they ask for cannot come free, since other trials that are stuck hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import ray
from ray.util.placement_group import get_current_placement_group, placement_group_table

from tune_core.engine.slots.fit import amounts_of, shortfall
from tune_core.engine.slots.nested_groups import maker_of
from tune_core.resources import PlacementGroupFactory

Group = Mapping[str, Any]


def why_stuck(resources: PlacementGroupFactory) -> str | None:
    """Say why a Tuner in a trial, which waits for this, has to give up so that others like it go on.

    Of all trials that are stuck only one is told so at a time: once it ends, others may have what they need.

    Args:
        resources: What one of its trials waits for.

    Returns:
        None: it is no Tuner in a trial, what it waits for may come free, or it is another one's turn.
    """
    current = get_current_placement_group()
    if current is None:
        return None
    table: dict[str, Group] = placement_group_table()
    groups = {key: group for key, group in table.items() if group["state"] != "REMOVED"}
    stuck = _stuck(groups)
    tuning = {maker_of(group["name"]) for group in groups.values() if group["state"] != "CREATED"}
    if current.id.hex() != max(stuck & tuning, default=None):
        return None
    return (
        f"a trial waits for {amounts_of(resources)}, but {len(stuck)} trials hold what it needs while their own Tuners "
        "wait for each other, as this one does: leave them room with TuneConfig(max_concurrent_trials=…) of the Tuner "
        "that runs them, or, if nodes will join, set RunConfig(placement_timeout_s=…)"
    )


def tuners_wait_in(groups: Iterable[Any]) -> bool:
    """Return whether trials in these groups, or in groups inside of them, wait for groups of their own."""
    table: dict[str, Group] = placement_group_table()
    inside = {group.id.hex() for group in groups}
    while True:
        found = {key for key, group in table.items() if maker_of(group["name"]) in inside} - inside
        if any(table[key]["state"] not in ("CREATED", "REMOVED") for key in found):
            return True
        if not found:
            return False
        inside |= found


def _stuck(groups: Mapping[str, Group]) -> Set[str]:
    """Return the groups of trials that are stuck."""
    inside: dict[str, list[str]] = {}
    for key, group in groups.items():
        inside.setdefault(maker_of(group["name"]), []).append(key)
    placeable: set[str] = set()
    while True:
        stuck = {key for key in groups if _holds_and_waits(key, groups, inside, placeable)}
        nodes = _nodes_without(groups[key] for key in stuck)
        found = {
            key
            for key, group in groups.items()
            if group["state"] != "CREATED"
            and key not in placeable
            and shortfall(_resources_of(group), nodes) is None
        }
        if not found:
            return stuck
        placeable |= found


def _holds_and_waits(
    key: str, groups: Mapping[str, Group], inside: Mapping[str, list[str]], placeable: Set[str]
) -> bool:
    """Whether a group is placed, and all in it wait for what cannot come free, or do the same."""
    if groups[key]["state"] != "CREATED" or key not in inside:
        return False
    return all(
        (groups[each]["state"] != "CREATED" and each not in placeable)
        or _holds_and_waits(each, groups, inside, placeable)
        for each in inside[key]
    )


def _nodes_without(stuck: Iterable[Group]) -> list[dict[str, float]]:
    """Return the resources of each live node but for what these groups hold."""
    nodes = {node["NodeID"]: dict(node["Resources"]) for node in ray.nodes() if node["Alive"]}
    for group in stuck:
        for number, bundle in group["bundles"].items():
            node = nodes.get(group["bundles_to_node_id"].get(number), {})
            for name, amount in bundle.items():
                node[name] = node.get(name, 0.0) - amount
    return list(nodes.values())


def _resources_of(group: Group) -> PlacementGroupFactory:
    return PlacementGroupFactory(list(group["bundles"].values()), group["strategy"])
