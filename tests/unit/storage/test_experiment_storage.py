from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.support.directories import a_directory
from tests.support.stored import FILES, commit, content, indices
from tune_core.control.namesakes import experiment_at
from tune_core.errors import (
    CheckpointCorrupted,
    CheckpointError,
    CheckpointNotFound,
    ConfigError,
    StorageError,
)
from tune_core.storage import transfer
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.checkpoint_files import check_uploaded
from tune_core.storage.commit import COMMIT, WRITER
from tune_core.storage.experiment_storage import (
    DEFAULT_STORAGE_PATH,
    ExperimentStorage,
    split_path,
)
from tune_core.testing.faults import Fault, FaultyFileSystem
from tune_core.tuner import Tuner


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
