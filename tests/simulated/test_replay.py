"""Whole experiments in this process: every journal, replayed, leads to the same commands and state."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.control import journal as journal_module
from tune_core.control.controller import Controller
from tune_core.control.experiment import Experiment
from tune_core.control.messages import SpecRecorded, TrialReported
from tune_core.control.policy import Policy
from tune_core.control.segments import read_journal, segment_numbers
from tune_core.errors import TrialError
from tune_core.results.result_grid import Result, ResultGrid
from tune_core.schedulers import Exploit, TrialScheduler
from tune_core.search import Searcher
from tune_core.stopper import MaximumIterationStopper, Stopper
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.replay import replay
from tune_core.testing.schedulers import ExploitingScheduler, PausingScheduler
from tune_core.trial import Status, Trial

# Trainables.


def save(directory: Path, **state: Any) -> tune.Checkpoint:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "state.json").write_text(json.dumps(state))
    return tune.Checkpoint.from_directory(directory)


def load() -> dict[str, Any]:
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return {"step": 0}
    with checkpoint.as_directory() as directory:
        state: dict[str, Any] = json.loads(Path(directory, "state.json").read_text())
        return state


def train(config: dict[str, Any]) -> None:
    """Ten steps, a checkpoint at every second one; fails once at each of the steps `fail_at`."""
    work = Path(tune.get_context().get_trial_dir() or "")
    for step in range(load()["step"] + 1, config.get("steps", 10) + 1):
        if step in config.get("fail_at", ()) and not (work / f"failed-{step}").exists():
            (work / f"failed-{step}").touch()
            raise ValueError(f"failed at step {step}")
        checkpoint = save(work / "saved", step=step) if step % 2 == 0 else None
        tune.report({"loss": (config["x"] - step) ** 2, "step": step}, checkpoint=checkpoint)


class Model(tune.Trainable):
    """The same model as `train`, as a class."""

    def setup(self, config: dict[str, Any]) -> None:
        self.done = 0
        self.marks = Path(tune.get_context().get_trial_dir() or "")

    def step(self) -> dict[str, Any]:
        step = self.done + 1
        if step in self.config.get("fail_at", ()) and not (self.marks / f"failed-{step}").exists():
            (self.marks / f"failed-{step}").touch()
            raise ValueError(f"failed at step {step}")
        self.done = step
        if step == self.config.get("interrupted_at"):
            raise KeyboardInterrupt
        return {"loss": (self.config["x"] - step) ** 2, "step": step}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"done": self.done}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.done = checkpoint["done"]


class Reusable(Model):
    """Goes on to the next trial, but refuses every third."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.done = 0
        self.marks = Path(tune.get_context().get_trial_dir() or "")
        return bool(new_config["x"] != 3)


def always_fails(config: dict[str, Any]) -> None:
    tune.report({"loss": config["x"]})
    raise ValueError(f"no use: {config['x']}")


def interrupted(config: dict[str, Any]) -> None:
    tune.report({"loss": 1}, checkpoint=save(Path("saved"), step=1))
    if config["x"] == 2:
        raise KeyboardInterrupt
    tune.report({"loss": 2})


def generator(config: dict[str, Any]) -> Iterator[Any]:
    for step in range(config["x"]):
        yield {"loss": step, "nested": {"deep": [step, (float("nan"), b"bytes")]}}


# What steers.


