"""Sessions, the lease and transactions, without sockets and with a clock of the test's own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from memrl_backends.zmq import wire
from memrl_backends.zmq.commands import CommandDesk, Machine
from memrl_backends.zmq.fence import FenceCounter
from memrl_backends.zmq.keys import Peer
from memrl_backends.zmq.lease import Authority
from memrl_backends.zmq.player import Pacer, Player
from memrl_backends.zmq.sessions import MAX_SESSIONS
from memrl_ctrl.backend import FloatArray, Reading, Receipt
from memrl_ctrl.errors import RefusalReason
from memrl_ctrl.frames import pack, unpack
from memrl_ctrl.progress import Cancelled, report
from memrl_ctrl.testing import FakeBackend

SECOND = 10**9
LEASE_S = 2.4
CONTROLLER = Peer("controller", wire.Role.CONTROLLER)
OBSERVER = Peer("observer", wire.Role.OBSERVER)


class Setting:
    """A desk before a fake machine, and clients that talk to it."""

    def __init__(self, *, armed: bool = True, kind: type[FakeBackend] = FakeBackend) -> None:
        self._read, self._write = os.pipe()
        self.backend = kind(points=30, n_slices=32)
        self.player = Player(self.backend, self._write)
        self.lease = Authority(
            duration_s=LEASE_S,
            fences=FenceCounter(None),
            mode=wire.Mode.ARMED if armed else wire.Mode.OFF,
        )
        machine = Machine(
            description=self.backend.description,
            period_s=1.2,
            readings_port=5751,
            server="test",
            instance="one",
        )
        self.desk = CommandDesk(machine, self.player, self.lease)
        self.now_ns = SECOND

    def close(self) -> None:
        self.player.close()
        os.close(self._read)
        os.close(self._write)

    def cycle(self) -> None:
        """Play one cycle."""
        self.player.begin()
        while self.player.finished() is None:
            os.read(self._read, 1)


class Careless(FakeBackend):
    """Takes whatever it is given."""

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        self._pending = np.array(phi_hw_rad)
        return Receipt(cycle=cycle, applied_rad=self._pending, committed_ns=0, fence=0)


class Client:
    """Says hello and sends requests."""

    def __init__(self, setting: Setting, name: str = "one", peer: Peer = CONTROLLER) -> None:
        self.setting, self.peer, self.identity = setting, peer, name.encode()
        self.sequence, self.fence = 0, 0
        hello = wire.Hello(sequence=0, oldest=1, newest=1, client=name)
        reply = setting.desk.answer(self.identity, peer, hello, {}, setting.now_ns)
        self.session = unpack(reply, wire.replies)[0].session

    def ask(
        self, kind: type[Any], function: np.ndarray | None = None, **fields: Any
    ) -> wire.AnyReply:
        self.sequence += 1
        given = {"session": self.session, "sequence": self.sequence, **fields}
        if issubclass(kind, wire.Fenced):
            given.setdefault("fence", self.fence)
        if "deadline_ns" in kind.__struct_fields__:
            given.setdefault("deadline_ns", self.setting.now_ns + SECOND)
        arrays = {} if function is None else {"phi_hw_rad": function}
        message: wire.AnyReply = unpack(
            self.setting.desk.answer(
                self.identity, self.peer, kind(**given), arrays, self.setting.now_ns
            ),
            wire.replies,
        )[0]
        if isinstance(message, wire.LeaseGrant):
            self.fence = message.fence
        return message

    def refusal(self, kind: type[Any], function: np.ndarray | None = None, **fields: Any) -> str:
        """Ask for what must be refused; return the reason."""
        reply = self.ask(kind, function, **fields)
        assert isinstance(reply, wire.Refusal), reply
        return reply.reason.value


class Tracking(FakeBackend):
    """Works on every cycle for seconds, and says how far it is."""

    turns = 2000

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.ended_at: int | None = None

    def observe(self) -> Reading:
        try:
            for turn in range(self.turns):
                report(turn, self.turns)
                self.begun.set()
                time.sleep(1e-3)
        except Cancelled:
            self.ended_at = turn
            raise
        return super().observe()


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.close()


FLAT = np.full(30, 0.3)


def applied(setting: Setting) -> float:
    setting.cycle()
    return float(setting.player.last.applied_rad[0])


def test_a_submission_needs_the_lease(setting: Setting) -> None:
    """Without the lease, and with a fencing number that was never given, nothing is taken."""
    client = Client(setting)
    assert client.refusal(wire.Submit, FLAT, cycle=2) == RefusalReason.FENCED
    client.ask(wire.LeaseRequest)
    assert client.refusal(wire.Submit, FLAT, cycle=2, fence=99) == RefusalReason.FENCED
    assert applied(setting) == 0.0


def test_what_is_submitted_plays(setting: Setting) -> None:
    """With the lease a function is taken for the next cycle, and later ones hold it."""
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    receipt = client.ask(wire.Submit, FLAT, cycle=2)
    assert isinstance(receipt, wire.ReceiptMessage)
    assert receipt.cycle == 2
    assert applied(setting) == 0.3
    assert applied(setting) == 0.3


def test_a_second_controller_is_told_who_is_in_control(setting: Setting) -> None:
    """The lease is one client's; another is refused by name until it is released."""
    first, second = Client(setting, "first"), Client(setting, "second")
    first.ask(wire.LeaseRequest)
    reply = second.ask(wire.LeaseRequest)
    assert isinstance(reply, wire.Refusal)
    assert reply.reason is RefusalReason.FENCED
    assert "first (controller)" in reply.detail
    first.ask(wire.Release)
    assert isinstance(second.ask(wire.LeaseRequest), wire.LeaseGrant)
    assert second.fence > first.fence


