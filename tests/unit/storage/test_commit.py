from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tune_core.encoding import dumps
from tune_core.errors import CheckpointCorrupted, CheckpointError
from tune_core.storage.commit import CheckpointMarker, FileEntry
from tune_core.storage.transfer import digest_of, digest_of_bytes, digest_of_file

MARKER = CheckpointMarker(
    index=7,
    attempt_number=2,
    iteration=20,
    write_id="4af1",
    files=(FileEntry("empty/", 0, ""), FileEntry("model ü.pt", 3, "00ff"), FileEntry("x", 1, "01", '"e"')),
    rows=({"loss": math.inf, "raw": b"\0", "nested": {"a": [1, None]}},),
    metrics={"loss": 0.5},
    time=1.5,
)


def test_marker_comes_back_as_it_was() -> None:
    assert CheckpointMarker.from_json(MARKER.to_json()) == MARKER


def test_marker_is_plain_json_that_begins_with_its_digest() -> None:
    value = json.loads(MARKER.to_json())

    assert next(iter(value)) == "digest"
    assert (value["format"], value["index"], value["files"][1]) == (2, 7, ["model ü.pt", 3, "00ff"])


def test_any_flipped_byte_is_noticed() -> None:
    data = MARKER.to_json()

    for position in range(len(data)):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(CheckpointCorrupted, match=r"COMMIT\.json is damaged"):
            CheckpointMarker.from_json(damaged)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"digest":"', b"\xff" * 100])
def test_what_is_no_marker_is_called_damaged(data: bytes) -> None:
    with pytest.raises(CheckpointCorrupted):
        CheckpointMarker.from_json(data)


def test_cut_marker_is_noticed() -> None:
    with pytest.raises(CheckpointCorrupted):
        CheckpointMarker.from_json(replace(MARKER, rows=()).to_json()[:-1])


def test_marker_of_an_older_version_is_read_and_its_digests_are_compared(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    old = hashlib.blake2b(b"weights", digest_size=16).hexdigest()
    written = replace(MARKER, files=(FileEntry("model", 7, old),)).to_json()
    body = b"{" + written.partition(b'",')[2].replace(b'"format":2', b'"format":1')
    data = b'{"digest":"' + digest_of(body).encode() + b'",' + body[1:]

    marker = CheckpointMarker.from_json(data)

    assert marker.files[0].digest == old == digest_of_file(tmp_path / "model", old)
    assert digest_of_file(tmp_path / "model") == digest_of_bytes(b"weights") != old


def test_marker_of_another_version_says_so() -> None:
    body = dumps({"format": 3})
    data = b'{"digest":"' + digest_of(body).encode() + b'",' + body[1:]

    with pytest.raises(CheckpointError, match=r"format 3, this prefect-tune reads up to 2: upgrade it"):
        CheckpointMarker.from_json(data)
