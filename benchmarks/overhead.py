"""What tuning costs beside the training itself: prefect-tune and `ray.tune`, one after the other.

Both run on one local Ray (4 logical CPUs) and on local storage, each scenario in a process of its own
that is warmed up by an experiment before the one that is measured. For prefect-tune that process has a
Prefect server of its own, as a script has that is told of none. Its time ends when the API of that
server shows every task run in a final state and every row in an artifact. `--server stock` measures
against `prefect server start` with nothing set, `--server URL` against one that is there; `--ours` leaves the peer out.
See docs/performance.md for what the scenarios are and how to read the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed will do

NUM_CPUS = 4
OURS, PEER = "prefect-tune", "ray.tune"
#: How long the Prefect server may take to show what an experiment has done, in seconds.
RECORDED_TIMEOUT_S = 120.0
#: How long one experiment of one side may take, in seconds.
SIDE_TIMEOUT_S = 1800.0
#: How long a stock server may take to start, in seconds.
SERVER_TIMEOUT_S = 180.0
#: In the environment of a side: where the stock server notes the requests that it answers.
REQUESTS = "PREFECT_TUNE_BENCH_REQUESTS"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What both sides run, and by how much prefect-tune has to be faster.

    Attributes:
        name: On the command line.
        title: In the table.
        trials: Number of trials.
        reports: Number of reports of each.
        target: Least ratio of the speeds; None: for information.
        fresh_process: Whether prefect-tune gives each trial a process of its own, as `ray.tune` does.
        reuse_actors: Whether both keep processes and objects for the next trial, as they are told to.
        setup_s: Above 0, a class is tuned whose `setup` takes so many seconds.
        answers: Whether a scheduler has to answer each report.
    """

    name: str
    title: str
    trials: int
    reports: int
    target: float | None
    fresh_process: bool = False
    reuse_actors: bool = False
    setup_s: float = 0.0
    answers: bool = False

    @property
    def counts_rows(self) -> bool:
        """Whether rows per second are measured, rather than seconds per trial."""
        return self.reports > 1 and not self.setup_s

    def smaller(self) -> Scenario:
        """Return the same with sizes for a smoke test."""
        return replace(self, trials=2, reports=200) if self.counts_rows else replace(self, trials=6)

    def warm_up(self) -> Scenario:
        """Return what runs before, so that processes and connections are there."""
        return replace(self, trials=5 * NUM_CPUS, reports=1)


SCENARIOS = (
    Scenario("trials", "60 short trials, warm", trials=60, reports=1, target=40),
    Scenario("fresh", "60 short trials, a process each", trials=60, reports=1, target=1, fresh_process=True),
    Scenario(
        "reused",
        "60 short trials, both with reuse_actors",
        trials=60,
        reports=1,
        target=None,
        reuse_actors=True,
    ),
    Scenario(
        "class",
        "20 trials of a class with a setup of 1 s, both with reuse_actors",
        trials=20,
        reports=5,
        target=None,
        reuse_actors=True,
        setup_s=1.0,
    ),
    Scenario("reports", "4 trials of 5,000 reports", trials=4, reports=5000, target=10),
    Scenario("answers", "the same, each report answered", trials=4, reports=5000, target=5, answers=True),
)


