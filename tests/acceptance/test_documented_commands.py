"""The commands of docs/command-line.md, one after the other, on a Prefect server, S3 and Ray of their own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from examples.seaweedfs import start_seaweedfs
from tests.support.waiting import wait_for
from tune_core.engine.server.server import start_own_server, stop_own_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "command-line.md"
#: Requests to a running experiment, which tests/acceptance/test_command_line.py makes.
OF_RUNNING = ("stop", "steer")
#: What the page compares its experiment with.
OTHER = "prefect-tune run fifo.yaml --name digits-fifo"


def documented() -> list[list[str]]:
    """Return the arguments of the page's commands, in their order."""
    lines = re.findall(r"^\$ prefect-tune (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    s3 = start_seaweedfs(tmp_path / "s3", bucket="my-bucket")
    try:
        server = start_own_server()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        yield (
            kept
            | s3.environment
            | {
                "PREFECT_API_URL": server.api_url,
                "PREFECT_INTEGRATIONS_TUNE_STORAGE_PATH": "s3://my-bucket/tuning",
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "110",
            }
        )
    finally:
        stop_own_server()
        s3.stop()


def wait_for_deployment(name: str) -> None:
    def is_there() -> bool:
        try:
            client.read_deployment_by_name(name)
        except ObjectNotFound:
            return False
        return True

    with get_client(sync_client=True) as client:
        wait_for(is_there, f"the deployment {name!r}")


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    """End a process as a user does, who presses again if the first time fell into the start and was not heard."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return
    process.kill()


def test_page_names_every_command() -> None:
    assert {arguments[0] for arguments in documented()} == {
        *("run", "resume", "extend", "ls", "show", "compare", "export", "stop", "steer", "serve"),
        *("automations", "doctor", "replay"),
    }


def test_every_documented_command_does_what_it_says(tmp_path: Path, environment: dict[str, str]) -> None:
    for directory in ("examples", "deployments"):
        (tmp_path / directory).symlink_to(ROOT / directory)
    spec = (ROOT / "examples" / "digits.yaml").read_text(encoding="utf-8")
    fifo = re.sub(r"^  scheduler: .*\n", "", spec, flags=re.MULTILINE).replace(
        "num_samples: 6", "num_samples: 4"
    )
    (tmp_path / "fifo.yaml").write_text(fifo)
    printed: dict[str, str] = {}

    def call(arguments: list[str]) -> None:
        command = [sys.executable, "-m", "tune_core.cli", *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if arguments[0] == "serve":  # it runs until Ctrl-C
            with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
                wait_for_deployment("experiment/digits")
            press_ctrl_c(process)
        out, err = process.communicate(timeout=120)
        assert process.returncode in (0, 130 if arguments[0] == "serve" else 0), f"{arguments}: {out}\n{err}"
        printed[" ".join(arguments)] = out
        print(f"$ prefect-tune {shlex.join(arguments)}\n{out}")

    for arguments in documented():
        if arguments[0] == "compare":
            call(shlex.split(OTHER)[1:])
        if arguments[0] not in OF_RUNNING:
            call(arguments)

    shown = printed["show s3://my-bucket/tuning/digits"]
    assert re.search(r"^best +accuracy=0\.\d+", shown, re.MULTILINE)
    assert len(re.findall(r"TERMINATED", shown)) == 8  # two more than at first
    assert (tmp_path / "rows.csv").stat().st_size > 0
    assert (tmp_path / "digits.log").stat().st_size > 0
    assert "fail " not in printed["doctor --no-ray --storage s3://my-bucket/tuning"]
