"""The automation that finds flow runs whose process is gone, on a real server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import Event, emit_event
from prefect.events.worker import EventsWorker
from prefect.flows import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed, Running

from deployments.automations import install_crash_detection
from tests.flows.conftest import wait_for
from tune_core.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture
def name(client: SyncPrefectClient) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    for automation in client.read_automations_by_name(name):
        client.delete_automation(automation.id)


@flow
def some_flow() -> None:
    """Never called: its runs are made by hand."""


def running(client: SyncPrefectClient, *tags: str) -> uuid.UUID:
    """A flow run that beats once."""
    run = client.create_flow_run(some_flow, tags=tags, state=Running())
    beat(run.id, *tags)
    return run.id


def beat(run_id: uuid.UUID, *tags: str) -> Event | None:
    related = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags]
    return emit_event(
        "prefect.flow-run.heartbeat",
        resource={"prefect.resource.id": f"prefect.flow-run.{run_id}"},
        related=related,
    )


def test_run_that_falls_silent_is_crashed_and_none_that_has_ended_beats_or_is_another_ones(
    client: SyncPrefectClient, name: str
) -> None:
    install_crash_detection(silent_for_s=10, flow_run_tags=["watched"], name=name)
    silent, ended, alive = (running(client, "watched") for _ in range(3))
    foreign = running(client)
    client.set_flow_run_state(ended, Completed())

    def silent_state() -> bool:
        beat(alive, "watched")
        EventsWorker.instance().wait_until_empty()
        state = client.read_flow_run(silent).state
        return state is not None and state.is_crashed()

    wait_for(silent_state, what="the silent run to be found", timeout_s=90)

    crashed = client.read_flow_run(silent).state
    assert crashed is not None
    assert crashed.message == "No heartbeat for 10 s: its process has died."
    states = [client.read_flow_run(run).state_name for run in (ended, alive, foreign)]
    assert states == ["Completed", "Running", "Running"]


def test_installing_it_again_changes_the_one_that_is_there(client: SyncPrefectClient, name: str) -> None:
    first = install_crash_detection(name=name)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        again = install_crash_detection(name=name)

    (found,) = client.read_automations_by_name(name)
    assert found.id == first == again
    assert found.enabled
    assert found.trigger.within.total_seconds() == 90  # type: ignore[union-attr]
    assert found.trigger.after == {"prefect.flow-run.heartbeat"}  # type: ignore[union-attr]
    assert [action.type for action in found.actions] == ["change-flow-run-state"]


@pytest.mark.parametrize("silent_for_s", [9, -1, float("nan"), float("inf"), True])
def test_silence_that_no_automation_can_wait_for_is_refused(silent_for_s: float, name: str) -> None:
    with pytest.raises(ConfigError, match="expected seconds, at least 10"):
        install_crash_detection(silent_for_s=silent_for_s, name=name)
