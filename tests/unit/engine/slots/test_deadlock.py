"""Trials whose own Tuners wait for each other are found, and one at a time gives up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

import tune_core as tune
from tune_core.engine.driver import placement
from tune_core.engine.driver.placement import STUCK_TIMEOUT_S, Placement
from tune_core.engine.driver.services import DriverFailed
from tune_core.engine.slots import deadlock
from tune_core.engine.slots.deadlock import tuners_wait_in, why_stuck

CPU = tune.PlacementGroupFactory([{"CPU": 1}])


class Cluster:
    """Nodes and groups, as Ray tells of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
        self.current: str | None = None
        self.table: dict[str, dict[str, Any]] = {}
        self.nodes = [
            {"NodeID": f"n{number}", "Alive": True, "Resources": node} for number, node in enumerate(nodes)
        ]
        monkeypatch.setattr(deadlock, "placement_group_table", lambda: self.table)
        monkeypatch.setattr(deadlock, "get_current_placement_group", lambda: group(self.current))
        monkeypatch.setattr(deadlock.ray, "nodes", lambda: self.nodes)

    def add(
        self, key: str, inside: str = "", node: str = "n0", state: str = "CREATED", **bundle: float
    ) -> None:
        self.table[key] = {
            "name": f"mine-{key}" + (f"-in-{inside}" if inside else ""),
            "state": state,
            "strategy": "PACK",
            "bundles": {0: bundle or {"CPU": 1.0}},
            "bundles_to_node_id": {0: node if state == "CREATED" else ""},
        }

    def wait(self, key: str, inside: str, **bundle: float) -> None:
        self.add(key, inside, state="PENDING", **bundle)

    def told(self) -> list[str]:
        """Who is told to give up."""
        found = []
        for key in self.table:
            self.current = key
            if why_stuck(CPU) is not None:
                found.append(key)
        return found


def group(key: str | None) -> Any:
    return None if key is None else SimpleNamespace(id=SimpleNamespace(hex=lambda: key))


def test_of_tuners_that_wait_for_each_other_one_is_told_what_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch, {"CPU": 2.0})
    for name in ("a", "b"):
        cluster.add(name)
        cluster.wait(f"{name}1", name)

    assert cluster.told() == ["b"]
    cluster.current = "b"
    assert str(why_stuck(CPU)).startswith(
        "a trial waits for CPU 1, but 2 trials hold what it needs while their own Tuners wait for each other"
    )
    cluster.table["b"]["state"] = cluster.table["b1"]["state"] = "REMOVED"
    assert cluster.told() == []


def test_outside_of_trials_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, {"CPU": 1.0})
    cluster.add("a")
    cluster.wait("b", "")

    assert why_stuck(CPU) is None
    assert cluster.told() == []


@pytest.mark.parametrize("other", ["its trial runs", "it does not tune", "its group is a user's own"])
def test_who_waits_for_a_trial_that_goes_on_is_left_waiting(
    monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    cluster = Cluster(monkeypatch, {"CPU": 3.0})
    cluster.add("a")
    cluster.wait("a1", "a")
    cluster.add("b")
    if other == "its trial runs":
        cluster.add("b1", "b")
    cluster.add("c")
    if other == "its group is a user's own":
        cluster.table["c"]["name"] = ""
    else:
        cluster.wait("c1", "c")

    assert cluster.told() == []


def test_what_one_waits_for_may_come_free_once_another_has_got_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch, {"CPU": 3.0, "GPU": 1.0})
    cluster.add("a", CPU=1)
    cluster.wait("a1", "a", GPU=1)  # b holds it, and waits for what c holds, which goes on
    cluster.add("b", CPU=1, GPU=1)
    cluster.wait("b1", "b", CPU=1)
    cluster.add("c", CPU=1)

    assert cluster.told() == []
    cluster.wait("c1", "c", GPU=1)
    assert cluster.told() == ["c"]


