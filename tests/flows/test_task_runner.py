"""Tasks and experiments on both runners, ours and the stock one, and on clusters that are there already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from prefect import Flow, flow, get_run_logger, runtime, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId
from prefect.context import tags
from prefect_ray.context import remote_options
from prefect_ray.task_runners import RayTaskRunner
from ray.actor import ActorHandle

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.waiting import wait_for
from tune_core.engine import cluster
from tune_core.engine.experiment import ExperimentFlow, experiment
from tune_core.engine.task_runner import TuneTaskRunner, use_recorder
from tune_core.engine.worker.recorder import Recorder
from tune_core.errors import ConfigError, TuneError

RUNNERS = [TuneTaskRunner, RayTaskRunner]
#: The stock runner starts a process for each task: where one test of it says enough, the others are slow.
RUNNERS_SLOWLY = [TuneTaskRunner, pytest.param(RayTaskRunner, marks=pytest.mark.slow)]


# Tasks.


@task
def double(number: int, refuse: bool = False) -> int:
    if refuse:
        raise ValueError("made up")
    return 2 * number


@task
def assigned() -> dict[str, float]:
    found: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    return found


@pytest.mark.parametrize("runner", RUNNERS)
def test_without_an_actor_tasks_behave_as_on_the_stock_runner(
    recorded: Callable[[str], Recorded], runner: type[RayTaskRunner[Any]]
) -> None:
    name = f"tasks-on-{runner.__name__}-{os.urandom(3).hex()}"

    @flow(task_runner=runner(), flow_run_name=name)
    def work() -> dict[str, Any]:
        first = double.submit(1)
        mapped = double.map([first, 5], refuse=False)  # futures as arguments
        refused = double.submit(0, refuse=True, wait_for=[first])
        with remote_options(num_cpus=0, resources={"special": 1}):
            special = assigned.submit()
        refused.wait()
        return {
            "mapped": mapped.result(),
            "refused": str(refused.result(raise_on_failure=False)),
            "special": special.result(),
        }

    found = work()

    assert found == {"mapped": [4, 10], "refused": "made up", "special": {"special": 1.0}}
    states = [run.state_name for run in recorded(name).task_runs(5)]
    assert sorted(states) == ["Completed"] * 4 + ["Failed"]


def test_copy_of_the_runner_has_its_settings() -> None:
    runner = TuneTaskRunner("auto", {"num_cpus": 1})

    copy = runner.duplicate()

    assert type(copy) is TuneTaskRunner
    assert copy == runner
    assert (copy.address, copy.init_kwargs["num_cpus"]) == ("auto", 1)


@task
def where(text: str = "") -> dict[str, Any]:
    get_run_logger().info("logged %s", text)
    return {
        "pid": os.getpid(),
        "flow_run": runtime.flow_run.id,
        "tags": sorted(runtime.task_run.tags),
        "api": runtime.flow_run.api_url,
    }


@pytest.fixture
def recorder(cluster: None) -> Iterator[ActorHandle]:
    handle = ray.remote(Recorder).options(num_cpus=0).remote()
    yield handle
    ray.kill(handle)


def test_tasks_under_use_recorder_run_in_it_each_in_the_context_of_its_own_flow_run(
    recorder: ActorHandle, recorded: Callable[[str], Recorded], client: SyncPrefectClient, api: str
) -> None:
    names = [f"in-recorder-{os.urandom(3).hex()}" for _ in range(2)]

    @flow(task_runner=TuneTaskRunner())
    def work(text: str) -> list[dict[str, Any]]:
        with use_recorder(recorder), tags(f"tag-{text}"):
            inside = [where.submit(text) for _ in range(2)]
            refused = double.submit(0, refuse=True)
        outside = where.submit(text)
        refused.wait()
        return [future.result() for future in (*inside, outside)]

    pid = ray.get(recorder.ready.remote())["pid"]

    found = [work.with_options(flow_run_name=name)(name) for name in names]

    for name, (*inside, outside) in zip(names, found, strict=True):
        seen = recorded(name)
        assert {place["pid"] for place in inside} == {pid} != {outside["pid"]}
        assert {place["flow_run"] for place in inside} == {str(seen.flow_run.id)}
        assert all(place["api"].startswith(api) for place in inside)
        runs = seen.task_runs(4)
        assert sorted(run.state_name or "" for run in runs) == ["Completed"] * 3 + ["Failed"]
        assert {run.flow_run_id for run in runs} == {seen.flow_run.id}
        (logs,) = wait_for_logs(client, [run.id for run in runs if run.name.startswith("where")][:1])
        assert f"logged {name}" in logs


def wait_for_logs(client: SyncPrefectClient, task_run_ids: list[Any]) -> list[list[str]]:
    def read(task_run_id: Any) -> list[str]:
        wanted = LogFilter(task_run_id=LogFilterTaskRunId(any_=[task_run_id]))
        return [log.message for log in client.read_logs(log_filter=wanted)]

    return [wait_for(lambda key=key: read(key), what="the task run's log") for key in task_run_ids]


def test_recorder_is_not_made_to_wait_for_other_tasks(recorder: ActorHandle) -> None:
    @flow(task_runner=TuneTaskRunner())
    def work() -> None:
        first = double.submit(1)
        with (
            use_recorder(recorder),
            pytest.raises(ValueError, match=r"wait_for= with use_recorder: wait in the flow"),
        ):
            double.submit(2, wait_for=[first])
        first.wait()

    work()


# Experiments.


def count_up(config: dict[str, Any]) -> None:
    """Report and save 1, 2 and 3; die after 2 as the config says, in the first attempt only."""
    first = 1
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            first = int(Path(directory, "step").read_text()) + 1
    for step in range(first, 4):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "step").write_text(str(step))
            tune.report({"step": step}, checkpoint=tune.Checkpoint.from_directory(directory))
        if step == 2 and first == 1:
            if config["death"] == "exception":
                raise ValueError("made up")
            if config["death"] == "exit":
                os._exit(1)
            if config["death"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)


def on(runner: type[RayTaskRunner[Any]]) -> ExperimentFlow:
    return experiment.with_options(task_runner=runner())


@pytest.mark.parametrize("runner", RUNNERS)
def test_main_job_is_the_same_on_either_runner(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    runner: type[RayTaskRunner[Any]],
) -> None:
    config = run_config(failure_config=tune.FailureConfig(max_failures=1), tags=["nightly"])
    deaths = ["none", "exception", "exit", "kill"]

    results = on(runner)(
        count_up,
        param_space={"death": tune.grid_search(deaths)},
        tune_config=tune.TuneConfig(metric="step", mode="max"),
        run_config=config,
    )

    assert results.num_errors == 0
    for result in results:
        rows = result.metrics_dataframe
        assert list(rows["training_iteration"]) == list(rows["step"]) == [1, 2, 3]
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as directory:
            assert Path(directory, "step").read_text() == "3"
    seen = recorded(config.name)
    runs = seen.task_runs(7)
    states = {(run.name.count("attempt"), run.state_name) for run in runs}
    assert states == {(0, "Completed"), (0, "Failed"), (0, "Crashed"), (1, "Completed")}
    assert all("nightly" in run.tags and run.flow_run_id == seen.flow_run.id for run in runs)
    for result in results:
        assert [row["step"] for row in seen.reports(result.metrics["trial_id"])] == [1, 2, 3]


@pytest.mark.parametrize("runner", RUNNERS_SLOWLY)
def test_endless_trial_is_stopped_on_either_runner(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    runner: type[RayTaskRunner[Any]],
) -> None:
    class FiveReportsAndOneThatHangs(tune.Stopper):
        def __init__(self) -> None:
            self.latest: dict[str, int] = {}

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self.latest[trial_id] = result["training_iteration"]
            return self.latest[trial_id] >= 5

        def stop_all(self) -> bool:
            return sorted(self.latest.values()) == [1, 5]

    def endless(config: dict[str, Any]) -> None:
        while True:
            tune.report({"x": 1})
            if config["hangs"]:
                signal.pause()

    config = run_config(stop=FiveReportsAndOneThatHangs(), stop_timeout_s=0.5)
    space = {"hangs": tune.grid_search([False, True])}

    results = on(runner)(endless, space, tune.TuneConfig(), config)

    assert results.num_errors == 0
    assert [result.metrics["training_iteration"] for result in results] == [5, 1]
    states = [run.state_name for run in recorded(config.name).task_runs(2)]
    assert states == ["Completed", "Cancelled"]


@pytest.mark.parametrize("runner", RUNNERS_SLOWLY)
def test_processes_have_the_runtime_env_of_their_own_experiment(
    run_config: Callable[..., tune.RunConfig], runner: type[RayTaskRunner[Any]]
) -> None:
    found = []
    for value in ("one", "two"):
        config = run_config(runtime_env={"env_vars": {"FRUIT": value}})
        (result,) = on(runner)(lambda config: {"fruit": os.environ["FRUIT"]}, {}, run_config=config)
        found.append(result.metrics["fruit"])

    assert found == ["one", "two"]


def test_flow_is_called_like_a_tuner(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config()

    results = experiment(lambda config: {"y": config["x"]}, param_space={"x": 3}, run_config=config)

    assert isinstance(results, tune.ResultGrid)
    assert results[0].metrics["y"] == 3
    assert recorded(config.name).flow_run.state_name == "Completed"


def test_flow_takes_the_import_string_of_a_trainable(run_config: Callable[..., tune.RunConfig]) -> None:
    results = experiment(f"{__name__}:count_up", param_space={"death": "none"}, run_config=run_config())

    assert results[0].metrics["step"] == 3


@pytest.mark.parametrize("path", ["no_such_module:train", f"{__name__}:no_such_name", "without_colon"])
def test_import_string_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainable={path!r} cannot be imported: .*expected 'package"):
        experiment(path)


def test_copy_of_the_flow_with_options_is_called_like_a_tuner_too() -> None:
    copy = experiment.with_options(name="other", task_runner=RayTaskRunner())

    assert isinstance(copy, ExperimentFlow)
    assert (copy.name, type(copy.task_runner)) == ("other", RayTaskRunner)
    assert isinstance(experiment, Flow)
    assert isinstance(experiment.task_runner, TuneTaskRunner)


# Clusters that are there already.


def test_ray_that_was_there_is_used_and_left_as_it_was(run_config: Callable[..., tune.RunConfig]) -> None:
    before = ray.get_runtime_context()
    job, node = before.get_job_id(), before.get_node_id()

    results = tune.Tuner(
        lambda config: {"job": ray.get_runtime_context().get_job_id()}, run_config=run_config()
    ).fit()

    assert ray.is_initialized()
    after = ray.get_runtime_context()
    assert (after.get_job_id(), after.get_node_id()) == (job, node)
    assert results[0].metrics["job"] == job


def test_ray_that_cannot_be_started_is_an_error_of_this_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def times_out(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", times_out)
    with pytest.raises(
        TuneError, match="cannot be started on this machine: Exception: The current node timed"
    ):
        cluster.connect(tune.RunConfig())
    with pytest.raises(TuneError, match=r"cannot be joined at '10\.0\.0\.1:6379'"):
        cluster.connect(tune.RunConfig(ray_address="10.0.0.1:6379"))


def test_ray_client_is_refused_wherever_its_address_comes_from(
    run_config: Callable[..., tune.RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"ray_address='ray://head:10001'.*run the flow inside the cluster"):
        run_config(ray_address="ray://head:10001")

    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ConfigError, match=r"'ray://head:10001': Ray Client cannot carry an experiment"):
        tune.Tuner(lambda config: {"x": 1}, run_config=run_config()).fit()

    monkeypatch.setenv("PREFECT_INTEGRATIONS_TUNE_RAY_ADDRESS", "ray://other:10001")
    with pytest.raises(ConfigError, match=r"'ray://other:10001': Ray Client cannot carry an experiment"):
        tune.Tuner(lambda config: {"x": 1}, run_config=run_config()).fit()


SCRIPT = """
    import sys
    import ray
    import tune_core as tune

    def train(config):
        return {"special": ray.cluster_resources().get("special", 0)}

    way, address, place = sys.argv[1:]
    if way == "first":
        ray.init(address=address, namespace="prefect", log_to_driver=False, logging_level="ERROR")
    ray_address = {"given": address, "auto": "auto"}.get(way)
    for name in ("one", "two"):
        config = tune.RunConfig(name=name, storage_path=place, ray_address=ray_address, verbose=0)
        (result,) = tune.Tuner(train, run_config=config).fit()
        print(name, result.metrics["special"], ray.is_initialized())
        if way == "restarted" and name == "one":
            ray.shutdown()
"""


@pytest.mark.parametrize(
    ("way", "special"),
    [
        pytest.param("given", 2.0, marks=pytest.mark.slow),
        pytest.param("auto", 2.0, marks=pytest.mark.slow),
        ("first", 2.0),
        pytest.param("restarted", 0, marks=pytest.mark.slow),
    ],
)
def test_running_cluster_is_joined_and_stays_and_else_one_is_started(
    way: str, special: float, tmp_path: Path, api: str
) -> None:
    address = ray.get_runtime_context().gcs_address
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PREFECT_API_URL": api}
    environment.pop("RAY_ADDRESS", None)
    if way == "auto":
        environment["RAY_ADDRESS"] = address  # says which of this machine's clusters it is

    done = subprocess.run(
        [sys.executable, str(script), way, address, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        env=environment,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"one {special} True", f"two {special} True"]
    assert ray.get(ray.remote(num_cpus=0)(lambda: "still here").remote(), timeout=60) == "still here"