def test_an_expired_lease_frees_and_fences_off(setting: Setting) -> None:
    """After its time the lease goes to another, and the first one's late write is refused."""
    first, second = Client(setting, "first"), Client(setting, "second")
    first.ask(wire.LeaseRequest)
    setting.now_ns += int(LEASE_S * SECOND) + 1
    assert isinstance(second.ask(wire.LeaseRequest), wire.LeaseGrant)
    assert first.refusal(wire.Submit, FLAT, cycle=2) == RefusalReason.FENCED
    assert isinstance(second.ask(wire.Submit, FLAT, cycle=2), wire.ReceiptMessage)


def test_use_renews_the_lease(setting: Setting) -> None:
    """Whoever holds on, or writes, keeps the lease."""
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    for cycle in range(2, 6):
        setting.now_ns += int(0.9 * LEASE_S * SECOND)
        assert isinstance(client.ask(wire.Hold, cycle=cycle), wire.Done)
    assert isinstance(client.ask(wire.Submit, FLAT, cycle=2), wire.ReceiptMessage)


def test_another_session_cannot_use_the_fencing_number(setting: Setting) -> None:
    """A fencing number that was overheard is no right to write."""
    first, second = Client(setting, "first"), Client(setting, "second")
    first.ask(wire.LeaseRequest)
    assert second.refusal(wire.Submit, FLAT, cycle=2, fence=first.fence) == RefusalReason.FENCED
    assert second.refusal(wire.Release, fence=first.fence) == RefusalReason.FENCED


def test_a_session_is_bound_to_its_connection(setting: Setting) -> None:
    """Another connection's session number is refused, as is one from before a restart."""
    first, second = Client(setting, "first"), Client(setting, "second")
    first.ask(wire.LeaseRequest)
    second.session = first.session
    assert second.refusal(wire.Submit, FLAT, cycle=2, fence=first.fence) == RefusalReason.STALE
    second.session = 12345
    assert second.refusal(wire.SnapshotRequest) == RefusalReason.STALE


