"""The controller under events in any order: what has to be true whatever happens."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    Answer,
    AttemptEnded,
    AttemptStarted,
    CapacityChanged,
    CheckpointSaved,
    ChoosePaused,
    Command,
    CompleteTrial,
    DeleteCheckpoint,
    EndExperiment,
    Event,
    ExperimentStarted,
    PausedChosen,
    RelocationRequested,
    SearchEnded,
    SearchRetried,
    SpecRecorded,
    StartAttempt,
    Steered,
    StopAttempt,
    StopRequested,
    Suggest,
    SuggestionDeferred,
    TrialReported,
    TrialSuggested,
    describe,
    event_from_dict,
    event_to_dict,
)
from tune_core.encoding import dumps, loads
from tune_core.states import Decision, ExploitChoice, Outcome, Steer, StopCause
from tune_core.testing.replay import replay
from tune_core.trial import AttemptPhase, Status, Trial

MAX_TRIALS = 4
RESUMABLE = (StopCause.INTERRUPT, StopCause.FAILURE)

rules = st.builds(
    ControllerConfig,
    st.just("a1b2c"),
    max_failures=st.sampled_from([0, 1, 3, -1, -1]),
    fail_fast=st.sampled_from(["no", "no", "yes", "raise"]),
    max_concurrent=st.sampled_from([None, None, 1, 3]),
    num_to_keep=st.sampled_from([None, 1, 1, 2]),
    score_attribute=st.sampled_from([None, "score"]),
    score_order=st.sampled_from(["min", "max"]),
    saves_on_request=st.booleans(),
    falls_back=st.booleans(),
    resumes_first=st.booleans(),
)
decisions = st.sampled_from(
    [*[Decision.CONTINUE] * 4, Decision.STOP, *[Decision.PAUSE] * 2, *[Decision.EXPLOIT] * 2]
)
scores = st.none() | st.sampled_from([math.nan, math.inf, -1.0, 0.0, 2])


class ControllerMachine(RuleBasedStateMachine):
    """A shell with a pool of slots, whose trials do whatever they like."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[tuple[Event, tuple[str, ...]]] = []
        self.attempt_events: list[Event] = []
        self.asked_for: str | None = None
        self.is_choice_asked = False
        self.suggested = 0
        #: What somebody has paused: trials, and perhaps all of them.
        self.held: set[str] = set()
        self.is_paused = False
        #: Leases that were ordered and have not ended, and those of them that have a slot.
        self.live: dict[str, int] = {}
        self.with_slot: set[str] = set()
        self.checkpoints: dict[str, set[int]] = {}
        #: Those of them that an attempt found damaged, and that had one before them.
        self.damaged: dict[str, set[int]] = {}
        #: Checkpoints of others that a trial needs: promised, then borrowed until it has saved itself.
        self.promised: dict[str, tuple[str, int]] = {}
        self.borrowed: dict[str, tuple[str, int]] = {}
        self.completed: dict[str, Status] = {}
        self.end: EndExperiment | None = None
        self.time = 0.0

    # What the controller orders.

    def send(self, event: Event) -> None:
        commands = self.controller.handle(event)
        self.history.append((event, tuple(map(describe, commands))))
        for command in commands:
            self.obey(command)

    def obey(self, command: Command) -> None:
        assert self.end is None
        match command:
            case Suggest(trial_id):
                assert self.asked_for is None
                assert self.controller.stop_request is None
                assert not self.is_paused
                assert trial_id not in self.controller.trials
                self.asked_for = trial_id
            case ChoosePaused():
                assert not self.is_choice_asked
                assert self.controller.stop_request is None
                assert not self.is_paused
                assert self.choosable()
                self.is_choice_asked = True
            case StartAttempt(trial_id, attempt_number, checkpoint, _, highest, source):
                assert trial_id not in self.live
                assert trial_id not in self.completed
                assert not self.is_paused
                assert trial_id not in self.held
                assert self.controller.stop_request is None
                known = self.checkpoints.setdefault(trial_id, set())
                assert checkpoint is None or checkpoint in self.checkpoints[source or trial_id]
                assert highest >= max(known, default=-1)
                if trial_id in self.promised:
                    self.borrowed[trial_id] = self.promised.pop(trial_id)
                if trial_id in self.borrowed:
                    assert (source or trial_id, checkpoint) == self.borrowed[trial_id]
                else:
                    assert source == ""
                    assert checkpoint == max(self.usable(trial_id), default=None)
                self.live[trial_id] = attempt_number
            case Answer(trial_id, attempt_number) | StopAttempt(trial_id, attempt_number):
                assert self.live[trial_id] == attempt_number
            case DeleteCheckpoint(trial_id, index):
                self.checkpoints[trial_id].remove(index)
                assert (trial_id, index) not in [*self.promised.values(), *self.borrowed.values()]
                assert self.usable(trial_id)
                assert index < max(self.usable(trial_id)) or index in self.damaged[trial_id]
            case CompleteTrial(trial_id, failed):
                assert trial_id not in self.completed
                status = self.controller.trials[trial_id].status
                assert status is (Status.ERROR if failed else Status.TERMINATED)
                self.completed[trial_id] = status
                self.promised.pop(trial_id, None)
                self.borrowed.pop(trial_id, None)
            case EndExperiment():
                assert not self.live
                assert not self.is_choice_asked
                assert self.asked_for is None
                self.end = command

    def usable(self, trial_id: str) -> set[int]:
        return self.checkpoints.get(trial_id, set()) - self.damaged.get(trial_id, set())

    # What happens.

    @initialize(rules=rules, capacity=st.sampled_from([1, 2, 3, 3]))
    def start(self, rules: ControllerConfig, capacity: int) -> None:
        self.controller = Controller(rules)
        self.capacity = self.highest_capacity = capacity
        self.send(ExperimentStarted(0.0, capacity))

    @precondition(lambda self: self.asked_for is not None)
    @rule(answer=st.sampled_from(["trial"] * 6 + ["none now", "none ever"]))
    def answer(self, answer: str) -> None:
        trial_id, self.asked_for = self.asked_for, None
        assert trial_id is not None
        if answer == "none now":
            self.send(SuggestionDeferred(self.time))
        elif answer == "none ever" or self.suggested >= MAX_TRIALS:
            self.send(SearchEnded(self.time))
        else:
            self.suggested += 1
            self.suggest(trial_id)

    @precondition(lambda self: self.waits_for_search)
    @rule()
    def ask_the_search_again(self) -> None:
        self.send(SearchRetried(self.time))

    def suggest(self, trial_id: str, request_id: str = "") -> None:
        resources = {"bundles": [{"CPU": 1.0}]}
        self.send(
            TrialSuggested(self.time, trial_id, {}, "0", "dir", "train", resources, request_id=request_id)
        )

    @precondition(lambda self: self.is_choice_asked)
    @rule(data=st.data())
    def choose(self, data: st.DataObject) -> None:
        paused = self.choosable()
        stopped = [name for name in paused if data.draw(st.integers(0, 9)) == 0]
        going_on = [name for name in paused if name not in stopped]
        self.is_choice_asked = False
        donors = sorted((name, index) for name, known in self.checkpoints.items() for index in known)
        exploits = {}
        for name in going_on if donors else []:
            if data.draw(st.integers(0, 4)) == 0:
                donor, index = self.borrowed[name] = data.draw(st.sampled_from(donors))
                self.promised.pop(name, None)
                exploits[name] = ExploitChoice(donor, index, {"from": donor}, "0@perturbed[]")
        chosen = data.draw(st.sampled_from([None, *going_on]))
        self.send(PausedChosen(self.time, chosen, tuple(stopped), exploits=exploits))

    def choosable(self) -> list[str]:
        """Trials that the scheduler may let go on: those that nobody else has paused."""
        trials = self.controller.trials.values()
        return [t.trial_id for t in trials if t.status is Status.PAUSED and t.trial_id not in self.held]

    @precondition(lambda self: len(self.with_slot) < min(self.capacity, len(self.live)))
    @rule(data=st.data())
    def grant_slot(self, data: st.DataObject) -> None:
        trial_id = data.draw(st.sampled_from(sorted(set(self.live) - self.with_slot)))
        self.with_slot.add(trial_id)
        self.attempt_event(AttemptStarted(self.time, trial_id, self.live[trial_id], 1, "host", "ip"))

    @precondition(lambda self: self.with_slot)
    @rule(
        data=st.data(),
        reports=st.lists(st.tuples(decisions, st.booleans(), scores), min_size=1, max_size=4),
        is_obedient=st.booleans(),
    )
    def train(self, data: st.DataObject, reports: list[Any], is_obedient: bool) -> None:
        """Some reports of a trial; if it is told to stop, it may do so at once."""
        trial = self.controller.trials[data.draw(st.sampled_from(sorted(self.with_slot)))]
        for report in reports:
            self.report(data, trial, *report)
        if is_obedient and trial.phase is AttemptPhase.STOPPING:
            self.finish_attempt(trial.trial_id, Outcome.STOPPED)

    def report(
        self, data: st.DataObject, trial: Trial, decision: Decision, has_checkpoint: bool, score: Any
    ) -> None:
        checkpoint = trial.last_checkpoint_index + data.draw(st.integers(1, 2)) if has_checkpoint else None
        if checkpoint is not None:
            self.checkpoints[trial.trial_id].add(checkpoint)
            self.borrowed.pop(trial.trial_id, None)
        exploit = None
        if decision is Decision.EXPLOIT:
            donors = sorted((name, index) for name, known in self.checkpoints.items() for index in known)
            if donors:
                donor, index = data.draw(st.sampled_from(donors))
                exploit = ExploitChoice(donor, index, {"from": donor}, "0@perturbed[]")
                if trial.decision is Decision.CONTINUE:
                    self.promised[trial.trial_id] = (donor, index)
            else:
                decision = Decision.CONTINUE
        elif decision is Decision.STOP:
            self.promised.pop(trial.trial_id, None)
        row = {"timestamp": 0} if score is None else {"timestamp": 0, "score": score}
        iteration = trial.iteration + 1
        key = (trial.trial_id, trial.attempt_number)
        resources = None
        if decision is Decision.CONTINUE and data.draw(st.integers(0, 3)) == 0:
            resources = {"bundles": [{"CPU": data.draw(st.integers(1, 3))}]}
        answer = (decision, exploit, resources)
        self.attempt_event(TrialReported(self.time, *key, iteration, row, checkpoint, *answer))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def lose_node_soon(self, data: st.DataObject) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.live)))
        self.attempt_event(RelocationRequested(self.time, trial_id, self.live[trial_id], "its node goes"))

    @precondition(lambda self: self.with_slot)
    @rule(data=st.data())
    def save_late(self, data: st.DataObject) -> None:
        trial = self.controller.trials[data.draw(st.sampled_from(sorted(self.with_slot)))]
        if trial.last_row:
            index = trial.last_checkpoint_index + data.draw(st.integers(1, 2))
            self.checkpoints[trial.trial_id].add(index)
            self.borrowed.pop(trial.trial_id, None)
            event = CheckpointSaved(self.time, trial.trial_id, trial.attempt_number, trial.iteration, index)
            self.attempt_event(event)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), is_retryable=st.booleans())
    def end_attempt(self, data: st.DataObject, outcome: Outcome, is_retryable: bool) -> None:
        self.finish_attempt(data.draw(st.sampled_from(sorted(self.live))), outcome, is_retryable=is_retryable)

    def finish_attempt(self, trial_id: str, outcome: Outcome, *, is_retryable: bool = True) -> None:
        self.with_slot.discard(trial_id)
        if trial_id in self.promised:  # which takes the place of what is borrowed
            self.borrowed.pop(trial_id, None)
        trial = self.controller.trials[trial_id]
        may_fall_back = self.controller.rules.falls_back and self.controller.stop_request is None
        if outcome is Outcome.CORRUPTED and may_fall_back and trial.phase is not AttemptPhase.STOPPING:
            self.fall_back(trial_id)
        attempt_number = self.live.pop(trial_id)
        self.attempt_event(
            AttemptEnded(self.time, trial_id, attempt_number, outcome, "E: text", "", is_retryable)
        )

    def fall_back(self, trial_id: str) -> None:
        latest = max(self.usable(trial_id), default=None)
        owner, index = self.borrowed.get(trial_id, (trial_id, latest))
        earlier = {each for each in self.usable(owner) if index is not None and each < index}
        if earlier and index is not None:
            self.damaged.setdefault(owner, set()).add(index)
            if trial_id in self.borrowed:
                self.borrowed[trial_id] = (owner, max(earlier))
        elif latest is not None and owner != trial_id:
            del self.borrowed[trial_id]

    @precondition(lambda self: self.attempt_events and len(self.history) % 4 == 3)
    @rule(data=st.data())
    def repeat_an_old_event(self, data: st.DataObject) -> None:
        known = {name: set(indices) for name, indices in self.checkpoints.items()}
        event = data.draw(st.sampled_from(self.attempt_events))
        is_answered = isinstance(event, AttemptStarted)

        self.send(event)

        assert is_answered or self.history[-1][1] == ()
        assert self.checkpoints == known

    @rule(cause=st.sampled_from(StopCause))
    @precondition(lambda self: len(self.history) % 29 == 28)  # seldom, or little else would happen
    def stop(self, cause: StopCause) -> None:
        self.send(StopRequested(self.time, cause, f"stopped by {cause}"))

    @rule(data=st.data(), action=st.sampled_from([*[Steer.PAUSE, Steer.RESUME] * 3, Steer.STOP]))
    @precondition(lambda self: self.controller.trials and len(self.history) % 3 == 2)
    def steer_trial(self, data: st.DataObject, action: Steer) -> None:
        trial_id = data.draw(st.sampled_from(sorted(self.controller.trials)))
        is_heeded = self.is_steerable() and trial_id not in self.completed
        if is_heeded and action is Steer.STOP:
            self.promised.pop(trial_id, None)
        elif is_heeded:
            (self.held.add if action is Steer.PAUSE else self.held.discard)(trial_id)
        self.send(Steered(self.time, "request", action, trial_id))

    @rule(action=st.sampled_from([Steer.PAUSE, *[Steer.RESUME] * 2]))
    @precondition(lambda self: len(self.history) % 5 == 4 or self.is_idle())
    def steer_all(self, action: Steer) -> None:
        if self.is_steerable():
            self.is_paused = action is Steer.PAUSE
        self.send(Steered(self.time, "request", action))

    @rule()
    @precondition(lambda self: len(self.history) % 31 == 30)
    def stop_on_request(self) -> None:
        self.send(Steered(self.time, "request", Steer.STOP, "", "enough"))

    @rule()
    @precondition(lambda self: self.asked_for is None and self.is_steerable() and len(self.history) % 7 == 6)
    def add_configuration(self) -> None:
        self.suggest(f"a1b2c_{len(self.controller.trials):05d}", "request")

    @rule()
    @precondition(lambda self: self.is_steerable() and len(self.history) % 9 == 8)
    def raise_num_samples(self) -> None:
        rules = asdict(self.controller.rules)
        self.send(SpecRecorded(self.time, 2, {}, rules, "request"))

    def is_steerable(self) -> bool:
        return self.end is None and self.controller.stop_request is None

    @rule(capacity=st.sampled_from([0, 1, 2, 3, 4, 4]))
    @precondition(lambda self: len(self.history) % 6 == 5 or self.is_idle())
    def change_capacity(self, capacity: int) -> None:
        self.capacity = capacity
        self.highest_capacity = max(self.highest_capacity, capacity)
        self.send(CapacityChanged(self.time, capacity))

    def attempt_event(self, event: Event) -> None:
        self.attempt_events.append(event)
        self.time += 1.0
        self.send(event)

    # What has to be true.

    @invariant()
    def one_live_attempt_per_trial(self) -> None:
        trials = self.controller.trials.values()
        assert self.live == {t.trial_id: t.attempt_number for t in trials if t.phase is not AttemptPhase.NONE}

    @invariant()
    def no_more_attempts_than_there_is_room_for(self) -> None:
        assert len(self.live) <= self.highest_capacity + 1  # one may wait for the next slot
        assert len(self.live) <= (self.controller.rules.max_concurrent or math.inf)

    @invariant()
    def running_trials_are_those_with_a_slot(self) -> None:
        statuses = {trial_id: self.controller.trials[trial_id].status for trial_id in self.live}
        assert self.with_slot == {name for name, status in statuses.items() if status is Status.RUNNING}

    @invariant()
    def failed_trials_are_counted(self) -> None:
        trials = self.controller.trials.values()
        assert self.controller._num_failed == sum(trial.status is Status.ERROR for trial in trials)

    @invariant()
    def finished_trials_are_completed_once_and_stay_as_they_are(self) -> None:
        trials = self.controller.trials.values()
        assert self.completed == {t.trial_id: t.status for t in trials if t.is_finished()}
        assert [t.trial_id for t in self.controller.unfinished] == [
            t.trial_id for t in trials if not t.is_finished()
        ]

    @invariant()
    def known_checkpoints_are_those_that_exist(self) -> None:
        for trial in self.controller.trials.values():
            assert {record.index for record in trial.checkpoints} == self.checkpoints.get(
                trial.trial_id, set()
            )
            keep = self.controller.rules.num_to_keep
            needed = {*self.promised.values(), *self.borrowed.values()}
            lent = sum(1 for name, _ in needed if name == trial.trial_id)
            assert keep is None or len(trial.checkpoints) <= keep + 1 + lent

    @invariant()
    def paused_trials_wait_for_somebody(self) -> None:
        """Never a hang: something is asked or runs, or there is no room, or all is over."""
        if hasattr(self, "controller") and self.end is None and self.is_idle():
            is_paused_by_user = self.is_paused or bool(self.held - self.completed.keys())
            assert self.capacity == 0 or is_paused_by_user or self.controller.waits_for_search

    @invariant()
    def what_is_held_is_what_somebody_has_paused(self) -> None:
        trials = self.controller.trials.values() if hasattr(self, "controller") else ()
        unfinished = {trial.trial_id for trial in trials if not trial.is_finished()}
        assert {
            trial.trial_id for trial in trials if trial.is_paused_by_user
        } & unfinished == self.held & unfinished
        if self.is_paused and self.is_steerable():
            assert all(t.status is not Status.PENDING or t.phase is AttemptPhase.STOPPING for t in trials)

    def is_idle(self) -> bool:
        return not self.live and self.asked_for is None and not self.is_choice_asked

    @invariant()
    def ended_experiment_has_a_reason_to(self) -> None:
        assert self.controller.has_ended == (self.end is not None)
        if self.end is not None and self.controller.unfinished:
            assert self.controller.stop_request is not None
            assert self.controller.stop_request.cause in RESUMABLE
            assert {trial.status for trial in self.controller.unfinished} == {Status.PAUSED}

    def teardown(self) -> None:
        if not hasattr(self, "controller"):
            return
        self.wind_down()
        written = [(dumps(event_to_dict(event)), commands) for event, commands in self.history]
        read = [(event_from_dict(loads(line)), commands) for line, commands in written]
        again = replay(read, self.controller.rules)
        assert {t.trial_id: t.status for t in again.trials.values()} == {
            t.trial_id: t.status for t in self.controller.trials.values()
        }

    @property
    def waits_for_search(self) -> bool:
        return self.end is None and self.controller.waits_for_search

    def wind_down(self) -> None:
        """Let what is held go on, and the search and every attempt end: then the experiment has to."""
        self.is_paused = False
        self.send(Steered(self.time, "request", Steer.RESUME))
        for trial_id in sorted(self.held - self.completed.keys()):
            self.held.discard(trial_id)
            self.send(Steered(self.time, "request", Steer.RESUME, trial_id))
        self.send(CapacityChanged(self.time, 1))
        while self.asked_for is not None or self.live or self.is_choice_asked or self.waits_for_search:
            if self.waits_for_search:
                self.send(SearchRetried(self.time))
            if self.is_choice_asked:
                self.is_choice_asked = False
                self.send(PausedChosen(self.time, None))
            if self.asked_for is not None:
                self.asked_for = None
                self.send(SearchEnded(self.time))
            for trial_id, attempt_number in list(self.live.items()):
                del self.live[trial_id]
                self.with_slot.discard(trial_id)
                self.send(AttemptEnded(self.time, trial_id, attempt_number, Outcome.COMPLETED))
        assert self.end is not None


ControllerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60)
TestController = ControllerMachine.TestCase
