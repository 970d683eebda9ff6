"""Trainable classes: their loop, their checkpoints, reset and reuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.differential.case import Case, Difference, describe_grid, first_time, script
from tests.differential.reviewed import ROWS_OF_A_CLASS, WITHOUT_A_REPORT

CANNOT_SAVE = Difference(
    "class without `save_checkpoint`",
    "a warning, and no checkpoints; asked for explicitly, an error before anything starts",
    "there the trial fails after its last step",
)
SETUP_FAILS = Difference(
    "`Result` of a trial whose `setup` raises",
    "has its configuration",
    "there it has none, and the error is of a process that died",
)
ONE_ERROR = Difference(
    "errors of `Trainable`",
    "`TrainableError` (a `ValueError`)",
    "there `AssertionError`, `ValueError` and `NotImplementedError`",
)
FRESH_OBJECT = Difference(
    "`reset_config` that returns False, raises or is missing",
    "a fresh object, after the old one's `cleanup`",
    "there the trial fails, and with one trial at a time the experiment hangs",
)


def counter(tune: Any) -> Any:
    """A class that counts, and saves a dict."""

    class Counter(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.count, self.by = 0, config.get("by", 1)

        def step(self) -> dict[str, Any]:
            self.count += self.by
            return {"count": self.count}

        def save_checkpoint(self, directory: str) -> dict[str, Any]:
            return {"count": self.count}

        def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.count = checkpoint["count"]

    return Counter


def filer(tune: Any) -> Any:
    """The same, but saves a file."""

    class Filer(counter(tune)):  # type: ignore[misc]
        def save_checkpoint(self, directory: str) -> None:
            Path(directory, "count").write_text(str(self.count))

        def load_checkpoint(self, directory: str) -> None:
            self.count = int(Path(directory, "count").read_text())

    return Filer


def unsaved(tune: Any, result: Any = None) -> Any:
    """A class that cannot save, whose step returns what `result` makes of its iteration."""

    class Unsaved(tune.Trainable):  # type: ignore[misc]
        def step(self) -> Any:
            return {"n": self.iteration} if result is None else result(self.iteration)

    return Unsaved


KEYS = ("iteration", "training_iteration", "trial_id", "trial_name")


def state_of(trainable: Any) -> dict[str, Any]:
    return {key: getattr(trainable, key) for key in KEYS} | {"config": dict(trainable.get_config())}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row does not depend on the moment."""
    hidden = ("time", "date", "pid", "hostname", "node_ip", "trial_id")
    return {name: value for name, value in row.items() if not name.startswith(hidden)} | {
        "keys": sorted(row),
    }


@script("b", differs=ROWS_OF_A_CLASS)
def steps_until_a_stop_rule(tune: Any, case: Case) -> Any:
    return case.fit(
        unsaved(tune),
        {"x": tune.grid_search([1, 2])},
        stop={"training_iteration": 3},
        checkpoint_config=case.no_checkpoints(),
    )


@script("b", differs=ROWS_OF_A_CLASS)
def saves_a_dict_every_other_step_and_at_the_end(tune: Any, case: Case) -> Any:
    config = tune.CheckpointConfig(checkpoint_frequency=2)
    return case.fit(counter(tune), {"by": 2}, stop={"training_iteration": 5}, checkpoint_config=config)


@script("b", differs=ROWS_OF_A_CLASS)
def saves_a_file_at_the_end_only(tune: Any, case: Case) -> Any:
    return case.fit(filer(tune), stop={"training_iteration": 3})


@script("b", differs=ROWS_OF_A_CLASS)
def saves_never(tune: Any, case: Case) -> Any:
    return case.fit(counter(tune), stop={"count": 2}, checkpoint_config=case.no_checkpoints())


@script("b", differs=ROWS_OF_A_CLASS)
def end_and_frequency_fall_together(tune: Any, case: Case) -> Any:
    config = tune.CheckpointConfig(checkpoint_frequency=2, checkpoint_at_end=True)
    return case.fit(filer(tune), stop={"training_iteration": 4}, checkpoint_config=config)


@script("b", differs=ROWS_OF_A_CLASS)
def result_says_done(tune: Any, case: Case) -> Any:
    made = unsaved(tune, lambda iteration: {"n": iteration, "done": iteration == 2})
    return case.fit(made, checkpoint_config=case.no_checkpoints())


@script("b", differs=ROWS_OF_A_CLASS)
def result_asks_for_a_checkpoint(tune: Any, case: Case) -> Any:
    class Asks(counter(tune)):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            return {**super().step(), "should_checkpoint": self.count == 2}

    return case.fit(Asks, stop={"training_iteration": 4}, checkpoint_config=case.no_checkpoints())


