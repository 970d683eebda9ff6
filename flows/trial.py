"""The trial task: one attempt at a trial is one Prefect task run of it.

It runs in a Ray worker. It opens the channel, runs the trainable under a session, says how
that ended, and ends its task run in the matching state. Prefect does not retry it: the
controller does, since only it sees exceptions and deaths alike.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import cloudpickle
import ray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.states import Cancelled, Completed

from flows.channel import ChannelAddress, ChannelUplink
from flows.children import refused_misfits
from flows.output import forwarded_output
from flows.parameters import SharedParameters
from tune_core.errors import StorageError, TrainableError, TrialError
from tune_core.execution import Ending, describe_error, format_traceback, run_lease
from tune_core.messages import Outcome, StopCause
from tune_core.parameters import supplied_parameters
from tune_core.reuse import Keeper
from tune_core.serialization import PickledTrainable
from tune_core.session import Lease, working_directory

#: Stops after which a task run ends as Cancelled.
_CANCELLING = frozenset({StopCause.INTERRUPT, StopCause.FAILURE})


#: What this process keeps from one trial to the next.
keeper = Keeper()


def pack_ticket(address: ChannelAddress, lease: Lease, trainable: PickledTrainable) -> bytes:
    """Return what a trial task needs, as opaque bytes: Prefect and Ray look into anything else."""
    body = cloudpickle.dumps(lease)
    return pickle.dumps((address, lease.trial_id, lease.lease, body, trainable))


def _trial(run_name: str, ticket: bytes, parameters: SharedParameters) -> State[Any]:
    address, trial_id, lease_number, body, pickled = pickle.loads(ticket)  # noqa: S301 - from our own flow
    uplink = ChannelUplink(address, trial_id, lease_number)
    try:
        uplink.hello(os.getpid(), socket.gethostname(), ray.util.get_node_ip_address())
        try:
            ending = _run(body, pickled, parameters, uplink)
        except OSError as error:  # there is no room for its directory, or for what it printed
            ending = Ending(Outcome.ERROR, describe_error(error), format_traceback(error, None))
        uplink.end(ending)
        cause = uplink.stop_cause
    finally:
        parameters.release()  # not when this object goes: the process lives on, and something may hold it
        uplink.close()
    if ending.outcome in (Outcome.ERROR, Outcome.CORRUPTED):
        raise TrialError(ending.error or "failed", ending.traceback)
    if ending.outcome is Outcome.STOPPED and cause in _CANCELLING:
        return Cancelled(message=f"The experiment was stopped ({cause}).")
    return Completed(message=f"The trial {ending.outcome}.")


#: The task. Its function has a name of its own, so that it can be pickled by reference.
trial = task(
    name="trial",
    task_run_name="{run_name}",
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
    log_prints=False,  # see flows.output
)(_trial)


def _run(
    body: bytes, pickled: PickledTrainable, parameters: SharedParameters, uplink: ChannelUplink
) -> Ending:
    try:
        lease: Lease = pickle.loads(body)  # noqa: S301 - from our own flow
        trainable = keeper.begin(lease.reuse, pickled.load)
    except TrainableError as error:
        return Ending(Outcome.ERROR, describe_error(error), retryable=False)
    except Exception as error:  # noqa: BLE001 - whatever a user's object does when it is unpickled
        return Ending(Outcome.ERROR, describe_error(error), format_traceback(error, None), retryable=False)
    directory = Path(working_directory(lease))
    directory.mkdir(parents=True, exist_ok=True)
    context = TaskRunContext.get()
    run = context.task_run if context else None
    files = (directory / lease.log_files[0], directory / lease.log_files[1]) if lease.log_files else None
    with (
        forwarded_output(
            run.flow_run_id if run else None, run.id if run else None, files, prints=lease.prints
        ),
        refused_misfits(lease.resources),
        supplied_parameters(trainable, parameters.fetch),
    ):
        ending = run_lease(lease, trainable, uplink, directory, keeper=keeper)
        if ending.traceback:
            logging.getLogger("trial").error(ending.traceback)  # Prefect's own shows its frames and ours
    for file in files or ():
        try:
            lease.storage.upload(file, f"{lease.dirname}/{file.name}")
        except StorageError as error:  # a trial does not fail for its log, which its task run has too
            logging.getLogger("trial").warning("%s is not kept: %s", file.name, error)
    return ending
