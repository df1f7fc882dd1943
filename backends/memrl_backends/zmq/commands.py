"""What a client may have done: sessions, the lease and the transactions, without any socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from memrl_backends.zmq import wire
from memrl_backends.zmq.convert import EncodedReading, limits_digest, limits_on_wire, point_names
from memrl_backends.zmq.keys import Peer
from memrl_backends.zmq.lease import Authority, Lease
from memrl_backends.zmq.ledger import Entry, Ledger, content_digest
from memrl_backends.zmq.player import Player
from memrl_backends.zmq.sessions import Session, Sessions, Staged
from memrl_backends.zmq.wire import AnyRequest, Arrays, Mode, PointName, Role
from memrl_ctrl.backend import FloatArray, MachineDescription
from memrl_ctrl.errors import FileError, RefusalReason, Refused
from memrl_ctrl.frames import pack


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a desk tells of the machine in its welcome."""

    description: MachineDescription
    """With the limits that the server enforces."""
    period_s: float
    readings_port: int
    server: str
    instance: str


class CommandDesk:
    """Answers requests; time and machine are handed in, so that every path can be tested."""

    def __init__(
        self, machine: Machine, player: Player, authority: Authority, ledger: Ledger | None = None
    ) -> None:
        self._machine = machine
        self._player = player
        self._authority = authority
        self._ledger = ledger or Ledger(None)
        self.sessions = Sessions()
        self._names = point_names(machine.description)
        self._index_of = {name: index for index, name in enumerate(self._names)}
        self.outgoing: list[tuple[bytes, bytes]] = []
        """Topics and messages that are to be published."""
        self._newest: EncodedReading | None = None
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
        self,
        identity: bytes,
        peer: Peer,
        request: wire.Submit | wire.Commit,
        now_ns: int,
        *,
        room: bool,
    ) -> bytes:
        """Look at the right of a request that must wait, before it does; this renews the lease.

        Args:
            identity: of the connection.
            peer: owner of its key.
            request: one for which `must_wait` holds.
            now_ns: the server's clock.
            room: whether one more may wait.

        Returns:
            The encoded reply where it need not wait: it is refused, or was answered before. Empty
            where it may wait.
        """

        def look(session: Session) -> bytes:
            session.need(Role.CONTROLLER, "write")
            if self._ledger.find(_client(session.peer), request.key) is None:
                self._authority.use(session.number, request.fence, now_ns)
            if not room:
                raise Refused(
                    RefusalReason.INVALID, "too many requests wait for the end of this cycle"
                )
            return b""

        return self._once(identity, peer, request, look)

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
            identity, peer, request, lambda session: self._do(session, request, arrays, now_ns)
        )

    def forget(self, peer: Peer) -> None:
        """End all that a key had, which is no longer authorized."""
        for number in self.sessions.forget(peer):
            self._authority.end(number)

    def status(self, now_ns: int, sequence: int = 0) -> wire.Status:
        """Return how the machine is."""
        held = self._authority.current(now_ns)
        return wire.Status(
            sequence=sequence,
            stream=self.stream,
            cycle=self._player.last.cycle,
            next_cycle=self._player.next_cycle,
            playing=self._player.playing,
            mode=self._authority.mode,
            operator=wire.fitting(self._authority.operator),
            instance=self._machine.instance,
            holder=held.holder if held else "",
            fence=held.fence if held else 0,
            server_clock_ns=now_ns,
        )

    def newest(self) -> EncodedReading:
        """Return the newest reading, encoded once."""
        if self._newest is None or self._newest.reading is not self._player.last:
            self._newest = EncodedReading(self._player.last)
        return self._newest

    # One request

    def _once(
        self, identity: bytes, peer: Peer, request: wire.Request, do: Callable[[Session], bytes]
    ) -> bytes:
        """Do a request unless it was done before; an empty reply leaves it to be done."""
        try:
            session = self.sessions.find(identity, peer, request.session)
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

    def _do(self, session: Session, request: wire.Request, arrays: Arrays, now_ns: int) -> bytes:
        match request:
            case wire.SnapshotRequest():
                return self.newest().message(stream=self.stream, sequence=request.sequence)
            case wire.StatusRequest():
                return pack(self.status(now_ns, request.sequence))
            case wire.Recommend():
                session.need(Role.RECOMMENDER, "recommend")
                self._recommend(session, request.cycle, arrays["phi_hw_rad"])
                return pack(wire.Done(sequence=request.sequence, what="recommended"))
            case wire.Arm() | wire.Disarm() | wire.TakeOver():
                session.need(Role.OPERATOR, "arm, disarm and take over")
                return self._operate(session, request, now_ns)
        session.need(Role.CONTROLLER, "write")
        match request:
            case wire.LeaseRequest():
                lease = self._authority.request(
                    session.number, session.name, now_ns, role=session.role, after=request.after
                )
                return self._grant(lease, request.sequence)
            case wire.Fenced():
                return self._do_fenced(session, request, arrays, now_ns)
        raise Refused(RefusalReason.INVALID, f"{type(request).__name__} is not served")

    # Hello

    def _hello(self, identity: bytes, peer: Peer, hello: wire.Hello, now_ns: int) -> bytes:
        described, machine = self._machine.description, self._machine
        limits = limits_on_wire(described.limits)
        digest = limits_digest(limits, self._rate())
        self._check_hello(hello, digest)
        held = self._authority.current(now_ns)
        session = self.sessions.open(identity, peer, hello, held.session if held else 0)
        welcome = wire.Welcome(
            sequence=hello.sequence,
            version=wire.VERSION,
            session=session.number,
            instance=machine.instance,
            server=wire.fitting(machine.server),
            role=session.role,
            key_name=wire.fitting(peer.name),
            machine=wire.fitting(described.name),
            program=wire.fitting(described.program),
            backend=wire.fitting(described.backend),
            fidelity=wire.fitting(described.fidelity),
            points=described.points,
            point_names=self._names,
            n_slices=described.n_slices,
            limits=limits,
            rate=self._rate(),
            limits_digest=digest,
            period_s=machine.period_s,
            readings_port=machine.readings_port,
            server_clock_ns=now_ns,
            lease_s=self._authority.duration_s,
            writable=described.writable,
            mode=self._authority.mode,
            features=list(wire.FEATURES),
        )
        return pack(welcome, {} if described.ctime_ms is None else {"ctime_ms": described.ctime_ms})

    def _rate(self) -> wire.Rate | None:
        rate = self._player.gate.rate
        return None if rate is None else wire.Rate(travel_rad=rate.travel_rad, cycles=rate.cycles)

    def _check_hello(self, hello: wire.Hello, digest: str) -> None:
        name = wire.fitting(self._machine.description.name)
        if not hello.oldest <= wire.VERSION <= hello.newest:
            raise Refused(
                RefusalReason.MISMATCH,
                f"the client speaks message versions {hello.oldest} to {hello.newest}, "
                f"this machine {wire.VERSION}",
            )
        for what, expected, own in (
            ("machine", hello.machine, name),
            ("limits_digest", hello.limits_digest, digest),
        ):
            if expected and expected != own:
                raise Refused(
                    RefusalReason.MISMATCH,
                    f"{what}: the client expects {expected[:100]!r}, this machine has {own!r}",
                )

    # What others see

    def _recommend(self, session: Session, cycle: int, phi_hw_rad: FloatArray) -> None:
        self._check_shape(phi_hw_rad, self._machine.description.points)
        if not np.isfinite(phi_hw_rad).all():
            raise Refused(RefusalReason.NOT_FINITE, "a value that is recommended is not finite")
        following = self._player.next_cycle
        if not following <= cycle <= following + 1:
            raise Refused(
                RefusalReason.LATE if cycle < following else RefusalReason.INVALID,
                f"cycle {cycle} cannot be recommended for; the next is {following}",
            )
        if cycle <= session.recommended_for:
            raise Refused(
                RefusalReason.INVALID, f"something was recommended for cycle {cycle} already"
            )
        session.recommended_for = cycle
        message = wire.Recommendation(name=session.name, cycle=cycle)
        self.outgoing.append((wire.TOPIC_RECOMMENDATION, pack(message, {"phi_hw_rad": phi_hw_rad})))

    # Operators and the lease

    def _operate(
        self, session: Session, request: wire.Arm | wire.Disarm | wire.TakeOver, now_ns: int
    ) -> bytes:
        if isinstance(request, wire.TakeOver):
            lease = self._authority.take_over(session.number, session.name, now_ns)
            reply = self._grant(lease, request.sequence)
        else:
            arming = isinstance(request, wire.Arm)
            if arming and not self._machine.description.writable:
                raise Refused(RefusalReason.READ_ONLY, "this machine takes no setpoints at all")
            self._authority.set_mode(Mode.ARMED if arming else Mode.OFF, session.name)
            reply = pack(self.status(now_ns, request.sequence))
        self.outgoing.append((wire.TOPIC_STATUS, pack(self.status(now_ns))))
        return reply

    def _grant(self, lease: Lease, sequence: int) -> bytes:
        grant = wire.LeaseGrant(
            sequence=sequence,
            fence=lease.fence,
            expires_ns=lease.expires_ns,
            duration_s=self._authority.duration_s,
            cycle=self._player.last.cycle,
            next_cycle=self._player.next_cycle,
        )
        return pack(grant)

    # Transactions

    def _do_fenced(
        self, session: Session, request: wire.Fenced, arrays: Arrays, now_ns: int
    ) -> bytes:
        if isinstance(request, wire.Submit | wire.Commit):
            known = self._ledger.find(_client(session.peer), request.key)
            if known is not None:
                return self._acknowledged(session, request, arrays, *known)
        self._authority.use(session.number, request.fence, now_ns)
        match request:
            case wire.Submit():
                staged = self._lay_down(request, arrays)
                return self._commit(session, request, staged, now_ns)
            case wire.Commit():
                staged, session.staged = self._staged(session), None
                return self._commit(session, request, staged, now_ns)
        done = self._step(session, request, arrays)
        return pack(wire.Done(sequence=request.sequence, what=done))

    def _step(self, session: Session, request: wire.Fenced, arrays: Arrays) -> wire.Step:
        """Do a step that applies nothing; return what was done."""
        match request:
            case wire.Stage():
                session.staged = self._lay_down(request, arrays)
                return "staged"
            case wire.Test():
                self._player.check(self._staged(session).phi_hw_rad)
                return "tested"
            case wire.Rollback():
                session.staged = None
                return "rolled-back"
            case wire.Hold():
                self._player.hold(request.cycle)
                return "held"
            case wire.Release():
                self._authority.release()
                session.staged = None
                return "released"
        raise Refused(RefusalReason.INVALID, f"{type(request).__name__} is not served")

    def _lay_down(self, request: wire.Stage | wire.Submit, arrays: Arrays) -> Staged:
        """Return the whole function that is asked for.

        Raises:
            Refused: a point that does not exist, or another number of values.
        """
        given = np.array(arrays["phi_hw_rad"], dtype=np.float64)
        content = content_digest(given, request.cycle, request.points)
        if request.points is None:
            return Staged(request.cycle, given, content)
        indices = self._indices(request.points)
        self._check_shape(given, len(indices))
        whole = self._player.upcoming.copy()
        whole[indices] = given
        return Staged(request.cycle, whole, content)

    def _indices(self, points: list[PointName]) -> list[int]:
        indices = []
        for point in points[: len(self._names) + 1]:
            index = self._index_of.get(point, -1) if isinstance(point, str) else point
            if not 0 <= index < len(self._names):
                raise Refused(
                    RefusalReason.UNKNOWN_POINT,
                    f"no control point {point!r}; there are {len(self._names)}: 0 to "
                    f"{len(self._names) - 1}, or {self._names[0]} to {self._names[-1]}",
                )
            indices.append(index)
        if len(set(indices)) < len(indices) or not indices:
            raise Refused(RefusalReason.INVALID, "a point stands twice, or there is none")
        return indices

    @staticmethod
    def _check_shape(phi_hw_rad: FloatArray, count: int) -> None:
        if phi_hw_rad.shape != (count,):
            raise Refused(
                RefusalReason.UNKNOWN_POINT, f"{phi_hw_rad.size} values for {count} control points"
            )

    def _staged(self, session: Session) -> Staged:
        if session.staged is None:
            raise Refused(RefusalReason.INVALID, "nothing is staged")
        return session.staged

    def _commit(
        self, session: Session, request: wire.Submit | wire.Commit, staged: Staged, now_ns: int
    ) -> bytes:
        receipt = self._player.take(
            staged.phi_hw_rad, staged.cycle, (request.deadline_ns - now_ns) * 1e-9
        )
        described = self._machine.description
        entry = Entry(
            client=_client(session.peer),
            key=request.key,
            content=staged.content,
            cycle=receipt.cycle,
            fence=request.fence,
            machine=wire.fitting(described.name),
            program=wire.fitting(described.program),
        )
        try:
            self._ledger.record(entry, receipt.applied_rad)
        except FileError as error:
            self._player.take_back()
            raise Refused(
                RefusalReason.INVALID, f"what is taken cannot be kept, so nothing is: {error}"
            ) from error
        self.commits += 1
        return self._receipt(request.sequence, entry, receipt.applied_rad, now_ns)

    def _acknowledged(
        self,
        session: Session,
        request: wire.Submit | wire.Commit,
        arrays: Arrays,
        entry: Entry,
        applied_rad: FloatArray,
    ) -> bytes:
        """Answer a commit under a key that was taken before, with the receipt of then."""
        if isinstance(request, wire.Submit):
            content = content_digest(arrays["phi_hw_rad"], request.cycle, request.points)
        else:
            content = session.staged.content if session.staged else entry.content
        if content != entry.content:
            raise Refused(
                RefusalReason.INVALID,
                f"the key {request.key!r} was used for another function, of cycle {entry.cycle}",
            )
        if isinstance(request, wire.Commit):
            session.staged = None
        return self._receipt(request.sequence, entry, applied_rad, 0)

    def _receipt(self, sequence: int, entry: Entry, applied_rad: FloatArray, now_ns: int) -> bytes:
        held = self._authority.current(now_ns) if now_ns else None
        message = wire.ReceiptMessage(
            sequence=sequence,
            cycle=entry.cycle,
            fence=entry.fence,
            expires_ns=held.expires_ns if held else now_ns,
        )
        return pack(message, {"applied_rad": applied_rad})


def _client(peer: Peer) -> str:
    """Return what an acknowledged function is kept under: whose it is."""
    return peer.key or wire.fitting(peer.name)


def refusal(sequence: int, refused: Refused) -> bytes:
    """Encode a refusal."""
    return pack(
        wire.Refusal(sequence=sequence, reason=refused.reason, detail=wire.fitting(refused.detail))
    )
