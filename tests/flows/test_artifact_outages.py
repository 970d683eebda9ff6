"""Artifacts while the server refuses them or is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
)
from prefect.settings import PREFECT_EVENTS_MAXIMUM_SIZE_BYTES, temporary_settings

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.artifacts import rows_in
from tests.support.fault_proxy import FaultProxy, Rule
from tests.support.waiting import wait_for
from tune_core.engine.artifacts.artifacts import ArtifactWriter
from tune_core.engine.worker.trial_task import trial as trial_task


@contextmanager
def api_behind(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the artifacts of an experiment, and nothing else, go through a proxy."""

    def through_proxy(**_: Any) -> SyncPrefectClient:
        return SyncPrefectClient(f"{proxy.url}/api")

    with monkeypatch.context() as patches:
        patches.setattr("tune_core.engine.artifacts.artifacts.get_client", through_proxy)
        yield


def test_artifact_that_is_larger_than_an_event_may_be_is_written_once(
    api: str, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.INTERVAL_S", 0.1)
    name, shown = f"large-{uuid4().hex[:8]}", ["a" * 5000]
    with (
        FaultProxy(api.removesuffix("/api")) as proxy,
        api_behind(proxy, monkeypatch),
        temporary_settings({PREFECT_EVENTS_MAXIMUM_SIZE_BYTES: 1000}),
    ):
        writer = ArtifactWriter(name, "a1b2c", uuid4(), [], trial_task)

        def written() -> list[str]:
            found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
            return [str(each.data) for each in found]

        key = f"{name}-page"
        writer.show_page("page", "A page", lambda: shown[0], has_key=True)
        wait_for(written, what="the page")
        shown[0] = "b" * 5000
        writer.show_page("page", "A page", lambda: shown[0])
        writer.close()

    assert written() == ["b" * 5000]
    methods = [method for method, path, _ in proxy.requests if "artifacts" in path]
    assert sorted(methods) == ["PATCH", "POST"]


@pytest.mark.parametrize("fault", ["status", "reset", "hang"])
def test_training_goes_on_without_the_artifact_service_and_one_warning_says_so(
    run_config: Callable[..., tune.RunConfig],
    api: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Any,
) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(20):
            tune.report({"step": step})

    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.CLOSE_TIMEOUT_S", 2.0)
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.INTERVAL_S", 0.1)
    # Prefect's loggers do not propagate, and caplog listens at the root.
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    space = {"x": tune.grid_search([1, 2])}
    with FaultProxy(api.removesuffix("/api")) as proxy, api_behind(proxy, monkeypatch):
        broken = proxy.add(Rule(fault, path="/artifacts", status=500))
        began = time.monotonic()

        results = tune.Tuner(train, param_space=space, run_config=run_config()).fit()

        took_s = time.monotonic() - began

    assert broken.fired > 0
    assert results.num_errors == 0
    assert [result.metrics["training_iteration"] for result in results] == [20, 20]
    for result in results:
        assert len(Path(result.path, "result.json").read_text().splitlines()) == 20
    warnings = [record for record in caplog.records if record.name.startswith("prefect.tune")]
    assert [record.levelname for record in warnings if record.levelno >= logging.WARNING] == ["WARNING"]
    assert took_s < 30


def test_artifacts_that_could_not_be_written_are_written_when_the_service_is_back(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    api: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.INTERVAL_S", 0.1)
    config = run_config()
    with FaultProxy(api.removesuffix("/api")) as proxy, api_behind(proxy, monkeypatch):
        proxy.add(Rule("status", path="/artifacts", status=500, times=6))

        (result,) = tune.Tuner(lambda config: {"x": 1}, run_config=config).fit()

    seen = recorded(config.name).artifacts()
    assert [(row["trial_id"], row["x"]) for row in rows_in(seen["reports"])] == [
        (result.metrics["trial_id"], 1)
    ]
    assert [row["status"] for row in rows_in(seen["leaderboard"])] == ["TERMINATED"]
    assert seen["progress"].data == 100
