"""The Ray cluster that an experiment runs on: an existing one, or a local one that is started."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_core.config.run_config import RunConfig
from tune_core.engine.ray_private import draining_nodes, skip_output
from tune_core.engine.settings import tune_settings
from tune_core.errors import ConfigError, PlacementError, TuneError
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import brief

_NODES_TTL_S = 1.0
#: How long a node may take to accept a connection before it counts as gone.
_ANSWER_TIMEOUT_S = 2.0
#: The address of a cluster, other than `auto` and its like.
_ADDRESS = re.compile(r"(?P<host>\[[^]]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")
#: How long a call on another node may take, with the start of a process there.
_CALL_TIMEOUT_S = 30.0

T = TypeVar("T")


class _Nodes(NamedTuple):
    """What was seen of the cluster, and when."""

    at: float
    resources: list[dict[str, float]]
    leaving: frozenset[str]


_UNSEEN = _Nodes(float("-inf"), [], frozenset())
_nodes = _UNSEEN
#: Held while Ray is looked for and started: several threads may call `fit` at once, and one starts it for all.
_connecting = threading.Lock()


def connect(run_config: RunConfig) -> None:
    """Make sure that Ray is initialised in this process; an existing connection is used as it is.

    A local cluster that is started here ends with this process, as Ray's own does, so that the
    next experiment of the process finds it warm.

    Raises:
        ConfigError: The address, given, of the settings or in `RAY_ADDRESS`, is one of Ray Client.
        TuneError: Nothing answers there, or Ray does not start.
    """
    with _connecting:
        _connect(run_config)


def _connect(run_config: RunConfig) -> None:
    global _nodes  # noqa: PLW0603 - of an earlier cluster
    # Ray's ten lines about each dead worker, whose death is reported here, in one. `log_to_driver=False` does not
    # cover them.
    skip_output("A worker died or was killed while executing a task")
    address = run_config.ray_address or tune_settings().ray_address or os.environ.get("RAY_ADDRESS")
    is_client = ray.is_initialized() and ray.util.client.ray.is_connected()
    if is_client or (address or "").startswith("ray://"):
        raise ConfigError(
            f"Ray address {address or 'ray://…'!r}: Ray Client cannot carry an experiment, since it loses every "
            "trial with its connection. Run the flow inside the cluster's network, with address 'auto'"
        )
    if ray.is_initialized():
        return
    _nodes = _UNSEEN
    if address and (place := _ADDRESS.fullmatch(address)):
        _require_answer(address, place["host"].strip("[]"), int(place["port"]))
    with _kept_sigterm():
        try:
            _start(address, is_silent=run_config.verbose == 0)
        except Exception as error:  # Ray raises that itself when its processes do not start in time
            what = f"joined at {address!r}" if address else "started on this machine"
            raise TuneError(f"Ray cannot be {what}: {brief(error)}") from error


def _require_answer(address: str, host: str, port: int) -> None:
    """Find out whether anything listens at an address, to which Ray would try to connect for minutes."""
    try:
        socket.create_connection((host, port), timeout=_ANSWER_TIMEOUT_S).close()
    except OSError as error:
        raise TuneError(
            f"Ray cannot be joined at {address!r}: nothing answers there ({brief(error)}). Start it "
            "(`ray start --head` prints its address), or correct RunConfig(ray_address=…), RAY_ADDRESS or "
            "PREFECT_INTEGRATIONS_TUNE_RAY_ADDRESS, whichever is set; without any a Ray is started on this machine"
        ) from error


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Put back a handler of SIGTERM that Ray replaces, such as that of the Prefect flow around us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before not in (None, signal.SIG_DFL):  # else Ray's is better: it ends what Ray has started
        signal.signal(signal.SIGTERM, before)


def _start(address: str | None, *, is_silent: bool) -> None:
    """Join a cluster or start one, which shows what its processes print, unless it is to be silent."""
    options: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    ray.init(namespace="prefect", log_to_driver=not is_silent, logging_level=logging.ERROR, **options)


def nodes() -> list[dict[str, float]]:
    """Return the total resources of each node that may be used, as of at most a second ago."""
    return _look().resources


def leaving_nodes() -> frozenset[str]:
    """Return the ids of nodes that are not to be used: Ray drains them, or they are dead. As of a second ago."""
    return _look().leaving


def _look() -> _Nodes:
    global _nodes  # noqa: PLW0603 - asking costs two round trips, and is done for every trial
    now = time.monotonic()
    if now - _nodes.at > _NODES_TTL_S:
        known = ray.nodes()
        leaving = draining_nodes() | {node["NodeID"] for node in known if not node["Alive"]}
        usable = [dict(node["Resources"]) for node in known if node["NodeID"] not in leaving]
        _nodes = _Nodes(now, usable, leaving)
    return _nodes


def lost_nodes(node_ids: Iterable[str]) -> set[str]:
    """Return which of these nodes are gone: dead for Ray, or, since that takes it 15 s to say, not answering.

    May block for some seconds.

    Args:
        node_ids: Ray's ids of nodes.
    """
    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    return {each for each in node_ids if each not in alive or not _answers(alive[each])}


def _answers(node: dict[str, Any]) -> bool:
    try:
        address = (node["NodeManagerAddress"], node["NodeManagerPort"])
        socket.create_connection(address, timeout=_ANSWER_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def call_on(node_id: str, function: Callable[..., T], *args: Any, runtime_env: Any = None) -> T:
    """Call a function in a process of a node, which needs nothing of its resources; in this one on this node.

    Args:
        node_id: Ray's id of the node.
        function: A function of a module that its processes can import.
        *args: Its arguments.
        runtime_env: Ray's runtime environment for that process.

    Raises:
        RayError: That node has no process for it within `_CALL_TIMEOUT_S`.
    """
    if node_id == ray.get_runtime_context().get_node_id():
        return function(*args)
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
    if runtime_env:
        options["runtime_env"] = runtime_env
    called = ray.remote(function).options(**options).remote(*args)
    result: T = ray.get(called, timeout=_CALL_TIMEOUT_S)
    return result


def total_resources() -> dict[str, float]:
    """Return the sum of what the nodes have."""
    total: dict[str, float] = {}
    for node in nodes():
        for name, amount in node.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def usable_resources() -> dict[str, float]:
    """Return the same without what Ray keeps for itself: the marks of nodes, and its object store."""
    hidden = ("node:", "object_store_memory", "accelerator_type:")
    return {name: amount for name, amount in total_resources().items() if not name.startswith(hidden)}


def has_other_hosts() -> bool:
    """Whether a trial may run on another machine than this one."""
    return any(node["NodeManagerHostname"] != socket.gethostname() for node in ray.nodes() if node["Alive"])


def channel_host() -> str:
    """Return the address at which trials reach this process: loopback on a single machine."""
    return str(ray.util.get_node_ip_address()) if has_other_hosts() else "127.0.0.1"


def refuse_unshared(storage: ExperimentStorage, run_config: RunConfig) -> None:
    """Refuse a local path when trials may run where nobody else can see it.

    Raises:
        PlacementError: It is local, and Ray has nodes on other machines.
    """
    if storage.is_local and run_config.storage_filesystem is None and has_other_hosts():
        raise PlacementError(
            f"storage_path {storage.url} is a local directory, but Ray has nodes on other machines, which cannot "
            "write there: use a storage_path that all nodes reach, such as s3://bucket/path. If the directory is on "
            "a shared file system, say so with storage_filesystem=fsspec.filesystem('file')"
        )
