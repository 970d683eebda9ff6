"""Who drives an experiment, which run that is, and whether a driver that left a journal open is at work."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from tune_core.control.experiment import Continuation, Experiment, Identity
from tune_core.control.journal import claim
from tune_core.control.resume import steered_spec
from tune_core.control.retry import refuse_another
from tune_core.control.segments import experiments, last_segment, segment_before
from tune_core.errors import ExperimentConflict
from tune_core.steering.request_handler import as_steered, space_as_steered

logger = logging.getLogger("prefect.tune")

_UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
#: How long after a journal write a driver may write the trials' files, which have no fence of their own: it
#: learns that its place was taken when it writes the journal. Longer than uploads wait for each other.
OWNS_FILES_S = 15.0
#: Most task runs that the server gives at once.
_PAGE = 200
#: URLs of the experiments that this process drives now.
_driven: set[str] = set()
_lock = threading.Lock()
#: Calls of `fit` so far, per caller, its attempt, and the name that the experiment was given.
_calls: dict[tuple[UUID, tuple[int, ...], str | None], int] = defaultdict(int)


def identity(name: str | None, unrepeated: type[Flow[..., Any]]) -> Identity | None:
    """Return which call of `fit`, of which task or flow run, this is; None outside of both.

    An attempt at a run makes its calls in one process. A retry makes the same calls in the same order: the
    first `fit` of the second attempt goes on with what the first one of the first attempt began.

    - A task run is found again by its own id: Prefect gives each retry of the flow new ones.
    - A flow run that another one calls is found by that call: Prefect may make a new run of it when the
      caller is tried again.

    Args:
        name: The experiment's, if it was given one: it tells calls apart that are made at the same time.
        unrepeated: Flows that make no call twice, experiments: an attempt at a trial goes on from its
            checkpoint, and a callback is called in the order of reports. There is no identity in them.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    if flow is not None and isinstance(flow.flow, unrepeated):
        return None
    run = flow.flow_run if flow is not None else None
    if task is not None and (run is None or task.task_run.flow_run_id == run.id):
        each = task.task_run
        return _call_of(each.id, (each.run_count,), _when(each), name)
    if run is None:
        return None
    above = _above(run)
    attempt = tuple(each.run_count for each in (*above, run))
    return _call_of(run.parent_task_run_id or run.id, attempt, _when((*above, run)[0]), name)


def deployed_identity(run: FlowRun) -> Identity:
    """Return the identity of the one experiment that a deployment's flow run is: each of its attempts has it."""
    began = run.expected_start_time or run.created  # not when it began: that is not known before it does
    return Identity(str(run.id), (run.run_count,), began.timestamp())  # type: ignore[union-attr] # the server sets it


def _call_of(caller: UUID, attempt: tuple[int, ...], began: float, name: str | None) -> Identity:
    with _lock:
        number = _calls[caller, attempt, name]
        _calls[caller, attempt, name] += 1
    return Identity(f"{caller}/{name or ''}/{number}", attempt, began)


def _above(run: FlowRun) -> list[FlowRun]:
    """Return the flow runs that a run was called in, the outermost one first."""
    found: list[FlowRun] = []
    with get_client(sync_client=True) as client:
        while run.parent_task_run_id is not None:
            call = client.read_task_run(run.parent_task_run_id)
            if call.flow_run_id is None:
                break  # called by a task that no flow has called
            run = client.read_flow_run(call.flow_run_id)
            found.insert(0, run)
    return found


def _when(run: FlowRun | TaskRun) -> float:
    began = run.start_time or run.expected_start_time or run.created
    return began.timestamp()  # type: ignore[union-attr] # one of them is set when it runs


def this_process(flow_run_id: UUID, run: Identity | None) -> dict[str, Any]:
    """Return what tells this driver from any other."""
    owner: dict[str, Any] = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _process_started(os.getpid()),
        "flow_run_id": str(flow_run_id),
    }
    return owner if run is None else {**owner, "identity": run.key, "attempt": list(run.attempt)}


@contextmanager
def driving(url: str) -> Iterator[None]:
    """Take note that this process drives an experiment."""
    _driven.add(url)
    try:
        yield
    finally:
        _driven.discard(url)


def is_earlier(owner: dict[str, Any], run: Identity) -> bool:
    """Whether a driver was an earlier attempt at this run: the later one beats it, alive or not."""
    return owner.get("identity") == run.key and tuple(owner["attempt"]) < run.attempt


