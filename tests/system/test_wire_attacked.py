"""A machine under attack, as a process of its own: no unauthorised write, no loss, no growth of memory."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
import numpy as np
import pytest
import zmq

from memrl_backends.zmq import ZmqBackend, open_backend, vectors, wire
from memrl_backends.zmq.client import connector
from memrl_backends.zmq.keys import load_client, make_folder
from memrl_backends.zmq.link import Link
from memrl_backends.zmq.wire import Role
from memrl_ctrl.errors import ConnectionFailed, RefusalReason, Refused
from memrl_ctrl.frames import MAGIC, MAJOR, pack, unpack

GROWTH_MIB = 60.0
"""What a machine may grow by under attack; buffers of its connections are bounded by this."""

MACHINE = """
import sys
from pathlib import Path
from memrl_backends.zmq import MachineServer
from memrl_ctrl.testing import FakeBackend

class Machine(FakeBackend):
    def submit(self, phi_hw_rad, cycle, deadline_s):
        receipt = super().submit(phi_hw_rad, cycle, deadline_s)
        print("took", phi_hw_rad[0], flush=True)
        return receipt

server = MachineServer(
    Machine(points=30, n_slices=64), endpoint=f"tcp://127.0.0.1:0", period_s=0.2,
    keys=Path(sys.argv[1]), on_ready=lambda: print("ready", server.endpoint, flush=True),
)
server.run()
"""


class Attacked:
    """A machine, and what it took."""

    def __init__(self, keys: Path) -> None:
        self.keys = keys
        self._popen = subprocess.Popen(
            [sys.executable, "-c", MACHINE, str(keys)], stdout=subprocess.PIPE, text=True
        )
        assert self._popen.stdout is not None
        self.endpoint = self._popen.stdout.readline().split()[1]
        self.port = int(self.endpoint.rpartition(":")[2])
        self.taken: list[float] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.owner = open_backend(endpoint=self.endpoint, keys=keys, timeout_s=10.0, name="owner")
        self.readings = self.owner.link.welcome.readings_port
        for _ in range(5):
            self.works()
        self.written = 0.0
        self.before_mib = self.memory_mib()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.taken.append(float(line.split()[1]))

    def memory_mib(self) -> float:
        status = Path(f"/proc/{self._popen.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def works(self) -> None:
        """It still plays cycles, and its rightful controller can write."""
        owner = self.owner
        assert isinstance(owner, ZmqBackend)
        if not owner._has_lease():
            owner.start()
        before = owner.observe(20.0)
        for _ in range(20):
            wanted = before.applied_rad + (0.001 if before.applied_rad[0] < 1.0 else -0.5)
            try:
                after = owner.play(wanted)
            except Refused as refused:
                if refused.reason is not RefusalReason.LATE:
                    raise
                before = owner.observe(20.0)
                continue
            np.testing.assert_array_equal(after.applied_rad, wanted)
            return
        raise AssertionError("its controller is too late twenty times in a row")

    def unharmed(self, *, growth_mib: float = GROWTH_MIB) -> None:
        """It was not written to by anybody else, works, and has not grown."""
        assert self._popen.poll() is None
        count = len(self.taken)
        self.works()
        assert len(self.taken) >= count
        assert 0.777 not in self.taken
        grown = self.memory_mib() - self.before_mib
        assert grown < growth_mib, f"grew by {grown:.0f} MiB"

    def end(self) -> None:
        with contextlib.suppress(ConnectionFailed):
            self.owner.close()
        self._popen.kill()
        self._popen.wait()
        self._reader.join()
        assert self._popen.stdout is not None
        self._popen.stdout.close()


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Attacked]:
    make_folder(tmp_path / "keys")
    machine = Attacked(tmp_path / "keys")
    yield machine
    machine.end()


@contextmanager
def bare(
    attacked: Attacked,
    kind: int,
    role: Role = Role.OBSERVER,
    keys: Path | None = None,
    **options: Any,
) -> Iterator[zmq.Socket[bytes]]:
    own = load_client(keys or attacked.keys, role)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = context.socket(kind)
    made.curve_serverkey, made.curve_publickey = own.server, own.public
    made.curve_secretkey = own.secret
    made.rcvtimeo = made.sndtimeo = 20_000
    for name, value in options.items():
        setattr(made, name, value)
    port = attacked.readings if kind == zmq.SUB else attacked.port
    made.connect(f"tcp://127.0.0.1:{port}")
    try:
        yield made
    finally:
        context.destroy(linger=0)


def hello(socket_: zmq.Socket[bytes], **more: Any) -> wire.Welcome:
    socket_.send(pack(wire.Hello(sequence=1, oldest=1, newest=1, client="eve", **more)))
    message = unpack(socket_.recv(), wire.replies)[0]
    assert isinstance(message, wire.Welcome)
    return message


EVIL = {"phi_hw_rad": np.full(30, 0.777)}


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
    """Hundreds of connections that never finish the handshake neither keep others out nor stay."""
    open_: list[socket.socket] = []
    try:
        for port in (attacked.port, attacked.readings):
            open_ += [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(150)]
        late = open_backend(
            endpoint=attacked.endpoint, keys=attacked.keys, read_only=True, timeout_s=10.0
        )
        late.observe(20.0)
        late.close()
        time.sleep(3.0)  # the handshake may take 2 s
        for probe in open_:
            probe.settimeout(10.0)
            with contextlib.suppress(ConnectionResetError):
                while probe.recv(1000):
                    pass
    finally:
        for probe in open_:
            probe.close()
    attacked.unharmed()


def test_oversize_frames_end_the_connection(attacked: Attacked) -> None:
    """More than 1 MiB is not even read; a frame that claims more than it has is refused."""
    for _ in range(5):
        with bare(attacked, zmq.DEALER) as eve:
            hello(eve)
            eve.send(bytes((1 << 20) + 1))
            eve.rcvtimeo = 300
            with pytest.raises(zmq.Again):
                eve.recv()
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

    link._dealer.rcvtimeo = other._dealer.rcvtimeo = link._slice_ms = other._slice_ms = 20_000
    first = submit(0.1, 0)
    assert isinstance(first, wire.ReceiptMessage), first
    link._dealer.send(sent[0])  # at once: the same reply, done once
    assert unpack(link._receive(20.0), wire.replies)[0] == first
    stale = submit(0.777, 1)  # a number from before
    assert stale.reason is RefusalReason.STALE
    elsewhere = submit(0.777, 10**6, other)
    assert elsewhere.reason is RefusalReason.STALE
    assert isinstance(submit(0.2, 0), wire.ReceiptMessage)
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
    attacked.owner = open_backend(
        endpoint=attacked.endpoint, keys=attacked.keys, timeout_s=10.0, name="owner"
    )
    attacked.unharmed()


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a frame of one of the vectors with something wrong, mostly behind a right checksum."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            data[place:place] = rng.randbytes(rng.randrange(9))
        elif kind == 2:
            del data[place : place + rng.randrange(9)]
        else:
            data[place : place + 8] = rng.choice([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7])
        if not data:
            data = bytearray(b"\0")
    if rng.random() < 0.9 and len(data) >= 16:
        data[:6] = MAGIC + struct.pack("<H", MAJOR)
        data[12:16] = struct.pack("<I", google_crc32c.value(bytes(data[16:])))
    return bytes(data)


@pytest.mark.parametrize(
    "count", [3000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize("role", [Role.OBSERVER, Role.CONTROLLER])
def test_a_fuzzed_machine_stays_up(attacked: Attacked, role: Role, count: int) -> None:
    """Damaged messages with a right checksum, with a live session in them: every one is answered, none
    plays, and memory stays."""
    rng = random.Random(1)
    with bare(attacked, zmq.DEALER, role, sndhwm=10_000, rcvhwm=10_000) as eve:
        session = hello(eve).session
        seeds = []
        for name, (data, shown) in vectors.all_vectors().items():
            if shown["from"] == "client" and "refused" not in shown and name not in {
                "take-over", "lease-request", "lease-request-after"
            }:  # fmt: skip
                message, arrays = wire.decode_request(data)
                if isinstance(message, wire.Request):
                    message = msgspec.structs.replace(message, session=session)
                seeds.append(pack(message, dict.fromkeys(arrays, EVIL["phi_hw_rad"])))
        answered = 0
        for _ in range(count // 5):
            for _ in range(5):  # fewer than 8 replies outstanding: none may be lost
                eve.send(mutated(rng, seeds))
            for _ in range(5):
                eve.recv()
                answered += 1
        assert answered == count // 5 * 5
    attacked.unharmed()
