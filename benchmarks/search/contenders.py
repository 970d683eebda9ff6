"""Who is compared: what we have, what the peers have, and random search with twice the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.search import clock, ours, peers
from benchmarks.search.clock import Row
from benchmarks.search.tables import FACTOR, Table
from tune_core.schedulers import ASHAScheduler, HyperBandForBOHB, MultiObjectiveASHAScheduler
from tune_core.search import BasicVariantGenerator
from tune_core.search.bohb import TuneBOHB
from tune_core.search.optuna import OptunaSearch

#: Called with the table, the first points, and `workers`, `seed` and `is_over`; returns every report.
Runs = Callable[..., list[Row]]


def _peer(make: Callable[..., clock.Contender], **options: Any) -> Runs:
    def run(
        table: Table, points: list[dict[str, Any]], *, workers: int, seed: int, is_over: Any
    ) -> list[Row]:
        return clock.run(
            make(table, points, seed, **options), table, workers=workers, seed=seed, is_over=is_over
        )

    return run


def _ours(makes: ours.Makes) -> Runs:
    def run(
        table: Table, points: list[dict[str, Any]], *, workers: int, seed: int, is_over: Any
    ) -> list[Row]:
        return ours.run(makes, table, points=points, workers=workers, seed=seed, is_over=is_over)

    return run


def _objective(table: Table) -> dict[str, Any]:
    if len(table.metrics) == 1:
        return {"metric": table.metrics[0], "mode": "min"}
    return {"metric": list(table.metrics), "mode": ["min"] * len(table.metrics)}


def _optuna(table: Table, points: list[dict[str, Any]], seed: int, **options: Any) -> dict[str, Any]:
    return {"search_alg": OptunaSearch(points_to_evaluate=points, seed=seed, **options), **_objective(table)}


def _random(table: Table, points: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    searcher = BasicVariantGenerator(points_to_evaluate=points, random_state=seed)
    return {"search_alg": searcher, **_objective(table)}


def _asha(table: Table, seed: int, **options: Any) -> ASHAScheduler:
    return ASHAScheduler(max_t=table.epochs, grace_period=1, reduction_factor=FACTOR, seed=seed, **options)


MULTI_FIDELITY: Mapping[str, Runs] = {
    "ASHA + TPE": _ours(
        lambda table, points, seed: {**_optuna(table, points, seed), "scheduler": _asha(table, seed)}
    ),
    "promoting ASHA + TPE": _ours(
        lambda table, points, seed: {
            **_optuna(table, points, seed),
            "scheduler": _asha(table, seed, type="promotion"),
        }
    ),
    "BOHB": _ours(
        lambda table, points, seed: {
            "search_alg": TuneBOHB(points_to_evaluate=points, seed=seed),
            "scheduler": HyperBandForBOHB(max_t=table.epochs, reduction_factor=FACTOR),
            **_objective(table),
        }
    ),
    "ASHA + random": _ours(
        lambda table, points, seed: {**_random(table, points, seed), "scheduler": _asha(table, seed)}
    ),
    "ray.tune: ASHA + OptunaSearch": _peer(peers.Ray),
    "optuna: TPE + halving": _peer(peers.Optuna, pruner="halving"),
    "optuna: TPE + hyperband": _peer(peers.Optuna, pruner="hyperband"),
    "syne-tune: ASHA": _peer(peers.SyneTune, kind="ASHA"),
    "syne-tune: ASHA CQR": _peer(peers.SyneTune, kind="ASHACQR"),
    "syne-tune: BOHB": _peer(peers.SyneTune, kind="BOHB"),
    "random, twice the budget": _peer(peers.Random),
}
FULL_FIDELITY: Mapping[str, Runs] = {
    "TPE": _ours(_optuna),
    "ray.tune: OptunaSearch": _peer(peers.Ray),
    "optuna: TPE": _peer(peers.Optuna, pruner="none"),
    "syne-tune: CQR": _peer(peers.SyneTune, kind="CQR"),
    "random, twice the budget": _peer(peers.Random),
}
SEVERAL_OBJECTIVES: Mapping[str, Runs] = {
    "TPE": _ours(_optuna),
    "NSGA-II": _ours(
        lambda table, points, seed: _optuna(
            table, points, seed, sampler="nsgaii", sampler_options={"population_size": 20}
        )
    ),
    "MO-ASHA": _ours(
        lambda table, points, seed: {
            **_random(table, points, seed),
            "scheduler": MultiObjectiveASHAScheduler(
                max_t=table.epochs, grace_period=1, reduction_factor=FACTOR, seed=seed
            ),
        }
    ),
    "ray.tune: OptunaSearch": _peer(peers.Ray),
    "optuna: TPE": _peer(peers.Optuna, pruner="none"),
    "optuna: NSGA-II": _peer(peers.Optuna, pruner="none", sampler="nsgaii"),
    "syne-tune: MO-ASHA": _peer(peers.SyneTune, kind="MOASHA"),
    "random, twice the budget": _peer(peers.Random),
}
GROUPS = {
    "multi-fidelity": MULTI_FIDELITY,
    "full-fidelity": FULL_FIDELITY,
    "several objectives": SEVERAL_OBJECTIVES,
}
#: Which of ours the others are compared with.
RECOMMENDED = {"multi-fidelity": "promoting ASHA + TPE", "full-fidelity": "TPE", "several objectives": "TPE"}
#: Those that take longest get fewer seeds; a run of CQR, which fits hundreds of ensembles, takes a minute.
SEEDS = {"syne-tune: BOHB": 10, "syne-tune: MO-ASHA": 10, "syne-tune: ASHA CQR": 0, "syne-tune: CQR": 0}
