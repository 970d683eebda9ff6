"""Who gets into the report channel, and where it listens."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

import tune_core as tune
from tests.support.channels import Callback, received, row
from tune_core.encoding import dumps
from tune_core.engine.channel.channel import Channel
from tune_core.engine.channel.trial_end import ChannelUplink
from tune_core.engine.channel.wire import ChannelAddress

# Who gets in.


def stranger(address: ChannelAddress, kind: str, identity: bytes) -> zmq.Socket[bytes]:
    """A socket that poses as a trial, without the experiment's keys."""
    intruder = zmq.Context.instance().socket(zmq.DEALER)
    intruder.setsockopt(zmq.IDENTITY, identity)
    intruder.setsockopt(zmq.LINGER, 0)
    if kind != "no keys":
        intruder.curve_publickey, intruder.curve_secretkey = zmq.curve_keypair()
        other, _ = zmq.curve_keypair()
        intruder.curve_serverkey = other if kind == "wrong server key" else address.server_key
    intruder.connect(address.url)
    return intruder


@pytest.mark.parametrize("kind", ["no keys", "wrong server key", "keys of its own"])
def test_stranger_can_neither_send_nor_read(channel: Channel, kind: str) -> None:
    intruder = stranger(channel.address, kind, b"trial:1")
    for content in (
        ["hello", 1, "host", "::1"],
        ["row", 1, None, False, {}],
        ["end", "completed", None, "", True],
    ):
        intruder.send(dumps(content))

    heard = received(channel, 1, timeout_s=1.0)
    is_sent = channel.send("trial", 1, "stop", "interrupt")
    can_read = bool(intruder.poll(500))
    intruder.close()

    assert heard == []
    assert not is_sent
    assert not can_read


def test_stranger_does_not_keep_the_trial_out_that_it_poses_as(channel: Channel) -> None:
    intruder = stranger(channel.address, "keys of its own", b"trial:1")
    intruder.send(dumps(["row", 1, None, False, {}]))
    received(channel, 1, timeout_s=0.5)
    uplink = ChannelUplink(channel.address, "trial", 1)

    uplink.send(row(1, loss=0.5))
    (heard,) = received(channel, 1)
    channel.send("trial", 1, "stop", "interrupt")
    uplink.wait_for_journal(1)
    uplink.close()
    intruder.close()

    assert heard.content == [1, None, False, {"training_iteration": 1, "done": False, "loss": 0.5}]
    assert uplink.stop_cause == "interrupt"


def test_bytes_that_are_no_zeromq_do_no_harm(channel: Channel) -> None:
    host, _, port = channel.address.url.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 100)
        uplink = ChannelUplink(channel.address, "trial", 1)
        uplink.send(row(1))
        heard = received(channel, 1)
        uplink.close()

    assert [message.kind for message in heard] == ["row"]


def test_keys_are_not_shown_with_the_address(channel: Channel) -> None:
    address = channel.address

    shown = f"{address} {address!r}"

    for key in (address.server_key, address.public_key, address.secret_key):
        assert key.decode() not in shown


def listeners(port: int) -> list[str]:
    """The addresses that this port is listened on, from the kernel's tables."""
    found = []
    for table, length in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, _, listening = line.split()[1].partition(":")
            if line.split()[3] == "0A" and int(listening, 16) == port:
                words = [address[at : at + 8] for at in range(0, length, 8)]
                packed = b"".join(struct.pack("=I", int(word, 16)) for word in words)
                found.append(socket.inet_ntop(socket.AF_INET if length == 8 else socket.AF_INET6, packed))
    return found


def test_experiment_on_one_machine_listens_on_loopback_only(
    run_config: Callable[..., tune.RunConfig], experiments_channel: list[Channel]
) -> None:
    seen: list[list[str]] = []

    def look(_: Any) -> None:
        port = int(experiments_channel[0].address.url.rpartition(":")[2])
        seen.append(listeners(port))

    tune.Tuner(lambda config: {"x": 1}, run_config=run_config(callbacks=[Callback(look)])).fit()

    assert seen == [["127.0.0.1"]]
