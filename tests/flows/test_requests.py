"""Requests to experiments that run on real servers: each command, from Python and from the `steer` flow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from ray.util import placement_group_table

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.processes import descendants
from tests.support.requests import PAUSED, PENDING, RUNNING, TERMINATED, path_of, running, train, tuned
from tests.support.scripts import start_script, wait_until_gone
from tests.support.waiting import wait_for
from tune_core.control.messages import SpecRecorded, Steered
from tune_core.control.namesakes import experiment_at
from tune_core.control.segments import read_journal
from tune_core.engine.steer import steer
from tune_core.errors import NotSteered
from tune_core.steering.inbox import (
    AddConfiguration,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Reply,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
    post,
    reply_to,
)
from tune_core.storage.experiment_storage import ExperimentStorage

pytestmark = pytest.mark.slow


class Count(tune.Trainable):
    """The same as a class, which saves when it is told to."""

    def setup(self, config: dict[str, Any]) -> None:
        self.count = 0

    def step(self) -> dict[str, Any]:
        time.sleep(0.05)
        self.count += 1
        return {"count": self.count}

    def save_checkpoint(self, directory: str) -> None:
        Path(directory, "count").write_text(str(self.count))

    def load_checkpoint(self, directory: str) -> None:
        self.count = int(Path(directory, "count").read_text())


def groups_in_use() -> int:
    return sum(group["state"] != "REMOVED" for group in placement_group_table().values())


def test_each_request_does_what_it_says(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config()
    tuner = tuned(train, [0, 1, 2, 9], config, max_concurrent_trials=2)
    with running(tuner, path_of(config)) as experiment:
        ask = experiment.ask
        experiment.wait_for(RUNNING, RUNNING)
        id_of = "{}_{:05d}".format
        name = experiment.now().rules.experiment_id
        has_saved = lambda: experiment.now().trials[id_of(name, 0)].checkpoints  # noqa: E731
        wait_for(has_saved, what="the first checkpoint")

        assert ask(PauseTrial("0")) == Reply(
            True, f"trial {id_of(name, 0)} pauses at its next report with a checkpoint"
        )
        experiment.wait_for(PAUSED, RUNNING, RUNNING)
        assert "is paused already" in ask(PauseTrial("0")).message
        assert ask(StopTrial(id_of(name, 1))).accepted
        experiment.wait_for(PAUSED, TERMINATED, RUNNING, RUNNING)
        refused = ask(StopTrial("1"))
        assert refused == Reply(False, f"trial {id_of(name, 1)} has ended: it is TERMINATED")
        refused = ask(StopTrial("77"))
        assert refused.message == (
            f"there is no trial '77'; the experiment has trials {id_of(name, 0)} to {id_of(name, 3)}"
        )
        assert ask(AddConfiguration({"z": 1})) == Reply(False, "config: the search space has no 'z'")

        assert "2 that run pause" in ask(PauseExperiment()).message
        experiment.wait_for(PAUSED, TERMINATED, PAUSED, PAUSED)
        wait_for(lambda: groups_in_use() == 0, what="the bundles to be given up", timeout_s=30)
        assert (
            ask(AddConfiguration({"x": 1})).message
            == f"it runs as trial {id_of(name, 4)} as soon as there is room"
        )
        assert ask(RaiseNumSamples(2)).message == "num_samples is 2 from now on; it was 1"
        experiment.wait_for(PAUSED, TERMINATED, PAUSED, PAUSED, PAUSED)
        assert ask(ResumeExperiment()).accepted
        experiment.wait_for(PAUSED, TERMINATED, RUNNING, RUNNING, PENDING)
        assert ask(ResumeTrial("0")).accepted
        assert ask(StopTrial("2")).accepted
        experiment.wait_for(RUNNING, TERMINATED, TERMINATED, RUNNING, PENDING)
        assert ask(StopTrial("3")).accepted
        experiment.wait_for(RUNNING, TERMINATED, TERMINATED, TERMINATED, RUNNING)
        assert ask(StopTrial("0")).accepted
        experiment.wait_for(TERMINATED, TERMINATED, TERMINATED, TERMINATED, RUNNING, RUNNING)

        assert ask(StopExperiment("seen enough")).accepted
        results = experiment.end()

    assert results.num_errors == 0
    assert [result.config["x"] for result in results][:6] == [0, 1, 2, 9, 1, 0]
    steps = [row["step"] for row in results[0].rows]
    assert sorted(set(steps)) == [*range(1, max(steps) + 1)]
    assert {row["attempt_number"] for row in results[0].rows} == {1, 2}
    with pytest.raises(NotSteered, match="has ended"):
        tune.steer(experiment.path, ResumeTrial("0"))
    assert config.name is not None
    run = recorded(config.name).flow_run
    assert run.state_name == "Completed"
    assert run.state is not None
    assert str(run.state.message).endswith("seen enough")
    names = [type(event).__name__ for event, _ in read_journal(experiment.storage)]
    assert names.count("Steered") == 9
    assert names.count("SpecRecorded") == 2


def test_class_saves_when_it_is_paused_and_goes_on_from_there(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    config = run_config(checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False))
    with running(tuned(Count, [0], config), path_of(config)) as experiment:
        experiment.wait_for(RUNNING)
        assert "after the step that it takes" in experiment.ask(PauseTrial("0")).message
        experiment.wait_for(PAUSED)
        (before,) = experiment.now().trials.values()
        assert before.checkpoint is not None
        assert before.checkpoint.iteration == before.last_row["count"]

        assert experiment.ask(ResumeTrial("0")).accepted
        experiment.wait_for(RUNNING)
        assert experiment.ask(StopExperiment("enough")).accepted
        (result,) = experiment.end()

    counts = [row["count"] for row in result.rows]
    assert counts == [*range(1, len(counts) + 1)]


@pytest.mark.parametrize("trainable", [train, Count])
def test_running_trials_learn_of_a_looser_stop_rule(
    trainable: Any, run_config: Callable[..., tune.RunConfig]
) -> None:
    bound = 300
    config = run_config(stop={"training_iteration": bound})
    with running(tuned(trainable, [0, 1], config), path_of(config)) as experiment:
        experiment.wait_for(RUNNING, RUNNING)
        assert "is below 300" in experiment.ask(LoosenStop({"training_iteration": 100})).message
        assert "is new" in experiment.ask(LoosenStop({"loss": 100})).message
        assert experiment.ask(LoosenStop({"training_iteration": bound + 10})).accepted
        first, second = experiment.end()

    assert first.metrics["training_iteration"] == second.metrics["training_iteration"] == bound + 10
    assert {row["attempt_number"] for row in [*first.rows, *second.rows]} == {1}


def steered(**parameters: Any) -> State[Any]:
    state: State[Any] = steer(**parameters, return_state=True)
    return state


def test_steer_flow_says_what_was_answered(
    run_config: Callable[..., tune.RunConfig],
    client: SyncPrefectClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = run_config()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_TUNE_STORAGE_PATH", str(config.storage_path))
    with running(tuned(train, [0, 1], config), path_of(config)) as experiment:
        experiment.wait_for(RUNNING, RUNNING)

        refused = steered(experiment=path_of(config), request={"stop trial": {"trial_id": "5"}})
        accepted = steered(experiment=config.name, request={"stop trial": {"trial_id": "1"}})
        experiment.wait_for(RUNNING, TERMINATED)
        ended = steered(experiment=config.name, request={"stop all": {"reason": "enough"}})
        experiment.end()
        late = steered(experiment=config.name, request={"pause all": {}})

    assert refused.is_failed()
    assert str(refused.message).startswith("there is no trial '5'")
    assert accepted.is_completed()
    assert str(accepted.message).endswith("_00001 ends at its next report")
    assert ended.is_completed()
    assert late.is_failed()
    assert "has ended" in str(late.message)
    run_id = accepted.state_details.flow_run_id
    only = FlowRunFilter(id={"any_": [run_id]})
    (run,) = client.read_flow_runs(flow_run_filter=only)
    assert run.name == f"stop trial · {config.name}"
    (artifact,) = client.read_artifacts(flow_run_filter=only)
    assert str(artifact.data).startswith(f"**Accepted:** {accepted.message}")


class RaiseThenFail(tune.Callback):
    """Asks for more samples, and may break the driver once this was granted."""

    def __init__(self, storage: ExperimentStorage, *, fails: bool) -> None:
        self._storage, self._fails = storage, fails
        self._request_id = ""

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Ask, then wait for the answer from report to report."""
        if not self._fails:
            return
        self._request_id = self._request_id or post(self._storage, RaiseNumSamples(3))
        if reply_to(self._storage, self._request_id) is not None:
            raise RuntimeError("the driver broke")


