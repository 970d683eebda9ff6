"""What configuration objects refuse, which checkpoints are kept, and what a ResultGrid answers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.differential.case import Case, Difference, describe_grid, plain, save, script
from tests.differential.reviewed import ATTEMPT_IN_ROWS

REMOVED_OPTIONS = Difference(
    "options that Ray Tune has removed, such as `local_dir`",
    "a `ConfigError`",
    "there a `DeprecationWarning` is raised",
)
FOUND_EARLY = Difference(
    "values that a configuration object cannot work with",
    "all of them are named when it is made",
    "there one after the other, some only by `fit`",
)
NAN_IS_NEVER_BEST = Difference(
    "`get_best_result(filter_nan_and_inf=False)` with NaN among the values",
    "NaN is never the best",
    "there it depends on the order of the trials",
)
LOGS_ARE_KEPT = Difference(
    "`RunConfig(log_to_file=…)`",
    "the files are in the trial's directory in storage",
    "there they stay on the machine where the trial ran",
)
NESTED_SCORES = Difference(
    "nested names (`eval/loss`) as `checkpoint_score_attribute`",
    "work",
    "there such checkpoints are kept by time",
)
STATUS_IN_CALLBACK = Difference(
    "`trial.status` in `on_trial_complete`", "TERMINATED", "there it is still RUNNING"
)


def curve(tune: Any) -> Any:
    """A function that reports and saves the config's `losses` one after the other."""

    def train(config: dict[str, Any]) -> None:
        for step, loss in enumerate(config["losses"]):
            save(tune, {"loss": loss, "step": step}, step=step)

    return train


CURVES = {"falls": [5, 4, 1], "dips": [3, 0.5, 9], "rises": [2, 3, 4]}


def curves(tune: Any) -> dict[str, Any]:
    return {"losses": tune.grid_search(list(CURVES.values()))}


@script(
    "c",
    fails=True,
    differs={
        "keep all ranks.$raised": REMOVED_OPTIONS,
        "local_dir.$raised": REMOVED_OPTIONS,
        "log_to_file": FOUND_EARLY,
    },
)
def configs_that_are_refused(tune: Any, case: Case) -> Any:
    checkpoints, failures = tune.CheckpointConfig, tune.FailureConfig
    return {
        "num_to_keep 0": case.attempt(lambda: checkpoints(num_to_keep=0)),
        "num_to_keep -1": case.attempt(lambda: checkpoints(num_to_keep=-1)),
        "score_order": case.attempt(lambda: checkpoints(checkpoint_score_order="up")),
        "frequency": case.attempt(lambda: checkpoints(checkpoint_frequency=-1)),
        "keep all ranks": case.attempt(lambda: checkpoints(_checkpoint_keep_all_ranks=True)),
        "fail_fast": case.attempt(lambda: failures(fail_fast="sometimes")),
        "fail_fast and retries": case.attempt(lambda: failures(fail_fast=True, max_failures=2)),
        "fail_fast in capitals": case.attempt(lambda: failures(fail_fast="RAISE").max_failures),
        "log_to_file": case.attempt(lambda: tune.RunConfig(log_to_file=("a", "b", "c")).log_to_file),
        "local_dir": case.attempt(lambda: tune.RunConfig(local_dir="/tmp")),
    }


@script("c")
def defaults_of_configs(tune: Any, case: Case) -> Any:
    checkpoints, failures = tune.CheckpointConfig(), tune.FailureConfig()
    tuning, sync = tune.TuneConfig(), tune.SyncConfig()
    return {
        "checkpoints": [
            checkpoints.num_to_keep,
            checkpoints.checkpoint_score_attribute,
            checkpoints.checkpoint_score_order,
            checkpoints.checkpoint_frequency,
            checkpoints.checkpoint_at_end,
        ],
        "failures": [failures.max_failures, failures.fail_fast],
        "tuning": [
            tuning.metric,
            tuning.mode,
            tuning.num_samples,
            tuning.max_concurrent_trials,
            tuning.time_budget_s,
            tuning.reuse_actors,
        ],
        "sync": [sync.sync_artifacts, sync.sync_artifacts_on_checkpoint],
    }


