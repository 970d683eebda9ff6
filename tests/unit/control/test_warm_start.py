"""What a new experiment takes from earlier ones, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.cli.experiment import read_experiment
from tune_core.config.warm_start import WarmStart
from tune_core.control.messages import TrialSuggested, WarmStarted, event_to_dict
from tune_core.control.segments import encode_segment, read_journal
from tune_core.encoding import dumps
from tune_core.errors import ConfigError
from tune_core.results.result_grid import ResultGrid
from tune_core.search import BasicVariantGenerator, Searcher
from tune_core.search.optuna import OptunaSearch
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime

SPACE = {"x": tune.uniform(0, 1), "act": tune.choice(["relu", "tanh"])}


def train(config: dict[str, Any]) -> None:
    """Is best where x is 0.3; fails where x is above 0.95."""
    if config["x"] > 0.95:
        raise ValueError("too large")
    loss = (config["x"] - 0.3) ** 2 + (config.get("act") == "tanh")
    tune.report({"loss": loss, "eval": {"loss": loss}, "words": "none"})


def tuner(
    place: Path, name: str, space: dict[str, Any] | None = None, trainable: Any = train, **tune_config: Any
) -> tune.Tuner:
    given = {"metric": "loss", "mode": "min", "num_samples": 3, **tune_config}
    return tune.Tuner(
        trainable,
        param_space=SPACE if space is None else space,
        tune_config=tune.TuneConfig(**given),
        run_config=tune.RunConfig(name=name, storage_path=str(place), verbose=0),
    )


def tuned(place: Path, name: str, *args: Any, **more: Any) -> ResultGrid:
    return LocalRuntime().run(tuner(place, name, *args, **more).experiment())


def event_of(place: Path, name: str) -> WarmStarted:
    storage = ExperimentStorage.open(str(place), name)
    (event,) = [event for event, _ in read_journal(storage) if isinstance(event, WarmStarted)]
    return event


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty random trials, "first", and six of another seed, "second"."""
    path = tmp_path_factory.mktemp("runs")
    for name, seed, count in (("first", 1, 20), ("second", 2, 6)):
        tuned(path, name, search_alg=BasicVariantGenerator(random_state=seed), num_samples=count)
    return path


def test_a_searcher_knows_the_earlier_trials_before_it_suggests(place: Path) -> None:
    search = OptunaSearch(seed=1)
    results = tuned(place, "knows", search_alg=search, num_samples=2, warm_start=["first", "second"])

    event = event_of(place, "knows")
    assert event.summary.startswith("warm start from 2 experiments: 2")
    assert len(event.points) == len(search.study.trials) - 2 > 20
    assert event.points[0]["trial"].startswith("first ")
    assert len(results) == 2
    earlier = search.study.trials[0]
    assert earlier.params == event.points[0]["config"]
    assert earlier.values == event.points[0]["values"]


def test_its_first_suggestion_is_informed(place: Path) -> None:
    """In twenty trials nearly all with tanh are bad: what is suggested has relu."""

    def first_ones(**more: Any) -> list[dict[str, Any]]:
        return [
            tuned(place, f"seed-{seed}", search_alg=OptunaSearch(seed=seed), num_samples=1, **more)[0].config
            for seed in range(8)
        ]

    cold, warm = first_ones(), first_ones(warm_start="first")

    assert {config["act"] for config in cold} == {"relu", "tanh"}
    distance = [abs(config["x"] - 0.3) for config in warm]
    assert sum(config["act"] == "relu" for config in warm) >= 7
    assert sum(distance) < sum(abs(config["x"] - 0.3) for config in cold)


def test_the_best_points_are_run_first_and_count_as_samples(place: Path) -> None:
    results = tuned(place, "random", num_samples=4, warm_start=WarmStart("first", max_points=2))
    optuna = tuned(
        place, "optuna", num_samples=4, search_alg=OptunaSearch(seed=1), warm_start=WarmStart("first", 2)
    )

    first = event_of(place, "random").first
    assert [result.config for result in results][:2] == list(first)
    assert len(results) == len(optuna) == 4
    assert [result.config for result in optuna][:2] == list(first)
    assert results[0].metrics["loss"] <= results[1].metrics["loss"]
    assert event_of(place, "random").points == ()
    assert "the best 2 are run first" in event_of(place, "optuna").summary


def test_a_pattern_means_every_experiment_but_the_new_one(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "first", tmp_path / "runs-a")
    shutil.copytree(place / "second", tmp_path / "runs-b")
    (tmp_path / "runs-c").mkdir()
    tuned(tmp_path, "runs-new", search_alg=OptunaSearch(seed=1), warm_start="runs-*")
    tuned(tmp_path, "other", search_alg=OptunaSearch(seed=1), warm_start=f"{tmp_path}/runs-?")

    assert event_of(tmp_path, "runs-new").summary.startswith("warm start from 2 experiments")
    assert event_of(tmp_path, "other").summary.startswith("warm start from 2 experiments")


def test_what_is_not_in_the_space_is_left_out_and_said(place: Path) -> None:
    space = {"x": tune.uniform(0, 0.5), "act": tune.choice(["relu", "tanh"]), "epochs": 3}
    tuned(place, "narrow", space, search_alg=OptunaSearch(seed=1), warm_start="first")

    event = event_of(place, "narrow")
    assert all(point["config"]["x"] <= 0.5 for point in event.points)
    assert "left out: x outside the space" in event.summary
    reading = read_experiment(ExperimentStorage.open(str(place), "narrow"))
    assert reading.summary()["warm_start"] == event.summary


