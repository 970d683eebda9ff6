"""Cancelled from Prefect, or by SIGTERM with its thirty seconds: nothing is left, and the states say so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State, StateType

from tests.flows.conftest import Recorded
from tests.support.processes import command_of, descendants
from tests.support.scripts import press_ctrl_c, start, wait_until_gone
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

#: What Kubernetes and Prefect's worker wait before they kill.
GRACE_S = 30.0


def started(tmp_path: Path, api: str, trainable: str, name: str, **options: float) -> subprocess.Popen[str]:
    process = start(tmp_path, api, trainable, name, **options)
    wait_for(lambda: (tmp_path / "running-1").exists(), what="the second trial", timeout_s=150)
    return process


def cancelled(seen: Recorded) -> bool:
    return seen.flow_run.state_name == "Cancelled" and {run.state_name for run in seen.task_runs(2)} == {
        "Cancelled"
    }


@pytest.mark.parametrize("trainable", ["endless", "deaf"])
def test_sigterm_stops_in_order_within_its_grace_and_ends_the_process(
    trainable: str, tmp_path: Path, api: str, recorded: Callable[[str], Recorded]
) -> None:
    name = f"terminated-{trainable}-{tmp_path.name[-6:]}"
    process = started(tmp_path, api, trainable, name, stop_timeout_s=600)
    family = descendants(process.pid)

    process.terminate()
    began = time.monotonic()
    printed, _ = process.communicate(timeout=90)
    took_s = time.monotonic() - began

    assert took_s < GRACE_S, printed
    assert process.returncode == signal.SIGTERM, printed  # as Ray's own handler ends a process
    assert "stopped by SIGTERM; Tuner.restore or prefect-tune resume continues it" in printed
    assert (
        "groups left" not in printed
    )  # `fit` does not return: whoever sends SIGTERM wants the process to end
    if trainable == "endless":
        assert {path.name for path in tmp_path.glob("finally-*")} == {"finally-0", "finally-1"}
    assert cancelled(recorded(name))
    wait_until_gone(family)


def cancel(how: str, client: SyncPrefectClient, name: str, api: str) -> None:
    (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"any_": [name]}))
    if how == "command line":
        command = [sys.executable, "-m", "prefect", "flow-run", "cancel", str(run.id)]
        subprocess.run(command, env={**os.environ, "PREFECT_API_URL": api}, check=True, capture_output=True)
    elif how == "UI":  # what its button sends
        client.set_flow_run_state(run.id, State(type=StateType.CANCELLING, name="Cancelling"))
    else:
        client.set_flow_run_state(run.id, State(type=StateType.CANCELLED, name="Cancelled"), force=True)


@pytest.mark.parametrize("how", ["UI", "command line", "forced"])
def test_run_that_is_cancelled_in_prefect_stops_in_order_and_returns_what_there_is(
    how: str, tmp_path: Path, api: str, client: SyncPrefectClient, recorded: Callable[[str], Recorded]
) -> None:
    name = f"cancelled-{how[:2].lower()}-{tmp_path.name[-6:]}"
    process = started(tmp_path, api, "endless", name)
    family = descendants(process.pid)

    cancel(how, client, name, api)
    printed, _ = process.communicate(timeout=90)

    assert process.returncode == 0, printed
    assert "cancelled in Prefect" in printed
    assert "groups left: 0" in printed
    assert "trials: [(True, 'PAUSED'), (True, 'PAUSED')" in printed
    assert {path.name for path in tmp_path.glob("finally-*")} == {"finally-0", "finally-1"}
    assert cancelled(recorded(name))
    wait_until_gone(family)


def test_ctrl_c_before_the_first_trial_leaves_nothing(
    tmp_path: Path, api: str, client: SyncPrefectClient, recorded: Callable[[str], Recorded]
) -> None:
    name = f"early-{tmp_path.name[-6:]}"
    process = start(tmp_path, api, "endless", name)
    wait_for(
        lambda: client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"any_": [name]})),
        what="the flow run",
        timeout_s=120,
    )
    family = descendants(process.pid)

    press_ctrl_c(process)
    process.communicate(timeout=90)

    wait_for(lambda: recorded(name).flow_run.state_name == "Cancelled", what="the flow run to end")
    wait_until_gone(family)


def test_sigterm_reaches_the_flow_that_the_experiment_is_part_of(
    tmp_path: Path, api: str, recorded: Callable[[str], Recorded]
) -> None:
    name = f"parent-{tmp_path.name[-6:]}"
    process = start(tmp_path, api, "endless", name)
    process.kill()  # it is the script that is wanted
    process.communicate(timeout=60)
    script = tmp_path / "script.py"
    text = script.read_text().replace("results = tune", "from prefect import flow\n    run = tune")
    text = text.replace(").fit()", ")")
    text = text[: text.index("    print(")] + (
        f"    flow(name='parent', flow_run_name={name + '-flow'!r})(lambda: [run.fit(), print('went on')] and None)()\n"
    )
    script.write_text(text)
    for mark in tmp_path.glob("running-*"):
        mark.unlink()
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PREFECT_API_URL": api},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: (tmp_path / "running-1").exists(), what="the second trial", timeout_s=150)
    family = descendants(process.pid)

    process.terminate()
    printed, _ = process.communicate(timeout=90)

    assert process.returncode != 0, printed
    assert "went on" not in printed
    assert cancelled(recorded(name))
    assert recorded(f"{name}-flow").flow_run.state_name == "Crashed"
    wait_until_gone(family)


SERVED = """
import sys
from prefect import flow
import script
import tune_core as tune