def test_late_is_refused(setting: Setting) -> None:
    """A cycle that has begun, or a deadline that has passed on the server's clock, is late."""
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    assert client.refusal(wire.Submit, FLAT, cycle=1) == RefusalReason.LATE
    late = setting.now_ns - 1
    assert client.refusal(wire.Submit, FLAT, cycle=2, deadline_ns=late) == RefusalReason.LATE
    setting.player.begin()  # cycle 2 plays
    assert client.refusal(wire.Submit, FLAT, cycle=2) == RefusalReason.LATE
    assert setting.desk.must_wait(
        wire.Submit(session=1, sequence=1, fence=1, cycle=3, deadline_ns=0)
    )
    while setting.player.finished() is None:
        pass
    assert applied(setting) == 0.0


def test_nothing_is_taken_while_a_cycle_is_played(setting: Setting) -> None:
    """Whoever asks in the middle of a cycle is refused; the backend is not touched meanwhile."""
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    setting.player.begin()
    assert client.refusal(wire.Submit, FLAT, cycle=3) == RefusalReason.INVALID
    client.ask(wire.Stage, FLAT, cycle=3)
    assert client.refusal(wire.Commit) == RefusalReason.INVALID
    while setting.player.finished() is None:
        pass
    assert applied(setting) == 0.0


def test_only_the_holder_may_wait_for_the_end_of_a_cycle(setting: Setting) -> None:
    """Session, role, lease and room are looked at before a request waits; what waits is done later."""
    holder, other = Client(setting, "holder"), Client(setting, "other")
    observer = Client(setting, "looker", OBSERVER)
    holder.ask(wire.LeaseRequest)
    setting.player.begin()

    def admit(client: Client, fence: int, *, session: int = 0, room: bool = True) -> str:
        client.sequence += 1
        commit = wire.Commit(
            session=session or client.session, sequence=client.sequence, fence=fence, deadline_ns=0
        )
        assert setting.desk.must_wait(commit)
        reply = setting.desk.admit(client.identity, client.peer, commit, setting.now_ns, room=room)
        message = unpack(reply, wire.replies)[0] if reply else None
        assert message is None or isinstance(message, wire.Refusal)
        return message.reason.value if message else ""

    assert admit(holder, holder.fence, session=999) == RefusalReason.STALE
    assert admit(observer, holder.fence) == RefusalReason.READ_ONLY
    assert admit(other, holder.fence) == RefusalReason.FENCED
    assert admit(holder, holder.fence - 1) == RefusalReason.FENCED
    assert admit(holder, holder.fence, room=False) == RefusalReason.INVALID
    assert admit(holder, holder.fence) == ""
    while setting.player.finished() is None:
        pass
    holder.sequence -= 1
    assert holder.refusal(wire.Commit) == RefusalReason.INVALID  # done now: nothing was staged
    holder.sequence -= 1
    assert holder.refusal(wire.Commit) == RefusalReason.INVALID


def test_what_waits_can_be_overtaken(setting: Setting) -> None:
    """A waiting commit that the same client overtakes with a rollback is refused, and plays nothing."""
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    client.ask(wire.Stage, FLAT, cycle=3)
    setting.player.begin()
    client.sequence += 1
    commit = wire.Commit(
        session=client.session,
        sequence=client.sequence,
        fence=client.fence,
        deadline_ns=setting.now_ns + SECOND,
    )
    assert (
        setting.desk.admit(client.identity, client.peer, commit, setting.now_ns, room=True) == b""
    )
    assert client.ask(wire.Rollback) == wire.Done(sequence=client.sequence, what="rolled-back")
    while setting.player.finished() is None:
        pass
    reply = setting.desk.answer(client.identity, CONTROLLER, commit, {}, setting.now_ns)
    message = unpack(reply, wire.replies)[0]
    assert isinstance(message, wire.Refusal)
    assert message.reason is RefusalReason.STALE
    assert applied(setting) == 0.0


