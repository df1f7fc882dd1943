"""The backend `zmq`: a machine that is served by `memrl-ctrl machine`, or by whoever speaks the same.

`ZmqSource` looks and has no method that writes; its key is an observer's. `ZmqBackend` also holds
the lease while it is in control.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memrl_backends.zmq import endpoint as endpoints
from memrl_backends.zmq import wire
from memrl_backends.zmq.keys import load_client, local_folder
from memrl_backends.zmq.link import SILENCE_S, Link, News
from memrl_ctrl.backend import BoolArray, FloatArray, MachineDescription, Reading, Receipt
from memrl_ctrl.errors import (
    ConnectionFailed,
    MemrlError,
    MismatchError,
    ReadingTimeout,
    RefusalReason,
    Refused,
    Standstill,
    UnknownNameError,
    UsageError,
)
from memrl_ctrl.frames import FrameError

READING_PERIODS = 5
"""Without a timeout, so many periods are waited for a reading, ..."""
READING_FLOOR_S = 10.0
"""... but at least so long, and on while the machine says that it is playing a cycle, s. One that counts its
cycles back within one start is not waited for: what it plays are no longer the next ones."""
LEASE_MARGIN_NS = 100_000_000
"""So long before the lease expires its holder stops relying on it, at most a tenth of it, ns."""
_STANDS = "its newest reading is of cycle {}: its numbers go back or stand still"
MOST_HOLES = 100
"""So many holes are kept one by one."""


@dataclass(frozen=True)
class Hole:
    """Readings that a client did not get, or skipped because it was slow."""

    readings: int
    """How many."""
    before_cycle: int
    """Cycle of the reading that came after them."""


class ZmqSource:
    """Looks at a machine's cycles. Use `open_backend(read_only=True)`.

    When the connection breaks, the call that notices it raises `ConnectionFailed`; the next one connects
    again, also to a machine that was started again, whose cycles count from the beginning.

    Args:
        connect: makes the connection; with an earlier welcome, to the same machine only.
    """

    def __init__(self, connect: Callable[[wire.Welcome | None], Link]) -> None:
        self._connect = connect
        self._link = connect(None)
        self._closed = False
        self._cycle = -1
        self._stream: int | None = None
        self.missed = 0
        """Published readings that this client did not get, or skipped because it was slow."""
        self.holes: deque[Hole] = deque(maxlen=MOST_HOLES)
        """The newest of them, one by one."""

    @property
    def description(self) -> MachineDescription:
        """What the machine says of itself."""
        return self._link.description

    def observe(self, timeout_s: float | None = None) -> Reading:
        """Return the next cycle's reading: the newest, where several have been played meanwhile.

        Raises:
            Standstill: the machine is there, and plays no cycle.
            ReadingTimeout: nothing new came in time.
            ConnectionFailed: the machine has stopped or is gone.
        """
        self._reconnect()
        began_s = heard_s = time.monotonic()
        allowed_s = timeout_s
        if allowed_s is None:
            allowed_s = max(READING_FLOOR_S, READING_PERIODS * self.description.period_s)
        deadline_s, waits = began_s + allowed_s, timeout_s is None
        old_cycle: int | None = None  # of what it shows instead of something new
        while True:
            now_s = time.monotonic()
            if now_s >= deadline_s:
                said = (
                    f"no reading from {self._link.endpoint} for {now_s - began_s:.1f} s (the last was of "
                    f"cycle {self._cycle}); the machine is there, but "
                )
                if old_cycle is None:
                    raise Standstill(said + "plays no cycle")
                raise ReadingTimeout(said + _STANDS.format(old_cycle))
            if now_s - heard_s > SILENCE_S:
                self._link.lose(
                    f"nothing was heard from the machine at {self._link.endpoint} "
                    f"for {now_s - heard_s:.1f} s"
                )
            news = self._link.news(min(deadline_s - now_s, SILENCE_S / 4))
            if news is None:
                continue
            heard_s = time.monotonic()
            fresh = [pair for pair in news.readings if pair[1].cycle > self._cycle]
            behind = news.status is not None and news.status.cycle > max(
                self._cycle, fresh[-1][1].cycle if fresh else -1
            )
            if (back := self._back(news)) is not None:
                old_cycle, waits = back, False
            # A cycle that takes long is waited for; not what the machine says that it has read already, nor
            # cycles whose numbers were read before.
            if waits and not behind and news.status is not None and news.status.playing:
                deadline_s = heard_s + allowed_s
            # Whoever fell behind may have lost even the newest: the machine is asked for it.
            if behind or len(fresh) > 1:
                reading = self.snapshot()
                if reading.cycle > self._cycle:
                    return self._seen(reading)
                old_cycle = reading.cycle
            elif fresh:
                self._count(fresh[-1][0])
                return self._seen(fresh[-1][1])

    def close(self) -> None:
        """Let go of the machine; may be called twice."""
        self._closed = True
        self._link.close()

    def _reconnect(self) -> None:
        """Connect again if the connection was lost in an earlier call.

        Raises:
            ConnectionFailed: nobody answers; or this was closed.
            MismatchError: another machine answers.
        """
        lost = self._link.lost
        if not lost:
            return
        if self._closed:
            raise ConnectionFailed(lost)
        self._link.close()
        before = self._link.welcome
        try:
            link = self._connect(before)
        except ConnectionFailed as error:
            raise ConnectionFailed(f"{lost}; now {error}") from error
        try:
            _check_same(before, link.welcome)
        except MismatchError:
            link.close()
            raise
        self._link = link
        if link.welcome.instance != before.instance:
            self._cycle, self._stream = -1, None

    @property
    def link(self) -> Link:
        """The connection."""
        return self._link

    def snapshot(self) -> Reading:
        """Ask for the newest reading, which may have been seen already.

        Raises:
            ConnectionFailed: the machine has stopped or is gone.
        """
        request = wire.SnapshotRequest(
            session=self._link.session, sequence=self._link.next_sequence()
        )
        reply, arrays = self._link.request(request)
        if not isinstance(reply, wire.ReadingMessage):
            raise self._odd("who asks for the newest reading with", reply)
        self._count(reply)
        return self._link.reading(reply, arrays)

    def _odd(self, what: str, reply: wire.AnyReply) -> ConnectionFailed:
        kind = type(reply).__name__
        return ConnectionFailed(
            f"the machine at {self._link.endpoint} answers {what} a message of kind {kind}: it does not keep "
            "the protocol"
        )

    def _back(self, news: News) -> int | None:
        """Return the newest cycle number that was published since the last reading and is none after it.

        Readings may be published twice, and a status may have been on its way: their numbers in the stream
        tell what is newer than what was read.
        """
        heard: list[wire.ReadingMessage | wire.Status] = [message for message, _ in news.readings]
        if news.status is not None:
            heard.append(news.status)
        newer = [one for one in heard if one.stream > (self._stream or 0)]
        back = [one.cycle for one in newer if one.cycle <= self._cycle]
        return back[-1] if back else None

    def _count(self, message: wire.ReadingMessage) -> None:
        if self._stream is not None and (lost := message.stream - self._stream - 1) > 0:
            self.missed += lost
            self.holes.append(Hole(lost, message.cycle))
        self._stream = max(message.stream, self._stream or 0)

    def _seen(self, reading: Reading) -> Reading:
        self._cycle = reading.cycle
        return reading


class ZmqBackend(ZmqSource):
    """Looks and writes. `start` takes the lease, use renews it, `close` gives it back.

    `observe` without a `submit` for the next cycle tells the machine that nothing will be written
    for it, so that a machine that waits for its controller goes on, holding.
    """

    def __init__(self, connect: Callable[[wire.Welcome | None], Link]) -> None:
        super().__init__(connect)
        self._fence = 0
        self._last_fence = 0
        self._lease_ns = self._lease_until_ns = 0
        self._written_for = -1

    def start(
        self,
        seed: int | None = None,
        mask: BoolArray | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Take the lease, change nothing, and return the newest reading.

        `seed` and `mask` mean nothing to a machine; there are no options.

        Raises:
            Refused: another client is in control (it is named), or the machine is not armed.
            ConnectionFailed: the machine has stopped or is gone.
        """
        del seed, mask
        for name in options or {}:
            raise UnknownNameError("start option of backend 'zmq':", name, ())
        self._reconnect()
        if not self.description.writable:
            raise self._read_only()
        grant = self._take_lease()
        reading = self.snapshot()
        self._cycle = max(self._cycle, reading.cycle - 1)
        if grant.next_cycle > reading.cycle + 1:
            # A cycle is being played: what is written next is for the one after it.
            return super().observe()
        return self._seen(reading)

    def observe(self, timeout_s: float | None = None) -> Reading:
        """See `ZmqSource.observe`."""
        self._reconnect()
        if self._has_lease() and self._written_for <= self._cycle:
            hold = wire.Hold(
                session=self._link.session,
                sequence=self._link.next_sequence(),
                fence=self._fence,
                cycle=self._cycle + 1,
            )
            try:
                self._link.request(hold)
                self._renewed(self._link.server_clock_ns(self._link.welcome.lease_s))
            except Refused as refused:  # the lease is lost: looking needs none
                self._lose_lease(refused)
        return super().observe(timeout_s)

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Stage, test and commit in one message.

        A lease that has expired is taken again, but only if nobody else was in control since: after a
        take-over, or in another's control, only `start` takes it.

        Raises:
            Refused: typed; nothing was applied.
            ConnectionFailed: the machine has stopped, is gone, or does not reply.
        """
        if not self.description.writable:
            raise self._read_only()
        if deadline_s <= 0:
            raise Refused(RefusalReason.LATE, f"the deadline of {deadline_s} s has passed")
        self._reconnect()
        deadline_ns = self._link.server_clock_ns(deadline_s)
        if not self._has_lease():
            self._take_lease(after=self._last_fence)
        submit = wire.Submit(
            session=self._link.session,
            sequence=self._link.next_sequence(),
            fence=self._fence,
            cycle=max(0, cycle),
            deadline_ns=deadline_ns,
            key=secrets.token_hex(8),
        )
        function = np.asarray(phi_hw_rad, dtype=np.float64)
        try:
            reply, arrays = self._link.request(submit, {"phi_hw_rad": function}, extra_s=deadline_s)
        except Refused as refused:
            self._lose_lease(refused)
            if refused.reason is RefusalReason.FENCED:
                raise Refused(refused.reason, refused.detail + self._in_control()) from refused
            raise
        if not isinstance(reply, wire.ReceiptMessage):
            raise self._odd("a function with", reply)
        if reply.expires_ns:
            self._link.note_clock(reply.expires_ns - int(self._link.welcome.lease_s * 1e9))
        self._renewed(reply.expires_ns)
        self._written_for = cycle
        try:
            applied = wire.check_array(arrays, "applied_rad", "<f8", function.shape)
        except FrameError as error:
            raise ConnectionFailed(
                f"a receipt of {self._link.endpoint} is wrong: {error}; whether it took the function "
                "shows in its next reading"
            ) from error
        return Receipt(
            cycle=reply.cycle,
            applied_rad=applied,
            committed_ns=time.monotonic_ns(),
            fence=reply.fence,
            sent_ns=self._link.sent_ns,
        )

    def play(self, phi_hw_rad: FloatArray) -> Reading:
        """Submit for the cycle after the last reading's, then observe that cycle.

        Raises:
            Refused, ReadingTimeout, ConnectionFailed: see `submit` and `observe`.
        """
        if self._cycle < 0 and self.description.writable:
            self.start()
        self.submit(
            phi_hw_rad, self._cycle + 1, max(self._link.timeout_s, self.description.period_s)
        )
        return self.observe()

    def close(self) -> None:
        """Give the lease back and let go of the machine; may be called twice."""
        if self._has_lease():
            release = wire.Release(
                session=self._link.session,
                sequence=self._link.next_sequence(),
                fence=self._fence,
            )
            with contextlib.suppress(MemrlError):  # a machine that is gone needs no goodbye
                self._link.request(release)
        self._fence = 0
        super().close()

    def _read_only(self) -> Refused:
        welcome = self._link.welcome
        if not welcome.role.may(wire.Role.CONTROLLER):
            why = f"the key {welcome.key_name!r} comes as {welcome.role.value} here"
        else:
            why = f"the machine {welcome.machine!r} takes no setpoints at all"
        return Refused(RefusalReason.READ_ONLY, why)

    def _has_lease(self) -> bool:
        return self._fence > 0 and time.monotonic_ns() < self._lease_until_ns

    def _take_lease(self, after: int = 0) -> wire.LeaseGrant:
        request = wire.LeaseRequest(
            session=self._link.session, sequence=self._link.next_sequence(), after=after
        )
        reply, _ = self._link.request(request)
        if not isinstance(reply, wire.LeaseGrant):
            raise self._odd("who asks for the lease with", reply)
        if not 0.0 < reply.duration_s <= wire.LONGEST_S:
            raise ConnectionFailed(
                f"{self._link.endpoint} grants a lease of {reply.duration_s} s, which is none"
            )
        self._fence = self._last_fence = reply.fence
        self._lease_ns = int(reply.duration_s * 1e9)
        self._renewed(reply.expires_ns)
        return reply

    def _renewed(self, expires_ns: int) -> None:
        margin_ns = min(LEASE_MARGIN_NS, self._lease_ns // 10)
        self._lease_until_ns = self._link.own_clock_ns(expires_ns) - margin_ns

    def _in_control(self) -> str:
        """Return who is in control now, to be added to a refusal; empty where the machine does not say."""
        request = wire.StatusRequest(
            session=self._link.session, sequence=self._link.next_sequence()
        )
        try:
            status, _ = self._link.request(request)
        except MemrlError:  # the refusal is what matters
            return ""
        if not isinstance(status, wire.Status):
            return ""
        who = f"{status.holder!r} is" if status.holder else "nobody is"
        return f"; {who} in control now"

    def _lose_lease(self, refused: Refused) -> None:
        if refused.reason in {RefusalReason.FENCED, RefusalReason.NOT_ARMED, RefusalReason.STALE}:
            self._fence = 0


def _check_same(before: wire.Welcome, now: wire.Welcome) -> None:
    """Refuse a machine that came back with other control points; machine and limits it has checked itself.

    Raises:
        MismatchError: with what is another.
    """
    for name in ("program", "points", "n_slices", "period_s", "point_names"):
        was, is_ = getattr(before, name), getattr(now, name)
        if was != is_:
            values = "" if name == "point_names" else f" ({is_!r}, not {was!r} as before)"
            raise MismatchError(
                f"the machine {now.machine!r} came back with another {name}{values}: begin a new run"
            )


def open_backend(
    *,
    endpoint: str = endpoints.DEFAULT,
    keys: str | Path | None = None,
    timeout_s: float = 2.0,
    read_only: bool = False,
    insecure_loopback: bool = False,
    name: str = "memrl-ctrl",
    key: str | None = None,
) -> ZmqBackend | ZmqSource:
    """Connect to a machine.

    Args:
        endpoint: of the machine's commands, `tcp://HOST:PORT`.
        keys: folder with `server.pub` and `controller.key`, or `observer.key` to look only; None
            takes the local folder, on loopback only.
        timeout_s: for connecting, and for the reply to a request, s.
        read_only: connect as an observer; what is returned has no method that writes.
        insecure_loopback: no encryption and no keys, as the machine was started.
        name: of this client, shown to others who want control.
        key: name of the key in the folder, where it is not named after the role.

    Raises:
        ConnectionFailed: nobody answers, or not with these keys, or not in this protocol.
        UsageError: an endpoint off loopback without keys.
        FileError: a key file that is absent or wrong.
    """
    role = wire.Role.OBSERVER if read_only else wire.Role.CONTROLLER
    connect = connector(
        endpoint,
        role,
        keys=None if keys is None else Path(keys),
        timeout_s=timeout_s,
        insecure_loopback=insecure_loopback,
        name=name,
        key=key,
    )
    return ZmqSource(connect) if read_only else ZmqBackend(connect)


def connector(
    endpoint: str,
    role: wire.Role,
    *,
    keys: Path | None,
    timeout_s: float,
    insecure_loopback: bool,
    name: str,
    key: str | None = None,
) -> Callable[[wire.Welcome | None], Link]:
    """Return what connects to a machine, again and again; see `open_backend`."""
    at = endpoints.parse(endpoint)
    if insecure_loopback and not at.loopback:
        raise UsageError(f"{at} is not on loopback: keys are needed there")
    if not at.loopback and keys is None:
        raise UsageError(
            f"{at} is not on this computer: give the folder with its server.pub and your key (--keys)"
        )
    own = None if insecure_loopback else load_client(keys or local_folder(), role, key)

    def connect(expected: wire.Welcome | None) -> Link:
        return Link(at, own, timeout_s=timeout_s, name=name, role=role, expected=expected)

    return connect
