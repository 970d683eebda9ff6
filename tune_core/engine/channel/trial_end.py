"""A trial's end of the report channel.

A connection that breaks may take messages with it: a trial that has got a new one says everything again that is
not known to be journaled, and the flow ignores what it has heard.

A trial's own code may be interrupted anywhere, by a signal handler that raises. So each change of
state here is one step of the interpreter, and what follows from it is made up for by whatever comes next.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import zmq
from zmq.utils.monitor import parse_monitor_message

from tune_core.encoding import dumps, loads
from tune_core.engine.channel.spool import Spool
from tune_core.engine.channel.wire import (
    ChannelAddress,
    has_messages,
    identity_of,
    send_heartbeats,
)
from tune_core.errors import ChannelLost
from tune_core.states import Decision
from tune_core.training.execution import Ending
from tune_core.training.uplink import Report

#: How long a trial that has to wait for its driver bears a lost connection.
LOST_AFTER_S = 60.0
#: How often a trial that does not wait makes sure of its connection, in seconds.
_LOOK_S = 0.5
#: Rows that nobody waits for and that follow another this fast, in seconds, travel together; and so many at most.
GATHER_S, _GATHERED = 0.005, 64
#: The cause for which a trial stops whose message the flow could not handle.
FAILED = "failed"
#: By their names: to call the enum takes ten times as long.
_DECISIONS = {str(decision): decision for decision in Decision}
_CONTINUE = str(Decision.CONTINUE)


@functools.cache
def _process_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return what all trials of this process share: its threads take a third of a short trial's time here."""
    return zmq.Context()


@functools.cache
def _late_rows() -> queue.SimpleQueue[ChannelUplink]:
    """Return where uplinks wait for this process's thread that sends rows late, which runs from now on.

    It is there before any code of a trial runs: a thread's start cannot be interrupted without harm.
    """
    uplinks: queue.SimpleQueue[ChannelUplink] = queue.SimpleQueue()
    threading.Thread(target=_send_late, args=(uplinks,), name="tune-rows", daemon=True).start()
    return uplinks


def _send_late(uplinks: queue.SimpleQueue[ChannelUplink]) -> None:
    """Send the rows that wait, every `GATHER_S`, of each uplink until in such a time it had none."""
    gathering: set[ChannelUplink] = set()
    while True:
        with suppress(queue.Empty):
            gathering.add(uplinks.get(timeout=GATHER_S if gathering else None))
            continue
        gathering = {uplink for uplink in gathering if uplink.send_late()}


