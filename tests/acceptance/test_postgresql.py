"""An experiment on a Prefect server whose database is PostgreSQL, as docs/deployments.md sets it up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.support.postgres import find_programs, running_postgres
from tests.support.prefect_server import ROOT, environment_of, running_server

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import tune_core as tune


def train(config):
    for step in range(3):
        tune.report({"loss": (config["x"] - 3) ** 2 / (step + 1)})


tune.Tuner(
    train,
    param_space={"x": tune.grid_search([1, 2, 3, 4])},
    tune_config=tune.TuneConfig(metric="loss", mode="min"),
    run_config=tune.RunConfig(name="on-postgresql", storage_path=sys.argv[1]),
).fit()
"""


def test_experiment_runs_on_a_server_with_postgresql(tmp_path: Path) -> None:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with (
        running_postgres(programs) as postgres,
        running_server(
            tmp_path / "prefect", PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres.connection_url
        ) as api_url,
    ):
        ran = subprocess.run(
            [sys.executable, script, tmp_path / "results"],
            cwd=ROOT,
            env=environment_of(tmp_path / "prefect", api_url),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]

        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            mine = FlowRunFilter(name={"any_": ["on-postgresql"]})
            (flow_run,) = client.read_flow_runs(flow_run_filter=mine)
            task_runs = client.read_task_runs(flow_run_filter=mine)
            artifacts = {artifact.key for artifact in client.read_artifacts(flow_run_filter=mine)}
        assert flow_run.state_name == "Completed"
        assert [run.state_name for run in task_runs] == ["Completed"] * 4
        assert "on-postgresql-leaderboard" in artifacts
        assert postgres.query("select name, state_name from flow_run") == "on-postgresql|Completed"
        assert not list((tmp_path / "prefect").glob("*.db"))