def trainable(report: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Return a training function that does nothing but report, by the `report` of one of the sides."""

    def train(config: dict[str, Any]) -> None:
        started = time.time()
        for step in range(config["reports"]):
            report({"loss": 1.0 / (step + 1), "step": step, "started": started})

    return train


def trainable_class(base: type, setup_s: float) -> type:
    """Return a class, derived from one side's `Trainable`, that takes long to set up and can be reset."""

    class Line(base):
        def setup(self, config: dict[str, Any]) -> None:
            time.sleep(setup_s)
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.reports, self.steps, self.started = new_config["reports"], 0, time.time()
            return True

        def step(self) -> dict[str, Any]:
            self.steps += 1
            return {"loss": 1.0 / self.steps, "started": self.started, "done": self.steps == self.reports}

    return Line


# One side, in its own process.


def run_ours(scenario: Scenario, storage: str) -> dict[str, float]:
    """Run one experiment with prefect-tune; return when it began and when all of it was recorded."""
    import tune_core as tune
    from tune_core.testing.schedulers import AnsweringScheduler

    name = f"ours-{uuid.uuid4().hex[:8]}"
    tuner = tune.Tuner(
        trainable_class(tune.Trainable, scenario.setup_s) if scenario.setup_s else trainable(tune.report),
        param_space={"x": tune.uniform(0, 1), "reports": scenario.reports},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=scenario.trials,
            scheduler=AnsweringScheduler() if scenario.answers else None,
            fresh_process=scenario.fresh_process or None,
            reuse_actors=scenario.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    with _client() as client:
        before, began = _requests(), time.time()
        results = tuner.fit()
        returned, asked = time.time(), _requests() - before
        recorded = _wait_until_recorded(client, name, scenario.trials, scenario.trials * scenario.reports)
    _require(scenario, len(results), results.num_errors)
    times = {"began": began, "returned": returned, "ended": recorded, "requests": asked}
    return {**times, **_rows(scenario, Path(storage, name))}


def _requests() -> int:
    """Return how many requests the stock server has answered so far; 0 if it is none."""
    log = os.environ.get(REQUESTS)
    return len(re.findall(r'"(?:GET|POST|PATCH|PUT|DELETE) /api/', Path(log).read_text())) if log else 0


def run_peer(scenario: Scenario, storage: str) -> dict[str, float]:
    """Run one experiment with `ray.tune`; return when it began and when it returned."""
    from ray import tune
    from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
    from ray.tune.schedulers import FIFOScheduler

    class AnsweringScheduler(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            return self.CONTINUE

    name = f"peer-{uuid.uuid4().hex[:8]}"
    tuner = tune.Tuner(
        trainable_class(tune.Trainable, scenario.setup_s) if scenario.setup_s else trainable(tune.report),
        param_space={"x": tune.uniform(0, 1), "reports": scenario.reports},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            num_samples=scenario.trials,
            scheduler=AnsweringScheduler() if scenario.answers else None,
            reuse_actors=scenario.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[JsonLoggerCallback(), CSVLoggerCallback()],
        ),
    )
    began = time.time()
    results = tuner.fit()
    returned = time.time()
    _require(scenario, len(results), results.num_errors)
    return {"began": began, "returned": returned, "ended": returned, **_rows(scenario, Path(storage, name))}


def _require(scenario: Scenario, trials: int, errors: int) -> None:
    if trials != scenario.trials or errors:
        raise RuntimeError(
            f"expected {scenario.trials} trials without errors: {trials} trials, {errors} errors"
        )


def _rows(scenario: Scenario, directory: Path) -> dict[str, float]:
    """Make sure that every row is in a `result.json`; return when the first was reported."""
    files = sorted(directory.glob("*/result.json"))
    rows = sum(path.read_bytes().count(b"\n") for path in files)
    expected = scenario.trials * scenario.reports
    if rows != expected:
        raise RuntimeError(f"{rows} of {expected} rows are in the {len(files)} result.json below {directory}")
    first = min(json.loads(path.read_bytes().partition(b"\n")[0])["started"] for path in files)
    return {"first_report": first, "rows": rows}


@contextmanager
def _client() -> Iterator[Any]:
    """A client of this process's Prefect server that is ready to ask: to make one is none of a tuner's time."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tune_core.engine.server.server import start_own_server

    with temporary_settings({PREFECT_API_URL: PREFECT_API_URL.value() or start_own_server().api_url}):
        client = get_client(sync_client=True)
    with client:
        yield client


def _wait_until_recorded(client: Any, flow_run_name: str, trials: int, rows: int) -> float:
    """Wait until the server shows all task runs in a final state, and all rows in artifacts; return since when.

    That is when the last question was asked. To read 20,000 rows takes a second, but not of a tuner's time.
    """
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterType, FlowRunFilter
    from prefect.client.schemas.objects import TERMINAL_STATES

    deadline = time.monotonic() + RECORDED_TIMEOUT_S
    final = {"state": {"type": {"any_": [str(state.value) for state in TERMINAL_STATES]}}}
    asked = time.time()
    (flow_run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"any_": [flow_run_name]}))
    this = {"id": {"any_": [str(flow_run.id)]}}
    shown = 0
    while True:
        # Counted by the server: to read them all would be what is measured.
        answer = client.request("POST", "/task_runs/count", json={"flow_runs": this, "task_runs": final})
        if answer.json() == trials:
            tables = client.read_artifacts(
                artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=["table"])),
                flow_run_filter=FlowRunFilter.model_validate(this),
            )
            found = [row for each in tables for row in json.loads(str(each.data))]
            # A trial's first rows may be in a table of all trials as well as in its own.
            shown = len(
                {(row["started"], row["training_iteration"]) for row in found if "attempt_number" in row}
            )
            if shown == rows:
                return asked
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{answer.json()} of {trials} task runs and {shown} of {rows} rows after {RECORDED_TIMEOUT_S} s"
            )
        time.sleep(0.05)
        asked = time.time()


def run_side(side: str, scenario: Scenario, storage: str) -> dict[str, float]:
    """Warm a process up, measure one experiment in it."""
    import ray

    ray.init(namespace="prefect", log_to_driver=False, logging_level="ERROR")  # at RAY_ADDRESS
    run, server_s = run_peer, 0.0
    if side == OURS:
        from tune_core.engine.server.server import start_own_server

        run, began = run_ours, time.monotonic()
        if "PREFECT_API_URL" not in os.environ:
            start_own_server()
            server_s = time.monotonic() - began
    run(scenario.warm_up(), storage)
    measured = run(scenario, storage) | {"prefect_server_s": server_s}
    ray.shutdown()
    if scenario.counts_rows:
        measured["value"] = measured["rows"] / (measured["ended"] - measured["first_report"])
    else:
        measured["value"] = (measured["ended"] - measured["began"]) / scenario.trials
    return measured


# Both sides, from outside.


@contextmanager
def stock_server() -> Iterator[dict[str, str]]:
    """Run `prefect server start` on a database of its own; yield what tells a side of it."""
    with tempfile.TemporaryDirectory(prefix="prefect-tune-bench-") as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        url, log = f"http://127.0.0.1:{port}/api", Path(home, "server.log")
        bare = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--log-level", "INFO"],
                env={**bare, "PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + SERVER_TIMEOUT_S
            while not _is_healthy(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the stock server does not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield {"PREFECT_API_URL": url, REQUESTS: str(log)}
        finally:
            process.terminate()
            process.wait(30)


def _is_healthy(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def server_of(choice: str) -> Iterator[dict[str, str]]:
    """Yield what tells our side of the server that was chosen: `own`, `stock` or a URL."""
    if choice == "stock":
        with stock_server() as told:
            yield told
    else:
        yield {} if choice == "own" else {"PREFECT_API_URL": choice}


@contextmanager
def cluster() -> Iterator[float]:
    """Start a Ray for both sides; yield how many seconds that took."""
    with tempfile.TemporaryDirectory(prefix="prefect-tune-bench-") as home:
        # A database that other runs have filled would be measured too.
        os.environ.setdefault("PREFECT_HOME", home)
        os.environ.pop("PREFECT_API_URL", None)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # pip has compiled the peer
        os.environ["RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS"] = "0"
        import ray

        began = time.monotonic()
        started = ray.init(
            "local", num_cpus=NUM_CPUS, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        os.environ["RAY_ADDRESS"] = started.address_info["address"]
        try:
            yield time.monotonic() - began
        finally:
            ray.shutdown()


def measure(side: str, scenario: Scenario, storage: str, server: str) -> dict[str, float]:
    """Run one side of a scenario in a process of its own."""
    values = json.dumps(asdict(scenario))
    # Both write JSON and CSV; the peer would write TensorBoard's files as well.
    loggers = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"} if side == PEER else {}
    with server_of(server if side == OURS else "own") as told:
        process = subprocess.run(
            [sys.executable, __file__, "--side", side, "--scenario", values, "--storage", storage],
            capture_output=True,
            text=True,
            timeout=SIDE_TIMEOUT_S,
            check=False,
            env={**os.environ, **loggers, **told},
        )
    if process.returncode:
        raise RuntimeError(
            f"{side}, scenario {scenario.name}:\n{process.stdout[-2000:]}\n{process.stderr[-6000:]}"
        )
    measured: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return measured


def compare(scenario: Scenario, samples: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return a line of the table: medians, their ratio, whether the target is met; without the peer the first."""
    ours = statistics.median(sample["value"] for sample in samples[OURS])
    if not samples[PEER]:
        return {"scenario": scenario.name, "title": scenario.title, "ours": ours, "samples": samples}
    peer = statistics.median(sample["value"] for sample in samples[PEER])
    ratio = ours / peer if scenario.counts_rows else peer / ours
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "unit": "rows/s" if scenario.counts_rows else "s/trial",
        "ours": ours,
        "ray_tune": peer,
        "ratio": ratio,
        "target": scenario.target,
        "met": None if scenario.target is None else ratio >= scenario.target,
        "samples": samples,
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the comparison as Markdown."""
    rows = [
        "| scenario | unit | prefect-tune | ray.tune | ratio | target | met |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for line in lines:
        digits = ",.0f" if line["unit"] == "rows/s" else ".3f"
        target = "" if line["target"] is None else f"≥ {line['target']:g}"
        met = {True: "yes", False: "**no**", None: ""}[line["met"]]
        figures = f"{line['ours']:{digits}} | {line['ray_tune']:{digits}} | {line['ratio']:.1f}"
        rows.append(f"| {line['title']} | {line['unit']} | {figures} | {target} | {met} |")
    return "\n".join(rows)


def told_of(side: str, scenario: Scenario, measured: dict[str, float]) -> str:
    """Return what one measurement came to, in a line."""
    text = f"{scenario.name}: {side} {measured['value']:.4g}, fit() {measured['returned'] - measured['began']:.2f} s"
    if side == OURS:
        text += f", recorded after {measured['ended'] - measured['began']:.2f} s"
    if measured.get("requests"):
        text += f", {measured['requests'] / scenario.trials:.2f} requests a trial"
    return text


def machine() -> dict[str, Any]:
    """Return where the figures come from."""
    from importlib.metadata import version

    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("ray", "prefect")},
    }


def main() -> int:
    """Compare; return 0 whatever comes out: figures are for people to judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--repeat", type=int, default=1, help="measure N times, show medians", metavar="N")
    parser.add_argument(
        "--only", choices=[scenario.name for scenario in SCENARIOS], action="append", help="some scenarios"
    )
    parser.add_argument(
        "--server",
        default="own",
        help="for prefect-tune: `own` as `fit()` starts it, `stock` for `prefect server start`, or the URL of an API",
        metavar="WHICH",
    )
    parser.add_argument("--ours", action="store_true", help="measure prefect-tune alone")
    parser.add_argument("--json", type=Path, help="write every figure to this file", metavar="PATH")
    parser.add_argument("--side", choices=[OURS, PEER], help=argparse.SUPPRESS)
    parser.add_argument("--scenario", help=argparse.SUPPRESS)
    parser.add_argument("--storage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measured = run_side(options.side, Scenario(**json.loads(options.scenario)), options.storage)
        print(json.dumps(measured))
        return 0
    chosen = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    if options.quick:
        chosen = [scenario.smaller() for scenario in chosen]
    sides = (OURS,) if options.ours else (OURS, PEER)
    samples: dict[str, dict[str, list[dict[str, float]]]] = {s.name: {OURS: [], PEER: []} for s in chosen}
    with cluster() as ray_s, tempfile.TemporaryDirectory(prefix="prefect-tune-bench-") as storage:
        for number in range(options.repeat):
            for scenario in chosen:
                for side in sides if number % 2 == 0 else sides[::-1]:
                    load = os.getloadavg()[0]
                    measured = {**measure(side, scenario, storage, options.server), "load_before": load}
                    samples[scenario.name][side].append(measured)
                    print(
                        f"{number + 1}/{options.repeat} {told_of(side, scenario, measured)}", file=sys.stderr
                    )
    lines = [compare(scenario, samples[scenario.name]) for scenario in chosen]
    servers = [sample["prefect_server_s"] for scenario in samples.values() for sample in scenario[OURS]]
    print(f"\nstarted: Ray in {ray_s:.1f} s, a Prefect server in {statistics.median(servers):.1f} s")
    if not options.ours:
        print(f"\n{table(lines)}\n")
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "ray_s": ray_s, "scenarios": lines}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
