"""The report channel: what is noticed, and that every row arrives in order."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.channels import Callback, received, row
from tests.support.sessions import an_attempt
from tune_core.engine.channel import trial_end, wire
from tune_core.engine.channel.channel import Channel
from tune_core.engine.channel.trial_end import ChannelUplink
from tune_core.engine.channel.wire import ChannelAddress
from tune_core.errors import ChannelLost
from tune_core.states import Outcome
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.execution import Ending
from tune_core.training.session import Session
from tune_core.training.uplink import Report

# What is noticed.


@pytest.mark.parametrize("waits_for", ["decision", "journal"])
def test_trial_that_waits_notices_that_its_driver_is_gone(
    monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    monkeypatch.setattr(trial_end, "LOST_AFTER_S", 0.5)
    channel = Channel()
    uplink = ChannelUplink(channel.address, "trial", 1)
    uplink.send(row(1))
    assert len(received(channel, 1)) == 1
    wait = uplink.wait_for_decision if waits_for == "decision" else uplink.wait_for_journal

    channel.close()
    with pytest.raises(
        ChannelLost, match=r"tcp://127.0.0.1:\d+ has been unreachable .* checkpoints are safe"
    ):
        wait(1)

    uplink.close()


def test_trial_that_never_reached_its_driver_notices(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_end, "LOST_AFTER_S", 0.5)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = replace(channel.address, url=f"tcp://127.0.0.1:{closed.getsockname()[1]}")
        uplink = ChannelUplink(address, "trial", 1)

        with pytest.raises(ChannelLost, match="has been unreachable"):
            uplink.wait_for_decision(1)

        uplink.close()


def test_trial_that_waits_notices_a_driver_that_fell_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(wire, "HEARTBEAT_TIMEOUT_MS", 500)
    monkeypatch.setattr(trial_end, "LOST_AFTER_S", 0.5)
    channel = Channel()
    with Relay(channel.address) as relay:
        uplink = ChannelUplink(relay.address, "trial", 1)
        uplink.send(row(1))
        assert len(received(channel, 1)) == 1

        relay.is_silent = True
        with pytest.raises(ChannelLost, match="has been unreachable"):
            uplink.wait_for_decision(1)

        uplink.close()
    channel.close()


def test_trial_says_again_over_a_new_connection_what_may_have_been_lost_with_the_old(
    channel: Channel,
) -> None:
    with Relay(channel.address) as relay:
        uplink = ChannelUplink(relay.address, "trial", 1)
        uplink.hello(7, "host", "127.0.0.1")
        for iteration in (1, 2):
            uplink.send(row(iteration))
        assert len(received(channel, 3)) == 3
        channel.send("trial", 1, "journaled", 1)
        uplink.wait_for_journal(1)

        relay.is_silent = True
        uplink.send(row(3))  # goes down with the connection
        relay.cut()
        relay.is_silent = False
        answered = threading.Thread(target=uplink.wait_for_decision, args=(3,))
        answered.start()
        heard = received(channel, 4, timeout_s=3.0)  # row 3 twice, if it was not sent into the old one
        channel.send("trial", 1, "decision", 3, "CONTINUE", False)
        answered.join(20)
        uplink.close()

    assert not answered.is_alive()
    said = [(message.kind, message.content[0]) for message in heard]
    assert said[-3:] == [("hello", 7), ("row", 2), ("row", 3)]
    assert said[:-3] in ([], [("row", 3)])


def test_row_whose_answer_was_lost_is_said_again_even_if_it_is_journaled_by_then(channel: Channel) -> None:
    with Relay(channel.address) as relay:
        uplink = ChannelUplink(relay.address, "trial", 1)
        uplink.hello(7, "host", "127.0.0.1")
        uplink.send(Report(1, {"training_iteration": 1, "done": False}, wants_decision=True))
        assert len(received(channel, 2)) == 2

        relay.cut()  # and with it the answer
        news = uplink._socket
        deadline = time.monotonic() + 20
        while not news.poll(10):
            assert time.monotonic() < deadline
            channel.send("trial", 1, "journaled", 1)
        answered = threading.Thread(target=uplink.wait_for_decision, args=(1,))
        answered.start()
        heard = received(channel, 2)
        channel.send("trial", 1, "decision", 1, "CONTINUE", False)
        answered.join(20)
        uplink.close()

    assert not answered.is_alive()
    assert [(message.kind, message.content[0]) for message in heard] == [("hello", 7), ("row", 1)]


def test_rows_that_follow_fast_arrive_in_order_though_nothing_comes_after_them(channel: Channel) -> None:
    uplink = ChannelUplink(channel.address, "trial", 1)

    for iteration in range(1, 1001):
        uplink.send(row(iteration))
    heard = received(channel, 1000)
    uplink.send(row(1001))
    uplink.send(row(1002))
    last = received(channel, 2)
    uplink.close()

    assert [message.content[0] for message in (*heard, *last)] == [*range(1, 1003)]
    assert {message.kind for message in heard} == {"row"}


def test_process_has_one_thread_for_rows_that_are_sent_late(channel: Channel) -> None:
    uplinks = [ChannelUplink(channel.address, f"trial_{number}", 1) for number in range(3)]

    for iteration in range(1, 11):
        for uplink in uplinks:
            uplink.send(row(iteration))
    heard = received(channel, 30)

    for number in range(3):
        of_one = [message.content[0] for message in heard if message.trial_id == f"trial_{number}"]
        assert of_one == [*range(1, 11)]
    assert [thread.name for thread in threading.enumerate()].count("tune-rows") == 1
    for uplink in uplinks:
        uplink.close()


@pytest.mark.parametrize("ends", ["answer", "checkpoint", "end", "journal", "close"])
def test_rows_that_wait_for_others_go_out_before_anything_that_comes_after_them(
    channel: Channel, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(trial_end, "GATHER_S", 20.0)
    uplink = ChannelUplink(channel.address, "trial", 1)
    uplink.send(row(1))
    uplink.send(row(2))  # after which others wait
    uplink.send(row(3))
    assert len(received(channel, 3, timeout_s=1.0)) == 2

    if ends == "answer":
        uplink.send(Report(4, {"done": False}, wants_decision=True))
    elif ends == "checkpoint":
        uplink.send_checkpoint(3, 0)
    elif ends == "end":
        uplink.end(Ending(Outcome.COMPLETED), timeout_s=0.0)
    elif ends == "close":
        uplink.close()
    else:
        waiting = threading.Thread(target=uplink.wait_for_journal, args=(3,))
        waiting.start()
    heard = received(channel, 1 if ends in ("journal", "close") else 2)
    if ends == "journal":
        channel.send("trial", 1, "journaled", 3)
        waiting.join(20)
        assert not waiting.is_alive()
    if ends != "close":
        uplink.close()

    said = [(message.kind, message.content[0]) for message in heard]
    after = {"answer": ("row", 4), "checkpoint": ("checkpoint", 3), "end": ("end", "completed")}
    assert said == [("row", 3), *([after[ends]] if ends in after else [])]


class Relay:
    """Passes bytes between trials and the flow, until it is cut or falls silent."""

    def __init__(self, address: ChannelAddress) -> None:
        host, _, port = address.url.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.address = replace(address, url=url)
        self.is_silent = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone leaves accept() waiting
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, on both sides at once."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._pairs.clear()

    def _accept(self) -> None:
        while True:
            try:
                trial, _ = self._listener.accept()
                flow = socket.create_connection(self._target)
            except OSError:
                return
            self._pairs.append((trial, flow))
            for source, sink in ((trial, flow), (flow, trial)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.is_silent:
                    sink.sendall(data)
        except OSError:
            return


def test_attempt_that_is_out_of_date_is_told_to_stop_and_changes_nothing(
    run_config: Callable[..., tune.RunConfig], experiments_channel: list[Channel]
) -> None:
    causes: list[str | None] = []
    config = run_config()
    told = Path(str(config.storage_path), "told")

    def pose_as(trial_id: str) -> None:
        for attempt_number in (0, 2):
            uplink = ChannelUplink(experiments_channel[0].address, trial_id, attempt_number)
            uplink.hello(1, "host", "127.0.0.1")
            uplink.send(row(99, x=99))
            uplink.wait_for_decision(99)
            causes.append(uplink.stop_cause)
            uplink.end(Ending(Outcome.ERROR, "made up"))
            uplink.close()
        told.touch()

    threads: list[threading.Thread] = []

    def start(trial: Any) -> None:
        threads.append(threading.Thread(target=pose_as, args=(trial.trial_id,)))
        threads[0].start()

    def reports(config: dict[str, Any]) -> None:
        deadline = time.monotonic() + 60
        while not Path(config["told"]).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
            tune.report({"x": 1})

    config.callbacks = [Callback(start)]

    results = tune.Tuner(reports, param_space={"told": str(told)}, run_config=config).fit()
    threads[0].join(30)

    assert causes == ["stale", "stale"]
    assert results.num_errors == 0
    assert set(results[0].metrics_dataframe["x"]) == {1}


# Order and counts.


def test_rows_behind_uploads_in_the_background_arrive_in_order(channel: Channel, tmp_path: Path) -> None:
    uplink = ChannelUplink(channel.address, "trial", 1)
    storage = ExperimentStorage.open(tmp_path / "storage", "e")
    session = Session(an_attempt(storage, async_upload=True), uplink)
    model = tmp_path / "model"
    model.mkdir()

    # Two threads use the socket, one after the other: the one that reports, and the one that uploads.
    for number in range(300):
        (model / "state").write_text(str(number))
        session.report({}, Checkpoint.from_directory(model) if number % 5 == 0 else None)
    session.finish_upload()
    heard = received(channel, 300)
    uplink.close()

    assert [message.content[0] for message in heard] == list(range(1, 301))
    assert [message.content[1] for message in heard if message.content[1] is not None] == list(range(60))


def test_rows_survive_breaks_of_the_connection_once_each_and_in_order(
    run_config: Callable[..., tune.RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    relays: list[Relay] = []

    class Relayed(Channel):
        """Reached only by way of a relay."""

        def __init__(self, host: str = "127.0.0.1") -> None:
            super().__init__(host)
            relays.append(Relay(self.address).__enter__())
            self.address = relays[0].address

    class Cutter(tune.Callback):
        num_rows = 0

        def on_trial_result(self, *_: Any, **__: Any) -> None:
            self.num_rows += 1
            if self.num_rows in (100, 2_000, 3_000):
                relays[0].cut()

    def writer(config: dict[str, Any]) -> None:
        for number in range(1_500):
            tune.report({"number": number})
            if config["waits"] and number % 100 == 0:
                time.sleep(0.05)

    monkeypatch.setattr("tune_core.engine.composition.Channel", Relayed)
    config = run_config(
        callbacks=[Cutter()],
        stop=lambda trial_id, result: trial_id.endswith("1") and result["training_iteration"] >= 1_400,
    )

    results = tune.Tuner(
        writer, param_space={"waits": tune.grid_search([True, False, True])}, run_config=config
    ).fit()
    relays[0].__exit__()

    assert results.num_errors == 0
    for result, expected in zip(results, (1_500, 1_400, 1_500), strict=True):
        lines = Path(result.path, "result.json").read_text().splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(expected))


def test_every_row_of_four_writers_arrives_once_and_in_order(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    num_rows = 5_000

    def writer(config: dict[str, Any]) -> None:
        for number in range(num_rows):
            tune.report({"number": number, "writer": config["writer"]})

    config = run_config()

    results = tune.Tuner(
        writer, param_space={"writer": tune.grid_search([0, 1, 2, 3])}, run_config=config
    ).fit()

    assert results.num_errors == 0
    for index, result in enumerate(results):
        lines = Path(result.path, "result.json").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [line["number"] for line in rows] == list(range(num_rows))
        assert [line["training_iteration"] for line in rows] == list(range(1, num_rows + 1))
        assert {line["writer"] for line in rows} == {index}
        assert result.metrics["training_iteration"] == num_rows
