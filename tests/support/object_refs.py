"""References to objects that Ray keeps, without Ray."""

from __future__ import annotations

from typing import Any, NoReturn


class ObjectRef:
    """Looks like one of Ray's, which only Ray may pickle."""

    def __init__(self, number: int = 255) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"ObjectRef({self.number:04x})"

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef:
        return self

    def __reduce__(self) -> NoReturn:
        raise AssertionError("pickled by somebody else than Ray")


ObjectRef.__module__ = "ray"
