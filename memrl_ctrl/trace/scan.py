"""Reading a journal, whole or damaged: every whole record is found, every other place is located."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import google_crc32c

from memrl_ctrl.errors import TraceError
from memrl_ctrl.frames import FrameError
from memrl_ctrl.trace.codec import FileRecord, Kind, Record, decode, kind_of
from memrl_ctrl.trace.journal import (
    CHECKED_FROM,
    FIRST,
    HEAD,
    MARKER,
    MAX_PAYLOAD_BYTES,
    PACKED,
    READABLE_VERSIONS,
    record_head,
)
from memrl_ctrl.trace.packing import Packed, parsed, unpacked
from memrl_ctrl.trace.records import CycleRecord, EndRecord, OutcomeRecord, TraceHeader
from memrl_ctrl.trace.report import Coverage, Damage, TraceReport

BLOCK_BYTES = 1 << 20
"""Read at once while looking for the next record after a damaged place."""

Progress = Callable[[int, int], None]
"""Called with the work done and the whole of it."""


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
    earlier: int = 0
    """Sequence of the record that the policy's memory stands in; 0 where it stands in this one."""
    incomplete: bool = False
    """Whether that record is lost: the memory that went in is then NaN."""

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


class JournalReader:
    """The whole records of a journal, in order. Iterate as often as needed.

    Args:
        path: the journal; it may still be written to: what is whole when this is made counts.

    Raises:
        TraceError: it cannot be read, is no journal, or of another version, or its header is lost.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self._file).st_size
        except OSError as error:
            raise TraceError(self.path, f"cannot be read: {error.strerror}") from error
        self._damage: list[Damage] = []
        self._last: Entry | None = None
        self._last_cycle: int | None = None
        self._earlier: Entry | None = None
        try:
            self.header = self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[CycleRecord | OutcomeRecord | EndRecord]:
        for entry in self.entries():
            if isinstance(entry.record, CycleRecord | OutcomeRecord | EndRecord):
                yield entry.record

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What the last whole pass over the entries found wrong."""
        return tuple(self._damage)

    def report(self, progress: Progress | None = None) -> TraceReport:
        """Go through the journal and say what is there and what is lost."""
        summary = Summary(self)
        for entry in self.entries():
            summary.add(entry)
            if progress is not None:
                progress(entry.offset + entry.size, self.size)
        return summary.report()

    @property
    def live(self) -> bool:
        """Whether a run holds the journal open for writing."""
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def entries(self) -> Iterator[Entry]:
        """Iterate over all whole records, the header and the files included."""
        self._damage, self._last, self._last_cycle, self._earlier = [], None, None, None
        pending: Entry | None = None
        offset = 0
        while offset < self.size:
            found = self._entry(offset)
            if isinstance(found, Entry) and self._last and found.sequence <= self._last.sequence:
                found = f"record {found.sequence} stands after record {self._last.sequence}"
            if isinstance(found, str):
                offset = self._skip(offset, found, pending)
                continue
            # A record is given out once its successor has confirmed it.
            if pending is not None and not self._confirms(found, pending):
                self._note_altered(pending)
                pending = None
            if pending is not None:
                self._note(pending)
                yield pending
            self._check_sequence(found)
            self._last, pending = found, found
            if isinstance(found.record, CycleRecord):
                self._earlier = found
            offset += found.size
        if pending is not None:
            self._note(pending)
            yield pending

    def entry_at(self, offset: int, earlier: int = -1) -> Entry:
        """Return the whole record at an offset.

        Args:
            offset: where it begins in the file.
            earlier: offset of the cycle that its policy's memory stands in; -1 if in none.

        Raises:
            TraceError: no whole record stands there.
        """
        self._earlier = None
        if earlier >= 0:
            self._earlier = self.entry_at(earlier)
        found = self._entry(offset)
        self._earlier = None
        if isinstance(found, str):
            raise TraceError(self.path, f"at byte {offset}: {found}")
        return found

    def _read_header(self) -> TraceHeader:
        """Return the first whole header, with the files that follow it."""
        header: TraceHeader | None = None
        files: dict[str, bytes] = {}
        for entry in self.entries():
            if isinstance(entry.record, TraceHeader):
                header = header or entry.record
            elif isinstance(entry.record, FileRecord):
                files[entry.record.name] = entry.record.data
            else:
                break
        if header is None:
            if self._last is None:
                raise TraceError(self.path, "no trace journal: it holds no whole record")
            raise TraceError(self.path, "the journal's header is lost; nothing can be recovered")
        try:
            return dataclasses.replace(header, files=files)
        except ValueError as error:
            raise TraceError(self.path, f"header: {error}") from error

    def _bytes(self, offset: int) -> tuple[bytes, bytes] | str:
        """Return head and payload of the record at an offset, or why there is none."""
        head = os.pread(self._file, HEAD.size, offset)
        if len(head) < HEAD.size:
            return "the file ends within the head of a record"
        marker, crc, _version, _kind, length, _sequence, _previous = HEAD.unpack(head)
        if marker != MARKER:
            return "no record begins here"
        if length > MAX_PAYLOAD_BYTES:
            return f"a record claims {length} bytes; at most {MAX_PAYLOAD_BYTES} are allowed"
        if offset + HEAD.size + length > self.size:
            return f"the file ends within a record of {length} bytes"
        payload = os.pread(self._file, length, offset + HEAD.size)
        if crc != int(google_crc32c.extend(google_crc32c.value(head[CHECKED_FROM:]), payload)):
            return "the checksum does not match"
        return head, payload

    def _entry(self, offset: int) -> Entry | str:
        """Return the record at an offset, or why there is none."""
        found = self._bytes(offset)
        if isinstance(found, str):
            return found
        head, payload = found
        version, stored_kind, _, sequence, previous = HEAD.unpack(head)[2:]
        if version not in READABLE_VERSIONS:
            raise TraceError(
                self.path,
                f"journal version {version}; this release reads "
                f"{' and '.join(map(str, READABLE_VERSIONS))}",
            )
        kind, size, earlier, incomplete = stored_kind & ~PACKED, HEAD.size + len(payload), 0, False
        try:
            if stored_kind & PACKED:
                small = parsed(payload, MAX_PAYLOAD_BYTES)
                earlier = small.earlier
                payload, incomplete = self._plain(small, kind, sequence, previous, version)
                head = record_head(kind, payload, sequence, previous, version)
            record = decode(payload)
        except ValueError as error:
            return f"the record cannot be read: {error}"
        if kind_of(record) != kind:
            return f"the record is of kind {kind_of(record).name}, its head says {kind}"
        return Entry(
            offset=offset,
            head=head,
            sequence=sequence,
            size=size,
            payload=payload,
            record=record,
            earlier=earlier,
            incomplete=incomplete,
        )

    def _plain(
        self, small: Packed, kind: int, sequence: int, previous: bytes, version: int
    ) -> tuple[bytes, bool]:
        """Return a packed record's plain payload, and whether a part of it is lost.

        Raises:
            FrameError: it cannot be unpacked.
        """
        before = self._earlier
        if not small.earlier or (before is not None and before.sequence == small.earlier):
            payload = unpacked(small, before.payload if small.earlier and before else None)
            head = record_head(kind, payload, sequence, previous, version)
            if HEAD.unpack(head)[1] == small.crc:
                return payload, False
            if not small.earlier:
                raise FrameError("unpacked it is not what was recorded")
        return unpacked(small, None, lost=True), True

    def _confirms(self, entry: Entry, pending: Entry) -> bool:
        """Whether `entry` has the hash of `pending`, or cannot say."""
        if entry.sequence != pending.sequence + 1 or pending.incomplete:
            return True
        return entry.previous == pending.hash

    def _note(self, entry: Entry) -> None:
        if entry.incomplete:
            self._note_altered(
                entry, "memory", "the policy's memory before it stood in a cycle that is lost"
            )
        if isinstance(entry.record, CycleRecord):
            self._last_cycle = entry.record.cycle

    def _skip(self, offset: int, reason: str, pending: Entry | None) -> int:
        """Note a damaged place and return where the next record begins, or the file's end."""
        after = self._find(offset + 1)
        cycle = self._last_cycle
        if pending is not None and isinstance(pending.record, CycleRecord):
            cycle = pending.record.cycle
        torn = after == self.size and "ends within" in reason
        self._damage.append(
            Damage(
                kind="torn" if torn else "damaged",
                offset=offset,
                size=after - offset,
                sequence=0 if self._last is None else self._last.sequence + 1,
                after_cycle=cycle,
                text=reason,
            )
        )
        return after

    def _find(self, start: int) -> int:
        """Return the offset of the next whole record from `start` on, or the file's end."""
        minimum = -1 if self._last is None else self._last.sequence
        position = start
        while position < self.size:
            block = os.pread(self._file, BLOCK_BYTES, position)
            at = block.find(MARKER)
            while at >= 0:
                found = self._entry(position + at)
                if isinstance(found, Entry) and found.sequence > minimum:
                    return position + at
                at = block.find(MARKER, at + 1)
            if len(block) < BLOCK_BYTES:
                break
            position += len(block) - (len(MARKER) - 1)
        return self.size

    def _check_sequence(self, entry: Entry) -> None:
        """Note records that were cut out without a trace."""
        expected = 0 if self._last is None else self._last.sequence + 1
        # Behind a damaged place a jump is that place's.
        gap = bool(self._damage) and self._damage[-1].end == entry.offset
        if entry.sequence != expected and not gap:
            self._damage.append(
                Damage(
                    kind="missing",
                    offset=entry.offset,
                    size=0,
                    sequence=expected,
                    after_cycle=self._last_cycle,
                    text=f"record {entry.sequence} follows, {expected} was expected",
                )
            )

    def _note_altered(
        self,
        entry: Entry,
        kind: Literal["altered", "memory"] = "altered",
        text: str = "its content is not what the next record confirms",
    ) -> None:
        self._damage.append(
            Damage(
                kind=kind,
                offset=entry.offset,
                size=entry.size if kind == "altered" else 0,
                sequence=entry.sequence,
                after_cycle=self._last_cycle,
                text=text,
            )
        )


