"""Whole experiments in this process: every journal, replayed, leads to the same commands and state."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.scenarios import SCENARIOS, Played, play, train
from tune_core.control import journal as journal_module
from tune_core.control.controller import Controller
from tune_core.control.messages import SpecRecorded, TrialReported
from tune_core.control.policy import Policy
from tune_core.control.segments import read_journal, segment_numbers
from tune_core.results.result_grid import Result
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.replay import replay
from tune_core.trial import Trial


@pytest.fixture(scope="module", params=SCENARIOS)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Every scenario, run once for all tests that only look at it."""
    return play(SCENARIOS[request.param](), str(tmp_path_factory.mktemp("storage")))


#: What a trial's record says, but for what is the same object on both sides.
STATE = sorted(set(Trial.__slots__) - {"resources", "storage"})


def state_of(controller: Controller) -> dict[str, Any]:
    """The whole state as text: NaN is not equal to itself."""
    return {name: repr([getattr(t, each) for each in STATE]) for name, t in controller.trials.items()}


def test_replayed_journal_leads_to_the_same_commands_and_state(played: Played) -> None:
    again = replay(read_journal(played.storage), played.controller.rules)

    assert state_of(again) == state_of(played.controller)
    assert again.has_ended


def test_every_prefix_of_the_journal_is_a_state(played: Played) -> None:
    records = list(read_journal(played.storage))

    for length in range(len(records)):
        controller = replay(records[:length], played.controller.rules)
        assert not controller.has_ended
        assert all(
            trial.is_finished() or trial in controller.unfinished for trial in controller.trials.values()
        )


def test_results_read_from_storage_equal_those_in_memory(played: Played) -> None:
    trials = {trial.trial_id: trial for trial in played.trials}
    for result in played.results:
        metrics = dict(result.metrics or {})
        trial = trials[metrics["trial_id"]]
        if not trial.worker:  # it never began
            assert not played.storage.exists(trial.dirname)
            continue
        stored = Result.from_path(result.path, played.storage.fs)
        assert stored.config == result.config == trial.config
        assert (stored.error is None) == (result.error is None)
        assert str(stored.checkpoint) == str(result.checkpoint)
        if trial.last_row:
            # The file says what the trial reported; that it is over, and its tag, are known in memory only.
            for name in ("done", "experiment_tag"):
                metrics.pop(name, None)
                (stored.metrics or {}).pop(name, None)
            assert json.dumps(stored.metrics, sort_keys=True) == json.dumps(
                json.loads(json.dumps(metrics, default=str)), sort_keys=True
            )
        else:
            assert stored.rows == []


def test_every_report_is_in_the_journal_and_in_the_files(played: Played) -> None:
    reported = [event for event, _ in read_journal(played.storage) if isinstance(event, TrialReported)]

    for trial in played.trials:
        mine = [
            (event.attempt_number, event.iteration) for event in reported if event.trial_id == trial.trial_id
        ]
        data = played.storage.read(f"{trial.dirname}/result.json").splitlines() if mine else []
        rows = [json.loads(line) for line in data]
        assert [(row["attempt_number"], row["training_iteration"]) for row in rows] == mine


def test_storage_has_exactly_the_checkpoints_that_the_journal_knows(played: Played) -> None:
    for trial in played.trials:
        committed = [marker.index for marker in played.storage.committed(trial.dirname)]
        assert committed == [record.index for record in trial.checkpoints]


@pytest.mark.parametrize("name", ["retries", "pausing scheduler", "best checkpoints"])
def test_driver_killed_after_any_segment_leaves_a_journal_that_replays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FLUSH_EVENTS", 1)
    played = play(SCENARIOS[name](), str(tmp_path / "whole"))
    numbers = segment_numbers(played.storage)
    assert len(numbers) > 10
    killed = ExperimentStorage.open(tmp_path, "killed")
    Path(killed.path, "journal").mkdir(parents=True)

    before = -1
    for number in numbers:
        segment = f"journal/{number:08d}.jsonl"
        shutil.copy(played.storage.absolute(segment), killed.absolute(segment))
        records = list(read_journal(killed))
        assert len(records) >= before
        replay(records, played.controller.rules)
        before = len(records)

    assert records == list(read_journal(played.storage))


def test_other_rules_are_noticed(tmp_path: Path) -> None:
    played = play(SCENARIOS["failures"](), str(tmp_path))
    policy = Policy(tune.TuneConfig(), None, {}, train, "train")
    other = play(SCENARIOS["no trials"](), str(tmp_path / "other")).experiment.rules(policy)
    changed = [
        (replace(event, rules=asdict(other)) if isinstance(event, SpecRecorded) else event, commands)
        for event, commands in read_journal(played.storage)
    ]

    with pytest.raises(AssertionError, match=r"event \d+ \(.*\) led to \[.*\], but now leads to \["):
        replay(changed, other)
