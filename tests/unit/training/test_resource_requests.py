from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from tune_core.errors import ConfigError
from tune_core.resources import ONE_CPU, PlacementGroupFactory
from tune_core.training.resource_requests import is_fixed, resources_of, with_resources


def train(config: dict[str, Any]) -> dict[str, Any]:
    """Train."""
    return {"doubled": config["x"] * 2}


def train_in_steps(config: dict[str, Any]) -> Any:
    yield {"x": config["x"]}


class Model:
    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        return {"scaled": config["x"] * self.scale}

    def fit(self, config: dict[str, Any]) -> dict[str, Any]:
        return self(config)


class Trainable:
    """Stands for tune_core.Trainable, which these tests do not need."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        return None


class WideTrainable(Trainable):
    """Needs CPUs."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> Any:
        return config.get("resources")


class ScalingConfig:
    """Quacks like Ray's, whose factory is a class of Ray."""

    class Factory:
        bundles = ({"CPU": 2.0}, {"CPU": 1.0})
        strategy = "SPREAD"
        head_bundle_is_empty = True

    def as_placement_group_factory(self) -> Any:
        return self.Factory()


class RayFactory:
    def __call__(self) -> None:
        pass


RayFactory.__module__ = "ray.tune.execution.placement_groups"
RayFactory.__qualname__ = "PlacementGroupFactory"

# Resources in their other forms.


@pytest.mark.parametrize(
    ("resources", "bundle"),
    [
        ({"cpu": 2}, {"CPU": 2.0}),
        ({"CPU": 2, "gPu": 0.5}, {"CPU": 2.0, "GPU": 0.5}),
        ({"gpu": 1}, {"GPU": 1.0}),
        ({}, {"CPU": 1.0}),
        ({"cpu": 1, "memory": 1024, "special": 3}, {"CPU": 1.0, "memory": 1024.0, "special": 3.0}),
        ({"cpu": 1, "custom_resources": {"a": 1}, "b": 2}, {"CPU": 1.0, "a": 1.0, "b": 2.0}),
        ({"cpu": 1, "custom_resources": None}, {"CPU": 1.0}),
    ],
)
def test_dict_of_resources_becomes_one_bundle(resources: dict[str, Any], bundle: dict[str, float]) -> None:
    assert resources_of(with_resources(train, resources), {}).bundles == [bundle]


