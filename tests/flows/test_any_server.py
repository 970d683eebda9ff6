"""An experiment on a server that a user has started: `prefect server start`, with SQLite and with PostgreSQL."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.conftest import Recorded
from tests.support.postgres import find_programs, running_postgres
from tests.support.prefect_server import ROOT, environment_of, running_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Two experiments in one process, the second with many more trials.
FEW, MANY = 4, 44
SCRIPT = f"""
import sys
from pathlib import Path
import ray
import tune_core as tune

log = Path(sys.argv[2])

def train(config):
    for step in range(3):
        tune.report({{"loss": (config["x"] - 3) ** 2 / (step + 1)}})

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    for name, trials in (("few", {FEW}), ("many", {MANY})):
        run = tune.RunConfig(name=name, storage_path=sys.argv[1], verbose=0)
        space = {{"x": tune.grid_search([*range(trials)])}}
        tune_config = tune.TuneConfig(metric="loss", mode="min")
        tune.Tuner(train, param_space=space, tune_config=tune_config, run_config=run).fit()
        print("lines", name, len(log.read_text().splitlines()), flush=True)
"""


class Server(NamedTuple):
    """A server, and the log that has a line of each request."""

    api_url: str
    log: Path


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """`prefect server start`, on a database of its own."""
    settings = {"PREFECT_SERVER_LOGGING_LEVEL": "INFO"}
    with ExitStack() as stack:
        if request.param == "postgresql":
            programs = find_programs()
            if programs is None:
                pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
            postgres = stack.enter_context(running_postgres(programs))
            settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = postgres.connection_url
        api_url = stack.enter_context(running_server(tmp_path / "prefect", **settings))
        yield Server(api_url, tmp_path / "prefect" / "server.log")


def test_short_trials_ask_a_stock_server_for_little_and_are_all_there(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    ran = subprocess.run(
        [sys.executable, script, tmp_path / "results", server.log],
        cwd=ROOT,
        env=environment_of(tmp_path / "prefect", server.api_url),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    with temporary_settings({PREFECT_API_URL: server.api_url}), get_client(sync_client=True) as client:
        for name, trials in (("few", FEW), ("many", MANY)):
            seen = Recorded(client, name)
            assert [run.state_name for run in seen.task_runs(trials)] == ["Completed"] * trials
            assert seen.flow_run.state_name == "Completed"
            reports = Counter(row["trial_id"] for row in seen.reports())
            assert len(reports) == trials
            assert {*reports.values()} == {3}
            shown = seen.artifacts()
            assert len(json.loads(str(shown["leaderboard"].data))) == trials
            assert "summary" in shown
    until = {name: int(line) for name, line in re.findall(r"^lines (\w+) (\d+)$", ran.stdout, re.MULTILINE)}
    lines = server.log.read_text().splitlines()[until["few"] : until["many"]]
    requests = Counter(re.findall(r'"(?:GET|POST|PATCH|PUT|DELETE) /api/\S+', "\n".join(lines)))
    assert sum(requests.values()) < MANY, requests.most_common()
