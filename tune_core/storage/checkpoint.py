"""`Checkpoint`: a reference to a directory, on this machine or on any fsspec filesystem.

Owns how a checkpoint becomes a local directory: compared with its commit marker, downloaded once
per node however many processes ask, removed when the last reader has gone. It never commits.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tune_core.errors import CheckpointCorrupted, CheckpointNotFound
from tune_core.storage.checkpoint_files import check_stored, download_files
from tune_core.storage.commit import (
    COMMIT,
    METADATA,
    WRITER,
    CheckpointMarker,
    read_marker,
)
from tune_core.storage.filesystems import ProcessLocal, is_local, protocols, resolve
from tune_core.storage.sharing import fill_once, private_directory, shared_directory
from tune_core.storage.transfer import exists, explaining, read_bytes, write_bytes

_TEMPORARY = "checkpoint_tmp_"
#: Directories that only a commit makes readable.
_COMMITTED_NAME = re.compile(r"checkpoint_\d{6,}")


class _Removed:
    """Answers for a method of Ray's older Checkpoint by saying what to use instead."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"Checkpoint has no {self._name!r}, as in Ray Tune 2.60: {self._instead}")


_AS_FILES = (
    "a checkpoint is a directory; write your values to a file in it and use Checkpoint.from_directory(path), "
    "read them back within `with checkpoint.as_directory() as path:`"
)
_AS_PATH = "use Checkpoint(path='s3://bucket/path') to refer to a URL, and the attributes path and filesystem"


