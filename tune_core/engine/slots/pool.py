"""Slots: a placement group each, and the process on its bundle 0 that runs trials.

The pool gives slots to trials in the order in which they asked. It keeps a slot for the next
trial of equal resources, gives it up as soon as only requests of another shape wait, and
never has more groups pending than could be of use, nor more in all than trials may run at once.
It is one experiment's, and used from the flow's loop alone; what Ray answers later comes back
through `notify`.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tune_core.engine.cluster import nodes, total_resources
from tune_core.engine.ray_private import knows_loaded_functions
from tune_core.engine.slots.fit import amounts_of, copies_that_fit, listed, shortfall
from tune_core.engine.slots.nested_groups import new_name, remove_groups_inside
from tune_core.engine.worker.process import TrialProcess
from tune_core.resources import PlacementGroupFactory

#: How long an idle slot is kept within an experiment, in seconds.
SLOT_IDLE_S = 60.0
#: Set in the processes of an experiment where they have an environment of their own: Ray gives a worker to nobody with
#: another one, so none has run code for anybody else.
PROCESS_MARK = "PREFECT_TUNE_PROCESS"
#: How long a process that is replaced may take to end, in seconds: what the user has registered for its end runs.
LEAVE_TIMEOUT_S = 10.0
#: The same at the end of an experiment, while nothing else keeps `fit()`.
CLOSE_TIMEOUT_S = 0.5


class RecorderSource(Protocol):
    """Where slots get the recorders of their task runs; see `tune_core.engine.slots.recorders.Recorders`."""

    def take(self) -> Any:
        """Return the handle of the recorder for one more slot."""

    def give_back(self, actor: Any) -> None:
        """A slot no longer needs its recorder."""


@dataclass(eq=False, slots=True)
class Slot:
    """A placement group, the process in it, and who runs its task runs.

    Attributes:
        resources: What the group was made from.
        group: The placement group.
        runtime_env: Ray's runtime environment of what runs in it.
        recorder: Handle of the `Recorder` of its task runs; None under the stock task runner.
        process: Handle of the `TrialProcess` that the next trial runs in; None under the stock task runner.
        is_ready: Whether the group is placed and its process answers.
        worker: Where trials run: `pid`, `hostname`, `node_ip`.
        nodes: Ray's ids of the nodes that its bundles are on.
        uses: How many attempts have ended in it.
        idle_since: When it was last given back, in monotonic seconds.
        keeps_object: Whether its process keeps an object that is to be cleaned up before it ends.
        held_since: When its group was first known to be placed, in monotonic seconds; None: not yet.
        is_ending: Whether its attempt has said its last word, so that it will be given back in a moment.
        is_returning: The same, if the next trial is to reuse what it keeps.
    """

    resources: PlacementGroupFactory
    group: PlacementGroup
    runtime_env: dict[str, Any] = field(default_factory=dict)
    recorder: Any = None
    process: Any = None
    is_ready: bool = False
    worker: dict[str, Any] = field(default_factory=dict)
    nodes: frozenset[str] = frozenset()
    uses: int = 0
    idle_since: float = 0.0
    keeps_object: bool = False
    is_ending: bool = False
    is_returning: bool = False
    held_since: float | None = None

    @property
    def outlives_no_trial(self) -> bool:
        """Whether each trial is better given a process of its own, unless reuse is asked for."""
        # CUDA initialises once per process; and tasks that a trial left in its other bundles end with it.
        return self.resources.head_bundle.get("GPU", 0) > 0 or any(self.resources.child_bundles)

    def remote_options(self) -> dict[str, Any]:
        """Return what `ray.remote` needs to run something on bundle 0, children captured."""
        options = actor_options(self.resources.head_bundle, self.group)
        return options | ({"runtime_env": self.runtime_env} if self.runtime_env else {})


@dataclass(frozen=True, slots=True)
class SlotAnswered:
    """A slot became ready, or could not: what the pool posts to the loop."""

    slot: Slot
    worker: dict[str, Any] | None
    error: Exception | None


def actor_options(taken: Mapping[str, float], group: PlacementGroup) -> dict[str, Any]:
    """Return Ray's options for an actor or a task that takes so much of bundle 0."""
    head = dict(taken)
    options: dict[str, Any] = {
        "num_cpus": head.pop("CPU", 0),
        "num_gpus": head.pop("GPU", 0),
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        ),
    }
    if memory := head.pop("memory", 0):
        options["memory"] = int(memory)
    if head:
        options["resources"] = head
    return options


