"""The peers' own schedulers and searchers, asked and told as their own drivers ask and tell them.

Ray Tune 2.60: a trial that goes on is told to the searcher by `on_trial_result`, one that is stopped or complete by
`on_trial_complete` only. Optuna 5: ask, report, should_prune, tell. Syne Tune 0.16: `suggest`, `on_trial_add`,
`on_trial_result`, then `on_trial_remove` or `on_trial_complete`.
"""

from __future__ import annotations

import datetime
import itertools
from types import SimpleNamespace
from typing import Any

from benchmarks.search.clock import Contender, Decision, Job
from benchmarks.search.tables import EPOCHS, FACTOR, Table
from tune_core.search import Categorical, Integer, fill_in
from tune_core.search.basic_variant import BasicVariantGenerator


def _bounds(domain: Any) -> tuple[float, float, bool]:
    return domain.lower, domain.upper, domain.log


class Random(Contender):
    """Full trainings of random configurations, the first points first."""

    def __init__(self, table: Table, points: list[dict[str, Any]], seed: int) -> None:
        self._searcher = BasicVariantGenerator(points_to_evaluate=points, random_state=seed)
        self._searcher.set_search_properties(None, None, table.space, num_samples=-1)
        self._numbers = itertools.count()

    def next(self) -> Job:
        """Return a trial of the next configuration."""
        answer = self._searcher.suggest(f"t{next(self._numbers)}")
        return Job(None, answer.config)

    def report(self, job: Job, epoch: int, values: dict[str, float]) -> Decision:
        """Tell of a report, and return what is decided."""
        return "continue"

    def complete(self, job: Job, epoch: int, values: dict[str, float]) -> None:
        """Learn nothing."""


class Ray(Contender):
    """Ray Tune's OptunaSearch, with its ASHA where there are several epochs."""

    def __init__(self, table: Table, points: list[dict[str, Any]], seed: int) -> None:
        from ray import tune
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.optuna import OptunaSearch

        several = len(table.metrics) > 1
        metric: Any = list(table.metrics) if several else table.metrics[0]
        mode: Any = ["min"] * len(table.metrics) if several else "min"
        space: dict[str, Any] = {}
        for name, domain in table.space.items():
            if isinstance(domain, Categorical):
                space[name] = tune.choice(domain.categories)
                continue
            low, high, is_log = _bounds(domain)
            if isinstance(domain, Integer):
                space[name] = (tune.lograndint if is_log else tune.randint)(low, high)
            else:
                space[name] = (tune.loguniform if is_log else tune.uniform)(low, high)
        self._searcher = OptunaSearch(metric=metric, mode=mode, seed=seed, points_to_evaluate=list(points))
        self._searcher.set_search_properties(metric, mode, space)
        self._scheduler = None
        if table.epochs > 1 and not several:
            self._scheduler = AsyncHyperBandScheduler(
                metric=metric, mode="min", max_t=table.epochs, grace_period=1, reduction_factor=FACTOR
            )
        self._numbers = itertools.count()

    def next(self) -> Job:
        """Return a trial of the next configuration."""
        key = f"t{next(self._numbers):05d}"
        config = self._searcher.suggest(key)
        job = Job(key, config)
        if self._scheduler is not None:
            self._scheduler.on_trial_add(None, _ray_trial(job))
        return job

    def report(self, job: Job, epoch: int, values: dict[str, float]) -> Decision:
        """Tell of a report, and return what is decided."""
        result = {**values, "training_iteration": epoch}
        if self._scheduler is not None:
            answer = self._scheduler.on_trial_result(None, _ray_trial(job), result)
            if answer == "STOP":
                self._searcher.on_trial_complete(job.key, result)
                return "stop"
        self._searcher.on_trial_result(job.key, result)
        return "continue"

    def complete(self, job: Job, epoch: int, values: dict[str, float]) -> None:
        """Tell that a trial has come to its end."""
        result = {**values, "training_iteration": epoch}
        if self._scheduler is not None:
            self._scheduler.on_trial_result(None, _ray_trial(job), result)
        self._searcher.on_trial_complete(job.key, result)


def _ray_trial(job: Job) -> Any:
    return SimpleNamespace(trial_id=job.key, config=job.config)


