"""Training functions: what reports, return values and generators come to."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from tests.differential.case import Case, Difference, describe_grid, load, plain, save, script
from tests.differential.reviewed import WITHOUT_A_REPORT

ZERO_IS_A_VALUE = Difference(
    "a trainable returns `0`, `0.0` or `False`",
    "it is a report",
    "0 is a value; there it is dropped without a word",
)


@script("a")
def reports_each_step(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        for step in range(3):
            tune.report({"score": step * config["x"]})

    return case.fit(train, {"x": tune.grid_search([1, 2])}, tuning={"metric": "score", "mode": "max"})


@script("a")
def returns_metrics(tune: Any, case: Case) -> Any:
    return case.fit(lambda config: {"score": config["x"]}, {"x": 3})


@script("a")
def returns_a_number(tune: Any, case: Case) -> Any:
    return case.fit(lambda config: config["x"], {"x": tune.grid_search([3, 2.5])})


@script("a")
def returns_after_reports(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        tune.report({"score": 1})
        tune.report({"score": 2})
        return {"score": 3, "last": True}

    return case.fit(train)


@script("a", differs=WITHOUT_A_REPORT)
def returns_nothing(tune: Any, case: Case) -> Any:
    values: dict[str, Any] = {"none": None, "dict": {}, "list": []}

    def train(config: dict[str, Any]) -> Any:
        return values[config["value"]]

    return case.fit(train, {"value": tune.grid_search(list(values))})


@script("a", differs={"results.*.metrics.**": ZERO_IS_A_VALUE, "results.*.rows": ZERO_IS_A_VALUE})
def returns_zero(tune: Any, case: Case) -> Any:
    return case.fit(lambda config: config["value"], {"value": tune.grid_search([0, 0.0, False])})


@script("a")
def yields(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> Any:
        yield {"score": 1}
        yield None
        yield 7
        tune.report({"score": 3})
        return {"score": 99}

    return case.fit(train)


@script("a", fails=True)
def yields_nonsense(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> Any:
        yield {"score": 1}
        yield "nonsense"

    return case.fit(train)


@script("a", differs=WITHOUT_A_REPORT)
def never_reports(tune: Any, case: Case) -> Any:
    return case.fit(lambda config: None, {"x": 1})


@script("a")
def reports_done(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1})
        tune.report({"score": 2, "done": True})
        tune.report({"score": 3})

    return case.fit(train)


@script("a")
def fills_in_counters_itself(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        tune.report({"training_iteration": 10, "timesteps_this_iter": 5, "episodes_this_iter": 2})
        tune.report({"timesteps_this_iter": 7, "episodes_this_iter": 1})
        tune.report({"time_this_iter_s": 100.0})

    results = case.results(train)
    rows = results[0].metrics_dataframe.to_dict("records")
    return {
        "experiment": describe_grid(results),
        "at least 100 s": [row["time_total_s"] >= 100 for row in rows],
        "took 100 s": [row["time_this_iter_s"] == 100 for row in rows],
    }


@script("a")
def nested_metrics_and_stop_rule(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        for step in range(9):
            tune.report({"eval": {"loss": 10 - step, "step": step}, "a/b": step})

    told = case.fit(train, stop={"eval/step": 3})
    results = case.results(train, stop={"a/b": 2})
    columns = [name for name in results[0].metrics_dataframe.columns if name.startswith(("eval", "a/"))]
    return {
        "by eval/step": told,
        "columns": sorted(columns),
        "by a/b": describe_grid(results)["results"]["0"],
    }


@script("a")
def stops_at_an_iteration(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        step = 0
        while True:
            step += 1
            tune.report({"step": step})

    return case.fit(train, {"x": tune.grid_search([1, 2])}, stop={"training_iteration": 4})


@script("a")
def newest_checkpoint_is_returned(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        seen = [load(tune, "step")]
        for step in range(3):
            save(tune, {"step": step}, step=step)
            seen.append(load(tune, "step"))
        tune.report({"seen": seen})

    return case.fit(train)


@script("a")
def checkpoints_and_plain_reports_take_turns(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        for step in range(4):
            if step % 2:
                save(tune, {"step": step}, step=step, more="x" * step)
            else:
                tune.report({"step": step})

    return case.fit(train)


@script("a")
def metadata_travels_with_a_checkpoint(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            checkpoint = tune.Checkpoint.from_directory(directory)
            checkpoint.set_metadata({"epoch": 3})
            checkpoint.update_metadata({"lr": 0.5})
            tune.report({"score": 1}, checkpoint=checkpoint)

    results = case.results(train)
    return results[0].checkpoint.get_metadata()


@script("a")
def context_of_a_trial(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        context = tune.get_context()
        return {
            "experiment": context.get_experiment_name(),
            "id in name": context.get_trial_id() in context.get_trial_name(),
            "name": context.get_trial_name().partition("_")[0],
            "bundles": context.get_trial_resources().bundles,
            "ranks": [context.get_world_size(), context.get_world_rank(), context.get_local_rank()],
        }

    return case.fit(train, name="mine")


@script("a")
def outside_of_a_trial(tune: Any, case: Case) -> Any:
    context = tune.get_context()
    return {
        "report": case.attempt(lambda: tune.report({"score": 1})),
        "checkpoint": case.attempt(tune.get_checkpoint),
        "id": case.attempt(context.get_trial_id),
        "name": case.attempt(context.get_trial_name),
        "experiment": case.attempt(context.get_experiment_name),
        "resources": case.attempt(context.get_trial_resources),
        "directory": case.attempt(context.get_trial_dir),
        "world size": case.attempt(context.get_world_size),
        "rank": case.attempt(context.get_world_rank),
    }


@script("a", fails=True)
def reports_no_dict(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": 1})
        tune.report(5)

    return case.fit(train)


@script("a", fails=True, differs=WITHOUT_A_REPORT)
def returns_text(tune: Any, case: Case) -> Any:
    return case.fit(lambda config: "good")


@script("a", fails=True)
def wrong_number_of_arguments(tune: Any, case: Case) -> Any:
    def needs_two(config: dict[str, Any], data: Any) -> None: ...

    def takes_none() -> None: ...

    def has_default(config: dict[str, Any], data: Any = 3) -> dict[str, Any]:
        return {"data": data}

    return {
        "two": case.fit(needs_two)["fit"],
        "none": case.fit(takes_none)["fit"],
        "default": case.fit(has_default),
    }


@script("a")
def names_of_functions(tune: Any, case: Case) -> Any:
    def named(config: dict[str, Any]) -> dict[str, Any]:
        return {"score": 1}

    class Model:
        def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
            return {"score": 1}

        def method(self, config: dict[str, Any]) -> dict[str, Any]:
            return {"score": 1}

    def name_of(trainable: Any) -> Any:
        told = case.fit(trainable)
        return told.get("fit") or told["results"]["0"]["dirname"]

    return {
        "function": name_of(named),
        "lambda": name_of(lambda config: {"score": 1}),
        "partial": name_of(functools.partial(named)),
        "method": name_of(Model().method),
    }


@script("a")
def directory_is_the_trials_own(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        Path("note.txt").write_text("hello")
        here = Path.cwd()
        return {
            "in its directory": tune.get_context().get_trial_name() in str(here),
            "files": sorted(path.name for path in here.iterdir()),
        }

    told = case.fit(train, {"x": tune.grid_search([1, 2])})
    return {number: plain(result["metrics"]) for number, result in told["results"].items()}