@script("c", fails=True)
def tuners_that_are_refused(tune: Any, case: Case) -> Any:
    lock = threading.Lock()

    def locked(config: dict[str, Any]) -> Any:
        return lock

    def train(config: dict[str, Any]) -> dict[str, Any]:
        return {"score": 1}

    directory = str(case.directory)
    quiet = {"run_config": tune.RunConfig(storage_path=directory, verbose=0)}

    def fit(trainable: Any, **options: Any) -> Any:
        return case.attempt(lambda: describe_grid(tune.Tuner(trainable, **quiet, **options).fit()))

    return {
        "nothing": case.attempt(tune.Tuner),
        "unknown name": fit("no such trainable"),
        "list as space": fit(train, param_space=[1]),
        "cannot be pickled": fit(locked),
        "mode": fit(train, tune_config=tune.TuneConfig(metric="score", mode="max"), param_space=3),
        "no results yet": case.attempt(lambda: tune.Tuner(train, **quiet).get_results()),
        "frequency of a function": fit_with(case, train, tune.CheckpointConfig(checkpoint_frequency=1)),
        "at the end of a function": fit_with(case, train, tune.CheckpointConfig(checkpoint_at_end=True)),
    }


def fit_with(case: Case, trainable: Any, config: Any) -> Any:
    return case.fit(trainable, checkpoint_config=config).get("fit")


@script("c")
def keeps_the_last_checkpoints(tune: Any, case: Case) -> Any:
    config = tune.CheckpointConfig(num_to_keep=2)
    return case.fit(curve(tune), {"losses": [5, 1, 4, 2]}, checkpoint_config=config)


@script("c")
def keeps_the_best_checkpoints(tune: Any, case: Case) -> Any:
    config = tune.CheckpointConfig(
        num_to_keep=2, checkpoint_score_attribute="loss", checkpoint_score_order="min"
    )
    losses = tune.grid_search([[5, 1, 4, 2], [1, 2, 3, 4], [4, 3, 2, 1], [3, 3, 3, 3]])
    return case.fit(curve(tune), {"losses": losses}, checkpoint_config=config)


@script("c")
def keeps_the_highest_and_the_newest(tune: Any, case: Case) -> Any:
    config = tune.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="loss")
    return case.fit(curve(tune), {"losses": [5, 9, 4, 2]}, checkpoint_config=config)


@script("c")
def keeps_by_a_score_that_is_nan_or_missing(tune: Any, case: Case) -> Any:
    config = tune.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="loss")
    nan = float("nan")
    told = case.fit(
        curve(tune),
        {"losses": tune.grid_search([[1, nan, 3, 2], [nan, nan, 1, nan]])},
        checkpoint_config=config,
    )
    missing = tune.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="accuracy")
    return {
        "nan": {number: [one["kept"], one["best_checkpoints"]] for number, one in told["results"].items()},
        "missing": case.fit(curve(tune), {"losses": [3, 1, 2]}, checkpoint_config=missing),
    }


@script("c", differs={"**": NESTED_SCORES})
def keeps_by_a_nested_score(tune: Any, case: Case) -> Any:
    config = tune.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="eval/score")

    def train(config: dict[str, Any]) -> None:
        for step, score in enumerate([1, 9, 4]):
            save(tune, {"eval": {"score": score}}, step=step)

    told = case.fit(train, checkpoint_config=config)["results"]["0"]
    return {"kept": told["kept"], "best": told["best_checkpoints"]}


@script("c")
def best_result_by_scope(tune: Any, case: Case) -> Any:
    results = case.results(curve(tune), curves(tune))
    return {
        f"{mode} {scope}": case.attempt(
            lambda scope=scope, mode=mode: results.get_best_result("loss", mode, scope=scope).metrics["loss"]
        )
        for mode in ("min", "max")
        for scope in ("last", "all", "avg", "last-5-avg", "last-10-avg", "first")
    }