class StopAboveMedian(TrialScheduler):
    """Stops whoever is worse than half of the others were at the same step."""

    def __init__(self) -> None:
        self.seen: dict[int, list[float]] = {}

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        seen = self.seen.setdefault(result["training_iteration"], [])
        seen.append(result["loss"])
        return self.STOP if result["loss"] > sorted(seen)[len(seen) // 2] else self.CONTINUE


class PauseTwice(TrialScheduler):
    """Pauses each trial at its third and at its seventh step."""

    def __init__(self) -> None:
        self.paused: set[tuple[str, int]] = set()

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        key = trial.trial_id, result["step"]
        if result["step"] not in (3, 7) or key in self.paused:
            return self.CONTINUE
        self.paused.add(key)
        return self.PAUSE


class ChoosesNobody(PausingScheduler):
    """Pauses trials, and lets none go on."""

    def choose_trial_to_run(self, trials: Any) -> Trial | None:
        return None


class GivesUp(PausingScheduler):
    """Pauses trials, and gives up all but the first of them."""

    def trials_to_stop(self, trials: Any) -> list[Trial]:
        return [trial for trial in trials if trial.status is Status.PAUSED and trial.number > 0]


class Copying(TrialScheduler):
    """The second trial, at its third step, goes on from the first one's last checkpoint, up to step 14."""

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str | Exploit:
        if trial.number != 1 or trial.attempt_number > 1 or result["step"] != 3:
            return self.CONTINUE
        return Exploit(trials[0], {"x": 7, "steps": 14})


class Patient(Searcher):
    """Waits for every result before it suggests the next value; has four."""

    def __init__(self) -> None:
        super().__init__()
        self.suggested, self.completed = 0, 0

    def suggest(self, trial_id: str) -> Any:
        if self.suggested == 4:
            return self.FINISHED
        if self.completed < self.suggested:
            return None
        self.suggested += 1
        return {"x": self.suggested}

    def on_trial_complete(self, *args: Any, **kwargs: Any) -> None:
        self.completed += 1


class EnoughReports(Stopper):
    """Ends the experiment after so many reports."""

    def __init__(self, enough: int) -> None:
        self.left = enough

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.left -= 1
        return False

    def stop_all(self) -> bool:
        return self.left <= 0


# The experiments.


@dataclass
class Scenario:
    """An experiment, and what its trials come to."""

    statuses: str
    trainable: Callable[..., Any] = train
    space: dict[str, Any] = field(default_factory=lambda: {"x": tune.grid_search([1, 2, 3])})
    tune: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    threads: int = 1


def retries(number: int, **more: Any) -> dict[str, Any]:
    return {"failure_config": tune.FailureConfig(max_failures=number, **more)}


def keep(number: int, **more: Any) -> dict[str, Any]:
    return {"checkpoint_config": tune.CheckpointConfig(num_to_keep=number, **more)}


def save_every(number: int, **more: Any) -> dict[str, Any]:
    return {"checkpoint_config": tune.CheckpointConfig(checkpoint_frequency=number, **more)}


def interrupt_second(config: dict[str, Any]) -> int | None:
    return 4 if config["x"] == 2 else None


REUSE = {"reuse_actors": True}
TEN = {"stop": {"training_iteration": 10}}
FAILING = {"x": tune.grid_search([1, 2]), "fail_at": [1, 4, 7]}

#: Made anew for each test, since schedulers and stoppers remember.
SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "grid": lambda: Scenario("TTT"),
    "threads": lambda: Scenario("TTTTTT", tune={"num_samples": 2}, threads=3),
    "one at a time": lambda: Scenario("TTT", tune={"max_concurrent_trials": 1}, threads=3),
    "retries": lambda: Scenario("TT", space=FAILING, run=retries(3)),
    "retries in threads": lambda: Scenario("TT", space=FAILING, run=retries(-1), threads=2),
    "too few retries": lambda: Scenario("EE", space=FAILING, run=retries(2)),
    "failures": lambda: Scenario("EEE", always_fails, run=retries(1)),
    "fail fast": lambda: Scenario("ET", always_fails, run=retries(0, fail_fast=True)),
    "stop rule": lambda: Scenario("TTT", run={"stop": {"step": 3, "time_total_s": 1e9}}),
    "stopper": lambda: Scenario("TTT", run={"stop": MaximumIterationStopper(4)}),
    "stop function": lambda: Scenario("TTT", run={"stop": lambda trial_id, result: result["loss"] > 20}),
    "stop all": lambda: Scenario("TTT", run={"stop": [EnoughReports(13)]}),
    "stop all in threads": lambda: Scenario("TTT", run={"stop": EnoughReports(9)}, threads=3),
    "stopping scheduler": lambda: Scenario("TTT", tune={"scheduler": StopAboveMedian()}),
    "pausing scheduler": lambda: Scenario("TTT", tune={"scheduler": PauseTwice()}),
    "pauses and retries": lambda: Scenario(
        "TT", space=FAILING, tune={"scheduler": PauseTwice()}, run=retries(3)
    ),
    "pauses at checkpoints": lambda: Scenario("TTT", tune={"scheduler": PausingScheduler(3)}, run=keep(1)),
    "pauses without checkpoints": lambda: Scenario(
        "TT", generator, {"x": tune.grid_search([4, 7])}, tune={"scheduler": PausingScheduler(2)}
    ),
    "pauses in threads": lambda: Scenario(
        "TTTTTT", tune={"scheduler": PausingScheduler(2), "num_samples": 2}, run=keep(1), threads=3
    ),
    "chooses nobody": lambda: Scenario("TTT", tune={"scheduler": ChoosesNobody(4)}),
    "gives up": lambda: Scenario("TTT", tune={"scheduler": GivesUp(4)}),
    "exploits": lambda: Scenario("TTT", tune={"scheduler": Copying()}, run=keep(1)),
    "exploits and retries": lambda: Scenario(
        "TTTT",
        space={"x": tune.grid_search([1.0, 2.0]), "fail_at": tune.grid_search([[3], [7]])},
        tune={"scheduler": ExploitingScheduler(every=4), "metric": "loss", "mode": "min"},
        run=keep(1) | retries(-1),
        threads=4,
    ),
    "patient searcher": lambda: Scenario(
        "TTTT", space={}, tune={"search_alg": Patient(), "num_samples": -1}, threads=2
    ),
    "newest checkpoints": lambda: Scenario("TTT", run=keep(2)),
    "best checkpoints": lambda: Scenario(
        "TT",
        space=FAILING,
        run=keep(1, checkpoint_score_attribute="loss", checkpoint_score_order="min") | retries(3),
    ),
    "metric": lambda: Scenario("TTT", tune={"metric": "loss", "mode": "min"}),
    "missing metric": lambda: Scenario("EEE", tune={"metric": "los", "mode": "min"}, run=retries(3)),
    "generator": lambda: Scenario("TTT", generator),
    "returned value": lambda: Scenario("TTT", lambda config: 0),
    "no reports": lambda: Scenario("TTT", lambda config: None),
    "interrupt": lambda: Scenario("TPP", interrupted),
    "class": lambda: Scenario("TTT", Model, run=TEN | save_every(2)),
    "class, threads": lambda: Scenario("TTTTTT", Model, tune={"num_samples": 2}, run=TEN, threads=3),
    "class, retries": lambda: Scenario("TT", Model, FAILING, run=TEN | save_every(2) | retries(3)),
    "class, stopper": lambda: Scenario("TTT", Model, run={"stop": MaximumIterationStopper(4)}),
    "class, pauses": lambda: Scenario("TTT", Model, tune={"scheduler": PauseTwice()}, run=TEN),
    "class, best": lambda: Scenario(
        "TTT",
        Model,
        run=TEN
        | save_every(3, num_to_keep=1, checkpoint_score_attribute="loss", checkpoint_score_order="min"),
    ),
    "class, interrupt": lambda: Scenario(
        "TPP",
        Model,
        {"x": tune.grid_search([1, 2, 3]), "interrupted_at": tune.sample_from(interrupt_second)},
        run=TEN,
    ),
    "class, reused": lambda: Scenario("TTTTTT", Reusable, tune=REUSE | {"num_samples": 2}, run=TEN),
    "class, reused in threads": lambda: Scenario(
        "TTTTTT",
        Reusable,
        tune=REUSE | {"num_samples": 2, "max_reuses": 1},
        run=TEN | save_every(3),
        threads=2,
    ),
    "class, reused with retries": lambda: Scenario(
        "TT", Reusable, FAILING, tune=REUSE, run=TEN | save_every(2) | retries(3)
    ),
    "class, reused with pauses": lambda: Scenario(
        "TTT", Reusable, tune=REUSE | {"scheduler": PauseTwice()}, run=TEN
    ),
    "function, reused": lambda: Scenario("TTT", tune=REUSE),
    "class, stop all": lambda: Scenario("TTT", Model, run={"stop": EnoughReports(9)}, threads=3),
    "no trials": lambda: Scenario("", space={}, tune={"search_alg": NoTrials()}),
}


