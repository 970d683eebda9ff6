"""Several experiments of one name: each begins beside those before it, in one journal, and all stay readable.

`digits` is the one whose driver wrote last; `digits@1` is the first that began there, `digits@2` the second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tune_core.control.segments import experiment_ids
from tune_core.errors import StorageError
from tune_core.storage.experiment_storage import ExperimentStorage, split_number, split_path


def experiment_at(
    path: str | os.PathLike[str],
    *,
    filesystem: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> ExperimentStorage:
    """Return the storage of an experiment by its path, which may end in `@NUMBER`; see `ExperimentStorage.open`.

    Raises:
        ConfigError: The path or the filesystem cannot be used.
        StorageError: There are fewer experiments of that name.
    """
    whole, number = split_number(path)
    storage = ExperimentStorage.open(
        *split_path(whole), filesystem=filesystem, storage_options=storage_options
    )
    return storage if number is None else chosen(storage, number)


def chosen(storage: ExperimentStorage, number: int) -> ExperimentStorage:
    """Return a storage for reading one of several experiments of its name.

    Args:
        storage: Where they are.
        number: Which one, in the order in which they began, from 1.

    Raises:
        StorageError: There are fewer.
    """
    ids = experiment_ids(storage)
    if number > len(ids):
        there = f"{len(ids)}, {storage.name}@1 to {storage.name}@{len(ids)}" if ids else "none"
        raise StorageError(f"{storage.url}@{number}: of the experiments of this name there are {there}")
    return storage.only(ids[number - 1], number)