def may_be_alive(owner: dict[str, Any], url: str) -> bool:
    """Whether the driver that left the journal of an experiment open may still be at work."""
    if owner.get("host") == socket.gethostname():
        if owner["pid"] == os.getpid():
            return url in _driven
        return _process_started(owner["pid"]) == owner.get("process_started")
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(owner["flow_run_id"])).state
    except ObjectNotFound:
        return True  # another server's flow run: nobody here can tell
    return state is None or not state.is_final()


def _process_started(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's clock ticks; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # dead already, if nobody has asked how it ended


def end_runs_of(dead: dict[str, Any], flow_run_id: UUID) -> None:
    """Tell the server that a driver whose place was taken is dead: nobody else would tell it.

    Afterwards none of its attempts is shown as running, and neither is its flow run, unless it is
    the one that is tried again. Call it before attempts of the new driver begin.

    Args:
        dead: Who wrote the journal's last segment before this driver, and did not close it.
        flow_run_id: The new driver's flow run.
    """
    if "flow_run_id" not in dead:
        return  # it ran without Prefect
    before = UUID(dead["flow_run_id"])
    state: State[Any] = Crashed(message=f"Its driver died; the experiment went on in flow run {flow_run_id}.")
    unfinished = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNFINISHED)))
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[before]))
    try:
        with get_client(sync_client=True) as client:
            while runs := client.read_task_runs(
                flow_run_filter=mine, task_run_filter=unfinished, limit=_PAGE
            ):
                for run in runs:
                    client.set_task_run_state(run.id, state, force=True)
            if before == flow_run_id:
                return
            with suppress(ObjectNotFound):  # of another server
                found = client.read_flow_run(before).state
                if found is None or not found.is_final():
                    client.set_flow_run_state(before, state, force=True)
    except Exception as error:  # noqa: BLE001 - costs the looks of old runs, not the experiment
        logger.warning("cannot end the runs of the driver before, flow run %s: %s", before, error)


def take_journal(current: Experiment, owner: dict[str, Any]) -> int:
    """Take the journal over, with all that this means for the driver that had it.

    One that may be alive is waited for, until it writes no files any more; one that ended without
    a word has left runs that say that they are running.
    """
    url, run = current.storage.url, current.identity
    continuation = current.continuation or Continuation()
    takeover = continuation.takeover
    fenced_off = []

    def is_in_the_way(other: dict[str, Any]) -> bool:
        if not may_be_alive(other, url):
            return False
        is_own = other.get("flow_run_id") == owner["flow_run_id"]  # this run, tried again
        if takeover or is_own or (run is not None and is_earlier(other, run)):
            fenced_off.append(other)
            return False
        return True

    number = claim(
        current.storage,
        current.experiment_id,
        owner,
        is_in_the_way,
        discard_damaged=continuation.discard_damaged,
    )
    if fenced_off:
        logger.warning(
            "%s is taken over: going on in %.0f s, when its driver before has noticed", url, OWNS_FILES_S
        )
        time.sleep(OWNS_FILES_S)
    before = segment_before(current.storage, number)
    if before is not None and not before.is_last:
        end_runs_of(before.owner, UUID(owner["flow_run_id"]))
    return number


def continued(current: Experiment) -> Experiment:
    """Return the experiment as one that goes on, if this run is a retry of the one that began it.

    Raises:
        ExperimentConflict: It is, but another experiment of this name has begun since, or it tunes something
            else than it did.
    """
    if current.continuation is not None or (last := last_segment(current.storage)) is None:
        return current
    if last.experiment_id == current.experiment_id:
        refuse_another(current)
        spec = steered_spec(current.storage, current.experiment_id)
        tune, run = as_steered(current.tune_config, current.run_config, spec)
        space = space_as_steered(current.param_space, spec)
        current = replace(current, param_space=space, tune_config=tune, run_config=run)
        return replace(current, continuation=Continuation(is_retry=True))
    url = current.storage.url
    if current.identity is not None and current.experiment_id in experiments(current.storage):
        raise ExperimentConflict(
            f"{url}: since this run began its experiment there ({current.experiment_id}), another one of this name "
            f"has begun ({last.experiment_id}): give each run's RunConfig a name of its own, or none"
        )
    if not last.is_last:
        logger.warning(
            "%s holds an experiment whose driver did not end it: a new one begins beside it. "
            "Tuner.restore(%r, trainable) would go on with the old one, until this one has begun",
            url,
            url,
        )
    return current
