"""Ctrl-C and what is left afterwards, seen from outside: each test runs a script of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.conftest import Recorded
from tests.support.processes import descendants
from tests.support.scripts import press_ctrl_c, start, wait_until_gone
from tests.support.waiting import wait_for


def stop_is_journaled(directory: Path) -> bool:
    return any("StopRequested" in segment.read_text() for segment in directory.glob("journal/*.jsonl"))


@pytest.mark.parametrize("trainable", ["endless", pytest.param("deaf", marks=pytest.mark.slow)])
def test_ctrl_c_stops_the_trials_in_order_and_leaves_nothing(
    trainable: str, tmp_path: Path, api: str, recorded: Callable[[str], Recorded]
) -> None:
    name = f"interrupted-{trainable}-{tmp_path.name[-6:]}"
    process = start(tmp_path, api, trainable, name)
    wait_for(lambda: (tmp_path / "running-1").exists(), what="the second trial", timeout_s=120)
    family = descendants(process.pid)

    press_ctrl_c(process)
    printed, _ = process.communicate(timeout=90)

    assert process.returncode == 0, printed
    assert "Tuner.restore" in printed
    assert "groups left: 0" in printed
    assert "trials: [(True, 'PAUSED'), (True, 'PAUSED')" in printed
    if trainable == "endless":
        assert {path.name for path in tmp_path.glob("finally-*")} == {"finally-0", "finally-1"}
    seen = recorded(name)
    assert seen.flow_run.state_name == "Cancelled"
    assert {run.state_name for run in seen.task_runs(2)} == {"Cancelled"}
    wait_for(
        lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], what="every process to end"
    )


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing_either(
    tmp_path: Path, api: str, recorded: Callable[[str], Recorded]
) -> None:
    name = f"twice-{tmp_path.name[-6:]}"
    process = start(tmp_path, api, "deaf", name, stop_timeout_s=600)
    wait_for(lambda: (tmp_path / "running-1").exists(), what="the second trial", timeout_s=120)
    family = descendants(process.pid)

    press_ctrl_c(process)
    wait_for(lambda: stop_is_journaled(tmp_path / "results" / name), what="the first one to be heard")
    press_ctrl_c(process)
    printed, _ = process.communicate(timeout=90)

    assert process.returncode != 0
    assert "KeyboardInterrupt" in printed
    seen = recorded(name)
    assert seen.flow_run.state_name == "Cancelled"
    assert {run.state_name for run in seen.task_runs(2)} == {"Cancelled"}
    wait_until_gone(family)
