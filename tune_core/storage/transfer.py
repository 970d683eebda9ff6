"""Moves bytes between this machine and a filesystem: bounded in memory, in threads and in time.

Owns what differs between filesystems when they are used: caches of listings, sizes of parts,
directories that must be made first, servers that hang. It knows nothing of checkpoints, never
creates buckets, and every listing is fresh.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from fsspec import AbstractFileSystem

from tune_core.errors import StorageError, TuneError
from tune_core.storage.filesystems import brief, has_directories, is_local, is_memory, is_s3
from tune_core.storage.object_client import ObjectClient, by_client

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

#: Files that are moved at the same time, within one call.
MAX_PARALLEL = 8
#: Size of the parts in which large files travel, in bytes; S3 takes no less than 5 MiB.
PART_SIZE = 8 * 2**20
#: Parts of one file that are in memory at the same time.
PARTS_IN_FLIGHT = 4
#: Files up to this size travel in one request, from memory, in bytes.
SMALL_FILE = 8 * 2**20
#: Files of at least this size are worth two requests for a copy on the server, in bytes.
COPIED_FILE = 64 * 2**10
#: S3 takes no more parts than this for one object.
_MAX_PARTS = 10_000
#: Large files that are in transfer at the same time: with the above, 64 MiB of parts.
MAX_LARGE_FILES = 2

#: Begins digests of files by xxh3-128, which runs at several GB/s; markers of older versions have blake2b, without it.
FAST_DIGEST = "xxh3:"

TEMPORARY_PREFIX = ".tmp-"
#: What `link` says where a filesystem has no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})
#: MemoryFileSystem checks, then writes: within its one process, a lock closes the gap.
_MEMORY_CREATE = threading.Lock()


def read_bytes(filesystem: Any, path: str) -> bytes:
    """Read a small file in one request.

    Raises:
        FileNotFoundError: It does not exist.
        OSError: It is no regular file: to open a fifo would wait for ever.
    """
    if is_local(filesystem):
        refuse_special(path)
    # More than one at a time would make s3fs ask for the size first.
    options = {"max_concurrency": 1} if is_s3(filesystem) else {}
    return by_client(
        filesystem,
        path,
        lambda client: client.read(path),
        lambda: bytes(filesystem.cat_file(path, **options)),
    )


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Raise an OSError if a local path is there and is something that hangs or cannot be read as a file."""
    mode = os.stat(path).st_mode  # noqa: PTH116 - for every object that is read
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"is a {kind}, where a file was expected", os.fspath(path))


