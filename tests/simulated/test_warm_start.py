"""An experiment that began with earlier ones, and whose driver dies after any event, goes on as if it had not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.simulated.test_resume import outcome, read_back
from tune_core.config.warm_start import WarmStart
from tune_core.control.messages import WarmStarted
from tune_core.schedulers import AsyncHyperBandScheduler
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher
from tune_core.search.optuna import OptunaSearch
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.simulator import SimulatedRun, simulate

SPACE = {"x": tune.uniform(0, 1), "y": tune.choice([1, 2, 3])}

SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "Optuna": lambda: OptunaSearch(seed=1),
    "Optuna, limited": lambda: ConcurrencyLimiter(OptunaSearch(seed=1), 1),
    "random": lambda: BasicVariantGenerator(random_state=1),
}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of twelve trials."""
    path = tmp_path_factory.mktemp("runs")
    tuner = tune.Tuner(
        lambda config: {"loss": config["x"] * config["y"]},
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            "min", "loss", search_alg=BasicVariantGenerator(random_state=3), num_samples=12
        ),
        run_config=tune.RunConfig(name="earlier", storage_path=str(path), verbose=0),
    )
    LocalRuntime().run(tuner.experiment())
    return path


def drive(searcher: Searcher, warm_start: WarmStart | None, journal: Any = ()) -> SimulatedRun:
    return simulate(
        lambda config, iteration: ({"loss": config["x"] * config["y"] + 1 / iteration}, 1.0 + config["x"]),
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            "min",
            "loss",
            searcher,
            AsyncHyperBandScheduler(max_t=3, reduction_factor=2, seed=1),
            num_samples=5,
            warm_start=warm_start,
        ),
        slots=1,
        iterations=3,
        journal=read_back(journal),
    )


@pytest.mark.parametrize("name", SEARCHERS)
def test_driver_may_die_after_any_event(name: str, earlier: Path) -> None:
    warm = WarmStart(f"{earlier}/earlier", max_points=2)
    whole = drive(SEARCHERS[name](), warm)
    expected = outcome(whole, is_serial=True)
    places = [place for place, (event, _) in enumerate(whole.records) if isinstance(event, WarmStarted)]

    assert len(places) == 1
    gone = WarmStart(f"{earlier}/not-there", max_points=2)
    for length in range(1, len(whole.records)):
        source = gone if length > places[0] else warm  # what was taken is in the journal
        resumed = drive(SEARCHERS[name](), source, whole.records[:length])
        assert outcome(resumed, is_serial=True) == expected, f"killed after {length} events"


def test_what_is_suggested_depends_on_the_earlier_trials(earlier: Path) -> None:
    warm = drive(OptunaSearch(seed=1), WarmStart(f"{earlier}/earlier"))
    cold = drive(OptunaSearch(seed=1), None)

    assert [trial.config for trial in warm.trials] != [trial.config for trial in cold.trials]
    losses = [sum(trial.config["x"] * trial.config["y"] for trial in run.trials) for run in (warm, cold)]
    assert losses[0] < losses[1]
