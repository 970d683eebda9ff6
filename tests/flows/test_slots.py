"""Slots: what fits the cluster, who gets which, how long they live, and which process a trial has."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect_ray.task_runners import RayTaskRunner
from ray.util import placement_group_table

import tune_core as tune
from tests.flows.conftest import CPUS
from tests.support.waiting import wait_for
from tune_core.engine.experiment import experiment
from tune_core.engine.slots.pool import Slot, SlotAnswered, SlotPool
from tune_core.engine.slots.recorders import Recorders
from tune_core.resources import PlacementGroupFactory

#: Minutes for what the other files see in passing: not in CI.
pytestmark = pytest.mark.slow

GIB = 2.0**30


def live_groups() -> list[str]:
    """The groups that exist, as they are in Ray's table."""
    return [key for key, group in placement_group_table().items() if group["state"] != "REMOVED"]


def nothing_lives() -> bool:
    return not live_groups()


@pytest.fixture
def no_slots(cluster: None) -> None:
    """Nothing is left of earlier tests."""
    wait_for(nothing_lives, what="the groups of earlier tests to be gone")


class Loop:
    """Stands in for the flow's loop: passes on what Ray answers, and collects who got what."""

    def __init__(self, pool: SlotPool) -> None:
        self.pool = pool
        self.granted: dict[str, Slot] = {}
        self.failed: dict[str, Exception] = {}
        self._answers: queue.SimpleQueue[SlotAnswered] = queue.SimpleQueue()
        pool.attach(self._answers.put)

    def run_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while True:
            self.granted.update(self.pool.take_granted())
            if condition():
                return
            assert time.monotonic() < deadline, (self.granted, self.pool.waiting())
            try:
                self.failed.update(self.pool.answered(self._answers.get(timeout=0.5)))
            except queue.Empty:
                continue


@pytest.fixture
def loop(no_slots: None) -> Iterator[Loop]:
    """A pool without processes: its groups are ready as soon as they are placed."""
    pool = SlotPool(None)
    yield Loop(pool)
    pool.clear()


def cpus(number: float) -> PlacementGroupFactory:
    return PlacementGroupFactory([{"CPU": number}])


def test_idle_groups_of_another_shape_make_way_for_who_waits(loop: Loop) -> None:
    for key in ("a", "b"):
        loop.pool.request(key, cpus(1))
    loop.run_until(lambda: len(loop.granted) == 2)
    for slot in loop.granted.values():
        loop.pool.release(slot)
    assert len(live_groups()) == 2

    loop.pool.request("wide", cpus(CPUS))
    loop.run_until(lambda: "wide" in loop.granted)

    assert live_groups() == [loop.granted["wide"].group.id.hex()]


@pytest.mark.parametrize("keeper", ["first", "second"])
def test_idle_slot_that_keeps_an_object_goes_first(loop: Loop, keeper: str) -> None:
    for key in ("first", "second"):
        loop.pool.request(key, cpus(1))
    loop.run_until(lambda: len(loop.granted) == 2)
    for key in ("first", "second"):
        loop.pool.release(loop.granted[key], keeps_object=key == keeper)

    loop.pool.request("next", cpus(1))
    loop.run_until(lambda: "next" in loop.granted)

    assert loop.granted["next"] is loop.granted[keeper]


def test_group_that_nobody_asks_for_any_more_makes_way_before_it_is_placed(loop: Loop) -> None:
    loop.pool.start_ahead(cpus(3), 4)
    loop.pool.request("narrow", cpus(3))
    loop.run_until(lambda: "narrow" in loop.granted)

    loop.pool.request("rest", cpus(CPUS - 3))
    loop.run_until(lambda: "rest" in loop.granted)

    assert sorted(live_groups()) == sorted(slot.group.id.hex() for slot in loop.granted.values())


def test_withdrawn_request_takes_its_group_with_it(loop: Loop) -> None:
    loop.pool.request("all", cpus(CPUS))
    loop.run_until(lambda: "all" in loop.granted)
    loop.pool.request("more", cpus(2))

    assert loop.pool.cancel("more")

    assert not loop.pool.cancel("more")
    wait_for(lambda: len(live_groups()) == 1, what="the pending group to be gone")


def test_no_more_groups_are_pending_than_could_be_of_use(loop: Loop) -> None:
    for number in range(20):
        loop.pool.request(f"r{number}", cpus(3))
    loop.run_until(lambda: len(loop.granted) == 2)

    # Two fit. One more may wait in Ray's queue, so that it starts the moment there is room.
    assert 2 <= len(live_groups()) <= 3
    assert len(loop.pool.waiting()) == 18


