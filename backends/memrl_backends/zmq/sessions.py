"""Clients after their hello: who they are, as what, and what they were answered last."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from memrl_backends.zmq import wire
from memrl_backends.zmq.keys import Peer
from memrl_backends.zmq.wire import Role
from memrl_ctrl.backend import FloatArray
from memrl_ctrl.errors import RefusalReason, Refused

MAX_SESSIONS = 64
"""Sessions of one key that are remembered; of these the one that was silent longest gives way."""
CLIENT_NAME = 200
"""Characters of a client's name that are kept."""


@dataclass(frozen=True)
class Staged:
    """A function that was laid down."""

    cycle: int
    phi_hw_rad: FloatArray
    """The whole function [points], rad."""
    content: str
    """Digest of what was asked for."""


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
    staged: Staged | None = None
    recommended_for: int = -1
    """Newest cycle that something was recommended for."""
    last_sequence: int = 0
    last_reply: bytes = field(default=b"", repr=False)

    def need(self, role: Role, what: str) -> None:
        """Refuse a role that may not do this."""
        if not self.role.may(role):
            raise Refused(
                RefusalReason.READ_ONLY,
                f"{self.name} is {_article(self.role)}: only {_article(role)}'s key may {what}",
            )


class Sessions:
    """All sessions of a server, bounded in number for every key."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._dropped: dict[Peer, deque[int]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, identity: bytes, peer: Peer, hello: wire.Hello, holder: int) -> Session:
        """Begin a session.

        Args:
            identity: of the connection.
            peer: owner of its key.
            hello: what the client said.
            holder: number of the session that holds the lease, which is never forgotten; 0 for none.
        """
        role = peer.role if hello.role is None or hello.role.may(peer.role) else hello.role
        number = secrets.randbits(62) + 1
        name = wire.fitting(f"{hello.client[:CLIENT_NAME]} ({peer.name})")
        made = self._sessions[number] = Session(number, identity, peer, name, role)
        own = [n for n, session in self._sessions.items() if session.peer == peer]
        for old in [n for n in own if n != holder][: max(0, len(own) - MAX_SESSIONS)]:
            del self._sessions[old]
            self._dropped.setdefault(peer, deque(maxlen=MAX_SESSIONS)).append(old)
        return made

    def find(self, identity: bytes, peer: Peer, number: int) -> Session:
        """Return the session of a request.

        Raises:
            Refused: it is not known, or not that of this connection and key.
        """
        session = self._sessions.get(number)
        if session is None and number in self._dropped.get(peer, ()):
            raise Refused(
                RefusalReason.STALE,
                f"session {number} gave way: the key of {peer.name} has more than {MAX_SESSIONS} "
                "sessions, and it was silent longest; close clients that are not needed, then say hello "
                "again",
            )
        if session is None or session.identity != identity or session.peer != peer:
            raise Refused(
                RefusalReason.STALE,
                f"session {number} is not known on this connection: say hello again",
            )
        self._sessions.move_to_end(number)
        return session

    def forget(self, peer: Peer) -> list[int]:
        """End all sessions of a key that is no longer authorized; return their numbers."""
        self._dropped.pop(peer, None)
        gone = [n for n, session in self._sessions.items() if session.peer == peer]
        for number in gone:
            del self._sessions[number]
        return gone


def _article(role: Role) -> str:
    return f"an {role.value}" if role.value[0] in "aeiou" else f"a {role.value}"
