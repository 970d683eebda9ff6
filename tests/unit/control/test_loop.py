"""The one loop: in which order things happen, what ends the experiment, and what fails it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import tune_core as tune
from tests.support.fake_backend import ABackend, FakeBackend, marker_of, row_of
from tune_core.control.messages import (
    AttemptEnded,
    CheckpointSaved,
    EndExperiment,
    SearchRetried,
    Steered,
    StopRequested,
    SuggestionDeferred,
    TrialReported,
    TrialSuggested,
)
from tune_core.errors import ExperimentConflict, StorageError
from tune_core.schedulers import FIFOScheduler, TrialScheduler
from tune_core.search import Searcher
from tune_core.states import Outcome, Steer, StopCause
from tune_core.stopper import Stopper
from tune_core.testing.schedulers import ExploitingScheduler, PausingScheduler
from tune_core.trial import Status, Trial


def run_to_end(backend: FakeBackend, number: int, outcome: Outcome = Outcome.COMPLETED) -> None:
    """Let what happens next be that a trial begins, says its last word and gives its process back."""
    attempt = backend.attempt(number)
    backend.hello(number)
    backend.last_word(outcome, trial=number)
    backend.attempts.task_over(attempt, "", has_completed=True)


# Order.


def test_an_events_commands_are_carried_out_after_it_is_in_the_journal(a_backend: ABackend) -> None:
    backend = a_backend()

    (event, commands) = next(
        record for record in backend.journal.records if isinstance(record[0], TrialSuggested)
    )

    assert commands[0].startswith("StartAttempt")
    assert backend.what("start") == [("start", 0, 1)]
    assert event.trial_id == backend.id(0)


def test_events_of_an_action_wait_until_it_and_those_ordered_before_are_done(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=3, slots=3)

    kinds = [type(event).__name__ for event, _ in backend.journal.records]

    assert kinds == ["ExperimentStarted", *["TrialSuggested"] * 3]
    assert backend.what("start") == [("start", 0, 1), ("start", 1, 1), ("start", 2, 1)]


def test_beginnings_and_ends_are_journaled_at_once_and_reports_are_not(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.row(1)
    backend.last_word(iteration=1)

    kinds = [type(event).__name__ for event in backend.journal.urgent]
    assert kinds == ["ExperimentStarted", "TrialSuggested", "AttemptEnded"]


def test_a_scheduler_knows_a_trial_before_it_starts() -> None:
    class Notes(FIFOScheduler):
        def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
            known.append((trial.trial_id, trials[-1] is trial, str(trial.phase)))

    known: list[tuple[str, bool, str]] = []
    backend = FakeBackend(tune.TuneConfig(scheduler=Notes()))
    backend.begin()

    assert known == [(backend.id(0), True, "starting")]
    assert backend.what("start") == [("start", 0, 1)]


def test_what_a_callback_adds_to_a_result_is_journaled(a_backend: ABackend) -> None:
    class Adds(tune.Callback):
        def on_trial_result(self, *args: object, result: dict[str, Any], **info: object) -> None:
            result["added"] = 7

    backend = a_backend(callbacks=[Adds()])
    backend.hello()
    backend.row(1)

    assert backend.events(TrialReported)[0].row["added"] == 7
    assert backend.trial().last_row["added"] == 7


def test_a_step_is_seen_by_callbacks_and_ends_with_the_group_of_its_events(a_backend: ABackend) -> None:
    class Steps(tune.Callback):
        def on_step_begin(self, iteration: int, *args: object, **info: object) -> None:
            seen.append(("begin", iteration, backend.journal.num_seals))

        def on_step_end(self, iteration: int, *args: object, **info: object) -> None:
            seen.append(("end", iteration, backend.journal.num_seals))

    seen: list[tuple[str, int, int]] = []
    backend = a_backend(callbacks=[Steps()])

    for _ in range(2):
        with backend.loop.step():
            backend.loop.look(0.0)

    assert seen == [("begin", 0, 0), ("end", 1, 0), ("begin", 1, 1), ("end", 2, 1)]


def test_an_item_that_nobody_takes_is_an_error(a_backend: ABackend) -> None:
    backend = a_backend()

    with pytest.raises(KeyError, match="str"):
        backend.loop.take("who knows")


# Ends.


def test_an_experiment_ends_when_every_trial_has_and_every_process_is_given_back(a_backend: ABackend) -> None:
    backend = a_backend()
    attempt = backend.attempt()
    backend.items.extend([backend.message("hello", 1, "host", "ip")])
    backend.items.append(backend.message("end", "completed", None, "", True, "nothing", 0, -1))
    backend.loop.takers[int] = lambda _: backend.attempts.task_over(attempt, "", has_completed=True)
    backend.items.append(1)

    end = backend.loop.run()

    assert end == EndExperiment("every trial is finished")
    assert backend.items == type(backend.items)()
    assert backend.what("ended", "free") == [("ended", None, None), ("free", 0, 1)]


def test_a_process_that_never_ends_does_not_keep_the_experiment_for_ever(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.last_word()
    backend.loop.limit_time("unused", 200.0)

    end = backend.loop.run()

    assert end.reason == "every trial is finished"
    assert backend.what("kill") == [("kill", 0, 1)]


def test_the_time_budget_ends_trials_as_they_are(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=2)
    backend.loop.limit_time("time_budget_s=60", 60.0)
    backend.hello()

    backend.wait(59.0)
    assert backend.events(StopRequested) == []
    backend.wait(1.0)
    backend.wait(1.0)
    backend.last_word(Outcome.STOPPED)
    backend.hello(1)
    backend.last_word(Outcome.STOPPED, trial=1)

    (request,) = backend.events(StopRequested)
    assert (request.cause, request.reason) == (StopCause.TIME_BUDGET, "time_budget_s=60 is used up")
    assert [trial.status for trial in backend.loop.trials] == [Status.TERMINATED] * 2
    assert backend.loop.end == EndExperiment("time_budget_s=60 is used up")


def test_a_time_budget_that_drivers_before_have_used_up_ends_the_experiment_at_once(
    a_backend: ABackend,
) -> None:
    backend = a_backend()
    backend.loop.limit_time("time_budget_s=60", -5.0)

    backend.loop.look(backend.now())

    assert [event.cause for event in backend.events(StopRequested)] == [StopCause.TIME_BUDGET]


def test_an_interrupt_leaves_trials_able_to_go_on_even_if_the_time_runs_out_meanwhile(
    a_backend: ABackend,
) -> None:
    backend = a_backend()
    backend.loop.limit_time("time_budget_s=60", 60.0)
    backend.hello()
    backend.items.append(StopRequested(0.0, StopCause.INTERRUPT, "Ctrl-C"))
    backend.loop.take(backend.items.popleft())

    backend.wait(61.0)
    backend.found()

    assert [event.cause for event in backend.events(StopRequested)] == [StopCause.INTERRUPT]
    assert backend.trial().status is Status.PAUSED
    assert backend.loop.end == EndExperiment("Ctrl-C")


def test_a_second_interrupt_changes_nothing(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    for _ in range(2):
        backend.loop.take(StopRequested(0.0, StopCause.INTERRUPT, "Ctrl-C"))

    assert backend.told("stop") == [(0, 1, "interrupt")]


def test_a_stopper_of_all_is_asked_after_each_report_and_once_it_has_said_so_no_more_is_journaled(
    a_backend: ABackend,
) -> None:
    class Second(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self.is_over = result["training_iteration"] >= 2
            return False

        def stop_all(self) -> bool:
            return getattr(self, "is_over", False)

    backend = a_backend(num_samples=2, stop=Second())
    backend.hello()
    backend.hello(1)

    backend.row(1)
    assert backend.events(StopRequested) == []
    backend.row(2)
    backend.row(1, 1)
    backend.row(2, 1)

    assert [event.cause for event in backend.events(StopRequested)] == [StopCause.STOPPER]
    assert backend.told("stop") == [(0, 1, "stopper"), (1, 1, "stopper")]


def test_the_first_failure_stops_the_others_if_that_is_wanted(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=2, failure_config=tune.FailureConfig(fail_fast=True))
    backend.hello()
    backend.hello(1)

    backend.last_word(Outcome.ERROR, "ValueError: no")
    backend.found()

    assert backend.told("stop") == [(1, 1, "fail_fast")]
    assert backend.what("completed") == [("completed", 0, True)]


# Failures of the experiment.


@pytest.mark.parametrize("error", [StorageError("403 denied"), ExperimentConflict("taken over")])
def test_an_experiment_whose_journal_cannot_be_written_kills_all_attempts_and_raises(
    a_backend: ABackend, error: Exception
) -> None:
    backend = a_backend(num_samples=2)
    backend.hello()
    backend.loop.takers[type(error)] = backend.loop.fail
    backend.items.append(error)

    with pytest.raises(type(error), match=str(error)):
        backend.loop.run()

    assert backend.what("kill") == [("kill", 0, 1), ("kill", 1, 1)]
    assert backend.what("cancel task run") == [("cancel task run", 0, 1), ("cancel task run", 1, 1)]
    assert backend.events(AttemptEnded) == []


def test_the_first_failure_is_raised_and_no_attempt_is_killed_twice(a_backend: ABackend) -> None:
    backend = a_backend()

    backend.loop.fail(StorageError("first"))
    backend.loop.fail(StorageError("second"))

    with pytest.raises(StorageError, match="first"):
        backend.loop.run()
    assert backend.what("kill") == [("kill", 0, 1)]


def test_nothing_is_carried_out_of_an_event_that_the_journal_refuses() -> None:
    backend = FakeBackend(tune.TuneConfig(scheduler=PausingScheduler(every=1))).begin()
    backend.hello()
    backend.journal.error = StorageError("closed")

    with pytest.raises(StorageError, match="closed"):
        backend.row(1, checkpoint=0)

    assert backend.told("decision") == backend.told("fail") == []


def test_an_action_that_raises_is_the_experiments_fault_and_what_was_to_follow_is_not_done() -> None:
    backend = FakeBackend(tune.TuneConfig(num_samples=2))
    backend.errors["start"] = RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        backend.begin()

    assert backend.loop.is_acting
    assert backend.what("start") == []


# Searchers and schedulers.


class Waits(Searcher):
    """Suggests one trial, and after that so often nothing as it was told, then it has finished."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.has_suggested = False

    def suggest(self, trial_id: str) -> Any:
        if not self.has_suggested:
            self.has_suggested = True
            return {}
        self.times -= 1
        return None if self.times >= 0 else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """It learns nothing."""


