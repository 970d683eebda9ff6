"""Trials that fail: what is retried, from where, and what is left of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.differential.case import Case, Difference, describe_grid, first_time, load, plain, save, script
from tests.differential.reviewed import ATTEMPT_IN_ROWS, ERROR_IS_TEXT, WITHOUT_A_REPORT

METRIC_MISSING = Difference(
    "`TuneConfig.metric` missing from a report",
    "that trial fails, after its row was kept",
    "there the whole experiment dies",
)


def fails_after(tune: Any, case: Case, *, at: int, saves: bool, how: str = "error", steps: int = 4) -> Any:
    """A function that counts to `steps`, and in its first attempt fails after reporting `at`."""
    marker = str(case.directory / "marker")

    def train(config: dict[str, Any]) -> None:
        first = int(load(tune, "step") or 0) + 1
        for step in range(first, steps + 1):
            if saves:
                save(tune, {"step": step}, step=step)
            else:
                tune.report({"step": step})
            if step == at and first_time(marker):
                if how == "exit":
                    os._exit(1)
                raise ValueError("made up")

    return train


@script("k", fails=True)
def retry_goes_on_from_the_last_checkpoint(tune: Any, case: Case) -> Any:
    train = fails_after(tune, case, at=2, saves=True)
    return case.fit(train, {"x": 1}, failure_config=case.retries(1))


@script("k", fails=True)
def retry_without_a_checkpoint_starts_over(tune: Any, case: Case) -> Any:
    train = fails_after(tune, case, at=2, saves=False)
    told = describe_grid(case.results(train, failure_config=case.retries(1)))["results"]["0"]
    return {"metrics": told["metrics"], "error": told["error"], "checkpoint": told["checkpoint"]}


@script("k", fails=True)
def retry_after_the_process_died(tune: Any, case: Case) -> Any:
    train = fails_after(tune, case, at=3, saves=True, how="exit")
    told = describe_grid(case.results(train, failure_config=case.retries(1)))["results"]["0"]
    return {name: told[name] for name in ("metrics", "error", "checkpoint", "kept", "best_checkpoints")}


@script("k", fails=True, differs={"results.0.rows": ATTEMPT_IN_ROWS})
def retry_that_keeps_two_checkpoints(tune: Any, case: Case) -> Any:
    train = fails_after(tune, case, at=3, saves=True, steps=5)
    config = tune.CheckpointConfig(num_to_keep=2)
    return case.fit(train, failure_config=case.retries(1), checkpoint_config=config)


@script("k", fails=True)
def retry_goes_on_to_its_stop_rule(tune: Any, case: Case) -> Any:
    train = fails_after(tune, case, at=2, saves=True, steps=9)
    return case.fit(train, failure_config=case.retries(1), stop={"training_iteration": 4})


@script("k", fails=True)
def more_failures_than_retries(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        save(tune, {"again": load(tune, "mark") is not None}, mark="x")
        raise ValueError("made up")

    results = case.results(train, failure_config=case.retries(2))
    told = describe_grid(results)
    text = Path(results[0].path, "error.txt").read_text()
    return {
        "experiment": told,
        "failures": [text.count(f"Failure # {number}") for number in (1, 2, 3, 4)],
        "says what": "ValueError: made up" in text,
    }


@script("k", fails=True)
def retries_without_end(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        step = int(load(tune, "step") or 0) + 1
        save(tune, {"step": step}, step=step)
        if step < 4:
            raise ValueError("made up")

    told = describe_grid(case.results(train, failure_config=case.retries(-1)))["results"]["0"]
    return {name: told[name] for name in ("metrics", "error", "checkpoint", "kept")}


@script("k", fails=True, differs=WITHOUT_A_REPORT)
def error_before_the_first_report(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        raise ValueError("made up")

    return case.fit(train, {"x": 1})


@script("k", fails=True)
def error_after_some_reports(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        for step in range(3):
            save(tune, {"step": step}, step=step)
        raise ValueError("made up")

    return case.fit(train, {"x": 1}, tuning={"metric": "step", "mode": "max"})


@script("k", fails=True, differs=WITHOUT_A_REPORT)
def some_trials_fail(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        if config["x"] % 2:
            raise KeyError(config["x"])
        return {"score": config["x"]}

    results = case.results(
        train, {"x": tune.grid_search([0, 1, 2, 3])}, tuning={"metric": "score", "mode": "max"}
    )
    told = describe_grid(results, has_metric=True)
    frame = results.get_dataframe()
    return {
        "experiment": told,
        "scores": plain(sorted(score for score in frame["score"] if score == score)),
        "catchable": [isinstance(error, Exception) for error in results.errors],
    }


@script("k", fails=True)
def first_failure_ends_all(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        tune.report({"x": config["x"]})
        if config["x"] == 1:
            raise ValueError("made up")

    told = case.fit(
        train,
        {"x": tune.grid_search([0, 1, 2, 3])},
        tuning={"max_concurrent_trials": 1},
        failure_config=tune.FailureConfig(fail_fast=True),
    )
    return {name: told[name] for name in ("trials", "num_errors", "num_terminated", "order")}


@script("k", fails=True, differs={"fit.$raised": ERROR_IS_TEXT})
def first_failure_is_raised(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        raise ValueError("made up")

    return case.fit(train, failure_config=tune.FailureConfig(fail_fast="raise"))


@script("k", fails=True, differs={"fit raises": METRIC_MISSING, "failed trials": METRIC_MISSING})
def metric_is_missing_from_a_report(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1} if config["x"] else {"other": 1})

    told = case.fit(train, {"x": tune.grid_search([0, 1])}, tuning={"metric": "score", "mode": "max"})
    return {"fit raises": "fit" in told, "failed trials": told.get("num_errors")}


@script("k", fails=True)
def trainable_exits(tune: Any, case: Case) -> Any:
    import sys

    def train(config: dict[str, Any]) -> None:
        tune.report({"step": 1})
        sys.exit(config["code"])

    told = case.fit(train, {"code": tune.grid_search([0, 3])})
    return {
        name: {key: told["results"][name][key] for key in ("rows", "error")}
        for name in sorted(told["results"])
    } | {"num_errors": told["num_errors"]}


@script("k", fails=True)
def retried_trial_and_the_order_of_results(tune: Any, case: Case) -> Any:
    markers = str(case.directory)

    def train(config: dict[str, Any]) -> dict[str, Any]:
        if config["x"] == 0 and first_time(f"{markers}/marker"):
            raise ValueError("made up")
        return {"x": config["x"]}

    results = case.results(
        train,
        {"x": tune.grid_search([0, 1, 2])},
        tuning={"max_concurrent_trials": 1},
        failure_config=case.retries(1),
    )
    return {"configs": [result.config["x"] for result in results], "errors": results.num_errors}


@script("k", fails=True)
def cleanup_code_runs_when_stopped(tune: Any, case: Case) -> Any:
    log = case.directory / "log"

    def train(config: dict[str, Any]) -> None:
        try:
            for step in range(100):
                tune.report({"step": step})
        finally:
            log.write_text("cleaned up")

    told = case.fit(train, stop={"step": 2})
    return {"told": told["results"]["0"]["metrics"], "errors": told["num_errors"], "log": log.read_text()}


@script("k", fails=True)
def callbacks_are_told_of_failures(tune: Any, case: Case) -> Any:
    class Log(tune.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.lines: list[str] = []

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.lines.append("start")

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.lines.append("recover")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.lines.append("error")

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.lines.append("complete")

    def train(config: dict[str, Any]) -> None:
        raise ValueError("made up")

    log = Log()
    case.fit(train, callbacks=[log], failure_config=case.retries(1))
    return log.lines
