"""Where trials run: their bundles, what they start in them, and what the cluster cannot give."""

from __future__ import annotations

import json
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TaskRun
from prefect_ray.task_runners import RayTaskRunner
from ray.util import get_current_placement_group, placement_group_table

import tune_core as tune
from tests.flows.conftest import CPUS, GPUS, Recorded
from tests.support.waiting import wait_for
from tune_core.engine.experiment import experiment
from tune_core.errors import PlacementError
from tune_core.progress_reporter.display import ProgressDisplay

MIB = 2**20


def here() -> dict[str, Any]:
    """Where the calling process is, in Ray's words."""
    # Its own imports, since it is sent by value: a child that imports this module imports Prefect.
    import ray
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    assigned = ray.get_runtime_context().get_assigned_resources()
    return {
        "group": group.id.hex() if group else None,
        "gpus": ",".join(map(str, ray.get_gpu_ids())),
        "resources": {name: amount for name, amount in assigned.items() if "group" not in name},
    }


def by_value(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    return types.FunctionType(function.__code__, {"__builtins__": __builtins__}, function.__name__)


def with_children(config: dict[str, Any]) -> dict[str, Any]:
    """Use every bundle: the trial is in bundle 0, a task and actors are in the others."""
    find = by_value(here)

    class Child:
        def where(self) -> dict[str, Any]:
            return find()

    actors = [ray.remote(num_cpus=0, num_gpus=1)(Child).remote() for _ in range(3)]
    found = ray.get([actor.where.remote() for actor in actors])  # who keep their bundles
    found.append(ray.get(ray.remote(num_cpus=0, num_gpus=1)(find).remote()))
    return {"own": here(), "children": found}


def report_place(config: dict[str, Any]) -> dict[str, Any]:
    group = get_current_placement_group()
    table = placement_group_table(group)
    bundles = [bundle for _, bundle in sorted(table["bundles"].items())]
    return {**here(), "bundles": bundles, "strategy": table["strategy"], "name": table["name"]}


def tuned(
    trainable: Callable[[dict[str, Any]], Any],
    run_config: tune.RunConfig,
    space: dict[str, Any] | None = None,
    **options: Any,
) -> tune.ResultGrid:
    return tune.Tuner(
        trainable, param_space=space, tune_config=tune.TuneConfig(**options), run_config=run_config
    ).fit()


def task_runs_of(seen: Recorded, client: SyncPrefectClient) -> list[TaskRun]:
    this = FlowRunFilter(id={"any_": [seen.flow_run.id]})
    return client.read_task_runs(flow_run_filter=this)


@pytest.mark.parametrize("runner", ["ours", pytest.param("stock", marks=pytest.mark.slow)])
def test_trial_runs_in_bundle_0_and_its_tasks_and_actors_in_the_others_with_a_gpu_each(
    run_config: Callable[..., tune.RunConfig], runner: str
) -> None:
    bundles = [{"CPU": 1, "GPU": 1}, *[{"GPU": 1}] * 4]
    trainable = tune.with_resources(with_children, tune.PlacementGroupFactory(bundles))
    flow = experiment if runner == "ours" else experiment.with_options(task_runner=RayTaskRunner())

    results = flow(trainable, {}, run_config=run_config())

    assert results.num_errors == 0
    own, children = results[0].metrics["own"], results[0].metrics["children"]
    assert own["resources"] == {"CPU": 1, "GPU": 1}
    assert len(children) == GPUS - 1
    assert {child["group"] for child in children} == {own["group"]} != {None}
    assert all(child["resources"] == {"GPU": 1} for child in children)
    gpus = [own["gpus"], *(child["gpus"] for child in children)]
    assert sorted(gpus) == [str(number) for number in range(GPUS)]


def test_group_has_the_strategy_and_the_name_that_were_asked_for(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def shape(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        bundles = [{"CPU": 1}, {"CPU": 1}]
        return tune.PlacementGroupFactory(bundles, strategy=config["strategy"], name="mine")

    # Several at once: Ray refuses a second group of the same name.
    strategies = ["PACK", "SPREAD", "STRICT_PACK"]
    space = {"strategy": tune.grid_search(strategies)}
    results = tuned(tune.with_resources(report_place, shape), run_config(), space)

    assert results.num_errors == 0
    assert [result.metrics["strategy"] for result in results] == strategies
    for result in results:
        assert result.metrics["name"].startswith("mine")
        assert result.metrics["bundles"] == [{"CPU": 1.0}, {"CPU": 1.0}]


def test_strict_spread_over_more_nodes_than_there_are_is_refused_by_name(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    shape = tune.PlacementGroupFactory([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")

    with pytest.raises(PlacementError, match=r"no way to place .* STRICT_SPREAD on nodes with: .*CPU 8"):
        tuned(tune.with_resources(report_place, shape), run_config())


def test_fractions_memory_and_custom_resources_are_reserved_for_the_trial(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    shape = {"cpu": 0.5, "gpu": 0.25, "memory": 300 * MIB, "special": 1}

    results = tuned(tune.with_resources(report_place, shape), run_config(), {"x": tune.grid_search([1, 2])})

    assert results.num_errors == 0
    wanted = {"CPU": 0.5, "GPU": 0.25, "memory": 300.0 * MIB, "special": 1.0}
    for result in results:
        assert result.metrics["resources"] == wanted
        assert result.metrics["bundles"] == [wanted]
    # A quarter of a GPU each: both are on the same.
    assert len({result.metrics["gpus"] for result in results}) == 1


def test_trial_with_an_empty_first_bundle_takes_nothing_and_its_tasks_get_the_rest(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def spread(config: dict[str, Any]) -> dict[str, Any]:
        child = ray.remote(num_cpus=2)(by_value(here))
        return {"own": here(), "children": ray.get([child.remote() for _ in range(2)])}

    shape = tune.PlacementGroupFactory([{}, {"CPU": 2}, {"CPU": 2}])

    results = tuned(tune.with_resources(spread, shape), run_config())

    own, children = results[0].metrics["own"], results[0].metrics["children"]
    assert own["resources"] == {}
    assert [child["resources"] for child in children] == [{"CPU": 2}, {"CPU": 2}]
    assert {child["group"] for child in children} == {own["group"]} != {None}


def test_later_bundles_that_are_empty_are_left_out_of_the_group(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    labels = [{}, {}, {}, {}]
    shape = tune.PlacementGroupFactory(
        [{"CPU": 1}, {}, {"GPU": 0}, {"special": 1}], bundle_label_selector=labels
    )

    results = tuned(tune.with_resources(report_place, shape), run_config())

    assert results.num_errors == 0
    assert results[0].metrics["bundles"] == [{"CPU": 1.0}, {"special": 1.0}]
    assert results[0].metrics["resources"] == {"CPU": 1}


def test_bundles_may_differ_from_trial_to_trial_by_the_configuration(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def shape(config: dict[str, Any]) -> Any:
        if config["kind"] == "children":
            return tune.PlacementGroupFactory([{"CPU": 1}, {"GPU": 2}])
        return {"cpu": 2} if config["kind"] == "wide" else {"gpu": 1}

    kinds = ["wide", "gpu", "children"]

    results = tuned(tune.with_resources(report_place, shape), run_config(), {"kind": tune.grid_search(kinds)})

    assert results.num_errors == 0
    assert [result.metrics["bundles"] for result in results] == [
        [{"CPU": 2.0}],
        [{"GPU": 1.0}],
        [{"CPU": 1.0}, {"GPU": 2.0}],
    ]
    assert [result.metrics["resources"] for result in results] == [{"CPU": 2}, {"GPU": 1}, {"CPU": 1}]


def test_task_that_a_trial_left_running_does_not_keep_its_bundle_from_the_next_trial(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def leaves_one(config: dict[str, Any]) -> dict[str, Any]:
        endless = ray.remote(num_cpus=0, resources={"special": 2})(lambda: time.sleep(600))
        quick = ray.remote(num_cpus=0, resources={"special": 2})(by_value(here))
        found = ray.get(quick.remote(), timeout=60)
        endless.remote()
        return found

    shape = tune.PlacementGroupFactory([{"CPU": 1}, {"special": 2}])

    results = tuned(tune.with_resources(leaves_one, shape), run_config(), {"x": tune.grid_search([1, 2])})

    assert [result.error for result in results] == [None, None]


def test_actor_of_a_failed_attempt_does_not_keep_its_bundle_from_the_next_attempt(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def fails_once(config: dict[str, Any]) -> dict[str, Any]:
        find = by_value(here)

        class Child:
            def where(self) -> dict[str, Any]:
                return find()

        child = ray.remote(num_cpus=0, resources={"special": 2})(Child).remote()
        found: dict[str, Any] = ray.get(child.where.remote(), timeout=60)
        if not (marker := Path(config["marker"])).exists():
            marker.touch()
            raise ValueError("made up")
        return found

    config = run_config(failure_config=tune.FailureConfig(max_failures=1))
    shape = tune.PlacementGroupFactory([{"CPU": 1}, {"special": 2}])

    results = tuned(
        tune.with_resources(fails_once, shape),
        config,
        {"marker": f"{config.storage_path}/failed-once"},
        fresh_process=False,
    )

    assert results.num_errors == 0


def test_fixed_bundles_that_the_cluster_can_never_give_end_fit_before_the_first_trial(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
) -> None:
    config = run_config()
    shape = tune.PlacementGroupFactory([{"CPU": 1}, *[{"GPU": 1}] * 6])

    with pytest.raises(PlacementError, match=r"never give .*: GPU: 6 needed in all, the cluster has 5\. Ask"):
        tuned(tune.with_resources(report_place, shape), config, num_samples=3)

    seen = recorded(config.name)
    assert seen.flow_run.state_name == "Failed"
    assert task_runs_of(seen, client) == []
    assert not list(Path(str(config.storage_path)).glob("*/*00000*"))


def test_only_trials_fail_whose_own_bundles_the_cluster_can_never_give(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    trainable = tune.with_resources(report_place, lambda config: {"cpu": config["cpu"]})

    results = tuned(trainable, run_config(), {"cpu": tune.grid_search([1, 100, 2])})

    assert [result.error is None for result in results] == [True, False, True]
    assert "CPU: 100 needed in one bundle, the largest node has 8" in str(results[1].error)
    assert "PlacementError" in str(results[1].error)
    assert [result.metrics["resources"]["CPU"] for result in (results[0], results[2])] == [1, 2]


def test_with_a_placement_timeout_trials_wait_for_nodes_and_then_fail_together(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[dict[str, str]] = []
    monkeypatch.setattr(
        ProgressDisplay, "update", lambda self, trials, waiting, now: waited.append(dict(waiting))
    )
    config = run_config(placement_timeout_s=2.5)
    start = time.monotonic()

    results = tuned(tune.with_resources(report_place, {"gpu": 6}), config, num_samples=3)

    # The cluster has been too small for all of them at once: not each waits anew.
    assert 2.5 < time.monotonic() - start < 2.5 * 3 + 5
    assert results.num_errors == 3
    for result in results:
        assert "GPU: 6 needed in one bundle, the largest node has 5; waited 2.5 s" in str(result.error)
    reasons = {reason for waiting in waited for reason in waiting.values()}
    assert any(reason.startswith("waits for nodes that can hold its bundles: GPU: 6") for reason in reasons)
    assert task_runs_of(recorded(config.name), client) == []


def test_trial_that_waits_for_busy_resources_is_shown_as_pending_with_the_reason(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tune_core.engine.artifacts.artifacts.INTERVAL_S", 0.2)
    waited: list[dict[str, str]] = []
    monkeypatch.setattr(
        ProgressDisplay, "update", lambda self, trials, waiting, now: waited.append(dict(waiting))
    )
    release = tmp_path / "release"

    def hold(config: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while config["holds"] and not release.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return here()

    config = run_config()
    space = {"holds": tune.grid_search([True, False])}
    trainable = tune.with_resources(hold, {"cpu": CPUS})
    outcome: list[tune.ResultGrid] = []
    run = threading.Thread(target=lambda: outcome.append(tuned(trainable, config, space)))
    run.start()

    def leaders() -> dict[str, str]:
        table = recorded(config.name).artifacts().get("leaderboard") if waited else None
        return {row["trial"]: row["status"] for row in json.loads(str(table.data))} if table else {}

    def leaders_while_one_waits() -> dict[str, str]:
        seen = leaders()
        statuses = sorted(seen.values())
        return seen if len(seen) == 2 and "free" in statuses[0] and statuses[1] == "RUNNING" else {}

    try:
        shown = wait_for(leaders_while_one_waits, what="a running and a waiting trial", timeout_s=40)
        last_wait = wait_for(
            lambda: next(
                (each for each in reversed(waited) if any("free" in why for why in each.values())), None
            ),
            what="the reason in the terminal's view",
        )
    finally:
        release.touch()
        run.join(60)

    (waiting_id,) = last_wait
    assert last_wait == {waiting_id: "waits for CPU 8; free are CPU 0"}
    assert shown[waiting_id] == "PENDING (waits for CPU 8; free are CPU 0)"
    assert outcome[0].num_errors == 0
    assert set(leaders().values()) == {"TERMINATED"}
