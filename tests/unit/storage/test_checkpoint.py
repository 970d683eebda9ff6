from __future__ import annotations

import fcntl
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.support.directories import a_directory
from tune_core.errors import CheckpointCorrupted, CheckpointNotFound, StorageError
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.commit import COMMIT, METADATA
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.faults import FaultyFileSystem

FILES = {"model.pt": b"weights" * 100, "deep/er/state.bin": b"\0\1\2", "empty.txt": b""}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system's temporary directory of one's own, to see what is left in it."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


class CountingFileSystem(FaultyFileSystem):
    """Remembers what was downloaded, and can hold downloads up."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.reads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        data = super().cat_file(path, *args, **kwargs)
        if path.rpartition("/")[2] in {Path(name).name for name in FILES}:
            self.reads.append(path)
            assert self.gate.wait(10)
        return data


@pytest.fixture
def remote() -> Iterator[tuple[CountingFileSystem, str]]:
    """A filesystem that is not this machine's disk, with an uncommitted checkpoint."""
    filesystem, path = CountingFileSystem(fsspec.filesystem("memory")), f"/unit-{uuid4().hex}/model"
    for name, data in FILES.items():
        filesystem.pipe_file(f"{path}/{name}", data)
    yield filesystem, path
    filesystem.target.rm(path, recursive=True)


@pytest.fixture
def committed(tmp_path: Path) -> tuple[ExperimentStorage, Checkpoint]:
    """A committed checkpoint on such a filesystem."""
    memory = MemoryFileSystem(global_store=False, skip_instance_cache=True)
    storage = ExperimentStorage.open("/bucket", "e", filesystem=CountingFileSystem(memory))
    source = a_directory(tmp_path / "source", FILES)
    storage.commit_checkpoint("t", source, index=7, attempt_number=1, iteration=1, rows=[], metrics={})
    return storage, storage.checkpoint("t", 7)


def files_in(path: str | Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()
    }


