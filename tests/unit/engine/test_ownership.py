"""Which call of `fit` is which: what a retry has in common with the attempt before, and nothing else has."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import Flow, flow
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext, TaskRunContext

from tune_core.engine import ownership
from tune_core.engine.ownership import identity, is_earlier

BEGAN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


class Unrepeated(Flow[..., Any]):
    """A flow whose calls no retry repeats."""


class Server:
    """The runs that Prefect's server knows."""

    def __init__(self) -> None:
        self.runs: dict[UUID, Any] = {}

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def read_task_run(self, key: UUID) -> TaskRun:
        found: TaskRun = self.runs[key]
        return found

    read_flow_run = read_task_run

    def flow_run(self, inside: FlowRun | None = None, call: UUID | None = None, attempt: int = 1) -> FlowRun:
        """A flow run, called by `inside`; at the same `call` Prefect may make a new run of a flow tried again."""
        run = FlowRun(id=uuid4(), flow_id=uuid4(), run_count=attempt, start_time=BEGAN, name="run")
        if inside is not None:
            call = call or uuid4()
            self.runs[call] = TaskRun(id=call, flow_run_id=inside.id, task_key="sub", dynamic_key="0")
            run.parent_task_run_id = call
        self.runs[run.id] = run
        return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(ownership, "get_client", lambda **_: made)
    return made


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what this process has counted, as another one knows nothing of it."""

    def forget() -> None:
        monkeypatch.setattr(ownership, "_calls", defaultdict(int))

    forget()
    return forget


def called(
    run: FlowRun | None, task_run: TaskRun | None = None, name: str | None = None, of: Any = None
) -> Any:
    """The identity of a call of `fit` in a flow run, or in a task run of it."""
    with ExitStack() as stack:
        if run is not None:
            stack.enter_context(FlowRunContext.model_construct(flow_run=run, flow=of))
        if task_run is not None:
            stack.enter_context(TaskRunContext.model_construct(task_run=task_run))
        return identity(name, Unrepeated)


def a_task_run(run: FlowRun | None, attempt: int = 1) -> TaskRun:
    return TaskRun(
        id=uuid4(),
        flow_run_id=None if run is None else run.id,
        task_key="fit",
        dynamic_key=str(uuid4()),
        run_count=attempt,
        start_time=BEGAN,
    )


def test_outside_of_flows_and_tasks_nothing_repeats_a_call(server: Server) -> None:
    assert called(None) is None


def test_a_flow_that_is_tried_again_in_another_process_makes_the_same_calls(
    server: Server, new_process: Callable[[], None]
) -> None:
    run = server.flow_run()
    before = [called(run), called(run), called(run, name="digits")]
    new_process()
    again = run.model_copy(update={"run_count": 2})
    after = [called(again), called(again), called(again, name="digits")]

    assert [each.key for each in after] == [each.key for each in before]
    assert len({each.key for each in before}) == 3
    assert {each.began for each in before + after} == {BEGAN.timestamp()}
    assert is_earlier({"identity": before[0].key, "attempt": list(before[0].attempt)}, after[0])


def test_tasks_in_processes_of_their_own_are_told_apart_and_their_retries_are_not(
    server: Server, new_process: Callable[[], None]
) -> None:
    run = server.flow_run()
    first, second = a_task_run(run), a_task_run(run)
    keys = []
    for task_run in (first, second, first.model_copy(update={"run_count": 2})):
        new_process()
        keys.append(called(run, task_run).key)

    assert keys[0] == keys[2]
    assert keys[0] != keys[1]
    assert called(None, a_task_run(None)) is not None  # a task that no flow has called


def test_runs_that_a_flow_starts_of_a_deployment_are_told_apart(
    server: Server, new_process: Callable[[], None]
) -> None:
    parent = server.flow_run()
    keys = set()
    for _ in range(2):
        new_process()
        keys.add(called(server.flow_run(inside=parent)).key)

    assert len(keys) == 2


def test_a_new_run_of_the_same_subflow_goes_on_when_a_flow_above_it_is_tried_again(
    server: Server, new_process: Callable[[], None]
) -> None:
    top = server.flow_run()
    middle_call, inner_call = uuid4(), uuid4()
    middle = server.flow_run(top, middle_call)
    before = called(server.flow_run(middle, inner_call))
    new_process()
    server.runs[middle.id] = middle.model_copy(update={"run_count": 2})  # only the one in the middle
    after = called(server.flow_run(middle, inner_call))

    assert before.key == after.key
    assert (before.attempt, after.attempt) == ((1, 1, 1), (1, 2, 1))


def test_a_subflow_in_a_task_is_the_caller(server: Server) -> None:
    parent = server.flow_run()
    subflow = server.flow_run(inside=parent)

    assert called(subflow, a_task_run(parent)).key.startswith(f"{subflow.parent_task_run_id}/")


def test_trials_and_callbacks_of_an_experiment_have_no_identity(server: Server) -> None:
    run = server.flow_run()

    assert called(run, a_task_run(run), of=Unrepeated(lambda: None, name="experiment")) is None
    assert called(run, of=flow(lambda: None, name="users")) is not None
