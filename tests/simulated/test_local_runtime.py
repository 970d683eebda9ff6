"""What the runtime of this process does besides deciding: callbacks, directories, threads, errors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.control.experiment import Experiment
from tune_core.control.journal import claim
from tune_core.control.segments import read_journal
from tune_core.encoding import loads
from tune_core.errors import ConfigError, ExperimentConflict
from tune_core.schedulers import TrialScheduler
from tune_core.search import Searcher
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.schedulers import AnsweringScheduler
from tune_core.trial import Status, Trial


def an_experiment(
    trainable: Any, tmp_path: Path, run: dict[str, Any] | None = None, **config: Any
) -> Experiment:
    return tune.Tuner(
        trainable,
        param_space={"x": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(**config),
        run_config=tune.RunConfig(name="experiment", storage_path=str(tmp_path / "storage"), **run or {}),
    ).experiment()


def report_x(config: dict[str, Any]) -> None:
    tune.report({"x": config["x"]})


class Noting(tune.Callback):
    """Notes which hooks are called, in which order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.trials: list[int] = []

    def setup(
        self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any
    ) -> None:
        self.calls.append(f"setup {num_samples} {total_num_samples}")

    def on_trial_start(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        self.calls.append(f"start {trial.number}")
        self.trials.append(len(trials))

    def on_trial_restore(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        self.calls.append(f"restore {trial.number}")

    def on_trial_result(self, iteration: int, trials: Any, trial: Trial, result: Any, **info: Any) -> None:
        self.calls.append(f"result {trial.number} {result['training_iteration']}")
        result["added"] = 7

    def on_trial_save(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        assert trial.checkpoint is not None
        self.calls.append(f"save {trial.number} {trial.checkpoint.name}")

    def on_checkpoint(self, iteration: int, trials: Any, trial: Trial, checkpoint: Any, **info: Any) -> None:
        with checkpoint.as_directory() as directory:
            self.calls.append(f"checkpoint {trial.number} {Path(directory, 'x.txt').exists()}")

    def on_trial_recover(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        self.calls.append(f"recover {trial.number}")

    def on_trial_complete(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        self.calls.append(f"complete {trial.number}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        self.calls.append(f"error {trial.number}")

    def on_experiment_end(self, trials: Any, **info: Any) -> None:
        self.calls.append(f"end {len(trials)}")


def test_callbacks_are_called_in_the_order_of_what_happens(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        if config["x"] == 2:
            raise ValueError("no")
        if tune.get_checkpoint() is None:
            Path("kept").mkdir()
            Path("kept", "x.txt").write_text("x")
            tune.report({}, checkpoint=tune.Checkpoint.from_directory("kept"))
            raise ValueError("once more")
        tune.report({})

    noting = Noting()
    run = {"callbacks": [noting], "failure_config": tune.FailureConfig(max_failures=1)}
    runtime = LocalRuntime()
    results = runtime.run(an_experiment(train, tmp_path, run, max_concurrent_trials=1))

    assert noting.calls == [
        "setup 1 2",
        "start 0",
        "result 0 1",
        "save 0 checkpoint_000000",
        "checkpoint 0 True",
        "recover 0",
        "start 0",
        "restore 0",
        "result 0 2",
        "complete 0",
        "start 1",
        "recover 1",
        "start 1",
        "error 1",
        "end 2",
    ]
    assert noting.trials == [1, 1, 2, 2]
    assert results[0].metrics is not None
    assert results[0].metrics["added"] == 7
    assert results[0].rows[-1]["added"] == 7


def test_scheduler_knows_a_trial_before_it_decides_on_it(tmp_path: Path) -> None:
    class Known(TrialScheduler):
        def __init__(self) -> None:
            self.known: list[str] = []

        def on_trial_add(self, trials: Any, trial: Trial) -> None:
            assert trials[-1] is trial
            self.known.append(trial.trial_id)

        def on_trial_result(self, trials: Any, trial: Trial, result: Any) -> str:
            assert trial.trial_id in self.known
            assert [each.number for each in trials] == list(range(len(trials)))
            return self.CONTINUE

        def on_trial_complete(self, trials: Any, trial: Trial, result: Any) -> None:
            self.known.remove(trial.trial_id)

    scheduler = Known()
    LocalRuntime(threads=2).run(an_experiment(report_x, tmp_path, scheduler=scheduler, num_samples=5))

    assert scheduler.known == []


def test_spec_is_kept_with_the_results(tmp_path: Path) -> None:
    experiment = an_experiment(report_x, tmp_path)

    LocalRuntime().run(experiment)

    assert loads(experiment.storage.read("experiment.json"))["name"] == "experiment"


# Reuse.

noted: list[str] = []


class Noted(tune.Trainable):
    """Notes the life of its objects; fails for x = 2 where the config says."""

    def setup(self, config: dict[str, Any]) -> None:
        noted.append(f"setup {config['x']}")

    def step(self) -> dict[str, Any]:
        if (self.config["x"], self.config.get("fails")) == (2, "step"):
            raise ValueError("made up")
        return {"x": self.config["x"], "name": self.trial_name}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        noted.append(f"reset {new_config['x']}")
        if (new_config["x"], new_config.get("fails")) == (2, "reset"):
            raise ValueError("made up")
        return (new_config["x"], new_config.get("fails")) != (2, "refuse")

    def cleanup(self) -> None:
        noted.append("cleanup")


@pytest.mark.parametrize(
    ("fails", "limit", "expected"),
    [
        (None, None, "setup 1, reset 2, reset 3, reset 4, cleanup"),
        ("step", None, "setup 1, reset 2, cleanup, setup 3, reset 4, cleanup"),
        ("reset", None, "setup 1, reset 2, cleanup, setup 2, reset 3, reset 4, cleanup"),
        ("refuse", None, "setup 1, reset 2, cleanup, setup 2, reset 3, reset 4, cleanup"),
        (None, 1, "setup 1, reset 2, cleanup, setup 3, reset 4, cleanup"),
        (None, 2, "setup 1, reset 2, reset 3, cleanup, setup 4, cleanup"),
    ],
)
def test_one_object_serves_the_trials_of_a_thread(
    fails: str | None, limit: int | None, expected: str, tmp_path: Path
) -> None:
    noted.clear()
    tuner = tune.Tuner(
        Noted,
        param_space={"x": tune.grid_search([1, 2, 3, 4]), "fails": fails},
        tune_config=tune.TuneConfig(reuse_actors=True, max_reuses=limit),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 2},
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )

    results = LocalRuntime().run(tuner.experiment())

    assert noted == expected.split(", ")
    assert results.num_errors == (1 if fails == "step" else 0)
    for result in results:
        if result.error is None:
            assert result.metrics is not None
            assert (result.metrics["x"], result.metrics["training_iteration"]) == (result.config["x"], 2)
            assert result.metrics["name"] == f"Noted_{result.metrics['trial_id']}"


def test_trials_of_other_bundles_have_objects_of_their_own(tmp_path: Path) -> None:
    noted.clear()
    tuner = tune.Tuner(
        tune.with_resources(Noted, lambda config: {"cpu": 1 + (config["x"] > 2)}),
        param_space={"x": tune.grid_search([1, 2, 3, 4])},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 1},
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )

    LocalRuntime().run(tuner.experiment())

    assert noted == ["setup 1", "reset 2", "cleanup", "setup 3", "reset 4", "cleanup"]


# Errors that are no trial's.


class Defective(tune.Callback):
    def on_trial_result(self, *args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("a defect of the callback")


class Undecided(TrialScheduler):
    def on_trial_result(self, *args: Any) -> str:
        return "PERHAPS"


class Confused(Searcher):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def suggest(self, trial_id: str) -> Any:
        self.left -= 1
        return {"x": 1} if self.left >= 0 else 7


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("run", "config", "error", "text"),
    [
        ({"callbacks": [Defective()]}, {}, ZeroDivisionError, "a defect of the callback"),
        ({}, {"scheduler": Undecided()}, ConfigError, "Undecided.on_trial_result returned 'PERHAPS'"),
        ({}, {"search_alg": Confused(0)}, ConfigError, "Confused.suggest returned 7"),
        ({}, {"search_alg": Confused(3), "num_samples": 4}, ConfigError, "Confused.suggest returned 7"),
    ],
)
def test_error_of_what_steers_comes_out_of_the_run(
    run: dict[str, Any],
    config: dict[str, Any],
    error: type[Exception],
    text: str,
    threads: int,
    tmp_path: Path,
) -> None:
    caught = []

    def train(config: dict[str, Any]) -> None:
        try:
            for _ in range(5):
                tune.report({"loss": 1})
        except Exception as error:  # noqa: BLE001 - must not see what is not its own
            caught.append(error)

    if "search_alg" in config:  # each run needs one that has not been asked yet
        config = {**config, "search_alg": Confused(config["search_alg"].left)}
    experiment = tune.Tuner(
        train,
        tune_config=tune.TuneConfig(**config),
        run_config=tune.RunConfig(name="experiment", storage_path=str(tmp_path), **run),
    ).experiment()

    with pytest.raises(error, match=text):
        LocalRuntime(threads=threads).run(experiment)

    assert caught == []
    assert list(read_journal(experiment.storage)), "the journal is closed all the same"


def test_experiment_of_another_live_driver_is_left_alone(tmp_path: Path) -> None:
    experiment = an_experiment(report_x, tmp_path)
    claim(experiment.storage, "ddddd", {"host": "there", "pid": 7}, lambda _: True)

    with pytest.raises(ExperimentConflict, match="host there, pid 7"):
        LocalRuntime().run(experiment)


def test_name_can_be_used_again_in_the_same_process(tmp_path: Path) -> None:
    for _ in range(2):
        experiment = an_experiment(report_x, tmp_path)
        assert len(LocalRuntime().run(experiment)) == 2

    ids = {event.trial_id for event, _ in read_journal(experiment.storage) if hasattr(event, "trial_id")}
    assert {trial_id.partition("_")[0] for trial_id in ids} == {experiment.experiment_id}


# Directories and threads.

both_run = threading.Barrier(2, timeout=20)


def report_directory(config: dict[str, Any]) -> None:
    """Not within a test: there it would take the barrier along, and locks cannot travel."""
    both_run.wait()
    tune.report({"current": str(Path.cwd()), "files": os.listdir(tune.get_context().get_trial_dir())})  # noqa: PTH208


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.delenv("RAY_CHDIR_TO_TRIAL_DIR", raising=False)
    yield tmp_path / "home"
    assert Path.cwd() == tmp_path / "home"
    assert "RAY_CHDIR_TO_TRIAL_DIR" not in os.environ


def test_trials_run_in_directories_of_their_own_in_the_calling_thread(tmp_path: Path, home: Path) -> None:
    seen = []

    def train(config: dict[str, Any]) -> None:
        assert Path.cwd() == Path(tune.get_context().get_trial_dir() or "")
        assert list(Path.cwd().iterdir()) == []
        Path("x.txt").write_text("x")
        seen.append((Path.cwd(), threading.current_thread()))

    LocalRuntime().run(an_experiment(train, tmp_path))

    assert len({directory for directory, _ in seen}) == 2
    assert {thread for _, thread in seen} == {threading.current_thread()}
    assert not any(directory.exists() for directory, _ in seen)


def test_trials_in_threads_run_at_once_and_stay_in_the_current_directory(tmp_path: Path, home: Path) -> None:
    results = LocalRuntime(threads=2).run(an_experiment(report_directory, tmp_path))

    metrics = [result.metrics or {} for result in results]
    assert [(each["current"], each["files"]) for each in metrics] == [(str(home), [])] * 2


def test_setting_for_the_directory_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "1")

    LocalRuntime(threads=2).run(an_experiment(report_x, tmp_path))

    assert os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "1"


def test_what_a_trial_does_to_its_config_stays_in_the_trial(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        config["x"] = "changed"

    results = LocalRuntime().run(an_experiment(train, tmp_path))

    assert [result.config for result in results] == [{"x": 1}, {"x": 2}]


def test_time_can_be_given(tmp_path: Path) -> None:
    runtime = LocalRuntime(wall_clock=lambda: 1_700_000_000.5)

    results = runtime.run(an_experiment(report_x, tmp_path))

    times = {event.time for event, _ in read_journal(an_experiment(report_x, tmp_path).storage)}
    assert times == {1_700_000_000.5}
    assert [result.metrics["timestamp"] for result in results if result.metrics] == [1_700_000_000] * 2
    date = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(1_700_000_000))
    assert all(result.path.endswith(date) for result in results)


def test_ctrl_c_in_a_trial_stops_the_experiment_in_order(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    runtime = LocalRuntime()
    results = runtime.run(an_experiment(train, tmp_path))

    assert {result.status for result in results} == {Status.PAUSED}
    assert runtime.controller.stop_request is not None
    assert runtime.controller.stop_request.reason == "stopped by Ctrl-C"


def test_trials_do_not_write_over_those_of_an_earlier_experiment_of_the_same_name(tmp_path: Path) -> None:
    def run_once() -> None:
        LocalRuntime().run(
            an_experiment(report_x, tmp_path, trial_dirname_creator=lambda trial: f"trial-{trial.number}")
        )

    run_once()
    written = (tmp_path / "storage" / "experiment" / "trial-0" / "result.json").read_bytes()

    with pytest.raises(
        ConfigError, match=r"'trial-0' for trial \w+_00000 too: .*earlier experiment of its name"
    ):
        run_once()

    assert (tmp_path / "storage" / "experiment" / "trial-0" / "result.json").read_bytes() == written


class Line(tune.Trainable):
    def setup(self, config: dict[str, Any]) -> None:
        self.steps = 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        return {"steps": self.steps, "done": self.steps == 10}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, int]:
        return {"steps": self.steps}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.steps = checkpoint["steps"]


@pytest.mark.parametrize("scheduler", [None, AnsweringScheduler()])
def test_callback_that_wants_a_report_saved_has_its_state_saved(tmp_path: Path, scheduler: Any) -> None:
    class Wishes(tune.Callback):
        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            result["should_checkpoint"] = result["steps"] in (2, 3, 7, 10)

    config = tune.RunConfig(
        storage_path=str(tmp_path),
        callbacks=[Wishes()],
        checkpoint_config=tune.CheckpointConfig(async_upload=True),
    )
    tune_config = tune.TuneConfig(scheduler=scheduler)

    (result,) = LocalRuntime().run(tune.Tuner(Line, tune_config=tune_config, run_config=config).experiment())

    saved = [metrics["steps"] for _, metrics in result.best_checkpoints]
    assert saved == [2, 3, 7, 10]


class KeepsNotes(tune.Callback):
    """Writes beside each trial, as callbacks written for Ray Tune do."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_trial_start(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        assert not trial.is_finished()
        assert trial.local_path is not None
        Path(trial.local_path, "notes.txt").write_text(str(trial.config["x"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        assert trial.is_finished()
        assert trial.checkpoint is not None
        assert trial.storage is not None
        self.seen.append((trial.path, trial.checkpoint.path, trial.storage.url))


def test_callbacks_find_the_places_of_a_trial_and_of_its_checkpoint(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "weights").write_text(str(config["x"]))
        tune.report({"x": config["x"]}, checkpoint=tune.Checkpoint.from_directory(tmp_path / "model"))

    notes = KeepsNotes()

    results = LocalRuntime().run(an_experiment(train, tmp_path, {"callbacks": [notes]}))

    for result, (path, checkpoint, url) in zip(results, notes.seen, strict=True):
        assert path == result.path
        assert Path(path, "notes.txt").read_text() == str(result.config["x"])  # type: ignore[index]
        assert Path(checkpoint, "weights").read_text() == str(result.config["x"])  # type: ignore[index]
        assert url == str(tmp_path / "storage" / "experiment")
