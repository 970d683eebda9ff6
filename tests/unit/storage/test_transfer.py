"""Copying files to a storage, where that goes wrong half-way."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError, ProfileNotFound
from fsspec.implementations.local import LocalFileSystem

from tune_core.errors import CheckpointNotFound, StorageError
from tune_core.storage.transfer import SMALL_FILE, explaining, upload_file


class FullFileSystem(LocalFileSystem):
    """Has room for a hundred bytes, as a disk that fills up while a file is written."""

    cachable = False
    number = errno.ENOSPC

    def pipe_file(self, path: str, value: bytes, **kwargs: object) -> None:
        Path(path).write_bytes(value[:100])
        if len(value) > 100:
            raise OSError(self.number, "made up", path)

    def put_file(self, lpath: str, rpath: str, **kwargs: object) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())


@pytest.mark.parametrize("size", [1000, SMALL_FILE + 1])
def test_file_that_there_is_no_room_for_leaves_no_half_of_it_in_the_way_of_others(
    tmp_path: Path, size: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "storage" / "file"
    source.write_bytes(b"x" * size)

    with pytest.raises(OSError, match="made up"):
        upload_file(FullFileSystem(), source, str(target))

    assert not target.exists()
    source.write_bytes(b"x" * 100)
    assert upload_file(FullFileSystem(), source, str(target))[0] == 100
    assert target.read_bytes() == source.read_bytes()


def test_half_of_a_file_stays_where_something_else_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FullFileSystem, "number", errno.EIO)
    source, target = tmp_path / "source", tmp_path / "storage" / "file"
    source.write_bytes(b"x" * 1000)

    with pytest.raises(OSError, match="made up"):
        upload_file(FullFileSystem(), source, str(target))

    assert target.exists()


@pytest.mark.parametrize("error", [NoCredentialsError(), ProfileNotFound(profile="tuning")])
def test_missing_credentials_are_not_taken_for_a_network_that_fails(error: Exception) -> None:
    expected = r"cannot list it .*give credentials: AWS_ACCESS_KEY_ID"
    with pytest.raises(StorageError, match=expected) as raised, explaining("s3://bucket/x", "list it"):
        raise error

    assert "network" not in str(raised.value)


def test_errors_of_our_own_and_expected_ones_are_raised_as_they_are() -> None:
    for error in (CheckpointNotFound("gone"), FileNotFoundError("gone")):
        with (
            pytest.raises(type(error), match=r"^gone$"),
            explaining("s3://bucket/x", "read it", FileNotFoundError),
        ):
            raise error
