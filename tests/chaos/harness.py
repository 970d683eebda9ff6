"""Runs a script that is killed, looks at what is left of it, and compares the end with the undisturbed run's."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter

from examples.seaweedfs import S3Server
from tests.chaos.training import STEPS, TRIALS, Given, value_after
from tests.support.fault_proxy import FaultProxy
from tests.support.processes import command_of
from tests.support.waiting import wait_for
from tune_core.control.messages import AttemptStarted, ExperimentResumed, TrialReported, TrialSuggested
from tune_core.control.segments import read_journal
from tune_core.storage.experiment_storage import ExperimentStorage

ROOT = Path(__file__).resolve().parents[2]
#: How long anything may take before it counts as hung.
PATIENCE_S = 180.0


class ApiServer:
    """A Prefect server that can be killed and started again, with the same database and port."""

    def __init__(self, home: Path, port: int) -> None:
        self._home, self._port = home, port
        self.url = f"http://127.0.0.1:{port}/api"

    def start(self) -> None:
        """Start it; returns at once."""
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tune_core.engine.server.server_process", str(self._port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "PREFECT_HOME": str(self._home),
                    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                },
            )

    def kill(self) -> None:
        """Kill it; returns when it is gone."""
        self._process.kill()
        self._process.communicate()


@dataclass
class Outcome:
    """What became of one run; one of these is a part of a row of the table."""

    recovered: bool = False
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float | None = None


@dataclass
class Snapshot:
    """What was safe at the moment of a fault: rows in the journal, and checkpoints with their markers."""

    at: float
    rows: set[tuple[str, int, int]]
    checkpoints: set[tuple[str, int, int]]
    attempts: dict[str, int]


class Chaos:
    """One experiment and what happens to it.

    Args:
        place: A directory for files.
        s3: Where the experiment is kept; looked at without the proxy.
        proxy: What the script reaches it through.
        api: The Prefect server.
        ray_address: The cluster.
        dice: Decides when something happens.
    """

    def __init__(
        self,
        place: Path,
        s3: S3Server,
        proxy: FaultProxy,
        api: ApiServer,
        ray_address: str,
        dice: random.Random,
    ) -> None:
        self.place, self.proxy, self.api, self.dice = place, proxy, api, dice
        self.ray_address = ray_address
        self.name = f"chaos-{uuid.uuid4().hex[:8]}"
        url = f"s3://{s3.bucket}/chaos/{self.name}"
        through = {**s3.storage_options, "endpoint_url": proxy.url}
        self.given = Given(url, through, str(place / "results.json"))
        self.storage = ExperimentStorage.open(
            f"s3://{s3.bucket}/chaos", self.name, storage_options=s3.storage_options
        )
        self.outcome = Outcome()
        self._workers: set[int] = set()
        self._scripts: list[subprocess.Popen[bytes]] = []

    # What a case does.

    def doom(self, kind: str) -> None:
        """Let a trial meet its end at a random step, once."""
        x, step = self.dice.randrange(TRIALS), self.dice.randrange(2, STEPS)
        self.given.doom = {"x": x, "step": step, "kind": kind, "mark": str(self.place / "mark")}

    def start(self, **changes: Any) -> subprocess.Popen[bytes]:
        """Start the script."""
        number = len(self._scripts)
        path = self.place / f"given-{number}.json"
        replace(self.given, **changes).write(path)
        with self.log(number).open("wb") as log:
            script = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.training", str(path)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "PREFECT_API_URL": self.api.url,
                    "RAY_ADDRESS": self.ray_address,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._scripts.append(script)
        return script

    def log(self, number: int) -> Path:
        """What script number so-and-so printed."""
        return self.place / f"script-{number}.log"

    def wait_for_rows(self, script: subprocess.Popen[bytes], count: int | None = None) -> int:
        """Wait for a random number of rows in the journal; return how many there are."""
        wanted = count if count is not None else self.dice.randrange(3, STEPS * TRIALS * 2 // 3)

        def there() -> int:
            rows = len(self.reports())
            if script.poll() is not None and rows < wanted:
                raise AssertionError(f"the script ended with {rows} rows: {self.printed()}")
            return rows if rows >= wanted else 0

        return int(wait_for(there, f"{wanted} rows", PATIENCE_S))

    def finish(self, script: subprocess.Popen[bytes], timeout_s: float = PATIENCE_S) -> None:
        """Wait until the script has ended by itself."""
        try:
            script.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.outcome.wrong.append(f"still at work after {timeout_s:g} s: {self.printed()}")
            script.kill()
            script.wait()

    def printed(self) -> str:
        """The end of what the last script printed."""
        return self.log(len(self._scripts) - 1).read_text(errors="replace")[-3000:]

    def stop_everything(self) -> None:
        """End the scripts that a failed case has left."""
        for script in self._scripts:
            if script.poll() is None:
                os.kill(script.pid, signal.SIGCONT)
                script.kill()
                script.wait()

    # What is seen from outside.

    def events(self) -> list[Any]:
        """The journal."""
        return [event for event, _ in read_journal(self.storage)]

    def reports(self) -> list[TrialReported]:
        """The rows in the journal."""
        return [event for event in self.events() if isinstance(event, TrialReported)]

    def worker(self, rows: int = 0) -> int | None:
        """The process of a trial that has reported so often, and has some way to go yet."""
        events = self.events()
        counts = Counter(event.trial_id for event in events if isinstance(event, TrialReported))
        started = {event.trial_id: event.pid for event in events if isinstance(event, AttemptStarted)}
        # The journal is about a second behind: a trial that is nearly done may be over.
        fit = [pid for trial, pid in sorted(started.items()) if rows <= counts[trial] <= STEPS - 5]
        alive = [pid for pid in fit if command_of(pid)]
        return self.dice.choice(alive) if alive else None

    def snapshot(self) -> Snapshot:
        """What must be there at the end."""
        now = time.time()
        events = self.events()
        directories = {event.trial_id: event.dirname for event in events if isinstance(event, TrialSuggested)}
        rows, attempts = set(), {}
        for event in events:
            if isinstance(event, TrialReported):
                rows.add((event.trial_id, event.iteration, event.row["value"]))
            if isinstance(event, AttemptStarted):
                attempts[event.trial_id] = event.attempt_number
                self._workers.add(event.pid)
        markers = {
            (trial_id, marker.index, marker.iteration)
            for trial_id, directory in directories.items()
            for marker in self.storage.committed(directory)
        }
        return Snapshot(now, rows, markers, attempts)

    # Judgement.

    def judge(self, before: Snapshot | None, healed_at: float | None = None) -> Outcome:
        """Compare the end with what must be; fill in the outcome.

        Args:
            before: What was safe at the fault.
            healed_at: When an outage ended. After that, and after a resume, any row counts as recovery; else
                one of a newer attempt at a trial that had begun.
        """
        events = self.events()
        xs = {e.trial_id: e.config["x"] for e in events if isinstance(e, TrialSuggested)}
        self._judge_results(xs, before)
        self._judge_checkpoints(events, xs, before)
        with get_client(sync_client=True) as client:
            self._look_around(client)
        if before is not None:
            since = healed_at or before.at
            resumed = [e.time for e in events if isinstance(e, ExperimentResumed) and e.time > since]
            restart = healed_at or min(resumed, default=math.inf)
            after = [
                event.time
                for event in events
                if isinstance(event, TrialReported)
                and event.time > since
                and (
                    event.time > restart
                    or event.attempt_number > before.attempts.get(event.trial_id, event.attempt_number)
                )
            ]
            self.outcome.seconds = min(after) - since if after else None
        self.outcome.recovered = not (self.outcome.wrong or self.outcome.lost)
        return self.outcome

    def _judge_results(self, xs: dict[str, int], before: Snapshot | None) -> None:
        out, outcome = Path(self.given.out), self.outcome
        if not out.exists():
            outcome.wrong.append(f"there are no results: {self.printed()}")
            return
        found = json.loads(out.read_text())
        rows = {trial["x"]: [tuple(row) for row in trial["rows"]] for trial in found["trials"]}
        for trial in found["trials"]:
            iterations = [iteration for iteration, _ in trial["rows"]]
            if len(iterations) != len(set(iterations)):
                outcome.wrong.append(f"trial {trial['x']} has an iteration twice: {iterations}")
            if trial["status"] != "TERMINATED":
                outcome.wrong.append(f"trial {trial['x']} is {trial['status']}: {trial['error']}")
        if found["best"] != 3:
            outcome.wrong.append(f"the best trial is {found['best']}")
        if self.given.scheduler == "fifo":
            for x in range(TRIALS):
                expected = [(step, value_after(x, step)) for step in range(1, STEPS + 1)]
                if rows.get(x) != expected:
                    outcome.wrong.append(f"trial {x} has {rows.get(x)}, not {expected}")
        for trial_id, iteration, value in before.rows if before else ():
            if (iteration, value) not in rows.get(xs[trial_id], []):
                outcome.lost.append(f"row {iteration} of {trial_id}")

    def _judge_checkpoints(self, events: list[Any], xs: dict[str, int], before: Snapshot | None) -> None:
        directories = {e.trial_id: e.dirname for e in events if isinstance(e, TrialSuggested)}
        found = set()
        for trial_id, directory in directories.items():
            for marker in self.storage.committed(directory):
                found.add((trial_id, marker.index, marker.iteration))
                with self.storage.checkpoint(directory, marker.index).as_directory() as path:
                    state = json.loads(Path(path, "state.json").read_text())
                if state != [marker.iteration, value_after(xs[trial_id], marker.iteration)]:
                    self.outcome.wrong.append(f"checkpoint {marker.index} of {trial_id} holds {state}")
        for trial_id, index, iteration in (before.checkpoints if before else set()) - found:
            self.outcome.lost.append(f"checkpoint {index} (iteration {iteration}) of {trial_id}")

    def _look_around(self, client: SyncPrefectClient) -> None:
        """Processes of trials, actors and groups on the cluster, flow and task runs that never end."""
        mine = FlowRunFilter(name={"any_": [self.name]})
        pids = self._workers | {event.pid for event in self.events() if isinstance(event, AttemptStarted)}

        def running() -> list[str]:
            flow_runs = client.read_flow_runs(flow_run_filter=mine)
            runs = [*flow_runs, *client.read_task_runs(flow_run_filter=mine)]
            return [
                f"{run.name} {run.state_name}" for run in runs if not (run.state and run.state.is_final())
            ]

        def working() -> list[str]:
            # What Ray keeps warm for the next driver is called IDLE.
            names = {pid: command_of(pid) for pid in pids}
            return [
                f"{pid} {name}"
                for pid, name in names.items()
                if name.startswith("ray::") and "IDLE" not in name
            ]

        for look in (running, working):
            try:
                wait_for(lambda look=look: not look(), "nothing to be left", 30)
            except TimeoutError:
                self.outcome.left += look()
        if self.given.ray is None:
            command = [sys.executable, "-m", "tests.chaos.left_behind", self.ray_address]
            seen = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
            # Ray prints of nodes that died to the same place.
            (found,) = [line for line in seen.stdout.splitlines() if line == "[]" or line.startswith('["')]
            self.outcome.left += json.loads(found)
