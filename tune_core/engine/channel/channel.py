"""The flow's end of the report channel: one ZeroMQ hop from each trial to the flow's loop.

The flow binds one ROUTER socket and polls it itself, so the loop is the only place where
anything is decided; whatever else it must hear of (Ray's callbacks, the journal's thread,
signals) is posted to the same poll. Frames are encrypted and both sides are authenticated
(CURVE): the keys are made per experiment and travel inside the attempt.
"""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Iterator
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from tune_core.encoding import dumps, loads
from tune_core.engine.channel.spool import SpoolPlace
from tune_core.engine.channel.wire import (
    DONTWAIT,
    POLLIN,
    SNDMORE,
    ChannelAddress,
    attempt_of,
    has_messages,
    identity_of,
    send_heartbeats,
)
from tune_core.training.uplink import Message

#: How long the flow reads what lies in its socket when a process has died, in seconds.
DRAIN_TIMEOUT_S = 1.0
#: Messages that one turn of the loop takes in before it looks at anything else.
_BATCH = 256


class Channel:
    """The flow's end of the channel, and the one queue of its loop.

    Args:
        host: Address to listen on: loopback, unless Ray has other nodes.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._context = zmq.Context()
        self._posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        server_public, server_secret = zmq.curve_keypair()
        trial_public, trial_secret = zmq.curve_keypair()
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", _OneKey(trial_public))
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._socket.curve_server = True
        self._socket.curve_publickey, self._socket.curve_secretkey = server_public, server_secret
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # its trial may notice a break before the flow does
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.IPV6, 1 if ":" in host else 0)
        send_heartbeats(self._socket)
        shown = f"[{host}]" if ":" in host else host
        port = self._socket.bind_to_random_port(f"tcp://{shown}")
        keys = (server_public, trial_public, trial_secret)
        self.address = ChannelAddress(f"tcp://{shown}:{port}", *keys, SpoolPlace.fresh())
        self._arrivals: list[tuple[Any, int]] = [(self._socket, POLLIN), (self._wake_read.fileno(), POLLIN)]

    def post(self, item: Any) -> None:
        """Hand something to the loop, from any thread or signal handler."""
        self._posted.put(item)
        try:
            # A socket, not a pipe: once it is closed, its number may be a stranger's file.
            self._wake_write.send(b"\0")
        except (BlockingIOError, OSError):
            return  # it is full, so the loop wakes anyway; or the channel is closed

    def receive(self, timeout_s: float) -> Iterator[Any]:
        """Yield what has arrived, waiting for the first: `Message`s and posted items, each kind in order."""
        if self._posted.empty():
            ready = dict(zmq.zmq_poll(self._arrivals, max(0, int(timeout_s * 1000))))
            if self._wake_read.fileno() in ready:
                self._wake_read.recv(65536)
        yield from self._messages()
        while not self._posted.empty():
            yield self._posted.get_nowait()

    def drain(self) -> Iterator[Message]:
        """Yield what lies in the socket now: the last words of a process that died."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S  # others may send faster than this ends
        while time.monotonic() < deadline and self._socket.poll(50):
            yield from self._messages()

    def send(self, trial_id: str, attempt_number: int, *content: Any) -> bool:
        """Send to a trial; return False if it is not connected (any more)."""
        payload = dumps(list(content))
        try:
            self._socket.send(identity_of(trial_id, attempt_number), DONTWAIT | SNDMORE)
            self._socket.send(payload, DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def close(self) -> None:
        """Stop listening."""
        self._authenticator.stop()
        self._socket.close()
        self._context.term()
        self._wake_read.close()
        self._wake_write.close()
        self.address.spool.remove()

    def _messages(self) -> Iterator[Message]:
        for _ in range(_BATCH):
            if not has_messages(self._socket):
                return
            identity, payload = self._socket.recv(DONTWAIT), self._socket.recv(DONTWAIT)
            trial_id, attempt_number = attempt_of(identity)
            try:
                kind, *content = loads(payload)
            except (ValueError, RecursionError) as error:
                yield Message(trial_id, attempt_number, "unreadable", [error])
                continue
            if kind == "rows":
                for row in content:
                    yield Message(trial_id, attempt_number, "row", row)
            else:
                yield Message(trial_id, attempt_number, kind, content)


class _OneKey:
    """Lets in those that hold the experiment's key."""

    def __init__(self, public_key: bytes) -> None:
        self._public_key = public_key

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._public_key
