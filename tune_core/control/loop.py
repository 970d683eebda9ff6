"""The one loop of an experiment: it handles an event, journals it, and carries out the commands that follow.

What runs trials is a `Backend`: processes of a cluster, threads, or functions on a virtual clock. What holds for
all of them is here: the order of things, reports, time budgets, searchers that have nothing to suggest, the end.
ControllerConfig for processes that may be late, silent or dead are in `tune_core.control.attempts`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tune_core.callback import CallbackList
from tune_core.control.messages import (
    Answer,
    AttemptEnded,
    CapacityChanged,
    CheckpointSaved,
    ChoosePaused,
    Command,
    CompleteTrial,
    DeleteCheckpoint,
    EndExperiment,
    Event,
    ExperimentResumed,
    ExperimentStarted,
    SearchRetried,
    StartAttempt,
    StopAttempt,
    StopRequested,
    Suggest,
    TrialReported,
    TrialSuggested,
)
from tune_core.control.policy import Policy, SearchPauses
from tune_core.control.resume import unreported
from tune_core.control.state import ExperimentState
from tune_core.control.watchers import Watchers
from tune_core.resources import PlacementGroupFactory
from tune_core.states import Decision, ExploitChoice, Outcome, StopCause
from tune_core.storage.commit import CheckpointMarker
from tune_core.trial import AttemptPhase, Trial

#: A rest that rounding leaves, in amounts times seconds.
_SMALL_COST = 1e-6


class EventLog(Protocol):
    """Keeps events: see `tune_core.control.journal.Journal`."""

    def append(self, event: Event, commands: Sequence[Command], *, urgent: bool = False) -> None:
        """Take an event, and the commands that followed."""

    def seal(self, last: Callable[[], Event | None]) -> None:
        """End the group of events that waits, if it is due, with the event that `last` returns."""


class Hooks:
    """What a backend may want to see besides what it has to do."""

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be waited for when the experiment has ended."""
        return False

    def look(self, now: float) -> None:
        """Do what is due by itself; called in each step."""

    def abandon(self, error: Exception) -> None:
        """Kill what runs: the experiment cannot go on."""

    def noted(self, event: Event, commands: Sequence[Command]) -> None:
        """Take note of an event that was journaled, before its commands are carried out."""

    def decided(
        self,
        trial: Trial,
        row: dict[str, Any],
        result: dict[str, Any],
        decision: Decision,
        checkpoint: int | None,
    ) -> tuple[dict[str, Any], int | None]:
        """Take note of a decision before it is journaled; return the row and the checkpoint to journal."""
        return row, checkpoint

    def show_report(
        self, trial: Trial, checkpoint: int | None, row: dict[str, Any], result: dict[str, Any]
    ) -> None:
        """Show a report that was journaled to those who have no say in it."""

    def show_checkpoint(self, trial: Trial, index: int) -> None:
        """Show a checkpoint that was committed after its report."""

    def completed(self, trial: Trial, *, failed: bool) -> None:
        """Take note that a trial is over."""

    def ended(self) -> None:
        """Take note that the experiment has ended."""


class Backend(Hooks, ABC):
    """Runs attempts, and says what happens to them."""

    @abstractmethod
    def now(self) -> float:
        """Return seconds on a clock that does not go back."""

    @abstractmethod
    def receive(self, until: float) -> Iterable[Any]:
        """Wait for what happens next, until this time at most; return it. Each item has a taker in the loop."""

    @abstractmethod
    def start(self, trial: Trial, order: StartAttempt) -> None:
        """Start an attempt as soon as there is room."""

    @abstractmethod
    def stop(self, trial: Trial, attempt_number: int) -> None:
        """Stop an attempt, wherever it is."""

    @abstractmethod
    def answer(self, trial: Trial, decision: Decision) -> None:
        """Answer the latest report of a trial, whose attempt is to end."""

    @abstractmethod
    def delete_checkpoint(self, trial: Trial, index: int) -> None:
        """Remove a checkpoint that nothing needs any more."""