def test_no_more_slots_are_held_than_trials_may_run_at_once(no_slots: None) -> None:
    loop = Loop(SlotPool(None, max_slots=1))
    loop.pool.start_ahead(cpus(1), 3)
    loop.pool.request("first", cpus(1))
    loop.run_until(lambda: "first" in loop.granted)
    loop.granted["first"].is_ending = True

    loop.pool.request("second", cpus(1))
    loop.pool.request("of another shape", cpus(2))
    held = live_groups()
    loop.pool.release(loop.granted["first"])
    loop.run_until(lambda: "second" in loop.granted)
    loop.pool.release(loop.granted["second"])
    loop.run_until(lambda: "of another shape" in loop.granted)

    assert len(held) == len(live_groups()) == 1
    loop.pool.clear()


def test_no_more_slots_start_at_once_than_are_allowed_and_all_come(no_slots: None) -> None:
    loop = Loop(SlotPool(None, max_starting=2))
    for number in range(5):
        loop.pool.request(number, cpus(1))
    most = len(live_groups())

    def all_granted() -> bool:
        nonlocal most
        most = max(most, len(live_groups()) - len(loop.granted))
        return len(loop.granted) == 5

    loop.run_until(all_granted)

    assert most == 2
    loop.pool.clear()


def test_request_waits_for_a_slot_that_is_about_to_be_given_back(loop: Loop) -> None:
    loop.pool.request("all", cpus(CPUS))
    loop.run_until(lambda: "all" in loop.granted)
    slot = loop.granted["all"]
    slot.is_ending = True

    loop.pool.request("next", cpus(CPUS))
    assert live_groups() == [slot.group.id.hex()]
    loop.pool.release(slot)
    loop.run_until(lambda: "next" in loop.granted)

    assert loop.granted["next"] is slot
    assert not slot.is_ending


def test_requests_of_one_shape_are_served_in_order(loop: Loop) -> None:
    names = [f"r{number}" for number in range(6)]
    for name in names:
        loop.pool.request(name, cpus(4))
    for served in itertools.count(1):
        loop.run_until(lambda served=served: len(loop.granted) >= min(served + 1, 6))
        if served == 6:
            break
        loop.pool.release(loop.granted[names[served - 1]])

    assert list(loop.granted) == names
    assert len({slot.group.id for slot in loop.granted.values()}) <= 3


def test_slots_are_given_up_after_the_idle_limit_and_only_they(loop: Loop) -> None:
    for key in ("a", "b"):
        loop.pool.request(key, cpus(1))
    loop.run_until(lambda: len(loop.granted) == 2)
    loop.pool.release(loop.granted["a"])

    loop.pool.give_up_idle(30.0)
    kept = len(loop.pool.idle())
    loop.pool.give_up_idle(0.0)

    assert kept == 1
    assert loop.pool.idle() == []
    wait_for(lambda: live_groups() == [loop.granted["b"].group.id.hex()], what="one group to be left")


def test_request_fails_with_rays_reason_when_its_process_cannot_start(no_slots: None) -> None:
    recorders = Recorders()
    loop = Loop(SlotPool(recorders, runtime_env={"working_dir": "gcs://_ray_pkg_of_nobody.zip"}))

    loop.pool.request("a", cpus(1))
    loop.run_until(lambda: "a" in loop.failed)
    recorders.close()

    assert "_ray_pkg_of_nobody" in str(loop.failed["a"])
    wait_for(nothing_lives, what="its group to be gone")


# What becomes of them in experiments.


def once(config: dict[str, Any]) -> dict[str, Any]:
    """Report the process, and end as the config says."""
    ending = config.get("ending")
    tune.report({"pid": os.getpid()})
    if ending == "exception":
        raise ValueError("made up")
    if ending == "crash":
        os._exit(1)
    while ending in ("stop", "interrupt", "callback"):
        time.sleep(0.05)
        tune.report({"pid": os.getpid()})
    return {"pid": os.getpid()}


