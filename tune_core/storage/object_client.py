"""Reads, writes and lists S3 objects by obstore, which is several times as fast as s3fs.

Owns when that is possible, and what happens when it fails. s3fs stays the filesystem: it says which server, region
and credentials are meant, it copies and deletes, and it does again whatever obstore fails to do; its error is the one
that is raised. So every rule about errors, retries and credentials holds as if there were s3fs alone.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tune_core.storage.filesystems import brief, is_s3

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Options of s3fs that are understood, or that do not matter here; with any other, s3fs does everything.
_OPTIONS = frozenset(
    {
        "anon",
        "asynchronous",
        "client_kwargs",
        "endpoint_url",
        "key",
        "listings_expiry_time",
        "loop",
        "max_paths",
    }
    | {"profile", "secret", "skip_instance_cache", "token", "use_listings_cache", "username", "password"}
)
_CLIENT_OPTIONS = frozenset({"endpoint_url", "region_name"})
#: Keys that mean the same to every client; others are percent-encoded differently, so s3fs has them.
_PLAIN_KEY = re.compile(r"[\w.=,@+-][\w./=,@+-]*", re.ASCII)
#: So often in a row it may fail where s3fs succeeds; then it is not asked again.
_MOST_FAILURES = 3
#: For how long credentials are used before the session is asked again; it renews them in time by itself.
_CREDENTIALS_S = 120.0


class ObjectClient:
    """Reads and writes objects of one filesystem's server.

    Args:
        make_store: Called with a bucket; returns obstore's store of it.
    """

    def __init__(self, make_store: Callable[[str], Any]) -> None:
        self._make_store = make_store
        self._stores: dict[str, Any] = {}
        self._failures = 0

    @property
    def is_given_up(self) -> bool:
        """Whether it has failed too often."""
        return self._failures >= _MOST_FAILURES

    def read(self, path: str) -> bytes:
        """Return an object's bytes.

        Raises:
            FileNotFoundError: There is none.
        """
        import obstore

        store, key = self._place(path)
        return bytes(obstore.get(store, key).bytes())

    def write(self, path: str, data: bytes, *, create: bool = False) -> None:
        """Write an object.

        Args:
            path: Bucket and key.
            data: The bytes.
            create: Refuse if there is one already.

        Raises:
            FileExistsError: There is one already; perhaps this very call has written it.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        store, key = self._place(path)
        try:
            obstore.put(store, key, data, mode="create" if create else "overwrite", use_multipart=False)
        except AlreadyExistsError as error:
            raise FileExistsError(f"{path} exists already") from error

    def upload(self, source: Path, path: str, *, part_size: int, parts_in_flight: int) -> None:
        """Write a file's bytes as an object, in parts."""
        import obstore

        store, key = self._place(path)
        obstore.put(store, key, source, chunk_size=part_size, max_concurrency=parts_in_flight)

    def read_range(self, path: str, start: int, length: int) -> memoryview:
        """Return some bytes of an object."""
        import obstore

        store, key = self._place(path)
        return memoryview(obstore.get_range(store, key, start=start, length=length))

    def find(self, path: str) -> dict[str, dict[str, Any]]:
        """Return what s3fs says of every object below a prefix, by its whole path; {} if there is none."""
        import obstore

        store, key = self._place(path)
        bucket = path.partition("/")[0]
        return {
            f"{bucket}/{found['path']}": {
                "size": found["size"],
                "ETag": found["e_tag"] or "",
                "LastModified": found["last_modified"],
                "type": "file",
            }
            for batch in obstore.list(store, prefix=key, chunk_size=1000)
            for found in batch
        }

    def has_failed(self, path: str, error: Exception) -> None:
        """Take note that s3fs has done what this could not do."""
        self._failures += 1
        logger.info("%s: obstore failed where s3fs did not: %s", path, brief(error))
        if self._failures == _MOST_FAILURES:
            logger.warning(
                "obstore failed %d times in a row where s3fs did not: from now on s3fs does everything (%s)",
                self._failures,
                brief(error),
            )

    def has_succeeded(self) -> None:
        """Take note that something has worked."""
        if not self.is_given_up:
            self._failures = 0

    def _place(self, path: str) -> tuple[Any, str]:
        bucket, _, key = path.partition("/")
        store = self._stores.get(bucket)
        if store is None:
            store = self._stores[bucket] = self._make_store(bucket)
        return store, key


