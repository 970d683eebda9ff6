"""The storage of one experiment: small objects that are created once, and committed checkpoints.

Owns the layout below `<storage_path>/<experiment>/` and the commit protocol. It decides nothing
about trials, never creates a bucket, and shows no credentials. Safe to use from several threads.

A checkpoint's files lie directly in `<trial>/checkpoint_000007/`, as Ray Tune's do, so that
`os.path.join(checkpoint.path, "model.pt")` works. So a writer first *reserves* the directory by
creating `.writer.json` with its write id; who finds it taken uses the next index. Then the files
go up, are compared with a listing, and `COMMIT.json` is created, last. A checkpoint is visible if,
and only if, its `COMMIT.json` is. Deletion removes that first and `.writer.json` last, so that no
index is reserved again while files of its former owner are left. Guarded by the crash-point tests
in tests/unit/test_storage.py. The processes may die at any time; a power cut may take the last
seconds of a local disk with it (nothing is fsynced), which the digests show.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tune_core.checkpoint import Checkpoint
from tune_core.commit import (
    COMMIT,
    FORMAT,
    WRITER,
    CheckpointMarker,
    FileEntry,
    check_uploaded,
    copies_from,
    read_marker,
    scan_source,
    upload_files,
)
from tune_core.encoding import dumps
from tune_core.errors import CheckpointCorrupted, CheckpointError, ConfigError, CreateConflict, StorageError
from tune_core.filesystems import ProcessLocal, check_name, is_local, resolve
from tune_core.objects import ObjectStore
from tune_core.transfer import changed_at, find_files, in_parallel, remove_tree
from tune_core.trial import checkpoint_name

__all__ = [
    "COMMIT_TIMEOUT_S",
    "DEFAULT_STORAGE_PATH",
    "CheckpointMarker",
    "ExperimentStorage",
    "FileEntry",
]

logger = logging.getLogger(__name__)

#: Where experiments go when RunConfig names no storage_path; as Ray Tune 2.60.
DEFAULT_STORAGE_PATH = "~/ray_results"
#: Longest time that committing one checkpoint may take on a remote storage, in seconds.
COMMIT_TIMEOUT_S = 600.0
#: Reservations that one commit may find taken before it gives up.
_MAX_TAKEN = 1000
#: Markers that are remembered, so that `committed` reads each only once.
_MAX_REMEMBERED = 256
_MARKER_PATH = re.compile(rf"checkpoint_\d{{6,}}/{re.escape(COMMIT)}")
_CHECKPOINT_FILE = re.compile(r"checkpoint_(\d{6,})/.+", re.DOTALL)


class ExperimentStorage(ObjectStore):
    """Everything that one experiment keeps, on any fsspec filesystem.

    Pickling one carries the filesystem's options with it, credentials included: send it only
    through an encrypted channel. Use `open` to make one.

    Attributes:
        url: The experiment's place as shown to users; a path if local. Never has credentials.
        path: The experiment's root inside the filesystem.
        name: The experiment's name.
        is_local: Whether it is a path of this machine.

    Example:
        >>> storage = ExperimentStorage.open("memory://doc", "example")
        >>> storage.create("experiment.json", b"{}")
        >>> storage.list(), storage.read("experiment.json")
        (['experiment.json'], b'{}')
    """

    def __init__(self, filesystem: Any, path: str, url: str, name: str, *, fencing: bool = True) -> None:
        super().__init__(filesystem, path, url, fencing=fencing)
        self.name = name
        self._remembered: dict[tuple[Any, ...], CheckpointMarker] = {}

    @classmethod
    def open(
        cls,
        storage_path: str | os.PathLike[str] | None,
        name: str,
        *,
        filesystem: Any = None,
        storage_options: Mapping[str, Any] | None = None,
        fencing: bool = True,
    ) -> ExperimentStorage:
        """Return the storage of an experiment; nothing is sent or written yet (see `probe`).

        Args:
            storage_path: Local path or URL; with `filesystem` a path inside it. None: `DEFAULT_STORAGE_PATH`.
            name: The experiment's name, below the storage path.
            filesystem: An fsspec or pyarrow filesystem.
            storage_options: fsspec options for a URL.
            fencing: Whether the storage must be able to let one of two writers win. Without, a second
                driver or an attempt thought dead may damage the experiment.

        Raises:
            ConfigError: The path, the name or the filesystem cannot be used.
        """
        try:
            check_name(name, "experiment")
        except StorageError as error:
            raise ConfigError(str(error)) from None
        opened, path, url = resolve(
            DEFAULT_STORAGE_PATH if storage_path is None else storage_path, filesystem, storage_options
        )
        return cls(opened, f"{path.rstrip('/')}/{name}", f"{url.rstrip('/')}/{name}", name, fencing=fencing)

    def __reduce__(self) -> tuple[Callable[..., ExperimentStorage], tuple[Any, ...]]:
        return _reopen, (self.process_local, self.path, self.url, self.name, self.fencing)

    def __repr__(self) -> str:
        return f"ExperimentStorage({self.url!r})"

    def commit_checkpoint(
        self,
        trial: str,
        source_dir: str | os.PathLike[str] | Checkpoint,
        *,
        index: int,
        lease: int,
        iteration: int,
        rows: Sequence[dict[str, Any]],
        metrics: dict[str, Any],
        previous: Checkpoint | None = None,
        timeout_s: float = COMMIT_TIMEOUT_S,
    ) -> CheckpointMarker:
        """Upload a directory and make it a checkpoint of the trial, once and whole.

        When this returns, every reader sees the whole checkpoint. If it raises, no reader sees any
        of it, unless the storage stopped answering while the marker was under way.

        Args:
            trial: The trial's directory below the experiment's.
            source_dir: A directory of this machine, or any checkpoint.
            index: Number of the checkpoint; the next free one is used if another writer holds it.
            lease: Number of the attempt that commits.
            iteration: The `training_iteration` of its report.
            rows: Report rows that the driver has not journaled.
            metrics: The report that the checkpoint comes with.
            previous: A committed checkpoint of this experiment. What it has in common with this one is
                not sent again where the storage can copy (S3): each checkpoint still has all of its files.
            timeout_s: Longest time on a remote storage, in seconds.

        Returns:
            The marker; its `index` says which number it got.

        Raises:
            CheckpointError: `source_dir` is no directory, or holds what a checkpoint cannot.
            StorageError: The storage refuses, or does not answer in time.
        """
        check_name(trial, "trial", nested=False)
        stop = threading.Event()

        def commit() -> CheckpointMarker:
            with _as_source(source_dir) as source:
                files = scan_source(source)
                taken, write_id = self._reserve(trial, index, lease)
                name = f"{trial}/{checkpoint_name(taken)}"
                copies = None if previous is None else copies_from(self.fs, previous.path, files)
                entries = upload_files(self.fs, files, self.absolute(name), stop, copies)
            entries = check_uploaded(self.fs, self.absolute(name), entries)
            if stop.is_set():
                raise StorageError(f"{name} is not committed, since its time was up")
            now = time.time()
            marker = CheckpointMarker(
                taken, lease, iteration, write_id, entries, tuple(rows), dict(metrics), now
            )
            self.create(f"{name}/{COMMIT}", marker.to_json())
            return marker

        return self.request(f"commit a checkpoint of {trial}", commit, timeout_s, stop)

    def committed(self, trial: str, *, skip_damaged: bool = False) -> builtins.list[CheckpointMarker]:
        """Return the markers of all committed checkpoints of a trial, by index.

        Args:
            trial: The trial's directory below the experiment's.
            skip_damaged: Whether a damaged marker is left out, with a warning.

        Raises:
            CheckpointCorrupted: A marker is damaged.
            StorageError: The storage refuses or does not answer.
        """
        directory = self.absolute(check_name(trial, "trial", nested=False))

        def markers() -> builtins.list[CheckpointMarker]:
            listed = find_files(self.fs, directory)
            # What was deleted and committed again under the same name differs in the rest of the key.
            keys = {
                name: (trial, name, changed_at(info), info.get("ETag") or info.get("ino"))
                for name, info in listed.items()
                if _MARKER_PATH.fullmatch(name)
            }
            known = {name: self._remembered[key] for name, key in keys.items() if key in self._remembered}
            new = [name for name in keys if name not in known]

            def read_one(name: str) -> CheckpointMarker | None:
                try:
                    return read_marker(self.fs, f"{directory}/{name.partition('/')[0]}")
                except CheckpointCorrupted as error:
                    if not skip_damaged:
                        raise
                    logger.warning("a checkpoint is left out: %s", error)
                    return None

            read = in_parallel(read_one, new)
            # None: deleted since the listing, or damaged.
            known |= {name: marker for name, marker in zip(new, read, strict=True) if marker is not None}
            self._remember({keys[name]: marker for name, marker in known.items()})
            return sorted(known.values(), key=lambda marker: marker.index)

        return self.request(f"list the checkpoints of {trial}", markers)

    def checkpoint(self, trial: str, index: int) -> Checkpoint:
        """Return a reference to a checkpoint; whether it is committed shows when it is read."""
        check_name(trial, "trial", nested=False)
        return Checkpoint(self.absolute(f"{trial}/{checkpoint_name(index)}"), filesystem=self.fs)

    def delete_checkpoint(self, trial: str, index: int) -> None:
        """Remove a checkpoint: its marker first, so that no reader starts on half of it.

        Safe to call again, and for a checkpoint that does not exist.
        """
        check_name(trial, "trial", nested=False)
        self._remove_checkpoint(f"{trial}/{checkpoint_name(index)}")

    def sweep(self, trial: str, *, keep: Collection[int], older_than_s: float) -> builtins.list[int]:
        """Remove what broken or superseded attempts left behind.

        Args:
            trial: The trial's directory below the experiment's.
            keep: Indices that the journal knows; they are never touched.
            older_than_s: Grace time in seconds since the last change of any file of it; must exceed
                the time that one commit may take, or a live upload is broken off (it then fails, nothing
                is damaged).

        Returns:
            The indices that were removed, sorted: uncommitted ones, and committed ones not in `keep`.
        """
        directory = self.absolute(check_name(trial, "trial", nested=False))

        def remove() -> builtins.list[int]:
            changed: dict[int, float] = {}
            for name, info in find_files(self.fs, directory).items():
                if (match := _CHECKPOINT_FILE.fullmatch(name)) is not None:
                    index = int(match[1])
                    changed[index] = max(changed.get(index, 0.0), changed_at(info))
            limit = time.time() - older_than_s
            gone = sorted(index for index, at in changed.items() if index not in keep and at <= limit)
            for index in gone:
                self._remove_checkpoint(f"{trial}/{checkpoint_name(index)}")
            return gone

        return self.request(f"sweep {trial}", remove)

    def _reserve(self, trial: str, index: int, lease: int) -> tuple[int, str]:
        """Take the first free directory from an index on; return its index and the write id."""
        write_id = uuid.uuid4().hex
        record = dumps({"format": FORMAT, "write_id": write_id, "lease": lease, "time": time.time()})
        for candidate in range(index, index + _MAX_TAKEN):
            name = f"{trial}/{checkpoint_name(candidate)}/{WRITER}"
            with contextlib.suppress(CreateConflict):
                self.create(name, record)
                return candidate, write_id
        raise StorageError(
            f"{self.url}/{trial}: {_MAX_TAKEN} checkpoints from {index} on are taken: sweep the trial"
        )

    def _remember(self, markers: Mapping[tuple[Any, ...], CheckpointMarker]) -> None:
        remembered = {**self._remembered, **markers}
        surplus = max(0, len(remembered) - _MAX_REMEMBERED)
        self._remembered = dict([*remembered.items()][surplus:])

    def _remove_checkpoint(self, name: str) -> None:
        self.delete(f"{name}/{COMMIT}")
        path = self.absolute(name)
        self.request(f"delete {name}", lambda: remove_tree(self.fs, path, last=WRITER))


def staged_copy(checkpoint: Checkpoint) -> Path | None:
    """Return a new directory with all that would be committed of one; None if that is not of this machine.

    The caller removes it.

    Raises:
        CheckpointError: It is no directory, or holds what a checkpoint cannot.
        OSError: It cannot be copied: no room, no right.
    """
    if not is_local(checkpoint.filesystem):
        return None
    with _as_source(checkpoint) as source:
        files = scan_source(source)
    copy = Path(tempfile.mkdtemp(prefix="checkpoint_staged_"))
    try:
        for file in files:
            target = copy / file.name
            if file.name.endswith("/"):
                target.mkdir(parents=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.path, target)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    return copy


def _reopen(filesystem: ProcessLocal, path: str, url: str, name: str, fencing: bool) -> ExperimentStorage:
    return ExperimentStorage(filesystem.get(), path, url, name, fencing=fencing)


@contextlib.contextmanager
def _as_source(given: object) -> Iterator[Path]:
    """Give the local directory that is to be committed."""
    if isinstance(given, Checkpoint) and not is_local(given.filesystem):
        with given.as_directory() as downloaded:
            yield Path(downloaded)
        return
    path = given.path if isinstance(given, Checkpoint) else given
    source = Path(path) if isinstance(path, (str, os.PathLike)) else None
    if source is None or not source.is_dir():
        what = "is no path" if source is None else "is a file" if source.exists() else "does not exist"
        raise CheckpointError(
            f"{given!r} {what}: tune.report(checkpoint=) needs a directory of this machine that holds the "
            "checkpoint's files until report returns, as Checkpoint.from_directory(path)"
        )
    yield source
