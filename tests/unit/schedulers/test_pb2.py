"""Population based bandits: what the model learns, and what it proposes."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.schedulers import PB2, Exploit, create_scheduler
from tune_core.schedulers.pb2_model import Observation, TimeVaryingKernel, propose
from tune_core.search.optuna import OptunaSearch
from tune_core.states import ExploitChoice
from tune_core.testing.simulator import simulate
from tune_core.trial import Attempt, CheckpointRecord, Status, Trial


def a_pb2(**options: Any) -> PB2:
    given = {"hyperparam_bounds": {"lr": [0.0, 1.0]}, "seed": 1, "quantile_fraction": 0.5, **options}
    return PB2("training_iteration", "score", "max", 1, **given)


def population(number: int) -> list[Trial]:
    return [
        Trial(
            f"t{each}",
            each,
            {"lr": each / 10},
            status=Status.RUNNING,
            attempt=Attempt(),
            checkpoints=[CheckpointRecord(0, 1)],
        )
        for each in range(number)
    ]


def report(pb2: PB2, trials: list[Trial], number: int, time: float, score: float) -> Any:
    return pb2.on_trial_result(trials, trials[number], {"training_iteration": time, "score": score})


def seen(*points: tuple[float, float], time: float = 0.0) -> list[Observation]:
    """Observations of one hyperparameter: its values, and what they gained."""
    return [Observation(time, 0.0, (value,), gain) for value, gain in points]


def proposed(observations: list[Observation], *pending: float, time: float = 0.0) -> float:
    (value,) = propose(
        observations, [(each,) for each in pending], (time, 0.0), [(0.0, 1.0)], interval=1.0, seed=[3]
    )
    return value


# The kernel, by hand.


def test_kernel_falls_with_distance_and_with_age() -> None:
    kernel = TimeVaryingKernel(variance=2.0, lengthscale=0.5, epsilon=0.36)
    points = np.array([[0.0, 0.0], [0.0, 0.5], [2.0, 0.0], [4.0, 0.5]])

    values = kernel(points)

    assert values[0] == pytest.approx(
        [2.0, 2 * math.exp(-0.5), 2 * 0.64, 2 * 0.64**2 * math.exp(-0.5)]
    )  # exp(-0.25 / (2 * 0.25)), and (1 - 0.36)^(age / 2)
    assert values == pytest.approx(values.T)
    assert kernel.diag(points) == pytest.approx(np.diag(values))
    assert kernel.is_stationary()


def test_gradient_is_that_of_the_kernel() -> None:
    kernel = TimeVaryingKernel(1.5, 0.4, 0.2)
    points = np.random.default_rng(1).random((4, 3)) * [5, 1, 1]

    _, gradient = kernel(points, eval_gradient=True)

    for index in range(3):
        step = np.zeros(3)
        step[index] = 1e-6
        above, below = (kernel.clone_with_theta(kernel.theta + sign * step)(points) for sign in (1, -1))
        assert gradient[:, :, index] == pytest.approx((above - below) / 2e-6, abs=1e-6)


# The acquisition, by hand: with equal gains its mean is 0 everywhere, and the deviation alone counts.


def test_point_is_where_least_is_known() -> None:
    assert proposed(seen((0.0, 1.0))) == pytest.approx(1.0)
    assert proposed(seen((1.0, 1.0))) == pytest.approx(0.0)
    assert proposed(seen((0.0, 1.0), (1.0, 1.0))) == pytest.approx(0.5, abs=0.01)


def test_what_others_have_begun_counts_as_known() -> None:
    assert proposed(seen((0.0, 1.0)), 1.0) == pytest.approx(0.5, abs=0.01)


def test_point_is_where_gains_were_high_once_much_is_known() -> None:
    points = [(value / 20, -((value / 20 - 0.7) ** 2)) for value in range(21)]

    assert proposed(seen(*points)) == pytest.approx(0.7, abs=0.08)


def test_what_is_old_counts_less_than_what_is_new() -> None:
    old = seen(*((value / 20, -((value / 20 - 0.1) ** 2)) for value in range(21)), time=0.0)
    new = seen(*((value / 20, -((value / 20 - 0.9) ** 2)) for value in range(21)), time=40.0)

    assert proposed([*old, *new], time=40.0) == pytest.approx(0.9, abs=0.1)


def test_without_observations_points_are_drawn_between_the_bounds() -> None:
    drawn = {propose([], [], (0.0, 0.0), [(2.0, 3.0)], interval=1.0, seed=[seed])[0] for seed in range(40)}

    assert len(drawn) == 40
    assert min(drawn) < 2.2 < 2.8 < max(drawn)
    assert all(2 <= value <= 3 for value in drawn)


def test_bounds_that_are_one_value_are_kept_to() -> None:
    fixed = propose(
        [Observation(0, 0, (0.5, 1.0), 1.0)], [], (0, 0), [(0.5, 0.5), (0.0, 2.0)], interval=1.0, seed=[1]
    )

    assert fixed == [0.5, pytest.approx(0.0) if fixed[1] < 1 else pytest.approx(2.0)]


def test_equal_questions_have_equal_answers() -> None:
    points = seen(*((value / 7, math.sin(value)) for value in range(8)))

    assert proposed(points) == proposed(points)


# What it learns from trials.


def test_gain_is_counted_for_each_unit_of_time_from_where_the_interval_began() -> None:
    trials, pb2 = population(2), a_pb2(quantile_fraction=0)
    report(pb2, trials, 0, 1, 10)
    report(pb2, trials, 0, 3, 16)
    report(pb2, trials, 1, 1, math.nan)
    report(pb2, trials, 1, 2, 5)
    report(pb2, trials, 1, 3, math.inf)
    report(pb2, trials, 1, 4, 9)

    assert pb2._observations == [Observation(1, 10, (0.0,), 3.0), Observation(2, 5, (0.1,), 2.0)]


def test_who_has_taken_over_begins_where_its_donor_was() -> None:
    trials, pb2 = population(2), a_pb2()
    report(pb2, trials, 1, 1, 10)
    answer = report(pb2, trials, 0, 1, 2)
    assert isinstance(answer, Exploit)
    assert callable(answer.config)
    trials[0].config = answer.config()

    report(pb2, trials, 0, 3, 14)

    assert pb2._observations == [Observation(1, 10, (trials[0].config["lr"],), 2.0)]


def test_several_that_take_over_at_once_try_different_things() -> None:
    trials, pb2 = population(6), a_pb2()
    for time in (1, 2):
        for each in range(6):
            report(pb2, trials, each, time, time)
    for each in range(3, 6):
        report(pb2, trials, each, 3, 3)
    tried = [report(pb2, trials, each, 3, 3).config()["lr"] for each in (0, 1, 2)]

    assert abs(tried[0] - tried[1]) > 0.05
    assert abs(tried[1] - tried[2]) > 0.05


def test_model_is_not_asked_in_a_replay_and_learns_the_same() -> None:
    told = [(1, 1, 5.0), (0, 1, 1.0), (1, 2, 7.0), (0, 2, 6.0), (2, 2, 1.0)]
    lively, replayed = a_pb2(), a_pb2()
    trials = population(3)
    for number, time, score in told:
        answer = report(lively, trials, number, time, score)
        report(replayed, trials, number, time, score)
        if isinstance(answer, Exploit):
            assert callable(answer.config)
            trials[number].live.exploit = ExploitChoice("t1", 0, answer.config(), "")
            if time == 1:
                trials[number].config, trials[number].live.exploit = trials[number].live.exploit.config, None

    assert replayed._observations == lively._observations
    last = (report(each, trials, 0, 3, 0.0).config() for each in (lively, replayed))
    assert next(last) == next(last)


def test_integers_stay_integers_and_nested_parameters_are_found() -> None:
    pb2 = a_pb2(hyperparam_bounds={"net": {"width": [8, 64]}, "lr": [0.1, 0.2]})
    trials = population(2)
    for trial in trials:
        trial.config = {"net": {"width": 16, "act": "relu"}, "lr": 0.1}
    report(pb2, trials, 1, 1, 5)

    changed = report(pb2, trials, 0, 1, 1).config()

    assert isinstance(changed["net"]["width"], int)
    assert 8 <= changed["net"]["width"] <= 64
    assert changed["net"]["act"] == "relu"
    assert 0.1 <= changed["lr"] <= 0.2
    assert trials[1].config["net"]["width"] == 16, "the donor's own was changed"


def test_parameters_that_the_space_leaves_out_are_drawn_between_the_bounds() -> None:
    filled = [a_pb2(hyperparam_bounds={"a": {"b": [2, 3]}}).fill_in(number, {"x": 1}) for number in range(9)]

    assert all(2 <= each["a"]["b"] <= 3 for each in filled)
    assert len({each["a"]["b"] for each in filled}) == 9


def test_custom_function_has_the_last_word() -> None:
    pb2, trials = a_pb2(custom_explore_fn=lambda config: {**config, "lr": 0.25}), population(2)
    report(pb2, trials, 1, 1, 5)

    assert report(pb2, trials, 0, 1, 1).config() == {"lr": 0.25}


# Whole experiments.


@pytest.mark.parametrize("synch", [False, True])
def test_population_follows_an_optimum_that_moves(synch: bool) -> None:
    """The learning rate that gains most falls from 0.9 to 0.1: no fixed one does well in the end."""

    def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
        best = 0.9 - 0.04 * iteration
        return {"gain": 1 - 4 * (config["lr"] - best) ** 2}, 1.0

    def run(scheduler: PB2 | None) -> float:
        def score(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
            metrics, spent = curve(config, iteration)
            return {"score": iteration / 2 + metrics["gain"]}, spent

        result = simulate(
            score,
            param_space={"lr": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                num_samples=4,
                **({} if scheduler else {"metric": "score", "mode": "max"}),
            ),
            iterations=20,
        )
        rows = [row for row in result.rows if row["training_iteration"] >= 15]
        return sum(row["score"] for row in rows) / len(rows)

    assert run(a_pb2(synch=synch)) > run(None)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"hyperparam_bounds": None}, "expected a dict of parameter names"),
        ({"hyperparam_bounds": {}}, "expected a dict of parameter names"),
        ({"hyperparam_bounds": {"a": [1]}}, r"hyperparam_bounds\['a'\].*expected two finite numbers"),
        ({"hyperparam_bounds": {"a": {"b": [1, "x"]}}}, r"\['a'\]\['b'\]"),
        ({"hyperparam_bounds": {"a": [2, 1]}}, "the wrong way round"),
        ({"hyperparam_bounds": {"a": [0, math.inf]}}, "expected two finite numbers"),
        ({"hyperparam_bounds": {"a/b": [0, 1]}}, "without a slash"),
        ({"quantile_fraction": 2}, "quantile_fraction"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        a_pb2(**options)


def test_searchers_that_choose_are_refused() -> None:
    with pytest.raises(ConfigError, match="PB2 changes hyperparameters by itself"):
        tune.TuneConfig(scheduler=a_pb2(), search_alg=OptunaSearch())


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ImportError, match=r"pip install 'prefect-tune\[pb2\]'"):
        a_pb2()


def test_it_is_made_by_name() -> None:
    assert isinstance(create_scheduler("pb2", hyperparam_bounds={"lr": [0, 1]}), PB2)
