"""What both ends of the report channel agree on: where it is, who is who, and how they watch the connection."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import zmq

from tune_core.engine.channel.spool import SpoolPlace

#: How often peers make sure of each other, and how long they may be silent, in milliseconds.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 5_000, 30_000
#: As plain numbers: pyzmq's own, which are enums, cost a fifth of a message each time they are combined.
DONTWAIT, SNDMORE, POLLIN = int(zmq.DONTWAIT), int(zmq.SNDMORE), int(zmq.POLLIN)
#: Attempts whose names are kept ready: seldom do more run at once.
_PEERS = 1024


@dataclass(frozen=True, slots=True)
class ChannelAddress:
    """What a trial needs to connect. Holds keys: it is sent inside attempts and shown nowhere.

    Attributes:
        url: `tcp://host:port` of the flow.
        server_key: The flow's public key.
        public_key: The experiment's trials' public key.
        secret_key: And their secret key.
        spool: Where a trial keeps rows on its node until they are journaled.
    """

    url: str
    server_key: bytes
    public_key: bytes
    secret_key: bytes
    spool: SpoolPlace

    def __repr__(self) -> str:
        return f"ChannelAddress({self.url!r})"


def send_heartbeats(zmq_socket: zmq.Socket[bytes]) -> None:
    """Have a socket make sure of its peers, and drop those that are silent."""
    zmq_socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    zmq_socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)


def has_messages(zmq_socket: zmq.Socket[bytes]) -> bool:
    """Ask in the way that takes least: half of what `zmq.EVENTS` does, a quarter of an exception that says no."""
    return bool(zmq.zmq_poll([(zmq_socket, POLLIN)], 0))


@functools.lru_cache(_PEERS)
def identity_of(trial_id: str, attempt_number: int) -> bytes:
    """Return the name by which the flow's socket knows an attempt."""
    return f"{trial_id}:{attempt_number}".encode()


@functools.lru_cache(_PEERS)
def attempt_of(identity: bytes) -> tuple[str, int]:
    """Return the trial and the number of the attempt that has this name."""
    trial_id, _, attempt_number = identity.decode().rpartition(":")
    return trial_id, int(attempt_number)