BROKEN = pytest.mark.parametrize(
    ("function", "reason"),
    [
        (np.full(30, 100.0), RefusalReason.LIMIT),
        (np.full(30, 2.0), RefusalReason.STEP),
        (np.where(np.arange(30) % 2, 1.5, -1.5), RefusalReason.SLOPE),
        (np.full(30, np.nan), RefusalReason.NOT_FINITE),
        (np.full(29, 0.1), RefusalReason.UNKNOWN_POINT),
    ],
)


@BROKEN
def test_the_server_checks_the_limits(
    setting: Setting, function: np.ndarray, reason: RefusalReason
) -> None:
    """Each broken limit is refused as such, in one message and as a transaction, and not played."""
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    assert client.refusal(wire.Submit, function, cycle=2) == reason
    client.ask(wire.Stage, function, cycle=2)
    assert client.refusal(wire.Test) == reason
    assert client.refusal(wire.Commit) == reason
    assert applied(setting) == 0.0


@BROKEN
def test_the_server_checks_the_limits_itself(function: np.ndarray, reason: RefusalReason) -> None:
    """Nothing reaches a backend that would take anything, and what keeps the limits plays there."""
    setting = Setting(kind=Careless)
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    assert client.refusal(wire.Submit, function, cycle=2) == reason
    client.ask(wire.Stage, function, cycle=2)
    assert client.refusal(wire.Commit) == reason
    assert applied(setting) == 0.0
    assert isinstance(client.ask(wire.Submit, FLAT, cycle=3), wire.ReceiptMessage)
    assert applied(setting) == 0.3
    setting.close()


def test_a_transaction_plays_only_when_committed(setting: Setting) -> None:
    """Staged and tested plays nothing; rolled back is gone; committed plays."""
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    assert client.ask(wire.Stage, FLAT, cycle=2) == wire.Done(sequence=2, what="staged")
    assert client.ask(wire.Test) == wire.Done(sequence=3, what="tested")
    assert applied(setting) == 0.0
    client.ask(wire.Rollback)
    assert client.refusal(wire.Commit) == RefusalReason.INVALID
    client.ask(wire.Stage, FLAT, cycle=3)
    assert isinstance(client.ask(wire.Commit), wire.ReceiptMessage)
    assert applied(setting) == 0.3


def test_an_observer_cannot_write(setting: Setting) -> None:
    """The role of the key decides, and saying less of oneself is allowed."""
    observer = Client(setting, "looker", OBSERVER)
    for kind in (wire.LeaseRequest, wire.Release, wire.Test):
        assert observer.refusal(kind) == RefusalReason.READ_ONLY
    assert observer.refusal(wire.Submit, FLAT, cycle=2) == RefusalReason.READ_ONLY
    assert isinstance(observer.ask(wire.SnapshotRequest), wire.ReadingMessage)
    hello = wire.Hello(sequence=1, oldest=1, newest=1, client="me", role=wire.Role.OBSERVER)
    answer = setting.desk.answer(b"x", CONTROLLER, hello, {}, 0)
    assert unpack(answer, wire.replies)[0].role is wire.Role.OBSERVER


def test_a_machine_that_is_not_armed_gives_no_lease() -> None:
    """Nobody writes to a machine that was started without being armed."""
    setting = Setting(armed=False)
    assert Client(setting).refusal(wire.LeaseRequest) == RefusalReason.NOT_ARMED
    setting.close()


def test_the_same_request_again_is_done_once(setting: Setting) -> None:
    """A repeated sequence number gets the same reply; an older one is stale."""
    client = Client(setting)
    client.ask(wire.LeaseRequest)
    first = client.ask(wire.Submit, FLAT, cycle=2)
    client.sequence -= 1
    assert client.ask(wire.Submit, FLAT + 0.1, cycle=2) == first
    assert setting.desk.commits == 1
    client.sequence -= 2
    assert client.refusal(wire.SnapshotRequest) == RefusalReason.STALE
    assert applied(setting) == 0.3


