"""An experiment whose driver dies after any event, and is resumed, comes to what it would have come to.

The driver is killed by cutting its journal: what it knew beyond is gone. Trials are deterministic, and
where the order of reports matters to a scheduler or a searcher, they run one at a time.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tune_core as tune
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    Event,
    PausedChosen,
    StateSaved,
    Steered,
    TrialReported,
    describe,
    event_from_dict,
    event_to_dict,
)
from tune_core.encoding import dumps, loads
from tune_core.errors import IllegalTransition
from tune_core.schedulers import (
    PB2,
    AsyncHyperBandScheduler,
    Exploit,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    MultiObjectiveASHAScheduler,
    OptunaPruner,
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
    ResourceChangingScheduler,
    TrialScheduler,
)
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter, Repeater, Searcher
from tune_core.search.bohb import TuneBOHB
from tune_core.search.optuna import OptunaSearch
from tune_core.states import Decision
from tune_core.steering.inbox import (
    AddConfiguration,
    ChangeSpace,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
)
from tune_core.stopper import ExperimentPlateauStopper, MaximumIterationStopper
from tune_core.testing.replay import replay
from tune_core.testing.schedulers import ExploitingScheduler, PausingScheduler, RandomScheduler
from tune_core.testing.simulator import Requests, SimulatedRun, simulate
from tune_core.trial import Status

Records = Sequence[tuple[Event, Sequence[str]]]


class PopulationByTurns(PausingScheduler):
    """Trains a few steps of each in turn; who is worst at its turn's end goes on from the best."""

    def __init__(self, metric: str = "loss") -> None:
        super().__init__(every=3)
        self.metric, self.mode = metric, "min"
        self.scores: dict[str, float] = {}

    def on_trial_result(self, trials: Any, trial: Any, result: dict[str, Any]) -> str | Exploit:
        self.scores[trial.trial_id] = result["loss"]
        answer = super().on_trial_result(trials, trial, result)
        ranked = sorted(trials, key=lambda each: (self.scores.get(each.trial_id, 1e9), each.number))
        if answer == self.CONTINUE or len(trials) < 3 or trial is not ranked[-1]:
            return answer
        return Exploit(ranked[0], {**ranked[0].config, "x": ranked[0].config["x"] * 0.9})


class InTurn(PausingScheduler):
    """Lets the paused trials go on one after the other, and remembers whose turn it was."""

    turn = -1

    def choose_trial_to_run(self, trials: Any) -> Any:
        self.turn += 1
        paused = [trial for trial in trials if trial.status is Status.PAUSED]
        return paused[self.turn * 7 % len(paused)]


