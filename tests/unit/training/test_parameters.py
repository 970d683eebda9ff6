"""Values beside the config: they get to the trainable, and into no pickle of it."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import tune_core as tune
from tune_core.errors import ConfigError, TrainableError
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.training.parameters import parameters_of, supplied_parameters, with_parameters
from tune_core.training.resource_requests import resources_of, with_resources
from tune_core.training.serialization import pickle_trainable

LARGE = "x" * 1_000_000


def train(config: dict[str, Any], data: Any, scale: int = 1) -> dict[str, Any]:
    """Train on data."""
    return {"size": len(data) * scale * config.get("factor", 1)}


class Model:
    def __call__(self, config: dict[str, Any], data: Any) -> dict[str, Any]:
        return {"size": len(data)}

    def fit(self, config: dict[str, Any], *, data: Any) -> dict[str, Any]:
        return self(config, data)


class Trainable:
    """Stands for tune_core.Trainable."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.setup(config)

    def setup(self, config: dict[str, Any]) -> None: ...

    def step(self) -> dict[str, Any]:
        return {}

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        return None


class Counter(Trainable):
    """Counts data."""

    def setup(self, config: dict[str, Any], data: Any = None, scale: int = 1) -> None:
        self.config, self.data, self.scale = config, data, scale


def elsewhere(trainable: Any) -> Any:
    """The trainable as another process gets it."""
    return pickle.loads(pickle.dumps(pickle_trainable(trainable))).load()


# What the trainable gets.


@pytest.mark.parametrize(
    "trainable",
    [
        train,
        functools.partial(train, scale=1),
        Model(),
        Model().fit,
        lambda config, data: {"size": len(data)},
    ],
    ids=["function", "partial", "callable object", "bound method", "lambda"],
)
def test_every_kind_of_function_gets_the_values_as_keyword_arguments(trainable: Callable[..., Any]) -> None:
    wrapped = with_parameters(trainable, data=[1, 2, 3])

    assert wrapped({}) == {"size": 3}


def test_class_gets_the_values_in_setup() -> None:
    trial = with_parameters(Counter, data=[1, 2], scale=5)({"lr": 1})

    assert (trial.config, trial.data, trial.scale) == ({"lr": 1}, [1, 2], 5)


def test_objects_that_were_given_stay_as_they_are() -> None:
    before = dict(vars(train)), dict(vars(Counter))

    with_parameters(train, data=LARGE)
    with_parameters(Counter, data=LARGE)

    assert (dict(vars(train)), dict(vars(Counter))) == before
    assert Counter({}).data is None


@pytest.mark.parametrize("trainable", [train, Counter])
def test_wrapper_has_name_and_docstring_of_what_it_wraps(trainable: Any) -> None:
    wrapped = with_parameters(trainable, data=[])

    assert (wrapped.__name__, wrapped.__doc__) == (trainable.__name__, trainable.__doc__)
    assert tune.Tuner(with_parameters(train, data=[])).experiment().trainable_name == "train"


def test_signature_shows_the_arguments_that_are_left() -> None:
    wrapped = with_parameters(train, data=[])

    assert list(inspect.signature(wrapped).parameters) == ["config", "scale"]


def test_class_that_is_wrapped_is_a_subclass() -> None:
    assert issubclass(with_parameters(Counter, data=1), Counter)


@pytest.mark.parametrize("trainable", [train, Counter])
def test_values_can_be_given_one_after_the_other(trainable: Any) -> None:
    wrapped = with_parameters(with_parameters(trainable, data=[1]), scale=4)

    made = wrapped({})

    assert parameters_of(wrapped) == {"data": [1], "scale": 4}
    assert made == {"size": 4} if trainable is train else (made.data, made.scale) == ([1], 4)


@pytest.mark.parametrize("trainable", [train, Counter])
@pytest.mark.parametrize("resources", [{"cpu": 2}, lambda config: {"cpu": config["n"]}], ids=["dict", "call"])
@pytest.mark.parametrize("resources_first", [True, False])
def test_parameters_and_resources_compose_in_either_order(
    trainable: Any, resources: Any, resources_first: bool
) -> None:
    if resources_first:
        wrapped = with_parameters(with_resources(trainable, resources), data=[1, 2])
    else:
        wrapped = with_resources(with_parameters(trainable, data=[1, 2]), resources)

    made = wrapped({"n": 2})

    assert resources_of(wrapped, {"n": 2}).head_cpus == 2
    assert parameters_of(wrapped) == {"data": [1, 2]}
    assert made == {"size": 2} if trainable is train else made.data == [1, 2]


def test_trainable_without_parameters_has_none() -> None:
    assert [parameters_of(each) for each in (train, Counter, Model(), functools.partial(train))] == [{}] * 4


