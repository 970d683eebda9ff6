"""Searchers after a resume: their state, and what they are asked again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.resuming import Activation, begin, count, events, fit, rows_of, undisturbed
from tune_core.control.messages import (
    SearchRetried,
)
from tune_core.control.policy import Policy
from tune_core.errors import ConfigError


class Remembering(tune.search.Searcher):
    """Suggests what follows from its state, which only `get_state` knows of."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.next = start

    def suggest(self, trial_id: str) -> Any:
        self.next += 1
        return {"x": self.next}

    def get_state(self) -> dict[str, Any]:
        return {"next": self.next}

    def set_state(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


def test_state_of_a_searcher_is_given_back_and_objects_in_it_are_refused(path: Path) -> None:
    tune_config = tune.TuneConfig(search_alg=Remembering(5), num_samples=1)
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    fit(tune.Tuner(count, tune_config=tune_config, run_config=run_config))

    assert rows_of(tune.Tuner.restore(path, count).get_results()) == undisturbed(6)
    restored = tune.Tuner.restore(
        path, count, tune_config=tune.TuneConfig(search_alg=Remembering(), num_samples=2)
    )
    results = fit(restored)

    assert [result.config for result in results] == [{"x": 6}, {"x": 7}]

    other = tune.TuneConfig(search_alg=Remembering(Activation("relu")))  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"Remembering.get_state\(\) returned .*: expected a dict of what JSON"
    ):
        fit(tune.Tuner(count, tune_config=other, run_config=tune.RunConfig(storage_path=str(path.parent))))


class Points(tune.search.Searcher):
    """Suggests its points one after the other, as searchers written for Ray Tune do; at first it has none yet."""

    def __init__(self, waits: int = 0) -> None:
        super().__init__()
        self.points, self.waits = [1, 2, 3, 4], waits

    def suggest(self, trial_id: str) -> Any:
        if self.waits:
            self.waits -= 1
            return None
        return {"x": self.points.pop(0)} if self.points else self.FINISHED


def test_points_of_a_searcher_that_knows_nothing_of_resumes_are_run_once(path: Path) -> None:
    def stops(config: dict[str, Any]) -> None:
        if config["x"] == 2 and not (path / "stopped").exists():
            (path / "stopped").touch()
            raise KeyboardInterrupt
        tune.report({"x": config["x"]})

    def search(searcher: Points) -> tune.TuneConfig:
        return tune.TuneConfig(search_alg=searcher, num_samples=9)

    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    used = Points()
    fit(tune.Tuner(stops, tune_config=search(used), run_config=run_config))

    results = fit(tune.Tuner.restore(path, stops, tune_config=search(Points())))

    assert [result.config for result in results] == [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 4}]


def test_searcher_that_is_tried_again_in_its_process_is_not_asked_twice(path: Path) -> None:
    searcher = Points()
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    options = {"tune_config": tune.TuneConfig(search_alg=searcher, num_samples=2)}
    fit(tune.Tuner(count, run_config=run_config, **options))  # type: ignore[arg-type]

    again = {"tune_config": tune.TuneConfig(search_alg=searcher, num_samples=3)}
    results = fit(tune.Tuner.restore(path, count, **again))  # type: ignore[arg-type]

    assert [result.config["x"] for result in results] == [1, 2, 3]


def test_searcher_that_suggests_otherwise_after_a_resume_is_named(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    fit(
        tune.Tuner(
            count, run_config=run_config, tune_config=tune.TuneConfig(search_alg=Points(), num_samples=2)
        )
    )
    other = Points()
    other.points = [8, 9, 5]

    results = fit(
        tune.Tuner.restore(path, count, tune_config=tune.TuneConfig(search_alg=other, num_samples=3))
    )

    assert caplog.text.count("Points, asked again for trial") == 1
    assert [result.config["x"] for result in results] == [1, 2, 5]


def test_searcher_of_another_class_begins_with_its_first_suggestion(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(path)
    other = tune.TuneConfig(search_alg=Points(), num_samples=3)

    results = fit(tune.Tuner.restore(path, count, param_space={}, tune_config=other))

    assert [result.config["x"] for result in results] == [1, 2, 1]
    assert "asked again" not in caplog.text


def test_searcher_that_has_nothing_at_first_is_asked_again(path: Path) -> None:
    tune_config = tune.TuneConfig(search_alg=Points(waits=3), num_samples=2)
    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))

    results = fit(tune.Tuner(count, tune_config=tune_config, run_config=run_config))

    assert [result.config["x"] for result in results] == [1, 2]
    assert len(events(path, SearchRetried)) == 3


def test_state_of_another_kind_of_searcher_is_left_alone(path: Path) -> None:
    begin(path)
    other = tune.TuneConfig(search_alg=Remembering(7), num_samples=3)

    results = fit(tune.Tuner.restore(path, count, param_space={}, tune_config=other))

    assert [result.config["x"] for result in results] == [1, 2, 8]  # type: ignore[index]


def test_own_state_of_a_searcher_in_a_limiter_is_found() -> None:
    limited = tune.TuneConfig(search_alg=tune.search.ConcurrencyLimiter(Remembering(), max_concurrent=1))

    assert Policy(limited, None, {}, count, "count").has_own_state
    assert not Policy(tune.TuneConfig(), None, {}, count, "count").has_own_state
