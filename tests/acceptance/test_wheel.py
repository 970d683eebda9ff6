"""The wheel in an environment of its own, beside a project that has packages of the same names as ours."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.support.prefect_server import ROOT, end, environment_of, free_port, is_healthy
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # an environment is installed from nothing

_TRAINING = """
import tune_core as tune

def train(config):
    tune.report({"score": config["x"] ** 2})
"""

_FLOW = """
import tune_core as tune

squares = tune.experiment_flow(
    "tune-squares",
    "my_project.training:train",
    param_space={"x": tune.grid_search([1, 2])},
    tune_config=tune.TuneConfig(metric="score", mode="max"),
    run_config=tune.RunConfig(storage_path="results", verbose=0),
)
"""

_SCRIPT = """
import flows, deployments, tests
import tune_core as tune
from my_project.training import train

results = tune.Tuner(
    train,
    param_space={"x": tune.grid_search([1, 2, 3])},
    tune_config=tune.TuneConfig(metric="score", mode="max"),
    run_config=tune.RunConfig(storage_path="results", verbose=0),
).fit()
assert [flows.NAME, deployments.NAME, tests.NAME] == ["flows", "deployments", "tests"]
print("best", results.get_best_result().config["x"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(directory), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_of_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(list(map(str, install)), check=True, timeout=900)
    return environment / "bin"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project with packages that are called as those of this repository."""
    project = tmp_path_factory.mktemp("project")
    for name in ("flows", "deployments", "tests", "my_project"):
        (project / name).mkdir()
        (project / name / "__init__.py").write_text(f"NAME = {name!r}\n")
    (project / "my_project" / "training.py").write_text(_TRAINING)
    (project / "flows" / "squares.py").write_text(_FLOW)
    (project / "script.py").write_text(_SCRIPT)
    experiment = {
        "trainable": "my_project.training:train",
        "param_space": {"x": {"grid_search": {"values": [1, 2]}}},
        "run_config": {"name": "from-a-file", "storage_path": "results", "verbose": 0},
    }
    (project / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    shared = {"work_pool": {"name": "tune"}}
    deployments = [
        {"name": "by-file", "entrypoint": "flows/squares.py:squares", **shared},
        {"name": "by-module", "entrypoint": "flows.squares.squares", **shared},
    ]
    (project / "prefect.yaml").write_text(yaml.safe_dump({"name": "project", "deployments": deployments}))
    return project


def run(bin_of_environment: Path, project: Path, *command: str, **more: str) -> str:
    home = project.parent / "home"
    done = subprocess.run(
        [str(bin_of_environment / command[0]), *command[1:]],
        cwd=project,
        env={
            **environment_of(home, **more),
            "PATH": f"{bin_of_environment}:/usr/bin:/bin",
            "PYTHONPATH": str(project),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_wheel_installs_one_package(wheel: Path) -> None:
    names = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {name for name in names if not name.endswith(".dist-info")} == {"tune_core"}


def test_fit_works_beside_packages_of_the_same_names(bin_of_environment: Path, project: Path) -> None:
    assert "best 3" in run(bin_of_environment, project, "python", "script.py")


def test_an_experiment_in_a_file_is_run_from_the_shell(bin_of_environment: Path, project: Path) -> None:
    printed = run(bin_of_environment, project, "prefect-tune", "run", "experiment.yaml", "--json")

    assert '"num_trials": 2' in printed


@pytest.fixture(scope="module")
def api(bin_of_environment: Path, project: Path) -> Iterator[str]:
    """A stock Prefect server, and a worker in the project's directory."""
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = environment_of(project.parent / "home", PREFECT_WORKER_QUERY_SECONDS="1") | {
        "PATH": f"{bin_of_environment}:/usr/bin:/bin",
        "PYTHONPATH": str(project),
    }
    prefect = str(bin_of_environment / "prefect")
    processes: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (project.parent / f"out-{len(processes)}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [prefect, "--no-prompt", *command],
                    cwd=project,
                    env={**environment, "PREFECT_API_URL": api},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    try:
        start("server", "start", "--host", "127.0.0.1", "--port", str(port))
        wait_for(lambda: is_healthy(api), "the server", 180)
        run(
            bin_of_environment,
            project,
            "prefect",
            "--no-prompt",
            "work-pool",
            "create",
            "tune",
            "--type",
            "process",
            PREFECT_API_URL=api,
        )
        start("worker", "start", "--pool", "tune")
        run(bin_of_environment, project, "prefect", "--no-prompt", "deploy", "--all", PREFECT_API_URL=api)
        yield api
    finally:
        for process in reversed(processes):
            end(process)


@pytest.mark.parametrize("name", ["by-file", "by-module"])
def test_a_deployment_of_a_named_flow_runs(api: str, name: str) -> None:
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"tune-squares/{name}")
        run = client.create_flow_run_from_deployment(deployment.id)

        def ended() -> bool:
            state = client.read_flow_run(run.id).state
            return state is not None and state.is_final()

        wait_for(ended, "the run", 280)
        assert client.read_flow_run(run.id).state_name == "Completed"
