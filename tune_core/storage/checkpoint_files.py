"""How the files of a checkpoint travel, and whether they are what its marker says.

Uploads are measured while they are read, downloads are compared before anybody sees them.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tune_core.errors import CheckpointCorrupted, CheckpointError, StorageError
from tune_core.storage.commit import (
    ATTEMPTS,
    COMMIT,
    MARKERS,
    METADATA,
    WRITER,
    CheckpointMarker,
    FileEntry,
    is_damage,
    read_marker,
)
from tune_core.storage.filesystems import brief, check_name, copies_by_itself, is_local, without_credentials
from tune_core.storage.transfer import (
    COPIED_FILE,
    MAX_LARGE_FILES,
    SMALL_FILE,
    TEMPORARY_PREFIX,
    FileChanged,
    ServerCopies,
    digest_of_file,
    download_file,
    find_files,
    in_parallel,
    make_parent,
    read_bytes,
    upload_file,
)

logger = logging.getLogger(__name__)

#: A damaged download is not tried again after this time, in seconds: the retries within each attempt are long enough.
_RETRY_FOR_S = 60.0
_REMEDY = (
    "it was damaged after its commit: restore it from a copy, or let trials go on from the checkpoint before "
    "with FailureConfig(on_corrupted_checkpoint='previous')"
)


@dataclass(frozen=True, slots=True)
class _SourceFile:
    name: str
    path: Path
    size: int


def scan_source(directory: Path) -> list[_SourceFile]:
    """List what a checkpoint of a directory consists of; symbolic links are followed.

    The markers of a directory that is a committed checkpoint itself are left out.

    Raises:
        CheckpointError: Reserved or unusable names, dangling or circular links, sockets, pipes.
    """
    own = _own_files(directory)
    return sorted(_walk(directory, "", own, ()), key=lambda file: file.name)


def _own_files(directory: Path) -> frozenset[str]:
    found = sorted(name for name in MARKERS if os.path.lexists(directory / name))
    if not found:
        return frozenset()
    try:
        CheckpointMarker.from_json((directory / COMMIT).read_bytes())
    except (OSError, CheckpointError) as error:
        raise CheckpointError(
            f"{directory} contains {found}: these names are reserved for prefect-tune's own marker files; "
            "save under other names"
        ) from error
    return MARKERS


def _walk(
    directory: Path, prefix: str, skip: frozenset[str], above: tuple[tuple[int, int], ...]
) -> Iterator[_SourceFile]:
    status = directory.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise CheckpointError(
            f"{directory} is a symbolic link to a directory that contains it; remove the link"
        )
    is_empty = True
    for path in sorted(directory.iterdir()):
        if path.name in skip or (skip and path.name.startswith(TEMPORARY_PREFIX)):
            continue
        is_empty = False
        name = prefix + path.name
        _check_file_name(name, path)
        if path.is_dir():
            yield from _walk(path, f"{name}/", frozenset(), (*above, identity))
        elif path.is_file():
            yield _SourceFile(name, path, path.stat().st_size)
        else:
            what = "a dangling symbolic link" if path.is_symlink() else "neither a file nor a directory"
            raise CheckpointError(
                f"{path} is {what}: a checkpoint can hold files and directories only; remove it"
            )
    if is_empty and prefix:
        yield _SourceFile(prefix, directory, 0)


def _check_file_name(name: str, path: Path) -> None:
    try:
        check_name(name, "checkpoint file")
    except StorageError as error:
        raise CheckpointError(f"{str(path)!r}: {error}") from error
    if "?versionId=" in name:
        raise CheckpointError(
            f"{path}: s3fs takes '?versionId=' in a name for a version of another file; rename it"
        )


def copies_from(filesystem: Any, directory: str, files: list[_SourceFile]) -> ServerCopies | None:
    """Return what of a committed checkpoint could be copied for these files; None if nothing could.

    Args:
        filesystem: Where the checkpoint is.
        directory: Its path inside the filesystem.
        files: From `scan_source`.
    """
    if not copies_by_itself(filesystem) or not any(file.size >= COPIED_FILE for file in files):
        return None
    try:
        marker = read_marker(filesystem, directory)
        listed = find_files(filesystem, directory) if marker is not None else {}
    except Exception as error:  # noqa: BLE001 - everything can be sent
        logger.info("%s cannot be read, so nothing is copied from it: %s", directory, brief(error))
        return None
    if marker is None:
        return None
    known = {
        (entry.size, entry.digest): (f"{directory}/{entry.name}", entry.etag)
        for entry in marker.files
        if _is_still(entry, listed.get(entry.name))
    }
    return ServerCopies(filesystem, known)


def _is_still(entry: FileEntry, info: dict[str, Any] | None) -> bool:
    """Whether a listed object is the one that was uploaded, as far as the storage says."""
    return info is not None and (info["size"], info.get("ETag", "")) == (entry.size, entry.etag)


def upload_files(
    filesystem: Any,
    files: list[_SourceFile],
    directory: str,
    stop: threading.Event,
    copies: ServerCopies | None = None,
) -> tuple[FileEntry, ...]:
    """Upload files below a directory, several at a time.

    Args:
        filesystem: Where to.
        files: From `scan_source`.
        directory: Path inside the filesystem.
        stop: When set, no further file is begun.
        copies: What may be copied on the server instead.

    Returns:
        What a marker lists: every file but the user's metadata, with size and digest as uploaded.

    Raises:
        CheckpointError: A file changed or vanished while it was read.
    """

    def upload(file: _SourceFile) -> FileEntry:
        try:
            return FileEntry(
                file.name, *upload_file(filesystem, file.path, f"{directory}/{file.name}", copies)
            )
        except OSError as error:
            if isinstance(error, FileChanged) or not file.path.exists():
                raise CheckpointError(
                    f"{file.path} changed or vanished while its checkpoint was uploaded ({error}): report a "
                    "checkpoint only when its files are written, and leave them alone until report returns"
                ) from error
            raise

    directories = [FileEntry(file.name, 0, "") for file in files if file.name.endswith("/")]
    for entry in directories:
        make_parent(filesystem, f"{directory}/{entry.name}")
    contents = [file for file in files if not file.name.endswith("/")]
    small = in_parallel(upload, [file for file in contents if file.size <= SMALL_FILE], stop=stop)
    large = in_parallel(
        upload, [file for file in contents if file.size > SMALL_FILE], limit=MAX_LARGE_FILES, stop=stop
    )
    entries = [entry for entry in (*directories, *small, *large) if entry.name != METADATA]
    return tuple(sorted(entries, key=lambda entry: entry.name))


def check_uploaded(filesystem: Any, directory: str, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
    """Compare names and sizes with what is listed now; return the files with the storage's ETags.

    Called before the marker is written.

    Raises:
        StorageError: A file is missing or cut short, or the directory was swept meanwhile.
    """
    listed = find_files(filesystem, directory)
    where = without_credentials(str(filesystem.unstrip_protocol(directory)))
    if WRITER not in listed or COMMIT in listed:
        raise StorageError(
            f"{where} was swept as abandoned while it was uploaded: a newer attempt at its trial runs"
        )
    for entry in files:
        found = listed.get(entry.name, {}).get("size")
        if found != entry.size and not entry.name.endswith("/"):
            raise StorageError(
                f"{where}/{entry.name}: {entry.size} bytes were uploaded, the storage has "
                f"{'no such file' if found is None else f'{found} bytes'}; it is not committed: report it again"
            )
    return tuple(replace(entry, etag=listed.get(entry.name, {}).get("ETag", "")) for entry in files)


def check_stored(filesystem: Any, directory: str, marker: CheckpointMarker) -> None:
    """Compare a checkpoint with its marker: names and sizes, on a local filesystem digests too.

    Raises:
        CheckpointCorrupted: A file is missing, or differs.
    """
    listed = find_files(filesystem, directory)

    def check(entry: FileEntry) -> None:
        path, size = f"{directory}/{entry.name}", listed.get(entry.name, {}).get("size")
        fault = f"{size} bytes" if size != entry.size else None
        if size == entry.size and is_local(filesystem):
            fault = _fault(Path(path), entry)
        if fault is not None:
            raise CheckpointCorrupted(
                f"{path}: expected {_expected(entry)}, found {'nothing' if size is None else fault}; {_REMEDY}"
            )

    in_parallel(check, [entry for entry in marker.files if not entry.name.endswith("/")])


def download_files(
    filesystem: Any, directory: str, marker: CheckpointMarker | None, destination: Path
) -> None:
    """Copy a checkpoint's files into a directory of this machine, each only when it is whole.

    Args:
        filesystem: Where from.
        directory: Path inside the filesystem.
        marker: What to compare with; None for a directory that was never a committed checkpoint,
            of which only sizes can be compared.
        destination: Made if missing. Files that are there and right are not fetched again.

    Raises:
        CheckpointCorrupted: A file is not what the marker says, or missing.
    """
    destination.mkdir(parents=True, exist_ok=True)
    if marker is None and is_local(filesystem):
        mode = destination.stat().st_mode
        shutil.copytree(directory, destination, dirs_exist_ok=True)
        destination.chmod(mode)  # copytree takes over that of the source
        return
    if marker is None:
        listed = find_files(filesystem, directory)
        entries = [FileEntry(name, info["size"], "") for name, info in listed.items()]
    else:
        entries = list(marker.files)
    for entry in entries:
        try:
            check_name(entry.name.removesuffix("/"), "checkpoint file")
        except StorageError as error:
            raise CheckpointCorrupted(f"{directory}: {error}") from error
        folder = destination / entry.name if entry.name.endswith("/") else (destination / entry.name).parent
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(entry: FileEntry) -> None:
        _fetch(filesystem, f"{directory}/{entry.name}", destination / entry.name, entry)

    contents = [entry for entry in entries if not entry.name.endswith("/")]
    in_parallel(fetch, [entry for entry in contents if entry.size <= SMALL_FILE])
    in_parallel(fetch, [entry for entry in contents if entry.size > SMALL_FILE], limit=MAX_LARGE_FILES)
    if marker is not None:
        _fetch_metadata(filesystem, directory, destination)


def _fetch(filesystem: Any, path: str, destination: Path, entry: FileEntry) -> None:
    if entry.digest and destination.is_file() and _fault(destination, entry) is None:
        return
    partial = destination.with_name(f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}")
    last_try_at = time.monotonic() + _RETRY_FOR_S
    try:
        for attempt in range(1, ATTEMPTS + 1):
            is_last = attempt == ATTEMPTS or time.monotonic() > last_try_at
            fault = _download(filesystem, path, partial, entry, is_last=is_last)
            if fault is None:
                partial.replace(destination)
                return
            if is_last:
                break
            logger.warning("%s was damaged on its way, fetching it again: %s", path, fault)
    finally:
        partial.unlink(missing_ok=True)
    raise CheckpointCorrupted(
        f"{path}: expected {_expected(entry)}, found {fault}, {attempt} times; {_REMEDY}"
    )


def _download(filesystem: Any, path: str, partial: Path, entry: FileEntry, *, is_last: bool) -> str | None:
    """Download a file and return what is wrong with it; None if it is as expected."""
    try:
        download_file(filesystem, path, partial, entry.size)
    except FileNotFoundError as error:
        raise CheckpointCorrupted(f"{path} is missing: expected {_expected(entry)}; {_REMEDY}") from error
    except PermissionError:
        raise
    except Exception as error:
        # s3fs retries requests, but not the body of a part that breaks off.
        # Guarded by tests/contracts/test_storage_faults.py: test_cut_download_is_completed.
        if is_last and not is_damage(error):
            raise
        return brief(error)
    return _fault(partial, entry)


def _fetch_metadata(filesystem: Any, directory: str, destination: Path) -> None:
    try:
        data = read_bytes(filesystem, f"{directory}/{METADATA}")
    except FileNotFoundError:
        return
    (destination / METADATA).write_bytes(data)


def _expected(entry: FileEntry) -> str:
    return f"{entry.size} bytes with digest {entry.digest}" if entry.digest else f"{entry.size} bytes"


def _fault(path: Path, entry: FileEntry) -> str | None:
    size = path.stat().st_size
    digest = digest_of_file(path, entry.digest) if size == entry.size and entry.digest else ""
    if size != entry.size:
        return f"{size} bytes"
    return None if digest == entry.digest else f"{size} bytes with digest {digest}"
