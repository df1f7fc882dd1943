"""How many connections there may be.

libzmq takes every connection that the system hands it. So its sockets are watched, and a connection beyond
the number for its role is refused at the handshake, by a status that the client sees. libzmq's monitor tells
the descriptor of a connection that came and of one that went, but not of one that finished its handshake: a
connection older than a handshake may take has finished it, and of younger ones those count that were let in.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque

import zmq
from zmq.utils.monitor import parse_monitor_message

from memrl_backends.zmq.wire import Role

MOST = {Role.OBSERVER: 384, Role.RECOMMENDER: 384, Role.CONTROLLER: 480, Role.OPERATOR: 512}
"""Connections on both ports together (a client has one on each) up to which a role is let in, so that
observers keep no controller out, and neither of them an operator."""
HANDSHAKE_S = 2.5
"""After this long a connection has finished its handshake (it may take 2 s) or is closed, s."""
WATCHED = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED

Socket = zmq.Socket[bytes]


class Doors:
    """Counts the connections of a server's sockets, by the descriptors that their monitors tell.

    Args:
        context: that of the sockets.
    """

    def __init__(self, context: zmq.Context[Socket]) -> None:
        self._context = context
        self._monitors: dict[int, Socket] = {}
        self._came_s: dict[int, dict[int, float]] = {}  # kind of socket: {descriptor: when it came}
        self._let_in_s: deque[float] = deque()
        self._made = 0

    @property
    def sources(self) -> list[Socket]:
        """What to poll, to `look` when there is something."""
        return list(self._monitors.values())

    def inside(self, now_s: float) -> int:
        """Return how many connections finished the handshake, or are about to; never too few."""
        while self._let_in_s and self._let_in_s[0] < now_s - HANDSHAKE_S:
            self._let_in_s.popleft()
        old = [came for of in self._came_s.values() for came in of.values()]
        return sum(came < now_s - HANDSHAKE_S for came in old) + len(self._let_in_s)

    def watch(self, socket: Socket) -> None:
        """Watch a socket that is not bound yet; it takes the place of the one of its kind."""
        kind = int(socket.type)
        if (before := self._monitors.pop(kind, None)) is not None:
            before.close(linger=0)
        self._came_s[kind] = {}
        self._made += 1
        address = f"inproc://doors-{self._made}"
        socket.monitor(address, WATCHED)
        monitor = self._context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.rcvhwm = 0  # never full: libzmq's own thread would wait for this one
        monitor.connect(address)
        self._monitors[kind] = monitor

    def look(self) -> None:
        """Take in who came and went."""
        now_s = time.monotonic()
        for kind, monitor in self._monitors.items():
            with contextlib.suppress(zmq.Again):
                while True:
                    told = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
                    if told["event"] == zmq.EVENT_ACCEPTED:
                        self._came_s[kind][told["value"]] = now_s
                    else:
                        self._came_s[kind].pop(told["value"], None)

    def let_in(self, role: Role) -> bool:
        """Whether one more connection of a role may come in; it is counted if so."""
        self.look()
        now_s = time.monotonic()
        if self.inside(now_s) >= MOST[role]:
            return False
        self._let_in_s.append(now_s)
        return True