class Loop:
    """Turns what happens into events, and commands into what the backend does.

    Args:
        state: What the events before have come to; only the loop applies new ones.
        policy: Is asked what to run, and what becomes of it.
        journal: Keeps events.
        backend: Runs attempts.
        watchers: What stoppers and callbacks have counted is journaled with each group of events.
        callbacks: Called at the beginning and end of each step.
        wall_clock: Seconds since the epoch, for events.

    Attributes:
        trials: All trials in creation order, for reading.
        takers: What takes each item that the backend receives, by the item's class.
        turn: Counts steps, for callbacks.
        end: How the experiment has ended; None: it has not.
        failure: Why it cannot go on; None: it can.
    """

    def __init__(
        self,
        state: ExperimentState,
        policy: Policy,
        journal: EventLog,
        backend: Backend,
        *,
        watchers: Watchers,
        callbacks: CallbackList,
        wall_clock: Callable[[], float],
    ) -> None:
        self.state, self.policy, self.trials = state, policy, state.trials
        self.controller = state.controller
        self.wall_clock = wall_clock
        self.takers: dict[type, Callable[[Any], object]] = {StopRequested: self.apply}
        self.turn = 0
        self.end: EndExperiment | None = None
        self.failure: Exception | None = None
        self._deadline, self._budget = math.inf, ""
        self._cost, self._cost_limits = "", dict[str, float]()  # in amounts times seconds
        self.backend, self._journal = backend, journal
        self._watchers, self._callbacks = watchers, callbacks
        self._sees_steps = callbacks.listens("on_step_begin") or callbacks.listens("on_step_end")
        self._pauses = SearchPauses()
        self._commands: deque[Command] = deque()
        self._actions: dict[type[Command], Callable[[Any], None]] = {
            Suggest: self._suggest,
            ChoosePaused: self._choose_paused,
            StartAttempt: self._start,
            Answer: self._answer,
            StopAttempt: self._stop,
            DeleteCheckpoint: self._delete_checkpoint,
            CompleteTrial: self._complete_trial,
            EndExperiment: self._end,
        }

    def limit_time(self, budget: str, left_s: float) -> None:
        """Stop the experiment in so many seconds, since this budget is used up then."""
        self._budget, self._deadline = budget, self.backend.now() + max(0.0, left_s)

    def limit_cost(self, budget: str, limits: dict[str, float]) -> None:
        """Stop the experiment once attempts have taken so much of a resource, all that ran before included.

        Args:
            budget: What an end names as its reason.
            limits: Amounts times seconds, by resource.
        """
        self._cost, self._cost_limits = budget, limits

    def _cost_due(self) -> float:
        """When a limit of the cost will be reached, if nothing begins or ends before; infinity: it will not."""
        usage = self.state.usage
        if not self._cost_limits or self.controller.stop_request is not None:
            return math.inf
        used = usage.at(self.wall_clock())
        left = [
            max(0.0, limit - used[name]) / usage.rate[name]
            for name, limit in self._cost_limits.items()
            if usage.rate[name]
        ]
        return self.backend.now() + min(left, default=math.inf)

    def _look_at_cost(self) -> None:
        used = self.state.usage.at(self.wall_clock())
        for name, limit in self._cost_limits.items():
            if used[name] >= limit - _SMALL_COST:
                hours = used[name] / 3600.0
                self.stop_all(StopCause.COST, f"{self._cost} is used up: {hours:.4g} {name} hours")

    def run(self) -> EndExperiment:
        """Take what the backend receives until the experiment has ended; return how it has.

        Raises:
            Exception: What `fail` was given.
        """
        backend = self.backend
        self.look(backend.now())
        while self.end is None or backend.is_busy:
            self._begin_step()
            for item in backend.receive(min(self._deadline, self._pauses.due, self._cost_due())):
                self.takers[type(item)](item)
            self.look(backend.now())
            self._end_step()
        if self.failure is not None:
            raise self.failure
        return self.end

    @contextmanager
    def step(self) -> Iterator[None]:
        """Make what is done meanwhile a step, for a backend that does not wait for `run` to receive it."""
        self._begin_step()
        yield
        self._end_step()

    def _begin_step(self) -> None:
        if self._sees_steps:
            self._callbacks.on_step_begin(self.turn, self.trials)

    def _end_step(self) -> None:
        """Let callbacks know that a step is over, and end the group of events that is due after it."""
        self.turn += 1
        if self._sees_steps:
            self._callbacks.on_step_end(self.turn, self.trials)
        self._journal.seal(self._watchers.news)

    def take(self, item: Any) -> None:
        """Hand an item that the backend has received to its taker."""
        self.takers[type(item)](item)

    def look(self, now: float) -> None:
        """Do what is due by itself."""
        if now >= self._deadline:
            self._deadline = math.inf
            self.stop_all(StopCause.TIME_BUDGET, f"{self._budget} is used up")
        if self._cost_limits:
            self._look_at_cost()
        while self._pauses.is_over(
            self.controller.waits_for_search, now
        ):  # once; then it knows the next time
            self.apply(SearchRetried(self.wall_clock()))
        self.backend.look(now)

    def apply(self, event: Event) -> None:
        """Let the controller handle an event, journal it, and do what follows from it."""
        commands = self.state.apply(event)
        if isinstance(event, (ExperimentStarted, ExperimentResumed, CapacityChanged)):
            self.policy.note_cluster(event)
        self._journal.append(event, commands, urgent=event.is_urgent)
        if isinstance(event, TrialSuggested):
            self.policy.add(self.trials, self.trials[-1])
        self.backend.noted(event, commands)
        if not commands:
            return
        is_acting = self.is_acting  # an action's own events wait until it is done
        self._commands.extend(commands)
        while self._commands and not is_acting:
            self._actions[type(self._commands[0])](self._commands[0])
            self._commands.popleft()

    @property
    def is_acting(self) -> bool:
        """Whether commands are being carried out, or have failed to be."""
        return bool(self._commands)

    def stop_all(self, cause: StopCause, reason: str) -> None:
        """Stop the experiment cleanly; nothing happens if it has been told to stop."""
        if self.controller.stop_request is None and not self.controller.has_ended:
            self.apply(StopRequested(self.wall_clock(), cause, reason))

    def look_at_stop_all(self) -> None:
        """Stop the experiment if a stopper says so."""
        if self.policy.stopper is not None and self.policy.wants_all_stopped():
            self.stop_all(StopCause.STOPPER, "a stopper ended the experiment (stop_all)")

    def fail(self, error: Exception) -> None:
        """Give up cleanly: without its journal or its storage the experiment cannot go on."""
        if self.failure is None:
            self.failure = error
            self.backend.abandon(error)
            self.end = EndExperiment(str(error))

    # What trials report and commit: everybody who has to see it sees it, in the same order.

    def report(
        self,
        trial: Trial,
        iteration: int,
        checkpoint: int | None,
        row: dict[str, Any],
        answer: Callable[[], None] | None = None,
    ) -> None:
        """Take a report of a trial's live attempt.

        Args:
            trial: Whose it is.
            iteration: The number of it.
            checkpoint: The index of the checkpoint that came with it; None: none did.
            row: What was reported.
            answer: Called once the report waits for the journal, and before others see it: the trial may go on.
        """
        result = trial.result_of(row)
        decision, chosen = self.policy.decide(self.trials, trial, row, result, checkpoint)
        row, checkpoint = self.backend.decided(trial, row, result, decision, checkpoint)
        now = self.wall_clock()
        exploit = chosen if isinstance(chosen, ExploitChoice) else None
        resources = chosen.to_dict() if isinstance(chosen, PlacementGroupFactory) else None
        whose = (trial.trial_id, trial.attempt_number)
        self.apply(TrialReported(now, *whose, iteration, row, checkpoint, decision, exploit, resources))
        if answer is not None:
            answer()
        self.backend.show_report(trial, checkpoint, row, result)
        if self.policy.stopper is not None:
            self.look_at_stop_all()

    def end_attempt(
        self,
        trial_id: str,
        attempt_number: int,
        outcome: Outcome,
        error: str | None = None,
        traceback: str = "",
        retryable: bool = True,
    ) -> None:
        """Take up that an attempt is over; after a death, the next one may get other bundles."""
        trial = self.controller.live_trial(trial_id, attempt_number)
        rules, resources = self.controller.rules.resources_after, None
        if trial is not None and rules and retryable and trial.phase is not AttemptPhase.STOPPING:
            wanted = self.policy.reallocation.after_death(trial, rules, outcome, error)
            resources = wanted.to_dict() if wanted is not None else None
        how = (outcome, error, traceback, retryable, resources)
        self.apply(AttemptEnded(self.wall_clock(), trial_id, attempt_number, *how))

    def add_checkpoint(self, trial_id: str, attempt_number: int, iteration: int, index: int) -> None:
        """Take up a checkpoint that was committed after its row had been sent."""
        trial = self.controller.live_trial(trial_id, attempt_number)
        if trial is None or iteration > trial.iteration or index <= trial.last_checkpoint_index:
            return  # out of date, known, or to be said again after the rows before it
        self.apply(CheckpointSaved(self.wall_clock(), trial_id, attempt_number, iteration, index))
        self.backend.show_checkpoint(trial, index)

    def recover(
        self,
        trial: Trial,
        markers: Sequence[CheckpointMarker],
        rows: Mapping[int, dict[str, Any]] | None = None,
    ) -> None:
        """Take up what these markers carry and nobody has heard of, and rows without a checkpoint between them."""
        for iteration, index, row in unreported(markers, trial):
            self._recover_rows(trial, rows or {}, until=iteration)
            if row is not None:
                self.report(trial, iteration, index, row)
            elif index is not None:
                self.add_checkpoint(trial.trial_id, trial.attempt_number, iteration, index)
        self._recover_rows(trial, rows or {})

    def _recover_rows(
        self, trial: Trial, rows: Mapping[int, dict[str, Any]], until: int | None = None
    ) -> None:
        while (iteration := trial.iteration + 1) in rows and iteration != until:
            self.report(trial, iteration, None, rows[iteration])

    # What the controller orders.

    def _suggest(self, command: Suggest) -> None:
        self.apply(self.policy.suggest(command.trial_id, len(self.trials)))

    def _choose_paused(self, _: ChoosePaused) -> None:
        self.apply(self.policy.choose(self.trials))

    def _start(self, command: StartAttempt) -> None:
        self.backend.start(self.controller.trials[command.trial_id], command)

    def _answer(self, command: Answer) -> None:
        self.backend.answer(self.controller.trials[command.trial_id], command.decision)

    def _stop(self, command: StopAttempt) -> None:
        self.backend.stop(self.controller.trials[command.trial_id], command.attempt_number)

    def _delete_checkpoint(self, command: DeleteCheckpoint) -> None:
        self.backend.delete_checkpoint(self.controller.trials[command.trial_id], command.index)

    def _complete_trial(self, command: CompleteTrial) -> None:
        trial = self.controller.trials[command.trial_id]
        self.policy.complete(self.trials, trial)
        self.backend.completed(trial, failed=command.failed)

    def _end(self, command: EndExperiment) -> None:
        self.end = command
        self.backend.ended()
