"""Objects that are handed to trainables beside their configuration."""

from __future__ import annotations

from typing import Any

from tests.differential.case import Case, Difference, first_time, load, save, script
from tests.differential.reviewed import ROWS_OF_A_CLASS

NAMES_ARE_CHECKED = Difference(
    "`with_parameters`",
    "checks the arguments' names; outside of an experiment it passes the values as they are",
    "there a wrong name fails every trial",
)


def adds(tune: Any) -> Any:
    def train(config: dict[str, Any], data: Any = None, factor: int = 1) -> dict[str, Any]:
        return {"sum": sum(data) * factor + config["x"]}

    return train


@script("e")
def function_gets_keyword_arguments(tune: Any, case: Case) -> Any:
    with_data = tune.with_parameters(adds(tune), data=[1, 2, 3], factor=2)
    return case.fit(with_data, {"x": tune.grid_search([10, 20])})


@script("e")
def function_keeps_its_name(tune: Any, case: Case) -> Any:
    wrapped = tune.with_parameters(adds(tune), data=[1])
    return {"name": wrapped.__name__}


@script("e", differs=ROWS_OF_A_CLASS)
def class_gets_them_in_setup(tune: Any, case: Case) -> Any:
    class Adds(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any], data: Any = None) -> None:
            self.sum = sum(data) + config["x"]

        def step(self) -> dict[str, Any]:
            return {"sum": self.sum, "done": True}

    wrapped = tune.with_parameters(Adds, data=[1, 2, 3])
    told = case.fit(wrapped, {"x": tune.grid_search([10, 20])}, checkpoint_config=case.no_checkpoints())
    return {"name": wrapped.__name__, "experiment": told}


@script("e")
def parameters_and_resources_in_either_order(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any], data: Any = None) -> dict[str, Any]:
        return {"data": data, "asked": tune.get_context().get_trial_resources().required_resources}

    def train_too(config: dict[str, Any], data: Any = None) -> dict[str, Any]:
        return train(config, data)

    first = tune.with_resources(tune.with_parameters(train, data=[1]), {"cpu": 2})
    second = tune.with_parameters(tune.with_resources(train_too, {"cpu": 2}), data=[1])
    return {"parameters first": case.fit(first), "resources first": case.fit(second)}


@script("e", fails=True)
def trainables_that_are_refused(tune: Any, case: Case) -> Any:
    return {
        "another class": case.attempt(lambda: tune.with_parameters(dict, data=1)),
        "text": case.attempt(lambda: tune.with_parameters("train", data=1)),
    }


@script("e", fails=True)
def retry_gets_them_again(tune: Any, case: Case) -> Any:
    marker = str(case.directory / "marker")

    def train(config: dict[str, Any], data: Any = None) -> None:
        first = int(load(tune, "step") or 0)
        for step in range(first, len(data)):
            save(tune, {"value": data[step]}, step=step + 1)
            if step == 1 and first_time(marker):
                raise ValueError("made up")

    return case.fit(tune.with_parameters(train, data=[5, 6, 7]), failure_config=case.retries(1))


@script("e", fails=True, differs={"": NAMES_ARE_CHECKED})
def argument_that_the_function_does_not_take(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any], data: Any = None) -> dict[str, Any]:
        return {"data": data}

    return case.attempt(lambda: case.fit(tune.with_parameters(train, dta=[1])).get("num_errors", "refused"))


@script("e")
def large_array_is_shared(tune: Any, case: Case) -> Any:
    import numpy as np

    def train(config: dict[str, Any], data: Any = None) -> dict[str, Any]:
        return {"sum": float(data.sum()), "shape": list(data.shape), "writable": bool(data.flags.writeable)}

    wrapped = tune.with_parameters(train, data=np.ones((1000, 1000)))
    return case.fit(wrapped, {"x": tune.grid_search([1, 2])})


@script("e")
def object_reference_is_passed_through(tune: Any, case: Case) -> Any:
    import ray

    def train(config: dict[str, Any], data: Any = None) -> dict[str, Any]:
        return {"data": data}

    return case.fit(tune.with_parameters(train, data=ray.put([1, 2])))
