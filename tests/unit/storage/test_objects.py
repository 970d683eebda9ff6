"""Objects of a storage, and what is asked of it before anything is stored."""

from __future__ import annotations

import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tests.support.directories import a_directory
from tests.support.stored import FILES, commit, content
from tune_core.errors import (
    CreateConflict,
    StorageError,
)
from tune_core.storage import objects, transfer
from tune_core.storage.commit import WRITER
from tune_core.storage.experiment_storage import (
    ExperimentStorage,
)
from tune_core.testing.faults import Fault, FaultyFileSystem


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
