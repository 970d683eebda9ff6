"""What the server shows of a driver that died without a word, once another one has taken its place."""

from __future__ import annotations

from uuid import uuid4

from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Running

from tune_core.engine.ownership import end_runs_of


@flow
def an_experiment() -> None:
    """Never runs: only its runs are made."""


@task
def a_trial() -> None:
    """The same."""


def runs_of_a_driver(client: SyncPrefectClient) -> FlowRun:
    """A flow run with one attempt that has ended and two that say that they run, as a kill leaves them."""
    run = client.create_flow_run(an_experiment, state=Running())
    for number, state in enumerate((Completed(), Running(), Running())):
        client.create_task_run(a_trial, run.id, dynamic_key=str(uuid4()), name=f"trial-{number}", state=state)
    return run


def states(client: SyncPrefectClient, run: FlowRun) -> list[str | None]:
    tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
    ordered = sorted(tasks, key=lambda each: each.name)
    return [client.read_flow_run(run.id).state_name, *(each.state_name for each in ordered)]


def test_runs_of_a_dead_driver_end_and_those_of_others_do_not(client: SyncPrefectClient) -> None:
    dead, other = runs_of_a_driver(client), runs_of_a_driver(client)

    end_runs_of({"flow_run_id": str(dead.id)}, other.id)
    end_runs_of({"flow_run_id": str(uuid4())}, other.id)  # another server's
    end_runs_of({"host": "somewhere"}, other.id)  # it ran without Prefect

    assert states(client, dead) == ["Crashed", "Completed", "Crashed", "Crashed"]
    assert states(client, other) == ["Running", "Completed", "Running", "Running"]


def test_flow_run_that_is_tried_again_goes_on_itself(client: SyncPrefectClient) -> None:
    run = runs_of_a_driver(client)

    end_runs_of({"flow_run_id": str(run.id)}, run.id)

    assert states(client, run) == ["Running", "Completed", "Crashed", "Crashed"]