def waiting(times: int) -> FakeBackend:
    return FakeBackend(tune.TuneConfig(search_alg=Waits(times), num_samples=9)).begin()


def test_a_searcher_that_has_nothing_is_asked_again_when_a_trial_has_ended() -> None:
    backend = waiting(1)
    assert len(backend.events(SuggestionDeferred)) == 1

    run_to_end(backend, 0)

    assert backend.events(SearchRetried) == []
    assert backend.loop.end == EndExperiment("every trial is finished")


def test_a_searcher_that_has_nothing_while_nothing_runs_is_asked_after_longer_and_longer_pauses() -> None:
    backend = waiting(5)
    run_to_end(backend, 0)

    backend.loop.run()

    times = [event.time for event in backend.events(SearchRetried)]
    pauses = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8])
    backend.check_replay()


def test_a_searcher_that_has_nothing_is_not_asked_while_a_trial_runs() -> None:
    backend = waiting(2)
    backend.hello()

    for _ in range(50):
        backend.wait(10.0)

    assert backend.events(SearchRetried) == []


class Raises(Searcher):
    """Fails at its second suggestion."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def suggest(self, trial_id: str) -> Any:
        self.asked += 1
        if self.asked > 1:
            raise ZeroDivisionError("the searcher broke")
        return {}


def test_a_searcher_that_raises_ends_the_experiment() -> None:
    backend = FakeBackend(tune.TuneConfig(search_alg=Raises(), num_samples=2), slots=2)

    with pytest.raises(ZeroDivisionError, match="the searcher broke"):
        backend.begin()


def test_a_searcher_that_raises_after_a_last_word_is_not_blamed_on_the_trial() -> None:
    backend = FakeBackend(
        tune.TuneConfig(search_alg=Raises(), num_samples=2, max_concurrent_trials=1), slots=1
    )
    backend.begin()
    backend.hello()

    with pytest.raises(ZeroDivisionError, match="the searcher broke"):
        backend.last_word()

    assert backend.trial().status is Status.TERMINATED
    assert backend.told("fail") == []


def test_a_scheduler_that_raises_fails_the_trial_that_it_was_shown(a_backend: ABackend) -> None:
    class Breaks(TrialScheduler):
        def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
            raise ZeroDivisionError("no mean of nothing")

    backend = a_backend(Breaks())
    backend.hello()

    backend.row(1)

    assert backend.iterations == []
    assert "ZeroDivisionError: no mean of nothing" in backend.told("fail")[0][2]


def test_a_paused_trial_leaves_its_place_to_another_and_goes_on_from_what_it_saved(
    a_backend: ABackend,
) -> None:
    backend = a_backend(PausingScheduler(every=1), num_samples=2, slots=1)
    attempt = backend.attempt()
    backend.hello()
    backend.row(1, checkpoint=0)

    backend.last_word(Outcome.STOPPED, iteration=1, index=0)
    backend.attempts.task_over(attempt, "", has_completed=True)
    run_to_end(backend, 1)

    assert backend.trial(1).status is Status.TERMINATED
    assert (backend.attempt(0).order.attempt_number, backend.attempt(0).order.checkpoint) == (2, 0)


def test_a_trial_that_the_scheduler_has_paused_is_not_woken_by_who_had_paused_it_before_that(
    a_backend: ABackend,
) -> None:
    class Keeps(PausingScheduler):
        def choose_trial_to_run(self, trials: Sequence[Trial]) -> None:
            return None

    def steer(action: Steer) -> None:
        backend.loop.apply(Steered(0.0, f"{action} {len(backend.journal.records)}", action, backend.id(0)))

    backend = a_backend(Keeps(every=1), num_samples=2)
    steer(Steer.PAUSE)
    backend.last_word(Outcome.STOPPED)
    assert backend.trial().status is Status.PAUSED
    steer(Steer.RESUME)
    assert backend.trial().attempt_number == 2
    backend.attempts.running.clear()
    backend.fill()
    backend.hello()
    backend.row(1, checkpoint=0)
    backend.last_word(Outcome.STOPPED, iteration=1, index=0)

    steer(Steer.PAUSE)
    steer(Steer.RESUME)

    assert (backend.trial().status, backend.trial().attempt_number) == (Status.PAUSED, 2)


def test_a_checkpoint_that_another_trial_goes_on_from_is_not_deleted_before_it_has_saved(
    a_backend: ABackend,
) -> None:
    scheduler = ExploitingScheduler("loss", "min", every=2)
    backend = a_backend(scheduler, num_samples=2, checkpoint_config=tune.CheckpointConfig(num_to_keep=1))
    worse = backend.attempt(1)
    for number, loss in ((0, 0.1), (1, 9.0)):
        backend.hello(number)
        backend.row(1, number, checkpoint=0, loss=loss)
    backend.row(2, 1, checkpoint=1, loss=9.0)
    assert backend.attempt(1).stop_cause == "EXPLOIT"

    backend.row(2, 0, checkpoint=1, loss=0.1)
    assert ("delete", 0, 0) not in backend.done
    backend.last_word(Outcome.STOPPED, trial=1, iteration=2, index=1)
    backend.attempts.task_over(worse, "", has_completed=True)
    assert (backend.attempt(1).order.source, backend.attempt(1).order.checkpoint) == (backend.id(0), 0)
    backend.hello(1)
    backend.row(2, 1, checkpoint=2, loss=0.1)

    assert ("delete", 0, 0) in backend.done


# What nobody has heard of.


def test_recovery_takes_up_a_checkpoint_whose_report_is_known(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.row(1)

    backend.loop.recover(backend.trial(), [marker_of(0, 1, 1)])
    backend.loop.recover(backend.trial(), [marker_of(0, 1, 1)])

    assert [event.index for event in backend.events(CheckpointSaved)] == [0]
    assert backend.iterations == [(0, 1)]


def test_reports_that_are_recovered_are_decided_on_and_shown_like_any_other(a_backend: ABackend) -> None:
    backend = a_backend(PausingScheduler(every=2))
    backend.hello()

    backend.loop.recover(backend.trial(), [], {1: row_of(1), 2: row_of(2)})

    assert [event.decision for event in backend.events(TrialReported)] == ["CONTINUE", "PAUSE"]
    assert backend.what("show") == [("show", 0, 1)] * 2
