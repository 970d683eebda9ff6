"""Our side of the suite: one Ray cluster like the peer's, and one Prefect server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.differential.record import CLUSTER
from tune_core.engine.server import server as prefect_servers


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster and a server; homes of their own, for what trainables write by themselves."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(home))
        environment.setenv("PREFECT_HOME", str(home / "prefect"))
        environment.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        environment.delenv("PREFECT_API_URL", raising=False)
        server = prefect_servers.start_own_server()
        os.environ["PREFECT_API_URL"] = server.api_url
        ray.init(**CLUSTER, namespace="prefect")
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            yield
        ray.shutdown()
        del os.environ["PREFECT_API_URL"]
        prefect_servers.stop_own_server()
