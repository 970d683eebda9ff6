"""Ray's references to objects and to actors, recognised without Ray.

They belong to the process that made them: only Ray itself can send them elsewhere, and nothing that
is stored can stand for them. Whoever pickles or stores values asks here first.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

_KINDS: Final = frozenset({"ObjectRef", "ActorHandle"})
#: Says whose reference a text stands for: Ray gives the same names again in the next process.
_PROCESS: Final = secrets.token_hex(4)
_TEXT: Final = re.compile(r"(\w+)\(.*\) of process (\w+)")


def is_reference(value: object) -> bool:
    """Return whether a value is a reference to an object or to an actor of Ray."""
    kind = type(value)
    return kind.__name__ in _KINDS and kind.__module__.partition(".")[0] == "ray"


def reference_text(reference: Any) -> str:
    """Return what stands for a reference where it is stored."""
    return f"{reference!r} of process {_PROCESS}"


def is_reference_text(text: str) -> bool:
    """Return whether a text is what `reference_text` returns."""
    return _TEXT.fullmatch(text) is not None


def stands_for(text: str, reference: Any) -> bool:
    """Return whether a stored text may have been written for this reference.

    In the process that wrote it that is known. In another one any reference of the same kind may be
    the new one of the same thing: if there is only one at its place, it is.
    """
    found = _TEXT.fullmatch(text)
    if found is None or found[2] == _PROCESS:
        return text == reference_text(reference)
    return found[1] == repr(reference).partition("(")[0]
