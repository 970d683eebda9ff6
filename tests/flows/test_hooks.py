"""Every public hook is reached on real servers: none is documented and never called."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.callback import Callback
from tune_core.control.namesakes import experiment_at
from tune_core.logger.callbacks import LoggerCallback
from tune_core.progress_reporter.reporters import ProgressReporter
from tune_core.schedulers import TrialScheduler
from tune_core.search import Searcher
from tune_core.steering.inbox import AddConfiguration, RaiseNumSamples, post
from tune_core.stopper import Stopper
from tune_core.trial import Status

BASES = (Searcher, TrialScheduler, Stopper, Callback, LoggerCallback, ProgressReporter, tune.Trainable)
#: Methods that users, or the library on their behalf, call on an object, and that nobody overrides.
NO_HOOKS = {
    tune.Trainable: {
        "export_model",
        "get_auto_filled_metrics",
        "get_config",
        "get_current_ip_pid",
        "get_state",
        "is_actor",
        "reset",
        "restore",
        "save",
        "stop",
        "train",
        "train_buffered",
    },
    Searcher: {
        "add_evaluated_point",
        "add_evaluated_trials",
        # These need an earlier experiment, or a space that changes: tests/unit/control and tests/simulated have them.
        "on_earlier_trial",
        "on_points_to_try",
        "on_space_changed",
    },
    TrialScheduler: {"can_pause"},  # for a subclass to ask
    # Those that it turns into methods of its own.
    LoggerCallback: {name for name in vars(Callback) if name.startswith("on_")}
    | {"setup", "get_state", "set_state"},
}


def hooks_of(base: type) -> list[str]:
    """The methods of a class that a subclass may write."""
    named = inspect.getmembers(base, lambda member: inspect.isfunction(member) or inspect.ismethod(member))
    return [
        name
        for name, _ in named
        if (name == "__call__" or not name.startswith("_")) and name not in NO_HOOKS.get(base, set())
    ]


HOOKS = [(base, name) for base in BASES for name in hooks_of(base)]
#: Which hooks were called in this process.
SEEN: Counter[str] = Counter()


def noted(base: type, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    def hook(*args: Any, **kwargs: Any) -> Any:
        SEEN[f"{base.__name__}.{name}"] += 1
        return inner(*args, **kwargs)

    return hook


def recording(base: type, kind: type) -> Any:
    """A subclass of `kind` that notes each call of a hook of `base`."""
    hooks = {name: noted(base, name, getattr(kind, name)) for name in hooks_of(base)}
    return type(f"Recording{kind.__name__}", (kind,), hooks)


class Choose(Searcher):
    """Suggests 0, 1, 2, …; asks for more samples, and for one trial more, once it has begun."""

    suggested = 0

    def suggest(self, trial_id: str) -> Any:
        self.suggested += 1
        return {"x": self.suggested - 1}

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        self.suggested += 1

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        return True

    def get_state(self) -> dict[str, Any]:
        return {"kind": "any"}


class Pauses(TrialScheduler):
    """Pauses the first trial at its first report; lets it go on never, and later says so."""

    has_declined = False

    def on_trial_result(self, trials: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.PAUSE if trial.number == 0 else self.CONTINUE

    def choose_trial_to_run(self, trials: Any) -> None:
        self.has_declined = True

    def trials_to_stop(self, trials: Any) -> Any:
        return [trial for trial in trials if trial.status is Status.PAUSED] if self.has_declined else ()

    def get_state(self) -> dict[str, Any]:
        return {"kind": "any"}


class Counts(Stopper):
    state_names = ("asked",)
    asked = 0

    def stop_all(self) -> bool:
        self.asked += 1
        return False


class Steers(Callback):
    """Sends the requests, and lets the last trial end when they were carried out; fails once, if it is to."""

    def __init__(self, path: Path, *, fails: bool) -> None:
        self.path, self.fails, self.rows = path, fails, 0

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.rows += 1
        if trial.number == 2 and self.fails:
            raise RuntimeError("the driver broke")
        if trial.number == 2 and not (self.path / "asked").exists():
            (self.path / "asked").touch()
            storage = experiment_at(self.path / "hooks")
            post(storage, AddConfiguration({"x": 9}))
            post(storage, RaiseNumSamples(4))
        if {"Searcher.on_configuration_added", "Searcher.on_num_samples_raised"} <= SEEN.keys():
            (self.path / "go").touch()

    def get_state(self) -> dict[str, Any]:
        return {"rows": self.rows}


class Prints(ProgressReporter):
    def should_report(self, trials: Any, done: bool = False) -> bool:
        return True

    def report(self, trials: Any, done: bool, *sys_info: str) -> None:
        """Show nothing."""


class Steps(tune.Trainable):
    """Trial 1 fails in its second step each time; trial 2 goes on until it may end."""

    def setup(self, config: dict[str, Any]) -> None:
        self.steps = 0

    def step(self) -> dict[str, Any]:
        self.steps += 1
        x = self.config["x"]
        if x == 1 and self.steps == 2:
            raise ValueError("always")
        if x == 2:  # as fast as reports go, since each has a checkpoint
            return {"steps": self.steps, "done": Path(self.config["path"], "go").exists()}
        return {"steps": self.steps, "done": self.steps == 2}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.steps = checkpoint["steps"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.steps = 0
        return True

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        return {"CPU": 10_000 if config.get("x") == "too much" else 1}

    @classmethod
    def resource_help(cls, config: dict[str, Any]) -> str:
        return "ask Ada for more CPUs"


def noted_by_trial(name: str) -> Callable[..., Any]:
    """A hook of a trial, which runs in another process: it leaves a file."""

    def hook(self: Any, *args: Any) -> Any:
        Path(self.config["path"], f"Trainable.{name}").touch()
        return getattr(Steps, name)(self, *args)

    return hook


def recording_trainable() -> Any:
    in_driver = ("default_resource_request", "resource_help")
    hooks: dict[str, Any] = {
        name: noted_by_trial(name) for name in hooks_of(tune.Trainable) if name not in in_driver
    }
    for name in in_driver:
        inner = noted(tune.Trainable, name, getattr(Steps, name))
        hooks[name] = classmethod(lambda cls, config, inner=inner: inner(config))
    return type("RecordingSteps", (Steps,), hooks)


def run_config(path: Path, *, fails: bool) -> tune.RunConfig:
    return tune.RunConfig(
        name="hooks",
        storage_path=str(path),
        stop=recording(Stopper, Counts)(),
        callbacks=[
            recording(Callback, Steers)(path, fails=fails),
            recording(LoggerCallback, LoggerCallback)(),
        ],
        progress_reporter=recording(ProgressReporter, Prints)(),
        failure_config=tune.FailureConfig(max_failures=1),
        checkpoint_config=tune.CheckpointConfig(1, checkpoint_frequency=1),
    )


def tune_config() -> tune.TuneConfig:
    return tune.TuneConfig(
        search_alg=recording(Searcher, Choose)(),
        scheduler=recording(TrialScheduler, Pauses)(),
        num_samples=3,
        max_concurrent_trials=1,
        reuse_actors=True,
    )


@pytest.fixture(scope="module")
def called(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The hooks that were called in an experiment with pauses, failures, requests, and the death of its driver."""
    path = tmp_path_factory.mktemp("hooks")
    trainable, space = recording_trainable(), {"path": str(path)}
    first = tune.Tuner(
        trainable, param_space=space, tune_config=tune_config(), run_config=run_config(path, fails=True)
    )
    with pytest.raises(RuntimeError, match="the driver broke"):
        first.fit()
    second = tune.Tuner.restore(
        path / "hooks", trainable, tune_config=tune_config(), run_config=run_config(path, fails=False)
    )
    results = second.fit()
    assert [result.error is None for result in results] == [True, False, True, True, True]

    greedy = tune.Tuner(
        trainable, param_space={**space, "x": "too much"}, run_config=tune.RunConfig(storage_path=str(path))
    )
    (failed,) = greedy.fit()
    assert "RecordingSteps.resource_help says: ask Ada for more CPUs" in str(failed.error)
    yield SEEN.keys() | {file.name for file in path.iterdir()}
    SEEN.clear()


@pytest.mark.parametrize(("base", "hook"), HOOKS, ids=[f"{base.__name__}.{hook}" for base, hook in HOOKS])
def test_hook_is_called(called: set[str], base: type, hook: str) -> None:
    assert f"{base.__name__}.{hook}" in called


def test_what_is_no_hook_is_still_there() -> None:
    assert all(hasattr(base, name) for base, names in NO_HOOKS.items() for name in names)
