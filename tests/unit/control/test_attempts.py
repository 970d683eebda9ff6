"""What trials in processes say, and what follows if it is late, doubled, lost, out of date or cannot be handled."""

from __future__ import annotations

import pytest

import tune_core as tune
from tests.support.fake_backend import ABackend, FakeBackend, marker_of, row_of
from tune_core.control.messages import AttemptEnded, AttemptStarted, CheckpointSaved
from tune_core.errors import ConfigError, StorageError
from tune_core.schedulers import ASHAScheduler
from tune_core.states import Outcome, StopCause
from tune_core.testing.schedulers import PausingScheduler
from tune_core.trial import Status

# Beginning.


def test_a_trial_runs_when_its_process_has_said_hello_and_not_before(a_backend: ABackend) -> None:
    backend = a_backend()
    assert backend.trial().status is Status.PENDING

    backend.hello()

    assert backend.trial().status is Status.RUNNING
    assert backend.what("begun") == [("begun", 0, 1)]


def test_a_process_that_connects_again_does_not_begin_again(a_backend: ABackend) -> None:
    backend = a_backend()

    backend.hello()
    backend.hello()

    assert len(backend.events(AttemptStarted)) == 1
    assert backend.what("begun") == [("begun", 0, 1)]


def test_a_process_of_an_attempt_that_is_over_is_told_to_stop(a_backend: ABackend) -> None:
    backend = a_backend(failure_config=tune.FailureConfig(max_failures=1))
    backend.hello()
    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "killed")
    backend.found()

    backend.hello(attempt_number=1)

    assert backend.told("stop") == [(0, 1, "stale")]
    assert backend.trial().attempt_number == 2


