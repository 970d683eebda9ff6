"""What a real Prefect server does by itself about runs whose process is gone, and about events of experiments."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.events import Event, emit_event
from prefect.events.worker import EventsWorker
from prefect.flows import flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed, Running

from tests.support.waiting import wait_for
from tune_core.cli.automations import (
    FINISHED,
    NEW_BEST,
    STARTED,
    install_crash_detection,
    install_follow_up,
    install_notification,
    install_stall_cancellation,
)
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
    first = install_crash_detection(silent_for_s=120, name=name)
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


def say(
    event: str, run_id: uuid.UUID, *tags: str, outcome: str = "", payload: dict[str, Any] | None = None
) -> None:
    """Emit an event of the experiment that this flow run is, as the experiment flow does."""
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"prefect-tune.experiment.{run_id}",
            "prefect.resource.name": "digits",
            **({"prefect-tune.outcome": outcome} if outcome else {}),
        },
        related=[
            {"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.role": "flow-run"},
            *({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags),
        ],
        payload=payload or {},
    )
    EventsWorker.instance().wait_until_empty()


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A web server that takes messages: its URL, and what it got."""
    got: list[dict[str, str]] = []

    class Inbox(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Inbox) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", got
        server.shutdown()
        thread.join()


def test_a_new_best_is_told_to_a_webhook_and_nothing_else_is(
    client: SyncPrefectClient, name: str, inbox: tuple[str, list[dict[str, str]]]
) -> None:
    url, got = inbox
    message = {"subject": "{{subject}}", "body": "{{body}}"}
    CustomWebhookNotificationBlock(name="inbox", url=url, json_data=message).save(name)
    install_notification(f"custom-webhook/{name}", flow_run_tags=["watched"], name=name)
    run = client.create_flow_run(some_flow, state=Running()).id

    say(STARTED, run, "watched")
    say(NEW_BEST, run)  # another one's
    say(NEW_BEST, run, "watched", payload={"trial_id": "a1", "loss": 0.25})
    wait_for(lambda: got, what="the message")

    assert got == [{"subject": "new-best: digits", "body": "trial_id: a1\nloss: 0.25\n"}]


def test_a_deployment_is_run_with_values_of_the_event_when_an_experiment_has_completed(
    client: SyncPrefectClient, name: str
) -> None:
    flow_id = client.create_flow(some_flow)
    deployment = client.create_deployment(flow_id, name=name, enforce_parameter_schema=False)
    parameters = {"checkpoint": "{{ event.payload.best.checkpoint_url }}", "stage": "test"}
    install_follow_up(f"some-flow/{name}", parameters=parameters, name=name)
    run = client.create_flow_run(some_flow, state=Running()).id

    url = "s3://bucket/tuning/digits/1/checkpoint_000003"
    say(NEW_BEST, run)
    say(FINISHED, run, outcome="failed", payload={"best": {"checkpoint_url": "none"}})
    say(FINISHED, run, outcome="completed", payload={"best": {"checkpoint_url": url}})
    of_deployment = FlowRunFilter(deployment_id={"any_": [deployment]})
    (started,) = wait_for(
        lambda: client.read_flow_runs(flow_run_filter=of_deployment), what="the deployment's run"
    )

    assert started.parameters == {"checkpoint": url, "stage": "test"}


def test_an_experiment_of_which_no_trial_begins_or_ends_is_cancelled_and_others_are_not(
    client: SyncPrefectClient, name: str
) -> None:
    install_stall_cancellation(10, flow_run_tags=["watched"], name=name)
    stalled, ended, busy, foreign = (client.create_flow_run(some_flow, state=Running()).id for _ in range(4))
    for run in (stalled, ended, busy):
        say(STARTED, run, "watched")
    say(STARTED, foreign)

    def stalled_state() -> bool:
        # More than once: the server may take events that come together in another order.
        say(FINISHED, ended, "watched")
        say("prefect-tune.trial.ended", busy, "watched")
        state = client.read_flow_run(stalled).state
        return state is not None and (state.is_cancelling() or state.is_cancelled())

    wait_for(stalled_state, what="the stalled run to be cancelled", timeout_s=90)

    assert [client.read_flow_run(run).state_name for run in (ended, busy, foreign)] == ["Running"] * 3


def test_an_automation_of_what_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="'slack-webhook/nobody': the Prefect server has no such block"):
        install_notification("slack-webhook/nobody", name=name)
    with pytest.raises(ConfigError, match=r"event='new-best': expected one of prefect-tune\.experiment\."):
        install_notification("slack-webhook/nobody", event="new-best", name=name)
    for deployment in ("some-flow/nowhere", "no-slash"):
        with pytest.raises(ConfigError, match=f"'{deployment}': the Prefect server has no such deployment"):
            install_follow_up(deployment, name=name)