class After(tune.Callback):
    """Do something when the trial has reported."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self._action()


def fit(
    run_config: tune.RunConfig, space: dict[str, Any] | None = None, trainable: Any = once, **options: Any
) -> tune.ResultGrid:
    config = tune.TuneConfig(**options)
    return tune.Tuner(trainable, param_space=space, tune_config=config, run_config=run_config).fit()


def raise_made_up() -> None:
    raise RuntimeError("made up")


@pytest.mark.parametrize(
    ("ending", "changes", "counts"),
    [
        ("success", {}, (0, 1)),
        ("exception", {}, (1, 0)),
        ("crash", {}, (1, 0)),
        ("stop", {"stop": {"training_iteration": 3}}, (0, 1)),
        ("interrupt", {"callbacks": [After(lambda: signal.raise_signal(signal.SIGINT))]}, (0, 0)),
        ("callback", {"callbacks": [After(raise_made_up)]}, None),
        ("unplaced", {}, (1, 0)),
    ],
)
def test_groups_are_released_however_an_experiment_ends(
    no_slots: None,
    run_config: Callable[..., tune.RunConfig],
    ending: str,
    changes: dict[str, Any],
    counts: tuple[int, int] | None,
) -> None:
    trainable = tune.with_resources(once, lambda config: {"cpu": 99 if ending == "unplaced" else 1})

    if counts is None:
        with pytest.raises(RuntimeError, match="made up"):
            fit(run_config(**changes), {"ending": ending}, trainable)
    else:
        results = fit(run_config(**changes), {"ending": ending}, trainable)
        assert (results.num_errors, results.num_terminated) == counts

    wait_for(nothing_lives, what="all groups to be released", timeout_s=20)


def test_idle_slots_make_way_within_an_experiment_for_a_trial_of_another_shape(
    no_slots: None, run_config: Callable[..., tune.RunConfig]
) -> None:
    trainable = tune.with_resources(once, lambda config: {"cpu": config["cpu"]})

    results = fit(run_config(), {"cpu": tune.grid_search([1, 1, CPUS])}, trainable)

    assert results.num_errors == 0
    assert [result.metrics["training_iteration"] for result in results] == [2, 2, 2]


def test_slots_that_a_running_experiment_needs_no_more_are_given_up(
    no_slots: None,
    run_config: Callable[..., tune.RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tune_core.engine.driver.placement.SLOT_IDLE_S", 0.5)
    go_on = tmp_path / "go-on"

    def waits(config: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while config["waits"] and not go_on.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
            tune.report({"x": 1})
        return {"x": 2}

    def look() -> None:
        if len(live_groups()) == 1:
            go_on.touch()

    config = run_config(callbacks=[After(look)])

    results = fit(config, {"waits": tune.grid_search([False, True])}, waits)

    assert results.num_errors == 0


def test_two_experiments_at_once_share_the_cluster(
    no_slots: None, run_config: Callable[..., tune.RunConfig]
) -> None:
    configs = [run_config(), run_config()]
    outcomes: dict[str, tune.ResultGrid] = {}

    def run(config: tune.RunConfig) -> None:
        outcomes[str(config.name)] = fit(config, num_samples=3)

    threads = [threading.Thread(target=run, args=(config,)) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)

    assert sorted(outcomes) == sorted(str(config.name) for config in configs)
    assert [len(results) for results in outcomes.values()] == [3, 3]
    assert [results.num_errors for results in outcomes.values()] == [0, 0]


@pytest.mark.parametrize(
    ("runner", "resources", "fresh_process", "is_fresh"),
    [
        ("ours", {"cpu": 1}, None, False),
        ("ours", {"cpu": 1}, True, True),
        ("ours", {"gpu": 1}, None, True),
        ("ours", {"gpu": 1}, False, False),
        pytest.param("stock", {"cpu": 1}, True, True, marks=pytest.mark.slow),
        # Not asked for one, it may get one all the same: Ray chooses.
        pytest.param("stock", {"gpu": 1}, None, True, marks=pytest.mark.slow),
    ],
)
def test_trials_have_fresh_processes_on_gpus_or_if_asked_for(
    no_slots: None,
    run_config: Callable[..., tune.RunConfig],
    runner: str,
    resources: dict[str, float],
    fresh_process: bool | None,
    is_fresh: bool,
) -> None:
    flow = experiment if runner == "ours" else experiment.with_options(task_runner=RayTaskRunner())
    options = tune.TuneConfig(num_samples=2, max_concurrent_trials=1, fresh_process=fresh_process)

    results = flow(tune.with_resources(once, resources), {}, options, run_config())

    assert results.num_errors == 0
    pids = {result.metrics["pid"] for result in results}
    assert len(pids) == (2 if is_fresh else 1)


def test_no_more_trials_run_at_once_than_allowed_and_the_seed_alone_says_which(
    run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    space = {"x": tune.uniform(0, 1), "y": tune.choice([1, 2, 3]), "z": tune.grid_search([1, 2])}

    def run(at_once: int | None, meeting: int) -> tune.ResultGrid:
        place = tmp_path / f"meeting-of-{meeting}"
        place.mkdir()

        def meets(config: dict[str, Any]) -> dict[str, Any]:
            """Take part in a meeting, so that this many trials are running at the same time."""
            start, deadline = time.time(), time.monotonic() + 60
            (place / str(tune.get_context().get_trial_id())).touch()
            while len(list(place.iterdir())) < meeting:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            return {"start": start, "end": time.time()}

        search = tune.search.BasicVariantGenerator(random_state=7)
        options = {"num_samples": 3, "max_concurrent_trials": at_once, "search_alg": search}
        return fit(run_config(), space, meets, **options)

    two, many = run(2, meeting=2), run(None, meeting=4)

    assert two.num_errors == many.num_errors == 0
    assert most_at_once(two) == 2
    assert most_at_once(many) >= 4
    assert [result.config for result in two] == [result.config for result in many]
    assert len({result.config["x"] for result in two}) == 6


def most_at_once(results: tune.ResultGrid) -> int:
    moments = [(result.metrics["start"], 1) for result in results]
    moments += [(result.metrics["end"], -1) for result in results]
    return max(itertools.accumulate(step for _, step in sorted(moments)))
