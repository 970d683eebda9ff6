"""What makes a directory a committed checkpoint: the format of `COMMIT.json` and `.writer.json`.

A checkpoint exists if, and only if, its marker does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from tune_core.encoding import dumps, loads
from tune_core.errors import CheckpointCorrupted, CheckpointError
from tune_core.storage.transfer import digest_of, read_bytes

logger = logging.getLogger(__name__)

#: Version of both marker files; a reader refuses newer ones. 1 had blake2b for digests of files.
FORMAT = 2
#: Written last: makes a checkpoint visible.
COMMIT = "COMMIT.json"
#: Begins what lies in its place once a directory was swept, so that no upload can be committed there.
SWEPT = b'{"swept":'
#: Written first: says whose directory it is.
WRITER = ".writer.json"
MARKERS = frozenset({COMMIT, WRITER})
#: User's metadata: may change after the commit, so no digest binds it.
METADATA = ".metadata.json"
#: A damaged read is tried again this often: the network may be at fault, not the object.
ATTEMPTS = 3
_DIGEST_KEY = b'{"digest":"'
_DIGEST_LENGTH = 32


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint.

    Attributes:
        name: Relative to the checkpoint, `/` between parts; an empty directory ends in `/`.
        size: Bytes.
        digest: "xxh3:" and xxh3-128 in hexadecimal; without it blake2b with 16 bytes, in markers of format 1.
        etag: What the storage called these bytes when they were there; "" where it does not say.
    """

    name: str
    size: int
    digest: str
    etag: str = ""

    def to_list(self) -> list[str | int]:
        """Return what a marker holds of it: its arguments, without an empty ETag."""
        return [self.name, self.size, self.digest, *filter(None, [self.etag])]


@dataclass(frozen=True, slots=True)
class CheckpointMarker:
    """The content of `COMMIT.json`.

    Attributes:
        index: The number in `checkpoint_000007`.
        attempt_number: Number of the attempt that wrote it.
        iteration: The `training_iteration` of its report.
        write_id: Unique to this commit.
        files: Every file, sorted by name.
        rows: Report rows of the trial that the driver had not journaled when it was written.
        metrics: The report that it came with.
        time: When it was written, epoch seconds.

    Example:
        >>> marker = CheckpointMarker(7, 1, 20, "4af1", (FileEntry("model.pt", 3, "00"),))
        >>> CheckpointMarker.from_json(marker.to_json()) == marker
        True
    """

    index: int
    attempt_number: int
    iteration: int
    write_id: str
    files: tuple[FileEntry, ...]
    rows: tuple[dict[str, Any], ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0

    def to_json(self) -> bytes:
        """Return the marker as JSON whose first key is the digest of all others."""
        body = dumps(
            {
                "format": FORMAT,
                "index": self.index,
                "attempt_number": self.attempt_number,
                "iteration": self.iteration,
                "write_id": self.write_id,
                "time": self.time,
                "files": [entry.to_list() for entry in self.files],
                "metrics": self.metrics,
                "rows": list(self.rows),
            }
        )
        return _DIGEST_KEY + digest_of(body).encode() + b'",' + body[1:]

    @classmethod
    def from_json(cls, data: bytes) -> CheckpointMarker:
        """Rebuild a marker.

        Raises:
            CheckpointCorrupted: These are not the bytes that were written.
            CheckpointError: Another version of prefect-tune wrote it.
        """
        body = b"{" + data[len(_DIGEST_KEY) + _DIGEST_LENGTH + len(b'",') :]
        if data != _DIGEST_KEY + digest_of(body).encode() + b'",' + body[1:]:
            raise CheckpointCorrupted(f"{COMMIT} is damaged: its digest does not match its {len(data)} bytes")
        value = loads(body)
        if value["format"] not in range(1, FORMAT + 1):
            raise CheckpointError(
                f"{COMMIT} has format {value['format']!r}, this prefect-tune reads up to {FORMAT}: upgrade it"
            )
        return cls(
            index=value["index"],
            attempt_number=value["attempt_number"],
            iteration=value["iteration"],
            write_id=value["write_id"],
            files=tuple(FileEntry(*entry) for entry in value["files"]),
            rows=tuple(value["rows"]),
            metrics=value["metrics"],
            time=value["time"],
        )


def read_marker(filesystem: Any, directory: str) -> CheckpointMarker | None:
    """Return the marker of a directory; None if it has none, or was swept.

    Raises:
        CheckpointCorrupted: It is damaged, however often it is read.
    """
    path = f"{directory}/{COMMIT}"
    for attempt in range(1, ATTEMPTS + 1):
        try:
            data = read_bytes(filesystem, path)
            return None if data.startswith(SWEPT) else CheckpointMarker.from_json(data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            if not is_damage(error):
                raise
            if attempt == ATTEMPTS:
                raise CheckpointCorrupted(f"{directory}: {error}") from error
            logger.warning("%s was damaged on its way, reading it again: %s", path, error)
    raise AssertionError("unreachable")


def is_damage(error: Exception) -> bool:
    """Return whether an error says that what was read is not what was written."""
    # botocore checks CRCs that some servers keep; its error is neither an OSError nor retried by s3fs.
    return isinstance(error, CheckpointCorrupted) or type(error).__name__ == "FlexibleChecksumError"
