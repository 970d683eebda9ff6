"""What a bad network and a struggling server do to a storage: through a proxy, on real S3 servers."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.contracts.conftest import RawObjects, a_session, open_s3, raw_objects
from tests.support.directories import a_directory
from tests.support.fake_uplink import OnlyReports
from tests.support.fault_proxy import FaultProxy, Rule
from tests.support.s3_servers import S3Server
from tune_core import get_checkpoint
from tune_core.errors import CheckpointCorrupted, CheckpointError, CreateConflict, StorageError
from tune_core.states import Outcome
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.commit import COMMIT, WRITER
from tune_core.storage.experiment_storage import CheckpointMarker, ExperimentStorage
from tune_core.training.execution import run_attempt

# s3fs forgets the response of a part that breaks off; aiohttp notices when it is collected.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")

SMALL = {"config.json": b"{}", "state/optimizer.bin": b"\0\1\2" * 1000}
#: Three parts: multipart uploads and ranged downloads.
LARGE = {"model.pt": random.Random(1).randbytes(16 * 2**20 + 1)}


@pytest.fixture
def storage(s3_server: S3Server, proxy: FaultProxy) -> ExperimentStorage:
    return open_s3(s3_server, f"faults-{uuid4().hex[:8]}", proxy.url)


@pytest.fixture
def raw(s3_server: S3Server) -> RawObjects:
    return raw_objects(s3_server)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return a_directory(tmp_path / "small", SMALL)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return a_directory(tmp_path / "large", LARGE)


def commit(
    storage: ExperimentStorage, source: Path, index: int = 0, timeout_s: float = 100.0
) -> CheckpointMarker:
    return storage.commit_checkpoint(
        "trial_1",
        source,
        index=index,
        attempt_number=1,
        iteration=1,
        rows=[],
        metrics={},
        timeout_s=timeout_s,
    )


def content(storage: ExperimentStorage, index: int = 0) -> dict[str, bytes]:
    with storage.checkpoint("trial_1", index).as_directory() as path:
        root = Path(path)
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "rule",
    [
        Rule("status", method="PUT", times=2),
        Rule("status", method="PUT", times=1, status=500, code="InternalError"),
        Rule("status", method="GET", times=2),  # listings are GETs too
        Rule("reset", times=2),
        Rule("reset_body", method="PUT", path="optimizer", times=1, after=1500),
        Rule("truncate", method="GET", path="optimizer", times=1, after=1500),
    ],
    ids=lambda rule: f"{rule.kind}-{rule.method or 'any'}-{rule.path or 'all'}-{rule.status}",
)
def test_passing_faults_are_survived(
    storage: ExperimentStorage, proxy: FaultProxy, small: Path, rule: Rule
) -> None:
    rule = proxy.add(Rule(**{name: getattr(rule, name) for name in FIELDS}))

    marker = commit(storage, small, index=4)

    assert storage.committed("trial_1") == [marker]
    assert content(storage, 4) == SMALL
    assert marker.index == 4
    assert rule.fired == rule.times


FIELDS = ("kind", "method", "path", "times", "skip", "status", "code", "after")


class TestLargeFiles:
    def test_upload_that_breaks_off_in_a_part_is_completed(
        self, storage: ExperimentStorage, proxy: FaultProxy, large: Path
    ) -> None:
        rule = proxy.add(Rule("reset_body", path="partNumber=2", times=1, after=2**20))

        commit(storage, large)

        assert rule.fired == 1
        assert content(storage) == LARGE

    def test_lost_reply_to_the_end_of_a_multipart_upload_is_survived(
        self, storage: ExperimentStorage, proxy: FaultProxy, large: Path
    ) -> None:
        rule = proxy.add(Rule("reset_reply", method="POST", path="uploadId=", times=1))

        commit(storage, large)

        assert rule.fired == 1
        assert content(storage) == LARGE

    def test_cut_download_is_completed(
        self, storage: ExperimentStorage, proxy: FaultProxy, large: Path
    ) -> None:
        commit(storage, large)
        rule = proxy.add(Rule("truncate", method="GET", path=r"model\.pt", skip=1, times=1, after=2**20))

        assert content(storage) == LARGE

        assert rule.fired == 1

    def test_flipped_byte_is_noticed_and_fetched_again(
        self, storage: ExperimentStorage, proxy: FaultProxy, large: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        commit(storage, large)
        rule = proxy.add(Rule("corrupt", method="GET", path=r"model\.pt", skip=1, times=1, after=2**20))

        assert content(storage) == LARGE

        assert rule.fired == 1
        assert "model.pt was damaged on its way" in caplog.text

    def test_byte_that_stays_flipped_is_an_error_that_names_the_file(
        self, storage: ExperimentStorage, proxy: FaultProxy, large: Path, tmp_path: Path
    ) -> None:
        commit(storage, large)
        proxy.add(Rule("corrupt", method="GET", path=r"model\.pt", after=2**20))

        with pytest.raises(
            CheckpointCorrupted, match=r"model\.pt: expected 16777217 bytes with digest [\w:]+, found"
        ):
            storage.checkpoint("trial_1", 0).to_directory(tmp_path / "copy")

        assert not (tmp_path / "copy").exists()


class TestLostReplies:
    """The server has done it, the client never learns, retries, and meets its own object."""

    def test_marker(
        self, storage: ExperimentStorage, proxy: FaultProxy, raw: RawObjects, small: Path
    ) -> None:
        rule = proxy.add(Rule("reset_reply", method="PUT", path=COMMIT, times=1))

        marker = commit(storage, small)

        assert rule.fired == 1
        assert (
            CheckpointMarker.from_json(raw.get(f"{storage.checkpoint('trial_1', 0).path}/{COMMIT}")) == marker
        )
        assert storage.committed("trial_1") == [marker]

    def test_reservation(self, storage: ExperimentStorage, proxy: FaultProxy, small: Path) -> None:
        rule = proxy.add(Rule("reset_reply", method="PUT", path=r"\.writer\.json", times=1))

        marker = commit(storage, small, index=3)

        assert rule.fired == 1
        assert marker.index == 3

    def test_object_that_another_writer_created_first_is_still_a_conflict(
        self, storage: ExperimentStorage, proxy: FaultProxy, raw: RawObjects
    ) -> None:
        raw.put(storage.absolute("journal/00000001.jsonl"), b"another driver's")
        proxy.add(Rule("reset_reply", method="PUT", times=1))

        with pytest.raises(CreateConflict):
            storage.create("journal/00000001.jsonl", b"mine")

        assert raw.get(storage.absolute("journal/00000001.jsonl")) == b"another driver's"


class TestMarkers:
    def test_marker_damaged_on_its_way_is_read_again(
        self, storage: ExperimentStorage, proxy: FaultProxy, small: Path
    ) -> None:
        marker = commit(storage, small)
        rule = proxy.add(Rule("corrupt", method="GET", path=COMMIT, times=1, after=60))

        assert storage.committed("trial_1") == [marker]

        assert rule.fired == 1

    def test_marker_that_stays_damaged_is_an_error(
        self, storage: ExperimentStorage, proxy: FaultProxy, small: Path
    ) -> None:
        commit(storage, small)
        proxy.add(Rule("corrupt", method="GET", path=COMMIT, after=60))

        with pytest.raises(CheckpointCorrupted, match="checkpoint_000000"):
            storage.committed("trial_1")


class TestGivingUp:
    """Validator that stay end in an error within the time limit, and in no checkpoint."""

    def test_server_that_always_refuses(
        self, s3_server: S3Server, proxy: FaultProxy, raw: RawObjects, small: Path
    ) -> None:
        # Impatient, so that the request that is given up ends soon after.
        options = {
            **s3_server.storage_options,
            "endpoint_url": proxy.url,
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }
        name = f"faults-{uuid4().hex[:8]}"
        storage = ExperimentStorage.open(f"s3://{s3_server.bucket}/x", name, storage_options=options)
        proxy.add(Rule("status", method="PUT", path=r"optimizer"))
        began = time.monotonic()

        with pytest.raises(StorageError, match=r"commit a checkpoint of trial_1: no answer within 1.5 s"):
            commit(storage, small, timeout_s=1.5)

        assert time.monotonic() - began < 6
        proxy.clear()
        join_abandoned_requests()
        assert COMMIT not in raw.names(storage.checkpoint("trial_1", 0).path)
        assert storage.committed("trial_1") == []
        assert commit(storage, small).index == 1

    def test_server_that_stops_answering(
        self, storage: ExperimentStorage, proxy: FaultProxy, raw: RawObjects, small: Path
    ) -> None:
        proxy.add(Rule("drop_reply", method="PUT", path=r"\.writer\.json"))

        with pytest.raises(StorageError, match=r"no answer within 2 s"):
            commit(storage, small, timeout_s=2.0)

        assert raw.names(storage.checkpoint("trial_1", 0).path) == [WRITER]
        assert storage.sweep("trial_1", keep=[], attempt_number=2) == [0]

    def test_refusal_for_want_of_rights_is_not_retried(
        self, storage: ExperimentStorage, proxy: FaultProxy, small: Path
    ) -> None:
        rule = proxy.add(Rule("status", method="PUT", path=COMMIT, status=403, code="AccessDenied"))

        with pytest.raises(
            StorageError, match=r"PermissionError.*check the credentials and their right to read"
        ):
            commit(storage, small)

        assert rule.fired == 1
        assert storage.committed("trial_1") == []


def test_start_from_bytes_that_stay_flipped_is_told_from_other_errors(
    storage: ExperimentStorage, proxy: FaultProxy, large: Path, tmp_path: Path
) -> None:
    commit(storage, large)
    proxy.add(Rule("corrupt", method="GET", path=r"model\.pt", after=2**20))
    session = a_session(storage, "trial_1", start=0)

    def load(config: dict[str, Any]) -> None:
        checkpoint = get_checkpoint()
        assert checkpoint is not None
        with checkpoint.as_directory():
            raise AssertionError("it was read")

    ending = run_attempt(session.spec, load, OnlyReports(), tmp_path / "work")

    assert ending.outcome is Outcome.CORRUPTED
    assert "model.pt: expected 16777217 bytes with digest" in str(ending.error)


class TestUploadsInTheBackground:
    def test_rows_wait_for_an_upload_through_passing_faults(
        self, storage: ExperimentStorage, proxy: FaultProxy, large: Path
    ) -> None:
        uplink = OnlyReports()
        session = a_session(storage, "trial_1", uplink=uplink, async_upload=True)
        hung = proxy.add(Rule("reset_body", path="partNumber=2", times=1, after=2**20))
        refused = proxy.add(Rule("status", method="PUT", path=COMMIT, times=2))

        session.report({"loss": 2}, Checkpoint.from_directory(large))
        (large / "model.pt").write_bytes(b"the next state")
        session.report({"loss": 1})
        session.finish_upload()

        assert (hung.fired, refused.fired) == (1, 2)
        assert uplink.sent == [(1, 0), (2, None)]
        assert content(storage) == LARGE

    def test_upload_that_is_refused_fails_the_next_report_and_not_its_row(
        self, storage: ExperimentStorage, proxy: FaultProxy, small: Path
    ) -> None:
        uplink = OnlyReports()
        session = a_session(storage, "trial_1", uplink=uplink, async_upload=True)
        proxy.add(Rule("status", method="PUT", path="optimizer", status=403, code="AccessDenied"))
        session.report({"loss": 2}, Checkpoint.from_directory(small))

        with pytest.raises(CheckpointError, match=r"iteration 1 was not stored: StorageError.*credentials"):
            session.report({"loss": 1}, Checkpoint.from_directory(small))

        assert uplink.sent == [(1, None)]
        assert storage.committed("trial_1") == []


def join_abandoned_requests() -> None:
    for thread in threading.enumerate():
        if thread.name == "tune-storage":
            thread.join(60)
            assert not thread.is_alive()
