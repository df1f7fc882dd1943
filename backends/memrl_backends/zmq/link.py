"""One client's connection to a machine: sockets, handshake, requests, what is published."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import zmq
from zmq.utils.monitor import parse_monitor_message

from memrl_backends.zmq import wire
from memrl_backends.zmq.convert import check_fits, description_from, reading_from
from memrl_backends.zmq.endpoint import Endpoint
from memrl_backends.zmq.keys import ClientKeys
from memrl_ctrl.backend import MachineDescription, Reading
from memrl_ctrl.errors import (
    ConnectionFailed,
    MismatchError,
    RefusalReason,
    Refused,
    UsageError,
)
from memrl_ctrl.frames import MAX_BYTES, FrameError, pack, unpack
from memrl_ctrl.texts import clean

SILENCE_S = 4.0
"""The machine publishes its status twice a second; after this long without it is gone."""
SLACK_BYTES = 4096
"""What CURVE may add to a message."""
SLICE_MS = 50
"""While a reply is waited for, how often it is looked whether the machine is still there, ms."""
LAST_WORDS_MS = 100
"""After a break, how long a goodbye that is still under way is waited for, ms."""
QUICK_NS = 50_000_000
"""A round trip that takes no longer tells how the server's clock stands, ns."""
MOST_DRIFT_NS = 500_000_000
"""From one reply to the next; a clock that says more is not to be gone by, ns."""
FULL = 500
"""Status of a handshake with a machine that has all the connections that it takes."""
TRIES = 4
"""Connections that break before the handshake is done, until it is given up: a machine under a flood closes
some, one with another key closes all."""
HANDSHAKE_FAILED = {zmq.Event.HANDSHAKE_FAILED_AUTH, zmq.Event.HANDSHAKE_FAILED_PROTOCOL}
POLLIN = int(zmq.POLLIN)
"""As a number: an operation on flags runs Python code."""
WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


@dataclass(frozen=True)
class News:
    """What was taken off the subscription in one go."""

    readings: list[tuple[wire.ReadingMessage, Reading]]
    status: wire.Status | None


