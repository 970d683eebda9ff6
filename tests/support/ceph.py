"""A throw-away Ceph cluster on loopback with an S3 endpoint (RADOS gateway), where Ceph is installed.

One monitor, one OSD that keeps everything in memory, one gateway; nothing survives `stop`.
Debian and Ubuntu: `apt-get install --no-install-recommends ceph-mon ceph-osd ceph-common radosgw`.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from examples.seaweedfs import S3Server

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
_CONFIG = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port}/0]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_allow_insecure_global_id_reclaim = false
run_dir = {root}/run
crash_dir = {root}/run
admin_socket =
keyring = {root}/keyring
rgw_data = {root}/run
log_file =
log_to_stderr = true
err_to_stderr = true
mon_cluster_log_file = /dev/null
mon_data = {root}/mon
osd_data = {root}/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
[client.rgw]
keyring = {root}/keyring
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_thread_pool_size = 32
rgw_override_bucket_index_max_shards = 1
rgw_run_sync_thread = false
"""
_KEYS = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *"],
    "client.rgw": ["mon", "allow rw", "osd", "allow rwx"],
}


def missing_programs() -> list[str]:
    """Return what of Ceph is not installed here."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def start_rgw(directory: Path, *, bucket: str = "tune") -> S3Server:
    """Start a cluster in an empty directory; ready when the bucket has been made.

    Raises:
        RuntimeError: A daemon did not come up; the text ends with its log.
    """
    cluster = _Cluster(directory.resolve())
    try:
        return cluster.start(bucket)
    except BaseException:
        cluster.stop()
        raise


class _Cluster:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._config = root / "ceph.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self, bucket: str) -> S3Server:
        for name in ("log", "run", "mon", "osd"):
            (self._root / name).mkdir(parents=True)
        mon_port, port = _free_ports(2)
        fsid, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
        self._config.write_text(_CONFIG.format(fsid=fsid, mon_port=mon_port, port=port, root=self._root))
        keyring, monmap = self._root / "keyring", self._root / "monmap"
        for number, (entity, caps) in enumerate(_KEYS.items()):
            create = ["--create-keyring"] if number == 0 else []
            pairs = [word for at in range(0, len(caps), 2) for word in ("--cap", *caps[at : at + 2])]
            self._run("ceph-authtool", *create, str(keyring), "--gen-key", "-n", entity, *pairs, bare=True)
        address = f"[v2:127.0.0.1:{mon_port}/0]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, str(monmap), bare=True)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap), "--keyring", str(keyring))
        self._spawn("ceph-mon", "-f", "-i", "a")
        self._wait("the monitor", lambda: bool(self._ceph("quorum_status")))
        self._ceph("osd", "new", osd_id, "0")
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd_id)
        self._spawn("ceph-osd", "-f", "-i", "0")
        self._wait("the OSD", lambda: b'"num_up_osds":1' in self._ceph("osd", "stat", "-f", "json"))
        key, secret = "tester", secrets.token_hex(16)
        user = ("--uid=test", "--display-name=test", f"--access-key={key}", f"--secret-key={secret}")
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", *user)
        gateway = self._spawn("radosgw", "-f", "-n", "client.rgw")
        url = f"http://127.0.0.1:{port}"
        self._wait("the gateway", lambda: _answers(url))
        server = S3Server(url=url, key=key, secret=secret, bucket=bucket, pid=gateway.pid, stop=self.stop)
        _make_bucket(server)
        return server

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGCONT)
            daemon.kill()  # what it holds is thrown away
            daemon.wait()
        self._daemons.clear()

    def _ceph(self, *arguments: str) -> bytes:
        command = ["ceph", "-c", str(self._config), "--connect-timeout", "5", *arguments]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).stdout

    def _run(self, program: str, *arguments: str, bare: bool = False) -> None:
        config = [] if bare else ["-c", str(self._config)]
        done = subprocess.run(
            [program, *config, *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} {arguments}: {done.stderr[-2000:]}")

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._root / "log" / program).open("ab") as log:
            daemon = subprocess.Popen(
                [program, *arguments, "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._daemons.append(daemon)
        return daemon

    def _wait(self, what: str, is_ready: Callable[[], bool], timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(log.read_text()[-2000:] for log in (self._root / "log").iterdir())
                raise RuntimeError(f"{what} of Ceph is not ready (ended: {dead}):\n{logs}")
            time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _make_bucket(server: S3Server) -> None:
    import boto3

    boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name="us-east-1",
    ).create_bucket(Bucket=server.bucket)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