def test_fixed_values_that_differ_are_said(place: Path, tmp_path: Path) -> None:
    tuned(tmp_path, "short", {**SPACE, "epochs": 5})
    tuned(tmp_path, "long", {**SPACE, "epochs": 20}, search_alg=OptunaSearch(seed=1), warm_start="short")

    assert event_of(tmp_path, "long").summary.endswith("; fixed values differ: epochs=5, here 20")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"lr": tune.uniform(0, 1)}, "lr is missing"),
        ({"x": tune.uniform(0, 1)}, "act is not in the space"),
        ({**SPACE, "x": tune.uniform(2, 3)}, "x outside the space"),
        ({**SPACE, "x": tune.choice(["a"])}, "x outside the space"),
        ({**SPACE, "x": tune.randint(0, 5)}, "x outside the space"),
    ],
)
def test_another_space_is_refused_with_what_differs(place: Path, space: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"nothing of .*first can be used: .*{said}"):
        tuned(place, "refused", space, search_alg=OptunaSearch(seed=1), warm_start="first")


def test_another_mode_is_refused_and_another_metric_that_nobody_reported(place: Path) -> None:
    with pytest.raises(ConfigError, match="what was good there is bad here"):
        tuned(place, "refused", search_alg=OptunaSearch(), warm_start="first", mode="max")
    search = {"search_alg": OptunaSearch(), "warm_start": "first"}
    with pytest.raises(ConfigError, match=r"no finite accuracy \(but .*loss, eval/loss"):
        tuned(place, "refused", **search, metric="accuracy", mode="max")


def test_a_metric_may_have_had_another_name(place: Path) -> None:
    tuned(
        place,
        "renamed",
        search_alg=OptunaSearch(seed=1),
        metric="error",
        trainable=lambda config: {"error": config["x"]},
        warm_start=WarmStart("first", metric="eval/loss"),
    )

    assert len(event_of(place, "renamed").points) > 10


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("furst", "holds no experiment; did you mean 'first'?"),
        ("furst-*", "no experiment matches"),
        ("*/first", "only the last part"),
        ("firs*@1", "no @1"),
        ("deployment:experiment/nightly", "nobody here knows the runs of a deployment"),
    ],
)
def test_a_source_that_is_none_is_refused(place: Path, source: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tuned(place, "refused", search_alg=OptunaSearch(seed=1), warm_start=source)

    assert said in str(refused.value)
    records = read_journal(ExperimentStorage.open(str(place), "refused"))
    assert not [event for event, _ in records if isinstance(event, TrialSuggested)]


def test_an_experiment_that_runs_is_refused_unless_that_is_allowed(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "first", tmp_path / "open")
    storage = ExperimentStorage.open(str(tmp_path), "open")
    records = list(read_journal(storage))
    shutil.rmtree(tmp_path / "open" / "journal")
    lines = b"".join(dumps(event_to_dict(event)) + b"\n" for event, _ in records[: len(records) // 2])
    segment = encode_segment(records[0][0].spec["experiment_id"], {"host": "elsewhere"}, lines, is_last=False)
    storage.write("journal/00000001.jsonl", segment)

    with pytest.raises(ConfigError, match="runs, or its driver has died"):
        tuned(tmp_path, "new", search_alg=OptunaSearch(seed=1), warm_start="open")
    allowed = WarmStart("open", allow_running=True)
    tuned(tmp_path, "new", search_alg=OptunaSearch(seed=1), warm_start=allowed)
    assert 0 < len(event_of(tmp_path, "new").points) < 15


def test_a_resume_needs_no_earlier_experiment(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "first", tmp_path / "first")
    warm = {"search_alg": OptunaSearch(seed=1), "warm_start": WarmStart("first", max_points=1)}
    before = tuned(tmp_path, "new", **warm, num_samples=2)
    shutil.rmtree(tmp_path / "first")

    search = OptunaSearch(seed=1, metric="loss", mode="min")
    config = tune.TuneConfig(search_alg=search, num_samples=5, warm_start=warm["warm_start"])
    longer = tune.Tuner.restore(tmp_path / "new", train, tune_config=config)
    again = LocalRuntime().run(longer.experiment())

    assert [result.config for result in again][:2] == [result.config for result in before]
    event = event_of(tmp_path, "new")
    assert [trial.params for trial in search.study.trials[:-5]] == [each["config"] for each in event.points]
    assert len(search.study.trials) == len(event.points) + 5


def test_a_searcher_of_ones_own_is_told_if_it_says_that_it_learns(place: Path) -> None:
    told = []

    class Learns(Searcher):
        learns_from_earlier = True

        def on_earlier_trial(self, config: dict[str, Any], values: list[float]) -> None:
            if config["act"] == "tanh":
                raise ConfigError("no tanh, please")
            told.append((config, values))

        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {"x": 0.5}

    fixed = {"search_alg": Learns(), "warm_start": "first", "num_samples": 1}
    tuned(place, "own", {}, **fixed, trainable=lambda config: {"loss": config["x"]})

    assert told
    assert len(told) == len(event_of(place, "own").points)
    assert "left out: no tanh, please" in event_of(place, "own").summary


def test_one_that_takes_no_points_refuses_to_run_them_first(place: Path) -> None:
    class Plain(Searcher):
        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {"x": 0.5}

    with pytest.raises(ConfigError, match="Plain does not take points to run first"):
        tuned(place, "plain", {}, search_alg=Plain(), warm_start=WarmStart("first", max_points=1))
