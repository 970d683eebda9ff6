"""What fits on a cluster: arithmetic on bundles and nodes, which asks Ray for nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from tune_core.resources import PlacementGroupFactory

#: Steps after which the search for a way to place a group gives up and lets Ray try.
_PLACING_STEPS = 20_000


def copies_that_fit(resources: PlacementGroupFactory, total: Mapping[str, float]) -> int:
    """Return how many groups of this shape the cluster could hold at once, going by its sums."""
    required = {name: amount for name, amount in resources.required_resources.items() if amount > 0}
    if not required:
        return 1024
    return min(math.floor(total.get(name, 0.0) / amount + 1e-9) for name, amount in required.items())


def shortfall(resources: PlacementGroupFactory, of_nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Say why nodes with these resources can never hold such a group; None if they can.

    Args:
        resources: The group.
        of_nodes: The total resources of each node that is alive.

    Example:
        >>> shortfall(PlacementGroupFactory([{"CPU": 8}]), [{"CPU": 2.0}])
        'CPU: 8 needed in one bundle, the largest node has 2'
    """
    for name, amount in resources.required_resources.items():
        largest_bundle = max(bundle.get(name, 0.0) for bundle in resources.bundles)
        largest_node = max((node.get(name, 0.0) for node in of_nodes), default=0.0)
        if largest_bundle > largest_node + 1e-9:
            needed, largest = _amount(name, largest_bundle), _amount(name, largest_node)
            return f"{name}: {needed} needed in one bundle, the largest node has {largest}"
        total = sum(node.get(name, 0.0) for node in of_nodes)
        if amount > total + 1e-9:
            return f"{name}: {_amount(name, amount)} needed in all, the cluster has {_amount(name, total)}"
    if _can_place(resources, of_nodes):
        return None
    shapes = "; ".join(listed(_shown(node)) for node in of_nodes)
    return f"no way to place the bundles {resources.bundles} with strategy {resources.strategy} on nodes with: {shapes}"


def amounts_of(resources: PlacementGroupFactory) -> str:
    """Return what a group takes in all, to be read: `CPU 2, GPU 1`."""
    return listed(resources.required_resources)


def listed(amounts: Mapping[str, float]) -> str:
    """Return amounts for people: `CPU 2, GPU 1`."""
    return ", ".join(f"{name} {_amount(name, amount)}" for name, amount in amounts.items())


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:.3f} GiB" if name == "memory" else f"{amount:g}"


def _shown(node: Mapping[str, float]) -> dict[str, float]:
    hidden = ("node:", "object_store_memory", "accelerator_type:")
    return {name: amount for name, amount in node.items() if not name.startswith(hidden)}


def _can_place(resources: PlacementGroupFactory, of_nodes: Sequence[Mapping[str, float]]) -> bool:
    filled = [bundle for bundle in resources.bundles if bundle]
    bundles = sorted(filled, key=lambda bundle: -sum(bundle.values()))
    free = [dict(node) for node in of_nodes]
    steps = itertools.count()

    def place(index: int, used: frozenset[int]) -> bool:
        if index == len(bundles) or next(steps) > _PLACING_STEPS:
            return True
        for number, node in enumerate(free):
            if resources.strategy == "STRICT_SPREAD" and number in used:
                continue
            if resources.strategy == "STRICT_PACK" and used and number not in used:
                continue
            bundle = bundles[index]
            if all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in bundle.items()):
                for name, amount in bundle.items():
                    node[name] = node.get(name, 0.0) - amount
                if place(index + 1, used | {number}):
                    return True
                for name, amount in bundle.items():
                    node[name] += amount
        return False

    return place(0, frozenset())