def test_scaling_config_runs_the_trial_on_an_empty_head() -> None:
    factory = resources_of(with_resources(train, ScalingConfig()), {})

    assert factory == PlacementGroupFactory([{}, {"CPU": 2}, {"CPU": 1}], "SPREAD")


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (None, "resources=None: expected a dict of resources"),
        ([{"CPU": 1}], r"expected a dict of resources, PlacementGroupFactory\(\[...\]\)"),
        ("2 cpus", "resources='2 cpus': expected a dict"),
        (ScalingConfig, "expected a dict of resources"),
        ({"cpu": 1, "CPU": 2}, "'CPU' is given twice"),
        ({"a": 1, "custom_resources": {"a": 2}}, "'a' is given twice"),
        ({"custom_resources": 3}, "'custom_resources' must be a dict"),
        ({"cpu": -1}, "expected a finite number of at least 0"),
        ({"cpu": 0}, "at least one bundle must ask for something"),
        (RayFactory(), "given ray.tune.PlacementGroupFactory: use the class of that name in tune_core"),
    ],
)
def test_resources_of_another_kind_are_refused_at_once(resources: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        with_resources(train, resources)


def test_factory_of_ones_own_scaling_config_is_taken_as_it_is() -> None:
    class Own:
        def as_placement_group_factory(self) -> PlacementGroupFactory:
            return ONE_CPU

    assert resources_of(with_resources(train, Own()), {}) is ONE_CPU


def test_scaling_config_that_makes_something_else_is_refused() -> None:
    class Broken:
        def as_placement_group_factory(self) -> int:
            return 3

    with pytest.raises(ConfigError, match=r"as_placement_group_factory\(\) returned 3"):
        with_resources(train, Broken())


# Attaching them.


def test_without_any_request_a_trial_gets_one_cpu() -> None:
    assert resources_of(train, {}) == resources_of(Trainable, {}) == ONE_CPU


def test_function_is_not_changed() -> None:
    before = dict(vars(train))

    with_resources(train, {"cpu": 2})

    assert vars(train) == before
    assert resources_of(train, {}) == ONE_CPU


def test_wrapped_function_has_name_documentation_and_signature_of_its_own() -> None:
    wrapped = with_resources(train, {"cpu": 2})

    assert (wrapped.__name__, wrapped.__doc__, wrapped.__module__) == ("train", "Train.", __name__)
    assert inspect.signature(wrapped) == inspect.signature(train)
    assert wrapped({"x": 2}) == {"doubled": 4}


def test_generator_stays_one() -> None:
    assert list(with_resources(train_in_steps, {"cpu": 2})({"x": 1})) == [{"x": 1}]


@pytest.mark.parametrize(
    ("trainable", "name"),
    [
        (train, "train"),
        (functools.partial(train), "train"),
        (functools.partial(functools.partial(Model(3))), "Model"),
        (Model(3), "Model"),
        (Model(3).fit, "fit"),
        (lambda config: {}, "<lambda>"),
        (len, "len"),
    ],
)
def test_every_kind_of_callable_can_be_wrapped_and_pickled(trainable: Callable[..., Any], name: str) -> None:
    wrapped = with_resources(trainable, PlacementGroupFactory([{"CPU": 2}]))

    copied = cloudpickle.loads(cloudpickle.dumps(wrapped))

    assert wrapped.__name__ == copied.__name__ == name
    assert copied({"x": 1}) == trainable({"x": 1})
    assert resources_of(copied, {}).head_cpus == 2.0


def test_state_of_a_callable_object_is_not_copied_to_its_wrapper() -> None:
    assert "scale" not in vars(with_resources(Model(3), {"cpu": 2}))


def test_attributes_of_a_function_are_kept() -> None:
    def tagged(config: dict[str, Any]) -> None:
        pass

    tagged.label = "a"  # type: ignore[attr-defined]

    assert vars(with_resources(tagged, {"cpu": 2}))["label"] == "a"


def test_outer_request_counts() -> None:
    twice = with_resources(with_resources(train, {"cpu": 2}), {"cpu": 3})

    assert resources_of(twice, {}).head_cpus == 3.0


def test_request_is_found_through_wrappers_and_partials() -> None:
    wide = with_resources(train, {"cpu": 2})

    @functools.wraps(wide, updated=())
    def logged(config: dict[str, Any]) -> Any:
        return wide(config)

    assert resources_of(logged, {}).head_cpus == 2.0
    assert resources_of(functools.partial(logged), {}).head_cpus == 2.0


def test_attribute_of_the_same_name_that_is_no_request_is_left_alone() -> None:
    model = Model(3)
    model._resources = {"db": "connection"}  # type: ignore[attr-defined]

    assert resources_of(model, {}) == ONE_CPU


def test_function_of_the_config_is_evaluated_for_each_trial() -> None:
    wide = with_resources(train, lambda config: {"cpu": config["workers"]})

    assert [resources_of(wide, {"workers": n}).head_cpus for n in (1, 4)] == [1.0, 4.0]


def test_function_of_the_config_that_returns_none_means_the_default() -> None:
    assert resources_of(with_resources(train, lambda config: None), {}) == ONE_CPU


def test_error_names_what_a_function_of_the_config_returned() -> None:
    def ask(config: dict[str, Any]) -> Any:
        return config["resources"]

    wrong = with_resources(train, ask)

    with pytest.raises(ConfigError, match=r"ask\(config\) returned 3: expected a dict of resources"):
        resources_of(wrong, {"resources": 3})
    with pytest.raises(ConfigError, match=r"ask\(config\) returned \{'gpu': 1.5\}: .*a GPU is shared"):
        resources_of(wrong, {"resources": {"gpu": 1.5}})


def test_class_of_the_same_name_carries_the_request() -> None:
    wide = with_resources(WideTrainable, {"cpu": 2})

    assert issubclass(wide, WideTrainable)
    assert (wide.__name__, wide.__qualname__, wide.__module__) == ("WideTrainable", "WideTrainable", __name__)
    assert wide.__doc__ == "Needs CPUs."
    assert resources_of(wide, {"resources": {"cpu": 5}}).head_cpus == 2.0
    assert resources_of(WideTrainable, {"resources": {"cpu": 5}}).head_cpus == 5.0


def test_class_with_resources_survives_cloudpickle() -> None:
    wide = with_resources(WideTrainable, lambda config: {"cpu": config["n"]})

    copied = cloudpickle.loads(cloudpickle.dumps(wide))

    assert resources_of(copied, {"n": 3}).head_cpus == 3.0
    assert copied.__name__ == "WideTrainable"


@pytest.mark.parametrize("request_", [None, {}, {"cpu": 1}, ONE_CPU])
def test_class_may_ask_in_every_form(request_: Any) -> None:
    assert resources_of(WideTrainable, {"resources": request_}) == ONE_CPU


def test_error_names_what_a_class_returned() -> None:
    with pytest.raises(ConfigError, match=r"WideTrainable.default_resource_request\(config\) returned 'all'"):
        resources_of(WideTrainable, {"resources": "all"})


def test_plural_spelling_of_the_guide_counts_too() -> None:
    class Plural(Trainable):
        @classmethod
        def default_resource_requests(cls, config: dict[str, Any]) -> Any:
            return PlacementGroupFactory([{"CPU": config["n"]}])

    assert resources_of(Plural, {"n": 3}).head_cpus == 3.0
    assert resources_of(with_resources(Plural, {"cpu": 2}), {"n": 3}).head_cpus == 2.0
    assert not is_fixed(Plural)


def test_request_method_that_needs_an_object_is_refused() -> None:
    class Plain(Trainable):
        def default_resource_request(self, config: dict[str, Any]) -> Any:  # type: ignore[override]
            return {"cpu": 2}

    with pytest.raises(ConfigError, match=r"Plain.default_resource_request .*make it a @classmethod"):
        resources_of(Plain, {})


def test_trainable_that_is_none_is_refused() -> None:
    not_callable: Any = "train"

    with pytest.raises(ConfigError, match="trainable='train': expected a function"):
        with_resources(not_callable, {"cpu": 1})


def test_class_that_is_no_trainable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"derive it from tune_core.Trainable"):
        with_resources(Model, {"cpu": 1})