class Checkpoint:
    """A reference to a directory that holds what a trial needs to go on.

    Making one reads and writes nothing. Pass it to `tune.report`, which uploads the directory;
    get it back from `tune.get_checkpoint` or a `Result`.

    Args:
        path: Local path, URL (`s3://bucket/path`), or with `filesystem` a path inside that.
        filesystem: An fsspec filesystem, or a `pyarrow.fs.FileSystem`, which is wrapped.
        storage_options: fsspec options for a URL (`endpoint_url`, `key`, `secret` …).

    Attributes:
        path: Path inside the filesystem; on a local one a path that `open` takes.
        filesystem: The fsspec filesystem.

    Raises:
        ConfigError: No filesystem is known for the path.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> directory = tempfile.mkdtemp()
        >>> _ = Path(directory, "weights.txt").write_text("0.1")
        >>> checkpoint = Checkpoint.from_directory(directory)
        >>> with checkpoint.as_directory() as path:
        ...     Path(path, "weights.txt").read_text()
        '0.1'

    Source: as Ray Tune 2.60. differs: `filesystem` is fsspec's; what a committed checkpoint
        returns is compared with its marker; local paths become absolute.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        filesystem: Any = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        opened, self.path, self._url = resolve(path, filesystem, storage_options)
        self._filesystem = ProcessLocal(opened)
        # Kept by pickling, so that the workers of one node that are given this object share a download.
        self._id = uuid.uuid4().hex

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem that holds the checkpoint."""
        return self._filesystem.get()

    @classmethod
    def from_directory(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Refer to a directory of this machine.

        Args:
            path: The directory. Nothing is copied: leave it alone until it was reported.

        Example:
            >>> Checkpoint.from_directory("/tmp/model").path
            '/tmp/model'
        """
        from fsspec.implementations.local import LocalFileSystem

        return cls(path, filesystem=LocalFileSystem())

    def to_directory(self, path: str | os.PathLike[str] | None = None) -> str:
        """Copy the checkpoint into a directory, and return that.

        When this returns, every file is whole and, for a committed checkpoint, what its marker
        says. Callers on one node that ask at the same time wait for one download.

        Args:
            path: Where to; made if missing, files of other names are left alone. None: a directory
                `checkpoint_tmp_<id>` below the system's temporary one, which the caller removes.

        Raises:
            CheckpointNotFound: Nothing is there, or it was never committed.
            CheckpointCorrupted: A file differs from the marker.
            StorageError: The storage does not answer.
        """
        if path is None:
            target = Path(tempfile.gettempdir()) / f"{_TEMPORARY}{self._id}"
        else:
            target = Path(os.path.normpath(Path(path).expanduser().absolute()))
        marker = self._require()
        if is_local(self.filesystem) and target.exists() and target.samefile(self.path):
            return str(target)

        def fill() -> None:
            is_new = not target.exists()
            if path is None:
                private_directory(target)
            else:
                target.mkdir(parents=True, exist_ok=True)
            try:
                self._download(marker, target)
            except BaseException:
                if is_new:
                    shutil.rmtree(target, ignore_errors=True)
                raise

        fill_once(target, fill)
        return str(target)

    @contextmanager
    def as_directory(self) -> Iterator[str]:
        """Give a directory to read the checkpoint from, for the length of a `with` block.

        On a local filesystem it is the checkpoint itself: neither copied nor compared nor removed.
        Otherwise it is a download, compared with the commit marker, which all readers of this node
        share and the last one removes. Treat it as read-only.

        Raises:
            CheckpointNotFound: Nothing is there, or it was never committed.
            CheckpointCorrupted: A file differs from the marker.
            StorageError: The storage does not answer.

        Example:
            >>> with Checkpoint("/").as_directory() as path:
            ...     path
            '/'
        """
        marker = self._require()
        if is_local(self.filesystem):
            yield self.path
            return
        # Two objects for one commit share the directory; what has no marker may differ from object to object.
        identity = marker.write_id if marker is not None else uuid.uuid5(uuid.UUID(self._id), "shared").hex
        target = Path(tempfile.gettempdir()) / f"{_TEMPORARY}{identity}"
        with shared_directory(target, lambda partial: self._download(marker, partial)):
            yield str(target)

    def check(self) -> None:
        """Make sure that a committed checkpoint is whole, as far as that shows without a download.

        When this returns, every file that its marker names is there with its size; on a local filesystem,
        where `as_directory` compares nothing, with its digest too.

        Raises:
            CheckpointNotFound: It does not exist, or was never committed.
            CheckpointCorrupted: A file is missing, or differs from the marker.
            StorageError: The storage does not answer.
        """
        marker = self._require()
        with self._named_in_errors():
            if marker is None:
                raise CheckpointNotFound(f"{self._url} has no {COMMIT}: it was deleted, or never committed")
            with explaining(self._url, "look at its files"):
                check_stored(self.filesystem, self.path, marker)

    def get_metadata(self) -> dict[str, Any]:
        """Return the metadata stored with the checkpoint; {} if there is none."""
        try:
            with explaining(self._url, "read its metadata", FileNotFoundError, NotADirectoryError):
                data = read_bytes(self.filesystem, f"{self.path}/{METADATA}")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        metadata: dict[str, Any] = json.loads(data)
        return metadata

    def set_metadata(self, metadata: dict[str, Any]) -> None:
        """Store metadata with the checkpoint, in place of what was there.

        Args:
            metadata: What JSON can hold.

        Raises:
            CheckpointNotFound: The directory does not exist.
        """
        data = json.dumps(metadata).encode()
        if is_local(self.filesystem) and not Path(self.path).is_dir():
            raise CheckpointNotFound(f"{self._url} does not exist: make the directory before its metadata")
        with explaining(self._url, "write its metadata"):
            write_bytes(self.filesystem, f"{self.path}/{METADATA}", data)

    def update_metadata(self, metadata: dict[str, Any]) -> None:
        """Add to the metadata stored with the checkpoint; equal keys are replaced."""
        self.set_metadata(self.get_metadata() | metadata)

    @contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        """Let errors say which checkpoint is damaged or gone: a trial may read several."""
        try:
            yield
        except (CheckpointCorrupted, CheckpointNotFound) as error:
            error.path = self.path
            raise

    def _require(self) -> CheckpointMarker | None:
        """Return the marker, None for a plain directory.

        Raises:
            CheckpointNotFound: There is neither.
        """
        with self._named_in_errors():
            return self._find_marker()

    def _find_marker(self) -> CheckpointMarker | None:
        """Return the marker, None for a plain directory.

        Raises:
            CheckpointNotFound: There is neither.
        """
        filesystem = self.filesystem
        with explaining(self._url, "read it"):
            marker = read_marker(filesystem, self.path)
            if marker is not None:
                return marker
            if not exists(filesystem, self.path):
                raise CheckpointNotFound(
                    f"{self._url} does not exist: it was deleted, or never written there"
                )
            if filesystem.isfile(self.path):
                raise CheckpointNotFound(f"{self._url} is a file: a checkpoint is a directory")
            name = self.path.rpartition("/")[2]
            if _COMMITTED_NAME.fullmatch(name) and filesystem.exists(f"{self.path}/{WRITER}"):
                raise CheckpointNotFound(
                    f"{self._url} was never committed: its upload broke off or still runs; use an earlier one"
                )
        return None

    def _download(self, marker: CheckpointMarker | None, target: Path) -> None:
        with self._named_in_errors():
            try:
                with explaining(self._url, f"download it to {target}"):
                    download_files(self.filesystem, self.path, marker, target)
            except CheckpointCorrupted as error:
                if marker is None or read_marker(self.filesystem, self.path) is not None:
                    raise
                raise CheckpointNotFound(f"{self._url} was deleted while it was read ({error})") from error

    def __repr__(self) -> str:
        """Ray's form; the path never has credentials in it, options are not shown."""
        return f"Checkpoint(filesystem={protocols(self.filesystem)[0]}, path={self.path})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Checkpoint):
            return NotImplemented
        if self.path != other.path:
            return False
        mine, theirs = self.filesystem, other.filesystem
        if is_local(mine) and is_local(theirs):
            return True
        return (
            type(mine) is type(theirs)
            and mine.storage_args == theirs.storage_args
            and mine.storage_options == theirs.storage_options
        )

    def __hash__(self) -> int:
        return hash(self.path)

    def __fspath__(self) -> NoReturn:
        raise TypeError(
            "a Checkpoint is not a path: use `with checkpoint.as_directory() as path:` to read it, "
            "or checkpoint.to_directory(path) for a copy"
        )

    from_dict = _Removed(_AS_FILES)
    to_dict = _Removed(_AS_FILES)
    from_bytes = _Removed(_AS_FILES)
    to_bytes = _Removed(_AS_FILES)
    get_internal_representation = _Removed(_AS_FILES)
    from_uri = _Removed(_AS_PATH)
    to_uri = _Removed(_AS_PATH)
    uri = _Removed(_AS_PATH)
    get_preprocessor = _Removed("keep it in a file of the directory, or in set_metadata()")
    set_preprocessor = _Removed("keep it in a file of the directory, or in set_metadata()")
