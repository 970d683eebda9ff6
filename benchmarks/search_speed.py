"""How long schedulers and searchers take, on a virtual clock: no Ray, no Prefect, one process.

    python -m benchmarks.search_speed [--trials 1000] [--rows 30] [--slots 16]

Of each scheduler, a whole experiment with its controller; of each searcher, what a suggestion costs when it has
learnt from all trials.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import tune_core as tune
from tune_core.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    TrialScheduler,
)
from tune_core.search import BasicVariantGenerator, Searcher
from tune_core.search.bohb import TuneBOHB
from tune_core.search.optuna import OptunaSearch
from tune_core.testing.schedulers import AnsweringScheduler
from tune_core.testing.simulator import simulate

SPACE = {
    "x": tune.uniform(0, 1),
    "lr": tune.loguniform(1e-5, 1),
    "depth": tune.randint(1, 9),
    "act": tune.choice(["relu", "tanh"]),
}


def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
    """Report a loss that falls, after one to two seconds."""
    return {"loss": config["x"] + config["lr"] + 1 / iteration}, 1.0 + config["x"]


def schedulers(rows: int) -> dict[str, Callable[[], TrialScheduler]]:
    """Return what makes each scheduler, for trials of so many rows."""
    return {
        "FIFO": FIFOScheduler,
        "asked, and always CONTINUE": AnsweringScheduler,
        "ASHA": lambda: ASHAScheduler(max_t=rows, seed=1),
        "HyperBand": lambda: HyperBandScheduler(max_t=rows),
        "HyperBand, last trials go on": lambda: HyperBandScheduler(max_t=rows, stop_last_trials=False),
        "HyperBand for BOHB": lambda: HyperBandForBOHB(max_t=rows),
    }


SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "random": lambda: BasicVariantGenerator(random_state=1),
    "Optuna (TPE)": lambda: OptunaSearch(seed=1),
    "BOHB": lambda: TuneBOHB(seed=1),
}


def time_scheduler(make: Callable[[], TrialScheduler], trials: int, rows: int, slots: int) -> str:
    """Run an experiment; tell how long it took, and how many reports there were."""
    began = time.perf_counter()
    run = simulate(
        curve,
        param_space=SPACE,
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=trials, scheduler=make()),
        slots=slots,
        iterations=rows,
    )
    spent = time.perf_counter() - began
    return f"{spent:8.2f} s  {len(run.rows):7,} reports  {len(run.records):7,} events  {run.reason}"


def time_searcher(searcher: Searcher, trials: int, suggestions: int = 20) -> str:
    """Tell how long a suggestion takes once so many trials are over."""
    searcher.set_search_properties("loss", "min", SPACE, num_samples=trials + suggestions)
    began = time.perf_counter()
    for number in range(trials + suggestions):
        if number == trials:
            began = time.perf_counter()
        answer: Any = searcher.suggest(f"t{number}")
        metrics, _ = curve(answer.config, 1)
        searcher.on_trial_complete(f"t{number}", {**metrics, "training_iteration": 1})
    return f"{(time.perf_counter() - began) / suggestions * 1000:8.2f} ms"


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--slots", type=int, default=16)
    given = parser.parse_args()
    print(f"{given.trials} trials of up to {given.rows} reports, {given.slots} at a time")
    for name, make in schedulers(given.rows).items():
        print(f"{name:30}", time_scheduler(make, given.trials, given.rows, given.slots), flush=True)
    print(f"a suggestion after {given.trials} trials")
    for name, searcher in SEARCHERS.items():
        print(f"{name:30}", time_searcher(searcher(), given.trials), flush=True)


if __name__ == "__main__":
    main()
