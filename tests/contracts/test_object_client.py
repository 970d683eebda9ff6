"""S3 by obstore and by s3fs: the same bytes, the same errors, and s3fs wherever obstore cannot."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from tests.support.fault_proxy import FaultProxy, Rule
from tests.support.s3_servers import S3Server
from tune_core.storage import object_client, transfer
from tune_core.storage.object_client import CLIENT_VARIABLE, ObjectClient, client_of
from tune_core.storage.transfer import PART_SIZE


@pytest.fixture
def s3(s3_server: S3Server) -> Any:
    return an_s3(s3_server)


@pytest.fixture
def root(s3_server: S3Server) -> str:
    return f"{s3_server.bucket}/{uuid4().hex}"


def an_s3(server: S3Server, **options: Any) -> Any:
    return fsspec.filesystem(
        "s3",
        **{**server.storage_options, "use_listings_cache": False, "skip_instance_cache": True, **options},
    )


def without_obstore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLIENT_VARIABLE, "s3fs")


class Failing(ObjectClient):
    """Fails with everything, as a server would make it that it does not know."""

    def __init__(self) -> None:
        super().__init__(lambda bucket: None)
        self.calls = 0

    def _place(self, path: str) -> Any:
        self.calls += 1
        raise RuntimeError("obstore cannot")


def test_either_reads_and_lists_what_the_other_has_written(
    s3: Any, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client_of(s3, f"{root}/a") is not None
    small, large = os.urandom(1000), os.urandom(2 * PART_SIZE + 17)
    (tmp_path / "large").write_bytes(large)
    transfer.write_bytes(s3, f"{root}/by/small", small)
    transfer.upload_file(s3, tmp_path / "large", f"{root}/by/large")
    listed = transfer.find_files(s3, f"{root}/by")

    without_obstore(monkeypatch)

    assert client_of(s3, f"{root}/a") is None
    assert transfer.read_bytes(s3, f"{root}/by/small") == small
    transfer.download_file(s3, f"{root}/by/large", tmp_path / "again", len(large))
    assert (tmp_path / "again").read_bytes() == large
    said = {
        name: (info["size"], info["ETag"]) for name, info in transfer.find_files(s3, f"{root}/by").items()
    }
    assert said == {name: (info["size"], info["ETag"]) for name, info in listed.items()}
    assert {name: transfer.changed_at(info) for name, info in listed.items()}.keys() == {"small", "large"}

    transfer.upload_file(s3, tmp_path / "large", f"{root}/other/large")
    monkeypatch.delenv(CLIENT_VARIABLE)
    transfer.download_file(s3, f"{root}/other/large", tmp_path / "third", len(large))
    assert (tmp_path / "third").read_bytes() == large


@pytest.mark.parametrize("client", ["obstore", "s3fs"])
def test_what_is_missing_or_there_already_is_said_in_the_same_way(
    s3: Any, root: str, client: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CLIENT_VARIABLE, client)

    with pytest.raises(FileNotFoundError):
        transfer.read_bytes(s3, f"{root}/missing")
    with pytest.raises(FileNotFoundError):
        transfer.download_file(s3, f"{root}/missing", tmp_path / "file", 3 * PART_SIZE)
    assert transfer.find_files(s3, f"{root}/missing") == {}
    transfer.create_bytes(s3, f"{root}/once", b"first")
    with pytest.raises(FileExistsError):
        transfer.create_bytes(s3, f"{root}/once", b"second")
    assert transfer.read_bytes(s3, f"{root}/once") == b"first"


@pytest.mark.parametrize("name", ["a b", "ä", "a%20b", "a#b", "a?b", "a[b]*", "a&b", "~"])
def test_names_that_clients_encode_differently_are_left_to_s3fs(s3: Any, root: str, name: str) -> None:
    assert client_of(s3, f"{root}/{name}") is None

    transfer.write_bytes(s3, f"{root}/odd/{name}", b"odd")

    assert transfer.read_bytes(s3, f"{root}/odd/{name}") == b"odd"
    assert list(transfer.find_files(s3, f"{root}/odd")) == [name]


def test_s3fs_does_what_obstore_fails_to_do_and_everything_once_that_is_usual(
    s3: Any, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    failing = Failing()
    assert client_of(s3, root) is not None
    monkeypatch.setitem(object_client._clients, s3, failing)
    data = os.urandom(2 * PART_SIZE)
    (tmp_path / "file").write_bytes(data)

    transfer.upload_file(s3, tmp_path / "file", f"{root}/file")
    transfer.create_bytes(s3, f"{root}/once", b"first")
    with pytest.raises(FileExistsError):
        transfer.create_bytes(s3, f"{root}/once", b"second")
    transfer.download_file(s3, f"{root}/file", tmp_path / "again", len(data))
    assert transfer.find_files(s3, root).keys() == {"file", "once"}

    assert (tmp_path / "again").read_bytes() == data
    assert "from now on s3fs does everything" in caplog.text
    used = failing.calls
    assert transfer.read_bytes(s3, f"{root}/once") == b"first"
    assert failing.calls == used


def test_equal_filesystems_share_a_client_that_outlives_the_first_of_them(
    s3_server: S3Server, root: str
) -> None:
    first = an_s3(s3_server)
    client = client_of(first, root)
    second = an_s3(s3_server)
    del first
    gc.collect()

    assert client is not None
    assert client_of(second, root) is client


def test_one_failure_is_forgotten_once_it_works_again() -> None:
    client = ObjectClient(lambda bucket: None)

    for _ in range(5):
        client.has_failed("bucket/key", RuntimeError("once"))
        client.has_succeeded()

    assert not client.is_given_up


@pytest.mark.parametrize(
    "options",
    [
        {"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}},
        {"config_kwargs": {"max_pool_connections": 3}},
        {"client_kwargs": {"verify": False}},
        {"requester_pays": True},
        {"version_aware": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_obstore_may_not_mean_alike_are_left_to_s3fs(
    s3_server: S3Server, root: str, options: dict[str, Any]
) -> None:
    assert client_of(an_s3(s3_server, **options), root) is None


def test_credentials_and_server_may_come_from_the_environment_or_a_profile(
    s3_server: S3Server, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"[profile tuning]\naws_access_key_id = {s3_server.key}\naws_secret_access_key = {s3_server.secret}\n"
        f"endpoint_url = {s3_server.url}\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    profile = fsspec.filesystem("s3", profile="tuning", use_listings_cache=False, skip_instance_cache=True)
    transfer.write_bytes(profile, f"{root}/profile", b"by profile")
    monkeypatch.delenv("AWS_CONFIG_FILE")
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    environment = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)

    assert client_of(environment, root) is not None
    assert transfer.read_bytes(environment, f"{root}/profile") == b"by profile"
    assert client_of(profile, root) is not None


def test_wrong_credentials_are_told_as_s3fs_tells_them(s3_server: S3Server, root: str) -> None:
    wrong = an_s3(s3_server, secret="wrong" * 4)

    with pytest.raises(PermissionError):
        transfer.read_bytes(wrong, f"{root}/x")


def test_a_forked_child_goes_on_with_s3fs(s3: Any, root: str) -> None:
    transfer.write_bytes(s3, f"{root}/x", b"before")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if client_of(s3, root) is None else 1)

    assert os.waitpid(pid, 0)[1] == 0


def test_a_part_that_breaks_off_is_fetched_by_s3fs(
    proxy: FaultProxy, s3_server: S3Server, root: str, tmp_path: Path
) -> None:
    s3 = an_s3(s3_server, endpoint_url=proxy.url)
    data = os.urandom(3 * PART_SIZE)
    (tmp_path / "file").write_bytes(data)
    transfer.upload_file(s3, tmp_path / "file", f"{root}/file")
    proxy.add(Rule("truncate", method="GET", times=1, after=2**20))

    transfer.download_file(s3, f"{root}/file", tmp_path / "again", len(data))

    assert (tmp_path / "again").read_bytes() == data
