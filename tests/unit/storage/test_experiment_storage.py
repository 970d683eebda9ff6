from __future__ import annotations

import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
import time_machine
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tests.support.directories import a_directory
from tune_core.control.namesakes import experiment_at
from tune_core.errors import (
    CheckpointCorrupted,
    CheckpointError,
    CheckpointNotFound,
    ConfigError,
    CreateConflict,
    StorageError,
)
from tune_core.storage import objects, transfer
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.checkpoint_files import check_uploaded
from tune_core.storage.commit import COMMIT, WRITER
from tune_core.storage.experiment_storage import (
    DEFAULT_STORAGE_PATH,
    SETTLED_S,
    CheckpointMarker,
    ExperimentStorage,
    split_path,
)
from tune_core.testing.faults import Fault, FaultyFileSystem, InjectedFault
from tune_core.tuner import Tuner

FILES = {"model.pt": b"weights" * 100, "optimizer/state 1.bin": b"\0\1\2", "empty.txt": b""}


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A filesystem and an empty directory in it."""
    if request.param == "local":
        yield LocalFileSystem(), str(tmp_path / "storage")
        return
    filesystem, path = fsspec.filesystem("memory"), f"/unit-{uuid4().hex}"
    yield filesystem, path
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


@pytest.fixture
def storage(root: tuple[Any, str]) -> ExperimentStorage:
    filesystem, path = root
    return ExperimentStorage.open(path, "experiment", filesystem=filesystem)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return a_directory(tmp_path / "source", FILES)


def commit(
    storage: ExperimentStorage, source: Any, index: int = 0, attempt_number: int = 1, **kwargs: Any
) -> CheckpointMarker:
    arguments: dict[str, Any] = {"iteration": index + 1, "rows": [], "metrics": {}} | kwargs
    return storage.commit_checkpoint(
        "trial_1", source, index=index, attempt_number=attempt_number, **arguments
    )


def indices(storage: ExperimentStorage) -> list[int]:
    return [marker.index for marker in storage.committed("trial_1")]


def content(checkpoint: Checkpoint, target: Path) -> dict[str, bytes]:
    directory = Path(checkpoint.to_directory(target))
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


class TestObjects:
    def test_created_object_is_read_back_and_listed(self, storage: ExperimentStorage) -> None:
        storage.create("journal/00000001.jsonl", b"one")
        storage.create("experiment.json", b"{}")

        assert storage.read("journal/00000001.jsonl") == b"one"
        assert storage.list() == ["experiment.json", "journal"]
        assert storage.list("journal") == ["00000001.jsonl"]

    def test_second_create_with_other_bytes_is_a_conflict_and_changes_nothing(
        self, storage: ExperimentStorage
    ) -> None:
        storage.create("a", b"first")

        with pytest.raises(CreateConflict, match=r"/a exists already, with other content"):
            storage.create("a", b"second")

        assert storage.read("a") == b"first"

    def test_second_create_with_the_same_bytes_is_taken_for_a_lost_reply(
        self, storage: ExperimentStorage
    ) -> None:
        storage.create("a", b"mine")

        storage.create("a", b"mine")

        assert storage.read("a") == b"mine"

    def test_one_of_eight_writers_wins_every_round(
        self, storage: ExperimentStorage, request: pytest.FixtureRequest
    ) -> None:
        request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
        sys.setswitchinterval(1e-6)  # threads meet between a check and a write
        for number in range(30):
            winners: list[bytes] = []
            barrier = threading.Barrier(8)

            def write(
                data: bytes, number: int = number, barrier: Any = barrier, winners: Any = winners
            ) -> None:
                barrier.wait()
                try:
                    storage.create(f"round-{number}", data)
                except CreateConflict:
                    return
                winners.append(data)

            threads = [threading.Thread(target=write, args=(b"writer %d" % n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

            assert len(winners) == 1
            assert storage.read(f"round-{number}") == winners[0]

    def test_write_replaces_and_leaves_nothing_else_behind(self, storage: ExperimentStorage) -> None:
        storage.write("deep/er/a", b"old")

        storage.write("deep/er/a", b"new")

        assert storage.read("deep/er/a") == b"new"
        assert set(storage.fs.find(storage.absolute())) == {storage.absolute("deep/er/a")}

    def test_reading_what_does_not_exist_raises_file_not_found(self, storage: ExperimentStorage) -> None:
        with pytest.raises(FileNotFoundError):
            storage.read("nothing")

        assert storage.exists("nothing") is False
        assert storage.list("nothing") == []

    def test_delete_removes_only_what_is_named_even_if_the_name_looks_like_a_pattern(
        self, storage: ExperimentStorage
    ) -> None:
        for name in ("lr=[12]/a", "lr=1/a", "lr=*/b/c", "x"):
            storage.write(name, b"-")

        storage.delete("lr=[12]")
        storage.delete("lr=*")
        storage.delete("x")
        storage.delete("x")

        assert storage.list() == ["lr=1"]

    def test_delete_does_not_follow_a_symbolic_link(self, tmp_path: Path) -> None:
        storage = ExperimentStorage.open(tmp_path / "storage", "e")
        precious = a_directory(tmp_path / "precious", FILES)
        storage.write("trial/a", b"-")
        Path(storage.path, "trial", "link").symlink_to(precious)

        storage.delete("trial")

        assert storage.list() == []
        assert (precious / "model.pt").read_bytes() == FILES["model.pt"]

    def test_upload_takes_a_file_and_a_directory(self, storage: ExperimentStorage, source: Path) -> None:
        storage.upload(source / "model.pt", "trial_1/best.pt")
        storage.upload(source, "trial_1/artifacts")

        assert storage.read("trial_1/best.pt") == FILES["model.pt"]
        assert storage.read("trial_1/artifacts/optimizer/state 1.bin") == FILES["optimizer/state 1.bin"]

    def test_upload_of_a_missing_file_names_it(self, storage: ExperimentStorage) -> None:
        with pytest.raises(FileNotFoundError, match=r"/no/such is to be uploaded to .*/x"):
            storage.upload("/no/such", "x")

    def test_exists_knows_objects_and_directories(self, storage: ExperimentStorage) -> None:
        storage.write("trial_1/result.json", b"")

        assert storage.exists("trial_1")
        assert storage.exists("trial_1/result.json")
        assert not storage.exists("trial")

    def test_half_written_temporary_files_are_not_listed(self, tmp_path: Path) -> None:
        faulty = FaultyFileSystem(LocalFileSystem(), fail_at=1, fault=Fault.PARTIAL)
        storage = ExperimentStorage.open(tmp_path, "e", filesystem=faulty)

        with pytest.raises(StorageError, match="write 1"):
            storage.write("a", b"whole")

        assert storage.list() == []

    def test_create_whose_reply_was_lost_succeeds(self, root: tuple[Any, str]) -> None:
        filesystem, path = root
        clean = FaultyFileSystem(filesystem)
        ExperimentStorage.open(path, "e", filesystem=clean).create("counted", b"mine")
        faulty = FaultyFileSystem(filesystem, fail_at=len(clean.writes), fault=Fault.LOST_REPLY)

        ExperimentStorage.open(path, "e", filesystem=faulty).create("a", b"mine")

        assert filesystem.cat_file(f"{path}/e/a") == b"mine"

    def test_colliding_conditional_writes_are_tried_again(
        self, storage: ExperimentStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Refusal(Exception):
            def __init__(self) -> None:
                self.response = {"Error": {"Code": "ConditionalRequestConflict"}}

        attempts: list[str] = []

        def collide_twice(filesystem: Any, path: str, data: bytes) -> None:
            attempts.append(path)
            if len(attempts) < 3:
                raise Refusal
            transfer.create_bytes(filesystem, path, data)

        monkeypatch.setattr(objects, "create_bytes", collide_twice)
        monkeypatch.setattr("time.sleep", lambda _: None)

        storage.create("a", b"mine")

        assert len(attempts) == 3
        assert storage.read("a") == b"mine"


class TestOpen:
    def test_default_path_is_in_the_home_directory(self) -> None:
        storage = ExperimentStorage.open(None, "e")

        assert storage.path == str(Path(DEFAULT_STORAGE_PATH).expanduser() / "e")
        assert storage.url == storage.path
        assert storage.is_local

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "..",
            "a/../../b",
            "/absolute",
            "a//b",
            ".",
            "nul\0",
            "line\nbreak",
            "\x7f",
            "\udc80",
            "a/",
            "\ufffe",
            "a" * 256,
            f"a/{'ü' * 128}",
        ],
    )
    def test_names_that_leave_the_storage_path_are_refused(
        self, storage: ExperimentStorage, name: str
    ) -> None:
        with pytest.raises(ConfigError, match="experiment name"):
            ExperimentStorage.open("memory://x", name)
        for use in (storage.read, storage.delete, storage.exists):
            if name or use is storage.delete:
                with pytest.raises(StorageError, match="object name"):
                    use(name)
        with pytest.raises(StorageError, match="trial name"):
            storage.committed(name)

    def test_trial_name_is_one_part(self, storage: ExperimentStorage, source: Path) -> None:
        with pytest.raises(StorageError, match=r"trial name 'a/b' .* has a '/'"):
            storage.commit_checkpoint(
                "a/b", source, index=0, attempt_number=1, iteration=1, rows=[], metrics={}
            )

    @pytest.mark.parametrize(
        ("path", "parts"),
        [
            ("s3://bucket/runs/digits/", ("s3://bucket/runs", "digits")),
            ("file:///digits", ("file:///", "digits")),
            ("/digits", ("/", "digits")),
            ("digits", (".", "digits")),
        ],
    )
    def test_path_of_an_experiment_has_a_place_and_a_name(self, path: str, parts: tuple[str, str]) -> None:
        assert split_path(path) == parts

    @pytest.mark.parametrize(
        "path", ["s3://bucket", "s3:/tuning/exp", "s3:/exp", Path("s3://tuning/exp"), ""]
    )
    def test_path_of_no_experiment_is_refused(self, path: str | Path) -> None:
        with pytest.raises(ConfigError, match=r"expected <storage_path>/<name>|a URL has '//'"):
            experiment_at(path)
        with pytest.raises(ConfigError):
            Tuner.can_restore(path)

    def test_url_never_shows_credentials(self) -> None:
        storage = ExperimentStorage.open(
            "s3://AKIA:hunter2@bucket/runs?endpoint_override=localhost:9000&scheme=http", "e"
        )

        shown = f"{storage.url} {storage!r} {storage.checkpoint('t', 1)!r} {storage.path}"

        assert storage.url == "s3://bucket/runs/e"
        assert "hunter2" not in shown
        assert storage.fs.secret == "hunter2"
        assert storage.fs.endpoint_url == "http://localhost:9000"

    def test_pickled_storage_reaches_the_same_place(self, storage: ExperimentStorage) -> None:
        storage.create("a", b"1")

        again = pickle.loads(pickle.dumps(storage))

        assert again.read("a") == b"1"
        assert (again.url, again.path, again.name) == (storage.url, storage.path, storage.name)

    def test_pickled_s3_storage_carries_options_but_no_session(self) -> None:
        storage = ExperimentStorage.open("s3://bucket/x", "e", storage_options={"key": "k", "secret": "s"})

        again = pickle.loads(pickle.dumps(storage))

        assert again.fs.secret == "s"
        assert again.fs._s3 is None


class TestProbe:
    def test_probe_passes_and_leaves_nothing(self, storage: ExperimentStorage) -> None:
        storage.probe()

        assert storage.list() == []

    def test_storage_that_overwrites_is_refused_unless_fencing_is_given_up(self) -> None:
        class Forgetful(MemoryFileSystem):  # type: ignore[misc] # as RGW is on a versioned bucket
            def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
                super().pipe_file(path, value, **kwargs)

        filesystem = Forgetful(global_store=False, skip_instance_cache=True)

        with pytest.raises(
            StorageError, match=r"cannot refuse the second of two writers.*without versioning"
        ):
            ExperimentStorage.open("/b", "e", filesystem=filesystem).probe()

        ExperimentStorage.open("/b", "e", filesystem=filesystem, fencing=False).probe()

    def test_filesystem_that_checks_before_it_writes_is_refused_unless_fencing_is_given_up(
        self, tmp_path: Path, source: Path
    ) -> None:
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import LocalFileSystem as ArrowLocal

        filesystem = ArrowFSWrapper(ArrowLocal())
        filesystem_path = str(tmp_path / "arrow")

        with pytest.raises(
            StorageError, match=r"checks first and writes then.*storage_path='s3://.*s3fs"
        ) as caught:
            ExperimentStorage.open(filesystem_path, "e", filesystem=filesystem).probe()

        assert "fencing" not in str(caught.value), "no public argument takes it"

        unfenced = ExperimentStorage.open(filesystem_path, "e", filesystem=filesystem, fencing=False)
        unfenced.probe()
        commit(unfenced, source)
        with pytest.raises(CreateConflict):
            unfenced.create(f"trial_1/checkpoint_000000/{WRITER}", b"other")
        assert content(unfenced.checkpoint("trial_1", 0), tmp_path / "out") == FILES
        unfenced.delete_checkpoint("trial_1", 0)
        assert unfenced.list("trial_1") == []

    @pytest.mark.parametrize("fault", ["changes", "hides"])
    def test_storage_that_changes_or_hides_what_was_written_is_refused(self, fault: str) -> None:
        class Odd(MemoryFileSystem):  # type: ignore[misc]
            def cat_file(self, *args: Any, **kwargs: Any) -> bytes:
                data: bytes = super().cat_file(*args, **kwargs)
                return data.upper() if fault == "changes" else data

            def find(self, *args: Any, **kwargs: Any) -> Any:
                return {} if fault == "hides" else super().find(*args, **kwargs)

        storage = ExperimentStorage.open(
            "/b", "e", filesystem=Odd(global_store=False, skip_instance_cache=True)
        )

        with pytest.raises(StorageError, match=r"came back changed|not listed at once"):
            storage.probe()

    def test_disk_without_hard_links_is_refused(self, tmp_path: Path) -> None:
        class Fat(LocalFileSystem):  # type: ignore[misc] # exFAT and some network disks
            def link(self, src: str, dst: str, **kwargs: Any) -> None:
                raise PermissionError(1, "Operation not permitted")

        with pytest.raises(StorageError, match="has no hard links"):
            ExperimentStorage.open(tmp_path, "e", filesystem=Fat()).probe()

    def test_directory_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")

        with pytest.raises(
            StorageError, match=r"file/e: cannot write to it \((NotADirectory|FileExists)Error"
        ):
            ExperimentStorage.open(tmp_path / "file", "e").probe()

    def test_filesystem_that_hangs_is_given_up_in_time(self) -> None:
        released = threading.Event()

        class Hanging(MemoryFileSystem):  # type: ignore[misc]
            def pipe_file(self, *args: Any, **kwargs: Any) -> None:
                released.wait(10)

        storage = ExperimentStorage.open("/b", "e", filesystem=Hanging(skip_instance_cache=True))
        try:
            with pytest.raises(StorageError, match=r"memory:///?b/e: no answer within 0.05 s"):
                storage.probe(timeout_s=0.05)
        finally:
            released.set()


class TestCommit:
    def test_committed_checkpoint_comes_back_whole(
        self, storage: ExperimentStorage, source: Path, tmp_path: Path
    ) -> None:
        rows = [{"loss": float("inf"), "training_iteration": 3}]

        marker = commit(
            storage, source, index=7, attempt_number=2, iteration=4, rows=rows, metrics={"loss": 0.5}
        )

        assert (marker.index, marker.attempt_number, marker.iteration, marker.metrics) == (
            7,
            2,
            4,
            {"loss": 0.5},
        )
        assert storage.committed("trial_1") == [marker]
        assert storage.committed("trial_1")[0].rows == tuple(rows)
        assert content(storage.checkpoint("trial_1", 7), tmp_path / "out") == FILES

    def test_files_lie_directly_in_the_checkpoint_directory(self, tmp_path: Path, source: Path) -> None:
        storage = ExperimentStorage.open(tmp_path / "storage", "e")

        commit(storage, source, index=7)

        path = storage.checkpoint("trial_1", 7).path
        assert path.endswith("/e/trial_1/checkpoint_000007")
        assert Path(os.path.join(path, "model.pt")).read_bytes() == FILES["model.pt"]  # noqa: PTH118 - as users do

    def test_index_that_another_writer_holds_is_passed_over(
        self, storage: ExperimentStorage, source: Path
    ) -> None:
        storage.create(f"trial_1/checkpoint_000003/{WRITER}", b'{"write_id": "another"}')
        commit(storage, source, index=4)

        marker = commit(storage, source, index=3)

        assert marker.index == 5
        assert indices(storage) == [4, 5]

    def test_empty_directories_and_an_empty_checkpoint_survive(
        self, storage: ExperimentStorage, tmp_path: Path
    ) -> None:
        (tmp_path / "with" / "empty" / "inner").mkdir(parents=True)
        (tmp_path / "nothing").mkdir()

        commit(storage, tmp_path / "with", index=0)
        commit(storage, tmp_path / "nothing", index=1)

        first = Path(storage.checkpoint("trial_1", 0).to_directory(tmp_path / "a"))
        second = Path(storage.checkpoint("trial_1", 1).to_directory(tmp_path / "b"))
        assert [str(path.relative_to(first)) for path in sorted(first.rglob("*"))] == ["empty", "empty/inner"]
        assert list(second.iterdir()) == []

    def test_symbolic_links_are_followed(
        self, storage: ExperimentStorage, source: Path, tmp_path: Path
    ) -> None:
        (source / "link.pt").symlink_to(source / "model.pt")
        (source / "folder").symlink_to(a_directory(tmp_path / "elsewhere", {"x": b"1"}))

        commit(storage, source)

        found = content(storage.checkpoint("trial_1", 0), tmp_path / "out")
        assert found == {**FILES, "link.pt": FILES["model.pt"], "folder/x": b"1"}

    @pytest.mark.parametrize(
        ("spoil", "text"),
        [
            (lambda path: (path / "loop").symlink_to(path), "a directory that contains it"),
            (lambda path: (path / "gone").symlink_to(path / "nothing"), "a dangling symbolic link"),
            (lambda path: os.mkfifo(path / "pipe"), "neither a file nor a directory"),
            (lambda path: (path / "COMMIT.json").write_text("{}"), r"contains \['COMMIT.json'\].*reserved"),
            (lambda path: (path / ".writer.json").write_text("{}"), r"contains \['.writer.json'\].*reserved"),
            (lambda path: (path / "new\nline").write_text(""), "control characters"),
            (lambda path: (path / os.fsdecode(b"\xff")).write_text(""), "not valid UTF-8"),
            (lambda path: (path / "a?versionId=1").write_text(""), "versionId"),
        ],
    )
    def test_what_no_storage_can_hold_is_refused_and_nothing_is_written(
        self, storage: ExperimentStorage, source: Path, spoil: Callable[[Path], Any], text: str
    ) -> None:
        spoil(source)

        with pytest.raises(CheckpointError, match=text):
            commit(storage, source)

        assert storage.list("trial_1") == []

    def test_source_that_is_no_directory_is_named(self, storage: ExperimentStorage, source: Path) -> None:
        with pytest.raises(
            CheckpointError, match=r"model.pt'\) is a file: tune.report\(checkpoint=\) needs a dir"
        ):
            commit(storage, source / "model.pt")
        with pytest.raises(CheckpointError, match=r"'/no/such' does not exist: tune.report"):
            commit(storage, "/no/such")
        with pytest.raises(CheckpointError, match=r"Checkpoint\(.*/no/such\) does not exist"):
            commit(storage, Checkpoint.from_directory("/no/such"))
        with pytest.raises(CheckpointError, match="7 is no path"):
            commit(storage, 7)

    def test_restored_checkpoint_can_be_reported_again(
        self, storage: ExperimentStorage, source: Path, tmp_path: Path
    ) -> None:
        commit(storage, source, index=0)

        again = commit(storage, storage.checkpoint("trial_1", 0), index=1)

        assert {entry.name for entry in again.files} == set(FILES)
        assert content(storage.checkpoint("trial_1", 1), tmp_path / "out") == FILES

    def test_commit_whose_last_reply_was_lost_succeeds(
        self, root: tuple[Any, str], source: Path, tmp_path: Path
    ) -> None:
        filesystem, path = root
        counted = FaultyFileSystem(filesystem)
        commit(ExperimentStorage.open(path, "counted", filesystem=counted), source)
        faulty = FaultyFileSystem(filesystem, fail_at=len(counted.writes), fault=Fault.LOST_REPLY)
        storage = ExperimentStorage.open(path, "e", filesystem=faulty)

        marker = commit(storage, source)

        assert storage.committed("trial_1") == [marker]
        assert content(storage.checkpoint("trial_1", 0), tmp_path / "out") == FILES

    def test_file_that_changes_while_it_is_uploaded_fails_the_commit(
        self, storage: ExperimentStorage, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "SMALL_FILE", 10)
        measure = transfer.digest_of_file

        def grow(path: Path) -> str:
            path.write_bytes(b"longer than before" * 100)
            return measure(path)

        monkeypatch.setattr(transfer, "digest_of_file", grow)

        with pytest.raises(
            CheckpointError, match=r"model.pt changed or vanished while its checkpoint was upl"
        ):
            commit(storage, source)

        assert indices(storage) == []

    def test_upload_that_was_swept_meanwhile_is_not_committed(
        self, storage: ExperimentStorage, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tune_core.storage import experiment_storage as module

        def sweep_then_check(*args: Any) -> None:
            storage.sweep("trial_1", keep=[], attempt_number=2)
            check(*args)

        check = check_uploaded
        monkeypatch.setattr(module, "check_uploaded", sweep_then_check)

        with pytest.raises(StorageError, match="swept as abandoned"):
            commit(storage, source)

        assert indices(storage) == []

    def test_file_that_arrived_cut_short_fails_the_commit(self, source: Path) -> None:
        class Lossy(MemoryFileSystem):  # type: ignore[misc]
            def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
                super().pipe_file(path, value[:10] if path.endswith("model.pt") else value, mode, **kwargs)

        storage = ExperimentStorage.open(
            "/b", "e", filesystem=Lossy(global_store=False, skip_instance_cache=True)
        )

        with pytest.raises(
            StorageError, match=r"model.pt: 700 bytes were uploaded, the storage has 10 bytes"
        ):
            commit(storage, source)

        assert indices(storage) == []

    def test_time_limit_ends_a_commit_and_no_marker_follows(self, source: Path) -> None:
        released, uploads = threading.Event(), []

        class Slow(MemoryFileSystem):  # type: ignore[misc]
            def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
                uploads.append(path)
                if path.endswith("model.pt"):
                    released.wait(10)
                super().pipe_file(path, value, mode, **kwargs)

        storage = ExperimentStorage.open(
            "/b", "e", filesystem=Slow(global_store=False, skip_instance_cache=True)
        )

        with pytest.raises(StorageError, match=r"commit a checkpoint of trial_1: no answer within 0.2 s"):
            commit(storage, source, timeout_s=0.2)
        released.set()
        for thread in threading.enumerate():
            if thread.name == "tune-storage":
                thread.join(10)

        assert indices(storage) == []
        assert not any(path.endswith(COMMIT) for path in uploads)


def faults() -> list[Any]:
    return [
        pytest.param(fault, is_fatal, id=f"{fault}-{'fatal' if is_fatal else 'once'}")
        for fault in Fault
        for is_fatal in (False, True)
    ]


@pytest.mark.parametrize(("fault", "is_fatal"), faults())
class TestCrashPoints:
    """Write number k fails, for every k."""

    def test_commit_shows_the_old_state_or_the_whole_new_checkpoint(
        self, root: tuple[Any, str], source: Path, tmp_path: Path, fault: Fault, is_fatal: bool
    ) -> None:
        filesystem, path = root
        for number in range(1, 100):
            reader = ExperimentStorage.open(path, f"run-{number}", filesystem=filesystem)
            commit(reader, a_directory(tmp_path / "old", {"old.pt": b"old"}), index=0)
            faulty = FaultyFileSystem(filesystem, fail_at=number, fault=fault, is_fatal=is_fatal)
            writer = ExperimentStorage.open(path, f"run-{number}", filesystem=faulty)

            error: Exception | None = None
            try:
                commit(writer, source, index=1)
            except (StorageError, CheckpointError) as caught:
                error = caught

            found = indices(reader)
            assert found in ([0], [0, 1], [0, 2])
            assert error is None or found == [0] or fault is Fault.LOST_REPLY
            assert error is not None or len(found) == 2, "an acknowledged checkpoint is missing"
            assert content(reader.checkpoint("trial_1", 0), tmp_path / f"{number}-0") == {"old.pt": b"old"}
            for index in found[1:]:
                assert content(reader.checkpoint("trial_1", index), tmp_path / f"{number}-1") == FILES
            self.recover(reader, source, found)
            if len(faulty.writes) < number:
                break
        else:
            pytest.fail("the writer never ran out of writes")

    def recover(self, reader: ExperimentStorage, source: Path, found: list[int]) -> None:
        after = commit(reader, source, index=found[-1] + 1, attempt_number=2).index
        reader.sweep("trial_1", keep=[*found, after], attempt_number=2)
        with time_machine.travel(time.time() + 2 * SETTLED_S, tick=False):
            reader.sweep("trial_1", keep=[*found, after], attempt_number=2)

        assert indices(reader) == [*found, after]
        assert reader.list("trial_1") == [f"checkpoint_{index:06d}" for index in (*found, after)]

    def test_delete_shows_the_whole_checkpoint_or_none(
        self, root: tuple[Any, str], source: Path, tmp_path: Path, fault: Fault, is_fatal: bool
    ) -> None:
        filesystem, path = root
        for number in range(1, 100):
            reader = ExperimentStorage.open(path, f"run-{number}", filesystem=filesystem)
            commit(reader, source, index=0)
            faulty = FaultyFileSystem(filesystem, fail_at=number, fault=fault, is_fatal=is_fatal)
            try:
                ExperimentStorage.open(path, f"run-{number}", filesystem=faulty).delete_checkpoint(
                    "trial_1", 0
                )
            except StorageError as error:
                assert isinstance(error.__cause__, InjectedFault)  # noqa: PT017 - it need not be raised

            for _ in indices(reader):
                assert content(reader.checkpoint("trial_1", 0), tmp_path / f"out-{number}") == FILES
            reader.delete_checkpoint("trial_1", 0)
            assert indices(reader) == []
            assert reader.list("trial_1") == []
            if len(faulty.writes) < number:
                break
        else:
            pytest.fail("the deletion never ran out of writes")


def test_deletion_removes_the_marker_first_and_the_reservation_last(
    root: tuple[Any, str], source: Path
) -> None:
    filesystem, path = root
    (source / "A").write_bytes(b"would be listed before the marker")
    faulty = FaultyFileSystem(filesystem)
    storage = ExperimentStorage.open(path, "e", filesystem=faulty)
    commit(storage, source)
    faulty.writes.clear()

    storage.delete_checkpoint("trial_1", 0)

    removed = [path.rpartition("/")[2] for operation, path in faulty.writes if operation == "rm_file"]
    assert (removed[0], removed[-1]) == (COMMIT, WRITER)
    assert {"A", "model.pt"} < set(removed)


class TestCommitted:
    def test_each_marker_is_read_once(self, root: tuple[Any, str], source: Path) -> None:
        filesystem, path = root
        reads: list[str] = []

        class Counting(FaultyFileSystem):
            def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
                reads.append(path)
                return super().cat_file(path, *args, **kwargs)

        storage = ExperimentStorage.open(path, "e", filesystem=Counting(filesystem))
        for index in range(3):
            commit(storage, source, index=index)
        reads.clear()

        assert indices(storage) == [0, 1, 2]
        assert indices(storage) == [0, 1, 2]

        assert len(reads) == 3

    def test_checkpoint_that_was_deleted_and_committed_again_is_read_again(
        self, storage: ExperimentStorage, source: Path
    ) -> None:
        other = pickle.loads(pickle.dumps(storage))
        commit(storage, source, index=0)
        first = storage.committed("trial_1")

        other.delete_checkpoint("trial_1", 0)
        second = commit(other, source, index=0)

        assert storage.committed("trial_1") == [second]
        assert first != [second]

    def test_no_more_markers_than_needed_are_remembered(
        self, storage: ExperimentStorage, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tune_core.storage import experiment_storage as module

        monkeypatch.setattr(module, "_MAX_REMEMBERED", 2)
        for index in range(4):
            commit(storage, source, index=index)

        assert indices(storage) == [0, 1, 2, 3]
        assert len(storage._remembered) == 2

    def test_damaged_marker_is_named(self, storage: ExperimentStorage, source: Path) -> None:
        commit(storage, source, index=0)
        name = f"trial_1/checkpoint_000000/{COMMIT}"
        storage.write(name, storage.read(name).replace(b'"iteration":1', b'"iteration":9'))

        with pytest.raises(CheckpointCorrupted, match=r"checkpoint_000000: COMMIT.json is damaged"):
            storage.committed("trial_1")


def test_uncommitted_checkpoint_cannot_be_read(storage: ExperimentStorage, source: Path) -> None:
    commit(storage, source, index=7)
    storage.delete(f"trial_1/checkpoint_000007/{COMMIT}")

    with (
        pytest.raises(CheckpointNotFound, match=r"checkpoint_000007 was never committed"),
        storage.checkpoint("trial_1", 7).as_directory(),
    ):
        pass
    assert indices(storage) == []


def test_index_runs_out_only_with_a_remedy(
    storage: ExperimentStorage, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune_core.storage import experiment_storage as module

    monkeypatch.setattr(module, "_MAX_TAKEN", 2)
    for index in (0, 1):
        storage.create(f"trial_1/checkpoint_{index:06d}/{WRITER}", b"another")

    with pytest.raises(StorageError, match=re.escape("2 checkpoints from 0 on are taken: sweep the trial")):
        commit(storage, source, index=0)
