"""Every scheduler here keeps to the contract that is shipped for schedulers of users."""

from __future__ import annotations

from typing import Any

import pytest

import tune_core as tune
from tune_core.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    MultiObjectiveASHAScheduler,
    OptunaPruner,
    TrialScheduler,
)
from tune_core.testing.scheduler_contract import MakeScheduler, SchedulerContract
from tune_core.testing.schedulers import (
    AnsweringScheduler,
    ExploitingScheduler,
    PausingScheduler,
    RandomScheduler,
)
from tune_core.testing.simulator import Curve, SimulatedRun, simulate
from tune_core.trial import Trial


class TestFIFO(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self) -> MakeScheduler:
        return FIFOScheduler


class TestAnswering(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self) -> MakeScheduler:
        return AnsweringScheduler


class TestASHA(SchedulerContract):
    @pytest.fixture(
        params=[{"max_t": 20}, {"max_t": 9, "stop_last_trials": False}, {"brackets": 3, "seed": 1}]
    )
    def make_scheduler(self, request: pytest.FixtureRequest) -> MakeScheduler:
        return lambda: ASHAScheduler(reduction_factor=3, **request.param)


class TestPromotingASHA(SchedulerContract):
    @pytest.fixture(
        params=[{"max_t": 20}, {"max_t": 9, "stop_last_trials": False}, {"brackets": 3, "seed": 1}]
    )
    def make_scheduler(self, request: pytest.FixtureRequest) -> MakeScheduler:
        return lambda: ASHAScheduler(reduction_factor=3, type="promotion", **request.param)


class TestMultiObjectiveASHA(SchedulerContract):
    """By two metrics, which it has itself: the loss, and how far `y` is from the middle."""

    @pytest.fixture(
        params=[
            {"max_t": 20},
            {"max_t": 9, "stop_last_trials": False},
            {"brackets": 3, "seed": 1},
            {"max_t": 20, "type": "promotion", "grace_period": 3},
            {"max_t": 9, "stop_last_trials": False, "type": "promotion", "brackets": 2, "seed": 1},
        ]
    )
    def make_scheduler(self, request: pytest.FixtureRequest) -> MakeScheduler:
        return lambda: MultiObjectiveASHAScheduler(
            metrics=["loss", "size"], modes="min", reduction_factor=3, **request.param
        )

    def test_it_takes_metric_and_mode_over(self, make_scheduler: MakeScheduler) -> None:
        scheduler: Any = make_scheduler()

        assert scheduler.set_search_properties(["loss", "size"], "min")
        assert not scheduler.set_search_properties(["loss", "size"], "max")
        assert (scheduler.metric, scheduler.mode) == (["loss", "size"], ["min", "min"])

    def test_more_is_to_max_what_less_is_to_min(self, make_scheduler: MakeScheduler) -> None:
        pytest.skip("its modes are its own: see test_modes_may_differ_and_metrics_may_be_nested")

    def simulate(
        self,
        scheduler: TrialScheduler,
        *,
        curve: Curve | None = None,
        mode: str = "min",
        run_config: tune.RunConfig | None = None,
        seed: int = 0,
        **options: Any,
    ) -> SimulatedRun:
        def two(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
            metrics, spent = (
                curve(config, iteration) if curve else ({"loss": config["x"] + 1 / iteration}, 1.0)
            )
            return {**metrics, "size": abs(config["y"] - 0.5)}, spent

        retrying = tune.RunConfig(
            failure_config=tune.FailureConfig(max_failures=-1),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        )
        options = {"slots": 4, "iterations": self.iterations, **options}
        return simulate(
            two,
            param_space={"x": tune.uniform(0.0, 1.0), "y": tune.uniform(0.0, 1.0)},
            tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=12),
            run_config=run_config or retrying,
            seed=seed,
            **options,
        )


class TestOptunaPruner(SchedulerContract):
    @pytest.fixture(
        params=[
            ("median", {"n_startup_trials": 2}),
            ("hyperband", {"max_resource": 20}),
            ("wilcoxon", {"p_threshold": 0.2}),
            ("patient", {"wrapped_pruner": "median", "patience": 2}),
        ],
        ids=lambda param: param[0],
    )
    def make_scheduler(self, request: pytest.FixtureRequest) -> MakeScheduler:
        return lambda: OptunaPruner(*request.param)


class TestHyperBand(SchedulerContract):
    @pytest.fixture(
        params=[
            {"max_t": 20},
            {"max_t": 9, "stop_last_trials": False},
            {"max_t": 16, "reduction_factor": 1.5},
        ]
    )
    def make_scheduler(self, request: pytest.FixtureRequest) -> MakeScheduler:
        return lambda: HyperBandScheduler(**request.param)


class TestHyperBandForBOHB(SchedulerContract):
    @pytest.fixture(params=[{"max_t": 9}, {"max_t": 20, "reduction_factor": 2}])
    def make_scheduler(self, request: pytest.FixtureRequest) -> MakeScheduler:
        return lambda: HyperBandForBOHB(**request.param)


class TestMedianStoppingRule(SchedulerContract):
    @pytest.fixture(params=[{}, {"hard_stop": False}, {"min_samples_required": 9, "min_time_slice": 2}])
    def make_scheduler(self, request: pytest.FixtureRequest) -> MakeScheduler:
        return lambda: MedianStoppingRule(grace_period=3, **request.param)


class TestPausing(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self) -> MakeScheduler:
        return PausingScheduler


class TestExploiting(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self) -> MakeScheduler:
        return ExploitingScheduler


class TestRandom(SchedulerContract):
    @pytest.fixture(params=range(3))
    def make_scheduler(self, request: pytest.FixtureRequest) -> MakeScheduler:
        return lambda: RandomScheduler(request.param)


# The contract finds what is wrong with a scheduler.


class Meddling(FIFOScheduler):
    always_continues = False

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        result["loss"] = 0
        return self.CONTINUE


class Strict(AnsweringScheduler):
    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self.STOP if result["loss"] > 1 else self.CONTINUE


class Partial(AnsweringScheduler):
    """Takes less for better, always."""

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self.STOP if (result.get("loss") or 0) > 1 else self.CONTINUE


class Endless(AnsweringScheduler):
    """Pauses whoever has not saved, so that nobody gets anywhere."""

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self.PAUSE if trial.checkpoint is None else self.CONTINUE


@pytest.mark.parametrize(
    ("kind", "test", "error"),
    [
        (Meddling, "test_it_changes_nothing_that_it_is_shown", AssertionError),
        (Strict, "test_metrics_that_are_no_finite_numbers_do_no_harm", TypeError),
        (Partial, "test_more_is_to_max_what_less_is_to_min", AssertionError),
        (Endless, "test_trials_that_save_seldom_or_never_end_too", AssertionError),
    ],
)
def test_faulty_scheduler_is_found(
    kind: type[TrialScheduler], test: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_core.testing.simulator.MAX_EVENTS", 20_000)

    with pytest.raises(error):
        getattr(SchedulerContract(), test)(kind)