class NoTrials(Searcher):
    def suggest(self, trial_id: str) -> Any:
        return self.FINISHED


@dataclass
class Played:
    """An experiment that was run, with all there is to compare."""

    experiment: Experiment
    controller: Controller
    results: ResultGrid

    @property
    def storage(self) -> ExperimentStorage:
        return self.experiment.storage

    @property
    def trials(self) -> list[Trial]:
        return list(self.controller.trials.values())


def play(scenario: Scenario, storage_path: str) -> Played:
    tuner = tune.Tuner(
        scenario.trainable,
        param_space=scenario.space,
        tune_config=tune.TuneConfig(**scenario.tune),
        run_config=tune.RunConfig(name="experiment", storage_path=storage_path, **scenario.run),
    )
    experiment, runtime = tuner.experiment(), LocalRuntime(threads=scenario.threads)
    results = runtime.run(experiment)
    return Played(experiment, runtime.controller, results)


@pytest.fixture(scope="module", params=SCENARIOS)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Every scenario, run once for all tests that only look at it."""
    return play(SCENARIOS[request.param](), str(tmp_path_factory.mktemp("storage")))


#: What a trial's record says, but for what is the same object on both sides.
STATE = sorted(set(Trial.__slots__) - {"resources", "storage"})


def state_of(controller: Controller) -> dict[str, Any]:
    """The whole state as text: NaN is not equal to itself."""
    return {name: repr([getattr(t, each) for each in STATE]) for name, t in controller.trials.items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_trials_end_as_they_have_to(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]()

    played = play(scenario, str(tmp_path))

    initials = {Status.TERMINATED: "T", Status.ERROR: "E", Status.PAUSED: "P"}
    assert "".join(initials[trial.status] for trial in played.trials) == scenario.statuses
    assert [result.status for result in played.results] == [trial.status for trial in played.trials]
    assert played.controller.has_ended


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


@pytest.mark.parametrize(
    "name", ["retries", "pauses and retries", "best checkpoints", "interrupt", "generator"]
)
def test_object_storage_leads_to_the_same_trials_as_a_disk(name: str, tmp_path: Path) -> None:
    on_disk = play(SCENARIOS[name](), str(tmp_path))
    in_memory = play(SCENARIOS[name](), f"memory://{tmp_path.name}")

    def told(played: Played) -> list[Any]:
        return [
            (
                trial.config,
                trial.status,
                trial.attempt_number,
                trial.iteration,
                [r.index for r in trial.checkpoints],
            )
            for trial in played.trials
        ]

    assert told(on_disk) == told(in_memory)
    assert in_memory.storage.fs.protocol == "memory"


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


def test_retries_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    played = play(SCENARIOS["retries"](), str(tmp_path))

    trial, result = played.trials[0], played.results[0]
    assert (trial.attempt_number, trial.num_failures, trial.error) == (4, 3, None)
    # Attempts fail at steps 1, 4 and 7; checkpoints are of steps 2, 4 and 6.
    assert [(row["attempt_number"], row["step"]) for row in result.rows] == [
        *((2, step) for step in (1, 2)),
        *((3, step) for step in (3, 4, 5, 6)),
        *((4, step) for step in (7, 8, 9, 10)),
    ]
    assert [row["training_iteration"] for row in result.rows] == list(range(1, 11))
    totals = [row["time_total_s"] for row in result.rows]
    assert totals == sorted(totals)


def test_paused_trials_go_on_where_they_were_saved(tmp_path: Path) -> None:
    played = play(SCENARIOS["pausing scheduler"](), str(tmp_path))

    for trial, result in zip(played.trials, played.results, strict=True):
        assert trial.attempt_number == 3
        assert [row["step"] for row in result.rows] == list(range(1, 11))


def test_trials_take_turns_where_the_scheduler_pauses_them(tmp_path: Path) -> None:
    played = play(SCENARIOS["pauses at checkpoints"](), str(tmp_path))

    # Told to at steps 3, 6 and 9, saved at 4, 6 and 10.
    attempts = [
        [(row["attempt_number"], row["step"]) for row in result.rows if row["step"] in (4, 5, 6, 7)]
        for result in played.results
    ]
    assert attempts == [[(1, 4), (2, 5), (2, 6), (3, 7)]] * 3
    assert [[row["step"] for row in result.rows] for result in played.results] == [list(range(1, 11))] * 3


def test_exploit_goes_on_from_the_donors_checkpoint_with_the_new_configuration(tmp_path: Path) -> None:
    played = play(SCENARIOS["exploits"](), str(tmp_path))

    donor, trial, _ = played.trials
    result = played.results[1]
    assert trial.config == result.config == {"x": 7, "steps": 14}
    assert trial.experiment_tag == "1_x=2@perturbed[steps=14,x=7]"
    rows = [
        (row["attempt_number"], row["training_iteration"], row["step"], row["loss"]) for row in result.rows
    ]
    assert rows[:3] == [(1, step, step, (2 - step) ** 2) for step in (1, 2, 3)]
    assert rows[3:] == [(2, step, step, (7 - step) ** 2) for step in (11, 12, 13, 14)]
    before = donor.checkpoints[-1].metrics["time_total_s"]
    totals = [row["time_total_s"] for row in result.rows[3:]]
    assert totals == sorted(totals)
    assert totals[0] > before
    assert [row["iterations_since_restore"] for row in result.rows[3:]] == [1, 2, 3, 4]
    assert [marker.iteration for marker in played.storage.committed(trial.dirname)] == [14]


@pytest.mark.parametrize(("name", "given_up"), [("chooses nobody", 3), ("gives up", 0)])
def test_paused_trials_whom_nobody_chooses_end_as_they_are(name: str, given_up: int, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]()
    ends: list[str] = []

    class NotingEnd(tune.Callback):
        def on_experiment_end(self, trials: Any, **info: Any) -> None:
            ends.extend(f"{trial.status} {trial.iteration}" for trial in trials)

    scenario.run["callbacks"] = [NotingEnd()]
    played = play(scenario, str(tmp_path))

    assert ends == (["TERMINATED 4"] * 3 if given_up else ["TERMINATED 10", "TERMINATED 4", "TERMINATED 4"])
    commands = [text for _, commands in read_journal(played.storage) for text in commands]
    said = f"; {given_up} of them were paused, and the scheduler chose none to go on" if given_up else ""
    assert commands[-1] == f"EndExperiment every trial is finished{said} None"


def test_stopping_scheduler_stops_the_worse_ones_early(tmp_path: Path) -> None:
    played = play(SCENARIOS["stopping scheduler"](), str(tmp_path))

    # At step 1 the losses are 0, 1 and 4, as x is 1, 2 and 3.
    assert [trial.iteration for trial in played.trials] == [10, 10, 1]
    assert all(trial.status is Status.TERMINATED for trial in played.trials)


def test_interrupted_trial_can_go_on_from_its_checkpoint(tmp_path: Path) -> None:
    played = play(SCENARIOS["interrupt"](), str(tmp_path))

    _, begun, waiting = played.trials
    assert played.controller.unfinished == [begun, waiting]
    assert begun.checkpoint is not None
    assert (waiting.worker, waiting.checkpoint) == ({}, None)


def test_best_and_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    played = play(SCENARIOS["best checkpoints"](), str(tmp_path))

    # x is 1 and 2, the loss (x - step) ** 2 at steps 2, 4, … 10: the first is best.
    assert [[record.iteration for record in trial.checkpoints] for trial in played.trials] == [
        [2, 10],
        [2, 10],
    ]
    best = played.results[0].best_checkpoints or []
    assert [metrics["loss"] for _, metrics in best] == [1]


def test_fail_fast_raise_raises_the_trials_own_error(tmp_path: Path) -> None:
    scenario = Scenario("", always_fails, run=retries(0, fail_fast="raise"))

    with pytest.raises(TrialError, match="ValueError: no use: 1") as raised:
        play(scenario, str(tmp_path))

    assert "in always_fails" in raised.value.traceback


# The same model, as a function and as a class.

SAME = {
    # scenario of each, and the iterations that have checkpoints with the one and with the other
    "grid": ("grid", "class"),
    "retries": ("retries", "class, retries"),
}


@pytest.mark.parametrize("name", SAME)
def test_class_and_function_of_the_same_model_come_to_the_same(name: str, tmp_path: Path) -> None:
    of_function, of_class = (play(SCENARIOS[each](), str(tmp_path / each)) for each in SAME[name])

    def told(played: Played) -> list[Any]:
        return [
            (
                [
                    (row["attempt_number"], row["step"], row["loss"], row["checkpoint_dir_name"])
                    for row in result.rows
                ],
                [(record.index, record.iteration) for record in trial.checkpoints],
                (trial.attempt_number, trial.num_failures),
            )
            for trial, result in zip(played.trials, played.results, strict=True)
        ]

    assert told(of_function) == told(of_class)


def test_paused_class_goes_on_where_it_was_paused(tmp_path: Path) -> None:
    played = play(SCENARIOS["class, pauses"](), str(tmp_path))

    for trial, result in zip(played.trials, played.results, strict=True):
        assert [(row["attempt_number"], row["step"]) for row in result.rows] == [
            *((1, step) for step in (1, 2, 3)),
            *((2, step) for step in (4, 5, 6, 7)),
            *((3, step) for step in (8, 9, 10)),
        ]
        # Those of the pauses were committed after their rows; the last one came with its row.
        assert [(record.index, record.iteration) for record in trial.checkpoints] == [(0, 3), (1, 7), (2, 10)]
        assert [row["checkpoint_dir_name"] for row in result.rows if row["checkpoint_dir_name"]] == [
            "checkpoint_000002"
        ]


def test_stopped_class_is_saved_at_its_end(tmp_path: Path) -> None:
    played = play(SCENARIOS["class, stopper"](), str(tmp_path))

    assert [[record.iteration for record in trial.checkpoints] for trial in played.trials] == [[4]] * 3
    with played.results[0].checkpoint.as_directory() as directory:  # type: ignore[union-attr]
        assert Path(directory, "_dict_checkpoint.pkl").exists()


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
