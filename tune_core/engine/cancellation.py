"""Who wants a running experiment to stop: Ctrl-C, SIGTERM, or somebody at Prefect's API."""

from __future__ import annotations

import contextvars
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.runtime import flow_run as runtime_flow_run

#: How long trials may take to stop after SIGTERM, in seconds: Kubernetes and Prefect's own worker kill 30 s after
#: it, and the journal, the task runs' states and the artifacts have to be written in what remains.
TERM_PATIENCE_S = 12.0
#: How often Prefect is asked whether the flow run has been cancelled, in seconds.
POLL_S = 4.0

_CANCELLED = frozenset({StateType.CANCELLING, StateType.CANCELLED})
_PASSED_ON = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger("prefect.tune")

#: Asked to stop: why, and within how many seconds (None: as configured).
Stop = Callable[[str, float | None], None]


class StopSignals:
    """Turns signals into an orderly stop, while there is something to stop.

    The first one stops the trials cleanly, the second raises KeyboardInterrupt at once; so does
    the first one before anything runs. What comes when all is over already is kept for the
    handlers that were there before.
    """

    def __init__(self) -> None:
        self._stop: Stop | None = None
        self._has_ended = False
        self._received: list[int] = []
        self._kept: list[int] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM; only in the main thread, elsewhere nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # After ray.init, which puts its own handler for SIGTERM in place.
        before = {number: signal.signal(number, self._take) for number in _PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def stopping(self, stop: Stop) -> Iterator[None]:
        """Have the first signal call `stop`."""
        self._stop = stop
        try:
            yield
        finally:
            self._has_ended = True

    def pass_on(self) -> None:
        """Let SIGTERM, and what came too late, do what it would have done without us: mostly, end the process."""
        for number in dict.fromkeys(self._kept):
            signal.raise_signal(number)

    def _take(self, number: int, _: Any) -> None:
        self._received.append(number)
        if number == signal.SIGTERM or self._has_ended:
            self._kept.append(number)
        if len(self._received) > 1 or self._stop is None:
            raise KeyboardInterrupt
        if not self._has_ended:
            patience_s = TERM_PATIENCE_S if number == signal.SIGTERM else None
            self._stop(f"stopped by {signal.Signals(number).name}", patience_s)


@contextmanager
def cancellation_watched(flow_run_id: UUID, stop: Stop) -> Iterator[None]:
    """Call `stop`, from a thread, once somebody has cancelled the flow run or the one that it is part of.

    Nobody else would tell a run that no worker has started. What Prefect cannot be asked is asked again.
    """
    is_over = threading.Event()

    def watch() -> None:
        runs = dict.fromkeys((flow_run_id, UUID(runtime_flow_run.root_flow_run_id or str(flow_run_id))))
        with get_client(sync_client=True) as client:
            while not is_over.wait(POLL_S):
                for each in runs:
                    state = client.read_flow_run(each).state
                    if state is not None and state.type in _CANCELLED:
                        stop(f"cancelled in Prefect (flow run {each} is {state.name})", None)
                        return

    def keep_watching() -> None:
        while not is_over.wait(POLL_S):  # a short experiment need not pay for a client
            try:
                watch()
            except Exception as error:  # noqa: BLE001 - the server is away: trials go on
                logger.debug("cannot ask Prefect whether flow run %s is cancelled: %s", flow_run_id, error)
            else:
                return

    context = contextvars.copy_context()  # which says where the server is
    threading.Thread(target=context.run, args=(keep_watching,), name="tune-cancellation", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
