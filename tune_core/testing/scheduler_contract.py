"""What every scheduler has to keep to: subclass `SchedulerContract`, and pytest runs it.

Each test runs whole experiments in the simulator, so what holds here holds for the scheduler's
calls as an experiment really makes them.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tune_core.config.failure_config import FailureConfig
from tune_core.config.run_config import CheckpointConfig, RunConfig, TuneConfig
from tune_core.control.messages import TrialReported
from tune_core.schedulers import Exploit, Reallocate, TrialScheduler
from tune_core.search.space import uniform
from tune_core.testing.replay import replay
from tune_core.testing.simulator import Curve, RandomCrashes, SimulatedRun, simulate
from tune_core.trial import Status, Trial

MakeScheduler = Callable[[], TrialScheduler]


class SchedulerContract:
    """Tests that every scheduler passes. A subclass has a fixture `make_scheduler`.

    The fixture returns a function that makes a scheduler without metric and mode, equal to the
    one that it made before. Trials report `loss`, to be minimised, and take 1 to 2 seconds an iteration.

    Example:
        >>> class TestMine(SchedulerContract):  # doctest: +SKIP
        ...     @pytest.fixture
        ...     def make_scheduler(self):
        ...         return lambda: MyScheduler(max_t=20)
    """

    #: How many iterations trials run; a subclass may set more.
    iterations = 20
    #: The reported metric; a subclass sets another one if its scheduler looks for that.
    metric = "loss"

    def test_it_takes_metric_and_mode_over(self, make_scheduler: MakeScheduler) -> None:
        """What `TuneConfig` says is what it optimises; another metric is refused afterwards."""
        scheduler = make_scheduler()

        assert scheduler.set_search_properties("loss", "min")
        assert (scheduler.metric, scheduler.mode) == ("loss", "min")
        assert not scheduler.set_search_properties("accuracy", "max")
        assert (scheduler.metric, scheduler.mode) == ("loss", "min")

    def test_every_trial_ends(self, make_scheduler: MakeScheduler) -> None:
        """No trial hangs, with any number of slots."""
        for slots in (1, 3, 50):
            run = self.simulate(make_scheduler(), slots=slots)

            assert len(run.trials) == 12
            assert {trial.status for trial in run.trials} == {Status.TERMINATED}

    def test_every_trial_ends_where_processes_die(self, make_scheduler: MakeScheduler) -> None:
        """No trial hangs, and none fails while it may be tried again."""
        for seed in range(5):
            run = self.simulate(make_scheduler(), crashes=RandomCrashes(0.1, seed), seed=seed)

            assert {trial.status for trial in run.trials} == {Status.TERMINATED}

    def test_every_trial_ends_where_trials_fail_for_good(self, make_scheduler: MakeScheduler) -> None:
        """Failed trials are no reason to wait."""
        run = self.simulate(make_scheduler(), crashes=RandomCrashes(0.05), run_config=RunConfig())

        assert Status.ERROR in {trial.status for trial in run.trials}
        assert all(trial.is_finished() for trial in run.trials)

    def test_trials_that_save_seldom_or_never_end_too(self, make_scheduler: MakeScheduler) -> None:
        """A pause without a checkpoint costs work, but comes to an end."""
        for every in (0, 7):
            run = self.simulate(make_scheduler(), checkpoint_every=every)

            assert {trial.status for trial in run.trials} == {Status.TERMINATED}

    def test_it_decides_the_same_again(self, make_scheduler: MakeScheduler) -> None:
        """Equal schedulers in equal experiments decide equally."""
        runs = [self.simulate(make_scheduler(), seed=3) for _ in range(2)]

        assert _decisions(runs[0]) == _decisions(runs[1])
        assert runs[0].duration == runs[1].duration

    def test_more_is_to_max_what_less_is_to_min(self, make_scheduler: MakeScheduler) -> None:
        """With the mode and every sign turned round, the decisions are the same."""

        def turned(config: dict[str, Any], iteration: int) -> tuple[Mapping[str, Any], float]:
            metrics, spent = _curve(config, iteration)
            return {self.metric: -metrics["loss"]}, spent

        run = self.simulate(make_scheduler())
        opposite = self.simulate(make_scheduler(), curve=turned, mode="max")

        assert _decisions(run) == _decisions(opposite)

    def test_metrics_that_are_no_finite_numbers_do_no_harm(self, make_scheduler: MakeScheduler) -> None:
        """NaN, infinities, None and a metric that is not there are reports like others."""

        def odd(config: dict[str, Any], iteration: int) -> tuple[Mapping[str, Any], float]:
            value = random.Random(f"{config} {iteration}").choice(
                [math.nan, math.inf, -math.inf, None, 1, 0.5]
            )
            return ({} if iteration % 5 == 0 else {self.metric: value}), 1.0

        run = self.simulate(make_scheduler(), curve=odd)

        assert {trial.status for trial in run.trials} == {Status.TERMINATED}

    def test_it_changes_nothing_that_it_is_shown(self, make_scheduler: MakeScheduler) -> None:
        """Trials and reports are for reading."""
        run = self.simulate(_Watching(make_scheduler()))

        assert run.rows

    def test_the_global_random_numbers_are_left_alone(self, make_scheduler: MakeScheduler) -> None:
        """Randomness comes from a generator of its own: others' seeds stay in force."""
        before = random.getstate()

        self.simulate(make_scheduler())

        assert random.getstate() == before

    def test_a_pickled_copy_goes_on_as_the_original(self, make_scheduler: MakeScheduler) -> None:
        """Its state is all its own: at any moment a copy decides what the original would."""
        run = self.simulate(make_scheduler(), seed=5)
        copied = self.simulate(_Copying(make_scheduler()), seed=5)

        assert _decisions(run) == _decisions(copied)

    def test_a_replayed_journal_needs_no_scheduler(self, make_scheduler: MakeScheduler) -> None:
        """What was decided is in the journal."""
        run = self.simulate(make_scheduler(), crashes=RandomCrashes(0.1))

        again = replay(run.records, run.rules)

        assert [trial.status for trial in again.trials.values()] == [trial.status for trial in run.trials]

    def test_it_says_where_it_stands(self, make_scheduler: MakeScheduler) -> None:
        """There is a text for people, before and after."""
        scheduler = make_scheduler()
        assert scheduler.debug_string()

        self.simulate(scheduler)

        assert scheduler.debug_string()

    def simulate(
        self,
        scheduler: TrialScheduler,
        *,
        curve: Curve | None = None,
        mode: str = "min",
        run_config: RunConfig | None = None,
        seed: int = 0,
        **options: Any,
    ) -> SimulatedRun:
        """Run 12 trials under a scheduler; processes that die are replaced, two checkpoints are kept."""

        def named(config: dict[str, Any], iteration: int) -> tuple[Mapping[str, Any], float]:
            metrics, spent = _curve(config, iteration)
            return {self.metric: metrics["loss"]}, spent

        config = TuneConfig(metric=self.metric, mode=mode, scheduler=scheduler, num_samples=12)  # type: ignore[arg-type]
        retrying = RunConfig(
            failure_config=FailureConfig(max_failures=-1), checkpoint_config=CheckpointConfig(num_to_keep=2)
        )
        options = {"slots": 4, "iterations": self.iterations, **options}
        return simulate(
            curve or named,
            param_space={"x": uniform(0.0, 1.0), "y": uniform(0.0, 1.0)},
            tune_config=config,
            run_config=run_config or retrying,
            seed=seed,
            **options,
        )


