"""HyperBand among failing, paused, stopped and added trials: every trial ends, and none is left waiting."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import tune_core as tune
from tune_core.schedulers import HyperBandForBOHB, HyperBandScheduler
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher
from tune_core.steering.inbox import (
    AddConfiguration,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Request,
    ResumeExperiment,
    ResumeTrial,
    StopTrial,
)
from tune_core.testing.replay import replay
from tune_core.testing.simulator import SimulatedRun, simulate


class Trouble:
    """An experiment under HyperBand in which anything may happen, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        chance = self.chance = random.Random(seed)
        self.kind = chance.choice([HyperBandForBOHB, HyperBandScheduler])
        self.arguments: dict[str, Any] = {
            "max_t": chance.choice([3, 4, 9, 10]),
            "reduction_factor": chance.choice([1.5, 2, 3]),
            "stop_last_trials": chance.random() < 0.8,
        }
        self.count = chance.randint(1, 20)
        self.is_limited = chance.random() < 0.25
        self.run = tune.RunConfig(
            failure_config=tune.FailureConfig(max_failures=chance.randint(0, 2)),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=chance.choice([None, 1])),
        )
        self.dies_at = {self.any_trial(): chance.randint(1, 5) for _ in range(chance.randint(0, 3))}
        self.requests = self.some_requests()
        self.more: dict[str, Any] = {
            "slots": chance.randint(1, 5),
            "iterations": chance.randint(2, 12),
            "checkpoint_every": chance.randint(0, 4),
            "saves_on_request": chance.random() < 0.4,
            "start_s": chance.choice([0.0, 2.5]),
        }

    def any_trial(self) -> int:
        return self.chance.randrange(self.count)

    def some_requests(self) -> dict[tuple[int, int] | None, list[Request]]:
        chance = self.chance
        found: dict[tuple[int, int] | None, list[Request]] = {}
        kinds: list[Callable[[str], Request]] = [PauseTrial, ResumeTrial, StopTrial]
        for _ in range(chance.randint(0, 6)):
            request = chance.choice(kinds)(str(self.any_trial()))
            found.setdefault((self.any_trial(), chance.randint(1, 5)), []).append(request)
        others: list[Request] = [
            PauseExperiment(),
            RaiseNumSamples(self.count + 3),
            AddConfiguration({"x": 0.5}),
        ]
        for each in others:
            if chance.random() < 0.3:
                found.setdefault((self.any_trial(), 1), []).append(each)
        release: list[Request] = [ResumeTrial(str(number)) for number in range(self.count + 5)]
        return {**found, None: [ResumeExperiment(), *release] * 4}

    def searcher(self) -> Searcher:
        searcher = BasicVariantGenerator(random_state=1)
        return ConcurrencyLimiter(searcher, 3) if self.is_limited else searcher

    def drive(self, journal: Any = ()) -> SimulatedRun:
        def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
            noise = random.Random(f"{config['x']} {iteration}").random()
            return {"loss": config["x"] + 1 / iteration + noise / 9}, 1.0 + noise

        return simulate(
            curve,
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                num_samples=self.count,
                search_alg=self.searcher(),
                scheduler=self.kind(**self.arguments),
            ),
            run_config=self.run,
            crashes=lambda number, attempt, iteration: self.dies_at.get(number) == iteration,
            requests=self.requests,
            journal=journal,
            **self.more,
        )


@pytest.mark.parametrize("seed", range(150))
def test_nobody_waits_for_ever(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_core.testing.simulator.MAX_EVENTS", 20_000)
    trouble = Trouble(seed)

    whole = trouble.drive()
    resumed = trouble.drive(whole.records[: trouble.chance.randrange(len(whole.records))])

    for run in (whole, resumed):
        assert run.reason == "every trial is finished"  # none was given up
        assert all(trial.is_finished() for trial in run.trials)
        replay(run.records, run.rules)
