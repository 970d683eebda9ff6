"""Directories with files, as checkpoints are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def a_directory(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a directory, which is made if it is not there; return its path.

    Args:
        path: Of the directory.
        files: What is in them, by their path in the directory, with `/`.
    """
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
