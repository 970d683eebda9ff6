"""What is used of Ray's private parts, and what is done under a release that nobody has looked at."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import actor, remote_function
from ray._private import ray_logging
from ray._private import state as ray_state

from tune_core.engine import ray_private


@pytest.fixture
def unknown_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", "99.0.1")


@pytest.mark.parametrize(
    ("version", "is_known"),
    [("2.49.2", False), ("2.50.0", True), ("2.60.1", True), ("2.61.0", False), ("3.0.0.dev0", False)],
)
def test_releases_that_were_looked_at_are_known(
    monkeypatch: pytest.MonkeyPatch, version: str, is_known: bool
) -> None:
    monkeypatch.setattr(ray, "__version__", version)

    assert ray_private.is_known() is is_known


def test_this_release_is_known() -> None:
    assert ray_private.is_known()
    assert ray_private.has_launch_hooks()


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    monkeypatch.setattr(ray_logging.stdout_deduplicator, "skip_re", None)
    return lambda: ray_logging.stdout_deduplicator.skip_re


def test_lines_are_skipped(skipped: Callable[[], Any]) -> None:
    ray_private.skip_output("A worker died")

    assert skipped().match("A worker died or was killed")


def test_what_ray_skips_already_stays(skipped: Callable[[], Any]) -> None:
    ray_private.skip_output("first")
    ray_private.skip_output("second")

    assert skipped().pattern == "first"


@pytest.mark.usefixtures("unknown_release")
def test_of_an_unknown_release_all_lines_are_shown(skipped: Callable[[], Any]) -> None:
    ray_private.skip_output("A worker died")

    assert skipped() is None


@pytest.fixture
def one_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_state, "state", SimpleNamespace(get_draining_nodes=lambda: {"n1": 0}))


@pytest.mark.usefixtures("one_drains")
def test_nodes_that_ray_drains_are_known() -> None:
    assert ray_private.draining_nodes() == {"n1"}


@pytest.mark.usefixtures("one_drains", "unknown_release")
def test_of_an_unknown_release_no_node_is_known_to_drain() -> None:
    assert ray_private.draining_nodes() == frozenset()


def test_ray_calls_the_check_before_it_launches_and_what_was_there_afterwards() -> None:
    before = remote_function._task_launch_hook, actor._actor_launch_hook

    def check(*_: Any) -> None:
        raise AssertionError("nothing is launched here")

    with ray_private.launches_checked_by(check):
        assert (remote_function._task_launch_hook, actor._actor_launch_hook) == (check, check)

    assert (remote_function._task_launch_hook, actor._actor_launch_hook) == before


@pytest.mark.usefixtures("unknown_release")
def test_of_an_unknown_release_no_launch_is_checked() -> None:
    before = remote_function._task_launch_hook, actor._actor_launch_hook

    with ray_private.launches_checked_by(print):
        assert (remote_function._task_launch_hook, actor._actor_launch_hook) == before
