"""A machine under attack, as a process of its own: no unauthorised write, no loss, no growth of memory."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from memrl_backends.zmq import ZmqBackend, open_backend, wire
from memrl_backends.zmq.client import connector
from memrl_backends.zmq.doors import MOST_SILENT
from memrl_backends.zmq.keys import load_client, make_folder
from memrl_backends.zmq.link import Link
from memrl_backends.zmq.wire import Role
from memrl_ctrl.errors import ConnectionFailed, RefusalReason
from memrl_ctrl.frames import MAX_BYTES, pack, unpack

from .attacked import EVIL, Attacked, bare, hello, under_attack
from .authority import until


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Attacked]:
    with under_attack(tmp_path / "keys") as machine:
        yield machine


def test_a_port_scan_changes_nothing(attacked: Attacked) -> None:
    """Connections that say nothing, something else, or half a greeting, are dropped."""
    greeting = b"\xff" + bytes(8) + b"\x7f"
    words = [
        b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", greeting, greeting + b"\x03",
        greeting + b"\x03\x01NULL" + bytes(48), os.urandom(300), b"\0" * 5000,
    ]  # fmt: skip
    for port in (attacked.port, attacked.readings):
        for word in words * 10:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
                probe.sendall(word)
    attacked.unharmed()


def test_half_open_connections_are_let_go(attacked: Attacked) -> None:
    """Connections that never finish the handshake, thousands in a row: so many are there at a time, neither
    who is served nor who comes is kept out, and in the end every descriptor is free again."""
    before = most = attacked.descriptors()
    open_: deque[socket.socket] = deque()
    ending = threading.Event()
    made = 0

    def flood() -> None:
        nonlocal made, most
        while not ending.is_set():
            for port in (attacked.port, attacked.readings):
                with contextlib.suppress(OSError):
                    open_.append(socket.create_connection(("127.0.0.1", port), timeout=5))
                    made += 1
            while len(open_) > 2000:
                open_.popleft().close()
            if made % 100 == 0:
                most = max(most, attacked.descriptors())
            time.sleep(5e-4)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        while made < 3000:
            attacked.works()
        late = open_backend(
            endpoint=attacked.endpoint, keys=attacked.keys, read_only=True, timeout_s=10.0
        )
        late.observe(20.0)
        late.close()
    finally:
        ending.set()
        flooding.join()
    # Some come in between two looks of the machine.
    assert before + 100 < most < before + 3 * MOST_SILENT, (before, most)
    try:
        until(lambda: attacked.descriptors() <= before + 2, "descriptors do not come back")
    finally:
        for probe in open_:
            probe.close()
    attacked.unharmed()


def test_oversize_frames_are_refused_unread(attacked: Attacked) -> None:
    """More than 1 MiB is refused by name, far more is not even read and ends the connection; nothing of it is
    kept, and the next client is served."""
    with bare(attacked, zmq.DEALER) as eve:
        session = hello(eve).session
        for size in (MAX_BYTES + 1, MAX_BYTES + 60_000):
            eve.send(bytes(size))
            reply = unpack(eve.recv(), wire.replies)[0]
            assert isinstance(reply, wire.Refusal)
            assert (reply.sequence, reply.reason) == (0, RefusalReason.INVALID)
            assert f"frame of {size} bytes; at most {MAX_BYTES} are accepted" in reply.detail
        # Of that size exactly it is read: refused for what it says.
        eve.send(bytes(MAX_BYTES))
        assert "magic" in unpack(eve.recv(), wire.replies)[0].detail
        eve.send(pack(wire.StatusRequest(session=session, sequence=2)))
        assert isinstance(unpack(eve.recv(), wire.replies)[0], wire.Status)
    before_mib = attacked.memory_mib("VmHWM")
    for _ in range(5):
        with bare(attacked, zmq.DEALER, reconnect_ivl=60_000) as eve:
            monitor = eve.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            hello(eve)
            eve.send(bytes(64 << 20))
            assert monitor.poll(20_000), "the connection was not ended"
            eve.rcvtimeo = 200
            with pytest.raises(zmq.Again):
                eve.recv()
            eve.disable_monitor()
    # Of five times 64 MiB: at no instant was one of them in its memory.
    assert attacked.memory_mib("VmHWM") - before_mib < 8.0
    attacked.unharmed(growth_mib=16.0)


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.XSUB])
def test_messages_of_parts_without_end_are_cut_off(attacked: Attacked, kind: int) -> None:
    """libzmq keeps the parts of a message until its last: who sends 400 MiB of them is hung up on after a
    few, on either port, and nothing of them stays."""
    before_mib = attacked.memory_mib("VmHWM")
    part = bytes(1 << 20) if kind == zmq.DEALER else bytes(400)
    with bare(attacked, kind, sndhwm=0, reconnect_ivl=60_000) as eve:
        monitor = eve.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        eve.send_multipart([part] * (400 if kind == zmq.DEALER else 400_000))
        assert monitor.poll(20_000), "the connection was not ended"
        eve.disable_monitor()
        attacked.works()
    assert attacked.memory_mib("VmHWM") - before_mib < 200.0
    attacked.unharmed()


def test_replies_that_nobody_reads_do_not_pile_up(attacked: Attacked) -> None:
    """Snapshots asked for without end and never read cost a bounded amount."""
    with bare(attacked, zmq.DEALER, rcvhwm=1, sndhwm=10_000) as eve:
        session = hello(eve).session
        for sequence in range(2, 20_000):
            eve.send(pack(wire.SnapshotRequest(session=session, sequence=sequence)))
        time.sleep(1.0)
        attacked.unharmed()


def test_eight_requests_at_a_time_are_all_answered(attacked: Attacked) -> None:
    """Of a client that takes its replies off no reply is dropped, however fast it asks."""
    with bare(attacked, zmq.DEALER) as eve:
        session = hello(eve).session
        for first in range(2, 8000, 8):
            for sequence in range(first, first + 8):
                eve.send(pack(wire.StatusRequest(session=session, sequence=sequence)))
            replies = [unpack(eve.recv(), wire.replies)[0] for _ in range(8)]
            assert [reply.sequence for reply in replies] == list(range(first, first + 8))
    attacked.unharmed()


def test_subscriptions_without_end_are_cut_off(attacked: Attacked) -> None:
    """300,000 subscriptions of an authorised observer cost some MiB, and that observer its place; other
    subscribers go on."""
    owner = attacked.owner
    with bare(attacked, zmq.SUB, sndhwm=0) as eve:
        for index in range(300_000):
            eve.subscribe(f"{index:x}-".encode() + b"x" * 40)
        time.sleep(3.0)
        attacked.unharmed()
        while eve.poll(0):
            eve.recv_multipart()
        assert not eve.poll(1500)  # nothing is published to it any more
    assert owner.observe(20.0).cycle > 0


def test_subscribers_that_do_not_read_slow_nobody(attacked: Attacked) -> None:
    """Cycles go on at their pace beside subscribers that take nothing off, and nothing piles up for them."""
    with contextlib.ExitStack() as stalled:
        for _ in range(10):
            lazy = stalled.enter_context(bare(attacked, zmq.SUB, rcvhwm=1))
            lazy.subscribe(b"")
        first = attacked.owner.observe(20.0).cycle
        time.sleep(4.0)
        played = attacked.owner.snapshot().cycle - first
        assert played >= 10  # of twenty, on a busy computer
        attacked.unharmed()


def test_a_flood_of_wrong_keys_keeps_nobody_out(attacked: Attacked, tmp_path: Path) -> None:
    """Hundreds of connections with keys that nobody authorized; the rightful ones work meanwhile."""
    make_folder(tmp_path / "wrong")
    (tmp_path / "wrong" / "server.pub").write_bytes((attacked.keys / "server.pub").read_bytes())
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    own = load_client(tmp_path / "wrong", Role.OPERATOR)
    sockets = []
    try:
        for index in range(200):
            wrong = context.socket(zmq.DEALER if index % 2 else zmq.SUB)
            sockets.append(wrong)
            wrong.curve_serverkey = own.server
            wrong.curve_publickey, wrong.curve_secretkey = zmq.curve_keypair()
            port = attacked.port if index % 2 else attacked.readings
            wrong.connect(f"tcp://127.0.0.1:{port}")
            if index % 2:
                with contextlib.suppress(zmq.Again):  # refused already
                    wrong.send(pack(wire.Hello(sequence=1, oldest=1, newest=1, client="x")), 1)
        began = time.monotonic()
        with pytest.raises(ConnectionFailed, match="does not accept this client's key"):
            open_backend(endpoint=attacked.endpoint, keys=tmp_path / "wrong", timeout_s=20.0)
        assert time.monotonic() - began < 20.0
        attacked.works()
    finally:
        context.destroy(linger=0)
    attacked.unharmed()


def test_no_identity_or_claim_makes_a_role(attacked: Attacked) -> None:
    """The holder's routing identity, its session, its fencing number and a role in hello: of no use."""
    owner = attacked.owner
    assert isinstance(owner, ZmqBackend)
    owner.start()
    link = owner.link
    for identity in (b"owner", b"controller", b"\x01" * 5):
        with bare(attacked, zmq.DEALER, routing_id=identity) as eve:
            assert hello(eve, role=Role.OPERATOR).role is Role.OBSERVER
            for session in (link.session, hello(eve, role=Role.CONTROLLER).session):
                for message, arrays in (
                    (wire.Submit(session=session, sequence=link._sequence + 1, fence=owner._fence,
                                 cycle=owner._cycle + 1, deadline_ns=2**62), EVIL),
                    (wire.LeaseRequest(session=session, sequence=link._sequence + 2), None),
                    (wire.TakeOver(session=session, sequence=link._sequence + 3), None),
                    (wire.Arm(session=session, sequence=link._sequence + 4), None),
                ):  # fmt: skip
                    eve.send(pack(message, arrays))
                    reply = unpack(eve.recv(), wire.replies)[0]
                    assert isinstance(reply, wire.Refusal)
                    assert reply.reason in {RefusalReason.STALE, RefusalReason.READ_ONLY}
    attacked.unharmed()


