"""Automations that a file describes: `prefect-tune automations install FILE`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from tune_core.cli.automations import (
    install_crash_detection,
    install_follow_up,
    install_notification,
    install_stall_cancellation,
)
from tune_core.engine.form.yaml12 import read_yaml
from tune_core.errors import ConfigError
from tune_core.validation import suggestion

_KINDS: dict[str, Callable[..., UUID]] = {
    "crash_detection": install_crash_detection,
    "stall_cancellation": install_stall_cancellation,
    "notification": install_notification,
    "follow_up": install_follow_up,
}


def install_file(path: Path) -> list[tuple[str, UUID]]:
    """Install every automation of a file; return the kind and the id of each.

    Args:
        path: A YAML or JSON file: `automations`, a list of `kind: {option: value}`. Kinds are those of
            `tune_core.cli.automations`, without `install_`; options are their arguments.

    Raises:
        ConfigError: The file cannot be read, or describes something else: nothing was installed. Or the server
            refuses one: those before it were installed.

    Example:
        >>> install_file(Path("deployments/automations.yaml"))  # doctest: +SKIP
        [('crash_detection', UUID('…')), ('stall_cancellation', UUID('…'))]
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    given = read_yaml(text, str(path))
    entries = given.get("automations") if isinstance(given, Mapping) else None
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: expected `automations:` with a list of kinds and their options")
    faults: list[str] = []
    calls = [_call(entry, f"automations[{number}]", faults) for number, entry in enumerate(entries)]
    if faults:
        raise ConfigError(faults)
    return [(kind, call()) for kind, call in calls]


def _call(entry: Any, place: str, faults: list[str]) -> tuple[str, Callable[[], UUID]]:
    kind, options = (
        next(iter(entry.items())) if isinstance(entry, Mapping) and len(entry) == 1 else (entry, {})
    )
    install = _KINDS.get(kind) if isinstance(kind, str) else None
    if install is None:
        faults.append(f"{place}: {kind!r} is none of {', '.join(_KINDS)}{suggestion(str(kind), _KINDS)}")
        return str(kind), partial(UUID, int=0)
    options = {} if options is None else options
    known = inspect.signature(install)
    try:
        known.bind(**options)
    except TypeError as error:
        faults.append(f"{place}.{kind}: {error}; expected a mapping of {', '.join(known.parameters)}")
        return kind, partial(UUID, int=0)
    return kind, partial(install, **options)