def in_threads(calls: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class TestReference:
    def test_local_path_becomes_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

        assert Checkpoint("some/../model").path == str(tmp_path / "model")
        assert Checkpoint(Path("model")).path == str(tmp_path / "model")
        assert Checkpoint(f"file://{tmp_path}/model").path == str(tmp_path / "model")
        assert Checkpoint("~/model").path == str(Path.home() / "model")

    def test_url_is_resolved_and_shows_no_secret(self) -> None:
        checkpoint = Checkpoint(
            "s3://key:hunter2@bucket/path/to", storage_options={"client_kwargs": {"region_name": "eu-1"}}
        )

        assert checkpoint.path == "bucket/path/to"
        assert checkpoint.filesystem.secret == "hunter2"
        assert repr(checkpoint) == str(checkpoint) == "Checkpoint(filesystem=s3, path=bucket/path/to)"

    def test_equality_is_of_path_and_filesystem(self, remote: tuple[Any, str]) -> None:
        filesystem, path = remote
        options = {"key": "k", "secret": "s"}

        assert Checkpoint("/a") == Checkpoint.from_directory("/a")
        assert hash(Checkpoint("/a")) == hash(Checkpoint.from_directory("/a"))
        assert Checkpoint("/a") != Checkpoint("/b")
        assert Checkpoint("/a") != "/a"
        assert Checkpoint("memory://x/a") != Checkpoint("/x/a")
        assert Checkpoint(path, filesystem) == Checkpoint(path, filesystem)
        assert Checkpoint("s3://b/a", storage_options=options) == Checkpoint(
            "s3://b/a", storage_options=options
        )
        assert Checkpoint("s3://b/a", storage_options=options) != Checkpoint("s3://b/a")

    def test_pickled_checkpoint_is_equal_and_shares_its_download(self, temporary: Path) -> None:
        checkpoint = Checkpoint("memory://pickled/checkpoint")
        checkpoint.filesystem.pipe_file("/pickled/checkpoint/a", b"1")

        again = pickle.loads(pickle.dumps(checkpoint))

        assert again == checkpoint
        assert again.to_directory() == checkpoint.to_directory()

    def test_checkpoint_is_no_path_and_says_what_to_use(self) -> None:
        with pytest.raises(TypeError, match=r"not a path: use `with checkpoint.as_directory\(\)"):
            os.fspath(Checkpoint("/a"))

    @pytest.mark.parametrize(
        ("name", "instead"),
        [
            ("from_dict", "from_directory"),
            ("to_dict", "as_directory"),
            ("from_bytes", "from_directory"),
            ("to_bytes", "from_directory"),
            ("from_uri", r"Checkpoint\(path="),
            ("uri", "attributes path and filesystem"),
            ("get_preprocessor", "set_metadata"),
        ],
    )
    def test_methods_of_older_versions_say_what_to_use(self, name: str, instead: str) -> None:
        for owner in (Checkpoint, Checkpoint("/a")):
            with pytest.raises(AttributeError, match=f"no '{name}'.*{instead}"):
                getattr(owner, name)
            assert not hasattr(owner, name)


class TestLocal:
    def test_as_directory_is_the_directory_itself(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"1")

        with Checkpoint.from_directory(tmp_path).as_directory() as path:
            assert path == str(tmp_path)

        assert (tmp_path / "a").exists()

    def test_to_directory_copies(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        (source / "empty").mkdir(parents=True)
        (source / "a").write_bytes(b"1")
        checkpoint = Checkpoint(source)

        copy = Path(checkpoint.to_directory(tmp_path / "made" / "copy"))
        (copy / "a").write_bytes(b"changed")

        assert sorted(path.name for path in copy.iterdir()) == ["a", "empty"]
        assert (source / "a").read_bytes() == b"1"

    def test_to_directory_onto_itself_does_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"1")

        assert Checkpoint(tmp_path).to_directory(tmp_path) == str(tmp_path)

        assert files_in(tmp_path)["a"] == b"1"

    def test_directory_without_a_path_is_private_and_temporary(self, tmp_path: Path, temporary: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "a").write_bytes(b"1")

        path = Path(Checkpoint(tmp_path / "source").to_directory())

        assert path.parent == temporary
        assert path.name.startswith("checkpoint_tmp_")
        assert path.stat().st_mode & 0o077 == 0
        assert list(temporary.iterdir()) == [path]

    def test_missing_directory_is_named(self, tmp_path: Path, temporary: Path) -> None:
        checkpoint = Checkpoint(tmp_path / "nothing")

        with pytest.raises(CheckpointNotFound, match="/nothing does not exist"), checkpoint.as_directory():
            pass
        with pytest.raises(CheckpointNotFound, match="/nothing does not exist"):
            checkpoint.to_directory()
        with pytest.raises(CheckpointNotFound, match="/nothing does not exist"):
            checkpoint.set_metadata({})

        assert list(temporary.iterdir()) == []

    def test_file_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")

        with pytest.raises(CheckpointNotFound, match="is a file"):
            Checkpoint(tmp_path / "file").to_directory()

    def test_local_pyarrow_filesystems_are_local(self, tmp_path: Path) -> None:
        from fsspec.implementations.local import LocalFileSystem
        from pyarrow import fs

        inside = tmp_path / "x"
        inside.mkdir()

        for filesystem, path in (
            (fs.LocalFileSystem(), str(inside)),
            (fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "x"),
            (fs.PyFileSystem(fs.FSSpecHandler(LocalFileSystem())), str(inside)),
        ):
            with Checkpoint(path, filesystem=filesystem).as_directory() as directory:
                assert directory == str(inside)


class TestRemote:
    def test_as_directory_downloads_and_cleans_up(self, remote: tuple[Any, str], temporary: Path) -> None:
        filesystem, path = remote

        with Checkpoint(path, filesystem).as_directory() as directory:
            assert files_in(directory) == FILES
            assert Path(directory).parent == temporary

        assert list(temporary.iterdir()) == []

    def test_directory_goes_when_the_last_reader_leaves(
        self, remote: tuple[Any, str], temporary: Path
    ) -> None:
        checkpoint = Checkpoint(remote[1], remote[0])
        copy = pickle.loads(pickle.dumps(checkpoint))

        with checkpoint.as_directory() as first:
            with checkpoint.as_directory() as second:
                assert second == first
            assert files_in(first) == FILES

        assert copy == checkpoint
        assert list(temporary.iterdir()) == []

    def test_directory_goes_when_its_reader_fails(self, remote: tuple[Any, str], temporary: Path) -> None:
        with pytest.raises(ZeroDivisionError), Checkpoint(remote[1], remote[0]).as_directory():
            raise ZeroDivisionError

        assert list(temporary.iterdir()) == []

    def test_readers_at_the_same_time_download_once(self, remote: tuple[Any, str], temporary: Path) -> None:
        filesystem, path = remote
        checkpoint = Checkpoint(path, filesystem)
        inside, found = threading.Barrier(6), []

        def read() -> None:
            with checkpoint.as_directory() as directory:
                inside.wait(10)
                found.append(files_in(directory))

        in_threads([read] * 6)

        assert found == [FILES] * 6
        assert len(filesystem.reads) == len(FILES)
        assert list(temporary.iterdir()) == []

    def test_copies_asked_for_at_the_same_time_are_downloaded_once(
        self, remote: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filesystem, path = remote
        checkpoint = Checkpoint(path, filesystem)
        filesystem.gate.clear()
        asked, flock = [], fcntl.flock

        def counted(descriptor: int, operation: int) -> None:
            if operation == fcntl.LOCK_EX:
                asked.append(descriptor)
                if len(asked) == 4:
                    filesystem.gate.set()  # nobody gets the files before all have asked
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", counted)

        in_threads([checkpoint.to_directory] * 4)

        assert len(filesystem.reads) == len(FILES)
        assert files_in(checkpoint.to_directory()) == FILES

    def test_copy_asked_for_later_is_fresh(self, remote: tuple[Any, str]) -> None:
        filesystem, path = remote
        checkpoint = Checkpoint(path, filesystem)
        directory = Path(checkpoint.to_directory())
        (directory / "model.pt").write_bytes(b"trained on")

        checkpoint.to_directory()

        assert files_in(directory) == FILES

    def test_failed_download_leaves_nothing(
        self, remote: tuple[Any, str], temporary: Path, tmp_path: Path
    ) -> None:
        class Broken(CountingFileSystem):
            def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
                if path.endswith("model.pt"):
                    raise ConnectionError("no route")
                return super().cat_file(path, *args, **kwargs)

        checkpoint = Checkpoint(remote[1], Broken(remote[0].target))

        with pytest.raises(
            StorageError, match=r"memory://.*: cannot download it .*ConnectionError: no route"
        ):
            checkpoint.to_directory(tmp_path / "target")
        with pytest.raises(StorageError, match="no route"), checkpoint.as_directory():
            pass

        assert not (tmp_path / "target").exists()
        assert list(temporary.iterdir()) == []

    def test_files_of_other_names_in_the_target_stay(self, remote: tuple[Any, str], tmp_path: Path) -> None:
        (tmp_path / "mine").write_bytes(b"1")

        Checkpoint(remote[1], remote[0]).to_directory(tmp_path)

        assert (tmp_path / "mine").read_bytes() == b"1"
        assert files_in(tmp_path) == {**FILES, "mine": b"1"}

    def test_directory_of_another_user_is_not_trusted(
        self, remote: tuple[Any, str], temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = Checkpoint(remote[1], remote[0])
        with checkpoint.as_directory() as directory:
            mine = os.getuid()
            monkeypatch.setattr(os, "getuid", lambda: mine + 1)

            with pytest.raises(Exception, match="belongs to another user"), checkpoint.as_directory():
                pass

            assert files_in(directory) == FILES


class TestCommitted:
    def test_markers_are_not_part_of_what_is_downloaded(
        self, committed: tuple[ExperimentStorage, Checkpoint], tmp_path: Path
    ) -> None:
        _, checkpoint = committed

        with checkpoint.as_directory() as directory:
            assert files_in(directory) == FILES
        assert files_in(checkpoint.to_directory(tmp_path / "copy")) == FILES

    def test_two_objects_for_one_commit_share_a_directory_to_read(
        self, committed: tuple[ExperimentStorage, Checkpoint]
    ) -> None:
        storage, checkpoint = committed

        with checkpoint.as_directory() as first, storage.checkpoint("t", 7).as_directory() as second:
            assert first == second

        assert len(storage.fs.reads) == len(FILES)

    @pytest.mark.parametrize("data", [b"weightz" * 100, b"short"])
    def test_damaged_file_is_named_with_what_was_expected_and_found(
        self, committed: tuple[ExperimentStorage, Checkpoint], temporary: Path, data: bytes
    ) -> None:
        storage, checkpoint = committed
        storage.write("t/checkpoint_000007/model.pt", data)

        with (
            pytest.raises(
                CheckpointCorrupted,
                match=rf"_000007/model.pt: expected 700 bytes with digest [\w:]+, found {len(data)} bytes",
            ),
            checkpoint.as_directory(),
        ):
            pass
        with pytest.raises(CheckpointCorrupted, match=r"model\.pt"):
            checkpoint.to_directory()

        assert list(temporary.iterdir()) == []

    def test_missing_file_is_named(self, committed: tuple[ExperimentStorage, Checkpoint]) -> None:
        storage, checkpoint = committed
        storage.delete("t/checkpoint_000007/deep/er/state.bin")

        with pytest.raises(CheckpointCorrupted, match=r"deep/er/state.bin is missing: expected 3 bytes"):
            checkpoint.to_directory()

    def test_checkpoint_that_is_deleted_while_it_is_read_is_not_called_damaged(
        self, committed: tuple[ExperimentStorage, Checkpoint], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage, checkpoint = committed
        require = Checkpoint._require

        def require_then_delete(self: Checkpoint) -> Any:
            marker = require(self)
            storage.delete_checkpoint("t", 7)
            return marker

        monkeypatch.setattr(Checkpoint, "_require", require_then_delete)

        with pytest.raises(CheckpointNotFound, match="was deleted while it was read"):
            checkpoint.to_directory()

    def test_damage_on_the_way_is_repaired_by_another_attempt(
        self, committed: tuple[ExperimentStorage, Checkpoint], caplog: pytest.LogCaptureFixture
    ) -> None:
        storage, _ = committed
        damaged: list[str] = []

        class Flipping(FaultyFileSystem):
            def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
                data = super().cat_file(path, *args, **kwargs)
                if path not in damaged and data:
                    damaged.append(path)
                    return data[:-1] + bytes([data[-1] ^ 0xFF])
                return data

        path = storage.absolute("t/checkpoint_000007")

        found = files_in(Checkpoint(path, Flipping(storage.fs.target)).to_directory())

        assert found == FILES
        assert f"{path}/model.pt" in damaged
        assert "model.pt was damaged on its way, fetching it again" in caplog.text

    def test_crc_error_of_botocore_counts_as_damage(
        self, committed: tuple[ExperimentStorage, Checkpoint]
    ) -> None:
        class FlexibleChecksumError(Exception):
            """As botocore's, by name."""

        class Refusing(FaultyFileSystem):
            def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
                if path.endswith("model.pt"):
                    raise FlexibleChecksumError("crc32 differs")
                return super().cat_file(path, *args, **kwargs)

        storage, checkpoint = committed

        with pytest.raises(
            CheckpointCorrupted, match=r"model.pt: expected .* found Flex\w+: crc32 differs, 3 times"
        ):
            Checkpoint(checkpoint.path, Refusing(storage.fs.target)).to_directory()

    def test_right_files_are_not_fetched_again_and_changed_ones_are_repaired(
        self, committed: tuple[ExperimentStorage, Checkpoint], tmp_path: Path
    ) -> None:
        storage, checkpoint = committed
        target = Path(checkpoint.to_directory(tmp_path / "copy"))
        (target / "model.pt").write_bytes(b"trained on")
        storage.fs.reads.clear()

        checkpoint.to_directory(target)

        assert files_in(target) == FILES
        assert [path.rpartition("/")[2] for path in storage.fs.reads] == ["model.pt"]

    def test_marker_that_names_a_path_outside_is_refused(
        self, committed: tuple[ExperimentStorage, Checkpoint], tmp_path: Path
    ) -> None:
        from tune_core.storage.commit import CheckpointMarker, FileEntry

        storage, checkpoint = committed
        evil = CheckpointMarker(7, 1, 1, "evil", (FileEntry("../../evil", 1, "00"),))
        storage.write(f"t/checkpoint_000007/{COMMIT}", evil.to_json())

        with pytest.raises(CheckpointCorrupted, match=r"'../../evil' cannot be used"):
            checkpoint.to_directory(tmp_path / "target")


class TestMetadata:
    def test_metadata_is_set_updated_and_read(self, remote: tuple[Any, str], tmp_path: Path) -> None:
        for checkpoint in (Checkpoint(tmp_path), Checkpoint(remote[1], remote[0])):
            assert checkpoint.get_metadata() == {}

            checkpoint.set_metadata({"a": 1, "b": [1, None]})
            checkpoint.update_metadata({"a": 2})

            assert checkpoint.get_metadata() == {"a": 2, "b": [1, None]}
            with checkpoint.as_directory() as directory:
                assert METADATA in files_in(directory)

    def test_metadata_may_change_after_the_commit(
        self, committed: tuple[ExperimentStorage, Checkpoint], tmp_path: Path
    ) -> None:
        _, checkpoint = committed

        checkpoint.set_metadata({"score": 1})
        checkpoint.set_metadata({"score": 2})

        found = files_in(checkpoint.to_directory(tmp_path / "copy"))
        assert found == {**FILES, METADATA: b'{"score": 2}'}

    def test_metadata_travels_with_the_commit(
        self, committed: tuple[ExperimentStorage, Checkpoint], tmp_path: Path
    ) -> None:
        storage, _ = committed
        source = Checkpoint.from_directory(tmp_path / "source")
        source.set_metadata({"framework": "torch"})

        storage.commit_checkpoint("t", source, index=8, attempt_number=1, iteration=2, rows=[], metrics={})

        assert storage.checkpoint("t", 8).get_metadata() == {"framework": "torch"}

    def test_unreachable_metadata_is_explained(self) -> None:
        class Down(MemoryFileSystem):  # type: ignore[misc]
            def cat_file(self, *args: Any, **kwargs: Any) -> bytes:
                raise TimeoutError("read timed out")

            def pipe_file(self, *args: Any, **kwargs: Any) -> None:
                raise PermissionError("Forbidden")

        checkpoint = Checkpoint("/b/c", Down(skip_instance_cache=True))

        with pytest.raises(StorageError, match=r"cannot read its metadata \(TimeoutError"):
            checkpoint.get_metadata()
        with pytest.raises(StorageError, match=r"cannot write its metadata .*check the credentials"):
            checkpoint.set_metadata({})
        with pytest.raises(StorageError, match=r"cannot read it \(TimeoutError"):
            checkpoint.to_directory()
