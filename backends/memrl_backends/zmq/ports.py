"""Ports that a server takes when it is made, and listens on later."""

from __future__ import annotations

import errno
import socket

from memrl_backends.zmq.endpoint import Endpoint
from memrl_ctrl.errors import UsageError


class Ports:
    """Two ports taken without listening, so that nobody is let in before the machine plays.

    Args:
        asked: where commands go; port 0 takes any two free ports, else the next one is for readings.

    Raises:
        UsageError: a port is in use, or no address of this computer.
    """

    def __init__(self, asked: Endpoint) -> None:
        self._reserved: list[socket.socket] = []
        try:
            self.commands = self._reserve(asked)
            self.readings = self._reserve(asked.at(self.commands.port + 1 if asked.port else 0))
        except BaseException:
            self.release()
            raise

    def _reserve(self, at: Endpoint) -> Endpoint:
        family = socket.AF_INET6 if at.ipv6 else socket.AF_INET
        reserved = socket.socket(family, socket.SOCK_STREAM)
        self._reserved.append(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind(("" if at.host == "*" else at.host.strip("[]"), at.port))
        except (OSError, OverflowError) as error:
            raise not_bound(at, error) from error
        return at.at(reserved.getsockname()[1])

    def release(self) -> None:
        """Let go of the ports; may be called twice."""
        for reserved in self._reserved:
            reserved.close()
        self._reserved.clear()


def not_bound(at: Endpoint, error: Exception) -> UsageError:
    """Return what to tell a user whose port cannot be had."""
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        return UsageError(
            f"{at} is in use: stop what runs there, or choose another --endpoint "
            "(it takes this port and the next)"
        )
    return UsageError(f"{at} cannot be bound: {error}")
