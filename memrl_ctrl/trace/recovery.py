"""Making the HDF5 file of a run that ended or was interrupted, and checking what there is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import google_crc32c
import h5py
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace.codec import FileRecord, Kind, Record, encode
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME, looking_at
from memrl_ctrl.trace.hdf5 import FORMAT, build_hdf5
from memrl_ctrl.trace.journal import CHECKED_FROM, HEAD
from memrl_ctrl.trace.reader import TraceReader, find_trace, is_hdf5
from memrl_ctrl.trace.report import Coverage, Damage, TraceReport
from memrl_ctrl.trace.scan import JournalReader, Progress


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """An HDF5 file that was made, and what is in it."""

    hdf5: Path
    report: TraceReport


def recover(path: str | Path, progress: Progress | None = None) -> Recovery:
    """Make the HDF5 file beside a journal, whatever state it is in; the journal stays.

    Args:
        path: the journal, or the folder of its run.
        progress: called with the bytes done and the bytes of the journal.

    Raises:
        TraceError: there is no journal, or nothing in it can be used.
    """
    journal = Path(path)
    with looking_at(journal):
        if journal.is_dir():
            journal = journal / JOURNAL_NAME
        if not journal.is_file():
            raise TraceError(journal, "there is no journal to recover")
    if is_hdf5(journal):
        raise TraceError(journal, f"is HDF5 already; recover takes the journal ({JOURNAL_NAME})")
    hdf5 = journal.with_name(HDF5_NAME) if journal.name == JOURNAL_NAME else _beside(journal)
    _check_replaces(hdf5)
    return Recovery(hdf5=hdf5, report=build_hdf5(journal, hdf5, progress))


def _check_replaces(hdf5: Path) -> None:
    """Refuse to put a trace in the place of a file that is something else.

    What cannot be opened is replaced: that is what a recovery is for.

    Raises:
        TraceError: it is HDF5 of somebody else's, or no file.
    """
    if hdf5.exists() and not hdf5.is_file():
        raise TraceError(hdf5, "is no file, and the HDF5 file of the journal would be made there")
    try:
        with h5py.File(hdf5, "r") as file:
            ours = "format" in file.attrs and file.attrs["format"] == FORMAT
    except (OSError, RuntimeError, ValueError, TypeError):
        return
    if not ours:
        raise TraceError(
            hdf5,
            "is HDF5, but no trace of memrl-ctrl, and the file of the journal would take its place: move "
            "one of them away",
        )


def _beside(journal: Path) -> Path:
    return journal.with_name(f"{journal.stem}.h5")


def verify(path: str | Path, progress: Progress | None = None) -> TraceReport:
    """Check a trace from end to end and say what is there and what is lost.

    Of a journal every checksum and every hash is checked. Of an HDF5 file the journal's records are
    made again, byte for byte, and held against the checksums and hashes of the journal.

    Args:
        path: `trace.h5`, `trace.journal`, or the folder that holds them.
        progress: called with the work done and the whole of it.

    Raises:
        TraceError: it cannot be used at all.
    """
    found = find_trace(path)
    if not is_hdf5(found):
        with JournalReader(found) as journal:
            return journal.report(progress)
    with TraceReader(found) as trace:
        check = _check_hdf5(trace, progress)
        damage = (*trace.damage, *check.damage, *check.coverage.false)
        return replace(trace.report, damage=damage, signed=check.coverage.signed())


def _check_hdf5(trace: TraceReader, progress: Progress | None) -> _HeadCheck:
    """Hold all records against what the journal's heads say."""
    heads = trace.heads()
    check = _HeadCheck(trace)
    for index, head in enumerate(heads):
        check.add(head)
        if progress is not None:
            progress(index + 1, len(heads))
    check.finish()
    return check


class _HeadCheck:
    """Holds the records of an HDF5 file against the heads that they had in the journal."""

    def __init__(self, trace: TraceReader) -> None:
        self._trace = trace
        self._index = -1
        self._files = iter(trace.header.files.items())
        self._signatures = iter(trace.signatures())
        self.coverage = Coverage(trace.header.run_id)
        self._confirmed: tuple[int, bytes] | None = None
        self._incomplete = {d.sequence for d in trace.damage if d.kind == "memory"}
        self.damage: list[Damage] = []

    def add(self, row: NDArray[np.uint8]) -> None:
        """Check the next record."""
        head = row.tobytes()
        _, crc, _, kind, length, sequence, previous = HEAD.unpack(head)
        before = self._confirmed
        if before is not None and before[0] + 1 == sequence and before[1] != previous:
            self._note(before[0], "its content is not what the next record confirms")
            self.coverage.broken()
        self._confirmed = None
        try:
            record = self._record(Kind(kind))
            payload = encode(record)
        except (TraceError, ValueError, StopIteration, IndexError) as error:
            self._note(sequence, f"the record cannot be made again: {error}", length)
            return
        found = int(google_crc32c.extend(google_crc32c.value(head[CHECKED_FROM:]), payload))
        if len(payload) != length or found != crc:
            self._note(sequence, "its content differs from what the journal had", length)
            return
        whole = sequence not in self._incomplete
        self.coverage.add(sequence, record, previous, whole=whole)
        if not whole:
            return  # its hash is that of the whole record
        digest = hashlib.sha256(head)
        digest.update(payload)
        self._confirmed = (sequence, digest.digest())

    def finish(self) -> None:
        """Check that no cycle is left that the journal does not have."""
        rest = len(self._trace) - 1 - self._index
        if rest:
            self._note(-1, f"{rest} cycles more than the journal had records of")

    def _record(self, kind: Kind) -> Record:
        match kind:
            case Kind.HEADER:
                return self._trace.header
            case Kind.FILE:
                name, data = next(self._files)
                return FileRecord(name=name, data=data)
            case Kind.CYCLE:
                self._index += 1
                return self._trace.record(self._index)
            case Kind.OUTCOME:
                outcome = self._trace.outcome(self._index)
                if outcome is None:
                    raise ValueError("the outcome is missing")
                return outcome
            case Kind.END:
                end = self._trace.report.end
                if end is None:
                    raise ValueError("the end is missing")
                return end
            case Kind.SIGNATURE:
                return next(self._signatures)

    def _note(self, sequence: int, text: str, size: int = 0) -> None:
        cycles = self._trace.cycles
        after = int(cycles[self._index - 1]) if 0 < self._index <= cycles.size else None
        self.damage.append(
            Damage(
                kind="altered",
                offset=None,
                size=size,
                sequence=sequence,
                after_cycle=after,
                text=text,
            )
        )
