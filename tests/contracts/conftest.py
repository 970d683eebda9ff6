"""Storages and servers of the contracts tier; each server starts once, when a test first needs it."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.fake_uplink import OnlyReports
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_servers import S3Server, start_moto, start_seaweedfs
from tests.support.sessions import an_attempt
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session import Session


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = start_seaweedfs(tmp_path_factory.mktemp("seaweedfs"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    server = start_moto(checks_credentials=True)
    yield server
    server.stop()


@pytest.fixture(scope="session", params=["seaweedfs", "moto"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def _proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """A way to the S3 server on which rules make requests go wrong; without rules at first."""
    _proxy.clear()
    yield _proxy
    was_cut = any(kind == "truncate" for _, _, kind in _proxy.requests)
    _proxy.clear()
    if was_cut:
        gc.collect()  # what s3fs leaves open then is reported here, where it is expected


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shared downloads go to a directory of the test, and none may be left."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield
    assert list(path.iterdir()) == []


class RawObjects:
    """The objects of an S3 bucket, past everything that is under test; paths as s3fs has them."""

    def __init__(self, server: S3Server) -> None:
        import boto3

        self.client = boto3.client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id=server.key,
            aws_secret_access_key=server.secret,
            region_name="us-east-1",
        )

    def at(self, path: str) -> dict[str, str]:
        bucket, _, key = path.partition("/")
        return {"Bucket": bucket, "Key": key}

    def names(self, path: str) -> list[str]:
        prefix = self.at(path)["Key"] + "/"
        listed = self.client.list_objects_v2(Bucket=self.at(path)["Bucket"], Prefix=prefix)
        assert not listed["IsTruncated"]
        return [entry["Key"].removeprefix(prefix) for entry in listed.get("Contents", [])]

    def get(self, path: str) -> bytes:
        data: bytes = self.client.get_object(**self.at(path))["Body"].read()
        return data

    def put(self, path: str, data: bytes) -> None:
        self.client.put_object(**self.at(path), Body=data)

    def buckets(self) -> list[str]:
        return [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]


class RawDirectory:
    """The same for a directory of this machine."""

    def names(self, path: str) -> list[str]:
        root = Path(path)
        return [str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()]

    def get(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def put(self, path: str, data: bytes) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)


class RawMemory:
    """The same for fsspec's memory filesystem."""

    def __init__(self) -> None:
        from fsspec.implementations.memory import MemoryFileSystem

        self.filesystem = MemoryFileSystem()

    def names(self, path: str) -> list[str]:
        prefix = f"{path}/"
        return [name.removeprefix(prefix) for name in self.filesystem.store if name.startswith(prefix)]

    def get(self, path: str) -> bytes:
        return bytes(self.filesystem.store[path].getvalue())

    def put(self, path: str, data: bytes) -> None:
        self.filesystem.pipe_file(path, data)


@dataclass(frozen=True)
class Place:
    """One kind of storage: how to open an experiment on it, and how to look past that."""

    kind: str
    open: Callable[[], ExperimentStorage]
    raw: Any


@pytest.fixture(params=["local", "memory", "moto", "seaweedfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty experiment on each kind of storage; every `open()` is as if in another process."""
    if request.param == "local":
        return Place("local", lambda: ExperimentStorage.open(tmp_path / "storage", "e"), RawDirectory())
    name = f"run-{uuid4().hex[:8]}"
    if request.param == "memory":
        return Place("memory", lambda: ExperimentStorage.open("memory://contract", name), RawMemory())
    server: S3Server = request.getfixturevalue(request.param)
    connections = count()
    return Place(
        request.param, lambda: open_s3(server, name, connection=next(connections) % 3), raw_objects(server)
    )


def open_s3(server: S3Server, name: str, url: str | None = None, *, connection: int = 0) -> ExperimentStorage:
    """Open an experiment, perhaps through a proxy; what has another connection is as another process."""
    filesystem = _connect(url or server.url, server.key, server.secret, connection)
    return ExperimentStorage.open(f"{server.bucket}/contract runs", name, filesystem=filesystem)


@cache  # a client costs more than most tests
def _connect(url: str, key: str, secret: str, number: int) -> Any:
    import s3fs

    # With its cache of listings, unlike those that a URL gets: none of it may show.
    return s3fs.S3FileSystem(endpoint_url=url, key=key, secret=secret, skip_instance_cache=True)


@cache
def raw_objects(server: S3Server) -> RawObjects:
    return RawObjects(server)


def a_session(
    storage: ExperimentStorage,
    trial: str,
    start: int | None = None,
    source: str = "",
    uplink: OnlyReports | None = None,
    **changes: Any,
) -> Session:
    attempt = an_attempt(
        storage,
        trial_id=trial,
        dirname=trial,
        checkpoint=start,
        checkpoint_dirname=source,
        iteration=0 if start is None else 1,
        **changes,
    )
    return Session(attempt, uplink or OnlyReports())
