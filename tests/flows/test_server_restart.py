"""The Prefect server goes away in mid-run: the experiment goes on, and if it comes back, all is told in the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.conftest import Recorded
from tests.support.prefect_server import free_port
from tests.support.waiting import wait_for
from tune_core.engine.server.contact import END_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]

#: Trial 0 runs through it all, trial 1 ends while the server is away, trial 2 begins and ends then.
SCRIPT = """
import sys, time
from pathlib import Path
import ray
import tune_core as tune

marks = Path(sys.argv[1])

def train(config):
    x = config["x"]
    until = "back" if x == 0 else "away"
    step = 0
    while True:
        step += 1
        tune.report({"step": step})
        (marks / f"running-{x}").touch()
        if (marks / until).exists() and step > 5:
            break
        time.sleep(0.1)
    tune.report({"step": 0})

class Marks(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        self.ended = time.monotonic()
        (marks / f"ended-{trial.config['x']}").touch()

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    callback = Marks()
    results = tune.Tuner(
        train,
        param_space={"x": tune.grid_search([0, 1, 2])},
        run_config=tune.RunConfig(
            name=sys.argv[2], storage_path=str(marks / "results"), verbose=1, callbacks=[callback]
        ),
    ).fit()
    print("ended:", [str(result.status) for result in results], flush=True)
    print("rows:", [len(result.metrics_dataframe) > 0 for result in results], flush=True)
    print("after", round(time.monotonic() - callback.ended, 1), "s", flush=True)
"""


class Server:
    """A Prefect server that can be killed and started again, on one port and one database."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.home = home
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PREFECT_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "tune_core.engine.server.server_process", str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        wait_for(self.answers, what="the server to answer", timeout_s=120)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "prefect")
    server.start()
    yield server
    server.kill()


def test_experiment_goes_on_while_the_prefect_server_is_restarted(tmp_path: Path, server: Server) -> None:
    name = "restarted"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), name],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for((tmp_path / "running-1").exists, what="the second trial", timeout_s=150)
        server.kill()
        (tmp_path / "away").touch()
        wait_for((tmp_path / "ended-2").exists, what="the third trial to begin and end", timeout_s=120)
        assert not (tmp_path / "ended-0").exists()
        assert process.poll() is None
        server.start()
        (tmp_path / "back").touch()
        printed, _ = process.communicate(timeout=150)
    finally:
        process.kill()

    assert process.returncode == 0, printed
    assert "ended: ['TERMINATED', 'TERMINATED', 'TERMINATED']" in printed
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        seen = Recorded(client, name)
        assert seen.flow_run.state_name == "Completed"
        assert [run.state_name for run in seen.task_runs(3)] == ["Completed"] * 3
        artifacts = seen.artifacts()
        rows = json.loads(str(artifacts["leaderboard"].data))
        assert [row["status"] for row in rows] == ["TERMINATED"] * 3
        assert len({row["trial_id"] for row in seen.reports()}) == 3


@pytest.mark.parametrize("fate", ["kill", "freeze"])
def test_results_are_returned_soon_and_the_process_ends_when_the_prefect_server_has_gone_for_good(
    tmp_path: Path, server: Server, fate: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), "gone"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for((tmp_path / "running-1").exists, what="the second trial", timeout_s=150)
        getattr(server, fate)()
        (tmp_path / "away").touch()
        (tmp_path / "back").touch()
        printed, _ = process.communicate(timeout=150)
    finally:
        process.kill()

    assert process.returncode == 0, printed
    assert "ended: ['TERMINATED', 'TERMINATED', 'TERMINATED']" in printed
    assert "rows: [True, True, True]" in printed
    (took_s,) = re.findall(r"^after (\S+) s$", printed, re.MULTILINE)
    assert float(took_s) < 2 * END_S, printed  # twice: machines that run tests are busy
    assert printed.count("WARNING") == 1, printed
    assert printed.count(f"the Prefect server at {server.url} does not answer") == 1, printed
