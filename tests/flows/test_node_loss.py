"""Several Ray nodes on one machine, of which one goes: what ran on it goes on elsewhere, as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import descendants
from tests.support.scripts import wait_until_gone
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]

#: Two trials with two bundles each, on three nodes of two CPUs. The first one's node goes after its second step.
SCRIPT = """
import json, os, signal, sys, tempfile, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
import tune_core as tune

marks, case = Path(sys.argv[1]), sys.argv[2]

@ray.remote(num_cpus=1)
class Child:
    def node(self):
        return ray.get_runtime_context().get_node_id()

def train(config):
    child = None if case == "drained" else Child.remote()
    own = ray.get_runtime_context().get_node_id()
    first = 1
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as directory:
            first = int(Path(directory, "step").read_text()) + 1
    for step in range(first, 7):
        time.sleep(1.5 if case == "drained" else 0.3)
        other = ray.get(child.node.remote()) if child else own
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "step").write_text(str(step))
            nodes = {"own": own, "other": other}
            tune.report({"step": step, **nodes}, checkpoint=tune.Checkpoint.from_directory(directory))
        if step == 2:
            (marks / "partial").write_text(json.dumps(nodes))
            (marks / "partial").rename(marks / f"nodes-{config['x']}")
        while step == 2 and config["x"] == 0 and first == 1 and case != "drained":
            time.sleep(0.1)
            if child:
                ray.get(child.node.remote())

def lose_a_node(cluster):
    while not (marks / "nodes-0").exists():
        time.sleep(0.05)
    nodes = json.loads((marks / "nodes-0").read_text())
    lost = nodes["other" if case == "other" else "own"]
    (marks / "lost").write_text(lost)
    if case == "drained":
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = ray._private.worker.global_worker.gcs_client
        accepted, why = client.drain_node(lost, reason, "spot", int((time.time() + 120) * 1000))
        assert accepted, why
        return
    (node,) = [each for each in cluster.worker_nodes if each.node_id == lost]
    for raylet in node.all_processes["raylet"]:
        os.kill(raylet.process.pid, signal.SIGKILL)  # as a machine that loses its power

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
ray.init(address=cluster.address, namespace="prefect", log_to_driver=False, logging_level="ERROR")
for _ in range(3):
    cluster.add_node(num_cpus=2)
threading.Thread(target=lose_a_node, args=(cluster,), daemon=True).start()
bundles = [{"CPU": 1}] if case == "drained" else [{"CPU": 1}, {"CPU": 1}]
shape = tune.PlacementGroupFactory(bundles, strategy="STRICT_SPREAD")
results = tune.Tuner(
    tune.with_resources(train, shape),
    param_space={"x": tune.grid_search([0, 1])},
    run_config=tune.RunConfig(name=sys.argv[3], storage_path=str(marks / "results"), verbose=0),
).fit()
lost = (marks / "lost").read_text()
seen = {"errors": [str(each.error) for each in results], "rows": [
    [[row["attempt_number"], row["step"], lost in (row["own"], row["other"])]
     for row in map(json.loads, Path(each.path, "result.json").read_text().splitlines())]
    for each in results
]}
deadline = time.monotonic() + 60
def alive():
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == lost)
while alive() and time.monotonic() < deadline:
    time.sleep(0.2)
seen["lost node is alive"] = alive()
seen["groups left"] = [
    group["state"] for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"
]
print("SEEN " + json.dumps(seen), flush=True)
ray.shutdown()
for node in list(cluster.worker_nodes) + [cluster.head_node]:
    node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
"""


def events(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    lines = [
        line
        for segment in sorted(tmp_path.rglob("journal/*.jsonl"))
        for line in segment.read_text().splitlines()
    ]
    return [event for event in map(json.loads, lines) if event.get("event") == kind]


@pytest.mark.parametrize("case", ["own", "other", "drained"])
def test_trial_whose_node_goes_is_run_again_on_others_and_that_is_no_failure(
    case: str, tmp_path: Path, api: str, recorded: Any
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    name = f"node-{case}-{tmp_path.name[-6:]}"
    # Sockets have short paths; and a cluster of its own must not be taken for the machine's.
    ray_home = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), case, name],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": api, "RAY_TMPDIR": ray_home},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        wait_for(lambda: (tmp_path / "lost").exists(), what="a node to go", timeout_s=150)
        family = descendants(process.pid)
        printed, _ = process.communicate(timeout=200)
    finally:
        process.kill()
        shutil.rmtree(ray_home, ignore_errors=True)

    assert process.returncode == 0, printed
    seen = json.loads(printed.partition("SEEN ")[2].splitlines()[0])
    assert seen["errors"] == ["None", "None"]
    assert not seen["lost node is alive"]
    assert seen["groups left"] == []
    rows = seen["rows"][0]
    assert [step for _, step, _ in rows] == [1, 2, 3, 4, 5, 6]  # all were saved: none is made twice
    assert rows[0] == [1, 1, True]
    assert rows[-1] == [2, 6, False]
    outcomes = {
        (event["trial_id"][-1], event["attempt_number"]): event for event in events(tmp_path, "AttemptEnded")
    }
    first, second = outcomes["0", 1], outcomes["0", 2]
    assert second["outcome"] == "completed"
    if case == "drained":
        assert first["outcome"] == "stopped"
        assert "is about to go" in events(tmp_path, "RelocationRequested")[0]["reason"]
    else:
        assert first["outcome"] == "lost", first
    first_run, second_run = (run.state_name for run in recorded(name).task_runs(3) if "00000" in run.name)
    # A process on a node that went away may still have said what it met: that its child is gone.
    assert first_run in ({"Completed"} if case == "drained" else {"Crashed", "Failed"})
    assert second_run == "Completed"
    wait_until_gone(family, timeout_s=150)  # Ray's agents look for their raylet about once a minute