def write_bytes(filesystem: Any, path: str, data: bytes) -> None:
    """Write a file, over an older one; locally, in one step."""
    make_parent(filesystem, path)
    if not is_local(filesystem):
        _pipe(filesystem, path, data)
        return
    temporary = temporary_beside(path)
    try:
        filesystem.pipe_file(temporary, data)
        filesystem.mv(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _pipe(filesystem: Any, path: str, data: bytes) -> None:
    by_client(
        filesystem, path, lambda client: client.write(path, data), lambda: filesystem.pipe_file(path, data)
    )


def temporary_beside(path: str) -> str:
    """Return a path in the same directory that `list` does not show."""
    parent = path.rpartition("/")[0]
    return f"{parent}/{TEMPORARY_PREFIX}{os.urandom(8).hex()}"


def create_bytes(filesystem: Any, path: str, data: bytes) -> None:
    """Write a file that must not exist, so that one of several writers wins.

    Raises:
        FileExistsError: It exists; perhaps this very call wrote it, and a retry met its own object.
        NotImplementedError: The filesystem cannot do it in one step.
    """
    make_parent(filesystem, path)
    if is_local(filesystem):
        _create_by_link(filesystem, path, data)
        return
    if type(filesystem).pipe_file is AbstractFileSystem.pipe_file and not filesystem.async_impl:
        raise NotImplementedError(f"{type(filesystem).__name__} checks first and writes then")
    try:
        with _MEMORY_CREATE if is_memory(filesystem) else contextlib.nullcontext():
            by_client(
                filesystem,
                path,
                lambda client: client.write(path, data, create=True),
                lambda: filesystem.pipe_file(path, data, mode="create"),
            )
    except Exception as error:
        if error_code(error) in ("PreconditionFailed", "412"):
            # s3fs gives FileExistsError only for servers that name the header; the others: EINVAL.
            # Guarded by tests/contracts/test_storage_contract.py on moto and SeaweedFS.
            raise FileExistsError(errno.EEXIST, "exists already", path) from error
        raise


def error_code(error: BaseException) -> str | None:
    """Return the code that an S3 server gave for the error, such as `PreconditionFailed`."""
    response = getattr(error.__cause__ or error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _create_by_link(filesystem: Any, path: str, data: bytes) -> None:
    # fsspec's own create mode looks, then writes. A hard link fails if the name is taken, and the
    # bytes are complete before the name exists. Guarded by test_one_of_eight_writers_wins_every_round.
    temporary = temporary_beside(path)
    try:
        filesystem.pipe_file(temporary, data)
        filesystem.link(temporary, path)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise NotImplementedError(
                f"the filesystem of {path} has no hard links ({brief(error)})"
            ) from error
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def make_parent(filesystem: Any, path: str) -> None:
    """Make the directories above a file, where there are such things."""
    if has_directories(filesystem):
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)


def find_files(filesystem: Any, path: str) -> dict[str, dict[str, Any]]:
    """List every file below a directory, fresh: relative name to fsspec's info."""
    found = by_client(filesystem, path, lambda client: client.find(path), lambda: _find(filesystem, path))
    prefix = path.rstrip("/") + "/"
    # SeaweedFS lists a directory that is gone once more as its own, empty child.
    return {
        name[len(prefix) :]: info
        for name, info in found.items()
        if name.startswith(prefix) and name != prefix and info.get("type") != "directory"
    }


def _find(filesystem: Any, path: str) -> dict[str, dict[str, Any]]:
    filesystem.invalidate_cache(path)
    try:
        found: dict[str, dict[str, Any]] = filesystem.find(path, detail=True)
    except FileNotFoundError:
        return {}
    return found


def exists(filesystem: Any, path: str) -> bool:
    """Return whether there is a file or a directory of that name, fresh."""
    filesystem.invalidate_cache(path)
    try:
        is_file = filesystem.info(path)["type"] == "file"
    except (FileNotFoundError, NotADirectoryError):
        return False
    # SeaweedFS shows a directory for a while after its last object is gone.
    return is_file or has_directories(filesystem) or bool(find_files(filesystem, path))


def changed_at(info: Mapping[str, Any]) -> float:
    """Return when a listed file was last written, epoch seconds; now, where a filesystem does not say."""
    for key in ("LastModified", "mtime", "created", "updated", "last_modified"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return time.time()


def remove_tree(filesystem: Any, path: str, *, last: str | None = None) -> None:
    """Remove a file, or a directory with all that is in it; nothing happens if it does not exist.

    Args:
        filesystem: Where.
        path: What.
        last: Name of a file below it that goes only when all others are gone.
    """
    if not has_directories(filesystem) or filesystem.isfile(path):
        _remove_file(filesystem, path)
    names = find_files(filesystem, path)
    remove_files(filesystem, path, [name for name in names if name != last])
    if last in names:
        _remove_file(filesystem, f"{path}/{last}")
    _remove_directories(filesystem, path)


def remove_files(filesystem: Any, path: str, names: Sequence[str]) -> None:
    """Remove files below a directory; those that do not exist are passed over."""
    in_parallel(lambda name: _remove_file(filesystem, f"{path}/{name}"), names)


def _remove_file(filesystem: Any, path: str) -> None:
    # Never fs.rm: it takes brackets and stars in a name for a pattern.
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def _remove_directories(filesystem: Any, path: str) -> None:
    if not (has_directories(filesystem) or is_memory(filesystem)) or not filesystem.isdir(path):
        return
    for directory in sorted({*filesystem.find(path, withdirs=True), path}, key=len, reverse=True):
        try:
            filesystem.rmdir(directory)
        except OSError as error:
            # Never rmtree: another writer may have put new files there.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT, None):
                raise


def digest_of(data: bytes) -> str:
    """Return the digest of a marker, or of a segment of a journal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_of_bytes(data: bytes) -> str:
    """Return the digest under which a file is listed in a commit marker."""
    return FAST_DIGEST + xxhash.xxh3_128_hexdigest(data)


def digest_of_file(path: Path, like: str = FAST_DIGEST) -> str:
    """Return the digest of a file, read in bounded pieces.

    Args:
        path: The file.
        like: A digest to compare with: that of the file is made in the same way.
    """
    if like.startswith(FAST_DIGEST):
        with path.open("rb") as file:
            return FAST_DIGEST + hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class FileChanged(OSError):
    """A file was written to while it was uploaded."""


class ServerCopies:
    """Objects that need not be sent again, since the server has equal ones and can copy them.

    If a copy fails for whatever reason (the original may have been deleted), no other is tried.

    Args:
        filesystem: Where the objects are, and where the copies go.
        known: `(path, etag)` by size in bytes and digest; an object is copied while it has that ETag.
    """

    def __init__(self, filesystem: Any, known: Mapping[tuple[int, str], tuple[str, str]]) -> None:
        self._filesystem = filesystem
        self._known = known

    def copy(self, size: int, digest: str, path: str) -> bool:
        """Make a copy of what has this size and digest; return False if it has to be sent."""
        source, etag = self._known.get((size, digest), ("", ""))
        if size < COPIED_FILE or not source:
            return False
        # Not all servers look at it, and s3fs leaves it out above 5 GB, where it copies in parts.
        condition = {"CopySourceIfMatch": etag} if is_s3(self._filesystem) else {}
        try:
            self._filesystem.cp_file(source, path, **condition)
        except Exception as error:  # noqa: BLE001 - sending it is always possible
            self._known = {}
            logger.info("%s cannot be copied on the server, so it is sent: %s", source, brief(error))
            return False
        return True


def upload_file(
    filesystem: Any, source: Path, path: str, copies: ServerCopies | None = None
) -> tuple[int, str]:
    """Bring a file to the storage; return size in bytes and digest of what is there then.

    Args:
        filesystem: Where to.
        source: The file of this machine.
        path: Path inside the filesystem.
        copies: What may be copied there instead of being sent.

    Raises:
        FileChanged: It was written to meanwhile.
    """
    make_parent(filesystem, path)
    try:
        return _upload_file(filesystem, source, path, copies)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            with contextlib.suppress(Exception):
                filesystem.rm_file(path)  # half of a file would leave no room for anybody else's
        raise


def _upload_file(filesystem: Any, source: Path, path: str, copies: ServerCopies | None) -> tuple[int, str]:
    before = source.stat()
    if before.st_size <= SMALL_FILE:
        data = source.read_bytes()
        digest = digest_of_bytes(data)
        if copies is None or not copies.copy(len(data), digest, path):
            _pipe(filesystem, path, data)
        return len(data), digest
    digest = digest_of_file(source)
    if copies is None or not copies.copy(before.st_size, digest, path):
        part_size = max(PART_SIZE, -(-before.st_size // _MAX_PARTS))
        options = {"chunksize": part_size, "max_concurrency": PARTS_IN_FLIGHT} if is_s3(filesystem) else {}
        by_client(
            filesystem,
            path,
            lambda client: client.upload(source, path, part_size=part_size, parts_in_flight=PARTS_IN_FLIGHT),
            lambda: filesystem.put_file(str(source), path, **options),
        )
    after = source.stat()
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ino,
    ):
        raise FileChanged(f"{source} was written to while it was uploaded")
    return before.st_size, digest


def download_file(filesystem: Any, path: str, destination: Path, size: int) -> None:
    """Download a file to a path of this machine, over an older one.

    Args:
        filesystem: Where from.
        path: Path inside the filesystem.
        destination: The file of this machine.
        size: How many bytes there should be; if there are fewer, the file is shorter or an error is raised.
    """
    by_client(
        filesystem,
        path,
        lambda client: _download_parts(client, path, destination, size),
        lambda: _download_by(filesystem, path, destination),
    )


def _download_parts(client: ObjectClient, path: str, destination: Path, size: int) -> None:
    """Fetch parts at the same time, each straight to its place in the file."""
    if size <= PART_SIZE:
        destination.write_bytes(client.read(path))
        return
    with destination.open("wb") as file:

        def fetch(start: int) -> None:
            part = client.read_range(path, start, min(PART_SIZE, size - start))
            done = 0
            while done < len(part):
                done += os.pwrite(file.fileno(), part[done:], start + done)

        in_parallel(fetch, range(0, size, PART_SIZE), limit=PARTS_IN_FLIGHT)


def _download_by(filesystem: Any, path: str, destination: Path) -> None:
    if is_s3(filesystem):
        filesystem.get_file(path, str(destination), chunksize=PART_SIZE, max_concurrency=PARTS_IN_FLIGHT)
    elif is_memory(filesystem):
        # Its open() hands the same file object, with one position, to every reader.
        destination.write_bytes(filesystem.cat_file(path))
    else:
        filesystem.get_file(path, str(destination))


def call_within(timeout_s: float, what: str, call: Callable[[], _Result]) -> _Result:
    """Call, and give up waiting after a time.

    The retries of s3fs and botocore multiply to minutes, and a server that hangs is not an error
    to either. The call itself cannot be stopped: it goes on in a daemon thread until it fails.

    Raises:
        StorageError: No answer within `timeout_s` seconds.
    """
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            outcome.append((False, error))

    thread = threading.Thread(target=run, name="tune-storage", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise StorageError(
            f"{what}: no answer within {timeout_s:g} s; check that the server is up, and that its address "
            "(storage_options={'endpoint_url': …} or AWS_ENDPOINT_URL) and the network between are right"
        )
    succeeded, value = outcome[0]
    if succeeded:
        return value  # type: ignore[no-any-return]
    raise value


def in_parallel(
    call: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    limit: int = MAX_PARALLEL,
    stop: threading.Event | None = None,
) -> list[_Result]:
    """Call with every item, on at most `limit` threads; results keep the order of the items.

    The first error stops what has not begun and is raised, after what had begun has ended.
    The threads are daemons: one that hangs in a request does not keep the interpreter alive.
    """
    results: dict[int, _Result] = {}
    errors: list[BaseException] = []
    todo = list(enumerate(items))[::-1]

    def work() -> None:
        while not errors and not (stop is not None and stop.is_set()):
            try:
                number, item = todo.pop()
            except IndexError:
                return
            try:
                results[number] = call(item)
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(limit, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    if len(results) < len(items):
        raise StorageError("stopped before all files were transferred, since its time was up")
    return [results[number] for number in range(len(items))]


#: Of botocore, which only S3 needs: nothing was asked of the storage yet.
_NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"})


@contextlib.contextmanager
def explaining(url: str, action: str, *passed: type[Exception]) -> Iterator[None]:
    """Turn what a filesystem raises into an error that says what to do about it.

    Args:
        url: What is read or written.
        action: What is done with it: "read it".
        *passed: Errors that are raised as they are, as are those of this package.

    Raises:
        StorageError: Any other exception was raised.
    """
    as_they_are: tuple[type[Exception], ...] = (TuneError, *passed)
    try:
        yield
    except as_they_are:
        raise
    except Exception as error:  # filesystems raise what their client libraries raise
        raise StorageError(f"{url}: cannot {action} ({brief(error)}); {_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return (
            "the storage refuses: check the credentials and their right to read, write, list and delete there"
        )
    if type(error).__name__ in _NO_CREDENTIALS:
        return (
            "give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or storage_options"
        )
    if isinstance(error, FileNotFoundError):
        return "it does not exist: check the path; a bucket must exist, it is never created here"
    if isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError)):
        return "something else is in the way there: give another path or name"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the storage is full"
    return "check that the storage is up, its address, and the network between"
