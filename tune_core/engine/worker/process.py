"""Where a trainable runs: in a process without Prefect, unless the trainable imports it.

Prefect takes two thirds of what it costs to start a process, and its threads do not survive a fork. So the task run of
a trial is another process's business. Importing this module imports no Prefect.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RaySystemError

from tune_core.engine.channel.trial_end import ChannelUplink
from tune_core.engine.ray_private import has_loaded_functions
from tune_core.engine.worker.children import refused_misfits
from tune_core.engine.worker.import_hook import after_import
from tune_core.engine.worker.output import SEND_TIMEOUT_S, TrialLog, forwarded_output
from tune_core.engine.worker.ray_tune import bridge
from tune_core.engine.worker.shared_parameters import SharedParameters
from tune_core.engine.worker.ticket import Ticket
from tune_core.errors import StorageError, TrainableError
from tune_core.states import Outcome
from tune_core.training.attempt_spec import AttemptSpec, working_directory
from tune_core.training.execution import Ending, describe_error, format_traceback, run_attempt
from tune_core.training.hygiene import Surroundings, note_unseeded_numpy, seeds_noted, warn_of_threads
from tune_core.training.parameters import supplied_parameters
from tune_core.training.serialization import PickledTrainable
from tune_core.training.trainable_cache import Leftover, TrainableCache

#: How long what Prefect has to send at the end of a trial that uses it may take, in seconds.
PREFECT_TIMEOUT_S = 5.0

logger = logging.getLogger("prefect.tune.process")

#: What this process keeps from one trial to the next.
trainables = TrainableCache()
#: Whether this process had run tasks when this module was imported: before it became a trial's.
_was_used = has_loaded_functions()
#: What this process was like when its first trial began.
_surroundings: Surroundings | None = None


def run_ticket(
    ticket: Ticket,
    parameters: SharedParameters,
    log: TrialLog | None,
    loaded: Callable[[], None] | None = None,
) -> tuple[Ending, str | None]:
    """Carry out an attempt in this process; return how it ended, and why it was told to stop, if it was.

    Args:
        ticket: What the attempt needs; it is released.
        parameters: The values of `with_parameters`; they are released.
        log: Takes what is printed and logged.
        loaded: Called when the trainable has been loaded, before it runs.
    """
    bridge()  # before anything of the user's is imported
    if _surroundings is None:
        after_import("numpy.random", note_unseeded_numpy)
    address, trial_id, attempt_number, body, pickled = ticket.open()
    uplink = ChannelUplink(address, trial_id, attempt_number)
    try:
        uplink.hello(os.getpid(), socket.gethostname(), ray.util.get_node_ip_address())
        try:
            ending = _run(partial(ticket.load_spec, body), pickled, parameters, uplink, log, loaded)
        except Exception as error:  # noqa: BLE001 - no room for its directory, say, or a stream that it left broken
            ending = Ending(Outcome.ERROR, describe_error(error), format_traceback(error, None))
        if uplink.failure is not None:
            said, trace = uplink.failure
            ending = replace(ending, outcome=Outcome.ERROR, error=said, traceback=trace, retryable=False)
        uplink.end(ending)
        return replace(ending, reason=uplink.stop_reason or ending.reason), uplink.stop_cause
    finally:
        for held in (parameters, ticket):
            held.release()  # not when it goes: the process lives on, and something may hold it
        uplink.close()


def _run(
    load_spec: Callable[[], AttemptSpec],
    pickled: PickledTrainable,
    parameters: SharedParameters,
    uplink: ChannelUplink,
    log: TrialLog | None,
    loaded: Callable[[], None] | None,
) -> Ending:
    try:
        spec = load_spec()
        directory = Path(working_directory(spec))
        with seeds_noted():
            trainable = trainables.begin(spec.reuse, pickled.load, max_growth=spec.max_growth)
    except (TrainableError, StorageError) as error:
        return Ending(Outcome.ERROR, describe_error(error), retryable=False)
    except Exception as error:  # noqa: BLE001 - whatever a user's object does when it is unpickled
        return Ending(Outcome.ERROR, describe_error(error), format_traceback(error, None), retryable=False)
    if loaded is not None:
        loaded()
    before, threads = _first_surroundings(), frozenset(threading.enumerate())
    directory.mkdir(parents=True, exist_ok=True)
    files = (directory / spec.log_files[0], directory / spec.log_files[1]) if spec.log_files else None
    with (
        forwarded_output(log, files, prints=spec.prints, name=spec.trial_id),
        refused_misfits(spec.resources),
        supplied_parameters(trainable, parameters.fetch),
    ):
        ending = run_attempt(spec, trainable, uplink, directory, trainables=trainables)
        if ending.traceback:  # Prefect's own shows its frames and ours
            shown = f"{spec.trial_id} failed\n{ending.traceback}"
            logging.getLogger("trial").error(shown)
        warn_of_threads(threads)
    if ending.leaves != Leftover.OBJECT:  # it may need what it has set up
        before.put_back()
    for file in files or ():
        try:
            spec.storage.upload(file, f"{spec.dirname}/{file.name}")
        except StorageError as error:  # a trial does not fail for its log, which its task run has too
            logging.getLogger("trial").warning("%s is not kept: %s", file.name, error)
    return ending


def _first_surroundings() -> Surroundings:
    global _surroundings  # noqa: PLW0603 - there is one environment in a process
    if _surroundings is None:
        _surroundings = Surroundings.now()
    return _surroundings


class TrialProcess:
    """The process of one trial after the other: an actor on all of bundle 0."""

    def __repr__(self) -> str:
        """Return what Ray puts in front of what is printed here."""
        return "trial"

    def __init__(self) -> None:
        gc.freeze()  # what was imported stays
        logging.basicConfig(format="%(asctime)s | %(levelname)-7s | %(name)s - %(message)s")
        self._host: Any = None
        self._task_run_id = ""
        self._log: TrialLog | None = None
        self._context = ExitStack()
        self._awaits_prefect = False

    def ready(self, _recorder: Any = None) -> dict[str, Any]:
        """Return where this process is, and whether it was used before it was started, as `was_used`.

        Resolves when it can run a trial, and what it was given is ready, too.
        """
        return {**this_worker(), "was_used": _was_used}

    def run(
        self, ticket: Ticket, parameters: SharedParameters, host: Any, task_run_id: str, *, is_logged: bool
    ) -> tuple[Ending, str | None]:
        """Carry out an attempt; see `run_ticket`.

        Args:
            ticket: What the attempt needs.
            parameters: The values of `with_parameters`.
            host: Handle of the actor that runs the task run, a `tune_core.engine.worker.recorder.Recorder`.
            task_run_id: Names the task run to it.
            is_logged: Whether the task run's log wants what is printed and logged here.
        """
        self._host, self._task_run_id = host, task_run_id
        self._log = TrialLog(_plain, self._send_log) if is_logged else None
        try:
            with self._context:
                return run_ticket(ticket, parameters, self._log, self._offer_context)
        finally:
            self._host = self._log = None
            if "prefect.logging.handlers" in sys.modules:
                from tune_core.engine.prefect_context import send_what_waits

                send_what_waits(PREFECT_TIMEOUT_S)  # this process may be killed as soon as it is idle

    def clean_up(self) -> None:
        """End what was kept of the last trial for the next: there is none."""
        trainables.clean_up()

    def _send_log(self, records: list[dict[str, Any]]) -> None:
        ray.get(self._host.take_log.remote(self._task_run_id, records), timeout=SEND_TIMEOUT_S)

    def _offer_context(self) -> None:
        """Enter the task run's context, so that `prefect.get_run_logger()` works; now, or once Prefect is imported."""
        if "prefect" in sys.modules:
            self._enter_context()
        elif not self._awaits_prefect:
            self._awaits_prefect = True
            after_import("prefect", lambda _: self._enter_context())

    def _enter_context(self) -> None:
        if self._host is None:  # no trial runs
            return
        asked = self._host.task_run_context.remote(self._task_run_id)
        root = logging.getLogger()
        level, handlers = root.level, root.handlers[:]
        try:
            from tune_core.engine.forks import end_forks_well
            from tune_core.engine.prefect_context import enter_context

            end_forks_well()
            enter_context(self._context, *ray.get(asked))
        # What the context needs is being imported just now, and that is what imports Prefect.
        except (ImportError, RaySystemError) as error:
            logger.warning("no context of the task run, import prefect at the top of the module: %s", error)
        # Prefect has set up logging, so that the root has its handlers and level alone.
        root.setLevel(level)
        if self._log in handlers:
            root.addHandler(self._log)


def this_worker() -> dict[str, Any]:
    """Return where this process is: `pid`, `hostname`, `node_ip`."""
    return {
        "pid": os.getpid(),
        "hostname": socket.gethostname(),
        "node_ip": ray.util.get_node_ip_address(),
    }


def _plain(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record as another process can make it again, whatever it was logged with."""
    message = _FORMATTER.format(record)
    return {"name": record.name, "levelno": record.levelno, "created": record.created, "msg": message}


_FORMATTER = logging.Formatter()
