"""How many connections there may be: of all, of one key, and of those that have not said who they are.

libzmq takes every connection that the system hands it, and knows no limit but the time of a handshake. So its
sockets are watched: the monitor tells the descriptor of a connection that came and of one that went, a
client's first words (`hello`, a subscription) carry descriptor and key, and in between it is *silent*: it may
be unfinished, or let in and saying nothing. Of silent ones there are so many, for so long; what is beyond
is hung up on. One too many of a role or a key is refused at the handshake, by a status that the client sees.

Nor does libzmq limit how many parts a message has, and it hands out whole ones only: what a connection has
sent since its last whole message is asked of the system, and who sends too much of it is hung up on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket as sockets
import struct
import time
from collections import Counter, deque
from collections.abc import Collection, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

from memrl_backends.zmq.wire import Role

MOST = {Role.OBSERVER: 384, Role.RECOMMENDER: 384, Role.CONTROLLER: 480, Role.OPERATOR: 512}
"""Connections on both ports together (a client has one on each) up to which a role is let in, so that
observers keep no controller out, and neither of them an operator."""
MOST_OF_KEY = 128
"""Connections of one key on both ports together: as many clients as it may have sessions."""
MOST_SILENT = 256
"""Connections that have not said who they are; of more the oldest of the address that has most is closed."""
HANDSHAKE_S = 2.5
"""After this long a connection has finished its handshake (it may take 2 s) or is closed, s."""
SILENT_S = 5.0
"""After this long one that has said nothing is closed, s."""
MOST_UNREAD = 8 << 20
"""Bytes that a connection may send without a whole message among them (one message, and what the system
keeps of more), ..."""
MOST_UNREAD_IN_ALL = 64 << 20
"""... and all connections together."""
WEIGH_S = 0.1
"""Time between two looks at that, s."""
BYTES_RECEIVED = struct.Struct("<Q"), 128
"""Of `struct tcp_info` (linux/tcp.h, since 4.1): the field tcpi_bytes_received, and where it stands."""
DESCRIPTORS = 4096
"""So many files and connections a server asks the system for, if it has fewer."""
WATCHED = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED

Socket = zmq.Socket[bytes]


@dataclass(slots=True)
class Connection:
    """One connection."""

    kind: int
    """Of the socket that it came to."""
    came_s: float
    user: str | None = None
    """Whose it is, once it has said something; None before."""
    address: str | None = None
    """From where; None until it is asked for."""
    heard: bool = False
    """Whether a whole message came over it since it was weighed last."""
    read_bytes: int = 0
    """What had come over it when that was so."""


class Doors:
    """Counts the connections of a server's sockets, by the descriptors that their monitors tell.

    Args:
        context: that of the sockets.
        ports: on which they listen; nothing else is ever hung up on.
    """

    def __init__(self, context: zmq.Context[Socket], ports: Collection[int]) -> None:
        self._context = context
        self._monitors: dict[int, Socket] = {}
        self._here: dict[int, Connection] = {}  # by descriptor
        self._silent: dict[int, Connection] = {}  # those of them, in the order in which they came
        self._let_in: deque[tuple[float, str]] = deque()
        self._made = 0
        self._weighed_s = 0.0
        self._hand = _Hand(ports)

    @property
    def sources(self) -> list[Socket]:
        """What to poll, to `look` when there is something."""
        return list(self._monitors.values())

    @property
    def silent(self) -> int:
        """How many connections have not said who they are."""
        return len(self._silent)

    def inside(self, now_s: float) -> int:
        """Return how many connections finished the handshake, or are about to; never too few."""
        recent = sum(when >= now_s - HANDSHAKE_S for when, _ in self._let_in)
        return recent + sum(one.came_s < now_s - HANDSHAKE_S for one in self._here.values())

    def of_key(self, user: str, now_s: float) -> int:
        """Return how many connections a key has; never too few, as who stays silent is closed."""
        recent = sum(whose == user for when, whose in self._let_in if when >= now_s - SILENT_S)
        return recent + sum(
            one.user == user and one.came_s < now_s - SILENT_S for one in self._here.values()
        )

    def watch(self, socket: Socket) -> None:
        """Watch a socket that is not bound yet; it takes the place of the one of its kind."""
        kind = int(socket.type)
        if (before := self._monitors.pop(kind, None)) is not None:
            before.close(linger=0)
        for descriptor in [fd for fd, one in self._here.items() if one.kind == kind]:
            self._went(descriptor, kind)
        self._made += 1
        address = f"inproc://doors-{self._made}"
        socket.monitor(address, WATCHED)
        monitor = self._context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.rcvhwm = 0  # never full: libzmq's own thread would wait for this one
        monitor.connect(address)
        self._monitors[kind] = monitor

    def look(self, ready: Container[object] | None = None) -> None:
        """Take in who came and went; hang up on who is silent too long, one too many, or too heavy.

        Args:
            ready: those of the `sources` that have something to tell; all are looked at without.
        """
        now_s = time.monotonic()
        for kind, monitor in self._monitors.items():
            if ready is not None and monitor not in ready:
                continue
            with contextlib.suppress(zmq.Again):
                while True:
                    told = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
                    descriptor = told["value"]
                    if told["event"] == zmq.EVENT_ACCEPTED:
                        self._silent.pop(descriptor, None)  # to stand behind the others
                        came = Connection(kind, now_s)
                        self._here[descriptor] = self._silent[descriptor] = came
                        self._hang_up_beyond()
                    else:
                        self._went(descriptor, kind)
        while self._silent:
            descriptor, oldest = next(iter(self._silent.items()))
            if oldest.came_s >= now_s - SILENT_S:
                break
            self._hang_up(descriptor)
        if now_s - self._weighed_s >= WEIGH_S:
            self._weighed_s = now_s
            self._weigh()

    def spoke(self, frame: zmq.Frame, user: str) -> None:
        """Note whose connection a frame came over.

        That it came is known: it was let in before its first frame, and `let_in` looks.
        """
        descriptor = _descriptor_of(frame)
        self._silent.pop(descriptor, None)
        if (one := self._here.get(descriptor)) is not None:
            one.user, one.heard = user, True

    def heard(self, frame: zmq.Frame) -> None:
        """Note that a whole message came, of which this is a part."""
        if (one := self._here.get(_descriptor_of(frame))) is not None:
            one.heard = True

    def let_in(self, role: Role, user: str) -> bool:
        """Whether one more connection may come in; it is counted if so.

        Args:
            role: of its key.
            user: the key; empty where there are none.
        """
        self.look()
        now_s = time.monotonic()
        while self._let_in and self._let_in[0][0] < now_s - SILENT_S:
            self._let_in.popleft()
        if user and self.of_key(user, now_s) >= MOST_OF_KEY:
            return False
        if self.inside(now_s) >= MOST[role]:
            return False
        self._let_in.append((now_s, user))
        return True

    def close(self) -> None:
        """Let go of what it keeps of its own; the sockets are the context's."""
        self._hand.close()

    def _went(self, descriptor: int, kind: int) -> None:
        # The other socket may have got the same descriptor before this is told.
        if descriptor in self._here and self._here[descriptor].kind == kind:
            del self._here[descriptor]
            self._silent.pop(descriptor, None)

    def _weigh(self) -> None:
        """Hang up on who sends without end, and nothing whole."""
        unread: dict[int, int] = {}
        for descriptor, one in self._here.items():
            received = _bytes_received(descriptor)
            if one.heard:
                one.heard, one.read_bytes = False, received
            unread[descriptor] = received - one.read_bytes
        in_all = sum(unread.values())
        for descriptor in sorted(unread, key=unread.__getitem__, reverse=True):
            if unread[descriptor] <= MOST_UNREAD and in_all <= MOST_UNREAD_IN_ALL:
                return
            self._hand.hang_up(descriptor)
            in_all -= unread[descriptor]

    def _hang_up(self, descriptor: int) -> None:
        """End a connection; that it has gone is told by the monitor."""
        del self._silent[descriptor]
        self._hand.hang_up(descriptor)

    def _hang_up_beyond(self) -> None:
        while len(self._silent) > MOST_SILENT:
            self._hang_up(self._of_the_busiest())

    def _of_the_busiest(self) -> int:
        """Return the oldest silent connection of the address that has most of them."""
        for descriptor, one in self._silent.items():
            if one.address is None:
                one.address = self._hand.address_of(descriptor)
        (busiest, _), *_ = Counter(one.address for one in self._silent.values()).most_common(1)
        return next(fd for fd, one in self._silent.items() if one.address == busiest)