@script("b", differs=ROWS_OF_A_CLASS)
def fills_in_counters_itself(tune: Any, case: Case) -> Any:
    def result(iteration: int) -> dict[str, Any]:
        return {
            "timesteps_this_iter": 10,
            "episodes_this_iter": 2,
            "time_this_iter_s": 50.0,
            "training_iteration": 7 + iteration,
            "timestamp": 12345,
        }

    results = case.results(
        unsaved(tune, result), stop={"timesteps_total": 30}, checkpoint_config=case.no_checkpoints()
    )
    metrics = results[0].metrics
    return {
        "experiment": describe_grid(results),
        "time": [metrics["time_this_iter_s"], metrics["time_total_s"], metrics["time_since_restore"]],
        "timestamp": metrics["timestamp"],
    }


@script("b", differs=ROWS_OF_A_CLASS)
def config_that_setup_changes(tune: Any, case: Case) -> Any:
    class Changes(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            config["x"], config["more"] = 99, True

        def step(self) -> dict[str, Any]:
            return {"seen": self.config.get("x"), "more": "more" in self.config, "done": True}

    return case.fit(Changes, {"x": 1}, checkpoint_config=case.no_checkpoints())


@script("b", differs=ROWS_OF_A_CLASS)
def cleanup_and_hooks_are_called(tune: Any, case: Case) -> Any:
    log = str(case.directory / "log")

    def note(text: str) -> None:
        with Path(log).open("a") as file:
            file.write(text + "\n")

    class Notes(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            note("setup")

        def step(self) -> dict[str, Any]:
            note(f"step {self.iteration}")
            return {"n": self.iteration}

        def log_result(self, result: dict[str, Any]) -> None:
            note(f"log {result['training_iteration']}")

        def save_checkpoint(self, directory: str) -> dict[str, Any]:
            note("save")
            return {}

        def load_checkpoint(self, checkpoint: Any) -> None:
            note("load")

        def cleanup(self) -> None:
            note("cleanup")

    told = case.fit(Notes, stop={"training_iteration": 2})
    return {"log": Path(log).read_text().splitlines(), "experiment": told}


@script("b", fails=True, differs=ROWS_OF_A_CLASS)
def step_returns_no_dict(tune: Any, case: Case) -> Any:
    made = unsaved(tune, lambda iteration: {"n": 0} if iteration == 0 else iteration)
    return case.fit(made, checkpoint_config=case.no_checkpoints())


@script("b", fails=True, differs=ROWS_OF_A_CLASS)
def saves_to_another_path(tune: Any, case: Case) -> Any:
    class Elsewhere(counter(tune)):  # type: ignore[misc]
        def save_checkpoint(self, directory: str) -> Any:
            return "/tmp/elsewhere"

    config = tune.CheckpointConfig(checkpoint_frequency=1)
    return case.fit(Elsewhere, stop={"training_iteration": 2}, checkpoint_config=config)


@script("b", differs=ROWS_OF_A_CLASS)
def saves_to_the_given_path(tune: Any, case: Case) -> Any:
    class Same(filer(tune)):  # type: ignore[misc]
        def save_checkpoint(self, directory: str) -> Any:
            super().save_checkpoint(directory)
            return directory

    return case.fit(Same, stop={"training_iteration": 2})


@script(
    "b",
    fails=True,
    differs=ROWS_OF_A_CLASS
    | dict.fromkeys(("errors", "num_errors", "num_terminated", "results.0.error"), CANNOT_SAVE),
)
def cannot_save_but_is_asked_to_at_the_end(tune: Any, case: Case) -> Any:
    return case.fit(unsaved(tune), stop={"training_iteration": 2})


@script(
    "b",
    fails=True,
    differs=WITHOUT_A_REPORT | {"results.0.config": SETUP_FAILS, "results.0.metrics.**": SETUP_FAILS},
)
def setup_raises(tune: Any, case: Case) -> Any:
    class Raises(unsaved(tune)):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            raise ValueError("made up")

    return case.fit(Raises, checkpoint_config=case.no_checkpoints())


@script("b", fails=True, differs=ROWS_OF_A_CLASS)
def retry_goes_on_from_the_last_dict(tune: Any, case: Case) -> Any:
    marker = str(case.directory / "marker")

    class Fails(counter(tune)):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            if self.count == 3 and first_time(marker):
                raise ValueError("made up")
            return super().step()

    config = tune.CheckpointConfig(checkpoint_frequency=1)
    return case.fit(
        Fails, stop={"training_iteration": 5}, checkpoint_config=config, failure_config=case.retries(1)
    )


@script("b", fails=True, differs=ROWS_OF_A_CLASS)
def retry_goes_back_to_an_older_file(tune: Any, case: Case) -> Any:
    marker = str(case.directory / "marker")

    class Fails(filer(tune)):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            if self.count == 3 and first_time(marker):
                raise ValueError("made up")
            return super().step()

    config = tune.CheckpointConfig(checkpoint_frequency=2)
    results = case.results(
        Fails, stop={"training_iteration": 5}, checkpoint_config=config, failure_config=case.retries(1)
    )
    told = describe_grid(results)["results"]["0"]
    return {name: told[name] for name in ("metrics", "checkpoint", "kept", "error", "best_checkpoints")}


@script("b", fails=True, differs=ROWS_OF_A_CLASS)
def retry_without_a_checkpoint_starts_over(tune: Any, case: Case) -> Any:
    marker = str(case.directory / "marker")

    class Fails(counter(tune)):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            if self.count == 2 and first_time(marker):
                raise ValueError("made up")
            return super().step()

    results = case.results(
        Fails,
        stop={"training_iteration": 3},
        checkpoint_config=case.no_checkpoints(),
        failure_config=case.retries(1),
    )
    told = describe_grid(results)["results"]["0"]
    return {name: told[name] for name in ("metrics", "checkpoint", "error")}


@script("b")
def by_itself_it_trains_saves_and_restores(tune: Any, case: Case) -> Any:
    first, second = counter(tune)({"by": 3}), counter(tune)({"by": 3})
    rows = [shown(first.train()) for _ in range(2)]
    saved = first.save()
    second.restore(saved)
    told = {
        "rows": rows,
        "kind": [hasattr(saved, "checkpoint"), hasattr(saved, "metrics")],
        "restored": state_of(second) | {"count": second.count},
        "next": shown(second.train()),
    }
    first.stop()
    second.stop()
    return told


@script("b")
def by_itself_it_restores_from_a_path(tune: Any, case: Case) -> Any:
    first, second, third = (filer(tune)() for _ in range(3))
    for _ in range(3):
        first.train()
    directory = case.directory / "saved"
    directory.mkdir()
    first.save(str(directory))
    second.restore(str(directory))
    third.restore(tune.Checkpoint.from_directory(directory))
    told = {"path": state_of(second) | {"count": second.count}, "checkpoint": state_of(third)}
    told["files"] = sorted(path.name for path in directory.iterdir())
    return told


@script("b", fails=True, differs={"save.$raised": ONE_ERROR, "step.$raised": ONE_ERROR})
def by_itself_it_cannot_restore_what_is_not_there(tune: Any, case: Case) -> Any:
    return {
        "path": case.attempt(lambda: counter(tune)().restore(str(case.directory / "nowhere"))),
        "step": case.attempt(lambda: tune.Trainable().train()),
        "save": case.attempt(lambda: unsaved(tune)().save(str(case.directory))),
    }


@script("b")
def by_itself_it_is_reset(tune: Any, case: Case) -> Any:
    class Resets(counter(tune)):  # type: ignore[misc]
        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.by, self.same = new_config["by"], self.config == new_config
            return bool(new_config["agrees"])

    told: dict[str, Any] = {"default": counter(tune)().reset_config({})}
    for agrees in (True, False):
        trainable = Resets({"by": 1})
        trainable.train()
        answer = trainable.reset({"by": 5, "agrees": agrees})
        told[f"agrees {agrees}"] = [answer, state_of(trainable), trainable.same, trainable.train()["count"]]
    return told


@script("b")
def by_itself_it_has_auto_filled_metrics(tune: Any, case: Case) -> Any:
    trainable = unsaved(tune, lambda iteration: {"timesteps_this_iter": 4, "n": iteration})({"x": 1})
    rows = [shown(trainable.train()) for _ in range(2)]
    return {"rows": rows, "keys": sorted(trainable.get_auto_filled_metrics()), "actor": trainable.is_actor()}


@script("b", differs=ROWS_OF_A_CLASS)
def reuse_sets_up_once(tune: Any, case: Case) -> Any:
    log = case.directory / "log"

    class Reuses(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.x = config["x"]
            with log.open("a") as file:
                file.write("setup\n")

        def step(self) -> dict[str, Any]:
            return {"x": self.x, "done": self.iteration == 1}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.x = new_config["x"]
            return True

    told = case.fit(
        Reuses,
        {"x": tune.grid_search([1, 2, 3])},
        tuning={"reuse_actors": True, "max_concurrent_trials": 1},
        checkpoint_config=case.no_checkpoints(),
    )
    return {"log": log.read_text().splitlines(), "experiment": told}


@script("b")
def reuse_of_a_function(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        for step in range(2):
            tune.report({"x": config["x"], "step": step, "fresh": tune.get_checkpoint() is None})

    return case.fit(
        train,
        {"x": tune.grid_search([1, 2, 3])},
        tuning={"reuse_actors": True, "max_concurrent_trials": 1},
    )


@script("b", fails=True, differs={"some failed": FRESH_OBJECT})
def reuse_of_a_class_that_cannot_be_reset(tune: Any, case: Case) -> Any:
    made = unsaved(tune, lambda iteration: {"n": iteration, "done": iteration == 1})
    told = case.fit(
        made,
        {"x": tune.grid_search([1, 2, 3])},
        # With one at a time, Ray Tune never ends.
        tuning={"reuse_actors": True, "max_concurrent_trials": 2},
        checkpoint_config=case.no_checkpoints(),
    )
    return {"trials": told["trials"], "some failed": told["num_errors"] > 0}


@script("b", differs=ROWS_OF_A_CLASS)
def report_within_a_class_is_ignored(tune: Any, case: Case) -> Any:
    class Reports(tune.Trainable):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            tune.report({"n": 99})
            return {"n": self.iteration, "done": self.iteration == 1}

    return case.fit(Reports, checkpoint_config=case.no_checkpoints())