class Attentive(Searcher):
    """Suggests what follows from everything that it was ever told, and from nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        super().set_search_properties(*args, **spec)
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        x = random.Random(repr(self.told)).random()
        self.on_suggestion_replayed(trial_id, {"x": x})
        return {"x": x}

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        self.told.append((trial_id, config))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append((trial_id, result["loss"]))

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.told.append((trial_id, result and result["loss"], error))


def a_population(**options: Any) -> Callable[[], PopulationBasedTraining]:
    """A population that exploits as often as it can, with a parameter that the search space leaves out."""
    mutations = {"x": tune.uniform(0, 1), "width": [1, 2, 4]}
    given = {"quantile_fraction": 0.4, "hyperparam_mutations": mutations, "seed": 1, **options}
    return lambda: PopulationBasedTraining("training_iteration", perturbation_interval=2, **given)


def a_replay() -> PopulationBasedTrainingReplay:
    """One of three changes, two of them at the same time."""
    changes = [("1", "0", 2, 0.9, 0.8), ("3", "1", 5, 0.8, 0.6), ("2", "3", 5, 0.6, 0.4)]
    lines = [
        json.dumps([old, new, 9, step, {"x": before}, {"x": after}])
        for old, new, step, before, after in changes
    ]
    fsspec.filesystem("memory").pipe("/policies/pbt_policy_0.txt", "\n".join(lines).encode())
    return PopulationBasedTrainingReplay("memory://policies/pbt_policy_0.txt")


@dataclass
class Scenario:
    """An experiment, made again for each of its drivers."""

    scheduler: Callable[[], TrialScheduler | None] = lambda: None
    searcher: Callable[[], Searcher] = lambda: BasicVariantGenerator(random_state=1)
    stop: Callable[[], Any] = lambda: None
    num_samples: int = 5
    slots: int = 1
    iterations: int = 7
    checkpoint_every: int = 1
    run: dict[str, Any] = field(default_factory=dict)
    #: Trial number to the iteration in which its process dies, each time.
    dies_at: dict[int, int] = field(default_factory=dict)
    #: Whether it dies in the first attempt only.
    dies_once: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    requests: Requests = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=lambda: {"x": tune.uniform(0, 1)})

    def drive(self, journal: Records = ()) -> SimulatedRun:
        """Run a driver until the experiment has ended."""

        def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
            chance = random.Random(f"{config['x']} {iteration}")
            return {"loss": config["x"] + 1 / iteration + chance.random() / 9}, 1.0 + chance.random()

        scheduler = self.scheduler()
        return simulate(
            curve,
            param_space=self.space,
            tune_config=tune.TuneConfig(
                **objective_beside(scheduler),
                search_alg=self.searcher(),
                scheduler=scheduler,
                num_samples=self.num_samples,
            ),
            run_config=tune.RunConfig(stop=self.stop(), **self.run),
            slots=self.slots,
            iterations=self.iterations,
            checkpoint_every=self.checkpoint_every,
            crashes=self.dies,
            journal=read_back(journal),
            requests=self.requests,
            **self.more,
        )

    def dies(self, number: int, attempt_number: int, iteration: int) -> bool:
        return self.dies_at.get(number) == iteration and (attempt_number == 1 or not self.dies_once)


def objective_beside(scheduler: TrialScheduler | None) -> dict[str, Any]:
    """What the experiment is tuned for, unless its scheduler says so."""
    own = scheduler is not None and scheduler.has_own_objective
    return {} if own else {"metric": "loss", "mode": "min"}


def read_back(journal: Records) -> list[tuple[Event, tuple[str, ...]]]:
    """What a journal holds after it was a file."""
    return [
        (event_from_dict(loads(dumps(event_to_dict(event)))), tuple(commands)) for event, commands in journal
    ]


def promoting(**options: Any) -> AsyncHyperBandScheduler:
    """Rungs at 1, 2 and 4; every other trial goes on from each."""
    given: dict[str, Any] = {"max_t": 6, "reduction_factor": 2, "seed": 1, "type": "promotion", **options}
    return AsyncHyperBandScheduler(**given)


def several(**options: Any) -> MultiObjectiveASHAScheduler:
    """By the loss, and by the time that an iteration takes."""
    return MultiObjectiveASHAScheduler(
        metrics=["loss", "time_this_iter_s"], modes="min", max_t=6, reduction_factor=2, seed=1, **options
    )


def retries(number: int) -> dict[str, Any]:
    return {"failure_config": tune.FailureConfig(max_failures=number)}


def keep(number: int) -> dict[str, Any]:
    return {"checkpoint_config": tune.CheckpointConfig(number, "loss", "min")}


# What must not depend on where a driver died.

#: Keys of rows that tell when and in which attempt it was.
TIMES = {"timestamp", "iterations_since_restore", "time", "attempt_number", "date"}


def outcome(run: SimulatedRun, *, is_serial: bool) -> dict[str, Any]:
    """The trial table, all decisions, the rows that count and their order, the best, and why it ended."""
    rows = {}
    for row in run.rows:  # the newest attempt's row of an iteration is the one that counts
        rows[row["trial_id"], row["training_iteration"]] = {key: row[key] for key in row.keys() - TIMES}
    table = [
        (
            trial.trial_id,
            trial.config,
            trial.experiment_tag,
            str(trial.status),
            trial.iteration,
            trial.num_failures,
            trial.error,
            trial.reason,
            [(record.index, record.iteration) for record in trial.checkpoints],
            {key: trial.last_row[key] for key in trial.last_row.keys() - TIMES},
        )
        for trial in run.trials
    ]
    decisions = {
        (event.trial_id, event.iteration, str(event.decision), repr(event.exploit))
        for event, _ in run.records
        if isinstance(event, TrialReported) and event.decision is not Decision.CONTINUE
    } | {repr(event.exploits) for event, _ in run.records if isinstance(event, PausedChosen)}
    best = run.best("loss", "min") if run.rows else {}
    best = {key: best[key] for key in best.keys() - TIMES}
    order = list(rows) if is_serial else sorted(rows)
    return {
        "table": table,
        "decisions": decisions,
        "rows": rows,
        "order": order,
        "best": best,
        "reason": run.reason,
    }


def check_invariants(run: SimulatedRun, num_samples: int) -> None:
    """What holds of every experiment that has ended, however often it was resumed."""
    controller = replay(run.records, run.rules)  # raises if an event leads to other commands than it did
    assert controller.has_ended
    assert len(run.trials) <= num_samples
    commands = [command for _, commands in run.records for command in commands]
    completed = Counter(command.split()[1] for command in commands if command.startswith("CompleteTrial"))
    assert completed == {trial.trial_id: 1 for trial in run.trials if trial.is_finished()}
    started = [tuple(command.split()[1:3]) for command in commands if command.startswith("StartAttempt")]
    assert len(set(started)) == len(started), "an attempt was started twice"
    for trial in run.trials:
        rows = [row for row in run.rows if row["trial_id"] == trial.trial_id]
        numbers, attempts = (
            [row["training_iteration"] for row in rows],
            [row["attempt_number"] for row in rows],
        )
        assert attempts == sorted(attempts), "an older attempt's report counted"
        assert trial.is_finished()
        assert trial.borrowed is None
        if "@perturbed" not in trial.experiment_tag:  # who exploits takes over the iterations of another one
            assert set(numbers) >= set(range(1, trial.iteration + 1))
            has_reported = (
                bool(attempts) and attempts[-1] == trial.attempt_number
            )  # else it was stopped before it could
            assert not has_reported or numbers[-1] == trial.iteration


SCENARIOS: dict[str, Scenario] = {
    "FIFO": Scenario(slots=3),
    "FIFO, saving seldom": Scenario(slots=3, checkpoint_every=3),
    "FIFO, saving never": Scenario(slots=2, checkpoint_every=0, iterations=5),
    "FIFO, keeping one": Scenario(slots=2, run=keep(1)),
    "FIFO, slow starts": Scenario(slots=2, more={"start_s": 2.5}),
    "FIFO, retries": Scenario(slots=2, run=retries(2), dies_at={1: 3, 3: 1}, checkpoint_every=2),
    "FIFO, stop rule": Scenario(slots=2, stop=lambda: {"training_iteration": 4}),
    "counting stopper": Scenario(stop=lambda: MaximumIterationStopper(4)),
    "stopper of all": Scenario(stop=lambda: ExperimentPlateauStopper("loss", 0.05, top=3), num_samples=9),
    "fail fast": Scenario(run={"failure_config": tune.FailureConfig(fail_fast=True)}, dies_at={2: 3}),
    "too many failed trials": Scenario(
        run={"failure_config": tune.FailureConfig(max_failed_trials=0.2)}, dies_at={1: 3, 3: 2}
    ),
    "more after a death": Scenario(
        slots=2,
        run={"failure_config": tune.FailureConfig(max_failures=2, resources_after={"crashed": {"CPU": 2.0}})},
        dies_at={1: 3, 2: 5},
        more={"cluster": {"CPU": 4.0}},
    ),
    "changing resources": Scenario(ResourceChangingScheduler, slots=3, more={"cluster": {"CPU": 4.0}}),
    "changing resources, saving seldom": Scenario(
        ResourceChangingScheduler, slots=3, checkpoint_every=3, more={"cluster": {"CPU": 5.0}}
    ),
    "changing resources, saving on request": Scenario(
        ResourceChangingScheduler,
        slots=3,
        checkpoint_every=0,
        more={"saves_on_request": True, "cluster": {"CPU": 5.0}},
    ),
    "changing resources, ASHA": Scenario(
        lambda: ResourceChangingScheduler(AsyncHyperBandScheduler(max_t=6, reduction_factor=2, seed=1)),
        num_samples=7,
        more={"cluster": {"CPU": 4.0}},
    ),
    "changing resources, by turns": Scenario(
        lambda: ResourceChangingScheduler(PausingScheduler()), more={"cluster": {"CPU": 8.0}}
    ),
    "changing resources and deaths": Scenario(
        ResourceChangingScheduler,
        slots=2,
        run=retries(2),
        dies_at={1: 3, 3: 1},
        checkpoint_every=2,
        more={"cluster": {"CPU": 4.0}, "start_s": 2.5},
    ),
    "ASHA": Scenario(lambda: AsyncHyperBandScheduler(max_t=6, reduction_factor=2, seed=1), num_samples=7),
    "ASHA, saving seldom": Scenario(
        lambda: AsyncHyperBandScheduler(max_t=6, reduction_factor=2, seed=1),
        num_samples=7,
        checkpoint_every=3,
    ),
    "ASHA, brackets": Scenario(
        lambda: AsyncHyperBandScheduler(max_t=6, reduction_factor=2, brackets=2, seed=1), num_samples=7
    ),
    "ASHA that promotes": Scenario(promoting, num_samples=9, run=keep(1)),
    "ASHA that promotes, brackets": Scenario(lambda: promoting(brackets=2), num_samples=9),
    "ASHA that promotes, saving seldom": Scenario(promoting, num_samples=7, checkpoint_every=3),
    "ASHA that promotes, saving never": Scenario(promoting, num_samples=5, checkpoint_every=0),
    "ASHA that promotes, saving on request": Scenario(
        promoting, num_samples=7, checkpoint_every=0, more={"saves_on_request": True}
    ),
    "ASHA that promotes, deaths": Scenario(
        promoting, num_samples=7, run=retries(1), dies_at={1: 1, 2: 3, 4: 2}
    ),
    "ASHA that promotes, to the end of trials": Scenario(
        lambda: promoting(stop_last_trials=False, max_t=4), num_samples=7
    ),
    "ASHA that promotes, more samples": Scenario(promoting, requests={(4, 1): [RaiseNumSamples(8)]}),
    "ASHA of several metrics": Scenario(lambda: several(), num_samples=7),
    "ASHA of several metrics that promotes": Scenario(
        lambda: several(type="promotion", brackets=2), num_samples=7, run=keep(1)
    ),
    "Optuna's median pruner": Scenario(
        lambda: OptunaPruner("median", {"n_startup_trials": 2}), num_samples=7
    ),
    "Optuna's Hyperband pruner, deaths": Scenario(
        lambda: OptunaPruner("hyperband", {"max_resource": 7, "reduction_factor": 2}),
        num_samples=6,
        run=retries(1),
        dies_at={1: 2, 3: 4},
        checkpoint_every=2,
    ),
    "Optuna's Wilcoxon pruner": Scenario(lambda: OptunaPruner("wilcoxon", {"p_threshold": 0.3})),
    "HyperBand": Scenario(
        lambda: HyperBandScheduler(max_t=4, reduction_factor=2), num_samples=11, iterations=6
    ),
    "HyperBand, a bracket that is not full": Scenario(lambda: HyperBandForBOHB(max_t=9), iterations=9),
    "HyperBand, saving seldom": Scenario(
        lambda: HyperBandForBOHB(max_t=4, reduction_factor=2), num_samples=6, checkpoint_every=3
    ),
    "HyperBand, saving never": Scenario(
        lambda: HyperBandForBOHB(max_t=4, reduction_factor=2), checkpoint_every=0
    ),
    "HyperBand, saving on request": Scenario(
        lambda: HyperBandForBOHB(max_t=4, reduction_factor=2),
        num_samples=6,
        checkpoint_every=0,
        more={"saves_on_request": True},
    ),
    "HyperBand and deaths": Scenario(
        lambda: HyperBandForBOHB(max_t=4, reduction_factor=2),
        num_samples=6,
        run=retries(1),
        dies_at={1: 1, 3: 2},
        checkpoint_every=2,
    ),
    "HyperBand, its best trials end by a rule": Scenario(
        lambda: HyperBandForBOHB(max_t=9), num_samples=9, stop=lambda: {"training_iteration": 3}
    ),
    "HyperBand, last trials go on": Scenario(
        lambda: HyperBandForBOHB(max_t=4, reduction_factor=2, stop_last_trials=False), num_samples=6
    ),
    "HyperBand, paused trial": Scenario(
        lambda: HyperBandForBOHB(max_t=9),
        num_samples=9,
        requests={(7, 1): [PauseTrial("7")], None: [ResumeTrial("7")]},
    ),
    "median rule": Scenario(
        lambda: MedianStoppingRule("training_iteration", grace_period=1, min_samples_required=2),
        num_samples=7,
    ),
    "median rule by turns": Scenario(
        lambda: MedianStoppingRule(
            "training_iteration", grace_period=2, min_samples_required=3, min_time_slice=2, hard_stop=False
        )
    ),
    "pauses": Scenario(PausingScheduler),
    "pauses, saving seldom": Scenario(PausingScheduler, checkpoint_every=2),
    "pauses, saving on request": Scenario(
        PausingScheduler, checkpoint_every=0, more={"saves_on_request": True}
    ),
    "pauses, saving never": Scenario(lambda: PausingScheduler(2), checkpoint_every=0, num_samples=3),
    "pauses and deaths": Scenario(PausingScheduler, run=retries(1), dies_at={1: 5, 2: 1}, num_samples=4),
    "pauses in turn": Scenario(lambda: InTurn(2)),
    "exploits": Scenario(ExploitingScheduler, run=keep(1)),
    "exploits, saving seldom": Scenario(ExploitingScheduler, checkpoint_every=2),
    "population by turns": Scenario(PopulationByTurns, iterations=9, num_samples=4, run=keep(1)),
    "population by turns, saving seldom": Scenario(
        PopulationByTurns, iterations=9, num_samples=4, checkpoint_every=2
    ),
    "PBT": Scenario(a_population(), iterations=9, run=keep(1)),
    "PBT, saving seldom": Scenario(a_population(), iterations=9, checkpoint_every=3),
    "PBT, saving never": Scenario(a_population(), num_samples=3, checkpoint_every=0, iterations=5),
    "PBT, deaths": Scenario(a_population(), run=retries(1), dies_at={1: 5, 2: 1}),
    "PBT, stopped trial": Scenario(a_population(), iterations=9, requests={(1, 3): [StopTrial("0")]}),
    "PBT, more samples": Scenario(a_population(), requests={(4, 5): [RaiseNumSamples(7)]}),
    "PBT, together": Scenario(a_population(synch=True), slots=3, iterations=9, run=keep(1)),
    "PBT, together, saving seldom": Scenario(a_population(synch=True), iterations=9, checkpoint_every=3),
    "PBT, together, saving on request": Scenario(
        a_population(synch=True), slots=2, checkpoint_every=0, more={"saves_on_request": True}
    ),
    "PBT, together, deaths": Scenario(a_population(synch=True), run=retries(1), dies_at={1: 5, 2: 1}),
    "PBT, together, paused trial": Scenario(
        a_population(synch=True),
        iterations=9,
        requests={(1, 2): [PauseTrial("1")], None: [ResumeTrial("1")]},
    ),
    "PBT, replayed": Scenario(a_replay, num_samples=1),
    "PBT, replayed, saving seldom": Scenario(a_replay, num_samples=1, checkpoint_every=3),
    "PBT, replayed, saving on request": Scenario(
        a_replay, num_samples=1, checkpoint_every=0, more={"saves_on_request": True}
    ),
    "PB2": Scenario(
        lambda: PB2("training_iteration", None, None, 2, {"x": [0, 1]}, 0.4, seed=1),
        num_samples=3,
        iterations=5,
    ),
    "PB2, together": Scenario(
        lambda: PB2("training_iteration", None, None, 2, {"x": [0, 1]}, 0.4, synch=True, seed=1),
        slots=2,
        num_samples=3,
        iterations=5,
    ),
    "Optuna": Scenario(searcher=lambda: OptunaSearch(seed=1), num_samples=4, iterations=3),
    "BOHB": Scenario(
        lambda: HyperBandForBOHB(max_t=4, reduction_factor=2),
        lambda: TuneBOHB(seed=1, bohb_config={"random_fraction": 0.1}),
        num_samples=9,
    ),
    "BOHB, added configuration": Scenario(
        searcher=lambda: TuneBOHB(seed=1, bohb_config={"random_fraction": 0, "num_samples": 9}),
        num_samples=3,
        iterations=3,
        requests={(2, 2): [AddConfiguration({"x": 0.5}), RaiseNumSamples(7)]},
    ),
    "Optuna and ASHA": Scenario(
        lambda: AsyncHyperBandScheduler(max_t=4, reduction_factor=2, seed=1),
        lambda: OptunaSearch(seed=1),
        num_samples=6,
        iterations=6,
    ),
    "searcher that learns": Scenario(searcher=Attentive, run=retries(1), dies_at={1: 3}),
    "searcher that waits": Scenario(searcher=lambda: ConcurrencyLimiter(Attentive(), 1)),
    "searcher with a scheduler": Scenario(
        lambda: AsyncHyperBandScheduler(max_t=6, reduction_factor=2, seed=1), Attentive, num_samples=7
    ),
    "repeater": Scenario(searcher=lambda: Repeater(BasicVariantGenerator(random_state=1), 2), iterations=3),
    "stopped trial": Scenario(requests={(1, 3): [StopTrial("1")]}),
    "stopped trial that waits": Scenario(slots=2, requests={(1, 3): [StopTrial("2")]}),
    "paused trial": Scenario(slots=2, requests={(0, 2): [PauseTrial("0")], (4, 3): [ResumeTrial("0")]}),
    "paused trial, saving seldom": Scenario(
        slots=3, checkpoint_every=3, requests={(0, 2): [PauseTrial("0")], None: [ResumeTrial("0")]}
    ),
    "paused trial, saving on request": Scenario(
        slots=2,
        checkpoint_every=0,
        requests={(0, 2): [PauseTrial("0")], None: [ResumeTrial("0")]},
        more={"saves_on_request": True},
    ),
    "paused trial among paused ones": Scenario(
        PausingScheduler, slots=2, requests={(1, 2): [PauseTrial("1")], None: [ResumeTrial("1")]}
    ),
    "paused trial that waits for a retry": Scenario(
        slots=2,
        run=retries(1),
        dies_at={0: 3},
        requests={(0, 2): [PauseTrial("0")], None: [ResumeTrial("0")]},
        checkpoint_every=4,
    ),
    "paused experiment": Scenario(
        slots=2, requests={(1, 3): [PauseExperiment()], None: [ResumeExperiment()]}
    ),
    "paused experiment and trial": Scenario(
        slots=2,
        requests={(1, 3): [PauseTrial("0"), PauseExperiment()], None: [ResumeExperiment(), ResumeTrial("0")]},
    ),
    "paused experiment, slow starts": Scenario(
        slots=2, requests={(1, 3): [PauseExperiment()], None: [ResumeExperiment()]}, more={"start_s": 2.5}
    ),
    "stopped experiment": Scenario(requests={(1, 3): [StopExperiment("enough")]}),
    "added configuration": Scenario(requests={(4, 5): [AddConfiguration({"x": 0.5})]}),
    "added configuration, Optuna": Scenario(
        searcher=lambda: OptunaSearch(seed=1),
        num_samples=3,
        iterations=3,
        requests={(2, 2): [AddConfiguration({"x": 0.5}), RaiseNumSamples(5)]},
    ),
    "more samples": Scenario(slots=2, requests={(1, 2): [RaiseNumSamples(7)]}),
    "more samples, searcher that learns": Scenario(
        searcher=Attentive, requests={(4, 3): [RaiseNumSamples(7)]}
    ),
    "wider space": Scenario(
        num_samples=8, iterations=3, requests={(2, 2): [ChangeSpace({"x": tune.uniform(0, 4)})]}
    ),
    "wider space twice, Optuna": Scenario(
        searcher=lambda: OptunaSearch(seed=1),
        num_samples=8,
        iterations=3,
        requests={
            (2, 2): [ChangeSpace({"x": tune.uniform(0, 4)})],
            (4, 1): [ChangeSpace({"x": tune.uniform(0.2, 6)})],
        },
    ),
    "new parameter, Optuna": Scenario(
        searcher=lambda: ConcurrencyLimiter(OptunaSearch(seed=1), 1),
        num_samples=6,
        iterations=2,
        requests={(2, 1): [ChangeSpace({"net/width": tune.choice([1, 2])})]},
    ),
    "more and fewer values, Optuna": Scenario(
        searcher=lambda: OptunaSearch(seed=1),
        num_samples=8,
        iterations=2,
        space={"x": tune.choice([1, 2, 3])},
        requests={(3, 1): [ChangeSpace({"x": tune.choice([2, 3, 4, 5])})]},
    ),
    "looser stop rule": Scenario(
        slots=2,
        stop=lambda: {"training_iteration": 4},
        requests={(0, 2): [LoosenStop({"training_iteration": 6})]},
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_driver_may_die_after_any_event(name: str) -> None:
    scenario = SCENARIOS[name]
    whole = scenario.drive()
    expected = outcome(whole, is_serial=scenario.slots == 1)
    assert scenario.drive().records == whole.records, "not deterministic"

    # One that was stopped, and whose journal says so, is over; who resumes it wants it to go on.
    is_stopped = whole.reason != "every trial is finished"
    for place in range(len(whole.records) + (0 if is_stopped else 1)):
        resumed = scenario.drive(whole.records[:place])

        assert outcome(resumed, is_serial=scenario.slots == 1) == expected, (
            f"killed after event {place}: {whole.records[place - 1]}"
        )
        check_invariants(resumed, 99)


#: Where it matters when a request comes, and so where a driver died: what is paused at its next checkpoint.
STOPPED_WHILE_PAUSED = {
    "trial": Scenario(requests={(0, 2): [PauseTrial("0")], None: [StopTrial("0")]}, checkpoint_every=2),
    "experiment": Scenario(
        requests={(1, 3): [PauseExperiment()], None: [StopExperiment("enough")]}, checkpoint_every=3
    ),
    "exploiting trial": Scenario(
        ExploitingScheduler, requests={(2, 2): [PauseTrial("2")], None: [StopTrial("2")]}, run=keep(1)
    ),
    "trial of a population": Scenario(
        PopulationByTurns, requests={(2, 2): [PauseTrial("1")], None: [StopTrial("1")]}, run=keep(1)
    ),
}


@pytest.mark.parametrize("name", STOPPED_WHILE_PAUSED)
def test_driver_may_die_while_something_is_paused(name: str) -> None:
    scenario = STOPPED_WHILE_PAUSED[name]
    whole = scenario.drive()
    last = next(n for n, (event, _) in enumerate(whole.records) if getattr(event, "action", "") == "stop")

    for place in range(last):
        resumed = scenario.drive(whole.records[:place])

        check_invariants(resumed, 99)
        assert resumed.reason == whole.reason
        steered = [event for event, _ in resumed.records if isinstance(event, Steered)]
        assert [event.action for event in steered] == ["pause", "stop"], "asked twice, or not at all"
        held = steered[0].trial_id
        started = [
            str(commands) for event, commands in resumed.records[resumed.records.index(steered_at(resumed)) :]
        ]
        assert held == "" or f"StartAttempt {held}" not in "".join(started), "what is paused was started"


def steered_at(run: SimulatedRun) -> tuple[Event, tuple[str, ...]]:
    return next(record for record in run.records if isinstance(record[0], Steered))


def test_seeds_that_nobody_gave_survive() -> None:
    scenario = Scenario(
        lambda: AsyncHyperBandScheduler(max_t=6, reduction_factor=2, brackets=3),
        BasicVariantGenerator,
        num_samples=7,
    )
    whole = scenario.drive()
    expected = outcome(whole, is_serial=True)
    assert outcome(scenario.drive(), is_serial=True) != expected
    begun = 1 + next(n for n, (event, _) in enumerate(whole.records) if isinstance(event, StateSaved))

    for place in range(begun, len(whole.records)):
        resumed = scenario.drive(whole.records[:place])

        assert outcome(resumed, is_serial=True) == expected, f"killed after event {place}"


def test_scenarios_do_what_they_are_there_for() -> None:
    runs = {name: SCENARIOS[name].drive() for name in SCENARIOS}
    decisions = {
        name: {event.decision for event, _ in run.records if isinstance(event, TrialReported)}
        for name, run in runs.items()
    }

    for name, expected in {
        "ASHA": Decision.STOP,
        "ASHA that promotes": Decision.PAUSE,
        "ASHA of several metrics": Decision.STOP,
        "ASHA of several metrics that promotes": Decision.PAUSE,
        "Optuna's median pruner": Decision.STOP,
        "Optuna's Hyperband pruner, deaths": Decision.STOP,
        "Optuna's Wilcoxon pruner": Decision.STOP,
        "HyperBand": Decision.PAUSE,
        "HyperBand, a bracket that is not full": Decision.PAUSE,
        "median rule": Decision.STOP,
        "median rule by turns": Decision.PAUSE,
        "pauses": Decision.PAUSE,
        "exploits": Decision.EXPLOIT,
        "population by turns": Decision.EXPLOIT,
        "population by turns, saving seldom": Decision.EXPLOIT,
        "PBT": Decision.EXPLOIT,
        "PB2": Decision.EXPLOIT,
        "PBT, saving seldom": Decision.EXPLOIT,
        "PBT, deaths": Decision.EXPLOIT,
    }.items():
        assert expected in decisions[name], name
    for name, run in runs.items():
        together = [event for event, _ in run.records if isinstance(event, PausedChosen) and event.exploits]
        assert bool(together) == name.startswith(("PBT, together", "PBT, replayed", "PB2, together")), name
    assert runs["stopper of all"].reason == "a stopper ended the experiment (stop_all)"
    assert [str(trial.status) for trial in runs["FIFO, retries"].trials].count("ERROR") == 2
    assert any("DeleteCheckpoint" in str(commands) for _, commands in runs["exploits"].records)


# Random experiments, killed at random, several times in a row.

STEERED: dict[str, Callable[[], TrialScheduler | None]] = {
    "FIFO": lambda: None,
    "ASHA": lambda: AsyncHyperBandScheduler(max_t=6, reduction_factor=2, brackets=2, seed=1),
    "ASHA that promotes": lambda: promoting(brackets=2),
    "HyperBand": lambda: HyperBandForBOHB(max_t=4, reduction_factor=2),
    "median": lambda: MedianStoppingRule("training_iteration", grace_period=1, min_samples_required=1),
    "pauses": lambda: PausingScheduler(2),
    "exploits": lambda: ExploitingScheduler(every=2),
    "population": PopulationByTurns,
    "PBT": a_population(),
    "PBT, together": a_population(synch=True),
    "resources": ResourceChangingScheduler,
}


@st.composite
def scenarios(draw: Callable[..., Any]) -> Scenario:
    """Experiments whose outcome does not depend on how fast anything is."""
    kind = draw(st.sampled_from(sorted(STEERED)))
    num_samples = draw(st.integers(2, 5))
    kept = draw(st.sampled_from([None, 1, 2]))
    return Scenario(
        STEERED[kind],
        num_samples=num_samples,
        slots=draw(st.integers(1, 3)) if kind == "FIFO" else 1,
        iterations=draw(st.integers(3, 8)),
        checkpoint_every=draw(st.integers(0, 3)),
        stop=draw(st.sampled_from([lambda: None, lambda: {"training_iteration": 4}])),
        run={**retries(draw(st.integers(0, 2))), **(keep(kept) if kept else {})},
        dies_at=draw(st.dictionaries(st.integers(0, num_samples - 1), st.integers(1, 7), max_size=2)),
        more={
            "start_s": draw(st.sampled_from([0.0, 2.5])),
            "saves_on_request": draw(st.booleans()),
            "cluster": {"CPU": 4.0},
        },
    )


#: Where the drivers die, each as a share of what its journal came to.
KILLS = st.lists(st.floats(0, 1), min_size=1, max_size=4)
#: Events that come from elsewhere, so that they may come twice, or in another order.
ARRIVING = (TrialReported, CheckpointSaved, AttemptStarted, AttemptEnded)


def killed(scenario: Scenario, shares: Sequence[float], spoil: Callable[[Records], Records]) -> SimulatedRun:
    """Run one driver after the other, each for a part of what is left to do, and the last to the end."""
    journal: Records = ()
    for share in shares:
        records = scenario.drive(journal).records
        journal = spoil(records[: len(journal) + round(share * (len(records) - len(journal)))])
    return scenario.drive(journal)


def recorded(events: Sequence[Event], rules: ControllerConfig) -> Records:
    """A journal of these events, with the commands that follow from them."""
    controller = Controller(rules)
    return [(event, tuple(map(describe, controller.handle(event)))) for event in events]


@given(scenarios(), KILLS, st.randoms(use_true_random=False))
def test_any_experiment_survives_the_deaths_of_its_drivers(
    scenario: Scenario, shares: list[float], chance: random.Random
) -> None:
    whole = scenario.drive()

    def doubled(records: Records) -> Records:
        """Let some events arrive once more, at once or later."""
        events = [event for event, _ in records]
        for event in chance.sample(events, len(events) // 4):
            if isinstance(event, ARRIVING):
                events.insert(chance.randint(events.index(event) + 1, len(events)), event)
        return recorded(events, whole.rules)

    resumed = killed(scenario, shares, doubled)

    check_invariants(resumed, scenario.num_samples)
    is_serial = scenario.slots == 1
    assert outcome(resumed, is_serial=is_serial) == outcome(whole, is_serial=is_serial)


#: What somebody may want at any time; what is paused goes on once nothing else happens.
REQUESTS = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(1, 6)),
    st.lists(
        st.one_of(
            st.builds(PauseTrial, st.sampled_from("012345")),
            st.builds(ResumeTrial, st.sampled_from("012345")),
            st.builds(StopTrial, st.sampled_from("012345")),
            st.sampled_from(
                [PauseExperiment(), ResumeExperiment(), AddConfiguration({"x": 0.5}), RaiseNumSamples(8)]
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    max_size=4,
)
RELEASE = [ResumeExperiment(), *(ResumeTrial(str(number)) for number in range(12))] * 4


@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(0, 3),
    st.booleans(),
    KILLS,
    REQUESTS,
    st.randoms(use_true_random=False),
)
def test_invariants_hold_whatever_the_order_of_events(
    seed: int,
    slots: int,
    every: int,
    saves: bool,
    shares: list[float],
    requests: Requests,
    chance: random.Random,
) -> None:
    scenario = Scenario(
        lambda: RandomScheduler(seed, budget=40),
        num_samples=6,
        slots=slots,
        checkpoint_every=every,
        run={**retries(-1), **keep(1)},
        dies_at={seed % 6: 1 + seed % 7},
        dies_once=True,
        more={"saves_on_request": saves},
        requests={**requests, None: RELEASE},
    )
    rules = scenario.drive().rules

    def is_movable(event: Any) -> bool:
        """Whether it arrives from a trial, and its answer did not need what another one's said before."""
        return isinstance(event, ARRIVING) and getattr(event, "exploit", None) is None

    def shuffled(records: Records) -> Records:
        """Let neighbours of different trials change places, where no answer comes before its question."""
        events = [event for event, _ in records]
        for place in chance.sample(range(1, len(events)), len(events) // 3) if events else ():
            first, second = events[place - 1 : place + 1]
            if not is_movable(first) or not is_movable(second) or first.trial_id == second.trial_id:
                continue
            changed = [*events[: place - 1], second, first, *events[place + 1 :]]
            try:
                recorded(changed, rules)
            except IllegalTransition as error:
                if "nobody asked" not in str(error):
                    raise
                continue
            events = changed
        return recorded(events, rules)

    check_invariants(killed(scenario, shares, shuffled), 99 if requests else scenario.num_samples)