class ChannelUplink:
    """A trial's end of the channel: the `Uplink` of its session.

    Args:
        address: Where the flow is.
        trial_id: Whose channel it is.
        attempt_number: The attempt's number.
    """

    def __init__(self, address: ChannelAddress, trial_id: str, attempt_number: int) -> None:
        self.stop_cause: str | None = None
        #: Why it is to end, in words; "": nobody has said.
        self.stop_reason = ""
        self.wants_save = False
        #: Error and traceback, if the flow has failed the trial for what it said.
        self.failure: tuple[str, str] | None = None
        self.stop_rules: dict[str, float] | None = None
        self._journaled = 0
        self._decisions: dict[int, Decision] = {}
        self._is_released = False
        self._lost_since: float | None = time.monotonic()  # until it is connected
        self._was_connected = False
        self._look_due = 0.0
        #: What is said again over a new connection, in this order.
        self._hello = self._last_checkpoint = self._last_words = b""
        self._must_say_again = False
        #: Rows that are not known to be journaled; those after `_sent` wait for others, to be sent with them.
        self._rows: deque[tuple[int, bytes]] = deque()
        self._sent = 0
        self._spool = Spool(partial(address.spool.path, trial_id, attempt_number))
        self._arrived: deque[bytes] = deque()
        self._has_sent = self._is_gathering = False
        self._is_closed = False
        self._late = _late_rows()
        self._lock = threading.RLock()  # held while the socket is used and rows may wait
        self._last_iteration, self._last_index = 0, -1
        self._awaited = 0
        self._socket: zmq.Socket[bytes] = _process_context().socket(zmq.DEALER)
        self._socket.curve_serverkey = address.server_key
        self._socket.curve_publickey, self._socket.curve_secretkey = address.public_key, address.secret_key
        self._socket.setsockopt(zmq.IDENTITY, identity_of(trial_id, attempt_number))
        self._socket.setsockopt(zmq.SNDHWM, 0)  # the session's window bounds it
        self._socket.setsockopt(zmq.RCVTIMEO, int(1000 * _LOOK_S))
        self._socket.setsockopt(zmq.IPV6, 1 if "[" in address.url else 0)
        send_heartbeats(self._socket)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
        self._socket.connect(address.url)
        self._url = address.url

    @property
    def journaled(self) -> int:
        """See `tune_core.training.uplink.Uplink`."""
        return self._journaled

    def hello(self, pid: int, hostname: str, node_ip: str) -> None:
        """Tell the flow that the trainable runs now, and where."""
        self._hello = dumps(["hello", pid, hostname, node_ip])
        self._socket.send(self._hello)

    def send(self, report: Report) -> None:
        """See `tune_core.training.uplink.Uplink`.

        A row that follows another within `GATHER_S` waits so long for more, unless it has to be answered; but
        not the second: of many trials the first row is the only one, and needs no thread.
        """
        with self._lock:
            if report.iteration > self._last_iteration:
                row = _row(report)
                self._awaited = report.iteration if report.wants_decision else 0
                self._rows.append((report.iteration, row))
                self._last_iteration = report.iteration
            self._send_or_gather(waits=report.wants_decision)

    def keep(self, report: Report) -> None:
        """See `tune_core.training.uplink.Uplink`."""
        self._spool.add(report.iteration, _row(report), self._journaled)

    def _send_or_gather(self, *, waits: bool) -> None:
        if waits:
            self._send_rows()  # with its answer the driver says that it has them
            return
        for iteration, row in self._rows_after(self._spool.until):
            self._spool.add(iteration, row, self._journaled)
        if self._is_gathering and self._last_iteration - self._sent < _GATHERED:
            return
        self._send_rows()
        if self._has_sent and not self._is_gathering:
            self._late.put(self)
            self._is_gathering = True  # not before it is sure that they are sent
        self._has_sent = True

    def send_checkpoint(self, iteration: int, index: int) -> None:
        """See `tune_core.training.uplink.Uplink`."""
        with self._lock:
            self._send_rows()
            self._last_checkpoint, self._last_index = dumps(["checkpoint", iteration, index]), index
            self._socket.send(self._last_checkpoint)

    def wait_for_decision(self, iteration: int) -> Decision:
        """See `tune_core.training.uplink.Uplink`."""
        self._wait(lambda: iteration in self._decisions or self.stop_cause is not None)
        decision = self._decisions.pop(iteration, Decision.STOP)
        self._decisions.clear()
        return decision

    def wait_for_journal(self, iteration: int) -> None:
        """See `tune_core.training.uplink.Uplink`."""
        self._wait(lambda: self._journaled >= iteration or self.stop_cause is not None)

    def poll(self) -> bool:
        """See `tune_core.training.uplink.Uplink`."""
        with self._lock:
            if time.monotonic() >= self._look_due:
                self._look_at_connection()
            while has_messages(self._socket):
                self._receive()
        return self.stop_cause is not None

    def end(self, ending: Ending, timeout_s: float = 30.0) -> None:
        """Say how the attempt ended, and wait until the flow has heard it (or is gone)."""
        last_words = ["end", str(ending.outcome), ending.error, ending.traceback, ending.retryable]
        heard_before = [self._last_iteration, self._last_index]
        self._last_words = dumps([*last_words, str(ending.leaves), *heard_before])
        with self._lock:
            self._send_rows()
            self._socket.send(self._last_words)
        deadline = time.monotonic() + timeout_s
        while not self._is_released and time.monotonic() < deadline:
            if self._socket.poll(200):
                self._receive()
            self._look_at_connection()

    def close(self) -> None:
        """Leave the channel."""
        with self._lock:
            self._send_rows()
            self._is_closed = True
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=1000)
        self._spool.remove()

    def send_late(self) -> bool:
        """Send the rows that wait; return whether there were any, so that more may come."""
        with self._lock:
            self._is_gathering = self._sent < self._last_iteration and not self._is_closed
            if self._is_gathering:
                self._send_rows()
            return self._is_gathering

    def _rows_after(self, iteration: int) -> list[tuple[int, bytes]]:
        """Return the rows after an iteration; they are the last ones."""
        rows: list[tuple[int, bytes]] = []
        for row in reversed(self._rows):
            if row[0] <= iteration:
                break
            rows.append(row)
        return rows[::-1]

    def _send_rows(self) -> None:
        """Send the rows that were not sent."""
        rows = self._rows_after(self._sent)
        for at in range(0, len(rows), _GATHERED):
            some = rows[at : at + _GATHERED]
            self._socket.send(_together([row for _, row in some]))
            self._sent = some[-1][0]

    def _receive(self) -> None:
        """Take in a message, waiting for it for `_LOOK_S`.

        Raises:
            zmq.Again: None came.
        """
        # In one call into C, in which no exception can come between the socket and the queue.
        self._arrived.extend(map(self._socket.recv, (0,)))
        while self._arrived:
            self._take(self._arrived[0])
            self._arrived.popleft()

    def _wait(self, is_over: Callable[[], bool]) -> None:
        """Wait with nothing gathered, so that the socket is this thread's alone."""
        with self._lock:
            self._send_rows()
        while not is_over():
            try:
                self._receive()
            except zmq.Again:
                self._look_due = 0.0  # nothing came: the connection may be lost
            if time.monotonic() >= self._look_due:
                self._look_at_connection()
            if self._lost_since is not None and time.monotonic() - self._lost_since > LOST_AFTER_S:
                raise ChannelLost(
                    f"the flow at {self._url} has been unreachable for {LOST_AFTER_S:g} s while this trial waited "
                    "for it: its process has ended, or the network is down. Committed checkpoints are safe"
                )

    def _look_at_connection(self) -> None:
        """Learn whether the connection is lost; say again over a new one what may have been lost with the old."""
        self._look_due = time.monotonic() + _LOOK_S
        while self._monitor.poll(0):
            if parse_monitor_message(self._monitor.recv_multipart())["event"] == zmq.EVENT_DISCONNECTED:
                self._lost_since = self._lost_since or time.monotonic()
            else:
                self._lost_since = None
                self._must_say_again = self._must_say_again or self._was_connected
                self._was_connected = True
        if self._must_say_again:
            self._send_if_said(self._hello)
            self._sent = 0
            self._send_rows()
            self._send_if_said(self._last_checkpoint)
            self._send_if_said(self._last_words)
            self._must_say_again = False

    def _send_if_said(self, payload: bytes) -> None:
        if payload:
            self._socket.send(payload)

    def _forget_journaled(self) -> None:
        """Forget what need not be said again: not a row whose answer may be lost, journaled or not."""
        rows = self._rows
        while rows and rows[0][0] <= self._journaled and rows[0][0] != self._awaited:
            rows.popleft()

    def _take(self, payload: bytes) -> None:
        kind, *content = loads(payload)
        if kind == "decision":
            iteration, decision, self.wants_save = content
            self._decisions[iteration] = _DECISIONS[decision]
            if decision != _CONTINUE:  # the one that waited for it may have been interrupted
                self.stop_cause = self.stop_cause or decision
        elif kind == "journaled":
            self._journaled = max(self._journaled, content[0])
            self._forget_journaled()
        elif kind == "stop":
            self.stop_cause = content[0]
        elif kind == "fail":
            self.failure = (content[0], content[1])
            self.stop_cause = self.stop_cause or FAILED
        elif kind == "rules":
            self.stop_rules = content[0]
        elif kind == "reason":
            self.stop_reason = content[0]
        elif kind == "released":
            self._is_released = True


def _row(report: Report) -> bytes:
    return dumps([report.iteration, report.checkpoint, report.wants_decision, report.row])


def _together(rows: Sequence[bytes]) -> bytes:
    """Return rows, as JSON each, as one message."""
    return b'["rows",' + b",".join(rows) + b"]"
