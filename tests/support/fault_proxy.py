"""A reverse proxy in front of an S3 server that lets single requests go wrong, by rules.

It works on HTTP/1.1 bytes, with one upstream connection per request. The Host header passes
unchanged, since SigV4 signs it: clients sign for the proxy's address, and servers compare the
signature with the header, not with their socket.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Kind = Literal[
    "status",  # answered by the proxy with an error
    "reset",  # the connection is cut before anything is passed on
    "reset_body",  # … in the middle of an upload
    "reset_reply",  # … after the server has done it
    "drop_reply",  # the server has done it, and no reply ever comes
    "truncate",  # the reply is cut
    "corrupt",  # one byte of the reply is another
    "hang",  # the reply stops coming
    "delay",  # passed on later
]


@dataclass
class Rule:
    """What happens to which requests.

    Attributes:
        kind: What happens.
        method: Only requests of this method; None: of any.
        path: Only requests whose path and query this pattern is found in.
        times: How often; None: always.
        skip: How many matching requests pass before.
        status: For `status`: its code.
        code: For `status`: the S3 error code in its body.
        after: Bytes of a body that pass before it is cut or changed.
        chance: How likely it is for each request that matches, by `dice`.
        dice: Where chances come from.
        delay_s: For `delay`: how much later.
        fired: How often it has happened.
    """

    kind: Kind
    method: str | None = None
    path: str | None = None
    times: int | None = None
    skip: int = 0
    status: int = 503
    code: str = "SlowDown"
    after: int = 0
    chance: float = 1.0
    dice: random.Random = field(default_factory=random.Random)
    delay_s: float = 0.0
    fired: int = field(default=0, init=False)

    def takes(self, method: str, path: str) -> bool:
        if self.method not in (None, method) or (self.path is not None and not re.search(self.path, path)):
            return False
        if self.times is not None and self.fired >= self.times:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.chance < 1 and self.dice.random() >= self.chance:
            return False
        self.fired += 1
        return True


@dataclass
class _Request:
    line: str
    headers: list[str]

    @classmethod
    def parse(cls, head: bytes) -> _Request:
        line, *headers = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        return cls(line, headers)

    def header(self, name: str, default: str) -> str:
        for header in self.headers:
            key, _, value = header.partition(":")
            if key.strip().lower() == name:
                return value.strip()
        return default

    def forwarded(self, *dropped: str) -> bytes:
        kept = [header for header in self.headers if header.partition(":")[0].strip().lower() not in dropped]
        return "\r\n".join([self.line, *kept, "Connection: close", "", ""]).encode("latin-1")


class FaultProxy:
    """Runs in a thread of its own between `with` and its end.

    Args:
        upstream: URL of the server behind it.

    Attributes:
        requests: Method, path and fault of every request so far.
        bytes_sent: What clients have sent, headers and bodies.
        bytes_received: What they got back.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.rules: list[Rule] = []
        self.requests: list[tuple[str, str, Kind | None]] = []
        self.bytes_sent = self.bytes_received = 0
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    def add(self, rule: Rule) -> Rule:
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        self.rules.clear()
        self.requests.clear()
        self.bytes_sent = self.bytes_received = 0

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10), "the proxy did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(5)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=1 << 20)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await self._stopped.wait()
        server.close()
        await asyncio.sleep(0)  # a connection that was accepted just now has yet to be taken up
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)  # the loop alone would let it be collected while it waits
        task.add_done_callback(self._connections.discard)
        try:
            await self._request(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # either side is gone
        except asyncio.CancelledError:
            writer.transport.abort()  # the proxy ends: its loop would not wait until everything is sent
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.bytes_sent += len(head)
        request = _Request.parse(head)
        method, path, _ = request.line.split(" ", 2)
        rule = next((rule for rule in self.rules if rule.takes(method, path)), None)
        self.requests.append((method, path, rule.kind if rule else None))
        if rule is not None and rule.kind == "reset":
            writer.transport.abort()
            return
        if rule is not None and rule.kind == "status":
            await self._refuse(request, rule, reader, writer)
            return
        if rule is not None and rule.kind == "delay":
            await asyncio.sleep(rule.delay_s)
        from_server, to_server = await asyncio.open_connection(*self._upstream, limit=1 << 20)
        try:
            # One request per upstream connection. botocore signs neither of the headers that are dropped.
            to_server.write(request.forwarded("connection", "expect"))
            if await self._pass_body(request, rule, reader, writer, to_server):
                await self._pass_reply(rule, from_server, writer)
        finally:
            to_server.close()

    async def _refuse(
        self, request: _Request, rule: Rule, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not request.header("expect", ""):
            await reader.readexactly(int(request.header("content-length", "0")))
        body = f"<?xml version='1.0'?><Error><Code>{rule.code}</Code><Message>-</Message></Error>".encode()
        head = (
            f"HTTP/1.1 {rule.status} Injected\r\nContent-Type: application/xml\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + (b"" if request.line.startswith("HEAD") else body))
        await writer.drain()

    async def _pass_body(
        self,
        request: _Request,
        rule: Rule | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """Pass the request's body on; return whether a reply is to follow."""
        if request.header("expect", "").lower() == "100-continue":
            # Answered here: the server is not asked, or the client would take its "100" for the reply.
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        left, sent = int(request.header("content-length", "0")), 0
        while left > sent:
            data = await reader.read(min(left - sent, 1 << 16))
            if not data:
                return False
            self.bytes_sent += len(data)
            if rule is not None and rule.kind == "reset_body" and sent + len(data) > rule.after:
                to_server.write(data[: rule.after - sent])
                await to_server.drain()
                to_server.transport.abort()
                writer.transport.abort()
                return False
            to_server.write(data)
            await to_server.drain()
            sent += len(data)
        return True

    async def _pass_reply(
        self, rule: Rule | None, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        kind = rule.kind if rule is not None else None
        head = await from_server.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head = await from_server.readuntil(b"\r\n\r\n")
        if kind == "reset_reply":
            writer.transport.abort()
            return
        if kind == "drop_reply":
            await asyncio.sleep(3600)
        head = _Request.parse(head).forwarded("connection")
        writer.write(head)
        self.bytes_received += len(head)
        passed, cut = 0, rule.after if rule is not None else 0
        while data := await from_server.read(1 << 16):
            if kind in ("truncate", "hang", "corrupt") and passed + len(data) > cut:
                at = max(0, cut - passed)
                if kind == "corrupt":
                    data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
                    kind = None
                else:
                    writer.write(data[:at])
                    await writer.drain()
                    if kind == "hang":
                        await asyncio.sleep(3600)
                    writer.transport.abort()
                    return
            writer.write(data)
            await writer.drain()
            passed += len(data)
            self.bytes_received += len(data)
