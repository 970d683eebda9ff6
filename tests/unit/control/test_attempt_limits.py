"""Until when an attempt may take, what its end is taken for if it cannot say so, and what becomes of its process."""

from __future__ import annotations

from typing import Any

import pytest

import tune_core as tune
from tests.support.fake_backend import ABackend, FakeBackend, marker_of, row_of
from tune_core.control.attempts import LAST_WORDS_TIMEOUT_S, TASK_END_TIMEOUT_S
from tune_core.control.messages import AttemptEnded, RelocationRequested
from tune_core.states import Outcome, StopCause
from tune_core.testing.schedulers import PausingScheduler
from tune_core.training.session import WINDOW
from tune_core.trial import Status


def outcome_of(backend: FakeBackend, number: int = 0) -> tuple[Outcome, str]:
    """Return how the last attempt ended whose storage is asked, and what is said of it."""
    ended = next(done[3] for done in reversed(backend.done) if done[:2] == ("recover", number))
    return ended.outcome, ended.error


# Time limits.


def test_a_trial_that_runs_for_too_long_is_killed(a_backend: ABackend) -> None:
    backend = a_backend(trial_timeout_s=60)
    backend.hello()

    backend.wait(60.0)
    assert backend.what("kill") == []
    backend.wait(0.5)
    backend.found()

    assert backend.what("kill", "end task run") == [("kill", 0, 1), ("end task run", 0, 1)]
    assert backend.trial().error == "the trial was killed: it ran for 60.5 s (RunConfig.trial_timeout_s=60)"


def test_a_trial_that_reports_in_time_is_not_killed_for_its_silence(a_backend: ABackend) -> None:
    backend = a_backend(report_timeout_s=10)
    backend.hello()

    for iteration in range(1, 5):
        backend.wait(9.0)
        backend.row(iteration)
    assert backend.what("kill") == []
    backend.wait(10.5)

    assert backend.what("kill") == [("kill", 0, 1)]
    assert outcome_of(backend) == (
        Outcome.TIMED_OUT,
        "the trial was killed: it did not report for 10.5 s (RunConfig.report_timeout_s=10)",
    )


def test_a_report_that_comes_again_is_no_sign_of_progress(a_backend: ABackend) -> None:
    backend = a_backend(report_timeout_s=10)
    backend.hello()
    backend.row(1)

    backend.wait(9.0)
    backend.row(1)
    backend.wait(2.0)

    assert backend.what("kill") == [("kill", 0, 1)]


def test_a_report_that_lies_unheard_saves_its_trial_from_a_slow_loop(a_backend: ABackend) -> None:
    backend = a_backend(report_timeout_s=10)
    backend.hello()
    backend.unheard.append(backend.message("row", 1, None, False, row_of(1)))

    backend.wait(60.0)

    assert backend.what("kill") == []
    assert backend.iterations == [(0, 1)]


def test_a_last_word_that_lies_unheard_saves_its_trial_from_a_slow_loop(a_backend: ABackend) -> None:
    backend = a_backend(trial_timeout_s=10)
    backend.hello()
    content = ("completed", None, "", True, "nothing", 0, -1)
    backend.unheard.append(backend.message("end", *content))

    backend.wait(60.0)

    assert backend.what("kill") == []
    assert backend.trial().status is Status.TERMINATED


def test_a_trial_that_waits_for_the_journal_is_not_killed_for_its_silence(a_backend: ABackend) -> None:
    backend = a_backend(report_timeout_s=10)
    backend.hello()
    for iteration in range(1, WINDOW + 1):
        backend.row(iteration, waits=False)

    backend.wait(11.0)
    assert backend.what("kill") == []
    backend.attempts.journaled({(backend.id(0), 1): WINDOW})
    backend.wait(11.0)

    assert backend.what("kill") == [("kill", 0, 1)]


def test_a_trial_that_was_told_to_leave_has_the_patience_for_that_and_no_other_limit(
    a_backend: ABackend,
) -> None:
    backend = a_backend(PausingScheduler(every=1), report_timeout_s=10, stop_timeout_s=100)
    backend.hello()
    backend.row(1, checkpoint=0)

    backend.wait(99.0)
    assert backend.what("kill") == []
    backend.wait(1.0)

    assert backend.what("kill") == [("kill", 0, 1)]


def test_an_attempt_waiting_to_begin_is_over_its_limit_too(a_backend: ABackend) -> None:
    backend = a_backend(trial_timeout_s=10)

    backend.wait(11.0)

    assert outcome_of(backend)[0] is Outcome.TIMED_OUT


def test_an_attempt_of_a_trial_has_the_whole_limit_again(a_backend: ABackend) -> None:
    backend = a_backend(trial_timeout_s=10, failure_config=tune.FailureConfig(max_failures=1))
    backend.hello()
    backend.wait(11.0)
    backend.found()
    backend.hello()

    backend.wait(9.0)

    assert backend.trial().status is Status.RUNNING
    assert backend.what("kill") == [("kill", 0, 1)]


