"""Prints what lives on a Ray cluster although nothing should: `python -m tests.chaos.left_behind ADDRESS`."""

from __future__ import annotations

import json
import sys
import time

import ray
from ray._private.state import actors
from ray.util import placement_group_table

#: How long Ray may take to clean up after a driver that was killed.
PATIENCE_S = 30.0


def left_behind() -> list[str]:
    """Placement groups that are not removed, and actors that are not dead."""
    groups = [f"group {key[:8]} {group['state']}" for key, group in placement_group_table().items()]
    living = [
        f"actor {key[:8]} {actor['ActorClassName']} {actor['State']}" for key, actor in actors().items()
    ]
    return [text for text in groups if "REMOVED" not in text] + [
        text for text in living if "DEAD" not in text
    ]


if __name__ == "__main__":
    ray.init(address=sys.argv[1], namespace="prefect", log_to_driver=False, logging_level="ERROR")
    deadline = time.monotonic() + PATIENCE_S
    while (found := left_behind()) and time.monotonic() < deadline:
        time.sleep(0.5)
    print(json.dumps(found))
