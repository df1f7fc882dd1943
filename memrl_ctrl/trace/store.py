"""The two forms of a trace behind one interface: the indexed HDF5 file, and the journal itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace import datasets
from memrl_ctrl.trace.blocks import column_of
from memrl_ctrl.trace.codec import NO_EVENTS, events_of
from memrl_ctrl.trace.columns import CYCLES, OUTCOMES, cycle_row, outcome_row
from memrl_ctrl.trace.decoder import Decoder
from memrl_ctrl.trace.hdf5 import FORMAT
from memrl_ctrl.trace.journal import HEAD
from memrl_ctrl.trace.layout import Layout
from memrl_ctrl.trace.records import (
    READABLE_SCHEMAS,
    CycleRecord,
    OutcomeRecord,
    SignatureRecord,
    TraceHeader,
)
from memrl_ctrl.trace.report import TraceReport
from memrl_ctrl.trace.rows import (
    Row,
    cycle_of,
    cycles_of,
    empty_columns_of,
    header_of,
    outcome_of,
    report_of,
    signatures_of,
)
from memrl_ctrl.trace.scan import Entry, JournalReader, Progress
from memrl_ctrl.trace.shapes import Columns
from memrl_ctrl.trace.summary import Summary

CODED_FROM = 3
"""Schema version from which on values are stored as `memrl_ctrl.trace.coder` makes them."""
BLOCK_CYCLES = 16
"""Cycles that are read at once from an HDF5 file, at most."""
BLOCK_BYTES = 1 << 26
"""Bytes that are read at once from an HDF5 file, unless a single cycle has more."""
EVENTS = (CYCLES + "events_json", OUTCOMES + "events_json")


class Store(Protocol):
    """What a reader asks of a trace."""

    header: TraceHeader
    report: TraceReport
    cycles: NDArray[np.int64]
    names: tuple[str, ...]

    def column(self, path: str, rows: slice | int) -> NDArray[Any]:
        """Return some rows of a column; a single one is not counted from the end."""
        ...

    def record(self, index: int) -> CycleRecord:
        """Return a cycle."""
        ...

    def outcome(self, index: int) -> OutcomeRecord | None:
        """Return what became of a cycle."""
        ...

    def heads(self) -> NDArray[np.uint8]:
        """Return the heads of the journal's records, in their plain form."""
        ...

    def signatures(self) -> list[SignatureRecord]:
        """Return the signatures, in their order."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Hdf5Store:
    """The indexed form: nothing is read before it is asked for, but the header and the cycle numbers.

    Args:
        path: the HDF5 file.

    Raises:
        TraceError: it is no trace, or of another schema version.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise TraceError(path, f"cannot be opened as HDF5: {error}") from error
        self._block: tuple[int, dict[str, Any]] = (-1, {})
        self._broken = -1
        try:
            version = self._checked_version(path)
            self.header = header_of(self._file)
            self.report = report_of(self._file, path)
            self.cycles = cycles_of(self._file)
            self._columns = Columns(self._file, self.header, self.cycles.size)
            self._empty = empty_columns_of(self._file, self.header)
        except BaseException:
            self._file.close()
            raise
        coded = version >= CODED_FROM
        self._decoder = Decoder(self._file, self._columns, self.cycles.size) if coded else None
        self.names = Decoder.names(self._columns.names) if coded else self._columns.names

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def column(self, path: str, rows: slice | int) -> NDArray[Any]:
        """Return some rows of a column."""
        if not isinstance(rows, slice):
            return np.asarray(self._rising(path, slice(rows, rows + 1))[0])
        wanted = range(self.cycles.size)[rows]
        forward = wanted if wanted.step > 0 else wanted[::-1]
        within = slice(forward.start, forward.stop, forward.step) if wanted else slice(0, 0)
        values = self._rising(path, within)
        return values if wanted.step > 0 else values[::-1].copy()

    def _rising(self, path: str, rows: slice) -> NDArray[Any]:
        """Return some rows of a column, in their order in the file: step positive, ends within it."""
        if self._decoder is not None and self._decoder.derives(path):
            return self._decoder.column(path, rows)
        values = datasets.values(self._columns[path], path, rows)
        if path in EVENTS:
            _check_events(path, values)
        return values

    def record(self, index: int) -> CycleRecord:
        """Return a cycle."""
        return cycle_of(self._row(index), self.header)

    def outcome(self, index: int) -> OutcomeRecord | None:
        """Return what became of a cycle."""
        return outcome_of(self._row(index))

    def heads(self) -> NDArray[np.uint8]:
        """Return the heads of the journal's records."""
        return datasets.whole(self._file, "journal/heads", "u1", HEAD.size)

    def signatures(self) -> list[SignatureRecord]:
        """Return the signatures."""
        return signatures_of(self._file)

    def _checked_version(self, path: Path) -> int:
        if not is_trace(self._file):
            raise TraceError(path, "is HDF5, but no trace of memrl-ctrl")
        version = datasets.attribute(self._file, "schema_version", int)
        if version not in READABLE_SCHEMAS:
            raise TraceError(
                path,
                f"schema version {version}; this release reads "
                f"{' and '.join(map(str, READABLE_SCHEMAS))}",
            )
        return version

    def _row(self, index: int) -> Row:
        """Return the values of one cycle by column.

        A block that cannot be read is read row by row: what is wrong in one cycle costs no other.
        """
        whole_cycles = BLOCK_BYTES // max(self._columns.row_bytes, 1)
        count = min(max(whole_cycles, 1), BLOCK_CYCLES)
        start = index - index % count
        if start not in (self._block[0], self._broken):
            end = min(start + count, self.cycles.size)
            try:
                self._block = (start, self._rows(start, end))
            except datasets.DAMAGE:
                self._broken = start
        begin, values = self._block
        if begin != start:
            begin, values = index, self._rows(index, index + 1)
        return Row({name: column[index - begin] for name, column in values.items()})

    def _rows(self, start: int, end: int) -> dict[str, Any]:
        block = {name: self._rising(name, slice(start, end)) for name in self.names}
        for name, (dtype, shape) in self._empty.items():
            block[name] = np.empty((end - start, *shape), dtype=dtype)
        for values in block.values():
            values.flags.writeable = False
        return block


