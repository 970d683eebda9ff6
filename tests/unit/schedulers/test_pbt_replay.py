"""The schedule that population based training has found, in one trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

import tune_core as tune
from tune_core.control.controller import Controller
from tune_core.engine.driver.policy_files import PolicyFiles
from tune_core.errors import ConfigError
from tune_core.logger.trial_files import EXPERIMENT
from tune_core.schedulers import PopulationBasedTraining, PopulationBasedTrainingReplay, create_scheduler
from tune_core.schedulers.pbt_replay import read_schedule
from tune_core.search.optuna import OptunaSearch
from tune_core.states import Decision
from tune_core.testing.simulator import SimulatedRun, simulate
from tune_core.trial import Status, Trial

#: As a trial's file is that went on from "0" at 4, whose own first change was at 2; line 1 was overwritten.
LINES = [
    ["7", "9", 1, 1, {"lr": 5.0}, {"lr": 6.0}],
    ["0", "3", 2, 2, {"lr": 1.0}, {"lr": 2.0}],
    ["1", "0", 4, 4, {"lr": 2.0}, {"lr": 4.0}],
]


@pytest.fixture
def policy(tmp_path: Path) -> str:
    return written(tmp_path, LINES)


def written(directory: Path, lines: list[Any]) -> str:
    path = directory / "pbt_policy_a1b2c_00001.txt"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_schedule_is_read_from_its_end_to_where_it_begins(policy: str) -> None:
    schedule = read_schedule(policy)

    assert schedule.initial == {"lr": 1.0}
    assert schedule.changes == ((2, {"lr": 2.0}), (4, {"lr": 4.0}))


def test_file_may_be_elsewhere() -> None:
    fsspec.filesystem("memory").pipe("/runs/exp/pbt_policy_x.txt", json.dumps(LINES[2]).encode())

    assert read_schedule("memory://runs/exp/pbt_policy_x.txt").initial == {"lr": 2.0}


def replayed(policy: str, checkpoint_every: int = 1, **options: Any) -> list[tuple[int, Any]]:
    """Iterations of one trial, and the learning rate with which each was trained."""
    seen = []

    def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
        seen.append((iteration, config.get("lr")))
        return {"loss": 1.0}, 1.0

    simulate(
        curve,
        tune_config=tune.TuneConfig(scheduler=PopulationBasedTrainingReplay(policy)),
        iterations=6,
        checkpoint_every=checkpoint_every,
        **options,
    )
    return seen


def test_configuration_changes_at_the_recorded_iterations(policy: str) -> None:
    assert replayed(policy) == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 4.0), (6, 4.0)]
    assert replayed(policy, 0, saves_on_request=True) == replayed(policy)


def test_function_that_saves_seldom_changes_where_it_saves(policy: str) -> None:
    assert replayed(policy, 3) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    assert replayed(policy, 2) == replayed(policy)


def test_function_that_never_saves_is_not_changed_and_the_log_says_so(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert replayed(policy, 0) == [(each, 1.0) for each in range(1, 7)]
    assert "has never saved a checkpoint to go on from: report with checkpoint=" in caplog.text


def test_of_changes_that_are_due_together_the_last_one_holds(tmp_path: Path) -> None:
    path = written(tmp_path, [["0", "3", 2, 2, {"lr": 1}, {"lr": 2}], ["1", "0", 2, 2, {"lr": 2}, {"lr": 4}]])

    assert [lr for _, lr in replayed(path)] == [1, 1, 4, 4, 4, 4]


def test_another_configuration_is_overwritten_with_a_word(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    replay = PopulationBasedTrainingReplay(policy)

    assert replay.fill_in(0, {"lr": 9}) == {"lr": 1.0}
    assert "begins with the configuration of" in caplog.text


def test_second_trial_is_refused(policy: str) -> None:
    replay = PopulationBasedTrainingReplay(policy)
    replay.on_trial_add([], Trial("t0", 0, {}))
    replay.on_trial_add([], Trial("t0", 0, {}))

    with pytest.raises(ConfigError, match="a second one cannot be added"):
        replay.on_trial_add([], Trial("t1", 1, {}))


@pytest.mark.parametrize(("space", "num_samples"), [({}, 2), ({}, -1), ({"lr": tune.grid_search([1, 2])}, 1)])
def test_several_trials_are_refused_before_anything_runs(policy: str, space: Any, num_samples: int) -> None:
    config = tune.TuneConfig(scheduler=PopulationBasedTrainingReplay(policy), num_samples=num_samples)

    with pytest.raises(ConfigError, match="trains one trial"):
        tune.Tuner(lambda config: None, param_space=space, tune_config=config)


def test_searchers_that_choose_are_refused(policy: str) -> None:
    with pytest.raises(ConfigError, match="by the schedule of its policy file"):
        tune.TuneConfig(
            metric="loss",
            mode="min",
            scheduler=PopulationBasedTrainingReplay(policy),
            search_alg=OptunaSearch(),
        )


def test_file_without_changes_needs_a_configuration(tmp_path: Path) -> None:
    replay = PopulationBasedTrainingReplay(written(tmp_path, []))

    assert replay.fill_in(0, {"lr": 3}) == {"lr": 3}
    replay.check_space({"lr": 3}, 1)
    with pytest.raises(ConfigError, match="has no changes, and param_space no configuration"):
        replay.check_space({}, 1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[1, 2]", r"line 1: expected a list of two tags"),
        ('["0", "1", 2, 3, {}, {}]\nno', r"line 2: expected"),
        ('["0", "1", 2, null, {}, {}]', r"line 1: expected"),
        ('["0", "1", 2, 3, {}, 4]', r"line 1: expected"),
        ("3", r"line 1: expected"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "policy").write_text(text)

    with pytest.raises(ConfigError, match=fault):
        PopulationBasedTrainingReplay(str(tmp_path / "policy"))


@pytest.mark.parametrize("path", ["", 3, "/no/such/file.txt", "memory://no/such"])
def test_files_that_are_not_there_are_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match="policy_file="):
        PopulationBasedTrainingReplay(path)


def test_it_is_made_by_name(policy: str) -> None:
    replay = create_scheduler("pbt_replay", policy_file=policy)

    assert (
        replay.debug_string()
        == "PopulationBasedTraining replay: 0 of 2 changes of pbt_policy_a1b2c_00001.txt"
    )
    assert replay.on_trial_result([], Trial("t0", 0, {}), {"training_iteration": None}) == Decision.CONTINUE


# What population based training writes, and what a replay makes of it.


class InMemory:
    """Stands for the files of an experiment."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def replace(self, directory: str, name: str, data: bytes) -> None:
        assert directory == EXPERIMENT
        self.files[name] = data

    def append_line(self, directory: str, name: str, line: bytes) -> None:
        assert directory == EXPERIMENT
        self.files[name] = self.files.get(name, b"") + line + b"\n"


