"""Whether a packed record may be believed that takes the memory of a policy from the cycle before it.

A packed record holds the checksum of its plain form (`docs/trace-format.md`, 1.5). Made from the right
earlier cycle and not giving that checksum, it was altered. Only where the earlier cycle is lost, or is
itself not what was recorded, a part of the record is lost with it and nothing more can be said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from memrl_ctrl.frames import FrameError
from memrl_ctrl.trace.codec import Kind
from memrl_ctrl.trace.journal import HEAD, record_head
from memrl_ctrl.trace.packing import Packed, unpacked

NOWHERE = -1
"""As an offset: the record takes no memory from another one."""


class Place(NamedTuple):
    """What a record's head says, and where it stands."""

    offset: int
    kind: int
    sequence: int
    previous: bytes
    version: int

    def plain_head(self, payload: bytes) -> bytes:
        """Return the head that the record has in its plain form."""
        return record_head(self.kind, payload, self.sequence, self.previous, self.version)


class Plain(NamedTuple):
    """A packed record, unpacked."""

    payload: bytes
    source: int = NOWHERE
    """Offset of the cycle that its policy's memory stands in."""
    incomplete: bool = False
    """Whether that cycle is lost: the memory that went in is then NaN."""


class _Standing(Enum):
    OPEN = auto()
    CONFIRMED = auto()
    FALSE = auto()


@dataclass
class _Source:
    """A cycle whose memory a later one may name."""

    sequence: int
    offset: int
    payload: bytes
    digest: Callable[[], bytes] | None
    """Gives the SHA-256 of the plain record; None where a part of it is lost."""
    standing: _Standing = _Standing.OPEN


class Memories:
    """Follows the records that were accepted, and unpacks the next one."""

    def __init__(self) -> None:
        self._accepted: _Source | None = None
        self._refused: _Source | None = None
        self._since: dict[int, Callable[[], bytes] | None] = {}

    def accept(self, place: Place, payload: bytes, digest: Callable[[], bytes] | None) -> None:
        """Take the next record.

        Args:
            place: of the record.
            payload: in its plain form.
            digest: gives the hash of the record; None where a part of it is lost.
        """
        if place.kind != Kind.CYCLE:
            self._since[place.sequence] = digest
            return
        self._accepted = _Source(place.sequence, place.offset, payload, digest)
        self._refused = None
        self._since.clear()

    def confirm(self, sequence: int) -> None:
        """Note that a record's successor has its hash."""
        if self._accepted is not None and self._accepted.sequence == sequence:
            self._accepted.standing = _Standing.CONFIRMED

    def deny(self, sequence: int) -> None:
        """Note that a record's successor has another hash: it counts as lost."""
        self._since.pop(sequence, None)
        if self._accepted is not None and self._accepted.sequence == sequence:
            self._accepted.standing = _Standing.FALSE

    def plain(self, small: Packed, place: Place, goes_on: Callable[[bytes], bool]) -> Plain:
        """Return the plain form of a packed record.

        Args:
            small: its payload.
            place: of the record.
            goes_on: whether the next cycle takes its memory from this one, which has a plain payload of its
                own, or of the part of it that is not lost.

        Raises:
            FrameError: it is not what was recorded.
        """
        if not small.earlier:
            return Plain(_exact(small, place, None))
        source = self._source(small.earlier)
        if source is None:
            self._check_lost(small.earlier, place)
            return Plain(unpacked(small, None, lost=True), incomplete=True)
        try:
            return Plain(_exact(small, place, source.payload), source.offset)
        except FrameError:
            if source.standing is _Standing.FALSE:
                return Plain(unpacked(small, None, lost=True), incomplete=True)
            rest = unpacked(small, None, lost=True)
            if not self._confirmed(source, place) and goes_on(rest):
                return Plain(rest, incomplete=True)
            if self._accepted is None or place.sequence > self._accepted.sequence:
                refused = _Source(place.sequence, place.offset, rest, None, _Standing.FALSE)
                self._refused = refused
            raise

    def _source(self, sequence: int) -> _Source | None:
        for source in (self._refused, self._accepted):
            if source is not None and source.sequence == sequence:
                return source
        return None

    def _check_lost(self, earlier: int, place: Place) -> None:
        """Check that a cycle which is not there can have been lost between the last one and this.

        Raises:
            FrameError: another cycle, or another record, stands where it would have to be.
        """
        last = -1 if self._accepted is None else self._accepted.sequence
        digest = self._since.get(earlier)
        denied = digest is not None and earlier + 1 == place.sequence and place.previous != digest()
        if not last < earlier < place.sequence or (earlier in self._since and not denied):
            raise FrameError(
                f"it takes a memory from record {earlier}, which is not the cycle before it"
            )

    def _confirmed(self, source: _Source, place: Place) -> bool:
        if source.standing is _Standing.CONFIRMED:
            return True
        if source.digest is None or place.sequence != source.sequence + 1:
            return False
        return place.previous == source.digest()


def unpacked_from(small: Packed, place: Place, earlier: bytes | None) -> Plain:
    """Return the plain form of a packed record that was believed before.

    Args:
        small: its payload.
        place: of the record.
        earlier: plain payload of the cycle that it takes its memory from; None where that is lost.

    Raises:
        FrameError: it is not what was recorded.
    """
    if small.earlier and earlier is None:
        return Plain(unpacked(small, None, lost=True), incomplete=True)
    return Plain(_exact(small, place, earlier))


def fits(small: Packed, place: Place, earlier: bytes) -> bool:
    """Whether a packed record takes its memory from a cycle."""
    try:
        _exact(small, place, earlier)
    except FrameError:
        return False
    return True


def _exact(small: Packed, place: Place, earlier: bytes | None) -> bytes:
    """Return the plain payload.

    Raises:
        FrameError: it cannot be unpacked, or has another checksum than was recorded.
    """
    payload = unpacked(small, earlier)
    if HEAD.unpack(place.plain_head(payload))[1] != small.crc:
        raise FrameError("unpacked it is not what was recorded")
    return payload