class Summary:
    """Counts what passes by, for the report."""

    def __init__(self, journal: JournalReader) -> None:
        self._journal = journal
        self._cycles = 0
        self._first: int | None = None
        self._last: int | None = None
        self._end: EndRecord | None = None
        self._coverage = Coverage(journal.header.run_id)

    def add(self, entry: Entry) -> None:
        """Count one record."""
        record = entry.record
        if isinstance(record, CycleRecord):
            self._cycles += 1
            self._first = record.cycle if self._first is None else self._first
            self._last = record.cycle
        elif isinstance(record, EndRecord):
            self._end = record
        self._coverage.add(entry.sequence, record, entry.previous, whole=not entry.incomplete)

    def report(self) -> TraceReport:
        """Return the report; only after the last record."""
        live = self._journal.live
        # The record that a run is writing at this moment is not lost.
        damage = tuple(d for d in self._journal.damage if not (live and d.kind == "torn"))
        return TraceReport(
            path=self._journal.path,
            cycles=self._cycles,
            first_cycle=self._first,
            last_cycle=self._last,
            end=self._end,
            live=live,
            size_bytes=self._journal.size,
            damage=(*damage, *self._coverage.false),
            signed=self._coverage.signed(),
        )


def read_journal(path: str | Path) -> JournalReader:
    """Open a journal: iterate over it for cycles, outcomes and the end.

    Raises:
        TraceError: it cannot be read, is no journal, or of another version, or its header is lost.
    """
    return JournalReader(path)


__all__ = ["Entry", "JournalReader", "Kind", "Progress", "Summary", "read_journal"]
