"""The report on a journal, from its records as they pass by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memrl_ctrl.trace.records import CycleRecord, EndRecord
from memrl_ctrl.trace.report import Coverage, TraceReport

if TYPE_CHECKING:
    from memrl_ctrl.trace.scan import Entry, JournalReader


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
        self._coverage.add(
            entry.sequence,
            record,
            entry.previous,
            whole=not entry.incomplete,
            offset=entry.offset,
        )

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
