"""Every kind of death in the middle of an experiment: afterwards it has ended as if nothing had been.

Deaths are real: signals to real processes, servers that are gone, disks that are full. The times are random,
by a seed. Each test is one row of the table that is printed at the end (see conftest.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.conftest import start_cluster
from tests.chaos.harness import PATIENCE_S, Chaos, Outcome
from tests.support.fault_proxy import Rule
from tests.support.prefect_server import is_healthy
from tests.support.processes import command_of, descendants
from tests.support.waiting import wait_for

AllAtOnce = Callable[[Callable[[Chaos], None]], None]

pytestmark = pytest.mark.timeout(900)


def check(outcome: Outcome) -> None:
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert not outcome.lost, f"lost: {outcome.lost}"
    assert not outcome.left, f"left behind: {outcome.left}"


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def test_nothing_at_all(chaos: Chaos) -> None:
    """What the other cases are compared with is what an undisturbed run gives."""
    chaos.finish(chaos.start())
    check(chaos.judge(None))


# A trial's process.


def meets_its_doom(chaos: Chaos) -> None:
    script = chaos.start()
    mark = Path(chaos.given.doom["mark"])
    wait_for(lambda: mark.exists() or script.poll() is not None, "the trial's doom", PATIENCE_S)
    before = chaos.snapshot()
    chaos.finish(script)
    check(chaos.judge(before))


def test_exception_in_a_trial(chaos: Chaos) -> None:
    chaos.doom("exception")
    meets_its_doom(chaos)


def test_os_exit_in_a_trial(chaos: Chaos) -> None:
    chaos.doom("exit")
    meets_its_doom(chaos)


def test_SIGKILL_of_a_worker(chaos: Chaos) -> None:  # noqa: N802
    script = chaos.start()
    chaos.wait_for_rows(script, chaos.dice.randrange(3, 25))
    pid = wait_for(chaos.worker, "a trial that runs", PATIENCE_S)
    before = chaos.snapshot()
    os.kill(pid, signal.SIGKILL)
    chaos.finish(script)
    check(chaos.judge(before))


def test_out_of_memory(chaos: Chaos) -> None:
    memory = {
        line.split()[0]: int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line
    }
    used = 1 - memory["MemAvailable:"] / memory["MemTotal:"]
    # Ray kills what needs most once the machine is this full; the trial takes 4 GiB.
    limit = used + 2.0 * 2**20 / memory["MemTotal:"]
    chaos.given.ray = {
        "num_cpus": 2,
        "_system_config": {"memory_usage_threshold": limit, "memory_monitor_refresh_ms": 100},
    }
    chaos.ray_address = ""
    chaos.doom("memory")
    meets_its_doom(chaos)


def test_hang_in_C_code(chaos: Chaos) -> None:  # noqa: N802
    chaos.given.run = {"report_timeout_s": 8.0}
    chaos.doom("hang")
    meets_its_doom(chaos)


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a disk that is full needs root and mount: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_full_disk_of_a_trial(chaos: Chaos) -> None:
    chaos.doom("full")
    with small_disk(Path(f"/tmp/prefect-tune-{os.getuid()}", chaos.name)):
        meets_its_doom(chaos)


# The flow's process.


def restored_after(
    chaos: Chaos,
    number: int,
    kills: tuple[int, ...] = (1,),
    ends: int | None = None,
) -> None:
    """Send a signal to the flow's process, then restore; `kills`: how many times over."""
    for nth in kills:
        script = chaos.start(restore="yes" if nth > 1 else "")
        chaos.wait_for_rows(script, None if nth == 1 else len(chaos.reports()) + chaos.dice.randrange(1, 6))
        os.kill(script.pid, number)
        if number == signal.SIGKILL:
            script.wait()
        before = chaos.snapshot()
        chaos.finish(script)
        assert ends is None or script.returncode == ends, chaos.printed()
        Path(chaos.given.out).unlink(missing_ok=True)
    again = chaos.start(restore="yes")
    chaos.finish(again)
    check(chaos.judge(before))


def test_SIGTERM_of_the_flow(chaos: Chaos) -> None:  # noqa: N802
    restored_after(chaos, signal.SIGTERM, ends=signal.SIGTERM)


def test_SIGKILL_of_the_flow(chaos: Chaos) -> None:  # noqa: N802
    restored_after(chaos, signal.SIGKILL)


def test_SIGKILL_of_the_flow_twice(chaos: Chaos) -> None:  # noqa: N802
    restored_after(chaos, signal.SIGKILL, kills=(1, 2))


def test_SIGKILL_of_the_flow_with_ASHA(chaos: Chaos) -> None:  # noqa: N802
    undisturbed = chaos.place / "undisturbed.json"
    chaos.given.scheduler = "asha"
    reference = chaos.start(url=f"{chaos.given.url}-reference", out=str(undisturbed))
    chaos.finish(reference)
    script = chaos.start()
    chaos.wait_for_rows(script, chaos.dice.randrange(3, 14))
    script.kill()
    script.wait()
    before = chaos.snapshot()
    chaos.finish(chaos.start(restore="yes"))
    outcome = chaos.judge(before)
    ended = json.loads(Path(chaos.given.out).read_text())
    if ended != (expected := json.loads(undisturbed.read_text())):
        outcome.recovered = False
        outcome.wrong.append(f"{ended}, undisturbed {expected}")
    check(outcome)


