"""Refuses tasks and actors of a trial that its bundles have no room for: Ray would let them wait for ever.

They would, if only the first bundle is large enough, since the trial itself has all of it. Ray
refuses by itself what fits no bundle at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tune_core.engine.ray_private import launches_checked_by
from tune_core.errors import NoRoomForChild
from tune_core.resources import PlacementGroupFactory


def refused_misfits(resources: PlacementGroupFactory) -> AbstractContextManager[None]:
    """Refuse what is launched in this process, into its placement group, and would wait for ever.

    Does nothing if `TUNE_DISABLE_RESOURCE_CHECKS` is set, or under a release of Ray whose hooks are unknown.

    Args:
        resources: What the trial's group was made from.
    """
    if "TUNE_DISABLE_RESOURCE_CHECKS" in os.environ:
        return nullcontext()
    return launches_checked_by(_launch_hook(resources))


def _launch_hook(resources: PlacementGroupFactory) -> Callable[[Any, dict[str, float], Any], None]:
    fitting: set[tuple[frozenset[tuple[str, float]], bool]] = set()

    def check(function: Any, request: dict[str, float], strategy: Any) -> None:
        wanted = {name: float(amount) for name, amount in request.items() if amount > 0 and name != "bundle"}
        if not wanted or not isinstance(strategy, PlacementGroupSchedulingStrategy):
            return
        is_for_head = strategy.placement_group_bundle_index == 0 and not resources.head_bundle_is_empty
        key = (frozenset(wanted.items()), is_for_head)
        if key in fitting or not _is_own_group(strategy.placement_group):
            return
        rooms = [] if is_for_head else resources.child_bundles
        if not any(all(room.get(name, 0) >= wanted[name] for name in wanted) for room in rooms):
            raise NoRoomForChild(_explain(function, wanted, resources))
        fitting.add(key)

    return check


def _is_own_group(group: Any) -> bool:
    own = get_current_placement_group()
    return own is not None and group is not None and own.id == group.id


def _explain(function: Any, wanted: dict[str, float], resources: PlacementGroupFactory) -> str:
    is_actor = bool(function.class_name)
    kind = "actor" if is_actor else "task"
    name = ".".join(part for part in (function.module_name, function.class_name) if part)
    name = name if is_actor else f"{name}.{function.function_name}"
    return (
        f"No trial resources are available for launching the {kind} `{name}`: it asks for {wanted}, the trial itself "
        f"has all of its first bundle {resources.head_bundle}, and of the others, {resources.child_bundles}, none is "
        "large enough. Reserve room with tune.with_resources(trainable, tune.PlacementGroupFactory("
        f"[{resources.head_bundle}] + [{wanted}] * N)), where N is how many {kind}s run at once; or launch it "
        "outside of the trial's bundles with .options(scheduling_strategy='DEFAULT')"
    )
