"""`WarmStart`: how it is written, described and refused."""

from __future__ import annotations

from typing import Any

import pytest

import tune_core as tune
from tune_core.config.spec import describe, rebuild_tune_config
from tune_core.config.warm_start import WarmStart, warm_start_of
from tune_core.encoding import dumps, loads
from tune_core.errors import ConfigError
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter
from tune_core.search.optuna import OptunaSearch


@pytest.mark.parametrize(
    "given",
    ["digits", ["digits"], ("digits",), {"sources": "digits"}, {"sources": ["digits"]}, WarmStart("digits")],
)
def test_one_source_may_be_written_in_several_ways(given: Any) -> None:
    assert warm_start_of(given) == WarmStart(("digits",))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "expected the path of an experiment"),
        ("", "expected the path of an experiment"),
        (3, "expected the path of an experiment"),
        ({"source": "a"}, "no argument 'source'; did you mean 'sources'?"),
        ({}, "no sources"),
        ({"sources": "a", "max_points": -1}, "expected an integer of at least 0"),
        ({"sources": "a", "last_runs": 0}, "expected an integer of at least 1"),
        ({"sources": "a", "allow_running": "yes"}, "expected True or False"),
        ({"sources": "a", "metric": ""}, "a metric of the earlier experiments"),
        ("deployment:nightly", "expected deployment:FLOW/NAME"),
        ("s3://key:secret@bucket/runs/a", "no credentials in URLs"),
        ("s3:/bucket/runs/a", "a URL has '//'"),
    ],
)
def test_what_is_none_is_refused_when_it_is_written(given: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tune.TuneConfig(warm_start=given, metric="loss", mode="min", search_alg=OptunaSearch())

    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_searcher_that_cannot_learn_is_refused_unless_points_are_run_first() -> None:
    with pytest.raises(ConfigError, match="learns nothing from earlier trials"):
        tune.TuneConfig(warm_start="a")
    with pytest.raises(ConfigError, match="BasicVariantGenerator learns nothing"):
        tune.TuneConfig(warm_start="a", search_alg=BasicVariantGenerator())
    assert tune.TuneConfig(warm_start=WarmStart("a", max_points=1)).warm_start == WarmStart("a", 1)
    limited = ConcurrencyLimiter(OptunaSearch(), 2)
    assert tune.TuneConfig(warm_start="a", search_alg=limited).warm_start == WarmStart("a")


def test_it_is_described_and_made_again() -> None:
    config = tune.TuneConfig(
        "min", "loss", warm_start=WarmStart(["a", "b*"], 3, "val_loss", 2, allow_running=True)
    )
    data = describe(
        name="n",
        experiment_id="00000",
        trainable_name="t",
        param_space={},
        tune_config=config,
        run_config=tune.RunConfig(),
    )

    assert rebuild_tune_config(loads(dumps(data))) == config