@script("c", fails=True, differs={"nan allowed": NAN_IS_NEVER_BEST})
def best_result_that_is_not_there(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        return {"loss": config["loss"], "nested": {"loss": config["loss"]}}

    nan = float("nan")
    results = case.results(train, {"loss": tune.grid_search([2.0, nan, 1.0])})
    single = case.results(train, {"loss": 7.0})
    hopeless = case.results(train, {"loss": tune.grid_search([nan, float("inf")])})
    return {
        "no metric": case.attempt(results.get_best_result),
        "no mode": case.attempt(lambda: results.get_best_result("loss")),
        "unknown metric": case.attempt(lambda: results.get_best_result("accuracy", "max")),
        "bad mode": case.attempt(lambda: results.get_best_result("loss", "up")),
        "nan is left out": case.attempt(lambda: results.get_best_result("loss", "max").metrics["loss"]),
        "nested": case.attempt(lambda: results.get_best_result("nested/loss", "min").metrics["loss"]),
        "single trial": case.attempt(lambda: single.get_best_result().metrics["loss"]),
        "only nan": case.attempt(lambda: hopeless.get_best_result("loss", "min").metrics["loss"]),
        "nan allowed": case.attempt(
            lambda: hopeless.get_best_result("loss", "max", filter_nan_and_inf=False).metrics["loss"]
        ),
    }


@script("c", fails=True)
def best_checkpoint_of_a_result(tune: Any, case: Case) -> Any:
    result = case.results(curve(tune), {"losses": [3, 1, 2]})[0]
    empty = case.results(lambda config: {"loss": 1})[0]

    def best(result: Any, metric: str, mode: str) -> str:
        return Path(result.get_best_checkpoint(metric, mode).path).name

    return {
        "min": case.attempt(lambda: best(result, "loss", "min")),
        "max": case.attempt(lambda: best(result, "loss", "max")),
        "unknown": case.attempt(lambda: best(result, "accuracy", "max")),
        "mode": case.attempt(lambda: best(result, "loss", "up")),
        "none": case.attempt(lambda: best(empty, "loss", "min")),
    }


@script("c", differs={"columns of a trial.attempt_number": ATTEMPT_IN_ROWS})
def data_frames(tune: Any, case: Case) -> Any:
    results = case.results(curve(tune), curves(tune))
    last = results.get_dataframe()
    best = results.get_dataframe(filter_metric="loss", filter_mode="min")
    rows = results[0].metrics_dataframe
    return {
        "last": list(last["loss"]),
        "best": list(best["loss"]),
        "iteration": list(best["training_iteration"]),
        "columns": dict.fromkeys(last.columns, True),
        "columns of a trial": dict.fromkeys(rows.columns, True),
        "rows of a trial": plain(rows[["loss", "step", "training_iteration"]].to_dict("records")),
    }


@script("c")
def result_is_read_back_from_its_path(tune: Any, case: Case) -> Any:
    from tests.differential.case import describe_result

    result = case.results(
        curve(tune), {"losses": [3, 1, 2]}, checkpoint_config=tune.CheckpointConfig(num_to_keep=2)
    )[0]
    told = describe_result(tune.Result.from_path(result.path))
    return {
        name: told[name] for name in ("config", "rows", "metrics", "checkpoint", "best_checkpoints", "error")
    }


@script("c", fails=True)
def result_is_read_back_where_there_is_none(tune: Any, case: Case) -> Any:
    empty = case.directory / "empty"
    empty.mkdir()
    return {
        "empty": case.attempt(lambda: tune.Result.from_path(str(empty))),
        "missing": case.attempt(lambda: tune.Result.from_path(str(case.directory / "missing"))),
    }


@script("c")
def stop_rules_of_every_kind(tune: Any, case: Case) -> Any:
    stopper = case.module("stopper")

    def train(config: dict[str, Any]) -> None:
        for step in range(8):
            tune.report({"step": step})

    class AtTwo(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return bool(result["step"] >= 2)

        def stop_all(self) -> bool:
            return False

    def steps(stop: Any) -> Any:
        metrics = case.results(train, stop=stop)[0].metrics
        return [metrics["step"], metrics["done"]]

    return {
        "function": steps(lambda trial_id, result: result["step"] == 4),
        "stopper": steps(AtTwo()),
        "maximum": steps(stopper.MaximumIterationStopper(3)),
        "either": steps(stopper.CombinedStopper(AtTwo(), stopper.MaximumIterationStopper(2))),
        "missing key": steps({"accuracy": 1}),
        "two keys": steps({"accuracy": 1, "step": 5}),
    }


@script("c")
def stopper_that_stops_everything(tune: Any, case: Case) -> Any:
    class AllAtOnce(tune.Stopper):  # type: ignore[misc]
        def __init__(self) -> None:
            self.done = False

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self.done = self.done or result["step"] >= 2
            return self.done

        def stop_all(self) -> bool:
            return self.done

    def train(config: dict[str, Any]) -> None:
        for step in range(100):
            tune.report({"step": step})

    told = case.fit(
        train, {"x": tune.grid_search([1, 2, 3])}, tuning={"max_concurrent_trials": 1}, stop=AllAtOnce()
    )
    first = told["results"]["0"]
    return {"trials": told["trials"], "errors": told["num_errors"], "first": first["metrics"]}


@script("c")
def names_of_the_users_choice(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        return {"name": tune.get_context().get_trial_name()}

    results = case.results(
        train,
        {"x": tune.grid_search([1, 2])},
        tuning={
            "trial_name_creator": lambda trial: f"name-{trial.config['x']}",
            "trial_dirname_creator": lambda trial: f"dir-{trial.config['x']}",
        },
        name="experiment of mine",
    )
    return {
        "names": [result.metrics["name"] for result in results],
        "directories": [Path(result.path).name for result in results],
        "experiment": Path(results.experiment_path).name,
    }


@script("c")
def one_trial_at_a_time(tune: Any, case: Case) -> Any:
    log = case.directory / "log"

    def train(config: dict[str, Any]) -> None:
        with log.open("a") as file:
            file.write(f"start {config['x']}\n")
        tune.report({"x": config["x"]})
        with log.open("a") as file:
            file.write(f"end {config['x']}\n")

    told = case.fit(
        train, {"x": tune.grid_search([1, 2])}, tuning={"max_concurrent_trials": 1, "num_samples": 2}
    )
    return {"log": log.read_text().splitlines(), "order": told["order"], "trials": told["trials"]}


@script("c", differs={"yes.**": LOGS_ARE_KEPT, "pair.**": LOGS_ARE_KEPT, "one.**": LOGS_ARE_KEPT})
def output_goes_to_files(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        import sys

        print("to stdout")
        print("to stderr", file=sys.stderr)
        return {"score": 1}

    def texts(log_to_file: Any) -> dict[str, bool]:
        path = Path(case.results(train, log_to_file=log_to_file)[0].path)
        found = {name: path / name for name in ("stdout", "stderr", "out.txt", "err.txt", "both.txt")}
        return {
            name: sorted(word for word in ("to stdout", "to stderr") if word in file.read_text())
            for name, file in found.items()
            if file.exists()
        }  # type: ignore[return-value]

    return {"yes": texts(True), "pair": texts(("out.txt", "err.txt")), "one": texts("both.txt")}


@script("c", differs={"log.8": STATUS_IN_CALLBACK})
def callbacks_are_told(tune: Any, case: Case) -> Any:
    class Log(tune.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.lines: list[str] = []

        def setup(
            self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any
        ) -> None:
            self.lines.append(f"setup {num_samples} {total_num_samples}")

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.lines.append("start")

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            self.lines.append(f"result {result['training_iteration']}")
            result["added"] = result["loss"] * 2

        def on_trial_save(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.lines.append("save")

        def on_checkpoint(
            self, iteration: int, trials: Any, trial: Any, checkpoint: Any, **info: Any
        ) -> None:
            self.lines.append("checkpoint")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.lines.append(f"complete {trial.status}")

        def on_experiment_end(self, trials: Any, **info: Any) -> None:
            self.lines.append(f"end {len(trials)}")

    log = Log()
    told = case.fit(curve(tune), {"losses": [3, 1]}, callbacks=[log])
    return {"log": log.lines, "experiment": told}
