"""How configuration objects are shown."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from tune_core.masking import masked
from tune_core.storage.filesystems import without_credentials


def default_of(each: Any) -> Any:
    """Return the default of a dataclass's field."""
    return each.default if each.default_factory is MISSING else each.default_factory()


def shown(config: Any) -> str:
    """Return the repr of a configuration: what differs from the defaults, and never a secret."""
    parts = []
    for each in fields(config):
        value = getattr(config, each.name)
        if each.repr and value != default_of(each):
            is_path = each.name == "storage_path" and isinstance(value, str)
            text = repr(without_credentials(value)) if is_path else masked(repr(value))
            parts.append(f"{each.name}={text}")
    return f"{type(config).__name__}({', '.join(parts)})"
