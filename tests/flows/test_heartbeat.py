"""Heartbeats of flow runs that `fit()` starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, get_current_settings, temporary_settings

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.waiting import wait_for
from tune_core.cli.automations import _HEARTBEAT
from tune_core.engine import heartbeat
from tune_core.engine.heartbeat import heartbeats, without_heartbeats


def test_run_sends_heartbeats_with_what_automations_choose_by(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], client: SyncPrefectClient
) -> None:
    config = run_config(tags=["watched"])

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 45}):
        tune.Tuner(lambda config: {"x": 1}, run_config=config).fit()

    run = recorded(config.name).flow_run

    def sent() -> list[dict[str, Any]]:
        wanted = {
            "event": {"name": [heartbeat.EVENT]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        }
        answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 10})
        found: list[dict[str, Any]] = answer.json()["events"]
        return found

    (beat,) = wait_for(sent, what="a heartbeat")
    related = {each["prefect.resource.id"] for each in beat["related"]}
    assert {f"prefect.flow.{run.flow_id}", "prefect.tag.watched"} <= related


def test_automations_listen_to_what_is_sent() -> None:
    assert heartbeat.EVENT == _HEARTBEAT


@pytest.mark.parametrize(("frequency", "every_s"), [(None, []), (45, [45])])
def test_heart_beats_as_the_settings_say_while_the_run_lasts_and_what_runs_sees_them(
    monkeypatch: pytest.MonkeyPatch, frequency: int | None, every_s: list[int]
) -> None:
    beats: list[float] = []
    ends: list[bool] = []

    def beat(resource: str, related: list[dict[str, str]], every_s: float, is_over: threading.Event) -> None:
        assert resource == f"prefect.flow-run.{run.id}"
        assert related[-1]["prefect.resource.id"] == "prefect.tag.a"
        beats.append(every_s)
        ends.append(is_over.wait(60))

    monkeypatch.setattr(heartbeat, "_beat", beat)
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="r", tags=["a"])
    context = FlowRunContext.model_construct(flow_run=run, flow=None)

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: frequency}), without_heartbeats() as settings:
        assert get_current_settings().flows.heartbeat_frequency is None
        with heartbeats(settings, context):
            assert get_current_settings().flows.heartbeat_frequency == frequency
            wait_for(lambda: beats == every_s, what="the first heartbeat")
            assert not ends

    wait_for(lambda: ends == [True] * len(every_s), what="the end of the heartbeats")


def test_heart_goes_on_after_a_beat_that_could_not_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    is_over = threading.Event()

    async def send(resource: str, related: list[dict[str, str]]) -> None:
        tried.append(resource)
        if len(tried) == 3:
            is_over.set()
        raise ConnectionError("made up")

    monkeypatch.setattr(heartbeat, "_send", send)

    heartbeat._beat("prefect.flow-run.1", [], 0.01, is_over)

    assert tried == ["prefect.flow-run.1"] * 3


def test_run_whose_engine_sends_them_sends_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_beat", lambda *_: pytest.fail("a heart beats"))
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="r")

    with heartbeats(None, FlowRunContext.model_construct(flow_run=run, flow=None)):
        assert "tune-heartbeat" not in [thread.name for thread in threading.enumerate()]
