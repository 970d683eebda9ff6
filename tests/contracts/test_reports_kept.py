"""What `report` has returned for arrives, whatever becomes of the code that called it. Needs loopback, no server."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.interrupting import call_interrupted
from tests.support.sessions import an_attempt
from tune_core.engine.channel.channel import Channel
from tune_core.engine.channel.spool import left_behind, rows_of
from tune_core.engine.channel.trial_end import ChannelUplink
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session import Session

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def channel() -> Iterator[Channel]:
    opened = Channel()
    yield opened
    opened.close()


def test_interrupted_reports_tear_no_row_and_hold_up_none_after_them(
    channel: Channel, tmp_path: Path
) -> None:
    """A timeout decorator raises inside of `report`, and the training loop catches that and goes on."""
    uplink = ChannelUplink(channel.address, "trial", 1)
    session = Session(an_attempt(ExperimentStorage.open(tmp_path, "experiment")), uplink)
    returned: list[int] = []

    def reporting() -> None:
        returned.extend(call_interrupted(lambda step: session.report({"step": step}), 3000))
        session.report({"step": -1})

    thread = threading.Thread(target=reporting)
    thread.start()
    heard: dict[int, int] = {}
    deadline = time.monotonic() + 60
    while -1 not in heard.values() and time.monotonic() < deadline:
        for message in channel.receive(0.1):
            if message.kind == "row":
                heard.setdefault(message.content[0], message.content[3]["step"])
    thread.join()
    uplink.close()

    assert 0 < len(returned) < 3000  # some were interrupted, some were not
    assert list(heard) == [*range(1, len(heard) + 1)]
    assert len({*heard.values()}) == len(heard)
    assert {*returned, -1} <= {*heard.values()}


DYING = """
import os, pickle, signal, sys
from pathlib import Path
from tune_core.engine.channel.trial_end import ChannelUplink
from tests.support.sessions import an_attempt
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.session import Session

uplink = ChannelUplink(pickle.load(sys.stdin.buffer), "trial", 1)
session = Session(an_attempt(ExperimentStorage.open(Path(sys.argv[1]), "experiment")), uplink)
for step in range(50):
    session.report({"step": step})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_that_report_has_returned_for_survive_the_kill_of_their_process(
    channel: Channel, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DYING, str(tmp_path)]
    died = subprocess.run(command, input=pickle.dumps(channel.address), timeout=60, cwd=ROOT)

    heard = {message.content[0] for message in channel.drain()}
    place = channel.address.spool
    left = rows_of(left_behind(place, "trial", 1))

    assert died.returncode == -signal.SIGKILL
    assert len(heard) < 50  # else nothing is shown here
    assert heard | {*left} == {*range(1, 51)}
    assert [row["step"] for _, row in sorted(left.items())][-1] == 49
