"""Two drivers on one experiment, 20 races per kind and storage: exactly one goes on each time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import pytest

from tests.support.ceph import missing_programs, start_rgw
from tests.support.racing import Scenario, check_race, run_races
from tests.support.s3_servers import start_moto, start_seaweedfs
from tune_core.storage.experiment_storage import ExperimentStorage

ROUNDS = 20


@pytest.fixture(scope="module", params=["seaweedfs", "ceph rgw", "moto", "local"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Where experiments are kept: a path or URL, and the options for it."""
    directory: Path = tmp_path_factory.mktemp("storage")
    if request.param == "local":
        yield str(directory), {}
        return
    if request.param == "ceph rgw":
        if missing := missing_programs():
            pytest.skip(f"Ceph is not installed ({', '.join(missing)}): see tests/support/ceph.py")
        server = start_rgw(directory / "ceph")
    elif request.param == "moto":
        server = start_moto(checks_credentials=True)
    else:
        server = start_seaweedfs(directory)
    yield f"s3://{server.bucket}/races", server.storage_options
    server.stop()


@pytest.mark.parametrize("scenario", get_args(Scenario))
def test_exactly_one_of_two_drivers_goes_on(place: tuple[str, dict[str, Any]], scenario: Scenario) -> None:
    path, options = place
    storages = [
        ExperimentStorage.open(path, f"{scenario} {uuid4().hex[:8]}", storage_options=options)
        for _ in range(ROUNDS)
    ]
    for storage, ended in zip(storages, run_races(storages, scenario), strict=True):
        check_race(storage, ended)
