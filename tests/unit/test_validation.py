from __future__ import annotations

from typing import Any

import pytest

from tune_core.config.run_config import RunConfig
from tune_core.errors import ConfigError
from tune_core.validation import Validator, is_number, ray_origin, shorten, suggestion


class TheirRunConfig:
    pass


TheirRunConfig.__module__ = "ray.tune.impl.config"
TheirRunConfig.__qualname__ = TheirRunConfig.__name__ = "RunConfig"


def test_all_faults_are_raised_together() -> None:
    validator = Validator("Thing")
    validator.check_integer("a", 0, minimum=1)
    validator.check_bool("b", "yes")

    with pytest.raises(ConfigError) as caught:
        validator.raise_any()

    assert caught.value.faults == [
        "Thing(a=0): expected an integer of at least 1",
        "Thing(b='yes'): expected True or False",
    ]


def test_nothing_found_raises_nothing() -> None:
    validator = Validator("Thing")
    validator.check_integer("a", 3, minimum=1, maximum=3)
    validator.check_number("b", 0.5)
    validator.check_choice("c", "min", ("min", "max"))
    validator.check_name("d", "x")
    validator.check_callable("e", print, "e(trial)")

    validator.raise_any()

    assert validator.found == []


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 4])
def test_integer_is_no_bool_no_float_and_within_its_limits(value: Any) -> None:
    validator = Validator("Thing")

    validator.check_integer("a", value, minimum=1, maximum=3, also=", or 7")

    assert validator.found == [f"Thing(a={value!r}): expected an integer from 1 to 3, or 7"]


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), -0.1, 1j])
def test_number_is_real_finite_and_not_below_its_minimum(value: Any) -> None:
    validator = Validator("Thing")

    validator.check_number("a", value)

    assert len(validator.found) == 1


def test_number_may_be_of_any_type_that_is_registered_as_one() -> None:
    numpy = pytest.importorskip("numpy")

    assert is_number(numpy.float32(0.5))
    assert is_number(numpy.int64(2))
    assert not is_number(numpy.bool_(True))


def test_near_name_is_suggested_whatever_its_case() -> None:
    assert suggestion("Strict_pack", ("PACK", "STRICT_PACK")) == "; did you mean 'STRICT_PACK'?"
    assert suggestion("zzz", ("PACK",)) == ""
    assert suggestion(3, ("PACK",)) == ""


def test_class_of_ray_is_named_with_the_class_to_use_instead() -> None:
    validator = Validator("Tuner")

    is_ours = validator.check_instance("run_config", TheirRunConfig(), RunConfig)

    assert not is_ours
    assert (
        "given ray.tune.RunConfig; use tune_core.RunConfig: `import tune_core as tune`" in validator.found[0]
    )


def test_class_of_another_name_is_not_confused_with_the_expected_one() -> None:
    validator = Validator("Tuner")

    validator.check_instance("callback", TheirRunConfig(), Validator)

    assert "there is none here: derive one from tune_core.validation.Validator" in validator.found[0]


def test_class_given_instead_of_an_instance_is_told_to_be_called() -> None:
    validator = Validator("Tuner")

    validator.check_instance("run_config", RunConfig, RunConfig)

    assert "write RunConfig(...)" in validator.found[0]


def test_origin_in_ray_is_found_through_a_users_subclass() -> None:
    class Mine(TheirRunConfig):
        pass

    assert ray_origin(Mine()) == "ray.tune.RunConfig"
    assert ray_origin(Mine) == "ray.tune.RunConfig"
    assert ray_origin(RunConfig()) is None


def test_long_value_is_cut_in_messages() -> None:
    assert len(shorten("x" * 1000)) == 120
