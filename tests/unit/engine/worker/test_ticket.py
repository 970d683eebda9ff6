"""What an attempt is sent: its references beside its bytes, and let go of afterwards."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.object_refs import ObjectRef
from tests.support.sessions import an_attempt
from tune_core.engine.channel.spool import SpoolPlace
from tune_core.engine.channel.wire import ChannelAddress
from tune_core.engine.worker.ticket import Ticket
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.serialization import pickle_trainable

ADDRESS = ChannelAddress("tcp://127.0.0.1:1", b"server", b"public", b"secret", SpoolPlace("/tmp", "key"))


def a_ticket(tmp_path: Path, config: dict[str, Any], trainable: Any) -> Ticket:
    attempt_number = an_attempt(ExperimentStorage.open(tmp_path, "experiment"), config=config)
    return Ticket(ADDRESS, attempt_number, pickle_trainable(trainable))


def test_references_of_configuration_and_trainable_arrive_and_are_let_go_of(tmp_path: Path) -> None:
    chosen, captured = ObjectRef(), ObjectRef()
    sent = a_ticket(tmp_path, {"data": [chosen]}, lambda config: captured)
    restore, (data, references) = sent.__reduce__()  # as Ray does, which sends the references by itself
    ticket: Ticket = restore(data, [*references])

    address, trial_id, number, body, pickled = ticket.open()
    spec = ticket.load_spec(body)

    assert (address, trial_id, number) == (ADDRESS, "a1b2c_00000", 1)
    assert spec.config["data"][0] is chosen
    assert pickled.load()({}) is captured
    held = weakref.ref(chosen)
    sent.release()
    ticket.release()
    del chosen, spec, references
    gc.collect()
    assert held() is None


def test_what_the_users_objects_raise_is_raised_when_the_attempt_is_loaded(tmp_path: Path) -> None:
    ticket = a_ticket(tmp_path, {"broken": Broken()}, print)

    *_, body, _ = ticket.open()

    with pytest.raises(ValueError, match="made up"):
        ticket.load_spec(body)


class Broken:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ()


def fail() -> NoReturn:
    raise ValueError("made up")
