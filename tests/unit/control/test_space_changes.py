"""A resume with another search space: what may change, and what the search goes on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

import tune_core as tune
from tune_core.control.resume import read_spec
from tune_core.errors import ConfigError
from tune_core.search import BasicVariantGenerator, Searcher
from tune_core.search.optuna import OptunaSearch
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime


def tuned_in(place: Path, space: dict[str, Any], search: Searcher | None, count: int = 3) -> None:
    tuner = tune.Tuner(
        report_x,
        param_space=space,
        tune_config=tune.TuneConfig("min", "loss", search, num_samples=count),
        run_config=tune.RunConfig(name="e", storage_path=str(place), verbose=0),
    )
    LocalRuntime().run(tuner.experiment())


def report_x(config: dict[str, Any]) -> dict[str, Any]:
    return {"loss": float(config["x"])}


@pytest.mark.parametrize(
    "search", [lambda: OptunaSearch(seed=1), lambda: BasicVariantGenerator(random_state=1)]
)
def test_a_resume_may_take_values_away_and_bring_parameters(
    search: Callable[[], Searcher], tmp_path: Path
) -> None:
    tuned_in(tmp_path, {"x": tune.choice([1, 2, 3])}, search())
    space = {"x": tune.choice([2, 4]), "y": tune.uniform(0, 1)}

    longer = tune.Tuner.restore(tmp_path / "e", report_x, param_space=space, num_samples=7)
    configs = [result.config for result in LocalRuntime().run(longer.experiment())]

    assert all(config["x"] in (1, 2, 3) and "y" not in config for config in configs[:3])
    assert all(config["x"] in (2, 4) and 0 <= config["y"] <= 1 for config in configs[3:])
    assert len(configs) == 7
    assert read_spec(ExperimentStorage.open(str(tmp_path), "e")).spec["param_space"].keys() == {"x", "y"}


def test_what_the_search_goes_on_with_in_a_wider_space_does_not_depend_on_where_it_dies(
    tmp_path: Path,
) -> None:
    """The samples that are left follow from the seed and their number."""
    wide = {"x": tune.uniform(0, 9)}
    outcomes = []
    for name, counts in (("at once", [6]), ("in steps", [4, 6])):
        place = tmp_path / name
        tuned_in(place, {"x": tune.uniform(0, 1)}, BasicVariantGenerator(random_state=1))
        for count in counts:
            longer = tune.Tuner.restore(place / "e", report_x, param_space=wide, num_samples=count)
            results = LocalRuntime().run(longer.experiment())
        outcomes.append([result.config for result in results])

    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (
            {"x": tune.grid_search([1, 2])},
            {"x": tune.grid_search([1, 2, 3])},
            "a grid is walked in its order",
        ),
        (
            {"x": tune.uniform(0, 1)},
            {"x": tune.choice([1, 2])},
            "it was a number, and cannot become a choice",
        ),
    ],
)
def test_a_resume_refuses_a_space_that_cannot_follow(
    before: dict[str, Any], after: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    tuned_in(tmp_path, before, None)

    with pytest.raises(ConfigError, match=fault):
        tune.Tuner.restore(tmp_path / "e", report_x, param_space=after)


def test_a_storage_of_optuna_with_another_choice_is_refused(tmp_path: Path) -> None:
    storage = optuna.storages.InMemoryStorage()
    tuned_in(tmp_path, {"x": tune.choice([1, 2, 3])}, OptunaSearch(storage=storage, seed=1))
    config = tune.TuneConfig("min", "loss", OptunaSearch(storage=storage, seed=1), num_samples=5)

    longer = tune.Tuner.restore(
        tmp_path / "e", report_x, param_space={"x": tune.choice([1])}, tune_config=config
    )
    with pytest.raises(ConfigError, match="give another study_name, or no storage"):
        LocalRuntime().run(longer.experiment())
