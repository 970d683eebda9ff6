"""What has to hold on a Ray cluster for experiments to run, looked at on each of its nodes."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_core.cli.checks import ANSWER_TIMEOUT_S, Check, clock_check, root_of, skew
from tune_core.config.run_config import RunConfig
from tune_core.engine import cluster
from tune_core.errors import TuneError
from tune_core.storage.filesystems import brief, is_local, resolve
from tune_core.text import quantity

#: How long a node may take to start a worker and look around, in seconds.
NODE_TIMEOUT_S = 120.0
#: Must be the same on all nodes and here: what travels between them is pickled.
_SAME_VERSION = ("prefect", "prefect-ray", "prefect-tune", "ray", "cloudpickle")


def check_ray(
    address: str | None, api_url: str | None, storage_url: str, storage_options: Mapping[str, Any] | None
) -> list[Check]:
    """Return whether Ray answers, and whether its workers reach the Prefect server and the storage.

    Args:
        address: As `RunConfig.ray_address`; None: that of the environment, else a local cluster is started.
        api_url: The Prefect server's; None: none is configured.
        storage_url: As `RunConfig.storage_path`.
        storage_options: As `RunConfig.storage_options`; never shown.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as stack:
        try:
            _refuse_dead(address)
            if not ray.is_initialized():
                stack.callback(ray.shutdown)
            cluster.connect(RunConfig(ray_address=address))
        except (TuneError, OSError, RuntimeError, ValueError) as error:
            remedy = (
                "start it (ray start --head), or set RAY_ADDRESS to the head's address, in its own network"
            )
            return [Check("ray", "fail", f"{address or 'a local cluster'}: {brief(error)}", remedy)]
        return list(_cluster_checks(address, api_url, storage_url, storage_options))


def _refuse_dead(address: str | None) -> None:
    """Find out at once that nobody listens at `host:port`: Ray tries it for a minute."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()


def _cluster_checks(
    address: str | None, api_url: str | None, storage_url: str, options: Mapping[str, Any] | None
) -> Iterator[Check]:
    total = cluster.total_resources()
    amounts = ", ".join(f"{total[name]:g} {name}" for name in ("CPU", "GPU") if total.get(name))
    nodes = [node for node in ray.nodes() if node["Alive"]]
    where = address or "a local cluster, as each run starts one"
    yield Check("ray", "ok", f"{where}: {quantity(len(nodes), 'node')}, {amounts}")
    if cluster.has_other_hosts():
        if is_local(resolve(storage_url, None, options)[0]):
            remedy = "use a storage_path that all nodes reach, such as s3://bucket/path"
            yield Check(
                "ray: storage", "fail", f"{storage_url} is a local directory, Ray has other machines", remedy
            )
            storage_url = ""
        if api_url is None:
            remedy = (
                "prefect server start --host 0.0.0.0, and set PREFECT_API_URL to an address that nodes reach"
            )
            yield Check(
                "ray: server", "fail", "no Prefect server is configured, Ray has other machines", remedy
            )
    sent = time.time()
    look = ray.remote(num_cpus=0, max_retries=0)(_look_around)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            api_url, storage_url, dict(options) if options else None
        ): f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in nodes
    }
    for answer, node in asked.items():
        yield from _node_checks(answer, node, sent)


def _node_checks(answer: Any, node: str, sent: float) -> Iterator[Check]:
    try:
        seen = ray.get(answer, timeout=NODE_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - whatever a worker's start may raise is what is looked for
        remedy = "install prefect-tune with the same versions on every node; see the node's Ray logs"
        yield Check(f"ray: {node}", "fail", f"a worker cannot look around: {brief(error)}", remedy)
        return
    here = _versions()
    others = [
        f"{name} {seen['versions'][name]} (here {here[name]})"
        for name in here
        if seen["versions"][name] != here[name]
    ]
    if others:
        remedy = "install the same versions on every node"
        yield Check(f"ray: versions on {node}", "fail", ", ".join(others), remedy)
    else:
        yield Check(f"ray: versions on {node}", "ok", "the same as here")
    if seen["server"] is not None:
        yield _reached(
            "server", node, seen["server"], "set PREFECT_API_URL to an address that every node reaches"
        )
    if seen["storage"] is not None:
        remedy = (
            "give the node's network access, or credentials as storage_options: those travel with the trials"
        )
        yield _reached("storage", node, seen["storage"], remedy)
    yield clock_check(f"ray: clock of {node}", skew(sent, seen["time"], time.time()))


def _reached(what: str, node: str, fault: str, remedy: str) -> Check:
    name = f"ray: {what} from {node}"
    return Check(name, "fail", fault, remedy) if fault else Check(name, "ok", "reached")


def _versions() -> dict[str, str]:
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in _SAME_VERSION:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _look_around(api_url: str | None, storage_url: str, options: dict[str, Any] | None) -> dict[str, Any]:
    """Say what a worker sees: of server and storage, "" if it reaches them, why not, or None if there is none."""
    server: str | None = None
    if api_url is not None:
        server = ""
        try:
            with urllib.request.urlopen(f"{api_url}/health", timeout=ANSWER_TIMEOUT_S):  # noqa: S310
                pass
        except (urllib.error.URLError, OSError, ValueError) as error:
            server = f"{api_url} does not answer ({brief(error)})"
    storage: str | None = None
    if storage_url:
        storage = ""
        try:
            root_of(storage_url, options).probe()
        except TuneError as error:
            storage = brief(error)
    return {"time": time.time(), "versions": _versions(), "server": server, "storage": storage}
