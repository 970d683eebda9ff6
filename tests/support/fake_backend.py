"""A backend whose processes exist only in a test: they say, lose and outlive what the test wants, at its times."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tune_core as tune
from tune_core.callback import CallbackList
from tune_core.config.run_config import TuneConfig
from tune_core.control.attempts import Attempts
from tune_core.control.barrier import Barrier
from tune_core.control.controller import Controller
from tune_core.control.endings import Ended, Recovered, RunningAttempt
from tune_core.control.experiment import rules_of
from tune_core.control.loop import Backend, Loop
from tune_core.control.messages import (
    Command,
    Event,
    ExperimentStarted,
    StartAttempt,
    TrialReported,
    describe,
)
from tune_core.control.policy import Policy
from tune_core.control.resume import Replay
from tune_core.control.watchers import Watchers
from tune_core.states import Decision, Outcome
from tune_core.storage.commit import CheckpointMarker
from tune_core.testing.replay import replay
from tune_core.training.uplink import Message
from tune_core.trial import Trial

#: Makes an experiment that has begun: see the fixture of this name.
ABackend = Callable[..., "FakeBackend"]


@dataclass(eq=False)
class FakeProcess:
    """A process in one place."""

    nodes: frozenset[str]
    is_used: bool


class FakeJournal:
    """A journal in memory, which refuses when a test says so."""

    def __init__(self) -> None:
        self.records: list[tuple[Event, tuple[str, ...]]] = []
        self.urgent: list[Event] = []
        self.error: Exception | None = None
        self.num_seals = 0

    def append(self, event: Event, commands: Sequence[Command], *, urgent: bool = False) -> None:
        if self.error is not None:
            raise self.error
        self.records.append((event, tuple(map(describe, commands))))
        if urgent:
            self.urgent.append(event)

    def seal(self, last: Callable[[], Event | None]) -> None:
        self.num_seals += 1


class FakeBackend(Backend):
    """One experiment that runs on it.

    Args:
        tune_config: How to search; as many trials as `num_samples`.
        slots: How many attempts run at once.
        callbacks: The user's.
        **run_options: Of `RunConfig`.

    Attributes:
        time: What both clocks say.
        items: What happens next.
        unheard: What lies in the channel when it is drained.
        sent: What trials were told: trial number, attempt, kind, content.
        done: What was done to processes and for the eyes of users: (what, trial number, attempt, …).
        errors: Raised, once each, where the method of this name is called.
    """

    def __init__(
        self,
        tune_config: TuneConfig | None = None,
        *,
        slots: int = 2,
        callbacks: Sequence[tune.Callback] = (),
        saves_on_request: bool = False,
        **run_options: Any,
    ) -> None:
        self.time = 0.0
        self.items: deque[Any] = deque()
        self.unheard: deque[Message] = deque()
        self.sent: list[tuple[Any, ...]] = []
        self.done: list[tuple[Any, ...]] = []
        self.errors: dict[str, Exception] = {}
        self.node = "node-a"
        self.uses_processes_again = False
        self._slots, self._waiting = slots, deque[StartAttempt]()
        tuning, run_config = tune_config or TuneConfig(), tune.RunConfig(**run_options)
        policy = Policy(
            tuning,
            run_config.stop,
            {},
            lambda config: None,
            "train",
            saves_on_request=saves_on_request,
            wall_clock=self.now,
        )
        self.policy = policy
        self.rules = rules_of(
            "a1b2c",
            run_config,
            policy.max_concurrent,
            tuning.objective,
            saves_on_request=saves_on_request,
            resumes_first=policy.resumes_first,
        )
        self.controller = Controller(self.rules)
        self.journal, users = FakeJournal(), CallbackList(callbacks)
        self.users = users
        self.loop = Loop(
            Replay(self.controller, policy).state,
            policy,
            self.journal,
            self,
            watchers=Watchers(policy.stopper, users),
            callbacks=users,
            wall_clock=self.now,
        )
        self.attempts = Attempts(self.loop, self, run_config, Barrier(users))

    def begin(self) -> FakeBackend:
        """Begin the experiment; return it."""
        self.loop.apply(ExperimentStarted(self.time, self._slots))
        return self

    # What happens.

    def say(self, kind: str, *content: Any, trial: int = 0, attempt_number: int | None = None) -> None:
        """Have the latest attempt at a trial, or this one, say something."""
        self.loop.take(self.message(kind, *content, trial=trial, attempt_number=attempt_number))

    def message(self, kind: str, *content: Any, trial: int = 0, attempt_number: int | None = None) -> Message:
        """Return what an attempt says."""
        attempt_number = self.trial(trial).attempt_number if attempt_number is None else attempt_number
        return Message(self.id(trial), attempt_number, kind, list(content))

    def hello(self, trial: int = 0, attempt_number: int | None = None) -> None:
        """Have an attempt connect."""
        self.say("hello", 1, "host", "127.0.0.1", trial=trial, attempt_number=attempt_number)

    def row(
        self,
        iteration: int,
        trial: int = 0,
        *,
        checkpoint: int | None = None,
        waits: bool = True,
        attempt_number: int | None = None,
        **metrics: Any,
    ) -> None:
        """Have an attempt report."""
        row = row_of(iteration, **metrics)
        self.say("row", iteration, checkpoint, waits, row, trial=trial, attempt_number=attempt_number)

    def last_word(
        self,
        outcome: Outcome = Outcome.COMPLETED,
        error: str | None = None,
        *,
        trial: int = 0,
        attempt_number: int | None = None,
        iteration: int = 0,
        index: int = -1,
        retryable: bool = True,
        leaves: str = "nothing",
    ) -> None:
        """Have an attempt say how it ended, and up to which report and checkpoint it has said all."""
        content = (str(outcome), error, "", retryable, leaves, iteration, index)
        self.say("end", *content, trial=trial, attempt_number=attempt_number)

    def attempt(self, trial: int = 0) -> RunningAttempt:
        """Return the latest attempt at a trial."""
        return self.attempts.running[self.id(trial), self.trial(trial).attempt_number]

    def found(self, *markers: CheckpointMarker, rows: dict[int, dict[str, Any]] | None = None) -> None:
        """Find out what the attempt that ended first has left on the storage and on its node."""
        index = next(number for number, what in enumerate(self.done) if what[0] == "recover")
        self.loop.take(Recovered(self.done.pop(index)[3], markers, rows or {}))

    def wait(self, seconds: float) -> None:
        """Let time pass, and the loop look at what is due."""
        self.time += seconds
        self.loop.look(self.time)

    # What is seen.

    def id(self, number: int) -> str:
        """Return the id of a trial."""
        return f"a1b2c_{number:05d}"

    def trial(self, number: int = 0) -> Trial:
        """Return a trial."""
        return self.controller.trials[self.id(number)]

    def told(self, kind: str) -> list[tuple[Any, ...]]:
        """Return what trials were told of this kind."""
        return [
            (trial, attempt_number, *content)
            for trial, attempt_number, said, *content in self.sent
            if said == kind
        ]

    def what(self, *kinds: str) -> list[tuple[Any, ...]]:
        """Return what was done of these kinds: (kind, trial number, attempt)."""
        return [done[:3] for done in self.done if done[0] in kinds]

    def events(self, kind: type[Event]) -> list[Any]:
        """Return the events of this kind in the journal."""
        return [event for event, _ in self.journal.records if isinstance(event, kind)]

    @property
    def iterations(self) -> list[tuple[int, int]]:
        """The reports in the journal: trial number, iteration."""
        return [(_number(event.trial_id), event.iteration) for event in self.events(TrialReported)]

    def check_replay(self) -> None:
        """Replay the journal.

        Raises:
            AssertionError: It leads elsewhere.
        """
        again = replay(self.journal.records, self.rules)
        for trial_id, trial in self.controller.trials.items():
            other = again.trials[trial_id]
            assert (other.status, other.attempt_number, other.iteration) == (
                trial.status,
                trial.attempt_number,
                trial.iteration,
            )

    # What the loop orders.

    def now(self) -> float:
        return self.time

    @property
    def is_busy(self) -> bool:
        return bool(self.attempts.running)

    def receive(self, until: float) -> Iterable[Any]:
        if not self.items:
            self.time = max(self.time, until)
            assert self.time < 1e9, "nothing happens any more"
            return ()
        item = self.items.popleft()
        return (item,)

    def start(self, trial: Trial, order: StartAttempt) -> None:
        self._note("start", trial.trial_id, order.attempt_number)
        self._waiting.append(order)
        self.fill()

    def stop(self, trial: Trial, attempt_number: int) -> None:
        self.attempts.stop(trial, attempt_number)

    def answer(self, trial: Trial, decision: Decision) -> None:
        self.attempts.answer(trial, decision)

    def delete_checkpoint(self, trial: Trial, index: int) -> None:
        self._note("delete", trial.trial_id, index)

    def look(self, now: float) -> None:
        self.attempts.look(now)

    def abandon(self, error: Exception) -> None:
        self.attempts.abandon()

    def decided(
        self,
        trial: Trial,
        row: dict[str, Any],
        result: dict[str, Any],
        decision: Decision,
        checkpoint: int | None,
    ) -> tuple[dict[str, Any], int | None]:
        self.users.on_trial_result(self.loop.turn, self.loop.trials, trial, result)
        return trial.row_of(result), checkpoint

    def show_report(
        self, trial: Trial, checkpoint: int | None, row: dict[str, Any], result: dict[str, Any]
    ) -> None:
        self._note("show", trial.trial_id, trial.attempt_number, len(self.sent))

    def completed(self, trial: Trial, *, failed: bool) -> None:
        self._note("completed", trial.trial_id, failed)

    def ended(self) -> None:
        self.done.append(("ended", None, None))

    # What the rules of attempts order.

    def send(self, trial_id: str, attempt_number: int, *content: Any) -> None:
        self.sent.append((_number(trial_id), attempt_number, *content))

    def drain(self) -> Iterable[Message]:
        while self.unheard:
            yield self.unheard.popleft()

    def cancel(self, trial_id: str, attempt_number: int) -> bool:
        before = len(self._waiting)
        self._waiting = deque(each for each in self._waiting if each.trial_id != trial_id)
        return len(self._waiting) < before

    def forget(self, trial_id: str) -> None:
        self._note("forget", trial_id, None)

    def order_again(self, order: StartAttempt) -> None:
        self._note("order again", order.trial_id, order.attempt_number)
        self._waiting.append(order)
        self.fill()

    def kill(self, attempt: RunningAttempt) -> None:
        self._note("kill", *attempt.key)

    def will_end(self, attempt: RunningAttempt, outcome: Outcome, text: str) -> None:
        pass  # there is no recorder to be told

    def free(self, attempt: RunningAttempt) -> None:
        self._note("free", *attempt.key, str(attempt.leaves))

    def ending(self, attempt: RunningAttempt) -> None:
        self._note("ending", *attempt.key)

    def fill(self) -> None:
        while self._waiting and len(self.attempts.running) < self._slots:
            order = self._waiting.popleft()
            process = FakeProcess(frozenset({self.node}), self.uses_processes_again)
            self.attempts.add(
                RunningAttempt(
                    order,
                    process,
                    journaled=order.iteration,
                    rules=dict(self.policy.local_stop),
                    started=self.time,
                    heard=self.time,
                )
            )

    def end_task_run(self, attempt: RunningAttempt, outcome: Outcome, text: str) -> None:
        self._note("end task run", *attempt.key, outcome, text)

    def cancel_task_run(self, attempt: RunningAttempt, message: str) -> None:
        self._note("cancel task run", *attempt.key, message)

    def recover(self, ended: Ended, dirname: str) -> None:
        self._note("recover", ended.trial_id, ended.attempt_number, ended)

    def begun(self, trial: Trial) -> None:
        self._note("begun", trial.trial_id, trial.attempt_number)

    def over(self, trial: Trial, ended: Ended, *, goes_on_after_failure: bool) -> None:
        self._note("over", trial.trial_id, ended.attempt_number, goes_on_after_failure)

    def _note(self, kind: str, trial_id: str, *details: Any) -> None:
        if kind in self.errors:
            raise self.errors.pop(kind)
        self.done.append((kind, _number(trial_id), *details))


def _number(trial_id: str) -> int:
    return int(trial_id.rpartition("_")[2])


def row_of(iteration: int, **metrics: Any) -> dict[str, Any]:
    """Return a row with what each row has."""
    return {
        "loss": 1.0 / iteration,
        "training_iteration": iteration,
        "timestamp": 0,
        "done": False,
        "iterations_since_restore": iteration,
    } | metrics


def marker_of(index: int, attempt_number: int, iteration: int, *rows: dict[str, Any]) -> CheckpointMarker:
    """Return the marker of a checkpoint that came with the last of these rows."""
    return CheckpointMarker(index, attempt_number, iteration, "id", (), rows or (row_of(iteration),))