def test_an_attempt_that_was_stopped_before_it_was_connected_hears_so_when_it_is(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.loop.stop_all(StopCause.INTERRUPT, "Ctrl-C")
    assert backend.told("stop") == []

    backend.hello()

    assert backend.told("stop") == [(0, 1, "interrupt")]


def test_an_order_that_has_no_place_yet_is_withdrawn_at_once(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=2, slots=1)
    backend.hello()
    assert [trial.attempt_number for trial in backend.loop.trials] == [1, 1]

    backend.loop.stop_all(StopCause.INTERRUPT, "Ctrl-C")

    assert backend.trial(1).status is Status.PAUSED
    assert backend.told("stop") == [(0, 1, "interrupt")]
    assert [(event.trial_id[-1], event.outcome) for event in backend.events(AttemptEnded)] == [
        ("1", Outcome.STOPPED)
    ]


def test_a_process_learns_of_stop_rules_that_have_changed_since_it_began(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=2, stop={"training_iteration": 5})
    backend.hello()
    backend.policy.local_stop = {"training_iteration": 9}

    backend.attempts.send_rules()
    backend.hello(1)

    assert backend.told("rules") == [(0, 1, {"training_iteration": 9}), (1, 1, {"training_iteration": 9})]


# Reports.


def test_a_report_is_answered_before_it_is_shown_to_those_without_a_say(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.row(1)

    assert backend.told("decision") == [(0, 1, 1, "CONTINUE", False)]
    shown = next(done for done in backend.done if done[0] == "show")
    assert shown == ("show", 0, 1, 1)  # one message had been sent by then


def test_a_report_that_nobody_waits_for_is_not_answered(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.row(1, waits=False)

    assert backend.iterations == [(0, 1)]
    assert backend.told("decision") == []


def test_a_report_that_comes_twice_counts_once_and_is_answered_twice(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.row(1)
    backend.row(1)

    assert backend.iterations == [(0, 1)]
    assert backend.told("decision") == [(0, 1, 1, "CONTINUE", False)] * 2


def test_a_report_that_comes_again_hears_that_it_is_journaled(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.row(1)
    backend.row(2)
    backend.attempts.journaled({(backend.id(0), 1): 2})
    backend.sent.clear()

    backend.row(1)

    assert backend.sent == [(0, 1, "journaled", 2)]


def test_a_report_whose_forerunner_was_lost_waits_until_that_has_come_again(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.row(1)

    backend.row(3)
    assert backend.iterations == [(0, 1)]
    backend.row(2)
    backend.row(3)

    assert backend.iterations == [(0, 1), (0, 2), (0, 3)]


def test_a_report_of_an_attempt_that_is_over_counts_for_nothing(a_backend: ABackend) -> None:
    backend = a_backend(failure_config=tune.FailureConfig(max_failures=1))
    backend.hello()
    backend.row(1)
    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "killed")
    backend.found()
    backend.hello()

    backend.row(2, attempt_number=1)

    assert backend.iterations == [(0, 1)]
    assert backend.trial().iteration == 0
    assert backend.told("stop") == [(0, 1, "stale")]


def test_a_report_of_nobody_is_told_to_stop(a_backend: ABackend) -> None:
    backend = a_backend()

    backend.say("row", 1, None, True, row_of(1), trial=7, attempt_number=1)

    assert backend.told("stop") == [(7, 1, "stale")]
    assert backend.iterations == []


def test_a_report_that_pauses_its_trial_is_answered_once(a_backend: ABackend) -> None:
    backend = a_backend(PausingScheduler(every=1))
    backend.hello()

    backend.row(1, checkpoint=0)

    assert backend.told("decision") == [(0, 1, 1, "PAUSE", False)]
    assert backend.attempt().stop_cause == "PAUSE"


def test_an_attempt_hears_why_it_is_to_leave_before_it_hears_that_it_is(a_backend: ABackend) -> None:
    scheduler = ASHAScheduler(metric="loss", mode="min", type="promotion")
    backend = a_backend(scheduler)
    backend.hello()

    backend.row(1, checkpoint=0)

    kinds = [kind for _, _, kind, *_ in backend.sent]
    assert kinds.index("reason") < kinds.index("decision")
    assert backend.told("reason") == [(0, 1, "Paused: rung 1, rank 1 of 1, had loss 1")]


def test_a_lost_answer_to_leave_is_said_again(a_backend: ABackend) -> None:
    backend = a_backend(PausingScheduler(every=1))
    backend.hello()
    backend.row(1, checkpoint=0)

    backend.row(1, checkpoint=0)

    assert backend.told("decision") == [(0, 1, 1, "PAUSE", False)] * 2


def test_journaled_rows_are_made_known_to_attempts_that_listen_and_no_others(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=2)
    backend.hello(0)
    backend.row(1)

    backend.attempts.journaled({(backend.id(0), 1): 1, (backend.id(1), 1): 0, ("stranger", 1): 5})

    assert backend.told("journaled") == [(0, 1, 1)]


# Checkpoints that come after their report.


def test_a_checkpoint_that_comes_twice_counts_once(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.row(1)

    backend.say("checkpoint", 1, 0)
    backend.say("checkpoint", 1, 0)

    assert [event.index for event in backend.events(CheckpointSaved)] == [0]


def test_a_checkpoint_ahead_of_its_report_waits_for_it(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.say("checkpoint", 1, 0)
    backend.row(1)
    assert backend.trial().checkpoints == []
    backend.say("checkpoint", 1, 0)

    assert [record.index for record in backend.trial().checkpoints] == [0]


# Last words.


def test_a_last_word_that_is_ahead_of_a_lost_report_waits_for_it(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.last_word(iteration=2)
    assert backend.told("released") == []
    backend.row(1)
    backend.row(2)
    backend.last_word(iteration=2)

    assert backend.told("released") == [(0, 1)]
    assert backend.trial().status is Status.TERMINATED


def test_a_last_word_that_is_ahead_of_a_lost_checkpoint_waits_for_it(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.row(1)

    backend.last_word(iteration=1, index=0)
    assert backend.trial().status is Status.RUNNING
    backend.say("checkpoint", 1, 0)
    backend.last_word(iteration=1, index=0)

    assert backend.trial().status is Status.TERMINATED


def test_a_last_word_that_comes_twice_is_answered_twice_and_ends_its_trial_once(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.last_word()
    backend.last_word()

    assert backend.told("released") == [(0, 1)] * 2
    assert len(backend.events(AttemptEnded)) == 1
    assert backend.what("completed") == [("completed", 0, False)]


def test_a_process_is_given_back_when_its_task_is_over_and_it_has_said_its_last_word(
    a_backend: ABackend,
) -> None:
    backend = a_backend(num_samples=2, slots=1)
    attempt = backend.attempt()
    backend.hello()

    backend.last_word(leaves="object")
    assert backend.what("free") == []
    backend.attempts.task_over(attempt, "", has_completed=True)

    assert [done for done in backend.done if done[0] == "free"] == [("free", 0, 1, "object")]
    assert backend.attempt(1).key == (backend.id(1), 1)


def test_a_last_word_after_the_end_of_its_task_is_in_time(a_backend: ABackend) -> None:
    backend = a_backend()
    attempt = backend.attempt()
    backend.hello()

    backend.attempts.task_over(attempt, "done", has_completed=True)
    backend.wait(9.0)
    backend.last_word()

    assert backend.trial().status is Status.TERMINATED
    assert backend.what("kill", "recover") == []


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.CORRUPTED])
def test_a_process_in_which_a_trial_has_failed_is_worn_whatever_it_says(
    a_backend: ABackend, outcome: Outcome
) -> None:
    backend = a_backend()
    backend.hello()

    backend.last_word(outcome, "ValueError: no", leaves="object")

    assert backend.attempt().leaves == "worn"


def test_a_failed_trial_ends_only_when_it_is_known_what_it_has_committed(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.last_word(Outcome.ERROR, "ValueError: no")
    assert backend.trial().status is Status.RUNNING
    backend.found()

    assert backend.trial().status is Status.ERROR
    assert backend.trial().error == "ValueError: no"


# Messages that cannot be handled.


def test_a_message_that_cannot_be_handled_fails_its_trial_and_no_other(a_backend: ABackend) -> None:
    backend = a_backend(num_samples=2)
    backend.hello(0)
    backend.hello(1)
    backend.errors["show"] = OverflowError("too large")

    backend.row(1)
    backend.row(1, 1)

    ((trial, attempt_number, error, traceback),) = backend.told("fail")
    assert (trial, attempt_number) == (0, 1)
    assert error == (
        "the driver could not handle the row of iteration 1 of this trial: OverflowError: too large"
    )
    assert "OverflowError" in traceback
    assert backend.iterations == [(0, 1), (1, 1)]


def test_what_a_failed_trial_says_after_that_does_not_count(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.errors["show"] = OverflowError("too large")
    backend.row(1)

    backend.row(2)
    backend.say("checkpoint", 1, 0)

    assert len(backend.told("fail")) == 3
    assert backend.iterations == [(0, 1)]
    assert backend.trial().checkpoints == []


def test_a_failed_trial_has_its_last_word_though_reports_before_it_were_never_heard(
    a_backend: ABackend,
) -> None:
    backend = a_backend()
    backend.hello()
    backend.errors["show"] = OverflowError("too large")
    backend.row(1)

    backend.last_word(Outcome.ERROR, "failed by the driver", iteration=9, retryable=False)
    backend.found()

    assert backend.trial().status is Status.ERROR
    assert backend.told("released") == [(0, 1)]


def test_a_failed_trial_that_does_not_leave_is_killed_and_its_fault_is_said(a_backend: ABackend) -> None:
    backend = a_backend(stop_timeout_s=5.0)
    backend.hello()
    backend.errors["show"] = OverflowError("too large")
    backend.row(1)

    backend.wait(5.0)
    backend.found()

    assert backend.what("kill") == [("kill", 0, 1)]
    assert backend.trial().error is not None
    assert "OverflowError: too large; it did not stop in time, so it was killed" in backend.trial().error


@pytest.mark.parametrize("error", [StorageError("full"), ConfigError("wrong"), OSError("no"), MemoryError()])
def test_an_error_that_would_hit_every_trial_is_the_experiments(
    a_backend: ABackend, error: Exception
) -> None:
    backend = a_backend()
    backend.hello()
    backend.errors["show"] = error

    with pytest.raises(type(error)):
        backend.row(1)

    assert backend.told("fail") == []


def test_an_error_of_the_users_callback_is_the_experiments(a_backend: ABackend) -> None:
    class Broken(tune.Callback):
        def on_trial_result(self, *args: object, **info: object) -> None:
            raise RuntimeError("the callback broke")

    backend = a_backend(callbacks=[Broken()])
    backend.hello()

    with pytest.raises(RuntimeError, match="the callback broke"):
        backend.row(1)


def test_what_follows_from_a_report_is_the_experiments_if_it_fails() -> None:
    backend = FakeBackend(checkpoint_config=tune.CheckpointConfig(num_to_keep=1)).begin()
    backend.hello()
    backend.row(1, checkpoint=0)
    backend.errors["delete"] = RuntimeError("the thread is gone")

    with pytest.raises(RuntimeError, match="the thread is gone"):
        backend.row(2, checkpoint=1)

    assert backend.told("fail") == []


def test_what_follows_from_a_last_word_is_the_experiments_if_it_fails() -> None:
    scheduler = PausingScheduler(every=1)
    backend = FakeBackend(tune.TuneConfig(scheduler=scheduler)).begin()
    backend.hello()
    backend.row(1, checkpoint=0)
    backend.errors["start"] = RuntimeError("no such place")

    with pytest.raises(RuntimeError, match="no such place"):
        backend.last_word(Outcome.STOPPED, iteration=1, index=0)


def test_bytes_that_cannot_be_decoded_fail_their_trial_and_those_of_nobody_do_nothing(
    a_backend: ABackend,
) -> None:
    backend = a_backend()
    backend.hello()

    backend.say("unreadable", RecursionError("too deep"), trial=7, attempt_number=1)
    backend.say("unreadable", RecursionError("too deep"))

    ((trial, _, error, _),) = backend.told("fail")
    assert trial == 0
    assert error.endswith("could not handle the unreadable of this trial: RecursionError: too deep")


def test_a_message_of_a_kind_that_nobody_knows_fails_its_trial(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()

    backend.say("greeting", 1, trial=7, attempt_number=1)
    backend.say("greeting", 1)

    ((trial, _, error, _),) = backend.told("fail")
    assert trial == 0
    assert error.endswith(
        "ValueError: expected one of row, checkpoint, hello, end, unreadable, got 'greeting'"
    )


def test_rows_that_were_left_behind_and_cannot_be_handled_fail_their_trial(a_backend: ABackend) -> None:
    backend = a_backend(failure_config=tune.FailureConfig(max_failures=-1))
    backend.hello()
    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "killed")
    backend.errors["show"] = OverflowError("too large")

    backend.found(rows={1: row_of(1)})

    assert backend.trial().status is Status.ERROR
    assert backend.trial().error == (
        "the driver could not handle what is left of this trial: OverflowError: too large"
    )


# What dead processes have left.


def test_reports_that_came_with_a_checkpoint_and_were_never_heard_count(a_backend: ABackend) -> None:
    backend = a_backend(failure_config=tune.FailureConfig(max_failures=1))
    backend.hello()
    backend.row(1)
    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "killed")

    backend.found(marker_of(0, 1, 3, row_of(2), row_of(3)))

    assert backend.iterations == [(0, 1), (0, 2), (0, 3)]
    assert backend.trial().attempt_number == 2
    assert backend.attempt().order.checkpoint == 0
    assert backend.attempt().order.iteration == 3


def test_rows_on_the_node_count_between_and_after_those_of_checkpoints(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.attempts.died(backend.attempt(), Outcome.CRASHED, "killed")

    rows = {number: row_of(number) for number in (1, 2, 3, 4, 6)}
    backend.found(marker_of(0, 1, 2, row_of(2)), rows=rows)

    assert backend.iterations == [(0, 1), (0, 2), (0, 3), (0, 4)]  # without 5, 6 is of no use
    assert [(record.index, record.iteration) for record in backend.trial().checkpoints] == [(0, 2)]


def test_what_an_earlier_attempt_has_committed_does_not_count_for_a_later_one(a_backend: ABackend) -> None:
    backend = a_backend(failure_config=tune.FailureConfig(max_failures=2))
    for _ in range(2):
        backend.hello()
        backend.attempts.died(backend.attempt(), Outcome.CRASHED, "killed")
        backend.found(marker_of(0, 7, 3, row_of(1), row_of(2), row_of(3)))

    assert backend.iterations == []
    assert backend.trial().attempt_number == 3


def test_what_is_found_out_too_late_changes_nothing(a_backend: ABackend) -> None:
    backend = a_backend()
    backend.hello()
    backend.last_word(Outcome.ERROR, "ValueError: no")
    again = next(done for done in backend.done if done[0] == "recover")
    backend.found()

    backend.done.append(again)
    backend.found(marker_of(0, 1, 1))

    assert backend.iterations == []
    assert len(backend.events(AttemptEnded)) == 1
