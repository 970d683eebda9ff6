"""Which trial gets which slot: an order waits here until it has one, or never can have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ray.util.placement_group import PlacementGroup

from tune_core.control.endings import Ended
from tune_core.control.messages import StartAttempt
from tune_core.engine.cluster import leaving_nodes, nodes, total_resources
from tune_core.engine.deaths import is_lost_at_start
from tune_core.engine.driver.services import DriverFailed, Services
from tune_core.engine.slots.deadlock import tuners_wait_in, why_stuck
from tune_core.engine.slots.fit import amounts_of, shortfall
from tune_core.engine.slots.nested_groups import shortfall_inside
from tune_core.engine.slots.pool import SLOT_IDLE_S, Slot, SlotAnswered
from tune_core.errors import PlacementError
from tune_core.resources import PlacementGroupFactory
from tune_core.states import Outcome
from tune_core.storage.filesystems import brief
from tune_core.training.trainable import hint_on_resources
from tune_core.trial import Trial

#: Longest rest of a trial that is lost again and again, in seconds: whatever takes its processes away may pass.
MAX_REST_S = 30.0
#: How long a trial waits, without `placement_timeout_s`, for nodes in place of lost ones, in seconds.
REPLACEMENT_TIMEOUT_S = 300.0
#: How long a Tuner in a trial waits, without `placement_timeout_s`, for trials that wait for it, in seconds.
STUCK_TIMEOUT_S = 10.0


class Begin(Protocol):
    """Begins an attempt in the slot that it was given."""

    def __call__(self, trial: Trial, order: StartAttempt, slot: Slot, *, fresh_process: bool) -> None:
        """Submit the attempt's task run."""


