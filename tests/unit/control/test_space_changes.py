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


def searched(space: dict[str, Any], configs: list[dict[str, Any]], **options: Any) -> OptunaSearch:
    """A search whose trials are t0 complete, t1 stopped early, and the others still run."""
    search = OptunaSearch(metric="loss", mode="min", seed=1, points_to_evaluate=None, **options)
    search.set_search_properties(None, None, space, num_samples=50)
    for number, config in enumerate(configs):
        search.on_configuration_added(f"t{number}", config)
        search.on_trial_result(f"t{number}", {"loss": number + 0.5, "training_iteration": 1})
    search.on_trial_complete("t0", {"loss": 0.25, "training_iteration": 2})
    search.on_trial_stopped_early("t1", {"loss": 1.5, "training_iteration": 1})
    return search


def test_conditional_parameters_and_pruned_trials_go_into_the_study_of_the_changed_space() -> None:
    sgd = {"kind": "sgd", "momentum": tune.uniform(0, 1)}
    before = {"opt": tune.choice([sgd, {"kind": "adam"}]), "lr": tune.uniform(0, 1)}
    after = {
        "opt": tune.choice([{"kind": "lamb"}, {"kind": "adam"}, {**sgd, "momentum": tune.uniform(0, 0.5)}]),
        "lr": tune.uniform(0, 2),
    }
    configs = [
        {"opt": {"kind": "sgd", "momentum": 0.25}, "lr": 0.5},
        {"opt": {"kind": "adam"}, "lr": 0.25},
        {"opt": {"kind": "sgd", "momentum": 0.75}, "lr": 0.5},
        {"opt": {"kind": "adam"}, "lr": 0.75},
    ]
    search = searched(before, configs)

    assert search.on_space_changed(after)

    states = optuna.trial.TrialState
    assert [(trial.state, trial.params) for trial in search.study.trials] == [
        (states.COMPLETE, {"opt": 2, "opt.2/momentum": 0.25, "lr": 0.5}),
        (states.PRUNED, {"opt": 1, "lr": 0.25}),
        (states.RUNNING, {"opt": 1, "lr": 0.75}),
    ]
    assert search._rungs is not None
    assert search._rungs.is_on
    search.on_trial_complete("t2", {"loss": 0.0, "training_iteration": 2})  # of no trial of this space
    search.on_trial_complete("t3", {"loss": 0.0, "training_iteration": 2})
    assert search.study.trials[2].value == 0.0
    for number in range(4, 12):
        answer: Any = search.suggest(f"t{number}")
        assert 0 <= answer.config["opt"].get("momentum", 0) <= 0.5


def test_choice_among_other_dicts_of_the_same_number_is_another_space() -> None:
    before = {"net": tune.choice([{"width": 1}, {"width": 2}])}
    after = {"net": tune.choice([{"width": 2}, {"width": 3}])}
    search = searched(before, [{"net": {"width": 1}}, {"net": {"width": 2}}])

    assert search.on_space_changed(after)

    assert [trial.params for trial in search.study.trials] == [{"net": 0}]
    answer: Any = search.suggest("t2")
    assert answer.config == {"net": {"width": 3}}  # what is left
    assert search.suggest("t3") == Searcher.FINISHED


def test_points_that_are_none_of_the_new_space_refuse_it_and_leave_the_search_as_it_is() -> None:
    search = OptunaSearch(metric="loss", mode="min", seed=1, points_to_evaluate=[{"x": "a"}])
    search.set_search_properties(None, None, {"x": tune.choice(["a", "b"])}, num_samples=9)
    study = search.study

    with pytest.raises(ConfigError, match="points_to_evaluate"):
        search.on_space_changed({"x": tune.choice([{"b": 1}, {"c": 1}])})

    assert search.study is study
    assert search.suggest("t0").config == {"x": "a"}  # type: ignore[union-attr]


def test_points_evaluated_elsewhere_that_no_longer_fit_are_left_out_after_a_resume(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = OptunaSearch(metric="loss", mode="min", seed=1)
    first.set_search_properties(None, None, {"x": tune.choice(["a", "b", "c"])}, num_samples=9)
    first.add_evaluated_point({"x": "a"}, 1.0)
    first.add_evaluated_point({"x": "b"}, 2.0)
    state = first.get_state()
    space = {"x": tune.choice(["b", "c"])}
    assert first.on_space_changed(space)

    second = OptunaSearch(metric="loss", mode="min", seed=1)
    second.set_search_properties(None, None, space, num_samples=9)
    second.set_state(state)

    assert [trial.params for trial in first.study.trials] == [{"x": "b"}]
    assert [trial.params for trial in second.study.trials] == [{"x": "b"}]
    assert "1 evaluated points are not of the changed search space" in caplog.text


def test_earlier_trials_that_are_equal_count_each_and_are_not_suggested_again() -> None:
    search = OptunaSearch(metric="loss", mode="min", seed=1)
    search.set_search_properties(None, None, {"x": tune.choice([1, 2]), "y": tune.choice([1])}, num_samples=9)
    for x, loss in ((1, 0.5), (2, 0.25), (1, 0.75)):
        search.on_earlier_trial({"x": x, "y": 1}, [loss])

    assert search._rungs is not None
    assert sorted(value for _, value in search._rungs._endings.values() if value is not None) == [
        0.25,
        0.5,
        0.75,
    ]
    assert "evaluated" not in search.get_state()  # the journal has them
    assert search.suggest("t0") == Searcher.FINISHED


def test_random_search_without_repeats_knows_what_was_before_the_change_also_after_a_resume() -> None:
    before, after = {"x": tune.choice([1, 2, 3])}, {"x": tune.choice([1, 2, 3, 4])}
    live = BasicVariantGenerator(random_state=1, dedupe=True)
    live.set_search_properties(None, None, before, num_samples=9)
    known = [live.suggest(f"t{number}").config for number in range(2)]  # type: ignore[union-attr]
    assert live.on_space_changed(after)

    resumed = BasicVariantGenerator(random_state=1, dedupe=True)
    resumed.set_search_properties(None, None, after, num_samples=9)
    for number, config in enumerate(known):
        resumed.on_suggestion_replayed(f"t{number}", config)
    assert resumed.on_space_changed(after)

    for search in (live, resumed):
        left = [search.suggest(f"t{number}") for number in (2, 3, 4)]
        assert left[2] == Searcher.FINISHED
        assert {each.config["x"] for each in left[:2]} | {each["x"] for each in known} == {1, 2, 3, 4}  # type: ignore[union-attr]
