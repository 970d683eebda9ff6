"""How task runs ended, which the server has to know: their processes may have died before they could say so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    TaskRunFilter,
    TaskRunFilterId,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, State
from prefect.context import TagsContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Running
from prefect.tasks import Task

#: How long `settle` waits for the server to record the ends of task runs before it sets them.
SETTLE_TIMEOUT_S = 10.0
#: How long a task run that the server does not know may be on its way there, in seconds.
UNHEARD_FOR_S = 2.0
#: Task runs that one request asks for: Prefect's limit.
_PAGE = 200


@dataclass(frozen=True, slots=True)
class TaskRunState:
    """The state that a task run has ended in."""

    run_name: str
    task_run_id: UUID
    state: State[Any]


class TaskRunEnds:
    """Sees to it that the server has the ends of one experiment's task runs.

    Args:
        flow_run_id: The flow run that they belong to.
        task: Their task, for those that the server has never heard of.
        clock: Monotonic seconds.
    """

    def __init__(self, flow_run_id: UUID, task: Task[Any, Any], clock: Callable[[], float]) -> None:
        self._flow_run_id, self._task, self._clock = flow_run_id, task, clock
        self._tags = TagsContext.get().current_tags

    def settle(self, client: SyncPrefectClient, expected: dict[UUID, TaskRunState]) -> None:
        """Wait until the server has the end of every task run; force what does not arrive.

        Prefect's workers send states as events, which the server records with a delay. They may be lost when a
        process dies, when the server is away, and when it ends before it has recorded them.

        Args:
            client: Of the server.
            expected: Is empty afterwards.
        """
        deadline = self._clock() + SETTLE_TIMEOUT_S
        while expected:
            some = list(expected)[:_PAGE]
            if self._count_ended(client, some) == len(some):
                for task_run_id in some:
                    del expected[task_run_id]
            elif self._clock() < deadline:
                time.sleep(0.05)
            else:
                wanted = TaskRunFilter(id=TaskRunFilterId(any_=some))
                for run in client.read_task_runs(task_run_filter=wanted, limit=_PAGE):
                    if run.state is not None and run.state.is_final():
                        del expected[run.id]
                for item in expected.values():
                    self.force(client, item)
                expected.clear()

    def _count_ended(self, client: SyncPrefectClient, task_run_ids: list[UUID]) -> int:
        """Ask how many of these task runs have ended: a hundredth of what it costs the server to read them."""
        is_final = TaskRunFilterState(type=TaskRunFilterStateType(any_=list(TERMINAL_STATES)))
        ended = TaskRunFilter(id=TaskRunFilterId(any_=task_run_ids), state=is_final)
        answer = client.request("POST", "/task_runs/count", json={"task_runs": ended.model_dump(mode="json")})
        return int(answer.json())

    def force(self, client: SyncPrefectClient, item: TaskRunState) -> None:
        """Set the state of a task run, which the server may not have heard of yet, or never will."""
        deadline = self._clock() + UNHEARD_FOR_S
        while True:
            try:
                # Its name comes with the state RUNNING, which a process that died at once may not have sent.
                client.set_task_run_name(item.task_run_id, item.run_name)
                client.set_task_run_state(item.task_run_id, item.state, force=True)
            except PrefectHTTPStatusError as error:
                if error.response.status_code != HTTPStatus.NOT_FOUND:
                    raise
                if self._clock() < deadline:
                    time.sleep(0.1)
                    continue
                self._create(client, item)
                client.set_task_run_state(item.task_run_id, item.state, force=True)
            return

    def _create(self, client: SyncPrefectClient, item: TaskRunState) -> None:
        """Prefect's workers send task runs in batches: the last batch may have died with its process."""
        client.create_task_run(
            self._task.with_options(tags=self._tags),
            self._flow_run_id,
            dynamic_key=str(item.task_run_id),
            id=item.task_run_id,
            name=item.run_name,
            state=Running(),
        )
