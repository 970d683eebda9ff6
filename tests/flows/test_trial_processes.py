"""What processes trials run in: none has run anything for another experiment, and each is left as it was found."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from prefect.client.orchestration import SyncPrefectClient
from prefect_ray.task_runners import RayTaskRunner
from ray.util import placement_group_table

import tune_core as tune
from tests.flows.conftest import CPUS, Recorded, logs_of
from tests.support.waiting import wait_for
from tune_core.engine.experiment import experiment

RUNNERS = ["ours", pytest.param("stock", marks=pytest.mark.slow)]


def run(
    runner: str,
    train: Callable[..., Any],
    config: tune.RunConfig,
    space: dict[str, Any] | None = None,
    **options: Any,
) -> tune.ResultGrid:
    flow = experiment if runner == "ours" else experiment.with_options(task_runner=RayTaskRunner())
    results = flow(train, space or {}, tune.TuneConfig(**options), config)
    assert results.num_errors == 0, [result.error for result in results]
    return results


def live_groups() -> list[str]:
    return [key for key, group in placement_group_table().items() if group["state"] != "REMOVED"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_module_that_is_edited_between_two_experiments_is_run_as_it_is_now(
    runner: str,
    run_config: Callable[..., tune.RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"edited_{uuid.uuid4().hex[:8]}"
    monkeypatch.syspath_prepend(str(tmp_path))
    here = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
    source = "import os\ndef train(config):\n    return {{'answer': {answer}, 'pid': os.getpid()}}\n"

    @ray.remote(runtime_env=here)
    def answer_of_a_task() -> int:
        return int(importlib.import_module(name).train({})["answer"])

    seen = []
    for answer in (1, 22, 333):
        (tmp_path / f"{name}.py").write_text(source.format(answer=answer))
        module = importlib.reload(importlib.import_module(name))
        (result,) = run(runner, module.train, run_config(runtime_env=here))
        seen.append((result.metrics["answer"], result.metrics["pid"]))
        if answer == 1:
            assert ray.get(answer_of_a_task.remote()) == 1  # in a worker that Ray keeps for more

    assert [answer for answer, _ in seen] == [1, 22, 333]
    assert len({pid for _, pid in seen}) == 3


@pytest.mark.parametrize("runner", RUNNERS)
def test_worker_that_has_run_tasks_of_anybodys_runs_no_trial(
    runner: str, run_config: Callable[..., tune.RunConfig]
) -> None:
    def meet(number: int) -> int:
        time.sleep(1)  # so that each has a worker of its own
        return os.getpid()

    task = ray.remote(num_cpus=1)(meet)
    used = set(ray.get([task.remote(number) for number in range(CPUS)]))

    results = run(runner, lambda config: {"ran_in": os.getpid()}, run_config(), num_samples=3)

    assert len(used) > 1
    assert used.isdisjoint(result.metrics["ran_in"] for result in results)


class CountsGroups(tune.Callback):
    """Counts how many groups there are at most."""

    def __init__(self) -> None:
        self.most = 0

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        self.most = max(self.most, len(live_groups()))


@pytest.mark.parametrize("runner", RUNNERS)
def test_no_more_is_held_than_trials_may_run_at_once_and_nothing_after_the_experiment(
    runner: str, run_config: Callable[..., tune.RunConfig]
) -> None:
    counts = CountsGroups()

    run(
        runner,
        lambda config: {"x": 1},
        run_config(callbacks=[counts]),
        num_samples=6,
        max_concurrent_trials=1,
    )

    wait_for(lambda: not live_groups(), what="the last group to be removed", timeout_s=1)
    everything = ray.remote(num_cpus=CPUS)(lambda: "ran")
    assert ray.get(everything.remote(), timeout=30) == "ran"
    assert counts.most == 1


def found() -> dict[str, Any]:
    """What this process is like."""
    return {
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("TUNE_")},
        "directory": str(Path.cwd().parent),
        "path": sys.path[:],
        "root handlers": len(logging.getLogger().handlers),
        "handlers": len(logging.getLogger("mine").handlers),
        "level": logging.getLogger("mine").level,
        "filters": len(warnings.filters),
        "signal": signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL,
        "random": random.random(),
    }


def untidy(config: dict[str, Any]) -> None:
    """Report what it finds, and leave a mess."""
    first = found()
    os.environ["MESS"] = "1"
    os.environ.pop("HOME", None)
    sys.path.insert(0, "/nowhere")
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("mine").addHandler(logging.NullHandler())
    logging.getLogger("mine").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    random.seed(config["n"])
    threading.Thread(target=time.sleep, args=(30,), name=f"left-{config['n']}", daemon=True).start()
    tune.report({"pid": os.getpid(), "found": first})
    os.chdir("/")


@pytest.mark.parametrize("runner", RUNNERS)
def test_trials_that_share_a_process_find_it_as_the_first_did(
    runner: str,
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
) -> None:
    config = run_config()

    results = run(runner, untidy, config, {"n": tune.grid_search([1, 2, 3])}, max_concurrent_trials=1)

    assert len({result.metrics["pid"] for result in results}) == 1
    found_by_each = [result.metrics["found"] for result in results]
    assert len({each.pop("random") for each in found_by_each}) == 3  # nobody had seeded them
    first, *others = found_by_each
    assert others == [first, first]
    for task_run, result in zip(recorded(config.name).task_runs(3), sorted(results, key=id_of), strict=True):
        name = f"left-{result.config['n']}"

        def says_so(task_run: Any = task_run, name: str = name) -> bool:
            return any("threads" in line and name in line for line in logs_of(client, task_run))

        wait_for(says_so, what=f"{name} in the log")


def id_of(result: tune.Result) -> str:
    return str(result.metrics["trial_id"])


kept: list[bytes] = []


def grows(config: dict[str, Any]) -> dict[str, Any]:
    kept.append(os.urandom(1) * config["bytes"])
    return {"pid": os.getpid()}


@pytest.mark.parametrize(("limit", "processes"), [(200_000_000, 2), (None, 1)])
def test_process_that_has_grown_too_much_is_replaced(
    run_config: Callable[..., tune.RunConfig], limit: int | None, processes: int
) -> None:
    space = {"bytes": tune.grid_search([130_000_000] * 4)}

    results = run("ours", grows, run_config(), space, max_concurrent_trials=1, max_process_growth=limit)

    assert len({result.metrics["pid"] for result in results}) == processes


def forked_exit_code() -> int | None:
    child = multiprocessing.get_context("fork").Process(target=os.getpid)
    child.start()
    child.join(60)
    return child.exitcode


class Forks(tune.Callback):
    """Forks in the process of the experiment."""

    def __init__(self) -> None:
        self.codes: list[int | None] = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.codes.append(forked_exit_code())


@pytest.mark.parametrize("runner", RUNNERS)
def test_forked_children_end_well_in_trials_and_in_the_process_of_the_experiment(
    runner: str, run_config: Callable[..., tune.RunConfig]
) -> None:
    def forks(config: dict[str, Any]) -> None:  # by value: this module imports Prefect
        def exit_code() -> int | None:
            child = multiprocessing.get_context("fork").Process(target=os.getpid)
            child.start()
            child.join(60)
            return child.exitcode

        codes, has_prefect = [exit_code()], "prefect" in sys.modules
        if config["uses"]:
            from prefect import get_run_logger

            get_run_logger().info("from the trial")
        tune.report({"has_prefect": has_prefect, "codes": [*codes, exit_code()]})

    callback = Forks()
    space = {"uses": tune.grid_search([False, True])}

    results = run(runner, forks, run_config(callbacks=[callback]), space, max_concurrent_trials=1)

    assert [result.metrics["codes"] for result in results] == [[0, 0], [0, 0]]
    assert [result.metrics["has_prefect"] for result in results] == [runner == "stock"] * 2
    assert callback.codes == [0, 0]
    assert forked_exit_code() == 0


def sum_of_batches() -> float:
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(list(range(8)), batch_size=2, num_workers=2)
    return float(sum(batch.sum() for batch in loader))


def test_data_loaders_have_workers_in_trials_and_after_the_experiment(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    pytest.importorskip("torch")

    (result,) = run("ours", lambda config: {"sum": sum_of_batches()}, run_config())

    assert result.metrics["sum"] == sum_of_batches() == 28.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("runner", RUNNERS)
def test_three_experiments_run_one_after_the_other_inside_of_a_trial(
    runner: str, run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    def inner(config: dict[str, Any]) -> dict[str, Any]:
        return {"n": config["n"], "pid": os.getpid()}

    def outer(config: dict[str, Any]) -> None:
        for number in range(3):
            config = tune.RunConfig(storage_path=str(tmp_path / "inner"), verbose=0)
            (result,) = tune.Tuner(inner, param_space={"n": number}, run_config=config).fit()
            tune.report({"n": result.metrics["n"], "ran_in": result.metrics["pid"]})

    (result,) = run(runner, outer, run_config())

    rows = result.metrics_dataframe
    assert rows["n"].tolist() == [0, 1, 2]
    assert len(set(rows["ran_in"])) == 3