def linked(attacked: Attacked, role: Role) -> Link:
    connect = connector(
        attacked.endpoint,
        role,
        keys=attacked.keys,
        timeout_s=10.0,
        insecure_loopback=False,
        name="m",
    )
    return connect(None)


def test_commits_that_are_replayed_or_reordered_play_nothing(attacked: Attacked) -> None:
    """The same bytes again, on the same and on another connection, and a later one before an earlier."""
    attacked.owner.close()
    link = linked(attacked, Role.CONTROLLER)
    other = linked(attacked, Role.CONTROLLER)
    grant = link.request(wire.LeaseRequest(session=link.session, sequence=link.next_sequence()))[0]
    assert isinstance(grant, wire.LeaseGrant)
    sent: list[bytes] = []

    def submit(value: float, sequence: int, to: Link = link) -> Any:
        cycle = link.request(
            wire.StatusRequest(session=link.session, sequence=link.next_sequence())
        )[0].next_cycle  # type: ignore[union-attr]
        message = wire.Submit(session=link.session, sequence=sequence or link.next_sequence(),
                              fence=grant.fence, cycle=cycle, deadline_ns=2**62)  # fmt: skip
        sent.append(pack(message, {"phi_hw_rad": np.full(30, value)}))
        to._dealer.send(sent[-1])
        return unpack(to._receive(20.0), wire.replies)[0]

    def in_time(value: float) -> Any:
        for _ in range(20):  # a busy computer is late now and then
            reply = submit(value, 0)
            if isinstance(reply, wire.ReceiptMessage):
                return reply
            assert reply.reason is RefusalReason.LATE, reply
            sent.pop()
        raise AssertionError("too late twenty times in a row")

    link._dealer.rcvtimeo = other._dealer.rcvtimeo = link._slice_ms = other._slice_ms = 20_000
    first = in_time(0.1)
    link._dealer.send(sent[0])  # at once: the same reply, done once
    assert unpack(link._receive(20.0), wire.replies)[0] == first
    stale = submit(0.777, 1)  # a number from before
    assert stale.reason is RefusalReason.STALE
    elsewhere = submit(0.777, 10**6, other)
    assert elsewhere.reason is RefusalReason.STALE
    in_time(0.2)
    for again in (sent[0], sent[1]):
        link._dealer.send(again)
        reply = unpack(link._receive(20.0), wire.replies)[0]
        assert isinstance(reply, wire.Refusal)
        assert reply.reason is RefusalReason.STALE
    time.sleep(0.5)
    assert attacked.taken[-2:] == [0.1, 0.2]
    link.request(
        wire.Release(session=link.session, sequence=link.next_sequence(), fence=grant.fence)
    )
    link.close()
    other.close()
    attacked.owner = attacked.own_client()
    attacked.unharmed()
