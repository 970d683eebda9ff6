"""What an attempt that ended badly died of, and what its storage still knows of it.

Both are found out in threads of their own: a node that does not answer and a storage that is
away must not keep the other trials waiting. The loop learns the outcome as `Recovered`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from ray import exceptions

from tune_core.control.endings import Ended, Recovered
from tune_core.engine import cluster
from tune_core.engine.channel.spool import SpoolPlace, left_behind, rows_of
from tune_core.errors import CheckpointCorrupted, StorageError
from tune_core.states import OUT_OF_MEMORY, Outcome
from tune_core.storage.commit import CheckpointMarker
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import brief

#: How long the storage is asked for an attempt's checkpoints while it does not answer, in seconds: as
#: long as the journal is tried, without which the experiment could not go on either.
RETRY_FOR_S = 300.0
#: How long a commit marker that is damaged is read again, since it may have been on its way; then it is
#: left out: the trial goes on from what the journal knows.
REREAD_FOR_S = 15.0
#: How many attempts are looked into at once.
_THREADS = 4

#: Errors by which Ray says that it was not the process's own doing.
_LOSSES = (
    exceptions.NodeDiedError,
    exceptions.ActorUnavailableError,
    exceptions.OutOfMemoryError,
    exceptions.ActorPlacementGroupRemoved,
    exceptions.TaskPlacementGroupRemoved,
    exceptions.ActorUnschedulableError,
    exceptions.TaskUnschedulableError,
    exceptions.LocalRayletDiedError,
    exceptions.OwnerDiedError,
)
#: The same, as the texts of an `ActorDiedError` have it: it carries nothing else (Ray 2.50 to 2.60).
_MEMORY_TEXTS = ("running low on memory", "NODE_OUT_OF_MEMORY")
_LOSS_TEXTS = ("its node has died", "placement group was removed", *_MEMORY_TEXTS)


logger = logging.getLogger("prefect.tune")


class ProcessDied(Exception):
    """The process of a trial died, as that of its task run says.

    Args:
        outcome: LOST or CRASHED, see `outcome_of`.
        text: What Ray says of it, on one line of bounded length.
        is_recorded: Whether the task run has ended with it, as Crashed.
    """

    def __init__(self, outcome: Outcome, text: str, *, is_recorded: bool) -> None:
        super().__init__(text)
        self.outcome, self.text, self.is_recorded = outcome, text, is_recorded

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ProcessDied, is_recorded=self.is_recorded), (self.outcome, self.text)

    @classmethod
    def of(cls, error: BaseException, *, is_recorded: bool = False) -> ProcessDied:
        """Return what an error that Ray raised instead of a result says; itself, if it is one already."""
        if isinstance(error, cls):
            return error
        text = brief(error, 500)
        if is_for_memory(error):
            text = f"{OUT_OF_MEMORY}{text}"
        return cls(outcome_of(error), text, is_recorded=is_recorded)


def outcome_of(error: BaseException) -> Outcome:
    """Tell a process that died from one that was lost with what it ran on.

    Args:
        error: What Ray raised instead of the attempt's result.

    Returns:
        LOST, or CRASHED: the process died, and for all that Ray knows it did so by itself. A bare SIGKILL is that.
    """
    if isinstance(error, _LOSSES) or getattr(error, "preempted", False):
        return Outcome.LOST
    if isinstance(error, exceptions.RayActorError) and any(text in str(error) for text in _LOSS_TEXTS):
        return Outcome.LOST
    return Outcome.CRASHED


def is_for_memory(error: BaseException) -> bool:
    """Whether Ray has killed a process since memory ran out on its node."""
    texts = isinstance(error, exceptions.RayActorError) and any(text in str(error) for text in _MEMORY_TEXTS)
    return texts or isinstance(error, exceptions.OutOfMemoryError)


def is_lost_at_start(error: BaseException) -> bool:
    """Whether a slot's process ended before it could run anything, and not because of what it was to load."""
    if isinstance(error, exceptions.RayActorError):
        return not error.actor_init_failed
    return isinstance(error, _LOSSES)


