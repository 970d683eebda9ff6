"""From a deployment to the experiments of its latest runs, with a server that is made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from tests.unit.command_line import tuned
from tune_core.engine import earlier_runs
from tune_core.engine.earlier_runs import locate_runs
from tune_core.errors import ConfigError


class Server:
    """Knows one deployment, and its completed runs."""

    def __init__(self, runs: list[FlowRun]) -> None:
        self.runs, self.asked = runs, {}

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_deployment_by_name(self, name: str) -> Any:
        if name != "experiment/nightly":
            raise ObjectNotFound(LookupError(name))
        return SimpleNamespace(id=uuid4())

    def read_flow_runs(self, **asked: Any) -> list[FlowRun]:
        self.asked: dict[str, Any] = asked
        return self.runs[: asked["limit"]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """Three runs: of the second, the experiment is gone."""
    for name in ("digits-3", "digits-1"):
        tuned(tmp_path, name)
    parameters = {"run_config": {"storage_path": str(tmp_path)}}
    made = Server(
        [
            FlowRun(id=uuid4(), flow_id=uuid4(), name=f"digits-{number}", parameters=parameters)
            for number in (3, 2, 1)
        ]
    )
    monkeypatch.setattr(earlier_runs, "get_client", lambda **_: made)
    return made


def test_the_latest_completed_runs_are_found_by_their_names(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    found = locate_runs("experiment/nightly", 5)

    assert [storage.name for storage in found] == ["digits-3", "digits-1"]
    assert "leaves run digits-2 out" in caplog.text
    assert server.asked["limit"] == 5
    assert [str(each) for each in server.asked["flow_run_filter"].state.type.any_] == ["StateType.COMPLETED"]
    assert [storage.name for storage in locate_runs("experiment/nightly", 1)] == ["digits-3"]


def test_a_deployment_that_is_not_there_or_has_left_nothing_is_refused(server: Server) -> None:
    with pytest.raises(ConfigError, match="the Prefect server has none of this name"):
        locate_runs("experiment/daily", 5)
    server.runs = server.runs[1:2]
    with pytest.raises(ConfigError, match="none of its 1 latest completed runs has left an experiment"):
        locate_runs("experiment/nightly", 5)


def test_without_a_server_paths_are_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**_: Any) -> Any:
        raise OSError("connection refused")

    monkeypatch.setattr(earlier_runs, "get_client", unreachable)

    with pytest.raises(ConfigError, match=r"no Prefect server answers .*give the paths of experiments"):
        locate_runs("experiment/nightly", 5)
