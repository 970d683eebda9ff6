"""Our schedulers and searchers, in the loop that real experiments have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tune_core as tune
from benchmarks.search.clock import Row
from benchmarks.search.tables import Table
from tune_core.testing.simulator import simulate

#: Called with the table, the first points and a seed: searcher, scheduler, and what else a TuneConfig takes.
Makes = Callable[[Table, list[dict[str, Any]], int], dict[str, Any]]


class _Budget(tune.Stopper):
    """Ends the experiment once `is_over(epochs so far, time)`."""

    def __init__(self, is_over: Callable[[int, float], bool]) -> None:
        self._is_over, self._epochs, self._time = is_over, 0, 0.0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Count a report; no single trial is stopped."""
        self._epochs, self._time = self._epochs + 1, float(result["timestamp"])
        return False

    def stop_all(self) -> bool:
        """Return whether the budget is used up."""
        return self._is_over(self._epochs, self._time)


def run(
    makes: Makes,
    table: Table,
    *,
    points: list[dict[str, Any]],
    workers: int,
    seed: int,
    is_over: Callable[[int, float], bool],
) -> list[Row]:
    """Simulate an experiment until `is_over(epochs so far, time)`; return every report, in order."""

    def curve(config: dict[str, Any], epoch: int) -> tuple[dict[str, float], float]:
        return table.reported(config, epoch, seed), table.seconds(config)

    simulated = simulate(
        curve,
        param_space=table.space,
        tune_config=tune.TuneConfig(num_samples=-1, **makes(table, points, seed)),
        run_config=tune.RunConfig(stop=_Budget(is_over)),
        slots=workers,
        iterations=table.epochs,
        seed=seed,
    )
    configs = {trial.trial_id: trial.config for trial in simulated.trials}
    return [Row(row["time"], configs[row["trial_id"]], row["training_iteration"]) for row in simulated.rows]
