"""What a trial has changed in its process is put back for the next one."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tune_core.training import hygiene
from tune_core.training.hygiene import Surroundings, note_unseeded_numpy, seeds_noted, warn_of_threads


@pytest.fixture(autouse=True)
def tidied() -> Iterator[None]:
    """Whatever a test fails to put back does not outlive it."""
    before = Surroundings.now()
    yield
    before.put_back()


def use_handler(signum: int, frame: object) -> None:
    """Handle a signal."""


def change_handlers() -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("hygiene.new").addHandler(logging.NullHandler())
    logging.getLogger("hygiene.new").setLevel(logging.ERROR)
    logging.getLogger("hygiene.new").propagate = False


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "new variable": (lambda: os.environ.__setitem__("MADE_UP", "1"), lambda: dict(os.environ)),
    "removed variable": (lambda: os.environ.pop("PATH"), lambda: dict(os.environ)),
    "changed variable": (lambda: os.environ.__setitem__("PATH", "x"), lambda: dict(os.environ)),
    "directory": (lambda: os.chdir("/"), Path.cwd),
    "path": (lambda: sys.path.insert(0, "/nowhere"), lambda: sys.path[:]),
    "handlers": (
        change_handlers,
        lambda: [
            (each.handlers[:], each.level, each.propagate)
            for each in (logging.getLogger(), logging.getLogger("hygiene.new"))
        ],
    ),
    "filters": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "removed filters": (warnings.resetwarnings, lambda: list(warnings.filters)),
    "signal": (
        lambda: signal.signal(signal.SIGUSR1, use_handler),
        lambda: signal.getsignal(signal.SIGUSR1),
    ),
    # As the trainable's module has seeded it.
    "random": (lambda: random.seed(7), random.getstate),
    "numpy": (lambda: np.random.seed(7), lambda: np.random.get_state()[1].tolist()),  # type: ignore[index,union-attr]
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_is_put_back(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, look = CHANGES[what]
    monkeypatch.setattr(hygiene, "_has_seeded_random", True)
    before, as_it_was = Surroundings.now(), look()

    change()
    assert look() != as_it_was
    before.put_back()

    assert look() == as_it_was


def test_handlers_that_were_removed_are_there_again_and_those_that_were_added_are_closed(
    tmp_path: Path,
) -> None:
    mine, logger = logging.NullHandler(), logging.getLogger("hygiene.mine")
    logger.addHandler(mine)
    before = Surroundings.now()
    added = logging.FileHandler(tmp_path / "log")

    logger.removeHandler(mine)
    logger.addHandler(added)
    before.put_back()

    assert logger.handlers == [mine]
    assert added.stream is None
    logger.removeHandler(mine)


def test_numpy_that_was_imported_since_does_not_go_on_with_a_trials_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as without_numpy:
        without_numpy.delitem(sys.modules, "numpy.random")
        before = Surroundings.now()

    np.random.seed(7)
    expected = np.random.RandomState(7).randint(1_000_000_000, size=4).tolist()
    before.put_back()

    assert np.random.randint(1_000_000_000, size=4).tolist() != expected


def begin_unseeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has seeded anything, as in a new process; pytest-randomly has, before each test."""
    monkeypatch.setattr(hygiene, "_numpy_unseeded", [])
    monkeypatch.setattr(hygiene, "_has_seeded_random", False)
    random.seed()
    np.random.seed()
    note_unseeded_numpy()


def drawn_by_three_trials() -> list[tuple[float, float]]:
    before, drawn = Surroundings.now(), []
    for _ in range(3):
        drawn.append((random.random(), float(np.random.random())))
        before.put_back()
    return drawn


def test_random_numbers_that_nobody_has_seeded_differ_from_trial_to_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin_unseeded(monkeypatch)
    with seeds_noted():
        [random.random() for _ in range(1000)]  # packages draw as they are imported, which is no seed
        np.random.random()

    first, second = zip(*drawn_by_three_trials(), strict=True)

    assert (len(set(first)), len(set(second))) == (3, 3)


def test_random_numbers_that_a_module_has_seeded_are_the_same_for_each_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin_unseeded(monkeypatch)
    with seeds_noted():
        random.seed(3)
        np.random.seed(3)

    assert len(set(drawn_by_three_trials())) == 1


def test_process_whose_directory_is_gone_stays_usable(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()

    before = Surroundings.now()
    os.chdir("/")
    before.put_back()

    assert Path.cwd() == Path("/")


def test_thread_that_was_left_behind_is_named_and_neither_those_before_nor_our_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = threading.Event()

    def start(name: str) -> None:
        threading.Thread(target=go_on.wait, name=name, daemon=True).start()

    start("before")
    before = frozenset(threading.enumerate())
    for name in ("prefetch", "tune-upload"):
        start(name)

    warn_of_threads(before)
    warn_of_threads(frozenset(threading.enumerate()))
    go_on.set()

    (record,) = caplog.records
    assert "in its process, beside the trials that follow: prefetch. End them" in record.getMessage()