# Patience with trials that are to stop.


def test_a_trial_that_stops_in_time_is_not_killed(a_backend: ABackend) -> None:
    backend = a_backend(stop_timeout_s=5)
    attempt = backend.attempt()
    backend.hello()
    backend.loop.stop_all(StopCause.INTERRUPT, "Ctrl-C")

    backend.wait(4.5)
    backend.last_word(Outcome.STOPPED)
    backend.attempts.task_over(attempt, "", has_completed=True)
    backend.wait(1.0)

    assert backend.what("kill", "free") == [("free", 0, 1)]
    assert backend.trial().status is Status.PAUSED


def test_a_trial_that_does_not_stop_is_killed_and_has_stopped(
    a_backend: ABackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend = a_backend(stop_timeout_s=5)
    backend.hello()
    backend.loop.stop_all(StopCause.INTERRUPT, "Ctrl-C")

    backend.wait(5.0)
    backend.found()

    assert backend.what("kill") == [("kill", 0, 1)]
    assert (backend.trial().status, backend.trial().num_failures) == (Status.PAUSED, 0)
    assert "did not stop within 5 s (RunConfig.stop_timeout_s): its process is killed" in caplog.text


def test_what_a_trial_has_committed_counts_even_if_it_is_killed_since_it_did_not_stop(
    a_backend: ABackend,
) -> None:
    backend = a_backend(stop_timeout_s=5)
    backend.hello()
    backend.loop.stop_all(StopCause.INTERRUPT, "Ctrl-C")
    backend.wait(5.0)

    backend.found(marker_of(0, 1, 1))

    assert backend.iterations == [(0, 1)]
    assert [record.index for record in backend.trial().checkpoints] == [0]


def test_patience_that_was_shortened_holds_for_who_is_told_after_that(a_backend: ABackend) -> None:
    backend = a_backend(stop_timeout_s=100)
    backend.hello()
    backend.attempts.stop_timeout_s = 2.0
    backend.loop.stop_all(StopCause.INTERRUPT, "SIGTERM")

    backend.wait(2.0)

    assert backend.what("kill") == [("kill", 0, 1)]


def test_a_process_that_does_not_end_after_its_last_word_is_killed_and_its_trial_has_ended_well(
    a_backend: ABackend,
) -> None:
    backend = a_backend()
    backend.hello()
    backend.last_word()

    backend.wait(TASK_END_TIMEOUT_S)

    assert backend.what("kill", "end task run", "recover") == [("kill", 0, 1), ("end task run", 0, 1)]
    assert backend.trial().status is Status.TERMINATED
    assert len(backend.events(AttemptEnded)) == 1


# Ends without a last word.


def end_silently(backend: FakeBackend, *, has_completed: bool, message: str = "") -> tuple[Outcome, str]:
    backend.attempts.task_over(backend.attempt(), message, has_completed=has_completed)
    backend.wait(LAST_WORDS_TIMEOUT_S)
    return outcome_of(backend)


def test_a_task_that_is_over_without_a_last_word_has_crashed_its_trial(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    assert end_silently(backend, has_completed=False, message="socket is gone") == (
        Outcome.CRASHED,
        "the task run ended without a last word of the trial: socket is gone",
    )
    assert backend.what("kill", "free") == [("kill", 0, 1)]


def test_a_task_that_is_over_before_its_trial_was_heard_is_lost(a_backend: ABackend) -> None:
    backend = a_backend()

    assert end_silently(backend, has_completed=False, message="too many open files") == (
        Outcome.LOST,
        "the task run ended before the trial began: too many open files",
    )


def test_a_task_that_has_completed_and_was_never_heard_has_crashed_its_trial(a_backend: ABackend) -> None:
    backend = a_backend()

    assert end_silently(backend, has_completed=True) == (
        Outcome.CRASHED,
        "nothing was heard of the trial, though its task run ended: no message",
    )


def test_the_place_of_a_process_without_a_last_word_is_filled_at_once(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=2, slots=1)
    backend.hello()

    end_silently(backend, has_completed=True)

    assert list(backend.attempts.running) == [(backend.id(1), 1)]


# Deaths.


def test_a_process_that_dies_fails_its_trial_when_its_storage_was_asked(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "SIGKILL")
    assert backend.trial().status is Status.RUNNING
    backend.found()

    assert backend.trial().error == "the trial's process died: SIGKILL"
    assert (backend.trial().num_failures, backend.trial().num_losses) == (1, 0)


def test_reports_that_lie_unheard_when_a_process_has_died_count(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.unheard.append(backend.message("row", 1, None, False, row_of(1)))

    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "SIGKILL")

    assert backend.iterations == [(0, 1)]


def test_a_process_that_dies_after_its_last_word_has_not_failed_its_trial(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    content = ("completed", None, "", True, "nothing", 0, -1)
    backend.unheard.append(backend.message("end", *content))

    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "SIGKILL")

    assert backend.trial().status is Status.TERMINATED
    assert backend.what("kill", "free", "recover") == [("kill", 0, 1)]


def test_a_trial_that_is_lost_with_its_node_has_not_failed(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.attempts.died(backend.attempt(), Outcome.LOST, "its node has died")
    backend.found()

    trial = backend.trial()
    assert (trial.status, trial.attempt_number) == (Status.PENDING, 2)
    assert (trial.num_failures, trial.num_losses) == (0, 1)
    assert ("over", 0, 1, True) in backend.done


def test_a_trial_that_is_lost_too_often_fails(a_backend: ABackend) -> None:
    backend = a_backend(failure_config=tune.FailureConfig(max_infrastructure_failures=1))
    for _ in range(2):
        backend.hello()
        backend.attempts.died(backend.attempt(), Outcome.LOST, "its node has died")
        backend.found()

    assert backend.trial().status is Status.ERROR
    assert str(backend.trial().error).endswith("(loss 2 in a row, max_infrastructure_failures=1)")


@pytest.mark.parametrize(("is_heard", "outcome"), [(False, Outcome.LOST), (True, Outcome.CRASHED)])
def test_an_attempt_that_its_process_could_not_begin_is_lost_unless_it_was_heard(
    a_backend: ABackend, *, is_heard: bool, outcome: Outcome
) -> None:
    backend = a_backend()
    if is_heard:  # as late as can be
        backend.unheard.append(backend.message("hello", 1, "host", "127.0.0.1"))

    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "OSError: [Errno 24]", has_begun=False)

    assert outcome_of(backend)[0] is outcome


# Places that are lost before an attempt begins.


def used(backend: FakeBackend) -> FakeBackend:
    """Let the attempt run in a process in which others have ended."""
    backend.attempt().process.is_used = True
    return backend


def test_an_attempt_whose_place_was_lost_before_it_began_costs_nothing(a_backend: ABackend) -> None:
    backend = used(a_backend())

    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "SIGKILL")
    assert backend.what("end task run") == []
    backend.found()

    assert backend.what("order again") == [("order again", 0, 1)]
    assert backend.events(AttemptEnded) == []
    backend.hello()
    assert backend.trial().status is Status.RUNNING


@pytest.mark.parametrize("what", ["a checkpoint", "a row"])
def test_an_attempt_that_has_left_something_had_begun_though_nothing_was_heard(
    a_backend: ABackend, what: str
) -> None:
    backend = used(a_backend())
    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "SIGKILL")

    found: dict[str, Any] = {"rows": {1: row_of(1)}} if what == "a row" else {}
    backend.found(*([marker_of(0, 1, 1)] if what == "a checkpoint" else []), **found)

    assert backend.what("order again") == []
    assert backend.what("end task run") == [("end task run", 0, 1)]
    assert backend.iterations == [(0, 1)]
    assert backend.trial().num_failures == 1