def policy_files(run: SimulatedRun, killed_after: int) -> dict[str, bytes]:
    """The files of an experiment whose driver died after so many events, and was resumed."""
    for is_resumed in (False, True):
        files, controller = InMemory(), Controller(run.rules)
        log = PolicyFiles(files, controller.trials, is_wanted=True)  # type: ignore[arg-type]
        for place, (event, _) in enumerate(run.records):
            controller.handle(event)
            if is_resumed and place < killed_after:
                log.replayed(event)
            elif is_resumed and place == killed_after:
                log.restore()
                log.noted(event)
            else:
                log.noted(event)
        if not is_resumed:
            whole = files.files
    assert files.files == whole
    return whole


@pytest.mark.parametrize(("synch", "every"), [(False, 1), (False, 3), (True, 1), (True, 3)])
def test_replay_trains_as_the_trial_came_to_be_that_it_replays(
    tmp_path: Path, synch: bool, every: int
) -> None:
    trained: dict[str, dict[int, float]] = {}

    def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
        return {"loss": (config["lr"] - 0.5 / iteration) ** 2, "lr_used": config["lr"]}, 1.0 + config[
            "lr"
        ] / 9

    pbt = PopulationBasedTraining(
        "training_iteration",
        "loss",
        "min",
        2,
        hyperparam_mutations={"lr": tune.uniform(0, 1)},
        quantile_fraction=0.5,
        synch=synch,
        seed=1,
    )
    run = simulate(
        curve,
        param_space={"lr": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(scheduler=pbt, num_samples=6),
        iterations=12,
        checkpoint_every=every,
    )
    for trial in run.trials:
        trained[trial.trial_id] = {}
    files = policy_files(run, len(run.records) // 2)
    assert len(files) > 4
    total = files["pbt_global.txt"].splitlines()
    assert len(total) == int(pbt.debug_string().split()[-2])

    for trial in run.trials:
        name = f"pbt_policy_{trial.trial_id}.txt"
        if name not in files:
            continue
        (tmp_path / name).write_bytes(files[name])
        used = [row[1] for row in replayed(str(tmp_path / name))]
        assert trial.status is Status.TERMINATED
        schedule = read_schedule(str(tmp_path / name))
        assert used[0] == schedule.initial["lr"]  # type: ignore[index]
        assert schedule.changes[-1][1] == trial.config
        steps = [step for step, _ in schedule.changes]
        assert steps == sorted(steps), "a line of somebody's later life was taken over"
