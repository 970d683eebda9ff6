"""What an attempt that ended badly died of, and how patiently its checkpoints are looked for."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo

from tune_core.control.endings import WHAT_HAPPENED, Ended, Recovered
from tune_core.control.resources_after import cause_of_death
from tune_core.engine import deaths
from tune_core.engine.deaths import ProcessDied, Recovery, is_lost_at_start, outcome_of
from tune_core.errors import CheckpointCorrupted, StorageError
from tune_core.states import Outcome

ACTOR = b"\x01" * 16


def actor_died(text: str = "", *, preempted: bool = False) -> exceptions.ActorDiedError:
    info = NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED) if preempted else None
    context = ActorDiedErrorContext(actor_id=ACTOR, error_message=text, node_death_info=info)
    return exceptions.ActorDiedError(context)


# As Ray 2.60 says it.
NODE_DIED = "The actor died because its node has died. Node Id: ab\n\tterminated expectedly: received SIGTERM"
GROUP_GONE = (
    "Worker exit detail: Destroying worker since its placement group was removed. Placement group id: ab"
)
KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage"
)


@pytest.mark.parametrize(
    "error",
    [
        actor_died(NODE_DIED),
        actor_died(GROUP_GONE),
        actor_died("gone", preempted=True),
        exceptions.NodeDiedError("its node died"),
        exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."),
        exceptions.ActorUnavailableError("the network", ACTOR),
    ],
    ids=lambda error: f"{type(error).__name__}-{len(str(error))}",
)
def test_process_that_went_with_what_it_ran_on_is_lost(error: Exception) -> None:
    assert outcome_of(error) is Outcome.LOST


@pytest.mark.parametrize(
    "error",
    [actor_died(KILLED), exceptions.WorkerCrashedError(), RuntimeError("placement group was removed")],
)
def test_process_that_died_by_itself_has_crashed_even_where_ray_muses_about_memory(error: Exception) -> None:
    assert outcome_of(error) is Outcome.CRASHED


def test_slot_that_cannot_load_what_it_needs_is_not_lost_and_one_that_is_killed_is() -> None:
    assert is_lost_at_start(actor_died(KILLED))
    assert not is_lost_at_start(exceptions.RuntimeEnvSetupError("no such package"))
    assert not is_lost_at_start(exceptions.RayActorError(actor_init_failed=True))


@pytest.mark.parametrize(
    ("error", "is_for_memory"),
    [
        (exceptions.OutOfMemoryError("Task was killed due to the node running low on memory."), True),
        (actor_died("x" * 600 + " Worker exit type: NODE_OUT_OF_MEMORY"), True),
        (actor_died("Task was killed due to the node running low on memory."), True),
        (actor_died(NODE_DIED), False),
        (actor_died(KILLED), False),
        (RuntimeError("the node was running low on memory"), False),
    ],
)
def test_death_for_lack_of_memory_is_known_by_its_text(error: Exception, is_for_memory: bool) -> None:
    death = ProcessDied.of(error)
    text = f"{WHAT_HAPPENED[death.outcome]}: {death.text}"

    assert (cause_of_death(death.outcome, text) == "oom") is is_for_memory


class Storage:
    """Gives its answers one after the other, the last one for ever."""

    url = "s3://bucket/experiment"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def committed(self, dirname: str, *, skip_damaged: bool = False) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if skip_damaged:
            return ["what is whole"]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def look_into() -> Iterator[Callable[..., Any]]:
    """Has a `Recovery` look into an attempt; returns what it posts, or fails with."""
    started: list[Recovery] = []

    def run(storage: Storage, ended: Ended, lost: frozenset[str] = frozenset()) -> Any:
        posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        recovery = Recovery(
            storage,  # type: ignore[arg-type]
            posted.put,
            posted.put,
            lost_nodes=lambda nodes: lost & set(nodes),
            pause_s=0.001,
        )
        started.append(recovery)
        recovery.begin(ended, "trial")
        return posted.get(timeout=30)

    yield run
    for recovery in started:
        recovery.close()


CRASHED = Ended("t0", 1, Outcome.CRASHED, "it died")


def test_storage_that_is_away_is_asked_until_it_answers(look_into: Callable[..., Any]) -> None:
    storage = Storage(*[StorageError("away")] * 5, OSError("away"), ["marker"])

    assert look_into(storage, CRASHED) == Recovered(CRASHED, ["marker"])


def test_storage_that_stays_away_ends_the_experiment_and_says_for_how_long_it_was_asked(
    look_into: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "RETRY_FOR_S", 0.02)

    failure = look_into(Storage(StorageError("away")), CRASHED)

    assert isinstance(failure, StorageError)
    assert "the checkpoints of trial could not be listed for 0 s: away" in str(failure)


def test_damaged_marker_is_read_again_before_it_is_left_out(
    look_into: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = CheckpointCorrupted("no JSON")

    assert look_into(Storage(damaged, damaged, ["marker"]), CRASHED).markers == ["marker"]

    monkeypatch.setattr(deaths, "REREAD_FOR_S", 0.01)
    assert look_into(Storage(damaged), CRASHED) == Recovered(CRASHED, ["what is whole"])


@pytest.mark.parametrize(
    ("outcome", "nodes", "lost", "expected"),
    [
        # Its child's node went away, and it raised what it then met.
        (Outcome.ERROR, {"a", "b"}, {"b"}, Outcome.LOST),
        (Outcome.ERROR, {"a", "b"}, {"c"}, Outcome.ERROR),
        (Outcome.ERROR, {"a"}, {"a"}, Outcome.ERROR),
        (Outcome.CRASHED, {"a"}, {"a"}, Outcome.LOST),
        (Outcome.CRASHED, {"a"}, set(), Outcome.CRASHED),
        (Outcome.TIMED_OUT, {"a"}, {"a"}, Outcome.TIMED_OUT),
    ],
)
def test_failure_with_a_node_that_is_gone_is_a_loss(
    look_into: Callable[..., Any], outcome: Outcome, nodes: set[str], lost: set[str], expected: Outcome
) -> None:
    ended = Ended("t0", 1, outcome, "ActorDiedError: the child", nodes=frozenset(nodes))

    found = look_into(Storage([]), ended, frozenset(lost)).ended

    assert found.outcome is expected
    is_explained = found.error == "node " + "".join(lost) + " was lost: ActorDiedError: the child"
    assert is_explained == (expected is Outcome.LOST)


def test_failure_that_would_happen_again_is_none_of_the_node(look_into: Callable[..., Any]) -> None:
    ended = Ended("t0", 1, Outcome.ERROR, "E", retryable=False, nodes=frozenset("ab"))

    assert look_into(Storage([]), ended, frozenset("a")).ended is ended
