"""The journal: every event of an experiment, written in create-only segments to its storage.

Segment numbers have no gaps, and a number can be taken once: that is the fence against a
second driver. Events are written in groups, about once a second and at endings; what
`flushed` counts is what no crash of the driver can take back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tune_core.control.messages import Command, Event, SegmentsGivenUp, TrialReported, describe, event_to_dict
from tune_core.control.segments import (
    Segment,
    damaged,
    decoded,
    encode_segment,
    known_void,
    last_segment,
    open_segment,
    opened_segments,
    read_segment,
    segment_name,
    segment_numbers,
)
from tune_core.encoding import dumps
from tune_core.errors import CreateConflict, ExperimentConflict, JournalDamaged, StorageError
from tune_core.storage.experiment_storage import RETRY_FOR_S, ExperimentStorage

logger = logging.getLogger(__name__)


#: How long events may wait for their group, in seconds.
FLUSH_INTERVAL_S = 1.0


#: Events that make a group at once: half of what a session lets wait (see `session.WINDOW`).
FLUSH_EVENTS = 4096


#: So do events of so many bytes: what waits is held in memory, and once more while it is written.
FLUSH_BYTES = 2 * 1024 * 1024


#: How often a claim is tried while the driver that is to be fenced off writes on.
_CLAIMS = 30


@dataclass(slots=True)
class _Group:
    """Events that wait to be written together, as the lines that they will be.

    In one buffer, since what orjson 3.13 returns for a line holds several times its length.
    """

    lines: bytearray = field(default_factory=bytearray)
    count: int = 0
    #: The highest iteration of its rows, per (trial id, attempt).
    iterations: dict[tuple[str, int], int] = field(default_factory=dict)

    def add(self, event: Event, commands: Sequence[Command]) -> None:
        record = event_to_dict(event)
        if commands:
            record["commands"] = [describe(command) for command in commands]
        self.lines += dumps(record)
        self.lines += b"\n"
        self.count += 1
        if isinstance(event, TrialReported):
            self.iterations[event.trial_id, event.attempt_number] = event.iteration

    def take(self, other: _Group) -> None:
        """Add the events of a later group."""
        self.lines += other.lines
        self.count += other.count
        self.iterations.update(other.iterations)

    @property
    def is_full(self) -> bool:
        return self.count >= FLUSH_EVENTS or len(self.lines) >= FLUSH_BYTES


class Journal:
    """Writes events in groups, from a thread of its own.

    Args:
        storage: The experiment's storage.
        experiment_id: The experiment that the events belong to.
        owner: Who this driver is, for one that finds the journal open.
        number: Number of the segment that `claim` took.
        is_sealed: Whether groups end only where `seal` says so, and with the event that it is given.
        on_flushed: Called from the writing thread after each group with the highest iteration of its
            rows, per (trial id, attempt).
        on_failure: Called from the writing thread, once, when the journal cannot be written any more.
    """

    def __init__(
        self,
        storage: ExperimentStorage,
        experiment_id: str,
        owner: dict[str, Any],
        number: int,
        *,
        is_sealed: bool = False,
        on_flushed: Callable[[dict[tuple[str, int], int]], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._storage, self._experiment_id, self._owner = storage, experiment_id, owner
        self._number = number
        #: Segments that were given up, which each header names; None until it is known.
        self._void: tuple[tuple[int, int], ...] | None = None
        self._on_flushed, self._on_failure = on_flushed, on_failure
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting = _Group()
        self._is_sealed, self._sealed = is_sealed, _Group()
        self._first_waiting = 0.0
        self._appended = self._flushed = 0
        self._when_written: deque[tuple[int, Callable[[], object]]] = deque()
        self._is_urgent = self._is_closing = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._write_groups, name="tune-journal", daemon=True)
        self._thread.start()

    def append(self, event: Event, commands: Sequence[Command], *, urgent: bool = False) -> None:
        """Queue an event and the commands that followed; `urgent` starts its group now."""
        with self._lock:  # of `_changed`, which takes longer to enter
            if not self._waiting.count:
                self._first_waiting = time.monotonic()
            self._waiting.add(event, commands)
            self._appended += 1
            self._is_urgent = self._is_urgent or urgent
            if self._waiting.count == 1 or urgent or self._waiting.is_full:
                self._changed.notify_all()

    def seal(self, last: Callable[[], Event | None]) -> None:
        """End the group that waits, if it is due and groups are sealed; called by the thread that appends.

        Args:
            last: Returns the event that the group ends with, if any. It may say what is so after all events
                of the group: no group is written without it.
        """
        with self._lock:
            if not (self._is_sealed and self._waiting.count and self._is_due()):
                return
        event = last()
        with self._changed:
            if event is not None:
                self._waiting.add(event, ())
                self._appended += 1
            self._end_group()
            self._changed.notify_all()

    def when_written(self, call: Callable[[], object]) -> None:
        """Call `call` as soon as all that was appended so far is on the storage, here or in the writing thread.

        If it never gets there, neither does the call: what cannot be undone (a deletion) waits for
        it, since a driver whose place was taken learns that only when it writes.
        """
        with self._changed:
            if self._flushed < self._appended:
                self._when_written.append((self._appended, call))
                return
        call()

    def flush(self) -> None:
        """Wait until everything that was appended is on the storage.

        Raises:
            StorageError: The storage refuses, for longer than `RETRY_FOR_S`.
            ExperimentConflict: Another driver took the experiment over.
        """
        with self._changed:
            self._is_urgent = True
            self._end_group()
            self._changed.notify_all()
            target = self._appended
            self._changed.wait_for(lambda: self._flushed >= target or self._failure is not None)
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Write what waits and mark the journal as closed by its driver. Raises as `flush` does."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _write_groups(self) -> None:
        try:
            while True:
                group, is_last = self._next_group()
                self._write_segment(group, is_last=is_last)
                for call in self._written(group.count):
                    call()
                self._on_flushed(group.iterations)
                if is_last:
                    return
        except Exception as error:  # noqa: BLE001 - handed to the driver's loop, which stops the experiment
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            self._on_failure(error)

    def _written(self, count: int) -> list[Callable[[], object]]:
        """Count events as written; return what waited for them."""
        with self._changed:
            self._flushed += count
            self._changed.notify_all()
            due = []
            while self._when_written and self._when_written[0][0] <= self._flushed:
                due.append(self._when_written.popleft()[1])
            return due

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._first_waiting
        return waited >= FLUSH_INTERVAL_S or self._is_urgent or self._waiting.is_full

    def _end_group(self) -> None:
        self._sealed.take(self._waiting)
        self._waiting = _Group()
        self._is_urgent = False

    def _next_group(self) -> tuple[_Group, bool]:
        with self._changed:
            while not self._is_closing:
                is_open = not self._is_sealed and self._waiting.count > 0
                if self._sealed.count or (is_open and self._is_due()):
                    break
                if not self._waiting.count:
                    self._is_urgent = False
                pause_s = FLUSH_INTERVAL_S - (time.monotonic() - self._first_waiting)
                self._changed.wait(max(pause_s, 0.0) if is_open else None)
            if self._is_closing or not self._is_sealed:
                self._end_group()
            group, self._sealed = self._sealed, _Group()
            return group, self._is_closing

    def _write_segment(self, group: _Group, *, is_last: bool) -> None:
        data = b""
        deadline = time.monotonic() + RETRY_FOR_S
        pause_s = 0.5
        while True:
            try:
                if self._void is None:
                    self._void = open_segment(self._storage, self._number).void
                data = data or encode_segment(
                    self._experiment_id, self._owner, group.lines, is_last=is_last, void=self._void
                )
                self._storage.create(segment_name(self._number + 1), data)
            except CreateConflict as error:
                raise ExperimentConflict(_taken_over(self._storage, self._number + 1)) from error
            except (StorageError, OSError) as error:
                if time.monotonic() + pause_s > deadline:
                    message = f"{self._storage.url}: the journal could not be written for {RETRY_FOR_S:.0f} s: {error}"
                    raise StorageError(message) from error
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 10.0)
            else:
                self._number += 1
                return


def claim(
    storage: ExperimentStorage,
    experiment_id: str,
    owner: dict[str, Any],
    is_alive: Callable[[dict[str, Any]], bool],
    *,
    discard_damaged: bool = False,
) -> int:
    """Take the next segment, so that this driver is the only one that can write; return its number.

    Args:
        storage: The experiment's storage.
        experiment_id: The experiment that begins or goes on.
        owner: Who this driver is.
        is_alive: Tells whether the owner of an open journal may still be at work.
        discard_damaged: Whether the first damaged segment, and all after it, are given up. The claimed
            segment says so, for good.

    Raises:
        ExperimentConflict: Another driver is at work on this name and path, or was faster.
        JournalDamaged: The newest segment is damaged; or nothing before the damage is left.
    """
    if discard_damaged and (whole := _before_damage(storage)) is not None:
        return _claim_after(storage, whole, experiment_id, owner, is_alive)
    before: dict[str, Any] | None = None
    number = 1
    for _ in range(_CLAIMS):
        last = last_segment(storage)
        if last is not None and last.owner != before:
            if before is not None:
                number = last.number
                break
            _refuse_living(storage, last, is_alive)
            before = last.owner
        number = last.number + 1 if last is not None else 1
        void = last.void if last is not None else ()
        data = encode_segment(experiment_id, owner, b"", is_last=False, void=void)
        try:
            storage.create(segment_name(number), data)
        except CreateConflict:
            if last is None:
                break
            continue  # the driver that is to be fenced off may just have written
        return number
    raise ExperimentConflict(_was_faster(storage, number))


def _before_damage(storage: ExperimentStorage) -> Segment | None:
    """The last segment before the first damaged one; None if none is damaged.

    Raises:
        JournalDamaged: It is the first of all.
    """
    whole = None
    for opened in opened_segments(storage, discard_damaged=True):
        try:
            whole = decoded(storage, opened)
        except JournalDamaged:
            break
    numbers = segment_numbers(storage)
    if whole is None and numbers:
        raise damaged(storage, 1, "nothing before it is left, so it cannot be given up")
    return None if whole is None or whole.number == numbers[-1] else whole


def _claim_after(
    storage: ExperimentStorage,
    whole: Segment,
    experiment_id: str,
    owner: dict[str, Any],
    is_alive: Callable[[dict[str, Any]], bool],
) -> int:
    """Claim the next segment, and give up all that are there after `whole`."""
    _refuse_living(storage, whole, is_alive)
    numbers = segment_numbers(storage)
    first, last = whole.number + 1, numbers[-1]
    void = (*known_void(storage, numbers), (first, last))
    given_up = SegmentsGivenUp(time.time(), first, last - first + 1)
    lines = dumps(event_to_dict(given_up)) + b"\n"
    data = encode_segment(experiment_id, owner, lines, is_last=False, void=void)
    try:
        storage.create(segment_name(last + 1), data)
    except CreateConflict as error:
        raise ExperimentConflict(_was_faster(storage, last + 1)) from error
    logger.warning(
        "%s: segments %d to %d of the journal are given up, since the first of them is damaged. Trials go on from "
        "what is before it, and from what they have committed",
        storage.url,
        first,
        last,
    )
    return last + 1


def _refuse_living(
    storage: ExperimentStorage, last: Segment, is_alive: Callable[[dict[str, Any]], bool]
) -> None:
    if not last.is_last and is_alive(last.owner):
        raise ExperimentConflict(
            f"{storage.url} belongs to an experiment that is running now ({_describe_owner(last.owner)}): "
            "give RunConfig another name= or storage_path=, or wait until it has ended; if that driver is "
            "known to be dead, Tuner.restore(…, takeover=True) goes on with it"
        )


def _was_faster(storage: ExperimentStorage, number: int) -> str:
    other = _describe_owner(read_segment(storage, number).owner)
    return f"{storage.url} was taken over by another driver ({other}), which was faster"


def _taken_over(storage: ExperimentStorage, number: int) -> str:
    other = _describe_owner(read_segment(storage, number).owner)
    return f"{storage.url} was taken over by another driver ({other}): this one stops and writes nothing more"


def _describe_owner(owner: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in owner.items())
