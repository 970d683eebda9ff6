from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_core.errors import ConfigError
from tune_core.resources import ONE_CPU, PlacementGroupFactory

# The factory.


def test_values_become_floats_and_zeros_disappear() -> None:
    factory = PlacementGroupFactory([{"CPU": 1, "GPU": 0, "memory": 10**9}, {"special": 0.25}])

    assert factory.bundles == [{"CPU": 1.0, "memory": 1e9}, {"special": 0.25}]
    assert all(isinstance(amount, float) for bundle in factory.bundles for amount in bundle.values())


def test_seed_example_asks_for_one_gpu_and_four_more_for_children() -> None:
    factory = PlacementGroupFactory([{"CPU": 1, "GPU": 1}] + [{"GPU": 1}] * 4)

    assert factory.head_bundle == {"CPU": 1.0, "GPU": 1.0}
    assert factory.child_bundles == [{"GPU": 1.0}] * 4
    assert factory.required_resources == {"CPU": 1.0, "GPU": 5.0}
    assert factory.head_cpus == 1.0
    assert factory.strategy == "PACK"


@pytest.mark.parametrize("head", [{}, {"CPU": 0}])
def test_empty_first_bundle_is_dropped_and_remembered(head: dict[str, float]) -> None:
    factory = PlacementGroupFactory([head, {"CPU": 2}])

    assert factory.head_bundle_is_empty
    assert factory.bundles == factory.child_bundles == [{"CPU": 2.0}]
    assert factory.head_bundle == {}
    assert factory.head_cpus == 0.0
    assert factory != PlacementGroupFactory([{"CPU": 2}])


def test_later_empty_bundle_is_kept() -> None:
    assert PlacementGroupFactory([{"CPU": 1}, {}]).bundles == [{"CPU": 1.0}, {}]


@pytest.mark.parametrize("bundles", [[], [{}], [{}, {}], [{"CPU": 0}, {"GPU": 0}]])
def test_request_for_nothing_is_refused(bundles: list[dict[str, float]]) -> None:
    with pytest.raises(ConfigError, match="at least one bundle must ask for something"):
        PlacementGroupFactory(bundles)


@pytest.mark.parametrize("bundles", [{"CPU": 1}, "CPU", None, 3])
def test_bundles_that_are_no_list_are_refused(bundles: Any) -> None:
    with pytest.raises(ConfigError, match="expected a list with a dict for each bundle"):
        PlacementGroupFactory(bundles)


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf, True, "1", None])
def test_amount_that_is_no_finite_number_is_refused(amount: Any) -> None:
    with pytest.raises(ConfigError, match="expected a finite number of at least 0"):
        PlacementGroupFactory([{"CPU": amount}])


@pytest.mark.parametrize(("given", "wanted"), [("cpu", "CPU"), ("Gpu", "GPU"), ("MEMORY", "memory")])
def test_resource_in_another_spelling_is_refused_with_rays_own(given: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"Ray knows no resource '{given}': write '{wanted}'"):
        PlacementGroupFactory([{given: 1}])


@pytest.mark.parametrize("gpus", [0.25, 1, 2, 8.0])
def test_gpus_are_a_fraction_or_whole(gpus: float) -> None:
    assert PlacementGroupFactory([{"GPU": gpus}]).head_bundle == {"GPU": gpus}


def test_fraction_of_several_gpus_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bundles\[1\]=\{'GPU': 1.5\}\): a GPU is shared"):
        PlacementGroupFactory([{"CPU": 1.5}, {"GPU": 1.5}])


def test_every_fault_of_a_factory_is_named() -> None:
    bundles: Any = [{"cpu": 1}, 3, {"": 1}]

    with pytest.raises(ConfigError) as caught:
        PlacementGroupFactory(bundles, "PAC", "name", color="red", name="twice")

    assert len(caught.value.faults) == 6
    assert "did you mean 'PACK'?" in str(caught.value)
    assert "PlacementGroupFactory(name='twice'): given by position too" in str(caught.value)


def test_unknown_argument_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown argument; .*did you mean 'lifetime'"):
        PlacementGroupFactory([{"CPU": 1}], lifetme="detached")