def test_an_attempt_whose_place_was_lost_is_not_begun_again_if_all_is_to_stop(a_backend: ABackend) -> None:
    backend = used(a_backend())
    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "SIGKILL")
    backend.loop.stop_all(StopCause.INTERRUPT, "Ctrl-C")

    backend.found()

    assert backend.what("order again") == []
    assert backend.trial().status is Status.PAUSED


def test_an_attempt_in_a_fresh_process_that_dies_unheard_has_failed(a_backend: ABackend) -> None:
    backend = a_backend()

    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "SIGKILL")
    backend.found()

    assert backend.trial().status is Status.ERROR


# Nodes that are about to go.


def test_a_trial_on_a_node_that_is_about_to_go_is_moved_when_it_has_saved(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.attempts.leave(frozenset({"node-a"}))
    backend.attempts.leave(frozenset({"node-a"}))
    backend.row(1)
    assert backend.attempt().stop_cause is None
    backend.row(2, checkpoint=0)

    assert len(backend.events(RelocationRequested)) == 1
    assert backend.told("decision")[-1] == (0, 1, 2, "PAUSE", False)


def test_a_moved_trial_goes_on_at_once_from_what_it_saved(a_backend: ABackend) -> None:
    backend = a_backend()
    attempt = backend.attempt()
    backend.hello()
    backend.attempts.leave(frozenset({"node-a"}))
    backend.row(1, checkpoint=0)

    backend.last_word(Outcome.STOPPED, iteration=1, index=0)
    backend.attempts.task_over(attempt, "", has_completed=True)

    assert (backend.attempt().order.attempt_number, backend.attempt().order.checkpoint) == (2, 0)


def test_a_trial_on_another_node_stays(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.attempts.leave(frozenset({"node-b"}))

    assert backend.events(RelocationRequested) == []


def test_a_trial_that_does_not_wait_for_decisions_is_told_to_move_by_a_stop() -> None:
    backend = FakeBackend(tune.TuneConfig(num_samples=1)).begin()
    backend.hello()
    backend.attempts.leave(frozenset({"node-a"}))

    backend.row(1, checkpoint=0, waits=False)

    assert backend.told("stop") == [(0, 1, "PAUSE")]
    assert backend.told("decision") == []
