"""For every tier: a failing run says how to repeat its random order, and hypothesis has no deadlines."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Machines that run the suite have few and busy cores: a slow example is no failure, a wrong one is.
settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


#: What says in a developer's shell which Ray their own work is on.
NAMES_OF_A_CLUSTER = ("RAY_ADDRESS", "RAY_NAMESPACE", "PREFECT_INTEGRATIONS_TUNE_RAY_ADDRESS")


@pytest.fixture(scope="session", autouse=True)
def no_other_ray() -> Iterator[None]:
    """Keep the tests away from Ray clusters of this machine: `ray.init` joins the one that the environment names."""
    directory = tempfile.mkdtemp(prefix="tune-ray-", dir="/tmp")  # short: sockets are below it
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("RAY_TMPDIR", directory)
        for name in NAMES_OF_A_CLUSTER:
            patches.delenv(name, raising=False)
        yield
    shutil.rmtree(directory, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    seed = terminalreporter.config.getoption("randomly_seed", None)
    if exitstatus == pytest.ExitCode.TESTS_FAILED and seed is not None:
        terminalreporter.write_line(f"same seeds, same order: pytest --randomly-seed={seed}")
