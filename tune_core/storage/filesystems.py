"""From what users give (a path, a URL, a filesystem) to one fsspec filesystem and a path in it.

Owns how paths, URLs, credentials in URLs and pyarrow's filesystems become one thing, and which
names are safe below it. It sends no request, and nothing that it returns as text has credentials.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from tune_core.errors import ConfigError, StorageError
from tune_core.masking import masked, userinfo_end
from tune_core.validation import safe_str

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: `s3:/bucket`, which pathlib makes of a URL: a local path of that name is hardly ever meant.
_HALF_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?!//)(/*)(.*)", re.DOTALL)
_S3 = frozenset({"s3", "s3a"})
_LOCAL = frozenset({"file", "local"})
#: Where a directory exists by the files in it alone.
_OBJECT_STORES = _S3 | {"gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "r2", "memory"}


def resolve(
    path: str | os.PathLike[str],
    filesystem: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[Any, str, str]:
    """Find the filesystem that a path or URL means.

    Args:
        path: Local path, URL, or with `filesystem` a path inside that.
        filesystem: An fsspec filesystem, or a `pyarrow.fs.FileSystem`, which is wrapped.
        storage_options: Options for the filesystem of a URL (`endpoint_url`, `key`, `secret` …).

    Returns:
        The filesystem, the path inside it, and a URL of it to show, without credentials.

    Raises:
        ConfigError: The path cannot be used; the text says what can.

    Example:
        >>> filesystem, path, url = resolve("memory://bucket/runs")
        >>> path, url
        ('/bucket/runs', 'memory://bucket/runs')
    """
    text = _as_text(path)
    options = dict(storage_options or {})
    if filesystem is not None:
        if options:
            raise ConfigError(
                "storage_options= and a filesystem= were given: put the options into the filesystem"
            )
        return _resolve_inside(filesystem, text)
    if "::" in text.partition("://")[0] or (text.count("://") > 1 and "::" in text):
        raise ConfigError(
            f"{without_credentials(text)!r}: chained URLs (…::…) are not supported, since caches between "
            "would hide what other processes write; pass the inner filesystem with filesystem="
        )
    if _SCHEME.match(text) is None or text.startswith(("file://", "local://")):
        return _resolve_local(text, options)
    return _resolve_url(text, options)


def _as_text(path: str | os.PathLike[str]) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"{path!r}: a path or URL is a string or os.PathLike, not {type(path).__name__}")
    text = os.fspath(path)
    if not text or _has_control_character(text):
        raise ConfigError(
            f"{masked(text)!r}: a path or URL is a string that is not empty, without control characters"
        )
    check_url(text)
    return text


def check_url(text: str) -> None:
    """Refuse what is nearly a URL, and a URL of which nobody can tell where its credentials end.

    Args:
        text: A path or a URL.

    Raises:
        ConfigError: `s3:/bucket`, which would be a local directory; or a password that is not escaped,
            which would be taken for a bucket and a path, and shown. The text quotes no credentials.
    """
    half = _HALF_URL.match(text)
    if half is not None and (half[2] or not half[3] or half[1].lower() in _OBJECT_STORES):
        scheme, rest = half[1], half[3]
        whole = without_credentials(f"{scheme}://{'/' if scheme in _LOCAL else ''}{rest}")
        raise ConfigError(
            f"{scheme}:{half[2]}…: a URL has '//' after '{scheme}:', this one would be a directory of this machine. "
            f"Write {whole!r}, as a string: pathlib.Path drops a slash. If the directory is meant, "
            f"begin it with './'"
        )
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() in _LOCAL:
        return
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    bucket = authority.rpartition("@")[2]
    if userinfo_end(rest) > len(authority) or (scheme.lower() in _OBJECT_STORES and ":" in bucket):
        raise ConfigError(
            f"{scheme}://…: it cannot be told where credentials end and the path begins, since an '@' follows a "
            "'/', or a bucket has a ':'. Give credentials as storage_options={'key': …, 'secret': …}, or write "
            "'/' in them as %2F and '@' as %40; for a path with ':' and '@', give the filesystem itself"
        )


def _resolve_local(text: str, options: dict[str, Any]) -> tuple[Any, str, str]:
    from fsspec.implementations.local import LocalFileSystem

    local = _local_path(text)
    return LocalFileSystem(**options), local, local


def _local_path(text: str) -> str:
    # Not resolve(): what users see in paths is what they gave, not where a link leads.
    bare = re.sub(r"^(file|local)://(localhost(?=/))?", "", text)
    if not bare:
        raise ConfigError(f"{text!r}: names no directory; expected file:///<path>")
    return os.path.normpath(Path(bare).expanduser().absolute())


def _resolve_url(text: str, options: dict[str, Any]) -> tuple[Any, str, str]:
    import fsspec

    shown = without_credentials(text)
    scheme = text.partition("://")[0].lower()
    if any(part in (".", "..") for part in shown.partition("://")[2].split("/")):
        raise ConfigError(f"{shown!r}: '.' and '..' have no meaning in a URL; give the whole path")
    if scheme in _S3:
        text, options = _s3_url(text, options)
    try:
        filesystem, path = fsspec.core.url_to_fs(text, **options)
    except (ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"{shown!r}: {brief(error)}; fsspec opens the URLs of storage_path") from error
    if not path.strip("/") and scheme in _OBJECT_STORES:
        raise ConfigError(f"{shown!r}: names no bucket; expected {scheme}://<bucket>/<path>")
    return filesystem, path, shown


def _s3_url(text: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take credentials and pyarrow's `?endpoint_override=` out of an S3 URL, into options of s3fs."""
    scheme, _, rest = text.partition("://")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    userinfo, has_userinfo, bucket = authority.rpartition("@")
    found: dict[str, Any] = {"use_listings_cache": False}  # other processes write beside this one
    if has_userinfo:
        key, _, secret = userinfo.partition(":")
        found |= {"key": unquote(key), "secret": unquote(secret)}
    asked = dict(parse_qsl(query))
    endpoint, protocol = asked.pop("endpoint_override", None), asked.pop("scheme", "https")
    if endpoint is not None:
        found["endpoint_url"] = endpoint if "://" in endpoint else f"{protocol}://{endpoint}"
    if (region := asked.pop("region", None)) is not None:
        found["client_kwargs"] = {"region_name": region}
    if asked:
        raise ConfigError(
            f"{without_credentials(text)!r}: unknown {sorted(asked)} after '?'; endpoint_override, scheme "
            "and region are understood there, everything else belongs in storage_options="
        )
    parts = [part for part in path.split("/") if part]
    return f"{scheme.lower()}://{bucket}{slash}{'/'.join(parts)}", found | options


