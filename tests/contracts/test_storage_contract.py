"""What an experiment needs of a storage, on every kind that is supported."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.contracts.conftest import Place, RawObjects, open_s3, raw_objects
from tests.support.directories import a_directory
from tests.support.s3_servers import S3Server
from tune_core.errors import CheckpointCorrupted, CheckpointNotFound, CreateConflict, StorageError
from tune_core.storage import experiment_storage as storage_module
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.commit import COMMIT, WRITER
from tune_core.storage.experiment_storage import CheckpointMarker, ExperimentStorage

ODD_FILES = {
    "a b+c=é%25#.bin": b"odd",
    "[x]*{y}$&'(),;@~^`": b"pattern",
    "question?mark": b"?",
    "deep/er/ü.txt": b"utf-8",
    "same/name/same/name": b"nested",
    "zero": b"",
    ".hidden": b"dot",
}


def commit(
    storage: ExperimentStorage, source: Any, index: int = 0, attempt_number: int = 1
) -> CheckpointMarker:
    return storage.commit_checkpoint(
        "trial_1",
        source,
        index=index,
        attempt_number=attempt_number,
        iteration=index + 1,
        rows=[{"loss": float("nan")}],
        metrics={},
    )


def content(path: str | Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()
    }


def test_probe_passes_and_leaves_nothing(place: Place) -> None:
    storage = place.open()

    storage.probe()

    assert place.raw.names(storage.path) == []


def race(storages: list[ExperimentStorage], name: str) -> dict[bytes, Exception | None]:
    """Eight threads create one object at once; what each wrote, and the error that it got."""
    barrier = threading.Barrier(8)
    outcomes: dict[bytes, Exception | None] = {}

    def write(number: int) -> None:
        data = b"writer %d" % number
        barrier.wait()
        try:
            storages[number % len(storages)].create(name, data)
        except Exception as error:  # noqa: BLE001 - the caller compares it
            outcomes[data] = error
        else:
            outcomes[data] = None

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def need_one_winner(place: Place) -> None:
    """Skip a race of writers on what is no server to be raced on."""
    if place.kind == "moto":
        pytest.skip("moto looks and writes in two steps: on a busy machine two writers have won")


def test_one_of_eight_writers_wins_every_round(place: Place) -> None:
    need_one_winner(place)
    # Writers share connections, as threads of one process do, or have their own.
    storages = [place.open(), place.open()]
    # SeaweedFS lets those who lose wait a second, one after the other.
    for number in range({"seaweedfs": 2}.get(place.kind, 30)):
        outcomes = race(storages, f"round-{number}")

        (winner,) = [data for data, error in outcomes.items() if error is None]
        assert {type(error) for error in outcomes.values()} == {type(None), CreateConflict}
        assert place.raw.get(storages[0].absolute(f"round-{number}")) == winner


def test_object_with_other_bytes_is_a_conflict_with_the_same_bytes_success(place: Place) -> None:
    storage = place.open()
    storage.create("journal/00000001.jsonl", b"mine")

    storage.create("journal/00000001.jsonl", b"mine")
    with pytest.raises(CreateConflict, match="exists already, with other content"):
        storage.create("journal/00000001.jsonl", b"other")

    assert place.raw.get(storage.absolute("journal/00000001.jsonl")) == b"mine"


def test_odd_names_and_empty_directories_come_back(place: Place, tmp_path: Path) -> None:
    source = a_directory(tmp_path / "source", ODD_FILES)
    (source / "empty").mkdir()
    storage = place.open()

    marker = commit(storage, source, index=7)

    directory = Path(place.open().checkpoint("trial_1", 7).to_directory(tmp_path / "copy"))
    assert content(directory) == ODD_FILES
    assert (directory / "empty").is_dir()
    assert {entry.name: entry.size for entry in marker.files if entry.size} == {
        name: len(data) for name, data in ODD_FILES.items() if data
    }
    raw = set(place.raw.names(storage.absolute("trial_1/checkpoint_000007")))
    assert raw == {*ODD_FILES, COMMIT, WRITER}


def test_large_file_travels_in_parts_and_is_measured(place: Place, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(20 * 2**20 + 7)
    source = a_directory(tmp_path / "source", {"model.pt": data})
    storage = place.open()

    marker = commit(storage, source)

    (entry,) = marker.files
    assert (entry.size, entry.digest) == (len(data), f"xxh3:{xxhash.xxh3_128_hexdigest(data)}")
    with storage.checkpoint("trial_1", 0).as_directory() as path:
        assert Path(path, "model.pt").read_bytes() == data
    if isinstance(place.raw, RawObjects):
        where = place.raw.at(storage.absolute("trial_1/checkpoint_000000/model.pt"))
        tag = place.raw.client.head_object(**where)["ETag"]
        assert tag.strip('"').endswith("-3")


def test_marker_carries_rows_to_another_process(place: Place, tmp_path: Path) -> None:
    source = a_directory(tmp_path / "source", {"a": b"1"})

    marker = commit(place.open(), source, index=3, attempt_number=2)

    (found,) = place.open().committed("trial_1")
    assert (found.index, found.attempt_number, found.write_id, found.files) == (
        3,
        2,
        marker.write_id,
        marker.files,
    )
    assert repr(found.rows) == repr(({"loss": float("nan")},))


def test_writers_of_one_index_get_one_each(place: Place, tmp_path: Path) -> None:
    need_one_winner(place)
    sources = [a_directory(tmp_path / str(number), {"a": b"%d" % number}) for number in range(3)]
    barrier, markers = threading.Barrier(3), {}

    def write(number: int) -> None:
        storage = place.open()
        barrier.wait()
        markers[number] = commit(storage, sources[number], index=5, attempt_number=number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(marker.index for marker in markers.values()) == [5, 6, 7]
    for number, marker in markers.items():
        with place.open().checkpoint("trial_1", marker.index).as_directory() as path:
            assert Path(path, "a").read_bytes() == b"%d" % number


def test_list_and_exists_show_what_others_did_since(place: Place) -> None:
    mine, other = place.open(), place.open()
    mine.write("first", b"-")

    # Each look may leave a cached listing behind that the next one must not use.
    assert mine.list() == ["first"]
    other.write("second", b"-")
    assert mine.list() == ["first", "second"]
    other.write("third", b"-")
    assert mine.exists("third")
    assert mine.list() == ["first", "second", "third"]
    other.delete("third")
    assert not mine.exists("third")
    assert mine.list() == ["first", "second"]
    other.delete("second")
    assert mine.list() == ["first"]


def test_committed_shows_what_others_did_since(place: Place, tmp_path: Path) -> None:
    mine, other = place.open(), place.open()
    source = a_directory(tmp_path / "source", {"a": b"1"})

    def seen() -> list[str]:
        return [marker.write_id for marker in mine.committed("trial_1")]

    assert seen() == []
    first = commit(other, source, index=0).write_id
    assert seen() == [first]
    second = commit(other, source, index=1).write_id
    assert seen() == [first, second]
    other.delete_checkpoint("trial_1", 0)
    assert seen() == [second]
    again = commit(other, source, index=0).write_id
    assert seen() == [again, second]


def test_deleted_checkpoint_is_gone_and_deleting_again_is_fine(place: Place, tmp_path: Path) -> None:
    storage, other = place.open(), place.open()
    source = a_directory(tmp_path / "source", {"a": b"1", "deep/b": b"2"})
    for index in (0, 1):
        commit(storage, source, index=index)
    assert len(other.committed("trial_1")) == 2

    storage.delete_checkpoint("trial_1", 0)
    storage.delete_checkpoint("trial_1", 0)

    assert [marker.index for marker in other.committed("trial_1")] == [1]
    assert place.raw.names(storage.absolute("trial_1/checkpoint_000000")) == []
    with pytest.raises(CheckpointNotFound, match="checkpoint_000000 does not exist"):
        other.checkpoint("trial_1", 0).to_directory()
    assert not other.exists("trial_1/checkpoint_000000")


def test_directory_whose_name_looks_like_a_pattern_is_deleted_alone(place: Place) -> None:
    storage = place.open()
    for name in ("t[12]/a", "t1/a", "t*/a", "t"):
        storage.write(name, b"-")

    storage.delete("t[12]")
    storage.delete("t*")

    assert sorted(place.raw.names(storage.path)) == ["t", "t1/a"]


def test_unmarked_upload_is_invisible_and_is_swept_when_its_attempt_is_over(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = place.open()
    commit(storage, a_directory(tmp_path / "source", {"a": b"1"}), index=0)
    commit(storage, tmp_path / "source", index=1)
    for name, data in ((WRITER, b'{"attempt_number": 1}'), ("a", b"half")):
        place.raw.put(storage.absolute(f"trial_1/checkpoint_000002/{name}"), data)

    assert [marker.index for marker in storage.committed("trial_1")] == [0, 1]
    with pytest.raises(CheckpointNotFound, match="checkpoint_000002 was never committed"):
        storage.checkpoint("trial_1", 2).to_directory()
    assert storage.sweep("trial_1", keep=[0], attempt_number=1) == []
    assert storage.sweep("trial_1", keep=[0], attempt_number=2) == [1, 2]

    assert storage.sweep("trial_1", keep=[0], attempt_number=2) == []
    left = [name for name in place.raw.names(storage.absolute("trial_1")) if "000000" not in name]
    assert set(left) == {f"checkpoint_000002/{COMMIT}", f"checkpoint_000002/{WRITER}"}
    assert [marker.index for marker in storage.committed("trial_1")] == [0]
    monkeypatch.setattr(storage_module, "SETTLED_S", -5.0)  # S3's clock is another one
    assert storage.sweep("trial_1", keep=[0], attempt_number=2) == [2]
    left = [name for name in place.raw.names(storage.absolute("trial_1")) if "000000" not in name]
    assert left == []


def test_damage_at_rest_is_found_and_named(place: Place, tmp_path: Path) -> None:
    storage = place.open()
    commit(storage, a_directory(tmp_path / "source", {"a": b"good", "b": b"fine"}))
    place.raw.put(storage.absolute("trial_1/checkpoint_000000/b"), b"fire")

    with pytest.raises(CheckpointCorrupted, match=r"checkpoint_000000/b: expected 4 bytes with digest"):
        storage.checkpoint("trial_1", 0).to_directory(tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


def test_restored_checkpoint_can_be_reported_again(place: Place, tmp_path: Path) -> None:
    storage = place.open()
    commit(storage, a_directory(tmp_path / "source", ODD_FILES), index=0)
    restored = storage.checkpoint("trial_1", 0)

    commit(storage, restored, index=1)
    with restored.as_directory() as path:
        commit(storage, Checkpoint.from_directory(path), index=2)

    for index in (1, 2):
        assert content(storage.checkpoint("trial_1", index).to_directory(tmp_path / str(index))) == ODD_FILES


def test_metadata_may_change_after_the_commit(place: Place, tmp_path: Path) -> None:
    storage = place.open()
    commit(storage, a_directory(tmp_path / "source", {"a": b"1"}))
    checkpoint = storage.checkpoint("trial_1", 0)

    checkpoint.set_metadata({"epoch": 3})
    checkpoint.update_metadata({"best": True})

    assert place.open().checkpoint("trial_1", 0).get_metadata() == {"epoch": 3, "best": True}
    checkpoint.to_directory(tmp_path / "copy")


def use_storage(pickled: bytes, source: str) -> None:
    """What a worker does: take the storage out of its attempt, restore, commit."""
    storage: ExperimentStorage = pickle.loads(pickled)
    storage.checkpoint("trial_1", 0).to_directory(f"{source}-in-worker")
    commit(storage, source, index=1, attempt_number=2)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # what users' data loaders do all the same
def test_storage_works_in_another_process(seaweedfs: S3Server, tmp_path: Path, method: str) -> None:
    storage = open_s3(seaweedfs, f"process-{method}")
    source = a_directory(tmp_path / "source", {"a": b"1"})
    commit(storage, source, index=0)  # the parent has an open session now

    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=use_storage, args=(pickle.dumps(storage), str(source)))
    process.start()
    process.join(60)

    assert process.exitcode == 0
    assert [marker.attempt_number for marker in storage.committed("trial_1")] == [1, 2]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_storage_object_survives_a_fork(seaweedfs: S3Server) -> None:
    storage = open_s3(seaweedfs, "inherited")
    storage.write("from", b"parent")

    process = multiprocessing.get_context("fork").Process(target=lambda: storage.write("from", b"child"))
    process.start()
    process.join(60)

    assert process.exitcode == 0
    assert storage.read("from") == b"child"


class TestProbeFailures:
    def test_missing_bucket_is_named_and_not_created(self, s3_server: S3Server) -> None:
        storage = ExperimentStorage.open(
            "s3://no-such-bucket/runs", "e", storage_options=s3_server.storage_options
        )

        with pytest.raises(
            StorageError, match=r"s3://no-such-bucket/runs/e: cannot find its bucket.*never created"
        ):
            storage.probe()

        assert "no-such-bucket" not in raw_objects(s3_server).buckets()

    @pytest.mark.parametrize("wrong", [{"secret": "hunter2"}, {"key": "nobody", "secret": "hunter2"}])
    def test_wrong_credentials_are_named_but_not_shown(
        self, s3_server: S3Server, wrong: dict[str, str]
    ) -> None:
        options = s3_server.storage_options | wrong
        storage = ExperimentStorage.open(f"s3://{s3_server.bucket}/runs", "e", storage_options=options)

        with pytest.raises(StorageError, match="check the credentials") as caught:
            storage.probe()

        assert "hunter2" not in f"{caught.value!r} {storage!r} {storage.url}"

    def test_unreachable_server_is_given_up_within_half_a_minute(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            options = {
                "endpoint_url": f"http://127.0.0.1:{unused.getsockname()[1]}",
                "key": "k",
                "secret": "s",
            }
            storage = ExperimentStorage.open("s3://bucket/runs", "e", storage_options=options)
            began = time.monotonic()

            with pytest.raises(StorageError, match=r"s3://bucket/runs/e: .*check that the s\w+ is up"):
                storage.probe()

            assert time.monotonic() - began < 30

    def test_server_that_hangs_is_given_up_in_time_and_used_when_it_is_back(
        self, seaweedfs: S3Server
    ) -> None:
        storage = open_s3(seaweedfs, "hanging")
        storage.probe()
        os.kill(seaweedfs.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(StorageError, match="no answer within 1 s; check that the server is up"):
                storage.probe(timeout_s=1.0)
        finally:
            os.kill(seaweedfs.pid, signal.SIGCONT)

        assert time.monotonic() - began < 5
        storage.probe()