@flow(name={name!r})
def outer():
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tune.Tuner(
        script.endless,
        param_space={{"x": tune.grid_search([0, 1, 2])}},
        run_config=tune.RunConfig(name={name!r}, storage_path={storage!r}),
    ).fit()

if __name__ == "__main__":
    outer.serve(name="served", pause_on_shutdown=False)
"""


def test_deployed_run_that_is_cancelled_stops_in_order_before_prefect_kills_it(
    tmp_path: Path, api: str, client: SyncPrefectClient, recorded: Callable[[str], Recorded]
) -> None:
    name = f"served-{tmp_path.name[-6:]}"
    started_script = start(tmp_path, api, "endless", name)
    started_script.kill()  # it is the script that is wanted
    started_script.communicate(timeout=60)
    served = tmp_path / "served.py"
    served.write_text(SERVED.format(name=name, storage=str(tmp_path / "results")))
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}", "PREFECT_API_URL": api}
    environment["PREFECT_RUNNER_POLL_FREQUENCY"] = "1"
    with (tmp_path / "runner.log").open("w") as log:
        command = [sys.executable, str(served)]
        runner = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        found = wait_for(
            lambda: [each for each in client.read_deployments() if each.name == "served"],
            what="the deployment",
            timeout_s=120,
        )
        run = client.create_flow_run_from_deployment(found[0].id)
        wait_for((tmp_path / "running-1").exists, what="the second trial", timeout_s=150)
        # The runner stays, and so does its own resource tracker, which it starts with its first run.
        family = [
            pid
            for pid in descendants(runner.pid)
            if pid != runner.pid and "multiprocessing.resource_tracker" not in command_of(pid)
        ]

        client.set_flow_run_state(run.id, State(type=StateType.CANCELLING, name="Cancelling"))

        try:
            wait_until_gone(family)
        except TimeoutError as error:
            ps = subprocess.run(["ps", "-o", "pid,ppid,stat,args", *map(str, family)], capture_output=True)
            printed = (tmp_path / "runner.log").read_text()
            raise AssertionError(f"{error}\n{ps.stdout.decode()}\n{printed}") from None
        assert {path.name for path in tmp_path.glob("finally-*")} == {"finally-0", "finally-1"}
        wait_for(
            lambda: client.read_flow_run(run.id).state_name == "Cancelled", what="the run to be cancelled"
        )
        (inner,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"any_": [name]}))
        assert inner.state_name == "Cancelled"
        assert {each.state_name for each in recorded(name).task_runs(2)} == {"Cancelled"}
        client.delete_deployment(found[0].id)
    finally:
        runner.terminate()
        runner.wait(60)
