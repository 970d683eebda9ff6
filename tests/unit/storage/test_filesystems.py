from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tune_core.errors import ConfigError, StorageError
from tune_core.storage.filesystems import ProcessLocal, check_name, resolve, without_credentials


class TestResolve:
    @pytest.mark.parametrize(
        ("path", "text"),
        [
            (7, "a path or URL is a string or os.PathLike, not int"),
            ("", "not empty"),
            ("a\0b", "control characters"),
            ("s3://", "names no bucket"),
            ("s3://bucket/a/../b", "have no meaning in a URL"),
            ("s3://bucket/a?acl=public", r"unknown \['acl'\] after"),
            ("nosuch://bucket/a", "nosuch"),
            ("simplecache::s3://bucket/a", "chained URLs"),
            ("file://", "names no directory"),
        ],
    )
    def test_paths_that_cannot_be_used_say_why(self, path: Any, text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            resolve(path)

    @pytest.mark.parametrize(
        ("path", "meant"),
        [
            ("s3:/tuning/exp", "s3://tuning/exp"),
            (Path("s3://tuning/exp"), "s3://tuning/exp"),
            ("s3:tuning", "s3://tuning"),
            ("sftp:/host/a", "sftp://host/a"),
            ("file:/tmp/a", "file:///tmp/a"),
            ("s3:/", "s3:"),
            ("x:", "x:"),
        ],
    )
    def test_half_a_url_is_no_directory_of_this_machine(
        self, path: Any, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for filesystem in (None, fsspec.filesystem("file")):
            with pytest.raises(ConfigError, match=f"a URL has '//'.* Write '{meant}'"):
                resolve(path, filesystem)

    @pytest.mark.parametrize("name", ["./s3:/tuning", "a:b/c", "runs/s3:/x", "/s3:/x"])
    def test_directories_whose_names_have_colons_can_be_given(self, name: str, tmp_path: Path) -> None:
        assert resolve(tmp_path / name)[1] == str(tmp_path / name)

    @pytest.mark.parametrize(
        "url",
        [
            "s3://AKIA:ab/hunter2@bucket/p",
            "s3://AKIA:ab?hunter2@bucket/p",
            "s3://AKIA:a@b/hunter2@bucket/p",
            "s3://ak/ia:hunter2@bucket/p",
            "s3://AKIA:hunter2/bucket/p",
            "s3:/AKIA:ab/hunter2@bucket/p",
            "gs://AKIA:hunter2",
            "sftp://user:ab/hunter2@host/p",
        ],
    )
    def test_password_that_is_not_escaped_is_refused_and_not_shown(self, url: str) -> None:
        for filesystem in (None, fsspec.filesystem("memory")):
            with pytest.raises(ConfigError) as caught:
                resolve(url, filesystem)
            assert "hunter2" not in str(caught.value)
            assert "AKIA" not in str(caught.value)

    def test_password_with_escaped_characters_is_taken(self) -> None:
        filesystem, path, url = resolve("s3://AKIA:ab%2Fcd%40ef@bucket/p")

        assert (filesystem.key, filesystem.secret) == ("AKIA", "ab/cd@ef")
        assert (path, url) == ("bucket/p", "s3://bucket/p")

    def test_path_may_have_an_at_sign(self) -> None:
        assert resolve("s3://bucket/me@example.org")[1] == "bucket/me@example.org"

    def test_refusals_show_no_credentials(self) -> None:
        for url in (
            "s3://k:hunter2@b/../c",
            "s3://k:hunter2@b/c\n",
            "s3://k:hunter2@b/c?x=hunter2",
            "simplecache::s3://k:hunter2@b/c",
        ):
            with pytest.raises(ConfigError) as caught:
                resolve(url)
            assert "hunter2" not in str(caught.value)

    def test_pyarrow_query_of_an_s3_url_becomes_options(self) -> None:
        filesystem, path, url = resolve(
            "s3://bucket//a//b/?endpoint_override=minio:9000&scheme=http&region=eu"
        )

        assert (path, url) == ("bucket/a/b", "s3://bucket//a//b")
        assert filesystem.endpoint_url == "http://minio:9000"
        assert filesystem.client_kwargs == {"region_name": "eu"}

    def test_options_win_over_the_url(self) -> None:
        filesystem, _, _ = resolve("s3://k:in-url@bucket/a", storage_options={"secret": "given"})

        assert (filesystem.key, filesystem.secret) == ("k", "given")

    def test_s3_lists_without_a_cache(self) -> None:
        filesystem, _, _ = resolve("s3://bucket/a")

        filesystem.dircache["bucket"] = []

        assert "bucket" not in filesystem.dircache

    def test_path_inside_a_filesystem(self) -> None:
        memory = fsspec.filesystem("memory")

        assert resolve("bucket/a/", memory)[1:] == ("/bucket/a", "memory:///bucket/a")
        assert resolve("memory://bucket/a", memory)[1] == "/bucket/a"

    @pytest.mark.parametrize(
        ("make", "path", "text"),
        [
            (lambda: "s3", "a", "expected an fsspec filesystem or a pyarrow.fs.FileSystem, not str"),
            (lambda: fsspec.filesystem("memory"), "s3://b/a", "without a scheme"),
            (lambda: fsspec.filesystem("file"), "s3://b/a", "without a scheme"),
            (lambda: fsspec.filesystem("memory"), "b/../a", "have no meaning"),
            (lambda: fsspec.filesystem("simplecache", target_protocol="memory"), "a", "caches"),
            (lambda: fsspec.filesystem("s3", asynchronous=True), "b/a", "asynchronous=False"),
        ],
    )
    def test_filesystems_that_cannot_be_used_say_why(self, make: Any, path: str, text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            resolve(path, make())

    def test_options_beside_a_filesystem_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="put the options into the filesystem"):
            resolve("a", fsspec.filesystem("memory"), {"x": 1})

    def test_pyarrow_filesystem_is_wrapped(self) -> None:
        from pyarrow import fs

        filesystem, path, _ = resolve("bucket/a", fs.S3FileSystem(anonymous=True, region="eu-west-1"))

        assert type(filesystem).__name__ == "ArrowFSWrapper"
        assert path == "bucket/a"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("s3://k:s@bucket/a?x=1", "s3://bucket/a"),
        ("sftp://user:p%40ss@host:22/a/", "sftp://host:22/a"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://AKIA:ab/cd@bucket/a", "s3://bucket/a"),
        ("/local/a?b", "/local/a?b"),
    ],
)
def test_shown_urls_have_no_credentials(given: str, shown: str) -> None:
    assert without_credentials(given) == shown


def test_names_may_have_any_printable_text() -> None:
    # Characters that only look like a slash or dots are names like any other.
    for name in ("a", "a/b", "lr=[1, 2]*?", "ü %25", "..a", "a..", "a:b", "．．∕a", "\u202ea", "ü" * 127):  # noqa: RUF001
        assert check_name(name, "object") == name


def test_name_of_another_type_is_refused() -> None:
    with pytest.raises(StorageError, match="trial name 7 is no text"):
        check_name(7, "trial")


class TestProcessLocal:
    def test_forked_child_makes_its_own_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        parent, _, _ = resolve("s3://bucket/a", storage_options={"key": "k", "secret": "s"})
        holder = ProcessLocal(parent)
        pid = os.getpid()

        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        child = holder.get()

        assert child is not parent
        assert (child.key, child.secret) == ("k", "s")
        assert holder.get() is child

    def test_filesystem_without_connections_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        holder = ProcessLocal(fsspec.filesystem("memory"))
        before, pid = holder.get(), os.getpid()

        monkeypatch.setattr(os, "getpid", lambda: pid + 1)

        assert holder.get() is before


def test_relative_local_path_is_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert resolve("runs")[1:] == (str(tmp_path / "runs"), str(tmp_path / "runs"))
