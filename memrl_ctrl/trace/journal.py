"""The journal: an append-only file that is the truth while a run goes on.

A record is a head and a payload. The head, all numbers little-endian:

```
offset  size  what
0       4     marker "MRLJ"
4       4     CRC32C of everything from offset 8 to the end of the payload
8       2     version of the journal
10      2     kind: 0 header, 1 file, 2 cycle, 3 outcome, 4 end, 5 signature; plus 0x8000 where the
              payload is packed
12      4     length of the payload, bytes
16      8     sequence number, from 0
24      32    SHA-256 of the previous record in its plain form; zero for the first
56      ...   payload
```

A payload may be packed (`memrl_ctrl.trace.packing`). The plain form of a record is what it would be if
it were not: head and payload. What the hashes chain is therefore what was recorded, not how it is
stored. Version 1 knew no packed payloads and is still read.

The header stands twice at the beginning, so that no single damaged place makes a journal unusable.
"""

from __future__ import annotations

import hashlib
import os
import struct
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import google_crc32c

from memrl_ctrl.errors import TraceError
from memrl_ctrl.signatures import JOURNAL as MARKER
from memrl_ctrl.trace.codec import Arrays, FileRecord, Kind, Record, encode, kind_of
from memrl_ctrl.trace.folder import sync_folder
from memrl_ctrl.trace.layout import Layout
from memrl_ctrl.trace.lock import hold
from memrl_ctrl.trace.packing import Earlier, packed, warm_up
from memrl_ctrl.trace.records import CycleRecord, EndRecord, OutcomeRecord, TraceHeader
from memrl_ctrl.trace.signing import Signer

JOURNAL_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Versions of the journal that are read."""
PACKED = 0x8000
"""In a record's kind: the payload is packed."""
HEAD = struct.Struct("<4sIHHIQ32s")
CHECKED_FROM = 8
"""Offset in the head from which the checksum counts."""
MAX_PAYLOAD_BYTES = 1 << 28
"""Largest payload of a record."""
SIGN_EVERY_CYCLES = 500
"""Cycles after which a run signs what it has recorded: those that a killed run leaves unsigned."""
FIRST = bytes(32)
"""What stands for the hash before the first record."""


class _Tail(NamedTuple):
    """Where the next record goes."""

    size: int
    sequence: int
    previous: tuple[bytes, ...]
    """Plain head and payload of the record before; for the first, what stands for its hash."""
    cycle: tuple[int, bytes] | None = None
    """Sequence and plain payload of the last cycle."""

    def hash(self) -> bytes:
        """Return the hash of the record before; computed when it is needed, not when written."""
        if self.previous == (FIRST,):
            return FIRST
        digest = hashlib.sha256()
        for part in self.previous:
            digest.update(part)
        return digest.digest()


