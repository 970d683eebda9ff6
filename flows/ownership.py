"""Who drives an experiment, and whether a driver that left a journal open may still be at work."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound


def this_process(flow_run_id: UUID) -> dict[str, Any]:
    """Return what tells this driver from any other."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _process_started(os.getpid()),
        "flow_run_id": str(flow_run_id),
    }


def may_be_alive(owner: dict[str, Any]) -> bool:
    """Whether the driver that left a journal open may still be at work."""
    if owner.get("host") == socket.gethostname():
        return _process_started(owner["pid"]) == owner.get("process_started")
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(owner["flow_run_id"])).state
    except ObjectNotFound:
        return True  # another server's flow run: nobody here can tell
    return state is None or not state.is_final()


def _process_started(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's clock ticks; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return None
