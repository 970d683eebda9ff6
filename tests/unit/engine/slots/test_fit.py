"""Which bundles fit on which nodes."""

from __future__ import annotations

import re
import time

import pytest

from tune_core.engine.slots.fit import copies_that_fit, shortfall
from tune_core.resources import PlacementGroupFactory

GIB = 2**30


@pytest.mark.parametrize(
    ("bundles", "strategy", "nodes", "expected"),
    [
        ([{"CPU": 2}], "PACK", [{"CPU": 2.0}], None),
        ([{"CPU": 8}], "PACK", [{"CPU": 2.0}], "CPU: 8 needed in one bundle, the largest node has 2"),
        (
            [{"CPU": 8}],
            "PACK",
            [{"CPU": 4.0}, {"CPU": 6.0}],
            "CPU: 8 needed in one bundle, the largest node has 6",
        ),
        ([{"GPU": 1}] * 3, "PACK", [{"GPU": 1.0}, {"GPU": 1.0}], "GPU: 3 needed in all, the cluster has 2"),
        ([{"GPU": 1}] * 2, "PACK", [{"GPU": 1.0}, {"GPU": 1.0}], None),
        ([{"TPU": 1}], "PACK", [{"CPU": 4.0}], "TPU: 1 needed in one bundle, the largest node has 0"),
        ([{"CPU": 1}], "PACK", [], "CPU: 1 needed in one bundle, the largest node has 0"),
        (
            [{"memory": 3 * GIB}],
            "PACK",
            [{"memory": 2 * GIB}],
            "memory: 3.000 GiB needed in one bundle, the largest node has 2.000 GiB",
        ),
        ([{"GPU": 0.1}] * 10, "PACK", [{"GPU": 1.0}], None),
        ([{"GPU": 0.1}] * 11, "PACK", [{"GPU": 1.0}], "GPU: 1.1 needed in all, the cluster has 1"),
        (
            [{"CPU": 3}, {"CPU": 3}],
            "PACK",
            [{"CPU": 4.0}, {"CPU": 2.0}],
            "no way to place the bundles .* with strategy PACK on nodes with: CPU 4; CPU 2",
        ),
        # The first node that comes to mind for the first bundle is the wrong one.
        (
            [{"CPU": 2}, {"CPU": 2, "GPU": 1}],
            "PACK",
            [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0}],
            None,
        ),
        (
            [{"CPU": 1}] * 2,
            "STRICT_SPREAD",
            [{"CPU": 8.0}],
            "no way to place .* STRICT_SPREAD on nodes with: CPU 8",
        ),
        ([{"CPU": 1}] * 2, "STRICT_SPREAD", [{"CPU": 1.0}, {"CPU": 1.0}], None),
        ([{"CPU": 1}, {}], "STRICT_SPREAD", [{"CPU": 1.0}], None),
        ([{"CPU": 2}] * 2, "STRICT_PACK", [{"CPU": 2.0}, {"CPU": 3.0}], "no way to place .* STRICT_PACK"),
        ([{"CPU": 2}] * 2, "STRICT_PACK", [{"CPU": 2.0}, {"CPU": 4.0}], None),
        ([{"CPU": 2}] * 2, "SPREAD", [{"CPU": 4.0}], None),
        ([{}, {"CPU": 1}], "PACK", [{"CPU": 1.0}], None),
    ],
)
def test_shortfall_names_what_nodes_can_never_give(
    bundles: list[dict[str, float]], strategy: str, nodes: list[dict[str, float]], expected: str | None
) -> None:
    reason = shortfall(PlacementGroupFactory(bundles, strategy=strategy), nodes)

    if expected is None:
        assert reason is None
    else:
        assert re.search(expected, reason or "")


def test_shortfall_leaves_to_ray_what_it_cannot_settle_in_time() -> None:
    # Whether 40 bundles of two sizes fit 20 nodes is a search that may take for ever.
    bundles = [{"CPU": 5}] * 20 + [{"CPU": 4}] * 20
    nodes = [{"CPU": 9.0}] * 19 + [{"CPU": 8.0}, {"CPU": 1.0}]
    start = time.monotonic()

    reason = shortfall(PlacementGroupFactory(bundles), nodes)

    assert reason is None
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("bundles", "total", "expected"),
    [
        ([{"CPU": 1}], {"CPU": 8.0}, 8),
        ([{"CPU": 3}], {"CPU": 8.0}, 2),
        ([{"CPU": 1, "GPU": 1}, {"GPU": 1}], {"CPU": 8.0, "GPU": 5.0}, 2),
        ([{"GPU": 0.1}], {"GPU": 1.0}, 10),
        ([{"CPU": 9}], {"CPU": 8.0}, 0),
        ([{"TPU": 1}], {"CPU": 8.0}, 0),
        ([{}, {"CPU": 2}], {"CPU": 8.0}, 4),
    ],
)
def test_copies_that_fit_go_by_the_sums_of_the_cluster(
    bundles: list[dict[str, float]], total: dict[str, float], expected: int
) -> None:
    assert copies_that_fit(PlacementGroupFactory(bundles), total) == expected


# The pool on a real cluster.
