"""The socket that readings are published on: what a subscriber may cost, and how one is shut out.

libzmq keeps what its subscribers ask for in a tree of about 50 bytes a character, without a bound of its own.
So what they hold is counted here; beyond `MOST_BYTES` the socket is made anew, and the key that asked for
most of it is shut out for a while. Every other subscriber connects again by itself, within some ten ms.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable

import zmq

from memrl_backends.zmq.endpoint import Endpoint

AHEAD = 8
"""Messages that wait for a slow subscriber; later ones are not sent to it."""
LARGEST_MESSAGE = 512
"""Nobody sends more than a handshake and a topic here, bytes."""
MOST_BYTES = 64 * 1024
"""Subscriptions that all subscribers together may hold, bytes ..."""
EACH_BYTES = 16
"""... and each counts as so many more than its topic."""
SHUT_OUT_S = 600.0
"""How long a key is shut out that asked for too much, s."""
AT_ONCE = 64
"""Subscriptions that are looked at in one go, so that a flood cannot stop the cycles."""
BIND_S = 2.0
"""How long a port that was just given up may take to be free again, s."""

Socket = zmq.Socket[bytes]


class Publisher:
    """Publishes, and counts what subscribers ask for.

    Args:
        make: returns a new socket of a kind, with keys and limits set.
        endpoint: where it is bound.
        heard: told of everything that comes in, and of whose key it is.

    Raises:
        zmq.ZMQError: it cannot be bound.
    """

    def __init__(
        self,
        make: Callable[[int], Socket],
        endpoint: Endpoint,
        heard: Callable[[zmq.Frame, str], None] = lambda _frame, _user: None,
    ) -> None:
        self._make, self._endpoint, self._heard = make, endpoint, heard
        self._topics: Counter[bytes] = Counter()
        self._asked: Counter[str] = Counter()
        self._bytes = 0
        self._shut_out: dict[str, float] = {}
        self.reopened = 0
        """How often the socket was made anew."""
        self.socket = self._open()

    def _open(self) -> Socket:
        made = self._make(zmq.XPUB)
        made.setsockopt(zmq.XPUB_VERBOSER, 1)
        made.set_hwm(AHEAD)
        made.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
        try:
            made.bind(str(self._endpoint))
        except zmq.ZMQError:
            made.close(linger=0)
            raise
        return made

    def may_come_in(self, user: str, now_s: float) -> bool:
        """Whether a key is not shut out."""
        return self._shut_out.get(user, 0.0) <= now_s

    def send(self, topic: bytes, message: bytes) -> None:
        """Publish a message."""
        self.socket.send_multipart([topic, message])

    def take_in(self, now_s: float) -> bool:
        """Take in subscriptions; return whether there was a new one.

        Args:
            now_s: monotonic clock.
        """
        new = False
        with contextlib.suppress(zmq.Again):
            for _ in range(AT_ONCE):
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
                new |= self._count(frame)
                if self._bytes > MOST_BYTES:
                    self._shut_out_worst(now_s)
                    return False
        return new

    def _count(self, frame: zmq.Frame) -> bool:
        said, user = frame.bytes, _user(frame)
        self._heard(frame, user)
        topic = said[1:]
        cost = EACH_BYTES + len(topic)
        if said[:1] == b"\0":
            # Who ends what it never began changes nothing: its own topics stay counted.
            if self._topics[topic] > 0:
                self._topics[topic] -= 1
                self._bytes -= cost
            if self._topics[topic] <= 0:
                del self._topics[topic]
            return False
        self._topics[topic] += 1
        self._bytes += cost
        self._asked[user] += cost
        return said[:1] == b"\1"

    def _shut_out_worst(self, now_s: float) -> None:
        (user, _), *_ = self._asked.most_common(1)
        if user:
            self._shut_out = {u: t for u, t in self._shut_out.items() if t > now_s}
            self._shut_out[user] = now_s + SHUT_OUT_S
        self.reopen()

    def reopen(self) -> None:
        """Make the socket anew: every subscriber must come in again, if it still may.

        Raises:
            zmq.ZMQError: the port is not free again in time.
        """
        self.socket.close(linger=0)
        self._topics.clear()
        self._asked.clear()
        self._bytes = 0
        deadline_s = time.monotonic() + BIND_S
        while True:
            try:
                self.socket = self._open()
            except zmq.ZMQError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(1e-3)
            else:
                self.reopened += 1
                return


def _user(frame: zmq.Frame) -> str:
    """Return the key of who sent a frame; empty where there are none."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
