"""Holds a Ray cluster of several nodes on this machine: `python -m tests.chaos.nodes 2 2`, CPUs of each node.

Orders come on standard input, one a line: `address`; `kill` kills the last node, without a word;
`add 2` adds one. Each is answered by a line. The cluster ends with standard input.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    """Serve orders."""
    sizes = [int(size) for size in sys.argv[1:]]
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": sizes[0], "include_dashboard": False, "object_store_memory": 200_000_000},
    )
    nodes = [cluster.add_node(num_cpus=size, object_store_memory=100_000_000) for size in sizes[1:]]
    for line in sys.stdin:
        order, *arguments = line.split()
        if order == "kill":
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        elif order == "add":
            nodes.append(cluster.add_node(num_cpus=int(arguments[0]), object_store_memory=100_000_000))
        print(cluster.address, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
