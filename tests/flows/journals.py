"""Replays every journal that a test leaves behind: the same events have to lead to the same commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tune_core.controller import Controller, Rules
from tune_core.encoding import loads
from tune_core.journal import Journal, read_segment, segment_numbers
from tune_core.messages import Event
from tune_core.runtime import SPEC_FILE
from tune_core.storage import ExperimentStorage
from tune_core.testing.replay import replay


@contextmanager
def replayed_journals(tmp_path: Path) -> Iterator[None]:
    """Take note of the experiments of this process; at the end replay them, and what subprocesses left."""
    rules: dict[str, Rules] = {}
    storages: dict[str, ExperimentStorage] = {}

    def noted_controller(given: Rules) -> Controller:
        rules[given.experiment_id] = given
        return Controller(given)

    def noted_journal(storage: ExperimentStorage, experiment_id: str, *args: Any, **kwargs: Any) -> Journal:
        storages[experiment_id] = storage
        return Journal(storage, experiment_id, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("flows.experiment.Controller", noted_controller)
        patches.setattr("flows.experiment.Journal", noted_journal)
        yield
    for experiment_id, storage in storages.items():
        replay_experiment(storage, rules[experiment_id])
    known = {storage.path for storage in storages.values()}
    for segment in tmp_path.rglob("journal/00000001.jsonl"):
        directory = segment.parent.parent
        if str(directory) not in known:
            storage = ExperimentStorage.open(directory.parent, directory.name)
            newest = read_segment(storage, segment_numbers(storage)[-1])
            limit = loads((directory / SPEC_FILE).read_bytes())["tune_config"]["max_concurrent_trials"]
            replay_experiment(storage, Rules(newest.experiment_id, max_concurrent=limit))


def replay_experiment(storage: ExperimentStorage, rules: Rules) -> Controller:
    """Replay one experiment's events; raise if one of them leads to other commands than it did."""

    def records() -> Iterator[tuple[Event, tuple[str, ...]]]:
        for number in segment_numbers(storage):
            segment = read_segment(storage, number)
            if segment.experiment_id == rules.experiment_id:
                yield from segment.records

    return replay(records(), rules)