def test_run_that_is_tried_again_knows_what_was_asked_for(cluster: None, tmp_path: Path) -> None:
    storage = ExperimentStorage.open(tmp_path, "asked")
    found = []

    @flow(retries=1, log_prints=False)
    def nightly() -> None:
        run = tune.RunConfig(
            name="asked",
            storage_path=str(tmp_path),
            verbose=0,
            callbacks=[RaiseThenFail(storage, fails=flow_run.run_count == 1)],
            stop={"training_iteration": 150},
        )
        found.append(tuned(train, [0], run, num_samples=1).fit())

    nightly()

    assert len(found) == 1
    assert [result.metrics["step"] for result in found[0]] == [150, 150, 150]
    specs = [event for event, _ in read_journal(storage) if isinstance(event, SpecRecorded)]
    assert [event.revision for event in specs] == [1, 2]


SCRIPT = """
import ray
import tune_core as tune
from tests.support.requests import train

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    run = tune.RunConfig(name="killed", storage_path={storage!r}, verbose=0)
    tune.Tuner(train, param_space={{"x": tune.grid_search([0, 1, 2])}}, run_config=run).fit()
"""


def test_next_driver_leaves_paused_what_was_paused_and_takes_requests_of_the_time_between(
    tmp_path: Path, api: str
) -> None:
    script, path = tmp_path / "script.py", tmp_path / "killed"
    script.write_text(SCRIPT.format(storage=str(tmp_path)))
    process = start_script(script, api)
    wait_for(lambda: len([*path.glob("*/result.json")]) >= 2, what="two trials", timeout_s=150)
    assert tune.steer(path, PauseExperiment()).accepted
    family = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_until_gone(family, timeout_s=120)
    storage = experiment_at(path)
    between = post(storage, StopTrial("0"))

    with running(tune.Tuner.restore(path, train), str(path)) as experiment:
        wait_for(lambda: reply_to(storage, between), what="the answer")
        experiment.wait_for(TERMINATED, PAUSED)
        assert not any(trial.status is RUNNING for trial in experiment.now().trials.values())
        assert experiment.ask(ResumeExperiment()).accepted
        experiment.wait_for(TERMINATED, RUNNING, RUNNING)
        assert experiment.ask(StopExperiment("enough")).accepted
        experiment.end()

    steps = [event.action for event, _ in read_journal(storage) if isinstance(event, Steered)]
    assert [str(action) for action in steps] == ["pause", "stop", "resume", "stop"]