def rows_left_behind(
    place: SpoolPlace, runtime_env: dict[str, Any] | None, ended: Ended
) -> Mapping[int, dict[str, Any]]:
    """Return the rows that the dead process of an attempt has left, on whichever of its nodes it was.

    Args:
        place: Where the trials of the experiment keep rows.
        runtime_env: Ray's runtime environment of trials.
        ended: The attempt.
    """
    parts: list[bytes] = []
    for node in ended.nodes:
        try:
            arguments = (place, ended.trial_id, ended.attempt_number)
            parts += cluster.call_on(node, left_behind, *arguments, runtime_env=runtime_env)
        except (exceptions.RayError, OSError) as error:
            if ended.outcome is not Outcome.LOST:  # a node that is gone has taken them along
                logger.warning(
                    "trial %s: what its dead process has left on node %s cannot be read, so that the rows of its "
                    "last milliseconds may be missing: %s",
                    ended.trial_id,
                    node,
                    error,
                )
    return rows_of(parts)


class Recovery:
    """Looks into attempts that ended badly.

    Args:
        storage: The experiment's storage.
        post: Called from its threads with a `Recovered` for each attempt.
        fail: Called instead if the storage does not answer for `RETRY_FOR_S`.
        rows_left: Returns the rows that the dead process of an attempt has left behind.
        lost_nodes: Tells which of these nodes are gone.
    """

    def __init__(
        self,
        storage: ExperimentStorage,
        post: Callable[[Recovered], None],
        fail: Callable[[Exception], None],
        *,
        rows_left: Callable[[Ended], Mapping[int, dict[str, Any]]] = lambda ended: {},
        lost_nodes: Callable[[Iterable[str]], set[str]] = cluster.lost_nodes,
        pause_s: float = 0.5,
    ) -> None:
        self._storage, self._post, self._fail = storage, post, fail
        self._rows_left = rows_left
        self._lost_nodes, self._pause_s = lost_nodes, pause_s
        self._closing = threading.Event()
        self._threads = ThreadPoolExecutor(_THREADS, "tune-recovery")

    def begin(self, ended: Ended, dirname: str) -> None:
        """Find out what became of an attempt; returns at once.

        Args:
            ended: How it ended.
            dirname: Its trial's directory.
        """
        self._threads.submit(self._look_into, ended, dirname)

    def close(self) -> None:
        """Stop; what is not known yet stays unknown."""
        self._closing.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look_into(self, ended: Ended, dirname: str) -> None:
        try:
            ended = self._with_lost_nodes(ended)
            found = self._markers(dirname)
            rows = {} if ended.outcome is Outcome.ERROR else self._rows_left(ended)
        except Exception as error:  # noqa: BLE001 - handed to the driver's loop, which stops the experiment
            self._fail(error)
        else:
            if found is not None:
                self._post(Recovered(ended, found, rows))

    def _with_lost_nodes(self, ended: Ended) -> Ended:
        """An attempt that failed because a node of its group went away was lost, whatever it raised."""
        is_plain = ended.outcome in (Outcome.LOST, Outcome.TIMED_OUT) or not ended.retryable
        # What raises an error lives, and so does its own node: another one must have gone.
        if is_plain or (ended.outcome is Outcome.ERROR and len(ended.nodes) < 2):
            return ended
        lost = self._lost_nodes(ended.nodes)
        if not lost:
            return ended
        text = f"node {', '.join(sorted(lost))} was lost: {ended.error}"
        return replace(ended, outcome=Outcome.LOST, error=text)

    def _markers(self, dirname: str) -> Sequence[CheckpointMarker] | None:
        """Read a trial's commit markers, again and again if need be; None: there is no more time."""
        began, skips_damaged = time.monotonic(), False
        pause_s = self._pause_s
        while True:
            try:
                return self._storage.committed(dirname, skip_damaged=skips_damaged)
            except (CheckpointCorrupted, StorageError, OSError) as error:
                waited = time.monotonic() - began + pause_s
                skips_damaged = isinstance(error, CheckpointCorrupted) and waited > REREAD_FOR_S
                if waited > RETRY_FOR_S:
                    message = (
                        f"the checkpoints of {dirname} could not be listed for {RETRY_FOR_S:.0f} s: {error}"
                    )
                    raise StorageError(f"{self._storage.url}: {message}") from error
                if self._closing.wait(pause_s):
                    return None
                pause_s = min(2 * pause_s, 10.0)