def _resolve_inside(filesystem: Any, text: str) -> tuple[Any, str, str]:
    opened, prefix = _unwrap_arrow(filesystem)
    if getattr(opened, "asynchronous", False):
        raise ConfigError(f"filesystem={filesystem!r} is asynchronous: make it with asynchronous=False")
    if any(base.__module__ == "fsspec.implementations.cached" for base in type(opened).__mro__):
        raise ConfigError(
            f"filesystem={filesystem!r} caches: pass the filesystem behind it, caches hide new files"
        )
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme[0][:-3] not in protocols(opened):
        raise ConfigError(
            f"path {without_credentials(text)!r} with a filesystem= of {protocols(opened)}: "
            "give the path inside that filesystem, without a scheme"
        )
    if is_local(opened):
        local = _local_path(prefix + text)
        return opened, local, local
    path = str(opened._strip_protocol(prefix + text)).rstrip("/")
    if any(part in (".", "..") for part in path.split("/")):
        raise ConfigError(
            f"{path!r}: '.' and '..' have no meaning in {protocols(opened)}; give the whole path"
        )
    return opened, path, without_credentials(str(opened.unstrip_protocol(path)))


def _unwrap_arrow(filesystem: Any) -> tuple[Any, str]:
    """Return the fsspec filesystem that a pyarrow one stands for, and the prefix of its paths."""
    import fsspec

    if isinstance(filesystem, fsspec.AbstractFileSystem):
        return filesystem, ""
    # Recognised by its module: a caller that passes one has imported pyarrow; nobody else must.
    if not any(base.__module__.startswith("pyarrow") for base in type(filesystem).__mro__):
        raise ConfigError(
            f"filesystem={filesystem!r}: expected an fsspec filesystem or a pyarrow.fs.FileSystem, "
            f"not {type(filesystem).__name__}"
        )
    from fsspec.implementations.arrow import ArrowFSWrapper
    from fsspec.implementations.local import LocalFileSystem
    from pyarrow import fs as arrow

    if isinstance(filesystem, arrow.SubTreeFileSystem):
        inner, prefix = _unwrap_arrow(filesystem.base_fs)
        return inner, prefix + filesystem.base_path
    if isinstance(filesystem, arrow.LocalFileSystem):
        return LocalFileSystem(), ""
    if isinstance(filesystem, arrow.PyFileSystem) and isinstance(filesystem.handler, arrow.FSSpecHandler):
        return filesystem.handler.fs, ""
    return ArrowFSWrapper(filesystem), ""


