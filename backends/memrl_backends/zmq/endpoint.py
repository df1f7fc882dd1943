"""Endpoints: `tcp://HOST:PORT`, and which of them stay on this machine."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from memrl_ctrl.errors import UsageError

DEFAULT = "tcp://127.0.0.1:5750"
"""Where commands go; readings are published one port higher."""
_FORM = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._*-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Endpoint:
    """A host and a port."""

    host: str
    """Name or address; an IPv6 address in brackets; `*` for every interface."""
    port: int
    """0 lets a server take any free port."""

    def __str__(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    @property
    def ipv6(self) -> bool:
        """Whether the host is an IPv6 address."""
        return self.host.startswith("[")

    @property
    def loopback(self) -> bool:
        """Whether nobody from outside this machine can get there."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    def at(self, port: int) -> Endpoint:
        """Return the same host with another port."""
        return Endpoint(self.host, port)


def parse(text: str) -> Endpoint:
    """Read an endpoint.

    Raises:
        UsageError: it is not of the form `tcp://HOST:PORT`.
    """
    found = _FORM.fullmatch(text.strip())
    if not found or int(found["port"]) > 65535:
        raise UsageError(f"endpoint {text!r} is not of the form tcp://HOST:PORT, as {DEFAULT}")
    host = "127.0.0.1" if found["host"] == "localhost" else found["host"]
    return Endpoint(host, int(found["port"]))
