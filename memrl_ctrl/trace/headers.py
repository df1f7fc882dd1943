"""Which copy of a journal's header is that of the records behind it.

Both copies have the same payload. From either of them both records, and their hashes, can therefore be made
again, whatever stands at the other's place: the hash of the second is in record 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

from memrl_ctrl.trace.codec import Kind
from memrl_ctrl.trace.journal import FIRST, HEAD, record_head

COPIES = 2
"""How often the header stands at the beginning: as the records 0 and 1."""


class Found(Protocol):
    """A whole record."""

    @property
    def head(self) -> bytes:
        """In its plain form."""

    @property
    def payload(self) -> bytes:
        """In its plain form."""

    @property
    def sequence(self) -> int:
        """Its number."""

    @property
    def hash(self) -> bytes:
        """SHA-256 of head and payload."""

    @property
    def previous(self) -> bytes:
        """Hash of the record before it, as its head has it."""


R = TypeVar("R", bound=Found)


def copy_hashes(header: Found) -> tuple[bytes, bytes]:
    """Return the hashes that the two header records of a run have, from one of them."""
    version, previous, made = HEAD.unpack(header.head)[2], FIRST, []
    for sequence in range(COPIES):
        head = record_head(Kind.HEADER, header.payload, sequence, previous, version)
        previous = hashlib.sha256(head + header.payload).digest()
        made.append(previous)
    return made[0], made[1]


def chosen_header(headers: Sequence[R], behind: Sequence[R]) -> R | None:
    """Return the first header that the records behind it confirm, or that none of them denies.

    Args:
        headers: the copies that are whole records.
        behind: whole records from number 2 on.

    Returns:
        None where there is none: the records behind deny each copy, or the copies contradict each other.
    """
    seconds = [record for record in behind if record.sequence == COPIES]
    thirds = [record for record in behind if record.sequence == COPIES + 1]
    confirmed = {record.previous for record in seconds}
    for header in headers:
        if confirmed and copy_hashes(header)[1] in confirmed:
            return header
    hashes = {record.hash for record in seconds}
    denied = any(third.previous in hashes for third in thirds)
    if denied or len({header.payload for header in headers}) != 1:
        return None
    return headers[0]
