"""Whole experiments on a virtual clock: real decisions, simulated trials, no threads, no waiting.

Controller, searcher, scheduler and stoppers are the real ones. A trial is a function of its
configuration and iteration; hours of training pass in milliseconds, the same way each time.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from tune_core.callback import CallbackList
from tune_core.config.resume_config import ResumeConfig
from tune_core.config.run_config import RunConfig, TuneConfig
from tune_core.config.spec import describe
from tune_core.control import messages
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.experiment import rules_of
from tune_core.control.loop import Loop
from tune_core.control.messages import Event, StartAttempt
from tune_core.control.policy import Policy
from tune_core.control.resume import Replay, resumption
from tune_core.control.warm_start import take_warm_start
from tune_core.control.watchers import Watchers
from tune_core.metrics import lookup
from tune_core.search import BasicVariantGenerator
from tune_core.simulation.virtual import MemoryJournal, VirtualBackend
from tune_core.states import Decision, Outcome
from tune_core.steering.inbox import Request
from tune_core.steering.request_handler import RequestHandler, as_steered, space_as_steered
from tune_core.stopper import DictStopper
from tune_core.training.resource_requests import with_resources
from tune_core.trial import Trial, checkpoint_name

#: Called with a configuration and an iteration from 1; returns metrics, and how many seconds they took.
Curve: TypeAlias = Callable[[dict[str, Any], int], tuple[Mapping[str, Any], float]]
#: Called with a trial's number, an attempt's and an iteration: whether the process dies in it.
Crashes: TypeAlias = Callable[[int, int, int], bool]

#: What somebody asks for once a trial of this number has come to this iteration; None: once nothing happens
#: any more, one request after the other.
Requests: TypeAlias = Mapping[tuple[int, int] | None, Sequence[Request]]

#: When an experiment that comes to no end is given up, in events.
MAX_EVENTS = 1_000_000


class RandomCrashes:
    """Processes that die in some iterations, at random, the same ones for the same seed.

    Args:
        probability: In how many of them, from 0 to 1.
        seed: Chooses which.

    Example:
        >>> RandomCrashes(1.0)(0, 1, 1), RandomCrashes(0.0)(0, 1, 1)
        (True, False)
    """

    def __init__(self, probability: float, seed: int = 0) -> None:
        self._probability, self._seed = probability, seed

    def __call__(self, number: int, attempt_number: int, iteration: int) -> bool:
        """Return whether the process dies in this iteration."""
        chance = random.Random(f"{self._seed} {number} {attempt_number} {iteration}")
        return chance.random() < self._probability


@dataclass(frozen=True)
class SimulatedRun:
    """What came of a simulated experiment.

    Attributes:
        trials: All trials, as the controller left them.
        rows: All reports in order, each with `trial_id`, `attempt_number` and `time`, in virtual seconds.
        duration: How many virtual seconds it took.
        reason: Why it ended.
        records: Its journal, as `tune_core.testing.replay.replay` takes it.
        rules: What its controller obeyed.
    """

    trials: list[Trial]
    rows: list[dict[str, Any]]
    duration: float
    reason: str
    records: list[tuple[Event, tuple[str, ...]]]
    rules: ControllerConfig

    def best(self, metric: str, mode: str) -> dict[str, Any]:
        """Return the best row by a metric.

        Raises:
            ValueError: No row has it.
        """
        rows = [row for row in self.rows if isinstance(lookup(row, metric), (int, float))]
        pick = max if mode == "max" else min
        return pick(rows, key=lambda row: lookup(row, metric))


def simulate(
    curve: Curve,
    *,
    param_space: dict[str, Any] | None = None,
    tune_config: TuneConfig | None = None,
    run_config: RunConfig | None = None,
    slots: int = 4,
    iterations: int = 100,
    checkpoint_every: int = 1,
    saves_on_request: bool = False,
    start_s: float = 0.0,
    crashes: Crashes | None = None,
    seed: int = 0,
    journal: Sequence[tuple[Event, Sequence[str]]] = (),
    requests: Requests | None = None,
    cluster: Mapping[str, float] | None = None,
    resources: Any = None,
) -> SimulatedRun:
    """Run an experiment with simulated trials; return what came of it.

    Args:
        curve: What a trial reports, and how long it takes.
        param_space: The search space.
        tune_config: Searcher, scheduler, metric; without a searcher, grid and random search by `seed`.
        run_config: Stop rules, retries, which checkpoints are kept.
        slots: How many trials run at once.
        iterations: After how many a trial is complete.
        checkpoint_every: After how many a trial saves; 0: never.
        saves_on_request: Whether a trial that is told to pause saves then, as trainable classes do.
        start_s: How many virtual seconds an attempt takes to start.
        crashes: In which iterations the processes die; None: in none.
        seed: For what is random in the search.
        journal: The records of a run whose driver died, to go on from: `SimulatedRun.records`, or any
            first part of it. Give a fresh searcher and scheduler.
        requests: What somebody asks for, and when; it is asked again where a driver died before it had answered.
        cluster: What the cluster has of each resource, such as `{"CPU": 4.0}`: attempts wait for their bundles,
            too, and the scheduler is told of it; None: they wait for slots alone.
        resources: What each trial asks for, as for `with_resources`; None: 1 CPU.

    Raises:
        AssertionError: It comes to no end, or starts an attempt from a checkpoint that is not there.

    Example:
        >>> import tune_core as tune
        >>> run = simulate(
        ...     lambda config, iteration: ({"loss": config["x"] / iteration}, 60.0),
        ...     param_space={"x": tune.grid_search([1, 2, 3])},
        ...     slots=2,
        ...     iterations=10,
        ... )
        >>> run.duration, run.best("loss", "min")["trial_id"]
        (1200.0, '00000_00000')
    """
    specs = [event for event, _ in journal if isinstance(event, messages.SpecRecorded) and event.request_id]
    tune_config, run_config = as_steered(
        tune_config or TuneConfig(), run_config or RunConfig(), specs[-1] if specs else None
    )
    param_space = space_as_steered(param_space or {}, specs[-1] if specs else None)
    if tune_config.search_alg is None:
        tune_config = replace(tune_config, search_alg=BasicVariantGenerator(random_state=seed))
    saves = saves_on_request
    simulation = _Simulation(tune_config, run_config, param_space or {}, slots, seed, saves, resources)
    simulation.curve, simulation.iterations = curve, iterations
    simulation.checkpoint_every, simulation.start_s = checkpoint_every, start_s
    simulation.crashes = crashes or RandomCrashes(0.0)
    simulation.requests, simulation.cluster = requests or {}, dict(cluster or {})
    return simulation.run(journal)


@dataclass
class _Attempt:
    """An attempt that has a slot."""

    trial: Trial
    attempt_number: int
    totals: float
    since_restore: int = 0
    wants_stop: bool = False


class _Simulation(VirtualBackend):
    """One experiment on a virtual clock: a heap of what happens when."""

    curve: Curve
    crashes: Crashes
    requests: Requests
    iterations: int
    checkpoint_every: int
    start_s: float
    cluster: dict[str, float]

    def __init__(
        self,
        tune_config: TuneConfig,
        run_config: RunConfig,
        space: dict[str, Any],
        slots: int,
        seed: int,
        saves: bool,
        resources: Any,
    ) -> None:
        super().__init__()
        self.slots, self.saves, self.run_config = slots, saves, run_config

        def trainable(config: dict[str, Any]) -> None:
            """Stands for what `curve` says."""

        self.policy = Policy(
            tune_config,
            run_config.stop,
            space,
            trainable if resources is None else with_resources(trainable, resources),
            "simulated",
            saves_on_request=saves,
            wall_clock=lambda: self.time,
        )
        rules = rules_of(
            f"{seed:05x}"[-5:],
            run_config,
            self.policy.max_concurrent,
            tune_config.objective,
            saves_on_request=saves,
            resumes_first=self.policy.resumes_first,
            total_trials=self.policy.total_trials,
        )
        self.controller = Controller(rules)
        self.spec = describe(
            name="simulated",
            experiment_id=rules.experiment_id,
            trainable_name="simulated",
            param_space=space,
            tune_config=tune_config,
            run_config=run_config,
        )
        self.stop_rules = DictStopper(self.policy.local_stop)
        self.budget_s, self.max_cost = tune_config.time_budget_seconds, tune_config.cost_limits
        self.watchers = Watchers(self.policy.stopper, CallbackList(()), wall_clock=lambda: self.time)
        self.replay = Replay(self.controller, self.policy, watchers=self.watchers)
        self.trials = self.replay.trials
        self.handler = RequestHandler(self.replay, lambda: self.time)
        self.rows: list[dict[str, Any]] = []
        self.journal = MemoryJournal(self.replay.state, MAX_EVENTS)
        self.loop = Loop(
            self.replay.state,
            self.policy,
            self.journal,
            self,
            watchers=self.watchers,
            callbacks=CallbackList(()),
            wall_clock=lambda: self.time,
        )
        self.take_from(self.loop)
        self.apply = self.loop.apply
        self.checkpoints: dict[str, set[int]] = {}
        self.attempts: dict[tuple[str, int], _Attempt] = {}
        self._waiting: deque[StartAttempt] = deque()

    def run(self, journal: Sequence[tuple[Event, Sequence[str]]]) -> SimulatedRun:
        spent = self.resume(journal) if journal else self.begin_experiment()
        if self.budget_s is not None:
            self.loop.limit_time("time_budget_s", self.budget_s - spent)
        self.loop.limit_cost("max_cost", self.max_cost)
        end = self.loop.run()
        rules = self.controller.rules
        return SimulatedRun(self.trials, self.rows, self.time, end.reason, self.journal.records, rules)

    def idle(self) -> None:
        assert self.ask(None), f"nothing happens any more, at {self.time:g} s: {self.trials}"

    def begin_experiment(self) -> float:
        self.apply(messages.SpecRecorded(self.time, 1, self.spec, asdict(self.controller.rules)))
        state = self.policy.state()  # before it learns
        warm = take_warm_start(self.policy, self.run_config, None, now=self.time)
        for event in (state, warm):
            if event is not None:
                self.apply(event)
        self.apply(messages.ExperimentStarted(self.time, self.slots, self.cluster))
        return 0.0

    def save_state(self) -> None:
        state = self.policy.state()
        if state is not None:
            self.apply(state)

    def resume(self, journal: Sequence[tuple[Event, Sequence[str]]]) -> float:
        """Replay a journal, go on from there, and return how much of the time budget was used up."""
        replay = self.replay.run(journal, self.replay_row)
        self.journal.records.extend((event, tuple(commands)) for event, commands in journal)
        self.watchers.resume()
        self.time = replay.state.last_time
        for trial in self.trials:
            kept = {record.index for record in trial.checkpoints}
            self.checkpoints[trial.trial_id] = kept
        if replay.spec is None:  # it died before it had begun
            return self.begin_experiment()
        if not replay.has_state:
            self.save_state()
        if replay.state.warm_start is None and not self.trials:
            warm = take_warm_start(self.policy, self.run_config, None, now=self.time)
            if warm is not None:
                self.apply(warm)
        event = replace(resumption(replay, self.time, self.slots, ResumeConfig()), total=self.cluster)
        self.policy.resume(self.trials, event)
        self.apply(event)
        self.loop.look_at_stop_all()
        numbers = {trial.trial_id: trial.number for trial in self.trials}
        reached = {(numbers[row["trial_id"]], row["training_iteration"]) for row in self.rows}
        for place in self.requests:
            if place in reached:
                self.ask(place)
        return replay.budget_used_s

    def ask(self, place: tuple[int, int] | None) -> bool:
        """Ask for what somebody wants now, or once nothing happens for the first of it; return whether that was new."""
        for count, request in enumerate(self.requests.get(place, ())):
            event, _ = self.handler.consider(f"{place}-{count}", request)
            if event is not None:
                self.stop_rules = DictStopper(self.policy.local_stop)
                self.apply(event)
                if place is None:
                    return True
        return False

    def replay_row(self, trial: Trial, report: messages.TrialReported) -> None:
        self.rows.append(
            {
                **report.row,
                "trial_id": trial.trial_id,
                "attempt_number": report.attempt_number,
                "time": report.time,
            }
        )

    def start(self, trial: Trial, order: StartAttempt) -> None:
        self._waiting.append(order)
        self.later(0.0, self.fill_slots)

    def stop(self, trial: Trial, attempt_number: int) -> None:
        for order in self._waiting:
            if (order.trial_id, order.attempt_number) == (trial.trial_id, attempt_number):
                self._waiting.remove(order)
                self.loop.end_attempt(trial.trial_id, attempt_number, Outcome.STOPPED)
                return
        self.attempts[trial.trial_id, attempt_number].wants_stop = True

    def answer(self, trial: Trial, decision: Decision) -> None:
        """Its attempt looks at the decision after each report."""

    def delete_checkpoint(self, trial: Trial, index: int) -> None:
        self.checkpoints[trial.trial_id].remove(index)

    def decided(
        self,
        trial: Trial,
        row: dict[str, Any],
        result: dict[str, Any],
        decision: Decision,
        checkpoint: int | None,
    ) -> tuple[dict[str, Any], int | None]:
        if decision is Decision.PAUSE and self.saves and checkpoint is None:
            checkpoint = self.save(trial, row)
        self.rows.append(
            {**row, "trial_id": trial.trial_id, "attempt_number": trial.attempt_number, "time": self.time}
        )
        return row, checkpoint

    def fill_slots(self) -> None:
        while self._waiting and len(self.attempts) < self.slots and self.fits(self._waiting[0]):
            order = self._waiting.popleft()
            trial, start = self.controller.trials[order.trial_id], None
            if order.checkpoint is not None:
                start = trial.start_point
                source = order.source or order.trial_id
                assert order.checkpoint in self.checkpoints[source], f"{order} from a deleted checkpoint"
            totals = start.record.metrics["time_total_s"] if start is not None else 0.0
            attempt = _Attempt(trial, order.attempt_number, totals)
            self.attempts[order.trial_id, order.attempt_number] = attempt
            self.later(self.start_s, lambda attempt=attempt: self.begin(attempt))  # type: ignore[misc]

    def fits(self, order: StartAttempt) -> bool:
        """Whether the cluster has the bundles of an attempt left."""
        held = [self.controller.trials[order.trial_id], *(each.trial for each in self.attempts.values())]
        needed = Counter[str]()
        for trial in held:
            needed.update(trial.resources.required_resources)
        return all(needed[name] <= amount + 1e-9 for name, amount in self.cluster.items())

    def begin(self, attempt: _Attempt) -> None:
        trial = attempt.trial
        self.apply(
            messages.AttemptStarted(
                self.time, trial.trial_id, attempt.attempt_number, 0, "simulated", "simulated"
            )
        )
        self.train(attempt)

    def train(self, attempt: _Attempt) -> None:
        iteration = attempt.trial.iteration + 1
        if attempt.wants_stop or iteration > self.iterations:
            self.end(attempt, Outcome.STOPPED if attempt.wants_stop else Outcome.COMPLETED)
            return
        metrics, spent = self.curve(attempt.trial.config, iteration)
        self.later(spent, lambda: self.report(attempt, dict(metrics), spent))

    def report(self, attempt: _Attempt, metrics: dict[str, Any], spent: float) -> None:
        trial = attempt.trial
        iteration = trial.iteration + 1
        if self.crashes(trial.number, attempt.attempt_number, iteration):
            self.end(attempt, Outcome.CRASHED)
            return
        if attempt.wants_stop:
            self.end(attempt, Outcome.STOPPED)
            return
        attempt.totals += spent
        attempt.since_restore += 1
        row: dict[str, Any] = {
            **metrics,
            "time_this_iter_s": spent,
            "time_total_s": attempt.totals,
            "iterations_since_restore": attempt.since_restore,
            "timestamp": int(self.time),
            "training_iteration": iteration,
        }
        row["done"] = bool(row.get("done", False)) or self.stop_rules(trial.trial_id, row)
        index = None
        if self.checkpoint_every and iteration % self.checkpoint_every == 0:
            index = self.save(trial, row)
        self.loop.report(trial, iteration, index, row)
        self.ask((trial.number, iteration))
        if trial.decision is not Decision.CONTINUE or attempt.wants_stop:
            self.end(attempt, Outcome.STOPPED)
        else:
            self.train(attempt)

    def save(self, trial: Trial, row: dict[str, Any]) -> int:
        index = trial.last_checkpoint_index + 1
        self.checkpoints.setdefault(trial.trial_id, set()).add(index)
        row["checkpoint_dir_name"] = checkpoint_name(index)
        return index

    def end(self, attempt: _Attempt, outcome: Outcome) -> None:
        del self.attempts[attempt.trial.trial_id, attempt.attempt_number]
        error = "the process died" if outcome is Outcome.CRASHED else None
        self.loop.end_attempt(attempt.trial.trial_id, attempt.attempt_number, outcome, error)
        self.fill_slots()