def test_trainable_class_of_ray_is_refused_by_name() -> None:
    class TheirTrainable(Trainable):
        pass

    TheirTrainable.__module__ = "ray.tune.trainable.trainable"
    TheirTrainable.__qualname__ = "Trainable"

    with pytest.raises(ConfigError, match=r"ray.tune.Trainable; derive it from tune_core.Trainable"):
        with_resources(TheirTrainable, {"cpu": 1})


def test_only_a_function_of_the_config_makes_resources_vary() -> None:
    def ask(config: dict[str, Any]) -> dict[str, float]:
        return {"cpu": 2}

    assert is_fixed(train)
    assert is_fixed(with_resources(train, {"cpu": 2}))
    assert is_fixed(with_resources(WideTrainable, {"cpu": 2}))
    assert not is_fixed(with_resources(train, ask))
    assert not is_fixed(with_resources(WideTrainable, ask))
    assert not is_fixed(WideTrainable)


def test_inherited_request_of_the_trainable_class_itself_is_fixed() -> None:
    def default_resource_request(cls: type, config: dict[str, Any]) -> None:
        return None

    default_resource_request.__module__ = "tune_core.training.trainable"
    ours = type("Ours", (), {"default_resource_request": classmethod(default_resource_request)})

    assert is_fixed(ours)