def test_another_version_is_refused_with_both_sides(setting: Setting) -> None:
    """A client of another version is told what both speak."""
    hello = wire.Hello(sequence=1, oldest=2, newest=3, client="new")
    reply = unpack(setting.desk.answer(b"x", CONTROLLER, hello, {}, 0), wire.replies)[0]
    assert isinstance(reply, wire.Refusal)
    assert "2 to 3, this machine 1" in reply.detail


def test_what_the_machine_says_can_be_read(setting: Setting) -> None:
    """However long the names of a client and of its key are, every reply and status decodes."""
    client = Client(setting, "x" * wire.MAX_TEXT, Peer("k" * 500, wire.Role.CONTROLLER))
    other = Client(setting, "y" * wire.MAX_TEXT)
    assert isinstance(client.ask(wire.LeaseRequest), wire.LeaseGrant)
    reply = client.ask(wire.StatusRequest)
    assert isinstance(reply, wire.Status)
    assert reply.holder.startswith("x" * 200 + " (kkk")
    status, _ = unpack(pack(setting.desk.status(setting.now_ns)), wire.published)
    assert isinstance(status, wire.Status)
    assert other.refusal(wire.LeaseRequest) == RefusalReason.FENCED
    assert other.refusal(wire.Release) == RefusalReason.FENCED


def test_sessions_do_not_grow_without_end(setting: Setting) -> None:
    """A key's session silent longest is forgotten, but neither another's nor the one in control."""
    holder = Client(setting, "holder")
    holder.ask(wire.LeaseRequest)
    early = Client(setting, "early")
    shadow = Client(setting, "shadow", OBSERVER)
    for _ in range(2 * MAX_SESSIONS):
        last = Client(setting, "more")
    assert isinstance(shadow.ask(wire.SnapshotRequest), wire.ReadingMessage)
    assert isinstance(last.ask(wire.SnapshotRequest), wire.ReadingMessage)
    assert len(setting.desk.sessions) == MAX_SESSIONS + 1
    assert early.refusal(wire.SnapshotRequest) == RefusalReason.STALE
    assert isinstance(holder.ask(wire.Submit, FLAT, cycle=2), wire.ReceiptMessage)


def test_with_a_period_cycles_begin_on_time() -> None:
    """Beginnings are a period apart, whatever the controller does; an overrun shifts the next."""
    pacer = Pacer(period_s=1.0, idle_s=0.05, now_s=10.0)
    assert pacer.due_in_s(10.4, leased=True, written=True) == pytest.approx(0.6)
    pacer.begun(11.01)
    pacer.ended(11.2)
    assert pacer.due_in_s(11.2, leased=False, written=False) == pytest.approx(0.8)
    pacer.begun(12.0)
    pacer.ended(15.0)
    assert pacer.due_in_s(15.0, leased=False, written=False) == pytest.approx(1.0)


def test_without_a_period_the_cycle_waits_for_the_controller() -> None:
    """The holder of the lease decides; with nobody in control it idles."""
    pacer = Pacer(period_s=0.0, idle_s=0.05, now_s=10.0)
    assert pacer.due_in_s(10.0, leased=True, written=False) is None
    assert pacer.due_in_s(10.0, leased=True, written=True) == 0.0
    assert pacer.due_in_s(10.0, leased=False, written=False) == pytest.approx(0.05)


def test_stopping_ends_a_cycle_that_takes_long() -> None:
    """A machine that is stopped does not play a tracked cycle to its end."""
    read, write = os.pipe()
    backend = Tracking()
    player = Player(backend, write)
    player.begin()
    assert backend.begun.wait(10.0)
    player.close()
    os.close(read)
    os.close(write)
    assert backend.ended_at is not None
    report(0, 1)  # nobody listens any more
