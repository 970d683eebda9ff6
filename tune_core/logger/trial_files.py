"""Appends to the files that users find next to each trial, on any storage.

`TrialFiles` owns buffering, staging and uploading; what is in the files is for `loggers` to say, and
how they are appended to for `appending`. Nothing here decides anything or is needed to resume: the
journal is the state, these files are for people. So a disk that is full, or refuses otherwise, is
waited for as long as for the journal.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_core.errors import StorageError
from tune_core.logger.appending import LineFile, TableFile
from tune_core.storage.experiment_storage import RETRY_FOR_S
from tune_core.storage.filesystems import check_name
from tune_core.storage.transfer import TEMPORARY_PREFIX, refuse_special

if TYPE_CHECKING:
    from tune_core.storage.experiment_storage import ExperimentStorage

log = logging.getLogger(__name__)

_NEVER = float("-inf")
#: Stands for the experiment's own directory where the name of a trial's is expected.
EXPERIMENT = "."
#: What time does not mend: something else is in the place of a file or a directory.
_IN_THE_WAY = frozenset(
    (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG)
)
#: Uploads at once: enough for a thousand short trials, little enough for their sockets.
_UPLOADERS = 4


@dataclass(slots=True)
class _OpenTrial:
    """What `TrialFiles` knows about a trial that is being written."""

    directory: Path
    is_new: bool = False
    #: In front of the names of files, below the experiment's directory.
    prefix: str = ""
    lines: dict[str, LineFile] = field(default_factory=dict)
    tables: dict[str, TableFile] = field(default_factory=dict)
    #: Files that are to be replaced as a whole, and could not be yet.
    wholes: dict[str, bytes] = field(default_factory=dict)
    #: Since when this machine refuses to write for it, in `time.monotonic()`; None: it does not.
    refused_at: float | None = None
    #: Names of files whose staged copy is newer than the uploaded one.
    changed: set[str] = field(default_factory=set)
    upload: Future[None] | None = None
    uploading: set[str] = field(default_factory=set)
    uploaded_at: float = _NEVER
    #: Why the last upload failed; None if it did not.
    fault: BaseException | None = None
    is_final: bool = False

    @property
    def appended(self) -> dict[str, LineFile | TableFile]:
        return {**self.lines, **self.tables}

    @property
    def is_waiting(self) -> bool:
        return bool(self.wholes) or any(file.is_waiting for file in self.appended.values())

    def write(self) -> None:
        """Write what waits.

        Raises:
            OSError: It cannot be written now; what is left waits on.
            StorageError: Something is in its place that cannot be gone on with.
        """
        if self.refused_at is not None:
            self.directory.mkdir(parents=True, exist_ok=True)  # that may be what was refused
        for name, data in list(self.wholes.items()):
            _replace(self.directory / name, data)
            del self.wholes[name]
        for file in self.appended.values():
            file.write()


class TrialFiles:
    r"""Appends to the files of many trials, at a bounded cost in memory, handles and requests.

    On local storage, files grow in `<experiment>/<trial>/` themselves. On any other storage they
    are staged in a directory of this process and uploaded whole, by a few threads: nothing here
    waits for the network, except `close` and the first write after a retry or a resume, which
    fetches what earlier attempts wrote. No file stays open between writes.

    Lines wait in memory until `flush`, `flush_due`, or 64 KiB; the owner calls `flush_due` often
    (it returns at once while nothing is due) and `close` at the end. Not thread-safe: one
    thread owns it.

    Args:
        storage: Where the experiment is.
        staging_dir: Where copies for other than local storage are made, in a fresh subdirectory.
        upload_interval_s: Least number of seconds between two uploads for one running trial.
        write_interval_s: Number of seconds after which `flush_due` writes what is in memory.

    Example:
        >>> import tempfile
        >>> from tune_core.storage.experiment_storage import ExperimentStorage
        >>> storage = ExperimentStorage.open(tempfile.mkdtemp(), "experiment")
        >>> files = TrialFiles(storage, tempfile.gettempdir())
        >>> files.append_line("trial_1", "result.json", b'{"loss": 1.0}')
        >>> files.close()
        >>> (Path(storage.path) / "trial_1" / "result.json").read_text()
        '{"loss": 1.0}\n'
    """

    def __init__(
        self,
        storage: ExperimentStorage,
        staging_dir: str | Path,
        *,
        upload_interval_s: float = 10.0,
        write_interval_s: float = 1.0,
    ) -> None:
        self._storage = storage
        self._staging_dir = Path(staging_dir)
        self._upload_interval_s = upload_interval_s
        self._write_interval_s = write_interval_s
        self._root = Path(storage.path) if storage.is_local else None
        self._trials: dict[str, _OpenTrial] = {}
        self._now = _NEVER
        self._uploaders: ThreadPoolExecutor | None = None
        #: Sizes of files of trials that were forgotten.
        self._sizes: dict[tuple[str, str], int] = {}
        self._lost: set[str] = set()

    @property
    def root(self) -> Path:
        """The local directory that the trials' directories are written in."""
        if self._root is None:
            self._staging_dir.mkdir(parents=True, exist_ok=True)
            # Fresh: what a dead process left behind is older or newer than the storage, nobody knows.
            self._root = Path(tempfile.mkdtemp(prefix="trial-files-", dir=self._staging_dir))
        return self._root

    @property
    def num_open(self) -> int:
        """Number of trials that something is remembered for."""
        return len(self._trials)

    @property
    def lost(self) -> frozenset[str]:
        """Directories of trials in which somebody has removed or cut a file that was written here.

        Known when all is closed. What is lacking is in the journal.
        """
        return frozenset(self._lost)

    def open(self, trial_dirname: str, *, is_new: bool = False) -> None:
        """Expect writes for a trial.

        Args:
            trial_dirname: The trial's directory below the experiment's; `EXPERIMENT` for that one itself, which
                is never finished.
            is_new: Whether no attempt has written before, so that nothing need be looked for.

        Raises:
            StorageError: The name leaves the experiment's directory, or something else has it.
        """
        trial = self._trials.get(trial_dirname)
        if trial is None:
            is_own = trial_dirname == EXPERIMENT
            directory = self.root if is_own else self.root / check_name(trial_dirname, "trial", nested=False)
            prefix = "" if is_own else f"{directory.name}/"
            trial = self._trials[trial_dirname] = _OpenTrial(directory, is_new=is_new, prefix=prefix)
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self._refused(trial_dirname, trial, error)
        else:
            trial.is_final = False

    def append_line(self, trial_dirname: str, name: str, line: bytes) -> None:
        """Append one line to a file of a trial.

        Args:
            trial_dirname: The trial's directory below the experiment's.
            name: The file's name.
            line: Its bytes, without the newline.
        """
        trial = self._opened(trial_dirname)
        file = trial.lines.get(name)
        if file is None:
            path, size = self._fetched(trial, name), self._sizes.get((trial_dirname, name))
            file = trial.lines[name] = LineFile(path, size)
        trial.changed.add(name)
        if file.add(line) and trial.refused_at is None:
            self._write(trial_dirname, trial)

    def append_row(self, trial_dirname: str, name: str, row: dict[str, Any]) -> None:
        """Append one record to a CSV file of a trial; its new keys become new columns.

        Args:
            trial_dirname: The trial's directory below the experiment's.
            name: The file's name.
            row: Column to value; kept until it is written, so not to be changed by the caller.
        """
        trial = self._opened(trial_dirname)
        file = trial.tables.get(name)
        if file is None:
            path, size = self._fetched(trial, name), self._sizes.get((trial_dirname, name))
            file = trial.tables[name] = TableFile(path, size)
        trial.changed.add(name)
        if file.add(row) and trial.refused_at is None:
            self._write(trial_dirname, trial)

    def replace(self, trial_dirname: str, name: str, data: bytes) -> None:
        """Write a whole file of a trial; readers see the old or the new one, nothing between."""
        trial = self._opened(trial_dirname)
        if name not in trial.wholes and _has(trial.directory / name, data):
            return
        trial.wholes[name] = data
        trial.changed.add(name)
        self._write(trial_dirname, trial)

    def flush(self, trial_dirname: str) -> None:
        """Write what waits in memory for a trial; the next `flush_due` uploads it."""
        trial = self._trials.get(trial_dirname)
        if trial is not None:
            self._write(trial_dirname, trial)

    def finish(self, trial_dirname: str) -> None:
        """Write what waits in memory for a trial, and expect nothing more.

        The next `flush_due` uploads it, interval or not, and once that has succeeded the trial is
        forgotten. A later write opens it again.
        """
        trial = self._trials.get(trial_dirname)
        if trial is None:
            return
        self._write(trial_dirname, trial)
        trial.is_final = True
        if self._storage.is_local:
            self._advance(trial_dirname, trial)

    def flush_due(self, now: float) -> None:
        """Write and upload what is due; returns at once while nothing is.

        An upload that fails is logged and made again after the interval; so is what this machine refuses to
        write, for `RETRY_FOR_S` seconds.

        Args:
            now: Seconds, on any clock that does not go back, the same one each time.

        Raises:
            StorageError: A file cannot be written for longer than that, or something is in its place.
        """
        if now - self._now < self._write_interval_s:
            return
        self._now = now
        for trial_dirname, trial in list(self._trials.items()):
            self._write(trial_dirname, trial)
            self._advance(trial_dirname, trial)

    def discard(self) -> None:
        """Forget what waits: the files are somebody else's now. What is under way may still arrive."""
        self._settle_all()
        self._trials.clear()
        self._sizes.clear()
        self._lost.clear()

    def close(self) -> None:
        """Write and upload everything; when this returns, storage holds every line.

        Raises:
            StorageError: Some files could not be written or uploaded; the message says where they are.
        """
        self._write_all()
        for _ in range(2):  # after what is under way: what changed meanwhile; then, what failed
            self._settle_all()
            for trial in self._trials.values():
                self._upload(trial)
        self._settle_all()
        faults = {name: trial.fault for name, trial in self._trials.items() if trial.fault is not None}
        if self._uploaders is not None:
            self._uploaders.shutdown()
            self._uploaders = None
        for trial_dirname in [*self._trials]:
            self._forget(trial_dirname)
        self._look_for_losses()
        if faults:
            name, fault = next(iter(faults.items()))
            raise StorageError(
                f"files of {len(faults)} trials could not be uploaded to {self._storage.url} "
                f"(trial {name}: {fault!r}); their copies are kept in {self.root}: "
                "copy them there when the storage answers again"
            ) from fault
        if not self._storage.is_local and self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def _opened(self, trial_dirname: str) -> _OpenTrial:
        if trial_dirname not in self._trials:
            self.open(trial_dirname)
        trial = self._trials[trial_dirname]
        trial.is_final = False
        return trial

    def _fetched(self, trial: _OpenTrial, name: str) -> Path:
        """The local path of a file, with what earlier attempts, maybe of a dead driver, wrote."""
        path = trial.directory / name
        if not (self._storage.is_local or trial.is_new or path.exists()):
            with contextlib.suppress(FileNotFoundError):
                trial.wholes[name] = self._storage.read(f"{trial.prefix}{name}")
        return path

    def _write(self, trial_dirname: str, trial: _OpenTrial) -> None:
        try:
            trial.write()
            trial.refused_at = None
        except OSError as error:
            self._refused(trial_dirname, trial, error)

    def _refused(self, trial_dirname: str, trial: _OpenTrial, error: OSError) -> None:
        """Take note that what waits has to wait on, unless that has gone on for too long."""
        path, reason = error.filename or trial.directory, error.strerror or error
        if error.errno in _IN_THE_WAY:
            raise StorageError(
                f"{path} is in the way of files of trial {trial_dirname} ({reason}): move it away, then resume the "
                "experiment"
            ) from error
        now = time.monotonic()
        if trial.refused_at is None:
            trial.refused_at = now
            log.warning("%s cannot be written, and is tried again for %.0f s: %s", path, RETRY_FOR_S, reason)
        elif now - trial.refused_at > RETRY_FOR_S:
            raise StorageError(
                f"{path} could not be written for {RETRY_FOR_S:.0f} s: {reason}; make room for it, then resume the "
                "experiment"
            ) from error

    def _write_all(self) -> None:
        """Write what waits for all trials, however long this machine refuses some of them.

        Raises:
            StorageError: One of them was refused for too long. All others are written.
        """
        fault: StorageError | None = None
        waiting, pause_s = dict(self._trials), 0.5
        while waiting:
            for trial_dirname, trial in list(waiting.items()):
                try:
                    self._write(trial_dirname, trial)
                except StorageError as error:
                    fault = fault or error
                    del waiting[trial_dirname]
                    continue
                if not trial.is_waiting:
                    del waiting[trial_dirname]
            if waiting:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)
        if fault is not None:
            raise fault

    def _forget(self, trial_dirname: str) -> None:
        """Keep nothing of a trial but how long its files are."""
        trial = self._trials.pop(trial_dirname)
        for name, file in trial.appended.items():
            if file.is_cut:
                self._lost.add(trial_dirname)
            if self._storage.is_local and file.size is not None:
                self._sizes[trial_dirname, name] = file.size

    def _look_for_losses(self) -> None:
        for (trial_dirname, name), size in self._sizes.items():
            path = self.root / trial_dirname / name
            if not path.exists() or path.stat().st_size < size:
                self._lost.add(trial_dirname)

    def _advance(self, trial_dirname: str, trial: _OpenTrial) -> None:
        """Take the next step of a trial whose lines are all written: upload, or forget it."""
        if trial.upload is not None and not trial.upload.done():
            return
        _settle(trial_dirname, trial)
        is_urgent = trial.is_final and trial.fault is None
        if is_urgent or self._now - trial.uploaded_at >= self._upload_interval_s:
            self._upload(trial)
        if trial.is_final and trial.upload is None and not trial.changed and not trial.is_waiting:
            self._forget(trial_dirname)
            if not self._storage.is_local:
                shutil.rmtree(trial.directory, ignore_errors=True)

    def _settle_all(self) -> None:
        for trial_dirname, trial in self._trials.items():
            _settle(trial_dirname, trial)

    def _upload(self, trial: _OpenTrial) -> None:
        names, trial.changed = trial.changed, set()
        if self._storage.is_local or not names:
            return
        if self._uploaders is None:
            self._uploaders = ThreadPoolExecutor(_UPLOADERS, thread_name_prefix="trial-files")
        trial.uploaded_at, trial.uploading = self._now, names
        trial.upload = self._uploaders.submit(_upload_files, self._storage, trial, sorted(names))


def _has(path: Path, data: bytes) -> bool:
    """Whether a file holds these bytes; what cannot be read does not."""
    try:
        refuse_special(path)
        return path.read_bytes() == data
    except OSError:
        return False


def _replace(path: Path, data: bytes) -> None:
    if path.exists():
        refuse_special(path)
    partial = path.with_name(TEMPORARY_PREFIX + path.name)
    partial.write_bytes(data)
    partial.replace(path)


def _upload_files(storage: ExperimentStorage, trial: _OpenTrial, names: list[str]) -> None:
    for name in names:
        storage.upload(trial.directory / name, f"{trial.prefix}{name}")


def _settle(trial_dirname: str, trial: _OpenTrial) -> None:
    """Wait for the upload under way, if there is one, and take note of its end."""
    if trial.upload is None:
        return
    trial.fault = trial.upload.exception()
    trial.upload = None
    if trial.fault is not None:
        trial.changed |= trial.uploading
        names = ", ".join(sorted(trial.uploading))
        log.warning("trial %s: %s could not be uploaded yet: %r", trial_dirname, names, trial.fault)
