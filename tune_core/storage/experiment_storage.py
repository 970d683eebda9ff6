"""The storage of one experiment: small objects that are created once, and committed checkpoints.

Owns the layout below `<storage_path>/<experiment>/` and the commit protocol. It decides nothing
about trials, never creates a bucket, and shows no credentials. Safe to use from several threads.

A checkpoint's files lie directly in `<trial>/checkpoint_000007/`, as Ray Tune's do, so that
`os.path.join(checkpoint.path, "model.pt")` works. So a writer first *reserves* the directory by
creating `.writer.json` with its write id; who finds it taken uses the next index. Then the files
go up, are compared with a listing, and `COMMIT.json` is created, last. A checkpoint is visible if,
and only if, its `COMMIT.json` is. Deletion removes that first and `.writer.json` last, so that no
index is reserved again while files of its former owner are left. A sweep of what is not committed
takes the marker's place first: create-only, so that either the upload or the sweep wins. Guarded by
the crash-point tests in tests/unit/storage/test_experiment_storage.py and test_sweep.py. The processes may die at any
time; a power cut may take the last seconds of a local disk with it (nothing is fsynced), which the
digests show.
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

from tune_core.encoding import dumps, loads
from tune_core.errors import CheckpointCorrupted, CheckpointError, ConfigError, CreateConflict, StorageError
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.checkpoint_files import check_uploaded, copies_from, scan_source, upload_files
from tune_core.storage.commit import (
    COMMIT,
    FORMAT,
    MARKERS,
    SWEPT,
    WRITER,
    CheckpointMarker,
    FileEntry,
    read_marker,
)
from tune_core.storage.filesystems import ProcessLocal, check_name, check_url, is_local, resolve
from tune_core.storage.objects import ObjectStore
from tune_core.storage.transfer import (
    changed_at,
    find_files,
    in_parallel,
    read_bytes,
    remove_files,
    remove_tree,
)
from tune_core.trial import checkpoint_name

__all__ = [
    "COMMIT_TIMEOUT_S",
    "DEFAULT_STORAGE_PATH",
    "CheckpointMarker",
    "ExperimentStorage",
    "FileEntry",
]

logger = logging.getLogger(__name__)

#: How long what a driver writes is tried again while its storage refuses, in seconds.
RETRY_FOR_S = 300.0
#: Where experiments go when RunConfig names no storage_path; as Ray Tune 2.60.
DEFAULT_STORAGE_PATH = "~/ray_results"
#: What lies beside the trials' directories, in small letters: some disks do not tell `Journal` from `journal`.
RESERVED_NAMES = frozenset({"journal", "inbox", "experiment.json", "report.html"})
#: Longest time that committing one checkpoint may take on a remote storage, in seconds.
COMMIT_TIMEOUT_S = 600.0
#: When nothing of an attempt that was thought dead is under way any more, in seconds.
SETTLED_S = 3600.0
#: Reservations that one commit may find taken before it gives up.
_MAX_TAKEN = 1000
#: Markers that are remembered, so that `committed` reads each only once.
_MAX_REMEMBERED = 256
_NUMBERED = re.compile(r"(.*[^/])@([1-9][0-9]*)/*", re.DOTALL)
#: The end of the name of a directory in which a trial was started over.
RESTARTED = re.compile(r"_attempt_\d+$")
_MARKER_PATH = re.compile(rf"checkpoint_\d{{6,}}/{re.escape(COMMIT)}")
_CHECKPOINT_FILE = re.compile(r"checkpoint_(\d{6,})/(.+)", re.DOTALL)


def check_trial_dirname(name: object) -> str:
    """Return the name if a trial's directory may have it, whatever else is kept of the experiment.

    Raises:
        StorageError: It is no plain name, or is of use otherwise.
    """
    checked = check_name(name, "trial", nested=False)
    fault = None
    if checked.casefold() in RESERVED_NAMES:
        fault = "the experiment keeps its own there"
    elif checked.startswith("."):
        fault = "names with a dot in front are for what is not finished"
    elif RESTARTED.search(checked):
        fault = "a trial that is restarted gets such a name"
    if fault is not None:
        raise StorageError(f"trial name {checked!r} cannot be used: {fault}; give a plain relative name")
    return checked


class ExperimentStorage(ObjectStore):
    """Everything that one experiment keeps, on any fsspec filesystem.

    Pickling one carries the filesystem's options with it, credentials included: send it only
    through an encrypted channel. Use `open` to make one.

    Attributes:
        url: The experiment's place as shown to users; a path if local. Never has credentials.
        path: The experiment's root inside the filesystem.
        name: The experiment's name.
        is_local: Whether it is a path of this machine.
        experiment_id: Which experiment of this name a reader means; None: the one whose driver wrote last.
        number: Which one that is in the order in which they began, if it was asked for by number.

    Example:
        >>> storage = ExperimentStorage.open("memory://doc", "example")
        >>> storage.create("experiment.json", b"{}")
        >>> storage.list(), storage.read("experiment.json")
        (['experiment.json'], b'{}')
    """

    def __init__(self, filesystem: Any, path: str, url: str, name: str, *, fencing: bool = True) -> None:
        super().__init__(filesystem, path, url, fencing=fencing)
        self.name = name
        self.experiment_id: str | None = None
        self.number: int | None = None
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
        if split_number(name)[1] is not None:
            raise ConfigError(
                f"experiment name {name!r}: @ and a number at its end say which of several experiments of one name "
                "is meant; give another name"
            )
        opened, path, url = resolve(
            DEFAULT_STORAGE_PATH if storage_path is None else storage_path, filesystem, storage_options
        )
        return cls(opened, f"{path.rstrip('/')}/{name}", f"{url.rstrip('/')}/{name}", name, fencing=fencing)

    def only(self, experiment_id: str, number: int) -> ExperimentStorage:
        """Return the same storage for reading one of several experiments of its name."""
        meant = type(self)(self.fs, self.path, self.url, self.name, fencing=self.fencing)
        meant.experiment_id, meant.number = experiment_id, number
        return meant

    @property
    def label(self) -> str:
        """The experiment's name as commands take it: `digits`, or `digits@1` for an earlier one of that name."""
        return self.name if self.number is None else f"{self.name}@{self.number}"

    def __reduce__(self) -> tuple[Callable[..., ExperimentStorage], tuple[Any, ...]]:
        place = (self.process_local, self.path, self.url, self.name, self.fencing)
        return _reopen, (*place, self.experiment_id, self.number)

    def __repr__(self) -> str:
        return f"ExperimentStorage({self.url!r})"

    def commit_checkpoint(
        self,
        trial: str,
        source_dir: str | os.PathLike[str] | Checkpoint,
        *,
        index: int,
        attempt_number: int,
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
            attempt_number: Number of the attempt that commits.
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
                taken, write_id = self._reserve(trial, index, attempt_number)
                name = f"{trial}/{checkpoint_name(taken)}"
                copies = None if previous is None else copies_from(self.fs, previous.path, files)
                entries = upload_files(self.fs, files, self.absolute(name), stop, copies)
            entries = check_uploaded(self.fs, self.absolute(name), entries)
            if stop.is_set():
                raise StorageError(f"{name} is not committed, since its time was up")
            now = time.time()
            marker = CheckpointMarker(
                taken, attempt_number, iteration, write_id, entries, tuple(rows), dict(metrics), now
            )
            try:
                self.create(f"{name}/{COMMIT}", marker.to_json())
            except CreateConflict as error:
                raise StorageError(
                    f"{self.url}/{name} was swept as abandoned: a newer attempt runs"
                ) from error
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

    def sweep(self, trial: str, *, keep: Collection[int], attempt_number: int) -> builtins.list[int]:
        """Remove what attempts before this one left behind.

        That is what they have uploaded and not committed, and what they have committed and nobody keeps.
        A process thought dead may still be uploading: it cannot commit any more. Its reservation, with a
        note in the marker's place, is left for a sweep `SETTLED_S` seconds later.

        Args:
            trial: The trial's directory below the experiment's.
            keep: Indices that the journal knows; they are never touched.
            attempt_number: Number of the oldest attempt that may still commit; what it and later ones write stays.

        Returns:
            The indices of which something was removed, sorted.
        """
        directory = self.absolute(check_name(trial, "trial", nested=False))

        def remove() -> builtins.list[int]:
            found: dict[int, dict[str, float]] = {}
            for path, info in find_files(self.fs, directory).items():
                if (match := _CHECKPOINT_FILE.fullmatch(path)) is not None:
                    found.setdefault(int(match[1]), {})[match[2]] = changed_at(info)
            return [
                index
                for index, files in sorted(found.items())
                if index not in keep
                and self._is_before(f"{trial}/{checkpoint_name(index)}", files, attempt_number)
                and self._clear(f"{trial}/{checkpoint_name(index)}", files)
            ]

        return self.request(f"sweep {trial}", remove)

    def _is_before(self, name: str, files: Mapping[str, float], attempt_number: int) -> bool:
        """Whether a directory was reserved by an attempt before this one."""
        if WRITER not in files:
            return False  # none was: it is not of this library, or just goes
        try:
            writer = loads(read_bytes(self.fs, self.absolute(f"{name}/{WRITER}")))
            return bool(writer["attempt_number"] < attempt_number)
        except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
            logger.warning("%s/%s is not swept, since nobody knows whose it is: %s", self.url, name, error)
            return False

    def _clear(self, name: str, files: Mapping[str, float]) -> bool:
        """Empty a directory so that nothing in it can be committed any more; return whether there was anything."""
        payload = [file for file in files if file not in MARKERS]
        if COMMIT not in files:
            try:
                self.create(f"{name}/{COMMIT}", SWEPT + dumps(uuid.uuid4().hex) + b"}")
            except CreateConflict:
                return False  # committed just now: anybody who lists it may look at it
        elif self._was_committed(name) or time.time() - files[COMMIT] > SETTLED_S:
            self._remove_checkpoint(name)
            return True
        remove_files(self.fs, self.absolute(name), payload)  # again, if they came after the note
        return bool(payload) or COMMIT not in files

    def _was_committed(self, name: str) -> bool:
        try:
            return read_marker(self.fs, self.absolute(name)) is not None
        except CheckpointCorrupted:
            return True

    def _reserve(self, trial: str, index: int, attempt_number: int) -> tuple[int, str]:
        """Take the first free directory from an index on; return its index and the write id."""
        write_id = uuid.uuid4().hex
        record = dumps(
            {"format": FORMAT, "write_id": write_id, "attempt_number": attempt_number, "time": time.time()}
        )
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


def split_number(path: Any) -> tuple[Any, int | None]:
    """Return the path of an experiment without the number at its end, and the number; None if there is none.

    Example:
        >>> split_number("s3://bucket/runs/digits@1"), split_number("runs/digits")
        (('s3://bucket/runs/digits', 1), ('runs/digits', None))
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    match = _NUMBERED.fullmatch(text) if isinstance(text, str) else None
    return (match[1], int(match[2])) if match is not None else (path, None)


def split_path(path: Any) -> tuple[str, str]:
    """Return the storage path and the name that make up an experiment's path.

    Raises:
        ConfigError: It is no path.

    Example:
        >>> split_path("s3://bucket/runs/digits/")
        ('s3://bucket/runs', 'digits')
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).rstrip("/"):
        raise ConfigError(f"path={path!r}: expected <storage_path>/<name> of an experiment, a path or a URL")
    text = os.fspath(path)
    check_url(text)
    parent, slash, name = text.rstrip("/").rpartition("/")
    if parent.endswith(":/"):  # "s3://bucket" names no experiment in it
        raise ConfigError(f"path={text!r}: expected <storage_path>/<name> of an experiment in that place")
    if parent.endswith("://"):
        parent += "/"  # of file:///name
    return parent or ("/" if slash else "."), name


def _reopen(
    filesystem: ProcessLocal,
    path: str,
    url: str,
    name: str,
    fencing: bool,
    experiment_id: str | None,
    number: int | None,
) -> ExperimentStorage:
    storage = ExperimentStorage(filesystem.get(), path, url, name, fencing=fencing)
    storage.experiment_id, storage.number = experiment_id, number
    return storage


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