# What travels.


@pytest.mark.parametrize("trainable", [train, Counter, Model(), lambda config, data: None])
@pytest.mark.parametrize("wrap", [lambda made: made, lambda made: with_resources(made, {"cpu": 1})])
def test_pickle_of_a_trainable_holds_no_value(trainable: Any, wrap: Any) -> None:
    pickled = pickle_trainable(wrap(with_parameters(trainable, data=LARGE)))

    assert len(pickled.by_reference) + len(pickled.by_value or b"") < 20_000
    assert b"xxxxxxxx" not in pickled.by_reference + (pickled.by_value or b"")


def test_values_that_cannot_be_pickled_do_not_keep_a_trainable_from_travelling() -> None:
    made = elsewhere(with_parameters(train, data=(each for each in "abc")))

    with supplied_parameters(made, lambda names: {"data": "ab"}):
        assert made({}) == {"size": 2}


@pytest.mark.parametrize("trainable", [train, Counter])
@pytest.mark.parametrize("order", ["parameters", "resources outside", "resources inside", "twice"])
def test_copy_in_another_process_gets_the_values_that_are_supplied(trainable: Any, order: str) -> None:
    asked: list[Any] = []

    def fetch(names: Any) -> dict[str, Any]:
        asked.append(tuple(names))
        return {name: {"data": "abc", "scale": 3}[name] for name in names}

    made = {
        "parameters": lambda: with_parameters(trainable, data=LARGE, scale=1),
        "resources outside": lambda: with_resources(with_parameters(trainable, data=1, scale=1), {"cpu": 1}),
        "resources inside": lambda: with_parameters(with_resources(trainable, {"cpu": 1}), data=1, scale=1),
        "twice": lambda: with_parameters(with_parameters(trainable, data=LARGE), scale=1),
    }[order]()
    copy = elsewhere(made)

    with supplied_parameters(copy, fetch):
        before = list(asked)
        result = copy({})

    assert result == {"size": 9} if trainable is train else (result.data, result.scale) == ("abc", 3)
    assert before == []
    assert sorted(name for names in asked for name in names) == ["data", "scale"]


def test_partial_of_a_wrapped_function_gets_its_values_too() -> None:
    copy = elsewhere(functools.partial(with_parameters(train, data=LARGE), scale=2))

    with supplied_parameters(copy, lambda names: {"data": "abc"}):
        assert copy({}) == {"size": 6}


@pytest.mark.parametrize("trainable", [train, Counter])
def test_copy_to_which_nobody_supplies_values_says_so(trainable: Any) -> None:
    copy = cloudpickle.loads(cloudpickle.dumps(with_parameters(trainable, data=LARGE, scale=1)))

    with supplied_parameters(copy, lambda names: dict.fromkeys(names, "x")):
        copy({})

    with pytest.raises(
        TrainableError, match=r"values of with_parameters \(data, scale\) stay in the process"
    ):
        copy({})


def test_experiment_has_the_values_beside_the_trainable(tmp_path: Path) -> None:
    tuner = tune.Tuner(
        with_parameters(train, data=LARGE), run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0)
    )

    experiment = tuner.experiment()

    assert experiment.parameters == {"data": LARGE}
    assert LARGE not in repr(experiment)
    assert LocalRuntime().run(experiment)[0].metrics["size"] == len(LARGE)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"xxxxxxxx" in path.read_bytes()]


# Bad input.


@pytest.mark.parametrize("given", [3, "train", None, ["train"]])
def test_what_is_no_trainable_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"with_parameters: trainable=.*expected a function"):
        with_parameters(given, data=1)


def test_class_that_is_no_trainable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is a class of its own; derive it from tune_core.Trainable"):
        with_parameters(dict, data=1)


def test_arguments_that_a_function_does_not_take_are_named_together() -> None:
    with pytest.raises(ConfigError, match=r"train\(config.* takes no dta=.*mean 'data'\?.* takes no config="):
        with_parameters(train, dta=LARGE, config={})


def test_argument_that_setup_does_not_take_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"Counter.setup\(self, config.* takes no dta=.*str; did you mean 'data'"
    ):
        with_parameters(Counter, dta=LARGE)


def test_argument_that_is_still_missing_is_found_by_the_tuner() -> None:
    def two(config: dict[str, Any], data: Any, labels: Any) -> None: ...

    with pytest.raises(TrainableError, match=r"two\(.*labels.*one argument, the config"):
        tune.Tuner(with_parameters(two, data=[1]))


def test_function_with_any_keywords_takes_every_name() -> None:
    wrapped = with_parameters(lambda config, **others: others, rows=1, columns=2)

    assert wrapped({}) == {"rows": 1, "columns": 2}