def test_what_is_free_in_sum_may_not_be_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, {"CPU": 2.0}, {"CPU": 2.0})
    for name, node in (("a", "n0"), ("b", "n1")):
        cluster.add(name, node=node)
        cluster.wait(f"{name}1", name, CPU=2)

    assert cluster.told() == ["b"]
    cluster.nodes.append({"NodeID": "n2", "Alive": True, "Resources": {"CPU": 2.0}})
    assert cluster.told() == []
    cluster.nodes[-1]["Alive"] = False
    assert cluster.told() == ["b"]


def test_tuners_of_tuners_are_stuck_with_what_all_around_them_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, {"CPU": 4.0})
    for name in ("a", "b"):
        cluster.add(name)
        cluster.add(f"{name}1", name)
        cluster.wait(f"{name}2", f"{name}1")

    assert cluster.told() == ["b1"]


def test_an_experiment_sees_whether_tuners_in_its_trials_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, {"CPU": 4.0})
    cluster.add("a")
    cluster.add("a1", "a")
    cluster.add("b")
    cluster.wait("b1", "b")

    assert not tuners_wait_in([group("a")])
    assert tuners_wait_in([group("a"), group("b")])
    cluster.wait("a2", "a1")
    assert tuners_wait_in([group("a")])
    assert not tuners_wait_in([])


# What an experiment does about it.


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """What a `Placement` works with: a cluster of one CPU, and one trial that waits for it."""
    monkeypatch.setattr(placement, "nodes", lambda: [{"CPU": 1.0}])
    monkeypatch.setattr(placement, "leaving_nodes", frozenset)
    parts = MagicMock()
    parts.clock.return_value = 0.0
    parts.experiment.run_config.placement_timeout_s = None
    parts.controller.is_paused = False
    parts.controller.trials = {"t": MagicMock(trial_id="t", resources=CPU, num_losses_in_row=0)}
    parts.pool.take_granted.return_value = []
    parts.pool.waiting.return_value = {("t", 1): CPU}
    parts.pool.give_up_waiting.return_value = parts.pool.idle.return_value = []
    return parts


def given_up(parts: MagicMock) -> list[str]:
    posted = [call.args[0] for call in parts.channel.post.call_args_list]
    return [str(item.error) for item in posted if isinstance(item, DriverFailed)]


@pytest.mark.parametrize("timeout_s", [None, 500.0])
def test_experiment_that_is_stuck_fails_once_it_has_been_for_so_long(
    parts: MagicMock, monkeypatch: pytest.MonkeyPatch, timeout_s: float | None
) -> None:
    parts.experiment.run_config.placement_timeout_s = timeout_s
    limit_s = STUCK_TIMEOUT_S if timeout_s is None else timeout_s
    waits = Placement(parts, MagicMock(), MagicMock())
    waits.order(MagicMock(trial_id="t", attempt_number=1))

    def look(at: float, reason: str | None) -> None:
        parts.clock.return_value = at
        monkeypatch.setattr(placement, "why_stuck", lambda resources: reason)
        waits.look()

    look(0.0, "stuck")
    look(limit_s - 1, None)
    look(limit_s, "stuck")
    look(2 * limit_s - 1, "stuck")
    assert given_up(parts) == []
    look(2 * limit_s, "stuck")
    assert given_up(parts) == ["stuck"]


def test_idle_slots_make_room_for_tuners_in_the_trials_at_once(
    parts: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(placement, "tuners_wait_in", lambda groups: asked.append(list(groups)) or True)
    monkeypatch.setattr(placement, "why_stuck", lambda resources: None)
    slot = MagicMock()
    parts.pool.take_granted.return_value = [(("t", 1), slot)]
    runs = Placement(parts, MagicMock(), MagicMock())
    runs.order(MagicMock(trial_id="t", attempt_number=1))
    parts.pool.waiting.return_value = {}

    parts.pool.idle.return_value = []
    runs.look()
    parts.pool.idle.return_value = [MagicMock()]
    runs.look()
    runs.forget("t")
    runs.look()

    assert [call.args[0] for call in parts.pool.give_up_idle.call_args_list] == [60.0, 0.0, 0.0]
    assert asked == [[slot.group], []]
