"""Named objects below one directory or prefix, on any fsspec filesystem.

Owns create-only writes, the time limit of every request, and the words in which a filesystem's
error reaches the user. It knows neither checkpoints nor experiments. Safe to use from several threads.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tune_core.errors import CreateConflict, StorageError
from tune_core.storage.checkpoint_files import scan_source
from tune_core.storage.filesystems import ProcessLocal, brief, check_name, is_local, is_s3
from tune_core.storage.transfer import (
    TEMPORARY_PREFIX,
    FileChanged,
    call_within,
    create_bytes,
    error_code,
    exists,
    explaining,
    find_files,
    in_parallel,
    read_bytes,
    remove_tree,
    upload_file,
    write_bytes,
)

_Result = TypeVar("_Result")

#: Longest time for one request to a remote storage, retries included, in seconds.
REQUEST_TIMEOUT_S = 300.0
#: Longest time for uploading a directory, in seconds.
UPLOAD_TIMEOUT_S = 600.0


class ObjectStore:
    """Objects by name, below one root.

    Args:
        filesystem: An fsspec filesystem.
        path: The root inside it.
        url: The root as shown to users, without credentials.
        fencing: Whether `create` must be able to refuse the second of two writers.

    Attributes:
        path: The root inside the filesystem.
        url: The root as shown to users.
        is_local: Whether it is a path of this machine.
    """

    def __init__(self, filesystem: Any, path: str, url: str, *, fencing: bool) -> None:
        self.path, self.url, self.fencing = path, url, fencing
        self.is_local = is_local(filesystem)
        self.process_local = ProcessLocal(filesystem)

    @property
    def fs(self) -> Any:
        """The fsspec filesystem, of this process."""
        return self.process_local.get()

    def absolute(self, name: str = "") -> str:
        """Return the path of a name inside the filesystem; of the experiment itself for ""."""
        return f"{self.path}/{check_name(name, 'object')}" if name else self.path

    def probe(self, *, timeout_s: float = 25.0) -> None:
        """Find out whether the storage does what an experiment needs, before anything starts.

        When this returns: the bucket exists, objects can be written, read, listed and deleted, and
        of two writers of one name the second is refused.

        Args:
            timeout_s: Longest time for all of it, in seconds, even if the server hangs.

        Raises:
            StorageError: It does not; the text names the URL, what failed, and what to do.
        """
        call_within(timeout_s, self.url, self._probe)

    def probe_steps(self) -> dict[str, Callable[[], None]]:
        """Return what `probe` does, one after the other, each under the words for it.

        A step raises what the filesystem raises; the last one removes what those before it have written.
        """
        directory, first, second = f".probe-{uuid.uuid4().hex}", b"first", b"second"
        name = f"{directory}/object"
        path = self.absolute(name)

        def find_bucket() -> None:
            if is_s3(self.fs):
                # Before any write: SeaweedFS makes a bucket for anybody who may administer it.
                self.fs.info(path.partition("/")[0], refresh=True)

        def read() -> None:
            if read_bytes(self.fs, path) != first:
                raise StorageError(f"{self.url}: what was written came back changed: use another storage")

        def find() -> None:
            if "object" not in find_files(self.fs, self.absolute(directory)):
                raise StorageError(f"{self.url}: what was written is not listed at once: use another storage")

        def create_again() -> None:
            if self.fencing and self._is_overwritten(path, first, second):
                raise StorageError(self._not_fenced("it took a second create-only write"))

        return {
            "find its bucket": find_bucket,
            "write to it": lambda: self._create(name, first),
            "read from it": read,
            "list it": find,
            "write to it twice": create_again,
            "delete from it": lambda: remove_tree(self.fs, self.absolute(directory)),
        }

    def create(self, name: str, data: bytes) -> None:
        """Write an object that must not exist yet.

        When this returns, the object has these bytes. Safe to call again after a lost reply: what
        has the same bytes is taken for one's own, so they should contain something unique.

        Raises:
            CreateConflict: Somebody else wrote other bytes.
            StorageError: The storage refuses or does not answer; whether the object exists is unknown.
        """
        check_name(name, "object")
        self.request(f"create {name}", lambda: self._create(name, data))

    def write(self, name: str, data: bytes) -> None:
        """Write an object, in place of an older one.

        Raises:
            StorageError: The storage refuses or does not answer.
        """
        path = self.absolute(name)
        self.request(f"write {name}", lambda: write_bytes(self.fs, path, data))

    def read(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: It does not exist.
            StorageError: The storage refuses or does not answer.
        """
        path = self.absolute(name)
        return self.request(f"read {name}", lambda: read_bytes(self.fs, path), missing=(FileNotFoundError,))

    def exists(self, name: str) -> bool:
        """Return whether there is an object of that name, or anything below it."""
        path = self.absolute(name)

        return self.request(f"look for {name}", lambda: exists(self.fs, path))

    def list(self, name: str = "") -> builtins.list[str]:
        """Return the names of what is directly below, sorted; [] if there is nothing.

        What any process has written before this call is in it.
        """
        path = self.absolute(name)

        def names() -> builtins.list[str]:
            self.fs.invalidate_cache(path)
            try:
                found = self.fs.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            prefix = path.rstrip("/") + "/"
            children = (entry.rstrip("/")[len(prefix) :] for entry in found if entry.startswith(prefix))
            return sorted(child for child in children if child and not child.startswith(TEMPORARY_PREFIX))

        return self.request(f"list {name or 'the experiment'}", names)

    def upload(self, local_path: str | os.PathLike[str], name: str) -> None:
        """Copy a file of this machine, or a directory with all that is in it, to a name.

        Raises:
            FileNotFoundError: There is no such file here.
            StorageError: The storage refuses or does not answer.
        """
        source, path, stop = Path(local_path), self.absolute(name), threading.Event()
        if not source.exists():
            raise FileNotFoundError(f"{source} is to be uploaded to {self.url}/{name}, but does not exist")
        files = {path: source}
        if source.is_dir():
            files = {f"{path}/{file.name}": file.path for file in scan_source(source) if file.path.is_file()}

        def send(target: str) -> None:
            with contextlib.suppress(FileChanged):  # a log that grows is as good as it was
                upload_file(self.fs, files[target], target)

        self.request(f"upload {name}", lambda: in_parallel(send, [*files], stop=stop), UPLOAD_TIMEOUT_S, stop)

    def delete(self, name: str) -> None:
        """Remove an object and everything below it; nothing happens if it does not exist."""
        path = self.absolute(check_name(name, "object"))
        self.request(f"delete {name}", lambda: remove_tree(self.fs, path))

    def request(
        self,
        action: str,
        call: Callable[[], _Result],
        timeout_s: float = REQUEST_TIMEOUT_S,
        stop: threading.Event | None = None,
        missing: tuple[type[Exception], ...] = (),
    ) -> _Result:
        """Run a call on the filesystem within a time limit; its errors come out explained.

        Args:
            action: What is done, for messages: `"read experiment.json"`.
            call: Does it.
            timeout_s: Longest time on a remote storage, in seconds; a local one is not limited.
            stop: Set at the end, so that what runs on after the time was up can see it.
            missing: Passed on as it is.

        Raises:
            StorageError: It failed, or there was no answer in time.
        """
        try:
            with explaining(self.url, action, *missing):
                if self.is_local:
                    return call()
                return call_within(timeout_s, f"{self.url}: {action}", call)
        finally:
            if stop is not None:
                stop.set()  # whatever still runs after the time was up ends at its next file

    def _create(self, name: str, data: bytes) -> None:
        path = self.absolute(name)
        for pause_s in (0.1, 0.4, 1.6, None):
            try:
                self._create_once(path, data)
                return
            except Exception as error:  # whatever it is, the object may have been written
                found = self._read_back(path, error)
                if found == data:
                    return  # the reply was lost, and a retry met its own object
                if found is not None or isinstance(error, FileExistsError):
                    raise CreateConflict(
                        f"{self.url}/{name} exists already, with other content: another writer was first"
                    ) from error
                # S3 answers 409 when two conditional writes collide: neither need have won.
                if error_code(error) != "ConditionalRequestConflict" or pause_s is None:
                    raise
                time.sleep(pause_s)

    def _read_back(self, path: str, error: Exception) -> bytes | None:
        if isinstance(error, StorageError):
            return None
        try:
            return read_bytes(self.fs, path)
        except FileNotFoundError:
            return None
        except Exception:  # noqa: BLE001 - what matters is why it could not be written
            raise error from None

    def _create_once(self, path: str, data: bytes) -> None:
        if not self.fencing:
            self.fs.invalidate_cache(path)
            if self.fs.exists(path):
                raise FileExistsError(path)
        try:
            create_bytes(self.fs, path, data)
        except NotImplementedError as error:
            if self.fencing:
                raise StorageError(self._not_fenced(brief(error))) from error
            write_bytes(self.fs, path, data)

    def _not_fenced(self, reason: str) -> str:
        return (
            f"{self.url} cannot refuse the second of two writers ({reason}), so an attempt or driver thought "
            "dead could overwrite a live one. Use a bucket without versioning or a disk with hard links; in place of a "
            "pyarrow S3FileSystem, give storage_path='s3://bucket/path' with storage_options={'key': …, 'secret': …, "
            "'endpoint_url': …}, or an s3fs.S3FileSystem"
        )

    def _probe(self) -> None:
        for action, step in self.probe_steps().items():
            with explaining(self.url, action):
                step()

    def _is_overwritten(self, path: str, first: bytes, second: bytes) -> bool:
        with contextlib.suppress(FileExistsError):
            create_bytes(self.fs, path, second)
        return read_bytes(self.fs, path) != first
