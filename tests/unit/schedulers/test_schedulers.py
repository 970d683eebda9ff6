"""What all schedulers share: names, and where their metric comes from."""

from __future__ import annotations

from typing import Any

import pytest

import tune_core as tune
from tune_core import schedulers
from tune_core.control.policy import Policy
from tune_core.errors import ConfigError
from tune_core.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    MultiObjectiveASHAScheduler,
    OptunaPruner,
    TrialScheduler,
    create_scheduler,
)

COMPARING = [ASHAScheduler, HyperBandForBOHB, HyperBandScheduler, MedianStoppingRule, OptunaPruner]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fifo", FIFOScheduler),
        ("FIFO", FIFOScheduler),
        ("async_hyperband", ASHAScheduler),
        ("asynchyperband", ASHAScheduler),
        ("asha", ASHAScheduler),
        ("hyperband", HyperBandScheduler),
        ("hb_bohb", HyperBandForBOHB),
        ("median_stopping_rule", MedianStoppingRule),
        ("medianstopping", MedianStoppingRule),
        ("mo_asha", MultiObjectiveASHAScheduler),
        ("optuna_pruner", OptunaPruner),
    ],
)
def test_scheduler_is_made_by_its_name(name: str, kind: type[TrialScheduler]) -> None:
    assert type(tune.create_scheduler(name)) is kind


def test_arguments_of_other_schedulers_are_left_out() -> None:
    arguments: dict[str, Any] = {"max_t": 7, "hard_stop": False, "metric": "loss", "mode": "min"}

    made = [create_scheduler(name, **arguments) for name in ("fifo", "asha", "medianstopping")]

    assert [(each.metric, each.mode) for each in made] == [(None, None), ("loss", "min"), ("loss", "min")]


def test_unknown_scheduler_and_argument_are_refused_together() -> None:
    with pytest.raises(ConfigError) as raised:
        create_scheduler("ahsa", max_tt=1)

    assert len(raised.value.faults) == 2
    assert "did you mean 'asha'?" in raised.value.faults[0]
    assert "no scheduler has this argument; did you mean 'max_t'?" in raised.value.faults[1]


@pytest.mark.parametrize("kind", COMPARING)
def test_metric_may_come_from_either_side(kind: type[Any]) -> None:
    for own, config in (({"metric": "loss", "mode": "min"}, {}), ({}, {"metric": "loss", "mode": "min"})):
        scheduler = kind(**own)
        policy = Policy(tune.TuneConfig(scheduler=scheduler, **config), None, {}, len, "train")
        assert (scheduler.metric, scheduler.mode) == ("loss", "min")
        assert policy.required_metric == "loss"
        assert policy.waits_for_decisions


@pytest.mark.parametrize("kind", COMPARING)
def test_mode_alone_means_the_metric_of_a_function_that_returns_a_number(kind: type[Any]) -> None:
    policy = Policy(tune.TuneConfig(scheduler=kind(mode="max")), None, {}, len, "train")

    assert policy.required_metric == "_metric"


@pytest.mark.parametrize("kind", COMPARING)
def test_metric_on_both_sides_is_refused_even_if_it_is_the_same(kind: type[Any]) -> None:
    with pytest.raises(ConfigError, match="the scheduler was given metric='loss': give it in one place"):
        tune.TuneConfig(metric="loss", mode="min", scheduler=kind(metric="loss", mode="min"))


@pytest.mark.parametrize("kind", COMPARING)
def test_missing_metric_is_refused_at_construction(kind: type[Any]) -> None:
    with pytest.raises(ConfigError, match=f"{kind.__name__} compares trials by a metric: add metric="):
        tune.TuneConfig(scheduler=kind())


def test_scheduler_of_an_earlier_experiment_is_refused_if_its_metric_is_another() -> None:
    scheduler = ASHAScheduler()
    config = tune.TuneConfig(metric="loss", mode="min", scheduler=scheduler)
    other = tune.TuneConfig(metric="accuracy", mode="max", scheduler=scheduler)
    Policy(config, None, {}, len, "train")

    with pytest.raises(ConfigError, match=r"was given metric and mode \('loss', 'min'\) already"):
        Policy(other, None, {}, len, "train")


def test_fifo_needs_no_metric() -> None:
    assert Policy(tune.TuneConfig(), None, {}, len, "train").required_metric is None


@pytest.mark.parametrize(
    "scheduler", [FIFOScheduler(), *(kind(metric="x", mode="max") for kind in COMPARING)]
)
def test_every_scheduler_says_where_it_stands(scheduler: TrialScheduler) -> None:
    assert scheduler.debug_string().startswith("Using ")


def test_public_names_are_those_of_ray_tune() -> None:
    assert {"ASHAScheduler", "AsyncHyperBandScheduler", "FIFOScheduler", "MedianStoppingRule"} < set(
        schedulers.__all__
    )
    assert {"HyperBandForBOHB", "HyperBandScheduler"} < set(schedulers.__all__)
    assert {"TrialScheduler", "create_scheduler"} < set(schedulers.__all__)


def test_a_searcher_that_a_scheduler_cannot_work_with_is_refused_with_all_other_faults() -> None:
    """The scheduler says so when the configuration is made, not when trials have run."""

    class Choosing(FIFOScheduler):
        def check_searcher(self, searcher: object) -> None:
            if searcher is not None:
                raise ConfigError("it chooses configurations itself: leave search_alg out")

    tune.TuneConfig(scheduler=Choosing())
    with pytest.raises(ConfigError, match=r"leave search_alg out(.|\n)*num_samples"):
        tune.TuneConfig(scheduler=Choosing(), search_alg=tune.search.BasicVariantGenerator(), num_samples=-2)
