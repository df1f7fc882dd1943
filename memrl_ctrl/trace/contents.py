"""What the two files of a run hold, held against each other: neither takes the other's place unasked.

A record is known by its head in plain form: sequence number, checksum of its content, hash of the record
before it. Two files that have the same heads hold the same records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from memrl_ctrl.trace.codec import Kind
from memrl_ctrl.trace.journal import HEAD
from memrl_ctrl.trace.reader import TraceReader, is_hdf5
from memrl_ctrl.trace.records import CycleRecord, OutcomeRecord
from memrl_ctrl.trace.report import Beside, TraceReport
from memrl_ctrl.trace.scan import Entry, JournalReader


@dataclass(kw_only=True)
class Contents:
    """The records of one file of a run."""

    run_id: str
    heads: dict[int, bytes] = field(default_factory=dict)
    """Head of each record by its sequence number."""
    cycles: dict[int, int] = field(default_factory=dict)
    """Number of each cycle by its record's sequence number."""
    partial: set[int] = field(default_factory=set)
    """Sequence numbers of the cycles that lack the memory which went into the policy."""
    _open: int | None = None
    """Cycle whose outcome may follow."""

    def add(self, entry: Entry) -> None:
        """Take a whole record of a journal; an outcome whose cycle was lost is lost with it."""
        if isinstance(entry.record, OutcomeRecord):
            cycle, self._open = self._open, None
            if cycle != entry.record.cycle:
                return
        self.heads[entry.sequence] = entry.head
        if isinstance(entry.record, CycleRecord):
            self.cycles[entry.sequence] = self._open = entry.record.cycle
        if entry.incomplete:
            self.partial.add(entry.sequence)

    def lacks(self, other: Contents) -> str:
        """Return what another file has that this one has not, in words; empty where it has it all."""
        if self.run_id != other.run_id:
            return f"another run ({other.run_id}, not {self.run_id})"
        missing = [
            number for number, head in other.heads.items() if not self._has(number, head, other)
        ]
        cycles = sorted(other.cycles[number] for number in missing if number in other.cycles)
        if cycles:
            return _range(cycles)
        if not missing:
            return ""
        return f"{len(missing)} records (the first is number {min(missing)})"

    def _has(self, sequence: int, head: bytes, other: Contents) -> bool:
        if sequence in other.partial:  # more of it may be here, and never less
            return sequence in self.heads
        return self.heads.get(sequence) == head


def _range(cycles: list[int]) -> str:
    if len(cycles) == 1:
        return f"cycle {cycles[0]}"
    return f"{len(cycles)} cycles ({cycles[0]} to {cycles[-1]})"


def contents_of(path: Path) -> Contents:
    """Return what a trace holds, journal or HDF5 file.

    Raises:
        TraceError: it cannot be used.
    """
    if is_hdf5(path):
        with TraceReader(path) as trace:
            return hdf5_contents(trace)
    with JournalReader(path) as journal:
        contents = Contents(run_id=journal.header.run_id)
        for entry in journal.entries():
            contents.add(entry)
    return contents


def hdf5_contents(trace: TraceReader) -> Contents:
    """Return what an opened HDF5 file holds, as it says itself.

    Raises:
        TraceError: the heads of its records cannot be read.
    """
    contents = Contents(
        run_id=trace.header.run_id,
        partial={place.sequence for place in trace.damage if place.kind == "memory"},
    )
    numbers = iter(trace.cycles.tolist())
    for row in trace.heads():
        head = row.tobytes()
        kind, sequence = HEAD.unpack(head)[3], HEAD.unpack(head)[5]
        contents.heads[sequence] = head
        if kind == Kind.CYCLE:
            number = next(numbers, None)
            if number is not None:
                contents.cycles[sequence] = number
    return contents


def held_against(
    report: TraceReport, contents: Contents, other: TraceReport, there: Contents
) -> Beside:
    """Say what the other file of a run is to the one that was checked.

    Args:
        report: of the file that was checked.
        contents: its records.
        other: of the file beside it.
        there: the records of that.
    """

    def said(text: str, fault: bool = True) -> Beside:
        return Beside(name=other.path.name, text=text, fault=fault)

    if there.run_id != contents.run_id:
        return said(f"is of another run: {there.run_id}, not {contents.run_id}")
    lacks, more = there.lacks(contents), contents.lacks(there)
    anew = "`memrl-ctrl trace recover` makes it anew"
    if lacks and not more and other.whole and is_hdf5(other.path):
        return said(f"is older and lacks {lacks}; {anew}", fault=False)
    parts = [f"lacks {lacks}"] if lacks else []
    parts += [f"holds {more} besides"] if more else []
    parts = parts or ["holds the same records"]
    fault = bool(lacks or more)
    if other.whole and not report.whole and not lacks:
        parts.append("is whole")
    elif not other.whole and (fault or report.whole):
        parts.append(f"is not whole ({other.damage[0].sentence()})")
        fault = True
    return said(" and ".join(parts), fault)