class Placement:
    """Gives slots to orders, in the order in which they came.

    Args:
        services: What the driver works with.
        begin: Called with each order that has got its slot.
        end: Called with each order that cannot have one.

    Attributes:
        waiting: Who waits for a slot, by trial id, and why.
    """

    def __init__(self, services: Services, begin: Begin, end: Callable[[Ended], None]) -> None:
        self._services, self._begin, self._end = services, begin, end
        self._pool, self._controller = services.pool, services.controller
        self._timeout_s = services.experiment.run_config.placement_timeout_s
        #: What the cluster could hold once: if a node goes, another may come.
        self._have_fitted: set[PlacementGroupFactory] = set()
        #: Nodes that are dead or about to go.
        self.leaving: frozenset[str] = frozenset()
        self._orders: dict[str, StartAttempt] = {}
        #: Orders of trials that were lost, and until when they rest, in monotonic seconds.
        self._resting: dict[str, tuple[float, StartAttempt]] = {}
        self.waiting: dict[str, str] = {}
        #: The groups of trials that run, by trial id.
        self._groups: dict[str, PlacementGroup] = {}
        self._stuck_since: float | None = None

    def order(self, command: StartAttempt) -> None:
        """Find a slot for a new attempt; what the cluster can never hold ends at once, unless it may grow."""
        trial = self._controller.trials[command.trial_id]
        reason = shortfall(trial.resources, nodes())
        if reason is None:
            self._have_fitted.add(trial.resources)
        elif self._timeout_s is None and trial.resources not in self._have_fitted:
            hint = hint_on_resources(self._services.experiment.trainable, trial.config)
            message = f"the cluster can never give trial {trial.trial_id} its bundles: {reason}{hint}"
            self._fail(command.trial_id, command.attempt_number, PlacementError(message))
            return
        if trial.num_losses_in_row:
            rest_s = min(2.0 ** (trial.num_losses_in_row - 1), MAX_REST_S)
            self._resting[command.trial_id] = (self._services.clock() + rest_s, command)
            self._show(trial, f"was lost {trial.num_losses_in_row} times in a row: waits {rest_s:g} s")
        else:
            self._request(trial, command)

    def why_never(self, resources: PlacementGroupFactory) -> str | None:
        """Say why the cluster, as it is, can never give a trial these bundles; None: it can."""
        reason = shortfall(resources, nodes()) or shortfall_inside(resources, total_resources())
        if reason is None:
            self._have_fitted.add(resources)
        return reason

    def cancel(self, trial_id: str, attempt_number: int) -> bool:
        """Withdraw an order; return False if it has got its slot."""
        return self._resting.pop(trial_id, None) is not None or self._pool.cancel((trial_id, attempt_number))

    def _request(self, trial: Trial, command: StartAttempt) -> None:
        self._orders[command.trial_id] = command
        self._show(trial, f"waits for {amounts_of(trial.resources)}")
        self._pool.request((command.trial_id, command.attempt_number), trial.resources)
        self.grant()

    def grant(self) -> None:
        """Begin what has got its slot since."""
        for (trial_id, attempt_number), slot in self._pool.take_granted():
            trial = self._controller.live_trial(trial_id, attempt_number)
            if trial is None:
                self._pool.release(slot)
                continue
            self.waiting.pop(trial_id, None)
            self._groups[trial_id] = slot.group
            fresh = self._pool.needs_fresh_process(slot)
            self._begin(trial, self._orders.pop(trial_id), slot, fresh_process=fresh)

    def answered(self, answer: SlotAnswered) -> None:
        """Take note that a slot is ready, or cannot be."""
        for (trial_id, attempt_number), error in self._pool.answered(answer):
            self._fail(trial_id, attempt_number, error)
        self.grant()

    def forget(self, trial_id: str) -> None:
        """Drop an order: its attempt is over."""
        self.waiting.pop(trial_id, None)
        self._orders.pop(trial_id, None)
        self._resting.pop(trial_id, None)
        self._groups.pop(trial_id, None)

    def look(self) -> None:
        """Give up slots that are of no use, say why trials wait, and fail those that waited too long."""
        for trial_id, (due, command) in list(self._resting.items()):
            if self._services.clock() >= due:
                del self._resting[trial_id]
                self._request(self._controller.trials[trial_id], command)
        self._pool.give_up_idle(0.0 if self._leaves_room() else SLOT_IDLE_S)
        self.leaving = leaving_nodes()
        self._pool.leave_nodes(self.leaving)
        waiting = self._pool.waiting()
        reasons = {shape: self._pool.why_waiting(shape) for shape in dict.fromkeys(waiting.values())}
        for (trial_id, _), shape in waiting.items():
            if self.waiting[trial_id] != reasons[shape]:
                self._show(self._controller.trials[trial_id], reasons[shape])
        timeout_s = REPLACEMENT_TIMEOUT_S if self._timeout_s is None else self._timeout_s
        for (trial_id, attempt_number), reason in self._pool.give_up_waiting(timeout_s):
            message = f"{reason}; waited {timeout_s:g} s (placement_timeout_s)"
            self._fail(trial_id, attempt_number, PlacementError(message))
        self._look_whether_stuck(list(reasons))

    def _leaves_room(self) -> bool:
        """Whether idle slots are to go at once: somebody has paused all, or Tuners in trials wait for room."""
        if self._controller.is_paused:
            return True
        return bool(self._pool.idle()) and tuners_wait_in(self._groups.values())

    def _look_whether_stuck(self, shapes: list[PlacementGroupFactory]) -> None:
        """Give the experiment up if it waits for trials that wait for it."""
        reason = why_stuck(shapes[0]) if shapes else None
        if reason is None:
            self._stuck_since = None
            return
        now = self._services.clock()
        self._stuck_since = now if self._stuck_since is None else self._stuck_since
        if now - self._stuck_since >= (STUCK_TIMEOUT_S if self._timeout_s is None else self._timeout_s):
            self._services.channel.post(DriverFailed(PlacementError(reason)))

    def _fail(self, trial_id: str, attempt_number: int, error: Exception) -> None:
        # Ray names the URLs of a runtime_env that it cannot set up.
        text = brief(error, 1000)
        if is_lost_at_start(error):
            self._end(Ended(trial_id, attempt_number, Outcome.LOST, text))
        else:
            self._end(Ended(trial_id, attempt_number, Outcome.UNPLACED, text, retryable=False))

    def _show(self, trial: Trial, reason: str) -> None:
        self.waiting[trial.trial_id] = reason
        self._services.artifacts.show_trial(trial, reason)
