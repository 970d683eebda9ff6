"""Two drivers on one experiment: exactly one goes on, and the other one harms nothing.

Every round is a race of two processes for an experiment whose driver was killed. SeaweedFS lets
who loses a conditional write wait for a second, so its rounds, and those of Ceph, are in tests/chaos.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tests.contracts.conftest import open_s3
from tests.support.racing import Scenario, check_race, run_races
from tests.support.s3_servers import S3Server
from tune_core.storage.experiment_storage import ExperimentStorage


@pytest.mark.parametrize("scenario", get_args(Scenario))
class TestOneOfTwoDriversWinsEveryRound:
    def test_in_a_local_directory(self, scenario: Scenario, tmp_path: Path) -> None:
        storages = [ExperimentStorage.open(tmp_path / "storage", f"e{number}") for number in range(20)]

        for storage, ended in zip(storages, run_races(storages, scenario), strict=True):
            check_race(storage, ended)

    def test_on_moto(self, scenario: Scenario, moto: S3Server) -> None:
        storages = [open_s3(moto, f"{scenario}-{number}") for number in range(4)]

        for storage, ended in zip(storages, run_races(storages, scenario), strict=True):
            check_race(storage, ended)
