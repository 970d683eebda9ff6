"""The form of the steer flow: each request is a tab, and a wrong value is named before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.schema_tools.validation import validate

from tune_core.engine.steer import requests, steer
from tune_core.steering.inbox import (
    REQUESTS,
    AddConfiguration,
    ChangeSpace,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Request,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
)

SCHEMA: dict[str, Any] = steer.parameters.model_dump()


def test_every_request_is_a_tab() -> None:
    tabs = [tab["title"] for tab in SCHEMA["properties"]["request"]["anyOf"]]

    assert tabs == [*requests()]
    assert set(requests().values()) == set(REQUESTS.values())


@pytest.mark.parametrize(
    ("given", "request_"),
    [
        ({"pause all": {}}, PauseExperiment()),
        ({"resume all": {}}, ResumeExperiment()),
        ({"stop all": {}}, StopExperiment()),
        ({"stop all": {"reason": "enough"}}, StopExperiment("enough")),
        ({"pause trial": {"trial_id": "3"}}, PauseTrial("3")),
        ({"resume trial": {"trial_id": "3"}}, ResumeTrial("3")),
        ({"stop trial": {"trial_id": "3"}}, StopTrial("3")),
        ({"add trial": {"config": {"net": {"lr": 0.1}}}}, AddConfiguration({"net": {"lr": 0.1}})),
        ({"more samples": {"num_samples": 7}}, RaiseNumSamples(7)),
        ({"looser stop": {"stop": {"loss": 2}}}, LoosenStop({"loss": 2})),
        (
            {"other space": {"parameters": {"lr": {"uniform": {"lower": 0, "upper": 1}}}}},
            ChangeSpace({"lr": {"uniform": [0, 1]}}),
        ),
    ],
)
def test_what_is_filled_in_becomes_the_request(given: dict[str, Any], request_: Request) -> None:
    filled_in = {"experiment": "digits", "request": given}

    assert validate(filled_in, SCHEMA) == []
    assert steer.validate_parameters(filled_in)["request"].make() == request_


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"stop trial": {}}, "trial_id"),
        ({"stop trial": {"trial_id": ""}}, "trial_id=''"),
        ({"explode": {}}, "explode"),
        ({"more samples": {"num_samples": 0}}, "num_samples=0"),
        ({"more samples": {"num_samples": "many"}}, "num_samples"),
        ({"looser stop": {"stop": {"loss": "low"}}}, "expected a finite number"),
        ({"add trial": {"config": 3}}, "config"),
        ({"other space": {"parameters": {"lr": 3}}}, "expected a sampler"),
    ],
)
def test_wrong_value_is_named(given: dict[str, Any], fault: str) -> None:
    with pytest.raises(ParameterTypeError, match=fault):
        steer.validate_parameters({"experiment": "digits", "request": given})


@pytest.mark.parametrize(
    "filled_in",
    [
        {"request": {"pause all": {}}},
        {"experiment": "", "request": {"pause all": {}}},
        {"experiment": "digits"},
        {"experiment": "digits", "request": {"pause all": {}}, "timeout_s": 0},
    ],
)
def test_server_refuses_what_is_incomplete(filled_in: dict[str, Any]) -> None:
    assert validate(filled_in, SCHEMA)
