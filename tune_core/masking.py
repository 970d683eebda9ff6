"""What text must not show: the credentials of URLs.

The lowest module of all, so that every error masks its text. It decides nothing about URLs; it only
finds what stands before their `@`.
"""

from __future__ import annotations

import re

_SEPARATOR = "://"
_SPACE = re.compile(r"\s")
_END_OF_AUTHORITY = re.compile(r"[/?#]")


def userinfo_end(rest: str) -> int:
    """Return where what follows a URL's `://` stops being `user:password@`; 0 if it has none.

    A password with a `/` that is not escaped reaches beyond the place where a bucket's name would end.
    So everything up to the last `@` counts if a colon is before it, and else what is before the first `/`.

    Example:
        >>> [userinfo_end(rest) for rest in ("bucket/a@b", "k@bucket", "k:s@bucket", "k:a/b@bucket")]
        [0, 2, 4, 6]
    """
    last = rest.rfind("@")
    if 0 <= rest.find(":") < last:
        return last + 1
    end = _END_OF_AUTHORITY.search(rest)
    return rest.rfind("@", 0, end.start() if end else len(rest)) + 1


def masked(text: str) -> str:
    """Return the text with the user and password of each URL in it as `***`.

    Example:
        >>> masked("cannot read s3://AKIA:ab/cd@bucket/p, nor s3://bucket/a@b")
        'cannot read s3://***@bucket/p, nor s3://bucket/a@b'
    """
    if "@" not in text:
        return text
    parts, done = [], 0
    while (start := text.find(_SEPARATOR, done)) >= 0:
        start += len(_SEPARATOR)
        space = _SPACE.search(text, start)
        end = space.start() if space else len(text)
        hidden = userinfo_end(text[start:end])
        parts += [text[done:start], "***@" if hidden else "", text[start + hidden : end]]
        done = end
    return "".join((*parts, text[done:]))
