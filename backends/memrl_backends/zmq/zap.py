"""Authentication: the ZAP handler (RFC 27) that libzmq asks about every connection."""

from __future__ import annotations

from collections.abc import Callable

import zmq
from zmq.utils import z85

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"memrl-ctrl"
"""The sockets name it; a request from another domain is refused."""
FULL = b"500"
"""Status of a connection that is one too many; 300 would be silent at the client."""
INSECURE = "insecure"
"""User id where there are no keys."""


class ZapHandler:
    """Answers libzmq's questions from the server's own loop; no thread.

    Args:
        context: that of the sockets it speaks for; made before they bind.
        known: whether a public key (z85) may connect; None where there are no keys.
        room: whether there is room for one more connection of a key that may connect.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        known: Callable[[str], bool] | None,
        room: Callable[[str], bool] = lambda _user: True,
    ) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(ENDPOINT)
        self._known, self._room = known, room
        self.refused = 0

    def answer(self) -> None:
        """Answer one question; the user id is the client's public key in z85."""
        version, request, domain, _address, _identity, mechanism, *credentials = (
            self.socket.recv_multipart()
        )
        user = b""
        if domain == DOMAIN and version == b"1.0":
            if mechanism == b"NULL" and self._known is None:
                user = INSECURE.encode()
            elif mechanism == b"CURVE" and self._known is not None and len(credentials) == 1:
                key = z85.encode(credentials[0])
                user = key if self._known(key.decode()) else b""
        if not user:
            self.refused += 1
        status, text = (b"200", b"OK") if user else (b"400", b"this key is not authorized here")
        if user and not self._room(user.decode()):
            status, text, user = FULL, b"too many connections", b""
        self.socket.send_multipart([b"1.0", request, status, text, user, b""])

    def close(self) -> None:
        """Answer no more."""
        self.socket.close()
