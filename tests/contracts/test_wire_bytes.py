"""What goes over the wire when checkpoints have files in common: counted by a proxy, on real S3 servers."""

from __future__ import annotations

import random
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contracts.conftest import RawObjects, a_session, open_s3, raw_objects
from tests.support.directories import a_directory
from tests.support.fault_proxy import FaultProxy, Rule
from tests.support.s3_servers import S3Server
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage

MIB = 2**20


@pytest.fixture
def storage(s3_server: S3Server, proxy: FaultProxy) -> ExperimentStorage:
    return open_s3(s3_server, f"wire-{uuid4().hex[:8]}", proxy.url)


@pytest.fixture
def raw(s3_server: S3Server) -> RawObjects:
    return raw_objects(s3_server)


def write(directory: Path, files: dict[str, bytes]) -> Checkpoint:
    return Checkpoint.from_directory(a_directory(directory, files))


def content(checkpoint: Checkpoint | None) -> dict[str, bytes]:
    assert checkpoint is not None
    with checkpoint.as_directory() as path:
        return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def test_clone_of_100_mb_sends_under_10_kb(
    storage: ExperimentStorage, proxy: FaultProxy, tmp_path: Path
) -> None:
    weights = random.Random(1).randbytes(100_000_000)
    a_session(storage, "donor").report({"loss": 1.0}, write(tmp_path / "donor", {"model.pt": weights}))
    assert proxy.bytes_sent > len(weights)
    proxy.clear()

    clone = a_session(storage, "clone", start=0, source="donor")
    started = proxy.bytes_sent
    clone.report({"loss": 1.0}, write(tmp_path / "clone", {"model.pt": weights}))

    print(f"clone of {len(weights)} bytes: {started} bytes sent to start, {proxy.bytes_sent} with its commit")
    assert proxy.bytes_sent < 10_000
    storage.delete_checkpoint("donor", 0)
    assert content(clone.checkpoint) == {"model.pt": weights}


def test_checkpoint_with_90_percent_unchanged_files_sends_a_tenth(
    storage: ExperimentStorage, proxy: FaultProxy, tmp_path: Path
) -> None:
    randomness = random.Random(2)
    # Half of the bytes in files that travel in parts.
    sizes = [*([MIB] * 10), 10 * MIB]
    files = {f"part-{number}.bin": randomness.randbytes(size) for number, size in enumerate(sizes)}
    session = a_session(storage, "trial")
    session.report({"loss": 1.0}, write(tmp_path / "model", files))
    first = proxy.bytes_sent
    proxy.clear()
    changed = {name: randomness.randbytes(MIB) for name in ("part-3.bin", "part-7.bin")}

    session.report({"loss": 0.5}, write(tmp_path / "model", changed))

    share = proxy.bytes_sent / first
    print(f"first checkpoint: {first} bytes sent; second, 10 % changed: {proxy.bytes_sent} ({share:.1%})")
    assert 0.09 < share < 0.115
    assert content(session.checkpoint) == files | changed
    storage.delete_checkpoint("trial", 0)
    assert content(session.checkpoint) == files | changed


def test_files_that_cannot_be_copied_are_sent(
    storage: ExperimentStorage, proxy: FaultProxy, tmp_path: Path
) -> None:
    files = {f"part-{number}.bin": random.Random(number).randbytes(MIB) for number in range(3)}
    session = a_session(storage, "trial")
    session.report({}, write(tmp_path / "model", files))
    refused = proxy.add(Rule("status", method="PUT", path=r"checkpoint_000001/part", times=1, status=403))

    session.report({}, write(tmp_path / "model", {}))

    assert refused.fired == 1
    assert content(session.checkpoint) == files


def test_object_that_was_replaced_meanwhile_is_not_copied(
    storage: ExperimentStorage, raw: RawObjects, tmp_path: Path
) -> None:
    files = {"model.pt": random.Random(3).randbytes(MIB)}
    session = a_session(storage, "trial")
    session.report({}, write(tmp_path / "model", files))
    assert session.checkpoint is not None
    raw.put(f"{session.checkpoint.path}/model.pt", b"\0" * MIB)

    session.report({}, write(tmp_path / "model", {}))

    assert content(session.checkpoint) == files


def test_files_of_a_checkpoint_that_is_gone_are_sent(storage: ExperimentStorage, tmp_path: Path) -> None:
    files = {"model.pt": random.Random(4).randbytes(MIB)}
    session = a_session(storage, "trial")
    session.report({}, write(tmp_path / "model", files))
    storage.delete_checkpoint("trial", 0)

    session.report({}, write(tmp_path / "model", {}))

    assert content(session.checkpoint) == files