class JournalWriter:
    """Writes a new journal; an `append` that returns is on the disk.

    Not for several threads at once. Usable as a context manager, which closes it, with the
    exception's name as the reason where one passes through.

    Args:
        path: the new file; its folder must exist.
        header: provenance; written at once.
        signer: signs the records, now and then and at the end; None does not sign.

    Raises:
        TraceError: the file exists already, or cannot be written.
    """

    def __init__(self, path: str | Path, header: TraceHeader, signer: Signer | None = None) -> None:
        self.path = Path(path)
        self.header = header
        self.cycles = 0
        """Cycles recorded."""
        self._layout = Layout(header)
        self._last_cycle: int | None = None
        self._failed = ""
        self._signer = signer
        self._signed_cycles = 0
        self._tail = _Tail(size=0, sequence=0, previous=(FIRST,))
        self._earlier: Earlier | None = None
        warm_up()
        self._file = self._create()
        try:
            for _ in range(2):
                self._write(header)
            for name, data in header.files.items():
                self._write(FileRecord(name=name, data=data))
            self._sign()
            self._sync()
            sync_folder(self.path.parent)
        except OSError as error:
            self._give_up()
            raise TraceError(self.path, f"cannot be made durable: {error.strerror}") from error
        except BaseException:
            self._give_up()
            raise

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self._tail.size

    def append(self, record: CycleRecord | OutcomeRecord, *, durable: bool = True) -> int:
        """Append a record and return its sequence number.

        With `durable` it, and everything before it, is on the disk when this returns. An outcome
        is best appended with `durable=False`, after the commit: it then rides along with the next
        cycle's write, and the hash of the cycle's record is computed off the critical path.

        The arrays are copied; the caller may reuse them.

        Args:
            record: a cycle, or what became of the last one.
            durable: wait for the disk.

        Raises:
            TraceError: it cannot be recorded (disk full, disk error); nothing may be written to
                the machine for this cycle. After a failure of the disk itself every later call
                fails too; after a full disk a later call may succeed.
            ValueError: the record does not fit the run (shapes, names), or is an outcome of
                another cycle than the last. Nothing was written.
        """
        arrays = None
        if isinstance(record, CycleRecord):
            arrays = self._layout.check(record)
        else:
            if record.cycle != self._last_cycle:
                raise ValueError(
                    f"outcome of cycle {record.cycle}, but the last cycle without an outcome is "
                    f"{self._last_cycle}"
                )
            self._layout.check_outcome(record)
        if isinstance(record, CycleRecord) and self._last_cycle is not None:
            self._sign_now_and_then()
        sequence = self._write(record, arrays)
        if durable:
            self._sync()
        if isinstance(record, CycleRecord):
            self.cycles += 1
            self._last_cycle = record.cycle
        else:
            self._last_cycle = None
            self._sign_now_and_then()
            self._prepare()
        return sequence

    def close(self, reason: str = "") -> None:
        """Write the end record and close the file; may be called twice.

        Args:
            reason: why the run ended.

        Raises:
            TraceError: the end could not be recorded; what was acknowledged before is safe.
        """
        if self._file < 0:
            return
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            if not self._failed:
                self._write(EndRecord(cycles=self.cycles, ended_utc=ended, reason=reason))
                self._sign()
                self._sync()
        finally:
            self._give_up()

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close("" if kind is None else kind.__name__)

    def _give_up(self) -> None:
        os.close(self._file)
        self._file = -1

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            file = os.open(self.path, flags, 0o644)
        except FileExistsError as error:
            raise TraceError(
                self.path, "exists already; a journal is never overwritten, choose another name"
            ) from error
        except OSError as error:
            raise TraceError(self.path, f"cannot be created: {error.strerror}") from error
        hold(file)
        return file

    def _write(self, record: Record, arrays: Arrays | None = None) -> int:
        if self._file < 0:
            raise TraceError(self.path, "is closed; nothing more can be recorded")
        if self._failed:
            raise TraceError(self.path, f"recording failed before: {self._failed}")
        payload = encode(record, arrays)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"record of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES}")
        tail, kind = self._tail, kind_of(record)
        previous = tail.hash()
        head = record_head(kind, payload, tail.sequence, previous)
        stored = [head, payload]
        small = packed(payload, HEAD.unpack(head)[1], self._prepare())
        if small is not None:
            stored = [record_head(kind | PACKED, small, tail.sequence, previous), small]
        self._cut_off_interrupted()
        self._write_whole(stored)
        # One assignment: a Ctrl-C leaves the old state or the new one, nothing between.
        self._tail = _Tail(
            size=tail.size + sum(len(part) for part in stored),
            sequence=tail.sequence + 1,
            previous=(head, payload),
            cycle=(tail.sequence, payload) if kind is Kind.CYCLE else tail.cycle,
        )
        return tail.sequence

    def _prepare(self) -> Earlier | None:
        """Return the last cycle as what the next one's memory may refer to."""
        cycle = self._tail.cycle
        if cycle is not None and (self._earlier is None or self._earlier.sequence != cycle[0]):
            self._earlier = Earlier.of(*cycle)
        return self._earlier

    def _sign_now_and_then(self) -> None:
        if self.cycles - self._signed_cycles >= SIGN_EVERY_CYCLES:
            self._sign()

    def _sign(self) -> None:
        if self._signer is not None:
            tail = self._tail
            self._write(self._signer.sign(self.header.run_id, tail.sequence, tail.hash()))
            self._signed_cycles = self.cycles

    def _cut_off_interrupted(self) -> None:
        """Cut off a record whose `append` was interrupted and never returned.

        Raises:
            TraceError: somebody deleted the journal or cut it: what is recorded would be nowhere, or behind
                a hole.
        """
        size = self._tail.size
        try:
            found = os.fstat(self._file)
            if found.st_size > size:
                os.ftruncate(self._file, size)
        except OSError as error:
            raise TraceError(self.path, f"cycle not recorded: {error.strerror}") from error
        if found.st_nlink == 0:
            raise TraceError(self.path, "cycle not recorded: somebody deleted the journal")
        if found.st_size < size:
            self._failed = f"somebody cut the journal from {size} to {found.st_size} bytes"
            raise TraceError(self.path, f"cycle not recorded: {self._failed}")

    def _write_whole(self, parts: list[bytes]) -> None:
        total = sum(len(part) for part in parts)
        try:
            written = os.writev(self._file, parts)
            if written < total:
                rest = memoryview(b"".join(parts))[written:]
                while rest:
                    rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._take_back(error)
            raise TraceError(self.path, f"cycle not recorded: {error.strerror}") from error

    def _take_back(self, cause: OSError) -> None:
        """Cut off what a failed write left, so that the next record follows a whole one."""
        try:
            os.ftruncate(self._file, self._tail.size)
        except OSError:
            self._failed = cause.strerror or str(cause)

    def _sync(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError as error:
            # After a failed sync the kernel may have dropped the pages: no later sync can be
            # believed.
            self._failed = error.strerror or str(error)
            raise TraceError(self.path, f"cycle not recorded: {self._failed}") from error


def record_head(
    kind: int, payload: bytes, sequence: int, previous: bytes, version: int = JOURNAL_VERSION
) -> bytes:
    """Return the head of a record."""
    fields = (version, kind, len(payload), sequence, previous)
    head = HEAD.pack(MARKER, 0, *fields)
    crc = int(google_crc32c.extend(google_crc32c.value(head[CHECKED_FROM:]), payload))
    return HEAD.pack(MARKER, crc, *fields)