class SlotPool:
    """The slots of one experiment.

    Args:
        recorders: Where its slots get theirs; None: the stock task runner, which has Ray choose processes.
        fresh_process: Whether each trial has a process of its own; None: where `Slot.outlives_no_trial`.
        runtime_env: Ray's runtime environment for trials.
        max_slots: How many slots there may be; None: as many as fit.
        max_starting: How many of a shape may start at the same time; None: any number.

    Attributes:
        cleanup_timeout_s: How long a kept object may take to clean up before its process is killed.
    """

    def __init__(
        self,
        recorders: RecorderSource | None,
        *,
        fresh_process: bool | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        max_slots: int | None = None,
        max_starting: int | None = None,
    ) -> None:
        self._recorders, self._fresh_process = recorders, fresh_process
        self._max_slots, self._max_starting = max_slots, max_starting
        given = dict(runtime_env or {})
        self._marked_env = given | {"env_vars": {**given.get("env_vars", {}), PROCESS_MARK: uuid4().hex}}
        # With an environment Ray starts Python twice. Without one an idle worker may have run anything, but it says so.
        self._runtime_env = (
            self._marked_env if given or recorders is None or not knows_loaded_functions() else {}
        )
        self._lock = threading.Lock()
        self._notify: Callable[[SlotAnswered], None] | None = None
        self._early: list[SlotAnswered] = []
        self._slots: dict[PlacementGroupFactory, list[Slot]] = {}
        self._idle: list[Slot] = []
        self._waiting: dict[Any, PlacementGroupFactory] = {}
        self._wanted_ahead: dict[PlacementGroupFactory, int] = {}
        self._granted: list[tuple[Any, Slot]] = []
        self._short_since: dict[PlacementGroupFactory, float] = {}
        self._leaving_nodes: Set[str] = frozenset()
        #: Since when `held` counts, in monotonic seconds, and what slots held that are gone.
        self._held_from, self._held = time.monotonic(), dict[str, float]()
        #: Actors that were asked to leave, and when they are made to.
        self._leaving: list[tuple[float, Any]] = []
        self.cleanup_timeout_s = LEAVE_TIMEOUT_S
        #: Slots that were removed while their processes end, each with the answer and the end of patience.
        self._retiring: list[tuple[Slot, Any, float]] = []

    def attach(self, notify: Callable[[SlotAnswered], None]) -> None:
        """Name the loop that the pool belongs to from now on; what was answered before is passed on."""
        self._held_from, self._held = time.monotonic(), {}
        with self._lock:
            self._notify = notify
            early, self._early = self._early, []
        for answer in early:
            notify(answer)

    def start_ahead(self, resources: PlacementGroupFactory, count: int) -> None:
        """Have `count` slots of this shape started before anybody asks for them."""
        self._wanted_ahead[resources] = count
        self._balance()

    def request(self, key: Any, resources: PlacementGroupFactory) -> None:
        """Ask for a slot; `take_granted` will name it."""
        self._wanted_ahead.pop(resources, None)
        self._waiting[key] = resources
        self._balance()

    def cancel(self, key: Any) -> bool:
        """Withdraw a request; return False if it does not wait (any more)."""
        shape = self._waiting.pop(key, None)
        if shape is not None and shape not in self._waiting.values():
            for slot in [slot for slot in self._slots.get(shape, []) if not slot.is_ready]:
                self._remove(slot)
        self._balance()
        return shape is not None

    def take_granted(self) -> list[tuple[Any, Slot]]:
        """Return the requests that have got their slots since the last call."""
        granted, self._granted = self._granted, []
        return granted

    def answered(self, answer: SlotAnswered) -> list[tuple[Any, Exception]]:
        """Take in what Ray said of a slot; return requests that fail because it cannot start."""
        slot = answer.slot
        if slot.is_ready or slot not in self._slots.get(slot.resources, []):
            return []
        if answer.error is None and answer.worker and answer.worker["was_used"]:
            self._runtime_env = slot.runtime_env = self._marked_env
            ray.kill(slot.process)
            self._start_process(slot)
            return []
        if answer.error is None:
            slot.is_ready, slot.worker = True, answer.worker or {}
            slot.held_since = slot.held_since or time.monotonic()
            slot.nodes = frozenset(placement_group_table(slot.group)["bundles_to_node_id"].values())
            self._make_idle(slot)
            return []
        failed = [key for key, shape in self._waiting.items() if shape == slot.resources][:1]
        for key in failed:
            del self._waiting[key]
        self.discard(slot)
        return [(key, answer.error) for key in failed]

    def release(self, slot: Slot, *, keeps_object: bool = False) -> None:
        """Give a slot back, for the next trial of its shape."""
        slot.uses += 1
        slot.keeps_object, slot.is_ending, slot.is_returning = keeps_object, False, False
        self._make_idle(slot)

    def renew(self, slot: Slot) -> None:
        """Give a slot back with its process replaced, if one of its shape is asked for; its group stays."""
        slot.uses += 1
        if slot.nodes & self._leaving_nodes:
            self.discard(slot)
            return
        if slot.process is not None and slot.resources not in self._waiting.values():
            self._remove(slot, in_order=True)
            self._balance()
            return
        if slot.process is not None:
            slot.process.__ray_terminate__.remote()
            remove_groups_inside(slot.group)
            self._leaving.append((time.monotonic() + LEAVE_TIMEOUT_S, slot.process))
        slot.is_ready = slot.is_ending = slot.is_returning = False
        self._start_process(slot)

    def needs_fresh_process(self, slot: Slot) -> bool:
        """Whether the next trial in this slot needs a process of its own."""
        return slot.outlives_no_trial if self._fresh_process is None else self._fresh_process

    def discard(self, slot: Slot) -> None:
        """Remove a slot: its process is killed and its group released."""
        self._remove(slot)
        self._balance()

    def give_up_idle(self, limit_s: float) -> None:
        """Remove slots that nobody has used for longer than this many seconds; call it regularly."""
        self._end_retired(wait=False)
        latest = time.monotonic() - limit_s
        for slot in [slot for slot in self._idle if slot.idle_since < latest]:
            self._remove(slot)
        for overdue, actor in self._leaving:
            if overdue < time.monotonic():
                ray.kill(actor)  # a thread that the trainable left behind keeps it alive
        self._leaving = [(overdue, actor) for overdue, actor in self._leaving if overdue >= time.monotonic()]

    def leave_nodes(self, gone: Set[str]) -> None:
        """Use no slot on these nodes for another trial, nor keep one; call it regularly."""
        self._leaving_nodes = gone
        for slot in [slot for slot in self._idle if slot.nodes & gone]:
            self._remove(slot)

    def clear(self) -> None:
        """Remove every slot and forget every request; kept objects are cleaned up first."""
        self._waiting.clear()
        self._wanted_ahead.clear()
        with self._lock:
            self._notify, self._early = None, []
        for slot in self._all():
            self._remove(slot, in_order=slot in self._idle)
        for _, process in self._leaving:
            ray.kill(process)
        self._leaving = []
        latest = time.monotonic() + CLOSE_TIMEOUT_S
        self._retiring = [
            (slot, reference, deadline if slot.keeps_object else min(deadline, latest))
            for slot, reference, deadline in self._retiring
        ]
        self._end_retired(wait=True)

    def give_up_waiting(self, timeout_s: float) -> list[tuple[Any, str]]:
        """Withdraw requests for what the cluster has been too small for all this time; return them, and why.

        To be called regularly: the time counts from the first call that finds the cluster too small.
        """
        now = time.monotonic()
        short = {shape: shortfall(shape, nodes()) for shape in dict.fromkeys(self._waiting.values())}
        self._short_since = {
            shape: self._short_since.get(shape, now) for shape, reason in short.items() if reason is not None
        }
        given_up = [
            (key, short[shape] or "")
            for key, shape in self._waiting.items()
            if now - self._short_since.get(shape, now) > timeout_s
        ]
        for key, _ in given_up:
            self.cancel(key)
        return given_up

    def waiting(self) -> dict[Any, PlacementGroupFactory]:
        """Return who waits, for what, in order."""
        return dict(self._waiting)

    def why_waiting(self, resources: PlacementGroupFactory) -> str:
        """Say what a request of this shape waits for."""
        reason = shortfall(resources, nodes())
        if reason is not None:
            return f"waits for nodes that can hold its bundles: {reason}"
        starting = [slot.group for slot in self._slots.get(resources, []) if not slot.is_ready]
        if any(placement_group_table(group)["state"] == "CREATED" for group in starting):
            return "waits for its process to start"
        free = ray.available_resources()
        free = {name: free.get(name, 0.0) for name in resources.required_resources}
        return f"waits for {amounts_of(resources)}; free are {listed(free)}"

    def held(self) -> dict[str, float]:
        """Return what slots have held since `attach`: of each resource, the amount times the seconds.

        A slot counts from when its process first answered: when Ray placed its group is not told.
        """
        total = dict(self._held)
        for slot in self._all():
            self._count_held(slot, total)
        return total

    def idle(self) -> list[Slot]:
        """Return the slots that nobody uses."""
        return list(self._idle)

    def _all(self) -> list[Slot]:
        return [slot for slots in self._slots.values() for slot in slots]

    def _make_idle(self, slot: Slot) -> None:
        slot.idle_since = time.monotonic()
        if slot.nodes & self._leaving_nodes:
            self._remove(slot)
        else:
            self._idle.append(slot)
        self._balance()

    def _balance(self) -> None:
        self._grant()
        shapes = list(dict.fromkeys([*self._waiting.values(), *self._wanted_ahead]))
        waiting = list(self._waiting.values())
        if waiting:
            # Slots of shapes that nobody asks for hold what others wait for, or are about to.
            for slot in self._all():
                if slot.resources not in shapes and (slot in self._idle or not slot.is_ready):
                    self._remove(slot)
        for shape in shapes:
            wanted = (
                waiting.count(shape) - self._returning(shape)
                if shape in waiting
                else max(0, self._wanted_ahead.get(shape, 0) - len(self._slots.get(shape, [])))
            )
            starting = sum(not slot.is_ready for slot in self._slots.get(shape, []))
            ending = sum(slot.is_ending for slot in self._slots.get(shape, []))
            useful = self._useful(shape, wanted - starting, starting + ending)
            if self._max_slots is not None:
                useful = min(useful, self._max_slots - len(self._all()))
            if self._max_starting is not None:
                useful = min(useful, self._max_starting - starting)
            for _ in range(useful):
                self._start(shape)

    def _grant(self) -> None:
        returning = {shape: self._returning(shape) for shape in self._slots}
        for key, shape in list(self._waiting.items()):
            idle = [slot for slot in self._idle if slot.resources == shape]
            slot = max(idle, key=lambda each: each.keeps_object, default=None)
            if slot is None or not slot.keeps_object:
                # One that comes back in a moment has what it takes a new one long to set up.
                returning[shape] = returning.get(shape, 0) - 1
                if slot is None or returning[shape] >= 0:
                    continue
            self._idle.remove(slot)
            slot.keeps_object = False  # the attempt has it now
            del self._waiting[key]
            self._granted.append((key, slot))

    def _returning(self, shape: PlacementGroupFactory) -> int:
        return sum(1 for slot in self._slots.get(shape, []) if slot.is_returning)

    def _useful(self, shape: PlacementGroupFactory, wanted: int, expected: int) -> int:
        """How many more groups to ask for: what fits the whole cluster, and one that may wait if none is expected."""
        room = copies_that_fit(shape, total_resources()) - len(self._slots.get(shape, []))
        return max(0, min(wanted, max(room, 0 if expected else 1)))

    def _count_held(self, slot: Slot, total: dict[str, float]) -> None:
        if slot.held_since is not None:
            seconds = time.monotonic() - max(slot.held_since, self._held_from)
            for name, amount in slot.resources.required_resources.items():
                total[name] = total.get(name, 0.0) + amount * seconds

    def _remove(self, slot: Slot, *, in_order: bool = False) -> None:
        self._count_held(slot, self._held)
        self._slots[slot.resources].remove(slot)
        was_at_work = slot.is_ready and slot not in self._idle
        if slot in self._idle:
            self._idle.remove(slot)
        if slot.keeps_object:
            deadline = time.monotonic() + self.cleanup_timeout_s
            self._retiring.append((slot, slot.process.clean_up.remote(), deadline))
        elif in_order and slot.process is not None:
            deadline = time.monotonic() + LEAVE_TIMEOUT_S
            self._retiring.append((slot, slot.process.__ray_terminate__.remote(), deadline))
        else:
            self._end(slot)
        if was_at_work:
            remove_groups_inside(slot.group)

    def _end_retired(self, *, wait: bool) -> None:
        """End removed slots whose objects are cleaned up, or have had their time."""
        if not self._retiring:
            return
        last = max(deadline for _, _, deadline in self._retiring)
        timeout_s = max(0.0, last - time.monotonic()) if wait else 0
        references = [reference for _, reference, _ in self._retiring]
        done, _ = ray.wait(references, num_returns=len(references), timeout=timeout_s)
        for slot, reference, deadline in list(self._retiring):
            if wait or reference in done or time.monotonic() > deadline:
                self._retiring.remove((slot, reference, deadline))
                self._end(slot)

    def _start(self, shape: PlacementGroupFactory) -> None:
        slot = Slot(shape, placement_group(**_group_arguments(shape)), self._runtime_env)
        self._slots.setdefault(shape, []).append(slot)
        if self._recorders is not None:
            slot.recorder = self._recorders.take()
        self._start_process(slot)

    def _start_process(self, slot: Slot) -> None:
        if slot.recorder is not None:
            options = {**slot.remote_options(), "max_restarts": 0, "max_task_retries": 0}
            slot.process = _process_class().options(**options).remote()
        self._listen(slot)

    def _end(self, slot: Slot) -> None:
        if slot.process is not None:
            ray.kill(slot.process)
        if self._recorders is not None:
            self._recorders.give_back(slot.recorder)
        remove_placement_group(slot.group)

    def _listen(self, slot: Slot) -> None:
        """Have it said when a slot is ready, or cannot be."""
        asked = slot.process
        reference = slot.group.ready() if asked is None else asked.ready.remote(slot.recorder.ready.remote())

        def answered(future: Any) -> None:
            if slot.process is not asked:
                return  # the process that was asked has been replaced since
            error = future.exception()
            worker = future.result() if error is None and asked is not None else None
            answer = SlotAnswered(slot, worker, error)
            with self._lock:
                if self._notify is None:
                    self._early.append(answer)
                    return
            self._notify(answer)

        reference.future().add_done_callback(answered)


@functools.cache
def _process_class() -> Any:
    """Return what makes processes of trials; once, since Ray sends each that is made to the cluster."""
    return ray.remote(TrialProcess)


def _group_arguments(resources: PlacementGroupFactory) -> dict[str, Any]:
    """Return the arguments of Ray's `placement_group` for one more group of this shape."""
    options = resources.options
    options["name"] = new_name(options.get("name", "prefect-tune"))
    # It refuses empty bundles too. A trial's own bundle stays the first.
    filled = [number for number, bundle in enumerate(resources.bundles) if bundle]
    if labels := options.get("bundle_label_selector"):
        options["bundle_label_selector"] = [labels[number] for number in filled]
    if resources.strategy is not None:
        options["strategy"] = resources.strategy
    return {**options, "bundles": [resources.bundles[number] for number in filled]}