class Optuna(Contender):
    """Optuna's own sampler and pruner.

    Args:
        table: What is searched.
        points: What it is given first.
        seed: Of the sampler.
        pruner: "halving", "hyperband" or "none".
        sampler: "tpe" or "nsgaii".
    """

    def __init__(
        self,
        table: Table,
        points: list[dict[str, Any]],
        seed: int,
        *,
        pruner: str = "halving",
        sampler: str = "tpe",
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruners = {
            "none": optuna.pruners.NopPruner,
            "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(
                min_resource=1, reduction_factor=FACTOR
            ),
            "hyperband": lambda: optuna.pruners.HyperbandPruner(
                min_resource=1, max_resource=EPOCHS, reduction_factor=FACTOR
            ),
        }
        samplers = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
            "nsgaii": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
        }
        self._study = optuna.create_study(
            sampler=samplers[sampler](),
            pruner=pruners[pruner](),
            directions=["minimize"] * len(table.metrics),
        )
        self._prunes, self._pruned = pruner != "none", optuna.trial.TrialState.PRUNED
        self._metrics = table.metrics
        self._distributions = {name: _distribution(domain) for name, domain in table.space.items()}
        for point in points:
            self._study.enqueue_trial(point)

    def next(self) -> Job:
        """Return a trial of the next configuration."""
        trial = self._study.ask(self._distributions)
        return Job(trial, dict(trial.params))

    def report(self, job: Job, epoch: int, values: dict[str, float]) -> Decision:
        """Tell of a report, and return what is decided."""
        if not self._prunes:
            return "continue"
        job.key.report(values[self._metrics[0]], epoch)
        if not job.key.should_prune():
            return "continue"
        self._study.tell(job.key, state=self._pruned)
        return "stop"

    def complete(self, job: Job, epoch: int, values: dict[str, float]) -> None:
        """Tell that a trial has come to its end."""
        if self._prunes:
            job.key.report(values[self._metrics[0]], epoch)
        self._study.tell(job.key, [values[name] for name in self._metrics])


def _distribution(domain: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Categorical):
        return CategoricalDistribution(domain.categories)
    low, high, is_log = _bounds(domain)
    if isinstance(domain, Integer):
        return IntDistribution(int(low), int(high) - 1, log=is_log)
    return FloatDistribution(low, high, log=is_log)


class SyneTune(Contender):
    """One of Syne Tune's schedulers, of its `baselines` or its multi-objective ASHA.

    Args:
        table: What is searched.
        points: What it is given first.
        seed: Of its own generators.
        kind: "ASHA", "ASHACQR", "BOHB", "CQR" or "MOASHA".
    """

    def __init__(self, table: Table, points: list[dict[str, Any]], seed: int, *, kind: str) -> None:
        import numpy as np
        from syne_tune import config_space
        from syne_tune.optimizer import baselines
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        np.random.seed(seed)  # it draws from the global generator too
        space: dict[str, Any] = {}
        for name, domain in table.space.items():
            if isinstance(domain, Categorical):
                space[name] = config_space.choice(list(domain.categories))
                continue
            low, high, is_log = _bounds(domain)
            if isinstance(domain, Integer):
                space[name] = (config_space.lograndint if is_log else config_space.randint)(
                    int(low), int(high) - 1
                )
            else:
                space[name] = (config_space.loguniform if is_log else config_space.uniform)(low, high)
        halving: dict[str, Any] = {
            "time_attr": "training_iteration",
            "max_t": table.epochs,
            "grace_period": 1,
            "reduction_factor": FACTOR,
        }
        if kind == "MOASHA":
            self._scheduler: Any = MOASHA(space, metrics=list(table.metrics), random_seed=seed, **halving)
        elif kind == "CQR":
            self._scheduler = baselines.CQR(
                space, table.metrics[0], random_seed=seed, points_to_evaluate=list(points)
            )
        else:
            make = getattr(baselines, kind)
            self._scheduler = make(
                space, table.metrics[0], random_seed=seed, points_to_evaluate=list(points), **halving
            )
        self._numbers = itertools.count()

    def next(self) -> Job | None:
        """Return a trial of the next configuration."""
        from syne_tune.backend.trial_status import Trial

        answer = self._scheduler.suggest()
        if answer is None:
            return None
        trial = Trial(next(self._numbers), answer.config, datetime.datetime(2026, 1, 1))
        self._scheduler.on_trial_add(trial)
        return Job(trial, dict(answer.config))

    def report(self, job: Job, epoch: int, values: dict[str, float]) -> Decision:
        """Tell of a report, and return what is decided."""
        answer = self._scheduler.on_trial_result(job.key, {**values, "training_iteration": epoch})
        if answer == "STOP":
            self._scheduler.on_trial_remove(job.key)
            return "stop"
        return "continue"

    def complete(self, job: Job, epoch: int, values: dict[str, float]) -> None:
        """Tell that a trial has come to its end."""
        result = {**values, "training_iteration": epoch}
        self._scheduler.on_trial_result(job.key, result)
        self._scheduler.on_trial_complete(job.key, result)


def first_points(table: Table, seed: int, count: int = 4) -> list[dict[str, Any]]:
    """Return random configurations that every contender of a seed is given first."""
    searcher = BasicVariantGenerator(random_state=10_000 + seed)
    searcher.set_search_properties(None, None, table.space, num_samples=count)
    return [fill_in(table.space, searcher.suggest(f"t{number}").config) for number in range(count)]