def _curve(config: dict[str, Any], iteration: int) -> tuple[Mapping[str, Any], float]:
    """Losses that fall at different rates towards different ends, with curves that cross."""
    loss = config["x"] + (1.5 - config["x"]) * math.exp(-iteration * (0.1 + config["y"]))
    return {"loss": loss}, 1.0 + config["y"]


def _decisions(run: SimulatedRun) -> list[Any]:
    return [
        (
            event.trial_id,
            event.attempt_number,
            event.iteration,
            event.decision,
            event.exploit,
            event.resources,
        )
        for event, _ in run.records
        if isinstance(event, TrialReported)
    ]


class _Passing(TrialScheduler):
    """Passes everything on to another scheduler."""

    def __init__(self, inner: TrialScheduler) -> None:
        self.inner = inner
        self.resumes_before_new_trials = inner.resumes_before_new_trials
        self.needs_checkpoints = inner.needs_checkpoints

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        super().set_search_properties(metric, mode, **spec)
        return self.inner.set_search_properties(metric, mode, **spec)

    def on_cluster_changed(self, total: Mapping[str, float]) -> None:
        self.inner.on_cluster_changed(total)

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        self.call("on_trial_add", trials, trial)

    def on_trial_result(
        self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]
    ) -> str | Exploit | Reallocate:
        answer: str | Exploit | Reallocate = self.call("on_trial_result", trials, trial, result)
        return answer

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        reason: dict[str, Any] = self.call("decision_reason", trial)
        return reason

    def is_full_budget(self, trial: Trial, result: dict[str, Any]) -> bool:
        is_full: bool = self.call("is_full_budget", trial, result)
        return is_full

    def choose_trial_to_run(self, trials: Sequence[Trial]) -> Trial | None:
        chosen: Trial | None = self.call("choose_trial_to_run", trials)
        # A copy may have chosen a copy of it.
        return next((each for each in trials if chosen and each.trial_id == chosen.trial_id), None)

    def trials_to_stop(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        stopped: Sequence[Trial] = self.call("trials_to_stop", trials)
        return [each for each in trials if each.trial_id in {trial.trial_id for trial in stopped}]

    def exploit_paused(self, trials: Sequence[Trial]) -> Mapping[str, Exploit]:
        answers: Mapping[str, Exploit] = self.call("exploit_paused", trials)
        return answers

    def fill_in(self, number: int, config: dict[str, Any]) -> dict[str, Any]:
        filled: dict[str, Any] = self.call("fill_in", number, config)
        return filled

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        self.call("on_trial_complete", trials, trial, result)

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        self.call("on_trial_error", trials, trial)

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        self.call("on_trial_remove", trials, trial)

    def call(self, name: str, *args: Any) -> Any:
        return getattr(self.inner, name)(*args)


class _Watching(_Passing):
    """Makes sure that a scheduler leaves everything as it was."""

    def call(self, name: str, *args: Any) -> Any:
        before = [_state(arg) for arg in args]
        answer = super().call(name, *args)
        assert [_state(arg) for arg in args] == before, f"{name} changed what it was shown"
        return answer


class _Copying(_Passing):
    """Works with another copy of the scheduler for each call."""

    def call(self, name: str, *args: Any) -> Any:
        self.inner = pickle.loads(pickle.dumps(self.inner))  # noqa: S301 - our own
        return super().call(name, *args)


def _state(shown: Any) -> Any:
    if isinstance(shown, Trial):
        return repr([getattr(shown, name) for name in Trial.__slots__])
    return [_state(each) for each in shown] if isinstance(shown, list) else repr(shown)