def is_trace(file: Any) -> bool:
    """Whether an HDF5 file says that it is a trace."""
    try:
        return datasets.attribute(file, "format", str) == FORMAT
    except ValueError:
        return False


def _check_events(path: str, values: NDArray[Any]) -> None:
    """Refuse events that are none; cycles without an outcome have an empty text.

    Raises:
        ValueError: a text lists no events.
    """
    for text in values:
        if text not in ("", NO_EVENTS):
            try:
                events_of(text)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error


class JournalStore:
    """The journal: gone through once when it is opened, then read record by record where it lies.

    Of the cycles only their places and their small columns are in memory.

    Args:
        path: the journal.
        progress: called with bytes done and bytes in all while it is gone through.

    Raises:
        TraceError: it cannot be used, or its records contradict each other.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self._journal = JournalReader(path)
        self.header = self._journal.header
        self._places: list[tuple[int, int]] = []
        """Of each cycle: offset, and offset of the cycle that its memory stands in or -1."""
        self._outcomes: list[int] = []
        """Offset of each cycle's outcome; -1 where there is none."""
        self._heads = bytearray()
        self._head_size = 1
        self._signatures: list[SignatureRecord] = []
        self._examples: dict[str, Any] = {}
        self._small: dict[str, dict[int, Any]] = {}
        try:
            self.report = self._index(progress)
        except BaseException:
            self._journal.close()
            raise
        numbers = self._small.get("cycles/cycle", {})
        self.cycles = np.array(list(numbers.values()), dtype=np.int64)
        self.names = tuple(sorted(self._examples))

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    def column(self, path: str, rows: slice | int) -> NDArray[Any]:
        """Return some rows of a column."""
        every = range(self.cycles.size)
        wanted = every[rows] if isinstance(rows, slice) else (every[rows],)
        small = self._small.get(path)
        if small is not None:
            values = [{path: small[index]} if index in small else {} for index in wanted]
        else:
            values = [self._row(index, path) for index in wanted]
        column = column_of(values, path, self._examples[path])
        return column if isinstance(rows, slice) else np.asarray(column[0])

    def record(self, index: int) -> CycleRecord:
        """Return a cycle."""
        record = self._journal.entry_at(*self._places[index]).record
        if not isinstance(record, CycleRecord):
            raise ValueError("the journal was changed while it was read")
        return record

    def outcome(self, index: int) -> OutcomeRecord | None:
        """Return what became of a cycle."""
        offset = self._outcomes[index]
        if offset < 0:
            return None
        record = self._journal.entry_at(offset).record
        if not isinstance(record, OutcomeRecord):
            raise ValueError("the journal was changed while it was read")
        return record

    def heads(self) -> NDArray[np.uint8]:
        """Return the heads of the journal's records."""
        return np.frombuffer(bytes(self._heads), dtype=np.uint8).reshape(-1, self._head_size)

    def signatures(self) -> list[SignatureRecord]:
        """Return the signatures."""
        return list(self._signatures)

    def _row(self, index: int, path: str) -> dict[str, Any]:
        """Return a cycle's values by column, or those of its outcome."""
        if not path.startswith(OUTCOMES):
            return cycle_row(self.record(index))
        outcome = self.outcome(index)
        return {} if outcome is None else outcome_row(outcome)

    def _index(self, progress: Progress | None) -> TraceReport:
        summary, layout = Summary(self._journal), Layout(self.header)
        cycle: CycleRecord | None = None
        try:
            for entry in self._journal.entries():
                record = entry.record
                if isinstance(record, CycleRecord):
                    layout.check(record)
                    self._add_cycle(entry, record)
                    cycle = record
                elif isinstance(record, OutcomeRecord):
                    if cycle is None or cycle.cycle != record.cycle:
                        continue  # its cycle was lost
                    layout.check_outcome(record)
                    self._outcomes[-1] = entry.offset
                    self._keep(len(self._places) - 1, outcome_row(record))
                    cycle = None
                elif isinstance(record, SignatureRecord):
                    self._signatures.append(record)
                summary.add(entry)
                self._heads += entry.head
                self._head_size = len(entry.head)
                if progress is not None:
                    progress(entry.offset + entry.size, self._journal.size)
        except ValueError as error:
            raise TraceError(
                self._journal.path, f"the records contradict each other: {error}"
            ) from error
        return summary.report()

    def _add_cycle(self, entry: Entry, record: CycleRecord) -> None:
        self._places.append((entry.offset, entry.source))
        self._outcomes.append(-1)
        self._keep(len(self._places) - 1, cycle_row(record))

    def _keep(self, index: int, row: dict[str, Any]) -> None:
        """Keep the small values of a cycle, and note which columns there are."""
        for name, value in row.items():
            if isinstance(value, str | np.generic):
                self._small.setdefault(name, {})[index] = value
            elif value.size == 0:
                continue
            if name not in self._examples:
                self._examples[name] = value if isinstance(value, str) else np.array(value)