class Link:
    """Sockets of one client, in a context of their own; used by one thread.

    Args:
        endpoint: of the machine's commands.
        keys: None connects without encryption.
        timeout_s: for connecting, and for the reply to a request.
        name: of this client, for people.
        role: as what; never more than the key allows.
        expected: another machine, or one with other limits, is refused; None takes any.

    Raises:
        ConnectionFailed: nobody answers, or not with these keys, or not in this protocol.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        keys: ClientKeys | None,
        *,
        timeout_s: float,
        name: str,
        role: wire.Role,
        expected: wire.Welcome | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._keys = keys
        self._sequence = 0
        self.sent_ns = 0
        """When the last request was sent, monotonic clock, ns."""
        self._lost = ""
        self._status = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._dealer = self._socket(zmq.DEALER)
            self._slice_ms = -1
            self._monitor = self._dealer.get_monitor_socket(WATCHED)
            self._dealer.connect(str(endpoint))
            self._await_handshake()
            self._greet(name, role, expected)
            self._subscribe()
        except BaseException:
            self.close()
            raise

    # Connecting

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.reconnect_ivl = 20
        socket.ipv6 = self.endpoint.ipv6
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES + SLACK_BYTES)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 2000)
        if self._keys is not None:
            socket.curve_serverkey = self._keys.server
            socket.curve_publickey = self._keys.public
            socket.curve_secretkey = self._keys.secret
        return socket

    def _await_handshake(self) -> None:
        deadline_s = time.monotonic() + self.timeout_s
        broken = 0
        connected = False
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not self._monitor.poll(math.ceil(left_s * 1e3)):
                break
            event = self._event()
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                return
            if event == zmq.Event.CONNECTED:
                connected = True
            elif connected and event == zmq.Event.DISCONNECTED:
                broken += 1
            if event in HANDSHAKE_FAILED or broken == TRIES:
                raise ConnectionFailed(self._why_no_handshake(event))
        if connected:
            raise ConnectionFailed(
                f"something answers at {self.endpoint}, but not as a machine of memrl-ctrl "
                f"within {self.timeout_s:g} s; is it the right port?"
            )
        raise ConnectionFailed(
            f"nobody answers at {self.endpoint} within {self.timeout_s:g} s; "
            "is `memrl-ctrl machine` running?"
        )

    def _why_no_handshake(self, event: zmq.Event) -> str:
        if event == zmq.Event.HANDSHAKE_FAILED_AUTH and self._status == FULL:
            return (
                f"the machine at {self.endpoint} has as many connections as it takes: "
                "close other clients, then try again"
            )
        if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            return (
                f"the machine at {self.endpoint} does not accept this client's key: "
                "have it authorized there, or give the folder with the right keys (--keys)"
            )
        if self._keys is None:
            return f"the machine at {self.endpoint} wants keys: leave out --insecure-loopback"
        return (
            f"{self.endpoint} closed the connection: it is no machine of memrl-ctrl, or not the one "
            "whose server.pub is in this folder of keys, or it was started with --insecure-loopback"
        )

    def _event(self) -> zmq.Event:
        told = parse_monitor_message(self._monitor.recv_multipart())
        self._status = told["value"]
        return zmq.Event(told["event"])

    def _greet(self, name: str, role: wire.Role, expected: wire.Welcome | None) -> None:
        self.session = 0
        sent_ns = time.monotonic_ns()
        hello = wire.Hello(
            sequence=self.next_sequence(),
            oldest=wire.VERSION,
            newest=wire.VERSION,
            client=name[:200],
            role=role,
            machine=expected.machine if expected else "",
            limits_digest=expected.limits_digest if expected else "",
        )
        try:
            reply, arrays = self.request(hello)
        except Refused as refused:
            problem = f"the machine at {self.endpoint} does not take this client: {refused.detail}"
            if refused.reason is RefusalReason.MISMATCH:
                raise MismatchError(problem) from refused
            raise ConnectionFailed(problem) from refused
        if not isinstance(reply, wire.Welcome):
            raise ConnectionFailed(f"{self.endpoint} answers hello with {type(reply).__name__}")
        received_ns = time.monotonic_ns()
        # Half the round trip is the most that this can be wrong by.
        self._clock_offset_ns = reply.server_clock_ns - (sent_ns + received_ns) // 2
        self.session, self.welcome = reply.session, reply
        writable = reply.role.may(wire.Role.CONTROLLER) and reply.writable
        try:
            self.description: MachineDescription = description_from(
                reply, arrays, writable=writable
            )
            check_fits(self.description)
            names = (reply.machine, reply.program, reply.fidelity, reply.key_name)
            if not all(name.isprintable() for name in names):
                raise FrameError("a name in it cannot be shown")
            if not 0.0 < reply.lease_s <= wire.LONGEST_S:
                raise FrameError(f"a lease of {reply.lease_s} s is none")
            if reply.period_s > wire.LONGEST_S:
                raise FrameError(f"a period of {reply.period_s} s is none")
            if not 0 < reply.readings_port < 1 << 16:
                raise FrameError(f"no port has the number {reply.readings_port}")
        except (FrameError, UsageError) as error:
            raise ConnectionFailed(f"the welcome of {self.endpoint} is wrong: {error}") from error

    def _subscribe(self) -> None:
        """Subscribe, and wait for the status that every new subscriber gets: then it is in force."""
        readings = self.endpoint.at(self.welcome.readings_port)
        self._subscriber = self._socket(zmq.SUB)
        self._subscriber.set_hwm(8)
        # In this order: whoever gets the status has the readings too.
        self._subscriber.subscribe(wire.TOPIC_READING)
        self._subscriber.subscribe(wire.TOPIC_STATUS)
        refused = self._subscriber.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        self._subscriber.connect(str(readings))
        self._poller = zmq.Poller()
        for source in (self._subscriber, self._monitor, refused):
            self._poller.register(source, zmq.POLLIN)
        deadline_s = time.monotonic() + self.timeout_s
        try:
            while (left_s := deadline_s - time.monotonic()) > 0:
                if self.news(left_s) is not None:
                    return
                if refused.poll(0):
                    self._status = parse_monitor_message(refused.recv_multipart())["value"]
                    raise ConnectionFailed(self._why_no_handshake(zmq.Event.HANDSHAKE_FAILED_AUTH))
        finally:
            self._poller.unregister(refused)
            self._subscriber.disable_monitor()
            refused.close(linger=0)
        raise ConnectionFailed(
            f"commands are answered at {self.endpoint}, but nothing is published at {readings} "
            f"within {self.timeout_s:g} s; is that port let through?"
        )

    @property
    def lost(self) -> str:
        """Why the connection is no more, or empty."""
        return self._lost

    # Requests

    def next_sequence(self) -> int:
        """Return the sequence number of the next request."""
        self._sequence += 1
        return self._sequence

    def server_clock_ns(self, in_s: float = 0.0) -> int:
        """Return the server's clock, `in_s` from now, ns."""
        return max(0, time.monotonic_ns() + self._clock_offset_ns + int(in_s * 1e9))

    def note_clock(self, server_ns: int) -> None:
        """Take the server's clock anew from the reply to the last request, which was just received.

        Clocks drift apart: at 50 ppm by a Booster cycle in seven hours, after which every deadline would be
        missed. Half the round trip is the most that it can be wrong by; a slow one says less than is known.

        Args:
            server_ns: the server's clock when it answered.
        """
        now_ns = time.monotonic_ns()
        offset_ns = server_ns - (self.sent_ns + now_ns) // 2
        drifted_ns = abs(offset_ns - self._clock_offset_ns)
        if now_ns - self.sent_ns <= QUICK_NS and drifted_ns <= MOST_DRIFT_NS:
            self._clock_offset_ns = offset_ns

    def own_clock_ns(self, server_ns: int) -> int:
        """Return this process's monotonic clock at a time of the server's, ns."""
        return server_ns - self._clock_offset_ns

    def request(
        self,
        message: wire.Hello | wire.Request,
        arrays: dict[str, Any] | None = None,
        *,
        extra_s: float = 0.0,
    ) -> tuple[wire.AnyReply, wire.Arrays]:
        """Send a request and return its reply.

        Args:
            message: with a sequence number of its own.
            arrays: what goes with it.
            extra_s: how much longer than usual the reply may take.

        Raises:
            Refused: the machine refused.
            ConnectionFailed: the machine is gone, or does not reply.
        """
        self.check_alive()
        packed = pack(message, arrays)
        if len(packed) > MAX_BYTES:
            raise Refused(
                RefusalReason.INVALID,
                f"a request of {len(packed)} bytes is not sent: a machine takes {MAX_BYTES} at most",
            )
        self._dealer.send(packed)
        self.sent_ns = time.monotonic_ns()
        allowed_s = self.timeout_s + extra_s
        deadline_s = time.monotonic() + allowed_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                data = self._receive(left_s)
            except zmq.Again:
                self.check_alive()
                continue
            reply, replied = self._decode(data)
            if reply.sequence in {0, message.sequence}:
                if isinstance(reply, wire.Refusal):
                    raise Refused(reply.reason, clean(reply.detail))
                return reply, replied
        raise ConnectionFailed(
            f"the machine at {self.endpoint} did not reply within {allowed_s:.1f} s; whether it did "
            "what was asked shows in its next reading"
        )

    def _receive(self, left_s: float) -> memoryview:
        """Wait for a message, for some time at most; raises `zmq.Again`.

        A blocking receive is quicker than a poll of several sockets; that the connection broke is
        noticed in between.
        """
        slice_ms = min(math.ceil(left_s * 1e3), SLICE_MS)
        if slice_ms != self._slice_ms:
            self._dealer.rcvtimeo = self._slice_ms = slice_ms
        return self._dealer.recv(copy=False).buffer

    def _decode(self, data: memoryview) -> tuple[wire.AnyReply, wire.Arrays]:
        try:
            return unpack(data, wire.replies)
        except FrameError as error:
            raise ConnectionFailed(f"{self.endpoint} answers in another form: {error}") from error

    # What is published

    def news(self, wait_s: float) -> News | None:
        """Return everything that has been published since the last call.

        Args:
            wait_s: how long to wait for the first of it.

        Returns:
            None where nothing came in time.

        Raises:
            ConnectionFailed: the machine has stopped, is gone, or publishes in another form.
        """
        self.check_alive()
        ready = dict(self._poller.poll(math.ceil(max(0.0, wait_s) * 1e3)))
        if self._subscriber not in ready:
            self.check_alive()
            return None
        readings: list[tuple[wire.ReadingMessage, Reading]] = []
        status: wire.Status | None = None
        with contextlib.suppress(zmq.Again):
            while True:
                parts = self._subscriber.recv_multipart(zmq.NOBLOCK)
                message, arrays = self._decode_published(parts)
                if isinstance(message, wire.ReadingMessage):
                    readings.append((message, self.reading(message, arrays)))
                elif isinstance(message, wire.Status):
                    status = message
                elif isinstance(message, wire.Goodbye):
                    self._lost = self._ended(message)
                    break
        if not readings and status is None:
            self.check_alive()
        return News(readings, status)

    def reading(self, message: wire.ReadingMessage, arrays: wire.Arrays) -> Reading:
        """Make a reading; raises `ConnectionFailed` where it does not fit the description."""
        try:
            return reading_from(message, arrays, self.description)
        except FrameError as error:
            raise ConnectionFailed(f"a reading of {self.endpoint} is wrong: {error}") from error

    def _decode_published(self, parts: list[bytes]) -> tuple[wire.AnyPublished, wire.Arrays]:
        try:
            if len(parts) != 2:
                raise FrameError(f"{len(parts)} parts, not a topic and a message")
            return unpack(parts[1], wire.published)
        except FrameError as error:
            raise ConnectionFailed(f"{self.endpoint} publishes in another form: {error}") from error

    def lose(self, why: str) -> NoReturn:
        """Give the connection up; raises `ConnectionFailed`."""
        self._lost = self._lost or why
        raise ConnectionFailed(self._lost)

    def check_alive(self) -> None:
        """Raise `ConnectionFailed` once the connection has broken or the machine has ended."""
        while not self._lost and self._monitor.getsockopt(zmq.EVENTS) & POLLIN:  # type: ignore[operator]
            if self._event() == zmq.Event.DISCONNECTED:
                self._lost = self._last_words()
        if self._lost:
            raise ConnectionFailed(self._lost)

    def _ended(self, goodbye: wire.Goodbye) -> str:
        return f"the machine at {self.endpoint} has ended: {clean(goodbye.why)}"

    def _last_words(self) -> str:
        """Return why the connection broke: in the machine's own words where it left some."""
        subscriber = getattr(self, "_subscriber", None)
        # Bounded: the socket connects again by itself, and hears a machine that was started again.
        ends_s = time.monotonic() + LAST_WORDS_MS / 1e3
        while (
            subscriber is not None
            and (left_s := ends_s - time.monotonic()) > 0
            and subscriber.poll(math.ceil(left_s * 1e3))
        ):
            message, _ = self._decode_published(subscriber.recv_multipart())
            if isinstance(message, wire.Goodbye):
                return self._ended(message)
        return f"the machine at {self.endpoint} has gone: the connection broke"

    def close(self) -> None:
        """Close the sockets; may be called twice."""
        self._lost = self._lost or f"the connection to {self.endpoint} was closed"
        if not self._context.closed:
            if hasattr(self, "_monitor"):
                self._dealer.disable_monitor()
            self._context.destroy(linger=0)