def test_too_many_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 arguments after strategy; placement_group takes name"):
        PlacementGroupFactory([{"CPU": 1}], "PACK", "n", None, None, None, None, 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lifetime": "job"}, "expected None or 'detached'"),
        ({"name": 3}, "expected a string"),
        ({"bundle_label_selector": [{"zone": "a"}]}, "expected 2 dicts of labels"),
        ({"bundle_label_selector": [{"zone": 1}, {}]}, "expected 2 dicts of labels"),
        ({"topology_strategy": {"zone": "PACK"}}, "pass strategy=None with it"),
    ],
)
def test_option_that_ray_would_refuse_is_refused_here(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PlacementGroupFactory([{}, {"CPU": 1}, {"CPU": 1}], **options)


def test_topology_strategy_replaces_the_strategy() -> None:
    factory = PlacementGroupFactory(
        [{"CPU": 1}], None, topology_strategy={"ray.io/gpu-domain": "STRICT_PACK"}
    )

    assert factory.strategy is None
    assert factory.options == {"topology_strategy": {"ray.io/gpu-domain": "STRICT_PACK"}}


def test_topology_strategy_maps_labels_to_strategies() -> None:
    with pytest.raises(ConfigError, match="expected a dict from label to strategy"):
        PlacementGroupFactory([{"CPU": 1}], None, topology_strategy="STRICT_PACK")


def test_option_given_by_position_equals_the_same_by_name() -> None:
    by_position = PlacementGroupFactory([{"CPU": 1}], "PACK", "group", "detached")
    by_name = PlacementGroupFactory([{"CPU": 1}], lifetime="detached", name="group")

    assert by_position == by_name
    assert hash(by_position) == hash(by_name)
    assert by_position != ONE_CPU


def test_option_given_as_its_default_does_not_change_the_request() -> None:
    assert PlacementGroupFactory([{"CPU": 1.0}], "PACK", "", None) == ONE_CPU


def test_order_of_keys_does_not_matter_but_order_of_bundles_does() -> None:
    assert PlacementGroupFactory([{"CPU": 1, "GPU": 1}]) == PlacementGroupFactory([{"GPU": 1, "CPU": 1}])
    assert PlacementGroupFactory([{"CPU": 1}, {"CPU": 2}]) != PlacementGroupFactory([{"CPU": 2}, {"CPU": 1}])
    assert ONE_CPU != "PlacementGroupFactory"


def test_what_is_read_from_a_factory_cannot_change_it() -> None:
    selector = [{"zone": "a"}]
    factory = PlacementGroupFactory([{"CPU": 1}], bundle_label_selector=selector)

    factory.bundles[0]["CPU"] = 9
    factory.head_bundle["CPU"] = 9
    factory.options["bundle_label_selector"][0]["zone"] = "b"
    selector[0]["zone"] = "b"

    assert factory == PlacementGroupFactory([{"CPU": 1}], bundle_label_selector=[{"zone": "a"}])
    assert factory.bundles == [{"CPU": 1.0}]


BUNDLES = st.lists(
    st.dictionaries(
        st.sampled_from(["CPU", "GPU", "memory", "special"]), st.sampled_from([0, 0.5, 1, 4]), max_size=4
    ),
    min_size=1,
    max_size=4,
).filter(lambda bundles: any(any(bundle.values()) for bundle in bundles))


@given(BUNDLES, st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]))
def test_factory_survives_json_pickle_and_repr(bundles: list[dict[str, float]], strategy: str) -> None:
    factory = PlacementGroupFactory(bundles, strategy, name="group")

    through_json = PlacementGroupFactory.from_dict(json.loads(json.dumps(factory.to_dict())))
    through_pickle = pickle.loads(pickle.dumps(factory))

    assert through_json == through_pickle == eval(repr(factory)) == factory
    assert hash(through_pickle) == hash(factory)
    assert through_json.head_bundle_is_empty == factory.head_bundle_is_empty


@pytest.mark.parametrize("data", [None, [], {"strategy": "PACK"}])
def test_description_without_bundles_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError, match="does not describe a PlacementGroupFactory"):
        PlacementGroupFactory.from_dict(data)
