"""Processes and their sockets, from the kernel's tables in /proc."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path

_LISTEN = "0A"


def descendants(parent: int) -> list[int]:
    """All live processes below one, whatever session they are in."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [parent]
    while queue:
        found += (now := children.get(queue.pop(), []))
        queue += now
    return found


def command_of(pid: int) -> str:
    """The command line; "" if the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def listeners(pids: Iterable[int]) -> list[tuple[int, str, int]]:
    """Where these processes listen: (process, address, port)."""
    places: dict[str, tuple[str, int]] = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                address, _, port = fields[1].partition(":")
                words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
                packed = b"".join(struct.pack("=I", word) for word in words)
                places[f"socket:[{fields[9]}]"] = (socket.inet_ntop(family, packed), int(port, 16))
    found = set()
    for pid in pids:
        try:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                place = places.get(str(descriptor.readlink()))
                if place is not None:
                    found.add((pid, *place))
        except OSError:
            continue
    return sorted(found)
