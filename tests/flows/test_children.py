"""What a trial launches: it lands in the trial's bundles, or is refused at once where it never could."""

from __future__ import annotations

import time
import types
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray import actor, remote_function

import tune_core as tune
from tune_core.engine import ray_private
from tune_core.engine.worker import children
from tune_core.errors import NoRoomForChild, PlacementError

#: Longer than any launch may take to be refused, shorter than for ever.
AT_ONCE_S = 5.0

LAUNCHES: dict[str, dict[str, Any]] = {
    "fits a later bundle": {"num_cpus": 0, "num_gpus": 1},
    "part of a later bundle": {"num_cpus": 0, "num_gpus": 0.5},
    "only the first bundle": {"num_cpus": 2},
    "only the first bundle, with a custom resource": {"num_cpus": 0, "resources": {"special": 1}},
    "no bundle": {"num_cpus": 3},
    "sum of bundles": {"num_cpus": 0, "num_gpus": 2},
    "nothing": {"num_cpus": 0},
    "outside": {"num_cpus": 2, "scheduling_strategy": "DEFAULT"},
}
FITTING = {"fits a later bundle", "part of a later bundle", "nothing", "outside"}
#: What fits no bundle at all, Ray refuses in its own words.
REFUSED_BY_RAY = {"no bundle", "sum of bundles"}


def group_of_child() -> str | None:
    # Its own import, since it is sent by value.
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    return group.id.hex() if group else None


def launches(config: dict[str, Any]) -> dict[str, Any]:
    """Launch a task and an actor in each way; report what came of it, and how long it took."""
    find = types.FunctionType(group_of_child.__code__, {"__builtins__": __builtins__}, "find")

    class Child:
        def where(self) -> str | None:
            return find()

    def outcome(launch: Callable[[], Any]) -> list[Any]:
        start = time.monotonic()
        try:
            reference = launch()
            seconds = time.monotonic() - start
            return [ray.get(reference, timeout=60), seconds]
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            return [f"{type(error).__name__}: {error}", time.monotonic() - start]

    found: dict[str, Any] = {"own": group_of_child()}
    for name, options in LAUNCHES.items():
        kept: list[Any] = []

        def start_actor(options: dict[str, Any] = options, kept: list[Any] = kept) -> Any:
            kept.append(ray.remote(**options)(Child).remote())
            return kept[0].where.remote()

        def start_task(options: dict[str, Any] = options) -> Any:
            return ray.remote(**options)(find).remote()

        found[f"task, {name}"] = outcome(start_task)
        found[f"actor, {name}"] = outcome(start_actor)
        for handle in kept:
            ray.kill(handle)
    return found


SHAPE = [{"CPU": 2, "special": 1}, {"GPU": 1}, {"GPU": 1}]


@pytest.fixture(scope="module")
def outcome(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one trial found."""
    shaped = tune.with_resources(launches, tune.PlacementGroupFactory(SHAPE))
    run_config = tune.RunConfig(storage_path=str(tmp_path_factory.mktemp("launches")), verbose=0)
    results = tune.Tuner(shaped, run_config=run_config).fit()
    assert results.num_errors == 0, results.errors
    return results[0].metrics


@pytest.mark.parametrize("kind", ["task", "actor"])
@pytest.mark.parametrize("name", LAUNCHES)
def test_child_lands_in_the_bundles_or_is_refused_at_once(
    outcome: dict[str, Any], kind: str, name: str
) -> None:
    found, seconds = outcome[f"{kind}, {name}"]

    assert seconds < AT_ONCE_S
    if name == "outside":
        assert found is None
    elif name in FITTING:
        assert found == outcome["own"] is not None
    elif name in REFUSED_BY_RAY:
        assert found.startswith("ValueError: Cannot schedule")
    else:
        assert found.startswith(
            f"NoRoomForChild: No trial resources are available for launching the {kind} `"
        )
        assert "the trial itself has all of its first bundle {'CPU': 2.0, 'special': 1.0}" in found
        assert "tune.PlacementGroupFactory([{'CPU': 2.0, 'special': 1.0}] + [{" in found


def single(config: dict[str, Any]) -> dict[str, Any]:
    """Launch one task that needs a CPU."""
    ray.get(ray.remote(num_cpus=1)(lambda: None).remote(), timeout=60)
    return {"launched": True}


def test_trial_that_lets_the_refusal_pass_fails_with_it(run_config: Callable[..., tune.RunConfig]) -> None:
    results = tune.Tuner(single, run_config=run_config()).fit()

    assert "No trial resources are available for launching the task" in str(results[0].error)


def test_trial_without_resources_of_its_own_leaves_every_bundle_to_its_children(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    shaped = tune.with_resources(single, tune.PlacementGroupFactory([{}, {"CPU": 1}]))

    results = tune.Tuner(shaped, run_config=run_config()).fit()

    assert results.num_errors == 0
    assert results[0].metrics["launched"] is True


# What is installed, and when not.


def hooks() -> tuple[Any, Any]:
    return remote_function._task_launch_hook, actor._actor_launch_hook


ONE_CPU = tune.PlacementGroupFactory([{"CPU": 1}])


def test_hooks_are_there_for_the_time_of_a_trial_only() -> None:
    before = hooks()

    def fail() -> None:
        with children.refused_misfits(ONE_CPU):
            during.extend(hooks())
            raise KeyError

    during: list[Any] = []
    with pytest.raises(KeyError):
        fail()

    assert all(callable(hook) for hook in during)
    assert hooks() == before


def test_hooks_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_DISABLE_RESOURCE_CHECKS", "1")
    before = hooks()

    with children.refused_misfits(ONE_CPU):
        assert hooks() == before


@pytest.mark.parametrize("release", ["2.49.1", "2.61.0", "3.0.0.dev0"])
def test_hooks_of_an_unknown_release_are_let_alone(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(ray, "__version__", release)
    before = hooks()

    with children.refused_misfits(ONE_CPU):
        assert hooks() == before


def test_hooks_that_are_gone_are_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(actor, "_actor_launch_hook")

    with children.refused_misfits(ONE_CPU):
        assert not hasattr(actor, "_actor_launch_hook")


def test_this_release_has_the_hooks() -> None:
    assert ray_private.has_launch_hooks()


def test_refusal_is_a_runtime_error_as_in_ray_tune() -> None:
    assert issubclass(NoRoomForChild, RuntimeError)
    assert issubclass(NoRoomForChild, PlacementError)