def test_double_start_while_the_flow_hangs(chaos: Chaos) -> None:
    zombie = chaos.start()
    chaos.wait_for_rows(zombie, chaos.dice.randrange(3, 20))
    os.kill(zombie.pid, signal.SIGSTOP)
    before = chaos.snapshot()
    refused = chaos.start(restore="yes")
    refused.wait(120)
    assert refused.returncode != 0
    assert "ExperimentConflict" in chaos.printed()
    before.at = time.time()  # nothing happens until somebody asks for it
    chaos.finish(chaos.start(restore="takeover"))
    os.kill(zombie.pid, signal.SIGCONT)
    chaos.finish(zombie)
    assert zombie.returncode != 0
    assert "was taken over by another driver" in chaos.log(0).read_text()
    check(chaos.judge(before))


# What everything runs on.


def test_death_of_the_Ray_cluster(all_at_once: AllAtOnce) -> None:  # noqa: N802
    all_at_once(killed_with_its_cluster)


def killed_with_its_cluster(chaos: Chaos) -> None:
    chaos.given.ray, chaos.ray_address = {"num_cpus": 2}, ""
    script = chaos.start()
    chaos.wait_for_rows(script)
    before = chaos.snapshot()
    family = descendants(script.pid)
    for pid in family:
        if "tune_core.engine.server.server" not in command_of(pid):
            os.kill(pid, signal.SIGKILL)
    chaos.finish(script)  # Ray ends a driver whose head is gone
    assert script.returncode != 0
    chaos.finish(chaos.start(restore="yes"))
    check(chaos.judge(before))


def test_loss_of_a_Ray_node(chaos: Chaos) -> None:  # noqa: N802
    cluster = start_cluster([2, 2])
    try:
        chaos.ray_address = cluster.address
        chaos.given.bundles = [1, 1]  # one on each node
        script = chaos.start()
        chaos.wait_for_rows(script)
        before = chaos.snapshot()
        cluster.say("kill")
        pause(chaos.dice.uniform(0, 5))
        cluster.say("add 2")
        chaos.finish(script)
        check(chaos.judge(before))
    finally:
        cluster.stop()


def test_restart_of_the_Prefect_server(chaos: Chaos) -> None:  # noqa: N802
    script = chaos.start()
    chaos.wait_for_rows(script)
    before = chaos.snapshot()
    chaos.api.kill()
    pause(chaos.dice.uniform(0.5, 5))
    chaos.api.start()
    wait_for(lambda: is_healthy(chaos.api.url), "the Prefect server", PATIENCE_S)
    healed_at = time.time()
    chaos.finish(script)
    check(chaos.judge(before, healed_at))


# The storage.


def outage(chaos: Chaos, rule: Rule, seconds: float) -> None:
    script = chaos.start()
    chaos.wait_for_rows(script, chaos.dice.randrange(3, 20))
    before = chaos.snapshot()
    chaos.proxy.add(rule)
    pause(seconds)
    assert rule.fired
    chaos.proxy.clear()
    healed_at = time.time()
    chaos.finish(script)
    check(chaos.judge(before, healed_at))


def test_S3_gone_for_60_s(all_at_once: AllAtOnce) -> None:  # noqa: N802
    all_at_once(lambda chaos: outage(chaos, Rule("reset"), 60))


def test_S3_that_hangs(all_at_once: AllAtOnce) -> None:  # noqa: N802
    all_at_once(lambda chaos: outage(chaos, Rule("delay", delay_s=30.0), 20))


def test_S3_that_refuses_a_third(all_at_once: AllAtOnce) -> None:  # noqa: N802
    all_at_once(lambda chaos: outage(chaos, Rule("status", chance=0.33, dice=chaos.dice), 15))


def test_slow_S3(all_at_once: AllAtOnce) -> None:  # noqa: N802
    all_at_once(every_request_takes_half_a_second)


def every_request_takes_half_a_second(chaos: Chaos) -> None:
    chaos.proxy.add(Rule("delay", delay_s=0.5))
    script = chaos.start()
    chaos.finish(script)
    check(chaos.judge(None))


def test_S3_that_corrupts_what_is_read(chaos: Chaos) -> None:  # noqa: N802
    """Damage on the way is noticed and read again; the worker is killed so that something is read."""
    rule = chaos.proxy.add(Rule("corrupt", method="GET", path="state.json", times=2, after=2))
    script = chaos.start()
    chaos.wait_for_rows(script, chaos.dice.randrange(8, 25))
    pid = wait_for(lambda: chaos.worker(rows=3), "a trial that runs and has saved", PATIENCE_S)
    before = chaos.snapshot()
    os.kill(pid, signal.SIGKILL)
    chaos.finish(script)
    assert rule.fired
    check(chaos.judge(before))


def test_S3_gone_until_the_flow_fails_and_is_tried_again(all_at_once: AllAtOnce) -> None:  # noqa: N802
    all_at_once(flow_fails_and_is_tried_again)


def flow_fails_and_is_tried_again(chaos: Chaos) -> None:
    chaos.given.flow_retries, chaos.given.journal_patience_s = 3, 3.0
    script = chaos.start()
    chaos.wait_for_rows(script, chaos.dice.randrange(3, 20))
    before = chaos.snapshot()
    chaos.proxy.add(Rule("status", method="PUT", path="journal/", status=503))
    wait_for(
        lambda: "the journal could not be written for" in chaos.log(0).read_text(errors="replace"),
        "the flow to fail",
        PATIENCE_S,
    )
    chaos.proxy.clear()
    chaos.finish(script)
    check(chaos.judge(before))


# The same on another server (see the fixture `chaos`).


def test_SIGKILL_of_a_worker_on_Ceph(chaos: Chaos) -> None:  # noqa: N802
    test_SIGKILL_of_a_worker(chaos)


def test_SIGKILL_of_the_flow_on_Ceph(chaos: Chaos) -> None:  # noqa: N802
    restored_after(chaos, signal.SIGKILL)


def test_S3_gone_for_20_s_on_Ceph(chaos: Chaos) -> None:  # noqa: N802
    outage(chaos, Rule("reset"), 20)