class _Hand:
    """Reaches for connections that belong to libzmq, which may close one at any time.

    It holds one by a descriptor of its own, made in advance: none may be left when it is needed. What has
    taken a connection's place in between, and is of another port or no connection at all, is let be.
    """

    def __init__(self, ports: Collection[int]) -> None:
        self._ports = ports
        self._nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._own = os.dup(self._nothing)

    @contextmanager
    def _held(self, descriptor: int) -> Iterator[sockets.socket]:
        os.dup2(descriptor, self._own, inheritable=False)
        try:
            held = sockets.socket(fileno=self._own)
            try:
                if held.getsockname()[1] not in self._ports:
                    raise OSError("another one")
                yield held
            finally:
                held.detach()
        finally:
            os.dup2(self._nothing, self._own, inheritable=False)

    def address_of(self, descriptor: int) -> str:
        """Return where a connection comes from; empty where it is no more."""
        with contextlib.suppress(OSError), self._held(descriptor) as held:
            return str(held.getpeername()[0])
        return ""

    def hang_up(self, descriptor: int) -> None:
        """End a connection: libzmq sees its end, and closes it."""
        with contextlib.suppress(OSError), self._held(descriptor) as held:
            held.shutdown(sockets.SHUT_RDWR)

    def close(self) -> None:
        """Close its own descriptors; may be called twice."""
        for descriptor in (self._own, self._nothing):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._own = self._nothing = -1


def _descriptor_of(frame: zmq.Frame) -> int:
    """Return the connection that a frame came over; -1 for one of the socket's own (a subscription's end)."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _bytes_received(descriptor: int) -> int:
    """Return what has come over a connection; 0 where the system does not tell, or it is no more."""
    field, place = BYTES_RECEIVED
    try:
        looked_at = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM, 0, descriptor)
        try:
            told = looked_at.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, place + field.size)
        finally:
            looked_at.detach()
        (received,) = field.unpack_from(told, place)
    except (AttributeError, OSError, struct.error):  # another system than Linux has no TCP_INFO
        return 0
    return int(received)


def ask_for_descriptors() -> int:
    """Have the system allow this process `DESCRIPTORS`, as far as it may; return how many it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