def without_credentials(url: str) -> str:
    """Return the URL without `user:password@` and query.

    Example:
        >>> without_credentials("s3://key:secret@bucket/runs?x=1")
        's3://bucket/runs'
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    return f"{scheme}://{rest[userinfo_end(rest) :].partition('?')[0]}".rstrip("/")


def protocols(filesystem: Any) -> tuple[str, ...]:
    """Return the URL schemes of a filesystem."""
    names = filesystem.protocol
    return (names,) if isinstance(names, str) else tuple(names)


def is_local(filesystem: Any) -> bool:
    """Return whether its paths are paths of this machine."""
    return "file" in protocols(filesystem)


def is_s3(filesystem: Any) -> bool:
    """Return whether it is s3fs."""
    return not _S3.isdisjoint(protocols(filesystem))


def is_memory(filesystem: Any) -> bool:
    """Return whether it lives in this process."""
    return "memory" in protocols(filesystem)


def copies_by_itself(filesystem: Any) -> bool:
    """Return whether `cp_file` moves no bytes through this machine; only what is tested is listed."""
    return is_s3(filesystem) or is_memory(filesystem)


def has_directories(filesystem: Any) -> bool:
    """Return whether directories must be made before files, and removed after them."""
    return _OBJECT_STORES.isdisjoint(protocols(filesystem))


#: Longest part of a name, in bytes of UTF-8: what Linux and macOS allow.
_MAX_PART = 255
#: Forbidden in XML, in which S3 lists names.
_NO_CHARACTERS = frozenset("\ufffe\uffff")

_INHERITED: list[Any] = []


class ProcessLocal:
    """Holds a filesystem, and makes another one in a forked child or where it is unpickled.

    Event loops and connections of an asynchronous filesystem belong to the process that opened them.
    """

    __slots__ = ("_filesystem", "_pid")

    def __init__(self, filesystem: Any) -> None:
        self._filesystem, self._pid = filesystem, os.getpid()

    def get(self) -> Any:
        """Return the filesystem of this process."""
        if self._pid != os.getpid():
            inherited = self._filesystem
            if inherited.async_impl:
                # Kept for good: their finalizers each wait a second for a thread that no fork takes along.
                _INHERITED.extend((inherited, *type(inherited)._cache.values()))
                self._filesystem = type(inherited)(*inherited.storage_args, **inherited.storage_options)
            self._pid = os.getpid()
        return self._filesystem

    def __reduce__(self) -> tuple[type[ProcessLocal], tuple[Any]]:
        return type(self), (self._filesystem,)


def check_name(name: object, what: str, *, nested: bool = True) -> str:
    """Return the name if it stays below the directory that it is used in.

    Args:
        name: Relative, `/` between parts.
        what: What it names, for the message: `"experiment"`.
        nested: Whether more than one part is allowed.

    Raises:
        StorageError: Empty, absolute, `..`, control characters, a part longer than 255 bytes, or not
            text that UTF-8 and XML can hold.
    """
    if not isinstance(name, str) or not name:
        raise StorageError(f"{what} name {name!r} is no text, or empty; give a plain relative name")
    fault = None
    if _has_control_character(name):
        fault = "it has control characters"
    elif any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        fault = "it is not valid UTF-8"
    elif not _NO_CHARACTERS.isdisjoint(name):
        fault = "it has U+FFFE or U+FFFF, which are no characters"
    elif any(part in ("", ".", "..") for part in name.split("/")):
        fault = "it is absolute, or has '.', '..' or an empty part"
    elif not nested and "/" in name:
        fault = "it has a '/'"
    elif any(len(part.encode()) > _MAX_PART for part in name.split("/")):
        fault = f"it is longer than {_MAX_PART} bytes"
    if fault is None:
        return name
    shown = name if len(name) <= _MAX_PART else f"{name[:40]}…{name[-10:]}"
    raise StorageError(
        f"{what} name {shown!r} cannot be used below a storage path: {fault}; give a plain relative name"
    )


def _has_control_character(text: str) -> bool:
    return any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)


def brief(error: BaseException, length: int = 300) -> str:
    """Return an error as one line for another error's message, without the credentials of URLs in it."""
    text = masked(" ".join(safe_str(error).split()))
    return f"{type(error).__name__}: {text[:length]}" if text else type(error).__name__
