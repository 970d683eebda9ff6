"""Children that are forked off a process with Prefect end with exit code 0."""

from __future__ import annotations

import subprocess
import sys

import prefect
import pytest

from tune_core.engine import forks
from tune_core.engine.prefect_private import resets_services_in_forks

SCRIPT = """
import multiprocessing, sys
from prefect._internal.concurrency.services import QueueService
from tune_core.engine import forks

class Service(QueueService):
    async def _handle(self, item):
        pass

def exit_code():
    child = multiprocessing.get_context("fork").Process(target=print, args=("ran",))
    child.start()
    child.join(60)
    return child.exitcode

if sys.argv[1] == "with":
    forks.end_forks_well()
    forks.end_forks_well()
service = Service.instance()
service.send(1)
sys.stdout.flush()
codes = [exit_code()]
service.wait_until_empty()
Service.drain_all()
Service.instance().send(1)
print([*codes, exit_code()], flush=True)
"""


#: Prefect 3.8 alone leaves its services in a state that their end trips over.
IS_NEEDED = prefect.__version__.startswith("3.8.")


@pytest.mark.parametrize(
    ("hook", "expected"), [("with", "[0, 0]"), ("without", "[1, 1]" if IS_NEEDED else "[0, 0]")]
)
def test_forked_child_ends_well_though_a_service_of_prefect_has_run(hook: str, expected: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, hook], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["ran", "ran", expected]


@pytest.mark.parametrize("release", ["3.7.1", "3.9.1", "3.10.0", "4.0"])
def test_releases_of_prefect_that_nobody_has_looked_into_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    assert resets_services_in_forks() is IS_NEEDED
    monkeypatch.setattr(prefect, "__version__", release)
    registered: list[object] = []
    monkeypatch.setattr("os.register_at_fork", lambda **hooks: registered.append(hooks))
    monkeypatch.setattr(forks, "_is_registered", False)

    forks.end_forks_well()

    assert not resets_services_in_forks()
    assert registered == []
