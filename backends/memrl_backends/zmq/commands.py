"""What a client may have done: sessions, the lease and the transactions, without any socket."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np

from memrl_backends.zmq import wire
from memrl_backends.zmq.keys import Peer
from memrl_backends.zmq.lease import LeaseDesk
from memrl_backends.zmq.player import Player
from memrl_backends.zmq.wire import AnyRequest, Arrays, Role
from memrl_ctrl.backend import FloatArray, MachineDescription
from memrl_ctrl.errors import RefusalReason, Refused
from memrl_ctrl.frames import pack

MAX_SESSIONS = 64
"""Sessions of one key that are remembered; of these the one that was silent longest gives way."""
CLIENT_NAME = 200
"""Characters of a client's name that are kept."""


@dataclass
class Session:
    """One client after its hello."""

    number: int
    identity: bytes
    """Routing identity; a session is only good on the connection that made it."""
    peer: Peer
    """Owner of the connection's key."""
    name: str
    role: Role
    staged: tuple[int, FloatArray] | None = None
    last_sequence: int = 0
    last_reply: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a desk tells of the machine in its welcome."""

    description: MachineDescription
    period_s: float
    readings_port: int
    server: str
    armed: bool


class CommandDesk:
    """Answers requests; time and machine are handed in, so that every path can be tested."""

    def __init__(self, machine: Machine, player: Player, lease: LeaseDesk) -> None:
        self._machine = machine
        self._player = player
        self._lease = lease
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self.stream = 0
        """Number of the newest published reading."""
        self.commits = 0
        """Functions that were taken."""
        self.refused = 0
        """Requests that were refused."""

    def must_wait(self, request: AnyRequest) -> TypeGuard[wire.Submit | wire.Commit]:
        """Whether a request can only be answered when the cycle being played is over."""
        if not self._player.playing:
            return False
        if isinstance(request, wire.Submit):
            return request.cycle >= self._player.next_cycle
        return isinstance(request, wire.Commit)

    def admit(
        self, identity: bytes, request: wire.Submit | wire.Commit, now_ns: int, *, room: bool
    ) -> bytes:
        """Look at the right of a request that must wait, before it does; this renews the lease.

        Args:
            identity: of the connection.
            request: one for which `must_wait` holds.
            now_ns: the server's clock.
            room: whether one more may wait.

        Returns:
            The encoded reply where it need not wait: it is refused, or was answered before. Empty
            where it may wait.
        """

        def look(session: Session) -> bytes:
            self._need_controller(session)
            self._lease.use(session.number, request.fence, now_ns)
            if not room:
                raise Refused(
                    RefusalReason.INVALID, "too many requests wait for the end of this cycle"
                )
            return b""

        return self._once(identity, request, look)

    def answer(
        self, identity: bytes, peer: Peer, request: AnyRequest, arrays: Arrays, now_ns: int
    ) -> bytes:
        """Do what is asked, or refuse it whole; return the encoded reply."""
        if isinstance(request, wire.Hello):
            try:
                return self._hello(identity, peer, request, now_ns)
            except Refused as refused:
                return self._refuse(request.sequence, refused)
        return self._once(
            identity, request, lambda session: self._do(session, request, arrays, now_ns)
        )

    def _once(
        self, identity: bytes, request: wire.Request, do: Callable[[Session], bytes]
    ) -> bytes:
        """Do a request unless it was done before; an empty reply leaves it to be done."""
        try:
            session = self._session(identity, request)
            if request.sequence == session.last_sequence and session.last_reply:
                return session.last_reply  # the same request again: the same answer, done once
            if request.sequence <= session.last_sequence:
                raise Refused(
                    RefusalReason.STALE,
                    f"sequence {request.sequence} came after {session.last_sequence}",
                )
        except Refused as refused:
            return self._refuse(request.sequence, refused)
        try:
            reply = do(session)
        except Refused as refused:
            reply = self._refuse(request.sequence, refused)
        if reply:
            session.last_sequence, session.last_reply = request.sequence, reply
        return reply

    def _refuse(self, sequence: int, refused: Refused) -> bytes:
        self.refused += 1
        return refusal(sequence, refused)

    def status(self, now_ns: int, sequence: int = 0) -> wire.Status:
        """Return how the machine is."""
        held = self._lease.current(now_ns)
        return wire.Status(
            sequence=sequence,
            stream=self.stream,
            cycle=self._player.last.cycle,
            next_cycle=self._player.next_cycle,
            playing=self._player.playing,
            armed=self._machine.armed,
            holder=held.holder if held else "",
            fence=held.fence if held else 0,
            server_clock_ns=now_ns,
        )

    def _hello(self, identity: bytes, peer: Peer, hello: wire.Hello, now_ns: int) -> bytes:
        if not hello.oldest <= wire.VERSION <= hello.newest:
            raise Refused(
                RefusalReason.INVALID,
                f"the client speaks message versions {hello.oldest} to {hello.newest}, "
                f"this machine {wire.VERSION}",
            )
        role = Role.OBSERVER if hello.observe_only else peer.role
        number = secrets.randbits(62) + 1
        name = wire.fitting(f"{hello.client[:CLIENT_NAME]} ({peer.name})")
        self._sessions[number] = Session(number, identity, peer, name, role)
        self._forget_sessions(peer, now_ns)
        described, machine = self._machine.description, self._machine
        limits = wire.limits_on_wire(described.limits)
        welcome = wire.Welcome(
            sequence=hello.sequence,
            version=wire.VERSION,
            session=number,
            server=wire.fitting(machine.server),
            role=role,
            key_name=wire.fitting(peer.name),
            machine=wire.fitting(described.name),
            program=wire.fitting(described.program),
            backend=wire.fitting(described.backend),
            fidelity=wire.fitting(described.fidelity),
            points=described.points,
            n_slices=described.n_slices,
            limits=limits,
            limits_digest=wire.limits_digest(limits),
            period_s=machine.period_s,
            readings_port=machine.readings_port,
            server_clock_ns=now_ns,
            lease_s=self._lease.duration_s,
            armed=machine.armed,
            features=list(wire.FEATURES),
        )
        return pack(welcome, {} if described.ctime_ms is None else {"ctime_ms": described.ctime_ms})

    def _forget_sessions(self, peer: Peer, now_ns: int) -> None:
        """Forget a key's oldest sessions beyond its number; nobody can push out another's."""
        held = self._lease.current(now_ns)
        own = [n for n, session in self._sessions.items() if session.peer == peer]
        beyond = len(own) - MAX_SESSIONS
        for number in [n for n in own if held is None or n != held.session][: max(0, beyond)]:
            del self._sessions[number]

    def _session(self, identity: bytes, request: wire.Request) -> Session:
        session = self._sessions.get(request.session)
        if session is None or session.identity != identity:
            raise Refused(
                RefusalReason.STALE,
                f"session {request.session} is not known on this connection: say hello again",
            )
        self._sessions.move_to_end(session.number)
        return session

    def _do(self, session: Session, request: wire.Request, arrays: Arrays, now_ns: int) -> bytes:
        match request:
            case wire.SnapshotRequest():
                return wire.encode_reading(
                    self._player.last, stream=self.stream, sequence=request.sequence
                )
            case wire.StatusRequest():
                return pack(self.status(now_ns, request.sequence))
        self._need_controller(session)
        if isinstance(request, wire.LeaseRequest):
            return self._grant(session, request.sequence, now_ns)
        if isinstance(request, wire.Fenced):
            self._lease.use(session.number, request.fence, now_ns)
            return self._do_fenced(session, request, arrays, now_ns)
        raise Refused(RefusalReason.INVALID, f"{type(request).__name__} is not served")

    def _need_controller(self, session: Session) -> None:
        if session.role is not Role.CONTROLLER:
            raise Refused(
                RefusalReason.READ_ONLY,
                f"{session.name} is {session.role.value}: only a controller's key may write",
            )

    def _grant(self, session: Session, sequence: int, now_ns: int) -> bytes:
        if not self._machine.armed:
            raise Refused(
                RefusalReason.NOT_ARMED,
                "the machine takes no setpoints: it was started without --arm",
            )
        lease = self._lease.request(session.number, session.name, now_ns)
        grant = wire.LeaseGrant(
            sequence=sequence,
            fence=lease.fence,
            expires_ns=lease.expires_ns,
            duration_s=self._lease.duration_s,
            cycle=self._player.last.cycle,
            next_cycle=self._player.next_cycle,
        )
        return pack(grant)

    def _do_fenced(
        self, session: Session, request: wire.Fenced, arrays: Arrays, now_ns: int
    ) -> bytes:
        match request:
            case wire.Submit():
                wanted = np.array(arrays["phi_hw_rad"], dtype=np.float64)
                return self._commit(request, request.cycle, wanted, request.deadline_ns, now_ns)
            case wire.Commit():
                cycle, wanted = self._staged(session)
                session.staged = None
                return self._commit(request, cycle, wanted, request.deadline_ns, now_ns)
        return pack(wire.Done(sequence=request.sequence, what=self._step(session, request, arrays)))

    def _step(self, session: Session, request: wire.Fenced, arrays: Arrays) -> wire.Step:
        """Do a step that applies nothing; return what was done."""
        match request:
            case wire.Stage():
                session.staged = request.cycle, np.array(arrays["phi_hw_rad"], dtype=np.float64)
                return "staged"
            case wire.Test():
                self._player.check(self._staged(session)[1])
                return "tested"
            case wire.Rollback():
                session.staged = None
                return "rolled-back"
            case wire.Hold():
                self._player.hold(request.cycle)
                return "held"
            case wire.Release():
                self._lease.release()
                session.staged = None
                return "released"
        raise Refused(RefusalReason.INVALID, f"{type(request).__name__} is not served")

    def _staged(self, session: Session) -> tuple[int, FloatArray]:
        if session.staged is None:
            raise Refused(RefusalReason.INVALID, "nothing is staged")
        return session.staged

    def _commit(
        self,
        request: wire.Fenced,
        cycle: int,
        wanted: FloatArray,
        deadline_ns: int,
        now_ns: int,
    ) -> bytes:
        receipt = self._player.take(wanted, cycle, (deadline_ns - now_ns) * 1e-9)
        self.commits += 1
        held = self._lease.current(now_ns)
        message = wire.ReceiptMessage(
            sequence=request.sequence,
            cycle=receipt.cycle,
            fence=request.fence,
            expires_ns=held.expires_ns if held else now_ns,
        )
        return pack(message, {"applied_rad": receipt.applied_rad})


def refusal(sequence: int, refused: Refused) -> bytes:
    """Encode a refusal."""
    return pack(
        wire.Refusal(sequence=sequence, reason=refused.reason, detail=wire.fitting(refused.detail))
    )
