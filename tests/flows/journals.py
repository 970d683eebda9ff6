"""Replays every journal that a test leaves behind: the same events have to lead to the same commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.journal import Journal
from tune_core.control.messages import Event
from tune_core.control.segments import read_segment, segment_numbers
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.replay import replay


@contextmanager
def replayed_journals(tmp_path: Path) -> Iterator[None]:
    """Take note of the experiments of this process; at the end replay them, and what subprocesses left."""
    storages: dict[str, ExperimentStorage] = {}

    def noted_journal(storage: ExperimentStorage, *args: Any, **kwargs: Any) -> Journal:
        storages[storage.path] = storage
        return Journal(storage, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("tune_core.engine.composition.Journal", noted_journal)
        yield
    for segment in tmp_path.rglob("journal/00000001.jsonl"):
        directory = segment.parent.parent
        storages.setdefault(str(directory), ExperimentStorage.open(directory.parent, directory.name))
    for storage in storages.values():
        replay_storage(storage)


def replay_storage(storage: ExperimentStorage) -> dict[str, Controller]:
    """Replay the experiments of one name; raise if an event leads to other commands than it did."""
    segments = [read_segment(storage, number) for number in segment_numbers(storage)]

    def records(experiment_id: str) -> Iterator[tuple[Event, tuple[str, ...]]]:
        for segment in segments:
            if segment.experiment_id == experiment_id:
                yield from segment.records

    ids = dict.fromkeys(segment.experiment_id for segment in segments)
    return {each: replay(records(each), ControllerConfig(each)) for each in ids}
