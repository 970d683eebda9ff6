"""The curves of an experiment under another scheduler: the same one repeats itself, and nothing is made up."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.simulated.test_resume import SCENARIOS, read_back
from tune_core.errors import ConfigError
from tune_core.schedulers import AsyncHyperBandScheduler, Exploit, FIFOScheduler, TrialScheduler
from tune_core.simulation.whatif import replay_records
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.testing.schedulers import PausingScheduler
from tune_core.testing.simulator import SimulatedRun, simulate

#: Deaths in these change who goes first where several could: the result says so.
INEXACT = ("ASHA that promotes, deaths", "PBT, together, deaths")
#: What nobody steered, and no stopper of the whole experiment ended.
REPEATABLE = [
    name for name, each in SCENARIOS.items() if not each.requests and name not in ("stopper of all", *INEXACT)
]


def asha(**options: Any) -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(**{"max_t": 9, "reduction_factor": 3, "seed": 1, **options})


def tuned(
    scheduler: TrialScheduler | None = None, losses: tuple[float, ...] = (1, 2, 3, 4, 5, 6), **more: Any
) -> SimulatedRun:
    """Trials whose losses fall from those given, a second for each of nine iterations."""
    return simulate(
        lambda config, iteration: ({"loss": config["x"] - iteration * config.get("slope", 0)}, 1.0),
        param_space={"x": tune.grid_search(list(losses)), **more.pop("space", {})},
        tune_config=tune.TuneConfig("min", "loss", scheduler=scheduler),
        **{"slots": 2, "iterations": 9, **more},
    )


@pytest.mark.parametrize("name", REPEATABLE)
def test_the_same_scheduler_repeats_what_was_decided_and_what_it_took(name: str) -> None:
    scenario = SCENARIOS[name]
    result = replay_records(read_back(scenario.drive().records), scenario.scheduler())

    assert result.decisions == result.recorded_decisions
    assert result.cost.reports == result.recorded.reports
    assert result.cost.trial_seconds == pytest.approx(result.recorded.trial_seconds)
    assert result.cost.wall_seconds == pytest.approx(result.recorded.wall_seconds)
    assert [each.fate for each in result.trials] == [each.recorded_fate for each in result.trials]
    assert (result.best, result.score) == (result.recorded_best, result.recorded_score)
    if isinstance(result.metric, list):  # there is no best
        assert result.loses_best is None
    else:
        assert result.loses_best is False


@pytest.mark.parametrize("name", INEXACT)
def test_where_deaths_and_pauses_meet_the_result_says_that_it_may_not_be_exact(name: str) -> None:
    scenario = SCENARIOS[name]
    result = replay_records(read_back(scenario.drive().records), scenario.scheduler())

    assert any("attempts failed" in note for note in result.notes)


def test_without_a_scheduler_the_recorded_one_is_made_again_with_its_seed() -> None:
    run = tuned(AsyncHyperBandScheduler(max_t=9, reduction_factor=2, brackets=3), (3, 1, 4, 1.5, 9, 2, 6, 5))
    result = replay_records(read_back(run.records))

    assert result.scheduler == "AsyncHyperBandScheduler"
    assert result.recorded_decisions
    assert result.decisions == result.recorded_decisions


def test_another_scheduler_decides_as_it_would_have_and_costs_what_that_takes() -> None:
    run = tuned()
    result = replay_records(read_back(run.records), asha())
    real = tuned(asha())

    assert [each.iterations for each in result.trials] == [trial.iteration for trial in real.trials]
    assert result.cost.reports == len(real.rows) < len(run.rows) == result.recorded.reports
    assert result.cost.wall_seconds == real.duration < run.duration == result.recorded.wall_seconds
    assert [each.trial_id for each in result.stopped] == [
        each.trial_id for each in result.trials if each.iterations < 9
    ]
    assert not result.unknown
    assert result.loses_best is False


def test_a_best_trial_that_begins_badly_is_lost() -> None:
    run = tuned(losses=(1, 2, 3, 7), space={"slope": tune.sample_from(lambda config: config["x"] == 7)})
    result = replay_records(read_back(run.records), asha())

    assert result.recorded_best == run.trials[3].trial_id
    assert result.recorded_score == 7 - 9
    assert result.best == run.trials[0].trial_id
    assert result.loses_best is True


def test_where_a_curve_ends_early_the_fate_is_unknown_and_nothing_is_made_up() -> None:
    run = tuned(asha(), (1, 2, 3, 4, 5, 6))
    result = replay_records(read_back(run.records), FIFOScheduler())

    cut = [trial.trial_id for trial in run.trials if trial.iteration < 9]
    assert [each.trial_id for each in result.unknown if each.iterations < 9] == cut
    assert all(each.iterations == each.recorded_iterations for each in result.trials)
    assert result.cost.reports == result.recorded.reports
    assert result.loses_best is False  # the best is as good as it was


def test_whether_the_best_is_lost_is_not_known_while_the_fate_of_others_is_not() -> None:
    class StopsTheFirst(FIFOScheduler):
        def on_trial_result(self, trials: Any, trial: Any, result: dict[str, Any]) -> str:
            return self.STOP if trial.number == 0 and result["training_iteration"] == 1 else self.CONTINUE

    falling = tuned(asha(), (1, 2, 3), space={"slope": 0.1})
    result = replay_records(read_back(falling.records), StopsTheFirst())
    assert result.unknown
    assert result.loses_best is None


def test_failures_are_repeated_where_they_were_and_not_where_a_trial_was_stopped_before() -> None:
    scenario = SCENARIOS["FIFO, retries"]
    records = read_back(scenario.drive().records)
    result = replay_records(records, AsyncHyperBandScheduler(max_t=2, grace_period=2))

    assert [each.recorded_fate for each in result.trials].count("failed") == 2
    # The fourth trial dies before its second report, each time; the second one would at its third.
    assert [each.fate for each in result.trials] == ["stopped", "stopped", "stopped", "failed", "stopped"]


def test_a_trial_that_took_over_another_one_is_known_up_to_there_alone() -> None:
    class Takes(FIFOScheduler):
        def on_trial_result(self, trials: Any, trial: Any, result: dict[str, Any]) -> str | Exploit:
            takes = trial.number == 1 and result["training_iteration"] == 4 and trial.config["x"] == 2
            return Exploit(trials[0], {**trial.config, "x": 1.5}) if takes else self.CONTINUE

    records = read_back(tuned(Takes(), (1, 2)).records)
    same, without = replay_records(records, Takes()), replay_records(records, FIFOScheduler())

    assert same.decisions == same.recorded_decisions != []
    assert [each.fate for each in same.trials] == ["completed", "completed"]
    assert [(each.fate, each.iterations) for each in without.trials] == [("completed", 9), ("unknown", 4)]
    assert without.decisions == []


def test_pauses_cost_nothing_that_was_not_recorded_where_every_report_has_a_checkpoint() -> None:
    records = read_back(tuned(slots=1).records)
    result = replay_records(records, PausingScheduler(3))

    assert len(result.decisions) == 6 * 3
    assert result.cost == result.recorded
    assert {each.fate for each in result.trials} == {"completed"}


def test_more_slots_make_it_shorter() -> None:
    records = read_back(tuned().records)
    result = replay_records(records, FIFOScheduler(), slots=6)

    assert (result.recorded_slots, result.slots) == (2, 6)
    assert (result.recorded.wall_seconds, result.cost.wall_seconds) == (27.0, 9.0)
    assert result.cost.trial_seconds == result.recorded.trial_seconds


def test_a_journal_that_is_cut_anywhere_is_replayed_as_far_as_it_goes() -> None:
    records = read_back(SCENARIOS["ASHA"].drive().records)
    for length in range(1, len(records)):
        result = replay_records(records[:length], SCENARIOS["ASHA"].scheduler())
        assert result.cost.reports <= result.recorded.reports
        assert all(each.iterations <= each.recorded_iterations for each in result.trials)
        assert any("has not ended" in note for note in result.notes)


def test_what_a_searcher_would_have_learnt_is_said_not_to_be() -> None:
    result = replay_records(read_back(SCENARIOS["Optuna"].drive().records), FIFOScheduler())

    assert any("OptunaSearch is not asked again" in note for note in result.notes)


def test_a_scheduler_that_compares_needs_a_metric() -> None:
    run = simulate(lambda config, iteration: ({"loss": 1.0}, 1.0), param_space={"x": 1}, iterations=2)

    with pytest.raises(ConfigError, match="compares trials by a metric"):
        replay_records(run.records, asha())
    result = replay_records(run.records, asha(), metric="loss", mode="min")
    assert result.metric == "loss"
    assert result.recorded_score == 1.0


def test_a_trial_that_was_reopened_is_one_curve(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(1, 9):
            tune.report({"loss": config["x"] / step})

    tuner = tune.Tuner(
        train,
        param_space={"x": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig("min", "loss"),
        run_config=tune.RunConfig(
            name="e", storage_path=str(tmp_path), stop={"training_iteration": 3}, verbose=0
        ),
    )
    moments = itertools.count(1000.0)
    LocalRuntime(wall_clock=lambda: next(moments)).run(tuner.experiment())
    first = next(moments) - 1000.0
    later = itertools.count(90000.0)
    longer = tune.Tuner.restore(tmp_path / "e", train, stop={"training_iteration": 6})
    LocalRuntime(wall_clock=lambda: next(later)).run(longer.experiment())

    result = tune.replay(tmp_path / "e")

    assert [(each.iterations, each.fate) for each in result.trials] == [(6, "completed"), (6, "completed")]
    assert [each.recorded_iterations for each in result.trials] == [6, 6]
    assert result.cost.reports == 12
    assert 0 < result.recorded.wall_seconds < first + next(later) - 90000.0  # not the time between them
    assert any("went on with it: 1" in note for note in result.notes)
