"""Which recorder a slot gets."""

from __future__ import annotations

import pytest

from tune_core.engine.slots import recorders
from tune_core.engine.slots.recorders import SLOTS_PER_RECORDER, Recorders


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[recorders._Serving]:
    """Every recorder that was started, without a process."""
    seen: list[recorders._Serving] = []

    def start(self: Recorders) -> recorders._Serving:
        seen.append(recorders._Serving(f"recorder {len(seen)}"))
        return seen[-1]

    monkeypatch.setattr(Recorders, "_start", start)
    return seen


def test_slots_share_a_recorder_until_it_has_enough_of_them(started: list[recorders._Serving]) -> None:
    source = Recorders()

    taken = [source.take() for _ in range(SLOTS_PER_RECORDER + 2)]
    source.give_back(taken[0])
    source.give_back(taken[0])

    assert taken == ["recorder 0"] * SLOTS_PER_RECORDER + ["recorder 1"] * 2
    assert [each.slots for each in started] == [SLOTS_PER_RECORDER - 2, 2]
    assert source.take() == "recorder 1"


def test_next_slot_gets_another_recorder_when_one_has_died(started: list[recorders._Serving]) -> None:
    source = Recorders()
    first = source.take()
    started[0].is_dead = True

    second = source.take()
    source.give_back(first)  # nobody knows it any more

    assert (first, second) == ("recorder 0", "recorder 1")
    assert started[1].slots == 1
