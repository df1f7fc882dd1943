"""A machine as an EPICS PV Access device (extra `epics`): a client backend and a server.

The library p4p is imported when one of them is made.
"""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memrl_backends.epics.client import EpicsBackend, EpicsSource

DEFAULT_PREFIX = "MEMRL:"
"""What the names of a machine's process variables begin with unless told otherwise."""


def open_backend(
    *,
    prefix: str = DEFAULT_PREFIX,
    address: str | None = None,
    name: str | None = None,
    read_only: bool = False,
) -> EpicsSource | EpicsBackend:
    """Connect to a machine over PV Access.

    Args:
        prefix: what the names of its process variables begin with.
        address: host, or host:port; None searches as EPICS_PVA_ADDR_LIST and its kind say.
        name: who is in control, for others to see; the account and host unless given.
        read_only: without any means to write.

    Raises:
        UsageError: an address that is none.
        ConnectionFailed: nobody answers.
    """
    from memrl_backends.epics.client import EpicsBackend, EpicsSource

    if read_only:
        return EpicsSource(prefix, address)
    return EpicsBackend(prefix, address, name or f"{getpass.getuser()}@{os.uname().nodename}")