def by_client(
    filesystem: Any, path: str, call: Callable[[ObjectClient], _Result], other: Callable[[], _Result]
) -> _Result:
    """Return what `call` returns, or `other` where obstore cannot be used or fails.

    Args:
        filesystem: Any fsspec filesystem.
        path: Inside it.
        call: Does it by obstore.
        other: Does the same by the filesystem.

    Raises:
        FileNotFoundError: As either says.
        FileExistsError: The same.
        Exception: What `other` raises.
    """
    client = client_of(filesystem, path)
    if client is None:
        return other()
    try:
        result = call(client)
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:  # noqa: BLE001 - s3fs may be able to, and knows how to say why not
        answer = other()
        client.has_failed(path, error)
        return answer
    client.has_succeeded()
    return result


#: Set to "s3fs" in the environment, it leaves obstore out.
CLIENT_VARIABLE = "PREFECT_TUNE_S3_CLIENT"

#: By filesystem, and equal ones share. Kept for good, as fsspec keeps its instances: with weak keys, a client and what
#: is known of its failures would go when the first of several equal filesystems does.
_clients: dict[Any, ObjectClient | None] = {}
_lock = threading.Lock()
#: The process in which obstore's threads run: a forked child has none of them.
_process: int | None = None


def client_of(filesystem: Any, path: str) -> ObjectClient | None:
    """Return what moves the bytes of a path by obstore; None if the filesystem itself has to."""
    if os.environ.get(CLIENT_VARIABLE) == "s3fs":
        return None
    if not is_s3(filesystem) or _PLAIN_KEY.fullmatch(path) is None or "//" in path:
        return None
    if _process not in (None, os.getpid()):
        return None  # not even the lock: another thread of the parent may have held it as it forked
    with _lock:
        if filesystem not in _clients:
            _clients[filesystem] = _new_client(filesystem)
        client = _clients[filesystem]
    return client if client is not None and not client.is_given_up else None


def _new_client(filesystem: Any) -> ObjectClient | None:
    global _process  # noqa: PLW0603 - what it is about belongs to the process
    try:
        import obstore  # noqa: F401 - an optional speed-up: without it there is s3fs

        store_options = _store_options(filesystem)
    except Exception as error:  # noqa: BLE001 - whatever it is, s3fs meets it as well and can say it
        logger.info("obstore is not used: %s", brief(error))
        return None
    if store_options is None:
        return None
    if _process is None:
        _process = os.getpid()

    def make_store(bucket: str) -> Any:
        from obstore.store import S3Store

        return S3Store(bucket, **store_options)

    return ObjectClient(make_store)


def _store_options(filesystem: Any) -> dict[str, Any] | None:
    """What obstore needs to mean the same server, as the same user; None if it cannot be told."""
    options = {name for name, value in filesystem.storage_options.items() if value is not None}
    client_options = {name for name, value in (filesystem.client_kwargs or {}).items() if value is not None}
    if filesystem.storage_args or not options <= _OPTIONS or not client_options <= _CLIENT_OPTIONS:
        return None
    connected = filesystem.connect()
    endpoint = str(connected.meta.endpoint_url)
    client: dict[str, Any] = {
        "connect_timeout": "5s",
        "timeout": "60s",
        "allow_http": endpoint.startswith("http:"),
    }
    certificates = filesystem.session.get_config_variable("ca_bundle")
    if certificates is not None:
        client["root_certificate"] = Path(certificates).read_bytes()
    retries = {"max_retries": 2, "retry_timeout": datetime.timedelta(seconds=20)}
    found: dict[str, Any] = {
        "endpoint": endpoint,
        "region": connected.meta.region_name or "us-east-1",
        "client_options": client,
        "retry_config": retries,
    }
    if filesystem.anon:
        return found | {"skip_signature": True}
    if filesystem.key is not None:
        return found | {
            "access_key_id": filesystem.key,
            "secret_access_key": filesystem.secret,
            **({"session_token": filesystem.token} if filesystem.token else {}),
        }
    provider = _SessionCredentials(filesystem)
    provider()  # without any, s3fs says what is missing
    return found | {"credential_provider": provider}


class _SessionCredentials:
    """What the session of an s3fs filesystem has as credentials, be it of the environment, a profile or a role.

    Args:
        filesystem: Whose they are.
    """

    def __init__(self, filesystem: Any) -> None:
        self._session, self._loop = filesystem.session, filesystem.loop

    def __call__(self) -> dict[str, Any]:
        """Return them as obstore takes them."""
        from fsspec.asyn import sync

        frozen = sync(self._loop, self._frozen)
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=_CREDENTIALS_S)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": expires,
        }

    async def _frozen(self) -> Any:
        credentials = await self._session.get_credentials()
        return await credentials.get_frozen_credentials()
