"""Reading a journal, whole or damaged: every whole record is found, every other place is located."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, cast

import google_crc32c

from memrl_ctrl.errors import TraceError
from memrl_ctrl.signatures import JOURNAL as MARKER
from memrl_ctrl.trace.codec import FileRecord, Kind, decode, kind_of
from memrl_ctrl.trace.entries import OF_ANOTHER_RUN, Entry, Origin
from memrl_ctrl.trace.headers import COPIES, chosen_header
from memrl_ctrl.trace.journal import (
    CHECKED_FROM,
    HEAD,
    MAX_PAYLOAD_BYTES,
    PACKED,
    READABLE_VERSIONS,
)
from memrl_ctrl.trace.lock import is_held
from memrl_ctrl.trace.memories import NOWHERE, Memories, Place, Plain, fits, unpacked_from
from memrl_ctrl.trace.packing import Packed, parsed
from memrl_ctrl.trace.records import (
    CycleRecord,
    EndRecord,
    OutcomeRecord,
    SignatureRecord,
    TraceHeader,
)
from memrl_ctrl.trace.report import Damage, TraceReport
from memrl_ctrl.trace.summary import Summary

BLOCK_BYTES = 1 << 20
"""Read at once while looking for the next record after a damaged place."""

FIRST_ENTRIES = COPIES + 2
"""The copies of the header, and two records that tell whether it is theirs."""
VERSIONS = f"this release reads {' and '.join(map(str, READABLE_VERSIONS))}"
MOST_BETWEEN_CYCLES = 2
"""Records between two cycles, at most: an outcome and a signature."""

Progress = Callable[[int, int], None]
"""Called with the work done and the whole of it."""


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
        self._copy: Entry | None = None
        self._begin()
        try:
            self._copy = self._header_copy()
            self.header = self._read_header(self._copy)
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
        return is_held(self._file)

    def _begin(self) -> None:
        self._damage: list[Damage] = []
        self._last: Entry | None = None
        self._last_cycle: int | None = None
        self._end: Entry | None = None
        self._memories = Memories()
        self._origin = None if self._copy is None else Origin(self._copy)

    def entries(self) -> Iterator[Entry]:
        """Iterate over all whole records, the header and the files included."""
        self._begin()
        pending: Entry | None = None
        offset = 0
        while offset < self.size:
            found = self._entry(offset)
            if isinstance(found, Entry):
                found = self._objection(found, pending) or found
            if isinstance(found, str):
                offset = self._skip(offset, found, pending)
                continue
            # A record is given out once its successor has confirmed it.
            if pending is not None and not self._confirms(found, pending):
                self._drop(pending)
                pending = None
            if pending is not None:
                self._note(pending)
                yield pending
            self._check_sequence(found)
            self._accept(found)
            pending = found
            offset += found.size
        if pending is not None:
            self._note(pending)
            yield pending

    def entry_at(self, offset: int, source: int = NOWHERE) -> Entry:
        """Return the whole record at an offset.

        Args:
            offset: where it begins in the file.
            source: offset of the cycle that its policy's memory stands in; -1 if in none.

        Raises:
            TraceError: no whole record stands there.
        """
        earlier = self.entry_at(source).payload if source >= 0 else None
        found = self._entry(offset, lambda small, place: unpacked_from(small, place, earlier))
        if isinstance(found, str):
            raise TraceError(self.path, f"at byte {offset}: {found}")
        return found

    def _header_copy(self) -> Entry:
        """Return the copy of the header that the records behind it confirm.

        Raises:
            TraceError: this is no journal, or of another version, or its header is lost.
        """
        first = self._first_entries()
        if not first:
            raise TraceError(self.path, "no trace journal: it holds no whole record")
        headers = [entry for entry in first if entry.sequence < COPIES]
        headers = [entry for entry in headers if isinstance(entry.record, TraceHeader)]
        chosen = chosen_header(headers, [entry for entry in first if entry.sequence >= COPIES])
        if chosen is None:
            why = ": what stands in its place is not of this run" if headers else ""
            raise TraceError(
                self.path, f"the journal's header is lost{why}; nothing can be recovered"
            )
        return chosen

    def _read_header(self, copy: Entry) -> TraceHeader:
        """Return the header that a copy holds, with the files that follow it.

        Raises:
            TraceError: they do not fit.
        """
        files: dict[str, bytes] = {}
        for entry in self.entries():
            if isinstance(entry.record, FileRecord):
                files[entry.record.name] = entry.record.data
            elif not isinstance(entry.record, TraceHeader):
                break
        try:
            return dataclasses.replace(cast("TraceHeader", copy.record), files=files)
        except ValueError as error:
            raise TraceError(self.path, f"header: {error}") from error

    def _first_entries(self) -> list[Entry]:
        """Return the whole records up to the two behind the header, whatever they say of each other.

        Raises:
            TraceError: the first is of another version.
        """
        first: list[Entry] = []
        offset = 0
        while offset < self.size and len(first) < 2 * FIRST_ENTRIES:
            found = self._entry(offset)
            if isinstance(found, str):
                if not first:
                    self._check_version(offset)
                offset = self._find(offset + 1)
                continue
            first.append(found)
            if found.sequence >= FIRST_ENTRIES:
                break
            offset += found.size
        return first

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

    def _check_version(self, offset: int) -> None:
        """Refuse a journal that begins with a whole record of another version.

        Raises:
            TraceError: it does.
        """
        found = self._bytes(offset)
        if not isinstance(found, str):
            version = HEAD.unpack(found[0])[2]
            if version not in READABLE_VERSIONS:
                raise TraceError(self.path, f"journal version {version}; {VERSIONS}")

    def _entry(
        self, offset: int, plain: Callable[[Packed, Place], Plain] | None = None
    ) -> Entry | str:
        """Return the record at an offset, or why there is none.

        Args:
            offset: where it begins.
            plain: unpacks it; None is as the records before it allow.
        """
        found = self._bytes(offset)
        if isinstance(found, str):
            return found
        head, payload = found
        version, stored_kind, _, sequence, previous = HEAD.unpack(head)[2:]
        if version not in READABLE_VERSIONS:
            return f"journal version {version}; {VERSIONS}"
        kind, size, opened = stored_kind & ~PACKED, HEAD.size + len(payload), Plain(payload)
        place = Place(offset, kind, sequence, previous, version)
        try:
            if stored_kind & PACKED:
                small = parsed(payload, MAX_PAYLOAD_BYTES)
                opened = (plain or partial(self._plain, offset + size))(small, place)
                payload = opened.payload
                head = place.plain_head(payload)
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
            source=opened.source,
            incomplete=opened.incomplete,
        )

    def _plain(self, end: int, small: Packed, place: Place) -> Plain:
        """Unpack a record that ends at a place, as the records before and behind it allow.

        Raises:
            FrameError: it is not what was recorded.
        """
        return self._memories.plain(
            small, place, lambda payload: self._goes_on(end, place.sequence, payload)
        )

    def _goes_on(self, offset: int, sequence: int, payload: bytes) -> bool:
        """Whether the next cycle from an offset on takes its memory from a payload."""
        for _ in range(MOST_BETWEEN_CYCLES + 1):
            found = self._bytes(offset)
            if isinstance(found, str):
                return False
            head, behind = found
            _, _, version, kind, _, number, previous = HEAD.unpack(head)
            if kind & ~PACKED == Kind.CYCLE:
                if not kind & PACKED:
                    return False
                place = Place(offset, Kind.CYCLE, number, previous, version)
                with contextlib.suppress(ValueError):
                    small = parsed(behind, MAX_PAYLOAD_BYTES)
                    return small.earlier == sequence and fits(small, place, payload)
                return False
            offset += HEAD.size + len(behind)
        return False

    def _objection(self, entry: Entry, pending: Entry | None) -> str:
        """Return why a whole record cannot be the next one; empty if it can."""
        if why := self._misplaced(entry):
            return why
        number, expected = entry.sequence, self._expected
        if number == expected:
            return ""
        if pending is not None and not pending.incomplete and entry.previous == pending.hash:
            return f"it follows record {pending.sequence} by its hash, and says that it is {number}"
        # A jump that the record behind it does not share is no hole but a false number.
        at = self._find(entry.offset + entry.size)
        after = self._entry(at) if at < self.size else ""
        if isinstance(after, Entry) and after.sequence <= number:
            return f"it says that it is record {number}, and record {after.sequence} follows"
        return ""

    def _misplaced(self, entry: Entry) -> str:
        """Return why a whole record cannot be one of those that are still to come; empty if it can."""
        last, end = self._last, self._end
        if self._origin is not None and (why := self._origin.objection(entry, last)):
            return why
        if last is not None and entry.sequence <= last.sequence:
            return f"record {entry.sequence} stands after record {last.sequence}"
        if end is None or isinstance(entry.record, SignatureRecord):
            return ""
        behind = entry.sequence == end.sequence + 1 and entry.offset == end.offset + end.size
        if end is last and behind and self._runs_on(entry):
            return ""  # then the end is the false one, and its hash will tell
        return f"record {entry.sequence} stands behind the end of the run"

    def _runs_on(self, entry: Entry) -> bool:
        """Whether the record behind another one continues it."""
        found = self._bytes(entry.offset + entry.size)
        if isinstance(found, str):
            return False
        sequence, previous = HEAD.unpack(found[0])[5:]
        return sequence == entry.sequence + 1 and (entry.incomplete or previous == entry.hash)

    @property
    def _expected(self) -> int:
        """Sequence number of the next record."""
        return 0 if self._last is None else self._last.sequence + 1

    def _accept(self, entry: Entry) -> None:
        self._last = entry
        if self._origin is not None:
            self._origin.accept(entry)
        digest = None if entry.incomplete else partial(getattr, entry, "hash")
        self._memories.accept(entry.place, entry.payload, digest)
        if isinstance(entry.record, EndRecord):
            self._end = entry

    def _drop(self, entry: Entry) -> None:
        self._note_altered(entry)
        self._memories.deny(entry.sequence)
        if entry is self._end:
            self._end = None

    def _confirms(self, entry: Entry, pending: Entry) -> bool:
        """Whether `entry` has the hash of `pending`, or cannot say."""
        if entry.sequence != pending.sequence + 1 or pending.incomplete:
            return True
        if entry.previous != pending.hash:
            return False
        self._memories.confirm(pending.sequence)
        return True

    def _note(self, entry: Entry) -> None:
        if entry.incomplete:
            self._note_altered(
                entry,
                "memory",
                "the policy's memory before it stood in a cycle that is lost, and without it the rest of "
                "this cycle cannot be checked",
            )
        if isinstance(entry.record, CycleRecord):
            self._last_cycle = entry.record.cycle

    def _skip(self, offset: int, reason: str, pending: Entry | None) -> int:
        """Note a damaged place and return where the next record begins, or the file's end."""
        after = self._find(offset + 1)
        cycle = self._last_cycle
        if pending is not None and isinstance(pending.record, CycleRecord):
            cycle = pending.record.cycle
        joined = None if self._origin is None else self._origin.joined_between(offset, after)
        parts = [(offset, after, reason)]
        if joined is not None:
            parts = [(offset, joined, reason), (joined, after, OF_ANOTHER_RUN)]
        for start, end, text in parts:
            torn = end == self.size and "ends within" in text
            self._damage.append(
                Damage(
                    kind="torn" if torn else "damaged",
                    offset=start,
                    size=end - start,
                    sequence=self._expected,
                    after_cycle=cycle,
                    text=text,
                )
            )
        return after

    def _find(self, start: int) -> int:
        """Return the offset of the next whole record from `start` on, or the file's end."""
        position = start
        while position < self.size:
            block = os.pread(self._file, BLOCK_BYTES, position)
            at = block.find(MARKER)
            while at >= 0:
                found = self._entry(position + at)
                if isinstance(found, Entry) and not self._misplaced(found):
                    return position + at
                at = block.find(MARKER, at + 1)
            if len(block) < BLOCK_BYTES:
                break
            position += len(block) - (len(MARKER) - 1)
        return self.size

    def _check_sequence(self, entry: Entry) -> None:
        """Note records that were cut out without a trace."""
        expected = self._expected
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


def read_journal(path: str | Path) -> JournalReader:
    """Open a journal: iterate over it for cycles, outcomes and the end.

    Raises:
        TraceError: it cannot be read, is no journal, or of another version, or its header is lost.
    """
    return JournalReader(path)


__all__ = ["Entry", "JournalReader", "Kind", "Progress", "read_journal"]
