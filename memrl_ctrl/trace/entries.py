"""A whole record of a journal, and whether it is one of the run that the journal is of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from memrl_ctrl.trace.codec import Record
from memrl_ctrl.trace.headers import copy_hashes
from memrl_ctrl.trace.journal import FIRST, HEAD
from memrl_ctrl.trace.memories import NOWHERE, Place
from memrl_ctrl.trace.records import TraceHeader

OF_ANOTHER_RUN = "the header of another run stands here, and what follows is of another run too"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A whole record and where it stands."""

    offset: int
    head: bytes
    """As it is in the record's plain form."""
    sequence: int
    size: int
    """Length in the file."""
    payload: bytes
    """In its plain form."""
    record: Record
    source: int = NOWHERE
    """Offset of the record that the policy's memory stands in; -1 where it stands in this one."""
    incomplete: bool = False
    """Whether that record is lost: the memory that went in is then NaN."""

    @property
    def place(self) -> Place:
        """What its plain head says."""
        _, _, version, kind, _, sequence, previous = HEAD.unpack(self.head)
        return Place(self.offset, kind, sequence, previous, version)

    @property
    def hash(self) -> bytes:
        """SHA-256 of head and payload in their plain form."""
        digest = hashlib.sha256(self.head)
        digest.update(self.payload)
        return digest.digest()

    @property
    def previous(self) -> bytes:
        """Hash of the previous record, as this one's head has it."""
        return self.head[-len(FIRST) :]


class Origin:
    """Tells the records of a run from those of another one whose journal was joined to it.

    A whole header of another run says where that one begins. Behind it only what the chain of hashes
    leads back to this run is believed to be of this run.

    Args:
        header: the record that is this run's header.
    """

    def __init__(self, header: Entry) -> None:
        self._run_id = _run_of(header)
        self._copies = copy_hashes(header)
        self._joined_at: int | None = None

    def objection(self, entry: Entry, last: Entry | None) -> str:
        """Return why a whole record is not of this run; empty where nothing says so.

        Args:
            entry: the record.
            last: the last one that is.
        """
        if isinstance(entry.record, TraceHeader) and entry.hash not in self._copies:
            if _run_of(entry) == self._run_id:
                return "it is a header, and not that of this run"
            if self._joined_at is None or entry.offset < self._joined_at:
                self._joined_at = entry.offset
            return OF_ANOTHER_RUN
        if self._joined_at is None or entry.offset < self._joined_at or self._linked(entry, last):
            return ""
        return "it is of another run, whose header stands before it"

    def accept(self, entry: Entry) -> None:
        """Note that a record is this run's: what another run left lies before it."""
        if self._joined_at is not None and entry.offset > self._joined_at:
            self._joined_at = None

    def joined_between(self, start: int, end: int) -> int | None:
        """Return where another run begins behind an offset and before another one; None if it does not."""
        at = self._joined_at
        return at if at is not None and start < at < end else None

    def _linked(self, entry: Entry, last: Entry | None) -> bool:
        if isinstance(entry.record, TraceHeader) or entry.previous in self._copies:
            return True
        return last is not None and not last.incomplete and entry.previous == last.hash


def _run_of(header: Entry) -> str:
    return header.record.run_id if isinstance(header.record, TraceHeader) else ""
