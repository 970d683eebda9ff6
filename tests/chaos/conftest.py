"""Servers of the chaos tier, and its table: case, runs, recovered, lost, left behind, seconds to recover.

`CHAOS_RUNS` (4), `CHAOS_SEED` and `CHAOS_TABLE`, a file that the table is written to as Markdown, come
from the environment.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from examples.seaweedfs import S3Server, start_seaweedfs
from tests.chaos.harness import PATIENCE_S, ROOT, ApiServer, Chaos, Outcome
from tests.support.ceph import missing_programs, start_rgw
from tests.support.fault_proxy import FaultProxy
from tests.support.prefect_server import free_port, is_healthy
from tests.support.waiting import wait_for

RUNS = int(os.environ.get("CHAOS_RUNS", "4"))
SEED = int(os.environ.get("CHAOS_SEED", "2026"))

_outcomes: dict[str, list[Outcome]] = defaultdict(list)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", range(1, RUNS + 1))


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path_factory.mktemp("prefect"), free_port())
    server.start()
    with temporary_settings({PREFECT_API_URL: server.url}):
        wait_for(lambda: is_healthy(server.url), "the Prefect server", PATIENCE_S)
        yield server
    server.kill()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = start_seaweedfs(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip(f"Ceph is not installed ({', '.join(missing)}): see tests/support/ceph.py")
    server = start_rgw(tmp_path_factory.mktemp("ceph"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A cluster that outlives the drivers."""
    holder = start_cluster([8])  # in name only: trials mostly wait
    yield holder.address
    holder.stop()


class ClusterHolder:
    """Nodes of a Ray cluster on this machine, held by a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self.say("address")

    def say(self, order: str) -> str:
        """Give an order; return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        """End all nodes."""
        self._process.communicate(timeout=60)


def start_cluster(cpus: list[int]) -> ClusterHolder:
    command = [sys.executable, "-m", "tests.chaos.nodes", *map(str, cpus)]
    return ClusterHolder(
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    )


def _case(request: pytest.FixtureRequest) -> str:
    name: str = request.function.__name__
    return name.removeprefix("test_").replace("_", " ")


@contextmanager
def _experiment(request: pytest.FixtureRequest, run: int) -> Iterator[Chaos]:
    case = _case(request)
    s3: S3Server = request.getfixturevalue("ceph" if case.endswith("on Ceph") else "s3")
    place = request.getfixturevalue("tmp_path") / str(run)
    place.mkdir()
    with FaultProxy(s3.url) as proxy:
        api, ray_address = request.getfixturevalue("api"), request.getfixturevalue("ray_address")
        made = Chaos(place, s3, proxy, api, ray_address, random.Random(f"{SEED} {case} {run}"))
        _outcomes[case].append(made.outcome)
        yield made
        made.stop_everything()


@pytest.fixture
def chaos(request: pytest.FixtureRequest, run: int) -> Iterator[Chaos]:
    """An experiment to be disturbed; each run of each case has times of its own, the same ones each time."""
    with _experiment(request, run) as made:
        yield made


@pytest.fixture
def all_at_once(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[Chaos], None]], None]]:
    """Runs every run of a case at the same time: for cases that mostly wait."""
    with ExitStack() as stack:
        herd = [stack.enter_context(_experiment(request, run)) for run in range(1, RUNS + 1)]
        for each in herd:
            each.given.pause_s = 1.0  # together they keep the machine busy: a fault must not come too late

        def run_all(body: Callable[[Chaos], None]) -> None:
            with ThreadPoolExecutor(RUNS) as pool:
                # Which Prefect server is meant is in the context, which a thread does not inherit.
                ends = [pool.submit(copy_context().run, body, each) for each in herd]
            faults = [fault for end in ends if (fault := end.exception()) is not None]
            if faults:
                raise ExceptionGroup(f"{len(faults)} of {RUNS} runs", [*faults])  # type: ignore[type-var]

        yield run_all


def _row(case: str, outcomes: list[Outcome]) -> list[str]:
    seconds = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    shown = f"{statistics.median(seconds):.1f} (at most {max(seconds):.1f})" if seconds else "-"
    recovered = sum(outcome.recovered for outcome in outcomes)
    lost = sum(len(outcome.lost) for outcome in outcomes)
    left = sum(len(outcome.left) for outcome in outcomes)
    return [case, str(len(outcomes)), str(recovered), str(lost), str(left), shown]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _outcomes:
        return
    head = ["case", "runs", "recovered", "lost", "left behind", "seconds to recover"]
    rows = [
        head,
        ["---"] * len(head),
        *(_row(case, outcomes) for case, outcomes in sorted(_outcomes.items())),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    terminalreporter.write_line(f"\nseed {SEED}")
    terminalreporter.write_line("\n".join(lines))
    if table := os.environ.get("CHAOS_TABLE"):
        Path(table).parent.mkdir(parents=True, exist_ok=True)
        with Path(table).open("a") as file:
            file.write("\n".join(lines[2 if file.tell() else 0 :]) + "\n")
